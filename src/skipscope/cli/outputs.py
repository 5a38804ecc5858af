"""What a verb writes to disk: readings and pages, checked before the work and written whole after it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skipscope.errors import InputError

if TYPE_CHECKING:
    from skipscope.readings import Readings

    Beside = Callable[[Readings], Mapping[str, Mapping[str, Any]]]


def check(out: Path | None, page: Path | None, overwrite: bool) -> None:
    """Whether readings and report can be written there.

    Raises:
        InputError: one of them cannot.
    """
    if out is not None:
        check_file("--out", out, ".parquet", overwrite)
    if page is not None:
        check_file("--report", page, ".html", overwrite)


def check_file(option: str, path: Path, suffix: str, overwrite: bool) -> None:
    """Whether a file can be written there, before the work that is to be saved.

    Raises:
        InputError: it cannot.
    """
    from skipscope.files import check_writable

    if path.suffix != suffix:
        raise InputError(f"{option} must end in {suffix}; got {str(path)!r}.")
    if os.path.isfile(path) and not overwrite:  # unlike Path.is_file, it takes a name that is too long
        raise InputError(f"{option} {str(path)!r} exists: give another name, or --overwrite.")
    check_writable(path, overwrite=overwrite)


def save(
    readings: Readings, out: Path | None, page: Path | None, overwrite: bool, title: str, beside: Beside | None = None
) -> None:
    """Write readings and report, where they were asked for; `beside` is what the report takes beside the readings."""
    if out is not None:
        readings.save(out, overwrite=overwrite)
    if page is not None:
        write_page(readings, page, title=title, overwrite=overwrite, beside=beside(readings) if beside else None)


def write_page(
    readings: Readings,
    page: Path,
    *,
    title: str,
    overwrite: bool,
    beside: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """The report of readings, with the command that made it."""
    from skipscope import report

    report.write(
        page, report.sections_of(readings, beside=beside), title=title, command=_command(), overwrite=overwrite
    )


def _command() -> str:
    """The command line as it was given, for whoever wants to repeat it."""
    command = shlex.join(["skipscope", *(click.get_current_context().obj or ())])
    return command.encode(errors="surrogateescape").decode(errors="replace")  # a file's name may be no text
