"""`skipscope networks`."""

from __future__ import annotations

import click
import polars as pl

from skipscope.cli import options, printing
from skipscope.cli.options import Format


@click.command()
@click.argument("names", nargs=-1)
@options.format_
def networks(names: tuple[str, ...], format_: Format) -> None:
    """The paper's networks (or those called NAMES): weight layers, parameters, multiply-adds of a sample."""
    from skipscope.designs import NETWORKS, spec_named

    rows = []
    for name in names or NETWORKS:
        spec = spec_named(name)
        rows.append(
            {
                "network": name,
                "shortcut": spec.stages[0].shortcut,
                "layers": spec.depth,
                "parameters": spec.parameters,
                "multiply_adds": spec.multiply_adds,
            }
        )
    printing.print_table(pl.DataFrame(rows), format_)
