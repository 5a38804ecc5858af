"""What many seeds say together: quantiles, an interval of the median, and the law beside the measurement.

`summarise` takes readings and gives a `Summary`: one row for every cell, step, site, call and quantity, over seeds. The
unit that is resampled or ranked is the seed. Quantities that are positive also get the mean and standard deviation of
the logarithm of their square. Beside them stands what theory predicts: the sharpest law that holds, which speaks of
those logarithms or, where it knows no more, of the mean of the square; and a z-score. Imports what is shared by both
halves (readings, theory, spec) and Polars.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import get_args

import polars as pl

from skipscope import theory
from skipscope.draws import CotangentKind
from skipscope.errors import InputError, quoted, require_int, require_type
from skipscope.readings import Readings, require_readings
from skipscope.spec import Spec

__all__ = [
    "CARRYING",
    "FALSE_ALARM",
    "QUANTILES",
    "Summary",
    "median_ranks",
    "require_summary",
    "summarise",
    "with_median_interval",
    "z_limit",
]

QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
"""The columns of quantiles, over seeds."""

CARRYING = 30
"""Seeds that must carry a mean of squares, if its standard error is to be trusted."""

FALSE_ALARM = 0.01
"""How likely true laws may be called wrong, at one site or more of all that are looked at together."""

_KEY = ["cell", "step", "site", "call", "quantity"]


@dataclass(frozen=True)
class Summary:
    """Readings over seeds.

    Attributes:
        table: one row a (cell, step, site, call, quantity): `n` seeds with a finite value, `nonfinite` seeds without,
            `zeros`; quantiles `q05` to `q95` of the finite values; `median_low` and `median_high`, a 95 % interval of
            the median; `rms`, the root of the mean of value^2, and `rms_error`, its standard error; `log_mean` and
            `log_sd` of ln(value^2) over the seeds where the value is positive. Where a law holds, `law_rms`; and where
            it speaks of logarithms `law_q05` to `law_q95`, `law_log_mean` and `law_log_sd`. `z` is how many standard
            errors the measurement is above the law: of logarithms (log_mean - law_log_mean) / (law_log_sd / sqrt(n)),
            n the seeds where the value is positive; of others the mean of value^2 less law_rms^2, in units of its
            measured standard error, and null where fewer than `CARRYING` seeds carry that mean, `carrying` = (sum
            v^2)^2 / sum v^4, because then a heavy tail has not been seen. Which z contradicts a law depends on how many
            are looked at: see `z_limit`. Joined with the cell's `design`, `depth`, `width`, `cotangent`,
            `batch`, and the site's `site_depth` (weight layers from the input), `site_order`, `kind`, `activation`,
            `block`.
        laws: one row a (cell, quantity) that there are laws about, for the sharpest that holds: `law`, `kind` (exact in
            law, exact in mean, or asymptotic in width), `statement`, `source`, `bias` (what an asymptotic law leaves
            out), and `refusal`, why it is not drawn, empty where it is.
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
        require_type("quantity", quantity, str, "the name of one, such as 'forward_gain'")
        rows = self.table.filter(pl.col("quantity") == quantity)
        if rows.is_empty():
            known = ", ".join(sorted(self.table["quantity"].unique()))
            raise InputError(f"quantity {quoted(quantity)} is not in these readings; they hold {known or 'none'}.")
        return rows.sort("cell", "step", "site_order", "call")


def require_summary(summary: object) -> None:
    """Refuse what is no summary.

    Raises:
        InputError: it is not.
    """
    require_type("summary", summary, Summary, "summarise(readings) gives one")


def summarise(readings: Readings) -> Summary:
    """Quantiles over seeds of every quantity at every site, with the law's prediction where one holds."""
    require_readings(readings)
    laws, predicted = _laws(readings)
    table = (
        pl.concat([_statistics(rows) for rows in readings.by_kind()])
        .join(predicted, on=["cell", "step", "site", "quantity"], how="left")
        .with_columns(z=pl.when(pl.col("law_log_sd").is_null()).then(_z_of_square()).otherwise(_z_of_logarithm()))
        .drop(pl.selectors.starts_with("_"))
        .join(readings.cells.select("cell", "design", "depth", "width", "cotangent", "batch"), on="cell", how="left")
        .join(_places(readings), on=["cell", "site"], how="left")
        .sort("cell", "step", "quantity", "site_order", "call")
    )
    return Summary(table=table, laws=laws, readings=readings)


def _z_of_logarithm() -> pl.Expr:
    off, error = pl.col("log_mean") - pl.col("law_log_mean"), pl.col("law_log_sd") / pl.col("_positive").sqrt()
    # A site where the law has no spread (the output, to itself) has nothing to be compared in units of.
    return pl.when(pl.col("law_log_sd") > 0).then(off / error)


def _z_of_square() -> pl.Expr:
    off = pl.col("_square_mean") - (pl.col("law_rms") / pl.col("_largest")) ** 2
    trusted = (pl.col("_square_error") > 0) & (pl.col("carrying") >= CARRYING)
    return pl.when(trusted).then(off / pl.col("_square_error"))


def _places(readings: Readings) -> pl.DataFrame:
    columns = ["cell", "site", "kind", "activation", "block"]
    return readings.sites.select(*columns, site_depth=pl.col("depth"), site_order=pl.col("order"))


def _statistics(rows: pl.DataFrame) -> pl.DataFrame:
    value, finite = pl.col("value"), pl.col("value").is_finite()
    positive = finite & (value > 0)
    log_square = value.filter(positive).log() * 2
    # Squares in units of the largest: a gain can be such that its square is too large, or too small, for a float.
    largest = value.filter(finite).abs().max()
    part = (value.filter(finite) / largest).fill_nan(0.0)  # 0/0 where all is 0
    square = part * part
    table = rows.group_by(_KEY).agg(
        n=finite.sum().cast(pl.Int64),
        nonfinite=(~finite).sum().cast(pl.Int64),
        zeros=(value == 0).sum().cast(pl.Int64),
        **{name: value.filter(finite).quantile(level, "linear") for name, level in QUANTILES.items()},
        log_mean=log_square.mean(),
        log_sd=log_square.std(),
        _largest=largest,
        _square_mean=square.mean(),
        _square_error=square.std() / finite.sum().sqrt(),
        carrying=(square.sum() * square.sum() / (square * square).sum()).fill_nan(None),  # where all is 0, none
        _positive=positive.sum(),
        _sorted=value.filter(finite).sort(),
    )
    table = table.with_columns(rms=pl.col("_largest") * pl.col("_square_mean").sqrt())
    error = pl.col("_largest") * pl.col("_square_error") / (2 * pl.col("_square_mean").sqrt())
    table = table.with_columns(rms_error=pl.when(pl.col("_square_mean") > 0).then(error))
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


def z_limit(looks: int, draws: float | None = None) -> float:
    """How large |z| may be before a law is contradicted, when the largest of so many is looked at.

    Were all laws true, one of the looks or more would be above the limit with probability `FALSE_ALARM` at most: of
    Sidak's correction (1967, doi:10.1080/01621459.1967.10482935), which for two-sided normal z is on the safe side
    however they depend on each other. Neighbouring sites do, so that the true probability is smaller.

    Args:
        looks: how many z are looked at, those of all sites and networks that are told of together.
        draws: from how many draws the standard error is estimated, for Student's t; None where the law gives it.

    Raises:
        InputError: there are no looks, or fewer than 2 draws.
    """
    require_int("looks", looks, least=1)
    tail = -math.expm1(math.log1p(-FALSE_ALARM) / looks) / 2
    if draws is None:
        return -NormalDist().inv_cdf(tail)
    if draws < 2:
        raise InputError(f"draws must be 2 at least, to have a standard error; got {quoted(draws)}.")
    from scipy.special import stdtrit  # only whoever has an estimated error needs SciPy

    return -float(stdtrit(draws - 1, tail))


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
                "kind": prediction.kind,
                "statement": prediction.statement,
                "source": prediction.source,
                "bias": prediction.bias,
                "refusal": prediction.refusal,
            }
        )
        tables.append(_predicted(cell, prediction.table))
    told_of = ("cell", "quantity", "law", "kind", "statement", "source", "bias", "refusal")
    text = dict.fromkeys(told_of, pl.String)
    keys: dict[str, type[pl.DataType]] = {"cell": pl.String, "step": pl.Int64, "site": pl.String, "quantity": pl.String}
    numbers: dict[str, type[pl.DataType]] = dict.fromkeys(
        (f"law_{name}" for name in ("rms", *QUANTILES, "log_mean", "log_sd")), pl.Float64
    )
    return pl.DataFrame(told, schema=text), pl.concat([pl.DataFrame(schema=keys | numbers), *tables])


def _predicted(cell: str, table: pl.DataFrame) -> pl.DataFrame:
    return table.select(
        pl.lit(cell).alias("cell"),
        pl.lit(0, pl.Int64).alias("step"),  # the laws are about networks as drawn, before any training
        "site",
        "quantity",
        *[pl.col(name).alias(f"law_{name}") for name in ("rms", *QUANTILES)],
        law_log_mean="log_mean",
        law_log_sd=pl.col("log_variance").sqrt(),
    )


def _predictions(readings: Readings) -> Iterator[tuple[str, theory.Prediction]]:
    measured = readings.distinct("cell", "quantity")
    for row in readings.cells.iter_rows(named=True):
        # The laws are about networks as drawn, and about the two cotangents that they know.
        if not row["spec"] or row["edit"] or row["cotangent"] not in ("gaussian", "ones"):
            continue
        wanted = set(measured.filter(pl.col("cell") == row["cell"])["quantity"])
        drawn = (row["data"] or "").startswith("gaussian")  # as the probe draws samples: of RMS 1
        for quantity in get_args(theory.Quantity):
            if quantity in wanted:
                yield row["cell"], _cached(row["spec"], quantity, row["cotangent"], row["batch"], drawn)


@lru_cache(maxsize=256)
def _cached(
    spec: str, quantity: theory.Quantity, cotangent: CotangentKind, batch: int, drawn: bool
) -> theory.Prediction:
    rms = 1.0 if drawn else None
    return theory.best(Spec.from_json(spec), quantity, cotangent=cotangent, batch=batch, input_rms=rms)
