"""One network on PyTorch as it is trained: a plain, fast `torch.nn.Module` of a `Spec`.

Its submodules are called as the spec's sites (`stage1.block3.layer2`), and its arrays as those of the other engines,
without their leading axis s: `state_of` and `arrays_of` turn the one into the other. It uses PyTorch's fused kernels
and works in place where autograd allows it; nothing here knows the observer, and automatic mixed precision, compilation
and hooks work as on any module. `skipscope.engines.torch_engine` computes the same and shows what is on the way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from skipscope import draws
from skipscope.engines.common import parameters_of, running_of
from skipscope.engines.ops import EPS
from skipscope.engines.torch_devices import device_for
from skipscope.engines.torch_parts import ACTIVATIONS, MOMENTUM
from skipscope.errors import InputError, require_type
from skipscope.spec import Block, Layer, Spec

__all__ = ["NetworkModule", "arrays_of", "module_of", "state_of"]

Array = NDArray[np.floating[Any]]

_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu_, "tanh": Tensor.tanh_, "linear": lambda x: x}


def module_of(
    spec: Spec, *, seed: int, device: str | torch.device = "cpu", channels_last: bool | None = None
) -> NetworkModule:
    """The network that `spec` describes, initialised from `seed`, as a module to be trained.

    Its output is that of the other engines up to rounding, its running averages of batch normalisation those of
    `torch.nn.BatchNorm2d`.

    Args:
        spec: what the network is.
        seed: as for `skipscope.build`, the same network.
        device: see `skipscope.engines.torch_devices.device_for`.
        channels_last: whether images lie with their channels last in memory, which most kernels like better; if not
            given, they do in a convolutional network.

    Raises:
        InputError: the seed is not a whole number of at least 0, or the device is not there.
    """
    require_type("spec", spec, Spec, "Spec.cifar(20) makes one")
    seeds = draws.require_seeds(seed)
    if len(seeds) > 1:
        raise InputError(f"seed must be one: a module to be trained is one network; got {len(seeds)} seeds.")
    module = NetworkModule(spec, channels_last=spec.images if channels_last is None else channels_last)
    module.load_state_dict(state_of({**parameters_of(spec, seeds), **running_of(spec, 1)}))
    return module.to(device_for(device, dtype=spec.dtype))


def state_of(arrays: Mapping[str, Array], index: int = 0) -> dict[str, Tensor]:
    """The state of a `NetworkModule`, as `load_state_dict` takes it: one network's part of arrays with the axis s."""
    return {name: torch.tensor(array[index]) for name, array in arrays.items()}


def arrays_of(state: Mapping[str, Tensor]) -> dict[str, Array]:
    """The arrays of a `NetworkModule`'s `state_dict()` as the other engines have them: with the leading axis s, of 1.

    The names may have what wrappers of PyTorch put before them (`module.`, `_orig_mod.`).
    """
    arrays = {}
    for name, tensor in state.items():
        bare = name.replace("_orig_mod.", "").removeprefix("module.")
        arrays[bare] = np.array(tensor.detach().cpu().numpy()[None], order="C")
    return arrays


class NetworkModule(nn.Module):
    """A spec's network; its weights are yet to be loaded (see `module_of`).

    Args:
        spec: what the network is.
        channels_last: see `module_of`.
    """

    def __init__(self, spec: Spec, *, channels_last: bool) -> None:
        super().__init__()
        self.spec = spec
        self.stem = LayerModule(spec.stem_layer, spec.dtype)
        self._stages = tuple(f"stage{number}" for number in range(1, len(spec.stages) + 1))
        for name in self._stages:
            blocks = [block for block in spec.body if block.site.startswith(f"{name}.")]
            named = [(block.site.rpartition(".")[2], BlockModule(block, spec.dtype)) for block in blocks]
            self.add_module(name, nn.Sequential(OrderedDict(named)))
        last = spec.stages[-1] if spec.pre_activation else None
        self.final = None if last is None else ActivatedModule(last.norm, spec.body_width, last.activation, spec.dtype)
        self.head = LayerModule(spec.head_layer, spec.dtype)
        self._layout = torch.channels_last if channels_last and spec.images else torch.contiguous_format
        for parameter in self.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=self._layout)

    def forward(self, x: Tensor) -> Tensor:
        """The output (b, n) for the inputs (b, n), or images (b, c, h, w)."""
        x = self.stem(x.contiguous(memory_format=self._layout))
        if self.spec.stem.pooled:
            x = functional.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        for name in self._stages:
            x = getattr(self, name)(x)
        if self.final is not None:
            x = self.final(x, fresh=False)
        if self.spec.head.pooled:
            # As `x.mean(dim=(-2, -1))`, whose gradient would come with channels first.
            x = functional.avg_pool2d(x, kernel_size=self.spec.body_size).flatten(start_dim=1)
        output: Tensor = self.head(x)
        return output


class ActivatedModule(nn.Module):
    """A normalisation (or none) and the activation after it."""

    gamma: Tensor
    beta: Tensor
    running_mean: Tensor | None
    running_variance: Tensor | None

    def __init__(self, norm: str, features: int, activation: str, dtype: str) -> None:
        super().__init__()
        self.norm, self.activation, self.features = norm, activation, features
        if norm != "none":
            self.gamma, self.beta = _empty(dtype, features), _empty(dtype, features)
        if norm == "batch":
            self.register_buffer("running_mean", torch.empty(features, dtype=getattr(torch, dtype)))
            self.register_buffer("running_variance", torch.empty(features, dtype=getattr(torch, dtype)))

    def forward(self, x: Tensor, *, fresh: bool) -> Tensor:
        """The activation for x; `fresh` is whether x is nobody else's, and may be overwritten."""
        if self.norm == "none":
            return (_IN_PLACE if fresh else ACTIVATIONS)[self.activation](x)
        return _IN_PLACE[self.activation](self._normed(x))  # a norm keeps what came in, not what it gave

    def _normed(self, x: Tensor) -> Tensor:
        if self.norm == "layer":
            return functional.layer_norm(x, (self.features,), self.gamma, self.beta, EPS)
        averages = self.running_mean, self.running_variance
        return functional.batch_norm(x, *averages, self.gamma, self.beta, self.training, MOMENTUM, EPS)


class LayerModule(ActivatedModule):
    """Weights, and what stands around them; see `skipscope.spec.layers.Layer`."""

    def __init__(self, layer: Layer, dtype: str) -> None:
        super().__init__(layer.norm, layer.normed, layer.activation, dtype)
        self.layer = layer
        self.weight = _empty(dtype, *layer.weight_shape)
        self.bias = _empty(dtype, layer.n_out) if layer.bias else None

    def forward(self, x: Tensor, *, fresh: bool = False) -> Tensor:
        """What the layer hands on for x; `fresh` is whether x is nobody else's."""
        if self.layer.first == "norm":
            return self._affine(super().forward(x, fresh=fresh))
        return super().forward(self._affine(x), fresh=True)

    def _affine(self, x: Tensor) -> Tensor:
        if self.layer.kind == "affine":
            return functional.linear(x, self.weight, self.bias)
        return functional.conv2d(x, self.weight, self.bias, self.layer.stride, self.layer.padding)


class BlockModule(nn.Module):
    """A branch and its junction; see `skipscope.spec.layers.Block`."""

    def __init__(self, block: Block, dtype: str) -> None:
        super().__init__()
        self.block = block
        self._layers = tuple(layer.site.rpartition(".")[2] for layer in block.layers)
        for name, layer in zip(self._layers, block.layers, strict=True):
            self.add_module(name, LayerModule(layer, dtype))
        self.shortcut = None if block.projection is None else LayerModule(block.projection, dtype)
        self.gain = _empty(dtype) if block.learned_gain else None
        missing = block.width - block.n_in
        first = missing // 2 if block.shortcut == "pad-both" else 0
        self._around = (0, 0, 0, 0, first, missing - first)  # of width, height and channels, as `pad` takes it
        self._stride = block.stride
        # What an activation gave, it keeps for its derivative: then the sum needs memory of its own.
        last = block.layers[-1]
        self._free = last.first == "norm" or last.activation == "linear"

    def forward(self, x: Tensor) -> Tensor:
        """What the block hands on for x."""
        branch = x
        for name in self._layers:
            branch = getattr(self, name)(branch)
        if self.gain is not None:
            branch = branch * self.gain
        if self.block.plain:
            total = branch if self.block.branch_gain == 1 else branch * self.block.branch_gain
        else:
            total = self._joined(x, branch)
        fresh = self._free or total is not branch
        return (_IN_PLACE if fresh else ACTIVATIONS)[self.block.activation](total)

    def _joined(self, x: Tensor, branch: Tensor) -> Tensor:
        gain_s, gain_b = self.block.shortcut_gain, self.block.branch_gain
        skip = self._skip(x)
        if gain_s == 0 or gain_b == 0:
            return _times(skip, gain_s) + _times(branch, gain_b)
        if gain_s != 1:
            skip = skip * gain_s
        if self._free and gain_b == 1:
            return branch.add_(skip)
        return torch.add(skip, branch, alpha=gain_b)

    def _skip(self, x: Tensor) -> Tensor:
        if self.shortcut is not None:
            skip: Tensor = self.shortcut(x)
            return skip
        if self.block.shortcut == "identity":
            return x
        # The mean of one pixel is the pixel: as `x[:, :, ::2, ::2]`, whose gradient would come with channels first.
        return functional.pad(functional.avg_pool2d(x, kernel_size=1, stride=self._stride), self._around)


def _times(x: Tensor, gain: float) -> Tensor:
    """x times its gain; what 0 leaves out gets a gradient of 0 and not none, for a step without one would spare it."""
    if gain == 0:
        return x.masked_fill(torch.ones((), dtype=torch.bool, device=x.device), 0.0)
    return x * gain


def _empty(dtype: str, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=getattr(torch, dtype)))
