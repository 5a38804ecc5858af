"""`skipscope responses`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import polars as pl

from skipscope.cli import options, printing
from skipscope.cli.printing import Shown
from skipscope.cli.study import study
from skipscope.errors import InputError, quoted, require_int
from skipscope.readings import Readings

_OVERVIEW = ("design", "source", "mode", "layers", "n", "std", "low", "high", "least", "most", "test_error")


def _shown(readings: Readings) -> Shown:
    from skipscope import responses, stops

    return Shown(
        table=responses.response_data(readings),
        overview=lambda: [_overview(readings), _worst(readings), printing.stopped(readings)],
        further=lambda: {
            "networks": responses.network_data(readings),
            "layers": responses.layer_data(readings),
            "sorted": responses.sorted_data(readings),
            "differences": responses.differences(readings),
            "stopped": stops.stops(readings),
        },
        findings=lambda: responses.findings(readings),
    )


def _overview(readings: Readings) -> pl.DataFrame:
    """A line a network: its 3x3 layers."""
    from skipscope import responses

    table = responses.network_data(readings)
    known = [name for name in _OVERVIEW if table[name].null_count() < table.height]
    return table.select(known).rename({"layers": "3x3 layers"})


def _worst(readings: Readings) -> pl.DataFrame:
    """A line a network and mode: where gamma and beta alone are furthest from what was measured."""
    from skipscope import responses

    table = responses.differences(readings)
    furthest = table.sort(pl.col("difference").abs(), descending=True, maintain_order=True)
    worst = furthest.unique(["kind", "mode"], keep="first", maintain_order=True)
    placed = table.select("kind", "mode").unique(maintain_order=True).join(worst, on=["kind", "mode"])
    return placed.select(
        pl.col("design").alias("furthest from gamma and beta alone"), "mode", "site", "alone", "measured", "difference"
    )


def _named(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, Path] | None:
    """Files, or `name=file`; each is called as its file is, unless it has a name."""
    found: dict[str, Path] = {}
    for value in values:
        name, given, file = value.partition("=")
        whole = not given or os.path.isfile(value)  # a file's name may have an equals sign
        path = Path(value if whole else file)
        label = path.stem if whole else name
        if not os.path.isfile(path):  # unlike Path.is_file, it takes a name that is too long
            raise InputError(f"--weights: there is no file {quoted(value)}; check the name and the directory.")
        if label in found:
            raise InputError(f"--weights: two files would be called {label!r}; write one as name=FILE.")
        found[label] = path
    return found or None


_TRAINING = ("steps", "rate", "train_batch", "seeds", "seed", "jobs", "folder")
"""What is about networks that are trained here."""


@click.command()
@click.option(
    "--weights",
    multiple=True,
    callback=_named,
    help="A file of weights to look at, or name=FILE; may be given several times.",
)
@options.specs
@click.option(
    "--width",
    type=int,
    default=None,
    help="Channels of the first stage of --spec (if not given: the file's, or the paper's).",
)
@click.option(
    "--order",
    default="after-add",
    show_default=True,
    help="Of blocks of --spec: before-add, after-add or pre-activation.",
)
@click.option(
    "--data",
    default=None,
    help="digits, fashion-mnist or cifar10 (if not given: with --weights none, else digits).",
)
@options.path("--data-folder", help="Where its files are, if not where SKIPSCOPE_DATA or the system has them.")
@options.batch(128, "Images on which responses are measured.")
@options.steps(200)
@click.option("--rate", type=float, default=0.1, show_default=True, help="The learning rate.")
@click.option("--train-batch", type=int, default=64, show_default=True, help="Images a step.")
@study("responses", title="Responses of layers", shown=_shown, seeds=5, folder=True)
def responses(*, steps: int, rate: float, train_batch: int, order: str, **asked: Any) -> Readings:
    """How strongly every layer responds (the paper's figure 7): of files of weights, or of networks trained for it.

    With --weights alone, by gamma and beta: no data. With --data too, measured beside it. Without --weights networks
    are trained first (--steps 0: not).
    """
    from dataclasses import replace

    from skipscope import studies
    from skipscope.studies.responses import RESPONSES_RECIPE

    _require_apart(asked)
    size = require_int("--train-batch", train_batch, least=1)
    recipe = replace(RESPONSES_RECIPE, steps=steps, rate=rate, batch=size, warmup=steps // 10)
    if asked["specs"] is not None or asked["weights"] is None:
        asked["order"] = order
    return studies.responses(recipe=recipe, **asked)


def _require_apart(asked: dict[str, Any]) -> None:
    """Refuse with files what is about training, without names what is about these, without data what is about them."""
    if asked["weights"] is None:
        return
    context = click.get_current_context()
    known = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    by_name = () if asked["specs"] is not None else ("width", "order")
    of_data = () if asked["data"] is not None else ("data_folder", "batch")
    for name in (*_TRAINING, *by_name, *of_data):
        if context.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        if name in of_data:
            raise InputError(
                f"{known[name]} is about --data, and --weights alone needs none: leave it out, or say --data."
            )
        about = "networks given by --spec" if name in by_name else "networks that are trained"
        raise InputError(f"{known[name]} is about {about}, and --weights names files: leave one out.")
