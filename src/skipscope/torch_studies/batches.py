"""What studies of a model share: one batch or several, the loss of a batch, a model that is given back as it was."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skipscope.errors import InputError, quoted, require_function
from skipscope.probe import called
from skipscope.torch.junctions import Junctions, junctions
from skipscope.torch.keeping import kept
from skipscope.torch.steps import arguments, require_answering, require_loss, sent_back

__all__ = [
    "Loss",
    "each_batch",
    "in_inference",
    "loss_of",
    "named_loss",
    "optimizer_of",
    "require_functions",
    "reseed",
    "samples_of",
    "shortcuts_of",
]

Loss = Callable[[Any, Any], Any]
"""`loss(output, batch)`, as `skipscope.probe` takes it."""


def require_functions(
    *,
    loss: object = None,
    accuracy: object = None,
    optimizer: object = None,
    progress: object = None,
) -> None:
    """Whether the functions that a study was given can be called; to be asked before a model is run.

    Raises:
        InputError: one cannot.
    """
    if loss is not None:
        require_loss(loss)
    if accuracy is not None:
        require_answering("accuracy", accuracy, "lambda output, batch: output.argmax(1) == batch[1]")
    if optimizer is not None:
        require_function("optimizer", optimizer, ("parameters",), _OPTIMIZER, makes=True)
    if progress is not None:
        require_function("progress", progress, ("done", "all"), "lambda done, all: print(done, all)")


_OPTIMIZER = "lambda parameters: torch.optim.Adam(parameters, lr=0.001)"


def optimizer_of(
    made: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer], parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimizer that a function makes of the parameters.

    Raises:
        InputError: it makes none, or one that cannot step by itself.
    """
    found: Any = made(parameters)
    able = all(callable(getattr(found, name, None)) for name in ("step", "zero_grad"))
    if not able or not hasattr(found, "param_groups") or isinstance(found, type):
        raise InputError(f"optimizer must make an optimizer of PyTorch, e.g. {_OPTIMIZER}; got {quoted(found)}.")
    try:
        inspect.signature(found.step).bind()
    except TypeError as error:
        raise InputError(
            f"optimizer makes a {type(found).__name__}, whose step needs more than gradients ({error}): give one that "
            f"does not, e.g. {_OPTIMIZER}."
        ) from None
    optimizer: torch.optim.Optimizer = found
    return optimizer


def each_batch(batches: Any) -> Iterator[Any]:
    """The batches, one by one.

    A tensor, a tuple, a mapping and a list of tensors are one batch, as `skipscope.probe` takes it: a loader of PyTorch
    hands on `[inputs, targets]`. Whatever else can be gone through holds several: a loader, a list of batches.

    Raises:
        InputError: there is none.
    """
    several = isinstance(batches, Iterable) and not isinstance(batches, Tensor | tuple | Mapping | str | np.ndarray)
    if isinstance(batches, list) and batches and all(isinstance(each, Tensor) for each in batches):
        several = False
    found = False
    for batch in batches if several else (batches,):
        arguments(batch)  # says what is wrong with it
        found = True
        yield batch
    if not found:
        raise InputError("batches is empty: give one batch, a list of batches or a loader that has some.")


def samples_of(batch: Any) -> int:
    """How many samples a batch has: the first size of the first tensor that goes in."""
    args, kwargs = arguments(batch)
    first = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.ndim), None)
    return 0 if first is None else len(first)


def loss_of(output: Any, batch: Any, loss: Loss | None) -> Tensor:
    """The loss of a batch; without one, the model's own.

    Raises:
        InputError: there is none, or it gives no scalar.
    """
    if loss is not None:
        sent, _ = sent_back(output, batch, loss, (0,))
        assert sent is not None  # a loss was given
        return sent.value
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if not isinstance(own, Tensor):
        raise InputError(
            "loss is missing, and what the model gives has no .loss of its own: give loss, e.g. "
            "lambda output, batch: torch.nn.functional.cross_entropy(output, batch[1])."
        )
    return own.mean()


def named_loss(loss: Loss | None) -> str:
    """The loss in words."""
    return "the model's own loss" if loss is None else called(loss)


def shortcuts_of(model: nn.Module, batch: Any) -> Junctions:
    """The junctions of a model.

    Raises:
        InputError: it has none.
    """
    found = junctions(model, batch)
    if not len(found):
        raise InputError(
            f"model: this {type(model).__name__} adds no shortcut that was found ({found.note}), so there is none to "
            "turn; skipscope.torch.junctions(model, batch) says what it has."
        )
    return found


def reseed(*entropy: int) -> None:
    """Seed PyTorch's generators, for what is done next, by several numbers."""
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))


@contextmanager
def in_inference(model: nn.Module) -> Iterator[None]:
    """Within the context the model is in evaluation mode, without gradients; after it, module by module as it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        with kept(model), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode
