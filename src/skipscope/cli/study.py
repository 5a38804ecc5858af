"""What all verbs that run a study do alike: seeds, measuring with progress, saving, a report, and printing.

A verb of a study is then its own options, a function from these to readings, and a function from readings to what is
shown of them (see correlation.py for a short one).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skipscope.cli import options, outputs, printing
from skipscope.cli.options import Format
from skipscope.cli.printing import Shown

if TYPE_CHECKING:
    from skipscope.readings import Readings


def study(
    doing: str,
    *,
    title: str,
    shown: Callable[[Readings], Shown],
    seeds: int = 200,
    folder: bool = False,
    beside: outputs.Beside | None = None,
) -> Callable[[Callable[..., Readings]], Callable[..., None]]:
    """Make a command of a function that measures; it stands below the verb's own options.

    The function is called with `seeds` (a range), `progress`, `dtype`, `jobs`, and the verb's own options; with
    `folder` as well where the verb has it.

    Args:
        doing: what the progress bar says.
        title: of the report.
        shown: what is printed of the readings.
        seeds: how many there are unless the user says.
        folder: whether the work can be kept in a folder, to go on there.
        beside: what the report takes beside the readings, by study; see `skipscope.report.sections_of`.
    """

    def decorate(measure: Callable[..., Readings]) -> Callable[..., None]:
        @options.seeds(seeds)
        @options.several(*([options.folder] if folder else []), options.saving, options.format_, options.quiet)
        @functools.wraps(measure)
        def command(
            *, out: Path | None, page: Path | None, overwrite: bool, format_: Format, quiet: bool, **fields: Any
        ) -> None:
            kept: Path | None = fields.get("folder")
            outputs.check(out, page, overwrite)
            with keeping(kept), printing.progress(doing, quiet) as progress:
                readings = measure(progress=progress, **fields)
            outputs.save(readings, out, page, overwrite, title, beside)
            printing.show(shown(readings), format_, quiet)
            if kept is not None and format_ == "table" and not quiet:
                click.echo(f"Readings: {click.format_filename(kept / 'readings.parquet')}")

        return command

    return decorate


@contextmanager
def keeping(folder: Path | None) -> Iterator[None]:
    """Who interrupts work that is kept in a folder is told how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if folder is None:
            raise
        kept = click.format_filename(folder)
        print(
            f"skipscope: interrupted; what is measured is in {kept}: the same command goes on there.", file=sys.stderr
        )
        raise click.exceptions.Exit(130) from None
