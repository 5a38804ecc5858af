"""`skipscope twin`."""

from __future__ import annotations

from typing import Any

import click
import polars as pl

from skipscope.cli import models
from skipscope.cli.printing import Shown
from skipscope.cli.study import study
from skipscope.errors import InputError
from skipscope.readings import Readings


def _shown(readings: Readings) -> Shown:
    from skipscope import twins

    profile, losses = twins.profile_data(readings), twins.training_data(readings)
    return Shown(
        table=profile,
        overview=lambda: [_overview(profile), _training(losses)],
        further=lambda: {"profile": profile, "flow": twins.flow_data(readings), "training": losses},
        findings=lambda: twins.findings(readings),
    )


def _overview(profile: pl.DataFrame) -> pl.DataFrame:
    """A line a block: what arrives there of signal and gradient, with and without shortcuts."""
    told = {"activation_rms": "signal", "activation_grad_norm": "gradient"}
    rows = profile.filter(pl.col("call") == 0, pl.col("quantity").is_in(list(told))).with_columns(
        pl.col("quantity").replace_strict(told)
    )
    values = ["with_", "without", "ratio"]
    wide = rows.sort("order").pivot("quantity", index="site", values=values, maintain_order=True)
    names = {
        f"{value}_{what}": f"{what} {value.removesuffix('_')}".replace(" with", ", as it is", 1)
        if value == "with_"
        else f"{what}, {value}"
        for what in told.values()
        for value in values
    }
    return wide.select("site", *(pl.col(name).alias(shown) for name, shown in names.items() if name in wide.columns))


def _training(losses: pl.DataFrame) -> pl.DataFrame:
    """The loss at a handful of steps."""
    if losses.is_empty():
        return losses
    places = sorted({round(each * (losses.height - 1) / 5) for each in range(6)})
    return losses[places].select("step", pl.col("with_").alias("loss, as it is"), pl.col("without").alias("without"))


@click.command()
@models.model
@models.batch_of(1, "")
@models.batches
@click.option("--steps", type=int, default=0, show_default=True, help="Steps of training, of copies.")
@click.option("--rate", type=float, default=0.01, show_default=True, help="The learning rate of that.")
@study("twin", title="With and without shortcuts", shown=_shown, seeds=1)
def twin(*, steps: int, rate: float, progress: Any, **asked: Any) -> Readings:
    """A MODEL of your own with and without its shortcuts: gradient flow, and training.

    MODEL is a torch.nn.Module of your own, or what makes one, as package.module:name.
    """
    if asked["model"] is None:
        raise InputError("MODEL is missing: name a model of your own, e.g. mypackage.models:make_model.")
    own = models.split(asked, shared=("steps", "rate"))
    assert own is not None  # there is a model
    return models.studied("twin", own, steps=steps, rate=rate, sites=own.pop("sites") or None)
