"""How much memory a study needs, reckoned before it begins: a request that cannot end well is refused at once."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any, Protocol, TypeVar

from skipscope.errors import InputError, require_int
from skipscope.spec import Spec, Stage
from skipscope.words import number

__all__ = ["Weighed", "count", "numbers", "require_room", "sites"]

# What a study was seen to take: enough to tell gigabytes from terabytes.
_BYTES_A_NUMBER = 16  # a weight or an activation: its draw, and what is computed of it
_BYTES_A_SITE = 16_000  # the objects that stand for a layer or a block
_BYTES_A_READING = 100  # a row, while rows are put together
_BYTES_A_JOB = 150_000_000  # a process with its imports


class Weighed(Protocol):
    """What is known of a cell, whatever is measured of it."""

    @property
    def spec(self) -> Spec:
        """The network."""

    @property
    def factors(self) -> Mapping[str, Any]:
        """The study's columns in the table of cells."""

    @property
    def batch(self) -> int:
        """Samples a network."""


Cell = TypeVar("Cell", bound=Weighed)


def require_room(
    cells: Sequence[Cell],
    *,
    seeds: int,
    jobs: int,
    numbers: Callable[[Cell], int],
    readings: Callable[[Cell], int],
    kept: bool = True,
) -> None:
    """Refuse what this machine's memory cannot hold, before anything is drawn.

    Args:
        cells: what is to be measured.
        seeds: how many seeds each.
        jobs: worker processes; -1 counts as one for every core.
        numbers: how many numbers one network of a cell takes while it is measured.
        readings: how many readings one network of a cell gives.
        kept: whether all readings are held at once, as they are unless they go to a folder in parts.

    Raises:
        InputError: it is too much.
    """
    jobs = (os.cpu_count() or 1) if jobs == -1 else jobs
    needed = (
        _BYTES_A_NUMBER * max(map(numbers, cells), default=0) * jobs
        + _BYTES_A_SITE * sum(sites(cell.spec) for cell in cells)
        + _BYTES_A_READING * seeds * sum(map(readings, cells)) * kept
        + (_BYTES_A_JOB * jobs if jobs > 1 else 0)
    )
    if needed > (held := _memory()):
        largest = max(cells, key=numbers)
        processes = f", in {jobs} processes" if jobs > 1 else ""
        raise InputError(
            f"this is too large: seeds={seeds} of networks of depth {largest.factors.get('depth', '?')}, width "
            f"{largest.spec.width}, batch {largest.batch}{processes} need about "
            f"{number(min(needed, 10**300) / 1e9)} GB of memory, and this machine has {number(held / 1e9)} GB. Make "
            "one of them smaller."
        )


def count(seeds: int | Iterable[int]) -> int:
    """How many seeds there are, as far as can be told before they are listed: listing them may take all memory."""
    try:
        return len(seeds) if isinstance(seeds, Sized) else 1
    except OverflowError:  # a range longer than Python can say
        return sys.maxsize
    except TypeError:  # an array of no axes is one number
        return 1


# Reckoned from the stages: to list the layers of a network of ten million is to run out of memory.


def sites(spec: Spec) -> int:
    """How many sites a network has, or a few more."""
    return sum(stage.blocks * (stage.layers + 1 + stage.images) for stage in spec.stages) + 4 + 2 * spec.images


def numbers(spec: Spec, batch: int) -> int:
    """Weights of a network, and activations of its batch; of a convolutional one without projections, and roughly.

    Raises:
        InputError: the batch makes no sense.
    """
    stem = spec.stem_layer
    weights, units = stem.weights, stem.n_out * stem.size_out**2
    width, size = stem.n_out, spec.stem_size
    for stage in spec.stages:
        size = -(-size // stage.stride)
        weights += _weights(stage, width) + (stage.blocks - 1) * _weights(stage, stage.outputs)
        units += stage.blocks * ((stage.layers - 1) * stage.width + stage.outputs) * size**2
        width = stage.outputs
    weights += width * spec.head.features
    return weights + require_int("batch", batch, least=1) * (math.prod(spec.input_shape) + units + spec.head.features)


def _weights(stage: Stage, n_in: int) -> int:
    """Of a block's branch."""
    widths = (n_in, *(stage.width,) * (stage.layers - 1), stage.outputs)
    return sum(n * m * k**2 for n, m, k in zip(widths, widths[1:], stage.kernels, strict=False))


def _memory() -> float:
    """Bytes of memory that the machine has; infinite where the system does not say (Windows)."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return float("inf")
