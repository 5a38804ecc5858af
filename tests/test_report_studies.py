"""The sections on highway, jacobian and correlation: every verdict and number comes from the readings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from skipscope import Readings, charts, paths, report, studies
from skipscope.report import Claim, Claims, Figure, Findings, Section
from skipscope.words import number


def claims_of(section: Section) -> dict[str, Claim]:
    (block,) = (block for block in section.blocks if isinstance(block, Claims))
    return {claim.claim: claim for claim in block.claims}


def with_values(readings: Readings, quantity: str, factor: float, cells: str = "") -> Readings:
    """The readings with all values of a quantity multiplied, in the cells whose names begin so."""
    value = (
        pl.when(pl.col("quantity") == quantity, pl.col("cell").str.starts_with(cells))
        .then(pl.col("value") * factor)
        .otherwise(pl.col("value"))
    )
    return Readings(
        rows=readings.rows.with_columns(value=value), cells=readings.cells, sites=readings.sites, meta=readings.meta
    )


def highway(order: Any, gain: Any) -> Readings:
    return studies.highway(depth=8, width=24, orders=[order], gains=[gain], seeds=range(60))


@pytest.fixture(scope="module")
def wide() -> Readings:
    return highway("after-add", 1.0)  # two thirds come through the branch, by the law at a junction


@pytest.fixture(scope="module")
def narrow() -> Readings:
    return highway("pre-activation", "1/L")


@pytest.fixture(scope="module")
def jacobian() -> Readings:
    return studies.jacobian(depths=(4, 12), width=10, designs=("plain", "residual", "residual, 1/L"), seeds=range(24))


@pytest.fixture(scope="module")
def correlation() -> Readings:
    # At 150 seeds and width 30 the standard error is about 0.02, and 2^-4 = 0.06 behind four layers, the law 0.14.
    designs = ("plain", "residual, pre-activation", "residual, 1/sqrt(L)")
    return studies.correlation(depths=(5, 30), width=30, designs=designs, seeds=range(150))


# ---------------------------------------------------------------------------------------------------------- highway


def test_highway_claims_turn_with_the_readings(wide: Readings, narrow: Readings):
    share, short = (
        "At a junction the gradient comes through the shortcut.",
        ("In a residual network short paths carry the gradient."),
    )
    one, other = (claims_of(report.highway_section(each)) for each in (wide, narrow))
    assert (one[share].holds, one[short].holds) == ("wrong", "wrong")
    assert (other[share].holds, other[short].holds) == ("right", "right")


def test_the_law_claim_is_the_pooled_verdict(narrow: Readings):
    section = report.highway_section(narrow)
    (pooled,) = (f for f in paths.judge(narrow) if f.rule == "path lengths by energy, all draws")
    expected = {"law holds": "right", "law does not hold": "wrong", "cannot tell": "unknown"}[str(pooled.verdict)]
    assert claims_of(section)["Path lengths are binomial."].holds == expected
    (findings,) = (block for block in section.blocks if isinstance(block, Findings))
    assert sorted(f.statement for f in findings.findings) == sorted(f.statement for f in paths.judge(narrow))


def test_the_answer_has_the_mean_of_the_median_draw(wide: Readings):
    row = paths.misfit_data(wide).filter(pl.col("estimate") == "typical").row(0, named=True)
    assert f"{row['mean']:.2f} of 8 branches with gain 1" in report.highway_section(wide).answer


# --------------------------------------------------------------------------------------------------------- jacobian


def test_jacobian_claims_turn_with_the_readings(jacobian: Readings):
    claims = claims_of(report.jacobian_section(jacobian))
    fade = "In a deep plain network all directions fade."
    near, isometry = "The + I makes every block nearly the identity.", "Shortcuts keep all singular values near one."
    assert (claims[near].holds, claims[isometry].holds) == ("depends", "depends")
    assert 'Within a factor of 10 of one they stay in "residual, 1/L".' in claims[isometry].measured
    for factor, holds in ((1e-3, "right"), (1e3, "wrong")):
        scaled = with_values(jacobian, "jacobian_sigma_max", factor)
        assert claims_of(report.jacobian_section(scaled))[fade].holds == holds
    small = with_values(jacobian, "block_jacobian_minus_identity", 1e-3)
    assert claims_of(report.jacobian_section(small))[near].holds == "right"
    scaled = jacobian.select(design=["residual, 1/L"])
    only = claims_of(report.jacobian_section(scaled))
    assert (only[near].holds, only[isometry].holds) == ("right", "right")
    assert fade not in only


def test_both_parts_are_drawn(jacobian: Readings):
    figures = [block.name for block in report.jacobian_section(jacobian).blocks if isinstance(block, Figure)]
    assert figures == ["Singular values of the body, by depth", "Singular values of the network, by depth"]


def test_without_blocks_nothing_is_said_of_them():
    readings = studies.jacobian(
        depths=(3,), width=6, designs=["residual"], blocks=False, parts=["network"], seeds=range(24)
    )
    assert "The + I makes every block nearly the identity." not in claims_of(report.jacobian_section(readings))


# ------------------------------------------------------------------------------------------------------ correlation


def test_correlation_claims_name_the_designs(correlation: Readings):
    lost = with_values(correlation, "gradient_cosine", 1e-9, cells="residual, pre-activation-30")
    claims = claims_of(report.correlation_section(lost))
    skip = claims["Skip connections prevent shattering."]
    assert skip.holds == "depends"
    assert 'It is kept in "residual, 1/sqrt(L)"' in skip.measured
    assert 'It is lost in "residual, pre-activation"' in skip.measured
    scaled = claims_of(report.correlation_section(correlation.select(design=["residual, 1/sqrt(L)"])))
    assert scaled["Skip connections prevent shattering."].holds == "right"


def test_a_half_a_layer_is_judged_against_what_was_measured(correlation: Readings):
    claim = 'In the network "plain" gradients shatter as a half a layer, 2^-L.'
    assert claims_of(report.correlation_section(correlation))[claim].holds == "wrong"
    none = with_values(correlation, "gradient_cosine", 1e-9)
    assert claims_of(report.correlation_section(none))[claim].holds == "wrong"  # 0 is not 2^-4 either
    few = studies.correlation(depths=(5, 30), width=30, designs=["plain"], seeds=range(4))
    assert claims_of(report.correlation_section(few))[claim].holds == "unknown"


def test_the_answer_has_the_deepest_correlations(correlation: Readings):
    table = charts.correlation_data(correlation)
    answer = report.correlation_section(correlation).answer
    for row in table.filter(pl.col("depth") == 30).to_dicts():
        assert row["design"] in answer
        assert f"(to {number(row['correlation'], 2)})" in answer
    assert "from depth 5 to 30" in answer


# -------------------------------------------------------------------------------------------------------- the page


def test_readings_of_the_studies_get_their_sections(
    wide: Readings, jacobian: Readings, correlation: Readings, tmp_path: Path
):
    sections = report.sections_of(Readings.concat([correlation, wide, jacobian]))
    assert [section.anchor for section in sections] == ["highway", "jacobian", "correlation"]
    page = report.write(tmp_path / "page.html", sections, title="t", command="c").read_text()
    assert all(f'<section id="{section.anchor}">' in page for section in sections)
    assert "law holds" in page
    assert "as a half a layer, 2<sup>\u2212L</sup>." in page


@pytest.mark.parametrize(("study", "lost"), [("highway", "path_weight"), ("correlation", "gradient_cosine")])
def test_a_selection_without_the_main_quantity_is_still_reported(
    study: str, lost: str, wide: Readings, correlation: Readings
):
    readings = {"highway": wide, "correlation": correlation}[study]
    rest = readings.select(quantity=[q for q in readings.rows["quantity"].unique().to_list() if q != lost])
    (section,) = report.sections_of(rest)
    assert section.anchor == f"readings-{study}"
