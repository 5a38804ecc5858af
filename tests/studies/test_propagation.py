"""Study `propagation`, what its readings say, its charts and its section."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from skipscope import InputError, Readings, Spec, build, charts, probe, propagation, report, studies
from skipscope.report import Claim, Claims, Figure, Section
from skipscope.summary import summarise
from skipscope.words import number

SMALL: dict[str, Any] = {"width": 8, "size": 8, "batch": 8, "dtype": "float64"}


@pytest.fixture(scope="module")
def readings() -> Readings:
    designs = ("plain, batch norm", "option A, batch norm", "pre-activation, batch norm", "plain", "option A")
    return studies.propagation(depths=(8, 32), designs=designs, seeds=range(20), **SMALL)


@pytest.fixture(scope="module")
def ends(readings: Readings) -> pl.DataFrame:
    return propagation.ends(readings)


def changed(readings: Readings, quantity: str, design: str, factor: float) -> Readings:
    """The readings with so many times the growth a block of a design, at every depth."""
    cells = readings.cells.filter(design=design)["cell"].to_list()
    hit = (pl.col("quantity") == quantity) & pl.col("cell").is_in(cells)
    rows = readings.rows.with_columns(value=pl.when(hit).then(pl.col("value") * factor).otherwise(pl.col("value")))
    return Readings(rows, readings.cells, readings.sites, readings.meta)


# ------------------------------------------------------------------------------------------------------- the study


def test_it_is_the_probe_of_the_papers_networks(readings: Readings):
    spec = Spec.cifar(32, width=8, size=8, dtype="float64", shortcut="none")
    alone = probe(build(spec, seed=[3]), 8)
    (cell,) = readings.cells.filter(design="plain, batch norm", depth=32)["cell"]
    both = readings.rows.filter(cell=cell, seed=3).join(alone.rows, on=["site", "quantity"], suffix="_alone")
    assert both.height > 200
    assert both["value"].to_list() == both["value_alone"].to_list()


@pytest.mark.parametrize("name", studies.PROPAGATION_DESIGNS)
def test_a_design_is_what_its_name_says(name: str):
    found = studies.propagation(depths=8, designs=[name], seeds=[0], width=2, size=4, batch=2)
    (stage, *_) = Spec.from_json(found.cells["spec"][0]).stages

    assert (stage.norm == "batch") == name.endswith("batch norm")
    assert stage.plain == name.startswith("plain")
    assert (stage.order == "pre-activation") == name.startswith("pre-activation")
    if name.startswith("option"):
        assert f"option {stage.shortcut}" in name


def test_work_in_a_folder_goes_on_and_gives_the_same(readings: Readings, tmp_path: Path):
    how: dict[str, Any] = {"depths": 8, "designs": ["plain"], "seeds": range(4), **SMALL}
    first = studies.propagation(folder=tmp_path / "kept", **how)
    assert studies.propagation(folder=tmp_path / "kept", **how).equals(first)
    assert studies.propagation(chunk=1, **how).equals(first)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"designs": ["plian"]}, "Did you mean"),
        ({"depths": 21}, "depth must be 6n"),
        ({"designs": []}, "designs is empty"),
        ({"norm": "none"}, "norm is what the designs differ in"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        studies.propagation(**{"seeds": [0], **given})


# --------------------------------------------------------------------------------------------------- what is said


def test_factors_are_those_from_end_to_end(readings: Readings, ends: pl.DataFrame):
    """A factor over the body is a ratio of the gains at its ends."""
    (cell,) = readings.cells.filter(design="option A", depth=32)["cell"]
    for of, quantity, begin, end in (
        ("signal", "forward_gain", "stem", "stage3.block5"),
        ("gradient", "backward_gain", "stage3.block5", "stem"),
    ):
        rows = readings.rows.filter(cell=cell, quantity=quantity)
        first, last = (rows.filter(site=site).sort("seed")["value"] for site in (begin, end))
        (row,) = ends.filter(cell=cell, of=of).to_dicts()
        assert row["q50"] == pytest.approx((last / first).median(), rel=0.02)  # of 20 draws the middle is between two
        assert row["layers"] == 30
        assert row["layer"] == pytest.approx(row["q50"] ** (2 / 30))


def test_the_law_stands_beside_what_it_is_about(ends: pl.DataFrame):
    held = ends.filter(pl.col("law").is_not_null())
    assert set(held["design"]) == {"plain, batch norm", "pre-activation, batch norm", "plain"}
    normed = held.filter(norm="batch", of="gradient", depth=32)
    for row in normed.iter_rows(named=True):
        assert row["layer"] == pytest.approx(row["law_layer"], rel=0.03)


def findings_of(readings: Readings, claim: str) -> dict[int, str]:
    """Verdicts on a claim of the paper, by depth."""
    depths = dict(readings.cells.select("cell", "depth").iter_rows())
    rule = propagation.CLAIMS[claim]
    return {depths[f.cell]: f.verdict for f in propagation.findings(readings) if f.rule == rule}


def test_in_plain_normalised_networks_nothing_vanishes_and_the_gradient_explodes(readings: Readings):
    assert findings_of(readings, "vanishing") == {8: "holds", 32: "holds"}
    assert findings_of(readings, "healthy") == {8: "holds", 32: "does not hold"}


def test_the_verdicts_follow_the_readings(readings: Readings):
    shrunk = changed(readings, "backward_growth", "plain, batch norm", 0.1)
    assert findings_of(shrunk, "vanishing") == {8: "does not hold", 32: "does not hold"}
    calm = changed(readings, "backward_growth", "plain, batch norm", 1 / 1.85)
    assert findings_of(calm, "healthy") == {8: "holds", 32: "holds"}
    few = readings.select(seed=[0, 1, 2])
    assert set(findings_of(few, "healthy").values()) == {"cannot tell"}


def test_of_few_draws_the_number_is_told_and_how_many_a_verdict_needs(readings: Readings):
    few = readings.select(seed=[0, 1, 2], design="plain, batch norm")
    factors = propagation.ends(few)
    for finding in propagation.findings(few):
        if finding.rule in propagation.CLAIMS.values():
            (factor,) = factors.filter(cell=finding.cell, of="gradient")["q50"]
            assert finding.verdict == "cannot tell"
            assert f"{number(factor)} (of 3 draws, and a verdict on the design needs 20)" in finding.statement
    (section,) = report.sections_of(few)
    assert "These are 3 draws; a verdict on a design needs 20." in section.answer
    assert "a verdict on a design needs" not in report.propagation_section(readings).answer


def test_networks_are_told_by_the_channels_of_their_first_stage(readings: Readings, tmp_path: Path):
    assert set(readings.cells["width"]) == {8}
    assert all("width 8" in finding.subject for finding in propagation.findings(readings))
    with pytest.raises(InputError, match="width 100000, "):
        studies.propagation(depths=20, width=100_000, seeds=[0])


def test_what_is_said_says_its_limits(readings: Readings):
    for finding in propagation.findings(readings):
        if finding.rule in propagation.CLAIMS.values():
            assert "at initialisation" in finding.statement
            assert "1512.03385" in finding.source
            assert finding.evidence.height >= 1


def test_readings_of_another_kind_are_refused():
    bare = studies.propagation(depths=8, designs=["plain"], seeds=[0], width=2, size=4, batch=2)
    with pytest.raises(InputError, match="no growth over a body"):
        propagation.ends(bare.select(quantity="activation_rms"))


# ------------------------------------------------------------------------------------------------- charts and page


def test_the_chart_by_layer_is_the_summary(readings: Readings):
    summary = summarise(readings)
    table = charts.propagation_by_layer_data(summary)
    assert list(dict.fromkeys(table["panel"])) == [
        "8 layers, batch norm", "32 layers, batch norm", "8 layers, no norm", "32 layers, no norm"
    ]  # fmt: skip
    part = table.filter(panel="32 layers, batch norm", label="plain")
    assert part["site"].to_list()[:2] == ["input", "stem"]
    assert part["share"].to_list()[-1] == 1
    assert part["law"].null_count() == 0
    (cell,) = readings.cells.filter(design="plain, batch norm", depth=32)["cell"]
    known = dict(summary.of("backward_gain").filter(cell=cell).select("site", "q50").iter_rows())
    assert dict(part.select("site", "q50").iter_rows()) == {site: known[site] for site in part["site"]}
    drawn = charts.propagation_by_layer(summary).to_dict()
    assert len(rows_of(drawn)) == table.height
    assert drawn["columns"] == 2


def test_weights_are_drawn_layer_by_layer(readings: Readings):
    table = charts.propagation_by_layer_data(summarise(readings), "weight_grad_norm")
    assert table.filter(panel="8 layers, no norm", label="plain").height == 8


def test_the_chart_of_the_body_is_its_table(readings: Readings, ends: pl.DataFrame):
    table = charts.body_factors_data(readings)
    assert sorted(table["q50"]) == sorted(ends["q50"])
    drawn = charts.body_factors(readings).to_dict()
    assert {row["panel"] for row in rows_of(drawn)} == set(table["panel"])
    assert "dashed" in drawn["title"]["subtitle"][0]


def rows_of(drawn: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that a chart draws."""
    (rows,) = drawn["datasets"].values()
    return list(rows)


def claim_of(section: Section, words: str) -> Claim:
    (found,) = (c for block in section.blocks if isinstance(block, Claims) for c in block.claims if words in c.claim)
    return found


def test_the_section_says_what_was_found_and_the_opposite_where_it_was(readings: Readings):
    (section,) = report.sections_of(readings)
    assert section.anchor == "propagation"
    assert "nothing vanishes in plain networks with batch normalisation, as the paper says" in section.answer
    assert claim_of(section, "neither signal nor gradient vanishes").holds == "right"
    assert claim_of(section, "healthy norms").holds == "depends"
    assert claim_of(section, "shortcuts keep the gradient's norm").holds == "depends"  # not yet over 6 layers
    deep = report.propagation_section(readings.select(depth=32))
    assert claim_of(deep, "shortcuts keep the gradient's norm").holds == "right"

    shrunk = report.propagation_section(changed(readings, "backward_growth", "plain, batch norm", 0.1))
    assert "against what the paper says" in shrunk.answer
    assert claim_of(shrunk, "neither signal nor gradient vanishes").holds == "wrong"
    grown = report.propagation_section(changed(readings, "backward_growth", "option A, batch norm", 9.0))
    assert claim_of(grown, "shortcuts keep the gradient's norm").holds == "wrong"


def test_the_page_has_its_charts_its_limits_and_why_there_is_no_law(readings: Readings, tmp_path: Path):
    (section,) = report.sections_of(readings)
    assert len([block for block in section.blocks if isinstance(block, Figure)]) == 4
    page = report.write(tmp_path / "p.html", [section], title="t", command="c").read_text(encoding="utf-8")
    assert "What this does not show" in page
    assert "The order is after-add" in page
