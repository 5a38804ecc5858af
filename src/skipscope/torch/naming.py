"""A model, a batch and a loss as a command line can name them: `mypackage.models:make_model`, `8x3x224x224`, a file."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skipscope.errors import InputError, choose, quoted
from skipscope.torch.listening import tensors_of

__all__ = ["drawn", "model_of", "named", "parts", "stored"]

DTYPES = {
    name: getattr(torch, name) for name in ("float64", "float32", "float16", "bfloat16", "complex64", "int64", "int32")
}
"""What an input may be of, by name."""


def named(parameter: str, target: str) -> Any:
    """What `package.module:name` names; modules are looked for in the working directory too.

    Raises:
        InputError: there is no such thing; the message says what is missing.
    """
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise InputError(f"{parameter} must be package.module:name, e.g. mypackage.models:make_model; got {target!r}.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # the module is there, and what it imports is not
        raise InputError(f"{parameter} {target!r}: there is no module {error.name!r} here or installed.") from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            choose(f"{parameter} {target!r}: the name", part, [name for name in dir(found) if not name.startswith("_")])
        found = getattr(found, part)
    return found


def model_of(target: str, *, seed: int) -> nn.Module:
    """The module that a name stands for, or that the function or class of that name makes.

    Every random number is drawn after `torch.manual_seed(seed)`; a function that has a parameter `seed` gets it.

    Raises:
        InputError: there is no such name, or no module comes of it.
    """
    found = named("MODEL", target)
    torch.manual_seed(seed)
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise InputError(f"MODEL {target!r} must be a module or a function that makes one; got {quoted(found)}.")
        found = found(**_seed(target, found, seed))
    if not isinstance(found, nn.Module):
        raise InputError(f"MODEL {target!r} must make a torch.nn.Module; got {quoted(found)}.")
    return found


def _seed(target: str, function: Callable[..., Any], seed: int) -> dict[str, int]:
    """The arguments that a factory is called with: the seed, if it takes one."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # of some built-in classes nothing is known
        return {}
    given = {"seed": seed} if "seed" in signature.parameters else {}
    try:
        signature.bind(**given)
    except TypeError as error:
        raise InputError(
            f"MODEL {target!r} must be callable without arguments (or with a seed): {error}; name a function that is."
        ) from None
    return given


def drawn(shape: str, *, dtype: str, high: int | None, seed: int) -> Tensor:
    """An input of a shape such as `8x3x224x224`: standard normals, or whole numbers from 0 to `high - 1`.

    Raises:
        InputError: shape, dtype and `high` do not fit together.
    """
    choose("--input-dtype", dtype, DTYPES)
    try:
        sizes = [int(each) for each in shape.split("x")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise InputError(f"--input must be the sizes of a tensor, samples first, e.g. 8x3x224x224; got {shape!r}.")
    kind, generator = DTYPES[dtype], torch.Generator().manual_seed(seed)
    if kind.is_floating_point or kind.is_complex:
        if high is not None:
            raise InputError(f"--high {high} is of whole numbers, and --input-dtype is {dtype}: give int64.")
        wide = kind if kind.is_complex else torch.float64
        return torch.randn(sizes, generator=generator, dtype=wide).to(kind)
    if high is None or high < 1:
        raise InputError(
            f"--input-dtype {dtype} needs --high, one more than the largest number, e.g. the size of the vocabulary."
        )
    return torch.randint(high, sizes, generator=generator, dtype=kind)


def stored(path: Path) -> Any:
    """The batch in a file of safetensors: one tensor is the input, several are keyword arguments by their names.

    Beside them `target` is for the loss; with `input` alone it makes a pair.

    Raises:
        InputError: there is no such file, or it is something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"--batch {str(path)!r} cannot be read as safetensors: {reason}.") from None
    if not tensors:
        raise InputError(f"--batch {str(path)!r} holds no tensor.")
    target = tensors.pop("target") if len(tensors) > 1 and "target" in tensors else None
    alone = len(tensors) == 1 and (target is None or "input" in tensors)
    inputs = next(iter(tensors.values())) if alone else tensors
    return inputs if target is None else (inputs, target)


def parts(batch: Any, count: int) -> list[Any]:
    """A batch of `stored` in as many parts, by its samples.

    Raises:
        InputError: it has fewer samples.
    """
    sizes = {len(x) if x.ndim else 0 for _, x in tensors_of(batch, every=True)}
    if len(sizes) > 1 or min(sizes) < count:
        raise InputError(
            f"--batches {count} needs tensors of {count} samples at least, all of as many; the file's have "
            f"{', '.join(map(str, sorted(sizes)))}."
        )
    return [_part(batch, index, count) for index in range(count)]


def _part(batch: Any, index: int, count: int) -> Any:
    if isinstance(batch, tuple):
        return tuple(_part(each, index, count) for each in batch)
    if isinstance(batch, dict):
        return {name: _part(each, index, count) for name, each in batch.items()}
    return batch.tensor_split(count)[index]
