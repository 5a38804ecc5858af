"""Verdicts, each with the rule, the threshold, the evidence rows and the source it rests on.

A verdict on a *design* rests on many seeds: one draw of a random network says little (docs, "What theory predicts"). A
verdict on *this* network, when there is one seed, rests on its depth profile with an interval over the samples of the
batch, and says so. Rules are relative and two-sided: they ask by which factor the norm changes over the body of the
network, never whether a number is small. Between "it does" and "it does not" there is "cannot tell".

What decides between decay and spread: the logarithm of the squared norm ratio has a mean mu and a variance s2 over
seeds. The ratio is a product of many factors, and were it log-normal, ln E[ratio^2] would be mu + s2/2 (an average of
the ratios themselves would hang on the few largest draws). A plain He network keeps the mean of the square while mu
falls as -s2/2: its typical draw shrinks because draws spread out, and that is no vanishing. In narrow and deep networks
the logarithm has a long left tail, which puts mu + s2/2 above ln E[ratio^2], never far below it: it is a bound. So
*vanishing* is said only where the upper end of its interval is far below 0, *exploding* of the median draw, and *spread
out* of the range between draws. All factors are over the whole body: how deep a network must be for a verdict depends
on its factor a block, which every statement names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skipscope.errors import InputError
from skipscope.intervals import Z95
from skipscope.ranges import Measured, reconsidered, unreached, without_growth
from skipscope.readings import Readings, require_readings
from skipscope.spec import Spec
from skipscope.summary import median_ranks, with_median_interval
from skipscope.words import counted, number, percent

__all__ = ["RULES", "Finding", "Rule", "diagnose", "first_nonfinite"]

Verdict = Literal[
    "vanishing",
    "exploding",
    "spread out",
    "dead",
    "healthy",
    "does not vanish",
    "cannot tell",
    "law holds",
    "law does not hold",
    "draws agree",
    "draws disagree",
    "contradicted",
    "directions lost",
    "near the identity",
    "far from the identity",
    "kept",
    "shattered",
    "degrades",
    "does not degrade",
    "trains better",
    "trains no better",
    "trains worse",
    "holds",
    "does not hold",
    "holds only if",
    "quoted",
]

FACTOR = 10.0
"""By how much the norm may change from one end of the body to the other."""

SEEDS = 20
"""Seeds that a verdict on a design needs: below, its 5 and 95 % quantiles are its extremes."""

SAMPLES = 30
"""Samples that a verdict on what is dead needs: a unit silent on 30 is active on fewer than 3/30 of inputs (95 %)."""

DEAD = 0.5
"""Share of a layer's units that must be silent for the layer to be called dead."""


@dataclass(frozen=True)
class Finding:
    """A verdict and what it rests on.

    Attributes:
        rule: the rule that gave it.
        cell: the cell it is about.
        subject: the design or the network, in words.
        verdict: one of `Verdict`.
        statement: one or two sentences with the numbers.
        evidence: the rows (of readings, or computed from them) that it rests on.
        threshold: what would have to change for another verdict.
        source: where rule and threshold come from.
    """

    rule: str
    cell: str
    subject: str
    verdict: Verdict
    statement: str
    evidence: pl.DataFrame
    threshold: str
    source: str


Judgement = tuple[Verdict, str, pl.DataFrame]  # verdict, statement, evidence


@dataclass(frozen=True)
class Rule:
    """A question that is asked of every cell; it answers with findings, or with none where it does not apply."""

    name: str
    about: str
    ask: Callable[[_Cell], Iterator[Finding]]


@dataclass(frozen=True)
class _Cell:
    """One cell of some readings, with what the rules say of it."""

    readings: Readings
    cell: str

    @cached_property
    def rows(self) -> pl.DataFrame:
        return self.readings.rows.filter(pl.col("cell") == self.cell)

    @cached_property
    def factors(self) -> dict[str, Any]:
        return self.readings.cells.filter(pl.col("cell") == self.cell).row(0, named=True)

    @property
    def blocks(self) -> int:
        """How many blocks the body has: as is told, for a selection of readings may leave sites out."""
        if self.factors["spec"]:
            return len(Spec.from_json(self.factors["spec"]).body)
        if self.factors.get("blocks") is not None:
            return int(self.factors["blocks"])
        sites = self.readings.sites.filter(pl.col("cell") == self.cell)
        return max(sites["block"], default=0)

    @property
    def subject(self) -> str:
        row = self.factors
        sent = {"gaussian": "", "": "", None: "", "ones": ", output gradient of ones"}.get(
            row["cotangent"], f", {row['cotangent']}"
        )
        edit = f", edited ({row['edit']})" if row["edit"] else ""
        if self.own:
            return f"the model {row['design']} ({row['depth']} weight layers{sent}{edit})"
        if row["design"]:
            return f"the {row['design']} design at depth {row['depth']}, width {row['width']}{sent}{edit}"
        return f"the network of {row['depth']} layers, width {row['width']}{sent}{edit}"

    @property
    def own(self) -> bool:
        """Whether it is a model of somebody's own, which no spec describes: its class stands for the design."""
        return not self.factors["spec"] and "torch" in self.readings.meta

    @property
    def gated(self) -> bool:
        """Whether units may be off: whether an activation is a ReLU, or is not known."""
        if not self.factors["spec"]:
            return True
        spec = Spec.from_json(self.factors["spec"])
        return "relu" in {spec.stem.activation, *(stage.activation for stage in spec.stages)}

    @cached_property
    def draws(self) -> int:
        """How many draws were measured: one in which nothing comes out at an end has no growth in that direction."""
        return self.of(*_DIRECTIONS)["seed"].n_unique()

    @cached_property
    def measured(self) -> Measured:
        """What of a model of somebody's own is looked at beside its growth."""
        sites = self.readings.sites.filter(pl.col("cell") == self.cell)
        return Measured(self.rows, sites, self.subject, self.blocks, self.factors["batch"] or 0, FACTOR, SAMPLES)

    def of(self, *quantities: str) -> pl.DataFrame:
        return self.rows.filter(pl.col("quantity").is_in(quantities))


def diagnose(readings: Readings) -> list[Finding]:
    """Ask every rule of `RULES` about every cell.

    Raises:
        InputError: there is nothing in the readings that a rule could judge.
    """
    require_readings(readings)
    cells = [_Cell(readings, cell) for cell in readings.cells["cell"]]
    findings = [finding for cell in cells for rule in RULES for finding in rule.ask(cell)]
    if not findings:
        raise InputError(
            "these readings hold nothing that can be diagnosed: measure forward_growth, backward_growth or dead "
            "(they are in QUANTITIES) at the site 'network' or at ReLU layers."
        )
    return findings


# ------------------------------------------------------------------------------------------ signal and gradient

_DIRECTIONS = {"forward_growth": "signal", "backward_growth": "gradient"}

_THRESHOLD = (
    "factors of the norm over the whole body; vanishing: even the root mean square over draws is below "
    f"1/{FACTOR:g} (by an upper bound: mean and half the variance of the logarithm, upper end of its 95 % interval); "
    f"exploding: the median draw is above {FACTOR:g}, with its whole 95 % interval, or most draws are not finite; "
    f"spread out: neither, and the 5 and 95 % quantiles of draws differ by more than a factor of {FACTOR:g}; healthy: "
    f"none of these, and the interval of the median is within 1/{FACTOR:g} to {FACTOR:g}; dead: nothing arrives in "
    "most draws; for one network the same is asked of its factor, with its 95 % interval over samples; a model of "
    "one's own is healthy only where parts of its body, and gradients of like layers, keep within the factor too"
)
_SOURCE = (
    f"a factor of {FACTOR:g} in norm over the whole body: a convention of this instrument; mean and spread told apart: "
    "Hanin & Nica 2018, arXiv:1812.05994; interval of a log-normal mean: Cox's method, Zhou & Gao 1997; interval of a "
    "median: by ranks, without assumption; interval over samples: jackknife, Efron 1982"
)


def _signal(cell: _Cell) -> Iterator[Finding]:
    for quantity, what in _DIRECTIONS.items():
        growth = cell.of(quantity)
        judged = _judge(cell, quantity, what, growth) if not growth.is_empty() else None
        if cell.own:
            judged = _of_a_model(cell, what, judged)
        elif judged is None:
            judged = _nothing_enters(cell, what)
        if judged is not None:
            verdict, said, evidence = judged
            yield Finding(
                rule=what,
                cell=cell.cell,
                subject=cell.subject,
                verdict=verdict,
                statement=said,
                evidence=evidence,
                threshold=_THRESHOLD,
                source=_SOURCE,
            )


def _of_a_model(cell: _Cell, what: str, judged: Judgement | None) -> Judgement:
    """Of a model of somebody's own: what is said of its ends, if what was measured beside them agrees."""
    if judged is None:
        return without_growth(what, cell.measured)
    other = reconsidered(judged[0], what, cell.measured)
    return judged if other is None else (other[0], f"{judged[1]} {other[1]}", other[2])


def _nothing_enters(cell: _Cell, what: str) -> Judgement | None:
    """Where a direction has no growth in any draw: dead, if it was looked for and the signal did not overflow."""
    looked = not cell.of("activation_grad_nonfinite", "weight_grad_first_last", "backward_gain").is_empty()
    signal = cell.of("forward_growth")
    if what != "gradient" or not looked or signal.is_empty() or not signal["value"].is_finite().all():
        return None
    said = f"In none of {cell.draws} draws does any gradient reach the body of {cell.subject}."
    return "dead", said, _counts(cell, what, 0, cell.draws)


def _judge(cell: _Cell, quantity: str, what: str, growth: pl.DataFrame) -> Judgement:
    """Verdict, statement and evidence on one direction of one cell, from the growth a block of every seed."""
    broken = growth.filter(~pl.col("value").is_finite())
    if 2 * broken.height > cell.draws:
        said = (
            f"In {broken.height} of {cell.draws} draws the {what} of {cell.subject} is no finite number at an end of "
            "the body."
        )
        return "exploding", said, broken
    alive = growth.filter(pl.col("value").is_finite(), pl.col("value") > 0)
    dead = cell.draws - alive.height - broken.height
    if cell.blocks == 0:
        said = f"How many blocks {cell.subject} has is not in these readings, so how far the {what} goes is not known."
        return "cannot tell", said, growth
    if share := _dead_draws(cell, dead):
        said = (
            f"In {dead} of {cell.draws} draws of {cell.subject} nothing of the {what} arrives at the end of the body: "
            f"{'every unit of a layer is off, or ' if cell.gated else ''}what is left is below the smallest "
            f"{cell.factors['dtype'] or 'number'}."
        )
        # Without gates nothing dies: what is 0 has become too small.
        verdict: Verdict = "vanishing" if share == "dead" and not cell.gated else share
        return verdict, said, _counts(cell, what, alive.height, dead)
    if cell.draws == 1 and alive.height == 1:
        return _judge_network(cell, quantity, what, alive)
    if alive.height < SEEDS:
        said = (
            f"The draws of {cell.subject} in which any {what} arrives, {alive.height}, are too few for a verdict on a "
            f"design ({SEEDS} at least): measure more seeds, or one network on {SAMPLES} samples."
        )
        return "cannot tell", said, _counts(cell, what, alive.height, dead)
    return _judge_draws(cell, what, alive, dead, broken.height)


def _dead_draws(cell: _Cell, dead: int) -> Literal["dead", "cannot tell"] | None:
    """Whether the median draw is dead, by its 95 % interval: it is, it may be, it is not (None).

    One network is, where its batch has samples enough.
    """
    if cell.draws == 1:
        return "dead" if dead and (cell.factors["batch"] or 0) >= SAMPLES else None
    ranks = median_ranks(cell.draws)
    if ranks is None or cell.draws < SEEDS or dead <= ranks[0]:
        return None
    return "dead" if dead > ranks[1] else "cannot tell"


def _counts(cell: _Cell, what: str, alive: int, dead: int) -> pl.DataFrame:
    return pl.DataFrame({"what": what, "blocks": cell.blocks, "seeds": alive, "dead": dead})


def _judge_draws(cell: _Cell, what: str, alive: pl.DataFrame, dead: int, broken: int) -> Judgement:
    """On a design, from at least `SEEDS` draws."""
    factors = _draws(alive["value"].log().to_numpy() * cell.blocks)
    shown = {name: number(value) for name, value in factors.items()}
    block = math.exp(2 * math.log(factors["median"]) / cell.blocks)
    said = (
        f"Over {counted(cell.blocks, 'block')} the {what} of {cell.subject} changes by a factor of {shown['median']} "
        f"in the median draw (95 % interval {shown['median_low']} to {shown['median_high']}, {alive.height} seeds; "
        f"{number(block)} a block in the square), 90 % of draws between {shown['q05']} and {shown['q95']}."
    )
    for count, why in ((dead, "in which nothing arrives"), (broken, "that are not finite")):
        if count:
            said += f" {count} more draws {why} are left out."
    evidence = _counts(cell, what, alive.height, dead).with_columns(
        pl.lit(value).alias(n) for n, value in factors.items()
    )
    verdict: Verdict
    if factors["rms_bound"] < 1 / FACTOR:
        verdict = "vanishing"
    elif factors["median_low"] > FACTOR:
        verdict = "exploding"
    elif factors["q95"] > FACTOR * factors["q05"]:
        verdict = "spread out"
    elif factors["median_low"] > 1 / FACTOR and factors["median_high"] < FACTOR:
        verdict = "healthy"
    else:
        verdict = "cannot tell"
    return verdict, said, evidence


def _draws(logs: NDArray[np.float64]) -> dict[str, float]:
    """Factors on the norm over the whole body, from ln(squared ratio) of every draw.

    The quantiles, both ends of the 95 % interval of the median, and an upper bound of the root mean square: the upper
    end of Cox's interval of a log-normal mean, which overstates it where the logarithm has a long left tail.
    """
    n, variance = len(logs), float(logs.var(ddof=1))
    half = Z95 * math.sqrt(variance / n + variance**2 / (2 * (n - 1)))
    levels = dict(zip(("q05", "median", "q95"), np.quantile(logs, [0.05, 0.5, 0.95]), strict=True))
    low, high = np.sort(logs)[list(median_ranks(n) or (0, -1))]
    bound = float(logs.mean()) + variance / 2 + half
    found = {"median_low": low, "median_high": high, "rms_bound": bound}
    return {name: _root(value) for name, value in (levels | found).items()}


def _judge_network(cell: _Cell, quantity: str, what: str, alive: pl.DataFrame) -> Judgement:
    """On this network, where there is one seed: from the interval over the samples of its batch."""
    bounds = cell.of(f"{quantity}_low", f"{quantity}_high").filter(pl.col("value").is_not_nan())
    if bounds.height != 2:
        said = (
            f"There is one draw of {cell.subject}, and no interval over samples: measure {SEEDS} seeds for a verdict "
            f"on the design, or this network on {SAMPLES} samples."
        )
        return "cannot tell", said, alive
    factors = [_factor(value, cell.blocks) for value in sorted([*bounds["value"], alive["value"][0]])]
    low, centre, high = factors
    verdict: Verdict = "cannot tell"
    if low > FACTOR:
        verdict = "exploding"
    elif high < 1 / FACTOR:
        verdict = "vanishing"
    elif low > 1 / FACTOR and high < FACTOR:
        verdict = "healthy"
    change = (
        f"the {what} changes by a factor of {number(centre)} over {counted(cell.blocks, 'block')} (95 % interval over "
        f"its {cell.factors['batch']} samples {number(low)} to {number(high)})"
    )
    if cell.own:
        said = f"In {cell.subject} {change}. That is of this model as it is now, and not of other draws of its weights."
    else:
        said = (
            f"In this one network (seed {alive['seed'][0]}) {change}. That says nothing about other draws of the "
            f"design: measure {SEEDS} seeds for that."
        )
    return verdict, said, pl.concat([alive, bounds])


def _factor(growth: float, blocks: int) -> float:
    """The factor on the norm over the whole body, from the growth a block of its square; 0 is the least factor."""
    return _root(math.log(growth) * blocks if growth > 0 else -math.inf)


def _root(log_square: float) -> float:
    """The factor on the norm, from the logarithm of the factor on its square; held within the range of floats."""
    return math.exp(max(-700.0, min(700.0, log_square / 2)))


# ----------------------------------------------------------------------------------------------------- dead units

_DEAD = ("dead", "dead_low", "dead_high", "samples")


def _dead(cell: _Cell) -> Iterator[Finding]:
    found = cell.of(*_DEAD)
    if not set(_DEAD) <= set(found["quantity"]):
        return
    table = _dead_by_site(found)
    if table.is_empty():  # no layer has all four
        return
    worst = table.row(0, named=True)
    seeds = found["seed"].n_unique()
    over = f"of the median over {seeds} seeds" if seeds >= SEEDS else "over units"
    samples = int(worst["samples"])
    said = (
        f"Of the units of {worst['site']}, the layer of {cell.subject} with the most dead ones, "
        f"{percent(worst['dead'])} were positive on none of {samples} {'sample' if samples == 1 else 'samples'} (95 % "
        f"interval {over} {percent(worst['dead_low'])} to {percent(worst['dead_high'])})"
    )
    verdict: Verdict = "cannot tell"
    if samples < SAMPLES:
        said += f"; a verdict needs {SAMPLES} samples at least."
    else:
        said += f"; such a unit is active on fewer than {number(300 / samples, 2)} % of inputs."
        verdict = "dead" if worst["dead_low"] > DEAD else "healthy" if worst["dead_high"] < DEAD else verdict
    yield Finding(
        rule="dead units",
        cell=cell.cell,
        subject=cell.subject,
        verdict=verdict,
        statement=said,
        evidence=table.head(5),
        threshold=f"dead: more than {percent(DEAD)} of the units of a layer, with the whole 95 % interval",
        source=(
            "half a layer, as the field's rules have it (SageMaker Debugger's default); interval: of the median over "
            "seeds by ranks, for few seeds over units, Wilson 1927"
        ),
    )


def _dead_by_site(found: pl.DataFrame) -> pl.DataFrame:
    """Columns site, dead, dead_low, dead_high, samples; the site with the most dead units first.

    Medians over seeds. The bounds are those of the median where the seeds are many: a design's share is known better
    from many layers of few units than from one. Else they are Wilson's, over the units of the layer.
    """
    medians = found.group_by("site", "quantity").agg(pl.col("value").median())
    table = medians.pivot("quantity", index="site", values="value").drop_nulls()
    if found["seed"].n_unique() >= SEEDS:
        shares = found.filter(pl.col("quantity") == "dead").group_by("site").agg(_sorted=pl.col("value").sort())
        bounds = with_median_interval(shares, "_sorted", "dead_low", "dead_high")
        table = table.drop("dead_low", "dead_high").join(bounds, on="site").drop_nulls()
    return table.sort("dead", "site", descending=[True, False])


# ---------------------------------------------------------------------------------------------------- non-finite


def first_nonfinite(readings: Readings) -> pl.DataFrame:
    """Where nan or inf first appears, for every cell and seed that has any: in the forward pass, else the backward.

    Returns:
        Columns cell, seed, pass (`forward` or `backward`), site; no rows where everything is finite.
    """
    require_readings(readings)
    backward = pl.col("quantity") == "activation_grad_nonfinite"
    bad = readings.rows.filter((pl.col("value") > 0) & pl.col("quantity").str.ends_with("_nonfinite"))
    placed = bad.join(readings.sites.select("cell", "site", "order"), on=["cell", "site"]).with_columns(
        pl.when(backward).then(pl.lit("backward")).otherwise(pl.lit("forward")).alias("pass"),
        # The backward pass comes after the forward pass, and goes from the last site to the first.
        turn=pl.when(backward).then(-pl.col("order")).otherwise(pl.col("order")),
    )
    ordered = placed.sort("cell", "seed", "pass", "turn", descending=[False, False, True, False])
    first = ordered.group_by("cell", "seed", maintain_order=True).first()
    return first.select("cell", "seed", "pass", "site")


def _nonfinite(cell: _Cell) -> Iterator[Finding]:
    counts = cell.of("activation_nonfinite", "activation_grad_nonfinite")
    if counts.is_empty():
        return
    where = first_nonfinite(cell.readings.select(cell=cell.cell))
    if where.is_empty():
        return
    sites = where.group_by("pass", "site").len("seeds").sort("seeds", "site", descending=[True, False])
    top = sites.row(0, named=True)
    yield Finding(
        rule="non-finite",
        cell=cell.cell,
        subject=cell.subject,
        verdict="exploding",
        statement=(
            f"nan or inf appears in {where.height} of {counts['seed'].n_unique()} draws of {cell.subject}; in "
            f"{top['seeds']} of them first at {top['site']}, in the {top['pass']} pass."
        ),
        evidence=where,
        threshold="any entry that is nan or inf",
        source="definition",
    )


# ---------------------------------------------------------------------------------------------------- not trained


def _unreached(cell: _Cell) -> Iterator[Finding]:
    found = unreached(cell.measured)
    if found is not None:
        yield Finding(
            rule="unreached",
            cell=cell.cell,
            subject=cell.subject,
            verdict=found[0],
            statement=found[1],
            evidence=found[2],
            threshold="any layer with parameters that require a gradient and get none, but for those that were skipped",
            source="definition",
        )


RULES: tuple[Rule, ...] = (
    Rule("signal and gradient", "does the norm decay, grow or spread from one end of the body to the other?", _signal),
    Rule("dead units", "are units of a ReLU layer never positive?", _dead),
    Rule("non-finite", "where does nan or inf first appear?", _nonfinite),
    Rule("unreached", "are there layers to be trained that no gradient reaches?", _unreached),
)
