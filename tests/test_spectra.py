"""Findings on Jacobians: positive controls that must be found, negative ones that must not, and too few draws."""

from __future__ import annotations

import polars as pl
import pytest

from skipscope import InputError, Readings, spectra, studies
from skipscope.diagnosis import Finding
from skipscope.spectra import findings, law_data


@pytest.fixture(scope="module")
def readings() -> Readings:
    designs = ("plain", "residual", "residual, pre-activation", "residual, 1/L")
    return studies.jacobian(depths=(4, 12), width=10, designs=designs, seeds=range(40))


def verdicts(readings: Readings, **part: str) -> dict[tuple[str, str], Finding]:
    designs = dict(readings.cells.select("cell", "design").iter_rows())
    return {(designs[found.cell], found.rule): found for found in findings(readings, **part)}  # type: ignore[arg-type]


def scaled(readings: Readings, quantity: str, factor: float) -> Readings:
    value = pl.when(pl.col("quantity") == quantity).then(pl.col("value") * factor).otherwise(pl.col("value"))
    return Readings(readings.rows.with_columns(value=value), readings.cells, readings.sites, readings.meta)


def test_a_residual_network_explodes_and_a_plain_one_forgets(readings: Readings):
    found = {key: finding.verdict for key, finding in verdicts(readings).items()}
    assert found["residual", "largest singular value"] == "exploding"
    assert found["plain", "largest singular value"] == "healthy"
    assert found["plain", "directions"] == "directions lost"
    assert found["residual, 1/L", "directions"] == "healthy"
    assert found["residual, 1/L", "block against the identity"] == "near the identity"
    assert found["residual", "block against the identity"] == "far from the identity"
    assert ("plain", "block against the identity") not in found
    assert ("residual", "law of the mean square") not in found  # its branch has a mean: there is no law


@pytest.mark.parametrize(("factor", "verdict"), [(1e-4, "vanishing"), (1e4, "exploding")])
def test_the_largest_singular_value_is_judged_on_both_sides(readings: Readings, factor: float, verdict: str):
    found = verdicts(scaled(readings, "jacobian_sigma_max", factor))
    assert found["plain", "largest singular value"].verdict == verdict


def test_few_draws_cannot_tell(readings: Readings):
    few = findings(readings.select(seed=list(range(19))))
    assert {finding.verdict for finding in few} == {"cannot tell"}
    assert len(few) == len(findings(readings))
    assert "A verdict needs 20 draws." in few[0].statement


def test_every_finding_has_its_evidence_threshold_and_source(readings: Readings):
    for finding in findings(readings):
        assert finding.evidence.height > 0
        assert finding.threshold
        assert finding.source
        assert "at depth 12" in finding.statement or finding.rule == "law of the mean square"


def test_the_network_is_judged_where_it_is_asked_for(readings: Readings):
    found = verdicts(readings, part="network")
    assert found["residual, 1/L", "directions"].verdict == "directions lost"  # a ReLU layer at an end takes half away
    body = readings.select(cell=readings.cells.filter(pl.col("part") == "body")["cell"].to_list())
    with pytest.raises(InputError, match="part 'network' was not measured"):
        findings(body, part="network")


@pytest.fixture(scope="module")
def shallow() -> Readings:
    return studies.jacobian(
        depths=(4, 6), width=12, designs=("plain",), parts=("body",), blocks=False, seeds=range(6000)
    )


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, "law holds"), (0.95, "law does not hold"), (1.05, "law does not hold")]
)
def test_the_law_holds_and_one_that_is_5_percent_off_does_not(shallow: Readings, factor: float, verdict: str):
    # Behind two ReLU layers of width 12 |J|^2/n has a standard deviation of 0.55 over draws: of 6000 the standard error
    # is 0.7 %, and the limit of two looks, 2.8 of them, 2 %.
    (found,) = (f for f in findings(scaled(shallow, "jacobian_mean_square", factor)) if f.rule.startswith("law"))
    assert found.verdict == verdict


def test_a_mean_that_few_draws_carry_is_not_judged(shallow: Readings):
    heavy = pl.when(pl.col("quantity") == "jacobian_mean_square", pl.col("seed") == 3).then(1e9)
    rows = shallow.rows.with_columns(value=heavy.otherwise(pl.col("value")))
    readings = Readings(rows, shallow.cells, shallow.sites, shallow.meta)
    assert law_data(readings)["z"].null_count() == 2
    (found,) = (f for f in findings(readings) if f.rule.startswith("law"))
    assert found.verdict == "cannot tell"
    assert "too few carry the mean" in found.statement


def test_law_data_is_the_mean_and_its_error(shallow: Readings):
    for row in law_data(shallow).to_dicts():
        own = shallow.rows.filter(cell=row["cell"], quantity="jacobian_mean_square")["value"].to_numpy()
        assert row["mean"] == pytest.approx(own.mean())
        assert row["error"] == pytest.approx(own.std(ddof=1) / len(own) ** 0.5)
        assert row["law"] == 1.0
    assert spectra.NEAR == 0.5
