"""The Jacobian of a network, or of a part of it, at one sample: exact, and its largest singular value alone.

`linearise` runs the forward pass once and keeps what the backward pass needs; the linear map that it gives can then be
applied both ways, J t by the ops' `*_jvp` and J^T v by their `*_backward`, at the same point. Sending back the one-hot
vectors gives the rows of J one by one, exact to rounding.

J is the derivative of **one sample's output by that same sample's input**. Where samples are computed apart from each
other that is all there is, and many vectors pass at once, in the place of the batch. Batch normalisation makes every
output depend on the whole batch; J then is the *total* derivative, with the batch's mean and variance moving along with
the sample (not held, as a network in evaluation mode would hold them); how other samples' outputs depend on it is left
out, and vectors pass one at a time. A derivative exists almost everywhere: at a ReLU's kink it is taken as 0.

Shapes: s seeds, k vectors, n_in and n_out of J. A network gives the same bits alone and in an ensemble. Imports the
engine, the draws and NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope import draws
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.engines.parts import Kept, Part
from skipscope.errors import InputError, choose, require_int
from skipscope.protocol import ignore

__all__ = ["Linear", "jacobian", "largest_singular_value", "linearise", "singular_values"]

Array = NDArray[np.floating[Any]]
Values = NDArray[np.float64]

TOLERANCE = 1e-6
"""Relative residual at which the Lanczos iteration stops: the singular value is at most so far from an exact one."""


@dataclass(frozen=True)
class Linear:
    """A network, or a part of it, as the linear map that it is around a point; see `linearise`.

    Attributes:
        network: which network.
        tape: its parts in order, each with what the forward pass kept.
        site: which part: a site as `at` takes it, or `"network"`.
        samples: b of the batch that it is linearised at: 1, or all of it under batch normalisation.
        sample: which of them the vectors belong to.
        inputs: n_in.
        outputs: n_out.
    """

    network: NumpyNetwork
    tape: tuple[tuple[Part, Kept], ...]
    site: str
    samples: int
    sample: int
    inputs: int
    outputs: int

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds along the leading axis."""
        return self.network.seeds

    def at(self, site: str) -> Linear:
        """A part of the network, at the point where the network puts it.

        Args:
            site: a block's, `"stem"`, `"head"`, or `"body"`, which is all blocks in a row.

        Raises:
            InputError: there is no such part.
        """
        spec = self.network.spec
        widths = {block.site: (block.layers[0].fan_in, block.width) for block in spec.body}
        blocks = set(widths)
        if blocks:
            widths["body"] = spec.stem.width, spec.body_width
        widths |= {layer.site: (layer.fan_in, layer.fan_out) for layer in (spec.stem_layer, spec.head_layer)}
        choose("site", site, widths)
        chosen = blocks if site == "body" else {site}
        tape = tuple((part, kept) for part, kept in self.tape if getattr(part, "site", "") in chosen)
        return replace(self, tape=tape, site=site, inputs=widths[site][0], outputs=widths[site][1])

    def jvp(self, tangents: Any) -> Array:
        """J t for every one of the k tangents of shape (s, k, n_in) or (k, n_in): shape (s, k, n_out)."""
        return self._applied(_forwards, tangents, self.inputs)

    def vjp(self, cotangents: Any) -> Array:
        """J^T v for every one of the k cotangents of shape (s, k, n_out) or (k, n_out): shape (s, k, n_in)."""
        return self._applied(_backwards, cotangents, self.outputs)

    def matrix(self) -> Array:
        """J itself, of shape (s, n_out, n_in)."""
        return self.vjp(np.eye(self.outputs))

    def _applied(self, walk: _Walk, vectors: Any, width: int) -> Array:
        found = np.asarray(vectors, self.network.spec.dtype)
        if found.ndim not in (2, 3) or found.shape[-1] != width:
            raise InputError(f"vectors must have the shape (k, {width}) or (s, k, {width}); got {found.shape}.")
        shape = (len(self.seeds), *found.shape[-2:])
        if found.ndim == 3 and found.shape != shape:
            raise InputError(f"vectors must have {len(self.seeds)} seeds in front, as the network; got {found.shape}.")
        given = np.broadcast_to(found, shape)
        with np.errstate(all="ignore"):
            if self.samples == 1:
                # What the forward kept has one sample, and is broadcast to all vectors.
                return walk(self.tape, np.ascontiguousarray(given))
            return np.stack([self._one(walk, given[:, k]) for k in range(shape[1])], axis=1)

    def _one(self, walk: _Walk, vector: Array) -> Array:
        """One vector a network, (s, n), at its sample of a batch: the others are 0, and left out of what comes."""
        padded = np.zeros((len(vector), self.samples, vector.shape[1]), vector.dtype)
        padded[:, self.sample] = vector
        return walk(self.tape, padded)[:, self.sample]


_Walk = Callable[[tuple[tuple[Part, Kept], ...], Array], Array]


def _forwards(tape: tuple[tuple[Part, Kept], ...], tangents: Array) -> Array:
    for part, kept in tape:
        tangents = part.jvp(tangents, kept)
    return tangents


def _backwards(tape: tuple[tuple[Part, Kept], ...], cotangents: Array) -> Array:
    for part, kept in reversed(tape):
        cotangents = part.backward(cotangents, kept, ignore)
    return cotangents


def linearise(network: NumpyNetwork, batch: Any, *, sample: int = 0) -> Linear:
    """The network around one sample of a batch, as a linear map.

    Args:
        network: an ensemble or a single network; its gains count as they are at this moment, and until it is used.
        batch: inputs as `NumpyNetwork.run` takes them, of shape (b, n) or (s, b, n).
        sample: which of the samples. The others matter under batch normalisation alone.

    Raises:
        InputError: the network is convolutional, the batch does not fit it, or has no such sample.
    """
    if network.spec.images:
        raise InputError(
            "a Jacobian is of dense networks alone, and this is convolutional: use its jvp, or Spec.dense."
        )
    x = np.asarray(batch[0] if isinstance(batch, tuple) and batch else batch)
    rows = x.shape[-2] if x.ndim >= 2 else 0
    if require_int("sample", sample, least=0) >= max(rows, 1):
        raise InputError(f"sample={sample} is not in a batch of {rows} samples, which are counted from 0.")
    spec = network.spec
    if not spec.coupled and rows > 1:
        x, rows, sample = x[..., sample : sample + 1, :], 1, 0
    _, tape = network.taped(x)
    return Linear(network, tuple(tape), "network", rows, sample, spec.stem.features, spec.head.features)


def jacobian(network: NumpyNetwork, batch: Any, *, at: str = "network", sample: int = 0) -> Array:
    """The Jacobian of a network's output by its input, or of a part's by the part's, of shape (s, n_out, n_in).

    Exact to rounding, at the price of n_out backward passes of the sample.

    Args:
        network, batch, sample: see `linearise`.
        at: `"network"`, or a part as `Linear.at` takes it, e.g. `"stage1.block3"`.

    Raises:
        InputError: the batch does not fit, or there is no such sample or part.
    """
    whole = linearise(network, batch, sample=sample)
    return (whole if at == "network" else whole.at(at)).matrix()


def singular_values(matrices: Array) -> Values:
    """The singular values of every matrix (s, n_out, n_in), in falling order: shape (s, min(n_out, n_in)).

    What is below max(n_out, n_in) eps sigma_max is rounding, and given as 0 (the rank of `numpy.linalg.matrix_rank`).
    A matrix with entries that overflowed has nan.
    """
    finite = _finite(matrices)
    safe = np.where(finite[:, None, None], matrices, 0.0).astype(np.float64)
    # Squares in LAPACK must not overflow: every matrix in units of a power of two near its largest entry.
    unit = np.exp2(np.ceil(np.log2(np.maximum(np.abs(safe).max(axis=(-2, -1)), np.finfo(float).tiny))))
    found: Values = np.linalg.svd(safe / unit[:, None, None], compute_uv=False)
    noise = max(matrices.shape[-2:]) * np.finfo(matrices.dtype).eps
    found = np.where(found > noise * found[:, :1], found, 0.0) * unit[:, None]
    return np.where(finite[:, None], found, np.nan)


def _finite(matrices: Array) -> NDArray[np.bool_]:
    """Whether all entries of every matrix are finite, of shape (s,)."""
    return np.asarray(np.isfinite(matrices).all(axis=(-2, -1)))


# ------------------------------------------------------------------------------------------------------- Lanczos
#
# Golub and Kahan 1965 (doi:10.1137/0702016): from a unit vector v_1, orthonormal v_1, v_2, ... and u_1, u_2, ... with
#   J v_k   = beta_{k-1} u_{k-1} + alpha_k u_k          so J V = U B, B with alpha on and beta above the diagonal
#   J^T u_k = alpha_k v_k + beta_k v_{k+1}             and J^T U = V B^T + beta_k v_{k+1} e_k^T.
# With B = P S Q^T, the triplet (U p_1, s_1, V q_1) solves J V q_1 = s_1 U p_1 exactly, and its transpose up to
#   |J^T U p_1 - s_1 V q_1| = beta_k |p_1[k]|,
# a residual within which J has a singular value of s_1; from a random start, after few steps, it is the largest. Every
# new vector is made orthogonal to all before it twice, which keeps them so to rounding (Parlett 1998, section 6.9).


def largest_singular_value(linear: Linear, *, tolerance: float = TOLERANCE) -> Values:
    """sigma_max of every network's J, of shape (s,), without J: one `jvp` and one `vjp` a step, some tens of steps.

    Every network's iteration stops by itself, when its relative residual is at most `tolerance`, and at the latest when
    its vectors span the whole space, so that it is the same alone and in an ensemble. The start is drawn from the seed.
    A J with entries that overflowed has nan.
    """
    s, most = len(linear.seeds), min(linear.inputs, linear.outputs)
    tolerance = max(tolerance, 100 * float(np.finfo(linear.network.spec.dtype).eps))  # what rounding leaves
    found, done = np.full(s, np.nan), np.zeros(s, bool)
    v = _unit(draws.normals(linear.seeds, "resample", (linear.inputs,)))[0]
    right, left = [v], list[Values]()
    band = np.zeros((s, most, most))
    for k in range(most):
        alpha, u = _next(linear.jvp(right[k][:, None])[:, 0], left)
        left.append(u)
        beta, v = _next(linear.vjp(u[:, None])[:, 0], right)
        right.append(v)
        band[:, k, k] = alpha
        value, weight = _top(band[:, : k + 1, : k + 1])
        with np.errstate(invalid="ignore"):
            here = ~done & ((beta * weight <= tolerance * value) | np.isnan(value) | (k + 1 == most))
        found[here], done[here] = value[here], True
        if done.all():
            break
        band[:, k, k + 1] = beta  # k + 1 < most here: at k + 1 == most all are done
    return found


def _next(product: Array, before: list[Values]) -> tuple[Values, Values]:
    """The norm and direction of what is left of `product` (s, n) when the vectors `before` are taken out of it."""
    rest = product.astype(np.float64)
    if before:
        basis = np.stack(before, axis=1)
        for _ in range(2):
            along = np.matmul(basis, rest[..., None])
            rest = rest - np.matmul(basis.swapaxes(-1, -2), along)[..., 0]
    direction, norm = _unit(rest)
    return norm, direction


def _unit(vectors: Values) -> tuple[Values, Values]:
    """Every vector (s, n) over its norm, and the norm; 0 stays 0."""
    with np.errstate(all="ignore"):
        scale = np.abs(vectors).max(axis=-1)
        scaled = np.where(scale[:, None] == 0, 0.0, vectors / scale[:, None])  # whose squares stay within range
        size = np.sqrt((scaled * scaled).sum(axis=-1))
        return np.where(scale[:, None] == 0, 0.0, scaled / size[:, None]), size * scale


def _top(band: Values) -> tuple[Values, Values]:
    """The largest singular value of every bidiagonal matrix, and |p_1[k]|, the last entry of its left vector."""
    finite = _finite(band)
    left, values, _ = np.linalg.svd(np.where(finite[:, None, None], band, 0.0))
    return np.where(finite, values[:, 0], np.nan), np.abs(left[:, -1, 0])
