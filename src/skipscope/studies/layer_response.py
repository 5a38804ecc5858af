"""How strongly a layer responds: what that is in every order of a block, measured, and by gamma and beta alone.

*Response* of a layer: its output, after the batch normalisation that follows it before anything else does. What that
is depends on the order of a block (`places`):

- **after-add** (the paper) and **before-add**: the layer's own normalisation, before its ReLU; the last layer of a
  paper's block has none, and its response is what enters the addition, before gains.
- **pre-activation**: normalisation comes first, so that it is the *next* layer's that follows. The last layer of a
  residual block is followed by the addition alone: its response is the branch as it is added, gains and all, normalised
  by nothing. That of a plain block goes to the next block's normalisation.

The standard deviation of a response is over samples, positions and channels, about the one mean of all of them. In a
mini-batch that normalises itself channel c has the mean beta_c and the variance gamma_c^2 v_c/(v_c + eps), v_c the
batch's variance before normalisation, and so the whole sqrt(mean_c gamma_c^2 v_c/(v_c + eps) + var_c beta_c), exactly.
Asks networks of either engine by the observer alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope.engines.ops import EPS
from skipscope.moments import Field, Moments, moments
from skipscope.spec import Block, Layer, Spec

__all__ = ["Place", "law", "measured_responses", "parameter_responses", "places"]

Array = NDArray[np.floating[Any]]

_SUMS: tuple[Field, ...] = ("sum",)


# ------------------------------------------------------------------------------------------------- what a response is


@dataclass(frozen=True)
class Place:
    """Where the response of a layer is to be seen.

    Attributes:
        site: of the layer.
        seen: the site at which it is pushed to an observer.
        role: as what; see `skipscope.protocol`.
        norm: the site of the batch normalisation that it comes out of; "" where none follows the layer.
    """

    site: str
    seen: str
    role: str
    norm: str


def places(spec: Spec) -> tuple[Place, ...]:
    """The responses of a convolutional network, in order of depth; a projection's stands behind its block's."""
    return tuple(_places(spec))


def _places(spec: Spec) -> Iterator[Place]:
    first = spec.body[0] if spec.body else None
    after_stem = "" if spec.stem.pooled else _first_norm(first, spec)
    stem = _own(spec.stem_layer)
    # A plain network of pre-activation order has a bare stem, and the first block's normalisation behind it.
    yield replace(stem, seen=after_stem, norm=after_stem) if after_stem and not stem.norm else stem
    for block, following in zip(spec.body, (*spec.body[1:], None), strict=True):
        for layer, after in zip(block.layers, (*block.layers[1:], None), strict=True):
            if layer.first == "affine":
                yield _own(layer)
            elif after is not None:
                yield Place(layer.site, after.site, "preactivation", after.site if after.norm == "batch" else "")
            else:
                yield _last_of(block, layer, _first_norm(following, spec) if block.plain else "")
        if block.projection is not None:
            yield _own(block.projection)


def _own(layer: Layer) -> Place:
    """Behind the layer's own normalisation, if it has one."""
    return Place(layer.site, layer.site, "preactivation", layer.site if layer.norm == "batch" else "")


def _last_of(block: Block, layer: Layer, norm: str) -> Place:
    """Of the last layer of a block of pre-activation order."""
    if norm:
        return Place(layer.site, norm, "preactivation", norm)
    return Place(layer.site, block.site, "activation" if block.plain else "branch", "")


def _first_norm(block: Block | None, spec: Spec) -> str:
    """The normalisation that a stream meets at once, before a plain block or the head; "" where that is not so."""
    if block is None:
        return "final" if spec.pre_activation and spec.stages[-1].norm == "batch" else ""
    first = block.layers[0]
    return first.site if block.plain and first.first == "norm" and first.norm == "batch" else ""


# -------------------------------------------------------------------------------------------------------- measuring it


def law(gamma: Array, beta: Array, variance: Array | None = None) -> NDArray[np.float64]:
    """The standard deviation of what batch normalisation gives, over samples, positions and channels, of shape (s,).

    sqrt(mean_c gamma_c^2 v_c/(v_c + eps) + var_c beta_c): the variance of a mixture of channels is the mean of their
    variances and the variance of their means.

    Args:
        gamma: of shape (s, c).
        beta: likewise.
        variance: v, of what is normalised, likewise; if not given, what eps does is left out.
    """
    squares = np.asarray(gamma, np.float64) ** 2
    if variance is not None:
        spread = np.asarray(variance, np.float64)
        squares = squares * (spread / (spread + EPS))
    found: NDArray[np.float64] = np.sqrt(squares.mean(axis=-1) + np.asarray(beta, np.float64).var(axis=-1))
    return found


def parameter_responses(spec: Spec, parameters: Mapping[str, Array]) -> dict[str, NDArray[np.float64]]:
    """The standard deviation of every response that is normalised, by site, of shape (s,): of gamma and beta alone.

    Args:
        spec: the network.
        parameters: its arrays by name, each with the leading axis s, as a network has them or `pretrained.load` gives.
    """
    return {
        place.site: law(parameters[f"{place.norm}.gamma"], parameters[f"{place.norm}.beta"])
        for place in places(spec)
        if place.norm
    }


def measured_responses(network: Any, batch: Any) -> tuple[dict[str, Array], dict[str, Array]]:
    """The standard deviation of every response, by site, of shape (s,): as measured, and as its law has it.

    In training mode; within `network.inference()` the second is empty, for the batch does not normalise itself.

    Args:
        network: of any engine, with a spec and parameters.
        batch: the images; see `skipscope.protocol.Network.run`.

    Raises:
        InputError: the batch does not fit the network.
    """
    seen = _Seen(network)
    network.run(batch, observe=seen)
    return seen.deviations(), seen.laws()


class _Seen:
    """An observer that reduces every response to its moments, and every batch's variances to their law."""

    def __init__(self, network: Any) -> None:
        self._places = places(network.spec)
        self._parameters: Mapping[str, Array] = network.parameters
        self._roles: dict[str, set[str]] = {}
        for place in self._places:
            self._roles.setdefault(place.seen, set()).add(place.role)
            if place.norm:
                self._roles.setdefault(place.norm, set()).add("batch_variance")
        self._moments: dict[tuple[str, str], Moments] = {}
        self._laws: dict[str, Array] = {}

    def wants(self, site: str) -> Collection[str]:
        return self._roles.get(site, ())

    def __call__(self, site: str, /, **roles: Any) -> None:
        for role in roles.keys() & self._roles.get(site, set()):
            if role == "batch_variance":
                gamma, beta = (self._parameters[f"{site}.{name}"] for name in ("gamma", "beta"))
                self._laws[site] = law(gamma, beta, np.asarray(roles[role]))
            else:
                self._moments[site, role] = moments(roles[role], _SUMS)

    def deviations(self) -> dict[str, Array]:
        return {
            place.site: np.sqrt(np.asarray(self._moments[place.seen, place.role].variance)) for place in self._places
        }

    def laws(self) -> dict[str, Array]:
        return {place.site: self._laws[place.norm] for place in self._places if place.norm in self._laws}
