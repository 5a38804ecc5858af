"""Law (a), plain networks: Gaussian weights, no bias, no norm, one sample, any width.

Squared norms are products of independent factors, so that their logarithms are sums, whose law `LogLaw` holds.

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
direction of the activations, and the law fails; what is known then is the mean.

*Ones under a ReLU output.* Split the gradient g by an activation a into its part along a, of mean square c, and the
rest, of mean square N. Since <g, a> is the same at every layer, c changes as 1/||a||^2 does. Of the rest, given the
gates of a, everything is Gaussian and isotropic. So downwards

    through the gates of a ReLU of n units:   c -> c/2,    N -> c (1/2 - e) + N (n/2 - 1 + e)/(n - 1),   e = 2^-n
    through a matrix (n_out, n_in):           c -> n_out v c,    N -> v (n_in - 1) (c + N)

with the old c and N on the right; at the top, behind the gates, c = (1/2 + (n - 1)/(2 pi))/n and c + N = 1/2, in units
of the squared cotangent. That is given that the activation below is not 0. For square He networks, and but for e, it is
`fixed_cotangent_growth`.

Sources: the exact law is elementary (derived above); its limit of large widths is Hanin and Nica 2018
(arXiv:1812.05994): ln of the squared gain tends to N(-beta/2, beta), beta = 5 sum 1/n over the ReLU layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from skipscope.errors import InputError, require_int
from skipscope.theory import law
from skipscope.theory.law import Law, Setting
from skipscope.theory.loglaw import Factor, LogLaw
from skipscope.theory.steps import Affine, Gain, Gate, Step, steps

__all__ = ["PLAIN", "fixed_cotangent_growth"]

Array = NDArray[np.float64]

# ---------------------------------------------------------------------------------------------------- what it predicts


@dataclass(frozen=True)
class _Vector:
    """A vector of random direction on its way through the network, by the law of its squared norm.

    `last` is the factor that gates can still change: after a weight matrix the vector is Gaussian given all else, and
    gates make of its chi2_n a chi2_K. None at the start, where the norm is given.
    """

    width: int
    rest: LogLaw = field(default_factory=LogLaw)
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


def _walk(start: _Vector, steps: Iterable[Step], *, backward: bool) -> dict[str, LogLaw]:
    """The law at every site that `steps` come by; backward, a weight matrix is met transposed."""
    vector = start
    found: dict[str, LogLaw] = {}
    for step in steps:
        match step:
            case Affine():
                layer = step.layer
                vector = vector.times_matrix(step.variance, layer.fan_in if backward else layer.fan_out)
            case Gain():
                vector = vector.scaled(step.gain)
            case Gate():
                vector = vector.gated()
            case str():
                found[step] = vector.law
    return found


def _forward(setting: Setting) -> pl.DataFrame:
    spec = setting.spec
    found = _walk(_Vector(spec.stem.features), steps(spec), backward=False)
    del found["input"]  # its gain is 1 by definition
    return law.table_of_laws("forward_gain", found, {site: each.death for site, each in found.items()})


def _backward(setting: Setting) -> pl.DataFrame:
    path = list(steps(setting.spec))
    down = _walk(_Vector(setting.spec.head.features), reversed(path), backward=True)
    found = {site: down[site] for site in reversed(down)}
    # A dead layer anywhere closes every gate above it too: a site feels it as soon as one gate stands above the site.
    dead = _walk(_Vector(setting.spec.stem.features), path, backward=False)["head"].death
    deaths = {site: dead if each.death else 0.0 for site, each in found.items()}
    return law.table_of_laws("backward_gain", found, deaths)


# ----------------------------------------------------------------------------------------------------- when it holds


def _refuse_forward(setting: Setting) -> Iterator[str]:
    yield from law.norms(setting)
    yield from law.curved(setting)
    yield from law.shortcuts(setting)
    yield from law.nothing_passes(setting)
    if setting.spec.init == "torch":
        yield (
            "The weights are uniform, and the biases too where there are any (init='torch'): the exact law needs "
            "Gaussian weights and biases of zero; uniform weights follow it only asymptotically, for large widths."
        )
    if setting.batch > 1:
        yield (
            f"The norms are over a batch of {setting.batch} samples: their squares have the mean of the law, but their "
            "logarithms a smaller variance; the law is exact for a batch of 1."
        )


def _refuse_backward(setting: Setting) -> Iterator[str]:
    yield from _refuse_forward(setting)
    yield from law.coherent(setting)


# ------------------------------------------------------------------------------------- ones under a ReLU output: means


def _ones(setting: Setting) -> pl.DataFrame:
    """The mean square, c along the activation and N across it, walking down; in logarithms, as depth multiplies."""
    log_scale, along, across = 0.0, 0.0, 0.0
    width, gated = setting.spec.head.features, False
    found = {"head": 0.0}
    living = _walk(_Vector(setting.spec.stem.features), steps(setting.spec), backward=False)
    alive = {site: math.log1p(-each.death) for site, each in living.items()}
    for step in list(reversed(list(steps(setting.spec))))[1:]:
        match step:
            case Gate() if along == 0.0:
                along = (0.5 + (width - 1) / (2.0 * math.pi)) / width
                across, gated = 0.5 - along, True
            case Gate() if not gated:
                none = 0.5**width
                rest = across * (width / 2 - 1.0 + none) / (width - 1) if width > 1 else 0.0
                along, across, gated = along / 2, along * (0.5 - none) + rest, True
            case Affine():
                width = step.layer.fan_in
                across = step.variance * (width - 1) * (along + across)
                along, gated = along * step.variance * step.layer.fan_out, False
            case Gain():
                log_scale += 2.0 * math.log(step.gain)
            case str():
                found[step] = log_scale + math.log(along + across) + alive[step]
        log_scale, along, across = _rescaled(log_scale, along, across)
    return law.table_of_means("backward_gain", {site: found[site] for site in reversed(found)})


def _rescaled(log_scale: float, along: float, across: float) -> tuple[float, float, float]:
    size = along + across
    return log_scale + math.log(size), along / size, across / size


def _refuse_ones(setting: Setting) -> Iterator[str]:
    if setting.cotangent != "ones" or setting.spec.head.activation != "relu":
        yield "The law is about a cotangent of ones under a ReLU output: for others law (a) has the whole distribution."
    yield from law.norms(setting)
    yield from law.curved(setting)
    yield from law.shortcuts(setting)
    yield from law.nothing_passes(setting)
    if setting.spec.init == "torch":
        yield "The weights are uniform (init='torch'): the law needs Gaussian weights."


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


_SOURCE = "exact: derived in skipscope.theory.plain; asymptotic: Hanin and Nica 2018, arXiv:1812.05994"

PLAIN: tuple[Law, ...] = (
    Law(
        name="(a) plain network, forward",
        quantity="forward_gain",
        kind="exact in law",
        statement="||a_l||^2/||x||^2 is the product over layers of v chi2_K, K ~ Bin(n, 1/2) (linear: v chi2_n).",
        source=_SOURCE,
        refuse=_refuse_forward,
        predict=_forward,
    ),
    Law(
        name="(a) plain network, backward",
        quantity="backward_gain",
        kind="exact in law",
        statement=(
            "||g_l||^2/||cotangent||^2 is the share that the output's gates pass, times v chi2_K for every layer "
            "between, times v chi2_n at the site's own width n."
        ),
        source=_SOURCE,
        refuse=_refuse_backward,
        predict=_backward,
    ),
    Law(
        name="(a) plain network, ones backward",
        quantity="backward_gain",
        kind="exact in mean",
        statement=(
            "E ||g_l||^2/||cotangent||^2 is c + N, the part of the gradient along the activation and the rest: with He "
            "weights c stays 1/n + (n - 1)/(pi n) and feeds N, so that the square grows up to 1 + (n - 1)/pi."
        ),
        source="derived in skipscope.theory.plain; its factors are those of arXiv:1812.05994",
        refuse=_refuse_ones,
        predict=_ones,
    ),
)
"""Law (a): plain networks."""
