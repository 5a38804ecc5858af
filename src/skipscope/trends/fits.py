"""Trends over depth: growth, rates a block fitted over depths, and measurement beside the law.

How the rates are fitted, and what their intervals are of, is said in `skipscope.trends`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skipscope.designs import DESIGNS
from skipscope.errors import InputError
from skipscope.intervals import student
from skipscope.readings import CELLS, Readings, require_readings
from skipscope.spec import Spec
from skipscope.summary import Summary, summarise

__all__ = ["RATES", "RATIO", "by_depth", "misfit", "rates"]

Values = NDArray[np.float64]

RATES = {
    "forward_gain": ("signal", "head"),
    "backward_gain": ("gradient", "input"),
    "weight_grad_first_last": ("first/last", "network"),
}
"""The quantities whose rates are fitted: what each is about, and the site at which it speaks of the whole network."""

RATIO = "weight_grad_first_last"
"""What the notebook judges by."""

NETWORK = "network"
"""Where gains stand that are over the body of a model of one's own, which no spec describes."""

_WHOLE = {"forward_growth": "network", "backward_growth": "network"} | {name: site for name, (_, site) in RATES.items()}

# --------------------------------------------------------------------------------------------------- networks by depth


@dataclass(frozen=True)
class _Group:
    """The cells of one kind of network, one a depth, in order of depth."""

    readings: Readings
    cells: tuple[dict[str, Any], ...]

    @cached_property
    def spec(self) -> Spec | None:
        """Of the deepest; a model of one's own has none."""
        text = self.deepest["spec"]
        return Spec.from_json(text) if text else None

    @property
    def blocks(self) -> list[int]:
        return [_blocks(cell) or 0 for cell in self.cells]

    @property
    def deepest(self) -> dict[str, Any]:
        return self.cells[-1]

    @property
    def named(self) -> dict[str, Any]:
        """The columns by which a table names it."""
        return {name: self.deepest[name] for name in ("design", "width", "batch", "cotangent")}

    @property
    def shortcuts(self) -> bool:
        """Whether it has any."""
        return self.spec is not None and any(not stage.plain for stage in self.spec.stages)

    @property
    def subject(self) -> str:
        spec, row = self.spec, self.deepest
        if spec is None:
            back = "" if row["cotangent"] == "gaussian" else f" ({row['cotangent']})"
            return f"the model {row['design']}{back}"
        stage = spec.stages[-1] if spec.stages else None
        told = [f"width {row['width']}"]
        if self.shortcuts and stage is not None and stage.order != "before-add":
            told.append(f"{stage.order} order")
        if row["norm"] not in (None, "", "none"):
            told.append(f"{row['norm']} norm")
        if spec.init != "he":
            told.append(f"init {spec.init}")
        if self.shortcuts and stage is not None and (stage.gains.shortcut, stage.gains.branch) != (1.0, 1.0):
            told.append(f"gains {stage.gains.shortcut} and {stage.gains.branch}")
        if row["cotangent"] == "ones":
            told.append("output gradient of ones")
        return f"the {row['design'] or 'given'} design ({', '.join(told)})"

    @property
    def depths(self) -> str:
        first, last = self.cells[0]["depth"], self.deepest["depth"]
        return f"depth {first}" if first == last else f"depths {first} to {last}"

    def values(self, quantity: str) -> tuple[list[int], Values]:
        """The seeds, and the values of a quantity of whole networks, of shape (s, depths); NaN where there is none."""
        found = [self._values(cell["cell"], quantity) for cell in self.cells]
        seeds = np.unique(np.concatenate([each["seed"].to_numpy() for each in found]))
        table = np.full((len(seeds), len(found)), math.nan)
        for column, each in zip(table.T, found, strict=True):
            column[np.searchsorted(seeds, each["seed"].to_numpy())] = each["value"].to_numpy()
        return seeds.tolist(), table

    def _values(self, cell: str, quantity: str) -> pl.DataFrame:
        whole = pl.col("site").is_in((_WHOLE[quantity], NETWORK))
        rows = self.readings.rows_of(cell).filter(whole, pl.col("quantity") == quantity)
        return rows.filter(pl.col("step") == pl.col("step").min()).select("seed", "value")


def _groups(readings: Readings) -> list[_Group]:
    """Networks that differ in depth only, as their specs say; or models of one's own that do, as a sweep says.

    Those without blocks do not say which kind they are the shallowest of.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for row in readings.cells.iter_rows(named=True):
        if _blocks(row) and not (row["spec"] and row["edit"]):
            found.setdefault(_kind(row), []).append(row)
    groups = []
    for rows in found.values():
        rows.sort(key=lambda row: _blocks(row) or 0)
        groups.append(_Group(readings, tuple(rows)))
    order = {name: index for index, name in enumerate(DESIGNS)}
    return sorted(groups, key=lambda group: (order.get(group.deepest["design"] or "", len(order)), group.subject))


def _blocks(row: dict[str, Any]) -> int | None:
    """How many blocks the body has: by the spec; of a model of one's own, as they were counted."""
    if row["spec"]:
        return len(Spec.from_json(row["spec"]).body)
    blocks: int | None = row.get("blocks")
    return blocks


def _kind(row: dict[str, Any]) -> str:
    """All that two networks of a trend have in common."""
    known = {name: value for name, value in row.items() if name not in ("cell", "spec", "depth", "blocks")}
    if not row["spec"]:
        return json.dumps([known, ""], sort_keys=True)
    spec = Spec.from_json(row["spec"])
    body = [replace(stage, blocks=1) for stage in spec.stages]
    return json.dumps([known, replace(spec, stages=tuple(body)).to_json()], sort_keys=True)


# ------------------------------------------------------------------------------------------------------------- tables

_NUMBERS: dict[str, type[pl.DataType]] = dict.fromkeys(
    (
        "rate",
        "rate_low",
        "rate_high",
        "rate_sd",
        "mean_rate",
        "mean_rate_low",
        "mean_rate_high",
        "law_rate",
        "law_mean_rate",
        "z",
    ),
    pl.Float64,
)
_NAMED: dict[str, type[pl.DataType]] = {name: CELLS[name] for name in ("design", "width", "batch", "cotangent")}


def by_depth(readings: Readings) -> pl.DataFrame:
    """Growth a block, gains of the whole network and the notebook's ratio by depth.

    Returns:
        A row for every network and quantity: design, depth, width, cotangent, `blocks`, quantity, `n` seeds with a
        finite value, `zeros`, `nonfinite`, the median `q50` with its 95 % interval `median_low`, `median_high`, the
        quantiles `q05` to `q95`, and, where a law holds, its median `law_q50` and `z`, as `skipscope.summarise` has it.

    Raises:
        InputError: there is no quantity of a whole network.
    """
    return _by_depth(summarise(_whole(readings)))


def _whole(readings: Readings) -> Readings:
    """The readings of whole networks, before any training."""
    require_readings(readings)
    site = pl.col("quantity").replace_strict(_WHOLE, default=None, return_dtype=pl.String)
    of_all = (pl.col("site") == site) | ((pl.col("site") == NETWORK) & site.is_not_null())
    whole = readings.where(of_all, pl.col("step") == 0)
    if not len(whole):
        raise InputError(
            f"these readings hold nothing of a whole network: measure {', '.join(_WHOLE)}, as studies.sweep does."
        )
    return whole


def _by_depth(summary: Summary) -> pl.DataFrame:
    cells = summary.readings.cells
    blocks = pl.DataFrame(
        {"cell": cells["cell"], "blocks": [_blocks(row) for row in cells.iter_rows(named=True)]},
        schema={"cell": pl.String, "blocks": pl.Int64},
    )
    orders = (
        pl.col(name).replace_strict({key: index for index, key in enumerate(keys)}, default=len(keys))
        for name, keys in (("design", DESIGNS), ("quantity", _WHOLE))
    )
    numbers = ("n", "zeros", "nonfinite", "q50", "median_low", "median_high", "q05", "q25", "q75", "q95")
    return (
        summary.table.join(blocks, on="cell", how="left")
        .sort(*orders, "cotangent", "width", "depth", "cell")
        .select("design", "depth", "width", "cotangent", "blocks", "quantity", *numbers, "law_q50", "z")
    )


def rates(readings: Readings) -> pl.DataFrame:
    """Rates a block, fitted over depths: by how much ln of the squared norm ratio of whole networks changes a block.

    Returns:
        A row for every quantity of `RATES` and kind of network of which there are two depths at least: design, width,
        batch, cotangent, `cell` (the deepest), `subject`, quantity, `depths`, `blocks` (of the deepest), `span` (less
        those of the shallowest), `n` seeds and `left_out`; `rate`, the mean slope over seeds, with its 95 % interval
        `rate_low`, `rate_high`, and its standard deviation over seeds `rate_sd`; `mean_rate`, that of the mean square
        if draws are log-normal, likewise. Where a law speaks of every depth, `law`, its `law_kind` and `law_bias`;
        `law_rate`, if it speaks of logarithms, with `z` = (rate - law_rate) / (rate_sd / sqrt(n)); and the mean
        square's `law_mean_rate` (without z, as `mean_rate` supposes a distribution). Natural logarithms of squares:
        exp(rate / 2) is the factor a block on the norm.

    Raises:
        InputError: there is no quantity of a whole network.
    """
    whole = _whole(readings)
    return _rates(whole, summarise(whole))


def _rates(whole: Readings, summary: Summary) -> pl.DataFrame:
    rows = [
        row
        for group in _groups(whole)
        if len(set(group.blocks)) > 1
        for quantity in RATES
        if (row := _rate(group, quantity, summary)) is not None
    ]
    words: dict[str, type[pl.DataType]] = {"cell": pl.String, "subject": pl.String, "quantity": pl.String}
    counts: dict[str, type[pl.DataType]] = dict.fromkeys(("depths", "blocks", "span", "n", "left_out"), pl.Int64)
    law: dict[str, type[pl.DataType]] = dict.fromkeys(("law", "law_kind", "law_bias"), pl.String)
    return pl.DataFrame(rows, schema=_NAMED | words | counts | law | _NUMBERS)


def _rate(group: _Group, quantity: str, summary: Summary) -> dict[str, Any] | None:
    seeds, values = group.values(quantity)
    if not seeds:
        return None
    usable = np.isfinite(values).all(axis=1) & (values > 0).all(axis=1)
    logs = 2.0 * np.log(values[usable])
    blocks = np.array(group.blocks, np.float64)
    predicted = _law(group, quantity, "law_log_mean", summary)
    in_mean = _law(group, quantity, "law_rms", summary)
    told: dict[str, Any] = {
        **group.named,
        "cell": group.deepest["cell"],
        "subject": group.subject,
        "quantity": quantity,
        "depths": len(blocks),
        "blocks": int(blocks[-1]),
        "span": int(blocks[-1] - blocks[0]),
        "n": len(logs),
        "left_out": len(seeds) - len(logs),
        "law_rate": None if predicted is None else float(_slopes(blocks, predicted)),
        "law_mean_rate": None if in_mean is None else float(_slopes(blocks, 2 * np.log(in_mean))),
    }
    if predicted is not None or in_mean is not None:
        told |= _law_named(group, quantity, summary)
    if len(logs) < 2:
        return told
    slopes = _slopes(blocks, logs)
    spread = (logs - logs.mean(axis=0)) ** 2 * (len(logs) / (len(logs) - 1))
    deviation = float(slopes.std(ddof=1))
    told |= {"rate_sd": deviation}
    told |= _interval("rate", slopes) | _interval("mean_rate", slopes + _slopes(blocks, spread) / 2)
    if predicted is not None and deviation > 0:
        told["z"] = (told["rate"] - told["law_rate"]) / (deviation / math.sqrt(len(logs)))
    return told


def _slopes(x: Values, y: Values) -> Values:
    """Least-squares slopes of y, of shape (..., depths), against x."""
    centred = x - x.mean()
    slopes: Values = y @ (centred / (centred @ centred))
    return slopes


def _interval(name: str, values: Values) -> dict[str, float]:
    """The mean over seeds with its 95 % interval."""
    mean, low, high = student(values)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _law(group: _Group, quantity: str, column: str, summary: Summary) -> Values | None:
    """What the law of a quantity says at every depth; None unless it speaks of all of them."""
    names = [cell["cell"] for cell in group.cells]
    rows = summary.table.filter(pl.col("cell").is_in(names), pl.col("quantity") == quantity)
    known = dict(rows.select("cell", column).iter_rows())
    found = [known.get(name) for name in names]
    return None if any(value is None for value in found) else np.array(found, np.float64)


def _law_named(group: _Group, quantity: str, summary: Summary) -> dict[str, str]:
    rows = summary.laws.filter(pl.col("cell") == group.deepest["cell"], pl.col("quantity") == quantity)
    return {"law": rows["law"][0], "law_kind": rows["kind"][0], "law_bias": rows["bias"][0]}


def misfit(readings: Readings) -> pl.DataFrame:
    """Measurement against law by depth, where a law speaks of the gain of a whole network.

    Returns:
        A row for every network and gain: design, depth, width, cotangent, quantity, `law` (the sharpest that holds),
        `n` seeds, the mean of ln of the squared gain `log_mean` and the law's `law_log_mean`, the root mean square
        `rms` and the law's `law_rms`, `z` (see `skipscope.Summary`), and `refusal`, why no law holds, empty where one
        does. Depths share their draws, so their z are not independent: for one number over all depths see `rates`.
    """
    summary = summarise(_whole(readings))
    numbers = ("n", "log_mean", "law_log_mean", "rms", "law_rms", "z")
    named = ("design", "depth", "width", "cotangent")
    table = summary.table.select("cell", "quantity", *named, *numbers)
    return (
        summary.laws.join(table, on=["cell", "quantity"], how="inner")
        .sort("design", "quantity", "cotangent", "width", "depth")
        .select(*named, "quantity", "law", *numbers, "refusal")
    )
