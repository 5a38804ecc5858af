"""The gradient by path: what of it came through k of the branches, for every k, in one backward pass.

At a junction out = gain_s x + gain_b F(x) a gradient may take the shortcut or the branch, so a body of L junctions has
2^L paths from its end to its beginning. Which gates are open, and by what a normalisation divides, is known from the
forward pass, so that every path is a linear map and the gradient is their sum. Sorted by k, the number of branches that
a path takes, it is a polynomial in a marker z of the branches,

    G(z) = sum_k G_k z^k,    the gradient itself being G(1) = sum_k G_k.

Backward through a junction, with J^T the branch's backward, every coefficient goes both ways:

    G  ->  gain_s G + z J^T (gain_b G)

which is L(L + 1)/2 passes through a branch instead of 2^L paths (Veit et al. 2016, arXiv:1605.06431, count the paths:
binomial(L, k) of length k). Where there is no shortcut there is no choice, and the coefficients pass as they are.

How much of the gradient a length carries is the share <G_k, g>/|g|^2 with g = G(1), as at a single junction: shares
sum to one, and one may be negative or above one, where paths work against each other.

Shapes: s seeds, k lengths, b batch, n width; a gradient by path is (s, k, b, n). Matrices see k and b as one axis, so
a network's bits do not depend on the ensemble that it is in. Through convolutions, which are much work each, the
lengths go one by one; the projection of a shortcut belongs to the shortcut. Imports the engine, its ops and NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope.engines import ops
from skipscope.engines.images import as_observed
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.engines.parts import (
    ACTIVATIONS,
    NORMS,
    Activation,
    Affine,
    Chain,
    Kept,
    Norm,
    Part,
    PlainBlock,
    ResidualBlock,
)
from skipscope.engines.parts_images import ResidualImages
from skipscope.engines.spread import one_thread
from skipscope.errors import InputError, quoted
from skipscope.protocol import Loss, ignore

__all__ = ["path_gradients", "path_moments", "path_weights"]

Array = NDArray[np.floating[Any]]
Masked = np.ma.MaskedArray[Any, np.dtype[np.float64]]


def path_gradients(network: NumpyNetwork, batch: Any, loss: Loss) -> Array:
    """The gradient by the input of the body, by how many branches it came through.

    Args:
        network: an ensemble or a single network; its gains count as they are at this moment.
        batch: as `NumpyNetwork.run` takes it.
        loss: whose gradient is sent back, e.g. `skipscope.losses.Cotangent`.

    Returns:
        G of shape (s, K + 1, b, n), K the number of junctions. Entry k came through k branches, and G.sum(axis=1) is
        the gradient by the stem's output, where the body begins. Of images (s, K + 1, b, c, h, w).

    Raises:
        InputError: the batch does not fit the network, or the loss has no gradient.
    """
    if not callable(getattr(loss, "gradient", None)):
        raise InputError(f"loss {quoted(loss)} has no gradient(output, batch): use skipscope.losses.")
    output, tape = network.taped(batch)
    stem = sum(getattr(part, "site", "") in ("stem", "stem.pool") for part, _ in tape)
    if network.spec.images:
        return _of_images(tape[stem:], np.asarray(loss.gradient(output, batch), output.dtype, order="C"))
    with np.errstate(all="ignore"):
        by_path = np.asarray(loss.gradient(output, batch), output.dtype, order="C")[:, None]
        for part, kept in reversed(tape[stem:]):
            by_path = _backward(part, by_path, kept)
    return by_path


def path_weights(by_path: Array) -> Masked:
    """The share <G_k, g>/|g|^2 of every length k in the gradient g = sum_k G_k, over batch and features.

    Args:
        by_path: G of shape (s, k, b, n), or of images, as `path_gradients` gives it.

    Returns:
        Shape (s, k), float64; a row sums to one. Masked where g is 0; nan where something overflowed.
    """
    parts = np.asarray(by_path, np.float64).reshape(*by_path.shape[:2], -1)
    with np.errstate(all="ignore"):
        whole = parts.sum(axis=1)
        # In units of a power of two near the largest entry, so that no square leaves the range of floats.
        _, exponent = np.frexp(np.abs(whole).max(axis=1))
        parts, whole = np.ldexp(parts, -exponent[:, None, None]), np.ldexp(whole, -exponent[:, None])
        square = np.vecdot(whole, whole)
        weights = np.vecdot(parts, whole[:, None]) / square[:, None]
    undefined = np.broadcast_to(square[:, None] == 0, weights.shape)
    return np.ma.masked_array(np.where(undefined, 0.0, weights), mask=undefined)


def path_moments(
    weights: Masked,
) -> tuple[Masked, Masked]:
    """Mean and standard deviation of the path length, each of shape (s,), from weights of shape (s, k).

    Masked where the weights are; the deviation also where negative weights make the variance negative.
    """
    shares, undefined = np.ma.getdata(weights), np.ma.getmaskarray(weights)[:, 0]
    lengths = np.arange(shares.shape[1], dtype=np.float64)
    with np.errstate(all="ignore"):  # nan is a reading: something overflowed
        mean = np.vecdot(shares, lengths)
        variance = np.vecdot(shares, (lengths - mean[:, None]) ** 2)
    # Where one length carries everything the variance is rounding, on either side of 0.
    variance = np.where(np.abs(variance) < _ROUNDING * lengths[-1] ** 2, 0.0, variance)
    none = undefined | (variance < 0)
    deviation = np.sqrt(np.where(none, 0.0, variance))
    return np.ma.masked_array(mean, mask=undefined), np.ma.masked_array(deviation, mask=none)


_ROUNDING = 1e-12


# ------------------------------------------------------------------------------------------------------ the walk back


def _backward(part: Part, by_path: Array, kept: Kept) -> Array:
    """The gradient by path at the input of a part, from that at its output."""
    match part:
        case Affine():
            return _affine(by_path, part.weight)
        case Norm():
            return NORMS[part.way][1](by_path, part.gamma[:, None], _each_length(kept))[0]
        case Activation():
            return ACTIVATIONS[part.activation][1](by_path, kept[:, None])
        case Chain():
            return _chain(part, by_path, kept)
        case PlainBlock():
            y, kept_branch = kept
            by_sum = ACTIVATIONS[part.activation][1](by_path, y[:, None])
            return _chain(part.branch, by_sum if part.gain == 1 else by_sum * part.gain, kept_branch)
        case ResidualBlock():
            return _junction(part, by_path, kept)
    raise TypeError(f"no backward by path through {type(part).__name__}")


def _affine(by_path: Array, weight: Array) -> Array:
    s, k, b, n_out = by_path.shape
    flat = ops.affine_backward_input(by_path.reshape(s, k * b, n_out), weight)
    return flat.reshape(s, k, b, weight.shape[-1])


def _each_length(kept: ops.Normalised) -> ops.Normalised:
    return ops.Normalised(kept.z[:, None], kept.r[:, None])


def _chain(chain: Chain, by_path: Array, kept: Kept) -> Array:
    for part, each in zip(reversed(chain.parts), reversed(kept), strict=True):
        by_path = _backward(part, by_path, each)
    return by_path


def _junction(block: ResidualBlock, by_path: Array, kept: Kept) -> Array:
    y, _, kept_branch = kept
    by_sum = ACTIVATIONS[block.activation][1](by_path, y[:, None])
    by_skip, by_branch = ops.junction_backward(by_sum, *block.gains)
    s, k, b, n = by_sum.shape
    joined = np.zeros((s, k + 1, b, n), by_sum.dtype)
    # A gain of 0 leaves its term out, as it does in the gradient, even where the gradient has overflowed.
    if block.gains[0] != 0:
        joined[:, :-1] = by_skip
    if block.gains[1] != 0:
        if block.learned is not None:
            by_branch = by_branch * block.learned[:, None, None, None]
        joined[:, 1:] += _chain(block.branch, by_branch, kept_branch)
    return joined


# ------------------------------------------------------------------------------------------------------------ images


def _of_images(tape: Sequence[tuple[Part, Kept]], dy: Array) -> Array:
    by_path = [dy]
    with np.errstate(all="ignore"), one_thread():
        for part, kept in reversed(tape):
            by_path = _lengths(part, by_path, kept)
    return np.stack([as_observed(each) for each in by_path], axis=1)


def _lengths(part: Part, by_path: list[Array], kept: Kept) -> list[Array]:
    """The gradient by path at the input of a part, length by length."""
    if not isinstance(part, ResidualImages):
        return [part.backward(each, kept, ignore) for each in by_path]
    ways = [part.ways_back(each, kept) for each in by_path]
    nothing = np.zeros_like(ways[0][0])
    past, through = [*(way[0] for way in ways), nothing], [nothing, *(way[1] for way in ways)]
    return [one + other for one, other in zip(past, through, strict=True)]
