"""Measuring cells over many seeds: in chunks that fit the cache, in one process or in several.

A cell is one kind of network measured in one way. Every seed is measured by itself, so neither the size of a chunk nor
the number of workers changes a bit of any reading; they only change the time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

from skipscope import draws
from skipscope.draws import CotangentKind
from skipscope.engines.numpy_engine import build
from skipscope.errors import InputError, require_int
from skipscope.probe import probe
from skipscope.quantities import QUANTITIES, Quantity
from skipscope.readings import Readings
from skipscope.spec import Spec
from skipscope.words import number

__all__ = ["Cell", "Progress", "measure", "run"]

Progress = Callable[[int, int], None]
"""Called with how many networks are measured, and how many there are in all."""

_CHUNK_NUMBERS = 1 << 20  # weights and activations of a chunk: 8 MiB, about a core's share of the cache


@dataclass(frozen=True)
class Cell:
    """One kind of network, and how it is measured; the arguments of `skipscope.probe`.

    Attributes:
        spec: the network.
        factors: the study's columns in the table of cells.
        batch: samples a network.
        cotangent: the output gradient.
        quantities: what to measure.
        sites: patterns of the sites to report; None is all.
    """

    spec: Spec
    factors: Mapping[str, Any]
    batch: int = 1
    cotangent: CotangentKind = "gaussian"
    quantities: Mapping[str, Quantity] = field(default_factory=lambda: QUANTITIES)
    sites: tuple[str, ...] | None = None


def measure(cell: Cell, seeds: Sequence[int]) -> Readings:
    """The readings of one cell over some seeds, measured at once (a top-level function, so that it can be sent)."""
    return probe(
        build(cell.spec, seed=seeds),
        cell.batch,
        cotangent=cell.cotangent,
        quantities=cell.quantities,
        sites=cell.sites,
        factors=cell.factors,
    )


def run(
    cells: Iterable[Cell],
    seeds: Iterable[int],
    *,
    chunk: int | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Readings:
    """The readings of all cells over all seeds.

    Args:
        cells: what to measure.
        seeds: the seeds of every cell.
        chunk: networks measured at once; None chooses it from their size.
        jobs: worker processes; 1 measures in this one.
        progress: see `Progress`.

    Raises:
        InputError: a seed, the chunk or the jobs make no sense, or all of it together is more than memory can hold.
    """
    cells = list(cells)
    require_int("jobs", jobs, least=1)
    _require_room(cells, seeds=len(seeds) if isinstance(seeds, Sized) else 1, jobs=jobs)
    if hasattr(seeds, "__index__"):
        raise InputError(f"seeds must be a list of seeds, e.g. range({seeds}), or [{seeds}] for one; got {seeds}.")
    known = draws.require_seeds(seeds)
    tasks = [(cell, part) for cell in cells for part in _parts(known, _chunk(cell, chunk))]
    total = sum(len(part) for _, part in tasks)
    parts: list[Readings] = []
    done = 0
    for readings, measured in _measured(tasks, jobs):
        parts.append(readings)
        done += measured
        if progress is not None:
            progress(done, total)
    return Readings.concat(parts)


def _measured(tasks: Sequence[tuple[Cell, tuple[int, ...]]], jobs: int) -> Iterable[tuple[Readings, int]]:
    if jobs == 1:
        return ((measure(cell, part), len(part)) for cell, part in tasks)
    from joblib import Parallel, delayed  # only several processes need it

    finished: Iterable[Readings] = Parallel(n_jobs=jobs, return_as="generator")(
        delayed(measure)(cell, part) for cell, part in tasks
    )
    return ((readings, len(part)) for readings, (_, part) in zip(finished, tasks, strict=True))


def _parts(seeds: tuple[int, ...], size: int) -> Iterable[tuple[int, ...]]:
    return (seeds[start : start + size] for start in range(0, len(seeds), size))


def _chunk(cell: Cell, chunk: int | None) -> int:
    if chunk is not None:
        return require_int("chunk", chunk, least=1)
    batch = require_int("batch", cell.batch, least=1)
    activations = batch * sum(layer.fan_out for layer in cell.spec.layers)
    return max(1, _CHUNK_NUMBERS // (cell.spec.parameters + activations))


# ----------------------------------------------------------------------------------------------------------- memory

# What a study was seen to take: enough to tell gigabytes from terabytes.
_BYTES_A_NUMBER = 16  # a weight or an activation: its draw, and what is computed of it
_BYTES_A_SITE = 16_000  # the objects that stand for a layer or a block
_BYTES_A_READING = 300  # a row, while rows are put together
_BYTES_A_JOB = 150_000_000  # a process with its imports


def _require_room(cells: Sequence[Cell], *, seeds: int, jobs: int) -> None:
    """Refuse what this machine's memory cannot hold, before anything is drawn.

    Reckoned from the stages: to list the layers of a network of ten million is to run out of memory.
    """
    sites = [sum(stage.blocks * (stage.layers + 1) for stage in cell.spec.stages) + 4 for cell in cells]
    readings = seeds * sum(count * len(cell.quantities) for count, cell in zip(sites, cells, strict=True))
    network = max((_numbers(cell) for cell in cells), default=0)
    needed = (
        _BYTES_A_NUMBER * network * jobs
        + _BYTES_A_SITE * sum(sites)
        + _BYTES_A_READING * readings
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
