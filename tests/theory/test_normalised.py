"""Law (d): plain networks with batch normalisation, backward.

Every sample of a batch and every unit of a layer is an observation, so that a few networks measure a factor a layer to
a part of a percent; the error is taken from their spread.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from skipscope.spec import Spec
from skipscope.theory import Prediction, laws

FACTOR = math.pi / (math.pi - 1)


def network(width: int, blocks: int = 4, **fields: Any) -> Spec:
    return Spec.dense(**{"width": width, "blocks": blocks, "layers": 1, "shortcut": "none", "norm": "batch", **fields})


def law_d(spec: Spec, **setting: Any) -> Prediction:
    return next(each for each in laws(spec, **setting) if each.law.startswith("(d)"))


def measured_factor(spec: Spec, seeds: int, batch: int, squares: Any, **probing: Any) -> tuple[float, float]:
    """The mean factor a layer from the last block down to the stem, and its standard error."""
    values = squares(spec, seeds, batch=batch, **probing)
    layers = sum(len(block.layers) for block in spec.body)
    logs = np.log(values["stem", "backward_gain"] / values[spec.body[-1].site, "backward_gain"]) / layers
    return float(np.exp(logs.mean())), float(logs.std(ddof=1) / math.sqrt(seeds))


@pytest.mark.parametrize("init", ["he", "lecun", "torch"])
@pytest.mark.parametrize("fields", [{}, {"layers": 2}, {"order": "after-add", "layers": 2}], ids=str)
def test_the_factor_is_the_same_for_every_initialisation(init: str, fields: dict[str, Any]):
    spec = network(64, init=init, **fields)
    table = law_d(spec, batch=64).table

    gains = dict(zip(table["site"], table["square_mean"], strict=True))
    blocks = [gains[block.site] for block in spec.body]
    per_block = FACTOR ** len(spec.body[0].layers)
    assert [upper / lower for lower, upper in zip(blocks[1:], blocks, strict=False)] == pytest.approx([per_block] * 3)
    assert gains["stem"] / blocks[0] == pytest.approx(per_block)
    assert gains["head"] == 1
    assert "input" not in gains  # what the stem divides by is the data's variance
    assert per_block in (pytest.approx(1.4669, abs=1e-4), pytest.approx(1.4669**2, abs=3e-4))


# The bias is stated as 1.2/batch + 0.6/width, to a third of that.
@pytest.mark.parametrize(("width", "batch", "seeds"), [(128, 128, 8), (64, 64, 24), (64, 256, 8), (256, 32, 8)])
def test_networks_do_as_the_law_says(width: int, batch: int, seeds: int, squares: Any):
    spec = network(width)
    assert law_d(spec, batch=batch).holds

    factor, error = measured_factor(spec, seeds, batch, squares)

    bias = 1.2 / batch + 0.6 / width
    assert factor / FACTOR - 1 == pytest.approx(bias, abs=bias / 3 + 3 * error)
    assert 5 * error < 0.05


@pytest.mark.parametrize("wrong", [0.95, 1.05])
def test_a_law_that_is_five_percent_off_would_be_noticed(wrong: float, squares: Any):
    factor, error = measured_factor(network(128), 8, 128, squares)

    bias = 1.2 / 128 + 0.6 / 128
    assert abs(factor / (wrong * FACTOR) - 1 - bias) > bias / 3 + 3 * error


@pytest.mark.parametrize(("batch", "expected"), [(8, 1.77), (16, 1.59), (32, 1.52), (64, 1.49)])
def test_small_batches_are_above_it_as_tabled(batch: int, expected: float, squares: Any):
    factor, error = measured_factor(network(256), 8, batch, squares)

    assert factor == pytest.approx(expected, abs=3 * error + 0.01)  # tabled at width 1024, with two digits


def test_every_site_follows(squares: Any):
    spec = network(128, blocks=2, layers=2, order="after-add", output="relu", init="xavier")
    values = squares(spec, 8, batch=128)

    for row in law_d(spec, batch=128).table.iter_rows(named=True):
        measured = values[row["site"], "backward_gain"]
        # Four layers of 1.4 % each at most, and 3 standard errors.
        assert measured.mean() == pytest.approx(
            row["square_mean"], rel=0.056 + 3 * measured.std() / measured.mean() / 2.8
        )


def test_ones_are_taken_away_by_the_normalisation(squares: Any):
    # The same gradient for every sample: what the factor of the first layer leaves of it is less than half.
    spec = network(128)
    values = squares(spec, 8, batch=128, cotangent="ones")

    ratio = values["stage1.block3", "backward_gain"] / values["stage1.block4", "backward_gain"]
    assert ratio.mean() < 0.7
    assert "The cotangent is ones" in law_d(spec, batch=128, cotangent="ones").refusal


@pytest.mark.parametrize(
    ("spec", "batch", "sentence"),
    [
        (network(64), 16, "The width is 64 and the batch 16: the law is for both far above 1, and the factor a layer"),
        (network(12), 1024, "about 5% larger than pi/(pi - 1)"),
        (network(64, norm="layer"), 64, "The stem has norm 'layer', relu: the law is about batch norm with ReLUs."),
        (network(64, activation="tanh"), 64, "Stage 1 has norm 'batch', tanh"),
        (network(64, order="pre-activation"), 64, "The order in stage 1 is pre-activation"),
        (network(64, branch_gain=0.5), 64, "The branch gain in stage 1 is not 1"),
        (network(64, shortcut="identity"), 64, "There are shortcuts in stage 1"),
        (network(64, output="tanh"), 64, "The activation in the head is tanh"),
    ],
)
def test_where_a_condition_fails_the_law_says_which(spec: Spec, batch: int, sentence: str):
    assert sentence in law_d(spec, batch=batch).refusal


def test_the_ratio_of_width_and_batch_is_told():
    assert "2.8% larger at width 64 and batch 64 (n/B = 1)" in law_d(network(64), batch=64).bias
