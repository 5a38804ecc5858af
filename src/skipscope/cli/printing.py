"""What a verb prints: tables, findings and records on stdout, as the format asks, and progress on stderr.

A verb says what it has to show as a `Shown`; which part of it is printed follows from the format, in one place.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import polars as pl

from skipscope import words
from skipscope.cli.options import Format

if TYPE_CHECKING:
    from rich.console import Console

    from skipscope.diagnosis import Finding
    from skipscope.readings import Readings
    from skipscope.studies.ensemble import Progress


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What there is to show of a result; what a format does not need is not computed.

    Attributes:
        table: everything in one table: csv, and json where there is nothing further.
        overview: the tables for a terminal.
        further: all tables by name: with them, json is an object of tables and findings.
        findings: below the overview, unless quiet.
    """

    table: pl.DataFrame
    overview: Callable[[], Sequence[pl.DataFrame]]
    further: Callable[[], Mapping[str, pl.DataFrame]] | None = None
    findings: Callable[[], Sequence[Finding]] | None = None


def show(shown: Shown, format_: Format, quiet: bool) -> None:
    """Print a result."""
    if format_ == "csv":
        print_table(shown.table, "csv")
    elif format_ == "json":
        print_json(_record(shown))
    else:
        tables = [table for table in shown.overview() if not table.is_empty()]
        findings = shown.findings() if shown.findings and not quiet else []
        for index, table in enumerate(tables):
            if index:
                click.echo()
            print_table(table, "table")
        if tables and findings:
            click.echo()
        print_findings(findings)


def _record(shown: Shown) -> Any:
    if shown.further is None and shown.findings is None:
        return shown.table.to_dicts()
    tables = {"table": shown.table} if shown.further is None else shown.further()
    findings = {} if shown.findings is None else {"findings": [finding_record(each) for each in shown.findings()]}
    return {name: table.to_dicts() for name, table in tables.items()} | findings


# ---------------------------------------------------------------------------------------------------------- the parts


def print_table(table: pl.DataFrame, format_: Format) -> None:
    """A table in any of the formats."""
    if format_ == "csv":
        click.echo(table.write_csv(), nl=False)
    elif format_ == "json":
        print_json(table.to_dicts())
    else:
        from rich.table import Table

        drawn = Table(box=None, header_style="bold", pad_edge=False)
        for name, dtype in table.schema.items():
            drawn.add_column(name, justify="right" if dtype.is_numeric() else "left", overflow="fold")
        for row in table.iter_rows():
            drawn.add_row(*[_cell(value) for value in row])
        console().print(drawn)


def print_findings(findings: Sequence[Finding]) -> None:
    """Two lines a finding: the verdict, and the statement."""
    from rich.markup import escape

    terminal = console()
    for finding in findings:
        terminal.print(f"[bold]{escape(finding.subject)}[/]: {finding.rule}: [bold]{finding.verdict}[/]")
        terminal.print(f"  {escape(finding.statement)}")


def finding_record(finding: Finding) -> dict[str, Any]:
    """A finding with all that it rests on."""
    return {
        "rule": finding.rule,
        "cell": finding.cell,
        "subject": finding.subject,
        "verdict": finding.verdict,
        "statement": finding.statement,
        "threshold": finding.threshold,
        "source": finding.source,
        "evidence": finding.evidence.to_dicts(),
    }


def print_json(value: Any) -> None:
    """A record as JSON, in letters that the stream has."""
    unicode = "utf" in (getattr(sys.stdout, "encoding", None) or "").lower()
    click.echo(json.dumps(_plain(value), ensure_ascii=not unicode, indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    """JSON knows no nan and no inf, but an overflow is a finding: they are written as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return f"{value:.3g}"


def interval(low: float | None, high: float | None) -> str:
    """`0.98 to 1.02`, empty where there is none."""
    return "" if low is None or high is None else f"{_number(low)} to {_number(high)}"


def stopped(readings: Readings) -> pl.DataFrame:
    """A line a kind of network and site: how many stopped there, and after how many steps; most often none."""
    from skipscope.stops import stops_by_site

    at = pl.col("site").alias("nan or inf first at")
    after = pl.format("{} to {}", "fewest", "most").alias("after steps")
    return stops_by_site(readings).select(pl.col("design").alias("stopped"), "norm", "depth", "rate", at, "n", after)


def console() -> Console:
    """Where text in bold type is printed to."""
    from rich.console import Console

    # Piped output is for other programs and keeps its lines whole. Who asks for NO_COLOR (no-color.org) gets no codes.
    terminal = sys.stdout.isatty()
    plain = not terminal or bool(os.environ.get("NO_COLOR"))
    return Console(
        highlight=False,
        soft_wrap=not terminal,
        width=None if terminal else 10_000,
        color_system=None if plain else "auto",
    )


@contextmanager
def progress(what: str, quiet: bool, unit: str = "networks") -> Iterator[Progress | None]:
    """A progress bar on stderr, if somebody is there to see it; `unit` is what it counts."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(TextColumn):
        def render(self, task: Task) -> Text:
            return Text("" if not task.speed else f"{words.number(task.speed)}/s")

    counted = (MofNCompleteColumn(), TextColumn(unit))
    columns = (TextColumn(what), BarColumn(), *counted, Rate(""), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
