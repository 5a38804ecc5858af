"""Charts of the studies highway, jacobian and correlation: what is drawn is what the tables say."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import polars as pl
import pytest

from skipscope import InputError, Readings, charts, paths, shattering, spectra, studies, trends
from skipscope.charts.spectra import FLOOR
from skipscope.summary import Summary, summarise


def rows_of(chart: alt.FacetChart) -> list[dict[str, Any]]:
    (rows,) = chart.to_dict()["datasets"].values()
    found: list[dict[str, Any]] = rows
    return found


def same(drawn: float | None, value: float | None) -> bool:
    """Charts keep six digits, and null where there is no number."""
    if drawn is None or value is None:
        return drawn is value
    return math.isclose(drawn, value, rel_tol=1e-5, abs_tol=1e-12)


@pytest.fixture(scope="module")
def highway() -> Readings:
    return studies.highway(depth=4, width=12, features=6, gains=(1.0, "1/L"), seeds=range(24))


@pytest.fixture(scope="module")
def jacobian() -> Summary:
    designs = ("plain", "residual", "residual, 1/sqrt(L)", "residual, layer norm")
    return summarise(studies.jacobian(depths=(3, 6), width=8, designs=designs, seeds=range(8)))


@pytest.fixture(scope="module")
def correlation() -> Readings:
    designs = ("plain", "residual", "residual, 1/sqrt(L)", "plain, batch norm")
    return studies.correlation(depths=(3, 6), width=10, designs=designs, seeds=range(12), batch=8)


# ---------------------------------------------------------------------------------------------------------- highway


def test_shares_draw_the_quantiles_of_both_parts(highway: Readings):
    table = paths.shares_data(highway)
    drawn = rows_of(charts.shares(highway))
    assert len(drawn) == table.height == 6 * 4 * 2
    known = {(row["cell"], row["part"], row["block"]): row for row in table.to_dicts()}
    for row in drawn:
        expected = known[row["cell"], row["part"], row["block"]]
        assert all(same(row[name], expected[name]) for name in ("q05", "q25", "q50", "q75", "q95"))


def test_a_share_has_a_dashed_law_only_where_nothing_refuses_it(highway: Readings):
    refusals = {(row["cell"], row["block"]): row["refusal"] for row in paths.shares_data(highway).to_dicts()}
    drawn = rows_of(charts.shares(highway))
    assert {row["law"] is not None for row in drawn} == {True, False}
    assert all((row["law"] is not None) == (refusals[row["cell"], row["block"]] == "") for row in drawn)


def test_the_panels_are_orders_and_gains_in_the_order_of_the_docs(highway: Readings):
    expected = [f"{order}, gain {g}" for order in ("before-add", "after-add", "pre-activation") for g in ("1", "1/L")]
    for chart in (charts.shares(highway), charts.path_lengths(highway)):
        assert chart.to_dict()["facet"]["sort"] == expected


def test_lengths_are_drawn_with_the_law_and_the_number_of_paths(highway: Readings):
    known = {(row["cell"], row["length"]): row for row in paths.paths_data(highway).to_dicts()}
    drawn = rows_of(charts.path_lengths(highway))
    assert len(drawn) == len(known) == 6 * 5
    for row in drawn:
        expected = known[row["cell"], row["length"]]
        assert all(same(row[name], expected[name]) for name in ("q50", "pooled", "count"))
        assert same(row["law"], expected["law"] if expected["refusal"] == "" else None)


def test_bands_end_where_they_would_hide_the_lines(highway: Readings):
    table = paths.paths_data(highway)
    for (cell,), part in table.group_by("cell"):
        peak = float(part.select(pl.max_horizontal("q50", "pooled", "law").max()).item())
        ends = [
            row[name] for row in rows_of(charts.path_lengths(highway)) if row["cell"] == cell for name in ("q05", "q95")
        ]
        assert min(ends) >= -0.5 * peak - 1e-6
        assert max(ends) <= 1.5 * peak + 1e-6


def test_every_panel_says_its_mean_length_once(highway: Readings):
    told = [row["told"] for row in rows_of(charts.path_lengths(highway)) if row["told"]]
    assert len(told) == 6
    assert all(note.startswith("m = ") for note in told)
    assert sum(", law " in note for note in told) == sum(not refusal for refusal in refusals_of(highway))
    assert sum(note.endswith(", no law") for note in told) == sum(map(bool, refusals_of(highway)))


def refusals_of(highway: Readings) -> list[str]:
    """Why the law is not drawn, of every cell."""
    return paths.misfit_data(highway).filter(pl.col("estimate") == "typical")["refusal"].to_list()


def test_a_norm_has_no_law_to_draw():
    readings = studies.highway(
        depth=3, width=8, orders=["pre-activation"], gains=[1.0], norms=["layer"], seeds=range(8)
    )
    drawn = rows_of(charts.path_lengths(readings))
    assert {row["law"] for row in drawn} == {None}
    assert any("no law" in (row["told"] or "") for row in drawn)
    assert "dashed" not in str(charts.shares(readings).to_dict()["title"])


# --------------------------------------------------------------------------------------------------------- spectrum


@pytest.mark.parametrize("part", ["body", "network"])
def test_the_spectrum_draws_medians_but_no_zeros(jacobian: Summary, part: Any):
    table = spectra.spectrum_data(jacobian).filter(pl.col("part") == part)
    names = {curve: name for curve, (name, _, _) in charts.CURVES.items()}
    known = {(row["design"], row["depth"], names[row["curve"]]): row for row in table.to_dicts()}
    drawn = rows_of(charts.spectrum(jacobian, part))
    assert len(drawn) == len(known) == 4 * 2 * 4
    for row in drawn:
        expected = known[row["panel"], row["depth"], row["name"]]
        for name in ("q25", "q50", "q75"):
            assert same(row[name], expected[name] or None)
        assert same(row["law"], expected["law"])


def test_a_note_says_which_medians_are_zero(jacobian: Summary):
    told = {row["panel"]: row["told"] for row in rows_of(charts.spectrum(jacobian)) if row["told"] is not None}
    assert "smallest is 0 at all depths" in told["plain"]
    assert "residual, 1/sqrt(L)" not in told


def test_a_median_too_small_to_draw_is_noted_and_leaves_the_axis_to_the_others(jacobian: Summary):
    tiny = 1e-9
    assert tiny < FLOOR
    cells = jacobian.readings.cells.filter(design="residual, 1/sqrt(L)")["cell"].to_list()
    name = pl.col("quantity").str.ends_with("sigma_min") & pl.col("cell").is_in(cells)
    rows = jacobian.readings.rows.with_columns(value=pl.when(name).then(tiny).otherwise("value"))
    small = charts.spectrum(summarise(Readings(rows, jacobian.readings.cells, jacobian.readings.sites)))
    drawn = [row for row in rows_of(small) if row["panel"] == "residual, 1/sqrt(L)"]
    assert any("smallest, not drawn: 1.0 × 10⁻⁹ at d = " in (row["told"] or "") for row in drawn)
    assert {row["q50"] for row in drawn if row["name"] == "smallest"} == {None}
    (low, _) = small.to_dict()["spec"]["layer"][1]["encoding"]["y"]["scale"]["domain"]
    assert low > tiny


def test_designs_come_in_their_order_also_from_a_file(jacobian: Summary):
    shuffled = jacobian.readings.select(design=["residual, layer norm", "residual", "plain"])
    order = charts.spectrum(summarise(shuffled)).to_dict()["facet"]["sort"]
    assert order == ["plain", "residual", "residual, layer norm"]


def test_a_part_that_was_not_measured_is_refused(jacobian: Summary):
    network = summarise(jacobian.readings.select(cell=_cells(jacobian.readings, "network")))
    with pytest.raises(InputError, match="part 'body' was not measured"):
        charts.spectrum(network)


def _cells(readings: Readings, part: str) -> list[str]:
    return readings.cells.filter(pl.col("part") == part)["cell"].to_list()


# ------------------------------------------------------------------------------------------------------ correlation


def test_the_correlation_is_drawn_with_its_interval_and_its_laws(correlation: Readings):
    table = shattering.correlation_data(correlation)
    known = {(row["design"], row["depth"]): row for row in table.to_dicts()}
    drawn = rows_of(charts.correlation(correlation))
    assert len(drawn) == len(known) == 8
    for row in drawn:
        expected = known[row["design"], row["depth"]]
        assert all(same(row[name], expected[name]) for name in ("correlation", "low", "high", "law"))


def test_halving_is_drawn_for_plain_networks_with_batch_norm_alone(correlation: Readings):
    drawn = rows_of(charts.correlation(correlation))
    assert {row["design"] for row in drawn if row["halving"] is not None} == {"plain, batch norm"}
    assert sorted(row["halving"] for row in drawn if row["halving"] is not None) == [0.5**5, 0.5**2]


def test_a_panel_is_a_norm_and_a_design_keeps_its_label(correlation: Readings):
    drawn = rows_of(charts.correlation(correlation))
    assert {(row["panel"], row["label"]) for row in drawn} == {
        ("no norm", "plain"),
        ("no norm", "residual"),
        ("no norm", "residual, 1/sqrt(L)"),
        ("batch norm", "plain"),
    }


@pytest.mark.parametrize(
    ("cosine", "words"), [(0.0, "two orthogonal inputs"), (0.5, "inputs of cosine 0.5"), (None, "two independent")]
)
def test_the_title_names_the_regime(cosine: float | None, words: str):
    readings = studies.correlation(depths=(3,), width=6, designs=["plain"], cosine=cosine, seeds=range(4))
    assert words in charts.correlation(readings).to_dict()["title"]["text"]


def test_inputs_of_several_kinds_are_not_mixed():
    one, other = (
        studies.correlation(depths=(3,), width=6, designs=["plain"], cosine=c, seeds=range(4)) for c in (0.0, 0.5)
    )
    with pytest.raises(InputError, match="several kinds"):
        charts.correlation(Readings.concat([one, other]))


# ------------------------------------------------------------------------------------------------------------ sweep


@pytest.fixture(scope="module")
def sweep() -> Readings:
    return studies.sweep(depths=(4, 8, 12), designs=("plain", "residual", "matched"), width=12, seeds=range(30))


@pytest.mark.parametrize("quantity", ["forward_gain", "backward_gain", "weight_grad_first_last"])
def test_scaling_draws_the_whole_network_at_every_depth(sweep: Readings, quantity: str):
    summary = summarise(sweep)
    site = {"forward_gain": "head", "backward_gain": "input"}.get(quantity, "network")
    known = {row["cell"]: row for row in summary.of(quantity).filter(site=site).to_dicts()}
    drawn = rows_of(charts.scaling(summary, quantity))
    assert len(drawn) == len(known) == 9
    assert {row["panel"] for row in drawn} == {"plain", "residual", "matched"}
    for row in drawn:
        expected = known[row["cell"]]
        assert row["depth"] == expected["depth"]
        assert all(same(row[name], expected[name]) for name in ("q05", "q25", "q50", "q75", "q95", "law_q50"))
        alone = expected["law_q50"] is None and expected["law_rms"] is not None
        assert same(row["law_rms"], expected["law_rms"] if alone else None)
        assert same(row["rms"], expected["rms"] if alone else None)


def test_scaling_has_laws_only_where_they_hold(sweep: Readings):
    summary = summarise(sweep)
    assert "dashed" in str(charts.scaling(summary, "forward_gain").to_dict()["title"]["subtitle"])
    assert "dash-dotted" in str(charts.scaling(summary, "backward_gain").to_dict()["title"]["subtitle"])
    assert "dash" not in str(charts.scaling(summary, "weight_grad_first_last").to_dict()["title"]["subtitle"])
    with pytest.raises(InputError, match="not measured of a whole network"):
        charts.scaling(summarise(studies.flow(depth=4, width=6, seeds=range(2))), "activation_rms")


def test_rates_are_factors_on_the_norm_with_the_law(sweep: Readings):
    known = {(row["design"], row["quantity"]): row for row in trends.rates(sweep).to_dicts()}
    quantities = {"signal, forward": "forward_gain", "gradient, backward": "backward_gain"}
    drawn = rows_of(charts.rates(sweep))
    assert len(drawn) == 3 * 2 * 2
    for row in drawn:
        expected = known[row["label"], quantities[row["panel"]]]
        name, law = {"typical draw": ("rate", "law_rate")}.get(row["of"], ("mean_rate", "law_mean_rate"))
        for shown, column in (("middle", name), ("low", f"{name}_low"), ("high", f"{name}_high"), ("law", law)):
            value = expected[column]
            assert same(row[shown], None if value is None else math.exp(value / 2))
    with pytest.raises(InputError, match="measure two at least"):
        charts.rates(sweep.select(depth=[4]))


def test_the_axis_of_rates_holds_all_and_has_ticks(sweep: Readings):
    (spec,) = {str(layer["encoding"]["x"]["scale"]["domain"]) for layer in _layers(charts.rates(sweep))}
    low, high = map(float, spec.strip("[]").split(","))
    values = [row[name] for row in rows_of(charts.rates(sweep)) for name in ("low", "high") if row[name] is not None]
    assert low < min(*values, 1.0)
    assert max(*values, 1.0) < high
    ticks = _layers(charts.rates(sweep))[0]["encoding"]["x"]["axis"]["values"]
    assert len(ticks) >= 2
    assert 1.0 in ticks


def _layers(chart: alt.FacetChart) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chart.to_dict()["spec"]["layer"]
    return found


def test_contradictions_draw_the_shares(sweep: Readings):
    known = {
        (f"{row['against']} against {row['design']}", row["depth"]): row
        for row in trends.contradictions(sweep).to_dicts()
    }
    drawn = rows_of(charts.contradictions(sweep))
    assert len(drawn) == len(known) == 6
    for row in drawn:
        expected = known[row["panel"], row["depth"]]
        assert all(same(row[name], expected[name]) for name in ("contradicts", "low", "high"))
    with pytest.raises(InputError, match="one with them"):
        charts.contradictions(sweep.select(design=["residual"]))


def test_kinds_name_what_differs_but_not_the_depth(sweep: Readings):
    other = studies.sweep(depths=(4, 8), designs=("plain",), width=12, init="xavier", seeds=range(4))
    named = charts.kinds(Readings.concat([sweep, other]))
    assert set(named.values()) == {"plain, init he", "plain, init xavier", "residual", "matched"}
    assert len(named) == 11


# ------------------------------------------------------------------------------------------------------- all of them


def test_all_are_drawn_and_told(highway: Readings, jacobian: Summary, correlation: Readings, sweep: Readings):
    all_charts = [charts.shares(highway), charts.path_lengths(highway), charts.spectrum(jacobian)]
    all_charts += [charts.scaling(summarise(sweep)), charts.rates(sweep), charts.contradictions(sweep)]
    for chart in [*all_charts, charts.correlation(correlation)]:
        assert chart.to_dict()["description"].endswith(".")
        assert "seeds" in chart.to_dict()["description"]
        with pytest.raises(InputError, match="columns"):
            charts.shares(highway, columns=0)
