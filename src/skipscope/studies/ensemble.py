"""Measuring cells over many seeds: in chunks that fit the cache, in one process or in several.

A cell is one kind of network measured in one way. Every seed is measured by itself, so neither the size of a chunk nor
the number of workers changes a bit of any reading; they only change the time.

Long work goes into a folder (see `skipscope.runs`), part by part: a part is a task of several chunks, big enough that
writing it costs little beside measuring it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from skipscope import draws, losses, runs
from skipscope.draws import CotangentKind
from skipscope.engines.numpy_engine import NumpyNetwork, build_all
from skipscope.errors import InputError, require_int
from skipscope.probe import Measured, one_thread
from skipscope.probe import measure as measure_network
from skipscope.protocol import Loss
from skipscope.quantities import QUANTITIES, Quantity
from skipscope.readings import Readings
from skipscope.spec import Spec
from skipscope.studies.room import require_room

__all__ = ["Cell", "Progress", "measure", "measure_part", "run"]

Progress = Callable[[int, int], None]
"""Called with how many networks are measured, and how many there are in all."""

_CHUNK_NUMBERS = 1 << 21  # weights and activations of a chunk: 16 MiB, which the cores' common cache holds
_PART_CHUNKS = 16  # chunks a part, at most: about a second's work, which each worker loses when it is killed
_PARTS = 16  # parts, where there are chunks enough: something for every worker to do
_PART_ROWS = 1 << 18  # readings a part, where sites are many: 10 MB


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
        more: measures more than a probe does, on the same network, batch and loss, and adds it to what the probe
            measured; a top-level function, so that it can be sent.
    """

    spec: Spec
    factors: Mapping[str, Any]
    batch: int = 1
    cotangent: CotangentKind = "gaussian"
    quantities: Mapping[str, Quantity] = field(default_factory=lambda: QUANTITIES)
    sites: tuple[str, ...] | None = None
    more: Callable[[NumpyNetwork, Any, Loss, Measured], Measured] | None = None


def measure(cells: Sequence[Cell], seeds: Sequence[int]) -> list[Measured]:
    """What every cell gives over some seeds, measured at once (a top-level function, so that it can be sent).

    Weights, inputs and cotangents are drawn once for all cells that share them.
    """
    inputs = cache(lambda *shape: draws.normals(seeds, "input", shape))
    sent = cache(lambda kind, batch, outputs: losses.cotangent(kind, seeds=seeds, batch=batch, outputs=outputs))
    networks = build_all([cell.spec for cell in cells], seed=seeds)
    with one_thread():
        return [
            _measured_one(
                cell,
                network,
                inputs(cell.batch, cell.spec.stem.features),
                sent(cell.cotangent, cell.batch, cell.spec.head.features),
            )
            for cell, network in zip(cells, networks, strict=True)
        ]


def _measured_one(cell: Cell, network: NumpyNetwork, batch: Any, loss: Loss) -> Measured:
    measured = measure_network(
        network,
        batch,
        loss,
        quantities=cell.quantities,
        sites=cell.sites,
        factors={"data": "gaussian", "cotangent": cell.cotangent, **cell.factors},
    )
    return measured if cell.more is None else cell.more(network, batch, loss, measured)


def measure_part(part: int, cells: Sequence[Cell], seeds: Sequence[int], chunk: int) -> tuple[int, Readings]:
    """A part's number and its readings: cells over some seeds, `chunk` at a time (a top-level function, likewise)."""
    found = [measure(cells, some) for some in _parts(tuple(seeds), chunk)]
    return part, Readings.concat(Measured.concat(each).readings() for each in zip(*found, strict=True))


def run(
    cells: Iterable[Cell],
    seeds: Iterable[int],
    *,
    chunk: int | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    folder: str | os.PathLike[str] | None = None,
    keep: Callable[[Readings], Readings] | None = None,
) -> Readings:
    """The readings of all cells over all seeds.

    Args:
        cells: what to measure.
        seeds: the seeds of every cell.
        chunk: networks measured at once; None chooses it from their size.
        jobs: worker processes; 1 measures in this one, -1 takes all that joblib's backend has (the machine's cores, or
            a cluster's, under `joblib.parallel_config`).
        progress: see `Progress`.
        folder: keeps what is measured, so that the same call goes on where it was stopped; see `skipscope.runs`. There
            a quantity is known by its name.
        keep: with a folder: what of a part belongs to the readings that are returned; None is all.

    Raises:
        InputError: a seed, the chunk or the jobs make no sense, the folder holds something else, or all of it together
            is more than memory can hold.
    """
    listed = list(cells)
    _require_jobs(jobs)
    require_room(listed, seeds=len(seeds) if isinstance(seeds, Sized) else 1, jobs=jobs, kept=keep is None)
    if hasattr(seeds, "__index__"):
        raise InputError(f"seeds must be a list of seeds, e.g. range({seeds}), or [{seeds}] for one; got {seeds}.")
    known = draws.require_seeds(seeds)
    if folder is not None:
        return _run_in(folder, listed, known, chunk=chunk, jobs=jobs, progress=progress, keep=keep)
    tasks = [(group, part) for group in _groups(listed) for part in _parts(known, _chunk(group, chunk))]
    found: dict[int, list[Measured]] = {id(cell): [] for cell in listed}
    done = 0
    for (group, part), measured in zip(tasks, _measured(tasks, jobs), strict=True):
        for cell, each in zip(group, measured, strict=True):
            found[id(cell)].append(each)
        done += len(group) * len(part)
        if progress is not None:
            progress(done, len(listed) * len(known))
    return Readings.concat(Measured.concat(found[id(cell)]).readings() for cell in listed)


def _require_jobs(jobs: int) -> None:
    if jobs != -1:
        require_int("jobs", jobs, least=1)


Task = tuple[tuple[Cell, ...], tuple[int, ...]]


def _measured(tasks: Sequence[Task], jobs: int) -> Iterable[list[Measured]]:
    return (measure(*task) for task in tasks) if jobs == 1 else _spread(measure, tasks, jobs, "generator")


def _spread(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], jobs: int, return_as: str) -> Iterator[Any]:
    """The results of a function for every task, from worker processes, as they come."""
    from joblib import Parallel, delayed, effective_n_jobs  # only several processes need it
    from joblib.parallel import LokyBackend, get_active_backend

    calls = [delayed(function)(*task) for task in tasks]
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


# ------------------------------------------------------------------------------------------------------ in a folder


def _run_in(
    folder: str | os.PathLike[str],
    cells: Sequence[Cell],
    seeds: tuple[int, ...],
    *,
    chunk: int | None,
    jobs: int,
    progress: Progress | None,
    keep: Callable[[Readings], Readings] | None,
) -> Readings:
    tasks: list[tuple[int, tuple[Cell, ...], tuple[int, ...], int]] = []
    for group in _groups(cells):
        size = _chunk(group, chunk)
        for some in _parts(seeds, _part_size(group, size, len(seeds))):
            tasks.append((len(tasks), group, some, size))
    kept: dict[int, Readings] = {}
    done = 0

    def told(part: int, readings: Readings) -> None:
        nonlocal done
        kept[part] = readings if keep is None else keep(readings)
        done += len(tasks[part][1]) * len(tasks[part][2])

    def show() -> None:
        if progress is not None:
            progress(done, len(cells) * len(seeds))

    with runs.opened(folder, _plan(cells, seeds, tasks), parts=len(tasks)) as place:
        for part in range(len(tasks)):
            if (readings := place.load(part)) is not None:
                told(part, readings)
        show()
        left = [task for task in tasks if task[0] not in kept]
        try:
            for part, readings in _measured_parts(left, jobs):
                place.save(part, readings)
                told(part, readings)
                show()
        except KeyboardInterrupt as stopped:
            stopped.add_note(f"{len(kept)} of {len(tasks)} parts are in {str(place.folder)!r}; the same call goes on.")
            raise
        readings = Readings.concat(kept.pop(part) for part in range(len(tasks)))
        place.finish(readings)
    return readings


def _measured_parts(tasks: Sequence[tuple[Any, ...]], jobs: int) -> Iterable[tuple[int, Readings]]:
    if jobs == 1 or not tasks:
        return (measure_part(*task) for task in tasks)
    # Whichever is ready is written: what waited for its turn would be lost when the process is killed.
    return _spread(measure_part, tasks, jobs, "generator_unordered")


def _part_size(group: Sequence[Cell], chunk: int, seeds: int) -> int:
    """Seeds a part: whole chunks of a group of cells. The plan alone decides, and not who carries it out."""
    rows = sum(len(cell.quantities) * (1 if cell.sites else cell.spec.depth + len(cell.spec.body)) for cell in group)
    return chunk * max(1, min(_PART_CHUNKS, seeds // chunk // _PARTS, _PART_ROWS // (chunk * max(rows, 1))))


def _plan(cells: Sequence[Cell], seeds: tuple[int, ...], tasks: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """What is measured, as JSON: whatever would change a number or move it to another part."""
    return {
        "seeds": _ranges(seeds),
        "cells": [_described(cell) for cell in cells],
        "tasks": [
            {"cells": [cells.index(cell) for cell in group], "seeds": _ranges(part)} for _, group, part, _ in tasks
        ],
    }


def _described(cell: Cell) -> dict[str, Any]:
    return {
        "spec": json.loads(cell.spec.to_json()),
        "factors": dict(cell.factors),
        "batch": cell.batch,
        "cotangent": cell.cotangent,
        "quantities": list(cell.quantities),
        "sites": None if cell.sites is None else list(cell.sites),
        "more": None if cell.more is None else f"{cell.more.__module__}.{cell.more.__qualname__}",
    }


def _ranges(seeds: Sequence[int]) -> str:
    """Seeds in short: `0-199, 300`."""
    found: list[list[int]] = []
    for seed in seeds:
        if found and seed == found[-1][1] + 1:
            found[-1][1] = seed
        else:
            found.append([seed, seed])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


# ------------------------------------------------------------------------------------------------------------ chunks


def _groups(cells: Sequence[Cell]) -> list[tuple[Cell, ...]]:
    """Cells that share their draw, the deepest network of each group first."""
    groups: list[list[Cell]] = []
    for cell in sorted(cells, key=lambda cell: -cell.spec.depth):
        known = next((group for group in groups if draws.begins(cell.spec, group[0].spec)), None)
        if known is None:
            groups.append([cell])
        else:
            known.append(cell)
    return [tuple(group) for group in groups]


def _parts(seeds: tuple[int, ...], size: int) -> Iterable[tuple[int, ...]]:
    return (seeds[start : start + size] for start in range(0, len(seeds), size))


def _chunk(group: Sequence[Cell], chunk: int | None) -> int:
    if chunk is not None:
        return require_int("chunk", chunk, least=1)
    batch = max(require_int("batch", cell.batch, least=1) for cell in group)
    deepest = group[0].spec  # whose weights the others share
    activations = batch * sum(layer.fan_out for layer in deepest.layers)
    return max(1, _CHUNK_NUMBERS // (deepest.parameters + activations))
