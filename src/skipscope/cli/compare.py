"""`skipscope compare`."""

from __future__ import annotations

from pathlib import Path

import click
import polars as pl

from skipscope.cli import options, printing
from skipscope.cli.options import Format
from skipscope.cli.printing import Shown
from skipscope.readings import Readings


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--quantity", multiple=True, help="Only these quantities (may be given several times).")
@click.option("--site", multiple=True, help="Only these sites; shell patterns such as 'stage1.block*' are allowed.")
@options.format_
@options.quiet
def compare(a: Path, b: Path, quantity: tuple[str, ...], site: tuple[str, ...], format_: Format, quiet: bool) -> None:
    """Readings B relative to readings A, paired where their seeds match."""
    from skipscope import comparison

    chosen = options.chosen(quantity=quantity, site=site)
    pair = [Readings.load(file) for file in (a, b)]
    if chosen:
        pair = [readings.select(**chosen) for readings in pair]
    table = comparison.compare(*pair)
    printing.show(Shown(table=table, overview=lambda: [_overview(table, bool(chosen))]), format_, quiet)


def _overview(table: pl.DataFrame, chosen: bool) -> pl.DataFrame:
    """What fits a terminal: unless sites or quantities were chosen, those of the network as a whole."""
    whole = table.filter(pl.col("site") == "network")
    shown = table if chosen or whole.is_empty() else whole
    cells = pl.col("cell_a", "cell_b")
    short = shown.with_columns(cells.str.replace("-[0-9a-f]{10}$", ""))
    if short.select(cells).n_unique() == shown.select(cells).n_unique():
        shown = short
    names = ["cell_a"] if (shown["cell_a"] == shown["cell_b"]).all() else ["cell_a", "cell_b"]
    several = [name for name in ("step", "site", "call") if shown[name].n_unique() > 1]
    interval = pl.col("ratio_low").alias("low"), pl.col("ratio_high").alias("high")
    return shown.select(*names, *several, "quantity", "pairs", "ratio", *interval, "larger")
