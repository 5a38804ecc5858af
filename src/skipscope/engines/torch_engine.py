"""The torch engine: a `Spec` and seeds become a `torch.nn.Module` with the numbers of the NumPy engine.

The weights are those that the NumPy engine draws (on a processor the very same memory), the forward pass is written
out once more in PyTorch, and the backward pass is autograd's: so that each engine is a check of the other. Arrays are
pushed to the observer as NumPy arrays. Every network of an ensemble runs by itself, in memory of its own, so that a
seed has the same bits alone and among others. `skipscope.testing.check_engine(build)` holds both together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skipscope.engines import numpy_engine
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.engines.ops import EPS
from skipscope.errors import InputError
from skipscope.protocol import Loss, Observer, Run, Site, ignore, wanted
from skipscope.spec import Block, Layer, Spec

__all__ = ["DenseModule", "TorchNetwork", "build"]

Tap = Callable[..., None]  # tap(site, role=tensor, ...)
Gains = Mapping[str, tuple[float, float]]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh, "linear": lambda x: x}


def _look_away(site: str, **roles: Tensor) -> None:
    pass


class DenseModule(nn.Module):
    """The networks of a spec, one for every seed, as a module; its parameters have the names of the NumPy engine's.

    Args:
        spec: of dense stages.
        arrays: the parameters by name, each with the leading axis s.
        gains: of the shortcut and the branch, by junction.
    """

    def __init__(self, spec: Spec, arrays: Mapping[str, Tensor], gains: Gains) -> None:
        super().__init__()
        self.spec = spec
        self.gains = dict(gains)
        for name, array in arrays.items():
            _register(self, name, nn.Parameter(array))

    def forward(self, x: Tensor) -> Tensor:
        """The outputs, of shape (s, b, n), for inputs of shape (s, b, n) or (b, n)."""
        count = len(self.get_parameter("stem.weight"))
        x = x.expand(count, *x.shape[-2:])
        return torch.stack([self.network(x[index], self.held(index)) for index in range(count)])

    def held(self, index: int) -> dict[str, Tensor]:
        """The parameters of one network, each in memory of its own: BLAS rounds by where an array begins."""
        return {name: parameter[index].clone() for name, parameter in self.named_parameters()}

    def network(self, x: Tensor, held: Mapping[str, Tensor], tap: Tap = _look_away) -> Tensor:
        """The output (b, n) of one network for the inputs (b, n); `tap` sees what is on the way."""
        spec = self.spec
        x = _layer(x, spec.stem_layer, held, tap)
        for block in spec.body:
            x = self._plain(x, block, held, tap) if block.plain else self._residual(x, block, held, tap)
        if spec.pre_activation:
            last = spec.stages[-1]
            x = _activated(x, "final", last.norm, last.activation, held, tap)
        return _layer(x, spec.head_layer, held, tap)

    def _plain(self, x: Tensor, block: Block, held: Mapping[str, Tensor], tap: Tap) -> Tensor:
        branch = _branch(x, block, held, tap)
        y = _ACTIVATIONS[block.activation](branch if block.branch_gain == 1 else branch * block.branch_gain)
        tap(block.site, activation=y)
        return y

    def _residual(self, x: Tensor, block: Block, held: Mapping[str, Tensor], tap: Tap) -> Tensor:
        # Two names of x, so that the gradients that come through either can be told apart.
        through_shortcut, through_branch = x.view_as(x), x.view_as(x)
        branch = _branch(through_branch, block, held, tap)
        if block.learned_gain:
            branch = branch * held[f"{block.site}.gain"]
        gain_s, gain_b = self.gains[block.site]
        skip, term = _scaled(through_shortcut, gain_s), _scaled(branch, gain_b)
        total = term if gain_s == 0 else skip if gain_b == 0 else skip + term
        y = _ACTIVATIONS[block.activation](total)
        tap(block.site, shortcut=skip, branch=term, total=total)
        tap(block.site, activation=y)
        tap(block.site, through_shortcut=through_shortcut, through_branch=through_branch)
        return y


def _register(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    *holders, last = name.split(".")
    for holder in holders:
        if holder not in module._modules:
            module.add_module(holder, nn.Module())
        module = module.get_submodule(holder)
    module.register_parameter(last, parameter)


def _scaled(x: Tensor, gain: float) -> Tensor:
    return x if gain == 1 else torch.zeros_like(x) if gain == 0 else x * gain


def _branch(x: Tensor, block: Block, held: Mapping[str, Tensor], tap: Tap) -> Tensor:
    for layer in block.layers:
        x = _layer(x, layer, held, tap)
    return x


def _layer(x: Tensor, layer: Layer, held: Mapping[str, Tensor], tap: Tap) -> Tensor:
    if layer.first == "affine":
        return _activated(_affine(x, layer.site, held), layer.site, layer.norm, layer.activation, held, tap)
    return _affine(_activated(x, layer.site, layer.norm, layer.activation, held, tap), layer.site, held)


def _affine(x: Tensor, site: str, held: Mapping[str, Tensor]) -> Tensor:
    y, bias = x @ held[f"{site}.weight"].T, held.get(f"{site}.bias")
    return y if bias is None else y + bias


def _activated(x: Tensor, site: str, norm: str, activation: str, held: Mapping[str, Tensor], tap: Tap) -> Tensor:
    if norm != "none":
        axis = -2 if norm == "batch" else -1
        mean = x.mean(dim=axis, keepdim=True)
        variance = (x - mean).square().mean(dim=axis, keepdim=True)
        if norm == "batch":
            tap(site, batch_mean=mean[0], batch_variance=variance[0])
        x = held[f"{site}.gamma"] * ((x - mean) / (variance + EPS).sqrt()) + held[f"{site}.beta"]
    y = _ACTIVATIONS[activation](x)
    tap(site, preactivation=x, activation=y)
    return y


class TorchNetwork:
    """An ensemble of the networks that `spec` describes, as the probe and the studies take one.

    Attributes:
        spec: what the network is.
        seeds: the seeds along the leading axis.
        sites: where it can be measured, in order of execution.
        module: the networks as a `torch.nn.Module`, to be trained or taken apart.
    """

    def __init__(self, drawn: NumpyNetwork, device: str | torch.device) -> None:
        self.spec, self.seeds = drawn.spec, drawn.seeds
        self.sites: tuple[Site, ...] = drawn.sites
        self._drawn = drawn
        arrays = {name: torch.from_numpy(array).to(device) for name, array in drawn.parameters.items()}
        self.module = DenseModule(drawn.spec, arrays, drawn.junction_gains)

    @property
    def parameters(self) -> Mapping[str, NDArray[np.floating[Any]]]:
        """The parameters by name as NumPy arrays; on a processor they share the module's memory."""
        return {name: parameter.detach().cpu().numpy() for name, parameter in self.module.named_parameters()}

    @property
    def edit(self) -> str:
        """What `gains` changes at this moment."""
        return self._drawn.edit

    def gains(
        self, *, shortcut: float = 1.0, branch: float = 1.0, at: str | Iterable[str] | None = None
    ) -> AbstractContextManager[None]:
        """Re-weight junctions, forward and backward; see `skipscope.protocol.Network.gains`.

        Raises:
            InputError: a gain is not a finite number, or `at` names no junction.
        """
        return self._drawn.gains(shortcut=shortcut, branch=branch, at=at)

    def run(self, batch: Any, loss: Loss | None = None, observe: Observer = ignore) -> Run:
        """One forward pass, and with a loss one backward pass; see `skipscope.protocol.Network.run`.

        The loss may also be any function of PyTorch, `loss(output, batch)`, that gives one number or one a seed.

        Raises:
            InputError: the batch or the loss does not fit the network.
        """
        self.module.gains = dict(self._drawn.junction_gains)
        inputs = self._drawn.inputs(batch)
        observe("input", activation=inputs)
        with torch.enable_grad():
            passes = [self._forward(own, index) for index, own in enumerate(inputs)]
            output = torch.stack([each.output for each in passes])
            _push(observe, [each.seen for each in passes])
            if loss is None:
                return Run(_host(output), None)
            value, sent = _sent_back(loss, output, batch)
        due = [key for key in passes[0].followed if _is_due(key, observe)]
        _push(observe, [each.gradients(own.clone(), due) for each, own in zip(passes, sent, strict=True)])
        return Run(_host(output), value)

    def _forward(self, inputs: NDArray[np.floating[Any]], index: int) -> _Pass:
        """One network's forward pass, followed by autograd."""
        device = next(self.module.parameters()).device
        x = torch.tensor(inputs, device=device, requires_grad=True)
        held = self.module.held(index)
        seen: list[tuple[str, dict[str, Tensor]]] = []
        output = self.module.network(x, held, lambda site, **roles: seen.append((site, roles)))
        taps = {(site, role): tensor for site, roles in seen for role, tensor in roles.items() if role in _FOLLOWED}
        own = {(name.rpartition(".")[0], name.rpartition(".")[2]): tensor for name, tensor in held.items()}
        pushed = [(site, {role: x for role, x in roles.items() if role not in _THROUGH}) for site, roles in seen]
        return _Pass(output, [each for each in pushed if each[1]], {("input", "activation"): x, **taps, **own})


_THROUGH = {"through_shortcut": "shortcut_grad", "through_branch": "branch_grad"}
_FOLLOWED = ("activation", "preactivation", *_THROUGH)
_PARAMETERS = ("weight", "bias", "gamma", "beta", "gain")


@dataclass(frozen=True, eq=False)
class _Pass:
    """One network's forward pass.

    Attributes:
        output: of shape (b, n).
        seen: what is pushed at once, in order: the site, and tensors by role.
        followed: (site, role) -> what can be differentiated by.
    """

    output: Tensor
    seen: list[tuple[str, dict[str, Tensor]]]
    followed: dict[tuple[str, str], Tensor]

    def gradients(self, sent: Tensor, due: Sequence[tuple[str, str]]) -> list[tuple[str, dict[str, Tensor]]]:
        """What is pushed on the way back, the last site first; a parameter comes with its gradient."""
        tensors = [self.followed[key] for key in due]
        if not tensors:
            return []
        found = torch.autograd.grad(self.output, tensors, grad_outputs=sent, allow_unused=True)
        roles: dict[tuple[str, str], dict[str, Tensor]] = {}
        for (site, role), x, gradient in zip(due, tensors, found, strict=True):
            sent_here: Tensor | None = gradient  # autograd gives None where nothing arrives
            together = role if role in _PARAMETERS else "through" if role in _THROUGH else "arrays"
            own = roles.setdefault((site, together), {role: x} if role in _PARAMETERS else {})
            own[_THROUGH.get(role, f"{role}_grad")] = torch.zeros_like(x) if sent_here is None else sent_here
        for (_, together), own in roles.items():
            if together == "through":
                own["total_grad"] = own["shortcut_grad"] + own["branch_grad"]
        return [(site, own) for (site, _), own in reversed(roles.items())]


def _is_due(key: tuple[str, str], observe: Observer) -> bool:
    site, role = key
    roles = wanted(observe, site)
    if role in _THROUGH:
        return bool({"shortcut_grad", "branch_grad", "total_grad"} & set(roles))
    return f"{role}_grad" in roles or (role in _PARAMETERS and role in roles)


def _push(observe: Observer, networks: Sequence[Sequence[tuple[str, dict[str, Tensor]]]]) -> None:
    """Push what every network has at a site together, with the leading axis s."""
    for together in zip(*networks, strict=True):
        site, roles = together[0]
        wants = wanted(observe, site)
        arrays = {
            role: np.stack([_host(own[role]) for _, own in together])
            for role in roles
            if role in wants or role.removesuffix("_grad") in _PARAMETERS
        }
        if arrays:
            observe(site, **arrays)


def _host(x: Tensor) -> NDArray[np.floating[Any]]:
    array: NDArray[np.floating[Any]] = x.detach().cpu().numpy()
    return array


def _sent_back(loss: Loss, output: Tensor, batch: Any) -> tuple[Any, Tensor]:
    """The loss, and its gradient by the output: the loss's own, or autograd's."""
    if callable(getattr(loss, "gradient", None)):
        value, dy = numpy_engine.sent_back(loss, _host(output), batch)
        return value, torch.tensor(dy, device=output.device)
    found = loss(output, batch)
    if not isinstance(found, Tensor) or not found.requires_grad:
        raise InputError(
            f"loss {loss!r} must give a tensor that autograd follows, or have a gradient(output, batch) beside it."
        )
    (sent,) = torch.autograd.grad(found.sum(), output, retain_graph=True)
    return np.broadcast_to(_host(found), len(output)), sent


def build(spec: Spec, *, seed: int | Iterable[int], device: str | torch.device = "cpu") -> TorchNetwork:
    """The network that `spec` describes, initialised from `seed`, on PyTorch; several seeds give an ensemble.

    Raises:
        InputError: the seeds are not whole numbers of at least 0, or one comes twice.
    """
    return TorchNetwork(numpy_engine.build(spec, seed=seed), device)
