"""A network of before-add order as a chain of junctions y = s x + a F(x), and the numbers of each: for law (b2).

A branch F has one to three layers, each phi(W .) with phi a ReLU or linear. A plain layer is a junction with s = 0.
Imports the spec and loglaw.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from skipscope.draws import weight_variance
from skipscope.spec import Layer, Spec
from skipscope.theory.law import gains_of
from skipscope.theory.loglaw import Factor

__all__ = ["Junction", "junctions", "open_gates"]


@dataclass(frozen=True)
class Junction:
    """y = s x + a F(x).

    Attributes:
        site: where y stands.
        layers: those of the branch, each with the variance of its weights.
        s, a: the gains of the shortcut and of the branch.
    """

    site: str
    layers: tuple[tuple[Layer, float], ...]
    s: float = 0.0
    a: float = 1.0

    @property
    def width(self) -> int:
        """The number n of entries of y."""
        return self.layers[-1][0].fan_out

    @cached_property
    def squares(self) -> tuple[float, ...]:
        """E ||h||^2/||x||^2 behind each layer of the branch; the last is g2."""
        found, square = [], 1.0
        for layer, variance in self.layers:
            square *= layer.fan_out * variance * open_gates(layer)
            found.append(square)
        return tuple(found)

    @property
    def square(self) -> float:
        """g2 = E ||F||^2/||x||^2."""
        return self.squares[-1]

    @property
    def open(self) -> float:
        """The share of gates that are open in the branch's last layer."""
        return open_gates(self.layers[-1][0])

    @cached_property
    def mean(self) -> float:
        """k = E F_i/sqrt(q), q the mean square of x, at infinite width."""
        return math.sqrt(self.square / math.pi) if self.open < 1.0 else 0.0

    @cached_property
    def finite_mean(self) -> float:
        """k with what the fluctuation of the hidden layers takes off it: E ||h||, not the root of E ||h||^2."""
        k = self.mean
        for factor in self._hidden:
            k *= factor.root / math.sqrt(factor.expectation)
        return k

    @cached_property
    def spread(self) -> float:
        """Var ln ||h||^2 given x, h the last hidden layer, to first order: 5/n for a ReLU layer, 2/n for a linear."""
        return math.fsum(factor.asymptotic_variance for factor in self._hidden)

    @property
    def _hidden(self) -> list[Factor]:
        layers = [layer for layer, _ in self.layers[:-1]]
        return [Factor("relu" if layer.activation == "relu" else "linear", layer.fan_out) for layer in layers]

    def mixing(self, entered: int = 0) -> float:
        """E <h, h_u>^2/(||h||^2 ||h_u||^2) of a tangent h_u that entered the branch across its activation.

        Each hidden layer that it has passed adds 1/n, a ReLU layer 2/n. `entered` counts the layers not passed.
        """
        return math.fsum(1.0 / (open_gates(layer) * layer.fan_out) for layer, _ in self.layers[entered:-1])

    def factor(self, r: float, k: float) -> float:
        """f: ||y||^2/||x||^2 where x has the mean r in units of its RMS, and F_i the mean k."""
        return self.s**2 + self.a**2 * self.square + 2.0 * self.s * self.a * k * r


def open_gates(layer: Layer) -> float:
    """The share of gates that are open behind a matrix: all of a linear layer's."""
    return 0.5 if layer.activation == "relu" else 1.0


def junctions(spec: Spec) -> Iterator[Junction]:
    """The stem and the blocks, residual ones whole and plain ones layer by layer."""

    def known(layer: Layer) -> tuple[Layer, float]:
        return layer, weight_variance(spec, layer)

    yield Junction("stem", (known(spec.stem_layer),))
    gains = [gains_of(spec, stage) for stage in spec.stages for _ in range(stage.blocks)]
    for block, (s, a) in zip(spec.body, gains, strict=True):
        layers = [known(layer) for layer in block.layers]
        if s == 0.0:
            for plain in layers[:-1]:
                yield Junction(plain[0].site, (plain,))
            layers = layers[-1:]
        yield Junction(block.site, tuple(layers), s, a)
