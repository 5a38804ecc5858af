"""Law (g): how long the paths are that signal and gradient take through a residual network.

Unravelled, L blocks x + F(x) are 2^L paths, each through some k of the branches (Veit et al. 2016, arXiv:1605.06431).
Counted, k is Bin(L, 1/2). Weighted by the squared norm of what each path carries, a branch multiplies by g2 and a
shortcut by 1; and where the branch is 0 in the mean given its input, different paths are orthogonal in the mean, so
that the paths of length k carry the share C(L, k) g2^k / (1 + g2)^L of the whole: k is Bin(L, g2/(1 + g2)). At
initialisation short paths therefore do not dominate by themselves: it is L/2 at g2 = 1, 2L/3 with He on both layers of
x + W2 relu(W1 x), and only a down-scaled branch makes them short (g2 = 1/L: about Poisson(1)).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skipscope.errors import InputError, quoted, require_int, require_number

__all__ = ["PathLengths", "lengths_of"]

Array = NDArray[np.float64]


def lengths_of(branch: Iterable[float]) -> Array:
    """The distribution of the number of branches, if every junction is passed by its branch with these probabilities.

    The choices are independent of each other; with equal probabilities it is the binomial one. Of shape (K + 1,) for K
    junctions.
    """
    weights = np.ones(1)
    for p in branch:
        weights = np.convolve(weights, (1 - p, p))
    return weights


@dataclass(frozen=True)
class PathLengths:
    """The lengths of the paths through `blocks` equal residual blocks, in branches passed: Bin(blocks, g2/(1 + g2)).

    Exact, at any width and in either direction, for the mean of <g_k, g> over that of ||g||^2, g_k the part of the
    gradient (or signal) g that came along paths of length k, at blocks whose branch is 0 in the mean given its input
    (it ends in a bare weight matrix, and what is in it does not look at x before a weight matrix does).

    Attributes:
        blocks: L.
        square: g2, the mean squared gain of a branch relative to the shortcut's, e.g. `branch_square`; 1 counts paths.

    Raises:
        InputError: the blocks are not a whole number of at least 0, or the square is not a number of at least 0.
    """

    blocks: int
    square: float = 1.0

    def __post_init__(self) -> None:
        require_int("blocks", self.blocks, least=0)
        if require_number("square", self.square) < 0.0:
            raise InputError(f"square must be at least 0 (a mean square, e.g. 2.0); got {quoted(self.square)}.")

    @property
    def share(self) -> float:
        """g2/(1 + g2): the share of the squared norm that a block sends through its branch."""
        return self.square / (1.0 + self.square)

    @property
    def mean(self) -> float:
        """The mean length, in branches."""
        return self.blocks * self.share

    @property
    def variance(self) -> float:
        """The variance of the length."""
        return self.blocks * self.share * (1.0 - self.share)

    @property
    def weights(self) -> Array:
        """The share of the squared norm that paths of k = 0, ..., L branches carry, of shape (L + 1,)."""
        return lengths_of([self.share] * self.blocks)

    def quantiles(self, levels: ArrayLike) -> NDArray[np.int64]:
        """The shortest lengths up to which paths carry at least the shares `levels`.

        Raises:
            InputError: a level is not strictly between 0 and 1.
        """
        wanted = np.atleast_1d(np.asarray(levels, np.float64))
        if wanted.ndim != 1 or not bool(np.all((wanted > 0.0) & (wanted < 1.0))):
            raise InputError(f"levels must be numbers strictly between 0 and 1; got {quoted(levels)}.")
        reached = np.cumsum(self.weights)
        # A level that a sum of the weights meets is met: rounding does not ask for one branch more.
        found: NDArray[np.int64] = np.searchsorted(reached + 1e-12, wanted).astype(np.int64)
        return np.minimum(found, self.blocks)
