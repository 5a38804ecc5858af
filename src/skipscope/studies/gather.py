"""Many seeds of several cells: cut into tasks, carried out in one process or in several, and gathered.

Every seed is measured by itself, so neither the size of a task nor the number of workers changes a bit of any reading.
Whatever spreads work over processes does it here: `gather`, for a function that measures one cell over some seeds, and
ensemble.py, for networks that are probed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral
from typing import Any, TypeVar

from skipscope import draws
from skipscope.engines.spread import threads
from skipscope.errors import require_int
from skipscope.readings import Readings
from skipscope.studies.room import Weighed, count, require_room

__all__ = ["carried_out", "cut", "gather", "require_jobs"]

Cell = TypeVar("Cell", bound=Weighed)

_CHUNK_NUMBERS = 1 << 20  # 8 MiB, about a core's share of the cache


def gather(
    measure: Callable[[Cell, tuple[int, ...]], Readings],
    cells: Sequence[Cell],
    seeds: int | Iterable[int],
    *,
    numbers: Callable[[Cell], int],
    readings: Callable[[Cell], int],
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
        readings: how many readings one network of a cell gives.
        chunk: networks measured at once; None chooses it from `numbers`.
        jobs: worker processes; 1 measures in this one, -1 takes all that joblib's backend has (the machine's cores, or
            a cluster's, under `joblib.parallel_config`).
        progress: called with how many networks are measured, and how many there are in all.

    Raises:
        InputError: a seed, the chunk or the jobs make no sense, or all of it together is more than memory can hold.
    """
    require_jobs(jobs)
    require_room(cells, seeds=count(seeds), jobs=jobs, numbers=numbers, readings=readings)
    known = draws.require_seeds(seeds)
    tasks: list[tuple[Cell, tuple[int, ...]]] = []
    for cell in cells:
        size = max(1, _CHUNK_NUMBERS // numbers(cell)) if chunk is None else require_int("chunk", chunk, least=1)
        tasks += [(cell, some) for some in cut(known, size)]
    parts: list[Readings] = []
    done = 0
    for found, (_, measured) in zip(carried_out(measure, tasks, jobs), tasks, strict=True):
        parts.append(found)
        done += len(measured)
        if progress is not None:
            progress(done, len(cells) * len(known))
    return Readings.concat(parts)


def require_jobs(jobs: int) -> None:
    """Refuse a number of worker processes that makes no sense.

    Raises:
        InputError: it is neither -1 nor 1 at least.
    """
    if not (isinstance(jobs, Integral) and jobs == -1):
        require_int("jobs", jobs, least=1)


def cut(seeds: tuple[int, ...], size: int) -> Iterator[tuple[int, ...]]:
    """The seeds, so many at a time."""
    return (seeds[start : start + size] for start in range(0, len(seeds), size))


def carried_out(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], jobs: int, *, ordered: bool = True
) -> Iterator[Any]:
    """What a function gives for every task, as it comes; from worker processes, if there is more than one job.

    Args:
        function: a top-level function, so that it can be sent.
        tasks: its arguments, task by task.
        jobs: worker processes, see `gather`.
        ordered: whether results come in the order of the tasks, or whichever is ready.
    """
    if jobs == 1 or not tasks:
        return (function(*task) for task in tasks)
    return _spread(function, tasks, jobs, "generator" if ordered else "generator_unordered")


def _spread(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], jobs: int, return_as: str) -> Iterator[Any]:
    from joblib import Parallel, delayed, effective_n_jobs  # only several processes need it
    from joblib.parallel import LokyBackend, get_active_backend

    calls = [delayed(_on_one_thread)(function, *task) for task in tasks]
    # A cluster sees to its workers itself.
    own = isinstance(get_active_backend()[0], LokyBackend)
    options = {"initializer": _end_with, "initargs": (os.getpid(),)} if own else {}
    try:
        workers = Parallel(n_jobs=jobs, return_as=return_as, **options)
    except ValueError:  # a backend that gives whole lists only, as Ray's does: one list after the other
        with Parallel(n_jobs=jobs) as pool:
            size = 2 * effective_n_jobs(jobs)
            for start in range(0, len(calls), size):
                yield from pool(calls[start : start + size])
    else:
        yield from workers(calls)


def _on_one_thread(function: Callable[..., Any], *task: Any) -> Any:
    """In a worker: the others are on the other cores."""
    with threads(1):
        return function(*task)


def _end_with(parent: int) -> None:
    """Let a worker of joblib's own kind end with the process that started it; called before its first task.

    Left to itself, a worker whose parent was killed waits for ever for a task, or to hand back its result, and keeps
    its memory.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
