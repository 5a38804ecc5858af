"""What the readings of study `responses` say: tables, findings, chart and section."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file
from scipy import stats

from skipscope import InputError, Readings, Spec, build, charts, report, studies
from skipscope.diagnosis import Finding
from skipscope.engines import pretrained
from skipscope.report import Claim, Claims, Figure, Section
from skipscope.responses import (
    ALONE,
    DEEPER,
    NETWORKS,
    SMALLER,
    differences,
    findings,
    layer_data,
    network_data,
    response_data,
    sorted_data,
)
from skipscope.training import Recipe

NAMES = ("cifar-8", "cifar-8-plain", "cifar-14", "cifar-14-plain")


@pytest.fixture(scope="module")
def measured() -> Readings:
    recipe = Recipe(steps=3, batch=16, rate=0.05)
    return studies.responses(specs=NAMES, width=2, recipe=recipe, batch=16, seeds=range(NETWORKS), dtype="float32")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Readings:
    folder = tmp_path_factory.mktemp("weights")
    for depth in (8, 14):
        spec = Spec.cifar(depth, shortcut="A-both", width=4)
        arrays = build(spec, seed=depth).arrays
        for name, array in arrays.items():
            if name.endswith(".gamma"):
                array *= 8 / depth
        names = pretrained.names_of(spec, ["linear.weight"]).items()
        save_file(
            {theirs: np.ascontiguousarray(arrays[ours][0]) for ours, theirs in names}, folder / f"d{depth}.safetensors"
        )
    return studies.responses(weights=sorted(folder.iterdir()))


def with_values(readings: Readings, value: pl.Expr, *, mode: str = "training", **told: Any) -> Readings:
    """The readings with other standard deviations in cells of a mode."""
    cells = readings.cells.filter(mode=mode, **told)["cell"].implode()
    asked = (pl.col("quantity") == "response_std") & pl.col("cell").is_in(cells)
    rows = readings.rows.with_columns(value=pl.when(asked).then(value).otherwise("value"))
    return Readings(rows, readings.cells, readings.sites, readings.meta)


def known(readings: Readings, ratios: dict[str, Callable[[int], float]]) -> Readings:
    """As if every layer of a network responded with so much, by the network's name and its seed."""
    found = readings
    for name, of_seed in ratios.items():
        value = pl.col("seed").replace_strict({seed: of_seed(seed) for seed in range(NETWORKS)})
        found = with_values(found, value, design=name)
    return found


def of(found: list[Finding], rule: str) -> dict[str, Finding]:
    return {finding.subject.partition(" at ")[0]: finding for finding in found if finding.rule == rule}


# --------------------------------------------------------------------------------------------------------- the tables


def test_layers_are_means_over_networks_in_order_of_depth(measured: Readings):
    table = layer_data(measured)
    assert list(dict.fromkeys(table["design"])) == list(NAMES)
    assert set(table["mode"]) == {"training"}
    one = table.filter(design="cifar-8")
    assert one["site"].to_list()[:3] == ["stem", "stage1.block1.layer1", "stage1.block1.layer2"]
    assert one["layer"].to_list() == list(range(1, 8))
    values = (
        response_data(measured).filter(design="cifar-8", mode="training", site="stage2.block1.layer2")["std"].to_numpy()
    )
    row = one.row(4, named=True)
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    assert (row["n"], row["site"]) == (NETWORKS, "stage2.block1.layer2")
    assert (row["std"], row["low"], row["high"]) == pytest.approx((values.mean(), low, high))


def test_every_network_is_sorted_by_itself(measured: Readings):
    rows = response_data(measured).filter(design="cifar-14", mode="training").sort("seed", maintain_order=True)
    values = np.sort(rows["std"].to_numpy().reshape(NETWORKS, -1), axis=1)[:, ::-1]
    table = sorted_data(measured).filter(design="cifar-14")
    assert table["layer"].to_list() == list(range(1, 14))
    np.testing.assert_allclose(table["std"], values.mean(axis=0))


def test_a_bottlenecks_other_layers_are_told_apart(tmp_path: Path):
    spec = Spec.imagenet(50, stride="v1.5", width=4, classes=3)
    arrays = build(spec, seed=0).arrays
    names = pretrained.names_of(spec).items()
    save_file({theirs: np.ascontiguousarray(arrays[ours][0]) for ours, theirs in names}, tmp_path / "r50.safetensors")
    found = studies.responses(weights=tmp_path / "r50.safetensors")

    counted = dict(layer_data(found)["kernel"].value_counts().iter_rows())
    assert counted == {7: 1, 3: 16, 1: 32 + 4}  # 16 blocks of 1x1, 3x3, 1x1 and four projections
    assert network_data(found)["layers"].to_list() == [16]
    drawn = charts.layer_responses_data(found)
    assert drawn.height == 2 * 16
    assert drawn["layer"].to_list() == [*range(1, 17)] * 2


def test_networks_are_told_by_their_median_layer(measured: Readings):
    table = network_data(measured)
    rows = response_data(measured).filter(design="cifar-14-plain", mode="training")
    medians = rows.group_by("seed").agg(pl.col("std").median())["std"]
    row = table.row(3, named=True)
    assert (row["design"], row["layers"], row["n"], row["source"]) == ("cifar-14-plain", 13, NETWORKS, "trained")
    assert row["std"] == pytest.approx(medians.mean())
    assert 0 < row["test_error"] <= 1
    assert row["least"] <= row["std"] <= row["most"]


def test_a_difference_is_that_of_the_network_where_it_is_largest(measured: Readings):
    alone = with_values(measured, pl.lit(2.0), mode="parameters")
    spoiled = known(alone, {"cifar-8": lambda seed: 1.0 if seed == 3 else 2.1})
    table = differences(spoiled).filter(design="cifar-8", mode="training")
    assert table["difference"].to_list() == [-0.5] * 7
    assert table["measured"].to_list() == pytest.approx([(4 * 2.1 + 1) / 5] * 7)
    assert set(differences(measured)["mode"]) == {"training", "inference"}


def test_a_mode_can_be_asked_for(measured: Readings):
    assert set(layer_data(measured, mode="inference")["mode"]) == {"inference"}
    with pytest.raises(InputError, match="mode must be one of 'training', 'parameters', 'inference'"):
        layer_data(measured, mode="learning")


def test_other_readings_are_refused():
    other = studies.flow(depth=4, width=4, seeds=range(2))
    for function in (response_data, layer_data, findings, charts.layer_responses):
        with pytest.raises(InputError, match="which study responses gives"):
            function(other)


# ----------------------------------------------------------------------------------------------------------- findings


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (lambda seed: 0.8 + 0.01 * seed, "holds"),
        (lambda seed: 1.2 + 0.01 * seed, "does not hold"),
        (lambda seed: 1.0 + 0.1 * (seed - 2), "cannot tell"),
    ],
)
def test_residual_against_plain_by_seeds_in_pairs(measured: Readings, ratio: Callable[[int], float], verdict: str):
    # All networks of a seed are alike but for the ratio, and seeds differ by far more: only pairs can tell.
    plain = {name: lambda seed: 1.0 + seed for name in NAMES[1::2]}
    residual = {name: lambda seed: (1.0 + seed) * ratio(seed) for name in NAMES[::2]}
    found = of(findings(known(measured, plain | residual)), SMALLER)

    assert {name: finding.verdict for name, finding in found.items()} == dict.fromkeys(NAMES[::2], verdict)
    logs = np.log([ratio(seed) for seed in range(NETWORKS)])
    low, high = stats.t.interval(0.95, NETWORKS - 1, logs.mean(), stats.sem(logs))
    said = found["cifar-14"].statement
    assert f"{math.exp(logs.mean()):.3g}"[:4] in said
    assert f"{math.exp(low):.2g}"[:3] in said
    assert "13 layers" in said
    assert found["cifar-14"].evidence["ratio"].to_list() == pytest.approx([ratio(seed) for seed in range(NETWORKS)])
    assert (high < 0, low > 0) == (verdict == "holds", verdict == "does not hold")


@pytest.mark.parametrize(("factor", "verdict"), [(0.9, "holds"), (1.1, "does not hold")])
def test_deeper_networks_against_shallower_ones(measured: Readings, factor: float, verdict: str):
    told = {"cifar-8": lambda seed: 1.0 + seed, "cifar-14": lambda seed: (1.0 + seed) * factor * (1 + 0.001 * seed)}
    found = of(findings(known(measured, told)), DEEPER)
    assert list(found) == ["cifar-14"]  # the plain networks make no such claim
    assert found["cifar-14"].verdict == verdict
    assert "cifar-8" in found["cifar-14"].statement


def test_few_seeds_and_untrained_networks_cannot_tell(measured: Readings):
    few = findings(measured.select(seed=[0, 1]))
    assert {finding.verdict for finding in few if finding.rule in (SMALLER, DEEPER)} == {"cannot tell"}
    assert f"a verdict needs {NETWORKS}" in few[0].statement
    initial = studies.responses(specs=NAMES, width=2, recipe=Recipe(steps=0), batch=16, seeds=NETWORKS)
    found = [finding for finding in findings(initial) if finding.rule in (SMALLER, DEEPER)]
    assert {finding.verdict for finding in found} == {"cannot tell"}
    assert all("as they are initialised: gamma is 1" in finding.statement for finding in found)


def test_gamma_and_beta_tell_a_mini_batch_and_not_lagging_averages(measured: Readings):
    found = findings(measured)
    assert {finding.verdict for finding in of(found, ALONE["training"]).values()} == {"holds"}
    inference = of(found, ALONE["inference"])["cifar-8"]
    assert inference.verdict == "does not hold"  # the averages of three steps
    worst = differences(measured).filter(design="cifar-8", mode="inference").sort(pl.col("difference").abs())[-1]
    assert f"at {worst['site'][0]}: " in inference.statement


def test_of_files_there_is_no_verdict_on_designs(files: Readings):
    assert findings(files) == []
    assert network_data(files).select("design", "mode", "n").rows() == [
        ("d8", "parameters", 1),
        ("d14", "parameters", 1),
    ]
    # The files have gamma of 1 and of 8/14, and beta 0.
    assert network_data(files)["std"].to_list() == pytest.approx([1.0, 8 / 14], rel=1e-6)


# ---------------------------------------------------------------------------------------------------- chart and section


def test_the_chart_draws_the_tables(measured: Readings):
    drawn = charts.layer_responses_data(measured)
    depth, ranked = (drawn.filter(panel=panel) for panel in drawn["panel"].unique(maintain_order=True))
    assert depth["std"].to_list() == layer_data(measured)["std"].to_list()
    assert ranked["std"].to_list() == sorted_data(measured)["std"].to_list()
    assert list(dict.fromkeys(drawn["label"])) == list(NAMES)
    spec = charts.layer_responses(measured).to_dict()
    (values,) = spec["datasets"].values()
    assert len(values) == drawn.height
    assert "cifar-14-plain" in spec["description"]
    line = spec["spec"]["layer"][1]["encoding"]
    colours, dashes = (line[name]["scale"]["range"] for name in ("color", "strokeDash"))
    assert colours[0] == colours[1] != colours[2] == colours[3]  # a colour a depth
    assert dashes[0] == dashes[2] != dashes[1] == dashes[3]  # plain ones dashed


def test_responses_that_differ_by_far_are_drawn_on_a_log_axis(measured: Readings):
    def scale(readings: Readings) -> dict[str, Any]:
        return charts.layer_responses(readings).to_dict()["spec"]["layer"][1]["encoding"]["y"]["scale"]

    far = known(measured, {"cifar-8": lambda seed: 20.0 + 9 * seed})  # whose interval is 24 to 52
    assert scale(measured) == {"zero": False}
    assert scale(far)["type"] == "log"
    low, high = scale(far)["domain"]
    assert 0 < low < layer_data(far)["std"].min()
    assert high > layer_data(far)["high"].max()


def test_one_network_a_line_has_no_band(files: Readings):
    spec = charts.layer_responses(files).to_dict()
    assert [layer["mark"]["type"] for layer in spec["spec"]["layer"]] == ["line", "point"]


def section_of(readings: Readings) -> Section:
    (section,) = report.sections_of(readings)
    return section


def claims_of(section: Section) -> dict[str, Claim]:
    return {claim.claim: claim for block in section.blocks if isinstance(block, Claims) for claim in block.claims}


def test_the_section_says_what_was_found(measured: Readings):
    plain = {name: lambda seed: 1.0 + seed for name in NAMES[1::2]}
    residual = {"cifar-8": lambda seed: 0.9 + seed, "cifar-14": lambda seed: 0.8 + seed}
    section = section_of(known(measured, plain | residual))
    claims = claims_of(section)
    assert section.anchor == "responses"
    assert "Residual networks respond less than plain ones." in section.answer
    assert claims["Residual networks have smaller responses than plain ones."].holds == "right"
    assert claims["They tell it in inference too."].holds == "wrong"
    reverse = {name: lambda seed: 1.5 + seed for name in NAMES[::2]}
    turned = section_of(known(measured, plain | reverse))
    assert "respond more than plain ones, not less" in turned.answer
    assert claims_of(turned)["Residual networks have smaller responses than plain ones."].holds == "wrong"
    (figure,) = (block for block in section.blocks if isinstance(block, Figure))
    assert figure.table.height == charts.layer_responses_data(measured).height


def test_the_section_on_files_describes_and_judges_not(files: Readings, tmp_path: Path):
    section = section_of(files)
    assert claims_of(section) == {}
    page = report.write(tmp_path / "page.html", [section], title="t", command="c").read_text()
    assert "this is a description and no verdict on designs" in page
    assert "gamma and beta tell" in page
