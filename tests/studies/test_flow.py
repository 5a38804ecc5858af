"""The study `flow`: what it measures by default, that its designs share their draws, and its growth by the laws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipscope import QUANTITIES, InputError, Readings
from skipscope.studies import DIAGNOSIS_QUANTITIES, FLOW_QUANTITIES, flow
from skipscope.theory import increment

UNKNOWN: Any = "one"


def values(readings: Readings, quantity: str, site: str = "network", **filters: Any) -> list[float]:
    rows = readings.select(quantity=quantity, site=site, **filters).rows
    return rows.sort("seed")["value"].to_list()


# ------------------------------------------------------------------------------------------------------------ the shape


def test_by_default_it_is_the_notebooks_setting_and_its_fair_comparisons():
    readings = flow(seeds=range(2))

    cells = readings.cells.sort("design")
    assert cells["design"].to_list() == ["matched", "plain", "residual", "twin"]
    for name, expected in {"study": "flow", "depth": 28, "width": 36, "batch": 1, "cotangent": "gaussian"}.items():
        assert cells[name].unique().to_list() == [expected]
    counted = {
        row["design"]: values(readings, "parameters", design=row["design"]) for row in cells.iter_rows(named=True)
    }
    layers = {"plain": 28, "matched": 28, "residual": 58, "twin": 58}
    assert counted == {name: 2 * [2 * 16 * 36 + (count - 2) * 36 * 36] for name, count in layers.items()}
    assert counted == {name: values(readings, "multiply_adds", design=name) for name in layers}


def test_it_measures_its_quantities_at_every_site():
    readings = flow(depth=4, width=6, features=4, seeds=range(2))

    assert set(readings.rows["quantity"]) == set(FLOW_QUANTITIES)
    assert set(FLOW_QUANTITIES) | set(DIAGNOSIS_QUANTITIES) <= set(QUANTITIES)
    sites = readings.select(quantity="forward_gain", design="residual").rows["site"].unique().to_list()
    inner = {f"stage1.block{block}{layer}" for block in range(1, 5) for layer in ("", ".layer1", ".layer2")}
    assert set(sites) == {"input", "stem", "head"} | inner
    assert readings.select(quantity="branch_ratio").cells.sort("design")["design"].to_list() == ["matched", "residual"]


def test_its_networks_have_a_rectified_output():
    readings = flow(depth=4, width=6, features=4, seeds=range(2))
    linear = flow(depth=4, width=6, features=4, seeds=range(2), output="linear")

    assert set(readings.sites.filter(site="head")["activation"]) == {"relu"}
    assert set(linear.sites.filter(site="head")["activation"]) == {"linear"}


def test_what_is_asked_for_is_measured():
    readings = flow(depth=4, width=6, designs=("twin",), seeds=[9, 4], batch=3, cotangent="ones", quantities=("dead",))
    one = flow(depth=4, width=6, designs="twin", seeds=[9, 4], batch=3, cotangent="ones", quantities="dead")

    assert readings.equals(one)
    row = readings.cells.row(0, named=True)
    assert (row["design"], row["batch"], row["cotangent"]) == ("twin", 3, "ones")
    assert readings.rows["quantity"].unique().to_list() == ["dead"]
    assert readings.rows["seed"].unique().sort().to_list() == [4, 9]


def test_fields_go_to_the_networks():
    readings = flow(depth=4, width=6, designs="residual", seeds=[0], norm="layer", branch_gain="1/L", dtype="float32")

    row = readings.cells.row(0, named=True)
    assert (row["norm"], row["gain"], row["dtype"]) == ("layer", "1.0, 1/L", "float32")


def test_what_the_rules_of_the_diagnosis_ask_for_can_be_measured():
    readings = flow(depth=4, width=6, seeds=[0], batch=8, quantities=DIAGNOSIS_QUANTITIES)

    assert set(readings.rows["quantity"]) == set(DIAGNOSIS_QUANTITIES)


# ------------------------------------------------------------------------------------------------ common random numbers


def test_residual_network_and_twin_share_everything_up_to_the_first_junction():
    readings = flow(depth=6, width=8, features=4, seeds=range(5), quantities=(*FLOW_QUANTITIES, "weight_norm"))
    weights = {
        design: readings.select(quantity="weight_norm", design=design).rows.drop("cell").sort("site", "seed")
        for design in ("residual", "twin")
    }

    assert weights["residual"].equals(weights["twin"])
    for site in ("input", "stem", "stage1.block1.layer1", "stage1.block1.layer2"):
        gains = {design: values(readings, "forward_gain", site, design=design) for design in ("residual", "twin")}
        assert gains["residual"] == gains["twin"]
    assert values(readings, "forward_gain", "head", design="residual") != values(
        readings, "forward_gain", "head", design="twin"
    )


def test_a_shallow_plain_network_is_the_beginning_of_a_deep_one():
    shallow, deep = (flow(depth=depth, width=8, features=4, designs="plain", seeds=range(5)) for depth in (6, 10))

    for site in ("input", "stem", *(f"stage1.block{block}" for block in range(1, 5))):
        assert values(shallow, "activation_rms", site) == values(deep, "activation_rms", site)


def test_both_precisions_share_their_draw():
    double, single = (
        flow(depth=6, width=8, features=4, seeds=range(5), dtype=dtype) for dtype in ("float64", "float32")
    )

    for design in ("plain", "residual"):
        a, b = (values(readings, "forward_gain", "head", design=design) for readings in (double, single))
        # 14 layers of 8 products each, rounded to 2^-24 relative.
        assert b == pytest.approx(a, rel=1e-5)
        assert b != a


# ----------------------------------------------------------------------------------------------- chunks, workers, seeds


@settings(max_examples=10)
@given(chunk=st.integers(1, 7))
def test_the_chunk_does_not_change_a_bit(chunk: int):
    assert flow(depth=4, width=6, features=4, seeds=range(6), chunk=chunk).equals(
        flow(depth=4, width=6, features=4, seeds=range(6))
    )


def test_a_seed_alone_reads_as_in_the_study():
    whole = flow(depth=4, width=6, features=4, seeds=range(6))

    assert whole.select(seed=4).equals(flow(depth=4, width=6, features=4, seeds=[4]))


@pytest.mark.slow
def test_nor_does_the_number_of_workers():
    alone = flow(depth=10, width=16, seeds=range(20), batch=4, chunk=6)

    assert flow(depth=10, width=16, seeds=range(20), batch=4, chunk=6, jobs=2).equals(alone)
    assert flow(depth=10, width=16, seeds=range(20), batch=4).equals(alone)


def test_progress_is_told():
    told: list[tuple[int, int]] = []
    flow(depth=4, width=6, seeds=range(3), chunk=2, progress=lambda done, total: told.append((done, total)))

    assert told == [(8, 12), (12, 12)]  # all four designs share a draw, and are measured together


def test_a_design_named_twice_is_measured_once():
    told: list[tuple[int, int]] = []
    flow(
        depth=4,
        width=6,
        designs=("plain", "plain"),
        seeds=range(3),
        progress=lambda done, total: told.append((done, total)),
    )

    assert told == [(3, 3)]


# ---------------------------------------------------------------------------------------------- the laws, end to end

SEEDS, MORE_SEEDS = range(1500), range(4000)


def log_square(readings: Readings, quantity: str, site: str, **filters: Any) -> Any:
    return 2 * np.log(values(readings, quantity, site, **filters))


def test_a_plain_network_follows_its_law():
    """ln(|a|^2/|x|^2) of law (a): mean and variance a layer, independent layers; n = 36, where no draw dies."""
    depth, n = 12, 36
    readings = flow(depth=depth, width=n, features=n, designs="plain", seeds=SEEDS, quantities=("forward_gain",))
    logs = log_square(readings, "forward_gain", f"stage1.block{depth - 2}")
    law = increment(n, 2 / n)

    layers = depth - 1
    # Standard errors of a mean, and of a variance of nearly normal numbers (sqrt(2/N) of it; 4 of them, as their
    # kurtosis is a little above 3, are 5 sqrt(2/N)).
    assert logs.mean() == pytest.approx(layers * law.mean, abs=4 * math.sqrt(layers * law.variance / len(logs)))
    assert logs.var() == pytest.approx(layers * law.variance, rel=5 * math.sqrt(2 / len(logs)))


def test_the_notebooks_block_grows_as_it_was_simulated():
    """Mean of |x_l|^2/|x_(l-1)|^2 for the first six blocks, n = 16, from a ReLU'd input (law b2: 2.637 ... 2.900).

    The simulation that the laws were calibrated with had 4000 draws, printed to 0.001.
    """
    blocks = [f"stage1.block{block}" for block in range(1, 7)]
    readings = flow(depth=6, width=16, features=16, designs="residual", seeds=MORE_SEEDS, quantities=("forward_gain",))
    gains = [np.array(values(readings, "forward_gain", site)) ** 2 for site in ("stem", *blocks)]

    simulated = [2.639, 2.770, 2.803, 2.819, 2.866, 2.890]
    for before, after, expected in zip(gains, gains[1:], simulated, strict=False):
        factor = after / before
        error = factor.std() * math.sqrt(1 / len(factor) + 1 / 4000)
        assert 4 * error < 0.05 * expected  # 5 % off would show
        assert factor.mean() == pytest.approx(expected, abs=4 * error + 0.0005)


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"designs": ()}, "designs is empty: name at least one of plain, residual, twin, matched"),
        ({"designs": ("plain", "resnet")}, "design must be one of"),
        ({"quantities": ()}, "quantities is empty"),
        ({"quantities": ("forward_gains",)}, "Did you mean 'forward_gain'?"),
        ({"depth": 5}, "depth must be even for the matched design"),
        ({"depth": 1, "designs": "plain"}, "depth must be at least 2"),
        ({"width": 0}, "width must be at least 1"),
        ({"features": 0}, "features must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"seeds": []}, "seeds is empty"),
        ({"cotangent": UNKNOWN}, "cotangent must be one of"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"layers": 3}, "layers=3 cannot be chosen"),
        ({"nrom": "layer"}, "Did you mean 'norm'?"),
        ({"norm": "batch"}, "batch of 1 sample"),
        ({"branch_gain": "zero"}, "needs a shortcut"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], words: str):
    with pytest.raises(InputError) as caught:
        flow(**{"depth": 4, "width": 6, "features": 4, "seeds": range(2), **arguments})

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cells_that_cannot_be_measured_are_refused_before_any_is():
    told: list[tuple[int, int]] = []
    with pytest.raises(InputError, match="even"):
        flow(depth=5, seeds=range(3), progress=lambda done, total: told.append((done, total)))

    assert told == []


def test_a_network_measured_alone_has_the_notebooks_table():
    """What the notebook printed for one draw: first and last weight gradient and their ratio."""
    readings = flow(depth=10, width=16, designs=("plain", "residual"), seeds=[42], cotangent="ones")

    for design in ("plain", "residual"):
        first, last = (values(readings, "weight_grad_norm", site, design=design)[0] for site in ("stem", "head"))
        (ratio,) = values(readings, "weight_grad_first_last", design=design)
        assert ratio == pytest.approx(first / last, rel=1e-14)
    assert not pl.Series(values(readings, "forward_growth", design="residual")).is_in([1.0]).any()
