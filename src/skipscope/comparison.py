"""Two sets of readings against each other, paired where the seeds match.

Common random numbers make pairs: the network of seed s in one set and in the other share their draw, so the ratio of
their values is known better than either value. Imports the readings and the summary's interval of a median.
"""

from __future__ import annotations

import polars as pl

from skipscope.errors import InputError, require_type
from skipscope.readings import Readings
from skipscope.summary import with_median_interval

__all__ = ["compare"]

_COLUMNS = (
    *("cell_a", "cell_b", "step", "site", "call", "quantity", "pairs", "left_out", "median_a", "median_b"),
    *("ratio", "ratio_low", "ratio_high", "larger"),
)
_FACTORS = ("design", "depth", "width", "batch", "cotangent", "gain", "norm", "data", "edit", "dtype")


def compare(a: Readings, b: Readings) -> pl.DataFrame:
    """Every quantity that both hold, over the seeds that both hold: b relative to a.

    If each set holds one cell, these two are compared. Otherwise a cell is compared with the same cell; if the other
    set lacks it, with those that agree in all factors; if there are none, in design, depth and width.

    Returns:
        One row for every matched pair of cells, step, site, call and quantity: `pairs` seeds, medians `median_a` and
        `median_b`, `ratio`, the median over seeds of b/a (of its logarithm, where it is positive throughout: so the
        ratio of a to b is its inverse) with its 95 % interval `ratio_low`, `ratio_high`, and `larger`, the share of
        seeds at which b is larger. Seeds at which a value is 0 or not finite have no ratio; `left_out` counts them.

    Raises:
        InputError: no cells match, or no seed is in both.
    """
    for name, readings in (("a", a), ("b", b)):
        require_type(name, readings, Readings, "skipscope.probe and the studies give them")
    matched = _matched(a, b)
    key = ["step", "site", "call", "quantity", "seed"]
    left = a.rows.join(matched, left_on="cell", right_on="cell_a").rename({"cell": "cell_a", "value": "a"})
    right = b.rows.rename({"cell": "cell_b", "value": "b"})
    pairs = left.join(right, on=["cell_b", *key], how="inner")
    if pairs.is_empty():
        raise InputError(
            f"the two have no reading in common: seeds {_range(a)} against {_range(b)}. Measure the same seeds, sites "
            "and quantities."
        )
    order = a.sites.select("site", "order", cell_a="cell")
    return (
        _paired(pairs)
        .join(order, on=["cell_a", "site"], how="left")
        .sort("cell_a", "cell_b", "quantity", "order", "step", "call")
        .select(*_COLUMNS)
    )


def _matched(a: Readings, b: Readings) -> pl.DataFrame:
    """Pairs of cells: columns cell_a, cell_b."""
    if a.cells.height == b.cells.height == 1:
        return pl.DataFrame({"cell_a": a.cells["cell"], "cell_b": b.cells["cell"]})
    left, right = a.cells, b.cells
    found: list[pl.DataFrame] = []
    for factors in (("cell",), _FACTORS, ("design", "depth", "width")):
        keys = [pl.col(name).alias(f"_{name}") for name in factors]
        pairs = left.select(*keys, cell_a="cell").join(
            right.select(*keys, cell_b="cell"), on=[f"_{name}" for name in factors], nulls_equal=True
        )
        found.append(pairs.select("cell_a", "cell_b"))
        left = left.join(pairs, left_on="cell", right_on="cell_a", how="anti")
        right = right.join(pairs, left_on="cell", right_on="cell_b", how="anti")
    matched = pl.concat(found)
    if not matched.is_empty():
        return matched
    raise InputError(
        f"no cells match: {', '.join(a.cells['cell'])} against {', '.join(b.cells['cell'])}. Select one cell of each "
        "first (Readings.select), or compare readings of the same designs, depths and widths."
    )


def _paired(pairs: pl.DataFrame) -> pl.DataFrame:
    a, b = pl.col("a"), pl.col("b")
    usable = (a != 0) & (b != 0) & a.is_finite() & b.is_finite()
    ratio = (b / a).filter(usable)
    table = pairs.group_by("cell_a", "cell_b", "step", "site", "call", "quantity").agg(
        pairs=pl.len().cast(pl.Int64),
        left_out=(~usable).sum().cast(pl.Int64),
        median_a=a.median(),
        median_b=b.median(),
        ratio=pl.when((ratio > 0).all()).then(ratio.log().median().exp()).otherwise(ratio.median()),
        larger=(b > a).filter(a.is_not_nan() & b.is_not_nan()).mean(),
        _sorted=ratio.sort(),
    )
    return with_median_interval(table, "_sorted", "ratio_low", "ratio_high")


def _range(readings: Readings) -> str:
    seeds = readings.rows["seed"]
    return "none" if seeds.is_empty() else f"{min(seeds)} to {max(seeds)}"
