"""`skipscope propagation`."""

from __future__ import annotations

from typing import Any

import click
import polars as pl

from skipscope.cli import options, printing
from skipscope.cli.printing import Shown
from skipscope.cli.study import study
from skipscope.readings import Readings


def _shown(readings: Readings) -> Shown:
    from skipscope import propagation

    ends = propagation.ends(readings)
    return Shown(
        table=ends,
        overview=lambda: [_told(ends)],
        further=lambda: {"ends": ends},
        findings=lambda: [found for found in propagation.findings(readings) if found.rule in _CLAIMS],
    )


_CLAIMS = ("section 4.1: nothing vanishes", "section 4.1: healthy gradients")


def _told(ends: pl.DataFrame) -> pl.DataFrame:
    """A line a network and direction: the factor over the body, its interval and its law, and the factor a layer."""
    interval = pl.struct("median_low", "median_high").map_elements(
        lambda row: printing.interval(row["median_low"], row["median_high"]), pl.String, skip_nulls=False
    )
    return ends.select(
        "design",
        "depth",
        "of",
        pl.col("n").alias("seeds"),
        pl.col("q50").alias("factor"),
        interval.alias("95 % interval"),
        "law",
        pl.col("layer").alias("a layer, in the square"),
        pl.col("law_layer").alias("its law"),
    )


@click.command()
@options.depths("20,56,110", about="Weight layers, 6n + 2: 20,56,110 or first:last:step.")
@options.designs()
@options.width(8, about="Channels of the first stage; 16 in the paper.")
@options.size(16, about="Height and width of the images; 32 in the paper.")
@options.batch(8, "Samples a network; 128 in the paper.")
@click.option("--init", default="he", show_default=True, help="he, xavier, lecun or torch.")
@options.cotangent
@click.option("--full", is_flag=True, help="The paper's width, images, batch and depths, where not said otherwise.")
@study("signal propagation", title="Signal propagation", shown=_shown, seeds=20, folder=True)
def propagation(*, full: bool, designs: list[str], **asked: Any) -> Readings:
    """Signal and gradient through the paper's CIFAR networks before training, layer by layer: does either vanish?"""
    from skipscope import studies

    if full:
        asked |= {name: it for name, it in studies.PROPAGATION_FULL.items() if not options.was_given(name)}
    return studies.propagation(**options.chosen(designs=designs), **asked)
