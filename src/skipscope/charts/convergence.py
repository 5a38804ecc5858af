"""The chart of study `train`, in the form of He et al. 2015, Fig. 6: training and test error over the steps.

Where images were held out, the error on them stands between the two.

The table is that of `skipscope.convergence`; here it gets its panels and the labels of its lines. How the curves look
is said in degradation.py, where errors are drawn of any study.
"""

from __future__ import annotations

import altair as alt
import polars as pl

from skipscope import convergence
from skipscope.charts.degradation import error_curves
from skipscope.charts.look import require_rows, seeds_in_words
from skipscope.errors import require_int
from skipscope.readings import Readings

__all__ = ["training_curves", "training_curves_data"]

_PARTS = {"train_error": "training", "validation_error": "validation", "test_error": "test"}


def training_curves_data(readings: Readings) -> pl.DataFrame:
    """What `training_curves` draws: `skipscope.convergence.curves` of the errors.

    Returns:
        Its columns, with `part`, `panel` (what networks of several depths have in common), `label` (layers), and the
        median, the least and the most called `mean`, `low` and `high`.

    Raises:
        InputError: the readings are not of study `train`.
    """
    table = convergence.curves(readings).filter(pl.col("quantity").is_in(list(_PARTS)))
    several = [name for name in ("norm", "width", "engine") if table[name].n_unique() > 1]
    return table.with_columns(
        part=pl.col("quantity").replace_strict(_PARTS, return_dtype=pl.String),
        panel=pl.concat_str("design", *[pl.format(_SAID[name], name) for name in several], separator=", "),
        label=pl.format("{} layers", "layers"),
    ).rename({"median": "mean", "least": "low", "most": "high"})


_SAID = {"norm": "{} norm", "width": "width {}", "engine": "{}"}


def training_curves(readings: Readings, *, columns: int = 2) -> alt.FacetChart:
    """Training error (thin, dashed) and test error (bold) over the steps: a panel a kind of network, a colour a depth.

    The error on images that were held out, if some were, is dotted.
    The lines are medians over seeds, the bands go from the least to the most.

    Args:
        readings: of study `train`.
        columns: panels in a row.

    Raises:
        InputError: the readings are not of study `train`.
    """
    known = require_int("columns", columns, least=1)
    table = require_rows(training_curves_data(readings), "no losses were recorded.")
    told = f"median of {seeds_in_words(table)}, with the least and the most"
    return error_curves(table, told, columns=known)
