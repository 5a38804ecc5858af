"""Measuring cells over many seeds: in chunks that fit the cache, in one process or in several.

A cell is one kind of network measured in one way. Every seed is measured by itself, so neither the size of a chunk nor
the number of workers changes a bit of any reading; they only change the time.

Long work goes into a folder (see `skipscope.runs`), part by part: a part is a task of several chunks, big enough that
writing it costs little beside measuring it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from skipscope import draws, losses, runs
from skipscope.draws import CotangentKind
from skipscope.engines.nested import nested, run_nested
from skipscope.engines.numpy_engine import NumpyNetwork, build_all
from skipscope.engines.spread import one_thread
from skipscope.errors import InputError, choose, quoted, require_int
from skipscope.probe import Measured, Plan, Recording, uncollected
from skipscope.protocol import Loss, sites_of
from skipscope.quantities import QUANTITIES, Quantity
from skipscope.readings import Readings
from skipscope.spec import Spec
from skipscope.studies.gather import carried_out, cut, in_parts, ranges, require_jobs
from skipscope.studies.room import count, numbers, require_room, sites

__all__ = ["Cell", "Progress", "measure", "measure_part", "run"]

Values = NDArray[np.float64]
Progress = Callable[[int, int], None]
"""Called with how many networks are measured, and how many there are in all."""

_CHUNK_NUMBERS = 1 << 23  # weights and activations of a chunk, 64 MiB: enough seeds for NumPy's calls to cost little
_PART_CHUNKS = 16  # chunks a part, at most: about a second's work, which each worker loses when it is killed
_PARTS = 16  # parts, where there are chunks enough: something for every worker to do
_JOINED = 16  # chunks that are joined at once
_TABLE_ROWS = 1 << 14  # readings that are put into a table at once: 1 MB
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

    def __post_init__(self) -> None:
        choose("cotangent", self.cotangent, get_args(CotangentKind))
        object.__setattr__(self, "batch", require_int("batch", self.batch, least=1))

    @cached_property
    def plan(self) -> Plan:
        """What is summed where, found once for all chunks."""
        return Plan(sites_of(self.spec), quantities=self.quantities, patterns=self.sites)


class _Scratch:
    """Memory for the weights of a chunk, which those of the next chunk take over.

    Fresh pages from the system, chunk after chunk, would cost a tenth of what the draw costs.
    """

    def __init__(self) -> None:
        self._held: Values = np.empty(0)

    def chunk(self) -> Callable[[tuple[int, int]], Values]:
        """The `empty` of one chunk; whatever it gave to the chunk before is overwritten."""
        given = False

        def empty(shape: tuple[int, int]) -> Values:
            nonlocal given
            if given:  # weights of another width, in the same chunk
                return np.empty(shape)
            given = True
            size = shape[0] * shape[1]
            if self._held.size < size:
                self._held = np.empty(size)
            return self._held[:size].reshape(shape)

        return empty


def measure(
    cells: Sequence[Cell], seeds: Sequence[int], *, empty: Callable[[tuple[int, int]], Values] = np.empty
) -> list[Measured]:
    """What every cell gives over some seeds, measured at once (a top-level function, so that it can be sent).

    Weights, inputs and cotangents are drawn once for all cells that share them; the depths of a design run together.
    `empty` is as for `skipscope.draws.weights`.
    """
    with one_thread(), uncollected():
        inputs = cache(lambda *shape: draws.normals(seeds, "input", shape))
        sent = cache(lambda kind, batch, outputs: losses.cotangent(kind, seeds=seeds, batch=batch, outputs=outputs))
        networks = build_all([cell.spec for cell in cells], seed=seeds, empty=empty)
        found: dict[int, Measured] = {}
        for nest in _nests(cells):
            batch = inputs(cells[nest[0]].batch, *cells[nest[0]].spec.input_shape)
            given = [sent(cells[i].cotangent, cells[i].batch, cells[i].spec.head.features) for i in nest]
            together = [networks[i] for i in nest]
            recordings = [Recording(networks[i], cells[i].plan) for i in nest]
            runs = run_nested(together, batch, given, [recording.observe for recording in recordings])
            for i, loss, recording, ran in zip(nest, given, recordings, runs, strict=True):
                measured = recording.measured(ran, batch, loss, factors=_factors(cells[i]))
                more = cells[i].more
                found[i] = measured if more is None else more(networks[i], batch, loss, measured)
        return [found[index] for index in range(len(cells))]


def _measure_in(scratch: _Scratch, cells: Sequence[Cell], seeds: Sequence[int]) -> list[Measured]:
    return measure(cells, seeds, empty=scratch.chunk())


def _factors(cell: Cell) -> dict[str, Any]:
    return {"data": "gaussian", "cotangent": cell.cotangent, **cell.factors}


def _nests(cells: Sequence[Cell]) -> list[list[int]]:
    """The cells' places, together where one network is the beginning of the other and sees the same inputs."""
    nests: list[list[int]] = []
    for index in sorted(range(len(cells)), key=lambda index: -cells[index].spec.depth):
        cell = cells[index]
        for nest in nests:
            if cells[nest[0]].batch == cell.batch and nested(cell.spec, cells[nest[-1]].spec):
                nest.append(index)
                break
        else:
            nests.append([index])
    return nests


def measure_part(part: int, cells: Sequence[Cell], seeds: Sequence[int], chunk: int) -> tuple[int, Readings]:
    """A part's number and its readings: cells over some seeds, `chunk` at a time (a top-level function, likewise)."""
    scratch = _Scratch()
    found = [_measure_in(scratch, cells, some) for some in cut(tuple(seeds), chunk)]
    joined = (Measured.concat(each) for each in zip(*found, strict=True))
    return part, _table(joined)


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
    listed = list({id(cell): cell for cell in cells}.values())  # one that is given twice is measured once
    require_jobs(jobs)
    require_room(listed, seeds=count(seeds), jobs=jobs, numbers=_numbers, readings=_readings, kept=keep is None)
    if hasattr(seeds, "__index__") and not draws.are_several(seeds):  # arrays have it too
        told = quoted(seeds)
        raise InputError(f"seeds must be a list of seeds, e.g. range({told}), or [{told}] for one; got {told}.")
    known = draws.require_seeds(seeds)
    if folder is not None:
        return _run_in(folder, listed, known, chunk=chunk, jobs=jobs, progress=progress, keep=keep)
    tasks = [(group, part) for group in _groups(listed) for part in cut(known, _chunk(group, chunk))]
    found: dict[int, list[Measured]] = {id(cell): [] for cell in listed}
    done = 0
    work = measure if jobs != 1 else partial(_measure_in, _Scratch())
    for (group, part), measured in zip(tasks, carried_out(work, tasks, jobs), strict=True):
        for cell, each in zip(group, measured, strict=True):
            _add(found[id(cell)], each)
        done += len(group) * len(part)
        if progress is not None:
            progress(done, len(listed) * len(known))
    return _table(Measured.concat(found.pop(id(cell))) for cell in listed)


def _add(parts: list[Measured], new: Measured) -> None:
    """One more chunk's; small ones are joined, as the objects of hundreds of chunks take more room than the numbers.

    Sixteen of a size at a time, so that a number is copied a few times only, however many chunks there are.
    """
    parts.append(new)
    while len(parts) >= _JOINED and len(parts[-_JOINED].seeds) <= len(parts[-1].seeds):
        parts[-_JOINED:] = [Measured.concat(parts[-_JOINED:])]


def _table(cells: Iterable[Measured]) -> Readings:
    """The readings of all cells."""
    return Readings.concat(Measured.tables((some for cell in cells for some in _slices(cell)), most=_TABLE_ROWS))


def _slices(measured: Measured) -> Iterator[Measured]:
    """What was measured, some quantities at a time where it is much: as a table all of it would take much room."""
    keys = list(measured.values)
    size = max(1, _TABLE_ROWS // len(measured.seeds))
    for start in range(0, max(len(keys), 1), size):
        yield replace(measured, values={key: measured.values[key] for key in keys[start : start + size]})


def _numbers(cell: Cell) -> int:
    """Weights of a network, and activations of its batch."""
    return numbers(cell.spec, cell.batch)


def _readings(cell: Cell) -> int:
    """How many readings a network gives, at most."""
    places = sites(cell.spec)
    return len(cell.quantities) * (places if cell.sites is None else min(places, len(cell.sites)))


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
        for some in cut(seeds, _part_size(group, size, len(seeds))):
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
        in_parts(place, measure_part, tasks, jobs, told=told, show=show)
        readings = Readings.concat(kept.pop(part) for part in range(len(tasks)))
        place.finish(readings)
    return readings


def _part_size(group: Sequence[Cell], chunk: int, seeds: int) -> int:
    """Seeds a part: whole chunks of a group of cells. The plan alone decides, and not who carries it out."""
    rows = sum(len(cell.quantities) * (1 if cell.sites else cell.spec.depth + len(cell.spec.body)) for cell in group)
    return chunk * max(1, min(_PART_CHUNKS, seeds // chunk // _PARTS, _PART_ROWS // (chunk * max(rows, 1))))


def _plan(cells: Sequence[Cell], seeds: tuple[int, ...], tasks: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """What is measured, as JSON: whatever would change a number or move it to another part."""
    return {
        "seeds": ranges(seeds),
        "cells": [_described(cell) for cell in cells],
        "tasks": [
            {"cells": [cells.index(cell) for cell in group], "seeds": ranges(part)} for _, group, part, _ in tasks
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


def _chunk(group: Sequence[Cell], chunk: int | None) -> int:
    if chunk is not None:
        return require_int("chunk", chunk, least=1)
    batch = max(require_int("batch", cell.batch, least=1) for cell in group)
    deepest = group[0].spec  # whose weights the others share
    activations = batch * sum(layer.n_out * layer.size_out**2 for layer in deepest.layers)
    return max(1, _CHUNK_NUMBERS // (deepest.parameters + activations))
