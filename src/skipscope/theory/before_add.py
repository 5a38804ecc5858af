"""Law (b2), the notebook's block x + relu(W2 relu(W1 x)): its branch is positive, and so is its mean.

Everything here is asymptotic in width, kept to first order in 1/n. Stages may be residual or plain, ReLU or linear; a
branch has one to three layers and the gains s (shortcut) and a (branch).

*Forward.* Given x, the entries of F(x) are independent, relu(sigma z) with z standard normal and sigma^2 = v ||h||^2,
h the last hidden layer. So ||y||^2 and the sum of y depend on x through ||x||^2 and the sum of x alone. With
q = ||x||^2/n, r = mean(x)/sqrt(q), g2 = E ||F||^2/||x||^2 and k = E F_i/sqrt(q) (with He: 1 and 1/sqrt(pi)),

    q' = f q,   f = s^2 + a^2 g2 + 2 s a k r,        r' = (s r + a k)/sqrt(f)

at infinite width: with gains of 1 the factor f is 2.637, 2.784, 2.852, ... -> 2.904 (r -> 0.801) behind a ReLU'd stem.
The cross term is of first order in a, so that a branch gain of 1/sqrt(L) still explodes, as exp(1.128 sqrt(L)); only
1/L bounds it. At finite n, (ln q, r) is a random walk with small independent steps: its mean and covariance are carried
along to first order in 1/n, and ln(squared gain) is nearly normal.

*Backward.* E ||g||^2 grows by s^2 + a^2 g2 a block where the gradient is incoherent, 2 for the notebook's block, and by
f where it is coherent with the activations; tangents.py has the recursion of both. A Gaussian cotangent starts
incoherent but for a part of 1/n, which takes over after about ln n/ln(f/2) blocks; ones under a ReLU output are
coherent from the start, and grow by 3.035, 2.945, 2.912, ... a block.

The first weight gradient over the last is blind to all of it, since both ends grow alike: `first_last_ratio`.

Source: He et al. 2016 (arXiv:1603.05027) has this order as Figure 4 (c); the recursions are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skipscope.draws import CotangentKind, weight_variance
from skipscope.errors import InputError
from skipscope.spec import Spec
from skipscope.theory import law
from skipscope.theory.junctions import Junction, junctions, open_gates
from skipscope.theory.law import Law, Setting
from skipscope.theory.loglaw import LogLaw, increment
from skipscope.theory.tangents import log_gradients

__all__ = ["BEFORE_ADD", "first_last_ratio"]

Array = NDArray[np.float64]

# ------------------------------------------------------------------------------------------------------------ forward


@dataclass(frozen=True)
class _Walk:
    """Where ||x||^2 and r stand: ln E ||x||^2, the moments of ln ||x||^2, and r, relative to the network's input.

    `covariance` is that of (ln ||x||^2, r), to first order in 1/n.
    """

    log_square: float
    log_mean: float
    log_variance: float
    r: float
    covariance: Array


def _forward(setting: Setting) -> pl.DataFrame:
    spec = setting.spec
    walk = _Walk(0.0, 0.0, 0.0, 0.0, np.zeros((2, 2)))
    found: dict[str, tuple[float, float, float]] = {}
    for junction in junctions(spec):
        branch = LogLaw()
        for layer, variance in junction.layers:
            branch += increment(layer.fan_out, variance, layer.activation)
            found[layer.site] = _behind(walk, branch)
        walk = _step(walk, junction, branch)
        found[junction.site] = walk.log_square, walk.log_mean, walk.log_variance
    head = spec.head_layer
    found["head"] = _behind(walk, increment(head.fan_out, weight_variance(spec, head), head.activation))
    if setting.batch > 1:  # samples fluctuate together only in part; their mean square does not care
        return law.table_of_means("forward_gain", {site: log_square for site, (log_square, *_) in found.items()})
    return law.table_of_normals("forward_gain", found)


def _behind(walk: _Walk, layers: LogLaw) -> tuple[float, float, float]:
    """Behind fresh layers, whose factors are independent of what comes in and known exactly."""
    return walk.log_square + layers.log_square, walk.log_mean + layers.mean, walk.log_variance + layers.variance


def _step(walk: _Walk, junction: Junction, branch: LogLaw) -> _Walk:
    change, covariance = _propagate(
        lambda u: _block(junction, u),
        np.array([0.0, walk.r, -junction.spread / 2.0, 0.0, 0.0, 0.0]),
        _disturbance(junction, walk.r, walk.covariance),
    )
    if junction.s == 0.0:  # what came in matters by its norm alone: ln ||x||^2 is known exactly
        gain = LogLaw(2.0 * math.log(abs(junction.a)))
        log_square, log_mean, log_variance = _behind(walk, branch + gain)
        return _Walk(log_square, log_mean, log_variance, float(change[1]), covariance)
    gained = float(covariance[0, 0] - walk.covariance[0, 0])
    return _Walk(
        walk.log_square + float(change[0]) + gained / 2.0,
        walk.log_mean + float(change[0]),
        walk.log_variance + gained,
        float(change[1]),
        covariance,
    )


def _block(junction: Junction, u: Array) -> Array:
    """(ln ||x||^2, r) behind the block, from the same before it and five disturbances, u of shape (6, ...).

    They are ln of the hidden layers' factor and the deviations of <x, F>, ||F||^2 and sum F from their means given it,
    in units of sigma ||x||, sigma^2 ||x||^2/n and sigma ||x||. u[0] starts at 0, as only its change matters.
    """
    log_norm, r, hidden, inner, square, total = u
    s, a, open_, k = junction.s, junction.a, junction.open, junction.mean
    root = math.sqrt(junction.square / open_) * np.exp(hidden / 2.0)  # sigma sqrt(n)/||x||
    f = s * s + 2 * s * a * (k * np.exp(hidden / 2.0) * r + root * inner) + a * a * root**2 * (open_ + square)
    change: Array = np.stack([log_norm + np.log(f), (s * r + a * (k * np.exp(hidden / 2.0) + root * total)) / f**0.5])
    return change


def _disturbance(junction: Junction, r: float, covariance: Array) -> Array:
    """The covariance of `_block`'s u, of order 1/n: moments of phi(z), phi(z)^2 with phi a ReLU or linear."""
    first, n = (1.0 / math.sqrt(2.0 * math.pi) if junction.open < 1.0 else 0.0), junction.width
    variance = junction.open - first**2
    square = 1.25 if junction.open < 1.0 else 2.0  # Var phi(z)^2
    skew = 1.5 * first  # Cov(phi(z), phi(z)^2)
    joint = np.zeros((6, 6))
    joint[:2, :2] = covariance
    joint[2, 2] = junction.spread
    joint[3:, 3:] = (
        np.array([[variance, r * skew, r * variance], [r * skew, square, skew], [r * variance, skew, variance]]) / n
    )
    return joint


def _propagate(step: Callable[[Array], Array], mean: Array, covariance: Array) -> tuple[Array, Array]:
    """Mean and covariance of step(u), u normal with a small covariance, to first order in it.

    By central differences along the columns of a root of the covariance: the mean gains half the curvature.
    """
    values, vectors = np.linalg.eigh(covariance)
    columns = vectors * np.sqrt(np.clip(values, 0.0, None))
    h = 1e-3
    up, down = step(mean[:, None] + h * columns), step(mean[:, None] - h * columns)
    centre = step(mean)
    slope = (up - down) / (2.0 * h)
    curvature = (up + down - 2.0 * centre[:, None]) / h**2
    return centre + curvature.sum(axis=1) / 2.0, slope @ slope.T


# ----------------------------------------------------------------------------------------------------------- backward


def _backward(setting: Setting) -> pl.DataFrame:
    return law.table_of_means("backward_gain", log_gradients(setting.spec, setting.cotangent))


def first_last_ratio(spec: Spec, cotangent: CotangentKind = "gaussian") -> float:
    """RMS of ||dL/dW_first|| / ||dL/dW_last||, the notebook's ratio, at large width and for one sample.

    dL/dW is the product of the gradient by W's output and of its input, so both ends of the network grow alike: with
    ones as the cotangent it is 1.337, 1.361, 1.370, 1.373 and 1.371 for 1, 2, 3, 5 and 10 of the notebook's blocks at
    infinite width, and sqrt(1 + 2 (L - 1)/pi) for L plain layers. It is the root of the ratio of means; at finite width
    the mean of the ratio's square is larger, by about 6/n for 3 blocks.

    Raises:
        InputError: law (b2) does not hold for the spec.
    """
    setting = Setting(spec=spec, cotangent=cotangent)
    if refusals := [*_objections(setting)]:
        raise InputError(f"spec is none that law (b2) speaks of. {' '.join(refusals)}")
    top: float = _forward(setting)["rms"][-2]
    first = log_gradients(spec, cotangent, at_first_sum=True)["stem"]
    return math.exp(first / 2.0) / (top * math.sqrt(open_gates(spec.head_layer)))


# ----------------------------------------------------------------------------------------------------- when it holds


def _objections(setting: Setting) -> Iterator[str]:
    spec = setting.spec
    yield from law.norms(setting)
    yield from law.curved(setting)
    yield from law.biases(setting)
    yield from law.nothing_passes(setting)
    yield from law.narrow(setting)
    for where, stage in law.stages(spec):
        if stage.order != "before-add":
            yield f"The order in {where} is {stage.order}: the law is about before-add order."


def _refuse(setting: Setting) -> Iterator[str]:
    yield from _objections(setting)
    spec = setting.spec
    if all(law.gains_of(spec, stage)[0] == 0.0 for stage in spec.stages):
        yield "There are no shortcuts: the law is about residual networks."


def _bias_forward(setting: Setting) -> str:
    return (
        f"At finite width the mean logarithm is below this by about 0.05/n a block, {0.05 * _per_width(setting):.2g} "
        "here, and the variance above by up to 2/n of itself (measured at n = 16 to 64 with up to 20 blocks)."
    )


def _bias_backward(setting: Setting) -> str:
    return (
        f"At finite width the mean square is above this by up to 0.1/n a block, {0.1 * _per_width(setting):.1%} here, "
        "or below by up to 0.5/n in all (measured at n = 16 to 64 with up to 20 blocks)."
    )


def _per_width(setting: Setting) -> float:
    """The sum of 1/n over the blocks."""
    return math.fsum(1.0 / block.width for block in setting.spec.body)


_SOURCE = "derived in skipscope.theory.before_add; the block: He et al. 2016, arXiv:1603.05027, Fig. 4 (c)"

BEFORE_ADD: tuple[Law, ...] = (
    Law(
        name="(b2) residual network with a ReLU before the addition, forward",
        quantity="forward_gain",
        kind="asymptotic in width",
        residual=True,
        statement=(
            "q' = (s^2 + a^2 g2) q + 2 s a k m sqrt(q), m' = s m + a k sqrt(q) for the mean square q and the mean m: "
            "2.904 a block with He, and ln ||a_l||^2 is nearly normal, with a variance of about 2.6/n a block."
        ),
        source=_SOURCE,
        refuse=_refuse,
        predict=_forward,
        bias=_bias_forward,
    ),
    Law(
        name="(b2) residual network with a ReLU before the addition, backward",
        quantity="backward_gain",
        kind="asymptotic in width",
        residual=True,
        statement=(
            "E ||g_l||^2/||cotangent||^2 grows by s^2 + a^2 g2 a block (2 with He) where the gradient is incoherent, "
            "and as the activations do (2.904) where it is coherent with them: ones from the start, a Gaussian "
            "cotangent after about ln n/ln 1.45 blocks."
        ),
        source=_SOURCE,
        refuse=_refuse,
        predict=_backward,
        bias=_bias_backward,
    ),
)
"""Law (b2), and (c) for its branches."""
