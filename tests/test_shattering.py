"""Findings on the correlation of gradients: controls in either direction, too few draws, and laws that are off."""

from __future__ import annotations

import polars as pl
import pytest

from skipscope import Readings, studies
from skipscope.diagnosis import Finding
from skipscope.shattering import KEPT, findings


@pytest.fixture(scope="module")
def readings() -> Readings:
    designs = ("plain", "residual, pre-activation", "residual, 1/sqrt(L)")
    return studies.correlation(depths=(5, 30), width=30, designs=designs, seeds=range(300))


def verdicts(readings: Readings) -> dict[tuple[str, str], Finding]:
    designs = dict(readings.cells.select("cell", "design").iter_rows())
    return {(designs[found.cell], found.rule): found for found in findings(readings)}


def changed(readings: Readings, change: pl.Expr, cells: str = "") -> Readings:
    match = (pl.col("quantity") == "gradient_cosine") & pl.col("cell").str.starts_with(cells)
    value = pl.when(match).then(change).otherwise(pl.col("value"))
    return Readings(readings.rows.with_columns(value=value), readings.cells, readings.sites, readings.meta)


def test_a_scaled_branch_keeps_what_others_lose(readings: Readings):
    found = {key: finding.verdict for key, finding in verdicts(readings).items()}
    assert found["residual, 1/sqrt(L)", "correlation over depth"] == "kept"
    assert found["residual, 1/sqrt(L)", "law of infinite width"] == "law holds"
    assert found["plain", "a half a layer"] == "law does not hold"
    lost = verdicts(changed(readings, pl.col("value") * 0.01, "residual, 1/sqrt(L)-30"))
    assert lost["residual, 1/sqrt(L)", "correlation over depth"].verdict == "shattered"
    assert lost["residual, 1/sqrt(L)", "law of infinite width"].verdict == "law does not hold"


def test_the_difference_is_taken_seed_by_seed(readings: Readings):
    """Deep networks of exactly so much more than KEPT of the shallow ones' are kept, whatever the spread over draws."""
    shallow = readings.rows.filter(pl.col("cell").str.starts_with("plain-5-"), quantity="gradient_cosine")
    own = shallow.select("seed", "site", first="value")
    for factor, verdict in ((KEPT + 0.01, "kept"), (KEPT - 0.01, "shattered")):
        rows = readings.rows.join(own, on=["seed", "site"], how="left", maintain_order="left")
        match = (pl.col("quantity") == "gradient_cosine") & pl.col("cell").str.starts_with("plain-30-")
        rows = rows.with_columns(value=pl.when(match).then(factor * pl.col("first")).otherwise(pl.col("value")))
        doctored = Readings(rows.drop("first"), readings.cells, readings.sites, readings.meta)
        assert verdicts(doctored)["plain", "correlation over depth"].verdict == verdict


def test_nothing_can_be_lost_where_there_was_nothing(readings: Readings):
    alternating = pl.when(pl.col("seed") % 2 == 0).then(0.1).otherwise(-0.1)
    found = verdicts(changed(readings, alternating, "plain"))["plain", "correlation over depth"]
    assert found.verdict == "cannot tell"
    assert "none that could be lost" in found.statement


def test_a_half_a_layer_is_not_said_of_what_may_be_nothing(readings: Readings):
    """2^-29 is met by a correlation of 0; that the shallow networks are not is what tells."""
    tiny = pl.when(pl.col("seed") % 2 == 0).then(0.1 + 0.5**4).otherwise(-0.1 + 0.5**4)
    nothing = pl.when(pl.col("seed") % 2 == 0).then(0.1).otherwise(-0.1)
    met = changed(changed(readings, tiny, "plain-5-"), nothing, "plain-30-")
    assert verdicts(met)["plain", "a half a layer"].verdict == "law holds"
    deep = readings.select(cell=readings.cells.filter(pl.col("depth") == 30)["cell"].to_list())
    assert verdicts(changed(deep, nothing, "plain"))["plain", "a half a layer"].verdict == "cannot tell"


def test_a_law_that_is_5_percent_off_is_found():
    # One cosine has a standard deviation of 0.24 about its mean, 0.34: of 6,000 draws the standard error is 0.9 % of
    # the mean, the limit of two looks 2.6 %, and what the law of infinite width leaves out at 32 is about 1 %.
    readings = studies.correlation(depths=(5, 8), width=32, designs=("residual, 1/sqrt(L)",), seeds=range(6000))
    rule = ("residual, 1/sqrt(L)", "law of infinite width")
    assert verdicts(readings)[rule].verdict == "law holds"
    for factor in (0.95, 1.05):
        off = changed(readings, pl.col("value") * factor)
        assert verdicts(off)[rule].verdict == "law does not hold"


def test_few_draws_cannot_tell(readings: Readings):
    few = findings(readings.select(seed=list(range(19))))
    assert {finding.verdict for finding in few} == {"cannot tell"}
    assert all(finding.threshold and finding.source and finding.evidence.height for finding in few)
