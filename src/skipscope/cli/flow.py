"""`skipscope flow`."""

from __future__ import annotations

from typing import Any

import click
import polars as pl

from skipscope.cli import models, options
from skipscope.cli.printing import Shown
from skipscope.cli.study import study
from skipscope.readings import Readings


def _shown(readings: Readings) -> Shown:
    from skipscope import summary

    if not (readings.cells["spec"] != "").any():
        return models.shown(readings)
    table = summary.summarise(readings).table
    return Shown(table=table, overview=lambda: [_overview(table, readings)])


def _overview(table: pl.DataFrame, readings: Readings) -> pl.DataFrame:
    """A line a design and network quantity: what fits a terminal; json and csv hold everything."""
    from skipscope.designs import DESIGNS

    parameters = readings.rows.filter(pl.col("quantity") == "parameters").group_by("cell").agg(pl.col("value").first())
    rows = table.filter(
        (pl.col("site") == "network")
        & pl.col("quantity").is_in(["forward_growth", "backward_growth", "weight_grad_first_last"])
    ).join(parameters.rename({"value": "parameters"}), on="cell", how="left")
    order = pl.col("design").replace_strict({name: index for index, name in enumerate(DESIGNS)}, default=len(DESIGNS))
    return rows.sort(order, "quantity", descending=[False, True]).select(
        "design", pl.col("parameters").cast(pl.Int64), "quantity", "n", "q05", "q50", "q95"
    )


@click.command()
@models.model
@options.sized_specs
@options.network
@models.batch
@study("gradient flow", title="Gradient flow", shown=_shown)
def flow(**asked: Any) -> Readings:
    """Signal and gradient by depth: of designs, over seeds, with the law beside the measurement; or of a MODEL.

    With --spec, of networks of the paper.

    MODEL is a torch.nn.Module of your own, or what makes one, as package.module:name.
    """
    own = models.split(asked)
    if own is not None:
        return models.measured(**own)
    from skipscope import studies

    return studies.flow(**options.of_specs(asked))
