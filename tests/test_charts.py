"""Charts hold no statistics: what they draw is what the summary says, to the digits that a chart needs."""

from __future__ import annotations

import itertools
import math
from typing import Any
from xml.etree import ElementTree

import altair as alt
import numpy as np
import polars as pl
import pytest

import skipscope
from skipscope import InputError, Readings, charts, studies
from skipscope.designs import DESIGNS
from skipscope.summary import QUANTILES, Summary, summarise

SHOWN = (*QUANTILES, "law_q05", "law_q50", "law_q95", "z")


@pytest.fixture(scope="module")
def flow() -> Summary:
    return summarise(studies.flow(depth=6, width=8, features=5, seeds=range(40)))


@pytest.fixture(scope="module")
def notebook() -> Readings:
    return studies.notebook(seeds=range(50), depths=(5, 10))


def spec_of(chart: alt.FacetChart) -> dict[str, Any]:
    spec: dict[str, Any] = chart.to_dict()
    return spec


def rows_of(chart: alt.FacetChart) -> list[dict[str, Any]]:
    """What the chart draws."""
    (rows,) = spec_of(chart)["datasets"].values()
    found: list[dict[str, Any]] = rows
    return found


def layers_of(chart: alt.FacetChart) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = spec_of(chart)["spec"]["layer"]
    return layers


# ------------------------------------------------------------------------------------------------------------- flow


@pytest.mark.parametrize("quantity", ["backward_gain", "forward_gain", "activation_rms"])
def test_flow_draws_the_path_of_blocks_with_the_summary_s_numbers(flow: Summary, quantity: str) -> None:
    table = charts.flow_data(flow, quantity)
    expected = flow.of(quantity).filter(~pl.col("site").str.contains("layer"))
    assert table.height == expected.height
    both = table.join(expected, on=["cell", "site"], suffix="_summary", how="left")
    for name in (*SHOWN, "site_depth", "n"):
        assert both[name].equals(both[f"{name}_summary"]), name
    plain = table.filter(pl.col("design") == "plain")["site"].to_list()
    assert plain == ["input", "stem", *(f"stage1.block{i}" for i in range(1, 5)), "head"]


def test_weight_gradients_are_drawn_at_every_layer(flow: Summary) -> None:
    table = charts.flow_data(flow, "weight_grad_norm")
    for cell, part in table.group_by("cell"):
        depth = skipscope.Spec.from_json(flow.readings.cells.filter(pl.col("cell") == cell[0])["spec"][0]).depth
        assert part["site_depth"].to_list() == list(range(1, depth + 1))


def test_the_panels_are_the_designs_in_their_order(flow: Summary) -> None:
    chart = charts.flow(flow)
    assert spec_of(chart)["facet"]["sort"] == [
        "plain: 6 layers",
        "residual: 14 layers",
        "twin: 14 layers",
        "matched: 6 layers",
    ]
    assert list(dict.fromkeys(charts.flow_data(flow)["design"])) == list(DESIGNS)


def test_a_chart_s_values_are_its_table_s_to_six_digits(flow: Summary) -> None:
    table = charts.flow_data(flow, "backward_gain")
    drawn = rows_of(charts.flow(flow, "backward_gain"))
    assert len(drawn) == table.height
    for row, said in zip(drawn, table.iter_rows(named=True), strict=True):
        for name in SHOWN:
            if said[name] is None:
                assert row[name] is None
            else:
                assert math.isclose(row[name], said[name], rel_tol=5e-6), name


def test_the_law_is_drawn_where_it_holds_and_nowhere_else(flow: Summary) -> None:
    table = charts.flow_data(flow, "backward_gain")
    lawful = table.filter(pl.col("law_q50").is_not_null())["design"].unique().sort().to_list()
    assert lawful == ["plain", "twin"]
    drawn = [layer["encoding"]["y"]["field"] for layer in layers_of(charts.flow(flow, "backward_gain"))]
    assert {"law_q05", "law_q50", "law_q95"} < set(drawn)
    residual = summarise(flow.readings.select(design="residual"))
    drawn = [layer["encoding"]["y"]["field"] for layer in layers_of(charts.flow(residual, "backward_gain"))]
    assert not any(name in ("law_q05", "law_q50", "law_q95") for name in drawn)
    normed = summarise(studies.flow(depth=3, width=8, features=6, designs=["residual"], norm="layer", seeds=range(6)))
    drawn = [layer["encoding"]["y"]["field"] for layer in layers_of(charts.flow(normed, "backward_gain"))]
    assert not any(name.startswith("law") for name in drawn)


def test_a_law_of_the_mean_square_is_drawn_beside_the_root_mean_square(flow: Summary) -> None:
    table = charts.flow_data(flow, "backward_gain")
    assert set(table.filter(pl.col("law_rms").is_not_null())["design"]) == {"residual", "matched"}
    known = flow.of("backward_gain").select("cell", "site", "rms", "law_rms")
    drawn = table.filter(pl.col("law_rms").is_not_null()).select("cell", "site", "rms", "law_rms")
    assert drawn.equals(drawn.select("cell", "site").join(known, on=["cell", "site"], how="left"))
    chart = charts.flow(flow, "backward_gain")
    assert {"rms", "law_rms"} < {layer["encoding"]["y"]["field"] for layer in layers_of(chart)}
    assert "dash-dotted: the law of the root mean square" in " ".join(chart.to_dict()["title"]["subtitle"])
    plain = charts.flow(summarise(flow.readings.select(design="plain")), "backward_gain")
    assert "rms" not in {layer["encoding"]["y"]["field"] for layer in layers_of(plain)}
    assert "root mean square" not in " ".join(plain.to_dict()["title"]["subtitle"])


def test_an_svg_file_says_in_words_what_it_shows(flow: Summary) -> None:
    chart = charts.flow(flow)
    root = ElementTree.fromstring(charts.svg(chart))
    space = "{http://www.w3.org/2000/svg}"
    assert root.get("role") == "img"
    assert [child.tag for child in root][:2] == [f"{space}title", f"{space}desc"]
    assert root.findtext(f"{space}title") == chart.to_dict()["title"]["text"]
    assert root.findtext(f"{space}desc") == chart.to_dict()["description"]


def test_hovering_names_site_and_value(flow: Summary) -> None:
    points = layers_of(charts.flow(flow))[-1]
    fields = {tip["title"]: tip["field"] for tip in points["encoding"]["tooltip"]}
    assert fields["site"] == "site"
    row = rows_of(charts.flow(flow))[0]
    assert row[fields["median"]] == skipscope.words.number(charts.flow_data(flow)["q50"][0])
    assert {"5 to 95 %", "seeds", "z of the law"} < set(fields)


def test_the_axis_is_logarithmic_and_can_be_zoomed(flow: Summary) -> None:
    chart = charts.flow(flow)
    assert all(
        layer["encoding"]["y"]["scale"]["type"] == "log" for layer in layers_of(chart) if "y" in layer["encoding"]
    )
    assert any(param.get("bind") == "scales" for param in spec_of(chart)["params"])


def test_what_is_mostly_zero_or_negative_gets_a_linear_axis(flow: Summary) -> None:
    paper = summarise(studies.flow(depth=6, width=8, seeds=range(40), designs="residual", order="after-add"))
    assert (charts.flow_data(paper, "branch_cosine")["q05"] < 0).any()
    for summary, quantity in ((paper, "branch_cosine"), (flow, "activation_nonfinite")):
        scale = layers_of(charts.flow(summary, quantity))[0]["encoding"]["y"]["scale"]
        assert scale.get("type") is None


def test_one_draw_of_an_unnamed_network_can_be_drawn() -> None:
    network = skipscope.build(skipscope.Spec.dense(width=6, blocks=3), seed=4)
    summary = summarise(skipscope.probe(network, 3))
    rows = rows_of(charts.flow(summary, "forward_gain"))
    assert {row["panel"] for row in rows} == {"network: 8 layers"}
    assert {row["n"] for row in rows} == {1}


# ------------------------------------------------------------------------------------------------- the other charts


def test_junctions_draw_the_summary_block_by_block(flow: Summary) -> None:
    table = charts.junctions_data(flow)
    for quantity in ("branch_ratio", "branch_cosine", "shortcut_share", "branch_share"):
        part = table.filter(pl.col("quantity") == quantity)
        expected = flow.of(quantity)
        assert part.height == expected.height == 6 + 2  # d blocks, and (d - 2)/2
        assert sorted(part["q50"]) == sorted(expected["q50"])
    assert table.filter(pl.col("label") == "residual")["block"].max() == 6
    assert len(rows_of(charts.junctions(flow))) == table.height


def test_a_network_that_lies_on_another_is_dashed_and_has_no_bands(flow: Summary) -> None:
    table = charts.junctions_data(flow)
    assert charts.coincident(table) == ["matched"]
    first = table.filter(pl.col("quantity") == "branch_ratio", pl.col("block") == 1)
    assert first["q50"].n_unique() == 1  # the same draws, hence the same line
    layers = layers_of(charts.junctions(flow))
    areas = [layer for layer in layers if layer["mark"]["type"] == "area"]
    assert areas
    assert all(layer["transform"] == [{"filter": "datum.line === 'solid'"}] for layer in areas)
    drawn = {(row["label"], row["line"]) for row in rows_of(charts.junctions(flow))}
    assert drawn == {("residual", "solid"), ("matched", "dashed")}
    (line,) = [layer for layer in layers if layer["mark"]["type"] == "line"]
    assert line["encoding"]["strokeDash"]["field"] == "line"
    assert "(matched)" in charts.coincident_words(table)
    alone = summarise(flow.readings.select(design="residual"))
    assert charts.coincident_words(charts.junctions_data(alone)) == ""
    assert {row["line"] for row in rows_of(charts.junctions(alone))} == {"solid"}


def test_a_histogram_counts_every_draw_once(notebook: Readings) -> None:
    part = notebook.select(depth=28)
    table = charts.distribution_data(part, "weight_grad_first_last", seed=3, bins=17)
    for cell, label in charts.labels(part).items():
        values = part.rows.filter(pl.col("cell") == cell, pl.col("quantity") == "weight_grad_first_last")
        bins = table.filter(pl.col("panel") == label)
        assert bins.height == 17
        assert bins["draws"].sum() == bins["n"][0] == values.height == 50
        assert bins["value"].unique().to_list() == values.filter(pl.col("seed") == 3)["value"].to_list()
        middle = bins.row(8, named=True)
        inside = values.filter(pl.col("value") >= middle["low"], pl.col("value") < middle["high"])
        assert inside.height == middle["draws"]
    ratios = np.array(table["high"] / table["low"])
    np.testing.assert_allclose(ratios, ratios[0])  # equal on a log axis


def test_the_marked_draw_is_named(notebook: Readings) -> None:
    part = notebook.select(depth=28)
    told = [row["told"] for row in rows_of(charts.distribution(part, "weight_grad_first_last", seed=3)) if row["told"]]
    assert len(told) == 2
    assert all(text.startswith("seed 3: ") for text in told)
    called = rows_of(charts.distribution(part, "weight_grad_first_last", seed=3, called="the draw"))
    assert called[0]["told"].startswith("the draw: ")


def test_the_depth_sweep_draws_the_summary(notebook: Readings) -> None:
    summary = summarise(notebook)
    table = charts.depth_ratio_data(summary)
    assert set(table["width"]) == {16}  # the other width was measured at one depth only
    assert table.height == 2 * 2 * 2
    expected = summary.of("weight_grad_first_last")
    for row in table.iter_rows(named=True):
        found = expected.filter(*(pl.col(name) == row[name] for name in ("design", "depth", "width", "cotangent")))
        assert [row[name] for name in QUANTILES] == [found[name][0] for name in QUANTILES]
    assert len(rows_of(charts.depth_ratio(summary))) == table.height


# ------------------------------------------------------------------------------------------------------ on paper


@pytest.mark.parametrize("suffix", ["svg", "png", "html"])
def test_charts_can_be_saved(flow: Summary, tmp_path: Any, suffix: str) -> None:
    path = tmp_path / f"flow.{suffix}"
    charts.flow(flow).save(str(path))
    data = path.read_bytes()
    assert data.startswith({"svg": b"<svg", "png": b"\x89PNG", "html": b"<!DOCTYPE html>"}[suffix])
    if suffix == "svg":
        for text in ("Gradient norm, relative to the output&#39;s, by depth", "plain: 6 layers", "over 40 seeds"):
            assert text in data.decode().replace("'", "&#39;")


def test_the_text_alternative_has_the_ends_of_every_line(flow: Summary) -> None:
    words = charts.flow(flow).description
    table = charts.flow_data(flow)
    for _, part in table.group_by("cell"):
        for row in (part.row(0, named=True), part.row(-1, named=True)):
            assert f"{skipscope.words.number(row['q50'])} at {row['site']}" in words


# -------------------------------------------------------------------------------------------------------- colours


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2.1: relative luminances, 0.05 of stray light."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("paper", ["#ffffff", "#15181c"])
def test_the_colours_stand_out_from_light_and_dark_paper(paper: str) -> None:
    for colour in charts.COLOURS.values():
        assert contrast(colour, paper) >= 3.0, colour  # WCAG 2.1, 1.4.11, for graphics


# Machado, Oliveira and Fernandes 2009, doi:10.1109/TVCG.2009.113: severity 1, on linear RGB.
BLIND = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* of linear sRGB, white D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb.clip(0, 1)
    x, y, z = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", BLIND)
def test_the_colour_blind_can_tell_designs_apart(kind: str) -> None:
    seen = {name: lab(np.array(BLIND[kind]) @ linear(colour)) for name, colour in charts.COLOURS.items()}
    for one, other in itertools.combinations(seen, 2):
        # A difference of 2.3 is just noticeable (Mahy 1994); ten times that is plain to see side by side.
        assert np.linalg.norm(seen[one] - seen[other]) > 10, (one, other)


def test_a_design_has_one_colour_and_one_shape_everywhere(flow: Summary, notebook: Readings) -> None:
    drawn = [charts.flow(flow), charts.junctions(flow), charts.depth_ratio(summarise(notebook))]
    drawn.append(charts.distribution(notebook.select(depth=28), "weight_grad_first_last"))
    for chart in drawn:
        for layer in layers_of(chart):
            for channel, known in (("color", charts.COLOURS), ("shape", charts.SHAPES)):
                scale = layer["encoding"].get(channel, {}).get("scale")
                if scale:
                    pairs = zip(scale["domain"], scale["range"], strict=True)
                    assert all(known[name.partition(":")[0]] == value for name, value in pairs)
    assert len(set(charts.COLOURS.values())) == len(set(charts.SHAPES.values())) == len(DESIGNS)


# -------------------------------------------------------------------------------------------------- names and errors


def test_labels_tell_cells_apart_by_what_differs(notebook: Readings) -> None:
    assert list(charts.labels(notebook.select(depth=28)).values()) == ["plain", "residual"]
    swept = charts.labels(notebook.select(depth=[5, 10]))
    assert len(set(swept.values())) == 8
    assert "plain, depth 5, ones sent back" in swept.values()


@pytest.mark.parametrize(
    ("field", "values"),
    [("init", ("he", "lecun")), ("norm", ("none", "layer")), ("order", ("before-add", "after-add"))],
)
def test_labels_name_the_field_of_the_spec_that_differs(field: str, values: tuple[Any, Any]) -> None:
    fields: list[dict[str, Any]] = [{field: value} for value in values]
    parts = [studies.flow(depth=4, width=6, designs="residual", seeds=[0], **each) for each in fields]
    found = list(charts.labels(Readings.concat(parts)).values())
    assert found == [f"residual, {field} {value}" for value in values]


def test_labels_name_a_gain_that_differs() -> None:
    parts = [studies.flow(depth=4, width=6, designs="residual", seeds=[0], branch_gain=gain) for gain in (1.0, "1/L")]
    found = list(charts.labels(Readings.concat(parts)).values())
    assert found == ["residual, branch gain 1.0", "residual, branch gain 1/L"]


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda flow, nb: charts.flow(flow, "backward"), "quantity 'backward' is not in these readings"),
        (lambda flow, nb: charts.flow(flow, "forward_growth"), "charts.distribution"),
        (lambda flow, nb: charts.flow(flow, columns=0), "columns must be at least 1"),
        (lambda flow, nb: charts.flow(summarise(Readings.concat([]))), "they hold none"),
        (lambda flow, nb: charts.junctions(summarise(nb)), "no junctions"),
        (lambda flow, nb: charts.depth_ratio(summarise(nb.select(depth=5))), "more than one depth"),
        (lambda flow, nb: charts.distribution(nb, "forward_gain"), "no positive 'forward_gain'"),
        (lambda flow, nb: charts.distribution(nb, "forward_growth", seed=50), "they hold 0 to 49"),
        (lambda flow, nb: charts.distribution(nb, "forward_growth", bins=0), "bins must be at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(flow: Summary, notebook: Readings, draw: Any, says: str) -> None:
    with pytest.raises(InputError) as caught:
        draw(flow, notebook)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
