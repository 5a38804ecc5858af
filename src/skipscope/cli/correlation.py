"""`skipscope correlation`."""

from __future__ import annotations

from typing import Any

import click

from skipscope.cli import options
from skipscope.cli.printing import Shown
from skipscope.cli.study import study
from skipscope.readings import Readings

_OVERVIEW = ("design", "inputs", "depth", "n", "correlation", "low", "high", "law", "halving")


def _shown(readings: Readings) -> Shown:
    from skipscope import shattering

    table = shattering.correlation_data(readings)
    return Shown(
        table=table, overview=lambda: [table.select(_OVERVIEW)], findings=lambda: shattering.findings(readings)
    )


@click.command()
@options.depths("5,10,20,40")
@options.width(100)
@options.designs()
@click.option("--cosine", type=float, default=0.0, show_default=True, help="Between the two inputs, from -1 to 1.")
@click.option("--independent", is_flag=True, help="Leave the two inputs as they are drawn.")
@options.layers(output="linear")
@options.batch(32, "Samples a network with batch normalisation.")
@study("gradient correlation", title="Correlation of gradients", shown=_shown)
def correlation(*, designs: list[str], cosine: float, independent: bool, **asked: Any) -> Readings:
    """How alike the gradients at two inputs are, by depth (shattering)."""
    from skipscope import studies

    return studies.correlation(**options.chosen(designs=designs), cosine=None if independent else cosine, **asked)
