"""Training over many seeds of several trials: in chunks, in one process or in several.

A trial is one kind of network, trained in one way on one data set, and what is looked at afterwards. Every seed is
trained by itself, so neither the size of a chunk nor the number of workers changes a bit of any reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from skipscope import data as datasets
from skipscope.data import Dataset, Images
from skipscope.engines.numpy_engine import build
from skipscope.quantities import LEARNING, QUANTITIES
from skipscope.readings import Readings
from skipscope.spec import Spec
from skipscope.studies.gather import gather
from skipscope.studies.room import numbers, sites
from skipscope.training import TRAINING_QUANTITIES, Recipe, Trained, train

__all__ = ["After", "Trial", "learn", "loaded"]

After = Callable[["Trial", Any, Trained], Readings]
"""What is looked at when a trial is trained, with its data set: top-level functions, so that they can be sent."""


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
) -> Readings:
    """The readings of all trials over all seeds, of the training and of what was looked at after it.

    Args:
        trials: what to train.
        seeds: the seeds of every trial.
        chunk, jobs, progress: see `skipscope.studies.gather.gather`.

    Raises:
        InputError: a network does not fit its data or its recipe, a seed, the chunk or the jobs make no sense, or all
            of it together is more than memory can hold.
    """
    return gather(
        _learn, trials, seeds, numbers=_numbers, readings=_readings, chunk=chunk, jobs=jobs, progress=progress
    )


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
    return Readings.concat([trained.readings, *(after(trial, data, trained) for after in trial.after)])


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
    return steps * len(trial.quantities) * (places if trial.sites is None else min(places, len(trial.sites)))
