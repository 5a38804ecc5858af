"""What engines share that is no arithmetic: a network's arrays as drawn, a batch as it is taken, junctions' gains.

Every engine builds from these, so that the same seed is the same network on each of them, and a batch that one refuses
the others refuse in the same words. Imports draws, protocol and spec.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope import draws
from skipscope.errors import InputError, require_number
from skipscope.spec import Spec

__all__ = ["Junctions", "inputs_of", "parameters_of", "running_of"]

Array = NDArray[np.floating[Any]]


def parameters_of(spec: Spec, seeds: Sequence[int], weights: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """The initial parameters by name (`stem.weight`, `stage1.block3.layer2.gamma`), each with the leading axis s.

    Args:
        spec: of the networks.
        seeds: of the networks.
        weights: by site, as `skipscope.draws.weights` gives them; drawn if not given.
    """
    drawn = draws.weights(spec, seeds) if weights is None else weights
    offsets = draws.biases(spec, seeds)
    parameters: dict[str, Array] = {}
    for layer in (*spec.layers, *spec.projections):
        parameters[f"{layer.site}.weight"] = drawn[layer.site]
        if layer.bias:
            parameters[f"{layer.site}.bias"] = offsets[layer.site]
        if layer.normed:
            parameters |= _norm_parameters(layer.site, (len(seeds), layer.normed), spec.dtype, layer.gamma)
    if spec.pre_activation and spec.stages[-1].norm != "none":
        parameters |= _norm_parameters("final", (len(seeds), spec.body_width), spec.dtype, 1.0)
    for block in spec.body:
        if block.learned_gain:
            parameters[f"{block.site}.gain"] = np.zeros(len(seeds), spec.dtype)
    return parameters


def _norm_parameters(site: str, shape: tuple[int, int], dtype: str, gamma: float) -> dict[str, Array]:
    return {f"{site}.gamma": np.full(shape, gamma, dtype), f"{site}.beta": np.zeros(shape, dtype)}


def running_of(spec: Spec, networks: int) -> dict[str, Array]:
    """The running averages of batch normalisation by name, as they are before any training: 0 and 1, (s, n)."""
    layers = [(layer.site, layer.normed, layer.norm) for layer in (*spec.layers, *spec.projections)]
    if spec.pre_activation:
        layers.append(("final", spec.body_width, spec.stages[-1].norm))
    running: dict[str, Array] = {}
    for site, features, norm in layers:
        if norm == "batch":
            running[f"{site}.running_mean"] = np.zeros((networks, features), spec.dtype)
            running[f"{site}.running_variance"] = np.ones((networks, features), spec.dtype)
    return running


# ---------------------------------------------------------------------------------------------------------- batches


def inputs_of(spec: Spec, networks: int, batch: Any, *, fixed: bool) -> Array:
    """The inputs of a batch as networks take them: (s, b, n), or images (s, b, c, h, w), in the spec's dtype.

    Args:
        spec: of the networks.
        networks: how many there are.
        batch: see `skipscope.protocol.Network.run`.
        fixed: whether batch normalisation takes its running averages.

    Raises:
        InputError: they do not fit the networks.
    """
    given = batch[0] if isinstance(batch, tuple) and batch else batch
    try:
        if np.asarray(given).dtype.kind not in "biuf":
            raise TypeError
        x = np.asarray(given, spec.dtype, order="C")  # in another order the last bits would be others
    except (TypeError, ValueError):
        raise InputError(f"batch must be an array of real numbers; got {type(given).__name__}.") from None
    sample = spec.input_shape
    extra = x.ndim - len(sample)  # axes before a sample's: b, or s and b
    if extra not in (1, 2) or x.shape[extra:] != sample or (extra == 2 and x.shape[0] not in (1, networks)):
        sizes = ", ".join(map(str, sample))
        raise InputError(
            f"batch must have the shape (samples, {sizes}), or ({networks}, samples, {sizes}) with one batch a seed; "
            f"got {x.shape}."
        )
    samples = x.shape[extra - 1]
    if samples == 0:
        raise InputError("batch is empty: give at least 1 sample.")
    if not np.isfinite(x).all():
        raise InputError(f"batch has {int((~np.isfinite(x)).sum())} entries that are nan or inf: mend the data first.")
    if spec.coupled and samples * spec.body_size**2 == 1 and not fixed:
        raise InputError(
            "batch of 1 sample: batch normalisation over one sample is 0 whatever comes in; give 2 or more."
        )
    return np.broadcast_to(x, (networks, samples, *sample))


# ------------------------------------------------------------------------------------------------------------ gains


class Junctions:
    """The gains of a network's junctions: their own, and the factors by which they are re-weighted for a while."""

    def __init__(self, spec: Spec) -> None:
        self._own = {block.site: (block.shortcut_gain, block.branch_gain) for block in spec.body if not block.plain}
        self._factors = dict.fromkeys(self._own, (1.0, 1.0))

    @property
    def gains(self) -> dict[str, tuple[float, float]]:
        """Of the shortcut and the branch of every junction, as they are at this moment."""
        return {
            site: (own[0] * self._factors[site][0], own[1] * self._factors[site][1]) for site, own in self._own.items()
        }

    @property
    def edit(self) -> str:
        """What is re-weighted at this moment, e.g. `stage1.block2: shortcut x 0, branch x 1`."""
        edits = []
        for site, factors in self._factors.items():
            if factors != (1.0, 1.0):
                shortcut, branch = (repr(factor).removesuffix(".0") for factor in factors)
                edits.append(f"{site}: shortcut x {shortcut}, branch x {branch}")
        return "; ".join(edits)

    @contextmanager
    def times(self, *, shortcut: float, branch: float, at: str | Iterable[str] | None) -> Iterator[None]:
        """Within the context the junctions that `at` names have their gains times these.

        Raises:
            InputError: a gain is not a finite number, or `at` names no junction.
        """
        factors = require_number("shortcut", shortcut), require_number("branch", branch)
        before = dict(self._factors)
        for site in self._named(at):
            self._factors[site] = before[site][0] * factors[0], before[site][1] * factors[1]
        try:
            yield
        finally:
            self._factors = before

    def _named(self, at: str | Iterable[str] | None) -> list[str]:
        if not self._own:
            raise InputError("gains: this network is plain and has no junction; its twin() has.")
        known = list(self._own)
        patterns = ["*"] if at is None else [at] if isinstance(at, str) else list(at)
        chosen: dict[str, None] = {}
        for pattern in patterns:
            found = [site for site in known if fnmatch.fnmatchcase(site, pattern)]
            if not found:
                raise InputError(f"at={pattern!r} names no junction; they are {known[0]!r} to {known[-1]!r}.")
            chosen |= dict.fromkeys(found)
        return list(chosen)
