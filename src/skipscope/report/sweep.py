"""The section on study `sweep`: what depth does to signal and gradient, and what one draw would have said."""

from __future__ import annotations

import polars as pl

from skipscope import charts, trends
from skipscope.diagnosis import Finding
from skipscope.errors import InputError
from skipscope.readings import Readings
from skipscope.report.page import Block, Claim, Claims, Facts, Figure, Holds, Method, Prose, Section, Table
from skipscope.report.prose import (
    QUANTILE_NAMES,
    UNTRAINED,
    VERBS,
    bands,
    by_rule,
    capital,
    depths_of,
    designs_told,
    holds_of,
    in_full,
    joined,
    law_lines,
    limits,
    listed,
    method,
    networks_of,
    seeds_of,
    sent,
    versions_of,
)
from skipscope.spec import Spec
from skipscope.summary import Summary, summarise
from skipscope.words import number, percent

__all__ = ["sweep_section"]


def sweep_section(readings: Readings, *, anchor: str = "sweep") -> Section:
    """The section on readings of study `sweep`.

    Raises:
        InputError: the readings hold no gain of a whole network.
    """
    findings = trends.findings(readings)
    summary = summarise(readings)
    named = charts.kinds(readings)
    counted = {"blocks", "kept"} <= set(readings.cells.columns)  # of models of somebody's own, which have no spec
    own = counted and not (readings.cells["spec"] != "").any()
    blocks: list[Block] = [
        Prose((_ASKED_OF_MODELS if own else _ASKED,)),
        *([] if own else [designs_told(readings)]),
        Prose((_made(readings) if own else _drawn(readings),)),
    ]
    said = len(blocks)
    for quantity, (heading, about) in _PROFILES.items():
        if quantity in set(summary.table["quantity"]):
            blocks += _against_depth(summary, quantity, heading, _OF_MODELS.get(quantity, about) if own else about)
    if not blocks[said:]:
        raise InputError("these readings hold no gain of a whole network: measure them with studies.sweep.")
    blocks += [*_rates(readings), *_draws(readings)]
    if claims := _claims(findings, readings, named):
        blocks += [Prose((), "What is commonly said, and what was measured"), Claims(claims)]
    blocks += [*_refused(readings), limits(*(_LIMITS_OF_MODELS if own else _LIMITS)), *in_full(findings)]
    blocks.append(_method_of_models(readings) if own else method(readings))
    return Section(
        title="Depth by depth",
        anchor=anchor,
        answer=_answer(findings, named, readings),
        blocks=tuple(blocks),
        versions=versions_of(readings),
        about="How does that grow with depth, and would one draw have shown it?",
        part=UNTRAINED,
    )


_ASKED = (
    "What does depth do to the signal, on its way forward, and to the gradient, on its way back, before any training? "
    "And would one draw of every network have shown it? The networks that are compared:"
)
_LIMITS = (
    "Nothing is trained here, and the networks of one depth d are not of one size: d blocks have twice the weight "
    "layers that d layers are. A factor is fitted as if every block did the same, which the first few do not.",
)
_PROFILES = {
    "forward_gain": ("The signal, against depth", "Norm of the network's output relative to its input."),
    "backward_gain": (
        "The gradient, against depth",
        "Norm of the gradient by the input relative to that at the output.",
    ),
    "weight_grad_first_last": (
        "What the notebook looks at: first weight gradient over last",
        "Frobenius norm of the first weight gradient over that of the last. Where both ends grow alike, this ratio "
        "does not show it.",
    ),
}


def _drawn(readings: Readings) -> str:
    back = joined(map(sent, readings.cells["cotangent"].unique().sort()))
    return (
        f"Here {depths_of(readings)}. Every network is drawn with {seeds_of(readings)} and has {back} sent back from "
        "its output. All depths of a seed share their draw, so the unit of every interval is the seed."
    )


# ------------------------------------------------------------------------------------------- models of somebody's own

_ASKED_OF_MODELS = (
    "What does depth do to the signal, on its way forward, and to the gradient, on its way back, in models as they are "
    "made, before any training? And would one draw of every model have shown it?"
)
_OF_MODELS = {
    "forward_gain": "Norm of what the last block hands on relative to that of what the first is given.",
    "backward_gain": "Norm of the gradient by what the first block is given, relative to what the last hands on.",
}
_LIMITS_OF_MODELS = (
    "Nothing is trained here. A factor is fitted as if every block did the same, which blocks of different widths do "
    "not; and all of it is on one batch, so that the bands are of draws of the weights alone.",
)


def _made(readings: Readings) -> str:
    cells = readings.cells.sort("depth")
    back = joined(map(sent, cells["cotangent"].unique().sort()))
    counted = joined(
        f"{blocks} at {depth}" for depth, blocks in cells.select("depth", "blocks").unique().sort("depth").rows()
    )
    told = (
        f"Here {depths_of(readings)}. Every model is made anew with {seeds_of(readings)}, and has {back} sent back "
        f"from its output. Blocks found in the body, by depth: {counted}."
    )
    kept = [name for name in cells["kept"].unique().sort() if name]
    told += f" Shortcuts that could not be removed stay: {'; '.join(kept)}." if kept else ""
    if "not_understood" not in cells.columns:  # a folder that was begun before they were counted
        return told
    doubtful = cells.filter(pl.col("not_understood") > 0).select("depth", "not_understood").unique().sort("depth")
    stay = joined(f"{count} at {depth}" for depth, count in doubtful.rows())
    return told + (f" Additions that are not understood stay too, by depth: {stay}." if stay else "")


def _method_of_models(readings: Readings) -> Method:
    def values(column: str) -> str:
        return joined(str(value) for value in readings.cells[column].unique().sort() if value not in (None, ""))

    facts = (
        ("Models", values("design")),
        ("Made", f"with {seeds_of(readings)}, which seed PyTorch's generator; what else a model draws from is its own"),
        ("Samples", values("batch")),
        ("Input", values("data")),
        ("Sent back from the output", joined(map(sent, readings.cells["cotangent"].unique().sort()))),
        ("Parameters", values("dtype")),
        ("Computed on", readings.meta.get("device", "")),
        ("Quantiles", "over seeds, linear between the sorted values"),
    )
    return Method((Facts(tuple((name, value) for name, value in facts if value)),))


# ---------------------------------------------------------------------------------------------------------- the charts


def _against_depth(summary: Summary, quantity: str, heading: str, about: str) -> list[Block]:
    table = charts.scaling_data(summary, quantity)
    shown = table.select(
        pl.col("panel").alias("network"),
        pl.col("depth").alias("d"),
        pl.col("n").alias("seeds"),
        *[pl.col(name).alias(f"measured|{title}") for name, title in QUANTILE_NAMES.items()],
        *[pl.col(f"law_{name}").alias(f"law|{QUANTILE_NAMES[name]}") for name in ("q05", "q50", "q95")],
        pl.col("rms").alias("root mean square|measured"),
        pl.col("law_rms").alias("root mean square|law"),
        pl.col("z"),
    )
    figure = Figure(
        name=f"{capital(charts.title_of(quantity))}, against depth",
        chart=charts.scaling(summary, quantity),
        caption=f"{about} {bands(int(str(table['n'].max())))}{law_lines(table)}",
        table=shown.select(name for name in shown.columns if shown[name].null_count() < shown.height),
    )
    return [Prose((_ends(table),), heading), figure]


def _ends(table: pl.DataFrame) -> str:
    told = []
    for (panel,), part in table.group_by("panel", maintain_order=True):
        first, last = part.row(0, named=True), part.row(-1, named=True)
        began = f"from {number(first['q50'])} at depth {first['depth']} to " if part.height > 1 else ""
        told.append(
            f"{began}{number(last['q50'])} at depth {last['depth']} in {networks_of(panel)} (nine draws in ten there: "
            f"{number(last['q05'])} to {number(last['q95'])})"
        )
    return f"The median goes {listed(told)}."


def _rates(readings: Readings) -> list[Block]:
    try:
        table = charts.rates_data(readings)
    except InputError:  # one depth has no slope
        return []
    interval = [
        pl.struct(low, high).map_elements(_between, pl.String, skip_nulls=False).alias(f"{of}|95 % interval")
        for of, low, high in (("typical draw", "low", "high"), ("root mean square", "mean_low", "mean_high"))
    ]
    shown = table.select(
        pl.col("panel").alias("of the"),
        pl.col("label").alias("network"),
        pl.col("n").alias("seeds"),
        pl.col("factor").alias("typical draw|factor"),
        interval[0],
        pl.col("law_factor").alias("typical draw|law"),
        pl.col("z").alias("typical draw|z"),
        pl.col("mean_factor").alias("root mean square|factor"),
        interval[1],
        pl.col("law_mean_factor").alias("root mean square|law"),
        "left_out",
    ).rename({"left_out": "seeds left out"})
    figure = Figure(
        name="Factor a block on the norm, fitted over depths",
        chart=charts.rates(readings),
        caption=(
            "Of every seed the slope of the logarithm against the number of blocks is fitted; points are means over "
            "seeds with 95 % intervals, which may be narrower than the point. Ticks: the law, where there is one. The "
            "root mean square supposes that draws are log-normal and its law does not, so that a small distance "
            "between the two is no contradiction. A seed that is dead or overflows at some depth is left out."
        ),
        table=shown if table["left_out"].sum() else shown.drop("seeds left out"),
    )
    return [Prose((_RATES,), "How much a block does"), figure]


_RATES = (
    "What the typical draw does and what the mean square does are two things: where draws spread apart, a few large "
    "ones make the mean, and the typical draw is below it."
)


def _between(row: dict[str, float | None]) -> str:
    low, high = row.values()
    return "–" if low is None or high is None else f"{number(low)} to {number(high)}"


def _draws(readings: Readings) -> list[Block]:
    try:
        table = charts.contradictions_data(readings)
    except InputError:  # no pair to compare
        return []
    shown = table.select(
        pl.col("panel").alias("N is the ratio of"),
        pl.col("depth").alias("d"),
        pl.col("n").alias("draws"),
        pl.col("N").alias("median N"),
        pl.col("contradicts").map_elements(percent, pl.String).alias("contradict"),
        pl.struct("low", "high")
        .map_elements(lambda row: f"{percent(row['low'])} to {percent(row['high'])}", pl.String)
        .alias("95 % interval"),
        pl.col("nearer").map_elements(percent, pl.String).alias("plain nearer to 1"),
    )
    figure = Figure(
        name="Draws that contradict the notebook's conclusion from one",
        chart=charts.contradictions(readings),
        caption=(
            "Share of draws in which the network with shortcuts has the larger ratio of first to last weight gradient. "
            "Points with Wilson's 95 % interval; dashed: half of the draws, a coin."
        ),
        table=shown,
    )
    said = (
        "The notebook draws one plain and one residual network, divides the first weight gradient by the last in each, "
        'and takes N, the plain ratio over the residual one, to say that shortcuts "maintain gradient flow N times '
        'better". A draw contradicts it where N is below 1.'
    )
    return [Prose((said,), "What one draw would have said"), figure]


def _refused(readings: Readings) -> list[Block]:
    """Where no law holds, and why."""
    table = trends.misfit(readings).filter(pl.col("refusal") != "")
    if table.is_empty():
        return []
    shown = (
        table.with_columns(of=pl.col("quantity").replace_strict(_OF, default=pl.col("quantity")))
        .group_by("design", "of", "refusal", maintain_order=True)
        .agg(pl.col("depth").sort().cast(pl.String).str.join(", "))
        .select(pl.col("design").alias("network"), "of", pl.col("depth").alias("d"), pl.col("refusal").alias("why not"))
    )
    return [Prose((), "Where there is no law"), Table(shown, "Networks beside which no law is drawn.")]


_OF = {"forward_gain": "signal", "backward_gain": "gradient"}


# ----------------------------------------------------------------------------------------------------------- the words


def _answer(findings: list[Finding], named: dict[str, str], readings: Readings) -> str:
    depths = readings.cells["depth"].unique().sort()
    over = f"Over depths {depths[0]} to {depths[-1]}" if len(depths) > 1 else f"At depth {depths[0]}"
    found = by_rule(findings, "trend of the gradient", named)
    told = [f"{verb} in {networks_of(*found[verdict])}" for verdict, verb in VERBS.items() if verdict in found]
    said = f"{over}, the gradient {'; it '.join(told)}." if told else f"{over} no trend can be fitted."
    pairs = [finding for finding in findings if finding.rule == "the notebook's conclusion"]
    if pairs:
        shares = [share for finding in pairs for share in finding.evidence["contradicts"].drop_nulls()]
        if shares:
            said += (
                f" Of single draws {percent(min(shares))} to {percent(max(shares))}, depending on the depth, "
                "contradict what the notebook concludes from one."
            )
    return said


def _claims(findings: list[Finding], readings: Readings, named: dict[str, str]) -> tuple[Claim, ...]:
    specs = {row["cell"]: Spec.from_json(row["spec"]) for row in readings.cells.iter_rows(named=True) if row["spec"]}
    skips = {cell: any(not stage.plain for stage in spec.stages) for cell, spec in specs.items()}
    claims = []
    findings = [finding for finding in findings if finding.cell in specs]  # of models nothing is commonly said
    gradient = [finding for finding in findings if finding.rule == "trend of the gradient"]
    if found := by_rule((f for f in gradient if not skips[f.cell]), "trend of the gradient", named):
        claims.append(_vanishing_claim(found, gradient, skips))
    residual = [f for f in findings if f.rule.startswith("trend of the") and skips[f.cell]]
    if residual:
        claims.append(_flow_claim(residual, named))
    pairs = [finding for finding in findings if finding.rule == "the notebook's conclusion"]
    claims += [_notebook_claim(finding) for finding in pairs]
    return tuple(claims)


def _vanishing_claim(found: dict[str, list[str]], findings: list[Finding], skips: dict[str, bool]) -> Claim:
    told = " ".join(finding.statement for finding in findings if not skips[finding.cell])
    more = ""
    if "spread out" in found:
        more = (
            f" In {networks_of(*found['spread out'])} what depth adds is spread: draws move apart, so that the "
            "typical one shrinks or grows while the mean square need not."
        )
    return Claim(
        "In a network without shortcuts the gradient vanishes with depth.",
        holds_of(found, right="vanishing"),
        f"{told}{more}",
    )


def _flow_claim(findings: list[Finding], named: dict[str, str]) -> Claim:
    told = []
    verdicts: dict[str, list[str]] = {}
    for rule, what in (("trend of the signal", "signal"), ("trend of the gradient", "gradient")):
        for verdict, names in by_rule(findings, rule, named).items():
            told.append(f"the {what} {VERBS[verdict]} in {networks_of(*names)}")
            verdicts.setdefault(verdict, []).extend(names)
    said = f"{capital('; '.join(told))}."
    if "exploding" in verdicts:
        said += (
            " That a shortcut lets everything through says nothing against growth: every block adds to it, and the "
            "ratio of first to last does not see it."
        )
    return Claim("With shortcuts signal and gradient pass unchanged.", holds_of(verdicts, right="healthy"), said)


def _notebook_claim(finding: Finding) -> Claim:
    which: dict[str, Holds] = {"draws agree": "right", "cannot tell": "unknown"}
    pair = finding.subject.partition(",")[0]
    return Claim(
        f"One draw shows that shortcuts maintain gradient flow better ({pair}).",
        which.get(finding.verdict, "wrong"),
        finding.statement,
    )
