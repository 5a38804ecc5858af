"""The section on study `propagation`: signal and gradient through the paper's networks before any training."""

from __future__ import annotations

from typing import Any

import polars as pl

from skipscope import charts, propagation
from skipscope.diagnosis import FACTOR, SEEDS, Finding
from skipscope.errors import InputError
from skipscope.propagation import CLAIMS
from skipscope.readings import Readings
from skipscope.report.page import Block, Claim, Claims, Facts, Figure, Holds, Prose, Section, Table
from skipscope.report.prose import (
    QUANTILE_NAMES,
    UNTRAINED,
    VERBS,
    bands,
    holds_of,
    in_full,
    joined,
    limits,
    listed,
    method,
    plural,
    seeds_of,
    sent,
    versions_of,
)
from skipscope.spec import Spec
from skipscope.summary import Summary, summarise
from skipscope.words import number

__all__ = ["propagation_section"]


def propagation_section(readings: Readings, *, anchor: str = "propagation") -> Section:
    """The section on readings of study `propagation`.

    Raises:
        InputError: the readings hold no growth over a body, or no gain of a layer.
    """
    findings = propagation.findings(readings)
    ends = propagation.ends(readings)
    summary = summarise(readings)
    blocks: list[Block] = [
        Prose((_ASKED,)),
        _designs(readings),
        Prose((_drawn(readings),)),
        *_by_layer(summary, "backward_gain", "The gradient, on its way back", _GRADIENT),
        *_over_the_body(readings, ends),
        *_by_layer(summary, "activation_rms", "The signal, on its way forward", _SIGNAL),
        *_by_layer(summary, "weight_grad_norm", "What weights are trained by", _WEIGHTS),
        *_laws(summary),
    ]
    if claims := _claims(findings, ends):
        blocks += [Prose((), "What is commonly said, and what was measured"), Claims(claims)]
    return Section(
        title="Signal and gradient through the paper's networks",
        anchor=anchor,
        answer=_answer(findings, ends),
        blocks=(*blocks, limits(*_limits(readings)), *in_full(findings), method(readings)),
        versions=versions_of(readings),
        about="Do signal or gradient vanish in the paper's plain networks, before any training?",
        part=UNTRAINED,
    )


_ASKED = (
    "The paper argues (section 4.1) that vanishing gradients are unlikely to be what makes its deep plain networks "
    "hard to train: with batch normalisation forward signals have non-zero variances, and backward gradients healthy "
    "norms. It gives no numbers. Here they are for its networks as they are drawn, and for what stands beside them:"
)
_GRADIENT = (
    "Norm of the gradient by what each block hands on, relative to that at the output. Read it from right to left, as "
    "the gradient goes. Where a stage begins, channels double and positions fall to a quarter."
)
_SIGNAL = "Root mean square of what each block hands on, an element."
_WEIGHTS = (
    "Frobenius norm of the gradient by every layer's weights. Behind a batch normalisation it falls as the weights "
    "grow: it depends on their scale as well."
)


def _designs(readings: Readings) -> Facts:
    told: dict[str, str] = {}
    for row in readings.cells.iter_rows(named=True):
        if row["spec"] and row["design"]:
            told.setdefault(row["design"], _about(Spec.from_json(row["spec"])))
    return Facts(tuple(told.items()))


_SHORTCUTS = {
    "none": "no shortcuts",
    "A": "shortcuts of option A (zeros for channels that are missing)",
    "A-both": "shortcuts of option A, with zeros on both sides",
    "B": "shortcuts of option B (projections where the shape changes)",
    "C": "shortcuts of option C (projections everywhere)",
}


def _about(spec: Spec) -> str:
    stage = spec.stages[0]
    order = "" if stage.plain else ", ReLU after the addition"
    if stage.order == "pre-activation":
        order = ", norm and ReLU before the weights" if stage.norm == "batch" else ", ReLU before the weights"
    norm = "batch normalisation behind every convolution" if stage.norm == "batch" else "no normalisation"
    if stage.order == "pre-activation" and stage.norm == "batch":
        norm = "batch normalisation"
    return f"{_SHORTCUTS.get(stage.shortcut, stage.shortcut)}{order}; {norm}"


def _drawn(readings: Readings) -> str:
    cells = readings.cells
    specs = [Spec.from_json(text) for text in cells["spec"] if text]
    widths = joined(str(width) for width in sorted({spec.width for spec in specs}))
    sizes = joined(f"{size}x{size}" for size in sorted({spec.stem.size for spec in specs}))
    batch = joined(plural(each, "sample") for each in cells["batch"].unique().sort())
    back = joined(map(sent, cells["cotangent"].unique().sort()))
    depths = joined(str(depth) for depth in cells["depth"].unique().sort())
    return (
        f"Networks of {depths} weight layers, in three stages; the first has {widths} channels (16 in the paper) on "
        f"images of {sizes} (32x32). Every network is drawn with {seeds_of(readings)}, sees {batch} of Gaussian noise, "
        f"and has {back} sent back from its output."
    )


# -------------------------------------------------------------------------------------------------------- the charts


def _by_layer(summary: Summary, quantity: str, name: str, about: str) -> list[Block]:
    """A chart from layer to layer with its caption; nothing where it was not measured."""
    try:
        table = charts.propagation_by_layer_data(summary, quantity)
    except InputError:  # a selection, which lacks it
        return []
    law = " Dashed: the law, in root mean square over draws." if table["law"].null_count() < table.height else ""
    shown = table.select(
        "panel",
        pl.col("label").alias("network"),
        "site",
        pl.col("n").alias("seeds"),
        *[pl.col(column).alias(title) for column, title in QUANTILE_NAMES.items()],
        "law",
    )
    figure = Figure(
        name=f"{charts.title_of(quantity).capitalize()}, layer by layer",
        chart=charts.propagation_by_layer(summary, quantity),
        caption=f"{about} {bands(int(str(table['n'].max())))}{law}",
        table=shown if law else shown.drop("law"),
    )
    return [Prose((), name), figure]


def _over_the_body(readings: Readings, ends: pl.DataFrame) -> list[Block]:
    shown = ends.select(
        pl.col("design").alias("network"),
        pl.col("depth").alias("layers"),
        "of",
        pl.col("n").alias("seeds"),
        pl.col("q50").alias("factor|median"),
        pl.struct("median_low", "median_high")
        .map_elements(lambda row: _between(*row.values()), pl.String, skip_nulls=False)
        .alias("factor|95 % interval"),
        pl.struct("q05", "q95")
        .map_elements(lambda row: _between(*row.values()), pl.String, skip_nulls=False)
        .alias("factor|nine draws in ten"),
        pl.col("law").alias("factor|law"),
        pl.col("layer").alias("a layer, in the square|median"),
        pl.col("law_layer").alias("a layer, in the square|law"),
    )
    figure = Figure(
        name="What the whole body does to the norms, against depth",
        chart=charts.body_factors(readings),
        caption=(
            "Norm of the gradient by what the first block is given over that by what the last hands on; norm of the "
            f"signal there over the norm here. {bands(int(str(ends['n'].max())))} Dashed: the law, where there is one."
        ),
        table=shown.select(name for name in shown.columns if shown[name].null_count() < shown.height),
    )
    return [Prose((_told(ends),), "Over the whole body"), figure]


def _between(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{number(low)} to {number(high)}"


def _told(ends: pl.DataFrame) -> str:
    """The gradient's factor at every depth, network by network."""
    told = []
    for (design,), part in ends.filter(of="gradient").group_by("design", maintain_order=True):
        factors = [f"{_factor(row['q50'])} at {row['depth']}" for row in part.sort("depth").iter_rows(named=True)]
        told.append(f"{design}, {joined(factors)}")
    return f"On its way back over the body the norm of the gradient changes, by depth, by a factor of: {listed(told)}."


def _factor(value: float | None) -> str:
    return "no finite number" if value is None else number(value)


def _laws(summary: Summary) -> list[Block]:
    """Where a law is drawn and how far the measurement is from it; where none is, and why."""
    ends = propagation.ends(summary.readings).filter(of="gradient")
    held = ends.filter(pl.col("law").is_not_null(), pl.col("q50") > 0)
    said: list[str] = []
    if not held.is_empty():
        normed = held.filter(norm="batch")
        off = (held if normed.is_empty() else normed).with_columns(off=pl.col("layer") / pl.col("law_layer") - 1)
        worst = off.sort(pl.col("off").abs(), descending=True).row(0, named=True)
        said.append(
            "The law carries the covariances between positions from layer to layer, zeros around the image included. "
            f"In the square and a layer, the gradient of the median draw is furthest from it in {worst['design']} at "
            f"{worst['depth']} layers: {number(worst['layer'], 4)} where the law says {number(worst['law_layer'], 4)}, "
            f"{number(abs(worst['off']) * 100, 2)} % {'above' if worst['off'] > 0 else 'below'}. What is left out adds "
            "up over depth. Without a norm the law is one of the root mean square, which few large draws make: a "
            "typical draw is below it."
        )
    told = summary.laws.filter(pl.col("quantity") == "backward_gain")
    cells = dict(summary.readings.cells.select("cell", "design").iter_rows())
    refused: dict[str, list[str]] = {}
    for row in told.filter(pl.col("refusal") != "").iter_rows(named=True):
        names = refused.setdefault(row["refusal"], [])
        if cells[row["cell"]] not in names:
            names.append(cells[row["cell"]])
    rows = [{"networks": listed(names), "why no law is drawn": why} for why, names in refused.items()]
    blocks: list[Block] = [Prose(tuple(said), "Against the laws")] if said else []
    if rows:
        blocks += [*([] if said else [Prose((), "Against the laws")])]
        blocks.append(Table(pl.DataFrame(rows), "Networks beside which no law is drawn."))
    return blocks


# ---------------------------------------------------------------------------------------------------------- the words


def _answer(findings: list[Finding], ends: pl.DataFrame) -> str:
    """What the gradient does in each network, and what that says to the paper."""
    cells = {row["cell"]: row for row in ends.iter_rows(named=True)}
    verdicts: dict[str, list[str]] = {}
    for finding in findings:
        if finding.rule == "gradient" and finding.cell in cells:
            row = cells[finding.cell]
            verdicts.setdefault(str(finding.verdict), []).append(f"{row['design']}, {row['depth']}")
    plain = [f for f in findings if f.rule == CLAIMS["vanishing"]]
    said = ""
    if plain:
        agree = holds_of({str(f.verdict): [f.cell] for f in plain}, right="holds")
        said = _PLAIN[agree]
        healthy = holds_of({str(f.verdict): [f.cell] for f in findings if f.rule == CLAIMS["healthy"]}, right="holds")
        said += _NORMS[healthy]
    told = [f"{VERBS[verdict]} in {len(names)} of {len(cells)}" for verdict, names in verdicts.items()]
    draws = [int(row["n"]) for row in ends.filter(of="gradient").iter_rows(named=True)]
    few = (
        f" These are {plural(min(draws), 'draw')}; a verdict on a design needs {SEEDS}."
        if draws and min(draws) < SEEDS
        else ""
    )
    return f"{said} Of all networks and depths, the gradient {'; it '.join(told)}.{few}".strip()


_PLAIN: dict[Holds, str] = {
    "right": "Before any training nothing vanishes in plain networks with batch normalisation, as the paper says",
    "wrong": "Before any training, and against what the paper says, something vanishes in plain networks with batch "
    "normalisation",
    "depends": "Before any training, whether something vanishes in plain networks with batch normalisation depends on "
    "their depth",
    "unknown": "Whether anything vanishes in plain networks with batch normalisation these draws do not tell",
}
_NORMS: dict[Holds, str] = {
    "right": f"; and their gradients keep their norms within a factor of {FACTOR:g}.",
    "wrong": f"; but their gradients do not keep their norms within a factor of {FACTOR:g}.",
    "depends": f"; but not at every depth do their gradients keep their norms within a factor of {FACTOR:g}.",
    "unknown": "; whether their gradients keep their norms is open.",
}


def _claims(findings: list[Finding], ends: pl.DataFrame) -> tuple[Claim, ...]:
    cells = {row["cell"]: row for row in ends.filter(of="gradient").iter_rows(named=True)}
    claims = []
    for key, said in _SAID.items():
        found = [finding for finding in findings if finding.rule == CLAIMS[key] and finding.cell in cells]
        if found:
            verdicts: dict[str, list[str]] = {}
            for finding in found:
                verdicts.setdefault(str(finding.verdict), []).append(finding.cell)
            told = " ".join(finding.statement.replace(_INITIAL, "").strip() for finding in found)
            claims.append(Claim(said, holds_of(verdicts, right="holds"), told))
    residual = {
        finding.cell: str(finding.verdict)
        for finding in findings
        if finding.rule == "gradient" and finding.cell in cells and _of(cells[finding.cell], "option", "batch")
    }
    plain = {row["depth"]: row for row in cells.values() if _of(row, "plain", "batch")}
    if residual and plain:
        claims.append(_shortcut_claim([cells[cell] for cell in residual], plain))
    return tuple(claims)


_INITIAL = "That is at initialisation, and says nothing of training."
_SAID = {
    "vanishing": "In plain networks with batch normalisation neither signal nor gradient vanishes.",
    "healthy": "With batch normalisation the gradients of plain networks have healthy norms.",
}


def _of(row: dict[str, Any], begins: str, norm: str) -> bool:
    return str(row["design"]).startswith(begins) and row["norm"] == norm


def _shortcut_claim(residual: list[dict[str, Any]], plain: dict[int, dict[str, Any]]) -> Claim:
    """Whether shortcuts bring the gradient's norm nearer to unchanged, at every depth at which both are known."""
    pairs = [
        (row, plain[row["depth"]])
        for row in residual
        if row["depth"] in plain and row["q50"] and plain[row["depth"]]["q50"]
    ]
    nearer = [max(a["q50"], 1 / a["q50"]) < max(b["q50"], 1 / b["q50"]) for a, b in pairs]
    holds: Holds = "unknown" if not pairs else "right" if all(nearer) else "depends" if any(nearer) else "wrong"
    told = [
        f"{number(a['q50'])} with {str(a['design']).partition(',')[0]} and {number(b['q50'])} without shortcuts at "
        f"{a['depth']} layers"
        for a, b in pairs
    ]
    return Claim(
        "With batch normalisation, shortcuts keep the gradient's norm from changing as much.",
        holds,
        f"The median factor over the body, on the way back, is {joined(told)}." if told else "No pair to compare.",
    )


def _limits(readings: Readings) -> tuple[str, ...]:
    specs = [Spec.from_json(text) for text in readings.cells["spec"] if text]
    smaller = [spec for spec in specs if (spec.width, spec.stem.size) != (16, 32)]
    small = (
        "These networks are not of the paper's size. Zeros around the image take signal and gradient away at its "
        "border where there is no normalisation, and change what normalisation does; on small images the border is "
        "most of the image, so that factors there are not those of 32x32."
    )
    return (
        "Networks are measured as they are drawn. What the paper says of healthy norms may be meant of networks in "
        "training, where normalised weights grow and the gradient by them falls; nothing here speaks of that, nor of "
        "whether a deeper network ends with a higher training error. An explosion at the start is no explanation of "
        "degradation by itself: with batch normalisation a step changes a layer by the gradient relative to its "
        "weights, and an optimiser may scale it.",
        "Samples are Gaussian noise, whose pixels are independent; photographs differ in the first layers. Statistics "
        "of the normalisation are those of the batch, as in training.",
        *([small] if smaller else []),
    )
