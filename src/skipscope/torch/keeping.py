"""A model is given back as it was: what a run may change is put back, and what cannot be run is refused beforehand."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from skipscope.errors import InputError, quoted

__all__ = ["compiled", "eager", "kept", "only_module", "random_state", "restore_random_state", "unwrapped"]

_PARALLEL = {
    "DataParallel": "its replicas run in threads, on copies of the model",
    "DistributedDataParallel": "its gradients are summed over processes",
    "FullyShardedDataParallel": "its parameters are spread over processes",
    "FSDPModule": "its parameters are spread over processes",
}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model that `torch.compile` was given; others as they are."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def compiled(model: nn.Module) -> bool:
    """Whether the model or a part of it is compiled."""
    return any(
        type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


@contextmanager
def eager() -> Iterator[None]:
    """Within the context what was compiled runs as written, hook by hook."""
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nothing was compiled, and its import takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def only_module(model: object) -> nn.Module:
    """The model, if it is one that one process can run; a compiled one as it is written.

    Raises:
        InputError: it is something else.
    """
    if isinstance(model, type):
        raise InputError(f"model must be a torch.nn.Module; got the class {model.__name__}: give one that it makes.")
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module; got {quoted(model)}.")
    _require_plain(model)
    return unwrapped(model)


def _require_plain(model: nn.Module) -> None:
    """Whether one process can run the model and see all of it.

    Raises:
        InputError: it is spread over devices or processes, or a part of it is a script.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            where = f"model.{name}" if name else "model"
            raise InputError(
                f"{where} is compiled to a script (TorchScript), whose inside cannot be seen: give the module."
            )
        for kind in type(module).__mro__:
            if kind.__name__ in _PARALLEL:
                where = f"model.{name}" if name else "model"
                raise InputError(
                    f"{where} is a {kind.__name__}: {_PARALLEL[kind.__name__]}. Give the model that it wraps, "
                    f"{where}.module."
                )
    for name, parameter in model.named_parameters():
        if type(parameter.data).__name__ == "DTensor" or type(parameter).__name__ == "DTensor":
            raise InputError(
                f"parameter {name!r} is a DTensor, spread over processes: probe the model before sharding."
            )


def random_state(model: nn.Module) -> dict[str, Any]:
    """The state of every generator that a forward pass may draw from."""
    devices = sorted({tensor.device.index or 0 for tensor in _tensors(model) if tensor.device.type == "cuda"})
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "cuda": {index: torch.cuda.get_rng_state(index) for index in devices},
        "python": random.getstate(),
        "numpy": np.random.get_state(),
    }
    if any(tensor.device.type == "mps" for tensor in _tensors(model)):
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Put it back."""
    torch.set_rng_state(state["torch"])
    for index, each in state["cuda"].items():
        torch.cuda.set_rng_state(each, index)
    if "mps" in state:
        torch.mps.set_rng_state(state["mps"])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """After the context buffers and random states are what they were before, whatever was raised.

    What a model's first forward makes stays: parameters and buffers of lazy modules. What their initialisation drew is
    drawn again, by whatever draws next.
    """
    state = random_state(model)
    buffers = [(module._buffers, dict(module._buffers)) for module in model.modules() if not _is_lazy(module)]
    copies = [(x, x.detach().clone()) for _, own in buffers for x in own.values() if x is not None]
    try:
        yield
    finally:
        restore_random_state(state)
        for now, before in buffers:
            now.update(before)
        for x, copy in copies:
            # By way of `.data`, which does not count as a change: a graph of the user's may hold the buffer.
            with torch.inference_mode(x.is_inference()):
                x.data.copy_(copy)


def _is_lazy(module: nn.Module) -> bool:
    """Whether the module is given its shapes by its first forward."""
    return any(is_lazy(x) for own in (module._parameters, module._buffers) for x in own.values() if x is not None)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    for tensor in (*model.parameters(), *model.buffers()):
        if not is_lazy(tensor):
            yield tensor
