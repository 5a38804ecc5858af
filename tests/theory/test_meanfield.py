"""Law (f): any initialisation and batch, tanh; and the positive controls, networks that must be seen to vanish."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from skipscope.spec import Head, Spec, Stage, Stem
from skipscope.theory import Prediction, chi_1, laws


def network(**fields: Any) -> Spec:
    return Spec.dense(**{"width": 40, "features": 40, "blocks": 3, "layers": 1, "shortcut": "none", **fields})


def law_f(spec: Spec, kind: str = "exact in mean", **setting: Any) -> list[Prediction]:
    return [each for each in laws(spec, **setting) if each.law.startswith("(f)") and each.kind == kind]


# ------------------------------------------------------------------------------------------------------ closed forms


@pytest.mark.parametrize(
    ("activation", "variance", "expected"),
    [("relu", 2.0, 1.0), ("relu", 1.0, 1 / 2), ("relu", 1 / 3, 1 / 6), ("linear", 1.0, 1.0), ("tanh", 1.0, 1.0)],
)
def test_chi_1(activation: str, variance: float, expected: float):
    assert chi_1(activation, variance, q=1e-9) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("q", [0.01, 1.0, 9.0])
def test_chi_1_of_tanh_is_an_integral(q: float):
    expected, _ = integrate.quad(lambda z: stats.norm.pdf(z) * (1 - math.tanh(math.sqrt(q) * z) ** 2) ** 2, -12, 12)

    assert chi_1("tanh", 1.7, q) == pytest.approx(1.7 * expected, rel=1e-8)


@pytest.mark.parametrize(("init", "chi", "depth_scale"), [("lecun", 1 / 2, 1.44), ("torch", 1 / 6, 0.56)])
def test_positive_controls_vanish(init: str, chi: float, depth_scale: float):
    for prediction in law_f(network(init=init)):
        gains = dict(zip(prediction.table["site"], prediction.table["square_mean"], strict=True))
        blocks = [gains[f"stage1.block{index}"] for index in (1, 2, 3)]
        blocks = blocks if prediction.quantity == "forward_gain" else blocks[::-1]
        assert [blocks[1] / blocks[0], blocks[2] / blocks[1]] == pytest.approx([chi, chi], rel=1e-9)
    assert -1 / math.log(chi) == pytest.approx(depth_scale, abs=0.005)


def test_he_does_not_vanish():
    for prediction in law_f(network(blocks=30, output="relu")):
        assert prediction.table["square_mean"].to_list() == pytest.approx([1.0] * prediction.table.height, rel=1e-9)


# ------------------------------------------------------------------------------------------ measured with the engine


FUNNEL = Spec(
    stem=Stem(features=24, width=40),
    stages=(
        Stage(blocks=1, width=32, layers=2, shortcut="none", activation="linear"),
        Stage(blocks=1, width=48, layers=2, shortcut="none", order="after-add"),
    ),
    head=Head(features=20, activation="relu"),
    init="xavier",
)
EXACT: dict[str, tuple[Spec, int, dict[str, Any]]] = {
    "lecun": (network(init="lecun"), 6000, {"batch": 2}),
    "torch": (network(init="torch", output="relu", blocks=2), 7000, {}),
    "funnel": (FUNNEL, 6000, {"batch": 4}),
    "bare": (network(init="torch", order="pre-activation", blocks=2), 6000, {"batch": 2}),
    "uniform biases, backward": (network(init="torch", bias=True, blocks=2), 6000, {}),
}


@pytest.mark.parametrize("case", EXACT)
def test_the_mean_square_is_exact(case: str, squares: Any, compare: Any):
    spec, seeds, probing = EXACT[case]
    predictions = [each for each in law_f(spec, **probing) if each.holds]
    assert len(predictions) == (1 if "backward" in case else 2)

    for prediction in predictions:
        for each in compare(prediction, squares(spec, seeds, **probing)):
            assert each.power >= 5, each
            assert abs(each.z) < 3, each


@pytest.mark.parametrize("factor", [0.95, 1.05])
@pytest.mark.parametrize("case", ["lecun", "torch"])
def test_a_law_that_is_five_percent_off_would_be_noticed(
    factor: float, case: str, squares: Any, compare: Any, off: Any
):
    spec, seeds, probing = EXACT[case]

    for prediction in law_f(spec, **probing):
        found = compare(off(prediction, factor), squares(spec, seeds, **probing))
        assert sum(abs(each.z) > 3 for each in found) >= 0.85 * len(found)


# What is left out is of the order 1/n and 1/features: below 1 % here.
WIDE: dict[str, tuple[Spec, int, dict[str, Any]]] = {
    "tanh": (network(activation="tanh", width=128, features=256, outputs=32, blocks=2), 1500, {}),
    "tanh, small input": (
        network(activation="tanh", order="pre-activation", init="lecun", width=96, features=96, blocks=2),
        1500,
        {"batch": 4},
    ),
    "uniform biases": (
        network(init="torch", bias=True, width=96, features=200, outputs=32, blocks=2),
        1500,
        {"batch": 2},
    ),
}


@pytest.mark.parametrize("case", WIDE)
def test_the_mean_square_at_large_width(case: str, squares: Any, compare: Any):
    spec, seeds, probing = WIDE[case]

    for prediction in law_f(spec, "asymptotic in width", **probing):
        for each in compare(prediction, squares(spec, seeds, **probing)):
            assert each.power >= 5, each
            assert abs(each.z) < 3, each


@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_tanh_that_is_five_percent_off_would_be_noticed(factor: float, squares: Any, compare: Any, off: Any):
    spec, seeds, probing = WIDE["tanh"]

    for prediction in law_f(spec, "asymptotic in width", **probing):
        found = compare(off(prediction, factor), squares(spec, seeds, **probing))
        assert sum(abs(each.z) > 3 for each in found) >= 0.85 * len(found)


def test_the_scale_of_the_input_matters_to_tanh_alone():
    spec = network(activation="tanh")
    small, large = (law_f(spec, "asymptotic in width", input_rms=rms)[0].table["square_mean"] for rms in (0.01, 2.0))

    # A small input is in the linear range, where He's 2/n doubles the mean square; a large one saturates.
    assert small[0] == pytest.approx(2.0, rel=1e-3)
    assert large[0] < 0.2
    relu = [law_f(network(), "asymptotic in width", input_rms=rms)[0].table["square_mean"] for rms in (0.01, 2.0)]
    np.testing.assert_allclose(relu[0], relu[1], rtol=1e-12)


@pytest.mark.parametrize(
    ("spec", "setting", "sentence"),
    [
        (network(shortcut="identity"), {}, "There are shortcuts in stage 1"),
        (network(norm="batch"), {}, "There is a batch norm in stage 1"),
        (network(activation="tanh"), {}, "The activation in stage 1 is tanh"),
        (
            replace(network(order="pre-activation"), stem=Stem(features=40, width=40)),
            {},
            "The ReLU in front of stage 1 gets what has passed a ReLU before",
        ),
    ],
)
def test_where_a_condition_fails_the_law_says_which(spec: Spec, setting: dict[str, Any], sentence: str):
    for prediction in law_f(spec, **setting):
        assert sentence in prediction.refusal


def test_biases_are_refused_forward_and_an_unknown_input_to_tanh():
    forward, backward = law_f(network(init="torch", bias=True))
    assert "There are biases that start uniform" in forward.refusal
    assert backward.holds
    for prediction in law_f(network(activation="tanh"), "asymptotic in width", input_rms=None):
        assert "The scale of the input is not known" in prediction.refusal
