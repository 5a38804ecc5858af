"""The names of the original notebook, for a learner: the same layers as the engine's, one network at a time.

    network = PlainNetwork(16, 36, 28, seed=0)      # input, hidden, number of layers
    y = network.forward(x)                          # x of shape (b, 16)
    dx = network.backward(np.ones_like(y))          # fills every layer's dW and db
    network.gradient_norms()

Everything is a thin dress over engines/ops.py, so what is read here is what the instrument measures with; and
`PlainNetwork(16, 36, 28, seed=0)` is, bit for bit, the network that `skipscope.build` makes of its `spec`. Two things
differ from the notebook: samples are rows, not columns, and the output layer of both networks is a ReLU layer as there,
which is why an output gradient of ones is not neutral (docs, "What theory predicts").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope import draws
from skipscope.engines import ops
from skipscope.errors import InputError, require_int
from skipscope.spec import Spec

__all__ = ["PlainLayer", "PlainNetwork", "ResidualBlock", "ResidualNetwork"]

Array = NDArray[np.floating[Any]]


class PlainLayer:
    """a = relu(W x + b), He-initialised with zero bias.

    Attributes:
        W: (n_out, n_in).  b: (n_out,).  dW, db: their gradients, after `backward`.
    """

    def __init__(self, n_in: int, n_out: int, *, seed: int | None = None, W: Array | None = None) -> None:
        require_int("n_in", n_in, least=1)
        require_int("n_out", n_out, least=1)
        if (seed is None) == (W is None):
            raise InputError("PlainLayer takes either seed, from which it draws W, or W itself.")
        if W is None:
            assert seed is not None
            W = _normals(seed, (n_out, n_in)) * np.sqrt(2 / n_in)
        W = np.asarray(W)
        if W.shape != (n_out, n_in):
            raise InputError(f"W must have the shape ({n_out}, {n_in}); got {W.shape}.")
        self.W: Array = W
        self.b: Array = np.zeros(n_out)
        self.dW: Array = np.zeros_like(W)
        self.db: Array = np.zeros_like(self.b)

    def forward(self, x: Array) -> Array:
        """The activation, of shape (b, n_out), for x of shape (b, n_in)."""
        x = np.asarray(x, float)
        if x.ndim != 2 or x.shape[1] != self.W.shape[1]:
            raise InputError(f"x must have the shape (samples, {self.W.shape[1]}); got {x.shape}.")
        self._x = x
        self._a = ops.relu(ops.affine(x, self.W, self.b))
        return self._a

    def backward(self, da: Array) -> Array:
        """The gradient by x, of shape (b, n_in), for the gradient by the activation."""
        if not hasattr(self, "_a"):
            raise InputError("backward needs the activations of a forward pass: call forward(x) first.")
        if np.shape(da) != self._a.shape:
            raise InputError(f"the gradient must have the output's shape {self._a.shape}; got {np.shape(da)}.")
        dz = ops.relu_backward(da, self._a)
        dx, self.dW, self.db = ops.affine_backward(dz, self._x, self.W)
        return dx

    def gradient_norm(self) -> float:
        """Frobenius norm of dW."""
        return float(np.linalg.norm(self.dW))


class ResidualBlock:
    """y = F(x) + x, F two plain layers; so dx = dF + dy: the shortcut hands the gradient on as it is."""

    def __init__(
        self, width: int, *, seed: int | None = None, layers: tuple[PlainLayer, PlainLayer] | None = None
    ) -> None:
        if (seed is None) == (layers is None):
            raise InputError("ResidualBlock takes either seed, from which it draws its layers, or the two layers.")
        if layers is None:
            assert seed is not None
            require_int("width", width, least=1)
            W = _normals(seed, (2, width, width)) * np.sqrt(2 / width)
            layers = PlainLayer(width, width, W=W[0]), PlainLayer(width, width, W=W[1])
        if any(layer.W.shape != (width, width) for layer in layers):
            raise InputError(f"layers must be of {width} units in and out, for the shortcut to be added to.")
        self.layers = layers

    def F(self, x: Array) -> Array:  # noqa: N802 - the paper's and the notebook's name for the branch
        """The branch, of shape (b, n)."""
        first, second = self.layers
        return second.forward(first.forward(x))

    def forward(self, x: Array) -> Array:
        """F(x) + x."""
        skip = x
        branch = self.F(x)
        return skip + branch

    def backward(self, dy: Array) -> Array:
        """dF + dy."""
        first, second = self.layers
        skip = dy
        branch = first.backward(second.backward(dy))
        return skip + branch

    def gradient_norm(self) -> float:
        """The mean of its two layers' gradient norms, as the notebook draws it."""
        first, second = self.layers
        return (first.gradient_norm() + second.gradient_norm()) / 2


class _Network:
    """A chain of layers and blocks."""

    spec: Spec
    layers: list[PlainLayer | ResidualBlock]

    def forward(self, x: Array) -> Array:
        """The output, of shape (b, input), for x of shape (b, input)."""
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dy: Array) -> Array:
        """The gradient by x, given that by the output; fills dW and db of every layer."""
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy

    def gradient_norms(self) -> list[float]:
        """|dW| of every layer in order of depth; a block counts as the mean of its two."""
        return [layer.gradient_norm() for layer in self.layers]

    def _drawn(self, seed: int) -> Iterator[PlainLayer]:
        drawn = draws.weights(self.spec, (require_int("seed", seed, least=0),))
        for layer in self.spec.layers:
            yield PlainLayer(layer.fan_in, layer.fan_out, W=drawn[layer.site][0])


class PlainNetwork(_Network):
    """An input layer, num_layers - 2 hidden layers and an output layer back to the input's size."""

    def __init__(self, input: int, hidden: int, num_layers: int, *, seed: int) -> None:
        require_int("num_layers", num_layers, least=2)
        self.spec = Spec.dense(
            features=input, width=hidden, blocks=num_layers - 2, layers=1, shortcut="none", output="relu"
        )
        self.layers = list(self._drawn(seed))


class ResidualNetwork(_Network):
    """An input projection, num_blocks residual blocks and an output projection back to the input's size."""

    def __init__(self, input: int, hidden: int, num_blocks: int, *, seed: int) -> None:
        require_int("num_blocks", num_blocks, least=1)
        self.spec = Spec.dense(features=input, width=hidden, blocks=num_blocks, output="relu")
        stem, *body, head = self._drawn(seed)
        blocks = [ResidualBlock(hidden, layers=(body[i], body[i + 1])) for i in range(0, len(body), 2)]
        self.layers = [stem, *blocks, head]


def _normals(seed: int, shape: tuple[int, ...]) -> Array:
    drawn: Array = draws.normals((require_int("seed", seed, least=0),), "weights", shape)[0]
    return drawn
