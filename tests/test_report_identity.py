"""The charts and the section on study identity: what is drawn is what the tables say, and the prose turns with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import pytest

from skipscope import InputError, Readings, charts, identity, report, studies
from skipscope.report import Claim, Claims, Figure, Section
from skipscope.words import number


def rows_of(chart: alt.FacetChart) -> list[dict[str, Any]]:
    (rows,) = chart.to_dict()["datasets"].values()
    found: list[dict[str, Any]] = rows
    return found


def claims_of(section: Section) -> dict[str, Claim]:
    (block,) = (block for block in section.blocks if isinstance(block, Claims))
    return {claim.claim: claim for claim in block.claims}


def with_values(readings: Readings, quantity: str, design: str, value: float) -> Readings:
    """The readings with all values of a quantity of one design replaced."""
    cells = readings.cells.filter(design=design)["cell"].implode()
    here = (pl.col("quantity") == quantity) & pl.col("cell").is_in(cells)
    rows = readings.rows.with_columns(value=pl.when(here).then(value).otherwise(pl.col("value")))
    return Readings(rows, readings.cells, readings.sites, readings.meta)


@pytest.fixture(scope="module")
def readings() -> Readings:
    return studies.identity(
        scales=(1, 0.1, 0.001),
        depths=(4, 6),
        designs=("plain", "residual"),
        rates=(0.1, 0.01),
        steps=20,
        batch=16,
        seeds=range(6),
    )


def test_the_picture_draws_every_unit(readings: Readings):
    table = identity.unit_data(readings, seed=1)
    known = {(row["scale"], row["unit"]): row for row in table.iter_rows(named=True)}
    drawn = rows_of(charts.block_units(readings, seed=1))
    assert len(drawn) == 2 * len(known) == 2 * 3 * 36
    for row in drawn:
        unit = known[float(row["panel"].removeprefix("weights × ")), row["unit"]]
        assert row["input"] == pytest.approx(unit["input"], rel=1e-5)
        expected = unit["output" if row["name"] == "output y" else "branch"]
        assert row["value"] == pytest.approx(expected, rel=1e-5)
    assert charts.block_units(readings).to_dict()["facet"]["sort"] == [
        "weights × 1",
        "weights × 0.1",
        "weights × 0.001",
    ]


def test_the_law_is_drawn_with_the_medians(readings: Readings):
    table = identity.block_data(readings)
    drawn = rows_of(charts.block_scales(readings))
    assert len(drawn) == table.height == 6
    for row, expected in zip(drawn, table.iter_rows(named=True), strict=True):
        for name in ("scale", "least", "q50", "most", "law"):
            assert row[name] == pytest.approx(expected[name], rel=1e-5)
    assert "c²" in str(charts.block_scales(readings).to_dict()["title"])


def test_errors_are_drawn_but_what_is_lost(readings: Readings):
    table = identity.error_data(readings)
    drawn = {(row["design"], row["depth"]): row for row in rows_of(charts.stack_errors(readings))}
    assert len(drawn) == table.height == 4
    for expected in table.iter_rows(named=True):
        row = drawn[expected["design"], expected["depth"]]
        for name in ("q50", "low", "high"):
            assert row[name] == pytest.approx(expected[name], rel=1e-5)
    lost = with_values(readings, "test_loss", "residual", math.inf)
    chart = charts.stack_errors(lost).to_dict()
    assert [row["q50"] for row in rows_of(charts.stack_errors(lost)) if row["design"] == "residual"] == [None, None]
    assert "residual at 4 layers, residual at 6 layers" in str(chart["title"])
    assert "lost at 4" in chart["description"]


def test_the_section_has_the_three_charts(readings: Readings):
    section = report.identity_section(readings)
    names = [block.name for block in section.blocks if isinstance(block, Figure)]
    assert names == [
        "Output and branch of every unit, against its input",
        "Distance from the identity, by the scale of the weights",
        "Held-out error by depth",
    ]


EASIER = 'In the stack "residual" the identity is easier to learn than in a plain one, since F = 0 is enough.'
DEEPER = "With shortcuts a deeper stack is no worse at the identity."
NEAR = "To represent the identity, training drives the branches to 0."
PLAIN = "A deeper plain stack is worse at the identity, although it could be as good."


def test_claims_turn_with_the_readings(readings: Readings):
    better = with_values(with_values(readings, "test_loss", "plain", 0.9), "test_loss", "residual", 0.3)
    worse = with_values(with_values(readings, "test_loss", "plain", 0.3), "test_loss", "residual", 0.9)
    assert claims_of(report.identity_section(better))[EASIER].holds == "right"
    assert claims_of(report.identity_section(worse))[EASIER].holds == "wrong"
    assert "0.33 of the plain stack's at 4" in claims_of(report.identity_section(better))[EASIER].measured
    for section in (report.identity_section(better), report.identity_section(worse)):
        assert (claims_of(section)[DEEPER].holds, claims_of(section)[PLAIN].holds) == ("right", "wrong")
    for ratio, holds in ((0.01, "right"), (0.7, "wrong")):
        scaled = with_values(readings, "branch_ratio", "residual", ratio)
        assert claims_of(report.identity_section(scaled))[NEAR].holds == holds


def test_the_answer_names_designs_and_depths(readings: Readings):
    better = with_values(with_values(readings, "test_loss", "plain", 0.9), "test_loss", "residual", 0.3)
    assert (
        "a residual stack is better at it than the plain one of its depth: residual at 4 and 6 layers."
        in report.identity_section(better).answer
    )
    lost = report.identity_section(with_values(readings, "test_loss", "residual", math.inf))
    assert "It is not: residual at 4 and 6 layers." in lost.answer
    assert "lost at 4" in claims_of(lost)[EASIER].measured
    figure = next(b for b in lost.blocks if isinstance(b, Figure) and b.name == "Held-out error by depth")
    assert (
        'Not drawn, since most of its stacks were lost at every learning rate: "residual" at 4 layers' in figure.caption
    )


def test_a_broken_law_is_said(readings: Readings):
    assert "follows from an exact law" in report.identity_section(readings).answer
    broken = with_values(readings, "branch_ratio", "residual", 0.5)  # the same at every scale
    assert "does not follow the law" in report.identity_section(broken).answer


def test_a_part_alone_is_reported(readings: Readings):
    for part, figures in (("block", 2), ("stack", 1)):
        section = report.identity_section(readings.select(part=part))
        assert sum(isinstance(block, Figure) for block in section.blocks) == figures


def test_the_page_has_the_section(readings: Readings, tmp_path: Path):
    sections = report.sections_of(readings)
    assert [section.anchor for section in sections] == ["identity"]
    page = report.write(tmp_path / "page.html", sections, title="t", command="c").read_text()
    row = identity.paired_data(readings).row(0, named=True)
    assert number(row["ratio"], 2) in page
    rest = readings.select(quantity=["train_loss"], part="stack")
    (section,) = report.sections_of(rest)
    assert section.anchor in ("identity", "readings-identity")


def test_several_widths_are_refused(readings: Readings):
    wider = studies.identity(
        scales=(), depths=(4,), width=40, designs=["plain"], rates=(0.1,), steps=20, batch=16, seeds=range(2)
    )
    with pytest.raises(InputError, match=r"these stacks differ in width \(36, 40\)"):
        charts.stack_errors(readings + wider)
