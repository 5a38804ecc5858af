"""`skipscope representation`."""

from __future__ import annotations

from typing import Any

import click

from skipscope.cli import options, printing
from skipscope.cli.printing import Shown
from skipscope.cli.study import study
from skipscope.readings import Readings

_OVERVIEW = ("design", "state", "site", "layers", "n", "mean", "low", "high")


def _shown(readings: Readings) -> Shown:
    from skipscope import separability, stops

    table = separability.depth_data(readings)
    return Shown(
        table=table,
        overview=lambda: [table.select(_OVERVIEW), printing.stopped(readings)],
        further=lambda: {
            "accuracy": table,
            "differences": separability.pairs_data(readings),
            "dimension": separability.depth_data(readings, "effective_dimension"),
            "stopped": stops.stops(readings),
        },
        findings=lambda: separability.findings(readings),
    )


def _beside(readings: Readings) -> dict[str, dict[str, Any]]:
    from skipscope import studies

    return {"representation": {"pictures": studies.pictures(readings)}}


@click.command()
@options.designs("twin", "residual")
@options.trained
@study(
    "what depth has learned", title="What every depth has learned", shown=_shown, seeds=8, folder=True, beside=_beside
)
def representation(*, steps: int, rate: float, batch: int, **asked: Any) -> Readings:
    """What a linear classifier reads at every depth, untrained and trained."""
    from dataclasses import replace

    from skipscope import studies

    recipe = replace(studies.REPRESENTATION_RECIPE, steps=steps, rate=rate, batch=batch)
    return studies.representation(recipe=recipe, **asked)
