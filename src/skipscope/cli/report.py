"""`skipscope report`."""

from __future__ import annotations

from pathlib import Path

import click

from skipscope.cli import options, outputs
from skipscope.readings import Readings


@click.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
@options.path("--out", required=True, help="The page to write (.html).")
@click.option("--title", default="skipscope report", show_default=True, help="Title of the page.")
@options.overwrite
@options.quiet
def report(files: tuple[Path, ...], out: Path, title: str, overwrite: bool, quiet: bool) -> None:
    """One HTML page from saved readings."""
    outputs.check_file("--out", out, ".html", overwrite)
    readings = Readings.concat([Readings.load(file) for file in files])
    outputs.write_page(readings, out, title=title, overwrite=overwrite)
    if not quiet:
        click.echo(f"Report: {click.format_filename(out)}")
