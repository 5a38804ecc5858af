"""What the readings of study `lesion` say of a model of one's own: what it loses with each of its branches.

Right of the waist: readings in, tables and findings out. There is one model, so nothing here is over networks (as in
`skipscope.lesions`, of this package's own). Both sides of a comparison see the same samples:

- *loss*: its rise on a batch without the branch; the interval is Student's t over batches;
- *error*: its rise is the share of answers spoilt less that of answers mended; answers are the unit, and the interval
  is the normal one of a difference of paired shares (Agresti & Min 2005, doi:10.1002/sim.1781: half an answer is added
  to each of the four counts). It supposes that answers are independent, which those to the words of one text are not.

The blocks of one model are looked at together, so every interval of a block is at 1 - 0.05/blocks (Bonferroni), and the
verdicts on all blocks hold at 95 % together. *Damage* is the rise of the error in units of what was learnt: 0 is
nothing lost, 1 is guessing the commonest class.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skipscope.diagnosis import Finding, Verdict
from skipscope.errors import InputError
from skipscope.readings import Readings, require_readings
from skipscope.words import number, percent, tenths

__all__ = ["BATCHES", "HARDLY", "block_data", "findings", "is_model"]

BATCHES = 5
"""Batches that a verdict on the loss needs."""

HARDLY = 0.1
"""The damage below which the loss of a block hardly matters."""

LEARNT = 0.5
"""Which part of the error of guessing a model may have at most to have learnt something."""


def is_model(readings: Readings) -> bool:
    """Whether these are lesions of a model of one's own, which no spec describes."""
    require_readings(readings)
    cells = readings.cells
    if not {"batch_number", "done"} <= set(cells.columns) or (cells["spec"] != "").any():
        return False
    return set(cells["done"]) <= {"nothing", "one deleted"}


def block_data(readings: Readings) -> pl.DataFrame:
    """Loss and error without each block, one row a block.

    Returns:
        `site`, `block`, `design`, `batches`, `loss` and `intact_loss` (means over batches), `rise` of
        the loss with its interval `rise_low`, `rise_high` (null for one batch); and where there are answers, `answers`,
        `error`, `intact`, `guess`, `spoilt`, `mended`, `more` (the rise of the error) with its interval `more_low`,
        `more_high`, and `damage`. Intervals hold at 95 % for all blocks together.

    Raises:
        InputError: the readings are no lesions of a model.
    """
    if not is_model(readings) or "done" not in readings.cells.columns:
        raise InputError("these readings are no lesions of a model: measure with studies.lesion(model, batches).")
    cells = readings.cells.select("cell", "done", "batch_number", "design")
    wide = readings.rows.join(cells, on="cell").pivot(
        "quantity", index=["site", "done", "batch_number", "design"], values="value"
    )
    if "test_loss" not in wide.columns:
        raise InputError("quantity 'test_loss': these readings hold none of it; lesions of a model are told by it.")
    for name in ("test_error", "spoilt", "mended", "answers", "guess_error"):
        if name not in wide.columns:
            wide = wide.with_columns(pl.lit(None, pl.Float64).alias(name))
    intact = wide.filter(done="nothing").select(
        "batch_number", "answers", "guess_error", intact="test_error", intact_loss="test_loss"
    )
    lost = (
        wide.filter(done="one deleted")
        .drop("answers", "guess_error")
        .join(intact, on="batch_number")
        .sort("batch_number")
    )
    places = readings.sites.select("site", "block").unique().filter(pl.col("block") > 0)
    if lost.is_empty():
        raise InputError("these readings hold no block taken out: measure with studies.lesion(model, batches).")
    blocks = lost["site"].n_unique()
    rows = [_row(part, blocks) for _, part in lost.group_by("site", maintain_order=True)]
    return pl.DataFrame(rows, infer_schema_length=None).join(places, on="site").sort("block").select(
        "site", "block", pl.exclude("site", "block")
    )  # fmt: skip


def _row(part: pl.DataFrame, blocks: int) -> dict[str, Any]:
    rises = (part["test_loss"] - part["intact_loss"]).to_numpy()
    low, high = _student(rises, blocks)
    row: dict[str, Any] = {
        "site": part["site"][0],
        "design": part["design"][0],
        "batches": part.height,
        "loss": float(part["test_loss"].to_numpy().mean()),
        "intact_loss": float(part["intact_loss"].to_numpy().mean()),
        "rise": float(rises.mean()),
        "rise_low": low,
        "rise_high": high,
    }
    names = ("answers", "error", "intact", "guess", "spoilt", "mended", "more", "more_low", "more_high", "damage")
    if part["spoilt"].null_count():
        return row | dict.fromkeys(names)
    answers = part["answers"].to_numpy()
    n = float(answers.sum())
    error, intact, spoilt, mended = (
        float(np.average(part[name].to_numpy(), weights=answers))
        for name in ("test_error", "intact", "spoilt", "mended")
    )
    more, more_low, more_high = _paired_shares(spoilt * n, mended * n, n, blocks)
    guess = part["guess_error"][0]
    learnt = guess is not None and intact <= LEARNT * guess
    damage = more / (guess - intact) if learnt else None
    return row | dict(
        zip(names, (int(n), error, intact, guess, spoilt, mended, more, more_low, more_high, damage), strict=True)
    )


def _student(values: NDArray[np.float64], blocks: int) -> tuple[float | None, float | None]:
    """The interval of the mean over batches, at 95 % for all blocks together."""
    if len(values) < 2 or not np.isfinite(values).all():
        return None, None
    from scipy.special import stdtrit  # only whoever wants an interval needs SciPy

    half = float(stdtrit(len(values) - 1, 1 - 0.025 / blocks)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def _paired_shares(spoilt: float, mended: float, n: float, blocks: int) -> tuple[float, float, float]:
    """The rise of the error, and its interval at 95 % for all blocks together (Agresti & Min 2005)."""
    b, c, m = spoilt + 0.5, mended + 0.5, n + 2
    centre = (b - c) / m
    half = NormalDist().inv_cdf(1 - 0.025 / blocks) * math.sqrt(b + c - (b - c) ** 2 / m) / m
    return (spoilt - mended) / n, centre - half, centre + half


# ----------------------------------------------------------------------------------------------------------- findings

_NEEDED = (
    "of the loss over batches: holds: it rises without each block, with the whole interval above 0; does not hold: it "
    f"falls without one of them, likewise; intervals at 95 % for all blocks together; a verdict needs {BATCHES} batches"
)
_HARDLY = (
    f"damage (0 is none, 1 is all that was learnt) of each block: holds: every one is below {HARDLY:g}, with its whole "
    "interval; does not hold: one is above; intervals over answers, at 95 % for all blocks together"
)
_SOURCE = (
    "the claim: Veit et al. 2016, arXiv:1605.06431; the thresholds are conventions of this instrument; one model, and "
    "no interval over others"
)


def findings(readings: Readings) -> list[Finding]:
    """What lesions of a model show: whether each block is needed, and whether the loss of one hardly matters.

    Raises:
        InputError: see `block_data`.
    """
    table = block_data(readings)
    cell = readings.cells.filter(done="nothing")["cell"][0]
    found = [_finding(cell, table, "without each of its blocks the loss rises", _needed(table), _NEEDED)]
    if table["more"].null_count() < table.height:
        found.append(_finding(cell, table, "one deleted block hardly matters", _hardly(table), _HARDLY))
    return found


def _finding(cell: str, table: pl.DataFrame, rule: str, judged: tuple[Verdict, str], threshold: str) -> Finding:
    verdict, said = judged
    return Finding(rule, cell, f"the model {table['design'][0]}", verdict, said, table, threshold, _SOURCE)


def _needed(table: pl.DataFrame) -> tuple[Verdict, str]:
    least, most = table.sort("rise").row(0, named=True), table.sort("rise").row(-1, named=True)
    said = (
        f"Without one of the {table.height} blocks of the model {table['design'][0]} the loss goes from "
        f"{number(table['intact_loss'][0])} to {number(float(table['loss'].to_numpy().mean()))}, the mean over blocks; "
        f"it rises the most without that at {most['site']}, by {_with_interval(most, 'rise')}, and the least without "
        f"that at {least['site']}, by {_with_interval(least, 'rise')} ({least['batches']} "
        f"{'batch' if least['batches'] == 1 else 'batches'}, evaluation mode)."
    )
    if table["rise_low"].null_count() or least["batches"] < BATCHES:
        return "cannot tell", said
    if (table["rise_low"] > 0).all():
        return "holds", said
    return ("does not hold" if (table["rise_high"] < 0).any() else "cannot tell"), said


def _with_interval(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    told = "" if low is None else f" (interval {number(low, 2)} to {number(high, 2)})"
    return f"{number(row[name], 2)}{told}"


def _hardly(table: pl.DataFrame) -> tuple[Verdict, str]:
    worst = table.sort("more", nulls_last=True).row(-1, named=True)
    said = (
        f"Without one of its blocks the error of the model {table['design'][0]} goes from {tenths(worst['intact'])} to "
        f"at most {tenths(worst['error'])}, without that at {worst['site']}, which spoils "
        f"{percent(worst['spoilt'])} of {worst['answers']} answers and mends {percent(worst['mended'])}"
    )
    if worst["damage"] is None:
        return "cannot tell", f"{said}; it has learnt too little to say what is lost, or what guessing is is not known."
    learnt = worst["guess"] - worst["intact"]
    low, high = worst["more_low"] / learnt, worst["more_high"] / learnt
    said += f": a damage of {number(worst['damage'], 2)} (interval {number(low, 2)} to {number(high, 2)})."
    if (table["more_high"] / learnt < HARDLY).all():
        return "holds", said
    return ("does not hold" if (table["more_low"] / learnt > HARDLY).any() else "cannot tell"), said
