"""The options by which a verb takes a model of the user's own, and what it shows of it. Needs PyTorch when used."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import polars as pl

from skipscope.cli import options
from skipscope.cli.printing import Shown
from skipscope.errors import InputError, quoted

if TYPE_CHECKING:
    from skipscope.readings import Readings

MODEL_OPTIONS = ("input_", "input_dtype", "high", "loss", "sites", "batches", "twin", "at")
"""Parameters that are about a model of one's own; a verb has some of them."""

SHARED = ("model", "batch", "seeds", "seed", "out", "page", "overwrite", "format_", "quiet")
"""Parameters that it has in common with designs."""

named = options.several(
    click.argument("model", required=False),
    click.option("--input", "input_", help="Sizes of a drawn input of MODEL, samples first: 8x3x224x224."),
    click.option("--input-dtype", default="float32", show_default=True, help="Of that input; int64 for tokens."),
    click.option("--high", type=int, help="Whole numbers of the input are below that."),
    click.option("--loss", help="A function package.module:name of output and batch; else the model's own, or random."),
)
"""A model, and what it sees."""

sites = click.option("--sites", multiple=True, help="Sites to report, by pattern (may be given several times).")
model = options.several(named, sites)
batches = click.option(
    "--batches", type=int, default=1, show_default=True, help="Batches of MODEL: so many inputs, or parts of the file."
)


def batch_of(default: int, about: str) -> Callable[[options.Command], options.Command]:
    """`--batch`: a number of designs, a file of a model."""
    file = "Of MODEL a .safetensors file: one tensor, or keyword arguments by name; `target` is for the loss."
    return click.option("--batch", default=str(default), show_default=True, help=f"{about}{file}")


batch = batch_of(1, "Samples a network. ")


def split(asked: dict[str, Any], *, shared: Collection[str] = ()) -> dict[str, Any] | None:
    """Take what is about a model out of what was asked; None where it was about designs.

    Args:
        asked: the values of all options; without those of a model, afterwards.
        shared: parameters that a model has in common with designs, beside `SHARED`.

    Raises:
        InputError: options of the one are given with the other.
    """
    mine = [name for name in MODEL_OPTIONS if name in asked and name not in shared]
    own = {name: asked.pop(name) for name in ("model", *mine)}
    if own["model"] is None:
        _refuse(mine, "is about a model of your own: name it, e.g. mypackage.models:make_model.")
        asked["batch"] = _samples(asked["batch"])
        return None
    context = click.get_current_context()
    designs = [p.name for p in context.command.params if p.name not in (*SHARED, *mine, *shared)]
    _refuse([str(name) for name in designs], f"is about designs, and {own['model']!r} is a model: leave it out.")
    several = _given("seeds")
    taken = {name: asked[name] for name in (*shared, "batch") if name in asked}
    return own | taken | {"seeds": asked["seeds"] if several else asked["seeds"][:1]}


def seeds_or(seeds: range, most: int) -> range:
    """The seeds that were asked for; of models, which take longer than designs, not as many unless they were."""
    return seeds if _given("seeds") else seeds[:most]


def _samples(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--batch must be a whole number; got {text!r}. A file is for a model of your own.") from None


def _given(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _refuse(names: Collection[str], why: str) -> None:
    context = click.get_current_context()
    known = {each.name: each.opts[0] for each in context.command.params}
    for name in names:
        if _given(name):
            value = context.params[name]
            said = ", ".join(map(quoted, value)) if isinstance(value, tuple) else quoted(value)
            raise InputError(f"{known[name]} {said} {why}")


def measured(
    *, model: str, seeds: range, batch: str, sites: tuple[str, ...], loss: str | None, **asked: Any
) -> Readings:
    """The readings of the model that is named, made anew for every seed.

    Raises:
        InputError: PyTorch is not installed, or something cannot be used.
    """
    require_torch(model)
    from skipscope.probe import cell_of
    from skipscope.quantities import QUANTITIES
    from skipscope.readings import Readings
    from skipscope.torch import naming, scope

    fn = given_loss(loss)
    found = []
    for seed in seeds:
        data = _batch(batch, seed=seeds[0], **asked)
        with told(model, loss=loss):
            made = naming.model_of(model, seed=seed)
            one = scope.measure(made, data, fn, seed, quantities=QUANTITIES, sites=sites or None, factors={})
        # What is drawn for every seed is one cell, as of designs.
        sent = f"loss {loss}" if loss else str(one.cell["cotangent"]).partition(", seed")[0]
        cell = cell_of({**{name: value for name, value in one.cell.items() if name != "cell"}, "cotangent": sent})
        found.append(replace(one, cell=cell).readings())
    return Readings.concat(found)


def studied(verb: str, own: dict[str, Any], **asked: Any) -> Readings:
    """What a study of `skipscope.studies` says of the one model that is named, on the batches that are.

    Raises:
        InputError: PyTorch is not installed, several seeds are asked for, or something cannot be used.
    """
    require_torch(own["model"])
    from skipscope import studies
    from skipscope.torch import naming

    seeds = own["seeds"]
    if len(seeds) > 1:
        raise InputError(f"--seeds {len(seeds)}: {verb} is about one model; give --seed for another.")
    loss = given_loss(own["loss"])
    data = {name: own[name] for name in ("input_", "input_dtype", "high")}
    held = batches_of(own["batch"], own["batches"], **data, seed=seeds[0])
    seeded = {"seed": seeds[0]} if verb == "twin" else {}
    with told(own["model"], loss=own["loss"]):
        readings: Readings = getattr(studies, verb)(
            naming.model_of(own["model"], seed=seeds[0]), iter(held), loss=loss, **seeded, **asked
        )
    return readings


def swept(own: dict[str, Any], progress: Any) -> Readings:
    """The sweep of the factory that is named.

    Raises:
        InputError: PyTorch is not installed, or something cannot be used.
    """
    require_torch(own["model"])
    from skipscope import studies
    from skipscope.torch import naming
    from skipscope.torch_studies.sweep import require_factory

    with told(own["model"]):
        make_model = naming.named("MODEL", own["model"])
    require_factory(make_model, f"MODEL {own['model']!r}")
    given_loss(own["loss"])
    data = {name: own[name] for name in ("input_", "input_dtype", "high")}
    batch = _batch(own["batch"], **data, seed=own["seeds"][0])
    asked = {name: own[name] for name in ("depths", "seeds", "loss", "twin", "sites", "folder", "jobs")}
    with told(own["model"], loss=own["loss"], folder=own["folder"]):
        return studies.sweep(own["model"], batch=batch, **asked, progress=progress)


def require_torch(model: str) -> None:
    """Whether a model can be run at all.

    Raises:
        InputError: PyTorch is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        raise InputError(f"MODEL {model!r} needs PyTorch: pip install 'skipscope[torch]'.")


def given_loss(loss: str | None) -> Any:
    """The loss that is named, or None.

    Raises:
        InputError: there is no such name, or it is that of no loss.
    """
    from skipscope.torch import naming, steps

    if loss is None:
        return None
    with told(loss, "--loss"):
        found = naming.named("--loss", loss)
    steps.require_loss(found, f"--loss {loss!r}")
    return found


def batches_of(
    batch: str, count: int, *, input_: str | None, input_dtype: str, high: int | None, seed: int
) -> list[Any]:
    """So many batches: as many inputs, drawn one after the other, or the file in as many parts.

    Raises:
        InputError: they cannot be had.
    """
    from skipscope.errors import require_int
    from skipscope.torch import naming

    require_int("--batches", count, least=1)
    if input_ is not None:
        how: dict[str, Any] = {"input_": input_, "input_dtype": input_dtype, "high": high}
        return [_batch(batch, **how, seed=seed + each) for each in range(count)]
    return naming.parts(_batch(batch, input_=None, input_dtype=input_dtype, high=high, seed=seed), count)


@contextmanager
def told(name: str, parameter: str = "MODEL", *, loss: str | None = None, folder: Path | None = None) -> Iterator[None]:
    """What a user's own code raises is told in one line, as it is about what it was given.

    Args:
        name: of the model or the loss.
        parameter: which of them it is.
        loss: the name of the loss that is called beside it: what that raises is no fault of the model.
        folder: where work is kept: what cannot be written there is no fault of theirs.
    """
    from skipscope.torch.steps import BY_LOSS

    try:
        yield
    except InputError as error:
        if loss is None or not str(error).startswith("loss "):
            raise
        raise InputError(f"--loss {loss!r}: {error}") from None
    except (click.ClickException, click.Abort, BrokenPipeError):
        raise
    except Exception as error:  # theirs may be any
        by_loss = loss is not None and BY_LOSS in getattr(error, "__notes__", ())
        if by_loss:
            parameter, name = "--loss", str(loss)
        elif isinstance(error, OSError) and folder is not None and str(error.filename).startswith(str(folder)):
            raise
        said = f"{type(error).__name__}: {error}".replace("\n", " ")
        if isinstance(error, ImportError | SyntaxError) and not by_loss:
            raise InputError(f"{parameter} {name!r} cannot be imported ({said}): mend it.") from error
        raise InputError(
            f"{parameter} {name!r} fails on what it is given ({said}): mend it, or give another --input, --batch or "
            "--loss."
        ) from error


def _batch(batch: str, *, input_: str | None, input_dtype: str, high: int | None, seed: int) -> Any:
    from skipscope.torch import naming

    if input_ is not None and _given("batch"):
        raise InputError(f"--input {input_!r} and --batch {quoted(batch)}: MODEL sees one of them; leave one out.")
    if input_ is None and not _given("batch"):
        raise InputError("say what MODEL is to see: either --input 8x3x224x224 or --batch file.safetensors.")
    if input_ is None:
        return naming.stored(Path(batch))
    try:
        return naming.drawn(input_, dtype=input_dtype, high=high, seed=seed)
    except (RuntimeError, MemoryError, TypeError) as error:  # what PyTorch says of sizes beyond memory or 64 bits
        reason = str(error).partition("\n")[0]
        raise InputError(f"--input {input_!r} cannot be drawn ({reason}): give smaller sizes.") from None


_COLUMNS = ("activation_rms", "activation_grad_norm", "weight_grad_norm", "dead")


def shown(readings: Readings) -> Shown:
    """Of a model its blocks (or, if it has none, all sites), and the findings."""
    from skipscope import diagnosis, summary

    table = summary.summarise(readings).table
    return Shown(
        table=table,
        overview=lambda: [_overview(table)],
        further=lambda: {"summary": table},
        findings=lambda: diagnosis.diagnose(readings) if "network" in set(table["site"]) else [],
    )


def _overview(table: pl.DataFrame) -> pl.DataFrame:
    rows = table.filter(pl.col("call") == 0, pl.col("kind") != "network", pl.col("quantity").is_in(_COLUMNS))
    outputs = _outputs(rows["site"].unique().to_list())
    blocks = rows.filter((pl.col("block") > 0) | (pl.col("kind") == "input") | pl.col("site").is_in(outputs))
    chosen = blocks if (blocks["block"] > 0).any() else rows
    if chosen.is_empty():
        return chosen
    wide = chosen.sort("site_order").pivot("quantity", index=["site", "site_depth"], values="q50", maintain_order=True)
    return wide.select("site", "site_depth", *[name for name in _COLUMNS if name in wide.columns])


def _outputs(sites: Collection[str]) -> list[str]:
    """Which sites are what the model hands on: where a part of it is called `output`, that is `output'`."""
    found = {site: named[0] for site in sites if (named := re.match(r"output'*(?=[.\[]|$)", site))}
    own = max(found.values(), key=len, default="")
    return [site for site, name in found.items() if name == own]
