"""What readings of study `degradation` say: whether deeper networks train worse, and what the gradient did meanwhile.

Degradation (He et al. 2015, arXiv:1512.03385) is a statement about *training*: more layers, higher training loss. So
the verdict rests on the training loss at the last step, deepest minus shallowest network of one design, seed by seed
(both have the same draw and the same mini-batches), with a 95 % interval of the mean difference by Student's t. The
interval is held against `MARGIN`, which was fixed before anything was measured: *degrades* needs the whole interval
above it, *does not degrade* the whole interval below it, anything else *cannot tell*. A difference that is merely not
significant is therefore never called "no degradation".

How outcomes count and the rule itself are in `skipscope.outcomes`: what is worse than guessing counts as guessing, so
that a network is never worse than the answer it could be replaced by, and one huge loss does not drown the others.

Does a vanishing gradient explain it? `factor` is by how much the gradient's norm changes on its way back, from the last
block's output to the first block's input; of every network the median over the steps, so that it is about training and
not about a moment. The verdict is by the same factor of 10 as in `skipscope.diagnosis`.

This module reads readings alone. It knows no network but by its `Spec`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skipscope.designs import DESIGNS
from skipscope.diagnosis import FACTOR, Finding, Verdict
from skipscope.errors import InputError, choose
from skipscope.intervals import mean_interval
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
    with_interval,
    within_margin,
)
from skipscope.readings import Readings, require_readings
from skipscope.spec import Norm
from skipscope.words import number

__all__ = ["PAIRS", "curves", "final", "findings", "gradients", "paired", "rates"]

PAIRS = 8
"""Seeds that a verdict needs."""

Array = NDArray[np.float64]

_GRADIENTS = ("gradient_norm", "factor")
_NETWORK = ("design", "norm", "depth", "layers", "width")


# ---------------------------------------------------------------------------------------------------- the networks


class _Network(TrainedNetworks):
    """One cell: networks of one design, norm and depth, trained at the rate that was chosen for them."""

    ALIKE = ("norm", "width", "data", "dtype", "batch", "steps", "recipe")

    @cached_property
    def recorded(self) -> list[int]:
        """The steps that were measured, in any network."""
        return sorted(self.rows["step"].unique())

    @property
    def told(self) -> dict[str, Any]:
        """The columns by which tables name it."""
        named = {name: self.cell[name] for name in _NETWORK if name != "layers"}
        return {"cell": self.cell["cell"], **named, "layers": self.spec.depth}

    @property
    def place(self) -> tuple[int, int, int, int]:
        """In the order of charts and tables."""
        norms, designs = list(get_args(Norm)), list(DESIGNS)
        design = self.cell["design"]
        known = designs.index(design) if design in designs else len(designs)
        return norms.index(self.cell["norm"]), known, self.cell["width"], self.spec.depth

    @cached_property
    def factors(self) -> pl.DataFrame:
        """The factor of the gradient's norm over the body: columns seed, step, factor; 0 where none arrives."""
        blocks = len(self.spec.body)
        rows = self.rows.filter(quantity="backward_growth").filter(pl.col("value").is_finite())
        return rows.select("seed", "step", factor=pl.col("value") ** (blocks / 2))


def _networks(readings: Readings, *, tuning: bool = False) -> list[_Network]:
    """The networks of the study: by norm, then design, then depth, however they were gathered or saved.

    Raises:
        InputError: there are none.
    """
    require_readings(readings)
    cells = readings.cells.filter(pl.col("study") == "degradation")
    if not {"steps", "rate", "tuning"} <= set(cells.columns) or (cells.is_empty() and not tuning):
        raise InputError("these readings are not of study degradation: skipscope.studies.degradation gives them.")
    return sorted(networks_of(_Network, readings, cells.filter(tuning=tuning)), key=lambda network: network.place)


# -------------------------------------------------------------------------------------------------------- the tables

_TOLD: dict[str, Any] = {
    "cell": pl.String,
    **dict.fromkeys(("design", "norm"), pl.String),
    **dict.fromkeys(("depth", "width", "layers"), pl.Int64),
}


def final(readings: Readings) -> pl.DataFrame:
    """Loss and error after the last step: a row a network and quantity.

    Returns:
        Columns cell, design, norm, depth, width, `layers` (of weights), `rate`, `quantity` (`train_loss`,
        `train_error`, `test_loss`, `test_error`), `n` seeds, `stopped` of them, and over seeds `mean` with its 95 %
        interval `low`, `high` (null for one seed).

    Raises:
        InputError: the readings are not of this study.
    """
    rows = [
        {
            **network.told,
            "rate": network.cell["rate"],
            "quantity": quantity,
            "n": len(network.seeds),
            "stopped": network.stopped,
            **with_interval(list(network.outcomes(quantity, network.steps).values())),
        }
        for network in _networks(readings)
        for quantity in OUTCOMES
    ]
    counts = {"n": pl.Int64, "stopped": pl.Int64}
    return pl.DataFrame(rows, schema={**_TOLD, "rate": pl.Float64, "quantity": pl.String, **counts, **INTERVAL})


def curves(readings: Readings, quantity: str) -> pl.DataFrame:
    """A quantity over the steps: a row a network and recorded step.

    Args:
        readings: of study `degradation`.
        quantity: a loss or an error, whose mean over seeds counts stopped networks as guessing; or `gradient_norm` or
            `factor` (of the gradient's norm over the body), whose mean is geometric, over those in which a gradient
            arrives.

    Returns:
        Columns cell, design, norm, depth, width, layers, `quantity`, `step`, `n`, `mean`, `low`, `high`.

    Raises:
        InputError: there is no such quantity, or the readings are not of this study.
    """
    choose("quantity", quantity, (*OUTCOMES, *_GRADIENTS))
    rows = []
    networks = _networks(readings)
    for network in networks:
        # Those of networks that stopped too: what they would have recorded, others have.
        for step in sorted({step for each in networks if each.steps == network.steps for step in each.recorded}):
            values = _values(network, quantity, step)
            if len(values):
                interval = with_interval(values) if quantity in OUTCOMES else _geometric(values)
                rows.append({**network.told, "quantity": quantity, "step": step, "n": len(values), **interval})
    return pl.DataFrame(rows, schema={**_TOLD, "quantity": pl.String, "step": pl.Int64, "n": pl.Int64, **INTERVAL})


def _values(network: _Network, quantity: str, step: int) -> Array:
    if quantity in OUTCOMES:
        return np.array(list(network.outcomes(quantity, step).values()))
    if quantity == "factor":
        found = network.factors.filter(step=step)["factor"].to_numpy()
    else:
        found = np.array(list(network.by_seed(quantity, step).values()))
    return np.asarray(found[found > 0], np.float64)


def paired(readings: Readings) -> pl.DataFrame:
    """Differences after the last step, pair by pair: one seed, so one draw and the same mini-batches.

    Returns:
        A row a pair of networks and quantity. `compared` is `"depth"`: a network less the shallowest of its design; or
        `"shortcuts"`: a network with shortcuts less one without, of the same weight layers. Columns compared, design,
        `against` (the other design), norm, width, layers, `against_layers`, `cell`, quantity, `n` pairs, and of the
        difference `mean`, `low`, `high`.

    Raises:
        InputError: the readings are not of this study.
    """
    rows = [
        {
            "compared": compared,
            "design": one.cell["design"],
            "against": other.cell["design"],
            **{name: one.told[name] for name in ("norm", "width", "layers", "cell")},
            "against_layers": other.spec.depth,
            "quantity": quantity,
            **difference(one, other, quantity),
        }
        for compared, one, other in pairs(_networks(readings))
        for quantity in OUTCOMES
    ]
    words = dict.fromkeys(("compared", "design", "against", "norm"), pl.String)
    whole = dict.fromkeys(("width", "layers"), pl.Int64)
    more = {"cell": pl.String, "against_layers": pl.Int64, "quantity": pl.String, "n": pl.Int64}
    return pl.DataFrame(rows, schema={**words, **whole, **more, **INTERVAL})


def gradients(readings: Readings) -> pl.DataFrame:
    """What the gradient was while training: a row a network.

    Returns:
        Columns cell, design, norm, depth, width, layers; `n` seeds in which a gradient arrives at the median step,
        `dead` in which none does; of the factor by which the gradient's norm changes over the body, the median over
        steps of every network, the geometric mean over seeds `factor` with its 95 % interval `low`, `high`; `began`,
        the factor before the first step; `least` and `most`, the smallest and largest geometric mean at any recorded
        step; and `norm_of_all`, that of the norm of the gradient by all parameters, likewise the median over steps.

    Raises:
        InputError: the readings are not of this study.
    """
    numbers = ("factor", "low", "high", "began", "least", "most", "norm_of_all")
    schema = {**_TOLD, "n": pl.Int64, "dead": pl.Int64, **dict.fromkeys(numbers, pl.Float64)}
    return pl.DataFrame([_gradient(network) for network in _networks(readings)], schema=schema)


def _gradient(network: _Network) -> dict[str, Any]:
    typical = network.factors.group_by("seed").agg(pl.col("factor").median())["factor"].to_numpy()
    alive = typical[typical > 0]
    told = _geometric(alive) if len(alive) else {"mean": None, "low": None, "high": None}
    by_step = {step: _values(network, "factor", step) for step in network.recorded}
    means = {step: _geometric(values)["mean"] for step, values in by_step.items() if len(values)}
    norms = network.rows.filter(quantity="gradient_norm").filter(pl.col("value").is_finite())
    norm = norms.group_by("seed").agg(pl.col("value").median())["value"].to_numpy()
    return {
        **network.told,
        "n": len(alive),
        "dead": len(network.seeds) - len(alive),
        "factor": told["mean"],
        "low": told["low"],
        "high": told["high"],
        "began": means.get(0),
        "least": min(means.values(), default=None),
        "most": max(means.values(), default=None),
        "norm_of_all": _geometric(norm[norm > 0])["mean"] if (norm > 0).any() else None,
    }


def rates(readings: Readings) -> pl.DataFrame:
    """How the learning rates were chosen: a row a network and rate; none where one rate was given.

    Returns:
        Columns design, norm, depth, width, layers, `rate`, `n` seeds (other ones than those measured), `stopped`,
        `train_loss`, its mean over them after the last step (one that stopped counts as guessing), and whether it is
        `chosen`.

    Raises:
        InputError: the readings are not of this study.
    """
    measured = {(network.cell["spec"], *network.kind): network.cell["rate"] for network in _networks(readings)}
    rows = [
        {
            **network.told,
            "rate": network.cell["rate"],
            "n": len(network.seeds),
            "stopped": network.stopped,
            "train_loss": math.fsum(outcomes) / len(outcomes),
            "chosen": measured.get((network.cell["spec"], *network.kind)) == network.cell["rate"],
        }
        for network in _networks(readings, tuning=True)
        for outcomes in [network.outcomes("train_loss", network.steps).values()]
    ]
    counts = {"rate": pl.Float64, "n": pl.Int64, "stopped": pl.Int64, "train_loss": pl.Float64, "chosen": pl.Boolean}
    return pl.DataFrame(rows, schema={**_TOLD, **counts}).drop("cell")


def _geometric(values: Array) -> dict[str, Any]:
    """The geometric mean of positive values with its 95 % interval."""
    found = mean_interval(np.log(values))
    return {
        name: None if value is None else math.exp(value)
        for name, value in zip(("mean", "low", "high"), found, strict=True)
    }


# ------------------------------------------------------------------------------------------------------ the findings

_RULES = {
    "degradation": (
        f"training loss at the last step, deepest less shallowest network: degrades: the 95 % interval of the mean "
        f"difference is above {MARGIN:g}; does not degrade: it is below; else it cannot be told; a verdict needs "
        f"{PAIRS} pairs",
        "degradation: He et al. 2015, arXiv:1512.03385, Fig. 1; the margin is a convention of this instrument, fixed "
        "before measuring; interval: Student's t over seeds, paired",
    ),
    "shortcuts": (
        f"training loss at the last step, with shortcuts less without, at the most layers that both have: trains "
        f"better: the 95 % interval of the mean difference is below -{MARGIN:g}; trains no better: it is above that; "
        f"trains worse: it is above {MARGIN:g}; else it cannot be told; a verdict needs {PAIRS} pairs",
        "He et al. 2015, arXiv:1512.03385, Fig. 4 and table 2; margin and interval as for degradation",
    ),
    "gradient while training": (
        f"by which factor the gradient's norm changes from the last block back to the first, of every network the "
        f"median over the recorded steps: vanishing: the 95 % interval of the geometric mean over seeds is below "
        f"1/{FACTOR:g}; exploding: above {FACTOR:g}; healthy: between; does not vanish: above 1/{FACTOR:g}, but "
        f"whether it explodes cannot be told; dead: no gradient arrives in most seeds; a verdict needs {PAIRS} seeds",
        "He et al. 2015, arXiv:1512.03385, section 4.1, say that vanishing is unlikely; the factor is that of "
        "skipscope.diagnosis",
    ),
}


def findings(readings: Readings) -> list[Finding]:
    """What the readings show: whether designs degrade, whether shortcuts help, what the gradient did in the deepest.

    The verdicts are `degrades`, `does not degrade`; `trains better`, `trains no better`, `trains worse`; `vanishing`,
    `exploding`, `healthy`, `dead`; and `cannot tell`.

    Raises:
        InputError: the readings are not of this study.
    """
    networks = _networks(readings)
    lines = [line for line in of_one_kind(networks) if len(line) > 1]
    tried = _tried(readings)
    of_depth = {line[-1].cell["cell"]: _degradation(line, tried) for line in lines}
    found = list(of_depth.values())
    found += [_shortcuts(one, other, tried) for one, other in deepest(networks)]
    for row in gradients(readings).iter_rows(named=True):
        if row["cell"] in of_depth:
            network = next(each for each in networks if each.cell["cell"] == row["cell"])
            found.append(_explained(network, row, of_depth[row["cell"]]))
    return found


def _tried(readings: Readings) -> list[float]:
    """The rates that were tried, in order; none where there was no choice."""
    return sorted(rates(readings)["rate"].unique().to_list())


def _rate(tried: list[float], *networks: _Network) -> str:
    """What has to be known of the rates before a network is said to train badly."""
    if not tried:
        used = sorted({network.cell["rate"] for network in networks})
        return f" No other learning rate than {' and '.join(f'{rate:g}' for rate in used)} was tried."
    said = ""
    for network in networks:
        rate = network.cell["rate"]
        if rate in (tried[0], tried[-1]):
            end, further = ("smallest", "smaller") if rate == tried[0] else ("largest", "larger")
            chosen = f"The rate chosen for {network.spec.depth} layers ({network.cell['design']}), {rate:g},"
            said += f" {chosen} is the {end} that was tried: a {further} one may do better."
    return said


def _degradation(line: list[_Network], tried: list[float]) -> Finding:
    shallow, deep = line[0], line[-1]
    losses = difference(deep, shallow, "train_loss")
    errors = difference(deep, shallow, "train_error")
    verdict = degraded(losses, least=PAIRS)
    said = (
        f"From {shallow.spec.depth} to {deep.spec.depth} weight layers of {_subject(deep)}, the training loss after "
        f"{deep.steps} steps changes by {signed(losses)} nats, the training error by {signed(errors, 100)} "
        f"percentage points ({losses['n']} pairs).{within_margin(verdict, losses)}{stops(shallow, deep)}"
        f"{_rate(tried, deep)}"
    )
    return _finding("degradation", deep, verdict, _few(said, losses), losses_of(deep, shallow))


def _shortcuts(one: _Network, other: _Network, tried: list[float]) -> Finding:
    losses = difference(one, other, "train_loss")
    said = (
        f"At {one.spec.depth} weight layers, {_norm(one)}, the {one.cell['design']} design has a training loss that "
        f"differs by {signed(losses)} nats from that of the {other.cell['design']} design ({losses['n']} pairs)."
        f"{stops(one, other)}{_rate(tried, one, other)}"
    )
    verdict = helped(losses, least=PAIRS)
    return _finding("shortcuts", one, verdict, _few(said, losses), losses_of(one, other))


def _few(said: str, difference: Mapping[str, Any]) -> str:
    return said if difference["n"] >= PAIRS else f"{said} A verdict needs {PAIRS} pairs: train more seeds."


def _explained(network: _Network, row: Mapping[str, Any], degradation: Finding) -> Finding:
    """What the gradient did in the deepest networks of a design, and whether it can have been the cause."""
    verdict = _gradient_verdict(row)
    if row["factor"] is None:
        said = f"In none of {row['dead']} networks of {_of(network)} does a gradient arrive at the first block."
    else:
        said = (
            f"In the {network.spec.depth} layers of {_subject(network)}, the gradient's norm changes, from the last "
            f"block back to the first, by a factor of {number(row['factor'])}{_ends(row)}, in the median of the steps; "
            f"at single steps by {number(row['least'])} to {number(row['most'])}."
        )
        if row["dead"]:
            said += f" {row['dead']} more of {row['dead'] + row['n']} networks, in which none arrives, are left out."
    if degradation.verdict == "degrades":
        said += _CAUSES[verdict]
    return _finding("gradient while training", network, verdict, said, pl.DataFrame([dict(row)]))


_CAUSES = {
    "vanishing": " A vanishing gradient may explain that they degrade.",
    "dead": " That no gradient arrives may explain that they degrade.",
    "healthy": " They degrade, and a vanishing gradient does not explain it.",
    "exploding": " They degrade, and a vanishing gradient does not explain it: it grows.",
    "does not vanish": " They degrade, and a vanishing gradient does not explain it.",
    "cannot tell": " Whether a vanishing gradient explains that they degrade is not decided.",
}


def _gradient_verdict(row: Mapping[str, Any]) -> Verdict:
    if 2 * row["dead"] > row["n"] + row["dead"] and row["n"] + row["dead"] >= PAIRS:
        return "dead"
    if row["n"] < PAIRS:
        return "cannot tell"
    if row["high"] < 1 / FACTOR:
        return "vanishing"
    if row["low"] > FACTOR:
        return "exploding"
    if row["low"] > 1 / FACTOR:
        return "healthy" if row["high"] < FACTOR else "does not vanish"
    return "cannot tell"


def _finding(rule: str, network: _Network, verdict: Verdict, statement: str, evidence: pl.DataFrame) -> Finding:
    threshold, source = _RULES[rule]
    return Finding(
        rule=rule,
        cell=network.cell["cell"],
        subject=_of(network),
        verdict=verdict,
        statement=statement,
        evidence=evidence,
        threshold=threshold,
        source=source,
    )


def _subject(network: _Network) -> str:
    return f"the {network.cell['design']} design, {_norm(network)}"


def _of(network: _Network) -> str:
    return f"{_subject(network)}, {network.spec.depth} layers, width {network.cell['width']}"


def _norm(network: _Network) -> str:
    return "without a norm" if network.cell["norm"] == "none" else f"with {network.cell['norm']} norm"


def _ends(row: Mapping[str, Any]) -> str:
    return "" if row["low"] is None else f" (95 % interval {number(row['low'])} to {number(row['high'])})"
