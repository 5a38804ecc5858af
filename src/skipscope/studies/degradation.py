"""Study `degradation`: does a deeper network train worse, and do shortcuts mend that?

He et al. 2015 (arXiv:1512.03385, Fig. 1 and 6) found that plain networks with more layers have a higher *training*
error, so that it is not overfitting, that residual networks of the same layers do not, and that it is unlikely to be a
matter of vanishing gradients (section 4.1). Here all three are measured, on networks of several depths that learn the
same data. Loss and error are measured over the steps, and the gradient beside them.

**What is held alike.** Seed s gives every design the same draw and the same mini-batches, so that they are compared
pair by pair. The ReLU is after the addition, as in the paper. By default the plain network is set against the `matched`
residual network: the same weight layers and the same parameters.

**Which learning rate.** A rate that suits a shallow network may not suit a deep one, and a network that merely had the
wrong rate has not degraded. So every network (a design at a depth, with a norm) gets the rate of `rates` that left it
the lowest training loss, in the mean over `tuning` seeds *which are used for nothing else*: the seeds that are
measured had no say in it, and no mean is flattered by the choice. The readings hold both, told apart by the factor
`tuning`. As in the verdict, which is one on means, a loss above that of guessing counts as that of guessing, and so
does one that stopped being a number: a rate at which every third network dies is not the best because of the others.

What the readings say is in `skipscope.degradation`.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, get_args

from skipscope import data as datasets
from skipscope.designs import DESIGNS, design
from skipscope.draws import require_seeds
from skipscope.errors import InputError, as_list, choose, require_int, require_number, require_type
from skipscope.outcomes import TrainedNetworks, networks_of
from skipscope.readings import Readings
from skipscope.spec import Norm, Order
from skipscope.studies.gather import kept
from skipscope.studies.learning import Trial, learn, require_held, round_of
from skipscope.studies.named import listed, listed_depths
from skipscope.training import Recipe

__all__ = ["DEGRADATION_DEMO", "DEGRADATION_DEPTHS", "DEGRADATION_QUANTITIES", "DEGRADATION_RATES", "degradation"]

Progress = Callable[[int, int], None]

DEGRADATION_DEPTHS = (6, 20, 44)
"""d: weight layers, of those of the paper's networks on CIFAR-10 that differ most; 6 is there that one is shallow."""

DEGRADATION_RATES = (0.001, 0.01, 0.1)
"""The learning rates of which every network gets the best."""

DEGRADATION_DEMO: dict[str, Any] = {
    "depths": (6, 20),
    "recipe": Recipe(steps=200),
    "tuning": 2,
    "record": 10,
    "dtype": "float32",
}
"""Arguments of `degradation` for an answer in some seconds."""

DEGRADATION_QUANTITIES = (
    "train_loss",
    "train_error",
    "test_loss",
    "test_error",
    "gradient_norm",
    "backward_growth",
    "weight_grad_first_last",
)
"""What is measured on the way: losses and errors in inference, gradients of one fixed mini-batch."""


def degradation(
    *,
    depths: int | Iterable[int] = DEGRADATION_DEPTHS,
    width: int = 32,
    designs: Iterable[str] = ("plain", "matched"),
    norms: Iterable[Norm] = ("none", "batch"),
    order: Order = "after-add",
    data: str = "digits",
    data_seed: int = 0,
    recipe: Recipe | None = None,
    rates: float | Iterable[float] = DEGRADATION_RATES,
    tuning: int = 3,
    record: int = 20,
    seeds: int | Iterable[int] = range(8),
    folder: str | os.PathLike[str] | None = None,
    chunk: int | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    **fields: Any,
) -> Readings:
    """Train networks of several depths, each with a rate that suits it, and measure loss, error and gradient.

    Args:
        depths: d (see `skipscope.designs`): weight layers of the plain and the matched design, blocks of the others.
        width: units of the hidden layers.
        designs: names in `skipscope.designs.DESIGNS`.
        norms: normalisations, each with every design.
        order: where the ReLU is; after the addition in the paper.
        data: a data set with classes, of `skipscope.data.DATASETS`.
        data_seed: which split.
        recipe: steps, batch and schedule; its rate is replaced. 500 steps of 64 samples if not given.
        rates: learning rates to choose from; one alone is used as it is, without tuning.
        tuning: seeds by which the rate is chosen, those that follow the largest of `seeds`.
        record: how often to measure on the way, beside the beginning.
        seeds: the seeds that are measured; 8 at least make a verdict.
        folder: keeps what is measured, so that the same call goes on where it was stopped; see `skipscope.runs`.
        chunk, jobs, progress: see `skipscope.studies.gather.gather`.
        **fields: further fields of `Spec.dense`.

    Returns:
        Readings at the site `network`, at steps from 0 to the last, with the factors `rate`, `steps`, `recipe` and
        `tuning`. A network whose loss stopped being a number has no readings from there on.

    Raises:
        InputError: a design, a depth, a norm, a rate, the data or a field makes no sense, or the folder holds
            something else.
    """
    trials = _trials(
        depths=listed_depths(depths),
        designs=listed("designs", designs, DESIGNS),
        norms=listed("norms", norms, get_args(Norm)),
        recipe=_recipe(recipe),
        data=(data, data_seed),
        record=require_int("record", record, least=1),
        width=width,
        order=order,
        **fields,
    )
    grid = _grid(rates)
    require_held(trials, seeds, jobs=jobs)
    known = require_seeds(seeds)
    count = require_int("tuning", tuning, least=1) if len(grid) > 1 else 0
    told = _Told(progress, len(trials) * (len(known) + len(grid) * count))
    how: dict[str, Any] = {"chunk": chunk, "jobs": jobs}
    first = max(known) + 1
    others = range(first, first + count)
    tried = [_at(trial, rate, tuning=True) for trial in trials for rate in grid] if count else []

    def plan() -> dict[str, Any]:
        # Which rates are measured follows from those that were tried: the first stands for the best.
        measured = [_at(trial, grid[0], tuning=False) for trial in trials]
        tuned = {"tuning": round_of(tried, others, **how)} if tried else {}
        return {"rates": grid, **tuned, "measured": round_of(measured, known, **how)}

    with kept(folder, plan) as work:
        options = {**how, "progress": told.progress, "work": work}
        chosen = learn(tried, others, **options) if tried else Readings.concat([])
        told.began = len(tried) * count
        final = [_at(trial, _best(chosen, trial, grid), tuning=False) for trial in trials]
        return work.finished(Readings.concat([learn(final, known, **options), chosen]))


class _Told:
    """The progress of two rounds of training, told as one."""

    def __init__(self, asked: Progress | None, total: int) -> None:
        self.asked, self.total, self.began = asked, total, 0

    def progress(self, done: int, _total: int) -> None:
        if self.asked is not None:
            self.asked(self.began + done, self.total)


def _recipe(given: Recipe | None) -> Recipe:
    recipe = Recipe(steps=500) if given is None else given
    require_type("recipe", recipe, Recipe, "Recipe(steps=500) is one")
    require_int("steps", recipe.steps, least=1)
    return recipe


def _grid(rates: float | Iterable[float]) -> tuple[float, ...]:
    grid = tuple(dict.fromkeys(require_number("rate", rate) for rate in as_list(rates)))
    if not grid:
        raise InputError("rates is empty: give at least one learning rate.")
    return grid


_SAID = {"depth": "depths", "norm": "norms", "features": "data", "outputs": "data", "output": "data"}
"""Fields of a network that follow from another argument."""


def _trials(
    *,
    depths: Sequence[int],
    designs: Sequence[str],
    norms: Sequence[str],
    recipe: Recipe,
    data: tuple[str, int],
    record: int,
    **fields: Any,
) -> list[Trial]:
    """A trial for every network, its rate still to be chosen."""
    for field in fields:
        if field in _SAID:
            raise InputError(f"{field} cannot be chosen here, as {_SAID[field]} says it: leave it out.")
    if not depths:
        raise InputError("depths is empty: give at least one.")
    name, seed = data
    known = datasets.load(choose("data", name, datasets.DATASETS), seed=seed)
    if known.classes is None:
        raise InputError(f"data={name!r} has no classes, so no errors to count: use 'digits' or 'patterns'.")
    shape: dict[str, Any] = {"features": known.features, "outputs": known.outputs, "output": "linear"}
    return [
        Trial(
            spec=design(which, depth=depth, norm=norm, **shape, **fields),
            data=name,
            recipe=recipe,
            factors={"study": "degradation", "design": which, "depth": depth, "data": f"{name}, seed {seed}"},
            data_seed=seed,
            record=record,
            quantities=DEGRADATION_QUANTITIES,
        )
        for norm, which, depth in itertools.product(norms, designs, depths)
    ]


def _at(trial: Trial, rate: float, *, tuning: bool) -> Trial:
    recipe = replace(trial.recipe, rate=rate)
    told = {"rate": recipe.rate, "steps": recipe.steps, "recipe": recipe.told, "tuning": tuning}
    return replace(trial, recipe=recipe, factors={**trial.factors, **told})


def _best(tried: Readings, trial: Trial, grid: Sequence[float]) -> float:
    """The rate that left the lowest training loss, in the mean; the smaller one of two alike."""
    if len(grid) == 1:
        return grid[0]
    cells = tried.cells.filter(spec=trial.spec.to_json())
    losses = {each.cell["rate"]: _mean_loss(each) for each in networks_of(TrainedNetworks, tried, cells)}
    best: float = min(sorted(losses), key=lambda rate: losses[rate])
    return best


def _mean_loss(networks: TrainedNetworks) -> float:
    """The mean over seeds of the last training loss, none of which is worse than that of guessing."""
    losses = networks.outcomes("train_loss", networks.steps).values()
    return math.fsum(losses) / len(losses)
