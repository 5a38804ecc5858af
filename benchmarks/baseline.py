"""The straightforward version, as the notebook has it: one network at a time, one matrix-vector product a layer.

Line by line its parts N2 to N6, in float64, with what is garbled there put right: He-initialised ReLU layers with zero
biases and gradients by hand (N2), blocks of two of them (N3), the plain and the residual network (N4, N5), and the norm
of dW of every layer after one input went through and one output gradient came back (N6). Growth is read off the
activations and gradients that stand there anyway. Every network draws its own weights: with NumPy's `randn`, as it does
there, or from skipscope's streams, which are twice as fast, so that the numbers can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.networks import FEATURES, SPECS, WIDTH, Array
from skipscope import draws

Draw = Callable[..., Array]  # as `randn`: standard normals of the shape given
Source = Callable[[int, draws.Stream], Draw]  # of a seed and what is drawn


class PlainLayer:
    """a = relu(W x + b)."""

    def __init__(self, n_in: int, n_out: int, randn: Draw) -> None:
        self.W = randn(n_out, n_in) * np.sqrt(2 / n_in)
        self.b = np.zeros(n_out)

    def forward(self, x: Array) -> Array:
        self.x = x
        self.z = self.W @ x + self.b
        self.a: Array = np.maximum(0.0, self.z)
        return self.a

    def backward(self, da: Array) -> Array:
        self.da = da
        dz = da * (self.z > 0)
        self.dW = np.outer(dz, self.x)
        self.db = dz
        return self.W.T @ dz

    def gradient_norm(self) -> float:
        return float(np.linalg.norm(self.dW))


class ResidualBlock:
    """y = F(x) + x, F two plain layers."""

    def __init__(self, n: int, randn: Draw) -> None:
        self.first = PlainLayer(n, n, randn)
        self.second = PlainLayer(n, n, randn)

    def forward(self, x: Array) -> Array:
        self.a: Array = self.second.forward(self.first.forward(x)) + x
        return self.a

    def backward(self, dy: Array) -> Array:
        self.da = dy
        dx: Array = self.first.backward(self.second.backward(dy)) + dy
        return dx

    def gradient_norm(self) -> float:
        return (self.first.gradient_norm() + self.second.gradient_norm()) / 2


class Network:
    """An input layer, hidden layers or blocks, an output layer; drawn input, output, hidden, in skipscope's order."""

    def __init__(self, design: str, depth: int, randn: Draw) -> None:
        self.stem = PlainLayer(FEATURES, WIDTH, randn)
        self.head = PlainLayer(WIDTH, FEATURES, randn)
        self.body: list[PlainLayer] | list[ResidualBlock]
        if design == "plain":
            self.body = [PlainLayer(WIDTH, WIDTH, randn) for _ in range(depth - 2)]
        else:
            self.body = [ResidualBlock(WIDTH, randn) for _ in range(depth)]
        self.layers = [self.stem, *self.body, self.head]

    def forward(self, x: Array) -> Array:
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dy: Array) -> Array:
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy


def streams(seed: int, which: draws.Stream) -> Draw:
    """Skipscope's draw."""
    rng = draws.stream(seed, which)
    return lambda *shape: rng.standard_normal(shape)


def legacy(seed: int, which: draws.Stream) -> Draw:
    """The notebook's `np.random.randn`."""
    return np.random.RandomState([seed, *which.encode()]).randn


def gradient_flow(design: str, depth: int, seed: int, source: Source) -> tuple[float, float, float]:
    """One network, one draw: the three quantities."""
    network = Network(design, depth, source(seed, "weights"))
    network.forward(source(seed, "input")(FEATURES))
    network.backward(source(seed, "cotangent")(FEATURES))
    norms = [layer.gradient_norm() for layer in network.layers]
    entry, end, blocks = network.stem, network.body[-1], len(network.body)
    forward = float(np.linalg.norm(end.a) / np.linalg.norm(entry.a))
    backward = float(np.linalg.norm(entry.da) / np.linalg.norm(end.da))
    return norms[0] / norms[-1], forward ** (2 / blocks), backward ** (2 / blocks)


def measure(seeds: Sequence[int], source: Source = streams) -> Array:
    """See `networks.Measure`."""
    values = [[gradient_flow(design, depth, seed, source) for seed in seeds] for design, depth in SPECS]
    return np.moveaxis(np.array(values), 1, 2)
