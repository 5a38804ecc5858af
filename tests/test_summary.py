"""Summaries: the statistics against NumPy and SciPy, the laws against networks that obey them or do not."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from skipscope import Spec, build, losses, probe, readings, studies, theory
from skipscope.errors import InputError
from skipscope.readings import Readings
from skipscope.summary import FALSE_ALARM, QUANTILES, Summary, median_ranks, summarise, with_median_interval, z_limit

LAW = [f"law_{name}" for name in ("rms", *QUANTILES, "log_mean", "log_sd")]


def readings_of(values: Mapping[str, Sequence[float]], *, step: int = 0, **factors: Any) -> Readings:
    """One cell, one site; a quantity has its values at the seeds 0, 1, ..."""
    rows = [
        ("cell", seed, step, "here", 0, quantity, float(value))
        for quantity, listed in values.items()
        for seed, value in enumerate(listed)
    ]
    site = ("cell", "here", 3, 2, "layer", "a layer", "relu", 0, "", "measured")
    return Readings(
        rows=pl.DataFrame(rows, schema=readings.ROWS, orient="row"),
        cells=pl.DataFrame([{"cell": "cell", **factors}], schema=readings.CELLS, orient="row"),
        sites=pl.DataFrame([site], schema=readings.SITES, orient="row"),
    )


def row_of(values: Sequence[float]) -> dict[str, Any]:
    """The summary of one quantity at one site."""
    return summarise(readings_of({"mine": values})).of("mine").row(0, named=True)


def plain(depth: int, seeds: int, **fields: Any) -> Readings:
    """Gradient flow of a plain network of width 16."""
    return studies.flow(depth=depth, width=16, features=16, designs=["plain"], seeds=range(seeds), **fields)


def law_rows(summary: Summary) -> pl.DataFrame:
    return summary.table.filter(pl.col("quantity").is_in(["forward_gain", "backward_gain"]))


# ----------------------------------------------------------------------------------------------------------- quantiles


@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=40))
def test_quantiles_are_numpys(values: list[float]):
    row = row_of(values)

    expected = np.quantile(values, list(QUANTILES.values()))
    scale = max(map(abs, values))  # interpolation between two values rounds in units of the larger
    np.testing.assert_allclose([row[name] for name in QUANTILES], expected, rtol=1e-12, atol=1e-15 * scale)
    assert (row["n"], row["nonfinite"]) == (len(values), 0)


@given(st.lists(st.floats(1e-100, 1e100), min_size=2, max_size=40))
def test_log_moments_are_those_of_the_square(values: list[float]):
    row = row_of(values)

    logs = np.log(np.square(values))
    assert row["log_mean"] == pytest.approx(logs.mean(), rel=1e-12, abs=1e-12)
    assert row["log_sd"] == pytest.approx(logs.std(ddof=1), rel=1e-9, abs=1e-9)


def test_what_is_not_finite_is_counted_and_left_out():
    row = row_of([1.0, math.nan, 3.0, math.inf, 2.0, -math.inf])

    assert (row["n"], row["nonfinite"], row["zeros"]) == (3, 3, 0)
    assert (row["q05"], row["q50"], row["q95"]) == (1.1, 2.0, 2.9)
    assert row["log_mean"] == pytest.approx(2 * math.log(6) / 3)


def test_zeros_are_counted_and_have_no_logarithm():
    row = row_of([0.0, -0.0, 4.0, math.e])

    assert (row["n"], row["zeros"], row["nonfinite"]) == (4, 2, 0)
    assert row["q50"] == math.e / 2
    assert row["log_mean"] == pytest.approx((2 * math.log(4) + 2) / 2)


def test_where_nothing_is_finite_there_are_no_statistics():
    row = row_of([math.nan, math.inf])

    assert (row["n"], row["nonfinite"]) == (0, 2)
    assert {row[name] for name in (*QUANTILES, "median_low", "median_high", "log_mean", "log_sd", "z")} == {None}


def test_negative_values_have_quantiles_and_no_logarithm():
    row = row_of([-1.0, -2.0, -3.0])

    assert (row["q50"], row["log_mean"], row["log_sd"]) == (-2.0, None, None)


def test_one_seed_has_no_spread():
    row = row_of([2.0])

    assert {row[name] for name in QUANTILES} == {2.0}
    assert row["log_sd"] is None


def test_a_row_says_where_it_was_measured():
    row = row_of([1.0])

    assert (row["site"], row["site_order"], row["site_depth"], row["kind"]) == ("here", 3, 2, "layer")
    assert (row["activation"], row["block"], row["step"], row["call"]) == ("relu", 0, 0, 0)


def test_no_readings_give_an_empty_summary():
    summary = summarise(Readings.concat([]))

    assert summary.table.is_empty()
    assert summary.laws.is_empty()
    assert set(LAW) <= set(summary.table.columns)


def test_steps_and_quantities_are_kept_apart():
    parts = [readings_of({"one": [1.0, 1.0], "two": [2.0, 4.0]}, step=step) for step in (0, 7)]

    table = summarise(Readings.concat(parts)).table

    assert table.select("step", "quantity", "q50").rows() == [
        (0, "one", 1),
        (0, "two", 3),
        (7, "one", 1),
        (7, "two", 3),
    ]


def test_of_is_in_order_of_depth():
    summary = summarise(plain(5, 3))

    assert summary.of("forward_gain")["site"].to_list() == [
        "input", "stem", "stage1.block1.layer1", "stage1.block1", "stage1.block2.layer1", "stage1.block2",
        "stage1.block3.layer1", "stage1.block3", "head",
    ]  # fmt: skip


def test_of_an_unknown_quantity_lists_what_there_is():
    with pytest.raises(InputError, match=r"quantity 'two' is not in these readings; they hold mine\.$"):
        summarise(readings_of({"mine": [1.0]})).of("two")


# --------------------------------------------------------------------------------------------- interval of the median


@pytest.mark.parametrize("n", [*range(1, 130), 200, 999, 2000, 20_001])
def test_median_ranks_are_the_tightest_binomial_ones(n: int):
    ranks = median_ranks(n)

    if ranks is None:
        # Even the extremes miss the median with more than 5 %: all above it, or all below.
        assert 2 * stats.binom.cdf(0, n, 0.5) > 0.05
        assert n < 6
        return
    low, high = ranks
    assert low + high == n - 1
    assert 2 * stats.binom.cdf(low, n, 0.5) <= 0.05
    assert 2 * stats.binom.cdf(low + 1, n, 0.5) > 0.05


def test_median_ranks_at_another_level():
    low, high = median_ranks(50, level=0.5) or (0, 0)

    assert 2 * stats.binom.cdf(low, 50, 0.5) <= 0.5 < 2 * stats.binom.cdf(low + 1, 50, 0.5)
    assert low + high == 49


@pytest.mark.parametrize("n", [6, 20, 45])
def test_the_interval_covers_the_median(n: int, rng: np.random.Generator):
    many = 4000
    drawn = np.sort(rng.exponential(size=(many, n)))

    table = with_median_interval(pl.DataFrame({"drawn": drawn.tolist()}), "drawn", "low", "high")

    covered = float((table["low"].to_numpy() <= math.log(2)).__and__(table["high"].to_numpy() >= math.log(2)).mean())
    low, _ = median_ranks(n) or (0, 0)
    exact = 1 - 2 * stats.binom.cdf(low, n, 0.5)
    assert exact >= 0.95
    assert covered == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / many))  # 4 binomial standard errors


def test_the_interval_is_made_of_values():
    values = list(range(20, 0, -1))

    row = row_of(values)

    low, high = median_ranks(20) or (0, 0)
    assert (row["median_low"], row["median_high"]) == (sorted(values)[low], sorted(values)[high]) == (6, 15)


@pytest.mark.parametrize("n", range(1, 8))
def test_few_values_have_no_interval(n: int):
    row = row_of([1.0] * n)

    expected = None if n < 6 else 1.0
    assert (row["median_low"], row["median_high"]) == (expected, expected)


def test_only_finite_values_count_for_the_interval():
    assert row_of([1.0] * 5 + [math.inf] * 5)["median_low"] is None


# ------------------------------------------------------------------------------------------------------------ the laws


def test_z_by_hand():
    measured = plain(6, 40)

    row = summarise(measured).of("forward_gain").filter(pl.col("site") == "stage1.block3").row(0, named=True)

    gains = measured.select(site="stage1.block3", quantity="forward_gain").rows["value"].to_numpy()
    spec = Spec.from_json(measured.cells["spec"][0])
    law = theory.laws(spec)[0].table.filter(pl.col("site") == "stage1.block3").row(0, named=True)
    logs = np.log(gains**2)
    expected = (logs.mean() - law["log_mean"]) / (math.sqrt(law["log_variance"]) / math.sqrt(40))
    assert row["z"] == pytest.approx(expected, rel=1e-12)
    assert row["law_log_sd"] == pytest.approx(math.sqrt(law["log_variance"]), rel=1e-15)
    assert {name: row[f"law_{name}"] for name in QUANTILES} == {name: law[name] for name in QUANTILES}


def test_z_counts_only_the_seeds_in_which_something_arrives():
    spec = Spec.dense(width=16, blocks=4, layers=1, shortcut="none", features=16)
    measured = probe(build(spec, seed=range(30)), 1)
    at_block = (pl.col("site") == "stage1.block2") & (pl.col("quantity") == "forward_gain")
    dead = measured.rows.with_columns(
        value=pl.when(at_block & (pl.col("seed") < 10)).then(0.0).otherwise(pl.col("value"))
    )

    row = (
        summarise(Readings(rows=dead, cells=measured.cells, sites=measured.sites))
        .of("forward_gain")
        .filter(pl.col("site") == "stage1.block2")
        .row(0, named=True)
    )

    assert (row["n"], row["zeros"]) == (30, 10)
    assert row["z"] == pytest.approx((row["log_mean"] - row["law_log_mean"]) / (row["law_log_sd"] / math.sqrt(20)))


@pytest.mark.parametrize("fields", [{}, {"output": "linear"}, {"init": "lecun"}, {"init": "xavier"}], ids=str)
def test_the_measurement_obeys_the_law_at_every_site(fields: dict[str, Any]):
    summary = summarise(plain(12, 300, **fields))

    rows = law_rows(summary).filter(pl.col("z").is_not_null())

    assert set(summary.laws["refusal"]) == {""}
    # 12 layers, 10 blocks and, backward, the input: all but the ends, whose gain to themselves is 1.
    assert rows.group_by("quantity").len().sort("quantity").rows() == [("backward_gain", 22), ("forward_gain", 22)]
    # A true law exceeds 4 in 6e-5 of comparisons, here 44 which depend on each other.
    assert float(rows["z"].abs().max()) < 4  # type: ignore[arg-type]


def test_a_wrong_law_is_found_out():
    measured = plain(12, 300)
    spec = json.loads(measured.cells["spec"][0])
    claimed = measured.cells.with_columns(spec=pl.lit(json.dumps(spec | {"init": "lecun"}, sort_keys=True)))

    rows = law_rows(summarise(Readings(rows=measured.rows, cells=claimed, sites=measured.sites)))

    # After l layers the law is ln(2) l too low, and its standard error at most sqrt(0.42 l / 300): z is 18 sqrt(l).
    far = rows.filter(~pl.col("site").is_in(["input", "head"]))
    assert float(far["z"].abs().min()) > 10  # type: ignore[arg-type]


def test_a_gain_of_1_by_definition_has_no_z():
    table = summarise(plain(6, 20)).table

    to_itself = table.filter((pl.col("quantity") == "backward_gain") & (pl.col("site") == "head")).row(0, named=True)
    entrance = table.filter((pl.col("quantity") == "forward_gain") & (pl.col("site") == "input")).row(0, named=True)

    assert (to_itself["law_log_mean"], to_itself["law_log_sd"], to_itself["z"]) == (0, 0, None)
    assert (entrance["law_log_mean"], entrance["z"]) == (None, None)


def test_the_limit_of_one_look_is_the_normal_quantile():
    assert z_limit(1) == pytest.approx(2.5758, abs=1e-4)  # 1 % outside, both sides together
    # Student's t with 29 degrees of freedom, as tables have it.
    assert z_limit(1, 30) == pytest.approx(2.7564, abs=1e-4)
    assert z_limit(100, 10**7) == pytest.approx(z_limit(100), rel=1e-4)


@pytest.mark.parametrize("looks", [1, 5, 60, 1000])
def test_the_largest_of_true_z_passes_the_limit_as_often_as_it_may(looks: int, rng: np.random.Generator):
    # Independent z pass with probability FALSE_ALARM exactly. Of 20,000 reports that is 200 with a standard deviation
    # of 14; those whose looks are alike pass less often.
    reports = 20_000
    worst = np.array([np.abs(rng.standard_normal(looks)).max() for _ in range(reports)])
    assert abs((worst > z_limit(looks)).sum() - FALSE_ALARM * reports) < 4 * 14.1
    common = rng.standard_normal(reports)
    alike = np.abs(0.8 * common + 0.6 * rng.standard_normal((min(looks, 60), reports))).max(axis=0)
    assert (alike > z_limit(min(looks, 60))).mean() < 1.4 * FALSE_ALARM


def test_the_limit_is_wider_where_the_error_is_estimated(rng: np.random.Generator):
    # 20 draws a look and 40 looks: the t of 4,000 reports pass in 1 % of them, 40 with a standard deviation of 6.3.
    draws = rng.standard_normal((4000, 40, 20))
    t = draws.mean(axis=2) / draws.std(axis=2, ddof=1) * 20**0.5
    worst = np.abs(t).max(axis=1)
    assert abs((worst > z_limit(40, 20)).sum() - 40) < 4 * 6.3
    assert (worst > z_limit(40)).mean() > 3 * FALSE_ALARM


def test_looks_and_draws_must_be_there():
    with pytest.raises(InputError, match="looks must be at least 1"):
        z_limit(0)
    with pytest.raises(InputError, match="draws must be 2 at least"):
        z_limit(1, 1)


def test_a_law_is_drawn_only_beside_its_own_quantity():
    summary = summarise(plain(6, 20))

    others = summary.table.filter(~pl.col("quantity").is_in(["forward_gain", "backward_gain"]))

    assert others.height
    assert others.select(pl.col(*LAW, "z").is_null().all()).row(0) == (True,) * 9


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "residual tanh": ({"designs": ["residual"], "activation": "tanh"}, "The activation in the stem is tanh"),
    "norm": ({"norm": "layer"}, "There is a layer norm in the stem"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_law_that_does_not_hold_says_why_and_is_not_drawn(case: str):
    fields, reason = REFUSED[case]
    usual: dict[str, Any] = {"depth": 6, "width": 8, "designs": ["plain"], "seeds": range(6)}

    summary = summarise(studies.flow(**(usual | fields)))

    assert summary.laws.height == 2
    assert all(reason in refusal for refusal in summary.laws["refusal"])
    assert summary.table.select(pl.col(*LAW, "z").is_null().all()).row(0) == (True,) * 9


MEANS = [f"law_{name}" for name in (*QUANTILES, "log_mean", "log_sd")]


@pytest.mark.parametrize("fields", [{"batch": 2}, {"init": "torch"}, {"activation": "tanh", "features": 64}], ids=str)
def test_a_law_of_means_is_compared_with_the_mean_square(fields: dict[str, Any]):
    usual: dict[str, Any] = {"depth": 5, "width": 64, "designs": ["plain"], "seeds": range(200)}
    measured = studies.flow(**(usual | fields))

    summary = summarise(measured)

    assert set(summary.laws["kind"]) <= {"exact in mean", "asymptotic in width"}
    rows = law_rows(summary).filter(pl.col("law_rms").is_not_null())
    assert rows.height == 17  # 9 sites backward, of which the head is the cotangent itself, and 8 forward
    assert rows.select(pl.col(*MEANS).is_null().all()).row(0) == (True,) * 7
    assert rows["z"].null_count() == 1
    assert float(rows["z"].abs().max()) < 4  # type: ignore[arg-type]
    row = rows.filter(pl.col("site") == "stage1.block1", pl.col("quantity") == "backward_gain").row(0, named=True)
    squares = measured.select(site="stage1.block1", quantity="backward_gain").rows["value"].to_numpy() ** 2
    error = squares.std(ddof=1) / math.sqrt(200)
    assert row["z"] == pytest.approx((squares.mean() - row["law_rms"] ** 2) / error, rel=1e-9)
    assert row["rms"] == pytest.approx(math.sqrt(squares.mean()), rel=1e-12)
    assert row["rms_error"] == pytest.approx(error / (2 * row["rms"]), rel=1e-9)


def test_a_wrong_mean_is_found_out():
    measured = studies.flow(depth=5, width=64, designs=["plain"], seeds=range(200), batch=2)
    off = measured.rows.with_columns(value=pl.col("value") * 1.5)

    rows = law_rows(summarise(Readings(rows=off, cells=measured.cells, sites=measured.sites)))

    # Squares are 2.25 times the law's, and fluctuate from draw to draw by less than their own size.
    assert float(rows.filter(pl.col("z").is_not_null())["z"].min()) > 9  # type: ignore[arg-type]


def test_a_mean_that_few_draws_carry_is_not_compared():
    # 29 draws cannot be 30; and in 20 residual blocks of width 8 the largest of 100 squares is most of their sum.
    few = studies.flow(depth=4, width=16, designs=["plain"], seeds=range(29), batch=2)
    heavy = studies.flow(depth=20, width=8, designs=["residual"], seeds=range(100)).select(site="stem")

    for summary in (summarise(few), summarise(heavy.select(quantity="backward_gain"))):
        assert summary.table["law_rms"].null_count() < summary.table.height
        assert summary.table["z"].null_count() == summary.table.height


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_rms_holds_where_squares_do_not(scale: float):
    row = row_of([3 * scale, 0.0, -4 * scale, math.inf])

    assert row["rms"] == pytest.approx(scale * math.sqrt(25 / 3), rel=1e-12)
    assert row["rms_error"] == pytest.approx(scale * np.std([9, 0, 16], ddof=1) / math.sqrt(3) / 2 / math.sqrt(25 / 3))


def test_the_rms_of_nothing():
    assert (row_of([0.0, 0.0])["rms"], row_of([0.0, 0.0])["rms_error"]) == (0, None)
    assert (row_of([math.nan])["rms"], row_of([math.nan])["rms_error"]) == (None, None)


def test_given_samples_have_no_known_scale():
    network = build(Spec.dense(width=16, blocks=2, shortcut="none", activation="tanh"), seed=range(4))

    laws = summarise(probe(network, np.ones((1, 16)))).laws

    assert all("scale of the input is not known" in refusal for refusal in laws["refusal"])


def test_laws_carry_their_statement_and_source():
    laws = summarise(plain(6, 6)).laws

    assert set(laws["quantity"]) == {"forward_gain", "backward_gain"}
    for row in laws.iter_rows(named=True):
        assert row["law"].startswith("(a) plain network")
        assert row["statement"]
        assert "1812.05994" in row["source"]


def test_the_sharpest_law_that_holds_is_drawn():
    gaussian, ones = (summarise(plain(6, 6, cotangent=kind)).laws for kind in ("gaussian", "ones"))

    named = [dict(zip(laws["quantity"], laws["kind"], strict=True)) for laws in (gaussian, ones)]
    assert named[0] == {"forward_gain": "exact in law", "backward_gain": "exact in law"}
    assert named[1] == {"forward_gain": "exact in law", "backward_gain": "exact in mean"}
    assert set(gaussian["bias"]) | set(gaussian["refusal"]) == {""}


def test_an_edited_network_has_no_law():
    network = build(Spec.dense(width=8, blocks=3), seed=range(6))
    with network.gains(shortcut=0):
        summary = summarise(probe(network, 1))

    assert summary.laws.is_empty()
    assert summary.table["z"].is_null().all()


def test_a_loss_has_no_law(rng: np.random.Generator):
    network = build(Spec.dense(width=8, blocks=3, layers=1, shortcut="none"), seed=range(6))
    batch = rng.standard_normal((1, 8)), rng.standard_normal((1, 8))

    summary = summarise(probe(network, batch, loss=losses.MeanSquaredError()))

    assert summary.laws.is_empty()
    assert summary.table["z"].is_null().all()


def test_the_law_is_about_the_network_as_drawn():
    measured = plain(6, 6)
    later = measured.rows.with_columns(step=pl.lit(100, pl.Int64))
    both = measured + Readings(rows=later, cells=measured.cells, sites=measured.sites)

    rows = law_rows(summarise(both)).with_columns(drawn=pl.col("law_log_mean").is_not_null())

    assert set(rows.filter("drawn")["step"]) == {0}
    assert (
        rows.filter("drawn").height == 21
    )  # 11 sites either way, but the input, whose signal has nothing to be compared with
    assert rows.filter(step=0).height == rows.filter(step=100).height


def test_readings_without_a_spec_have_no_law():
    summary = summarise(readings_of({"forward_gain": [1.0, 2.0]}))

    assert summary.laws.is_empty()


# --------------------------------------------------------------------------------------------------------------- speed


def test_a_million_readings_are_summarised_without_a_loop_over_rows():
    sites, quantities, seeds = 100, 50, 200
    size = sites * quantities * seeds
    index: NDArray[np.int64] = np.arange(size)
    names = pl.DataFrame({"site": [f"site{i}" for i in range(sites)]})
    rows = pl.DataFrame(
        {
            "cell": pl.repeat("cell", size, eager=True),
            "seed": index % seeds,
            "step": np.zeros(size, np.int64),
            "site": names["site"][index // (quantities * seeds)],
            "call": np.zeros(size, np.int64),
            "quantity": pl.Series([f"q{i}" for i in range(quantities)])[index // seeds % quantities],
            "value": np.random.default_rng(0).standard_normal(size),
        }
    )
    place = [("cell", f"site{i}", i, i, "layer", "", "relu", 0, "", "measured") for i in range(sites)]
    large = Readings(
        rows=rows,
        cells=pl.DataFrame([{"cell": "cell"}], schema=readings.CELLS),
        sites=pl.DataFrame(place, schema=readings.SITES, orient="row"),
    )

    started = time.process_time()
    table = summarise(large).table
    spent = time.process_time() - started

    assert table.height == sites * quantities
    assert table["n"].unique().to_list() == [seeds]
    # It takes 0.3 s of processor time; a loop over a million rows in Python takes 10 s and more.
    assert spent < 5
