"""`skipscope identity`."""

from __future__ import annotations

from typing import Any

import click

from skipscope.cli import options, printing
from skipscope.cli.printing import Shown
from skipscope.cli.study import study
from skipscope.readings import Readings


def _shown(readings: Readings) -> Shown:
    from skipscope import identity, stops

    parts = set(readings.cells["part"])
    tables = {}
    if "block" in parts:
        tables["block"] = identity.block_data(readings)
    if "stack" in parts:
        tables |= {
            "errors": identity.error_data(readings),
            "paired": identity.paired_data(readings),
            "deeper": identity.deeper_data(readings),
            "branches": identity.branch_data(readings),
            "rates": identity.rate_data(readings),
            "stopped": stops.stops(readings),
        }
    columns = {
        "block": ("quantity", "scale", "n", "least", "q50", "most", "law"),
        "errors": ("design", "depth", "rate", "n", "lost", "q50", "low", "high"),
    }
    return Shown(
        table=tables["errors" if "stack" in parts else "block"],
        overview=lambda: [
            *(tables[name].select(shown) for name, shown in columns.items() if name in tables),
            printing.stopped(readings),
        ],
        further=lambda: tables,
        findings=lambda: identity.findings(readings),
    )


@click.command()
@click.option(
    "--scales",
    default="1,0.1,0.01,0.001,0.0001",
    show_default=True,
    callback=options.numbers(float, "0.1,0.01"),
    help="Scales of the block's weights.",
)
@options.depths("4,10,22", about="Weight layers of the stacks: 4,10,22 or first:last:step.")
@options.width()
@options.designs()
@click.option(
    "--rates",
    default="0.3,0.1,0.03,0.01,0.003,0.001",
    show_default=True,
    callback=options.numbers(float, "0.1,0.01"),
    help="Learning rates that every stack is trained at.",
)
@options.steps(600)
@options.batch(64, "Samples a step.")
@click.option("--only", type=click.Choice(["block", "stacks"]), help="Leave the other part of the study out.")
@study("the identity", title="The identity, with and without a shortcut", shown=_shown, seeds=8, folder=True)
def identity(*, designs: list[str], only: str | None, **asked: Any) -> Readings:
    """Whether shortcuts make the identity easy: a block of small weights, stacks that learn x -> x."""
    from skipscope import studies

    if only is not None:
        asked["depths" if only == "block" else "scales"] = ()
    return studies.identity(**options.chosen(designs=designs), **asked)
