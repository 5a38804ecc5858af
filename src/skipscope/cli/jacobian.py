"""`skipscope jacobian`."""

from __future__ import annotations

from typing import Any

import click

from skipscope.cli import options
from skipscope.cli.printing import Shown
from skipscope.cli.study import study
from skipscope.readings import Readings

_OVERVIEW = ("design", "part", "depth", "curve", "n", "zeros", "q25", "q50", "q75", "law")


def _shown(readings: Readings) -> Shown:
    from skipscope import spectra, summary

    table = spectra.spectrum_data(summary.summarise(readings)).sort("part", "design", "depth", maintain_order=True)
    return Shown(table=table, overview=lambda: [table.select(_OVERVIEW)], findings=lambda: spectra.findings(readings))


@click.command()
@options.depths("5,10,20,40")
@options.width()
@options.designs()
@click.option("--part", multiple=True, help="body or network (may be given twice); both if none is given.")
@click.option("--blocks/--no-blocks", default=True, show_default=True, help="Measure every block by itself as well.")
@options.layers(output="linear")
@options.batch(64, "Samples a network with batch normalisation.")
@study("Jacobians", title="Singular values of the Jacobian", shown=_shown, seeds=50)
def jacobian(*, designs: list[str], part: tuple[str, ...], **asked: Any) -> Readings:
    """Singular values of networks, bodies and blocks, by depth."""
    from skipscope import studies

    return studies.jacobian(**options.chosen(designs=designs, parts=part), **asked)
