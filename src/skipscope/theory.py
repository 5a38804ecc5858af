"""What the theory predicts for a spec at initialisation: laws to draw beside the measurement.

A law is one entry of `LAWS`, a literal at the foot of this file: when it holds, in words, and what it predicts, site
by site, as a table. Where a condition fails, the law is not drawn but says which. Laws speak of a `Spec`, never of
arrays that somebody measured, so this module imports the spec, how it is initialised, NumPy and Polars; SciPy's
special functions are heavy and wait inside the functions that need them.

**Law (a), plain networks.** Gaussian weights, no bias, no norm, one sample, any width. Squared norms are then products
of independent factors, so that their logarithms are sums, whose law `LogLaw` holds.

*Forward.* Given the input a of a layer, the n entries of W a are independent N(0, v ||a||^2), v the variance of a
weight. A ReLU keeps those that are positive, K of n, and a sign says nothing about a size:

    ||a_out||^2 / ||a_in||^2  =  v chi2_K,   K ~ Bin(n, 1/2)         (linear layer: v chi2_n)

whatever a was, hence independently over layers. With probability 2^-n no unit is positive: the layer is dead, and so
is the network. All laws here are given that no layer is dead. The same law holds for ||J u||^2 with a fixed vector u.

*Backward.* Let g be the gradient by the output of a ReLU layer, isotropic and independent of the network below (at the
top: a Gaussian cotangent), w_i the rows of W, D the open gates. In W^T D g = sum over open i of |g_i| sign(g_i) w_i
the gate knows the sign of w_i.a, but sign(g_i) is a fair coin that knows nothing: given the gates and every |g_i|, the
vectors sign(g_i) w_i are independent N(0, v I). So W^T D g is exactly N(0, v ||D g||^2 I), again independent of the
network below, and the argument repeats. Its squared norm is v ||D g||^2 chi2_{n_in}. What the next gates leave of a
Gaussian vector of n entries is chi2_K instead of chi2_n. At the very top the norm of the cotangent is given, and a
ReLU leaves the share Beta(K/2, (n - K)/2) of its square; a linear layer leaves it whole. Altogether, with widths
n_0 (the input), ..., n_L (the head), the gradient by the activation of layer l < L satisfies

    ||g_l||^2 / ||cotangent||^2  =  share_L  (v_L chi2_{K_{L-1}}) ... (v_{l+2} chi2_{K_{l+1}})  v_{l+1} chi2_{n_l}.

Under a linear head the first step needs no coin, because no gate has looked at W: the law then holds for any cotangent
that does not depend on the network. Under a ReLU head a fixed cotangent is not isotropic, the gates favour the
direction of the activations, and the law fails; `fixed_cotangent_growth` has the mean for that case.

Sources: the exact law is elementary (derived above); its limit of large widths is Hanin and Nica 2018
(arXiv:1812.05994): ln of the squared gain tends to N(-beta/2, beta), beta = 5 sum 1/n over the ReLU layers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from skipscope.draws import CotangentKind, weight_variance
from skipscope.errors import InputError, choose, require_int, require_number
from skipscope.spec import Layer, Spec, Stage

__all__ = [
    "LAWS",
    "Factor",
    "Law",
    "LogLaw",
    "Prediction",
    "Setting",
    "fixed_cotangent_growth",
    "increment",
    "laws",
]

Array = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
FactorKind = Literal["linear", "relu", "share"]
Quantity = Literal["forward_gain", "backward_gain"]

# ------------------------------------------------------------------------------------------ the law of a squared norm


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
        typical = {"linear": self.width, "relu": self.width / 2, "share": 1 / 2}[self.kind]
        return math.log(typical) - self.asymptotic_variance / 2

    @property
    def asymptotic_variance(self) -> float:
        """Var ln to first order in 1/width, beta: 5/n for a ReLU layer, of which the gates are 3/n; linear 2/n."""
        return {"linear": 2.0, "relu": 5.0, "share": 3.0}[self.kind] / self.width

    @property
    def death(self) -> float:
        """The probability that no gate is open and the factor is 0; every law here is given that it is not."""
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
            raise InputError(f"levels must be numbers strictly between 0 and 1; got {levels!r}.")
        if self.factors and all(factor.kind == "share" for factor, _ in self.factors):
            raise InputError(f"factors must contain one of kind 'linear' or 'relu', or none; got {self.factors!r}.")
        (found,) = _quantiles([self], wanted)
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
        raise InputError(f"variance must be above 0 (of one weight, e.g. 2/fan_in); got {variance!r}.")
    choose("activation", activation, ("relu", "linear"))
    return LogLaw(math.log(variance), ((Factor("relu" if activation == "relu" else "linear", width), 1),))


# ------------------------------------------------------------------------------------------------- its exact quantiles


def _quantiles(laws: Sequence[LogLaw], levels: Array) -> list[Array]:
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


# ------------------------------------------------------------------------- a spec as the steps that change a norm's law


@dataclass(frozen=True)
class _Affine:
    variance: float
    fan_in: int
    fan_out: int


@dataclass(frozen=True)
class _Gain:
    gain: float


@dataclass(frozen=True)
class _Gate:
    """A ReLU."""


_Step = str | _Affine | _Gain | _Gate  # a string is a site: the law is wanted here


def _steps(spec: Spec) -> Iterator[_Step]:
    """What a vector meets from the input to the output of a plain network, in order of execution."""
    yield "input"
    yield from _layer_steps(spec, spec.stem_layer)
    for block in spec.body:
        for layer in block.layers:
            yield from _layer_steps(spec, layer)
        yield _Gain(block.branch_gain)
        yield from _gate(block.activation)
        yield block.site
    if spec.pre_activation:
        yield from _gate(spec.stages[-1].activation)
        yield "final"
    yield from _layer_steps(spec, spec.head_layer)


def _layer_steps(spec: Spec, layer: Layer) -> Iterator[_Step]:
    affine = _Affine(weight_variance(spec, layer), layer.fan_in, layer.fan_out)
    gate = _gate(layer.activation)
    yield from ([affine, *gate] if layer.first == "affine" else [*gate, affine])
    yield layer.site


def _gate(activation: str) -> list[_Step]:
    return [_Gate()] if activation == "relu" else []


@dataclass(frozen=True)
class _Vector:
    """A vector of random direction on its way through the network, by the law of its squared norm.

    `last` is the factor that gates can still change: after a weight matrix the vector is Gaussian given all else, and
    gates make of its chi2_n a chi2_K. None at the start, where the norm is given.
    """

    width: int
    rest: LogLaw = LogLaw()
    last: Factor | None = None

    @property
    def law(self) -> LogLaw:
        return self.rest + LogLaw(0.0, ((self.last, 1),)) if self.last else self.rest

    def times_matrix(self, variance: float, width: int) -> _Vector:
        return _Vector(width, self.law + LogLaw(math.log(variance)), Factor("linear", width))

    def scaled(self, gain: float) -> _Vector:
        return replace(self, rest=self.rest + LogLaw(2.0 * math.log(gain)))

    def gated(self) -> _Vector:
        # Two ReLUs in a row (an activated stem under pre-activation) have the same gates: the second changes nothing.
        return replace(self, last=Factor("relu" if self.last else "share", self.width))


def _walk(start: _Vector, steps: Iterable[_Step], *, backward: bool) -> dict[str, LogLaw]:
    """The law at every site that `steps` come by; backward, a weight matrix is met transposed."""
    vector = start
    found: dict[str, LogLaw] = {}
    for step in steps:
        match step:
            case _Affine():
                vector = vector.times_matrix(step.variance, step.fan_in if backward else step.fan_out)
            case _Gain():
                vector = vector.scaled(step.gain)
            case _Gate():
                vector = vector.gated()
            case site:
                found[site] = vector.law
    return found


# ------------------------------------------------------------------------------------------------ laws and predictions


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a law is asked about: the network and how it is probed.

    Attributes:
        spec: the network.
        cotangent: the gradient by the output: `"gaussian"`, independent of the network, or `"ones"`.
        batch: samples in the batch over which norms are taken.
    """

    spec: Spec
    cotangent: CotangentKind = "gaussian"
    batch: int = 1


@dataclass(frozen=True, kw_only=True)
class Law:
    """One law of the theory for one quantity.

    Attributes:
        name: the law's letter and what it is about.
        quantity: what it predicts: `forward_gain` is ||a_site|| / ||x||, x the input; `backward_gain` is
            ||dL/da_site|| / ||cotangent||. Both dimensionless, norms over one sample.
        statement: the law, in one line.
        source: where it comes from.
        refuse: why it does not hold in a setting, in sentences; empty where it holds.
        predict: its table (see `Prediction`), asked for only where it holds.
    """

    name: str
    quantity: Quantity
    statement: str
    source: str
    refuse: Callable[[Setting], str]
    predict: Callable[[Setting], pl.DataFrame]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What one law says about one setting; the fields of the law, and its answer.

    Attributes:
        law, quantity, statement, source: see `Law`.
        refusal: why the law does not hold here, in sentences; empty where it holds.
        table: one row a site, in order of depth; no rows where the law is refused. `log_*` are of the natural
            logarithm of the *squared* gain, `q05` to `q95` the exact quantiles of the gain itself, all given that it
            is not 0; `dead` is the probability that it is.
    """

    law: str
    quantity: Quantity
    statement: str
    source: str
    refusal: str
    table: pl.DataFrame

    @property
    def holds(self) -> bool:
        """Whether the law's conditions hold."""
        return not self.refusal


def laws(spec: Spec, *, cotangent: CotangentKind = "gaussian", batch: int = 1) -> tuple[Prediction, ...]:
    """What every law of `LAWS` says about the networks that `spec` describes, at initialisation.

    Args:
        spec: the network.
        cotangent: the gradient by the output that is sent back: `"gaussian"` (standard normal, drawn independently of
            the network) or `"ones"`.
        batch: samples in the batch over which norms are taken.

    Raises:
        InputError: the cotangent is another one, or the batch is below 1.
    """
    choose("cotangent", cotangent, get_args(CotangentKind))
    setting = Setting(spec=spec, cotangent=cotangent, batch=require_int("batch", batch, least=1))
    return tuple(_ask(law, setting) for law in LAWS)


def _ask(law: Law, setting: Setting) -> Prediction:
    refusal = law.refuse(setting)
    return Prediction(
        law=law.name,
        quantity=law.quantity,
        statement=law.statement,
        source=law.source,
        refusal=refusal,
        table=_table(law.quantity, {}, {}) if refusal else law.predict(setting),
    )


_LEVELS = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
_MOMENTS = ("log_mean", "log_variance", "asymptotic_log_mean", "asymptotic_log_variance")
_SCHEMA: dict[str, type[pl.DataType]] = {
    "site": pl.String,
    "quantity": pl.String,
    **dict.fromkeys((*_MOMENTS, *_LEVELS, "dead"), pl.Float64),
}


def _table(quantity: Quantity, found: dict[str, LogLaw], dead: dict[str, float]) -> pl.DataFrame:
    """The table of a prediction: `found` are the laws of ln(squared gain) by site."""
    all_laws = list(found.values())
    moments = [(law.mean, law.variance, law.asymptotic_mean, law.asymptotic_variance) for law in all_laws]
    gains = [np.exp(quantiles / 2.0) for quantiles in _quantiles(all_laws, np.array(list(_LEVELS.values())))]
    rows = [
        (site, quantity, *moment, *gain.tolist(), dead[site])
        for site, moment, gain in zip(found, moments, gains, strict=True)
    ]
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


# ------------------------------------------------------------------------------------------- law (a): plain networks


def _plain_forward(setting: Setting) -> pl.DataFrame:
    spec = setting.spec
    found = _walk(_Vector(spec.stem.features), _steps(spec), backward=False)
    del found["input"]  # its gain is 1 by definition
    return _table("forward_gain", found, {site: law.death for site, law in found.items()})


def _plain_backward(setting: Setting) -> pl.DataFrame:
    steps = list(_steps(setting.spec))
    down = _walk(_Vector(setting.spec.head.features), reversed(steps), backward=True)
    found = {site: down[site] for site in reversed(down)}
    # A dead layer anywhere closes every gate above it too: a site feels it as soon as one gate stands above the site.
    dead = _walk(_Vector(setting.spec.stem.features), steps, backward=False)["head"].death
    return _table("backward_gain", found, {site: dead if law.death else 0.0 for site, law in found.items()})


def _refuse_plain_forward(setting: Setting) -> str:
    return " ".join(_plain_objections(setting))


def _refuse_plain_backward(setting: Setting) -> str:
    objections = list(_plain_objections(setting))
    if setting.cotangent == "ones" and setting.spec.head.activation == "relu":
        objections.append(
            "The cotangent is ones under a ReLU output: the gates are correlated with the activations, and a fixed "
            "cotangent has a component along them that grows backward; the law needs a Gaussian cotangent or a linear "
            "output."
        )
    return " ".join(objections)


def _plain_objections(setting: Setting) -> Iterator[str]:
    """Why law (a) does not hold, a sentence a reason."""
    spec = setting.spec
    yield from _layer_objections("the stem", spec.stem.norm, spec.stem.activation)
    for number, stage in enumerate(spec.stages, start=1):
        yield from _layer_objections(f"stage {number}", stage.norm, stage.activation)
        yield from _gain_objections(f"stage {number}", stage, len(spec.body))
    yield from _layer_objections("the head", "none", spec.head.activation)
    if spec.init == "torch":
        yield (
            "The weights are uniform, and the biases too where there are any (init='torch'): the exact law needs "
            "Gaussian weights and biases of zero; uniform weights follow it only asymptotically, for large widths."
        )
    if setting.batch > 1:
        yield (
            f"The norms are over a batch of {setting.batch} samples: their squares have the mean of the law, but their "
            "logarithms a smaller variance; the law is exact for a batch of 1."
        )


def _layer_objections(where: str, norm: str, activation: str) -> Iterator[str]:
    if norm != "none":
        yield f"There is a {norm} norm in {where}: the law is about networks without normalisation."
    if activation not in ("relu", "linear"):
        yield f"The activation in {where} is {activation}: the law needs relu or linear."


def _gain_objections(where: str, stage: Stage, blocks: int) -> Iterator[str]:
    shortcut, branch = stage.gains.values(blocks)
    if not stage.plain and shortcut != 0.0:
        yield f"There are shortcuts in {where}: the law is about plain networks (no shortcut, or a shortcut gain of 0)."
    elif stage.gains.learned:
        yield f"The branch gain in {where} is learned and starts at 0: without a shortcut nothing passes."
    if branch <= 0.0:
        yield f"The branch gain in {where} is {branch:g}: the law needs gains above 0."


def fixed_cotangent_growth(cotangent: ArrayLike, depth: int) -> Array:
    """E||g||^2 behind each of `depth` ReLU layers of a plain He network, for a FIXED cotangent on a ReLU'd output.

    The network is square: every layer has as many units, n, as the cotangent has entries. The gates of the output are
    correlated with the activations a below, so the gradient has a component along a, whose mean square c never
    changes, and which feeds the perpendicular rest N at every layer: with v the cotangent,

        c = ||v||^2/n + ((sum v)^2 - ||v||^2)/(pi n),  N_1 = (1 - 1/n) ||v||^2,  N_{k+1} = 2 (1 - 1/n) c + (1 - 2/n) N_k

    and E||g_k||^2 = c + N_k. It is constant for a one-hot v; for v = ones it rises from 1 + (1 - 1/n)/pi to
    1 + (n - 1)/pi times ||v||^2; for signs that sum to zero it decays. Exact but for dead layers (probability 2^-n).

    Args:
        cotangent: v, of shape (n,).
        depth: layers passed, k = 1 to depth.

    Returns:
        Squared norms of shape (depth,), in the unit of ||v||^2.

    Raises:
        InputError: the cotangent is not a vector of finite numbers, or the depth is below 1.
    """
    v = np.asarray(cotangent, np.float64)
    if v.ndim != 1 or v.size == 0 or not bool(np.all(np.isfinite(v))):
        raise InputError(f"cotangent must be a vector of finite numbers; got an array of shape {v.shape}.")
    require_int("depth", depth, least=1)
    n, square = v.size, float(v @ v)
    along = square / n + (float(v.sum()) ** 2 - square) / (math.pi * n)
    across = (1.0 - 1.0 / n) * square
    norms = np.empty(depth)
    for k in range(depth):
        norms[k] = along + across
        across = 2.0 * (1.0 - 1.0 / n) * along + (1.0 - 2.0 / n) * across
    return norms


# ---------------------------------------------------------------------------------------------------------- all laws

_PLAIN_SOURCE = "exact: derived in skipscope.theory; asymptotic: Hanin and Nica 2018, arXiv:1812.05994"

LAWS: tuple[Law, ...] = (
    Law(
        name="(a) plain network, forward",
        quantity="forward_gain",
        statement="||a_l||^2/||x||^2 is the product over layers of v chi2_K, K ~ Bin(n, 1/2) (linear: v chi2_n).",
        source=_PLAIN_SOURCE,
        refuse=_refuse_plain_forward,
        predict=_plain_forward,
    ),
    Law(
        name="(a) plain network, backward",
        quantity="backward_gain",
        statement=(
            "||g_l||^2/||cotangent||^2 is the share that the output's gates pass, times v chi2_K for every layer "
            "between, times v chi2_n at the site's own width n."
        ),
        source=_PLAIN_SOURCE,
        refuse=_refuse_plain_backward,
        predict=_plain_backward,
    ),
)
