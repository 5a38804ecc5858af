"""Loss and error of networks over all samples of a part, in inference, a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipscope.data import Samples
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.engines.room import Room
from skipscope.errors import require_type
from skipscope.protocol import Loss
from skipscope.training.descent import is_torch

if TYPE_CHECKING:
    from skipscope.engines.torch_engine import TorchNetwork

__all__ = ["EVALUATED", "evaluate", "outcome", "require_network"]

Array = NDArray[np.floating[Any]]

EVALUATED = 512
"""Samples at once."""


def evaluate(
    network: NumpyNetwork | TorchNetwork, samples: Samples | Iterator[Samples], loss: Loss
) -> tuple[Array, Array | None]:
    """The loss of every network over all samples, and the share of samples it gets wrong, both of shape (s,).

    In inference (see `NumpyNetwork.inference`), a piece at a time. In a regression the second is None.

    Args:
        network: the networks, of either engine.
        samples: what they are shown, at once or in pieces, as `Dataset.pieces` and `Images.pieces` give them.
        loss: of all their outputs, and a batch whose targets are those of all pieces.

    Raises:
        InputError: it is no network of an engine, or these are no samples, or not of its size.
    """
    require_network(network)
    with network.inference(), Room().used():
        return outcome(lambda inputs: network.run(inputs).output, samples, loss)


def require_network(network: object) -> None:
    """Refuse what is no network of an engine.

    Raises:
        InputError: it is none.
    """
    if not is_torch(network):
        require_type("network", network, NumpyNetwork, "skipscope.build(spec, seed=0) makes one")


def outcome(
    output_of: Callable[[Array], Array], samples: Samples | Iterator[Samples], loss: Loss
) -> tuple[Array, Array | None]:
    """As `evaluate`, of what gives the outputs (s, b, n) for inputs.

    Raises:
        InputError: these are no samples.
    """
    if not isinstance(samples, Iterator):
        require_type("samples", samples, Samples, "the train or the test part of a data set is one")
    targets, outputs = [], []
    with np.errstate(all="ignore"):
        for piece in _pieces(samples) if isinstance(samples, Samples) else samples:
            outputs.append(output_of(piece.inputs))
            targets.append(piece.targets)
        output, target = np.concatenate(outputs, axis=1), np.concatenate(targets)
        value = np.asarray(loss(output, samples if isinstance(samples, Samples) else (None, target)), np.float64)
    if not np.issubdtype(target.dtype, np.integer):
        return value, None
    wrong = (output.argmax(axis=-1) != target) | ~np.isfinite(output).all(axis=-1)
    return value, wrong.mean(axis=-1)


def _pieces(samples: Samples) -> Iterator[Samples]:
    return (
        Samples(samples.inputs[start : start + EVALUATED], samples.targets[start : start + EVALUATED])
        for start in range(0, samples.size, EVALUATED)
    )
