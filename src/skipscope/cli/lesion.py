"""`skipscope lesion`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from skipscope.cli import options
from skipscope.cli.printing import Shown
from skipscope.cli.study import study
from skipscope.errors import InputError, quoted
from skipscope.readings import Readings

_OVERVIEW = ("design", "blocks", "n", "intact", "error", "guess", "damage", "low", "high")


def _shown(readings: Readings) -> Shown:
    from skipscope import lesions

    return Shown(
        table=lesions.damages(readings),
        overview=lambda: [lesions.intact_data(readings).select(_OVERVIEW)],
        further=lambda: {
            "intact": lesions.intact_data(readings),
            "blocks": lesions.block_data(readings),
            "deleted": lesions.deleted_data(readings),
            "swapped": lesions.swapped_data(readings),
        },
        findings=lambda: lesions.findings(readings),
    )


def _numbers(context: click.Context, option: click.Parameter, value: str | None) -> list[int] | None:
    """`1,2,4`; nothing leaves the choice to the study."""
    try:
        return None if value is None else [int(piece) for piece in value.split(",")]
    except ValueError:
        raise InputError(f"{option.opts[0]} must be numbers such as 1,2,4; got {quoted(value)}.") from None


def _counted(name: str, about: str) -> Callable[[options.Command], options.Command]:
    return click.option(name, default=None, callback=_numbers, help=about)


@click.command()
@options.designs("residual,twin")
@click.option("--depth", type=int, default=8, show_default=True, help="Blocks of residual networks, layers of plain.")
@options.width(32)
@click.option("--data", default="digits", show_default=True, help="What is learned: digits or patterns.")
@click.option("--order", default="after-add", show_default=True, help="before-add, after-add or pre-activation.")
@click.option("--norm", default="batch", show_default=True, help="none, batch or layer.")
@click.option("--steps", type=int, default=300, show_default=True, help="Steps of training.")
@click.option("--rate", type=float, default=0.1, show_default=True, help="The learning rate.")
@options.batch(64, "Samples a step.")
@_counted("--deleted", "How many random blocks to delete: 1,2,4 (if not given: up to all).")
@_counted("--swapped", "How many random swaps of two blocks: 1,2,4 (if not given: up to as many as blocks).")
@click.option("--draws", type=int, default=5, show_default=True, help="Random choices a network, for each number.")
@study("blocks deleted and swapped", title="Deleting and swapping blocks", shown=_shown, seeds=8)
def lesion(*, steps: int, rate: float, batch: int, **asked: Any) -> Readings:
    """Delete and swap blocks of trained networks."""
    from dataclasses import replace

    from skipscope import studies
    from skipscope.studies.lesion import LESION_RECIPE

    recipe = replace(LESION_RECIPE, steps=steps, rate=rate, batch=batch, warmup=steps // 10)
    return studies.lesion(recipe=recipe, **asked)
