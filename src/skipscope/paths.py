"""How long the gradient's paths are: the binomial law, what the readings of study `highway` say, and the verdicts.

Right of the waist: readings in, tables and findings out (which of them are drawn, see `skipscope.charts.paths`).

**The law.** Let a block be out = s x + F(x) with a branch of squared gain g2: on an isotropic gradient g, drawn
independently of the block, E|J^T g|^2 = g2 |g|^2. Where two different paths have gradients that are orthogonal in the
mean, E<G_j, G_k> = 0, each junction multiplies the energy of what passes it by s^2 on the shortcut and by g2 on the
branch, so that in a body of L such blocks

    E<G_k, g> = E|G_k|^2 = binomial(L, k) g2^k s^(2(L-k)) E|g_L|^2,     length ~ Bin(L, g2/(s^2 + g2)) by energy,

the energy of all draws pooled. A layer of fan-in n and weight variance v has the factor n v, its ReLU 1/2. Paths are
orthogonal where a branch ends in fresh weights of mean zero that no gate above has seen, or has seen only as a sign
that is fair whatever the gradient: linear networks (exactly, at any width) and pre-activation order (up to O(1/n); its
own gate sits on the trunk). They are not where a ReLU follows the last weights: in the notebook's order the branch has
a mean, along which all paths agree; in the paper's order the gates of the trunk see the same units again and again.
(A block x + W2 relu(W1 x), zero-mean with one gate, is exact too, but none of the three orders is it: pre-activation
has a second gate, hence half the gain: g2 = 1, not 2, with He on both layers.)

Source of the count: Veit, Wilber & Belongie 2016, arXiv:1605.06431. The law is elementary (above).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skipscope.diagnosis import SEEDS, Finding
from skipscope.draws import CotangentKind, weight_variance
from skipscope.errors import InputError
from skipscope.readings import Readings
from skipscope.spec import Block, Spec
from skipscope.summary import QUANTILES, median_ranks, summarise
from skipscope.words import number

__all__ = ["PathLaw", "judge", "lengths_of", "misfit_data", "path_law", "paths_data", "shares_data"]

Values = NDArray[np.float64]

# ------------------------------------------------------------------------------------------------------------- the law


@dataclass(frozen=True)
class PathLaw:
    """The law of the path length, by energy, over draws.

    Attributes:
        branch: for every junction, the probability of the branch: g2/(s^2 + g2).
        weights: the probability of every length, of shape (K + 1,).
        refusal: why measurements will not follow it, empty where they do; then it is what independent gates would give.
    """

    branch: tuple[float, ...]
    weights: Values
    refusal: str

    @property
    def mean(self) -> float:
        """The mean length."""
        return sum(self.branch)

    @property
    def sd(self) -> float:
        """The standard deviation of the length."""
        return math.sqrt(sum(p * (1 - p) for p in self.branch))


def path_law(spec: Spec, *, cotangent: CotangentKind = "gaussian") -> PathLaw | str:
    """The binomial law for a spec as initialised, or a sentence that says why there is none to compute."""
    junctions = [block for block in spec.body if not block.plain]
    for layer in (layer for block in spec.body for layer in block.layers):
        if layer.norm != "none":
            return f"There is a {layer.norm} norm: what a branch multiplies by depends on what has come before."
        if layer.activation == "tanh":
            return "The activation is tanh: what it multiplies by depends on the size of what comes in."
    energies = [(block.shortcut_gain**2, _squared_gain(spec, block)) for block in junctions]
    if any(shortcut + branch == 0 for shortcut, branch in energies):
        return "Both gains of a junction are 0: no gradient passes."
    branch = tuple(b / (s + b) for s, b in energies)
    return PathLaw(branch, lengths_of(branch), " ".join(_objections(spec, junctions, cotangent)))


def lengths_of(branch: Iterable[float]) -> Values:
    """The distribution of the number of branches, if every junction is passed by its branch with these probabilities.

    With equal probabilities it is the binomial one; the choices are independent of each other.
    """
    weights = np.ones(1)
    for p in branch:
        weights = np.convolve(weights, (1 - p, p))
    return weights


def _squared_gain(spec: Spec, block: Block) -> float:
    """g2: by what the branch multiplies the squared norm of an isotropic gradient, in the mean.

    A gate after the addition does not count: shortcut and branch both pass it.
    """
    gain = 0.0 if block.learned_gain else block.branch_gain**2  # a learned gain starts at 0
    for layer in block.layers:
        gain *= layer.fan_in * weight_variance(spec, layer) * (0.5 if layer.activation == "relu" else 1.0)
    return gain


def _objections(spec: Spec, junctions: Sequence[Block], cotangent: CotangentKind) -> Iterator[str]:
    """Why measurements will not follow the law, a sentence a reason."""
    if not junctions or all(block.learned_gain or block.branch_gain == 0 for block in junctions):
        return  # there is one path, whatever the gates do
    if all(block.shortcut_gain == 0 for block in junctions):
        return
    rectified = {stage.order for stage in spec.stages if stage.activation == "relu"}
    if "before-add" in rectified:
        yield (
            "A ReLU before the addition gives the branch a mean: all paths agree along it, and add up in the norm "
            "rather than in its square."
        )
    if "after-add" in rectified:
        yield (
            "A ReLU after the addition gates the trunk: its units stay open or shut from block to block, so what comes "
            "down the shortcut passes where what comes through a branch is halved."
        )
    if "pre-activation" in rectified and (spec.stem.activation == "relu" or rectified != {"pre-activation"}):
        yield "The trunk has a mean (a ReLU stands before the first block): its gates are open more often than shut."
    if spec.head.activation == "relu" and cotangent == "ones":
        yield "The cotangent is ones under a ReLU output: it has a component along the activations from the start."
    if spec.init == "torch":
        yield "The weights are uniform, and the biases too where there are any: the law is derived for Gaussian ones."


# ------------------------------------------------------------------------------------------- data of the two charts


def shares_data(readings: Readings) -> pl.DataFrame:
    """The shares of the gradient at every junction, over seeds: what the first chart draws.

    Returns:
        One row a cell, junction and part, in order of depth: `cell`, `design`, `order`, `gain`, `norm`, `depth`,
        `width`, `block` (from 1), `part` (`shortcut` or `branch`), `n` seeds, quantiles `q05` to `q95`, `median_low`
        and `median_high` (95 %), `law` (the share by the binomial law, null where there is none) and `refusal`.

    Raises:
        InputError: there are no such readings.
    """
    told = pl.concat([_law_by_block(cell) for cell in _cells(readings)])
    table = summarise(readings).table.filter(pl.col("quantity").is_in(["shortcut_share", "branch_share"]))
    if table.is_empty():
        raise InputError("these readings hold no shortcut_share: measure a network with shortcuts by studies.highway.")
    factors = readings.cells.select(*_FACTORS)
    return (
        table.drop("design", "depth", "width")
        .join(factors, on="cell")
        .with_columns(part=pl.col("quantity").str.strip_suffix("_share"))
        .join(told, on=["cell", "block"], how="left")
        .with_columns(law=pl.when(pl.col("part") == "branch").then(pl.col("law")).otherwise(1 - pl.col("law")))
        .sort("cell", "part", "block")
        .select(*_FACTORS, "block", "part", "n", *QUANTILES, "median_low", "median_high", "law", "refusal")
    )


def paths_data(readings: Readings) -> pl.DataFrame:
    """The distribution of the path length, over seeds, beside the laws: what the second chart draws.

    Returns:
        One row a cell and length: the factors as in `shares_data`, `length` (branches passed), `junctions` (how many
        there are), `n` seeds; quantiles `q05` to `q95` of the weight over seeds, with the 95 % interval of its median;
        `pooled`, the weight in the energy of all draws together; `law`, the binomial law by energy, null where there is
        none; `refusal`, why measurements will not follow it; `independent`, the distribution if every junction chose by
        itself with its measured branch share (median over seeds); and `count`, the share of the 2^K paths that have
        this length, as Veit et al. 2016 count them.

    Raises:
        InputError: there are no such readings.
    """
    tables = []
    for cell in _cells(readings):
        quantiles = np.quantile(cell.weights, list(QUANTILES.values()), axis=0)
        low, high = _median_interval(cell.weights)
        columns: dict[str, Any] = dict(zip(QUANTILES, quantiles, strict=True))
        columns |= {"median_low": low, "median_high": high, "pooled": cell.pooled, "law": _law_weights(cell)}
        columns |= {"independent": lengths_of(cell.shares), "count": lengths_of([0.5] * cell.junctions)}
        told = {name: cell.factors.get(name) for name in _FACTORS}
        told |= {"junctions": cell.junctions, "n": len(cell.weights), "refusal": cell.refusal}
        same = {name: [value] * (cell.junctions + 1) for name, value in told.items()}
        tables.append(pl.DataFrame({"length": np.arange(cell.junctions + 1)} | same | columns, nan_to_null=True))
    columns_in_order = ("length", "junctions", "n", *QUANTILES, "median_low", "median_high", "pooled", "law")
    return pl.concat(tables, how="vertical_relaxed").select(
        *_FACTORS, *columns_in_order, "independent", "count", "refusal"
    )


def misfit_data(readings: Readings) -> pl.DataFrame:
    """How far the measured path lengths are from the binomial law: two rows a cell.

    The estimate `typical` is about one draw: medians over seeds of its mean length, of its standard deviation and of
    its distance to the law. The estimate `pooled` is about the energy of all draws together, of which the law speaks.
    They differ at finite width: draws whose branches happen to be strong have both more energy and longer paths.

    Returns:
        One row a cell and estimate: the factors as in `shares_data`, `estimate`, `junctions`, `n` seeds, `effective`
        (how many equal draws the pooled energy is worth: (sum e)^2/sum e^2; for `typical` the seeds), `nonfinite`
        (seeds left out because something overflowed); the `mean` length with its 95 % interval `low`, `high`; its
        `sd`, null where negative weights leave none; `law_mean`, `law_sd`, `difference` (mean - law_mean) and
        `distance` (total variation: which share of the weight is at other lengths than the law has it; above 1 only
        with negative weights), null where there is no law; `distance_low` and `distance_high`, the 95 % interval of a
        median distance; `independent_mean`, the mean if every junction chose by itself; `refusal`.

    Raises:
        InputError: there are no such readings.
    """
    rows = [row for cell in _cells(readings) for row in (_typical(cell), _pooled(cell))]
    return pl.DataFrame(rows, infer_schema_length=None, schema_overrides=dict.fromkeys(_NUMBERS, pl.Float64))


_FACTORS = ("cell", "design", "order", "gain", "norm", "depth", "width")
_NUMBERS = (
    *("effective", "mean", "low", "high", "sd", "law_mean", "law_sd", "difference"),
    *("distance", "distance_low", "distance_high", "independent_mean"),
)


@dataclass(frozen=True)
class _Measurement:
    """One cell: weights (s, K + 1) and energy (s,) of the seeds in which all of it is finite."""

    factors: dict[str, Any]
    weights: Values
    energy: Values  # in units of the largest
    nonfinite: int
    shares: Values  # of the branch at every junction, median over seeds
    law: PathLaw | str

    @property
    def junctions(self) -> int:
        return int(self.weights.shape[1]) - 1

    @property
    def lengths(self) -> Values:
        return np.arange(self.junctions + 1, dtype=np.float64)

    @property
    def pooled(self) -> Values:
        """The weights in the energy of all draws together."""
        pooled: Values = self.energy @ self.weights / self.energy.sum()
        return pooled

    @property
    def refusal(self) -> str:
        return self.law if isinstance(self.law, str) else self.law.refusal


def _cells(readings: Readings) -> list[_Measurement]:
    """The cells in which a draw has finite path weights.

    Raises:
        InputError: there is none.
    """
    measured = [_cell(readings, row) for row in _with_weights(readings)]
    found = [cell for cell in measured if len(cell.weights)]
    if not found:
        why = "no finite path_weight: the gradient overflows" if measured else "no path_weight"
        raise InputError(f"these readings hold {why}: measure by studies.highway, with gains and depths that fit.")
    return found


def _with_weights(readings: Readings) -> list[dict[str, Any]]:
    measured = set(readings.rows.filter(pl.col("quantity") == "path_weight")["cell"])
    return [row for row in readings.cells.iter_rows(named=True) if row["cell"] in measured]


def _cell(readings: Readings, factors: dict[str, Any]) -> _Measurement:
    rows = readings.rows.filter(pl.col("cell") == factors["cell"])
    spec = Spec.from_json(factors["spec"])
    sites = [f"paths.{k}" for k in range(sum(not block.plain for block in spec.body) + 1)]
    growth = rows.filter(pl.col("quantity") == "backward_growth").select("seed", growth="value")
    weights = rows.filter(pl.col("quantity") == "path_weight").pivot("site", index="seed", values="value")
    table = weights.join(growth, on="seed", how="left").sort("seed")
    values = table.select(sites).to_numpy()
    # The energy is relative to what the body is given; a body without blocks hands it on.
    factor = table["growth"].fill_null(math.nan).to_numpy() if spec.body else np.ones(len(values))
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = len(spec.body) * np.log(factor)
    finite = np.isfinite(values).all(axis=1) & np.isfinite(logs)
    return _Measurement(
        factors=factors,
        weights=values[finite],
        energy=np.exp(logs[finite] - logs[finite].max(initial=-math.inf)),
        nonfinite=int((~finite).sum()),
        shares=_branch_shares(readings, rows),
        law="The network was edited after it was built." if factors["edit"] else _law_of(spec, factors["cotangent"]),
    )


def _law_of(spec: Spec, cotangent: str) -> PathLaw | str:
    if cotangent not in ("gaussian", "ones"):
        return f"The law is about a Gaussian cotangent or ones, not {cotangent}."
    return path_law(spec, cotangent=cast(CotangentKind, cotangent))


def _branch_shares(readings: Readings, rows: pl.DataFrame) -> Values:
    medians = rows.filter((pl.col("quantity") == "branch_share") & pl.col("value").is_finite())
    placed = medians.join(readings.sites.select("cell", "site", "order"), on=["cell", "site"])
    return placed.group_by("site", "order").agg(pl.col("value").median()).sort("order")["value"].to_numpy()


def _law_by_block(cell: _Measurement) -> pl.DataFrame:
    """The branch's share by the law, block by block."""
    body = Spec.from_json(cell.factors["spec"]).body
    blocks = [block for block, each in enumerate(body, start=1) if not each.plain]
    branch = [None] * len(blocks) if isinstance(cell.law, str) else list(cell.law.branch)
    return pl.DataFrame(
        {
            "cell": [cell.factors["cell"]] * len(blocks),
            "block": blocks,
            "law": branch,
            "refusal": [cell.refusal] * len(blocks),
        },
        schema={"cell": pl.String, "block": pl.Int64, "law": pl.Float64, "refusal": pl.String},
    )


def _law_weights(cell: _Measurement) -> Values:
    return np.full(cell.junctions + 1, np.nan) if isinstance(cell.law, str) else cell.law.weights


def _median_interval(values: Values) -> tuple[Values, Values]:
    """A 95 % interval of the median of every column; nan for few rows."""
    ranks = median_ranks(len(values))
    if ranks is None:
        none = np.full(values.shape[1], np.nan)
        return none, none
    ordered = np.sort(values, axis=0)
    return ordered[ranks[0]], ordered[ranks[1]]


def _median(values: Values) -> tuple[float, float, float]:
    """The median of a vector and its 95 % interval."""
    low, high = _median_interval(values[:, None])
    return float(np.median(values)), float(low[0]), float(high[0])


def _typical(cell: _Measurement) -> dict[str, Any]:
    means = cell.weights @ cell.lengths
    variances = np.vecdot(cell.weights, (cell.lengths - means[:, None]) ** 2)
    distances = np.abs(cell.weights - _law_weights(cell)).sum(axis=1) / 2
    # The square root of the median variance is the median deviation, and leaves out no draw that has none.
    return _row(cell, "typical", len(means), _median(means), float(np.median(variances)), _median(distances))


def _pooled(cell: _Measurement) -> dict[str, Any]:
    """The pooled mean is a ratio of two means over seeds; its error follows to first order (delta method)."""
    energy, pooled = cell.energy, cell.pooled
    mean = float(pooled @ cell.lengths)
    error = math.sqrt(float(np.sum((energy * (cell.weights @ cell.lengths - mean)) ** 2))) / float(energy.sum())
    interval = mean, mean - _Z95 * error, mean + _Z95 * error
    distance = float(np.abs(pooled - _law_weights(cell)).sum() / 2)
    effective = float(energy.sum() ** 2 / np.sum(energy**2))
    variance = float(pooled @ (cell.lengths - mean) ** 2)
    return _row(cell, "pooled", effective, interval, variance, (distance, math.nan, math.nan))


_Z95 = 1.959963984540054  # the normal quantile at 0.975


def _row(
    cell: _Measurement,
    estimate: str,
    effective: float,
    mean: tuple[float, float, float],
    variance: float,
    distance: tuple[float, float, float],
) -> dict[str, Any]:
    law = None if isinstance(cell.law, str) else cell.law
    numbers: dict[str, float] = dict(zip(("mean", "low", "high"), mean, strict=True))
    numbers |= {"sd": math.sqrt(variance) if variance >= 0 else math.nan}
    numbers |= {"law_mean": law.mean if law else math.nan, "law_sd": law.sd if law else math.nan}
    numbers |= {"difference": mean[0] - law.mean if law else math.nan}
    numbers |= zip(("distance", "distance_low", "distance_high"), distance, strict=True)
    numbers |= {"independent_mean": float(cell.shares.sum())}
    return {
        **{name: cell.factors.get(name) for name in _FACTORS},
        "estimate": estimate,
        "junctions": cell.junctions,
        "n": len(cell.weights),
        "effective": effective,
        "nonfinite": cell.nonfinite,
        **{name: None if math.isnan(value) else value for name, value in numbers.items()},
        "refusal": cell.refusal,
    }


# --------------------------------------------------------------------------------------------------------- the verdict

SHIFT = 0.25
"""By how many of the law's standard deviations the pooled mean length may differ from the law's: two normal curves that
far apart have a total-variation distance of 0.1."""

DISTANCE = 0.1
"""The total-variation distance of the pooled distribution above which the law is not said to hold."""

DISTANCE_OF_ONE = 0.25
"""The total-variation distance of a single draw above which the law does not describe that draw."""

_THRESHOLDS = {
    "typical": (
        f"law holds: the median over draws of the total-variation distance between a draw and the law is at most "
        f"{DISTANCE_OF_ONE:g}, with its whole 95 % interval; does not hold: above, with all of it; a verdict needs "
        f"{SEEDS} draws"
    ),
    "pooled": (
        f"law holds: the 95 % interval of the mean length is within {SHIFT:g} of the law's standard deviations of the "
        f"law's mean, and the total-variation distance at most {DISTANCE:g}; does not hold: the whole interval is "
        f"beyond; a verdict needs draws worth {SEEDS} by energy"
    ),
}
_RULES = {"typical": "path lengths of a typical draw", "pooled": "path lengths by energy, all draws"}
_SOURCE = (
    "the law: skipscope.paths; the count of paths: Veit et al. 2016, arXiv:1605.06431; interval of a median: "
    "by ranks; of a pooled mean: delta method over draws; thresholds: a convention of this instrument"
)


def judge(readings: Readings) -> list[Finding]:
    """Whether the path lengths follow the binomial law: for every cell of a typical draw, and of all draws pooled.

    The verdict is `law holds`, `law does not hold` or `cannot tell`.

    Raises:
        InputError: there are no such readings.
    """
    table = misfit_data(readings)
    known = set(table["cell"])
    lost = [_lost(row) for row in _with_weights(readings) if row["cell"] not in known]
    return [_finding(row, table[index]) for index, row in enumerate(table.iter_rows(named=True))] + lost


def _finding(row: dict[str, Any], evidence: pl.DataFrame) -> Finding:
    verdict, said = _verdict(row)
    return Finding(
        rule=_RULES[row["estimate"]],
        cell=row["cell"],
        subject=_subject(row),
        verdict=cast(Any, verdict),  # words of these rules' own
        statement=said,
        evidence=evidence,
        threshold=_THRESHOLDS[row["estimate"]],
        source=_SOURCE,
    )


def _lost(factors: dict[str, Any]) -> Finding:
    return Finding(
        rule=_RULES["pooled"],
        cell=factors["cell"],
        subject=_subject(factors),
        verdict="cannot tell",
        statement=f"In every draw of {_subject(factors)} a path's gradient overflows: its lengths have no weights.",
        evidence=pl.DataFrame(),
        threshold=_THRESHOLDS["pooled"],
        source=_SOURCE,
    )


def _subject(row: dict[str, Any]) -> str:
    order = f", {row['order']} order" if row.get("order") else ""
    norm = f", {row['norm']} norm" if row["norm"] not in ("", "none") else ""
    gain = f", gains {row['gain']}" if row["gain"] else ""
    return f"the {row['design'] or 'network'} design at depth {row['depth']}, width {row['width']}{order}{norm}{gain}"


def _verdict(row: dict[str, Any]) -> tuple[str, str]:
    whose = "In a typical draw" if row["estimate"] == "typical" else "In the energy of all draws together"
    interval = "" if row["low"] is None else f" (95 % interval {number(row['low'])} to {number(row['high'])})"
    said = (
        f"{whose} of {_subject(row)}, the gradient came through {number(row['mean'])} of {row['junctions']} branches "
        f"in the mean{interval}"
    )
    if row["law_mean"] is None:
        return "cannot tell", (
            f"{said}. There is no binomial law for it: {_lower(row['refusal'])} With the shares measured at its "
            f"junctions and independent choices the mean would be {number(row['independent_mean'])}."
        )
    said += (
        f"; the binomial law says {number(row['law_mean'])} with a standard deviation of {number(row['law_sd'])}. The "
        f"total-variation distance between the two is {number(row['distance'], 2)}."
    )
    if row["low"] is None or min(row["n"], row["effective"]) < SEEDS:
        draws = "1 draw" if row["n"] == 1 else f"{row['n']} draws"
        worth = f", which by energy are worth {number(row['effective'], 2)}" if row["estimate"] == "pooled" else ""
        return "cannot tell", f"{said} It rests on {draws}{worth}; a verdict needs {SEEDS}."
    verdict = _compared_typical(row) if row["estimate"] == "typical" else _compared_pooled(row)
    return verdict, f"{said} {_why(row)}".rstrip() if verdict == "law does not hold" else said


def _why(row: dict[str, Any]) -> str:
    if row["refusal"]:
        return f"The law is not expected to hold: {_lower(row['refusal'])}"
    if row["estimate"] == "typical":
        return "The law is an average by energy over draws; at a finite width the paths of one draw interfere."
    return ""


def _compared_typical(row: dict[str, Any]) -> str:
    if row["distance_low"] > DISTANCE_OF_ONE:
        return "law does not hold"
    return "law holds" if row["distance_high"] <= DISTANCE_OF_ONE else "cannot tell"


def _compared_pooled(row: dict[str, Any]) -> str:
    room = SHIFT * row["law_sd"] + _ROUNDING * max(row["junctions"], 1)
    low, high = row["low"] - row["law_mean"], row["high"] - row["law_mean"]
    if low > room or high < -room:
        return "law does not hold"
    return "law holds" if -room <= low and high <= room and row["distance"] <= DISTANCE else "cannot tell"


_ROUNDING = 1e-9  # a law without spread, where there is a single path, is met to rounding


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
