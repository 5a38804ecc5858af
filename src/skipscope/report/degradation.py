"""The section on study `degradation`: whether deeper networks train worse, and what shortcuts do to that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from skipscope import charts, degradation
from skipscope.degradation import PAIRS
from skipscope.diagnosis import Finding
from skipscope.outcomes import MARGIN
from skipscope.readings import Readings
from skipscope.report.page import Block, Claim, Claims, Facts, Figure, Holds, Method, Prose, Section, Table
from skipscope.report.prose import (
    TRAINED,
    by_rule,
    capital,
    designs_told,
    holds_of,
    in_full,
    joined,
    limits,
    method,
    plural,
    seeds_of,
    versions_of,
)
from skipscope.spec import Spec
from skipscope.words import number, percent

__all__ = ["degradation_section"]

_ASKED = (
    "Does a network of more layers train worse? He et al. 2015 (arXiv:1512.03385, Fig. 1) found it of plain networks, "
    "in the training error, so that it is not overfitting, and named it degradation. A deeper network could do what a "
    "shallower one does, if its further layers did nothing."
)
_HOW = (
    f"A verdict rests on the training loss after the last step, deepest less shallowest network, seed by seed: both "
    f"have one draw and the same mini-batches. The loss is the cross-entropy, in nats (natural logarithms). "
    f"Degradation needs the whole 95 % interval of the mean difference above {MARGIN:g} nats, and no degradation the "
    f"whole interval below it; the margin was fixed beforehand, at a right class that is 5 % less probable. A loss "
    f"above that of guessing counts as that of guessing, and so does one that stopped being a number."
)
_RATE = (
    "Every network has the learning rate that left it the lowest training loss, in the mean over other seeds, which "
    "are used for nothing else."
)
_GRADIENT = (
    "Did the gradient vanish? Two things are drawn while the networks train: the norm of the gradient by all "
    "parameters, and by which factor the gradient's norm changes on its way from the last block back to the first."
)
_INTERVALS = "95 % intervals of the mean over seeds, by Student's t"


def degradation_section(readings: Readings, *, anchor: str = "degradation") -> Section:
    """The section on readings of study `degradation`.

    Raises:
        InputError: the readings are not of this study.
    """
    findings = degradation.findings(readings)
    claims = tuple(claim for norm in _norms(readings) for claim in _claims(_of(findings, readings, norm), norm))
    blocks: list[Block] = [
        Prose((_ASKED, _drawn(readings))),
        designs_told(readings),
        Prose((*((_RATE,) if degradation.rates(readings).height else ()), _HOW)),
        _curves(readings),
        _by_depth(readings),
        *_differences(readings),
        Prose((_GRADIENT,), "And the gradient?"),
        *_gradient_figure(readings, "gradient_norm"),
        *_gradient_figure(readings, "factor"),
        _gradients(readings),
    ]
    if claims:
        blocks += [Prose((), "What is commonly said, and what was measured"), Claims(claims)]
    blocks += [limits(*_limits(readings)), *in_full(findings)]
    return Section(
        title="Degradation",
        anchor=anchor,
        answer=_answer(findings, readings),
        blocks=(*blocks, *_rates(readings), _method(readings)),
        versions=versions_of(readings),
        about="Do deeper networks train worse, do shortcuts mend it, and is it the gradient?",
        part=TRAINED,
    )


def _limits(readings: Readings) -> tuple[str, ...]:
    steps = joined(f"{step:,}" for step in _measured(readings).cells["steps"].unique().sort())
    return (
        f"The loss is that after {steps} steps, not where training would end: what is called degradation here may be "
        "slowness. He et al. 2015 trained for 64,000 steps and more, and conjecture that plain networks converge "
        "exponentially slowly.",
        "These are small fully connected networks on small data; the paper's are convolutional, on images. That a "
        "vanishing gradient does not explain what is seen leaves open what does.",
    )


def _measured(readings: Readings) -> Readings:
    """Without the networks that only served to choose a rate."""
    cells = readings.cells.filter(~pl.col("tuning"))["cell"].to_list()
    return readings.where(pl.col("cell").is_in(cells))


def _norms(readings: Readings) -> list[str]:
    return list(dict.fromkeys(degradation.final(readings)["norm"]))


def _of(findings: Iterable[Finding], readings: Readings, norm: str) -> list[Finding]:
    cells = set(readings.cells.filter(norm=norm)["cell"])
    return [finding for finding in findings if finding.cell in cells]


def _with_norm(norm: str) -> str:
    return "without normalisation" if norm == "none" else f"with {norm} normalisation"


# ---------------------------------------------------------------------------------------------------------- the words


def _drawn(readings: Readings) -> str:
    measured = _measured(readings)
    cells = measured.cells
    layers = sorted({Spec.from_json(spec).depth for spec in cells["spec"]})
    data = joined(dict.fromkeys(str(name).partition(",")[0] for name in cells["data"]))
    steps = joined(str(step) for step in cells["steps"].unique().sort())
    return (
        f"Here networks of {joined(map(str, layers))} weight layers, width "
        f"{joined(map(str, cells['width'].unique().sort()))}, learn {data} for {steps} steps, "
        f"{joined(map(_with_norm, _norms(readings)))}; {seeds_of(measured)}. The networks:"
    )


def _answer(findings: list[Finding], readings: Readings) -> str:
    """By norm: which designs degrade and which do not, and what the gradient did where they do."""
    told = [
        capital(f"{_with_norm(norm)}, {said}.")
        for norm in _norms(readings)
        if (said := _answered(_of(findings, readings, norm), readings))
    ]
    return " ".join(told) or "There is one depth alone, so nothing to compare."


def _answered(findings: list[Finding], readings: Readings) -> str:
    designs = dict(readings.cells.select("cell", "design").iter_rows())
    judged = [finding for finding in findings if finding.rule == "degradation"]
    found = by_rule(judged, "degradation", designs)
    said = [
        f"{_networks(found[verdict])} {words} ({_changes([f for f in judged if f.verdict == verdict])})"
        for verdict, words in (
            ("degrades", "train worse the deeper they are"),
            ("does not degrade", f"do not, or by less than {MARGIN:g} nats"),
            ("cannot tell", "cannot be judged from these draws"),
        )
        if verdict in found
    ]
    cells = {finding.cell for finding in findings if finding.verdict == "degrades"}
    causes = by_rule([f for f in findings if f.cell in cells], "gradient while training", designs)
    why = [f"{words} in {_networks(causes[verdict])}" for verdict, words in _DID.items() if verdict in causes]
    return "; ".join(said) + (f". Where training is worse, the gradient {joined(why)}" if why else "")


def _changes(findings: Sequence[Finding]) -> str:
    """By how much the training loss of the deepest networks is above that of the shallowest."""
    losses = [finding.evidence.drop("seed").to_numpy() for finding in findings]
    means = [float((each[:, 0] - each[:, 1]).mean()) for each in losses if len(each)]
    return f"training loss {joined(_signed(mean) for mean in means)} nats"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value, 2)}"


_DID = {
    "vanishing": "vanished",
    "dead": "did not arrive at all",
    "exploding": "grew on its way back",
    "healthy": "did not vanish",
    "does not vanish": "did not vanish",
    "cannot tell": "cannot be judged",
}


def _networks(designs: Sequence[str]) -> str:
    """As a reader knows them who has not read which designs there are."""
    named = {"matched": "residual (matched)", "twin": "plain (twin)"}
    return f"{joined(dict.fromkeys(named.get(design, design) for design in designs))} networks"


# ---------------------------------------------------------------------------------------------------------- the claims


def _claims(findings: list[Finding], norm: str) -> list[Claim]:
    """What is said, held against the findings of one norm."""
    of_rule = {rule: [f for f in findings if f.rule == rule] for rule in dict.fromkeys(f.rule for f in findings)}
    degraded = {finding.cell: finding.verdict for finding in of_rule.get("degradation", [])}
    claims = []
    for finding in of_rule.get("degradation", []):
        who, how, right = _PLAIN if _is_plain(finding) else _RESIDUAL
        claims.append(_claim(f"{who} networks train {how} the deeper they are, {_with_norm(norm)}.", finding, right))
    for finding in of_rule.get("shortcuts", []):
        claims.append(
            _claim(f"Deep networks train better with shortcuts, {_with_norm(norm)}.", finding, "trains better")
        )
    for finding in of_rule.get("gradient while training", []):
        if degraded.get(finding.cell) == "degrades" and _is_plain(finding):
            claims.append(_claim(f"It is the gradient that vanishes, {_with_norm(norm)}.", finding, "vanishing"))
    return claims


_PLAIN = ("Plain", "worse", "degrades")
_RESIDUAL = ("Residual", "no worse", "does not degrade")


def _is_plain(finding: Finding) -> bool:
    """Whether it is about networks without shortcuts."""
    return finding.subject.startswith(("the plain ", "the twin "))


def _claim(said: str, finding: Finding, right: str) -> Claim:
    holds: Holds = holds_of({finding.verdict: [finding.subject]}, right=right)
    if finding.verdict == "dead":  # what killed the gradient is another question
        holds = "unknown"
    return Claim(said, holds, finding.statement)


# ------------------------------------------------------------------------------------------------- charts and tables


def _curves(readings: Readings) -> Figure:
    table = charts.learning_curves_data(readings)
    return Figure(
        name="Training and test error over the steps",
        chart=charts.learning_curves(readings),
        caption=(
            "Thin, dashed: training error; bold: test error, of the whole sets in inference; the number at the end of "
            f"a line is that of weight layers; {_INTERVALS}."
        ),
        table=table.select(
            pl.col("panel").alias("network"),
            "layers",
            pl.col("part").alias("of"),
            "step",
            pl.col("n").alias("seeds"),
            pl.col("mean").alias("error"),
            pl.col("low").alias("95 % interval|from"),
            pl.col("high").alias("95 % interval|to"),
        ),
    )


def _by_depth(readings: Readings) -> Figure:
    table = degradation.final(readings).filter(pl.col("quantity") != "test_loss")
    named = {"train_loss": "training loss", "train_error": "training error", "test_error": "test error"}
    shown = table.pivot("quantity", index=["cell", "design", "norm", "layers", "rate", "n", "stopped"], values="mean")
    ranges = table.with_columns(between=pl.struct("quantity", "low", "high").map_elements(_interval, pl.String)).pivot(
        "quantity", index="cell", values="between"
    )
    joined_up = shown.join(ranges, on="cell", suffix=" interval", maintain_order="left")
    columns = [
        column
        for quantity, title in named.items()
        for column in (
            pl.col(quantity).map_elements(_told(quantity), pl.String).alias(f"{title}|mean"),
            pl.col(f"{quantity} interval").alias(f"{title}|95 % interval"),
        )
    ]
    return Figure(
        name="Error after the last step, by depth",
        chart=charts.error_by_depth(readings),
        caption=f"Mean over seeds; {_INTERVALS}. Networks that stopped count as guessing.",
        table=joined_up.select(
            "design",
            "norm",
            "layers",
            pl.col("rate").map_elements(lambda rate: f"{rate:g}", pl.String),
            pl.col("n").alias("seeds"),
            "stopped",
            *columns,
        ),
    )


def _told(quantity: str) -> Any:
    return _share if quantity.endswith("_error") else number


def _share(error: float) -> str:
    return f"{100 * error:.1f} %"


def _interval(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return "–"
    told = _told(row["quantity"])
    return f"{told(row['low'])} to {told(row['high'])}"


def _differences(readings: Readings) -> list[Block]:
    table = degradation.paired(readings).filter(quantity="train_loss")
    if table.is_empty():
        return []
    rows = [
        {
            "network": f"{row['design']}, {row['layers']} layers",
            "minus": f"{row['against']}, {row['against_layers']} layers",
            "norm": row["norm"],
            "pairs": row["n"],
            "training loss|difference": row["mean"],
            "training loss|95 % interval": _interval(row),
        }
        for row in table.sort("compared", maintain_order=True).iter_rows(named=True)
    ]
    caption = f"Differences of the training loss, pair by pair, in nats; margin {MARGIN:g}, of {PAIRS} pairs at least."
    return [Table(pl.DataFrame(rows, infer_schema_length=None), caption)]


def _gradient_figure(readings: Readings, quantity: str) -> list[Block]:
    table = charts.gradient_curves_data(readings, quantity)
    if table.is_empty():  # no gradient that arrives is finite
        return []
    chart = charts.gradient_curves(readings, quantity)
    what = {
        "gradient_norm": "Norm of the gradient by all parameters, of one fixed mini-batch of the training part",
        "factor": "Norm of the gradient at the first block's input over that at the last block's output; dashed: 1",
    }[quantity]
    figure = Figure(
        name=chart.to_dict()["title"]["text"],
        chart=chart,
        caption=f"{what}; geometric mean over the seeds in which a gradient arrives, with its 95 % interval.",
        table=table.select(
            pl.col("panel").alias("network"),
            "layers",
            "step",
            pl.col("n").alias("seeds"),
            pl.col("mean").alias("geometric mean"),
            pl.col("low").alias("95 % interval|from"),
            pl.col("high").alias("95 % interval|to"),
        ),
    )
    return [figure]


def _gradients(readings: Readings) -> Table:
    shown = degradation.gradients(readings).select(
        "design",
        "norm",
        "layers",
        pl.col("n").alias("seeds|alive"),
        pl.col("dead").alias("seeds|none arrives"),
        pl.col("norm_of_all").alias("gradient norm"),
        pl.col("factor").alias("first block / last|median step"),
        pl.col("low").alias("first block / last|from"),
        pl.col("high").alias("first block / last|to"),
        pl.col("began").alias("first block / last|untrained"),
        pl.col("least").alias("first block / last|least"),
        pl.col("most").alias("first block / last|most"),
    )
    caption = (
        "The gradient while training: of every network the median over the recorded steps, and of these the geometric "
        "mean over seeds with its 95 % interval; untrained, and the least and the most at any recorded step."
    )
    return Table(shown, caption)


def _rates(readings: Readings) -> list[Block]:
    table = degradation.rates(readings)
    if table.is_empty():
        return []
    shown = table.sort("norm", "design", "layers", "rate").select(
        "design",
        "norm",
        "layers",
        pl.col("rate").map_elements(lambda rate: f"{rate:g}", pl.String),
        pl.col("n").alias("seeds"),
        "stopped",
        pl.col("train_loss").alias("training loss, median"),
        pl.when("chosen").then(pl.lit("chosen")).otherwise(pl.lit("")).alias("rate chosen"),
    )
    seeds = plural(int(str(table["n"].max())), "seed")
    caption = f"How the learning rates were chosen, on {seeds} that are used for nothing else."
    return [Table(shown, caption, folded="How the learning rates were chosen, as a table")]


def _method(readings: Readings) -> Method:
    """The networks, and how they were trained."""
    measured = _measured(readings)
    cells = measured.cells
    facts = (
        ("Training", f"stochastic gradient descent on cross-entropy; {joined(cells['recipe'].unique().sort())}"),
        ("Learning rates", joined(f"{rate:g}" for rate in cells["rate"].unique().sort())),
        ("Guessing", f"{percent(1 - 1 / _classes(readings))} wrong, a loss of ln {_classes(readings)}"),
    )
    return Method((*method(measured).blocks, Facts(facts)))


def _classes(readings: Readings) -> int:
    return int(Spec.from_json(readings.cells["spec"][0]).head.features)
