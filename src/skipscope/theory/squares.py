"""The mean of a squared norm, site by site, where it only multiplies: what the laws exact in mean are made of.

Forward, a weight matrix of independent entries of mean 0 and variance v makes of any vector that does not depend on it
one of squared norm n_out v times as large, in the mean; a ReLU behind it keeps half (flip the sign of a row of W: the
gate flips, the size does not). Where a shortcut and a branch meet, and the branch is 0 in the mean given its input, the
squares add. None of it needs a Gaussian, a large width, or one sample.

Backward, follow a tangent u forward instead: given the activations below, E ||D W u||^2 = n_out v ||u||^2 / 2, by the
same flip. Summed over an orthonormal basis of u that is E ||J||_F^2, and E ||J^T c||^2 = E ||J||_F^2 ||c||^2 / n_out
for a cotangent c that is isotropic, or that a bare weight matrix stands under. So downwards a matrix counts n_in v.
That is given an activation that is not 0: above a layer without an open gate (probability 2^-n) all gates are closed.

A `share` is what an activation function keeps of a squared norm: forward E phi(z)^2 / E z^2, backward E phi'(z)^2.
Everything is in logarithms, because depth multiplies. Imports the spec and NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from skipscope.draws import weight_variance
from skipscope.spec import Block, Layer, Spec
from skipscope.theory.law import gains_of

__all__ = ["Share", "backward", "branch_square", "forward", "living", "rectifier"]

Share = Callable[[str, str], float]
"""What the activation function named second keeps at the site named first."""


def rectifier(site: str, activation: str) -> float:
    """The share of a ReLU, 1/2, or of none."""
    return 0.5 if activation == "relu" else 1.0


def forward(spec: Spec, share: Share = rectifier) -> dict[str, float]:
    """ln E ||a_site||^2 / ||x||^2 at every site but the input, in order of depth."""
    found: dict[str, float] = {}
    square = 0.0  # a logarithm, as all that is added to it

    def layer(each: Layer, square: float) -> float:
        matrix = math.log(each.fan_out * weight_variance(spec, each))
        kept = math.log(share(each.site, each.activation))
        found[each.site] = square + kept + (matrix if each.first == "affine" else 0.0)
        return square + kept + matrix

    square = layer(spec.stem_layer, square)
    for block, (shortcut, branch) in zip(spec.body, _gains(spec), strict=True):
        term = square
        for each in block.layers:
            term = layer(each, term)
        square = _junction(square, term, shortcut, branch) + math.log(share(block.site, block.activation))
        found[block.site] = square
    if spec.pre_activation:
        square += math.log(share("final", spec.stages[-1].activation))
        found["final"] = square
    layer(spec.head_layer, square)
    return found


def backward(spec: Spec, share: Share = rectifier, living: Mapping[str, float] | None = None) -> dict[str, float]:
    """ln E ||dL/da_site||^2 / ||cotangent||^2 at every site, in order of depth; -inf where no gradient arrives.

    `living` is the logarithm of the probability that the activation at a site is not 0, 0 where it is missing: no
    gradient passes the gates above one that is.
    """
    found: dict[str, float] = {}
    alive = {} if living is None else living
    gated = False

    def see(site: str, square: float) -> None:
        found[site] = square + (alive.get(site, 0.0) if gated else 0.0)

    def gate(site: str, activation: str, square: float) -> float:
        nonlocal gated
        gated = gated or (activation == "relu" and square > -math.inf)  # a silent branch's gates pass nothing anyway
        return square + math.log(share(site, activation))

    def layer(each: Layer, square: float) -> float:
        matrix = math.log(each.fan_in * weight_variance(spec, each))
        see(each.site, square + (matrix if each.first == "norm" else 0.0))
        return gate(each.site, each.activation, square + matrix)

    square = layer(spec.head_layer, 0.0)
    if spec.pre_activation:
        see("final", square)
        square = gate("final", spec.stages[-1].activation, square)
    for block, (shortcut, branch) in zip(reversed(spec.body), reversed(_gains(spec)), strict=True):
        see(block.site, square)
        square = gate(block.site, block.activation, square)
        term = square + _log_square(branch)
        for each in reversed(block.layers):
            term = layer(each, term)
        square = _junction(square, term, shortcut, 1.0)
    square = layer(spec.stem_layer, square)
    see("input", square)
    return {site: found[site] for site in reversed(found)}


def living(spec: Spec) -> dict[str, float]:
    """ln of the probability that the activation at a site is not 0, for networks without biases.

    A ReLU behind a matrix has an open gate with probability 1 - 2^-n, if what came in is not 0. Branches are taken to
    be linear: they neither kill what the shortcut brings nor revive it.
    """
    found: dict[str, float] = {}
    alive = 0.0

    def gate(site: str, activation: str, width: int) -> None:
        nonlocal alive
        alive += math.log1p(-(0.5**width)) if activation == "relu" else 0.0
        found[site] = alive

    def layer(each: Layer) -> None:
        gate(each.site, each.activation, each.fan_out if each.first == "affine" else each.fan_in)

    layer(spec.stem_layer)
    for block, (shortcut, _) in zip(spec.body, _gains(spec), strict=True):
        if shortcut == 0.0:
            for each in block.layers:
                layer(each)
            gate(block.site, block.activation, block.width)
        else:
            found |= dict.fromkeys([block.site, *(each.site for each in block.layers)], alive)
    if spec.pre_activation:
        gate("final", spec.stages[-1].activation, spec.body_width)
    layer(spec.head_layer)
    return found


def branch_square(spec: Spec, block: Block) -> float:
    """g2 = E ||a F(x)||^2 / ||x||^2 of a block's branch F with its gain a, dimensionless.

    n_out v for a weight matrix, 1/2 for a ReLU: with He weights 2 for x + W2 relu(W1 x), 1 for a branch whose layers
    each have their ReLU. Where the ReLU looks at x itself (pre-activation order) half of x is taken to be positive.
    """
    square = 0.0 if block.learned_gain else block.branch_gain**2
    for layer in block.layers:
        square *= layer.fan_out * weight_variance(spec, layer) * rectifier(layer.site, layer.activation)
    return square


def _gains(spec: Spec) -> list[tuple[float, float]]:
    return [gains_of(spec, stage) for stage in spec.stages for _ in range(stage.blocks)]


def _junction(square: float, term: float, shortcut: float, branch: float) -> float:
    return float(np.logaddexp(square + _log_square(shortcut), term + _log_square(branch)))


def _log_square(gain: float) -> float:
    return 2.0 * math.log(abs(gain)) if gain else -math.inf
