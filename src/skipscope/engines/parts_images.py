"""The parts that a convolutional network is a chain of, as those of parts.py, each `forward` with its `backward`.

Between parts images lie as skipscope.engines.images says; an observer is pushed views of them, (s, b, c, h, w). Where
nobody asks for what lies between a batch normalisation and what follows it (the addition of the shortcut, the
activation), all of it is one pass over memory: of the same operations in the same order, so that no bit depends on who
looks. The derivations stand in images.py, convolution.py and pooling.py. Imports those, parts, protocol and spec.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope.engines import convolution, images, ops, pooling
from skipscope.engines.images import as_observed
from skipscope.engines.parts import (
    ACTIVATIONS,
    Chain,
    Kept,
    Norm,
    Part,
    PlainBlock,
    ResidualBlock,
    head_of,
    norm_arrays,
)
from skipscope.protocol import Observer, ignore, wanted
from skipscope.spec import Block, Layer, Spec

__all__ = [
    "ActivatedImages",
    "Conv",
    "Entrance",
    "GlobalPool",
    "MaxPool",
    "NormedImages",
    "PadShortcut",
    "PlainImages",
    "ResidualImages",
    "body_of",
    "stem_of",
    "tail_of",
]

Array = NDArray[np.floating[Any]]

_ACTIVATIONS = {
    **ACTIVATIONS,
    "relu": (images.relu, images.relu_backward, images.relu_jvp),
}  # the other two keep 0 at 0
_FUSED = ("relu", "linear")
_BEFORE = ("preactivation",)
_TERMS = ("shortcut", "branch", "total")
_RETURNED = ("shortcut_grad", "branch_grad", "total_grad")
_WEIGHTS = ("weight", "weight_grad")


def _asks(observe: Observer, site: str, roles: Collection[str]) -> bool:
    """Whether the observer wants one of the roles."""
    return not set(roles).isdisjoint(wanted(observe, site))


# ------------------------------------------------------------------------------------------------------- the parts


@dataclass(slots=True, eq=False)
class Conv:
    """y = W * x, without bias; where the network is trained, the gradient of W is written where it is told.

    `exact` is for what no norm follows, which would move an exact 0 anyway; see `skipscope.engines.convolution`.
    """

    site: str
    weight: Array
    stride: int
    padding: int
    weight_grad: Array | None = None
    exact: bool = False

    @property
    def _how(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding, "exact": self.exact}

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        return convolution.conv(x, self.weight, **self._how), x

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        if not self.asked(observe):
            return convolution.conv_backward_input(dy, kept.shape, self.weight, **self._how)
        dx, weight_grad = convolution.conv_backward(dy, kept, self.weight, **self._how)
        self.tell(observe, weight_grad)
        return dx

    def jvp(self, tx: Array, kept: Kept) -> Array:
        return convolution.conv_jvp(tx, self.weight, **self._how)

    def backward_weight(self, dy: Array, kept: Kept, observe: Observer) -> None:
        """The gradient by W alone, for whoever asks."""
        if self.asked(observe):
            self.tell(observe, convolution.conv_backward_weight(dy, kept, self.weight.shape, **self._how))

    def asked(self, observe: Observer) -> bool:
        """Whether anybody needs the gradient by W."""
        return self.weight_grad is not None or _asks(observe, self.site, _WEIGHTS)

    def tell(self, observe: Observer, weight_grad: Array) -> None:
        """Hand the gradient by W to whoever asks."""
        if self.weight_grad is not None:
            self.weight_grad[...] = weight_grad
        observe(self.site, weight=self.weight, weight_grad=weight_grad)


@dataclass(slots=True, eq=False)
class Entrance:
    """The first convolution, of images (s, b, c, h, w) as they come; its gradient by them is for observers alone."""

    conv: Conv

    @property
    def site(self) -> str:
        """Of its convolution."""
        return self.conv.site

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        return self.conv.forward(images.laid_out(x), observe)

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        if _asks(observe, "input", ("activation_grad",)):
            return as_observed(self.conv.backward(dy, kept, observe))
        self.conv.backward_weight(dy, kept, observe)
        return np.empty(0, dy.dtype)  # which `NumpyNetwork.run` hands to nobody

    def jvp(self, tx: Array, kept: Kept) -> Array:
        return self.conv.jvp(images.laid_out(tx), kept)


@dataclass(slots=True, eq=False)
class ActivatedImages:
    """y = relu(x), tanh(x) or x."""

    site: str
    activation: str

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        y = _ACTIVATIONS[self.activation][0](x)
        observe(self.site, preactivation=as_observed(x), activation=as_observed(y))
        return y, y

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        dx = _ACTIVATIONS[self.activation][1](dy, kept)
        observe(self.site, preactivation_grad=as_observed(dx), activation_grad=as_observed(dy))
        return dx

    def jvp(self, tx: Array, kept: Kept) -> Array:
        return _ACTIVATIONS[self.activation][2](tx, kept)


@dataclass(slots=True, eq=False)
class NormedImages(Norm):
    """y = act(gamma (x - mean) / std + beta), of every channel over all pixels of the batch, or by running averages.

    See `skipscope.engines.parts.Norm` for the rest; its `norm` is "batch".
    """

    activation: str = "linear"

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        if self.activation in _FUSED and not _asks(observe, self.site, _BEFORE):
            y, kept = self.normed(x, observe, rectified=self.activation == "relu")
            observe(self.site, activation=as_observed(y))
            return y, (kept, y if self.activation == "relu" else None)
        before, kept = self.normed(x, observe)
        y = _ACTIVATIONS[self.activation][0](before)
        observe(self.site, preactivation=as_observed(before), activation=as_observed(y))
        return y, (kept, y)

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        kept_norm, y = kept
        before = _ACTIVATIONS[self.activation][1](dy, y)
        observe(self.site, preactivation_grad=as_observed(before), activation_grad=as_observed(dy))
        return self.normed_backward(before, kept_norm, observe)

    def jvp(self, tx: Array, kept: Kept) -> Array:
        kept_norm, y = kept
        through = images.fixed_norm_jvp if self.way == "fixed" else images.batch_norm_jvp
        return _ACTIVATIONS[self.activation][2](through(tx, self.gamma, kept_norm), y)

    def normed(
        self, x: Array, observe: Observer, *, shortcut: Array | None = None, rectified: bool = False
    ) -> tuple[Array, images.NormalisedImages]:
        """What comes before the activation; of all with a shortcut added and rectified, if told."""
        if self.fixed and self.running is not None:
            return images.fixed_norm(x, self.gamma, self.beta, *self.running, shortcut=shortcut, rectified=rectified)
        y, kept = images.batch_norm(x, self.gamma, self.beta, shortcut=shortcut, rectified=rectified)
        observe(self.site, batch_mean=kept.mean, batch_variance=kept.variance)
        return y, kept

    def normed_backward(self, dy: Array, kept: images.NormalisedImages, observe: Observer) -> Array:
        """The gradient by the input, given that by what `normed` gave before anything was added or rectified."""
        back = images.fixed_norm_backward if self.way == "fixed" else images.batch_norm_backward
        dx, dgamma, dbeta = back(dy, self.gamma, kept)
        if self.grads is not None:
            self.grads[0][...], self.grads[1][...] = dgamma, dbeta
        observe(self.site, gamma=self.gamma, gamma_grad=dgamma)
        observe(self.site, beta=self.beta, beta_grad=dbeta)
        return dx


@dataclass(slots=True, eq=False)
class MaxPool:
    """The largest pixel of every 3x3 window, at stride 2."""

    site: str

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        y, kept = pooling.max_pool(x)
        observe(self.site, activation=as_observed(y))
        return y, kept

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        observe(self.site, activation_grad=as_observed(dy))
        return pooling.max_pool_backward(dy, kept)

    def jvp(self, tx: Array, kept: Kept) -> Array:
        return pooling.max_pool_jvp(tx, kept)


@dataclass(slots=True, eq=False)
class GlobalPool:
    """The mean of every channel over all positions, (s, b, c)."""

    site: str

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        y = pooling.global_pool(x)
        observe(self.site, activation=y)
        return y, x.shape

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        observe(self.site, activation_grad=dy)
        return pooling.global_pool_backward(dy, kept)

    def jvp(self, tx: Array, kept: Kept) -> Array:
        return pooling.global_pool_jvp(tx)


@dataclass(slots=True, eq=False)
class PadShortcut:
    """Option A: every stride-th pixel either way, with zeros for channels before and after."""

    channels: int
    before: int
    stride: int

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        return pooling.padded_shortcut(x, self.channels, before=self.before, stride=self.stride), x.shape

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        return pooling.padded_shortcut_backward(dy, kept, before=self.before, stride=self.stride)

    def jvp(self, tx: Array, kept: Kept) -> Array:
        return pooling.padded_shortcut_jvp(tx, self.channels, before=self.before, stride=self.stride)


# ------------------------------------------------------------------------------------------------------- the blocks


@dataclass(slots=True, eq=False)
class PlainImages(PlainBlock):
    """y = act(gain F(x))."""

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        fused = _last_norm(self.branch)
        if fused and self.gain == 1 and self.activation in _FUSED and not _sees_into(fused, observe):
            before, kept = Chain(self.branch.parts[:-1]).forward(x, observe)
            y, kept_norm = fused.normed(before, observe, rectified=self.activation == "relu")
            kept.append((kept_norm, None))  # its own activation is linear, and asks for nothing
        else:
            branch, kept = self.branch.forward(x, observe)
            y = _ACTIVATIONS[self.activation][0](branch if self.gain == 1 else branch * self.gain)
        observe(self.site, activation=as_observed(y))
        return y, (y, kept)

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        y, kept_branch = kept
        observe(self.site, activation_grad=as_observed(dy))
        dsum = _ACTIVATIONS[self.activation][1](dy, y)
        return self.branch.backward(dsum if self.gain == 1 else dsum * self.gain, kept_branch, observe)


@dataclass(slots=True, eq=False)
class ResidualImages(ResidualBlock):
    """y = act(gain_s S(x) + gain_b F(x)), S the way past the branch: as it is, option A's zeros or a projection.

    With dsum the gradient by the sum, dx = dS(gain_s dsum) + dF(gain_b dsum): both ways begin at the block's input.
    """

    shortcut: Chain = field(default_factory=lambda: Chain(()))

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        skip, kept_skip = self.shortcut.forward(x, observe)
        fused = self._fused(observe)
        if fused is not None:
            before, kept = Chain(self.branch.parts[:-1]).forward(x, observe)
            y, kept_norm = fused.normed(before, observe, shortcut=skip, rectified=self.activation == "relu")
            kept.append((kept_norm, None))  # its own activation is linear, and asks for nothing
            observe(self.site, activation=as_observed(y))
            return y, (y, None, kept, kept_skip)
        bare, kept = self.branch.forward(x, observe)
        branch = bare if self.learned is None else bare * _over_images(self.learned)
        total, skip, term = _junction(skip, branch, *self.gains)
        y = _ACTIVATIONS[self.activation][0](total)
        roles = zip(_TERMS, (skip, term, total), strict=True)
        observe(self.site, **{role: as_observed(array) for role, array in roles})
        observe(self.site, activation=as_observed(y))
        return y, (y, bare if self.learned is not None else None, kept, kept_skip)

    def _fused(self, observe: Observer) -> NormedImages | None:
        """The last normalisation, if its output may be added and activated in one go."""
        norm = _last_norm(self.branch)
        alone = self.learned is None and self.gains == (1, 1) and self.activation in _FUSED
        if norm is None or not alone or _sees_into(norm, observe) or _asks(observe, self.site, _TERMS):
            return None
        return norm

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        y, bare, kept_branch, kept_skip = kept
        observe(self.site, activation_grad=as_observed(dy))
        dsum = _ACTIVATIONS[self.activation][1](dy, y)
        gains = self.gains
        dskip, dbranch = ops.junction_backward(dsum, *gains)
        if self.learned is not None:
            gain_grad = _summed(dbranch * bare)
            if self.learned_grad is not None:
                self.learned_grad[...] = gain_grad
            observe(self.site, gain=self.learned, gain_grad=gain_grad)
            dbranch = dbranch * _over_images(self.learned)
        through = self.branch.backward(dbranch, kept_branch, observe)
        past = self.shortcut.backward(dskip, kept_skip, observe)
        dx = images.added(past, through) if all(gains) else ops.junction_joined(past, through, *gains)
        roles = zip(_RETURNED, (past, through, dx), strict=True)
        observe(self.site, **{role: as_observed(array) for role, array in roles})
        return dx

    def ways_back(self, dy: Array, kept: Kept) -> tuple[Array, Array]:
        """The gradient by the input that comes through the shortcut, and through the branch; 0 where a gain is 0."""
        y, _, kept_branch, kept_skip = kept
        dskip, dbranch = ops.junction_backward(_ACTIVATIONS[self.activation][1](dy, y), *self.gains)
        if self.learned is not None:
            dbranch = dbranch * _over_images(self.learned)
        past, through = (
            self.shortcut.backward(dskip, kept_skip, ignore),
            self.branch.backward(dbranch, kept_branch, ignore),
        )
        # Not 0 times what has overflowed.
        gain_s, gain_b = self.gains
        return past if gain_s else np.zeros_like(past), through if gain_b else np.zeros_like(through)

    def jvp(self, tx: Array, kept: Kept) -> Array:
        y, _, kept_branch, kept_skip = kept
        tbranch, tskip = self.branch.jvp(tx, kept_branch), self.shortcut.jvp(tx, kept_skip)
        if self.learned is not None:
            tbranch = tbranch * _over_images(self.learned)
        return _ACTIVATIONS[self.activation][2](ops.junction_jvp(tskip, tbranch, *self.gains), y)


def _last_norm(branch: Chain) -> NormedImages | None:
    """The normalisation that ends a branch, where no activation follows it there."""
    last = branch.parts[-1]
    return last if isinstance(last, NormedImages) and last.activation == "linear" else None


def _sees_into(norm: NormedImages, observe: Observer) -> bool:
    return _asks(observe, norm.site, ("preactivation", "activation"))


def _junction(shortcut: Array, branch: Array, gain_s: float, gain_b: float) -> tuple[Array, Array, Array]:
    """As `skipscope.engines.ops.junction`."""
    if (gain_s, gain_b) == (1, 1):
        return images.added(shortcut, branch), shortcut, branch
    return ops.junction(shortcut, branch, gain_s, gain_b)


def _over_images(numbers: Array) -> Array:
    return numbers[:, None, None, None, None]


def _summed(x: Array) -> Array:
    """The sum of every network's entries, (s,)."""
    return np.array([np.add.reduce(own.reshape(-1)) for own in x])


# --------------------------------------------------------------------------------------------- putting them together

Parameters = Mapping[str, Array]
"""As in parts.py."""


def stem_of(spec: Spec, parameters: Parameters) -> Chain:
    """What comes before the first block."""
    conv, *after = _layer(spec.stem_layer, parameters)
    assert isinstance(conv, Conv), conv
    return Chain((Entrance(conv), *after, *((MaxPool("stem.pool"),) if spec.stem.pooled else ())))


def body_of(spec: Spec, parameters: Parameters) -> tuple[PlainBlock | ResidualBlock, ...]:
    """The blocks."""
    return tuple(_block(block, parameters) for block in spec.body)


def tail_of(spec: Spec, parameters: Parameters) -> Chain:
    """What comes after the last block."""
    last = spec.stages[-1] if spec.pre_activation else None
    final = () if last is None else (_activated("final", last.norm, last.activation, parameters),)
    return Chain((*final, GlobalPool("head.pool"), *head_of(spec, parameters)))


def _layer(layer: Layer, parameters: Parameters) -> tuple[Part, Part]:
    weight, weight_grad = parameters[f"{layer.site}.weight"], parameters.get(f"{layer.site}.weight_grad")
    conv = Conv(layer.site, weight, layer.stride, layer.padding, weight_grad, exact=layer.norm == "none")
    activated = _activated(layer.site, layer.norm, layer.activation, parameters)
    return (conv, activated) if layer.first == "affine" else (activated, conv)


def _activated(site: str, norm: str, activation: str, parameters: Parameters) -> Part:
    if norm == "none":
        return ActivatedImages(site, activation)
    return NormedImages(site, norm, *norm_arrays(site, parameters), activation=activation)


def _block(block: Block, parameters: Parameters) -> PlainBlock | ResidualBlock:
    branch = Chain(tuple(part for layer in block.layers for part in _layer(layer, parameters)))
    if block.plain:
        return PlainImages(block.site, branch, block.branch_gain, block.activation)
    gains = block.shortcut_gain, block.branch_gain
    learned, learned_grad = parameters.get(f"{block.site}.gain"), parameters.get(f"{block.site}.gain_grad")
    shortcut = Chain(_shortcut(block, parameters))
    return ResidualImages(block.site, branch, gains, learned, block.activation, learned_grad, shortcut=shortcut)


def _shortcut(block: Block, parameters: Parameters) -> tuple[Part, ...]:
    if block.projection is not None:
        return _layer(block.projection, parameters)
    if block.shortcut == "identity":
        return ()
    missing = block.width - block.n_in
    return (PadShortcut(block.width, missing // 2 if block.shortcut == "pad-both" else 0, block.stride),)
