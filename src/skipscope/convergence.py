"""What readings of study `train` say: losses and errors over the steps, and whether deeper networks train worse.

The paper's Fig. 6 shows training and test error over the steps. Degradation (He et al. 2015, arXiv:1512.03385) is a
statement about training, so a verdict rests on the training loss after the last step, deepest less shallowest network
of one kind, seed by seed: both see the same mini-batches. The rule, and how outcomes count, are in
`skipscope.outcomes`. As these networks are dear, three seeds are enough for a verdict; with so few the interval is 2.5
standard deviations to either side, and of fewer there is none.

This module reads readings alone; it knows no network but by its `Spec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from skipscope.diagnosis import Finding, Verdict
from skipscope.errors import InputError
from skipscope.outcomes import (
    INTERVAL,
    MARGIN,
    OUTCOMES,
    TrainedNetworks,
    deepest,
    degraded,
    difference,
    helped,
    losses_of,
    networks_of,
    of_one_kind,
    pairs,
    signed,
    stops,
    within_margin,
)
from skipscope.readings import Readings, require_readings

__all__ = ["LEAST", "TITLES", "curves", "final", "findings", "paired"]

LEAST = 3
"""Seeds that a verdict needs."""

TITLES = {
    "train_loss": "training loss",
    "train_error": "training error",
    "validation_loss": "validation loss",
    "validation_error": "validation error",
    "test_loss": "test loss",
    "test_error": "test error",
}
"""The quantities that tell how a network came out, in words; those of a validation part are not always there."""

_FACTORS = ("steps", "rate", "recipe", "engine")


class _Network(TrainedNetworks):
    """One cell: networks of one spec, trained in one way."""

    ALIKE = ("norm", "width", "data", "dtype", "batch", "steps", "rate", "engine")

    @cached_property
    def recorded(self) -> list[int]:
        """The steps at which it has losses: batch normalisation has none before the first."""
        return sorted(self.rows.filter(quantity="train_loss")["step"].unique())

    @cached_property
    def quantities(self) -> list[str]:
        """The losses and errors that it has: those of a validation part only where one was held out."""
        found = {*OUTCOMES, *self.rows["quantity"]}
        return [name for name in TITLES if name in found]

    @property
    def told(self) -> dict[str, Any]:
        """The columns by which tables name it."""
        named = {name: self.cell[name] for name in ("cell", "design", "norm")}
        return {**named, "width": self.spec.width, "layers": self.spec.depth, "engine": self.cell["engine"]}


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
    return sorted(
        networks_of(_Network, readings, cells), key=lambda each: (not each.plain, str(each.kind), each.spec.depth)
    )


# -------------------------------------------------------------------------------------------------------- the tables

_TOLD: dict[str, Any] = {
    **dict.fromkeys(("cell", "design", "norm"), pl.String),
    **dict.fromkeys(("width", "layers"), pl.Int64),
    "engine": pl.String,
}
_BAND: dict[str, Any] = {"median": pl.Float64, "least": pl.Float64, "most": pl.Float64}


def curves(readings: Readings) -> pl.DataFrame:
    """Losses and errors over the steps: a row a network, quantity and recorded step.

    Returns:
        Columns cell, design, norm, width (of the first stage), layers (of weights), `engine`, `quantity` (`train_loss`,
        `train_error`, `test_loss`, `test_error`; between them `validation_loss` and `validation_error` where images
        were held out), `step`, `n` seeds, and over them the `median`, the `least` and the
        `most`.

    Raises:
        InputError: the readings are not of this study.
    """
    rows = [
        {**network.told, "quantity": quantity, "step": step, **_band(network.outcomes(quantity, step))}
        for network in _networks(readings)
        for quantity in network.quantities
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
        for quantity in network.quantities
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
            **difference(one, other, quantity),
        }
        for compared, one, other in pairs(_networks(readings))
        for quantity in one.quantities
    ]
    words = {"compared": pl.String, "cell": pl.String, "design": pl.String, "layers": pl.Int64, "against": pl.String}
    more = {"against_layers": pl.Int64, "engine": pl.String, "quantity": pl.String, "n": pl.Int64}
    return pl.DataFrame(rows, schema={**words, **more, **INTERVAL})


# ------------------------------------------------------------------------------------------------------ the findings

_RULES = {
    "degradation": (
        f"training loss after the last step, deepest less shallowest network: degrades: the 95 % interval of the mean "
        f"difference is above {MARGIN:g} nats; does not degrade: it is below; else it cannot be told; a verdict needs "
        f"{LEAST} pairs",
        "He et al. 2015, arXiv:1512.03385, Fig. 6; the margin is a convention of this instrument; interval: Student's "
        "t over seeds, paired",
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
    found = [_degradation(line[-1], line[0]) for line in of_one_kind(networks) if len(line) > 1]
    return found + [_shortcuts(one, other) for one, other in deepest(networks)]


def _degradation(deep: _Network, shallow: _Network) -> Finding:
    losses = difference(deep, shallow, "train_loss")
    verdict = degraded(losses, least=LEAST)
    change = f"From {shallow.spec.depth} to {deep.spec.depth} weight layers of {deep.cell['design']}"
    return _finding("degradation", deep, shallow, verdict, change, losses)


def _shortcuts(one: _Network, other: _Network) -> Finding:
    losses = difference(one, other, "train_loss")
    verdict = helped(losses, least=LEAST)
    change = f"At {one.spec.depth} weight layers, from {other.cell['design']} to {one.cell['design']}"
    return _finding("shortcuts", one, other, verdict, change, losses)


def _finding(
    rule: str, one: _Network, other: _Network, verdict: Verdict, change: str, losses: Mapping[str, Any]
) -> Finding:
    threshold, source = _RULES[rule]
    errors = difference(one, other, "train_error")
    said = (
        f"{change}, the training loss after {one.steps:,} steps changes by {signed(losses)} nats, the training error "
        f"by {signed(errors, 100)} percentage points ({losses['n']} pairs).{within_margin(verdict, losses)}"
        f"{stops(one, other)}"
    )
    few = f" A verdict needs {LEAST} pairs: train more seeds." if losses["n"] < LEAST else ""
    return Finding(
        rule=rule,
        cell=one.cell["cell"],
        subject=f"{one.cell['design']}, {one.spec.depth} layers, width {one.told['width']}, {one.cell['engine']}",
        verdict=verdict,
        statement=said + few,
        evidence=losses_of(one, other),
        threshold=threshold,
        source=source,
    )
