"""The checks of a network against itself alone, its plain twin and another engine's, and of what it pushes.

Imports what the checks have in common, the protocol, the spec and NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope.losses import Cotangent
from skipscope.protocol import Loss
from skipscope.spec import Spec
from skipscope.testing.engine import Build, CheckedNetwork
from skipscope.testing.recording import Pushed, recorded, require, shown

__all__ = ["check_alone", "check_inference", "check_pushes", "check_same", "check_twin"]

_TERMS = ("shortcut", "branch", "total")
_TERM_ENDS = tuple(f".{role}" for role in _TERMS)

Array = NDArray[Any]


# ------------------------------------------------------------------------------- the same, alone and in an ensemble


def check_alone(build: Build, spec: Spec, seeds: Sequence[int], *, samples: int = 5) -> None:
    """A seed gives the same bits alone, in an ensemble, in any chunk of it and in any order.

    Output, loss and every array that is pushed are compared.
    """
    inputs, loss = shown(spec, seeds, samples)

    def bits(indices: Sequence[int]) -> Pushed:
        network = build(spec, seed=[seeds[index] for index in indices])
        return recorded(network, inputs[list(indices)], Cotangent(loss.v[list(indices)]))[1]

    every = range(len(seeds))
    whole = bits(every)
    middle = len(seeds) // 2 + 1
    for chunk in (*([index] for index in every), every[:middle], every[::-1]):
        for key, array in bits(chunk).items():
            if array.tobytes() != whole[key][list(chunk)].tobytes():
                off = np.abs(array - whole[key][list(chunk)]).max()
                raise AssertionError(
                    f"{key} of seeds {[seeds[index] for index in chunk]} differs, by up to {off:.3g}, from the same "
                    f"seeds in an ensemble of {len(seeds)}."
                )


def check_twin(build: Build, spec: Spec, seeds: Sequence[int], *, samples: int = 5) -> None:
    """A residual network under `gains(shortcut=0)` is its plain twin: equal output, loss and parameter gradients."""
    network, twin = build(spec, seed=seeds), build(spec.twin(), seed=seeds)
    inputs, loss = shown(spec, seeds, samples)
    with network.gains(shortcut=0):
        _, edited = recorded(network, inputs, loss)
    _, plain = recorded(twin, inputs, loss)
    for key in plain:
        if not np.array_equal(edited[key], plain[key], equal_nan=True):
            raise AssertionError(f"{key} under gains(shortcut=0) differs from the twin's.")


# ------------------------------------------------------------------------------------------- the same on two engines


def check_same(
    network: CheckedNetwork, reference: CheckedNetwork, batch: Any, loss: Loss, *, tolerance: float = 1e-10
) -> None:
    """Two engines' networks push the same arrays, to 1e-10 of their norm (float64), and give the same loss.

    What is summed over the batch may be 0 but for rounding (a bias before a norm has no effect): it is compared in
    units of what it is the sum of.

    Args:
        network: of the engine to be checked.
        reference: of the same spec and seeds, of an engine that is known to be right.
        batch: see `skipscope.protocol.Network.run`.
        loss: see `skipscope.protocol.Loss`.
        tolerance: the part of the norm that is allowed; in float32, whose numbers are 6e-8 apart, 1e-5 is what twenty
            layers need.
    """
    _, mine = recorded(network, batch, loss)
    _, other = recorded(reference, batch, loss)
    if mine.keys() != other.keys():
        raise AssertionError(f"pushed by one network alone: {sorted(mine.keys() ^ other.keys())}.")
    for key, array in other.items():
        require(key, mine[key], array, tolerance * (float(np.linalg.norm(array)) + _summed(key, other)) + 1e-300)


def _summed(key: str, pushed: Pushed) -> float:
    """The norm of what an array is a sum over the batch of, 0 for others."""
    site, _, role = key.rpartition(".")
    if role == "batch_mean":
        return math.sqrt(float(np.linalg.norm(pushed[f"{site}.batch_variance"])))
    terms = pushed.get(f"{site}.preactivation_grad")
    return (
        float(np.linalg.norm(terms)) if role in ("beta_grad", "gamma_grad", "bias_grad") and terms is not None else 0.0
    )


def check_inference(
    network: CheckedNetwork, reference: CheckedNetwork, batch: Any, loss: Loss, *, seed: int = 0
) -> None:
    """Two engines' networks are the same by running averages as well, whatever these are; see `check_same`.

    The averages of both are drawn anew for the check, and put back.
    """
    if network.running.keys() != reference.running.keys():
        raise AssertionError(
            f"running averages of one network alone: {sorted(network.running.keys() ^ reference.running.keys())}."
        )
    with _drawn(network.running, seed), _drawn(reference.running, seed), network.inference(), reference.inference():
        check_same(network, reference, batch, loss)


@contextmanager
def _drawn(running: Mapping[str, Array], seed: int) -> Iterator[None]:
    """Within the context averages are such as a trained network may have: means of about 0, variances of about 1."""
    rng = np.random.default_rng(seed)
    before = {name: array.copy() for name, array in running.items()}
    try:
        for name in sorted(running):
            normals = rng.standard_normal(running[name].shape)
            running[name][...] = 0.5 * normals if name.endswith("mean") else np.exp(0.3 * normals)
        yield
    finally:
        for name, array in running.items():
            array[...] = before[name]


# ------------------------------------------------------------------------------------------------- what is pushed


def check_pushes(network: CheckedNetwork, batch: Any, loss: Loss) -> None:
    """Every site and every parameter is pushed, with its gradient, in the shapes that the protocol states."""
    before = {name: array.copy() for name, array in network.parameters.items()}
    _, pushed = recorded(network, batch, loss)
    sites = {site.site: site for site in network.sites if site.kind != "network"}
    due = {f"{site}.activation" for site in sites} | set(network.parameters)
    due |= {f"{name}.{role}" for name, site in sites.items() if site.kind == "junction" for role in _TERMS}
    for key in sorted(due):
        for role in (key, f"{key}_grad"):
            if role not in pushed:
                raise AssertionError(f"{role} was not pushed.")
        # The gradients at a junction are by the block's input, which may have another shape than what is added.
        of = f"{key.rpartition('.')[0]}.shortcut_grad" if key.endswith(_TERM_ENDS) else key
        if pushed[of].shape != pushed[f"{key}_grad"].shape or len(pushed[key]) != len(network.seeds):
            shapes = pushed[of].shape, pushed[f"{key}_grad"].shape
            raise AssertionError(f"{key} and its gradient have the shapes {shapes}, for {len(network.seeds)} seeds.")
    strangers = {key.rpartition(".")[0] for key in pushed} - sites.keys() - {"run"}
    if strangers:
        raise AssertionError(f"pushed at sites that the network does not list: {sorted(strangers)}.")
    for name, array in network.parameters.items():
        if array.tobytes() != before[name].tobytes():
            raise AssertionError(f"{name} was changed by a run.")
