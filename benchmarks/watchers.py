"""What others do to see the gradients of a training step, each as a function that is called after `backward()`.

Restated from where people copy them, so that nothing is sent anywhere: the forum's `plot_grad_flow`, a number a
parameter by `.item()`, a loop over hooks, the histograms of `wandb.watch(log="all")`. TorchLens and ormas-monitor are
called as their documentation says, where they are installed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

After = Callable[[nn.Module, torch.optim.Optimizer, Tensor], object]


def floor(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> object:
    """`torch._foreach_norm` of the gradients, once: less than that nobody can do."""
    return torch.stack(torch._foreach_norm([p.grad for p in model.parameters()])).tolist()


def item_by_item(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> object:
    return {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}


def plot_grad_flow(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> object:
    """Without its plot."""
    averages, largest = [], []
    for name, p in model.named_parameters():
        if p.requires_grad and "bias" not in name and p.grad is not None:
            averages.append(p.grad.abs().mean().cpu())
            largest.append(p.grad.abs().max().cpu())
    return averages, largest


def histograms(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> object:
    """As in `wandb.watch(log="all")`: of every parameter and gradient 64 bins over the range of what is finite."""
    found = []
    for p in model.parameters():
        for x in (p.detach(), p.grad):
            if x is None:
                continue
            flat = x.reshape(-1)
            flat = flat[~torch.isnan(flat)]
            flat = flat[~torch.isinf(flat)]
            low, high = flat.min().item(), flat.max().item()
            found.append((low, high, flat.histc(bins=64, min=low, max=high).cpu().clone()))
    return found


class HookLoop:
    """What one writes oneself to have the same numbers: norm, mean, what is not finite; of ReLUs what is dead."""

    def __init__(self, model: nn.Module, blocks: Callable[[nn.Module], bool]) -> None:
        self._found: list[Tensor] = []
        self._handles = [each.register_forward_hook(self._after) for each in model.modules() if blocks(each)]

    def _after(self, module: nn.Module, args: Any, output: Tensor) -> None:
        with torch.no_grad():
            self._found += [output.norm(), output.mean(), (~output.isfinite()).sum()]
            if isinstance(module, nn.ReLU):
                positive = output > 0
                self._found += [positive.sum(), (~positive.any(0)).float().mean()]
        output.register_hook(self._gradient)

    def _gradient(self, gradient: Tensor) -> None:
        self._found += [gradient.norm(), (~gradient.isfinite()).sum()]

    def numbers(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> object:
        for p in model.parameters():
            self._found += [p.detach().norm(), p.grad.norm()] if p.grad is not None else [p.detach().norm()]
        found = torch.stack([each.float() for each in self._found]).tolist()
        self._found.clear()
        return found

    def off(self) -> None:
        for handle in self._handles:
            handle.remove()


def ormas(model: nn.Module, optimizer: torch.optim.Optimizer) -> After | None:
    """ormas-monitor, checking every step; None where it is not installed."""
    if find_spec("ormas_monitor") is None:
        return None
    from ormas_monitor import Monitor

    place = tempfile.TemporaryDirectory()
    monitor = Monitor(model, optimizer, out=f"{place.name}/run", check_every=1, verbose=False)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> object:
        monitor.step(loss)
        return place  # which is there for as long as this function is

    return step


def torchlens() -> Callable[[nn.Module, Tensor], object] | None:
    """A trace of one forward pass by TorchLens, every operation with its output; None where it is not installed."""
    if find_spec("torchlens") is None:
        return None
    import torchlens

    return lambda model, x: torchlens.trace(model, x)
