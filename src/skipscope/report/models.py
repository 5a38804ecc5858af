"""The sections on studies of one model of somebody's own: with and without shortcuts, and without each block."""

from __future__ import annotations

import contextlib

import polars as pl

from skipscope import absences, charts, twins
from skipscope.errors import InputError
from skipscope.readings import Readings
from skipscope.report.page import Block, Facts, Figure, Findings, Method, Prose, Section, Table
from skipscope.report.prose import TRAINED, UNTRAINED, joined, limits, plural, versions_of

__all__ = ["absences_section", "twin_section"]


def twin_section(readings: Readings, *, anchor: str = "twin") -> Section:
    """The section on readings of study `twin`.

    Raises:
        InputError: the readings are not of study `twin`.
    """
    found = twins.findings(readings)
    blocks: list[Block] = [Prose((_TWIN_ASKED.format(taken_out=twins.taken_out(readings)),)), _flow_figure(readings)]
    with contextlib.suppress(InputError):  # nothing was trained
        blocks.append(_losses_figure(readings))
    blocks += [Prose((), "Findings"), Findings(tuple(found)), limits(*_TWIN_LIMITS), _method(readings)]
    return Section(
        title="With and without shortcuts",
        anchor=anchor,
        answer=found[1].statement,  # of the gradient
        blocks=tuple(blocks),
        versions=versions_of(readings),
        about="What would the model do without its shortcuts?",
        part=UNTRAINED,
    )


_TWIN_ASKED = (
    "What would this model do without its shortcuts? The model as it is stands beside the model without {taken_out}. "
    "Each of these is taken out of the sum that it enters, and everything else stays: the same weights, the same "
    "batches. So what differs is what those shortcuts do."
)
_TWIN_LIMITS = (
    "One model is looked at, as it is now. Weights that were drawn or trained for a model with shortcuts are not those "
    "that one would choose without; a model made without them may fare better than this one deprived of them.",
    "Where both were trained, it is one run of each: no interval here is over runs, orders of the batches or rates.",
)


def _flow_figure(readings: Readings) -> Figure:
    table = charts.twin_flow_data(readings)
    shown = table.pivot("label", index=["panel", "place", "site"], values="value", maintain_order=True)
    return Figure(
        name="Signal and gradient, with and without shortcuts",
        chart=charts.twin_flow(readings),
        caption=(
            "Root mean square of what every block hands on, and norm of the gradient by it, medians over batches, in "
            "order of execution. Read the gradient from right to left, as it goes."
        ),
        table=shown.rename({"panel": "of"}),
    )


def _losses_figure(readings: Readings) -> Figure:
    table = charts.twin_losses_data(readings)
    return Figure(
        name="Training loss, with and without shortcuts",
        chart=charts.twin_losses(readings),
        caption="The loss of each step's batch, before its update; from the same weights, on the same batches.",
        table=table.pivot("label", index="step", values="value", maintain_order=True),
    )


def absences_section(readings: Readings, *, anchor: str = "lesion") -> Section:
    """The section on lesions of a model of somebody's own.

    Raises:
        InputError: the readings are none.
    """
    found = absences.findings(readings)
    table = charts.absent_blocks_data(readings)
    named = table.select(
        pl.col("panel").alias("of"), "block", pl.col("site").alias("without"), pl.col("value").alias("rise"),
        pl.col("low").alias("interval|from"), pl.col("high").alias("interval|to"),
    )  # fmt: skip
    figure = Figure(
        name="By how much loss and error rise without each block",
        chart=charts.absent_blocks(readings),
        caption=(
            "Every branch is taken out by itself, so that its block hands on its shortcut alone; nothing is trained "
            "again. Intervals hold at 95 % for all blocks together: of the loss over batches, of the error over"
            " answers."
        ),
        table=named,
    )
    blocks: list[Block] = [Prose((_ABSENT_ASKED,)), figure]
    if answers := _answers(readings):
        blocks.append(answers)
    blocks += [Prose((), "Findings"), Findings(tuple(found)), limits(*_ABSENT_LIMITS), _method(readings)]
    return Section(
        title="Without each block",
        anchor=anchor,
        answer=found[-1].statement,
        blocks=tuple(blocks),
        versions=versions_of(readings),
        about="What does the model lose with each of its blocks?",
        part=TRAINED,
    )


_ABSENT_ASKED = (
    "What does this model lose with each of its blocks? Veit et al. 2016 (arXiv:1605.06431) deleted blocks of trained "
    "residual networks, which hardly noticed."
)
_ABSENT_LIMITS = (
    "A block that can be taken out after training was not useless in training; and blocks that matter little one by "
    "one may matter much together.",
)


def _answers(readings: Readings) -> Table | None:
    table = absences.block_data(readings)
    if table["error"].null_count():
        return None
    names = {"site": "without", "error": "error", "intact": "nothing taken out", "guess": "guessing"}
    more = {"spoilt": "answers|spoilt", "mended": "answers|mended", "damage": "damage"}
    known = {name: title for name, title in (names | more).items() if table[name].null_count() < table.height}
    return Table(
        table.select(pl.col(name).alias(title) for name, title in known.items()), "Answers without each block."
    )


def _method(readings: Readings) -> Method:
    cells = readings.cells

    def values(column: str) -> list[str]:
        if column not in cells.columns:
            return []
        return [str(value) for value in cells[column].unique().sort() if value not in (None, "")]

    doubtful = [each for each in values("not_understood") if each != "0"]
    facts = (
        ("Model", joined(values("design"))),
        ("Batches", plural(len(values("batch_number")), "batch", "batches")),
        ("Samples a batch", joined(values("batch"))),
        ("Loss", joined(each.removeprefix("loss ") for each in values("loss") or values("cotangent"))),
        ("Mode", "evaluation" if any(each.startswith("inference") for each in values("edit")) else "training"),
        ("Shortcuts that cannot be removed, and stay", "; ".join(values("kept"))),
        ("Additions that are not understood, and stay", joined(doubtful)),
        ("Steps of training", joined(values("steps"))),
        ("Optimizer", joined(values("optimizer"))),
        ("Computed on", readings.meta.get("device", "")),
    )
    return Method((Facts(tuple((name, value) for name, value in facts if value)),))
