"""What many seeds say together: quantiles, an interval of the median, and the law beside the measurement.

`summarise` takes readings and gives a `Summary`: one row for every cell, step, site, call and quantity, over seeds. The
unit that is resampled or ranked is the seed. Quantities that are positive also get the mean and standard deviation of
the logarithm of their square, which is what the laws predict, and a z-score where a law holds. Imports what is shared
by both halves (readings, theory, spec) and Polars.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import polars as pl

from skipscope import theory
from skipscope.draws import CotangentKind
from skipscope.errors import InputError
from skipscope.readings import Readings
from skipscope.spec import Spec

__all__ = ["QUANTILES", "Summary", "median_ranks", "summarise", "with_median_interval"]

QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
"""The columns of quantiles, over seeds."""

_KEY = ["cell", "step", "site", "call", "quantity"]


@dataclass(frozen=True)
class Summary:
    """Readings over seeds.

    Attributes:
        table: one row a (cell, step, site, call, quantity): `n` seeds with a finite value, `nonfinite` seeds without,
            `zeros`; quantiles `q05` to `q95` of the finite values; `median_low` and `median_high`, a 95 % interval of
            the median; `log_mean` and `log_sd` of ln(value^2) over the seeds where the value is positive; where a law
            holds (before any training, at step 0), `law_q05` to `law_q95`, `law_log_mean`, `law_log_sd` and `z` =
            (log_mean - law_log_mean) / (law_log_sd / sqrt(n)), n the seeds where the value is positive. Joined with the
            cell's `design`, `depth`, `width`, `cotangent`, `batch`, and the site's `site_depth` (weight layers from the
            input), `site_order`, `kind`, `activation`, `block`.
        laws: one row a (cell, quantity) that has a law: `law`, `statement`, `source`, and `refusal`, why it is not
            drawn, empty where it is.
        readings: what was summarised.
    """

    table: pl.DataFrame
    laws: pl.DataFrame
    readings: Readings

    def of(self, quantity: str) -> pl.DataFrame:
        """The rows of one quantity, in order of depth.

        Raises:
            InputError: the readings hold no such quantity.
        """
        rows = self.table.filter(pl.col("quantity") == quantity)
        if rows.is_empty():
            known = ", ".join(sorted(self.table["quantity"].unique()))
            raise InputError(f"quantity {quantity!r} is not in these readings; they hold {known or 'none'}.")
        return rows.sort("cell", "step", "site_order", "call")


def summarise(readings: Readings) -> Summary:
    """Quantiles over seeds of every quantity at every site, with the law's prediction where one holds."""
    laws, predicted = _laws(readings)
    table = (
        _statistics(readings.rows)
        .join(predicted, on=["cell", "step", "site", "quantity"], how="left")
        .with_columns(z=(pl.col("log_mean") - pl.col("law_log_mean")) / (pl.col("law_log_sd") / pl.col("_m").sqrt()))
        # A site where the law has no spread (the output, to itself) has nothing to be compared in units of.
        .with_columns(z=pl.when(pl.col("law_log_sd") > 0).then(pl.col("z")))
        .drop("_m")
        .join(readings.cells.select("cell", "design", "depth", "width", "cotangent", "batch"), on="cell", how="left")
        .join(_places(readings), on=["cell", "site"], how="left")
        .sort("cell", "step", "quantity", "site_order", "call")
    )
    return Summary(table=table, laws=laws, readings=readings)


def _places(readings: Readings) -> pl.DataFrame:
    columns = ["cell", "site", "kind", "activation", "block"]
    return readings.sites.select(*columns, site_depth=pl.col("depth"), site_order=pl.col("order"))


def _statistics(rows: pl.DataFrame) -> pl.DataFrame:
    value, finite = pl.col("value"), pl.col("value").is_finite()
    positive = finite & (value > 0)
    log_square = value.filter(positive).log() * 2
    table = rows.group_by(_KEY).agg(
        n=finite.sum().cast(pl.Int64),
        nonfinite=(~finite).sum().cast(pl.Int64),
        zeros=(value == 0).sum().cast(pl.Int64),
        **{name: value.filter(finite).quantile(level, "linear") for name, level in QUANTILES.items()},
        log_mean=log_square.mean(),
        log_sd=log_square.std(),
        _m=positive.sum(),
        _sorted=value.filter(finite).sort(),
    )
    return with_median_interval(table, "_sorted", "median_low", "median_high")


def with_median_interval(table: pl.DataFrame, values: str, low: str, high: str) -> pl.DataFrame:
    """Replace the column `values`, of sorted lists, by the ends of a 95 % interval of their medians; null for few."""
    ranks = [median_ranks(n) or (None, None) for n in table[values].list.len()]
    ends = pl.DataFrame(ranks, schema={low: pl.Int64, high: pl.Int64}, orient="row")
    return (
        table.hstack(ends)
        .with_columns(pl.col(values).list.get(pl.col(end), null_on_oob=True).alias(end) for end in (low, high))
        .drop(values)
    )


@lru_cache(maxsize=4096)
def median_ranks(n: int, level: float = 0.95) -> tuple[int, int] | None:
    """The ranks (from 0) of the sorted values that enclose the median with probability `level` at least.

    Distribution-free: the number of values below the median is Bin(n, 1/2). None where even the smallest and the
    largest of n values do not suffice (n < 6 at 95 %).
    """
    below, rank = 0.0, -1
    for k in range(n // 2):
        below += math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
        if below > (1 - level) / 2:
            break
        rank = k
    return None if rank < 0 else (rank, n - 1 - rank)


# ------------------------------------------------------------------------------------------------ the laws beside


def _laws(readings: Readings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What the laws say about every cell: whether they hold, and their predictions."""
    told: list[dict[str, str]] = []
    tables: list[pl.DataFrame] = []
    for cell, prediction in _predictions(readings):
        told.append(
            {
                "cell": cell,
                "quantity": prediction.quantity,
                "law": prediction.law,
                "statement": prediction.statement,
                "source": prediction.source,
                "refusal": prediction.refusal,
            }
        )
        tables.append(_predicted(cell, prediction.table))
    text = dict.fromkeys(("cell", "quantity", "law", "statement", "source", "refusal"), pl.String)
    keys: dict[str, type[pl.DataType]] = {"cell": pl.String, "step": pl.Int64, "site": pl.String, "quantity": pl.String}
    numbers: dict[str, type[pl.DataType]] = dict.fromkeys(
        (f"law_{name}" for name in (*QUANTILES, "log_mean", "log_sd")), pl.Float64
    )
    return pl.DataFrame(told, schema=text), pl.concat([pl.DataFrame(schema=keys | numbers), *tables])


def _predicted(cell: str, table: pl.DataFrame) -> pl.DataFrame:
    return table.select(
        pl.lit(cell).alias("cell"),
        pl.lit(0, pl.Int64).alias("step"),  # the laws are about networks as drawn, before any training
        "site",
        "quantity",
        *[pl.col(name).alias(f"law_{name}") for name in QUANTILES],
        law_log_mean="log_mean",
        law_log_sd=pl.col("log_variance").sqrt(),
    )


def _predictions(readings: Readings) -> Iterator[tuple[str, theory.Prediction]]:
    measured = readings.rows.select("cell", "quantity").unique()
    for row in readings.cells.iter_rows(named=True):
        # The laws are about networks as drawn, and about the two cotangents that they know.
        if not row["spec"] or row["edit"] or row["cotangent"] not in ("gaussian", "ones"):
            continue
        wanted = set(measured.filter(pl.col("cell") == row["cell"])["quantity"])
        if not wanted & {"forward_gain", "backward_gain"}:
            continue
        for prediction in _cached_laws(row["spec"], row["cotangent"], row["batch"]):
            if prediction.quantity in wanted:
                yield row["cell"], prediction


@lru_cache(maxsize=256)
def _cached_laws(spec: str, cotangent: CotangentKind, batch: int) -> tuple[theory.Prediction, ...]:
    return theory.laws(Spec.from_json(spec), cotangent=cotangent, batch=batch)
