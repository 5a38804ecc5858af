"""Trends over depth: fits against numbers that are known, intervals over seeds, and verdicts that can be wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from skipscope import InputError, Spec, design, studies, summarise, trends
from skipscope.diagnosis import Finding
from skipscope.readings import CELLS, SITES, Readings

WIDTH, FEATURES = 8, 4
SITE = {"forward_gain": "head", "backward_gain": "input"}


def made(values: dict[tuple[str, int, str], Any], **fields: Any) -> Readings:
    """Readings of whole networks: (design, depth, quantity) -> the values of seeds 0, 1, ...; None is no reading."""
    cells: list[dict[str, Any]] = []
    rows: list[tuple[Any, ...]] = []
    for name, depth in dict.fromkeys((name, depth) for name, depth, _ in values):
        spec = design(name, depth=depth, width=WIDTH, features=FEATURES, output="relu", **fields)
        cell = f"{name}-{depth}-{spec.init}"
        told: dict[str, Any] = {
            "study": "sweep",
            "design": name,
            "depth": depth,
            "width": WIDTH,
            "batch": 1,
            "cotangent": "gaussian",
        }
        rest = {"gain": "", "norm": "none", "data": "gaussian", "edit": "", "dtype": "float64"}
        cells.append({"cell": cell, "spec": spec.to_json(), **told, **rest})
    for (name, depth, quantity), given in values.items():
        cell = next(each["cell"] for each in cells if (each["design"], each["depth"]) == (name, depth))
        for seed, value in enumerate(given):
            if value is not None:
                site = SITE.get(quantity, "network")
                rows.append((cell, seed, 0, site, 0, quantity, float(value)))
    table = pl.DataFrame(
        rows, schema=["cell", "seed", "step", "site", "call", "quantity", "value"], orient="row"
    ).with_columns(pl.col("seed", "step", "call").cast(pl.Int64), pl.col("value").cast(pl.Float64))
    places = table.select("cell", "site").unique()
    sites = pl.DataFrame(
        [(cell, site, 0, 0, "layer", "", "", 0, "", "measured") for cell, site in places.iter_rows()],
        schema=SITES,
        orient="row",
    )
    return Readings(rows=table, cells=pl.DataFrame(cells, schema=CELLS), sites=sites)


def gains(
    logs: Any, depths: list[int], quantity: str = "forward_gain", name: str = "residual", **fields: Any
) -> Readings:
    """Gains whose ln of the square are `logs`, of shape (s, depths)."""
    values = np.exp(np.asarray(logs) / 2)
    return made({(name, depth, quantity): list(values[:, i]) for i, depth in enumerate(depths)}, **fields)


def rate(readings: Readings, **where: Any) -> dict[str, Any]:
    return trends.rates(readings).filter(**where).row(0, named=True)


# --------------------------------------------------------------------------------------------------------------- rates

DEPTHS = [3, 5, 10]
BLOCKS = np.array(DEPTHS)  # of the residual design: d


def test_a_straight_line_has_its_slope(rng: np.random.Generator):
    slopes, starts = rng.normal(0.3, 0.1, 25), rng.normal(0.0, 1.0, 25)
    found = rate(gains(starts[:, None] + np.outer(slopes, BLOCKS), DEPTHS))
    ends = stats.t.interval(0.95, 24, slopes.mean(), stats.sem(slopes))

    assert (found["n"], found["left_out"], found["depths"], found["blocks"], found["span"]) == (25, 0, 3, 10, 7)
    assert found["rate"] == pytest.approx(slopes.mean(), abs=1e-12)
    assert (found["rate_low"], found["rate_high"]) == pytest.approx(ends, abs=1e-12)
    assert found["rate_sd"] == pytest.approx(slopes.std(ddof=1), abs=1e-12)


def test_the_slope_is_by_least_squares(rng: np.random.Generator):
    logs = rng.normal(size=(6, 3))
    expected = np.polyfit(BLOCKS, logs.T, 1)[0]

    assert rate(gains(logs, DEPTHS))["rate"] == pytest.approx(expected.mean(), abs=1e-12)


def test_blocks_count_and_not_depths():
    logs = np.outer([1.0, 1.0, 1.0], [0.2, 0.6])  # 1 and 3 blocks of a plain network of depths 3 and 5

    found = rate(gains(logs, [3, 5], name="plain"))
    assert found["rate"] == pytest.approx(0.2, abs=1e-12)
    assert (found["blocks"], found["span"]) == (3, 2)


def test_more_depths_of_the_same_draws_make_no_interval_narrower(rng: np.random.Generator):
    """The depths of a seed share their draw: to count them as independent would be to shrink the interval."""
    slopes = rng.normal(0.0, 0.1, 30)
    few, many = [3, 40], list(range(3, 41))
    widths = []
    for depths in (few, many):
        found = rate(gains(np.outer(slopes, depths), depths))
        widths.append(found["rate_high"] - found["rate_low"])

    assert widths[1] == pytest.approx(widths[0], rel=1e-9)


def test_the_rate_of_the_mean_square_is_that_of_log_normal_draws(rng: np.random.Generator):
    """ln E[exp y] = E y + Var y / 2 of a sum of independent normal increments: mean m and variance v a block."""
    m, v, seeds = -0.1, 0.2, 4000
    steps = rng.normal(m, math.sqrt(v), (seeds, 10))
    logs = steps.cumsum(axis=1)[:, BLOCKS - 1]
    found = rate(gains(logs, DEPTHS))
    error = (found["mean_rate_high"] - found["mean_rate"]) / 1.96

    # The interval must hold the truth, m + v / 2 = 0, and tell it from m: 3 standard errors, and 10.
    assert abs(found["mean_rate"]) < 3 * error
    assert found["mean_rate"] - 10 * error > m
    # By the definition: the slope over depth of mean + variance / 2.
    expected = np.polyfit(BLOCKS, logs.mean(axis=0) + logs.var(axis=0, ddof=1) / 2, 1)[0]
    assert found["mean_rate"] == pytest.approx(expected, abs=1e-12)


def test_a_seed_without_a_ratio_is_left_out_at_all_depths():
    logs = np.array([[0.3, 0.5, 1.0], [0.9, 1.5, 3.0], [0.6, 1.0, 2.0], [0.6, 1.0, 2.0], [0.6, 1.0, 2.0]])
    values: dict[tuple[str, int, str], Any] = {
        ("residual", depth, "forward_gain"): list(np.exp(logs[:, i] / 2)) for i, depth in enumerate(DEPTHS)
    }
    values["residual", 10, "forward_gain"][2] = 0.0
    values["residual", 5, "forward_gain"][3] = math.inf
    values["residual", 3, "forward_gain"][4] = None
    found = rate(made(values))

    assert (found["n"], found["left_out"]) == (2, 3)
    assert found["rate"] == pytest.approx(0.2, abs=1e-12)


def test_one_seed_has_no_interval():
    found = rate(gains([[0.3, 0.5, 1.0]], DEPTHS))

    assert found["n"] == 1
    assert found["rate"] is found["rate_low"] is found["z"] is None


def test_one_depth_is_no_trend():
    assert trends.rates(gains([[0.3], [0.4]], [3])).is_empty()


def test_networks_of_another_kind_are_not_mixed():
    he = gains(np.outer(np.ones(3), 0.5 * BLOCKS), DEPTHS)
    lecun = gains(np.outer(np.ones(3), 0.1 * BLOCKS), DEPTHS, init="lecun")
    found = trends.rates(he + lecun)

    assert dict(found.select("subject", pl.col("rate").round(12)).iter_rows()) == {
        "the residual design (width 8)": 0.5,
        "the residual design (width 8, init lecun)": 0.1,
    }


def test_the_law_and_the_rate_agree_to_a_twentieth():
    """Law (a), which an error of 5 % in the rate must fail.

    At width 16 the slope over depths 4, 16, 28 has a standard deviation over seeds of 0.9 times the rate, -0.176: with
    9,000 seeds 5 % are 5 standard errors, and the test is at 3.
    """
    readings = studies.sweep(designs=["plain"], depths=[4, 16, 28], width=16, seeds=range(9_000))
    for quantity in ("forward_gain", "backward_gain"):
        found = rate(readings, quantity=quantity)
        error = found["rate_sd"] / math.sqrt(found["n"])

        assert found["law_rate"] == pytest.approx(-0.17640, abs=5e-6)  # docs, What theory predicts
        assert 5 * error < 0.05 * abs(found["law_rate"])
        assert found["z"] == pytest.approx((found["rate"] - found["law_rate"]) / error)
        assert abs(found["z"]) < 3
        assert abs(found["rate"] - 1.1 * found["law_rate"]) > 3 * error


def test_where_no_law_holds_there_is_no_z():
    readings = studies.sweep(designs=["plain"], depths=[4, 6], width=8, seeds=range(20), norm="layer")
    found = rate(readings, quantity="backward_gain")

    assert found["rate"] is not None
    assert found["law"] is found["law_rate"] is found["law_mean_rate"] is found["z"] is None
    refused = trends.misfit(readings).filter(quantity="backward_gain")
    assert (refused["refusal"].str.len_chars() > 20).all()
    assert refused["z"].null_count() == refused.height == 2


def test_a_law_of_the_mean_square_has_a_rate_and_no_z():
    """E |out|^2 = (1 + g2) |x|^2 a block: linear blocks of two He layers have g2 = 4."""
    linear: dict[str, Any] = {"activation": "linear", "output": "linear"}
    readings = studies.sweep(designs=["residual"], depths=[2, 4, 6], width=24, seeds=range(400), **linear)
    found = rate(readings, quantity="forward_gain")

    assert found["law_mean_rate"] == pytest.approx(math.log(5), abs=1e-9)
    assert found["law_rate"] is found["z"] is None
    # Not a test of the law: at width 24 draws are nearly log-normal, and six blocks nearly seen in 400 draws.
    assert found["mean_rate"] == pytest.approx(math.log(5), abs=0.05)
    assert "law of the signal" not in {finding.rule for finding in trends.findings(readings)}
    assert "The law in root mean square is 2.24 a block." in trends.findings(readings)[0].statement


# ------------------------------------------------------------------------------------------------- by depth, and misfit


def test_by_depth_is_the_summary():
    readings = studies.sweep(depths=[3, 5], width=8, seeds=range(30))
    found = trends.by_depth(readings)
    table = summarise(readings).table.filter(pl.col("quantity") != "parameters")

    assert set(found.select("design", "depth", "blocks").rows()) == {
        ("plain", 3, 1),
        ("plain", 5, 3),
        ("residual", 3, 3),
        ("residual", 5, 5),
    }
    joined = found.join(table, on=["design", "depth", "quantity"], suffix="_summary")
    assert len(joined) == len(found) == 4 * 5
    for name in ("n", "q50", "median_low", "median_high", "q05", "q95", "z"):
        assert joined[name].equals(joined[f"{name}_summary"], check_names=False), name


def test_sites_of_a_flow_are_left_out():
    flow = studies.flow(depth=5, width=8, designs=["plain"], seeds=range(10))

    assert set(trends.by_depth(flow).select("quantity").to_series()) == {
        *("forward_growth", "backward_growth", "forward_gain", "backward_gain", "weight_grad_first_last")
    }


def test_misfit_is_the_z_of_the_summary():
    readings = studies.sweep(designs=["plain"], depths=[3, 5], width=8, seeds=range(30))
    found = trends.misfit(readings)

    assert found.height == 4
    assert found["refusal"].to_list() == [""] * 4
    by_depth = trends.by_depth(readings).join(found, on=["depth", "quantity"], suffix="_misfit")
    assert by_depth["z"].equals(by_depth["z_misfit"], check_names=False)
    assert by_depth.height == 4


def test_readings_of_sites_alone_are_refused():
    flow = studies.flow(depth=5, width=8, designs=["plain"], seeds=range(3), quantities=["activation_rms"])

    for function in (trends.by_depth, trends.rates, trends.misfit, trends.findings):
        with pytest.raises(InputError, match="nothing of a whole network: measure forward_growth"):
            function(flow)


# ------------------------------------------------------------------------------------------------------ contradictions

RATIO = "weight_grad_first_last"


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (5, 5), (1, 7), (130, 500), (10, 20)])
def test_the_interval_of_a_share_is_wilsons(successes: int, n: int):
    known = stats.binomtest(successes, n).proportion_ci(method="wilson")

    assert trends.wilson(successes, n) == pytest.approx((known.low, known.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_a_share_of_nothing_is_refused(successes: int, n: int):
    with pytest.raises(InputError, match="successes must be between 0 and n"):
        trends.wilson(successes, n)


def test_a_plain_network_is_paired_with_the_residual_one_of_the_next_seed():
    readings = made({("plain", 4, RATIO): [1.0, 2.0, 3.0, 4.0], ("residual", 4, RATIO): [8.0, 4.0, 1.0, 2.0]})
    row = trends.contradictions(readings).row(0, named=True)
    # N: 1/4, 2/1, 3/2, 4/8
    assert (row["design"], row["against"], row["depth"], row["n"], row["left_out"]) == ("plain", "residual", 4, 4, 0)
    assert row["contradicts"] == 0.5
    assert (row["low"], row["high"]) == trends.wilson(2, 4)
    assert row["N"] == pytest.approx(math.sqrt(0.5 * 1.5))
    assert row["nearer"] == 0.5  # |ln 1| < |ln 4|, |ln 2| > 0, |ln 3| > |ln 2|, |ln 4| < |ln 8|


def test_a_dead_network_takes_its_pair_out():
    readings = made({("plain", 4, RATIO): [1.0, 0.0, 3.0, 4.0], ("residual", 4, RATIO): [8.0, 4.0, 1.0, None]})
    row = trends.contradictions(readings).row(0, named=True)

    assert (row["n"], row["left_out"]) == (2, 2)  # 1/4 and 4/8: the plain network of seed 2 has no partner
    assert row["contradicts"] == 1.0


def test_every_design_without_shortcuts_meets_every_one_with():
    found = trends.contradictions(studies.sweep(depths=[4], designs=["plain", "residual", "twin", "matched"], width=6))

    pairs = found.select("design", "against").rows()
    assert sorted(pairs) == [(a, b) for a in ("plain", "twin") for b in ("matched", "residual")]


def test_networks_that_were_probed_otherwise_make_no_pair():
    ones = studies.sweep(depths=[4], designs=["plain"], width=6, seeds=range(3), cotangent="ones")

    gaussian = studies.sweep(depths=[4], designs=["residual"], width=6, seeds=range(3))
    assert trends.contradictions(ones + gaussian).is_empty()


def test_the_share_of_the_notebooks_setting():
    """16 -> 16, depth 10, an output gradient of ones: 24 % of draws contradict the notebook.

    The share was simulated over 2000 independent pairs (0.76 agree); its error and that of 600 draws here are 0.01 and
    0.017, so that 3 standard errors of the difference are 0.06.
    """
    readings = studies.sweep(depths=[10], width=16, features=16, seeds=range(600), cotangent="ones")

    assert trends.contradictions(readings)["contradicts"][0] == pytest.approx(0.24, abs=0.06)


# ------------------------------------------------------------------------------------------------------------ findings


def found(readings: Readings, rule: str) -> Finding:
    (finding,) = [each for each in trends.findings(readings) if each.rule == rule]
    return finding


def trend(slope: float, sd: float = 0.0, seeds: int = 40) -> str:
    """The verdict on draws with slopes of this mean and standard deviation, over 37 blocks."""
    each = slope + sd * stats.norm.ppf((np.arange(seeds) + 0.5) / seeds)
    return found(gains(np.outer(each, [3, 40]), [3, 40]), "trend of the signal").verdict


def test_the_verdict_follows_the_trend():
    """A factor of 10 in norm over 37 blocks is a rate of 0.1245."""
    assert trend(0.13) == "exploding"
    assert trend(0.12) == "healthy"
    assert trend(-0.12) == "healthy"
    assert trend(-0.13) == "vanishing"
    assert trend(0.13, sd=0.02) == "cannot tell"  # the interval reaches below
    assert trend(0.0, sd=0.06) == "spread out"
    assert trend(0.5, seeds=19) == "cannot tell"


@pytest.mark.parametrize(
    ("name", "fields", "verdict"),
    [
        ("plain", {}, "spread out"),
        ("plain", {"init": "lecun"}, "vanishing"),  # the positive control: Var 1/n halves the square a layer
        ("residual", {}, "exploding"),
        ("residual", {"branch_gain": "1/L"}, "healthy"),
    ],
)
def test_known_designs_get_their_verdict(name: str, fields: dict[str, Any], verdict: str):
    readings = studies.sweep(designs=[name], depths=[5, 40], width=24, seeds=range(60), **fields)

    for what in ("signal", "gradient"):
        assert found(readings, f"trend of the {what}").verdict == verdict, what


def test_a_finding_has_its_numbers():
    finding = found(gains(np.outer(np.linspace(0.2, 0.4, 25), BLOCKS), DEPTHS), "trend of the signal")

    assert "a factor of 1.16 (1.15 to 1.18) in the typical draw" in finding.statement  # exp(0.15)
    assert "over 7 blocks that is 2.86" in finding.statement
    assert "(25 seeds, 3 depths)" in finding.statement
    assert finding.subject == "the residual design (width 8)"
    assert finding.cell == "residual-10-he"
    assert finding.evidence["rate"][0] == pytest.approx(0.3)


def test_left_out_seeds_are_told():
    values: dict[tuple[str, int, str], Any] = {("plain", depth, "forward_gain"): [1.0] * 30 for depth in (3, 5)}
    values["plain", 5, "forward_gain"] = [1.0] * 29 + [0.0]

    assert "dead or overflowing at some depth: 1 more." in found(made(values), "trend of the signal").statement


def test_the_law_holds_or_not():
    readings = studies.sweep(designs=["plain"], depths=[4, 8, 12], width=16, features=4, seeds=range(400))
    blocks = {cell: depth - 2 for cell, depth in readings.cells.select("cell", "depth").iter_rows()}
    exponent = pl.col("cell").replace_strict(blocks, return_dtype=pl.Float64)
    wrong = Readings(
        # 10 % more a block: ten times the standard error of 400 draws
        rows=readings.rows.with_columns(pl.col("value") * pl.lit(1.1) ** exponent),
        cells=readings.cells,
        sites=readings.sites,
    )

    for what in ("signal", "gradient"):
        assert found(readings, f"law of the {what}").verdict == "law holds"
        assert "would have shown" in found(readings, f"law of the {what}").statement
        assert found(wrong, f"law of the {what}").verdict == "law does not hold"
    few = readings.select(seed=list(range(10)))
    assert found(few, "law of the signal").verdict == "cannot tell"


@pytest.mark.parametrize(
    ("plain", "verdict"),
    [
        ([3.0] * 100, "draws agree"),
        ([0.5] * 100, "contradicted"),
        ([3.0] * 80 + [0.5] * 20, "draws disagree"),
        ([3.0] * 97 + [0.5] * 3, "cannot tell"),
        ([0.0] * 100, "cannot tell"),
    ],
)
def test_draws_agree_or_not(plain: list[float], verdict: str):
    readings = made({("plain", 4, RATIO): plain, ("residual", 4, RATIO): [1.0] * 100})

    assert found(readings, "the notebook's conclusion").verdict == verdict


def test_a_single_depth_has_its_contradictions_and_no_trend():
    readings = studies.sweep(depths=[4], width=6, seeds=range(30))

    assert [finding.rule for finding in trends.findings(readings)] == ["the notebook's conclusion"]


def test_networks_without_blocks_are_no_part_of_a_trend():
    readings = studies.sweep(designs=["plain"], depths=[2, 4, 6], width=6, seeds=range(30))

    assert Spec.from_json(readings.select(depth=2).cells["spec"][0]).body == ()
    assert trends.rates(readings)["depths"].to_list() == [2, 2, 2]
    assert {finding.rule for finding in trends.findings(readings)} == {
        *("trend of the signal", "trend of the gradient", "law of the signal", "law of the gradient")
    }
