"""The binomial law of the lengths of the gradient's paths.

Let a block be out = s x + F(x) with a branch of squared gain g2: on an isotropic gradient g, drawn
independently of the block, E|J^T g|^2 = g2 |g|^2. Where two different paths have gradients that are orthogonal in the
mean, E<G_j, G_k> = 0, each junction multiplies the energy of what passes it by s^2 on the shortcut and by g2 on the
branch, so that in a body of L such blocks

    E<G_k, g> = E|G_k|^2 = binomial(L, k) g2^k s^(2(L-k)) E|g_L|^2,     length ~ Bin(L, g2/(s^2 + g2)) by energy,

the energy of all draws pooled. A layer of fan-in n and weight variance v has the factor n v, its ReLU 1/2. Paths are
orthogonal where a branch ends in fresh weights of mean zero that no gate above has seen, or has seen only as a sign
that is fair whatever the gradient: linear networks (exactly, at any width) and pre-activation order (up to O(1/n); its
own gate sits on the trunk). They are not where a ReLU follows the last weights: in the notebook's order the branch has
a mean, along which all paths agree; in the paper's order the gates of the trunk see the same units again and again.
(A block x + W2 relu(W1 x), zero-mean with one gate, is exact too, but none of the three orders is it: pre-activation
has a second gate, hence half the gain: g2 = 1, not 2, with He on both layers.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipscope.draws import CotangentKind, weight_variance
from skipscope.spec import Block, Spec
from skipscope.theory.paths import lengths_of

__all__ = ["PathLaw", "path_law"]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class PathLaw:
    """The law of the path length, by energy, over draws.

    Attributes:
        branch: for every junction, the probability of the branch: g2/(s^2 + g2).
        refusal: why measurements will not follow it, empty where they do; then it is what independent gates would give.
    """

    branch: tuple[float, ...]
    refusal: str

    @property
    def weights(self) -> Values:
        """The probability of every length, of shape (K + 1,)."""
        return lengths_of(self.branch)

    @property
    def mean(self) -> float:
        """The mean length."""
        return sum(self.branch)

    @property
    def sd(self) -> float:
        """The standard deviation of the length."""
        return math.sqrt(sum(p * (1 - p) for p in self.branch))


def path_law(spec: Spec, *, cotangent: CotangentKind = "gaussian") -> PathLaw | str:
    """The binomial law for a spec as initialised, or a sentence that says why there is none to compute."""
    junctions = [block for block in spec.body if not block.plain]
    for layer in (layer for block in spec.body for layer in block.layers):
        if layer.norm != "none":
            return f"There is a {layer.norm} norm: what a branch multiplies by depends on what has come before."
        if layer.activation == "tanh":
            return "The activation is tanh: what it multiplies by depends on the size of what comes in."
    energies = [(block.shortcut_gain**2, _squared_gain(spec, block)) for block in junctions]
    if any(shortcut + branch == 0 for shortcut, branch in energies):
        return "Both gains of a junction are 0: no gradient passes."
    branch = tuple(b / (s + b) for s, b in energies)
    return PathLaw(branch, " ".join(_objections(spec, junctions, cotangent)))


def _squared_gain(spec: Spec, block: Block) -> float:
    """g2: by what the branch multiplies the squared norm of an isotropic gradient, in the mean.

    A gate after the addition does not count: shortcut and branch both pass it.
    """
    gain = 0.0 if block.learned_gain else block.branch_gain**2  # a learned gain starts at 0
    for layer in block.layers:
        gain *= layer.fan_in * weight_variance(spec, layer) * (0.5 if layer.activation == "relu" else 1.0)
    return gain


def _objections(spec: Spec, junctions: Sequence[Block], cotangent: CotangentKind) -> Iterator[str]:
    """Why measurements will not follow the law, a sentence a reason."""
    if not junctions or all(block.learned_gain or block.branch_gain == 0 for block in junctions):
        return  # there is one path, whatever the gates do
    if all(block.shortcut_gain == 0 for block in junctions):
        return
    rectified = {stage.order for stage in spec.stages if stage.activation == "relu"}
    if "before-add" in rectified:
        yield (
            "A ReLU before the addition gives the branch a mean: all paths agree along it, and add up in the norm "
            "rather than in its square."
        )
    if "after-add" in rectified:
        yield (
            "A ReLU after the addition gates the trunk: its units stay open or shut from block to block, so what comes "
            "down the shortcut passes where what comes through a branch is halved."
        )
    if "pre-activation" in rectified and (spec.stem.activation == "relu" or rectified != {"pre-activation"}):
        yield "The trunk has a mean (a ReLU stands before the first block): its gates are open more often than shut."
    if spec.head.activation == "relu" and cotangent == "ones":
        yield "The cotangent is ones under a ReLU output: it has a component along the activations from the start."
    if spec.init == "torch":
        yield "The weights are uniform, and the biases too where there are any: the law is derived for Gaussian ones."
