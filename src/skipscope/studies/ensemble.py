"""Measuring cells over many seeds: in chunks that fit the cache, in one process or in several.

A cell is one kind of network measured in one way. Every seed is measured by itself, so neither the size of a chunk nor
the number of workers changes a bit of any reading; they only change the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from skipscope import draws
from skipscope.draws import CotangentKind
from skipscope.engines.numpy_engine import build
from skipscope.errors import require_int
from skipscope.probe import probe
from skipscope.quantities import QUANTITIES, Quantity
from skipscope.readings import Readings
from skipscope.spec import Spec

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
    seeds: int | Iterable[int],
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
        InputError: a seed, the chunk or the jobs make no sense.
    """
    known = draws.require_seeds(seeds)
    require_int("jobs", jobs, least=1)
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
