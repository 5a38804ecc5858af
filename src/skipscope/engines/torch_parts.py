"""Networks on PyTorch as they are looked at: an ensemble whose forward pass shows every array on its way.

Written once more in PyTorch, so that each engine is a check of the other; nothing works in place, so that autograd can
follow whatever is seen. Every network of an ensemble runs by itself, in memory of its own, so that a seed has the same
bits alone and among others. For training there is `skipscope.engines.torch_module`, which shows nothing and is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from skipscope.engines.ops import EPS
from skipscope.errors import InputError
from skipscope.spec import Block, Layer, Spec

__all__ = ["ACTIVATIONS", "MOMENTUM", "EnsembleModule", "Held", "Tap", "register"]

Tap = Callable[..., None]  # tap(site, role=tensor, ...)
Gains = Mapping[str, tuple[float, float]]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh, "linear": lambda x: x}

MOMENTUM = 0.1
"""The share of a batch in batch normalisation's running averages, as in PyTorch."""


def _look_away(site: str, **roles: Tensor) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Held:
    """One network's arrays, and how a pass goes over them.

    Attributes:
        arrays: parameters and running averages by name, without the axis s.
        tap: sees what is on the way.
        fixed: whether batch normalisation takes the running averages in place of the batch's statistics.
        averages: the running averages that the batch's statistics move, by name; None where they move none.
    """

    arrays: Mapping[str, Tensor]
    tap: Tap = _look_away
    fixed: bool = False
    averages: Mapping[str, Tensor] | None = None


class EnsembleModule(nn.Module):
    """The networks of a spec, one for every seed, as a module; its arrays have the names of the NumPy engine's.

    In training mode a forward pass moves batch normalisation's running averages (which are buffers), as
    `torch.nn.BatchNorm2d` does; in evaluation mode it normalises by them.

    Args:
        spec: what the networks are.
        parameters: by name, each with the leading axis s.
        running: the running averages of batch normalisation, likewise.
        gains: of the shortcut and the branch, by junction.
    """

    def __init__(
        self, spec: Spec, parameters: Mapping[str, Tensor], running: Mapping[str, Tensor], gains: Gains
    ) -> None:
        super().__init__()
        self.spec = spec
        self.gains = dict(gains)
        for name, array in parameters.items():
            register(self, name, nn.Parameter(array))
        for name, array in running.items():
            register(self, name, array)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs, of shape (s, b, n), for inputs of shape (s, b, n) or (b, n), or images with c, h, w for n."""
        count = len(self.get_parameter("stem.weight"))
        x = x.expand(count, *x.shape[-1 - len(self.spec.input_shape) :])
        return torch.stack([self.network(x[index], self._going(index)) for index in range(count)])

    def _going(self, index: int) -> Held:
        averages = {name: buffer[index] for name, buffer in self.named_buffers()} if self.training else None
        return Held(self.held(index), fixed=not self.training, averages=averages)

    def held(self, index: int) -> dict[str, Tensor]:
        """The arrays of one network, each in memory of its own: BLAS rounds by where an array begins."""
        return {name: array[index].clone() for name, array in (*self.named_parameters(), *self.named_buffers())}

    def network(self, x: Tensor, held: Held) -> Tensor:
        """The output (b, n) of one network for the inputs (b, n), or images (b, c, h, w)."""
        spec = self.spec
        x = _layer(x, spec.stem_layer, held)
        if spec.stem.pooled:
            x = functional.max_pool2d(x, kernel_size=3, stride=2, padding=1)
            held.tap("stem.pool", activation=x)
        for block in spec.body:
            x = _plain(x, block, held) if block.plain else self._residual(x, block, held)
        if spec.pre_activation:
            last = spec.stages[-1]
            x = _activated(x, "final", last.norm, last.activation, held)
        if spec.head.pooled:
            x = x.mean(dim=(-2, -1))
            held.tap("head.pool", activation=x)
        return _layer(x, spec.head_layer, held)

    def _residual(self, x: Tensor, block: Block, held: Held) -> Tensor:
        # Two names of x, so that the gradients that come through either can be told apart.
        through_shortcut, through_branch = x.view_as(x), x.view_as(x)
        branch = _branch(through_branch, block, held)
        if block.learned_gain:
            branch = branch * held.arrays[f"{block.site}.gain"]
        gain_s, gain_b = self.gains[block.site]
        skip, term = _scaled(_shortcut(through_shortcut, block, held), gain_s), _scaled(branch, gain_b)
        total = term if gain_s == 0 else skip if gain_b == 0 else skip + term
        y = ACTIVATIONS[block.activation](total)
        held.tap(block.site, shortcut=skip, branch=term, total=total)
        held.tap(block.site, activation=y)
        held.tap(block.site, through_shortcut=through_shortcut, through_branch=through_branch)
        return y


def register(module: nn.Module, name: str, array: Tensor) -> None:
    """Make an array a parameter (if it is one) or else a buffer of the module, under a name with dots."""
    *holders, last = name.split(".")
    for holder in holders:
        if holder not in module._modules:
            module.add_module(holder, nn.Module())
        module = module.get_submodule(holder)
    if isinstance(array, nn.Parameter):
        module.register_parameter(last, array)
    else:
        module.register_buffer(last, array)


def _scaled(x: Tensor, gain: float) -> Tensor:
    return x if gain == 1 else torch.zeros_like(x) if gain == 0 else x * gain


def _plain(x: Tensor, block: Block, held: Held) -> Tensor:
    branch = _branch(x, block, held)
    y = ACTIVATIONS[block.activation](branch if block.branch_gain == 1 else branch * block.branch_gain)
    held.tap(block.site, activation=y)
    return y


def _branch(x: Tensor, block: Block, held: Held) -> Tensor:
    for layer in block.layers:
        x = _layer(x, layer, held)
    return x


def _shortcut(x: Tensor, block: Block, held: Held) -> Tensor:
    if block.shortcut == "identity":
        return x
    if block.projection is not None:
        return _layer(x, block.projection, held)
    skip = x.new_zeros(len(x), block.width, block.size_out, block.size_out)
    missing = block.width - block.n_in
    first = missing // 2 if block.shortcut == "pad-both" else 0
    skip[:, first : first + block.n_in] = x[:, :, :: block.stride, :: block.stride]
    return skip


def _layer(x: Tensor, layer: Layer, held: Held) -> Tensor:
    if layer.first == "affine":
        return _activated(_affine(x, layer, held), layer.site, layer.norm, layer.activation, held)
    return _affine(_activated(x, layer.site, layer.norm, layer.activation, held), layer, held)


def _affine(x: Tensor, layer: Layer, held: Held) -> Tensor:
    weight, bias = held.arrays[f"{layer.site}.weight"], held.arrays.get(f"{layer.site}.bias")
    if layer.kind == "conv":
        return functional.conv2d(x, weight, stride=layer.stride, padding=layer.padding)
    y = x @ weight.T
    return y if bias is None else y + bias


def _activated(x: Tensor, site: str, norm: str, activation: str, held: Held) -> Tensor:
    if norm == "batch":
        x = _batch_norm(x, site, held)
    elif norm == "layer":
        mean = x.mean(dim=-1, keepdim=True)
        variance = (x - mean).square().mean(dim=-1, keepdim=True)
        x = _affinely((x - mean) / (variance + EPS).sqrt(), site, held)
    y = ACTIVATIONS[activation](x)
    held.tap(site, preactivation=x, activation=y)
    return y


def _batch_norm(x: Tensor, site: str, held: Held) -> Tensor:
    if held.fixed:
        mean, variance = (_over_positions(held.arrays[f"{site}.{name}"], x) for name in _AVERAGES)
        return _affinely((x - mean) / (variance + EPS).sqrt(), site, held)
    axes = [axis for axis in range(x.ndim) if axis != 1]  # samples, and positions
    mean = x.mean(dim=axes, keepdim=True)
    variance = (x - mean).square().mean(dim=axes, keepdim=True)
    held.tap(site, batch_mean=mean.flatten(), batch_variance=variance.flatten())
    if held.averages is not None:
        count = x.numel() // x.shape[1]
        if count == 1:
            raise InputError("one sample leaves batch normalisation nothing to compare: use 2 samples or more.")
        # Of the variance with count - 1 below, as in PyTorch.
        for name, found in zip(_AVERAGES, (mean, variance * (count / (count - 1))), strict=True):
            held.averages[f"{site}.{name}"].lerp_(found.detach().flatten(), MOMENTUM)
    return _affinely((x - mean) / (variance + EPS).sqrt(), site, held)


_AVERAGES = ("running_mean", "running_variance")


def _affinely(z: Tensor, site: str, held: Held) -> Tensor:
    gamma, beta = (_over_positions(held.arrays[f"{site}.{name}"], z) for name in ("gamma", "beta"))
    return gamma * z + beta


def _over_positions(array: Tensor, x: Tensor) -> Tensor:
    """An array of one number a feature, or channel, so that it broadcasts with (b, n), or (b, c, h, w)."""
    return array if x.ndim == 2 else array[:, None, None]
