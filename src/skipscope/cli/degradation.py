"""`skipscope degradation`."""

from __future__ import annotations

from typing import Any

import click
import polars as pl

from skipscope.cli import options, printing
from skipscope.cli.printing import Shown
from skipscope.cli.study import study
from skipscope.readings import Readings

_OVERVIEW = ("design", "norm", "layers", "rate", "n", "stopped")
_OUTCOMES = {"train_loss": "training loss", "train_error": "training error", "test_error": "test error"}


def _shown(readings: Readings) -> Shown:
    from skipscope import degradation, stops

    final = degradation.final(readings)
    return Shown(
        table=final,
        overview=lambda: [_outcomes(final), _gradients(readings), printing.stopped(readings)],
        further=lambda: {
            "final": final,
            "paired": degradation.paired(readings),
            "gradients": degradation.gradients(readings),
            "rates": degradation.rates(readings),
            "stopped": stops.stops(readings),
            **{name: degradation.curves(readings, name) for name in ("train_error", "test_error", "gradient_norm")},
        },
        findings=lambda: degradation.findings(readings),
    )


def _outcomes(final: pl.DataFrame) -> pl.DataFrame:
    """A line a network: loss and error after the last step."""
    wide = final.pivot("quantity", index=[*_OVERVIEW, "cell"], values="mean")
    return wide.select(*_OVERVIEW, *[pl.col(name).alias(title) for name, title in _OUTCOMES.items()])


def _gradients(readings: Readings) -> pl.DataFrame:
    """A line a network: by which factor the gradient's norm changes over the body while it trains."""
    from skipscope import degradation

    between = pl.struct("low", "high").map_elements(
        lambda ends: printing.interval(ends["low"], ends["high"]), return_dtype=pl.String, skip_nulls=False
    )
    return degradation.gradients(readings).select(
        pl.col("design").alias("gradient of"),
        "norm",
        "layers",
        pl.col("factor").alias("first block / last"),
        between.alias("95 % interval"),
        pl.col("began").alias("untrained"),
        pl.col("dead").alias("none arrives"),
    )


def _norms(context: click.Context, option: click.Parameter, value: str) -> list[str]:
    """`none,batch`."""
    return [name.strip() for name in value.split(",") if name.strip()]


@click.command()
@options.data
@options.depths("6,20,44", about="Weight layers: 6,20,44 or first:last:step; blocks of residual and twin.")
@options.width(32)
@options.designs("plain", "matched")
@click.option(
    "--norms",
    default="none,batch",
    show_default=True,
    callback=_norms,
    help="none, batch and layer, separated by commas.",
)
@options.order
@options.steps(500)
@options.batch(64, "Samples a step.")
@click.option(
    "--rate",
    "rates",
    default="0.001,0.01,0.1",
    show_default=True,
    callback=options.numbers(float, "0.001,0.01,0.1"),
    help="Learning rates; of several, every network gets the best.",
)
@click.option("--schedule", default="constant", show_default=True, help="Of the rate: constant, drops or cosine.")
@click.option("--tuning", type=int, default=3, show_default=True, help="Further seeds by which the rate is chosen.")
@click.option("--record", type=int, default=20, show_default=True, help="How often to measure on the way.")
@study("degradation", title="Degradation", shown=_shown, seeds=8, folder=True)
def degradation(*, steps: int, batch: int, schedule: Any, **asked: Any) -> Readings:
    """Whether deeper networks train worse, and what shortcuts and gradients have to do with it."""
    from skipscope import studies
    from skipscope.training import Recipe

    return studies.degradation(recipe=Recipe(steps=steps, batch=batch, schedule=schedule), **asked)
