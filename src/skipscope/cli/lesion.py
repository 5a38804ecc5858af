"""`skipscope lesion`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from skipscope.cli import models, options, printing
from skipscope.cli.printing import Shown
from skipscope.cli.study import study
from skipscope.readings import Readings

_OVERVIEW = ("design", "blocks", "n", "intact", "error", "guess", "damage", "low", "high")


def _shown(readings: Readings) -> Shown:
    from skipscope import absences, lesions, stops

    if absences.is_model(readings):
        return _of_a_model(readings)
    return Shown(
        table=lesions.damages(readings),
        overview=lambda: [lesions.intact_data(readings).select(_OVERVIEW), printing.stopped(readings)],
        further=lambda: {
            "intact": lesions.intact_data(readings),
            "blocks": lesions.block_data(readings),
            "deleted": lesions.deleted_data(readings),
            "swapped": lesions.swapped_data(readings),
            "stopped": stops.stops(readings),
        },
        findings=lambda: lesions.findings(readings),
    )


def _of_a_model(readings: Readings) -> Shown:
    from skipscope import absences

    table = absences.block_data(readings)
    columns = ("site", "loss", "rise", "rise_low", "rise_high", "error", "more", "more_low", "more_high", "damage")
    known = [name for name in columns if table[name].null_count() < table.height]
    return Shown(table=table, overview=lambda: [table.select(known)], findings=lambda: absences.findings(readings))


def _counted(name: str, about: str) -> Callable[[options.Command], options.Command]:
    return click.option(name, default=None, callback=options.numbers(int, "1,2,4"), help=about)


@click.command()
@models.named
@models.batches
@click.option("--at", multiple=True, help="Junctions of MODEL, by pattern (may be given several times).")
@options.designs("residual", "twin")
@options.specs
@options.trained_on
@models.batch_of(64, "Samples a step. ")
@_counted("--deleted", "How many random blocks to delete: 1,2,4 (if not given: up to all).")
@_counted("--swapped", "How many random swaps of two blocks: 1,2,4 (if not given: up to as many as blocks).")
@click.option("--draws", type=int, default=5, show_default=True, help="Random choices a network, for each number.")
@study("blocks deleted and swapped", title="Deleting and swapping blocks", shown=_shown, seeds=8, folder=True)
def lesion(**asked: Any) -> Readings:
    """Delete and swap blocks of networks that are trained; or take the branches of a MODEL out, one by one.

    MODEL is a trained torch.nn.Module of your own, or what makes one, as package.module:name.
    """
    own = models.split(asked)
    if own is not None:
        return models.studied("lesion", own, at=own.pop("at") or None, progress=asked["progress"])
    return _of_designs(**asked)


def _of_designs(*, steps: int, rate: float, batch: int, **asked: Any) -> Readings:
    from dataclasses import replace

    from skipscope import studies
    from skipscope.studies.lesion import LESION_RECIPE

    recipe = replace(LESION_RECIPE, steps=steps, rate=rate, batch=batch, warmup=steps // 10)
    return studies.lesion(recipe=recipe, **options.of_specs(asked, "data", "deleted", "swapped", "draws", "folder"))
