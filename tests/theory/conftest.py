"""Measuring what a law predicts, with the NumPy engine, and comparing the two.

How a law is tested: so many networks that an error of 5 % in the square is at least 5 standard errors, seen by the
measurement itself (`Compared.power`), a tolerance of 3 standard errors at every site, and one test in which the law is
made 5 % wrong and found out. Squares have heavy tails, so the networks are short and wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from skipscope.quantities import QUANTITIES
from skipscope.spec import Spec
from skipscope.studies.ensemble import Cell, run
from skipscope.theory import Prediction

Array = NDArray[np.float64]
Squares = dict[tuple[str, str], Array]
GAINS = {name: QUANTITIES[name] for name in ("forward_gain", "backward_gain")}


@pytest.fixture(scope="session")
def squares() -> Callable[..., Squares]:
    """Measure networks: (site, quantity) -> squared gains of shape (s,). The same question is measured once."""
    known: dict[Any, Squares] = {}

    def measure(spec: Spec, seeds: int, *, quantities: Any = GAINS, **probing: Any) -> Squares:
        key = spec.to_json(), seeds, tuple(quantities), tuple(sorted(probing.items()))
        if key not in known:
            cell = Cell(spec=spec, factors={}, quantities=dict(quantities), **probing)
            rows = run([cell], range(seeds)).rows
            found = rows.group_by("site", "quantity").agg("value").iter_rows()
            known[key] = {(site, quantity): np.square(values) for site, quantity, values in found}
        return known[key]

    return measure


@dataclass(frozen=True)
class Compared:
    """One number of a prediction beside its measurement."""

    site: str
    what: str
    predicted: float
    measured: float
    error: float

    @property
    def z(self) -> float:
        """Standard errors that the measurement is above the prediction."""
        return (self.measured - self.predicted) / self.error

    @property
    def power(self) -> float:
        """Standard errors that 5 % of the square are (of a logarithm: 0.05, of a variance: 5 % of it)."""
        size = 1.0 if self.what == "log_mean" else self.measured
        return 0.05 * size / self.error if size else math.inf


@pytest.fixture(scope="session")
def compare() -> Callable[..., list[Compared]]:
    """Compare a prediction with measured squares, site by site."""

    def compared(prediction: Prediction, measured: Squares) -> list[Compared]:
        assert prediction.holds, prediction.refusal
        return [each for row in prediction.table.iter_rows(named=True) for each in _of_row(row, measured)]

    return compared


def _of_row(row: dict[str, Any], measured: Squares) -> Iterator[Compared]:
    values = measured[row["site"], row["quantity"]]
    root = math.sqrt(values.size)
    if np.ptp(values) == 0.0:  # the cotangent itself, or where no gradient comes: right but for rounding
        yield Compared(row["site"], "square", row["square_mean"], values[0], 1e-12 * values[0] + 1e-300)
        return
    yield Compared(row["site"], "square", row["square_mean"], values.mean(), values.std() / root)
    if row["log_mean"] is not None:
        logs = np.log(values[values > 0])
        deviations = (logs - logs.mean()) ** 2
        yield Compared(row["site"], "log_mean", row["log_mean"], logs.mean(), logs.std() / root)
        yield Compared(row["site"], "variance", row["log_variance"], deviations.mean(), deviations.std() / root)


@pytest.fixture(scope="session")
def off() -> Callable[[Prediction, float], Prediction]:
    """A prediction whose squares (and, in logarithms, means and variances) are `factor` times as large."""

    def wrong(prediction: Prediction, factor: float) -> Prediction:
        table = prediction.table.with_columns(
            pl.col("square_mean") * factor, pl.col("log_mean") + math.log(factor), pl.col("log_variance") * factor
        )
        return Prediction(**{**vars(prediction), "table": table})

    return wrong
