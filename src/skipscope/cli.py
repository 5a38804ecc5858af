"""The command line: `skipscope demo | flow | diagnose | report | compare`.

Results go to stdout, in the format that was asked for and nothing else; progress goes to stderr, and only to a
terminal. What the user can mend is one line on stderr and exit code 2. Files are checked before an hour of work, not
after. `skipscope --help` is fast because everything that measures or draws is imported inside the commands.
"""

from __future__ import annotations

import io
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
import polars as pl

from skipscope import __version__
from skipscope.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from skipscope.diagnosis import Finding
    from skipscope.readings import Readings
    from skipscope.studies.ensemble import Progress

__all__ = ["cli", "main"]

Format = Literal["table", "json", "csv"]
Command = TypeVar("Command", bound=Callable[..., Any])

_DEMO_FOLDER = "skipscope-report"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for what the user can mend, 130 when interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _ready_streams()
    try:
        result = cli.main(args=given, prog_name="skipscope", standalone_mode=False, obj=given)
        return int(result or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return 2
    except (InputError, click.ClickException) as error:
        return _refused(error.format_message() if isinstance(error, click.ClickException) else str(error))
    except (click.Abort, KeyboardInterrupt):
        print("skipscope: interrupted; no file is half written.", file=sys.stderr)
        return 130
    except SystemExit:  # of click and Rich, when the reader of the output left, e.g. head
        return 0
    except OSError as error:  # files say for themselves what is wrong with them: what is left is a full output
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - or Python writes the rest at exit, and fails again
        return _refused(f"cannot write the output: {(error.strerror or str(error)).lower()}; write it elsewhere.")


def _ready_streams() -> None:
    """A terminal that lacks a letter is no reason to fail, nor is a stream that is closed."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _refused(message: str) -> int:
    print("skipscope:", " ".join(message.split()), file=sys.stderr)
    return 2


# ------------------------------------------------------------------------------------------------------- options


def _options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order in which help lists them."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def _fields(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """A gain is a number if it reads as one, else the name of a rule."""
    if value is None:
        return None
    try:
        return float(value)
    except ValueError:
        return value


_drawing = _options(
    click.option("--seeds", type=int, default=200, show_default=True, help="How many seeds."),
    click.option("--seed", type=int, default=0, show_default=True, help="The first seed."),
    click.option("--dtype", default="float64", show_default=True, help="float64 or float32."),
    click.option("--jobs", type=int, default=1, show_default=True, help="Worker processes; the numbers stay the same."),
)
_network = _options(
    click.option(
        "--design", default="plain,residual,twin,matched", show_default=True, help="Designs, separated by commas."
    ),
    click.option(
        "--depth", type=int, default=28, show_default=True, help="Layers of plain, blocks of residual networks."
    ),
    click.option("--width", type=int, default=36, show_default=True, help="Units of the hidden layers."),
    click.option("--features", type=int, default=16, show_default=True, help="Numbers a sample has."),
    click.option("--order", default="before-add", show_default=True, help="before-add, after-add or pre-activation."),
    click.option("--norm", default="none", show_default=True, help="none, batch or layer."),
    click.option("--init", default="he", show_default=True, help="he, xavier, lecun or torch."),
    click.option("--activation", default="relu", show_default=True, help="relu, tanh or linear."),
    click.option("--output", default="relu", show_default=True, help="Activation of the output layer."),
    click.option("--bias", is_flag=True, help="Give every layer a bias."),
    click.option(
        "--shortcut-gain", default="1", show_default=True, callback=_fields, help="A number, 1/sqrt(L) or 1/L."
    ),
    click.option("--branch-gain", default="1", show_default=True, callback=_fields, help="Likewise, or zero."),
    click.option("--cotangent", default="gaussian", show_default=True, help="gaussian or ones."),
)
_batch = click.option("--batch", type=int, default=1, show_default=True, help="Samples a network.")
_format = click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="How the result is written.",
)
_quiet = click.option("--quiet", is_flag=True, help="No progress, and only the result.")
_overwrite = click.option("--overwrite", is_flag=True, help="Replace files that exist.")
_saving = _options(
    click.option("--out", type=click.Path(path_type=Path), help="Save the readings there (.parquet)."),
    click.option("--report", "page", type=click.Path(path_type=Path), help="Write a report there (.html)."),
    _overwrite,
)


# ------------------------------------------------------------------------------------------------------ commands


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="skipscope", message="%(prog)s %(version)s")
def cli() -> None:
    """Measure what depth and skip connections do to a neural network."""


@cli.command()
@_drawing
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(_DEMO_FOLDER),
    show_default=True,
    help="Folder of the report and the readings.",
)
@_overwrite
@_quiet
def demo(seeds: int, seed: int, dtype: str, jobs: int, out: Path, overwrite: bool, quiet: bool) -> None:
    """The experiments of the original notebook, over many draws; a report in one HTML file."""
    from skipscope import diagnosis, report, studies
    from skipscope.readings import Readings

    drawn = _seeds(seeds, seed)
    many = _seeds(10 * seeds, seed)  # the notebook's small networks are cheap, and its claim is about draws
    page, saved = _demo_files(out, overwrite)
    with _progress("gradient flow", quiet) as progress:
        flow = studies.flow(seeds=drawn, dtype=dtype, jobs=jobs, progress=progress)
    with _progress("as the notebook did it", quiet) as progress:
        notebook = studies.notebook(seeds=many, dtype=dtype, jobs=jobs, progress=progress)
    readings = Readings.concat([flow, notebook])
    findings = diagnosis.diagnose(flow)
    sections = report.sections_of(readings)
    out.mkdir(parents=True, exist_ok=True)
    # The page first: by it the next demo knows that the folder may be written again.
    report.write(page, sections, title="What skip connections do", command=_command(), overwrite=True)
    readings.save(saved, overwrite=True)
    if not quiet:
        _print_findings(findings)
    click.echo(f"Report: {click.format_filename(page)}\nReadings: {click.format_filename(saved)}")


@cli.command()
@_network
@_batch
@_drawing
@_saving
@_format
@_quiet
def flow(
    design: str,
    seeds: int,
    seed: int,
    out: Path | None,
    page: Path | None,
    overwrite: bool,
    format_: Format,
    quiet: bool,
    **fields: Any,
) -> None:
    """Signal and gradient by depth, over seeds, with the law beside the measurement."""
    from skipscope import studies, summary

    _check_outputs(out, page, overwrite)
    with _progress("gradient flow", quiet) as progress:
        readings = studies.flow(designs=_names(design), seeds=_seeds(seeds, seed), progress=progress, **fields)
    _save(readings, out, page, overwrite)
    summarised = summary.summarise(readings)
    _print_table(summarised.table if format_ != "table" else _overview(summarised.table, readings), format_)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@_network
@click.option("--batch", type=int, default=64, show_default=True, help="Samples a network.")
@_drawing
@_format
@_quiet
def diagnose(
    file: Path | None, design: str, seeds: int, seed: int, format_: Format, quiet: bool, **fields: Any
) -> None:
    """Verdicts on saved readings (FILE), or on designs measured now."""
    from skipscope import diagnosis, studies
    from skipscope.readings import Readings

    if file is not None:
        _refuse_options_beside_a_file()
        readings = Readings.load(file)
    else:
        with _progress("measuring", quiet) as progress:
            readings = studies.flow(
                designs=_names(design),
                seeds=_seeds(seeds, seed),
                quantities=studies.DIAGNOSIS_QUANTITIES,
                progress=progress,
                **fields,
            )
    findings = diagnosis.diagnose(readings)
    if format_ == "table":
        _print_findings(findings)
    elif format_ == "json":
        click.echo(_json([_finding_record(finding) for finding in findings]))
    else:
        flat = [{k: v for k, v in _finding_record(finding).items() if k != "evidence"} for finding in findings]
        click.echo(pl.DataFrame(flat).write_csv(), nl=False)


@cli.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The page to write (.html).")
@click.option("--title", default="skipscope report", show_default=True, help="Title of the page.")
@_overwrite
@_quiet
def report(files: tuple[Path, ...], out: Path, title: str, overwrite: bool, quiet: bool) -> None:
    """One HTML page from saved readings."""
    from skipscope import report as page
    from skipscope.readings import Readings

    _check_output("--out", out, ".html", overwrite)
    readings = Readings.concat([Readings.load(file) for file in files])
    page.write(out, page.sections_of(readings), title=title, command=_command(), overwrite=overwrite)
    if not quiet:
        click.echo(f"Report: {click.format_filename(out)}")


@cli.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--quantity", multiple=True, help="Only these quantities (may be given several times).")
@click.option("--site", multiple=True, help="Only these sites; shell patterns such as 'stage1.block*' are allowed.")
@_format
@_quiet
def compare(a: Path, b: Path, quantity: tuple[str, ...], site: tuple[str, ...], format_: Format, quiet: bool) -> None:
    """Readings B relative to readings A, paired where their seeds match."""
    from skipscope import comparison
    from skipscope.readings import Readings

    chosen = {name: list(values) for name, values in (("quantity", quantity), ("site", site)) if values}
    pair = [Readings.load(file) for file in (a, b)]
    if chosen:
        pair = [readings.select(**chosen) for readings in pair]
    compared = comparison.compare(*pair)
    _print_table(compared if format_ != "table" else _compared_overview(compared, bool(chosen)), format_)


# ------------------------------------------------------------------------------------------------- reading options


def _seeds(seeds: int, seed: int) -> range:
    from skipscope.errors import require_int

    first = require_int("--seed", seed, least=0)
    last = first + require_int("--seeds", seeds, least=1)
    if last > 2**63:  # seeds are 64-bit numbers in the table of readings
        raise InputError(f"--seed {seed} with --seeds {seeds} goes beyond 2^63: give smaller numbers.")
    return range(first, last)


def _names(design: str) -> list[str]:
    return [name.strip() for name in design.split(",") if name.strip()]


def _command() -> str:
    """The command line as it was given, for whoever wants to repeat it."""
    command = shlex.join(["skipscope", *(click.get_current_context().obj or ())])
    return command.encode(errors="surrogateescape").decode(errors="replace")  # a file's name may be no text


def _refuse_options_beside_a_file() -> None:
    context = click.get_current_context()
    given = [
        name
        for name in context.params
        if name not in ("file", "format_", "quiet")
        and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        raise InputError(
            f"--{given[0].replace('_', '-')} describes a network to measure, but FILE holds readings already: leave "
            "one of them out."
        )


def _check_outputs(out: Path | None, page: Path | None, overwrite: bool) -> None:
    if out is not None:
        _check_output("--out", out, ".parquet", overwrite)
    if page is not None:
        _check_output("--report", page, ".html", overwrite)


def _check_output(option: str, path: Path, suffix: str, overwrite: bool) -> None:
    """Whether a file can be written there, before the work that is to be saved."""
    from skipscope.files import check_writable

    if path.suffix != suffix:
        raise InputError(f"{option} must end in {suffix}; got {str(path)!r}.")
    if path.is_file() and not overwrite:
        raise InputError(f"{option} {str(path)!r} exists: give another name, or --overwrite.")
    check_writable(path, overwrite=overwrite)


def _demo_files(out: Path, overwrite: bool) -> tuple[Path, Path]:
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
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    finally:
        for each in made:
            with suppress(OSError):
                each.rmdir()


def _save(readings: Readings, out: Path | None, page: Path | None, overwrite: bool) -> None:
    if out is not None:
        readings.save(out, overwrite=overwrite)
    if page is not None:
        from skipscope import report

        sections = report.sections_of(readings)
        report.write(page, sections, title="Gradient flow", command=_command(), overwrite=overwrite)


# --------------------------------------------------------------------------------------------------------- output


@contextmanager
def _progress(what: str, quiet: bool) -> Iterator[Progress | None]:
    """A progress bar on stderr, if somebody is there to see it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("networks"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _overview(table: pl.DataFrame, readings: Readings) -> pl.DataFrame:
    """A line a design and network quantity: what fits a terminal; json and csv hold everything."""
    from skipscope.designs import DESIGNS

    parameters = readings.rows.filter(pl.col("quantity") == "parameters").group_by("cell").agg(pl.col("value").first())
    rows = table.filter(
        (pl.col("site") == "network")
        & pl.col("quantity").is_in(["forward_growth", "backward_growth", "weight_grad_first_last"])
    ).join(parameters.rename({"value": "parameters"}), on="cell", how="left")
    order = pl.col("design").replace_strict({name: index for index, name in enumerate(DESIGNS)}, default=len(DESIGNS))
    return rows.sort(order, "quantity", descending=[False, True]).select(
        "design", pl.col("parameters").cast(pl.Int64), "quantity", "n", "q05", "q50", "q95"
    )


def _compared_overview(table: pl.DataFrame, chosen: bool) -> pl.DataFrame:
    """Likewise of a comparison: unless sites or quantities were chosen, those of the network as a whole."""
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


def _print_table(table: pl.DataFrame, format_: Format) -> None:
    if format_ == "csv":
        click.echo(table.write_csv(), nl=False)
    elif format_ == "json":
        click.echo(_json(table.to_dicts()))
    else:
        from rich.table import Table

        drawn = Table(box=None, header_style="bold", pad_edge=False)
        for name, dtype in table.schema.items():
            drawn.add_column(name, justify="right" if dtype.is_numeric() else "left", overflow="fold")
        for row in table.iter_rows():
            drawn.add_row(*[_cell(value) for value in row])
        _console().print(drawn)


def _print_findings(findings: Sequence[Finding]) -> None:
    from rich.markup import escape

    console = _console()
    for finding in findings:
        console.print(f"[bold]{escape(finding.subject)}[/]: {finding.rule}: [bold]{finding.verdict}[/]")
        console.print(f"  {escape(finding.statement)}")


def _console() -> Console:
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


def _finding_record(finding: Finding) -> dict[str, Any]:
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


def _json(value: Any) -> str:
    unicode = "utf" in (getattr(sys.stdout, "encoding", None) or "").lower()
    return json.dumps(_plain(value), ensure_ascii=not unicode, indent=2, allow_nan=False)


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
