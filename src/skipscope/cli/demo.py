"""`skipscope demo`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skipscope.cli import options, outputs, printing
from skipscope.cli.study import keeping
from skipscope.errors import InputError
from skipscope.readings import Readings

if TYPE_CHECKING:
    from skipscope.studies.presets import Part

SEEDS = 200
"""Seeds of gradient flow; the other studies have their share, as training takes longer than measuring."""


@click.command()
@click.option("--preset", default="demo", show_default=True, help="demo, a minute; or full, for longer.")
@options.seeds(SEEDS)
@options.path(
    "--out", default=Path("skipscope-report"), show_default=True, help="Folder of the report and the readings."
)
@options.folder
@options.overwrite
@options.quiet
def demo(preset: str, seeds: range, out: Path, folder: Path | None, overwrite: bool, quiet: bool, **how: Any) -> None:
    """The experiments of the original notebook, over many draws; a report in one HTML file."""
    from skipscope import studies
    from skipscope.errors import choose
    from skipscope.studies.presets import PRESETS
    from skipscope.takeaways import takeaways

    parts = PRESETS[choose("preset", preset, PRESETS)]
    _check_seeds(seeds, [part.own(seeds, whole=SEEDS) for part in parts])
    page, saved = _files(out, overwrite)
    with keeping(folder):
        readings = _measured(parts, folder, quiet, seeds=seeds, whole=SEEDS, **how)
    with printing.progress("pictures of representations", quiet):
        beside = {"representation": {"pictures": studies.pictures(readings.select(study="representation"))}}
    with _made(out):
        # The page first: by it the next demo knows that the folder may be written again.
        outputs.write_page(readings, page, title="What skip connections do", overwrite=True, beside=beside)
        readings.save(saved, overwrite=True)
    if not quiet:
        printing.print_findings(takeaways(readings))
    click.echo(f"Report: {click.format_filename(page)}\nReadings: {click.format_filename(saved)}")


def _measured(parts: Sequence[Part], folder: Path | None, quiet: bool, **how: Any) -> Readings:
    """The readings of all studies; in a folder a study is a part of the run, and what takes long has a run of its own.

    Args:
        parts: the studies.
        folder: keeps what is measured, see `skipscope.runs`.
        quiet: whether no progress is shown.
        how: what every study is given.
    """
    from skipscope import runs

    if folder is None:
        return Readings.concat(_shown(part, part.run, quiet, **how) for part in parts)
    changing = {**how, "seeds": [how["seeds"].start, how["seeds"].stop]}
    del changing["jobs"]  # which change no number
    plan = {**changing, "studies": [part.described for part in parts]}
    found = []
    with runs.opened(folder, plan, parts=len(parts)) as run:
        for number, part in enumerate(parts):
            known = run.load(number)
            if known is None:
                known = _shown(part, partial(part.run_in, run.folder), quiet, **how)
                run.save(number, known)
            found.append(known)
        readings = Readings.concat(found)
        run.finish(readings)
    return readings


def _shown(part: Part, measure: Callable[..., Readings], quiet: bool, **how: Any) -> Readings:
    """What a study gives, while its progress is shown."""
    with printing.progress(part.about, quiet) as progress:
        return measure(progress=progress, **how)


def _check_seeds(seeds: range, own: Sequence[range]) -> None:
    """Refuse at once what a study would refuse only after those before it: some have more seeds than were asked for."""
    if max(each.stop for each in own) > 2**63:
        raise InputError(
            f"--seed {seeds.start} with --seeds {len(seeds)} goes beyond 2^63 in the studies that take "
            "more seeds: give smaller numbers."
        )


def _files(out: Path, overwrite: bool) -> tuple[Path, Path]:
    """The page and the readings in the folder; a folder of an earlier demo may be written again."""
    from skipscope.files import check_writable

    page, saved = out / "index.html", out / "readings.parquet"
    try:
        _try_folder(out)
        ours = page.is_file() and b'content="skipscope' in page.read_bytes()[:4096]
        taken = out.is_dir() and any(out.iterdir()) and not (ours or overwrite)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"--out {str(out)!r} cannot be the demo's folder: {reason}; give another name.") from error
    if taken:
        raise InputError(
            f"--out {str(out)!r} holds files that skipscope did not write: name another folder, or --overwrite."
        )
    if out.is_dir():
        for path in (page, saved):
            check_writable(path, overwrite=True)
    return page, saved


def _try_folder(folder: Path) -> None:
    """Make a folder and remove it again, to see whether it can be made: permission bits do not tell."""
    with _made(folder):
        pass


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Makes a folder, and removes it again if it stays empty."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for each in missing:
            with suppress(OSError):
                each.rmdir()
