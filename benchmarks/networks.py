"""The networks that every way of measuring is given, and what is drawn for them.

Ten networks a seed: plain and residual, of the notebook's depths, 16 numbers in, 36 units a layer, 16 numbers out, one
sample. Three numbers a network: the notebook's ratio |dW_first|/|dW_last|, and growth a block forwards and backwards.
All ten of a seed share one draw (a shallow network is the beginning of a deep one); what is drawn is the weights of the
deepest, an input and an output gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipscope import draws
from skipscope.designs import design
from skipscope.spec import Spec
from skipscope.studies.sweep import SWEEP_DEPTHS

Array = NDArray[np.float64]

WIDTH, FEATURES = 36, 16
QUANTITIES = ("weight_grad_first_last", "forward_growth", "backward_growth")
SPECS: dict[tuple[str, int], Spec] = {
    (name, depth): design(name, depth=depth, width=WIDTH, features=FEATURES, output="relu")
    for depth in SWEEP_DEPTHS
    for name in ("plain", "residual")
}
DEEPEST = max(SPECS.values(), key=lambda spec: spec.depth)

Measure = Callable[[Sequence[int]], Array]
"""From seeds to the values, of shape (networks, quantities, s), in the order of `SPECS` and `QUANTITIES`."""


@dataclass(frozen=True)
class Drawn:
    """What all networks of some seeds are made of; `body` has the weights of all hidden layers of the deepest."""

    stem: Array  # (s, width, features)
    head: Array  # (s, features, width)
    body: Array  # (s, layers, width, width)
    x: Array  # (s, features)
    cotangent: Array  # (s, features)


def normals(seeds: Sequence[int]) -> tuple[Array, Array, Array]:
    """Only the drawing, the part that nobody can leave out: standard normals for weights, input, output gradient."""
    weights = draws.normals(seeds, "weights", (DEEPEST.parameters,))
    x = draws.normals(seeds, "input", (1, FEATURES))
    cotangent = draws.normals(seeds, "cotangent", (1, FEATURES))
    return weights, x[:, 0], cotangent[:, 0]


def drawn(seeds: Sequence[int]) -> Drawn:
    """The same, cut into matrices in the order in which they are drawn, with He's scale."""
    weights, x, cotangent = normals(seeds)
    stem, head, body = np.split(weights, [WIDTH * FEATURES, 2 * WIDTH * FEATURES], axis=1)
    stem *= (2 / FEATURES) ** 0.5
    head *= (2 / WIDTH) ** 0.5
    body *= (2 / WIDTH) ** 0.5
    return Drawn(
        stem.reshape(-1, WIDTH, FEATURES),
        head.reshape(-1, FEATURES, WIDTH),
        body.reshape(len(seeds), -1, WIDTH, WIDTH),
        x,
        cotangent,
    )


def chunks(seeds: Sequence[int], size: int) -> list[Sequence[int]]:
    """The seeds, `size` at a time."""
    return [seeds[start : start + size] for start in range(0, len(seeds), size)]


def only_drawing(seeds: Sequence[int]) -> None:
    """In pieces that stay in the cache, as those of a sweep do."""
    for some in chunks(seeds, 20):
        normals(some)
