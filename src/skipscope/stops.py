"""Where networks stopped while they trained: after how many steps, and at which site the first nan or inf was.

A network whose loss stops being a number has the reading `stopped` (see `skipscope.studies.learning`), and one that
trains to the end has none. This module reads readings alone, of any study that trains.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from skipscope.readings import Readings, require_readings

__all__ = ["stops", "stops_by_site"]

_FACTORS: dict[str, Any] = {
    "study": pl.String, "design": pl.String, "norm": pl.String, "depth": pl.Int64, "rate": pl.Float64,
}  # fmt: skip


def stops(readings: Readings) -> pl.DataFrame:
    """Every network that stopped: a row each, in the order of the table of cells, then of seeds.

    Returns:
        Columns `cell`, `study`, `design`, `norm`, `depth`, `rate` (null where the study has one rate), `seed`, `steps`
        that were done before, `site` that first holds nan or inf, in order of execution, and `layers` (of weights) that
        are passed up to it. No rows if no network stopped.

    Raises:
        InputError: these are no readings.
    """
    require_readings(readings)
    cells = readings.cells.with_row_index("place")
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in _FACTORS.items() if name not in cells.columns]
    sites = readings.sites.select("cell", "site", layers="depth")
    return (
        readings.where(pl.col("quantity") == "stopped")
        .rows.join(cells.with_columns(missing).select("cell", "place", *_FACTORS), on="cell")
        .join(sites, on=["cell", "site"])
        .sort("place", "seed")
        .select("cell", *_FACTORS, "seed", steps=pl.col("value").cast(pl.Int64), site="site", layers="layers")
    )


def stops_by_site(readings: Readings) -> pl.DataFrame:
    """How many networks of a kind stopped at a site: a row each, where most did first.

    Returns:
        Columns `design`, `norm`, `depth`, `rate`, `site`, `n` networks, and the `fewest` and the `most` steps that they
        had done. No rows if no network stopped.

    Raises:
        InputError: these are no readings.
    """
    steps = pl.col("steps")
    found = stops(readings).with_row_index("place")
    kinds = ("design", "norm", "depth", "rate")
    first = pl.col("place").min().over(*kinds)
    grouped = found.with_columns(first).group_by("place", *kinds, "site", "layers", maintain_order=True)
    counted = grouped.agg(n=pl.len().cast(pl.Int64), fewest=steps.min(), most=steps.max())
    return counted.sort("place", "n", "layers", descending=[False, True, False]).drop("place", "layers")
