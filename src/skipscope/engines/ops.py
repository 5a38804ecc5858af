"""The layers by hand: every forward with its backward under it, and the derivation above both.

Notation: a function `f` maps arrays to arrays; `f_backward` takes `dy`, the gradient of a scalar loss by `y = f(x)`,
and gives the gradient of the same loss by `x` (and by the parameters). `f_jvp` is the derivative the other way round:
it takes `tx`, a direction in which x moves, and gives `ty = J tx`, how y then moves, the parameters held (a
Jacobian-vector product, where `f_backward` has dx = J^T dy). Samples are rows. Every array may carry a leading seeds
axis s: activations are (s, b, n), weights (s, n_out, n_in), biases, gamma and beta (s, n), gains (s,).
The arrays of one network are contiguous and no operation mixes networks, so that a network gives the same bits alone
and in an ensemble. This module imports NumPy alone.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EPS",
    "Normalised",
    "affine",
    "affine_backward",
    "affine_backward_bias",
    "affine_backward_input",
    "affine_backward_weight",
    "affine_jvp",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_jvp",
    "cross_entropy",
    "cross_entropy_backward",
    "fixed_norm",
    "fixed_norm_backward",
    "fixed_norm_jvp",
    "junction",
    "junction_backward",
    "junction_joined",
    "junction_jvp",
    "layer_norm",
    "layer_norm_backward",
    "layer_norm_jvp",
    "linear",
    "linear_backward",
    "linear_jvp",
    "log_softmax",
    "mean_squared_error",
    "mean_squared_error_backward",
    "relu",
    "relu_backward",
    "relu_jvp",
    "tanh",
    "tanh_backward",
    "tanh_jvp",
]

Array = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]

EPS = 1e-5
"""What the normalisations add to the variance (PyTorch's default; the papers' epsilon)."""


# ------------------------------------------------------------------------------------------------------- affine
#
# y_i = sum_j W_ij x_j + b_i for every sample. With dy the gradient by y:
#   dL/dx_j  = sum_i dy_i W_ij           dx = dy W
#   dL/dW_ij = sum_samples dy_i x_j      dW = dy^T x
#   dL/db_i  = sum_samples dy_i
# and y moves with x by                  ty = tx W^T (the bias does not move)


def affine(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """y = x W^T + b, of shape (s, b, n_out), for x (s, b, n_in), weight (s, n_out, n_in), bias (s, n_out)."""
    y: Array = np.matmul(x, weight.swapaxes(-1, -2))
    if bias is not None:
        y += bias[..., None, :]
    return y


def affine_backward(dy: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """The gradients (dx, dW, db) of `affine`."""
    return affine_backward_input(dy, weight), affine_backward_weight(dy, x), affine_backward_bias(dy)


def affine_backward_input(dy: Array, weight: Array) -> Array:
    """The gradient dx of `affine` alone: all that the layers below need."""
    dx: Array = np.matmul(dy, weight)
    return dx


def affine_backward_bias(dy: Array, out: Array | None = None) -> Array:
    """The gradient db of `affine` alone, written to `out` if given."""
    dbias: Array = np.add.reduce(dy, axis=-2, out=out)
    return dbias


def affine_backward_weight(dy: Array, x: Array, out: Array | None = None) -> Array:
    """The gradient dW of `affine` alone, written to `out` if given."""
    dy_columns = dy.swapaxes(-1, -2)
    # One sample gives an outer product, which NumPy multiplies out faster than BLAS does.
    product = np.multiply if x.shape[-2] == 1 else np.matmul
    dweight: Array = product(dy_columns, x, out=out)
    return dweight


def affine_jvp(tx: Array, weight: Array) -> Array:
    """ty = tx W^T."""
    ty: Array = np.matmul(tx, weight.swapaxes(-1, -2))
    return ty


# ---------------------------------------------------------------------------------------- activation functions
#
# relu(x) = max(0, x): its derivative is 1 where x > 0 and 0 elsewhere (at 0 too, as everybody has it); the output
# tells which, since y > 0 exactly where x > 0.
# tanh: d tanh(x)/dx = 1 - tanh(x)^2, again a function of the output.
# Each works entry by entry, so that J is diagonal, J^T = J, and ty is to tx what dx is to dy.


def relu(x: Array) -> Array:
    """y = max(0, x)."""
    # Against a number NumPy compares entry by entry, against an array of zeros a vector register at a time.
    y: Array = np.maximum(x, np.zeros(x.shape, x.dtype))
    return y


def relu_backward(dy: Array, y: Array) -> Array:
    """dx = dy where y > 0, else 0."""
    # np.where takes ten times as long; the product differs from it only where dy has overflowed: there 0 inf is nan.
    # It is a product of floats, since one with truth values would convert them in pieces.
    dx: Array = dy * (y > 0).astype(dy.dtype)
    return dx


def relu_jvp(tx: Array, y: Array) -> Array:
    """ty = tx where y > 0, else 0."""
    return relu_backward(tx, y)


def tanh(x: Array) -> Array:
    """y = tanh(x)."""
    y: Array = np.tanh(x)
    return y


def tanh_backward(dy: Array, y: Array) -> Array:
    """dx = dy (1 - y^2)."""
    dx: Array = dy * (1 - y * y)
    return dx


def tanh_jvp(tx: Array, y: Array) -> Array:
    """ty = tx (1 - y^2)."""
    return tanh_backward(tx, y)


def linear(x: Array) -> Array:
    """y = x."""
    return x


def linear_backward(dy: Array, y: Array) -> Array:
    """dx = dy."""
    return dy


def linear_jvp(tx: Array, y: Array) -> Array:
    """ty = tx."""
    return linear_backward(tx, y)


# ------------------------------------------------------------------------------------------------ normalisation
#
# z = (x - m) r with m the mean and r = 1/sqrt(v + eps), v the (biased) variance, over n numbers; y = gamma z + beta.
# Every x_k moves m and v too: dm/dx_k = 1/n and dv/dx_k = 2 (x_k - m)/n, so dr/dx_k = -r^2 z_k / n and
#   dz_i/dx_k = r (delta_ik - 1/n - z_i z_k / n).
# With dz = gamma dy, therefore
#   dx = r (dz - mean(dz) - z mean(dz z)),   dgamma = sum dy z,   dbeta = sum dy.
# dz_i/dx_k does not change when i and k are swapped, so forwards
#   tz = r (tx - mean(tx) - z mean(tx z)),   ty = gamma tz.
# Batch normalisation (arXiv:1502.03167) takes the n numbers of a feature over the batch, layer normalisation
# (arXiv:1607.06450) those of a sample over its features. Where a trained network is used, batch normalisation takes a
# fixed mean and variance instead, the running averages of those of the batches: then m and v do not move with x, and
#   dx = r gamma dy,   tx likewise.


class Normalised(NamedTuple):
    """What the backward pass of a normalisation needs: z (s, b, n) and r, broadcastable to it.

    Batch normalisation tells, further, which mean and variance (s, n) it took.
    """

    z: Array
    r: Array
    mean: Array | None = None
    variance: Array | None = None


def batch_norm(x: Array, gamma: Array, beta: Array) -> tuple[Array, Normalised]:
    """Normalise every feature over the batch, then scale and shift it; x is (s, b, n), gamma and beta (s, n)."""
    return _normalise(x, gamma, beta, axis=-2)


def batch_norm_backward(dy: Array, gamma: Array, kept: Normalised) -> tuple[Array, Array, Array]:
    """The gradients (dx, dgamma, dbeta) of `batch_norm`."""
    return _normalise_backward(dy, gamma, kept, axis=-2)


def batch_norm_jvp(tx: Array, gamma: Array, kept: Normalised) -> Array:
    """ty = gamma tz of `batch_norm`, whose mean and variance move with every sample."""
    return gamma[..., None, :] * _through(tx, kept, axis=-2)


def layer_norm(x: Array, gamma: Array, beta: Array) -> tuple[Array, Normalised]:
    """Normalise every sample over its features, then scale and shift it; x is (s, b, n), gamma and beta (s, n)."""
    return _normalise(x, gamma, beta, axis=-1)


def layer_norm_backward(dy: Array, gamma: Array, kept: Normalised) -> tuple[Array, Array, Array]:
    """The gradients (dx, dgamma, dbeta) of `layer_norm`."""
    return _normalise_backward(dy, gamma, kept, axis=-1)


def layer_norm_jvp(tx: Array, gamma: Array, kept: Normalised) -> Array:
    """ty = gamma tz of `layer_norm`."""
    return gamma[..., None, :] * _through(tx, kept, axis=-1)


def fixed_norm(x: Array, gamma: Array, beta: Array, mean: Array, variance: Array) -> tuple[Array, Normalised]:
    """Normalise every feature by a mean and a variance (s, n) that are given, then scale and shift it."""
    r = 1 / np.sqrt(variance + EPS)[..., None, :]
    z = (x - mean[..., None, :]) * r
    return gamma[..., None, :] * z + beta[..., None, :], Normalised(z, r)


def fixed_norm_backward(dy: Array, gamma: Array, kept: Normalised) -> tuple[Array, Array, Array]:
    """The gradients (dx, dgamma, dbeta) of `fixed_norm`."""
    return gamma[..., None, :] * dy * kept.r, (dy * kept.z).sum(axis=-2), dy.sum(axis=-2)


def fixed_norm_jvp(tx: Array, gamma: Array, kept: Normalised) -> Array:
    """ty of `fixed_norm`."""
    ty: Array = gamma[..., None, :] * tx * kept.r
    return ty


def _normalise(x: Array, gamma: Array, beta: Array, axis: int) -> tuple[Array, Normalised]:
    mean = _mean(x, axis)
    z = x - mean
    variance = _mean(z * z, axis)
    r = 1 / np.sqrt(variance + EPS)
    z *= r
    y = gamma[..., None, :] * z
    y += beta[..., None, :]
    return y, Normalised(z, r, np.squeeze(mean, axis), np.squeeze(variance, axis))


def _normalise_backward(dy: Array, gamma: Array, kept: Normalised, axis: int) -> tuple[Array, Array, Array]:
    dx = _through(gamma[..., None, :] * dy, kept, axis)
    return dx, (dy * kept.z).sum(axis=-2), dy.sum(axis=-2)


def _through(dz: Array, kept: Normalised, axis: int) -> Array:
    """dz times the symmetric matrix dz/dx."""
    z, r = kept.z, kept.r
    dx: Array = r * (dz - _mean(dz, axis) - z * _mean(dz * z, axis))
    return dx


def _mean(x: Array, axis: int) -> Array:
    """The mean along an axis, which is kept; `np.mean` takes longer to begin than a small array to add up."""
    mean: Array = np.add.reduce(x, axis=axis, keepdims=True)
    mean /= x.shape[axis]
    return mean


# ----------------------------------------------------------------------------------------------------- junction
#
# out = gain_s * shortcut + gain_b * branch, with plain numbers for gains: the derivative by the shortcut is gain_s,
# by the branch gain_b. A gain of 0 leaves the term out instead of multiplying it, so that a shortcut that has
# overflowed does not turn its own absence into nan; a gain of 1 costs nothing.


def junction(shortcut: Array, branch: Array, gain_s: float, gain_b: float) -> tuple[Array, Array, Array]:
    """The sum and its two terms: (gain_s shortcut + gain_b branch, gain_s shortcut, gain_b branch)."""
    skip = _scaled(shortcut, gain_s)
    term = _scaled(branch, gain_b)
    if gain_s == 0:
        return term, skip, term
    if gain_b == 0:
        return skip, skip, term
    return skip + term, skip, term


def junction_backward(dout: Array, gain_s: float, gain_b: float) -> tuple[Array, Array]:
    """The gradients (dshortcut, dbranch) of the sum."""
    return _scaled(dout, gain_s), _scaled(dout, gain_b)


def junction_joined(dskip: Array, dbranch: Array, gain_s: float, gain_b: float) -> Array:
    """The gradient by the block's input: both paths start there, so what came back through them adds up."""
    if gain_s == 0:
        return dbranch
    if gain_b == 0:
        return dskip
    return dskip + dbranch


def junction_jvp(tskip: Array, tbranch: Array, gain_s: float, gain_b: float) -> Array:
    """How the sum moves when shortcut and branch do: it is linear in them."""
    return junction(tskip, tbranch, gain_s, gain_b)[0]


def _scaled(x: Array, gain: float) -> Array:
    if gain == 1:
        return x
    if gain == 0:
        return np.zeros_like(x)
    # A Python float keeps the array's precision.
    scaled: Array = x * gain
    return scaled


# ------------------------------------------------------------------------------------------------------- losses
#
# Softmax cross-entropy, the mean over the batch: L = -1/b sum_samples log p_label, p = exp(y) / sum exp(y). Since
# d(-log p_t)/dy_i = p_i - [i = t], dy = (p - onehot)/b. Subtracting the largest y changes nothing and cannot overflow.
# Mean squared error, the mean over samples and outputs: L = 1/(b n) sum (y - t)^2, so dy = 2 (y - t)/(b n); there is
# no factor 1/2 in front.


def cross_entropy(logp: Array, labels: Labels) -> Array:
    """The mean over the batch of -logp[label], of shape (s,).

    Args:
        logp: `log_softmax` of the outputs, of shape (s, b, n).
        labels: whole numbers from 0 to n - 1, of shape (b,) or (s, b).
    """
    loss: Array = -_of_labels(logp, labels)[1].reshape(logp.shape[:-1]).mean(axis=-1)
    return loss


def cross_entropy_backward(logp: Array, labels: Labels) -> Array:
    """The gradient of `cross_entropy` by the outputs whose `log_softmax` is `logp`, of shape (s, b, n)."""
    dy: Array = np.exp(logp)
    at, picked = _of_labels(dy, labels)
    dy.reshape(-1)[at] = picked - 1
    dy /= logp.shape[-2]
    return dy


def _of_labels(x: Array, labels: Labels) -> tuple[NDArray[np.intp], Array]:
    """Where in x, read as one line, the entries of the labels stand, and those entries, sample after sample."""
    samples, classes = math.prod(x.shape[:-1]), x.shape[-1]
    at: NDArray[np.intp] = np.arange(0, samples * classes, classes, dtype=np.intp)
    at += np.broadcast_to(labels, x.shape[:-1]).reshape(-1).astype(np.intp)
    return at, x.reshape(-1)[at]


def log_softmax(logits: Array) -> Array:
    """log(exp(y) / sum exp(y)) over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logp: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logp


def mean_squared_error(y: Array, target: Array) -> Array:
    """The mean over samples and outputs of (y - target)^2, of shape (s,); y is (s, b, n), target that or (b, n)."""
    difference = y - target
    loss: Array = (difference * difference).mean(axis=(-2, -1))
    return loss


def mean_squared_error_backward(y: Array, target: Array) -> Array:
    """The gradient of `mean_squared_error` by y, of shape (s, b, n)."""
    dy: Array = (y - target) * (2 / (y.shape[-2] * y.shape[-1]))
    return dy
