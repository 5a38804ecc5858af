"""What the readings of study `twin` say of a model of one's own: what it would do without its shortcuts.

Right of the waist: readings in, tables and findings out. Both sides have the same weights and saw the same batches, so
what is judged is the ratio of the two on a batch, and the batch is the unit: the interval is Student's t of the mean of
its logarithm over batches. Of one batch there is the interval of each side over its samples (jackknife), and the ratio
is known no better than from the one's upper end to the other's lower.

All of it is about *this* model as it is now, and of the training that was done: another draw of the weights, another
order of the batches or another rate may do otherwise, and no interval here covers that.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl

from skipscope.diagnosis import Finding, Verdict
from skipscope.errors import InputError
from skipscope.intervals import student
from skipscope.readings import Readings, require_readings
from skipscope.words import counted, number

__all__ = ["BATCHES", "findings", "flow_data", "profile_data", "taken_out", "training_data"]

BATCHES = 5
"""Batches that an interval over batches needs before it decides."""

AS_IS, WITHOUT = "as it is", "without shortcuts"

_WAYS = {"forward_growth": "signal", "backward_growth": "gradient"}


def flow_data(readings: Readings) -> pl.DataFrame:
    """By which factor signal and gradient change over the body, with and without shortcuts, batch by batch.

    Returns:
        A row a direction and batch: `what` (signal or gradient), `part`, `blocks`, `with_`, `without` (factors on the
        norm over the whole body, from the block that is first in its direction), `ratio` (without/with), and over the
        samples of the batch the 95 % intervals `with_low`, `with_high`, `without_low`, `without_high`, null where there
        are too few.

    Raises:
        InputError: the readings are not of study `twin`.
    """
    cells = _cells(readings).filter(pl.col("batch_number").is_not_null()).select("cell", "done", "batch_number")
    blocks = readings.sites.group_by("cell").agg(blocks=pl.col("block").max())
    asked = [f"{name}{end}" for name in _WAYS for end in ("", "_low", "_high")]
    rows = (
        readings.rows.filter(pl.col("quantity").is_in(asked), pl.col("step") == 0)
        .join(cells, on="cell")
        .join(blocks, on="cell")
        # Growth is of the square, a block.
        .with_columns(value=pl.col("value") ** (pl.col("blocks") / 2))
    )
    side = pl.when(pl.col("done") == AS_IS).then(pl.lit("with_")).otherwise(pl.lit("without"))
    end = pl.col("quantity").str.extract("_(low|high)$").fill_null("")
    separator = pl.when(end == "").then(pl.lit("")).when(side == "with_").then(pl.lit("")).otherwise(pl.lit("_"))
    named = rows.with_columns(
        name=pl.concat_str(side, separator, end),
        what=pl.col("quantity").str.replace("_(low|high)$", "").replace_strict(_WAYS),
    )
    wide = named.pivot("name", index=["what", "batch_number", "blocks"], values="value")
    columns = [f"{side}{end}" for side in ("with", "without") for end in ("_", "_low", "_high")]
    for name in (name.replace("without_", "without", 1) if name == "without_" else name for name in columns):
        if name not in wide.columns:
            wide = wide.with_columns(pl.lit(None, pl.Float64).alias(name))
    ends = ("with_low", "with_high", "without_low", "without_high")
    return wide.select(
        *("what", "batch_number", "blocks", "with_", "without"), *ends, ratio=pl.col("without") / pl.col("with_")
    ).sort("what", "batch_number", descending=[True, False])


def profile_data(readings: Readings) -> pl.DataFrame:
    """Every quantity at every site, with and without shortcuts: medians over batches, and their ratio.

    Returns:
        A row a site, call and quantity: `order`, `with_`, `without`, `ratio`, the median over batches of without/with,
        and `batches` that have both.

    Raises:
        InputError: the readings are not of study `twin`.
    """
    cells = _cells(readings).filter(pl.col("batch_number").is_not_null()).select("cell", "done", "batch_number")
    rows = readings.rows.filter(pl.col("step") == 0).join(cells, on="cell")
    key = ["site", "call", "quantity", "batch_number"]
    bare = rows.filter(done=AS_IS).select("cell", *key, with_="value")
    both = bare.join(rows.filter(done=WITHOUT).select(*key, without="value"), on=key)
    order = readings.sites.select("cell", "site", "order")
    return (
        both.join(order, on=["cell", "site"])
        .with_columns(ratio=pl.col("without") / pl.col("with_"))
        .group_by("quantity", "site", "call")
        .agg(pl.col("order").min(), pl.col("with_", "without", "ratio").median(), batches=pl.len().cast(pl.Int64))
        .sort("quantity", "order", "call")
        .select("site", "call", "order", "quantity", "with_", "without", "ratio", "batches")
    )


def training_data(readings: Readings) -> pl.DataFrame:
    """The loss by step, with and without shortcuts; no rows where nothing was trained.

    Returns:
        A row a step: `step`, `with_`, `without`, null where that side had stopped.

    Raises:
        InputError: the readings are not of study `twin`.
    """
    losses = _training(readings).filter(pl.col("step") < pl.col("steps"))
    found = losses.filter(done=AS_IS).select("step", with_="value")
    other = losses.filter(done=WITHOUT).select("step", without="value")
    return found.join(other, on="step", how="full", coalesce=True).sort("step")


def _training(readings: Readings) -> pl.DataFrame:
    cells = _cells(readings)
    if "steps" not in cells.columns:
        cells = cells.with_columns(steps=pl.lit(None, pl.Int64))
    trained = cells.filter(pl.col("batch_number").is_null()).select("cell", "done", "steps")
    return readings.rows.filter(pl.col("quantity") == "loss").join(trained, on="cell")


def _cells(readings: Readings) -> pl.DataFrame:
    require_readings(readings)
    cells = readings.cells.filter(pl.col("study") == "twin")
    if cells.is_empty() or "done" not in cells.columns:
        raise InputError("these readings are not of study twin: measure with studies.twin(model, batches).")
    return cells


# ----------------------------------------------------------------------------------------------------------- findings

_FLOW = (
    "ratio of the factors over the whole body, without shortcuts to with them; holds: below 1, with the whole 95 % "
    f"interval; does not hold: above 1; over batches a verdict needs {BATCHES}"
)
_FLOW_SOURCE = (
    "interval over batches: Student's t of the mean logarithm; of one batch: from the jackknife intervals of both "
    "(Efron 1982), which is wider than a paired one"
)
_TRAINED = (
    "the loss of every batch after the last step, without shortcuts less with them; trains better: above 0, with the "
    f"whole 95 % interval over batches; trains worse: below 0; a verdict needs {BATCHES} batches; where the loss of "
    "one side alone stopped being a number, the other trains better"
)
_TRAINED_SOURCE = "one run of each, paired by batch: Student's t over batches; other runs are not in the interval"


def findings(readings: Readings) -> list[Finding]:
    """What readings of study `twin` say: of signal, gradient and, if there was any, training.

    Raises:
        InputError: the readings are not of study `twin`.
    """
    flow = flow_data(readings)
    cells = _cells(readings)
    found = [_flow(cells, flow.filter(what=what), what) for what in ("signal", "gradient")]
    if not _training(readings).is_empty():
        found.append(_trained(cells, readings))
    return found


def taken_out(readings: Readings) -> str:
    """What the twin lacks, in words, and what stays: `its 5 shortcuts`, or `5 of its shortcuts (3 additions that ...)`.

    Raises:
        InputError: the readings are not of study `twin`.
    """
    return _taken_out(_cells(readings))


def _taken_out(cells: pl.DataFrame) -> str:
    count, stays = cells.filter(done=WITHOUT)["removed"][0], _stays(cells)
    if stays:
        return f"{count} of its shortcuts ({'; '.join(stays)})"
    return f"its {count} shortcuts" if count != 1 else "its shortcut"


def _stays(cells: pl.DataFrame) -> list[str]:
    """What is still added in the twin, each in words; nothing where every shortcut is gone."""
    row = cells.filter(done=WITHOUT).row(0, named=True)
    kept, doubtful = row["kept"], row.get("not_understood") or 0
    told = []
    if kept:
        one = ", " not in kept
        told.append(f"the {'shortcut' if one else 'shortcuts'} at {kept} cannot be removed and {_stay(one)}")
    if doubtful:
        one = doubtful == 1
        told.append(f"{counted(doubtful, 'addition')} that {'is' if one else 'are'} not understood {_stay(one)}")
    return told


def _stay(one: bool) -> str:
    return "stays" if one else "stay"


def _subject(cells: pl.DataFrame) -> str:
    return f"the model {cells['design'][0]} without {_taken_out(cells)}"


def _flow(cells: pl.DataFrame, rows: pl.DataFrame, what: str) -> Finding:
    rule = f"without {'some of its ' if _stays(cells) else ''}shortcuts less of the {what} arrives"
    verdict, said = _flow_judged(_subject(cells), rows, what)
    cell = cells.filter(done=WITHOUT)["cell"][0]
    return Finding(rule, cell, _subject(cells), verdict, said, rows, _FLOW, _FLOW_SOURCE)


def _flow_judged(subject: str, rows: pl.DataFrame, what: str) -> tuple[Verdict, str]:
    usable = rows.filter(pl.col("ratio").is_finite(), pl.col("ratio") > 0, pl.col("with_") > 0)
    if usable.is_empty():
        lost = rows.filter(pl.col("without") == 0, pl.col("with_") > 0)
        if lost.height and lost.height == rows.height:
            return "holds", f"Nothing of the {what} arrives in {subject}, on any of {_batches(rows.height)}."
        return "cannot tell", f"The {what} of {subject} has no ratio to that of the model as it is: no body was found."
    logs = usable["ratio"].log().to_numpy()
    blocks = usable["blocks"][0]
    medians = [number(float(str(usable[name].median()))) for name in ("with_", "without")]
    said = (
        f"Over {blocks} blocks the {what} changes by a factor of {medians[0]} in the model as it is, and of "
        f"{medians[1]} in {subject}: "
    )
    interval = _interval(usable)
    if interval is None:
        return "cannot tell", f"{said}a ratio of {number(math.exp(float(logs.mean())))}, with no interval."
    low, high, over = interval
    said += (
        f"a ratio of {number(math.exp(float(logs.mean())))} (95 % interval {number(low)} to {number(high)}, {over})."
    )
    if usable.height < rows.height:
        said += f" {_batches(rows.height - usable.height)} without a finite ratio left out."
    if 1 < usable.height < BATCHES or low <= 1 <= high:
        return "cannot tell", said
    return ("holds" if high < 1 else "does not hold"), said


def _batches(count: int) -> str:
    return f"{count} {'batch' if count == 1 else 'batches'}"


def _interval(rows: pl.DataFrame) -> tuple[float, float, str] | None:
    """Of the ratio: over batches, or of one batch over its samples; and which of these."""
    if rows.height > 1:
        _, low, high = student(rows["ratio"].log().to_numpy())
        return _exp(low), _exp(high), f"over {_batches(rows.height)}"
    row = rows.row(0, named=True)
    ends = [row[name] for name in ("with_low", "with_high", "without_low", "without_high")]
    if any(end is None or not math.isfinite(end) or end <= 0 for end in ends):
        return None
    return ends[2] / ends[1], ends[3] / ends[0], "over the samples of one batch"


def _exp(x: float) -> float:
    """Held within the range of floats."""
    return math.exp(max(-700.0, min(700.0, x)))


def _trained(cells: pl.DataFrame, readings: Readings) -> Finding:
    losses = _training(readings)
    row = cells.filter(pl.col("batch_number").is_null(), done=AS_IS).row(0, named=True)
    verdict, said, evidence = _trained_judged(_subject(cells), losses, row)
    rule = f"with {'all of ' if _stays(cells) else ''}its shortcuts the model trains better"
    return Finding(rule, row["cell"], f"the model {row['design']}", verdict, said, evidence, _TRAINED, _TRAINED_SOURCE)


def _stopped(losses: pl.DataFrame, steps: int) -> int | None:
    """After how many steps the loss was no finite number; None where it always was one."""
    found = losses.filter(~pl.col("value").is_finite(), pl.col("step") < steps).sort("step")["step"].to_list()
    return found[0] if found else None


def _trained_judged(subject: str, losses: pl.DataFrame, row: dict[str, Any]) -> tuple[Verdict, str, pl.DataFrame]:
    steps, how = row["steps"], row["optimizer"]
    stopped = {done: _stopped(losses.filter(pl.col("done") == done), steps) for done in (AS_IS, WITHOUT)}
    evidence = losses.select("done", "step", batch_number=pl.col("call") + 1, loss="value")
    if any(step is not None for step in stopped.values()):
        told = [
            f"the loss {'of the model as it is' if done == AS_IS else f'of {subject}'} is no finite number after "
            f"{step} steps"
            for done, step in stopped.items()
            if step is not None
        ]
        said = f"With {how}: {' and '.join(told)}."
        if all(step is not None for step in stopped.values()):
            return "cannot tell", said, evidence
        return ("trains better" if stopped[AS_IS] is None else "trains worse"), said, evidence
    last = losses.filter(pl.col("step") == steps)
    pairs = (
        last.filter(done=AS_IS).select("call", with_="value")
        .join(last.filter(done=WITHOUT).select("call", without="value"), on="call")
        .sort("call")
    )  # fmt: skip
    first = {done: losses.filter(pl.col("done") == done, pl.col("step") == 0)["value"][0] for done in (AS_IS, WITHOUT)}
    said = (
        f"From the same weights, after {steps} steps on the same batches ({how}), the loss is "
        f"{number(float(pairs['with_'].to_numpy().mean()))} in the model as it is ({number(first[AS_IS])} at the first "
        f"step) and {number(float(pairs['without'].to_numpy().mean()))} in {subject} ({number(first[WITHOUT])})"
    )
    difference = (pairs["without"] - pairs["with_"]).to_numpy()
    if len(difference) < 2 or not np.isfinite(difference).all():
        return "cannot tell", f"{said}, on {_batches(len(difference))}: one is too few for an interval.", pairs
    mean, low, high = student(difference)
    said += (
        f": a difference of {number(mean, 2)} (95 % interval {number(low, 2)} to {number(high, 2)} over "
        f"{_batches(len(difference))}; one run of each)."
    )
    if len(difference) < BATCHES or low <= 0 <= high:
        return "cannot tell", said, pairs
    return ("trains better" if low > 0 else "trains worse"), said, pairs
