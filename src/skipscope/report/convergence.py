"""The section on study `train`: training and test error of the paper's networks, in the form of its Fig. 6."""

from __future__ import annotations

from typing import Any

import polars as pl

from skipscope import charts, convergence
from skipscope.convergence import LEAST
from skipscope.diagnosis import Finding
from skipscope.outcomes import MARGIN
from skipscope.readings import Readings
from skipscope.report.page import Block, Claim, Claims, Facts, Figure, Method, Prose, Section, Table
from skipscope.report.prose import (
    TRAINED,
    capital,
    holds_of,
    in_full,
    joined,
    limits,
    method,
    seeds_of,
    versions_of,
)
from skipscope.spec import Spec
from skipscope.words import number

__all__ = ["convergence_section"]

_ASKED = (
    "He et al. 2015 (arXiv:1512.03385, Fig. 6) trained plain and residual networks of several depths on CIFAR-10, and "
    "drew training and test error over the steps: plain networks did worse the deeper they were, also on the data that "
    "they were trained on, and residual networks better."
)
_HOW = (
    "A verdict rests on the training loss after the last step (cross-entropy, in nats), seed by seed: networks of one "
    "seed see the same mini-batches. It needs the whole 95 % interval of the mean difference on one side of a margin, "
    f"{MARGIN:g} nats, and {LEAST} seeds. A loss above that of guessing counts as that of guessing, and so does one "
    "that stopped being a number."
)


def convergence_section(readings: Readings, *, anchor: str = "train") -> Section:
    """The section on readings of study `train`.

    Raises:
        InputError: the readings are not of this study.
    """
    final, findings = convergence.final(readings), convergence.findings(readings)
    specs = {row["cell"]: Spec.from_json(row["spec"]) for row in _cells(readings).iter_rows(named=True)}
    claims = tuple(_claim(finding, specs[finding.cell]) for finding in findings)
    said: list[Block] = [Prose((), "What is commonly said, and what was measured"), Claims(claims)] if claims else []
    blocks: list[Block] = [
        Prose((_ASKED, _drawn(readings, final))),
        _curves(readings),
        _final(final),
        *([Prose((_HOW,))] if claims else []),
        *_differences(readings),
        *said,
        limits(*_limits(final)),
        *in_full(findings),
    ]
    return Section(
        title="Training and test error",
        anchor=anchor,
        answer=_answer(final, findings),
        blocks=(*blocks, _method(readings)),
        versions=versions_of(readings),
        about="What the paper's networks learn, step by step, and whether deeper ones do worse.",
        part=TRAINED,
    )


# ---------------------------------------------------------------------------------------------------------- the words


def _drawn(readings: Readings, final: pl.DataFrame) -> str:
    cells = _cells(readings)
    data = joined(dict.fromkeys(str(name).rpartition(",")[0] or str(name) for name in cells["data"]))
    steps = joined(f"{count:,}" for count in final["steps"].unique().sort())
    engines = joined(final["engine"].unique(maintain_order=True))
    names = joined(dict.fromkeys(_network(row) for row in final.iter_rows(named=True)))
    return f"Here {names} learn {data}, for {steps} steps, on {engines}; {seeds_of(readings)}."


def _cells(readings: Readings) -> pl.DataFrame:
    return readings.cells.filter(study="train")


def _network(row: dict[str, Any]) -> str:
    return f"{row['design']} of {row['layers']} layers (width {row['width']})"


def _answer(final: pl.DataFrame, findings: list[Finding]) -> str:
    """The errors after the last step, then the verdicts."""
    errors = final.filter(quantity="train_error")
    others = ["validation_error", "test_error"] if _held_out(final) else ["test_error"]
    found = {name: dict(final.filter(quantity=name).select("cell", "median").iter_rows()) for name in others}
    told = [
        f"{row['design']} of {row['layers']} layers {_share(row['median'])} "
        f"({', '.join(_share(found[name].get(row['cell'])) for name in others)})"
        for row in errors.iter_rows(named=True)
    ]
    titles = ", ".join(convergence.TITLES[name] for name in others)
    verdicts = [f"{capital(_VERDICTS[finding.verdict, finding.rule])} ({finding.subject})." for finding in findings]
    return " ".join([f"Training error after the last step ({titles}): {joined(told)}.", *verdicts])


_VERDICTS = {
    ("degrades", "degradation"): "more layers train worse",
    ("does not degrade", "degradation"): f"more layers do not train worse, or by less than {MARGIN:g} nats",
    ("cannot tell", "degradation"): "whether more layers train worse cannot be told from these draws",
    ("trains better", "shortcuts"): "with shortcuts the same layers train better",
    (
        "trains no better",
        "shortcuts",
    ): f"with shortcuts the same layers train no better, or by less than {MARGIN:g} nats",
    ("trains worse", "shortcuts"): "with shortcuts the same layers train worse",
    ("cannot tell", "shortcuts"): "whether the same layers train better with shortcuts cannot be told from these draws",
}


_SAYS = {
    "degradation plain": ("Plain networks train worse the deeper they are", "degrades"),
    "degradation": ("Residual networks train no worse the deeper they are", "does not degrade"),
    "shortcuts": ("Deep networks train better with shortcuts", "trains better"),
}


def _claim(finding: Finding, spec: Spec) -> Claim:
    """What the paper says, held against one finding: of plain networks or of others is in the spec, not in a name."""
    plain = finding.rule == "degradation" and all(stage.plain for stage in spec.stages)
    said, right = _SAYS["degradation plain" if plain else finding.rule]
    return Claim(
        f"{said} ({finding.subject}).", holds_of({finding.verdict: [finding.subject]}, right=right), finding.statement
    )


def _held_out(table: pl.DataFrame) -> bool:
    """Whether images of the training part were held out."""
    return "validation_error" in set(table["quantity"])


_VALIDATION = (
    "The validation part is of the training images, and was not trained on. Nothing here is chosen by it: it tells how "
    "well networks do on images of the same source that they did not see, as the test part does."
)


def _limits(final: pl.DataFrame) -> tuple[str, ...]:
    steps = joined(f"{count:,}" for count in final["steps"].unique().sort())
    return (
        f"The paper trained for 64,000 steps of 128 images, on CIFAR-10, with networks whose first stage has 16 "
        f"channels; these ran for {steps} steps, with drops of the rate scaled to that. What looks like degradation "
        "after few steps may be slowness.",
        "One learning rate is used for all networks, as in the paper: another one might suit a depth better.",
        *([_VALIDATION] if _held_out(final) else []),
    )


# ------------------------------------------------------------------------------------------------- chart and tables


def _curves(readings: Readings) -> Figure:
    table = charts.training_curves_data(readings)
    held = _held_out(table)
    return Figure(
        name=f"Training{', validation' if held else ''} and test error over the steps",
        chart=charts.training_curves(readings),
        caption=(
            f"Thin, dashed: training error;{' dotted: validation error;' if held else ''} bold: test error, of the "
            "whole sets in inference; the number at the end of "
            "a line is that of weight layers; medians over seeds, with the least and the most. Before the first step "
            "batch normalisation has no averages to infer by, and there is no error."
        ),
        table=table.select(
            pl.col("panel").alias("network"),
            "layers",
            pl.col("part").alias("of"),
            "step",
            pl.col("n").alias("seeds"),
            pl.col("mean").alias("error|median"),
            pl.col("low").alias("error|least"),
            pl.col("high").alias("error|most"),
        ),
    )


def _final(final: pl.DataFrame) -> Table:
    rows: dict[str, dict[str, Any]] = {}
    for row in final.iter_rows(named=True):
        named = {name: row[name] for name in ("design", "norm", "layers", "width", "engine")}
        own = rows.setdefault(row["cell"], {**named, "seeds": row["n"], "stopped": row["stopped"]})
        told = _share if row["quantity"].endswith("_error") else number
        title = convergence.TITLES[row["quantity"]]
        own[f"{title}|median"] = "" if row["median"] is None else told(row["median"])
        own[f"{title}|range"] = "" if row["median"] is None else f"{told(row['least'])} to {told(row['most'])}"
    caption = (
        "After the last step: medians over seeds, with the least and the most; those that stopped count as guessing."
    )
    return Table(pl.DataFrame(list(rows.values()), infer_schema_length=None), caption)


def _share(error: float | None) -> str:
    return "–" if error is None else f"{100 * error:.1f} %"


def _differences(readings: Readings) -> list[Block]:
    table = convergence.paired(readings).filter(quantity="train_loss")
    if table.is_empty():
        return []
    rows = [
        {
            "network": f"{row['design']}, {row['layers']} layers",
            "minus": f"{row['against']}, {row['against_layers']} layers",
            "engine": row["engine"],
            "pairs": row["n"],
            "training loss|difference": row["mean"],
            "training loss|95 % interval": "–"
            if row["low"] is None
            else f"{number(row['low'])} to {number(row['high'])}",
        }
        for row in table.iter_rows(named=True)
    ]
    caption = f"Differences of the training loss, pair by pair, in nats; margin {MARGIN:g}, of {LEAST} pairs at least."
    return [Table(pl.DataFrame(rows, infer_schema_length=None), caption)]


def _method(readings: Readings) -> Method:
    """The networks, and how they were trained."""
    cells = _cells(readings)
    facts = (
        ("Training", f"stochastic gradient descent on cross-entropy; {joined(cells['recipe'].unique().sort())}"),
        ("Learning rates", joined(f"{rate:g}" for rate in cells["rate"].unique().sort())),
        ("Engines", joined(cells["engine"].unique().sort())),
        ("Data", joined(cells["data"].unique().sort())),
    )
    return Method((*method(readings).blocks, Facts(facts)))
