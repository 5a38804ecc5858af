"""Law (g): the lengths of the paths through a residual network, counted and weighted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skipscope.engines import ops
from skipscope.errors import InputError
from skipscope.theory import PathLengths

Array = NDArray[np.float64]


def test_the_paths_of_the_paper_s_network():
    paths = PathLengths(54)  # 110 layers: 54 blocks

    assert (paths.mean, paths.quantiles([0.025, 0.975]).tolist()) == (27.0, [20, 34])
    assert paths.weights.sum() == pytest.approx(1.0, rel=1e-12)
    assert paths.weights @ np.arange(55) == pytest.approx(paths.mean, rel=1e-12)
    assert paths.weights @ (np.arange(55) - 27.0) ** 2 == pytest.approx(paths.variance, rel=1e-9)


def test_he_branches_make_long_paths_and_only_small_ones_short():
    assert PathLengths(30, 1.0).mean == pytest.approx(15.0)
    assert PathLengths(30, 2.0).mean == pytest.approx(20.0)
    poisson = [math.exp(-1) / math.factorial(k) for k in range(6)]
    assert PathLengths(2000, 1 / 2000).weights[:6] == pytest.approx(poisson, abs=2e-3)
    assert PathLengths(7, 0.0).weights.tolist() == [1.0] + [0.0] * 7
    assert PathLengths(0).weights.tolist() == [1.0]


def backward_by_length(blocks: int, width: int, networks: int, rng: np.random.Generator) -> Array:
    """G_k of x + W2 relu(W1 x), He on both: the gradient by x_0 that came through k branches.

    Of shape (L + 1, s, 1, n): one backward with a coefficient vector a path length, its gates those of the forward.
    """
    x = rng.standard_normal((networks, 1, width))
    passed: list[Any] = []
    for _ in range(blocks):
        first, second = (rng.standard_normal((networks, width, width)) * math.sqrt(2 / width) for _ in range(2))
        hidden = ops.relu(ops.affine(x, first, None))
        passed.append((first, second, hidden, x))
        x = x + ops.affine(hidden, second, None)
    by_length = np.zeros((blocks + 1, networks, 1, width))
    by_length[0] = rng.standard_normal((networks, 1, width))
    for first, second, hidden, x in reversed(passed):
        longer = np.stack(
            [
                ops.affine_backward(ops.relu_backward(ops.affine_backward(g, hidden, second)[0], hidden), x, first)[0]
                for g in by_length[:-1]
            ]
        )
        by_length[1:] += longer
    return by_length


@pytest.fixture(scope="module")
def weights() -> tuple[Array, Array]:
    """<G_k, g> and ||g||^2 by network, of 6,000 networks of 5 blocks: shapes (L + 1, s) and (s,)."""
    rng = np.random.default_rng(5)
    parts = [backward_by_length(5, 32, 500, rng) for _ in range(12)]
    by_length = np.concatenate(parts, axis=1)
    whole = by_length.sum(axis=0)
    return (by_length * whole).sum(axis=(-2, -1)), (whole**2).sum(axis=(-2, -1))


def ratio(part: Array, whole: Array) -> tuple[float, float]:
    """A ratio of means over networks, and its standard error (delta method)."""
    value = part.mean() / whole.mean()
    return float(value), float((part - value * whole).std() / whole.mean() / math.sqrt(whole.size))


def test_networks_weigh_their_paths_as_the_law_says(weights: tuple[Array, Array]):
    by_length, whole = weights
    law = PathLengths(5, 2.0)

    lengths = np.arange(6)
    mean, error = ratio(lengths @ by_length, whole)
    assert 0.05 * mean / error >= 5
    assert abs(mean - law.mean) < 3 * error
    for k in lengths:
        share, error = ratio(by_length[k], whole)
        assert abs(share - law.weights[k]) < 3 * error


@pytest.mark.parametrize("wrong", [0.95, 1.05])
def test_a_law_that_is_five_percent_off_would_be_noticed(wrong: float, weights: tuple[Array, Array]):
    by_length, whole = weights

    mean, error = ratio(np.arange(6) @ by_length, whole)

    assert abs(mean - wrong * PathLengths(5, 2.0).mean) > 3 * error
    # And counting the paths, Bin(L, 1/2), is far from weighing them.
    assert abs(mean - PathLengths(5).mean) > 20 * error


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PathLengths(-1), "blocks must be at least 0; got -1."),
        (lambda: PathLengths(3, -0.5), "square must be at least 0 (a mean square, e.g. 2.0); got -0.5."),
        (lambda: PathLengths(3).quantiles([0.0]), "levels must be numbers strictly between 0 and 1; got [0.0]."),
    ],
)
def test_errors_name_the_parameter(call: Any, message: str):
    with pytest.raises(InputError) as error:
        call()

    assert message in str(error.value)
