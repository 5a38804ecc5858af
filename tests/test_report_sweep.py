"""The section on study sweep: what it says follows the readings, and says the opposite when they do."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from skipscope import Readings, charts, report, studies, trends
from skipscope.report import Claim, Claims, Figure, Findings, Section, Table
from skipscope.summary import summarise
from skipscope.words import number, percent


def claim_of(section: Section, words: str) -> Claim:
    (found,) = (c for block in section.blocks if isinstance(block, Claims) for c in block.claims if words in c.claim)
    return found


@pytest.fixture(scope="module")
def sweep() -> Readings:
    return studies.sweep(depths=(4, 10, 20), designs=("plain", "residual", "matched"), width=12, seeds=range(100))


@pytest.fixture(scope="module")
def section(sweep: Readings) -> Section:
    return report.sweep_section(sweep)


def growing(readings: Readings, quantity: str, design: str, factor: float) -> Readings:
    """The readings with so much more growth for every unit of depth."""
    depth = readings.rows.join(readings.cells.select("cell", "design", "depth"), on="cell", maintain_order="left")
    match = (pl.col("quantity") == quantity) & (pl.col("design") == design)
    value = pl.when(match).then(pl.col("value") * factor ** pl.col("depth")).otherwise(pl.col("value"))
    rows = depth.with_columns(value=value).drop("design", "depth")
    return Readings(rows, readings.cells, readings.sites, readings.meta)


def test_a_sweep_has_its_own_section(sweep: Readings, tmp_path: Path):
    (section,) = report.sections_of(sweep)
    assert section.anchor == "sweep"
    page = report.write(tmp_path / "page.html", [section], title="t", command="c").read_text(encoding="utf-8")
    assert '<section id="sweep">' in page
    figures = [block.name for block in section.blocks if isinstance(block, Figure)]
    assert len(figures) == 5
    assert figures[-2:] == [
        "Factor a block on the norm, fitted over depths",
        "Draws that contradict the notebook's conclusion from one",
    ]


def test_its_findings_are_those_of_trends(sweep: Readings, section: Section):
    (block,) = (block for block in section.blocks if isinstance(block, Findings))
    assert [f.statement for f in block.findings] == [f.statement for f in trends.findings(sweep)]


def test_the_answer_has_the_verdicts_and_the_shares(sweep: Readings, section: Section):
    shares = trends.contradictions(sweep)["contradicts"]
    assert "explodes in the residual and matched networks" in section.answer
    between = f"{percent(float(str(shares.min())))} to {percent(float(str(shares.max())))}"
    assert f"Of single draws {between}, depending on the depth, contradict" in section.answer
    calm = growing(sweep, "backward_gain", "residual", 0.3)
    assert "explodes in the matched networks" in report.sweep_section(calm).answer


def test_that_plain_networks_vanish_is_said_where_they_do(sweep: Readings, section: Section):
    words = "the gradient vanishes with depth"
    assert claim_of(section, words).holds == "wrong"
    assert "what depth adds is spread" in claim_of(section, words).measured
    gone = claim_of(report.sweep_section(growing(sweep, "backward_gain", "plain", 0.5)), words)
    assert gone.holds == "right"
    assert "what depth adds is spread" not in gone.measured


def test_that_shortcuts_pass_all_unchanged_is_said_where_they_do(sweep: Readings, section: Section):
    words = "With shortcuts signal and gradient pass unchanged."
    assert claim_of(section, words).holds == "wrong"
    assert "explodes in the residual and matched networks" in claim_of(section, words).measured
    scaled = studies.sweep(
        depths=(4, 20), designs=("residual",), order="pre-activation", branch_gain="1/L", width=24, seeds=range(60)
    )
    calm = claim_of(report.sweep_section(scaled), words)
    assert calm.holds == "right"
    assert "explodes" not in calm.measured


def test_the_notebooks_conclusion_is_judged_by_draws(sweep: Readings, section: Section):
    assert claim_of(section, "(residual against plain)").holds == "wrong"
    match = (pl.col("quantity") == "weight_grad_first_last") & pl.col("cell").str.starts_with("plain")
    for factor, holds in ((1e9, "right"), (1e-9, "wrong")):
        value = pl.when(match).then(pl.col("value") * factor).otherwise(pl.col("value"))
        many = Readings(sweep.rows.with_columns(value=value), sweep.cells, sweep.sites, sweep.meta)
        assert claim_of(report.sweep_section(many), "(residual against plain)").holds == holds


def test_the_ends_of_every_line_are_told(sweep: Readings, section: Section):
    told = "\n".join(text for block in section.blocks if isinstance(block, report.Prose) for text in block.paragraphs)
    table = charts.scaling_data(summarise(sweep), "backward_gain").filter(pl.col("design") == "residual")
    ends = f"from {number(table['q50'][0])} at depth 4 to {number(table['q50'][-1])} at depth 20"
    assert f"{ends} in the residual networks" in told


def test_one_depth_and_one_design_are_reported_without_a_trend():
    one = studies.sweep(depths=(6,), designs=("residual",), width=8, seeds=range(20))
    section = report.sweep_section(one)
    assert "no trend can be fitted" in section.answer
    assert len([block for block in section.blocks if isinstance(block, Figure)]) == 3


def test_where_there_is_no_law_the_reason_is_told():
    normed = studies.sweep(depths=(4, 8), designs=("residual",), norm="layer", width=8, seeds=range(20))
    section = report.sweep_section(normed)
    (table,) = (b for b in section.blocks if isinstance(b, Table) and "no law" in b.caption)
    assert table.table["why not"].str.contains("layer norm").all()
    assert table.table["d"].to_list() == ["4, 8", "4, 8"]


def test_a_selection_without_gains_is_still_reported(sweep: Readings):
    (section,) = report.sections_of(sweep.select(quantity=["parameters"]))
    assert section.anchor == "readings-sweep"
