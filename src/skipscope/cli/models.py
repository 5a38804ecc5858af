"""The options by which a verb takes a model of the user's own, and what it shows of it. Needs PyTorch when used."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import polars as pl

from skipscope.cli import options
from skipscope.cli.printing import Shown
from skipscope.errors import InputError, quoted

if TYPE_CHECKING:
    from skipscope.readings import Readings

MODEL_OPTIONS = ("input_", "input_dtype", "high", "loss", "sites")
"""Parameters that are about a model of one's own."""

SHARED = ("model", "batch", "seeds", "seed", "out", "page", "overwrite", "format_", "quiet")
"""Parameters that it has in common with designs."""

model = options.several(
    click.argument("model", required=False),
    click.option("--input", "input_", help="Sizes of a drawn input of MODEL, samples first: 8x3x224x224."),
    click.option("--input-dtype", default="float32", show_default=True, help="Of that input; int64 for tokens."),
    click.option("--high", type=int, help="Whole numbers of the input are below that."),
    click.option("--loss", help="A function package.module:name of output and batch; else the model's own, or random."),
    click.option("--sites", multiple=True, help="Sites to report, by pattern (may be given several times)."),
)
batch = click.option("--batch", default="1", show_default=True, help="Samples a network; of MODEL a .safetensors file.")


def split(asked: dict[str, Any]) -> dict[str, Any] | None:
    """Take what is about a model out of what was asked; None where it was about designs.

    Raises:
        InputError: options of the one are given with the other.
    """
    own = {name: asked.pop(name) for name in ("model", *MODEL_OPTIONS)}
    if own["model"] is None:
        _refuse(MODEL_OPTIONS, "is about a model of your own: name it, e.g. mypackage.models:make_model.")
        asked["batch"] = _samples(asked["batch"])
        return None
    context = click.get_current_context()
    designs = [p.name for p in context.command.params if p.name not in (*SHARED, *MODEL_OPTIONS)]
    _refuse([str(name) for name in designs], f"is about designs, and {own['model']!r} is a model: leave it out.")
    several = _given("seeds")
    return own | {"batch": asked["batch"], "seeds": asked["seeds"] if several else asked["seeds"][:1]}


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
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        raise InputError(f"MODEL {model!r} needs PyTorch: pip install 'skipscope[torch]'.")
    from skipscope.probe import probe
    from skipscope.readings import Readings
    from skipscope.torch import naming

    fn = None if loss is None else naming.named("--loss", loss)
    found = []
    for seed in seeds:
        data = _batch(batch, seed=seeds[0], **asked)
        with _told(model):
            found.append(
                probe(
                    naming.model_of(model, seed=seed),
                    data,
                    loss=fn,
                    seed=seed,
                    sites=sites or None,
                    factors={"cotangent": f"loss {loss}" if loss else "its own loss, or gaussian"},
                )
            )
    return Readings.concat(found)


@contextmanager
def _told(model: str) -> Iterator[None]:
    """What a user's own code raises is told in one line, as it is about what it was given."""
    try:
        yield
    except InputError:
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"MODEL {model!r} fails on what it is given ({type(error).__name__}: {error}): mend it, or give another "
            "--input, --batch or --loss."
        ) from error


def _batch(batch: str, *, input_: str | None, input_dtype: str, high: int | None, seed: int) -> Any:
    from skipscope.torch import naming

    if (input_ is None) == (not _given("batch")):
        raise InputError("say what MODEL is to see: either --input 8x3x224x224 or --batch file.safetensors.")
    if input_ is None:
        return naming.stored(Path(batch))
    return naming.drawn(input_, dtype=input_dtype, high=high, seed=seed)


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
    blocks = rows.filter((pl.col("block") > 0) | (pl.col("kind") == "input") | pl.col("site").str.starts_with("output"))
    chosen = blocks if (blocks["block"] > 0).any() else rows
    if chosen.is_empty():
        return chosen
    wide = chosen.sort("site_order").pivot("quantity", index=["site", "site_depth"], values="q50", maintain_order=True)
    return wide.select("site", "site_depth", *[name for name in _COLUMNS if name in wide.columns])
