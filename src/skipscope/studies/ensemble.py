"""Measuring cells over many seeds: in chunks that fit the cache, in one process or in several.

A cell is one kind of network measured in one way. Every seed is measured by itself, so neither the size of a chunk nor
the number of workers changes a bit of any reading; they only change the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from skipscope import draws, losses
from skipscope.draws import CotangentKind
from skipscope.engines.numpy_engine import NumpyNetwork, build_all
from skipscope.errors import require_int
from skipscope.probe import Measured, one_thread
from skipscope.probe import measure as measure_network
from skipscope.protocol import Loss
from skipscope.quantities import QUANTITIES, Quantity
from skipscope.readings import Readings
from skipscope.spec import Spec

__all__ = ["Cell", "Progress", "measure", "run"]

Progress = Callable[[int, int], None]
"""Called with how many networks are measured, and how many there are in all."""

_CHUNK_NUMBERS = 1 << 21  # weights and activations of a chunk: 16 MiB, which the cores' common cache holds


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
    listed = list(cells)
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


Task = tuple[tuple[Cell, ...], tuple[int, ...]]


def _measured(tasks: Sequence[Task], jobs: int) -> Iterable[list[Measured]]:
    if jobs == 1:
        return (measure(*task) for task in tasks)
    from joblib import Parallel, delayed  # only several processes need it

    finished: Iterable[list[Measured]] = Parallel(n_jobs=jobs, return_as="generator")(
        delayed(measure)(*task) for task in tasks
    )
    return finished


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
