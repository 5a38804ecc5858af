"""The torch engine: a `Spec` and seeds become a `torch.nn.Module` with the numbers of the NumPy engine.

The weights are those that the NumPy engine draws (on a processor the very same memory), the forward pass is written
out once more in PyTorch (see torch_parts.py), and the backward pass is autograd's: so that each engine is a check of
the other. Arrays are pushed to the observer as NumPy arrays. `skipscope.testing.check_engine(build)` holds both
together. To train one network as fast as PyTorch can, see `skipscope.engines.torch_module`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipscope import draws
from skipscope.engines import numpy_engine
from skipscope.engines.common import Junctions, inputs_of, parameters_of, running_of
from skipscope.engines.torch_devices import device_for
from skipscope.engines.torch_parts import EnsembleModule, Held
from skipscope.errors import InputError, require_type
from skipscope.protocol import Loss, Observer, Run, Site, ignore, sites_of, wanted
from skipscope.spec import Spec

__all__ = ["TorchNetwork", "build"]

Array = NDArray[np.floating[Any]]


class TorchNetwork:
    """An ensemble of the networks that `spec` describes, as the probe and the studies take one.

    A run takes batch normalisation's statistics from the batch, and moves no running averages: those are moved by a
    forward pass of `module` in training mode, as by any module of PyTorch.

    Attributes:
        spec: what the network is.
        seeds: the seeds along the leading axis.
        sites: where it can be measured, in order of execution.
        module: the networks as a `torch.nn.Module`, to be trained or taken apart.

    Args:
        spec: what the network is.
        seeds: the seeds along the leading axis.
        parameters: by name, each with the leading axis s; on a processor their memory becomes the module's.
        running: the running averages of batch normalisation, likewise; 0 and 1 if not given.
        device: see `skipscope.engines.torch_devices.device_for`.
    """

    def __init__(
        self,
        spec: Spec,
        seeds: tuple[int, ...],
        parameters: Mapping[str, Array],
        *,
        running: Mapping[str, Array] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.spec, self.seeds = spec, seeds
        self.sites: tuple[Site, ...] = sites_of(spec)
        self._device = device_for(device, dtype=spec.dtype)
        self._junctions = Junctions(spec)
        self._fixed = False
        averages = running_of(spec, len(seeds)) if running is None else running
        self.module = EnsembleModule(spec, self._sent(parameters), self._sent(averages), self._junctions.gains)

    def _sent(self, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array).to(self._device) for name, array in arrays.items()}

    @property
    def parameters(self) -> Mapping[str, Array]:
        """The parameters by name as NumPy arrays; on a processor they share the module's memory."""
        return {name: _host(parameter) for name, parameter in self.module.named_parameters()}

    @property
    def running(self) -> Mapping[str, Array]:
        """The running averages of batch normalisation, likewise."""
        return {name: _host(buffer) for name, buffer in self.module.named_buffers()}

    @property
    def arrays(self) -> dict[str, Array]:
        """The parameters and the running averages."""
        return {**self.parameters, **self.running}

    @property
    def edit(self) -> str:
        """What `gains` and `inference` change at this moment."""
        fixed = ["batch norm: running averages"] if self._fixed and self.running else []
        return "; ".join([each for each in (self._junctions.edit,) if each] + fixed)

    def gains(
        self, *, shortcut: float = 1.0, branch: float = 1.0, at: str | Iterable[str] | None = None
    ) -> AbstractContextManager[None]:
        """Re-weight junctions, forward and backward; see `skipscope.protocol.Network.gains`.

        Raises:
            InputError: a gain is not a finite number, or `at` names no junction.
        """
        return self._junctions.times(shortcut=shortcut, branch=branch, at=at)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Within the context batch normalisation takes its running averages in place of the batch's statistics."""
        before, self._fixed = self._fixed, True
        try:
            yield
        finally:
            self._fixed = before

    def run(self, batch: Any, loss: Loss | None = None, observe: Observer = ignore) -> Run:
        """One forward pass, and with a loss one backward pass; see `skipscope.protocol.Network.run`.

        The loss may also be any function of PyTorch, `loss(output, batch)`, that gives one number or one a seed.

        Raises:
            InputError: the batch or the loss does not fit the network.
        """
        self.module.gains = self._junctions.gains
        inputs = inputs_of(self.spec, len(self.seeds), batch, fixed=self._fixed)
        observe("input", activation=inputs)
        with torch.set_grad_enabled(loss is not None):  # nothing goes back without one, and so nothing is kept
            passes = [self._forward(own, index) for index, own in enumerate(inputs)]
            output = torch.stack([each.output for each in passes])
            _push(observe, [each.seen for each in passes])
            if loss is None:
                return Run(_host(output), None)
            value, sent = _sent_back(loss, output, batch)
        due = [key for key in passes[0].followed if _is_due(key, observe)]
        _push(observe, [each.gradients(own.clone(), due) for each, own in zip(passes, sent, strict=True)])
        return Run(_host(output), value)

    def _forward(self, inputs: Array, index: int) -> _Pass:
        """One network's forward pass, followed by autograd."""
        x = torch.tensor(inputs, device=self._device, requires_grad=True)
        seen: list[tuple[str, dict[str, Tensor]]] = []
        held = self.module.held(index)
        tapped = Held(held, lambda site, **roles: seen.append((site, roles)), fixed=self._fixed)
        output = self.module.network(x, tapped)
        taps = {(site, role): tensor for site, roles in seen for role, tensor in roles.items() if role in _FOLLOWED}
        named = {(name.rpartition(".")[0], name.rpartition(".")[2]): tensor for name, tensor in held.items()}
        own = {(site, role): tensor for (site, role), tensor in named.items() if role in _PARAMETERS}
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


def _host(x: Tensor) -> Array:
    array: Array = x.detach().cpu().numpy()
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
        InputError: the seeds are not whole numbers of at least 0, or one comes twice; or the device is not there.
    """
    require_type("spec", spec, Spec, "Spec.cifar(20) makes one")
    seeds = draws.require_seeds(seed)
    return TorchNetwork(spec, seeds, parameters_of(spec, seeds), device=device)
