"""The parts that a network is a chain of, each with its `forward` and, under it, its `backward`.

`forward` gives the output and what the backward will need; `backward` takes the gradient by the output and gives the
gradient by the input; `jvp` is the derivative the other way round. The derivations stand in ops.py. Parts push the
arrays to the observer as they make them and keep nothing. Arrays may carry further axes between s and b, as long as
they broadcast: `skipscope.engines.nested` runs several networks along such an axis. Imports ops, protocol and spec.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skipscope.engines import ops
from skipscope.protocol import Observer, wanted
from skipscope.spec import Block, Layer, Spec

__all__ = [
    "ACTIVATIONS",
    "NORMS",
    "Activation",
    "Affine",
    "Chain",
    "Kept",
    "Norm",
    "Part",
    "PlainBlock",
    "ResidualBlock",
    "body_of",
    "head_of",
    "norm_arrays",
    "stem_of",
    "tail_of",
]

Array = NDArray[np.floating[Any]]
Kept = Any  # whatever a part's forward hands to its backward

_Derivative = Callable[[Array, Array], Array]
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], _Derivative, _Derivative]] = {  # forward, backward, jvp
    "relu": (ops.relu, ops.relu_backward, ops.relu_jvp),
    "tanh": (ops.tanh, ops.tanh_backward, ops.tanh_jvp),
    "linear": (ops.linear, ops.linear_backward, ops.linear_jvp),
}
NORMS: dict[
    str, tuple[Callable[..., tuple[Array, Kept]], Callable[..., tuple[Array, Array, Array]], Callable[..., Array]]
] = {  # forward, backward, jvp
    "batch": (ops.batch_norm, ops.batch_norm_backward, ops.batch_norm_jvp),
    "layer": (ops.layer_norm, ops.layer_norm_backward, ops.layer_norm_jvp),
    "fixed": (ops.fixed_norm, ops.fixed_norm_backward, ops.fixed_norm_jvp),
}


_GRADIENTS = ("weight_grad", "bias_grad")


class Part(Protocol):
    """What every part can do."""

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        """The output for the input x, and whatever `backward` and `jvp` need of this pass."""

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        """The gradient by the input, given that by the output."""

    def jvp(self, tx: Array, kept: Kept) -> Array:
        """How the output moves when the input moves along tx."""


@dataclass(slots=True, eq=False)
class Affine:
    """y = W x + b; where the network is trained, its gradients are written where it is told."""

    site: str
    weight: Array
    bias: Array | None
    weight_grad: Array | None = None
    bias_grad: Array | None = None

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        return ops.affine(x, self.weight, self.bias), x

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        # Where the network is trained, its gradients are needed whoever looks.
        roles = _GRADIENTS if self.weight_grad is not None else wanted(observe, self.site)
        if "weight_grad" in roles or "weight" in roles:
            weight_grad = ops.affine_backward_weight(dy, kept, self.weight_grad)
            observe(self.site, weight=self.weight, weight_grad=weight_grad)
        if self.bias is not None and ("bias_grad" in roles or "bias" in roles):
            observe(self.site, bias=self.bias, bias_grad=ops.affine_backward_bias(dy, self.bias_grad))
        return ops.affine_backward_input(dy, self.weight)

    def jvp(self, tx: Array, kept: Kept) -> Array:
        return ops.affine_jvp(tx, self.weight)


@dataclass(slots=True, eq=False)
class Norm:
    """y = gamma (x - mean) / std + beta, over the batch or over the features, or by a fixed mean and variance.

    `running` are the averages of the mean and the variance of the batches that the network was trained on, which only
    batch normalisation has; where `fixed`, it takes them. `grads` is where gamma's gradient and beta's are written.
    """

    site: str
    norm: str
    gamma: Array
    beta: Array
    running: tuple[Array, Array] | None = None
    grads: tuple[Array, Array] | None = None
    fixed: bool = False

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        if self.fixed and self.running is not None:
            return ops.fixed_norm(x, self.gamma, self.beta, *self.running)
        y, kept = NORMS[self.norm][0](x, self.gamma, self.beta)
        if self.running is not None and kept.mean is not None:
            observe(self.site, batch_mean=kept.mean, batch_variance=kept.variance)
        return y, kept

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        dx, dgamma, dbeta = NORMS[self.way][1](dy, self.gamma, kept)
        if self.grads is not None:
            self.grads[0][...], self.grads[1][...] = dgamma, dbeta
        observe(self.site, gamma=self.gamma, gamma_grad=dgamma)
        observe(self.site, beta=self.beta, beta_grad=dbeta)
        return dx

    def jvp(self, tx: Array, kept: Kept) -> Array:
        return NORMS[self.way][2](tx, self.gamma, kept)

    @property
    def way(self) -> str:
        """Its name in `NORMS`."""
        return "fixed" if self.fixed and self.running is not None else self.norm


@dataclass(slots=True, eq=False)
class Activation:
    """y = relu(x), tanh(x) or x."""

    site: str
    activation: str

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        y = ACTIVATIONS[self.activation][0](x)
        observe(self.site, preactivation=x, activation=y)
        return y, y

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        dx = ACTIVATIONS[self.activation][1](dy, kept)
        observe(self.site, preactivation_grad=dx, activation_grad=dy)
        return dx

    def jvp(self, tx: Array, kept: Kept) -> Array:
        return ACTIVATIONS[self.activation][2](tx, kept)


@dataclass(slots=True, eq=False)
class Chain:
    """Parts one after another."""

    parts: tuple[Part, ...]

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        kept = []
        for part in self.parts:
            x, each = part.forward(x, observe)
            kept.append(each)
        return x, kept

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        for part, each in zip(reversed(self.parts), reversed(kept), strict=True):
            dy = part.backward(dy, each, observe)
        return dy

    def jvp(self, tx: Array, kept: Kept) -> Array:
        for part, each in zip(self.parts, kept, strict=True):
            tx = part.jvp(tx, each)
        return tx


@dataclass(slots=True, eq=False)
class PlainBlock:
    """y = act(gain F(x))."""

    site: str
    branch: Chain
    gain: float
    activation: str

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        branch, kept = self.branch.forward(x, observe)
        y = ACTIVATIONS[self.activation][0](branch if self.gain == 1 else branch * self.gain)
        observe(self.site, activation=y)
        return y, (y, kept)

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        y, kept_branch = kept
        observe(self.site, activation_grad=dy)
        dsum = ACTIVATIONS[self.activation][1](dy, y)
        return self.branch.backward(dsum if self.gain == 1 else dsum * self.gain, kept_branch, observe)

    def jvp(self, tx: Array, kept: Kept) -> Array:
        y, kept_branch = kept
        tbranch = self.branch.jvp(tx, kept_branch)
        return ACTIVATIONS[self.activation][2](tbranch if self.gain == 1 else tbranch * self.gain, y)


@dataclass(slots=True, eq=False)
class ResidualBlock:
    """y = act(gain_s x + gain_b F(x)): dx = gain_s dsum + dF(gain_b dsum), dsum the gradient by the sum.

    Where the branch has a learned scalar a, F(x) = a f(x) and da = sum(df f) over samples and features, which is
    written to `learned_grad` if given.
    """

    site: str
    branch: Chain
    gains: tuple[float, float]  # of the shortcut and the branch, as they are at this moment
    learned: Array | None
    activation: str
    learned_grad: Array | None = None

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        bare, kept = self.branch.forward(x, observe)
        branch = bare if self.learned is None else bare * self.learned[..., None, None]
        total, skip, term = ops.junction(x, branch, *self.gains)
        y = ACTIVATIONS[self.activation][0](total)
        observe(self.site, shortcut=skip, branch=term, total=total)
        observe(self.site, activation=y)
        return y, (y, bare, kept)

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        y, bare, kept_branch = kept
        observe(self.site, activation_grad=dy)
        dsum = ACTIVATIONS[self.activation][1](dy, y)
        dskip, dbranch = ops.junction_backward(dsum, *self.gains)
        if self.learned is not None:
            gain_grad = (dbranch * bare).sum(axis=(-2, -1), out=self.learned_grad)
            observe(self.site, gain=self.learned, gain_grad=gain_grad)
            dbranch = dbranch * self.learned[..., None, None]
        through = self.branch.backward(dbranch, kept_branch, observe)
        dx = ops.junction_joined(dskip, through, *self.gains)
        observe(self.site, shortcut_grad=dskip, branch_grad=through, total_grad=dx)
        return dx

    def jvp(self, tx: Array, kept: Kept) -> Array:
        y, _, kept_branch = kept
        tbranch = self.branch.jvp(tx, kept_branch)
        if self.learned is not None:
            tbranch = tbranch * self.learned[..., None, None]
        return ACTIVATIONS[self.activation][2](ops.junction_jvp(tx, tbranch, *self.gains), y)


# --------------------------------------------------------------------------------------------- putting them together
#
# A network is its stem, its body (the blocks) and its tail: what follows the last block, whichever that is.


Parameters = Mapping[str, Array]
"""Weight arrays by name, e.g. `stage1.block3.layer2.weight`, and running averages; see `NumpyNetwork.arrays`.

Where the network is trained, also the arrays that gradients are written to, e.g. `stage1.block3.layer2.weight_grad`.
"""


def stem_of(spec: Spec, parameters: Parameters) -> Chain:
    """What comes before the first block."""
    return Chain(_layer(spec.stem_layer, parameters))


def body_of(spec: Spec, parameters: Parameters) -> tuple[PlainBlock | ResidualBlock, ...]:
    """The blocks."""
    return tuple(_block(block, parameters) for block in spec.body)


def tail_of(spec: Spec, parameters: Parameters) -> Chain:
    """What comes after the last block."""
    last = spec.stages[-1] if spec.pre_activation else None
    final = () if last is None else _activated("final", last.norm, last.activation, parameters)
    return Chain((*final, *head_of(spec, parameters)))


def head_of(spec: Spec, parameters: Parameters) -> tuple[Part, ...]:
    """The output layer."""
    return _layer(spec.head_layer, parameters)


def _layer(layer: Layer, parameters: Parameters) -> tuple[Part, ...]:
    of_affine = [parameters.get(f"{layer.site}.{name}") for name in ("bias", "weight_grad", "bias_grad")]
    affine = Affine(layer.site, parameters[f"{layer.site}.weight"], *of_affine)
    activated = _activated(layer.site, layer.norm, layer.activation, parameters)
    return (affine, *activated) if layer.first == "affine" else (*activated, affine)


def _activated(site: str, norm: str, activation: str, parameters: Parameters) -> tuple[Part, ...]:
    after = Activation(site, activation)
    if norm == "none":
        return (after,)
    return Norm(site, norm, *norm_arrays(site, parameters)), after


def norm_arrays(
    site: str, parameters: Parameters
) -> tuple[Array, Array, tuple[Array, Array] | None, tuple[Array, Array] | None]:
    """A normalisation's gamma and beta, its running averages, and where its gradients are written."""
    running = _pair(parameters, f"{site}.running_mean", f"{site}.running_variance")
    grads = _pair(parameters, f"{site}.gamma_grad", f"{site}.beta_grad")
    return parameters[f"{site}.gamma"], parameters[f"{site}.beta"], running, grads


def _pair(parameters: Parameters, first: str, second: str) -> tuple[Array, Array] | None:
    return (parameters[first], parameters[second]) if first in parameters else None


def _block(block: Block, parameters: Parameters) -> PlainBlock | ResidualBlock:
    branch = Chain(tuple(part for layer in block.layers for part in _layer(layer, parameters)))
    if block.plain:
        return PlainBlock(block.site, branch, block.branch_gain, block.activation)
    gains = block.shortcut_gain, block.branch_gain
    learned, learned_grad = parameters.get(f"{block.site}.gain"), parameters.get(f"{block.site}.gain_grad")
    return ResidualBlock(block.site, branch, gains, learned, block.activation, learned_grad)
