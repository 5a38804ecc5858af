"""Law (b2) backward: four numbers of a tangent, carried over the junctions of a network of before-add order.

As in squares.py, E ||J^T c||^2 is a sum of E over tangents u that are followed forward. Split u into its part p along
the activation, of unit vector x^, and the rest u_ across it, and let S be the sum of the entries of u_. The network is
homogeneous, so J x^ = sqrt(f) y^ exactly, f = ||y||^2/||x||^2. Given x and u_, a row of the branch's last matrix makes
independent Gaussians of h and its tangent h_u, but for <h, h_u>, which is 0 in the mean. That gives the means of

    T = ||u_||^2,   S^2,   p S,   p^2

behind a junction as a linear map of those before it. T alone grows by s^2 + a^2 g2, p^2 by f; p^2 is fed by T and S.
For plain layers (s = 0) the map is exact, and agrees with plain.py on ones.

Instead of the tangents of every site, the linear form that the head makes of the four is carried down: the value of a
site is that form on the sum over its unit tangents.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from skipscope.draws import CotangentKind, weight_variance
from skipscope.spec import Spec
from skipscope.theory.junctions import Junction, junctions, open_gates

__all__ = ["log_gradients"]

Array = NDArray[np.float64]


def log_gradients(spec: Spec, cotangent: CotangentKind, *, at_first_sum: bool = False) -> dict[str, float]:
    """ln E ||dL/da||^2/||cotangent||^2 by site, in order of depth; -inf where no gradient arrives.

    With `at_first_sum`, the stem's is the gradient by its sum W x in place of its activation.
    """
    chain = list(junctions(spec))
    coherence = _coherence(chain)
    form, log_scale = _sent_back(spec, cotangent), 0.0
    found = {"head": 0.0}

    def see(site: str, tangents: Array) -> None:
        square = float(form @ tangents)
        found[site] = log_scale + math.log(square) if square > 0.0 else -math.inf

    for junction, r, r_out in zip(reversed(chain), coherence[-2::-1], coherence[:0:-1], strict=True):
        units = _units(junction.width, r_out)
        see(junction.site, units)
        *hidden, (last, _) = junction.layers
        if last.site != junction.site:
            see(last.site, junction.a**2 * units)
        for index in reversed(range(len(hidden))):
            see(hidden[index][0].site, _entering(junction, r, r_out, index))
        if at_first_sum and junction.site == "stem":
            see("stem", _gated_units(junction, r_out))
        form = form @ _over(junction, r, r_out)
        size = float(np.abs(form).max())
        form, log_scale = form / size, log_scale + math.log(size)
    see("input", _units(spec.stem.features, 0.0))
    return {site: found[site] for site in reversed(found)}


def _sent_back(spec: Spec, cotangent: CotangentKind) -> Array:
    """What the head makes of the four numbers: ||J^T c||^2/||c||^2 as a linear form of them."""
    head = spec.head_layer
    kept = weight_variance(spec, head) * open_gates(head)
    coherent = cotangent == "ones" and head.activation == "relu"
    return np.array([kept, 0.0, 0.0, kept * (1.0 + (head.fan_out - 1) / math.pi if coherent else 1.0)])


def _coherence(chain: list[Junction]) -> list[float]:
    """r, the mean in units of the RMS, at the input (any: only its norm matters) and behind every junction."""
    found = [0.0]
    for each in chain:
        r, k = found[-1], each.finite_mean
        found.append((each.s * r + each.a * k) / math.sqrt(each.factor(r, k)))
    return found


def _units(n: int, r: float) -> Array:
    """(T, S^2, p S, p^2) summed over the unit tangents of an activation with n entries."""
    return np.array([n - 1.0, n * (1.0 - r * r), 0.0, 1.0])


def _gated_units(junction: Junction, r: float) -> Array:
    """The same, over those that the gates of the junction's last layer let through."""
    n = junction.open * junction.width
    return np.array([n - 1.0, n - junction.width * r * r, 0.0, 1.0])


def _over(junction: Junction, r: float, r_out: float) -> Array:
    """The map of (T, S^2, p S, p^2) over a junction, of shape (4, 4): a column is what becomes of each."""
    s, a, n, k = junction.s, junction.a, junction.width, junction.finite_mean
    f = junction.factor(r, k)
    d = s * a * k / math.sqrt(n)  # E <y, J u_> = d S ||x||, by way of <F, u_>
    e = s - d * r_out * math.sqrt(n / f)  # so that S becomes e S in the mean
    by_chance = s * s * a * a * (junction.square - k * k) / n  # Var <F, u_>, over ||x||^2 T
    across = np.array([s * s, 0.0, 0.0, 0.0]) + _scattered(junction, r, r_out, junction.mixing(), by_chance)
    summed = np.array([-d * d / f, e * e, d * e / math.sqrt(f), d * d / f])
    mixed = np.array([0.0, 0.0, math.sqrt(f) * e, 2.0 * d])
    along = np.array([0.0, 0.0, 0.0, f])
    return np.stack([across, summed, mixed, along], axis=1)


def _scattered(junction: Junction, r: float, r_out: float, mixing: float, by_chance: float = 0.0) -> Array:
    """What the branch makes of a tangent u_ across the activation with T = 1: (T, S^2, p S, p^2).

    It is a F_u, whose entries are independent and 0 in the mean given <h, h_u>. In units of ||x||, the fluctuations of
    <y, a F_u> and sum a F_u have the variances `inner` and `total` and the covariance `joint`.
    """
    s, a, n, k, g2 = junction.s, junction.a, junction.width, junction.finite_mean, junction.square
    f = junction.factor(r, k)
    share = g2 / junction.open  # E z^2 phi'(z)^2 is g2 times what E phi'(z)^2 is
    b = s * a * k * r + a * a * g2  # <y, a F> of the branch of x itself
    inner = mixing * b * b + by_chance + a * a * (s * s * g2 + 2 * s * a * k * r * share + a * a * g2 * share) / n
    total = a * a * (g2 + n * mixing * k * k)
    joint = math.sqrt(n) * mixing * a * k * b + a * a * (s * r * g2 + a * k * share) / math.sqrt(n)
    rho = r_out * math.sqrt(n / f)  # sum of y^, over ||y||/||x||
    return np.array(
        [
            a * a * g2 - inner / f,
            total - 2.0 * rho * joint + rho * rho * inner,
            (joint - rho * inner) / math.sqrt(f),
            inner / f,
        ]
    )


def _entering(junction: Junction, r: float, r_out: float, layer: int) -> Array:
    """(T, S^2, p S, p^2) behind the junction of the tangents that enter at a hidden layer, summed over its units.

    The one along that layer's activation h becomes a F(x) ||x||/||h||; the others are scattered.
    """
    s, a, n, k, g2 = junction.s, junction.a, junction.width, junction.finite_mean, junction.square
    f = junction.factor(r, k)
    b = s * a * k * r + a * a * g2
    total = math.sqrt(n) * a * k - b * r_out * math.sqrt(n / f)
    along = np.array([a * a * g2 - b * b / f, total * total, total * b / math.sqrt(f), b * b / f])
    across = _scattered(junction, r, r_out, junction.mixing(entered=layer + 1))
    units = junction.layers[layer][0].fan_out
    entered: Array = (along + (units - 1) * across) / junction.squares[layer]
    return entered
