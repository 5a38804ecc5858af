"""What a network is asked for: scalars of its output, each with its gradient beside it.

A loss is called as `loss(output, batch)` and gives one number a network, of shape (s,); `loss.gradient(output, batch)`
is its derivative by the output. The NumPy engine differentiates by hand and needs both; on PyTorch any function
`loss(output, batch) -> scalar` will do. Values and gradients are the mean over the batch, but for `Cotangent`, which is
a sum. This module imports the ops and NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from skipscope import draws
from skipscope.draws import CotangentKind
from skipscope.engines import ops
from skipscope.errors import InputError, choose

__all__ = ["Cotangent", "CrossEntropy", "MeanSquaredError", "cotangent"]

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class CrossEntropy:
    """Softmax cross-entropy, the mean over the batch; the batch is (inputs, labels)."""

    def __call__(self, output: Array, batch: Any) -> Array:
        """The loss, of shape (s,)."""
        return ops.cross_entropy(ops.log_softmax(output), self._labels(output, batch))

    def gradient(self, output: Array, batch: Any) -> Array:
        """Its gradient by the output, of shape (s, b, n)."""
        return self.with_gradient(output, batch)[1]

    def with_gradient(self, output: Array, batch: Any) -> tuple[Array, Array]:
        """Both of a step of training, which have most of their computation in common."""
        labels, logp = self._labels(output, batch), ops.log_softmax(output)
        return ops.cross_entropy(logp, labels), ops.cross_entropy_backward(logp, labels)

    def _labels(self, output: Array, batch: Any) -> NDArray[np.integer[Any]]:
        labels = np.asarray(_target(batch, "labels"))
        if not np.issubdtype(labels.dtype, np.integer):
            raise InputError(f"labels must be whole numbers; got an array of {labels.dtype}.")
        _require_shape("labels", labels, output.shape[:-1])
        classes = output.shape[-1]
        if labels.size and (labels.min() < 0 or labels.max() >= classes):
            raise InputError(
                f"labels must be from 0 to {classes - 1} for a network of {classes} outputs; got {labels.min()} to "
                f"{labels.max()}."
            )
        return labels


@dataclass(frozen=True)
class MeanSquaredError:
    """Mean squared error, the mean over samples and outputs (no factor 1/2); the batch is (inputs, targets)."""

    def __call__(self, output: Array, batch: Any) -> Array:
        """The loss, of shape (s,)."""
        return ops.mean_squared_error(output, self._targets(output, batch))

    def gradient(self, output: Array, batch: Any) -> Array:
        """Its gradient by the output, of shape (s, b, n)."""
        return ops.mean_squared_error_backward(output, self._targets(output, batch))

    def _targets(self, output: Array, batch: Any) -> Array:
        targets = np.asarray(_target(batch, "targets")).astype(output.dtype, copy=False)
        _require_shape("targets", targets, output.shape)
        return targets


@dataclass(frozen=True, eq=False)
class Cotangent:
    """The loss <v, output>, summed over samples and outputs: its gradient by the output is v itself.

    It needs no labels, and asks what a network does to *any* gradient that comes in at its end.
    """

    v: Array

    def __call__(self, output: Array, batch: Any) -> Array:
        """The loss, of shape (s,)."""
        product: Array = (self._like(output) * output).sum(axis=(-2, -1))
        return product

    def gradient(self, output: Array, batch: Any) -> Array:
        """v, of shape (s, b, n)."""
        return self._like(output)

    def _like(self, output: Array) -> Array:
        _require_shape("cotangent", self.v, output.shape)
        return np.ascontiguousarray(np.broadcast_to(self.v, output.shape), output.dtype)


def cotangent(
    kind: CotangentKind, *, seeds: Sequence[int], batch: int, outputs: int, seed: int | None = None
) -> Cotangent:
    """The output gradient that a probe sends back when it is given no loss.

    Args:
        kind: `"gaussian"`, independent standard normals (isotropic: no output is special), or `"ones"`, as in the
            original notebook (coherent with the activations of a ReLU network: see the law for fixed cotangents).
        seeds: the networks' seeds; each draws its own cotangent, unless
        seed: is given: then all get the cotangent of that seed.
        batch: b.
        outputs: n of the output.
    """
    choose("cotangent", kind, get_args(CotangentKind))
    if kind == "ones":
        return Cotangent(np.ones((1, batch, outputs)))
    drawing = tuple(seeds) if seed is None else draws.require_seeds(seed)
    return Cotangent(draws.normals(drawing, "cotangent", (batch, outputs)))


def _target(batch: Any, what: str) -> Any:
    if not isinstance(batch, tuple) or len(batch) != 2:
        raise InputError(f"this loss needs a batch of (inputs, {what}); got {type(batch).__name__}.")
    return batch[1]


def _require_shape(what: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    """Accept the shape of one network's output (b, ...) or of every network's (s, b, ...)."""
    ensemble = len(array.shape) == len(shape) and array.shape[0] in (1, shape[0]) and array.shape[1:] == shape[1:]
    if array.shape != shape[1:] and not ensemble:
        raise InputError(f"{what} must have the shape {shape[1:]} (or {shape}, one for every seed); got {array.shape}.")
