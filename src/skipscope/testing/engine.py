"""What the conformance suite asks of an engine: how it builds networks, and what can be done with one.

Imports the protocol and the spec.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from numpy.typing import NDArray

from skipscope.protocol import Network
from skipscope.spec import Spec

__all__ = ["Build", "CheckedNetwork"]

Array = NDArray[Any]


class CheckedNetwork(Network, Protocol):
    """What the checks need of a network beyond `Network`."""

    @property
    def spec(self) -> Spec:
        """What the network is."""

    @property
    def parameters(self) -> Mapping[str, Array]:
        """NumPy arrays by `site.name`, each with the leading axis s; changing one in place changes the network.

        An engine of another library gives views that share its memory, e.g. `tensor.detach().numpy()`.
        """

    @property
    def running(self) -> Mapping[str, Array]:
        """The running averages of batch normalisation, likewise: `site.running_mean` and `site.running_variance`."""

    def inference(self) -> AbstractContextManager[None]:
        """Within the context batch normalisation takes the running averages in place of the batch's statistics."""


class Build(Protocol):
    """How an engine builds a network: as `skipscope.build` does."""

    def __call__(self, spec: Spec, *, seed: int | Iterable[int]) -> CheckedNetwork:
        """The network of a seed, or of several as an ensemble."""
