"""Networks of one design and one draw, of which each is the beginning of the next, run at once.

Every depth of a sweep shares its draw, so that what a shallow network computes up to its last block a deeper one
computes too: one forward pass serves all of them, and each only adds its own tail. Backwards every network has a
gradient of its own, but all go through the same layers: they are carried along an axis between s and b, layer by layer,
so that a weight matrix is fetched once for all depths. Each network's part of every product is the product that it
would be alone, so its readings are bit for bit those of `NumpyNetwork.run`. Imports the engine's parts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope.engines.numpy_engine import NumpyNetwork, sent_back
from skipscope.engines.parts import Kept, body_of, stem_of, tail_of
from skipscope.protocol import Loss, Observer, Run, wanted
from skipscope.spec import Spec

__all__ = ["nested", "run_nested"]

Array = NDArray[np.floating[Any]]


def nested(shallow: Spec, deep: Spec) -> bool:
    """Whether `shallow` is `deep` without some of its last blocks, with the same stem and head; and both are dense."""
    few, many = shallow.body, deep.body
    return (
        not shallow.images
        and len(few) < len(many)
        and (shallow.stem_layer, shallow.head_layer) == (deep.stem_layer, deep.head_layer)
        and (shallow.init, shallow.bias, shallow.dtype) == (deep.init, deep.bias, deep.dtype)
        and few == many[: len(few)]
        and _final(shallow) == _final(deep)
    )


def _final(spec: Spec) -> tuple[str, ...]:
    """What stands between the body and the head."""
    return (spec.stages[-1].norm, spec.stages[-1].activation) if spec.pre_activation else ()


def run_nested(
    networks: Sequence[NumpyNetwork], batch: Any, losses: Sequence[Loss], observers: Sequence[Observer]
) -> list[Run]:
    """What `network.run(batch, loss, observe)` gives for every network, with its loss and its observer.

    Args:
        networks: as `build_all` makes them from specs each of which nests in the one before (see `nested`): the deepest
            first; unedited, as their gains are taken from the specs. A convolutional one comes alone.
        batch: as for `NumpyNetwork.run`, the same for all of them.
        losses: one a network.
        observers: one a network.
    """
    deepest = networks[0]
    if deepest.spec.images:
        return [deepest.run(batch, losses[0], observers[0])]
    stem, body = stem_of(deepest.spec, _Along(deepest)), body_of(deepest.spec, _Along(deepest))
    tails = [tail_of(network.spec, _Along(network)) for network in networks]
    alone = [_Several([observe]) for observe in observers]
    together = [_Several(observers[: index + 1]) for index in range(len(networks))]
    exits = {len(network.spec.body): index for index, network in enumerate(networks)}
    runs: dict[int, Run] = {}
    kept_tails: dict[int, Kept] = {}
    kept_body: list[Kept] = []
    with np.errstate(all="ignore"):
        x = deepest.inputs(batch)[:, None]
        carried = len(networks)
        together[carried - 1]("input", activation=x)
        x, kept_stem = stem.forward(x, together[carried - 1])
        for number in range(len(body) + 1):
            if number:
                x, kept = body[number - 1].forward(x, together[carried - 1])
                kept_body.append(kept)
            if number in exits:
                carried = exits[number]
                output, kept_tails[carried] = tails[carried].forward(x, alone[carried])
                runs[carried] = Run(output[:, 0], None)
        gradients = np.empty((len(deepest.seeds), 0, *x.shape[2:]), x.dtype)
        for number in range(len(body), -1, -1):
            if number in exits:
                carried = exits[number]
                output = runs[carried].output
                value, sent = sent_back(losses[carried], output, batch)
                runs[carried] = Run(output, value)
                own = tails[carried].backward(sent[:, None], kept_tails[carried], alone[carried])
                gradients = np.concatenate([gradients, own], axis=1)
            if number:
                gradients = body[number - 1].backward(gradients, kept_body[number - 1], together[carried])
        gradients = stem.backward(gradients, kept_stem, together[-1])
        together[-1]("input", activation_grad=gradients)
    return [runs[index] for index in range(len(networks))]


class _Along(Mapping[str, Array]):
    """A network's parameters with an axis after s, along which the gradients of several networks are carried."""

    def __init__(self, network: NumpyNetwork) -> None:
        self._parameters = network.arrays

    def __getitem__(self, name: str) -> Array:
        return self._parameters[name][:, None]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


class _Several:
    """The observers of the networks that are carried along; each is handed its own part of every array."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = observers

    def wants(self, site: str) -> Collection[str]:
        """The roles of the site that any of them wants."""
        return set().union(*(wanted(observe, site) for observe in self.observers))

    def __call__(self, site: str, /, **roles: Array) -> None:
        for index, observe in enumerate(self.observers):
            asked = wanted(observe, site)
            if asked:
                observe(site, **{role: _part(array, index) for role, array in roles.items() if role in asked})


def _part(array: Array, index: int) -> Array:
    """One network's part of an array that is each network's own, or one that all share."""
    part: Array = array[:, index if array.shape[1] > 1 else 0]
    return part
