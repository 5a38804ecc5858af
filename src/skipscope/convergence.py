"""What readings of study `train` say: losses and errors over the steps, and whether deeper networks train worse.

The paper's Fig. 6 shows training and test error over the steps. Degradation (He et al. 2015, arXiv:1512.03385) is a
statement about training, so a verdict rests on the training loss after the last step, deepest less shallowest network
of one kind, seed by seed: both see the same mini-batches. The rule is that of `skipscope.degradation`, with its margin:
a verdict needs the whole 95 % interval of the mean difference (Student's t, paired) on one side of it. As these
networks are dear, three seeds are enough for a verdict; with so few the interval is 2.5 standard deviations to either
side, and of fewer there is none.

A loss above that of guessing (all classes alike) counts as that of guessing, and a network that stopped being a number
counts as guessing in all. This module reads readings alone; it knows no network but by its `Spec`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from skipscope.degradation import MARGIN
from skipscope.diagnosis import Finding, Verdict
from skipscope.errors import InputError
from skipscope.intervals import mean_interval
from skipscope.readings import Readings, require_readings
from skipscope.spec import Spec
from skipscope.words import number

__all__ = ["LEAST", "curves", "final", "findings", "paired"]

LEAST = 3
"""Seeds that a verdict needs."""

_OUTCOMES = ("train_loss", "train_error", "test_loss", "test_error")
_FACTORS = ("steps", "rate", "recipe", "engine")


@dataclass(frozen=True)
class _Network:
    """One cell: networks of one spec, trained in one way."""

    cell: Mapping[str, Any]
    rows: pl.DataFrame

    @cached_property
    def spec(self) -> Spec:
        return Spec.from_json(self.cell["spec"])

    @property
    def plain(self) -> bool:
        return all(stage.plain for stage in self.spec.stages)

    @property
    def steps(self) -> int:
        return int(self.cell["steps"])

    @cached_property
    def seeds(self) -> list[int]:
        return sorted(self.rows["seed"].unique())

    @cached_property
    def recorded(self) -> list[int]:
        """The steps at which it has losses: batch normalisation has none before the first."""
        return sorted(self.rows.filter(quantity="train_loss")["step"].unique())

    @property
    def told(self) -> dict[str, Any]:
        """The columns by which tables name it."""
        named = {name: self.cell[name] for name in ("cell", "design", "norm")}
        return {**named, "width": self.spec.width, "layers": self.spec.depth, "engine": self.cell["engine"]}

    @property
    def alike(self) -> tuple[Any, ...]:
        """What networks to be compared have in common, beside their depth and their shortcuts."""
        names = ("norm", "width", "data", "dtype", "batch", "steps", "rate", "engine")
        return (*(self.cell[name] for name in names), self.spec.init)

    @property
    def kind(self) -> tuple[Any, ...]:
        """What networks of several depths have in common."""
        return (self.cell["design"], *self.alike)

    def by_seed(self, quantity: str, step: int) -> dict[int, float]:
        """The finite values of a quantity after a step."""
        rows = self.rows.filter(quantity=quantity, step=step).filter(pl.col("value").is_finite())
        return dict(rows.select("seed", "value").iter_rows())

    def outcomes(self, quantity: str, step: int) -> dict[int, float]:
        """A loss or an error of every seed after a step; see the module for those that are worse than guessing."""
        found, loss, guess = self.by_seed(quantity, step), quantity.endswith("_loss"), self.guess(quantity)
        return {seed: min(found[seed], guess) if loss and seed in found else found.get(seed, guess)
                for seed in self.seeds}  # fmt: skip

    def guess(self, quantity: str) -> float:
        """The loss, or the error, of whoever gives all classes the same probability."""
        classes = self.spec.head.features
        return math.log(classes) if quantity.endswith("_loss") else 1 - 1 / classes

    @property
    def stopped(self) -> int:
        """How many networks had no finite loss after the last step."""
        return len(self.seeds) - len(self.by_seed("train_loss", self.steps))


def _networks(readings: Readings) -> list[_Network]:
    """The networks of the study: plain ones first, then by kind and depth, however they were gathered or saved.

    Raises:
        InputError: there are none.
    """
    require_readings(readings)
    cells = readings.cells.filter(pl.col("study") == "train")
    if cells.is_empty() or not {*_FACTORS} <= set(cells.columns):
        raise InputError("these readings are not of study train: skipscope.studies.train gives them.")
    if not (cells["spec"] != "").all() or any(cells[name].null_count() for name in _FACTORS):
        raise InputError("these readings of study train lack their specs or factors: skipscope.studies.train has them.")
    found = [
        _Network(cell, readings.rows_of(cell["cell"]).filter(site="network")) for cell in cells.iter_rows(named=True)
    ]
    return sorted(found, key=lambda each: (not each.plain, str(each.kind), each.spec.depth))


# -------------------------------------------------------------------------------------------------------- the tables

_TOLD: dict[str, Any] = {
    **dict.fromkeys(("cell", "design", "norm"), pl.String),
    **dict.fromkeys(("width", "layers"), pl.Int64),
    "engine": pl.String,
}
_BAND: dict[str, Any] = {"median": pl.Float64, "least": pl.Float64, "most": pl.Float64}
_INTERVAL: dict[str, Any] = {"mean": pl.Float64, "low": pl.Float64, "high": pl.Float64}


def curves(readings: Readings) -> pl.DataFrame:
    """Losses and errors over the steps: a row a network, quantity and recorded step.

    Returns:
        Columns cell, design, norm, width (of the first stage), layers (of weights), `engine`, `quantity` (`train_loss`,
        `train_error`, `test_loss`, `test_error`), `step`, `n` seeds, and over them the `median`, the `least` and the
        `most`.

    Raises:
        InputError: the readings are not of this study.
    """
    rows = [
        {**network.told, "quantity": quantity, "step": step, **_band(network.outcomes(quantity, step))}
        for network in _networks(readings)
        for quantity in _OUTCOMES
        for step in network.recorded
    ]
    return pl.DataFrame(rows, schema={**_TOLD, "quantity": pl.String, "step": pl.Int64, "n": pl.Int64, **_BAND})


def final(readings: Readings) -> pl.DataFrame:
    """Losses and errors after the last step: a row a network and quantity.

    Returns:
        The columns of `curves` less `step`, and `steps`, `rate` and `stopped`: how many networks had no finite loss any
        more.

    Raises:
        InputError: the readings are not of this study.
    """
    rows = [
        {
            **network.told,
            "steps": network.steps,
            "rate": network.cell["rate"],
            "stopped": network.stopped,
            "quantity": quantity,
            **_band(network.outcomes(quantity, network.steps)),
        }
        for network in _networks(readings)
        for quantity in _OUTCOMES
    ]
    counts = {"steps": pl.Int64, "rate": pl.Float64, "stopped": pl.Int64, "quantity": pl.String, "n": pl.Int64}
    return pl.DataFrame(rows, schema={**_TOLD, **counts, **_BAND})


def _band(outcomes: Mapping[int, float]) -> dict[str, Any]:
    values = np.array(list(outcomes.values()))
    if not values.size:
        return {"n": 0, "median": None, "least": None, "most": None}
    return {"n": values.size, "median": float(np.median(values)), "least": values.min(), "most": values.max()}


def paired(readings: Readings) -> pl.DataFrame:
    """Differences after the last step, pair by pair: one seed, so the same mini-batches.

    Returns:
        A row a pair of networks and quantity. `compared` is `"depth"`: a network less the shallowest of its kind; or
        `"shortcuts"`: a network with shortcuts less one without, of the same weight layers. Columns compared, `cell`,
        design, layers, `against` (the other design), `against_layers`, `engine`, quantity, `n` pairs, and of the
        difference `mean` with its 95 % interval `low`, `high`.

    Raises:
        InputError: the readings are not of this study.
    """
    rows = [
        {
            "compared": compared,
            **{name: one.told[name] for name in ("cell", "design", "layers")},
            "against": other.cell["design"],
            "against_layers": other.spec.depth,
            "engine": one.cell["engine"],
            "quantity": quantity,
            **_difference(one, other, quantity),
        }
        for compared, one, other in _pairs(_networks(readings))
        for quantity in _OUTCOMES
    ]
    words = {"compared": pl.String, "cell": pl.String, "design": pl.String, "layers": pl.Int64, "against": pl.String}
    more = {"against_layers": pl.Int64, "engine": pl.String, "quantity": pl.String, "n": pl.Int64}
    return pl.DataFrame(rows, schema={**words, **more, **_INTERVAL})


def _pairs(networks: list[_Network]) -> Iterator[tuple[str, _Network, _Network]]:
    for line in _lines(networks):
        yield from (("depth", deeper, line[0]) for deeper in line[1:])
    for one in networks:
        for other in networks:
            if not one.plain and other.plain and one.alike == other.alike and one.spec.depth == other.spec.depth:
                yield "shortcuts", one, other


def _lines(networks: list[_Network]) -> list[list[_Network]]:
    """The networks of one kind, shallow ones first."""
    found: dict[tuple[Any, ...], list[_Network]] = {}
    for network in networks:
        found.setdefault(network.kind, []).append(network)
    return list(found.values())


def _difference(one: _Network, other: _Network, quantity: str) -> dict[str, Any]:
    first, second = one.outcomes(quantity, one.steps), other.outcomes(quantity, other.steps)
    both = sorted(first.keys() & second.keys())
    if not both:
        return {"n": 0, "mean": None, "low": None, "high": None}
    interval = mean_interval([first[seed] - second[seed] for seed in both])
    return {"n": len(both), **dict(zip(("mean", "low", "high"), interval, strict=True))}


# ------------------------------------------------------------------------------------------------------ the findings

_RULES = {
    "degradation": (
        f"training loss after the last step, deepest less shallowest network: degrades: the 95 % interval of the mean "
        f"difference is above {MARGIN:g} nats; does not degrade: it is below; else it cannot be told; a verdict needs "
        f"{LEAST} pairs",
        "He et al. 2015, arXiv:1512.03385, Fig. 6; the margin is that of skipscope.degradation; interval: Student's t "
        "over seeds, paired",
    ),
    "shortcuts": (
        f"training loss after the last step, with shortcuts less without, at the most layers that both have: trains "
        f"better: the 95 % interval of the mean difference is below -{MARGIN:g} nats; trains no better: it is above "
        f"that; trains worse: it is above {MARGIN:g}; else it cannot be told; a verdict needs {LEAST} pairs",
        "He et al. 2015, arXiv:1512.03385, Fig. 6; margin and interval as for degradation",
    ),
}


def findings(readings: Readings) -> list[Finding]:
    """What the readings show: of every kind that has several depths whether it degrades, and whether shortcuts help.

    The verdicts are `degrades`, `does not degrade`; `trains better`, `trains no better`, `trains worse`; and `cannot
    tell`.

    Raises:
        InputError: the readings are not of this study.
    """
    networks = _networks(readings)
    found = [_degradation(line[-1], line[0]) for line in _lines(networks) if len(line) > 1]
    deepest: dict[tuple[Any, ...], tuple[_Network, _Network]] = {}
    for compared, one, other in _pairs(networks):
        if compared == "shortcuts":  # of a kind shallow ones come first, so that the deepest pair is left
            deepest[(*one.kind, other.cell["design"])] = (one, other)
    return found + [_shortcuts(one, other) for one, other in deepest.values()]


def _degradation(deep: _Network, shallow: _Network) -> Finding:
    losses = _difference(deep, shallow, "train_loss")
    verdict = _judged(losses, MARGIN, above="degrades", below="does not degrade")
    change = f"From {shallow.spec.depth} to {deep.spec.depth} weight layers of {deep.cell['design']}"
    return _finding("degradation", deep, shallow, verdict, change, losses)


def _shortcuts(one: _Network, other: _Network) -> Finding:
    losses = _difference(one, other, "train_loss")
    verdict = _judged(losses, -MARGIN, above="trains no better", below="trains better")
    if verdict == "trains no better":
        verdict = _judged(losses, MARGIN, above="trains worse", below=verdict, between=verdict)
    change = f"At {one.spec.depth} weight layers, from {other.cell['design']} to {one.cell['design']}"
    return _finding("shortcuts", one, other, verdict, change, losses)


def _judged(
    difference: Mapping[str, Any], margin: float, *, above: Verdict, below: Verdict, between: Verdict = "cannot tell"
) -> Verdict:
    """On which side of the margin the whole interval is."""
    if difference["n"] < LEAST:
        return "cannot tell"
    if difference["low"] > margin:
        return above
    return below if difference["high"] < margin else between


def _finding(
    rule: str, one: _Network, other: _Network, verdict: Verdict, change: str, losses: Mapping[str, Any]
) -> Finding:
    threshold, source = _RULES[rule]
    errors = _difference(one, other, "train_error")
    said = (
        f"{change}, the training loss after {one.steps:,} steps changes by {_signed(losses)} nats, the training error "
        f"by {_signed(errors, 100)} percentage points ({losses['n']} pairs).{_stops(one, other)}"
    )
    few = f" A verdict needs {LEAST} pairs: train more seeds." if losses["n"] < LEAST else ""
    return Finding(
        rule=rule,
        cell=one.cell["cell"],
        subject=f"{one.cell['design']}, {one.spec.depth} layers, width {one.told['width']}, {one.cell['engine']}",
        verdict=verdict,
        statement=said + few,
        evidence=_evidence(one, other),
        threshold=threshold,
        source=source,
    )


def _evidence(one: _Network, other: _Network) -> pl.DataFrame:
    """The training losses of both networks, seed by seed."""
    losses = [network.outcomes("train_loss", network.steps) for network in (one, other)]
    seeds = sorted(losses[0].keys() & losses[1].keys())
    columns = {
        f"{network.cell['design']}, {network.spec.depth} layers": [each[seed] for seed in seeds]
        for network, each in zip((one, other), losses, strict=True)
    }
    return pl.DataFrame({"seed": seeds, **columns})


def _stops(*networks: _Network) -> str:
    told = [
        f"{network.stopped} of {len(network.seeds)} networks of {network.spec.depth} layers ({network.cell['design']})"
        for network in networks
        if network.stopped
    ]
    return f" The loss of {' and of '.join(told)} stopped being a number; they count as guessing." if told else ""


def _signed(difference: Mapping[str, Any], scale: float = 1.0) -> str:
    """A mean difference with its interval, with its sign."""
    if difference["mean"] is None:
        return "nothing known"
    mean = scale * difference["mean"]
    shown = f"{'+' if mean > 0 else ''}{number(mean)}"
    if difference["low"] is None:
        return shown
    return f"{shown} (95 % interval {number(scale * difference['low'])} to {number(scale * difference['high'])})"
