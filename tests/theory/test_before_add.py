"""Law (b2), and (c) for its branches: the notebook's block, against its limits, against tabled runs and measured.

The law is to first order in 1/n. What it leaves out is stated in its `bias`. For the few blocks of the quick tests that
is about one standard error, so that they pass at 3; the slow ones allow for it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skipscope.errors import InputError
from skipscope.quantities import QUANTITIES
from skipscope.spec import Gains, Head, Spec, Stage, Stem
from skipscope.theory import Prediction, first_last_ratio, fixed_cotangent_growth, laws

Array = NDArray[np.float64]
LIMIT = 100_000  # a width at which nothing of the order 1/width is left in four digits


def network(width: int, blocks: int, **fields: Any) -> Spec:
    return Spec.dense(**{"width": width, "features": width, "blocks": blocks, **fields})


def law_b2(spec: Spec, **setting: Any) -> list[Prediction]:
    return [each for each in laws(spec, **setting) if each.law.startswith("(b2)")]


def mean_squares(spec: Spec, *, backward: bool = False, **setting: Any) -> Array:
    """At the stem and the blocks, in the direction of travel."""
    prediction = law_b2(spec, **setting)[backward]
    assert prediction.holds, prediction.refusal
    rms = dict(zip(prediction.table["site"], prediction.table["rms"], strict=True))
    found: Array = np.array([rms[site] ** 2 for site in ("stem", *(block.site for block in spec.body))])
    return found[::-1] if backward else found


def factors(squares: Array) -> Array:
    return squares[1:] / squares[:-1]


def from_zero_mean(width: int, blocks: int) -> Spec:
    """A stem without a ReLU: what comes in has no mean."""
    stem, head = Stem(features=width, width=width, activation="linear"), Head(features=width)
    return Spec(stem=stem, stages=(Stage(blocks=blocks, width=width),), head=head)


# --------------------------------------------------------------------------------------------------- infinite width


def test_forward_factors_at_infinite_width():
    found = factors(mean_squares(network(LIMIT, 30)))

    assert found[:5] == pytest.approx([2.6366, 2.7841, 2.8515, 2.8812, 2.8942], abs=1e-4)
    r = 0.80124  # the fixed point of 2 c r^3 + r^2 - 2 c r - c^2 = 0, c = 1/sqrt(pi)
    assert found[-1] == pytest.approx(2 + 2 * r / math.sqrt(math.pi), abs=1e-4)
    assert found[-1] == pytest.approx(2.90411, abs=1e-4)


def test_forward_factors_from_an_input_without_a_mean():
    assert factors(mean_squares(from_zero_mean(LIMIT, 3))) == pytest.approx([2.0, 2.450, 2.694], abs=5e-4)


@pytest.mark.parametrize(("blocks", "growth"), [(10, 25), (40, 835), (160, 1.0e6), (640, 1.6e12)])
def test_a_gain_of_1_over_sqrt_l_explodes(blocks: int, growth: float):
    squares = mean_squares(network(LIMIT, blocks, branch_gain="1/sqrt(L)"))

    assert squares[-1] / squares[0] == pytest.approx(growth, rel=0.02)  # as many digits as the table has


def test_a_gain_of_1_over_l_is_bounded():
    squares = mean_squares(network(LIMIT, 1000, branch_gain="1/L"))

    assert squares[-1] / squares[0] == pytest.approx(2.25, abs=0.005)


def test_backward_factors_of_ones_at_infinite_width():
    found = factors(mean_squares(network(LIMIT, 40, output="relu"), backward=True, cotangent="ones"))

    assert found[:5] == pytest.approx([3.035, 2.945, 2.912, 2.901, 2.898], abs=6e-4)
    assert found[-1] == pytest.approx(2.834, abs=6e-4)


def test_backward_factors_of_a_gaussian_are_incoherent_at_infinite_width():
    assert factors(mean_squares(network(LIMIT, 4), backward=True)) == pytest.approx([2.0] * 4, abs=1e-3)


def test_the_coherent_part_takes_over_at_finite_width():
    # After about ln n/ln 1.45 = 10 blocks at n = 36; by twice that the gradient grows as the activations do.
    found = factors(mean_squares(network(36, 40), backward=True))

    assert found[0] == pytest.approx(2.0, abs=0.05)
    assert 2.2 < found[10] < 2.8
    assert found[25:36] == pytest.approx([2.89] * 11, abs=0.03)


@pytest.mark.parametrize(
    ("blocks", "ratio"), [(1, 1.337), (2, 1.361), (3, 1.370), (5, 1.373), (10, 1.371), (40, 1.370)]
)
def test_the_first_weight_gradient_over_the_last_is_blind(blocks: int, ratio: float):
    assert first_last_ratio(network(LIMIT, blocks, output="relu"), "ones") == pytest.approx(ratio, abs=6e-4)


@pytest.mark.parametrize("layers", [4, 8])
def test_the_same_ratio_of_a_plain_network_grows(layers: int):
    spec = network(LIMIT, layers - 2, layers=1, shortcut="none", output="relu")

    assert first_last_ratio(spec, "ones") == pytest.approx(math.sqrt(1 + 2 * (layers - 1) / math.pi), abs=1e-3)


def test_a_silent_branch_changes_nothing():
    for backward in (False, True):
        squares = mean_squares(network(32, 5, branch_gain="zero"), backward=backward)
        assert squares == pytest.approx(squares[0], rel=1e-12)


# ------------------------------------------------------------------------------------------------- where it is exact


def test_plain_networks_agree_with_the_exact_recursion():
    # The recursion of tangents is exact for plain layers: its ones are those of the fixed cotangent.
    from skipscope.theory.tangents import log_gradients

    n, depth = 16, 6
    found = log_gradients(network(n, depth - 1, layers=1, shortcut="none", output="relu"), "ones")

    sites = [f"stage1.block{index}" for index in range(depth - 1, 0, -1)]
    squares = np.exp([found[site] for site in [*sites, "stem"]])
    assert squares == pytest.approx(fixed_cotangent_growth(np.ones(n), depth) / n, rel=1e-12)


# ----------------------------------------------------------------- runs that others have tabled, within three errors


@pytest.mark.parametrize(
    ("spec", "growth", "error"),
    [
        (network(64, 40, branch_gain="1/sqrt(L)"), 744.0, 23.0),
        (network(64, 40, branch_gain="1/L"), 2.241, 0.013),
        (network(16, 6), 2.639 * 2.770 * 2.803 * 2.819 * 2.866 * 2.890, 10.0),
    ],
)
def test_growth_is_as_tabled(spec: Spec, growth: float, error: float):
    squares = mean_squares(spec)

    assert squares[-1] / squares[0] == pytest.approx(growth, abs=3 * error)


@pytest.mark.parametrize(("width", "expected"), [(256, [2.00, 1.99, 2.01, 2.03]), (16, [2.04, 2.15, 2.24, 2.32, 2.42])])
def test_backward_factors_are_as_tabled(width: int, expected: list[float]):
    found = factors(mean_squares(network(width, len(expected)), backward=True))

    assert found == pytest.approx(expected, abs=0.035)  # two digits, and 4,000 runs


def test_backward_factors_of_ones_are_as_tabled():
    found = factors(mean_squares(network(256, 8, output="relu"), backward=True, cotangent="ones"))

    expected = [2.89, 3.08, 2.89, 2.93, 2.82, 2.89, 2.80, 2.86]
    assert found == pytest.approx(expected, abs=0.15)  # of two or three hundred runs: 0.05 a factor
    assert np.prod(found) == pytest.approx(np.prod(expected), rel=0.06)


@pytest.mark.parametrize(
    ("spec", "ratio", "error"),
    [
        (network(512, 4, output="relu"), 1.389, 0.023),
        (network(256, 8, output="relu"), 1.366, 0.032),
        (network(512, 2, layers=1, shortcut="none", output="relu"), 1.649, 0.033),
        (network(256, 6, layers=1, shortcut="none", output="relu"), 2.373, 0.064),
    ],
)
def test_the_ratio_is_as_tabled(spec: Spec, ratio: float, error: float):
    assert first_last_ratio(spec, "ones") == pytest.approx(ratio, abs=3 * error)


# ------------------------------------------------------------------------------------------ measured with the engine


NOTEBOOK = Spec.dense(width=32, blocks=2, features=16)
NOTEBOOK_ONES = Spec.dense(width=48, blocks=2, features=16, outputs=32, output="relu")
MIXED = Spec(
    stem=Stem(features=10, width=24),
    stages=(
        Stage(blocks=2, width=24, layers=1, shortcut="none", gains=Gains(branch=0.7)),
        Stage(blocks=2, width=24, layers=3, gains=Gains(shortcut=0.8, branch=1.3)),
        Stage(blocks=1, width=16, layers=2, shortcut="none"),
        Stage(blocks=2, width=16, layers=2, activation="linear", gains=Gains(shortcut=-1.0, branch="1/sqrt(L)")),
        Stage(blocks=1, width=16, layers=2, gains=Gains(branch=-0.6)),
    ),
    head=Head(features=5, activation="relu"),
)
LINEAR_STEM = Spec(
    stem=Stem(features=16, width=32, activation="linear"),
    stages=(Stage(blocks=2, width=32),),
    head=Head(features=16),
    init="lecun",
)
MEASURED: dict[str, tuple[Spec, int, dict[str, Any]]] = {
    # So many that 5 % of the variance of a logarithm are 5 standard errors.
    "notebook": (NOTEBOOK, 26_000, {}),
    "notebook, ones": (NOTEBOOK_ONES, 6000, {"cotangent": "ones"}),
    "batch of 2": (LINEAR_STEM, 6000, {"batch": 2}),
}
SLOW: dict[str, tuple[Spec, int, dict[str, Any]]] = {
    "mixed": (MIXED, 60_000, {}),
    "mixed, ones": (MIXED, 60_000, {"cotangent": "ones"}),
    "deep, 1/sqrt(L)": (network(32, 20, branch_gain="1/sqrt(L)", output="relu"), 20_000, {}),
    "deep, 1/sqrt(L), ones": (network(32, 20, branch_gain="1/sqrt(L)", output="relu"), 20_000, {"cotangent": "ones"}),
}


@pytest.mark.parametrize("case", MEASURED)
def test_networks_do_as_the_law_says(case: str, squares: Any, compare: Any):
    spec, seeds, probing = MEASURED[case]
    measured = squares(spec, seeds, **probing)

    for prediction in law_b2(spec, **probing)["ones" in case :]:  # forward, the cotangent is the same to both
        for each in compare(prediction, measured):
            assert each.power >= 5, each
            assert abs(each.z) < 3, each


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_networks_do_as_the_law_says_but_for_its_bias(case: str, squares: Any, compare: Any):
    spec, seeds, probing = SLOW[case]
    measured, n = squares(spec, seeds, **probing), min(stage.width for stage in spec.stages)

    bias = {"log_mean": 0.05 * len(spec.body) / n, "variance": 2 / n, "square": 0.5 / n + 0.1 * len(spec.body) / n}
    for prediction in law_b2(spec, **probing):
        for each in compare(prediction, measured):
            size = 1.0 if each.what == "log_mean" else each.predicted
            assert abs(each.measured - each.predicted) < 3 * each.error + bias[each.what] * size, each


@pytest.mark.parametrize("factor", [0.95, 1.05])
@pytest.mark.parametrize("case", ["notebook", "notebook, ones"])
def test_a_law_five_percent_off_would_be_noticed(factor: float, case: str, squares: Any, compare: Any, off: Any):
    spec, seeds, probing = MEASURED[case]
    measured = squares(spec, seeds, **probing)

    for prediction in law_b2(spec, **probing)["ones" in case :]:
        found = [each for each in compare(off(prediction, factor), measured) if each.power >= 5]
        assert {each.site for each in found} >= {"stem", "stage1.block1", "stage1.block2"}
        assert sum(abs(each.z) > 3 for each in found) >= 0.85 * len(found)


@pytest.mark.slow
def test_the_ratio_is_measured(squares: Any):
    wanted = {"weight_grad_first_last": QUANTITIES["weight_grad_first_last"]}
    spec = network(128, 3, output="relu")

    values = squares(spec, 3000, quantities=wanted, cotangent="ones")["network", "weight_grad_first_last"]

    # The mean of a ratio is above the ratio of means: by about 6/n, 5 % here.
    error = values.std() / math.sqrt(values.size)
    assert values.mean() == pytest.approx(first_last_ratio(spec, "ones") ** 2 * (1 + 6 / 128), abs=3 * error)
    assert values.mean() != pytest.approx(first_last_ratio(spec, "gaussian") ** 2, rel=0.3)


def test_what_the_law_leaves_out_is_told():
    forward, backward = law_b2(network(50, 10))

    assert "0.05/n a block, 0.01 here" in forward.bias
    assert "0.1/n a block, 2.0% here" in backward.bias


def test_the_ratio_of_another_block_is_refused():
    with pytest.raises(InputError, match=r"law \(b2\) speaks of\. The order in stage 1 is after-add"):
        first_last_ratio(network(8, 2, order="after-add"))
