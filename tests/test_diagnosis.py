"""Verdicts: positive controls that must be found, negative ones that must not, and what is said when data lack.

The controls are those of the theory: weights of variance 1/n pass half of the square a layer, PyTorch's 1/(3n) a sixth,
He's 2/n all of it in the mean; the notebook's block multiplies it by 2.9.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipscope import Spec, build, diagnosis, probe, readings, studies
from skipscope.diagnosis import FACTOR, RULES, SAMPLES, SEEDS, Finding, diagnose, first_nonfinite
from skipscope.errors import InputError
from skipscope.losses import MeanSquaredError
from skipscope.quantities import QUANTITIES
from skipscope.readings import Readings

VERDICTS = {"vanishing", "exploding", "spread out", "dead", "healthy", "cannot tell"}
DEAD = ("dead", "dead_low", "dead_high", "samples")


def measure(design: str = "plain", **fields: Any) -> Readings:
    """What a verdict rests on, for one design of 16 features over 100 seeds."""
    return studies.flow(
        **{"features": 16, "seeds": range(100), **fields},
        designs=[design],
        quantities=studies.DIAGNOSIS_QUANTITIES,
    )


def verdicts(readings: Readings) -> dict[str, str]:
    """The verdict of every rule, on readings of one cell."""
    return {finding.rule: finding.verdict for finding in diagnose(readings)}


def both(readings: Readings) -> tuple[str, str]:
    """The verdicts on signal and gradient."""
    found = verdicts(readings)
    return found["signal"], found["gradient"]


def made_of(
    values: Mapping[str, Sequence[float]], *, blocks: int = 10, site: str = "network", **factors: Any
) -> Readings:
    """One cell without a spec, with quantities at one site, by seed, and a body of so many blocks."""
    rows = [
        ("cell", seed, 0, site, 0, quantity, float(value))
        for quantity, listed in values.items()
        for seed, value in enumerate(listed)
    ]
    places = [("cell", site, 99, 12, "network", "", "linear", 0, "", "measured")]
    places += [("cell", f"block{i}", i, i, "block", "", "relu", i, "", "undefined") for i in range(1, blocks + 1)]
    described = {"cell": "cell", "design": "plain", "depth": 12, "width": 8, "cotangent": "gaussian", "batch": 1}
    return Readings(
        rows=pl.DataFrame(rows, schema=readings.ROWS, orient="row"),
        cells=pl.DataFrame([described | factors], schema=readings.CELLS),
        sites=pl.DataFrame(places, schema=readings.SITES, orient="row"),
    )


def grown(logs: Iterable[float], **given: Any) -> Readings:
    """Draws of which ln(squared ratio) over the body of 10 blocks is given."""
    return made_of({"forward_growth": [math.exp(each / 10) for each in logs]}, **given)


def signal(found: Readings) -> Finding:
    return next(finding for finding in diagnose(found) if finding.rule == "signal")


# ------------------------------------------------------------------------------------------------ controls of theory


@pytest.mark.parametrize("init", ["lecun", "torch"])
@pytest.mark.parametrize(("width", "depth"), [(36, 28), (16, 40)])
def test_weights_that_are_too_small_vanish(init: str, width: int, depth: int):
    assert both(measure(width=width, depth=depth, init=init)) == ("vanishing", "vanishing")


@pytest.mark.parametrize(("width", "depth"), [(16, 40), (36, 28)])
def test_a_plain_he_network_does_not_vanish_but_spreads_out(width: int, depth: int):
    assert both(measure(width=width, depth=depth, seeds=range(200))) == ("spread out", "spread out")


@pytest.mark.parametrize("seeds", [200, 1000])
def test_a_narrow_and_deep_he_network_does_not_explode(seeds: int):
    # Its log ratios have a long left tail: as log-normal draws they would have a huge mean square, and it is about 1.
    found = measure(width=8, depth=60, seeds=range(seeds))

    assert both(found) == ("spread out", "spread out")
    assert signal(found).evidence["rms_bound"].item() > FACTOR


def test_a_wide_and_shallow_he_network_is_healthy():
    found = measure(width=256, depth=6, seeds=range(SEEDS), batch=SAMPLES)

    assert verdicts(found) == {"signal": "healthy", "gradient": "healthy", "dead units": "healthy"}


@pytest.mark.parametrize("cotangent", ["gaussian", "ones"])
@pytest.mark.parametrize(("width", "depth"), [(16, 10), (36, 28)])
def test_the_notebooks_residual_network_explodes_both_ways(width: int, depth: int, cotangent: str):
    assert both(measure("residual", width=width, depth=depth, cotangent=cotangent)) == ("exploding", "exploding")


def test_the_residual_network_explodes_whatever_its_layers():
    assert both(measure("matched", width=36, depth=28)) == ("exploding", "exploding")


def test_its_twin_spreads_out():
    assert both(measure("twin", width=16, depth=20)) == ("spread out", "spread out")


@pytest.mark.parametrize(
    "fields",
    [
        {"branch_gain": "1/L"},
        {"branch_gain": "1/L", "depth": 28},
        {"branch_gain": "zero"},
        {"branch_gain": 0.0},
        {"order": "pre-activation", "norm": "layer"},
        {"order": "pre-activation", "norm": "layer", "depth": 28},
        {"order": "pre-activation", "branch_gain": "1/L"},
    ],
    ids=str,
)
def test_a_tamed_residual_network_is_healthy(fields: dict[str, Any]):
    assert both(measure("residual", **{"width": 36, "depth": 10, **fields})) == ("healthy", "healthy")


def test_a_relu_before_the_addition_is_not_tamed_by_1_over_the_root_of_the_depth():
    # e^(1.128 sqrt(L)), theory (c): 27 in norm at 34 blocks, beyond FACTOR; at 10 blocks about 6, within.
    assert both(measure("residual", width=64, depth=34, branch_gain="1/sqrt(L)"))[0] == "exploding"
    assert both(measure("residual", width=64, depth=10, branch_gain="1/sqrt(L)")) == ("healthy", "healthy")


def test_tanh():
    # Xavier's variance keeps tanh from blowing up, and with 1/n of depth 10 the signal falls by sqrt(10) at most.
    assert both(measure(width=64, depth=10, activation="tanh", init="xavier")) == ("healthy", "healthy")
    # PyTorch's 1/(3n) takes 1/sqrt(3) of the norm a layer, where tanh is linear: 3^-13 in the end.
    assert both(measure(width=64, depth=28, activation="tanh", init="torch")) == ("vanishing", "vanishing")


def test_linear_layers_of_he_explode():
    assert both(measure(width=64, depth=14, activation="linear")) == ("exploding", "exploding")


def test_a_dead_layer_is_dead():
    network = build(Spec.dense(width=32, blocks=4, bias=True, features=16), seed=range(SEEDS))
    network.parameters["stage1.block2.layer1.bias"][:] = -1e3

    findings = {finding.rule: finding for finding in diagnose(probe(network, 64))}

    dead = findings["dead units"]
    assert dead.verdict == "dead"
    assert "stage1.block2.layer1" in dead.statement
    assert "100 % were positive on none of 64 samples" in dead.statement
    assert dead.evidence["site"][0] == "stage1.block2.layer1"
    assert findings["signal"].verdict == "healthy"  # it comes by the shortcuts


def test_a_plain_network_with_a_dead_layer_passes_nothing_on():
    spec = Spec.dense(width=32, blocks=4, layers=1, shortcut="none", bias=True, features=16)
    network = build(spec, seed=range(SEEDS))
    network.parameters["stage1.block2.layer1.bias"][:] = -1e3

    findings = {finding.rule: finding for finding in diagnose(probe(network, 64))}

    assert findings["signal"].verdict == "dead"
    assert findings["gradient"].verdict == "dead"
    assert f"{SEEDS} of {SEEDS} draws" in findings["signal"].statement


def test_a_half_dead_layer_cannot_be_told():
    network = build(Spec.dense(width=32, blocks=4, bias=True, features=16), seed=range(SEEDS))
    network.parameters["stage1.block2.layer1.bias"][:, ::2] = -1e3

    assert verdicts(probe(network, 64))["dead units"] == "cannot tell"


def test_overflow_explodes_and_says_where_first():
    found = measure("residual", width=16, depth=250, dtype="float32", seeds=range(SEEDS))

    findings = {finding.rule: finding for finding in diagnose(found)}

    assert findings["signal"].verdict == findings["non-finite"].verdict == "exploding"
    assert "gradient" not in findings  # a ReLU at nan passes nothing: no gradient reaches the body
    where = first_nonfinite(found)
    assert where.height == SEEDS
    assert set(where["pass"]) == {"forward"}
    # The norm grows by sqrt(2.9) a block, and the largest float32 is 3e38 = 2.9^(2 x 83 / 2).
    blocks = where["site"].str.extract(r"block(\d+)").cast(pl.Int64)
    assert 100 < float(blocks.median()) < 250  # type: ignore[arg-type]
    assert any(f"first at {site}," in findings["non-finite"].statement for site in where["site"])


def test_underflow_leaves_nothing():
    found = measure(width=16, depth=150, init="torch", dtype="float32", seeds=range(SEEDS))

    assert verdicts(found)["signal"] == "dead"


# -------------------------------------------------------------------------------------------------------- one network


def test_one_network_is_judged_by_its_samples():
    finding = signal(measure("residual", width=36, depth=28, seeds=[7], batch=64))

    assert finding.verdict == "exploding"
    assert finding.statement.startswith("In this one network (seed 7) the signal changes by a factor of")
    assert "95 % interval over its 64 samples" in finding.statement
    assert "says nothing about other draws of the design" in finding.statement
    assert finding.evidence["quantity"].to_list() == ["forward_growth", "forward_growth_low", "forward_growth_high"]


@pytest.mark.parametrize(("init", "verdict"), [("torch", "vanishing"), ("he", "healthy")])
def test_one_plain_network(init: str, verdict: str):
    assert both(measure(width=128, depth=12, init=init, seeds=[0], batch=64)) == (verdict, verdict)


def test_one_network_on_one_sample_cannot_be_told():
    finding = signal(measure(width=36, depth=28, seeds=[3]))

    assert finding.verdict == "cannot tell"
    assert f"measure {SEEDS} seeds for a verdict on the design, or this network on {SAMPLES} samples" in (
        finding.statement
    )


def test_an_interval_across_the_threshold_cannot_be_told():
    def one(low: float, centre: float, high: float) -> str:
        square = {"forward_growth_low": low**0.2, "forward_growth": centre**0.2, "forward_growth_high": high**0.2}
        return signal(made_of({name: [value] for name, value in square.items()}, batch=64)).verdict

    assert one(11, 12, 13) == "exploding"
    assert one(9, 12, 13) == "cannot tell"
    assert one(0.2, 1, 9) == "healthy"
    assert one(0.09, 1, 9) == "cannot tell"
    assert one(0.09, 0.095, 0.11) == "cannot tell"
    assert one(0.07, 0.08, 0.09) == "vanishing"


@pytest.mark.parametrize("bounds", [(0.0, math.inf), (0.0, 0.5), (math.nan, 1.0), (math.nan, math.nan)])
def test_an_interval_without_end_cannot_be_told(bounds: tuple[float, float]):
    low, high = bounds
    found = made_of({"forward_growth": [0.9], "forward_growth_low": [low], "forward_growth_high": [high]}, batch=2)

    assert signal(found).verdict == "cannot tell"


def test_one_network_through_which_nothing_comes():
    def nothing(batch: int) -> str:
        return signal(made_of({"forward_growth": [0.0]}, batch=batch)).verdict

    assert nothing(SAMPLES) == "dead"
    assert nothing(SAMPLES - 1) == "cannot tell"


# ---------------------------------------------------------------------------------------------------------- how many


@pytest.mark.parametrize("seeds", [2, 5, SEEDS - 1])
def test_few_seeds_cannot_be_told(seeds: int):
    finding = signal(measure("residual", width=36, depth=28, seeds=range(seeds)))

    assert finding.verdict == "cannot tell"
    assert f"in which any signal arrives, {seeds}, are too few for a verdict on a design ({SEEDS} at least)" in (
        finding.statement
    )


def test_as_many_seeds_as_are_needed():
    assert both(measure("residual", width=36, depth=28, seeds=range(SEEDS))) == ("exploding", "exploding")


def test_one_living_draw_among_dead_ones_is_not_one_network():
    values = {"forward_growth": [0.0] * 5 + [1.0], "forward_growth_low": [0.9], "forward_growth_high": [1.1]}

    assert signal(made_of(values, batch=64)).verdict == "cannot tell"


@pytest.mark.parametrize(
    ("dead", "verdict"), [(0, "healthy"), (13, "healthy"), (14, "cannot tell"), (26, "cannot tell"), (27, "dead")]
)
def test_dead_draws(dead: int, verdict: str):
    # Of 40 draws the median lies, with 95 %, between the 14th and the 27th.
    finding = signal(made_of({"forward_growth": [0.0] * dead + [1.0] * (40 - dead)}))

    assert finding.verdict == verdict
    assert finding.evidence.select("seeds", "dead").row(0) == (40 - dead, dead)
    assert f"{dead} " in finding.statement or not dead


def test_a_draw_without_growth_counts_as_dead():
    # Where the last block is dead the gradient there is 0, and its growth 0/0: there is no such reading.
    found = made_of({"forward_growth": [0.0] * 10 + [1.0] * 30})
    growth = found.rows.filter(pl.col("value") > 0).with_columns(quantity=pl.lit("backward_growth"))
    found = Readings(rows=pl.concat([found.rows, growth]), cells=found.cells, sites=found.sites)

    finding = next(finding for finding in diagnose(found) if finding.rule == "gradient")

    assert finding.evidence.select("seeds", "dead").row(0) == (30, 10)


@pytest.mark.parametrize("samples", [1, SAMPLES - 1])
def test_few_samples_cannot_tell_what_is_dead(samples: int):
    found = made_of(
        {"dead": [1.0], "dead_low": [0.9], "dead_high": [1.0], "samples": [samples]}, site="layer", batch=samples
    )

    (finding,) = diagnose(found)

    assert finding.verdict == "cannot tell"
    assert finding.statement.endswith(f"; a verdict needs {SAMPLES} samples at least.")


@pytest.mark.parametrize(
    ("low", "share", "high", "verdict"),
    [(0.51, 0.6, 0.7, "dead"), (0.49, 0.6, 0.7, "cannot tell"), (0.3, 0.4, 0.49, "healthy"), (0, 0, 0.1, "healthy")],
)
def test_dead_units_by_their_interval(low: float, share: float, high: float, verdict: str):
    values = {"dead": [share], "dead_low": [low], "dead_high": [high], "samples": [1000.0]}

    (finding,) = diagnose(made_of(values, site="layer"))

    assert finding.verdict == verdict
    assert "active on fewer than 0.30 % of inputs" in finding.statement


def test_the_layer_with_the_most_dead_units_is_judged():
    found = measure(width=16, depth=6, batch=64)

    finding = next(finding for finding in diagnose(found) if finding.rule == "dead units")

    medians = found.rows.filter(quantity="dead").group_by("site").agg(pl.col("value").median())
    assert finding.evidence["dead"][0] == medians["value"].max()
    assert finding.evidence["dead"].is_sorted(descending=True)


def test_a_layer_that_lacks_a_quantity_is_not_judged():
    found = measure(width=16, depth=6, batch=64)
    partial = found.rows.filter((pl.col("site") != "stem") | (pl.col("quantity") != "dead_low"))
    part = Readings(rows=partial, cells=found.cells, sites=found.sites)

    finding = next(finding for finding in diagnose(part) if finding.rule == "dead units")

    assert "stem" not in finding.evidence["site"]


# ------------------------------------------------------------------------------------------------------- both sides

MIRRORED = {
    "vanishing": "exploding",
    "exploding": "vanishing",
    "healthy": "healthy",
    "spread out": "spread out",
    "cannot tell": "cannot tell",
}


@given(
    st.floats(-12, 12),
    st.floats(0, 0.4) | st.floats(4, 6),
    st.integers(SEEDS, 40),
)
def test_the_verdict_on_a_design_has_two_sides(centre: float, spread: float, seeds: int):
    """1/v for v: what vanished explodes. Draws that spread are their own mirror only where the centre does not move."""
    if spread >= 4:
        centre = 0.0
    logs = centre + spread * np.linspace(-1.5, 1.5, seeds)

    there, back = signal(grown(logs)).verdict, signal(grown(-logs)).verdict

    if abs(abs(centre) - 2 * math.log(FACTOR)) > 1:  # not within the interval around the threshold
        assert back == MIRRORED[there]


@given(st.floats(-12, 12), st.floats(0, 3), st.floats(0, 3))
def test_the_verdict_on_a_network_has_two_sides(centre: float, below: float, above: float):
    def verdict(low: float, middle: float, high: float) -> str:
        logs = {"forward_growth_low": low, "forward_growth": middle, "forward_growth_high": high}
        return signal(made_of({name: [math.exp(log / 10)] for name, log in logs.items()}, batch=64)).verdict

    there = verdict(centre - below, centre, centre + above)

    assert verdict(-centre - above, -centre, -centre + below) == MIRRORED[there]


def test_a_vanishing_design_mirrored_explodes():
    found = measure(width=16, depth=40, init="lecun")
    mirrored = found.rows.with_columns(
        value=pl.when(pl.col("quantity").str.ends_with("_growth")).then(1 / pl.col("value")).otherwise(pl.col("value"))
    )

    assert both(Readings(rows=mirrored, cells=found.cells, sites=found.sites)) == ("exploding", "exploding")


@pytest.mark.parametrize("factor", [1e-6, 1e6])
@pytest.mark.parametrize("layers", [{"init": "torch"}, {"init": "he"}, {"init": "he", "shortcut": "identity"}])
def test_the_unit_of_the_loss_does_not_matter(factor: float, layers: dict[str, Any], rng: np.random.Generator):
    class ScaledError(MeanSquaredError):
        def __call__(self, output: Any, batch: Any) -> Any:
            return factor * super().__call__(output, batch)

        def gradient(self, output: Any, batch: Any) -> Any:
            return factor * super().gradient(output, batch)

    spec = Spec.dense(width=16, features=16, **{"blocks": 20, "layers": 1, "shortcut": "none", **layers})
    batch = rng.standard_normal((32, 16)), rng.standard_normal((32, 16))
    network = build(spec, seed=range(SEEDS))

    plain, scaled = (diagnose(probe(network, batch, loss=loss)) for loss in (MeanSquaredError(), ScaledError()))

    assert [finding.verdict for finding in plain] == [finding.verdict for finding in scaled]
    assert {finding.rule for finding in plain} == {"signal", "gradient", "dead units"}


# ------------------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize(("seeds", "sd"), [(20, 0.3), (50, 1.0), (200, 2.0)])
def test_the_bound_of_a_log_normal_mean_and_the_interval_of_the_median_cover_them(
    seeds: int, sd: float, rng: np.random.Generator
):
    many = 2000
    truth = math.exp(sd**2 / 4)  # the root of E[ratio^2], for ln(ratio^2) of mean 0

    found = [diagnosis._draws(rng.normal(0, sd, seeds)) for _ in range(many)]

    covered = np.mean([truth <= each["rms_bound"] for each in found])
    # The upper end of Cox's two-sided 95 % interval, which is approximate: nominally 97.5 %, less for small n. Four
    # binomial standard errors are 2 %.
    assert 0.93 < covered < 0.995
    medians = np.mean([each["median_low"] <= 1 <= each["median_high"] for each in found])
    assert 0.93 < medians < 0.99  # exact and discrete: 95.9, 96.7 and 95.9 % at these n


def test_draws_by_hand():
    logs = np.log([1.0, 4.0] * 12)

    found = diagnosis._draws(logs)

    mean, variance = math.log(2), math.log(2) ** 2 * 24 / 23
    half = 1.959963984540054 * math.sqrt(variance / 24 + variance**2 / 46)
    assert found["rms_bound"] == pytest.approx(math.exp((mean + variance / 2 + half) / 2), rel=1e-12)
    levels = [found[name] for name in ("q05", "q95", "median", "median_low", "median_high")]
    assert levels == pytest.approx([1, 2, math.sqrt(2), 1, 2], rel=1e-12)


@pytest.mark.parametrize(
    ("logs", "verdict"),
    [
        (np.full(40, 0.0), "healthy"),
        (np.full(40, 2 * math.log(9.9)), "healthy"),
        (np.full(40, 2 * math.log(10.1)), "exploding"),
        (np.full(40, 2 * math.log(0.101)), "healthy"),
        (np.full(40, 2 * math.log(0.099)), "vanishing"),
        (np.linspace(-2.0, 2.0, 40) + 2 * math.log(10), "cannot tell"),
        (np.linspace(-2.0, 2.0, 40) - 2 * math.log(10) - 0.7, "cannot tell"),
        (np.linspace(-2.5, 2.5, 40), "healthy"),
        (np.linspace(-2.6, 2.6, 40), "spread out"),
    ],
)
def test_thresholds(logs: np.ndarray, verdict: str):
    assert signal(grown(logs)).verdict == verdict


# --------------------------------------------------------------------------------------------------------- findings


def every_kind() -> list[Finding]:
    """Findings of every verdict."""
    dead = {"dead": [1.0], "dead_low": [0.9], "dead_high": [1.0], "samples": [64.0]}
    cases = [
        grown([0.0] * 30),
        grown([9.0] * 30),
        grown([-9.0] * 30),
        grown(np.linspace(-4, 4, 30)),
        grown([0.0] * 5),
        grown([0.0]),
        made_of({"forward_growth": [0.0] * 5}),
        made_of({"forward_growth": [0.0] * 30}),
        made_of({"forward_growth": [1.0, math.inf]}),
        made_of({"forward_growth": [1.0] * 30}, blocks=0),
        made_of({"forward_growth": [1.0], "forward_growth_low": [0.9], "forward_growth_high": [1.1]}, batch=64),
        made_of(dead, site="layer"),
        made_of({"activation_nonfinite": [0.0, 3.0]}, site="layer"),
        measure("residual", width=8, depth=4, seeds=range(SEEDS), batch=32),
    ]
    return [finding for case in cases for finding in diagnose(case)]


def test_every_finding_has_what_it_rests_on():
    findings = every_kind()

    assert {finding.verdict for finding in findings} == VERDICTS
    assert {finding.rule for finding in findings} == {"signal", "gradient", "dead units", "non-finite"}
    for finding in findings:
        assert finding.evidence.height, finding
        assert finding.threshold
        assert finding.source
        assert finding.subject in finding.statement or "this one network" in finding.statement
        assert "\n" not in finding.statement
        assert finding.statement.endswith(".")


def test_rules_say_what_they_ask():
    assert [rule.name for rule in RULES] == ["signal and gradient", "dead units", "non-finite", "unreached"]
    assert all(rule.about.endswith("?") for rule in RULES)


def test_cells_are_judged_apart():
    found = measure(width=16, depth=40, init="lecun") + measure("residual", width=16, depth=10)

    by_cell = {(finding.cell.split("-")[0], finding.verdict) for finding in diagnose(found) if finding.rule == "signal"}

    assert by_cell == {("plain", "vanishing"), ("residual", "exploding")}


def test_the_subject_says_what_is_special():
    network = build(Spec.dense(width=8, blocks=3), seed=range(3))
    with network.gains(branch=0.5, at="stage1.block2"):
        edited = diagnose(probe(network, 2))[0].subject

    assert edited == "the network of 8 layers, width 8, edited (stage1.block2: shortcut x 1, branch x 0.5)"
    assert diagnose(measure(width=8, depth=4))[0].subject == "the plain design at depth 4, width 8"
    assert diagnose(measure(width=8, depth=4, cotangent="ones"))[0].subject == (
        "the plain design at depth 4, width 8, output gradient of ones"
    )


def test_without_blocks_there_is_no_growth_to_judge():
    found = signal(made_of({"forward_growth": [1e-9] * 30}, blocks=0))

    assert found.verdict == "cannot tell"
    assert "How many blocks" in found.statement


def test_the_spec_says_how_many_blocks_a_selection_has():
    found = measure(width=16, depth=40, init="lecun").select(site="network")

    assert both(found) == ("vanishing", "vanishing")


def test_a_network_without_a_body_has_no_growth():
    assert set(verdicts(measure(width=16, depth=2))) == {"dead units"}


def test_nothing_to_judge():
    with pytest.raises(InputError, match="nothing that can be diagnosed: measure forward_growth, backward_growth or"):
        diagnose(made_of({"activation_rms": [1.0]}))


def test_the_quantities_of_a_diagnosis_are_all_there_is_to_ask():
    found = studies.flow(
        depth=6, width=8, features=16, designs=["residual"], seeds=[0], batch=64, quantities=tuple(QUANTITIES)
    )
    chosen = measure("residual", depth=6, width=8, seeds=[0], batch=64)

    assert [(each.rule, each.verdict) for each in diagnose(found)] == [
        (each.rule, each.verdict) for each in diagnose(chosen)
    ]


# ------------------------------------------------------------------------------------------------------- non-finite


def test_the_first_site_that_is_not_finite():
    found = measure("residual", width=8, depth=3, seeds=range(3))

    def broken(quantity: str, site: str, seed: int) -> pl.Expr:
        return (pl.col("quantity") == quantity) & (pl.col("site") == site) & (pl.col("seed") == seed)

    bad = (
        broken("activation_nonfinite", "stage1.block2", 0)
        | broken("activation_nonfinite", "head", 0)
        | broken("activation_grad_nonfinite", "head", 0)  # the backward pass comes after the forward pass,
        | broken("activation_grad_nonfinite", "stem", 2)  # and goes from the last site to the first
        | broken("activation_grad_nonfinite", "stage1.block1", 2)
    )
    rows = found.rows.with_columns(value=pl.when(bad).then(1.0).otherwise(pl.col("value")))

    where = first_nonfinite(Readings(rows=rows, cells=found.cells, sites=found.sites))

    assert where.select("seed", "pass", "site").rows() == [
        (0, "forward", "stage1.block2"),
        (2, "backward", "stage1.block1"),
    ]


def test_where_all_is_finite_there_is_no_such_finding():
    found = measure(width=8, depth=4)

    assert first_nonfinite(found).is_empty()
    assert "non-finite" not in verdicts(found)


# ---------------------------------------------------------------------------------------------------- it never crashes

POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
ANY = st.floats()


@given(
    growth=st.lists(POSITIVE, min_size=1, max_size=45),
    bounds=st.none() | st.tuples(ANY, ANY),
    blocks=st.sampled_from([0, 1, 10, 200]),
    batch=st.sampled_from([None, 1, 64]),
)
def test_any_growth_is_judged(growth: list[float], bounds: tuple[float, float] | None, blocks: int, batch: int | None):
    values: dict[str, Sequence[float]] = {"forward_growth": growth, "backward_growth": growth[::-1]}
    for way in ("forward", "backward"):
        if bounds:
            values |= {f"{way}_growth_low": bounds[:1], f"{way}_growth_high": bounds[1:]}

    findings = diagnose(made_of(values, blocks=blocks, batch=batch))

    assert [finding.rule for finding in findings] == ["signal", "gradient"]
    for finding in findings:
        assert finding.verdict in VERDICTS - {"dead"}
        assert finding.evidence.height
        if 1 < len(growth) < SEEDS or blocks == 0:
            assert finding.verdict == "cannot tell"


@given(st.lists(ANY.filter(lambda value: not value < 0), min_size=1, max_size=45))
def test_any_growth_at_all_is_judged(growth: list[float]):
    finding = signal(made_of({"forward_growth": growth}))

    most = 2 * sum(not math.isfinite(value) for value in growth) > len(growth)
    assert finding.verdict == "exploding" if most else finding.verdict in VERDICTS


def test_a_few_overflowed_draws_do_not_make_an_explosion_of_the_design():
    finding = signal(made_of({"forward_growth": [1.0] * 40 + [math.inf] * 2}))

    assert finding.verdict == "healthy"
    assert "2 more draws that are not finite are left out" in finding.statement


def test_a_network_that_no_gradient_enters_has_a_finding():
    found = measure(width=2, depth=60, seeds=range(30))  # a layer of two units is dead in one draw of four

    assert verdicts(found)["gradient"] == "dead"


def test_what_underflows_without_gates_vanishes():
    found = measure(width=8, depth=400, activation="tanh", init="torch", dtype="float32", seeds=range(SEEDS))

    assert signal(found).verdict == "vanishing"


def test_every_verdict_on_a_design_names_its_factor_a_block():
    finding = signal(made_of({"forward_growth": [2.0] * 40}, blocks=10))

    assert "2.00 a block in the square" in finding.statement


# ---------------------------------------------------------------------------------------- a model of somebody's own


def model_of(told: int | None = None, **factors: Any) -> Readings:
    """One draw of a model of one's own, of whose blocks 10 are reported and so many are told; no other readings.

    Over ten blocks the square of the gradient halves.
    """
    bounds = {"backward_growth": 0.5, "backward_growth_low": 0.4, "backward_growth_high": 0.6}
    values = {name: [value**0.1] for name, value in bounds.items()}
    found = made_of(values, batch=40, spec="", **factors)
    cells = found.cells if told is None else found.cells.with_columns(blocks=pl.lit(told, dtype=pl.Int64))
    return Readings(rows=found.rows, cells=cells, sites=found.sites, meta={"torch": "2"})


@pytest.mark.parametrize(
    ("cotangent", "words"),
    [("", "(12 weight layers) "), ("gaussian", "(12 weight layers) "), ("loss f", "(12 weight layers, loss f) ")],
)
def test_what_was_sent_back_is_named_where_it_is_known(cotangent: str, words: str):
    assert words in diagnose(model_of(cotangent=cotangent))[1].statement


def test_the_blocks_of_a_model_are_those_that_it_has():
    findings = {finding.rule: finding.statement for finding in diagnose(model_of(told=30))}

    assert "over 30 blocks" in findings["gradient"]
    assert "by a factor of 0.354 over" in findings["gradient"]  # 0.5^(30/10/2)


def test_one_block_is_one():
    statement = diagnose(model_of(told=1))[1].statement

    assert "over 1 block (" in statement
