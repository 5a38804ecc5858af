"""What an engine must offer so that networks can be trained on it, and what is the same on all of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from skipscope.data import Dataset, Images, Samples
from skipscope.protocol import Loss
from skipscope.training.recipe import Recipe

if TYPE_CHECKING:
    from skipscope.engines.torch_engine import TorchNetwork

__all__ = ["Descent", "State", "Stopped", "Task", "first_bad", "is_torch"]

Array = NDArray[np.floating[Any]]
State = Mapping[str, Mapping[str, Array]]
"""`"weights"`, `"velocity"` and `"running"`: arrays by name, each with the leading axis s."""


@dataclass(frozen=True)
class Stopped:
    """A network whose loss stopped being a number.

    Attributes:
        seed: its seed.
        step: steps that were done before.
        site: the first site that holds nan or inf, in order of execution.
        role: what it holds: an activation, or a parameter that the step before had spoiled.
    """

    seed: int
    step: int
    site: str
    role: str

    def __str__(self) -> str:
        return f"seed {self.seed} after {self.step} steps: {self.role} of {self.site} is not finite"


@dataclass(frozen=True, eq=False)
class Task:
    """What networks are to learn, and how.

    Attributes:
        data: in the networks' precision.
        recipe: rates, momentum and weight decay.
        loss: by which they learn it.
        jobs: threads to work with.
    """

    data: Dataset | Images
    recipe: Recipe
    loss: Loss
    jobs: int


class Descent(Protocol):
    """The networks of a run while they are trained, on one of the engines.

    It begins with velocities of 0 before the first step. The networks are rows, in the order of their seeds.

    Attributes:
        identity: what changes the numbers of this engine, beside what is common to all; as JSON has it.
        factors: what the table of cells says about it.
    """

    identity: Mapping[str, Any]
    factors: Mapping[str, str]

    @property
    def network(self) -> Any:
        """The networks as they are now, to be measured; may change with the next step."""

    @property
    def velocity(self) -> Mapping[str, Array]:
        """The velocity of every parameter, by the parameters' names."""

    def computing(self) -> AbstractContextManager[None]:
        """The threads, within which everything else is asked for."""

    def keep(self, rows: Sequence[int], step: int) -> None:
        """Go on with the networks at these rows alone, from this step on."""

    def load(self, state: State) -> None:
        """Take over weights, velocities and running averages."""

    def advance(self, steps: range) -> list[Stopped]:
        """So many steps; gives the networks whose loss was lost, which are of no use from then on."""

    def look(self, step: int) -> list[Stopped]:
        """The loss of a step, and nothing else; gives the networks that have lost it."""

    def evaluate(self, pieces: Iterator[Samples], loss: Loss) -> tuple[Array, Array | None]:
        """Loss and error over all samples, in inference; see `skipscope.training.evaluate`."""


def is_torch(network: object) -> TypeGuard[TorchNetwork]:
    """Whether it is a network of the torch engine, which is not imported to find out."""
    engine = sys.modules.get("skipscope.engines.torch_engine")
    return engine is not None and isinstance(network, engine.TorchNetwork)


def first_bad(network: Any, inputs: Array, row: int) -> tuple[str, str]:
    """The first site of one network that holds nan or inf, and what: a parameter, or else an activation."""
    for name, array in network.parameters.items():
        if not np.isfinite(array[row]).all():
            site, _, parameter = name.rpartition(".")
            return site, parameter
    found: list[tuple[str, str]] = []

    def observe(site: str, /, **roles: Array) -> None:
        found.extend((site, role) for role, array in roles.items() if not np.isfinite(array[row]).all())

    network.run(inputs, observe=observe)
    return found[0] if found else ("network", "loss")
