"""The check of gradients against finite differences.

Imports what the checks have in common, the protocol and NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope.protocol import Loss
from skipscope.testing.engine import CheckedNetwork
from skipscope.testing.recording import Pushed, inner, recorded

__all__ = ["check_gradients"]

Array = NDArray[Any]


def check_gradients(network: CheckedNetwork, batch: Any, loss: Loss, *, seed: int = 0) -> None:
    """The gradients by the input and by all parameters together are those of finite differences, in float64.

    The network is moved a little in every parameter first (and put back after): at its initialisation biases and
    learned gains stand at special points, where a wrong gradient may happen to be right.

    The derivative along a random direction u is D(h) = (f(x + h u) - f(x - h u))/2h with h = 1e-6. Its rounding error
    is about 1e-16 |f|/h = 1e-10 |f|, times the condition of f; its truncation error is h^2/6 times the third
    derivative, a third of D(2h) - D(h). Allowed is 1e-6 (|f| + ||gradient||) + 10 |D(2h) - D(h)|: the last term is
    negligible but where a norm divides by almost nothing. A term that is missing or counted twice shows in the
    gradient's first digits. A ReLU has no derivative where it switches, nor a max pooling where another pixel becomes
    the largest: a direction along which any does between the five points is drawn again. Images have thousands of
    pixels to switch, and take h = 1e-7.

    Args:
        network: of float64.
        batch: see `skipscope.protocol.Network.run`.
        loss: with its value computed from the output alone.
        seed: draws the direction.
    """
    rng = np.random.default_rng(seed)
    inputs, *rest = batch if isinstance(batch, tuple) else (batch,)
    shape = (len(network.seeds), *np.shape(inputs)[-1 - len(network.spec.input_shape) :])
    places = {"input": np.array(np.broadcast_to(inputs, shape)), **network.parameters}
    data = (places["input"], *rest) if rest else places["input"]
    with _moved(network.parameters, rng):
        _, pushed = recorded(network, data, loss)
        gradients = {name: pushed[_gradient_of(name)] for name in places}
        good, text = _slopes(network, data, loss, places, gradients, rng)
        if good:
            return
        each = {name: _slopes(network, data, loss, {name: places[name]}, gradients, rng) for name in places}
    wrong = [f"{name}: {one}" for name, (fine, one) in each.items() if not fine]
    raise AssertionError("; ".join([f"gradients along a random direction of everything: {text}", *wrong]) + ".")


def _gradient_of(place: str) -> str:
    return "input.activation_grad" if place == "input" else f"{place}_grad"


def _slopes(
    network: CheckedNetwork,
    data: Any,
    loss: Loss,
    places: Mapping[str, Array],
    gradients: Mapping[str, Array],
    rng: np.random.Generator,
) -> tuple[bool, str]:
    """Whether analytic and numeric slope agree along a random direction in `places`; and both as text."""
    h = 1e-7 if network.spec.images else 1e-6
    here, sides = _value(network, data, loss)
    for _ in range(100):
        direction = {name: rng.standard_normal(place.shape) for name, place in places.items()}
        points = list(_along(network, data, loss, places, direction, h, sides))
        if len(points) == len(_POINTS):
            break
    else:
        raise AssertionError("100 random directions cross a kink (of ReLU or max pooling): the network stands on one.")
    far_above, far_below, above, below = points
    numeric = (above - below) / (2 * h)
    unsure = np.abs(numeric - (far_above - far_below) / (4 * h))
    analytic = np.sum([inner(gradients[name], direction[name]) for name in places], axis=0)
    size = np.sum([inner(gradients[name], gradients[name]) for name in places], axis=0) ** 0.5
    off = np.abs(analytic - numeric)
    excess = off - 1e-6 * (np.abs(here) + size) - 10 * unsure
    worst = int(np.argmax(np.where(np.isnan(excess), np.inf, excess)))
    good = bool((excess <= 0).all() and (unsure <= 1e-4 * (np.abs(here) + size)).all())
    return good, f"analytic {analytic[worst]:.12g}, numeric {numeric[worst]:.12g} (seed {network.seeds[worst]})"


_POINTS = (2, -2, 1, -1)  # steps along a direction; the far ones first, which cross a kink more often


def _along(
    network: CheckedNetwork,
    data: Any,
    loss: Loss,
    places: Mapping[str, Array],
    direction: Mapping[str, Array],
    h: float,
    sides: bytes,
) -> Iterator[Array]:
    """The loss at every point, up to the first that lies beyond a kink."""
    for k in _POINTS:
        with _stepped(places, direction, k * h):
            value, there = _value(network, data, loss)
        if there != sides:
            return
        yield value


def _value(network: CheckedNetwork, data: Any, loss: Loss) -> tuple[Array, bytes]:
    """The loss, and on which side of their kinks the activation functions and the max pooling are."""
    sides: list[bytes] = []
    kinked = {site.site for site in network.sites if site.activation == "relu"}
    pooled = network.spec.stem.pooled

    def observe(site: str, /, **roles: Any) -> None:
        if "activation" in roles:
            if site in kinked:
                sides.append(np.packbits(np.asarray(roles["activation"]) > 0).tobytes())
            if pooled and site == "stem":
                sides.append(_largest(np.asarray(roles["activation"])).tobytes())

    return np.asarray(loss(network.run(data, observe=observe).output, data)), b"".join(sides)


def _largest(x: Array) -> Array:
    """Which pixel is the largest of every 3x3 window at stride 2 (and padding 1), of images (s, b, c, h, w)."""
    around = np.pad(x, [(0, 0)] * 3 + [(1, 1)] * 2, constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3), axis=(-2, -1))[..., ::2, ::2, :, :]
    largest: Array = windows.reshape(*windows.shape[:-2], 9).argmax(axis=-1).astype(np.int8)
    return largest


@contextmanager
def _stepped(places: Mapping[str, Array], direction: Mapping[str, Array], step: float) -> Iterator[None]:
    """Within the context all places are a step along the direction."""
    before = {name: place.copy() for name, place in places.items()}
    try:
        for name, place in places.items():
            place += step * direction[name]
        yield
    finally:
        for name, place in places.items():
            place[...] = before[name]


@contextmanager
def _moved(parameters: Mapping[str, Array], rng: np.random.Generator) -> Iterator[None]:
    before: Pushed = {name: array.copy() for name, array in parameters.items()}
    try:
        for array in parameters.values():
            array += 0.3 * rng.standard_normal(array.shape)
        yield
    finally:
        for name, array in parameters.items():
            array[...] = before[name]
