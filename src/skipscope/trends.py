"""What a sweep over depth says: trends with intervals, beside the law where one holds.

Tables from readings, and findings from the tables. Four questions:

    by_depth        how do growth, gains and the notebook's ratio change with depth?
    rates           by how much a block, fitted over depths?
    contradictions  which share of draws contradicts what the notebook concludes from one?
    misfit          do measurement and law agree, and where is there no law?

**Rates.** A network of L blocks has y = ln of a squared norm ratio. Of every seed, the slope of y against L is fitted
over the depths by least squares. All depths of a seed share their draw, so rows of (seed, depth) are not independent:
the unit is the seed, and every interval here is over seeds, of the mean of n independent slopes (Student's t). The mean
slope is that of the *typical* draw, as E y is close to the median. What the *mean square* does is another matter
(`skipscope.diagnosis` says why): where y is close to normal, ln E[ratio^2] = E y + Var y / 2. The variance over seeds
grows with depth, and the slope of E y + Var y / 2 is a mean over seeds too, of

    slope of y_s(L)  +  1/2 slope of (y_s(L) - mean over seeds)^2 n / (n - 1),

so that it gets its interval in the same way. A seed that has no finite ratio at some depth (dead, or overflowed) is
left out at all depths, and counted.

Right of the waist: imports readings, summary, diagnosis, and what both halves share.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skipscope.designs import DESIGNS
from skipscope.diagnosis import FACTOR, SEEDS, Finding
from skipscope.errors import InputError
from skipscope.readings import CELLS, Readings
from skipscope.spec import Spec
from skipscope.summary import Summary, summarise
from skipscope.words import number, percent

__all__ = ["RATES", "by_depth", "contradictions", "findings", "misfit", "rates", "wilson"]

Values = NDArray[np.float64]

RATES = {
    "forward_gain": ("signal", "head"),
    "backward_gain": ("gradient", "input"),
    "weight_grad_first_last": ("first/last", "network"),
}
"""The quantities whose rates are fitted: what each is about, and the site at which it speaks of the whole network."""

RATIO = "weight_grad_first_last"
"""What the notebook judges by."""

DISSENT = 0.05
"""The share of draws that may contradict a conclusion from one draw before draws are said to disagree."""

MISFIT = 3.0
"""How many standard errors measurement and law may differ by."""

_WHOLE = {"forward_growth": "network", "backward_growth": "network"} | {name: site for name, (_, site) in RATES.items()}
_Z95 = 1.959963984540054

# --------------------------------------------------------------------------------------------------- networks by depth


@dataclass(frozen=True)
class _Group:
    """The cells of one kind of network, one a depth, in order of depth."""

    readings: Readings
    cells: tuple[dict[str, Any], ...]

    @cached_property
    def specs(self) -> list[Spec]:
        return [Spec.from_json(cell["spec"]) for cell in self.cells]

    @property
    def blocks(self) -> list[int]:
        return [len(spec.body) for spec in self.specs]

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
        return any(not stage.plain for stage in self.specs[-1].stages)

    @property
    def subject(self) -> str:
        spec, row = self.specs[-1], self.deepest
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
        seeds = sorted({seed for each in found for seed in each})
        table = [[each.get(seed, math.nan) for each in found] for seed in seeds]
        return seeds, np.array(table, np.float64).reshape(len(seeds), len(self.cells))

    def _values(self, cell: str, quantity: str) -> dict[int, float]:
        rows = self.readings.rows.filter(
            pl.col("cell") == cell, pl.col("site") == _WHOLE[quantity], pl.col("quantity") == quantity
        )
        return dict(rows.filter(pl.col("step") == pl.col("step").min()).select("seed", "value").iter_rows())


def _groups(readings: Readings) -> list[_Group]:
    """Networks that differ in depth only, as their specs say.

    Those without a spec have no depth to go by; those without blocks do not say which kind they are the shallowest of.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for row in readings.cells.iter_rows(named=True):
        if row["spec"] and not row["edit"] and Spec.from_json(row["spec"]).body:
            found.setdefault(_kind(row), []).append(row)
    groups = []
    for rows in found.values():
        rows.sort(key=lambda row: len(Spec.from_json(row["spec"]).body))
        groups.append(_Group(readings, tuple(rows)))
    order = {name: index for index, name in enumerate(DESIGNS)}
    return sorted(groups, key=lambda group: (order.get(group.deepest["design"] or "", len(order)), group.subject))


def _kind(row: dict[str, Any]) -> str:
    """All that two networks of a trend have in common."""
    spec = Spec.from_json(row["spec"])
    body = [replace(stage, blocks=1) for stage in spec.stages]
    known = {name: value for name, value in row.items() if name not in ("cell", "spec", "depth")}
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
    site = pl.col("quantity").replace_strict(_WHOLE, default=None, return_dtype=pl.String)
    rows = readings.rows.filter(pl.col("site") == site, pl.col("step") == 0)
    if rows.is_empty():
        raise InputError(
            f"these readings hold nothing of a whole network: measure {', '.join(_WHOLE)}, as studies.sweep does."
        )
    cells = readings.cells.join(rows, on="cell", how="semi", maintain_order="left")
    sites = readings.sites.join(rows, on=["cell", "site"], how="semi", maintain_order="left")
    return Readings(rows=rows, cells=cells, sites=sites, meta=readings.meta)


def _by_depth(summary: Summary) -> pl.DataFrame:
    cells = summary.readings.cells
    blocks = pl.DataFrame(
        {"cell": cells["cell"], "blocks": [len(Spec.from_json(spec).body) if spec else None for spec in cells["spec"]]},
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
    from scipy.special import stdtrit  # only whoever fits needs SciPy

    mean, n = float(values.mean()), len(values)
    half = float(stdtrit(n - 1, 0.975)) * float(values.std(ddof=1)) / math.sqrt(n)
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}


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
    return set(readings.rows.filter(pl.col("quantity") == quantity)["cell"])


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
    rows = readings.rows.filter(pl.col("cell") == cell, pl.col("quantity") == RATIO, pl.col("step") == 0)
    return dict(rows.select("seed", "value").iter_rows())


def _usable(pair: Sequence[float | None]) -> bool:
    return all(value is not None and math.isfinite(value) and value > 0 for value in pair)


def _draws(readings: Readings, cells: Sequence[str]) -> int:
    """Seeds of which there is any reading: a dead network may have no ratio."""
    return readings.rows.filter(pl.col("cell").is_in(cells))["seed"].n_unique()


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of `successes` in `n` draws (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    Raises:
        InputError: there are no draws, or more successes than draws.
    """
    if not 0 <= successes <= n or n == 0:
        raise InputError(f"successes must be between 0 and n, and n at least 1; got {successes} of {n}.")
    share, square = successes / n, _Z95**2 / n
    centre = share + square / 2
    half = _Z95 * math.sqrt(share * (1 - share) / n + square / (4 * n))
    return max(0.0, (centre - half) / (1 + square)), min(1.0, (centre + half) / (1 + square))


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


# ----------------------------------------------------------------------------------------------------------- findings

_TREND = (
    f"over the blocks between the shallowest and the deepest network; exploding: the typical draw's norm grows by more "
    f"than {FACTOR:g}; vanishing: the root mean square over draws falls below 1/{FACTOR:g}; each with its whole 95 % "
    f"interval; spread out: neither, and the 5 and 95 % quantiles of draws' fitted trends differ by more than "
    f"{FACTOR:g}; healthy: both stay within {FACTOR:g} either way; a verdict needs {SEEDS} seeds"
)
_TREND_SOURCE = (
    f"a factor of {FACTOR:g} in norm: a convention of this instrument; slopes fitted a seed, Student's t over seeds; "
    "mean and spread told apart: Hanin & Nica 2018, arXiv:1812.05994"
)
_FIT = (
    f"law does not hold: the mean rate over seeds is more than {MISFIT:g} standard errors from the law's; a verdict "
    f"needs {SEEDS} seeds"
)
_AGREE = (
    f"draws disagree: at some depth more than {percent(DISSENT)} of draws contradict the notebook, with the whole 95 % "
    f"interval; contradicted: more than half do, at every depth; draws agree: fewer than {percent(DISSENT)}, at every "
    "depth"
)
_AGREE_SOURCE = "the original notebook's conclusion from one draw; interval of a share: Wilson 1927"


def findings(readings: Readings) -> list[Finding]:
    """What a sweep shows: trends of signal and gradient, whether the law holds, whether draws agree with the notebook.

    The verdicts are those of `skipscope.diagnosis` for trends; `law holds`, `law does not hold`; `draws agree`, `draws
    disagree`, `contradicted`; and `cannot tell`.

    Raises:
        InputError: there is no quantity of a whole network.
    """
    found: list[Finding] = []
    for row in rates(readings).iter_rows(named=True):
        if row["quantity"] == RATIO:
            continue
        found.append(_trend(row))
        if row["law_rate"] is not None:
            found.append(_fit(row))
    shares = contradictions(readings)
    pairs = shares.select("design", "against", "width", "cotangent").unique(maintain_order=True)
    found += [_agreement(shares.filter(**pair)) for pair in pairs.iter_rows(named=True)]
    return found


def _trend(row: dict[str, Any]) -> Finding:
    what = RATES[row["quantity"]][0]
    verdict = _trend_verdict(row) if row["n"] >= SEEDS else "cannot tell"
    if row["rate"] is None:
        said = f"Of {row['subject']}, {row['n']} draws have a finite {what} at every depth: too few for a trend."
    else:
        said = (
            f"A block of {row['subject']} changes the norm of the {what} by a factor of {_factor(row, 'rate')} in the "
            f"typical draw, and by {_factor(row, 'mean_rate')} in root mean square if draws are log-normal; over "
            f"{row['span']} blocks that is {_factor(row, 'rate', row['span'])} and "
            f"{_factor(row, 'mean_rate', row['span'])} ({row['n']} seeds, {row['depths']} depths)."
        )
        if row["law_mean_rate"] is not None:
            said += f" The law in root mean square is {number(_exp(row['law_mean_rate'] / 2))} a block."
    if row["left_out"]:
        said += f" {row['left_out']} more seeds, dead or overflowed at some depth, are left out."
    return _finding(row, f"trend of the {what}", verdict, said, _TREND, _TREND_SOURCE)


def _trend_verdict(row: dict[str, Any]) -> str:
    """By what the norm does over the span; the rates are of ln of its square."""
    limit = 2 * math.log(FACTOR) / row["span"]
    if row["rate_low"] > limit:
        return "exploding"
    if row["mean_rate_high"] < -limit:
        return "vanishing"
    if 2 * 1.6448536269514722 * row["rate_sd"] > limit:  # between the quantiles at 5 and 95 % of a normal law
        return "spread out"
    within = (
        min(row["rate_low"], row["mean_rate_low"]) > -limit and max(row["rate_high"], row["mean_rate_high"]) < limit
    )
    return "healthy" if within else "cannot tell"


def _factor(row: dict[str, Any], name: str, blocks: int = 1) -> str:
    """exp(rate / 2) over so many blocks, with its interval, in words."""
    middle, low, high = (_exp(row[f"{name}{end}"] * blocks / 2) for end in ("", "_low", "_high"))
    return f"{number(middle)} ({number(low)} to {number(high)})"


def _exp(x: float) -> float:
    """Held within the range of floats."""
    return math.exp(max(-700.0, min(700.0, x)))


def _fit(row: dict[str, Any]) -> Finding:
    what = RATES[row["quantity"]][0]
    if row["z"] is None or row["n"] < SEEDS:
        verdict = "cannot tell"
        said = f"{row['n']} draws of {row['subject']} are too few to compare with a law: measure {SEEDS} at least."
    else:
        error = row["rate_sd"] / math.sqrt(row["n"])
        verdict = "law holds" if abs(row["z"]) <= MISFIT else "law does not hold"
        said = (
            f"A block of {row['subject']} changes ln of the squared norm of the {what} by {number(row['rate'])} ± "
            f'{number(error, 2)} in the mean over {row["n"]} seeds; the law "{row["law"]}" says '
            f"{number(row['law_rate'])}: z = {number(row['z'], 2)}."
        )
        if row["law_bias"]:
            said += f" What that law leaves out: {row['law_bias']}"
        if verdict == "law holds" and row["law_rate"]:
            said += f" An error of {percent(MISFIT * error / abs(row['law_rate']))} would have shown."
    return _finding(row, f"law of the {what}", verdict, said, _FIT, "docs, What theory predicts")


def _finding(row: dict[str, Any], rule: str, verdict: str, said: str, threshold: str, source: str) -> Finding:
    return Finding(
        rule=rule,
        cell=row["cell"],
        subject=row["subject"],
        verdict=cast(Any, verdict),  # words of these rules' own
        statement=said,
        evidence=pl.DataFrame([row]),
        threshold=threshold,
        source=source,
    )


def _agreement(shares: pl.DataFrame) -> Finding:
    deepest = shares.row(-1, named=True)
    sent = ", output gradient of ones" if deepest["cotangent"] == "ones" else ""
    subject = f"{deepest['against']} against {deepest['design']}, width {deepest['width']}{sent}"
    known = shares.filter(pl.col("n") > 0)
    verdict = "cannot tell" if known.height < shares.height else _agreement_verdict(known)
    if known.is_empty():
        said = f"No draw of {subject} has both ratios."
    else:
        low, high = known.sort("contradicts").row(0, named=True), known.sort("contradicts").row(-1, named=True)
        among = f"by {_share(high)} of draws"
        if known.height > 1:
            among = f"by {_share(low)} of draws at depth {low['depth']}, up to {_share(high)} at depth {high['depth']}"
        medians = sorted(known["N"].to_list())
        said = (
            f'That shortcuts "maintain gradient flow N times better" is contradicted, {subject}, {among}; the median N '
            f"is between {number(medians[0])} and {number(medians[-1])}."
        )
    return Finding(
        rule="the notebook's conclusion",
        cell=deepest["cell"],
        subject=subject,
        verdict=cast(Any, verdict),  # words of this rule's own
        statement=said,
        evidence=shares,
        threshold=_AGREE,
        source=_AGREE_SOURCE,
    )


def _agreement_verdict(shares: pl.DataFrame) -> str:
    if (shares["low"] > 0.5).all():
        return "contradicted"
    if (shares["low"] > DISSENT).any():
        return "draws disagree"
    return "draws agree" if (shares["high"] < DISSENT).all() else "cannot tell"


def _share(row: dict[str, Any]) -> str:
    return f"{percent(row['contradicts'])} (95 % interval {percent(row['low'])} to {percent(row['high'])})"
