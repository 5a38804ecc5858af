"""The law of the logarithm of a squared norm: a sum of independent logarithms of chi-squares.

`Factor` is one random factor of a squared norm, `LogLaw` their product seen in logarithms: its exact mean, variance,
quantiles and mean of the square. Knows no networks; imports NumPy, and SciPy's special functions where they are used.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skipscope.errors import InputError, choose, quoted, require_int, require_number

__all__ = ["Factor", "LogLaw", "increment"]

Array = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
FactorKind = Literal["linear", "relu", "share"]


@dataclass(frozen=True, order=True)
class Factor:
    """One random factor of a squared norm, of `width` units; K ~ Bin(width, 1/2) gates are open, given K >= 1.

    Attributes:
        kind: `"linear"` is chi2_width, `"relu"` is chi2_K, and `"share"` is Beta(K/2, (width - K)/2), the part of a
            squared norm that K of `width` gates let through (1 if all are open).
        width: units of the layer.
    """

    kind: FactorKind
    width: int

    @property
    def mean(self) -> float:
        """E ln of the factor, exact."""
        return _moments(self)[0]

    @property
    def variance(self) -> float:
        """Var ln of the factor, exact."""
        return _moments(self)[1]

    @property
    def asymptotic_mean(self) -> float:
        """E ln to first order in 1/width: ln E - beta/2, as arXiv:1812.05994 has it."""
        return math.log(self.expectation) - self.asymptotic_variance / 2

    @property
    def asymptotic_variance(self) -> float:
        """Var ln to first order in 1/width, beta: 5/n for a ReLU layer, of which the gates are 3/n; linear 2/n."""
        return {"linear": 2.0, "relu": 5.0, "share": 3.0}[self.kind] / self.width

    @property
    def expectation(self) -> float:
        """E of the factor itself, exact, counting a dead layer's 0."""
        return {"linear": float(self.width), "relu": self.width / 2, "share": 1 / 2}[self.kind]

    @property
    def root(self) -> float:
        """E of the square root of the factor, exact, counting a dead layer's 0; for `"linear"` and `"relu"`."""
        from scipy.special import gammaln

        k, probability = _open_gates(self.width) if self.kind == "relu" else (np.array([float(self.width)]), np.ones(1))
        roots = math.sqrt(2.0) * np.exp(gammaln((k + 1.0) / 2) - gammaln(k / 2))
        return float(probability @ roots) * (1.0 - self.death)

    @property
    def death(self) -> float:
        """The probability that no gate is open and the factor is 0; the laws of logarithms are given that it is not."""
        return 0.0 if self.kind == "linear" else 0.5**self.width

    def characteristic(self, t: Array) -> ComplexArray:
        """E exp(i t ln factor) at the frequencies `t`.

        chi2_k gives 2^it Gamma(k/2 + it)/Gamma(k/2); the share divides that of chi2_K by that of chi2_width, since
        chi2_width Beta(K/2, (width - K)/2) has the law of chi2_K.
        """
        from scipy.special import loggamma

        def log_chi2(k: float) -> ComplexArray:
            logarithm: ComplexArray = loggamma(k / 2 + 1j * t) - loggamma(k / 2) + 1j * t * math.log(2.0)
            return logarithm

        if self.kind == "linear":
            return np.exp(log_chi2(self.width))
        whole: ComplexArray | float = log_chi2(self.width) if self.kind == "share" else 0.0
        total = np.zeros(len(t), np.complex128)
        for k, probability in zip(*_open_gates(self.width), strict=True):
            total += probability * np.exp(log_chi2(k) - whole)
        return total


@lru_cache(maxsize=256)
def _open_gates(width: int) -> tuple[Array, Array]:
    """The numbers K of open gates, 1 to `width`, and their probabilities given K >= 1, less what is below 1e-20."""
    from scipy.special import gammaln

    k = np.arange(1.0, width + 1.0)
    logarithm = -gammaln(k + 1.0) - gammaln(width - k + 1.0)
    probability = np.exp(logarithm - logarithm.max())
    probability /= probability.sum()
    likely = probability > 1e-20
    return k[likely], probability[likely]


@lru_cache(maxsize=1024)
def _moments(factor: Factor) -> tuple[float, float]:
    """Exact mean and variance of ln `factor`: ln chi2_k has mean psi(k/2) + ln 2 and variance psi'(k/2)."""
    from scipy.special import digamma, polygamma

    whole = float(digamma(factor.width / 2) + math.log(2.0)), float(polygamma(1, factor.width / 2))
    if factor.kind == "linear":
        return whole
    k, probability = _open_gates(factor.width)
    means = digamma(k / 2) + math.log(2.0)
    mean = float(probability @ means)
    variance = float(probability @ (polygamma(1, k / 2) + (means - mean) ** 2))
    if factor.kind == "relu":
        return mean, variance
    return mean - whole[0], max(variance - whole[1], 0.0)  # one unit: its share is 1, up to rounding


@dataclass(frozen=True)
class LogLaw:
    """The law of the natural logarithm of a squared norm (or a ratio of two): shift + sum of independent ln factors.

    Attributes:
        shift: the constant part: ln of the product of the weights' variances and squared gains.
        factors: the random factors and how often each occurs, sorted.
    """

    shift: float = 0.0
    factors: tuple[tuple[Factor, int], ...] = ()

    def __add__(self, other: LogLaw) -> LogLaw:
        """The law of the sum with an independent one."""
        counts = Counter(dict(self.factors))
        counts.update(dict(other.factors))
        return LogLaw(self.shift + other.shift, tuple(sorted(counts.items())))

    def repeated(self, times: int) -> LogLaw:
        """The law of the sum of `times` independent copies: as many equal layers."""
        require_int("times", times, least=0)
        factors = tuple((factor, count * times) for factor, count in self.factors) if times else ()
        return LogLaw(self.shift * times, factors)

    @property
    def mean(self) -> float:
        """The exact mean."""
        return self.shift + sum(count * factor.mean for factor, count in self.factors)

    @property
    def variance(self) -> float:
        """The exact variance."""
        return sum((count * factor.variance for factor, count in self.factors), start=0.0)

    @property
    def asymptotic_mean(self) -> float:
        """The mean to first order in 1/width (arXiv:1812.05994)."""
        return self.shift + sum(count * factor.asymptotic_mean for factor, count in self.factors)

    @property
    def asymptotic_variance(self) -> float:
        """The variance to first order in 1/width (arXiv:1812.05994)."""
        return sum((count * factor.asymptotic_variance for factor, count in self.factors), start=0.0)

    @property
    def log_square(self) -> float:
        """ln E of the squared norm itself, exact, counting dead layers' zeros."""
        return self.shift + sum(count * math.log(factor.expectation) for factor, count in self.factors)

    @property
    def death(self) -> float:
        """The probability that a layer among the factors is dead."""
        return -math.expm1(sum(count * math.log1p(-factor.death) for factor, count in self.factors if factor.death))

    def quantiles(self, levels: ArrayLike) -> Array:
        """The exact quantiles at `levels`, to 1e-8 of the standard deviation for levels from 0.001 to 0.999.

        Raises:
            InputError: a level is not strictly between 0 and 1, or no factor is a chi2 (a share alone has no density).
        """
        wanted = np.atleast_1d(np.asarray(levels, np.float64))
        if wanted.ndim != 1 or not bool(np.all((wanted > 0.0) & (wanted < 1.0))):
            raise InputError(f"levels must be numbers strictly between 0 and 1; got {quoted(levels)}.")
        if self.factors and all(factor.kind == "share" for factor, _ in self.factors):
            raise InputError(
                f"factors must contain one of kind 'linear' or 'relu', or none; got {quoted(self.factors)}."
            )
        (found,) = joint_quantiles([self], wanted)
        return found


def increment(width: int, variance: float, activation: str = "relu") -> LogLaw:
    """The law of ln(||a_out||^2 / ||a_in||^2) over one layer.

    With He initialisation in the square case, `increment(n, 2 / n)`, the exact mean is
    ln(4/n) + E psi(K/2) and the exact variance E psi'(K/2) + Var psi(K/2): -0.176 and 0.420 at n = 16, where the
    asymptotic -5/(2n) and 5/n are -0.156 and 0.312 (dimensionless, natural logarithms).

    Args:
        width: units of the layer (its output).
        variance: of one weight.
        activation: `"relu"` or `"linear"`.

    Raises:
        InputError: the width is below 1, the variance not above 0, or the activation another one.
    """
    require_int("width", width, least=1)
    if require_number("variance", variance) <= 0.0:
        raise InputError(f"variance must be above 0 (of one weight, e.g. 2/fan_in); got {quoted(variance)}.")
    choose("activation", activation, ("relu", "linear"))
    return LogLaw(math.log(variance), ((Factor("relu" if activation == "relu" else "linear", width), 1),))


# ------------------------------------------------------------------------------------------------- its exact quantiles


def joint_quantiles(laws: Sequence[LogLaw], levels: Array) -> list[Array]:
    """The quantiles of every law, each of shape (len(levels),).

    The distribution function is the Fourier sum of Gil-Pelaez and Davies,
    F(x) = 1/2 - sum over k of Im(phi(t_k) exp(-i t_k x)) / (pi (k + 1/2)) with t_k = (k + 1/2) step: its error is at
    most the probability beyond 2 pi / step from x. phi is the product of the factors' characteristic functions, so a
    thousand equal layers cost one power, and all laws share one grid of frequencies.
    """
    spread = [law for law in laws if law.variance > 0.0]
    t = _frequencies(spread) if spread else np.empty(0)
    waves = {factor: factor.characteristic(t) for factor in {factor for law in spread for factor, _ in law.factors}}
    found = {law: _invert(law, t, waves, levels) for law in dict.fromkeys(laws)}  # a plain block ends as its last layer
    return [found[law] for law in laws]


def _frequencies(laws: Sequence[LogLaw]) -> Array:
    """Frequencies (k + 1/2) step that resolve all `laws`: fine enough for the widest, high enough for the narrowest.

    The period is 16 standard deviations and 60: the slowest tail, of ln chi2_1, falls as exp(x/2). A Gaussian of
    standard deviation sd has died away (1e-14) at 8/sd, a chi2 of few degrees at 20. A share can be 1 with positive
    probability, where its characteristic function never dies, so the smoothness is the other factors'.
    """
    widest = max(law.variance for law in laws) ** 0.5
    smooth = [sum(n * each.variance for each, n in law.factors if each.kind != "share") for law in laws]
    narrowest = min(smooth) ** 0.5
    step = 2.0 * math.pi / (16.0 * widest + 60.0)
    frequencies: Array = step * (np.arange(math.ceil((8.0 / narrowest + 20.0) / step)) + 0.5)
    return frequencies


def _invert(law: LogLaw, t: Array, waves: dict[Factor, ComplexArray], levels: Array) -> Array:
    """The quantiles of one law by bisection of its distribution function."""
    mean, sd = law.mean, law.variance**0.5
    if sd == 0.0:
        return np.full(len(levels), mean)
    phi = np.exp(1j * t * (law.shift - mean))
    for factor, count in law.factors:
        phi = phi * waves[factor] ** count
    high = np.full(len(levels), math.pi / (2.0 * t[0]))  # half a period: further out the sum repeats itself
    low = -high
    heard = np.abs(phi) > 1e-17
    t, weight = t[heard], (phi / (np.arange(len(t)) + 0.5))[heard]
    for _ in range(52):
        middle = (low + high) / 2.0
        below = 0.5 - (np.exp(-1j * np.outer(middle, t)) @ weight).imag / math.pi < levels
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    quantiles: Array = mean + (low + high) / 2.0
    return quantiles
