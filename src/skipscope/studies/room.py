"""How much memory a study needs, reckoned before it begins: a request that cannot end well is refused at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from skipscope.errors import InputError, require_int
from skipscope.words import number

if TYPE_CHECKING:
    from skipscope.studies.ensemble import Cell

__all__ = ["require_room"]

# What a study was seen to take: enough to tell gigabytes from terabytes.
_BYTES_A_NUMBER = 16  # a weight or an activation: its draw, and what is computed of it
_BYTES_A_SITE = 16_000  # the objects that stand for a layer or a block
_BYTES_A_READING = 300  # a row, while rows are put together
_BYTES_A_JOB = 150_000_000  # a process with its imports


def require_room(cells: Sequence[Cell], *, seeds: int, jobs: int, kept: bool = True) -> None:
    """Refuse what this machine's memory cannot hold, before anything is drawn.

    Reckoned from the stages: to list the layers of a network of ten million is to run out of memory.

    Args:
        cells: what is to be measured.
        seeds: how many seeds each.
        jobs: worker processes; -1 counts as one for every core.
        kept: whether all readings are held at once, as they are unless they go to a folder in parts.

    Raises:
        InputError: it is too much.
    """
    jobs = (os.cpu_count() or 1) if jobs == -1 else jobs
    sites = [sum(stage.blocks * (stage.layers + 1) for stage in cell.spec.stages) + 4 for cell in cells]
    reported = [
        count if cell.sites is None else min(count, len(cell.sites)) for count, cell in zip(sites, cells, strict=True)
    ]
    readings = seeds * sum(count * len(cell.quantities) for count, cell in zip(reported, cells, strict=True))
    network = max((_numbers(cell) for cell in cells), default=0)
    needed = (
        _BYTES_A_NUMBER * network * jobs
        + _BYTES_A_SITE * sum(sites)
        + _BYTES_A_READING * readings * kept
        + (_BYTES_A_JOB * jobs if jobs > 1 else 0)
    )
    if needed > (held := _memory()):
        largest = max(cells, key=_numbers)
        processes = f", in {jobs} processes" if jobs > 1 else ""
        raise InputError(
            f"this is too large: seeds={seeds} of networks of depth {largest.factors.get('depth', '?')}, width "
            f"{largest.spec.body_width}, batch {largest.batch}{processes} need about "
            f"{number(min(needed, 10**300) / 1e9)} GB of memory, and this machine has {number(held / 1e9)} GB. Make "
            "one of them smaller."
        )


def _numbers(cell: Cell) -> int:
    """Weights of a network, and activations of its batch."""
    spec = cell.spec
    weights, units, width = spec.stem.features * spec.stem.width, spec.stem.width, spec.stem.width
    for stage in spec.stages:
        layers = stage.blocks * stage.layers
        weights += (width + (layers - 1) * stage.width) * stage.width
        units, width = units + layers * stage.width, stage.width
    weights += width * spec.head.features
    return weights + require_int("batch", cell.batch, least=1) * (spec.stem.features + units + spec.head.features)


def _memory() -> float:
    """Bytes of memory that the machine has; infinite where the system does not say (Windows)."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return float("inf")
