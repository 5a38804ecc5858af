"""Running a step of somebody's model: what of a batch goes in, what is sent back, and the gradients that come of it.

How a batch is handed over: a tensor is the model's input; of a tuple or list the first entry is, and the rest is for
the loss; a mapping gives keyword arguments. Inputs that are several are a tuple inside the tuple: `((x, mask), y)`. The
loss is called as `loss(output, batch)`; a loss module of PyTorch as `loss(output, target)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader

from skipscope import draws
from skipscope.errors import InputError, quoted, require_function
from skipscope.probe import called, digest_of
from skipscope.torch.listening import tensors_of

__all__ = [
    "BY_LOSS",
    "Sent",
    "arguments",
    "data_of",
    "gradients",
    "require_answering",
    "require_followed",
    "require_loss",
    "sent_back",
    "trained",
]

BY_LOSS = "It was raised by loss, called as loss(output, batch) with the whole batch."
"""A note on whatever a loss raises, which is raised on as it is: who reads it knows that the model has run."""


def arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments of the model.

    Raises:
        InputError: it is nothing that a model could be given, or it is empty.
    """
    _require_seen(batch, "batch must be what the model is to see: a tensor, (inputs, targets)")
    inputs = batch
    if isinstance(batch, list | tuple) and not hasattr(batch, "_fields"):
        if not batch:
            raise InputError("batch is empty: give a tensor, or (inputs, targets).")
        inputs = batch[0]
        _require_seen(inputs, "batch: the inputs of (inputs, targets) must be a tensor, a tuple of several")
    if isinstance(inputs, Mapping) and (other := [name for name in inputs if not isinstance(name, str)]):
        raise InputError(f"batch: the names of keyword arguments must be texts; got {quoted(other[0])}.")
    args, kwargs = ((), dict(inputs)) if isinstance(inputs, Mapping) else (_positional(inputs), {})
    for path, x in tensors_of((args, kwargs), every=True):
        if x.is_nested:
            raise InputError(
                f"batch has a nested tensor as its input{path[3:]}, whose samples differ in shape: pad them to one."
            )
        if x.numel() == 0:
            raise InputError(
                f"batch is empty: its input{path[3:]} has the shape {tuple(x.shape)}; give 1 sample at least."
            )
    return args, kwargs


_NOTHING_TO_SEE = (int, float, complex, str, bytes, set, frozenset, np.ndarray, type(None))


def _require_seen(given: object, wanted: str) -> None:
    """Whether it is no number, text or the like, which no model sees alone, and no loader.

    Raises:
        InputError: it is.
    """
    if isinstance(given, DataLoader | Iterator):
        raise InputError(
            f"batch is a {type(given).__name__}, which holds several: give one of them, e.g. next(iter(loader))."
        )
    if isinstance(given, _NOTHING_TO_SEE):
        raise InputError(f"{wanted} or a mapping of keyword arguments; got {quoted(given)}.")


def _positional(inputs: Any) -> tuple[Any, ...]:
    return tuple(inputs) if isinstance(inputs, list | tuple) and not hasattr(inputs, "_fields") else (inputs,)


@dataclass(frozen=True)
class Sent:
    """What is differentiated: a scalar, or an output that is weighted by a cotangent."""

    value: Tensor
    weight: Tensor | None = None


def sent_back(
    output: Any, batch: Any, loss: Callable[[Any, Any], Any] | None, seeds: tuple[int, ...]
) -> tuple[Sent | None, str]:
    """What goes back through the model, None where nothing can; and in words.

    Args:
        seeds: of which the first draws the cotangent, where there is no loss.

    Raises:
        InputError: the loss cannot be called, is none of PyTorch, or gives no scalar.
    """
    if loss is not None:
        require_loss(loss)
        value = _loss_of(loss, output, batch)
        return Sent(value), called(loss)
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(own, Tensor) and own.requires_grad:
        return Sent(own.mean()), "the model's own loss"
    found = [(path, x) for path, x in tensors_of(output) if x.requires_grad]
    if not found:
        return None, ""
    y = found[0][1]
    v = torch.from_numpy(draws.normals(seeds[:1], "cotangent", tuple(y.shape))[0]).to(y.device, y.dtype)
    return Sent(y, v), f"gaussian, seed {seeds[0]}"


_LOSS = "lambda output, batch: torch.nn.functional.cross_entropy(output, batch[1])"


def require_loss(loss: object, parameter: str = "loss") -> None:
    """Whether it can be called as `loss(output, batch)`, and is of PyTorch; to be asked before a model is run.

    Args:
        loss: what was given as the loss.
        parameter: where it was given, for the message.

    Raises:
        InputError: it is not.
    """
    kind = loss if isinstance(loss, type) else type(loss)
    if kind.__module__.startswith("skipscope.losses"):
        raise InputError(
            f"{parameter} {quoted(loss)} is one of NumPy networks: of a module give a function of PyTorch, e.g. "
            f"{_LOSS}."
        )
    require_answering(parameter, loss, _LOSS)


def require_answering(parameter: str, function: object, example: str) -> None:
    """Whether a function, or a module, can be called with an output and its batch.

    Raises:
        InputError: it cannot.
    """
    # A module takes whatever comes, and hands it on to its `forward`.
    called_in_the_end = function.forward if isinstance(function, nn.Module) else function
    require_function(parameter, called_in_the_end, ("output", "batch"), example)


def _loss_of(loss: Callable[[Any, Any], Any], output: Any, batch: Any) -> Tensor:
    pair = isinstance(batch, list | tuple) and len(batch) == 2
    try:
        value = loss(output, batch[1]) if pair and isinstance(loss, nn.modules.loss._Loss) else loss(output, batch)
    except Exception as error:  # theirs may be any
        error.add_note(BY_LOSS)
        raise
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
        got = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else quoted(value)
        raise InputError(
            f"loss must give one real number, as a tensor that autograd follows, e.g. {_LOSS}; {called(loss)} gave "
            f"{got}."
        )
    return value


def require_followed(model: nn.Module, sent: Sent | None) -> None:
    """Whether a loss that was given has a gradient, where there is something to be trained.

    Raises:
        InputError: autograd does not follow it.
    """
    if sent is not None and not sent.value.requires_grad and any(True for _ in trained(model)):
        raise InputError(
            "loss gives a number that autograd does not follow back to the model: something in it, or in the model, "
            "cuts it off (detach, no_grad, .item(), argmax); take that out, or probe without a loss."
        )


def trained(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that are there to be trained, and have a shape."""
    for parameter in model.parameters():
        if parameter.requires_grad and not is_lazy(parameter):
            yield parameter


def gradients(
    model: nn.Module, sent: Sent | None, given: Any, *, unfollowed: bool
) -> list[tuple[nn.Parameter, Tensor | None]]:
    """The gradients of the parameters; on the way the hooks see those of the activations.

    Args:
        unfollowed: whether a part of the model was run without autograd.

    Raises:
        InputError: that part needs `backward()`, and there are hooks that would act on it.
    """
    parameters = list(trained(model))
    if sent is None or not sent.value.requires_grad:
        return [(parameter, None) for parameter in parameters]
    leaves: list[Tensor] = [*parameters]
    leaves += [x for _, x in tensors_of(given) if x.requires_grad and not any(x is each for each in parameters)]
    if unfollowed:
        return list(zip(parameters, _backward(sent, leaves)[: len(parameters)], strict=True))
    found = torch.autograd.grad(sent.value, leaves, grad_outputs=sent.weight, allow_unused=True)
    return list(zip(parameters, found, strict=False))


def _backward(sent: Sent, leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """By `backward()`, which parts that were run without autograd (reentrant checkpoints) need; `.grad` is put back."""
    hooked = [leaf for leaf in leaves if getattr(leaf, "_post_accumulate_grad_hooks", None)]
    if hooked:
        raise InputError(
            "the model has reentrant checkpoints, whose gradients need backward(), and hooks on its parameters that "
            "would act on it: use checkpoint(..., use_reentrant=False), or remove the hooks for the probe."
        )
    before = [leaf.grad for leaf in leaves]
    try:
        for leaf in leaves:
            leaf.grad = None
        torch.autograd.backward(sent.value, None if sent.weight is None else sent.weight)
        return [leaf.grad for leaf in leaves]
    finally:
        for leaf, gradient in zip(leaves, before, strict=True):
            leaf.grad = gradient


def data_of(given: Any) -> str:
    """What the model saw, in short; what is on another device is not brought here to be read."""
    arrays = [x.detach() for _, x in tensors_of(given, every=True)]
    if not arrays or any(x.device.type != "cpu" or x.layout != torch.strided for x in arrays):
        return "given"
    bytes_of = [np.array([str(x.dtype), str(tuple(x.shape))]) for x in arrays]
    bytes_of += [x.contiguous().reshape(-1).view(torch.uint8).numpy() for x in arrays]
    return f"given, {digest_of(*bytes_of)}"
