"""`skipscope highway`."""

from __future__ import annotations

from typing import Any

import click

from skipscope.cli import options
from skipscope.cli.printing import Shown
from skipscope.cli.study import study
from skipscope.readings import Readings

_OVERVIEW = ("design", "order", "gain", "norm", "depth", "estimate", "mean", "low", "high", "law_mean", "distance")


def _shown(readings: Readings) -> Shown:
    from skipscope import paths

    misfit = paths.misfit_data(readings)
    return Shown(
        table=misfit,
        overview=lambda: [misfit.select(_OVERVIEW)],
        further=lambda: {
            "shares": paths.shares_data(readings),
            "lengths": paths.paths_data(readings),
            "misfit": misfit,
        },
        findings=lambda: paths.judge(readings),
    )


@click.command()
@options.depths("54", "--depth", "Blocks: 54, or several: 5,10,20 or first:last:step.")
@options.sized_specs
@options.width()
@options.features
@options.designs("residual")
@options.orders
@options.gains
@options.norms
@options.layers(output="linear")
@options.cotangent
@options.batch()
@study("the ways of the gradient", title="Which way the gradient comes", shown=_shown)
def highway(**asked: Any) -> Readings:
    """Which way the gradient comes: shortcut or branch, and through how many branches."""
    from skipscope import studies

    return studies.highway(**options.of_specs(asked))
