"""Sums of logarithms of chi-squares, held against closed forms, SciPy's distributions and samples.

A measured mean is compared by z, its distance in standard errors, a measured share with a probability by the binomial
standard error. A true law passes |z| < 4 in all but 6e-5 of comparisons; seeds are fixed, so that it passes always.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from skipscope.errors import InputError
from skipscope.theory import Factor, LogLaw, increment

Array = NDArray[np.float64]
LEVELS = np.array([0.001, 0.05, 0.25, 0.5, 0.75, 0.95, 0.999])


def z_mean(logs: Array, mean: float) -> float:
    return float((logs.mean() - mean) / (logs.std() / math.sqrt(logs.size)))


def z_share(hits: Array, probability: float) -> float:
    return float((hits.mean() - probability) / math.sqrt(probability * (1.0 - probability) / hits.size))


# ------------------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize(
    ("n", "mean", "asymptotic_mean", "variance", "asymptotic_variance"),
    [
        (8, -0.39878, -0.3125, 1.24699, 0.625),
        (16, -0.17640, -0.15625, 0.41959, 0.3125),
        (32, -0.08254, -0.07812, 0.17750, 0.15625),
        (64, -0.04011, -0.03906, 0.08300, 0.07812),
        (128, -0.01979, -0.01953, 0.04023, 0.03906),
        (512, -0.00490, -0.00488, 0.00984, 0.00977),
    ],
)
def test_increment_has_the_moments_of_the_table(n, mean, asymptotic_mean, variance, asymptotic_variance):
    law = increment(n, 2 / n)

    printed = 0.5e-5 + 1e-12  # five digits behind the point
    assert law.mean == pytest.approx(mean, abs=printed)
    assert law.variance == pytest.approx(variance, abs=printed)
    assert law.asymptotic_mean == pytest.approx(asymptotic_mean, abs=printed)
    assert law.asymptotic_variance == pytest.approx(asymptotic_variance, abs=printed)


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("n", [64, 512, 4096])
def test_the_asymptotic_moments_are_the_exact_ones_to_first_order(n, activation):
    law = increment(n, 3.0, activation)

    # The next order is a few times 1/n^2.
    assert law.asymptotic_mean == pytest.approx(law.mean, abs=8 / n**2)
    assert law.asymptotic_variance == pytest.approx(law.variance, abs=25 / n**2)


def test_a_share_has_the_asymptotic_moments_that_remain():
    share = Factor("share", 4096)

    assert share.asymptotic_mean == pytest.approx(share.mean, abs=8 / 4096**2)
    assert share.asymptotic_variance == pytest.approx(share.variance, abs=25 / 4096**2)


@pytest.mark.parametrize("n", [1, 2, 3, 16, 512])
def test_quantiles_of_a_linear_layer_are_those_of_chi2(n):
    law = increment(n, 0.3, "linear")

    expected = np.log(0.3 * stats.chi2.ppf(LEVELS, n))
    np.testing.assert_allclose(law.quantiles(LEVELS), expected, rtol=0, atol=1e-8 * law.variance**0.5)


def binomial_mixture(x: Array, n: int) -> Array:
    """P(chi2_K <= x), K ~ Bin(n, 1/2) given K >= 1."""
    k = np.arange(1, n + 1)
    weights = stats.binom.pmf(k, n, 0.5) / (1.0 - 0.5**n)
    return weights @ stats.chi2.cdf(x[None, :], k[:, None])


@pytest.mark.parametrize("n", [1, 2, 3, 16, 512])
def test_quantiles_of_a_relu_layer_are_those_of_the_binomial_mixture(n):
    found = np.exp(increment(n, 1.0).quantiles(LEVELS))

    np.testing.assert_allclose(binomial_mixture(found, n), LEVELS, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 16, 512])
def test_a_share_of_chi2_is_a_relu_layer(n):
    law = LogLaw(0.0, ((Factor("linear", n), 1), (Factor("share", n), 1)))
    layer = increment(n, 1.0)

    assert law.mean == pytest.approx(layer.mean, abs=1e-12)
    assert law.variance == pytest.approx(layer.variance, rel=1e-9)
    np.testing.assert_allclose(law.quantiles(LEVELS), layer.quantiles(LEVELS), rtol=0, atol=1e-8)


def test_a_share_that_can_be_whole_is_resolved():
    # Two gates: with probability 1/3 both open, the share 1; else it is Beta(1/2, 1/2). Behind them a wide layer, whose
    # chi2 is so narrow that the jump at 1 is nearly one. The integral over the Beta is a midpoint rule in its angle.
    found = np.exp(LogLaw(0.0, ((Factor("linear", 1000), 1), (Factor("share", 2), 1))).quantiles(LEVELS))

    angles = (np.arange(200_000) + 0.5) / 200_000 * math.pi / 2
    halved = np.array([stats.chi2.cdf(x / np.sin(angles) ** 2, 1000).mean() for x in found])
    np.testing.assert_allclose(stats.chi2.cdf(found, 1000) / 3 + halved * 2 / 3, LEVELS, rtol=0, atol=1e-9)


def test_quantiles_of_two_layers_are_those_of_a_product_of_exponentials():
    # chi2_2 is 2 Exp(1), and P(E1 E2 <= x) = 1 - 2 sqrt(x) K_1(2 sqrt(x)).
    found = increment(2, 0.5, "linear").repeated(2).quantiles(LEVELS)

    root = np.exp(found / 2.0)
    np.testing.assert_allclose(1.0 - 2.0 * root * special.k1(2.0 * root), LEVELS, rtol=0, atol=1e-9)


def test_quantiles_of_a_thousand_layers(rng):
    samples, depth, n = 10_000, 1000, 16
    logs = np.zeros(samples)
    for _ in range(depth):
        logs += np.log(2 / n * rng.chisquare(np.maximum(rng.binomial(n, 0.5, samples), 1)))  # K = 0: 0.02 % of layers
    law = increment(n, 2 / n).repeated(depth)

    # Counting a dead layer as one open gate is 1.5e-5 of layers off: 0.1 of a standard error.
    assert abs(z_mean(logs, law.mean)) < 4
    for level, quantile in zip(LEVELS, law.quantiles(LEVELS), strict=True):
        assert abs(z_share(logs < quantile, level)) < 4


def test_laws_add():
    one, other = increment(8, 0.25), increment(5, 0.3, "linear")

    both = one + other + one

    assert both == one.repeated(2) + other
    assert both.mean == pytest.approx(2 * one.mean + other.mean, rel=1e-13)
    assert both.variance == pytest.approx(2 * one.variance + other.variance, rel=1e-13)
    assert both.death == pytest.approx(1 - (1 - 2**-8) ** 2, rel=1e-12)
    assert one.repeated(0) == LogLaw()
    np.testing.assert_array_equal(LogLaw(0.7).quantiles([0.1, 0.9]), [0.7, 0.7])


@pytest.mark.parametrize("kind", ["linear", "relu", "share"])
@pytest.mark.parametrize("n", [1, 3, 16])
def test_the_mean_of_a_factor_itself(kind: Any, n: int, rng):
    # 100,000 draws: the standard error of the mean is at most sqrt(2)/316 of it.
    open_ = rng.binomial(n, 0.5, 100_000)
    whole, part = rng.chisquare(n, open_.size), np.where(open_ > 0, rng.chisquare(np.maximum(open_, 1)), 0.0)
    beta = stats.beta(np.maximum(open_, 1) / 2, np.maximum(n - open_, 1) / 2).rvs(random_state=rng)
    share = np.where(open_ == 0, 0.0, np.where(open_ == n, 1.0, beta))
    draws = {"linear": whole, "relu": part, "share": share}[kind]

    assert abs(z_mean(draws, Factor(kind, n).expectation)) < 4
    if kind != "share":
        assert abs(z_mean(np.sqrt(draws), Factor(kind, n).root)) < 4


def test_mean_squares_multiply():
    law = increment(8, 0.5).repeated(3) + increment(5, 0.3, "linear")

    assert math.exp(law.log_square) == pytest.approx((0.5 * 4) ** 3 * 0.3 * 5, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: increment(0, 1.0), "width must be at least 1; got 0."),
        (lambda: increment(4, 0.0), "variance must be above 0"),
        (lambda: increment(4, 0.5, "tanh"), "activation must be one of 'relu', 'linear'; got 'tanh'."),
        (lambda: increment(4, 0.5).quantiles([0.5, 1.0]), "levels must be numbers strictly between 0 and 1"),
        (lambda: increment(4, 0.5).quantiles([math.nan]), "levels must be numbers strictly between 0 and 1"),
        (lambda: LogLaw(0.0, ((Factor("share", 4), 1),)).quantiles(0.5), "factors must contain one of kind"),
        (lambda: increment(4, 0.5).repeated(-1), "times must be at least 0; got -1."),
    ],
)
def test_errors_name_the_parameter(call, message):
    with pytest.raises(InputError) as error:
        call()

    assert message in str(error.value)
    assert "\n" not in str(error.value)
