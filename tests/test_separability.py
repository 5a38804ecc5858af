"""What is said of readings of study `representation`: tables, findings, charts and the section."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from skipscope import InputError, Readings, charts, report, studies
from skipscope.diagnosis import Finding
from skipscope.report import Claim, Claims, Figure, Prose, Section
from skipscope.separability import (
    MARGIN,
    Pictures,
    depth_data,
    end_of_body,
    findings,
    pairs_data,
    points,
    settings_of,
)
from skipscope.training import Recipe

GROWS = "accuracy grows over depth, from the input"
FROM_STEM = "accuracy grows over depth, from the first layer"
TRAINING = "training makes classes more separable"
UNTRAINED = "an untrained network keeps what the input tells"
SHORTCUTS = "shortcuts make classes more separable"
LAST = "stage1.block2"
SEEDS = 6


@pytest.fixture(scope="module")
def measured() -> Readings:
    return studies.representation(data="patterns", depth=2, width=6, recipe=Recipe(steps=2), seeds=range(SEEDS))


@pytest.fixture(scope="module")
def made(measured: Readings) -> Callable[..., Readings]:
    """Readings whose accuracy at (design, state, site) is a number, plus a spread that differs from seed to seed."""

    def make(accuracies: Mapping[tuple[str, str, str], float], spread: float = 0.0) -> Readings:
        rows = measured.rows.join(measured.cells.select("cell", "design", "state"), on="cell", maintain_order="left")
        known = [dict(zip(("design", "state", "site"), key, strict=True)) for key in accuracies]
        value = pl.lit(0.5)
        for fields, accuracy in zip(known, accuracies.values(), strict=True):
            here = pl.all_horizontal(pl.col(name) == each for name, each in fields.items())
            value = pl.when(here).then(accuracy + spread * (pl.col("seed") - (SEEDS - 1) / 2)).otherwise(value)
        replaced = pl.when(pl.col("quantity") == "linear_accuracy").then(value).otherwise(pl.col("value"))
        return Readings(
            rows.with_columns(value=replaced).drop("design", "state"), measured.cells, measured.sites, measured.meta
        )

    return make


def verdicts(readings: Readings) -> dict[tuple[str, str], Finding]:
    designs = dict(readings.cells.select("cell", "design").iter_rows())
    return {(designs[found.cell], found.rule): found for found in findings(readings)}


def last(design: str, state: str = "trained") -> tuple[str, str, str]:
    return design, state, LAST


# ------------------------------------------------------------------------------------------------------- the tables


def test_the_table_has_students_interval(measured: Readings):
    table = depth_data(measured, "effective_dimension")
    row = table.filter(design="twin", state="untrained", site=LAST).row(0, named=True)
    values = (
        measured.select(design="twin", state="untrained", site=LAST, quantity="effective_dimension")
        .rows["value"]
        .to_numpy()
    )
    low, high = stats.t.interval(0.95, SEEDS - 1, loc=values.mean(), scale=stats.sem(values))
    assert (row["n"], row["mean"]) == (SEEDS, pytest.approx(values.mean()))
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    assert (row["least"], row["most"]) == (values.min(), values.max())
    one = depth_data(measured.select(seed=0))
    assert one["low"].null_count() == one.height


def test_an_interval_of_shares_ends_where_shares_do(made: Callable[..., Readings]):
    row = depth_data(made({last("twin"): 0.99}, spread=0.008)).filter(design="twin", state="trained", site=LAST)
    assert row["high"].to_list() == [1.0]


def test_differences_are_taken_seed_by_seed(made: Callable[..., Readings]):
    """The spread over seeds is that of both, so that the difference has none."""
    readings = made({last("residual"): 0.8, last("twin"): 0.7, last("twin", "untrained"): 0.4}, spread=0.05)
    table = end_of_body(pairs_data(readings))
    shortcut = table.filter(comparison="residual - twin", of="trained").row(0, named=True)
    for name in ("mean", "low", "high"):
        assert shortcut[name] == pytest.approx(0.1)
    assert (shortcut["n"], shortcut["above"]) == (SEEDS, 1.0)
    training = table.filter(comparison="trained - untrained", of="twin").row(0, named=True)
    assert training["mean"] == pytest.approx(0.3)


def test_designs_of_other_blocks_are_paired_where_as_many_layers_are_passed():
    readings = studies.representation(
        data="patterns", designs=("plain", "matched"), depth=6, width=6, recipe=Recipe(steps=1), seeds=range(2)
    )
    table = pairs_data(readings).filter(comparison="matched - plain", of="trained")
    assert table.select("site", "layers").rows() == [
        ("input", 0),
        ("stem", 1),
        ("stage1.block1", 3),
        ("stage1.block2", 5),
        ("head", 6),
    ]


def test_settings_are_named_by_what_they_differ_in(measured: Readings):
    assert set(settings_of(measured).values()) == {"patterns, depth 2"}
    small: dict[str, Any] = {"data": "patterns", "depth": 2, "width": 6, "seeds": range(2)}
    more = studies.representation(recipe=Recipe(steps=3), **small)
    tanh = studies.representation(recipe=Recipe(steps=2), activation="tanh", **small)
    names = set(settings_of(Readings.concat([measured, more, tanh])).values())
    assert names == {"patterns, depth 2, steps 2", "patterns, depth 2, steps 3", "patterns, depth 2, steps 2, no. 2"}


def test_readings_of_other_studies_are_refused():
    flow = studies.flow(depth=4, width=4, seeds=range(2))
    with pytest.raises(InputError, match="'linear_accuracy': these readings hold none of it"):
        depth_data(flow)


# --------------------------------------------------------------------------------------------------------- findings


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [(MARGIN + 0.001, "holds"), (MARGIN - 0.001, "does not hold"), (0.3, "holds"), (-0.3, "does not hold")],
)
def test_verdicts_turn_at_the_margin(made: Callable[..., Readings], difference: float, verdict: str):
    found = verdicts(made({last("residual"): 0.5 + difference, last("twin"): 0.5}))
    assert found["residual", SHORTCUTS].verdict == verdict
    for rule in (GROWS, FROM_STEM, TRAINING):
        assert found["residual", rule].verdict == verdict
        assert found["twin", rule].verdict == "does not hold"


def test_an_untrained_network_may_lose_so_much(made: Callable[..., Readings]):
    for lost, verdict in ((MARGIN - 0.001, "holds"), (MARGIN + 0.001, "does not hold"), (-0.2, "holds")):
        found = verdicts(made({last("twin", "untrained"): 0.5 - lost}))
        assert found["twin", UNTRAINED].verdict == verdict


def test_what_the_seeds_do_not_decide_is_not_said(made: Callable[..., Readings]):
    found = verdicts(made({last("residual"): 0.5 + MARGIN}, spread=0.02))["residual", TRAINING]
    assert found.verdict == "cannot tell"
    assert "these seeds do not decide" in found.statement
    assert found.evidence["low"][0] < MARGIN < found.evidence["high"][0]


def test_few_seeds_cannot_tell(made: Callable[..., Readings]):
    readings = made({last("residual"): 0.9})
    assert {each.verdict for each in findings(readings.select(seed=[0, 1, 2, 3]))} == {"cannot tell"}
    (one,) = (each for each in findings(readings.select(seed=2)) if each.rule == SHORTCUTS)
    assert "1 seed is too few" in one.statement
    assert all(each.threshold and each.source and each.evidence.height == 1 for each in findings(readings))


def test_an_overflow_is_left_out(made: Callable[..., Readings]):
    readings = made({last("residual"): 0.9})
    spoiled = pl.when(pl.col("seed") == 0, pl.col("quantity") == "linear_accuracy", pl.col("site") == LAST)
    rows = readings.rows.with_columns(value=spoiled.then(float("nan")).otherwise(pl.col("value")))
    found = verdicts(Readings(rows, readings.cells, readings.sites, readings.meta))
    assert found["residual", TRAINING].evidence["seeds"][0] == SEEDS - 1


def test_statements_have_the_numbers(made: Callable[..., Readings]):
    found = verdicts(made({last("residual"): 0.83, last("residual", "untrained"): 0.41}))["residual", TRAINING]
    assert "83 % of test samples from the trained last block" in found.statement
    assert "41 % from the untrained one" in found.statement
    assert "42.0 points (95 % interval 42.0 to 42.0, 6 seeds)" in found.statement
    assert "the most frequent class alone: 33 %" in found.statement


def test_points_are_written_with_a_true_minus():
    assert [points(each) for each in (0.123, -0.5, -1e-9, 0.0)] == ["12.3", "−50.0", "0.0", "0.0"]


# ----------------------------------------------------------------------------------------------- charts and section


@pytest.fixture(scope="module")
def pictures(measured: Readings) -> Pictures:
    (found,) = studies.pictures(measured)
    return found


def rows_of(chart: Any) -> list[dict[str, Any]]:
    (rows,) = chart.to_dict()["datasets"].values()
    return list(rows)


def test_the_chart_against_depth_draws_the_table(made: Callable[..., Readings]):
    readings = made({last("twin"): 0.75}, spread=0.01)
    table = depth_data(readings)
    rows = rows_of(charts.separability_by_depth(readings))
    assert len(rows) == table.height
    (row,) = (r for r in rows if (r["panel"], r["label"], r["site"]) == ("Trained", "twin", LAST))
    assert row["mean"] == pytest.approx(0.75)
    drawn = table.filter(design="twin", state="trained", site=LAST).row(0, named=True)
    assert (row["low"], row["high"]) == (pytest.approx(drawn["low"], rel=1e-5), pytest.approx(drawn["high"], rel=1e-5))
    assert "0.750 at stage1.block2" in str(charts.separability_by_depth(readings).description)
    with pytest.raises(InputError, match="quantity must be one of"):
        charts.separability_by_depth(readings, "loss")


def test_samples_stand_side_by_side(pictures: Pictures):
    table = charts.samples_data(pictures)
    assert table["panel"].unique(maintain_order=True).to_list() == ["horizontal", "vertical", "diagonal"]
    assert table.select("panel", "x", "row").is_duplicated().sum() == 0
    rows = rows_of(charts.samples(pictures))
    assert [row["ink"] for row in rows] == pytest.approx(pictures.samples["ink"].to_list(), rel=1e-5, abs=1e-9)
    without = Pictures("mine", "", 0, pictures.samples.clear(), pictures.components)
    with pytest.raises(InputError, match="the samples of mine are no pictures"):
        charts.samples(without)


def test_components_are_letters_in_panels(pictures: Pictures):
    table = charts.components_data(pictures)
    assert dict(table.select("class", "sign").unique().iter_rows()) == {
        "horizontal": "H",
        "vertical": "V",
        "diagonal": "D",
    }
    assert len(rows_of(charts.components(pictures))) == pictures.components.height
    assert table["panel"][0] == "residual, untrained: first layer"
    assert table["panel"].n_unique() == 12
    renamed = pictures.components.with_columns(pl.col("class").replace({"vertical": "high"}))
    alike = Pictures("mine", "", 0, pictures.samples, renamed)
    assert charts.components_data(alike).filter(pl.col("class") == "high")["sign"][0] == "1"


def claims_of(section: Section) -> dict[str, Claim]:
    (block,) = (block for block in section.blocks if isinstance(block, Claims))
    return {claim.claim: claim for claim in block.claims}


def test_claims_and_answer_turn_with_the_readings(made: Callable[..., Readings]):
    deeper = "The deeper in a trained network, the better classes are apart."
    helped = made({last("residual"): 0.9, last("twin"): 0.6})
    hindered = made({last("residual"): 0.3, last("twin"): 0.6})
    one, other = report.representation_section(helped), report.representation_section(hindered)
    assert (claims_of(one)[deeper].holds, claims_of(other)[deeper].holds) == ("right", "depends")  # of the network
    assert "Shortcuts add more than 1 point" in one.answer
    assert "Shortcuts do not add more than 1 point" in other.answer
    assert "90 % (residual, untrained 50 %)" in one.answer
    unsure = report.representation_section(made({last("residual"): 0.51}, spread=0.02))
    assert "these seeds do not decide" in unsure.answer
    assert {claim.holds for claim in claims_of(unsure).values()} >= {"unknown"}


def test_a_saved_file_says_that_pictures_take_the_run(measured: Readings, pictures: Pictures, tmp_path: Path):
    measured.save(tmp_path / "a.parquet")
    loaded = Readings.load(tmp_path / "a.parquet")
    (bare,) = report.sections_of(loaded)
    prose = " ".join(text for block in bare.blocks if isinstance(block, Prose) for text in block.paragraphs)
    assert "They take the run" in prose
    (whole,) = report.sections_of(loaded, beside={"representation": {"pictures": [pictures]}})
    names = [[block.name for block in each.blocks if isinstance(block, Figure)] for each in (bare, whole)]
    assert set(names[1]) - set(names[0]) == {
        "Samples of patterns, class by class",
        "Test samples of patterns on two principal components, at three depths",
    }
    page = report.write(tmp_path / "page.html", [whole], title="t", command="c").read_text()
    assert '<section id="representation">' in page
    assert "They take the run" not in page


@pytest.mark.parametrize(
    "part",
    [{"seed": 0}, {"state": "untrained"}, {"site": "input"}, {"design": "twin"}, {"quantity": "linear_accuracy"}],
)
def test_a_part_of_the_readings_has_its_section(measured: Readings, part: dict[str, Any]):
    (section,) = report.sections_of(measured.select(**part))
    assert section.anchor == "representation"
    assert section.answer
    assert report.render([section], title="t", command="c")


def test_networks_that_were_lost_are_counted(measured: Readings):
    trained = measured.cells.filter(state="trained", design="twin")["cell"][0]
    rows = measured.rows.filter(~((pl.col("cell") == trained) & (pl.col("seed") < 2)))
    section = report.representation_section(Readings(rows, measured.cells, measured.sites, measured.meta))
    prose = " ".join(text for block in section.blocks if isinstance(block, Prose) for text in block.paragraphs)
    assert "their loss stopped being a number: 2 networks of the twin design" in prose


def test_the_command_line_writes_readings_and_a_page_with_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from skipscope import cli

    small = ["--data", "patterns", "--depth", "1", "--width", "4", "--steps", "2", "--seeds", "2"]
    out, page = tmp_path / "a.parquet", tmp_path / "a.html"
    assert cli.main(["representation", *small, "--out", str(out), "--report", str(page), "--format", "json"]) == 0
    assert '"differences"' in capsys.readouterr().out
    assert np.isfinite(Readings.load(out).select(quantity="linear_accuracy").rows["value"].to_numpy()).all()
    assert "Samples of patterns, class by class" in page.read_text()
    assert cli.main(["representation", "--data", "teacher", "--seeds", "1"]) == 2
    assert "has no classes" in capsys.readouterr().err
