"""Readings of several cells over many seeds, by whatever function measures one cell over some seeds.

As in ensemble.py, but for measurements that are no probe: chunks of seeds, in one process or in several. Every seed is
measured by itself, so neither the size of a chunk nor the number of workers changes a bit of any reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from skipscope import draws
from skipscope.errors import require_int
from skipscope.readings import Readings

__all__ = ["gather"]

Cell = TypeVar("Cell")

_CHUNK_NUMBERS = 1 << 20  # 8 MiB, about a core's share of the cache


def gather(
    measure: Callable[[Cell, tuple[int, ...]], Readings],
    cells: Sequence[Cell],
    seeds: int | Iterable[int],
    *,
    numbers: Callable[[Cell], int],
    chunk: int | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Readings:
    """The readings of all cells over all seeds.

    Args:
        measure: gives the readings of a cell over some seeds; a top-level function, so that it can be sent.
        cells: what to measure.
        seeds: the seeds of every cell.
        numbers: how many numbers one network of a cell takes while it is measured.
        chunk: networks measured at once; None chooses it from `numbers`.
        jobs: worker processes; 1 measures in this one.
        progress: called with how many networks are measured, and how many there are in all.

    Raises:
        InputError: a seed, the chunk or the jobs make no sense.
    """
    known = draws.require_seeds(seeds)
    require_int("jobs", jobs, least=1)
    tasks: list[tuple[Cell, tuple[int, ...]]] = []
    for cell in cells:
        size = max(1, _CHUNK_NUMBERS // numbers(cell)) if chunk is None else require_int("chunk", chunk, least=1)
        tasks += [(cell, known[start : start + size]) for start in range(0, len(known), size)]
    parts: list[Readings] = []
    done = 0
    for readings, (_, measured) in zip(_each(measure, tasks, jobs), tasks, strict=True):
        parts.append(readings)
        done += len(measured)
        if progress is not None:
            progress(done, len(cells) * len(known))
    return Readings.concat(parts)


def _each(
    measure: Callable[[Cell, tuple[int, ...]], Readings], tasks: Sequence[tuple[Cell, tuple[int, ...]]], jobs: int
) -> Iterable[Readings]:
    if jobs == 1:
        return (measure(*task) for task in tasks)
    from joblib import Parallel, delayed  # only several processes need it

    finished: Iterable[Readings] = Parallel(n_jobs=jobs, return_as="generator")(
        delayed(measure)(*task) for task in tasks
    )
    return finished
