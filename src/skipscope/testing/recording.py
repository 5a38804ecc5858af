"""What the checks have in common: what a network is shown, a record of all that it pushes, and how numbers compare.

Imports the draws, the losses, the protocol and NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope import draws
from skipscope.losses import Cotangent
from skipscope.protocol import Loss, Network, Run
from skipscope.spec import Spec

__all__ = ["Pushed", "inner", "norm", "recorded", "require", "shown"]

Array = NDArray[Any]
Pushed = dict[str, Array]
"""Arrays by `site.role`."""


def shown(spec: Spec, seeds: Sequence[int], samples: int = 5) -> tuple[Array, Cotangent]:
    """Random inputs of every seed, (s, b, n) or images (s, b, c, h, w), and what is sent back through its network."""
    inputs = draws.normals(seeds, "input", (samples, *spec.input_shape))
    return inputs, Cotangent(draws.normals(seeds, "cotangent", (samples, spec.head.features)))


def recorded(network: Network, batch: Any, loss: Loss) -> tuple[Run, Pushed]:
    """Run the network and keep a copy of everything that comes out, by `site.role`; also `run.output`, `run.loss`.

    Raises:
        AssertionError: something was pushed twice.
    """
    pushed: Pushed = {}

    def observe(site: str, /, **roles: Any) -> None:
        for role, array in roles.items():
            if f"{site}.{role}" in pushed:
                raise AssertionError(f"{site}.{role} was pushed twice in one run.")
            pushed[f"{site}.{role}"] = np.array(array)

    run = network.run(batch, loss, observe)
    return run, pushed | {"run.output": np.array(run.output), "run.loss": np.array(run.loss)}


def inner(x: Array, y: Array) -> Array:
    """The inner product of every network's arrays, of shape (s,)."""
    product: Array = (x * y).reshape(len(x), -1).sum(axis=1)
    return product


def norm(x: Array) -> Array:
    """The Euclidean norm of every network's array, of shape (s,)."""
    length: Array = inner(x, x) ** 0.5
    return length


def require(what: str, value: Array, expected: Array, allowed: Array | float) -> None:
    """Hold numbers to others, entry by entry.

    Raises:
        AssertionError: one is off by more than allowed, or nan; the message has both.
    """
    if value.shape != expected.shape:
        raise AssertionError(f"{what} has the shape {value.shape}; expected {expected.shape}.")
    off = np.where(np.isnan(value), np.inf, np.abs(value - expected))
    if (off > allowed).any():
        worst = np.unravel_index(int(np.argmax(off - allowed)), off.shape)
        limit = np.broadcast_to(allowed, off.shape)[worst]
        raise AssertionError(
            f"{what} is {value[worst]:.12g}, expected {expected[worst]:.12g}; allowed is a difference of {limit:.3g}."
        )
