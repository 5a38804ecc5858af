"""The command line: `skipscope demo`, the studies by their names, `theory | diagnose | report | compare`.

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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
import polars as pl
import polars.selectors as cs

from skipscope import __version__
from skipscope.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from skipscope.diagnosis import Finding
    from skipscope.readings import Readings
    from skipscope.studies.ensemble import Progress
    from skipscope.theory import Prediction

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
    return None if value is None else _gain(value)


def _gain(value: str) -> Any:
    """A gain is a number if it reads as one, else the name of a rule."""
    try:
        return float(value)
    except ValueError:
        return value


_how = (
    click.option("--seed", type=int, default=0, show_default=True, help="The first seed."),
    click.option("--dtype", default="float64", show_default=True, help="float64 or float32."),
    click.option("--jobs", type=int, default=1, show_default=True, help="Worker processes; the numbers stay the same."),
)
_drawing = _options(click.option("--seeds", type=int, default=200, show_default=True, help="How many seeds."), *_how)
_fewer = _options(click.option("--seeds", type=int, default=50, show_default=True, help="How many seeds."), *_how)
_dense = _options(
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
_network = _options(
    click.option(
        "--design", default="plain,residual,twin,matched", show_default=True, help="Designs, separated by commas."
    ),
    click.option(
        "--depth", type=int, default=28, show_default=True, help="Layers of plain, blocks of residual networks."
    ),
    _dense,
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


@cli.command()
@click.option("--depths", default="5,10,20,30,40", show_default=True, help="Depths: 5,10,20 or first:last:step.")
@click.option("--design", default="plain,residual", show_default=True, help="Designs, separated by commas.")
@_dense
@_batch
@_drawing
@click.option("--sites", is_flag=True, help="Also measure every site; those readings stay in the folder.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the work there; the same command goes on.")
@_saving
@_format
@_quiet
def sweep(
    depths: str,
    design: str,
    seeds: int,
    seed: int,
    sites: bool,
    folder: Path | None,
    out: Path | None,
    page: Path | None,
    overwrite: bool,
    format_: Format,
    quiet: bool,
    **fields: Any,
) -> None:
    """Networks of several depths, over seeds: growth, rates a block, and what one draw would have said."""
    from skipscope import studies

    if sites and folder is None:
        raise InputError("--sites needs --folder, as site-level readings are too many to hold: name a folder.")
    asked = {"depths": _depths(depths), "designs": _names(design), "seeds": _seeds(seeds, seed), **fields}
    _check_outputs(out, page, overwrite)
    try:
        with _progress("sweep over depth", quiet) as progress:
            readings = studies.sweep(**asked, sites=sites, folder=folder, progress=progress)
    except KeyboardInterrupt:
        if folder is None:
            raise
        kept = click.format_filename(folder)
        print(
            f"skipscope: interrupted; what is measured is in {kept}: the same command goes on there.", file=sys.stderr
        )
        raise click.exceptions.Exit(130) from None
    _save(readings, out, None, overwrite)
    if page is not None:
        from skipscope import report as pages

        sections = pages.sections_of(readings)
        pages.write(page, sections, title="Depth scaling", command=_command(), overwrite=overwrite)
    _print_sweep(readings, format_, quiet)
    if folder is not None and format_ == "table" and not quiet:
        click.echo(f"Readings: {click.format_filename(folder / 'readings.parquet')}")


@cli.command()
@_network
@_batch
@_format
@_quiet
def theory(design: str, depth: int, batch: int, cotangent: Any, format_: Format, quiet: bool, **fields: Any) -> None:
    """What the laws predict for a network, and why others do not hold there."""
    from skipscope import designs, theory

    names = _names(design)
    if not names:
        raise InputError(f"--design is empty: name at least one of {', '.join(designs.DESIGNS)}.")
    predictions = [
        (name, prediction)
        for name in dict.fromkeys(names)
        for prediction in theory.laws(designs.design(name, depth=depth, **fields), cotangent=cotangent, batch=batch)
    ]
    if format_ == "json":
        click.echo(_json([_prediction_record(name, prediction) for name, prediction in predictions]))
    elif format_ == "csv":
        _print_table(_predicted(predictions), "csv")
    else:
        _print_predictions(predictions)


_layers = _options(
    click.option("--init", default="he", show_default=True, help="he, xavier, lecun or torch."),
    click.option("--activation", default="relu", show_default=True, help="relu, tanh or linear."),
    click.option("--output", default="linear", show_default=True, help="Activation of the output layer."),
    click.option("--bias", is_flag=True, help="Give every layer a bias."),
)


@cli.command()
@click.option("--depth", default="54", show_default=True, help="Blocks: 54, or several: 5,10,20 or first:last:step.")
@click.option("--width", type=int, default=36, show_default=True, help="Units of the hidden layers.")
@click.option("--features", type=int, default=16, show_default=True, help="Numbers a sample has.")
@click.option("--design", default="residual", show_default=True, help="Designs, separated by commas.")
@click.option("--order", default="before-add,after-add,pre-activation", show_default=True, help="Where the ReLU is.")
@click.option("--gain", default="1,1/sqrt(L)", show_default=True, help="Gains of the branch, separated by commas.")
@click.option("--norm", default="none", show_default=True, help="none, batch and layer, separated by commas.")
@_layers
@click.option("--cotangent", default="gaussian", show_default=True, help="gaussian or ones.")
@_batch
@_drawing
@_saving
@_format
@_quiet
def highway(
    depth: str,
    design: str,
    order: str,
    gain: str,
    norm: str,
    seeds: int,
    seed: int,
    out: Path | None,
    page: Path | None,
    overwrite: bool,
    format_: Format,
    quiet: bool,
    **fields: Any,
) -> None:
    """Which way the gradient comes: shortcut or branch, and through how many branches."""
    from skipscope import paths, studies

    asked: dict[str, Any] = {"depth": _depths(depth), "designs": _names(design), "orders": _names(order)}
    asked |= {"gains": [_gain(name) for name in _names(gain)], "norms": _names(norm), "seeds": _seeds(seeds, seed)}
    _check_outputs(out, page, overwrite)
    with _progress("the ways of the gradient", quiet) as progress:
        readings = studies.highway(**asked, progress=progress, **fields)
    _save(readings, out, page, overwrite, title="Which way the gradient comes")
    misfit = paths.misfit_data(readings)
    if format_ == "json":
        tables = {"shares": paths.shares_data(readings), "lengths": paths.paths_data(readings), "misfit": misfit}
        told = [_finding_record(finding) for finding in paths.judge(readings)]
        click.echo(_json({name: table.to_dicts() for name, table in tables.items()} | {"findings": told}))
        return
    shown = ("order", "gain", "norm", "depth", "estimate", "mean", "low", "high", "law_mean", "distance")
    _print_table(misfit if format_ == "csv" else misfit.select(shown), format_)
    if format_ == "table" and not quiet:
        click.echo()
        _print_findings(paths.judge(readings))


_over_depths = click.option(
    "--depths", default="5,10,20,40", show_default=True, help="Depths: 5,10,20 or first:last:step."
)
_some_designs = click.option(
    "--design", multiple=True, help="A design of the study (may be given several times); all of them if none is given."
)


@cli.command()
@_over_depths
@click.option("--width", type=int, default=36, show_default=True, help="Units of the hidden layers.")
@_some_designs
@click.option("--part", multiple=True, help="body or network (may be given twice); both if none is given.")
@click.option("--blocks/--no-blocks", default=True, show_default=True, help="Measure every block by itself as well.")
@_layers
@click.option("--batch", type=int, default=64, show_default=True, help="Samples a network with batch normalisation.")
@_fewer
@_saving
@_format
@_quiet
def jacobian(
    depths: str,
    design: tuple[str, ...],
    part: tuple[str, ...],
    seeds: int,
    seed: int,
    out: Path | None,
    page: Path | None,
    overwrite: bool,
    format_: Format,
    quiet: bool,
    **fields: Any,
) -> None:
    """Singular values of networks, bodies and blocks, by depth."""
    from skipscope import spectra, studies, summary

    asked: dict[str, Any] = {"depths": _depths(depths), "seeds": _seeds(seeds, seed)}
    asked |= {name: given for name, given in (("designs", design), ("parts", part)) if given}
    _check_outputs(out, page, overwrite)
    with _progress("Jacobians", quiet) as progress:
        readings = studies.jacobian(**asked, progress=progress, **fields)
    _save(readings, out, page, overwrite, title="Singular values of the Jacobian")
    table = spectra.spectrum_data(summary.summarise(readings)).sort("part", "design", "depth", maintain_order=True)
    shown = ("design", "part", "depth", "curve", "n", "zeros", "q25", "q50", "q75", "law")
    _print_table(
        table if format_ != "table" else table.select(shown),
        format_,
    )


@cli.command()
@_over_depths
@click.option("--width", type=int, default=100, show_default=True, help="Units of the hidden layers.")
@_some_designs
@click.option("--cosine", type=float, default=0.0, show_default=True, help="Between the two inputs, from -1 to 1.")
@click.option("--independent", is_flag=True, help="Leave the two inputs as they are drawn.")
@_layers
@click.option("--batch", type=int, default=32, show_default=True, help="Samples a network with batch normalisation.")
@_drawing
@_saving
@_format
@_quiet
def correlation(
    depths: str,
    design: tuple[str, ...],
    cosine: float,
    independent: bool,
    seeds: int,
    seed: int,
    out: Path | None,
    page: Path | None,
    overwrite: bool,
    format_: Format,
    quiet: bool,
    **fields: Any,
) -> None:
    """How alike the gradients at two inputs are, by depth (shattering)."""
    from skipscope import shattering, studies

    asked: dict[str, Any] = {"depths": _depths(depths), "seeds": _seeds(seeds, seed)}
    asked |= {"designs": design} if design else {}
    asked["cosine"] = None if independent else cosine
    _check_outputs(out, page, overwrite)
    with _progress("gradient correlation", quiet) as progress:
        readings = studies.correlation(**asked, progress=progress, **fields)
    _save(readings, out, page, overwrite, title="Correlation of gradients")
    table = shattering.correlation_data(readings)
    shown = ("design", "inputs", "depth", "n", "correlation", "low", "high", "law", "halving")
    _print_table(table if format_ != "table" else table.select(shown), format_)


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


def _depths(text: str) -> list[int]:
    """`5,10,20`, ranges `first:last` or `first:last:step` (the last included), or both."""
    found: list[int] = []
    for piece in text.split(","):
        try:
            numbers = [int(each) for each in piece.split(":")]
            first, last, step = (*numbers, *{1: (numbers[0], 1), 2: (1,)}.get(len(numbers), ()))
            many = range(first, last + 1, max(step, 1))
        except (ValueError, TypeError):
            raise InputError(f"--depths must be numbers such as 5,10,20 or first:last:step; got {text!r}.") from None
        if step < 1 or not 0 < len(many) <= 10_000:
            raise InputError(f"--depths {piece!r} must be 1 to 10,000 depths, from first up to last; e.g. 5:200:5.")
        found += many
    return found


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


def _save(
    readings: Readings, out: Path | None, page: Path | None, overwrite: bool, title: str = "Gradient flow"
) -> None:
    if out is not None:
        readings.save(out, overwrite=overwrite)
    if page is not None:
        from skipscope import report

        sections = report.sections_of(readings)
        report.write(page, sections, title=title, command=_command(), overwrite=overwrite)


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


def _print_sweep(readings: Readings, format_: Format, quiet: bool) -> None:
    from skipscope import trends

    if format_ == "csv":
        _print_table(trends.by_depth(readings), "csv")
    elif format_ == "json":
        tables = {name: getattr(trends, name)(readings).to_dicts() for name in ("by_depth", "rates", "contradictions")}
        told = [_finding_record(finding) for finding in trends.findings(readings)]
        click.echo(_json({**tables, "misfit": trends.misfit(readings).to_dicts(), "findings": told}))
    else:
        for table in (_growth_overview(readings), _rates_overview(readings), _draws_overview(readings)):
            if not table.is_empty():
                _print_table(table, "table")
                click.echo()
        if not quiet:
            _print_findings(trends.findings(readings))


def _growth_overview(readings: Readings) -> pl.DataFrame:
    """A line a network: growth a block with the interval of its median, and the spread of the notebook's ratio."""
    from skipscope import trends

    told = {
        "forward_growth": ("forward a block", "median_low", "median_high"),
        "backward_growth": ("backward a block", "median_low", "median_high"),
        "weight_grad_first_last": ("first/last", "q05", "q95"),
    }
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for row in trends.by_depth(readings).iter_rows(named=True):
        if row["quantity"] in told:
            name, low, high = told[row["quantity"]]
            line = lines.setdefault((row["design"], row["depth"]), {"design": row["design"], "depth": row["depth"]})
            line["blocks"] = row["blocks"]
            line[name] = row["q50"]
            line[f"{'90 % of draws' if low == 'q05' else '95 % interval'}|{name}"] = _between(row[low], row[high])
    table = pl.DataFrame(list(lines.values()), infer_schema_length=None)
    return table.rename(
        {name: f"{name.partition('|')[0]}{' ' * i}" for i, name in enumerate(table.columns) if "|" in name}
    )


def _rates_overview(readings: Readings) -> pl.DataFrame:
    """A line a trend: by how much ln of the squared norm ratio changes a block."""
    from skipscope import trends

    what = pl.col("quantity").replace_strict({name: told for name, (told, _) in trends.RATES.items()})
    interval = pl.struct("rate_low", "rate_high").map_elements(
        lambda ends: _between(ends["rate_low"], ends["rate_high"]), return_dtype=pl.String, skip_nulls=False
    )
    shown = (what.alias("of"), "rate", interval.alias("95 % interval"), "law_rate", "z", pl.col("n").alias("seeds"))
    return trends.rates(readings).select(pl.col("design").alias("rate a block"), *shown, "left_out")


def _draws_overview(readings: Readings) -> pl.DataFrame:
    """A line a pair and depth: how many draws contradict what the notebook concludes from one."""
    from skipscope import trends

    interval = pl.struct("low", "high").map_elements(
        lambda ends: _between(ends["low"], ends["high"]), return_dtype=pl.String, skip_nulls=False
    )
    pair = pl.format("{} / {}", "design", "against").alias("N")
    shown = (pl.col("N").alias("median N"), "contradicts", interval.alias("95 % interval"), "nearer")
    return trends.contradictions(readings).select(pair, "depth", pl.col("n").alias("draws"), "left_out", *shown)


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_number(low)} to {_number(high)}"


def _predicted(predictions: Sequence[tuple[str, Prediction]]) -> pl.DataFrame:
    """A row a design, law and site; a law that does not hold has one row, with the reason."""
    tables = []
    for name, prediction in predictions:
        named = {"design": name, "law": prediction.law, "quantity": prediction.quantity}
        table = pl.DataFrame([named]) if prediction.table.is_empty() else prediction.table
        columns = [pl.lit(value).alias(key) for key, value in {**named, "refusal": prediction.refusal}.items()]
        tables.append(
            table.with_columns(columns).select("design", "law", "quantity", pl.exclude("design", "law", "quantity"))
        )
    return pl.concat(tables, how="diagonal")


def _prediction_record(name: str, prediction: Prediction) -> dict[str, Any]:
    told = {key: getattr(prediction, key) for key in ("law", "quantity", "statement", "source", "refusal")}
    return {"design": name, **told, "table": prediction.table.to_dicts()}


def _print_predictions(predictions: Sequence[tuple[str, Prediction]]) -> None:
    """Both ends of every law that holds, and why the others do not; json and csv hold every site."""
    from rich.markup import escape

    console = _console()
    holding = [(name, prediction) for name, prediction in predictions if prediction.holds]
    if holding:
        ends = [
            (name, replace(each, table=pl.concat([each.table.head(1), each.table.tail(1)]).unique(maintain_order=True)))
            for name, each in holding
        ]
        _print_table(_predicted(ends).drop("quantity", "refusal", cs.starts_with("asymptotic_")), "table")
        click.echo()
    for law, statement in {prediction.law: prediction.statement for _, prediction in holding}.items():
        console.print(f"[bold]{escape(law)}[/]: {escape(statement)}")
    refused: dict[tuple[str, str], list[str]] = {}
    for name, prediction in predictions:
        if not prediction.holds:
            refused.setdefault((prediction.law, prediction.refusal), []).append(name)
    for (law, refusal), names in refused.items():
        console.print(f"[bold]{escape(', '.join(names))}[/]: {escape(law)}: [bold]does not hold[/]")
        console.print(f"  {escape(refusal)}")


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
