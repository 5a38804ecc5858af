"""Many seeds of several cells: cut into tasks, carried out in one process or in several, and gathered.

Every seed is measured by itself, so neither the size of a task nor the number of workers changes a bit of any reading.
Whatever spreads work over processes does it here: `gather`, for a function that measures one cell over some seeds, and
ensemble.py, for networks that are probed.

Long work is kept in a folder (see `skipscope.runs`), a task a part: see `kept`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, TypeVar

from skipscope import draws, runs
from skipscope.engines.spread import threads
from skipscope.errors import require_int
from skipscope.readings import Readings
from skipscope.runs import Run
from skipscope.studies.room import Weighed, count, require_room

__all__ = ["NOWHERE", "Work", "carried_out", "cut", "gather", "in_parts", "kept", "planned", "ranges", "require_jobs"]

Cell = TypeVar("Cell", bound=Weighed)
Tasks = list[tuple[Cell, tuple[int, ...]]]
"""A cell and some of its seeds each."""

_CHUNK_NUMBERS = 1 << 20  # 8 MiB, about a core's share of the cache


class Work:
    """Where a study keeps what it has measured: in a folder, or nowhere; see `kept`."""

    def __init__(self, run: Run | None = None) -> None:
        self._run = run
        self._taken = 0

    def carry_out(
        self,
        measure: Callable[[Cell, tuple[int, ...]], Readings],
        tasks: Tasks[Cell],
        jobs: int,
        *,
        told: Callable[[int, Readings], None],
        show: Callable[[], None],
    ) -> None:
        """Measure tasks, or take from the folder what it has of them; see `in_parts` for `told` and `show`."""
        if self._run is None:
            for place, readings in enumerate(carried_out(measure, tasks, jobs)):
                told(place, readings)
                show()
            return
        first, self._taken = self._taken, self._taken + len(tasks)
        numbered = [(first + place, measure, *task) for place, task in enumerate(tasks)]
        in_parts(self._run, _numbered, numbered, jobs, told=lambda part, found: told(part - first, found), show=show)

    def finished(self, readings: Readings) -> Readings:
        """What the study returns, which the folder keeps as well."""
        if self._run is not None:
            self._run.finish(readings)
        return readings


NOWHERE = Work()
"""For work that is not kept."""


@contextmanager
def kept(folder: str | os.PathLike[str] | None, plan: Callable[[], Mapping[str, Any]]) -> Iterator[Work]:
    """The work of a study in one folder, all of its rounds; without a folder, work that is not kept.

    A study of several rounds hands the work to `gather` once a round, in their order, so that round and task say which
    part it is; what a later round measures may follow from what an earlier one found.

    Args:
        folder: see `skipscope.runs`.
        plan: gives by name what `planned` says of every round, and whatever else would change a number; called where
            there is a folder.

    Raises:
        InputError: see `skipscope.runs.opened` and `planned`.
    """
    if folder is None:
        yield NOWHERE
        return
    known = plan()
    parts = sum(len(each["tasks"]) for each in known.values() if isinstance(each, Mapping))
    with runs.opened(folder, known, parts=parts) as run:
        yield Work(run)


def planned(
    cells: Sequence[Cell],
    seeds: int | Iterable[int],
    *,
    numbers: Callable[[Cell], int],
    readings: Callable[[Cell], int],
    described: Callable[[Cell], Mapping[str, Any]],
    chunk: int | None,
    jobs: int,
) -> dict[str, Any]:
    """A round of work as JSON: whatever would change a number or move it to another part.

    Args:
        cells, seeds, numbers, readings, chunk, jobs: see `gather`.
        described: a cell as JSON.

    Raises:
        InputError: see `gather`; so that what cannot be measured leaves no folder.
    """
    tasks = _tasks(cells, seeds, numbers=numbers, readings=readings, chunk=chunk, jobs=jobs)
    places = {id(cell): place for place, cell in enumerate(cells)}
    return {
        "seeds": ranges(draws.require_seeds(seeds)),
        "cells": [described(cell) for cell in cells],
        "tasks": [{"cell": places[id(cell)], "seeds": ranges(some)} for cell, some in tasks],
    }


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
    work: Work = NOWHERE,
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
        work: what keeps the readings of every task; see `kept`.

    Raises:
        InputError: a seed, the chunk or the jobs make no sense, or all of it together is more than memory can hold.
    """
    tasks = _tasks(cells, seeds, numbers=numbers, readings=readings, chunk=chunk, jobs=jobs)
    found: dict[int, Readings] = {}

    def show() -> None:
        if progress is not None:
            progress(sum(len(tasks[place][1]) for place in found), sum(len(some) for _, some in tasks))

    work.carry_out(measure, tasks, jobs, told=found.__setitem__, show=show)
    return Readings.concat(found.pop(place) for place in range(len(tasks)))


def _tasks(
    cells: Sequence[Cell],
    seeds: int | Iterable[int],
    *,
    numbers: Callable[[Cell], int],
    readings: Callable[[Cell], int],
    chunk: int | None,
    jobs: int,
) -> Tasks[Cell]:
    """The work in pieces; which they are depends neither on the workers nor on the machine.

    Raises:
        InputError: see `gather`.
    """
    require_jobs(jobs)
    require_room(cells, seeds=count(seeds), jobs=jobs, numbers=numbers, readings=readings)
    known = draws.require_seeds(seeds)
    tasks: Tasks[Cell] = []
    for cell in cells:
        size = max(1, _CHUNK_NUMBERS // numbers(cell)) if chunk is None else require_int("chunk", chunk, least=1)
        tasks += [(cell, some) for some in cut(known, size)]
    return tasks


def _numbered(
    part: int, measure: Callable[[Cell, tuple[int, ...]], Readings], cell: Cell, seeds: tuple[int, ...]
) -> tuple[int, Readings]:
    """A part's number and its readings (a top-level function, so that it can be sent)."""
    return part, measure(cell, seeds)


def in_parts(
    run: Run,
    measure: Callable[..., tuple[int, Readings]],
    tasks: Sequence[tuple[Any, ...]],
    jobs: int,
    *,
    told: Callable[[int, Readings], None],
    show: Callable[[], None],
) -> None:
    """Measure those parts of a run that are not there.

    Args:
        run: whose parts they are.
        measure: gives the number of a part and its readings; a top-level function, so that it can be sent.
        tasks: its arguments, of which the first is the number.
        jobs: see `gather`.
        told: called with the number and the readings of every part, once.
        show: called when those that were there are told, and after every one that was measured.
    """
    left = []
    for task in tasks:
        if (readings := run.load(task[0])) is None:
            left.append(task)
        else:
            told(task[0], readings)
    show()
    try:
        # Whichever is ready is written: what waited for its turn would be lost when the process is killed.
        for part, readings in carried_out(measure, left, jobs, ordered=False):
            run.save(part, readings)
            told(part, readings)
            show()
    except KeyboardInterrupt as stopped:
        stopped.add_note(f"{run.count()} of {run.parts} parts are in {str(run.folder)!r}; the same call goes on.")
        raise


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


def ranges(seeds: Sequence[int]) -> str:
    """Seeds in short: `0-199, 300`."""
    found: list[list[int]] = []
    for seed in seeds:
        if found and seed == found[-1][1] + 1:
            found[-1][1] = seed
        else:
            found.append([seed, seed])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


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
