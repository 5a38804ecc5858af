"""How trained networks came out, and the rule by which one is said to have trained worse than another.

Shared by what reads study `degradation` (skipscope.degradation) and study `train` (skipscope.convergence), so that both
count alike and judge alike. A loss above that of guessing (all classes alike, ln(classes)) counts as that of guessing,
and so does the loss of a network that stopped being a number, whose errors count as those of guessing. A verdict is
about the training loss after the last step, one network less another, seed by seed, with a 95 % interval of the mean
difference by Student's t, which is held against `MARGIN`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from skipscope.diagnosis import Verdict
from skipscope.intervals import mean_interval
from skipscope.readings import Readings
from skipscope.spec import Spec
from skipscope.words import number

__all__ = [
    "INTERVAL",
    "MARGIN",
    "OUTCOMES",
    "TrainedNetworks",
    "deepest",
    "degraded",
    "difference",
    "helped",
    "losses_of",
    "networks_of",
    "of_one_kind",
    "pairs",
    "signed",
    "stops",
    "with_interval",
    "within_margin",
]

MARGIN = 0.05
"""Which difference of training loss counts, in nats: a right class that is 5 % less probable, in the geometric mean."""

OUTCOMES = ("train_loss", "train_error", "test_loss", "test_error")
"""The quantities that tell how a network came out."""

INTERVAL: dict[str, Any] = {"mean": pl.Float64, "low": pl.Float64, "high": pl.Float64}
"""The columns of `with_interval`."""


@dataclass(frozen=True)
class TrainedNetworks:
    """One cell of a study that trains: networks of one spec, one a seed, trained in one way.

    Attributes:
        cell: its row in the table of cells.
        rows: its readings at the site `network`.
    """

    ALIKE: ClassVar[tuple[str, ...]] = ()
    """The columns in which networks to be compared agree, beside their depth and their shortcuts."""

    cell: Mapping[str, Any]
    rows: pl.DataFrame

    @cached_property
    def spec(self) -> Spec:
        """What they are."""
        return Spec.from_json(self.cell["spec"])

    @property
    def plain(self) -> bool:
        """Whether they have no shortcuts."""
        return all(stage.plain for stage in self.spec.stages)

    @property
    def steps(self) -> int:
        """Of their training."""
        return int(self.cell["steps"])

    @cached_property
    def seeds(self) -> list[int]:
        """In order."""
        return sorted(self.rows["seed"].unique())

    @property
    def alike(self) -> tuple[Any, ...]:
        """What networks to be compared have in common, beside their depth and their shortcuts."""
        return (*(self.cell[name] for name in self.ALIKE), self.spec.init)

    @property
    def kind(self) -> tuple[Any, ...]:
        """What networks of several depths have in common."""
        return (self.cell["design"], *self.alike)

    @property
    def stopped(self) -> int:
        """How many had no finite loss after the last step."""
        return len(self.seeds) - len(self.by_seed("train_loss", self.steps))

    def by_seed(self, quantity: str, step: int) -> dict[int, float]:
        """The finite values of a quantity after a step."""
        rows = self.rows.filter(quantity=quantity, step=step).filter(pl.col("value").is_finite())
        return dict(rows.select("seed", "value").iter_rows())

    def outcomes(self, quantity: str, step: int) -> dict[int, float]:
        """A loss or an error of every seed after a step; see the module for those that are worse than guessing."""
        found, guess = self.by_seed(quantity, step), self.guess(quantity)
        counted = {seed: found.get(seed, guess) for seed in self.seeds}
        return {seed: min(value, guess) if _is_loss(quantity) else value for seed, value in counted.items()}

    def guess(self, quantity: str) -> float:
        """The loss, or the error, of whoever gives all classes the same probability."""
        classes = self.spec.head.features
        return math.log(classes) if _is_loss(quantity) else 1 - 1 / classes


Networks = TypeVar("Networks", bound=TrainedNetworks)


def _is_loss(quantity: str) -> bool:
    return quantity.endswith("_loss")


def networks_of(kind: type[Networks], readings: Readings, cells: pl.DataFrame) -> list[Networks]:
    """The networks of some cells of the readings, in the cells' order."""
    return [kind(cell, readings.rows_of(cell["cell"]).filter(site="network")) for cell in cells.iter_rows(named=True)]


# -------------------------------------------------------------------------------------------------- which are compared


def of_one_kind(networks: Iterable[Networks]) -> list[list[Networks]]:
    """The networks of every kind, in the order in which they come."""
    found: dict[tuple[Any, ...], list[Networks]] = {}
    for network in networks:
        found.setdefault(network.kind, []).append(network)
    return list(found.values())


def pairs(networks: Sequence[Networks]) -> Iterator[tuple[str, Networks, Networks]]:
    """`"depth"`, a network and the first of its kind; `"shortcuts"`, one with and one without, of the same layers."""
    for line in of_one_kind(networks):
        yield from (("depth", deeper, line[0]) for deeper in line[1:])
    for one in networks:
        for other in networks:
            if not one.plain and other.plain and one.alike == other.alike and one.spec.depth == other.spec.depth:
                yield "shortcuts", one, other


def deepest(networks: Sequence[Networks]) -> list[tuple[Networks, Networks]]:
    """Of the pairs with and without shortcuts of every two kinds the last, where shallow networks come first."""
    found = {
        (*one.kind, other.cell["design"]): (one, other)
        for compared, one, other in pairs(networks)
        if compared == "shortcuts"
    }
    return list(found.values())


# ------------------------------------------------------------------------------------------------------ how they differ


def with_interval(values: ArrayLike) -> dict[str, Any]:
    """The mean with its 95 % interval; null where there is none."""
    if not np.size(values):
        return {"mean": None, "low": None, "high": None}
    return dict(zip(("mean", "low", "high"), mean_interval(values), strict=True))


def difference(one: TrainedNetworks, other: TrainedNetworks, quantity: str) -> dict[str, Any]:
    """One less the other after the last step, seed by seed: `n` pairs, the mean with its interval."""
    first, second = one.outcomes(quantity, one.steps), other.outcomes(quantity, other.steps)
    both = sorted(first.keys() & second.keys())
    return {"n": len(both), **with_interval([first[seed] - second[seed] for seed in both])}


def degraded(losses: Mapping[str, Any], *, least: int) -> Verdict:
    """What the difference of the training loss, deep less shallow, says; a verdict needs so many pairs at least."""
    return _judged(losses, MARGIN, least, above="degrades", below="does not degrade")


def helped(losses: Mapping[str, Any], *, least: int) -> Verdict:
    """What the difference of the training loss, with shortcuts less without, says; likewise."""
    verdict = _judged(losses, -MARGIN, least, above="trains no better", below="trains better")
    if verdict == "trains no better":
        return _judged(losses, MARGIN, least, above="trains worse", below=verdict, between=verdict)
    return verdict


def _judged(
    losses: Mapping[str, Any],
    margin: float,
    least: int,
    *,
    above: Verdict,
    below: Verdict,
    between: Verdict = "cannot tell",
) -> Verdict:
    """On which side of the margin the whole interval is."""
    if losses["n"] < least:
        return "cannot tell"
    if losses["low"] > margin:
        return above
    return below if losses["high"] < margin else between


# ------------------------------------------------------------------------------------------------------- what is said


def losses_of(one: TrainedNetworks, other: TrainedNetworks) -> pl.DataFrame:
    """The training losses of both after the last step, seed by seed: what a verdict rests on."""
    losses = [network.outcomes("train_loss", network.steps) for network in (one, other)]
    seeds = sorted(losses[0].keys() & losses[1].keys())
    columns = {
        f"{network.cell['design']}, {network.spec.depth} layers": [each[seed] for seed in seeds]
        for network, each in zip((one, other), losses, strict=True)
    }
    return pl.DataFrame({"seed": seeds, **columns})


def stops(*networks: TrainedNetworks) -> str:
    """A sentence on those that stopped being a number, if any did."""
    told = [
        f"{network.stopped} of {len(network.seeds)} networks of {network.spec.depth} layers ({network.cell['design']})"
        for network in networks
        if network.stopped
    ]
    return f" The loss of {' and of '.join(told)} stopped being a number; they count as guessing." if told else ""


def within_margin(verdict: Verdict, losses: Mapping[str, Any]) -> str:
    """A sentence where networks do not degrade though their loss is certainly higher; else nothing."""
    if verdict != "does not degrade" or losses["low"] is None or losses["low"] <= 0:
        return ""
    return f" That is less than the {MARGIN:g} nats from which networks are said to train worse."


def signed(found: Mapping[str, Any], scale: float = 1.0) -> str:
    """A mean difference with its interval, with its sign."""
    if found["mean"] is None:
        return "nothing known"
    mean = scale * found["mean"]
    shown = f"{'+' if mean > 0 else ''}{number(mean)}"
    if found["low"] is None:
        return shown
    return f"{shown} (95 % interval {number(scale * found['low'])} to {number(scale * found['high'])})"
