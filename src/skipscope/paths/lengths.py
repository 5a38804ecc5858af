"""The shares of the gradient at the junctions and the lengths of its paths, measured, beside the law: tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skipscope.draws import CotangentKind
from skipscope.errors import InputError
from skipscope.intervals import Z95
from skipscope.paths.law import PathLaw, path_law
from skipscope.readings import Readings, require_factors, require_readings
from skipscope.spec import Spec
from skipscope.summary import QUANTILES, median_ranks, summarise
from skipscope.theory.paths import lengths_of

__all__ = ["misfit_data", "paths_data", "shares_data", "with_weights"]

Values = NDArray[np.float64]


def shares_data(readings: Readings) -> pl.DataFrame:
    """The shares of the gradient at every junction, over seeds: what the first chart draws.

    Returns:
        One row a cell, junction and part, in order of depth: `cell`, `design`, `order`, `gain`, `norm`, `depth`,
        `width`, `block` (from 1), `part` (`shortcut` or `branch`), `n` seeds, quantiles `q05` to `q95`, `median_low`
        and `median_high` (95 %), `law` (the share by the binomial law, null where there is none) and `refusal`.

    Raises:
        InputError: there are no such readings.
    """
    require_readings(readings)
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
    require_readings(readings)
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
        `distance` (half the summed absolute difference: the weight at other lengths than the law's; above 1 only
        with negative weights), null where there is no law; `distance_low` and `distance_high`, the 95 % interval of a
        median distance; `independent_mean`, the mean if every junction chose by itself; `refusal`.

    Raises:
        InputError: there are no such readings.
    """
    require_readings(readings)
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
    measured = [_cell(readings, row) for row in with_weights(readings)]
    found = [cell for cell in measured if len(cell.weights)]
    if not found:
        why = "no finite path_weight: the gradient overflows" if measured else "no path_weight"
        raise InputError(f"these readings hold {why}: measure by studies.highway, with gains and depths that fit.")
    return found


def with_weights(readings: Readings) -> list[dict[str, Any]]:
    """The cells in which path lengths were measured, whether or not any is finite.

    A network without shortcuts has one path, of which there is nothing to tell beside networks that have several.
    """
    require_readings(readings)
    measured = set(readings.rows.filter(pl.col("quantity") == "path_weight")["cell"])
    if measured:
        require_factors(readings, "highway", *_FACTORS)
    found = [row for row in readings.cells.iter_rows(named=True) if row["cell"] in measured]
    return [row for row in found if not all(stage.plain for stage in Spec.from_json(row["spec"]).stages)] or found


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
    interval = mean, mean - Z95 * error, mean + Z95 * error
    distance = float(np.abs(pooled - _law_weights(cell)).sum() / 2)
    effective = float(energy.sum() ** 2 / np.sum(energy**2))
    variance = float(pooled @ (cell.lengths - mean) ** 2)
    return _row(cell, "pooled", effective, interval, variance, (distance, math.nan, math.nan))


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
