"""`skipscope sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import polars as pl

from skipscope.cli import models, options, printing
from skipscope.cli.printing import Shown
from skipscope.cli.study import study
from skipscope.errors import InputError
from skipscope.readings import Readings


def _shown(readings: Readings) -> Shown:
    from skipscope import trends

    by_depth = trends.by_depth(readings)
    return Shown(
        table=by_depth,
        overview=lambda: [_growth(by_depth), _rates(readings), _draws(readings)],
        further=lambda: {
            "by_depth": by_depth,
            "rates": trends.rates(readings),
            "contradictions": trends.contradictions(readings),
            "misfit": trends.misfit(readings),
        },
        findings=lambda: trends.findings(readings),
    )


_SHARED = ("depths", "jobs", "sites", "folder")  # of designs and of a model
_SEEDS_OF_MODELS = 20


@click.command()
@models.named
@click.option("--twin", is_flag=True, help="Of MODEL: also measure every model without its shortcuts.")
@options.depths("5,10,20,30,40")
@options.sized_specs
@options.designs("plain", "residual")
@options.dense
@models.batch
@click.option("--sites", is_flag=True, help="Also measure every site; those readings stay in the folder.")
@study("sweep over depth", title="Depth scaling", shown=_shown, folder=True)
def sweep(*, sites: bool, folder: Path | None, **asked: Any) -> Readings:
    """Networks of several depths, over seeds: growth, rates a block, and what one draw would have said.

    MODEL is a function make_model(depth, seed) of your own, as package.module:name, in place of designs.
    """
    if sites and folder is None:
        raise InputError("--sites needs --folder, as site-level readings are too many to hold: name a folder.")
    own = models.split(asked, shared=_SHARED)
    if own is not None:
        seeds = models.seeds_or(asked["seeds"], _SEEDS_OF_MODELS)
        return models.swept(own | {"seeds": seeds, "sites": sites, "folder": folder}, asked["progress"])
    from skipscope import studies

    return studies.sweep(sites=sites, folder=folder, **options.of_specs(asked))


# ------------------------------------------------------------------------------------------------ what fits a terminal


def _growth(by_depth: pl.DataFrame) -> pl.DataFrame:
    """A line a network: growth a block with the interval of its median, and the spread of the notebook's ratio."""
    told = {
        "forward_growth": ("forward a block", "median_low", "median_high"),
        "backward_growth": ("backward a block", "median_low", "median_high"),
        "weight_grad_first_last": ("first/last", "q05", "q95"),
    }
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for row in by_depth.iter_rows(named=True):
        if row["quantity"] in told:
            name, low, high = told[row["quantity"]]
            line = lines.setdefault((row["design"], row["depth"]), {"design": row["design"], "depth": row["depth"]})
            line["blocks"] = row["blocks"]
            line[name] = row["q50"]
            line[f"{'90 % of draws' if low == 'q05' else '95 % interval'}|{name}"] = printing.interval(
                row[low], row[high]
            )
    table = pl.DataFrame(list(lines.values()), infer_schema_length=None)
    return table.rename(
        {name: f"{name.partition('|')[0]}{' ' * i}" for i, name in enumerate(table.columns) if "|" in name}
    )


def _rates(readings: Readings) -> pl.DataFrame:
    """A line a trend: by how much ln of the squared norm ratio changes a block."""
    from skipscope import trends

    what = pl.col("quantity").replace_strict({name: told for name, (told, _) in trends.RATES.items()})
    shown = (what.alias("of"), "rate", _interval("rate_low", "rate_high"), "law_rate", "z", pl.col("n").alias("seeds"))
    return trends.rates(readings).select(pl.col("design").alias("rate a block"), *shown, "left_out")


def _draws(readings: Readings) -> pl.DataFrame:
    """A line a pair and depth: how many draws contradict what the notebook concludes from one."""
    from skipscope import trends

    pair = pl.format("{} / {}", "design", "against").alias("N")
    shown = (pl.col("N").alias("median N"), "contradicts", _interval("low", "high"), "nearer")
    return trends.contradictions(readings).select(pair, "depth", pl.col("n").alias("draws"), "left_out", *shown)


def _interval(low: str, high: str) -> pl.Expr:
    return (
        pl.struct(low, high)
        .map_elements(lambda ends: printing.interval(ends[low], ends[high]), return_dtype=pl.String, skip_nulls=False)
        .alias("95 % interval")
    )
