"""Law (b3): the paper's block without its normalisation, forward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skipscope.spec import Gains, Head, Spec, Stage, Stem
from skipscope.theory import Prediction, laws


def network(**fields: Any) -> Spec:
    return Spec.dense(**{"width": 40, "features": 40, "blocks": 3, "order": "after-add", **fields})


def law_b3(spec: Spec, **setting: Any) -> Prediction:
    return next(each for each in laws(spec, **setting) if each.law.startswith("(b3)"))


def factors(spec: Spec) -> NDArray[np.float64]:
    table = law_b3(spec).table
    rms = dict(zip(table["site"], table["rms"], strict=True))
    squares = np.array([rms[site] ** 2 for site in ("stem", *(block.site for block in spec.body))])
    return squares[1:] / squares[:-1]


HALVED = 0.5**0.5  # a branch gain under which g2 is 1 in place of He's 2


@pytest.mark.parametrize(
    ("gain", "first", "last"),
    [(1.0, [2.318, 2.381, 2.394, 2.398], 2.3989), (HALVED, [1.681, 1.724, 1.737, 1.741], 1.7441)],
)
def test_the_recursion_is_as_tabled(gain: float, first: list[float], last: float):
    found = factors(network(blocks=30, branch_gain=gain))

    assert found[:4] == pytest.approx(first, abs=6e-4)
    assert found[-1] == pytest.approx(last, abs=6e-5)


def test_the_recursion_is_that_of_a_sample(rng):
    # A million coordinates give a factor of a block to 0.2 %.
    u, square = np.maximum(rng.standard_normal(1_000_000), 0.0), []
    for _ in range(4):
        before = float(np.mean(u**2))
        u = np.maximum(0.7 * u + 0.9 * np.sqrt(2.0 * before) * rng.standard_normal(u.size), 0.0)
        square.append(float(np.mean(u**2)) / before)

    assert factors(network(blocks=4, shortcut_gain=0.7, branch_gain=-0.9)) == pytest.approx(square, rel=0.008)


def test_a_small_step_is_resolved():
    # With 1/L the walk is the shorter the more steps it has: 1.019 at a hundred, and 1 + about 2/L of that beyond.
    whole = [np.prod(factors(network(blocks=blocks, branch_gain="1/L"))) for blocks in (50, 100, 200, 400)]

    assert whole == sorted(whole, reverse=True)
    assert whole[1] == pytest.approx(1.0193, abs=2e-4)
    assert [(square - 1) * blocks for square, blocks in zip(whole[1:], (100, 200, 400), strict=True)] == pytest.approx(
        [1.95] * 3, abs=0.12
    )


def test_a_silent_branch_changes_nothing_and_a_missing_shortcut_everything():
    assert factors(network(branch_gain="zero")) == pytest.approx(1.0, rel=1e-12)
    both = replace(network(), stages=(*network().stages, Stage(blocks=2, width=40, shortcut="none", order="after-add")))
    assert factors(both)[3:] == pytest.approx(1.0, rel=1e-9)  # plain He layers


MIXED = Spec(
    stem=Stem(features=16, width=48),
    stages=(
        Stage(blocks=1, width=48, layers=1, order="after-add", gains=Gains(shortcut=0.8, branch=0.5)),
        Stage(blocks=1, width=40, layers=2, order="after-add", shortcut="none"),
        Stage(blocks=2, width=40, layers=3, order="after-add", gains=Gains(branch=-0.5)),
    ),
    head=Head(features=16, activation="relu"),
)
# At finite width the mean square is within 2 % of the law; here its error is below one standard error.
MEASURED = {"paper": (network(features=16, blocks=2), 6000), "mixed": (MIXED, 14_000)}


@pytest.mark.parametrize("case", ["paper", pytest.param("mixed", marks=pytest.mark.slow)])
def test_networks_do_as_the_law_says(case: str, squares: Any, compare: Any):
    spec, seeds = MEASURED[case]

    for each in compare(law_b3(spec), squares(spec, seeds)):
        assert each.power >= 5, each
        assert abs(each.z) < 3, each


@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_a_law_that_is_five_percent_off_would_be_noticed(factor: float, squares: Any, compare: Any, off: Any):
    spec, seeds = MEASURED["paper"]

    found = compare(off(law_b3(spec), factor), squares(spec, seeds))

    assert sum(abs(each.z) > 3 for each in found) >= 0.85 * len(found)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"order": "before-add"}, "The order in stage 1 is before-add, relu: the law is about after-add order"),
        ({"activation": "linear"}, "The stem has no ReLU"),
        ({"shortcut_gain": -1.0}, "The shortcut gain in stage 1 is -1"),
        ({"branch_gain": 1e-4}, "The branch gain in stage 1 is 0.0001 against 1"),
        ({"shortcut": "none"}, "There are no shortcuts"),
        ({"norm": "batch"}, "There is a batch norm in stage 1"),
        ({"width": 6, "features": 6}, "The width is 6"),
    ],
)
def test_where_a_condition_fails_the_law_says_which(fields: dict[str, Any], sentence: str):
    assert sentence in law_b3(network(**fields)).refusal
