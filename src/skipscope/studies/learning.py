"""Training over many seeds of several trials: in chunks, in one process or in several, kept in a folder or not.

A trial is one kind of network, trained in one way on one data set, and what is looked at afterwards. Every seed is
trained by itself, so neither the size of a chunk nor the number of workers changes a bit of any reading.

A network whose loss stopped being a number has one more reading, `STOPPED`, at the site where it was lost; one that did
not has none, as undefined is no row.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from skipscope import data as datasets
from skipscope.data import Dataset, Images
from skipscope.engines.numpy_engine import build
from skipscope.probe import Measured
from skipscope.protocol import sites_of
from skipscope.quantities import LEARNING, QUANTITIES
from skipscope.readings import Readings
from skipscope.spec import Spec
from skipscope.studies.gather import NOWHERE, Work, gather, kept, planned, require_jobs
from skipscope.studies.room import count, numbers, require_room, sites
from skipscope.training import TRAINING_QUANTITIES, Recipe, Trained, require_fit, train

__all__ = ["STOPPED", "After", "Trial", "learn", "learn_in", "loaded", "require_held", "round_of", "stops_of"]

After = Callable[["Trial", Any, Trained], Readings]
"""What is looked at when a trial is trained, with its data set: top-level functions or frozen values, so that they can
be sent."""

STOPPED = "stopped"
"""The quantity of a network that stopped: the steps that were done before, at the first site that holds nan or inf."""


@dataclass(frozen=True)
class Trial:
    """One kind of network, and how it is trained; the arguments of `skipscope.training.train`.

    Attributes:
        spec: the network.
        data: the name of the data set, in `skipscope.data.DATASETS`; for a convolutional network in
            `skipscope.data.IMAGES`.
        recipe: how it is trained.
        factors: the study's columns in the table of cells.
        data_seed: the seed of the data set: the same split for all seeds of a trial.
        record: how often to measure on the way, or after which steps.
        quantities: what to measure on the way, of `QUANTITIES` and `LEARNING`.
        sites: patterns of the sites to report; None is all.
        after: looks at the trained networks, and gives readings of cells of its own.
        more: how many readings that are, of one network, at most.
    """

    spec: Spec
    data: str
    recipe: Recipe
    factors: Mapping[str, Any]
    data_seed: int = 0
    record: int | tuple[int, ...] = 10
    quantities: tuple[str, ...] = TRAINING_QUANTITIES
    sites: tuple[str, ...] | None = ("network",)
    after: tuple[After, ...] = ()
    more: int = 0

    @property
    def batch(self) -> int:
        """Samples a step."""
        return self.recipe.batch


def learn(
    trials: Sequence[Trial],
    seeds: int | Iterable[int],
    *,
    chunk: int | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    work: Work = NOWHERE,
) -> Readings:
    """The readings of all trials over all seeds, of the training and of what was looked at after it.

    Args:
        trials: what to train.
        seeds: the seeds of every trial.
        chunk, jobs, progress, work: see `skipscope.studies.gather.gather`.

    Raises:
        InputError: a network does not fit its data or its recipe, a seed, the chunk or the jobs make no sense, or all
            of it together is more than memory can hold.
    """
    how: dict[str, Any] = {"chunk": chunk, "jobs": jobs, "progress": progress, "work": work}
    return gather(_learn, trials, seeds, numbers=_numbers, readings=_readings, **how)


def learn_in(
    folder: str | os.PathLike[str] | None,
    trials: Sequence[Trial],
    seeds: int | Iterable[int],
    *,
    chunk: int | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Readings:
    """All that a study of one round does: `learn`, kept in a folder if one is named (see `skipscope.runs`).

    Raises:
        InputError: see `learn`, or the folder holds something else.
    """
    how: dict[str, Any] = {"chunk": chunk, "jobs": jobs}
    with kept(folder, lambda: {"measured": round_of(trials, seeds, **how)}) as work:
        return work.finished(learn(trials, seeds, progress=progress, work=work, **how))


def round_of(trials: Sequence[Trial], seeds: int | Iterable[int], *, chunk: int | None, jobs: int) -> dict[str, Any]:
    """A round of training as the plan of a folder has it; see `skipscope.studies.gather.planned`.

    Raises:
        InputError: see `learn`.
    """
    for trial in trials:
        require_fit(trial.spec, loaded(trial.data, trial.data_seed, images=trial.spec.images), trial.recipe)
    how: dict[str, Any] = {"chunk": chunk, "jobs": jobs}
    return planned(trials, seeds, numbers=_numbers, readings=_readings, described=_described, **how)


def require_held(trials: Sequence[Trial], seeds: int | Iterable[int], *, jobs: int) -> None:
    """Refuse more seeds than memory can hold the readings of, for whoever lists them before `learn` does.

    Raises:
        InputError: it is too much, or the jobs make no sense.
    """
    require_jobs(jobs)
    require_room(trials, seeds=count(seeds), jobs=jobs, numbers=_numbers, readings=_readings)


def _learn(trial: Trial, seeds: tuple[int, ...]) -> Readings:
    """The readings of a trial over some seeds (a top-level function, so that it can be sent)."""
    data = loaded(trial.data, trial.data_seed, images=trial.spec.images)
    trained = train(
        build(trial.spec, seed=seeds),
        data,
        trial.recipe,
        record=trial.record,
        quantities={name: (QUANTITIES | LEARNING)[name] for name in trial.quantities},
        sites=trial.sites,
        factors=trial.factors,
    )
    looked = (after(trial, data, trained) for after in trial.after)
    return Readings.concat([trained.readings, *stops_of(trained, trial.spec, trial.recipe.steps), *looked])


def stops_of(trained: Trained, spec: Spec, steps: int) -> list[Readings]:
    """Where the networks stopped that did, as it is known at the end, after so many steps."""
    (cell,) = trained.readings.cells.iter_rows(named=True)
    known = {site.site: site for site in sites_of(spec)}
    return [
        Measured(
            cell, [known[stop.site]], (stop.seed,), {(stop.site, STOPPED): np.array([float(stop.step)])}, step=steps
        ).readings()
        for stop in trained.stopped
    ]


@cache
def loaded(name: str, seed: int, *, images: bool) -> Dataset | Images:
    """The data set of a name and a seed: of numbers, or of images.

    Raises:
        InputError: there is none.
    """
    return datasets.load_images(name, seed=seed) if images else datasets.load(name, seed=seed)


def _numbers(trial: Trial) -> int:
    """Weights of a network with their velocities and gradients, and activations of a mini-batch."""
    return numbers(trial.spec, trial.recipe.batch)


def _readings(trial: Trial) -> int:
    """How many readings a network gives, at most."""
    places = sites(trial.spec)
    steps = trial.record + 1 if isinstance(trial.record, int) else len(trial.record)
    reported = places if trial.sites is None else min(places, len(trial.sites))
    return steps * len(trial.quantities) * reported + 1 + trial.more  # 1: where it stopped


def _described(trial: Trial) -> dict[str, Any]:
    """A trial as JSON: whatever would change a number."""
    return {
        "spec": json.loads(trial.spec.to_json()),
        "data": {
            "name": trial.data,
            "seed": trial.data_seed,
            "digest": loaded(trial.data, trial.data_seed, images=trial.spec.images).digest,
        },
        "recipe": dataclasses.asdict(trial.recipe),
        "factors": dict(trial.factors),
        "record": trial.record,
        "quantities": trial.quantities,
        "sites": trial.sites,
        "after": [_named(after) for after in trial.after],
    }


def _named(after: After) -> dict[str, Any]:
    """What is looked at afterwards: the function, or the value with its fields."""
    value: Any = after
    fields = {each.name: getattr(value, each.name) for each in getattr(value, "__dataclass_fields__", {}).values()}
    kind: Any = type(value) if fields else value
    return {"name": f"{kind.__module__}.{kind.__qualname__}", **fields}
