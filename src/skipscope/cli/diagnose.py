"""`skipscope diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import polars as pl

from skipscope.cli import options, printing
from skipscope.cli.options import Format
from skipscope.errors import InputError
from skipscope.readings import Readings


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@options.network
@options.batch(64)
@options.seeds()
@options.format_
@options.quiet
def diagnose(file: Path | None, format_: Format, quiet: bool, **asked: Any) -> None:
    """Verdicts on saved readings (FILE), or on designs measured now."""
    from skipscope import diagnosis

    if file is not None:
        _refuse_options_beside_a_file()
        readings = Readings.load(file)
    else:
        readings = _measured(quiet, **asked)
    findings = diagnosis.diagnose(readings)
    records = [printing.finding_record(finding) for finding in findings]
    if format_ == "table":
        printing.print_findings(findings)
    elif format_ == "json":
        printing.print_json(records)
    else:
        flat = [{name: value for name, value in record.items() if name != "evidence"} for record in records]
        printing.print_table(pl.DataFrame(flat), "csv")


def _measured(quiet: bool, **asked: Any) -> Readings:
    from skipscope import studies

    with printing.progress("measuring", quiet) as progress:
        return studies.flow(quantities=studies.DIAGNOSIS_QUANTITIES, progress=progress, **asked)


def _refuse_options_beside_a_file() -> None:
    context = click.get_current_context()
    options_of = {option.name: option.opts[0] for option in context.command.params}
    given = [
        options_of[name]
        for name in context.params
        if name not in ("file", "format_", "quiet")
        and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        raise InputError(
            f"{given[0]} describes a network to measure, but FILE holds readings already: leave one of them out."
        )
