"""Draws that disagree: the share that contradicts what the notebook concludes from one draw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from skipscope.errors import InputError
from skipscope.intervals import wilson_bound
from skipscope.readings import Readings, require_readings
from skipscope.spec import Spec
from skipscope.trends.fits import RATIO

__all__ = ["DISSENT", "contradictions", "wilson"]

DISSENT = 0.05
"""The share of draws that may contradict a conclusion from one draw before draws are said to disagree."""


def contradictions(readings: Readings) -> pl.DataFrame:
    """By depth, the share of draws that contradict the notebook: "ResNet maintains gradient flow N x better".

    N is the ratio |dW_first|/|dW_last| of the network without shortcuts over that of the one with; a draw contradicts
    the notebook where N < 1. Every design without shortcuts is set against every one with, where both have one depth.
    As in the notebook, the two networks of a pair share no weight: the one without of a seed is paired with the other
    of the next seed. (Neighbouring pairs share a seed, which makes them contradict together less often than if they
    were independent, so that the interval is on the safe side.)

    Returns:
        A row for every pair and depth: design, against, depth, width, cotangent, `cell` (the one with shortcuts), `n`
        draws, `left_out` (a network is dead or overflows), the median `N`, the share `contradicts` with its 95 %
        interval (Wilson 1927) `low`, `high`, and `nearer`, the share of draws in which the network without shortcuts
        has the ratio nearer to 1, |ln ratio| the smaller. No rows where there is no such pair.
    """
    require_readings(readings)
    rows = [
        _contradiction(readings, one, other)
        for one, other in _pairs(readings)
        if one["cell"] in _measured(readings, RATIO) and other["cell"] in _measured(readings, RATIO)
    ]
    shares = dict.fromkeys(("N", "contradicts", "low", "high", "nearer"), pl.Float64)
    words = {"design": pl.String, "against": pl.String, "depth": pl.Int64, "width": pl.Int64, "cotangent": pl.String}
    schema = {**words, "cell": pl.String, "n": pl.Int64, "left_out": pl.Int64, **shares}
    return pl.DataFrame(rows, schema=schema).sort("design", "against", "cotangent", "width", "depth")


def _measured(readings: Readings, quantity: str) -> set[str]:
    return set(readings.distinct("cell", "quantity").filter(pl.col("quantity") == quantity)["cell"])


def _pairs(readings: Readings) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Cells without shortcuts, each with those that have some and are alike in all else that is chosen."""
    alike = ("depth", "width", "batch", "cotangent", "norm", "data", "dtype")
    without: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    having: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    for row in readings.cells.iter_rows(named=True):
        if row["spec"] and not row["edit"] and row["design"]:
            spec = Spec.from_json(row["spec"])
            key = (*(row[name] for name in alike), spec.init, spec.stem.features, spec.head.activation)
            (without if all(stage.plain for stage in spec.stages) else having).append((key, row))
    for key, one in without:
        yield from ((one, other) for its, other in having if its == key)


def _contradiction(readings: Readings, one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    first, second = (_ratios(readings, row["cell"]) for row in (one, other))
    seeds = sorted(first.keys() | second.keys())
    pairs = [(first.get(a), second.get(b)) for a, b in zip(seeds, seeds[1:] + seeds[:1], strict=True)]
    both = np.array([pair for pair in pairs if None not in pair and _usable(pair)], np.float64).reshape(-1, 2)
    row: dict[str, Any] = {
        "design": one["design"],
        "against": other["design"],
        "depth": other["depth"],
        "width": other["width"],
        "cotangent": other["cotangent"],
        "cell": other["cell"],
        "n": len(both),
        "left_out": _draws(readings, (one["cell"], other["cell"])) - len(both),
    }
    if not len(both):
        return row
    logs = np.log(both)
    better = logs[:, 0] - logs[:, 1]
    low, high = wilson(int((better < 0).sum()), len(both))
    nearer = np.abs(logs[:, 0]) < np.abs(logs[:, 1])
    return row | {
        "N": math.exp(float(np.median(better))),
        "contradicts": float((better < 0).mean()),
        "low": low,
        "high": high,
        "nearer": float(nearer.mean()),
    }


def _ratios(readings: Readings, cell: str) -> dict[int, float]:
    rows = readings.rows_of(cell).filter(pl.col("quantity") == RATIO, pl.col("step") == 0)
    return dict(rows.select("seed", "value").iter_rows())


def _usable(pair: Sequence[float | None]) -> bool:
    return all(value is not None and math.isfinite(value) and value > 0 for value in pair)


def _draws(readings: Readings, cells: Sequence[str]) -> int:
    """Seeds of which there is any reading: a dead network may have no ratio."""
    return readings.rows_of(*cells)["seed"].n_unique()


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of `successes` in `n` draws (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    Raises:
        InputError: there are no draws, or more successes than draws.
    """
    if not 0 <= successes <= n or n == 0:
        raise InputError(f"successes must be between 0 and n, and n at least 1; got {successes} of {n}.")
    low, high = (float(wilson_bound(successes / n, n, sign)) for sign in (-1, +1))
    return low, high
