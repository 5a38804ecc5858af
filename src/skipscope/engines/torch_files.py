"""Files that `torch.save` wrote, read without running code of theirs."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from skipscope.errors import InputError

__all__ = ["arrays_in", "saved"]


def saved(path: str | os.PathLike[str]) -> Any:
    """What is in the file: tensors, and what holds them.

    Raises:
        InputError: it is damaged, no such file, or holds objects that only code of somebody's could make.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a plain pickle, which is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"cannot read {str(path)!r}: {_refused(str(error))}") from None
    except _BROKEN:
        # What torch says of it helps nobody: "101", or nothing at all.
        raise InputError(f"cannot read {str(path)!r}: {_NEITHER}") from None


_BROKEN = SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError
"""What PyTorch raises of such files."""

_NEITHER = "it is neither a whole safetensors file nor one that torch.save wrote."


def _refused(reason: str) -> str:
    named = re.search(r"GLOBAL (\S+)", reason)
    if named is None:
        return _NEITHER
    return (
        f"it holds {named[1]}, and more than tensors is not loaded, since that would run code of the file; save "
        "model.state_dict() instead."
    )


def arrays_in(held: Any) -> dict[str, NDArray[Any]]:
    """The tensors by name, as arrays; bfloat16, which NumPy has not, as float32.

    Raises:
        InputError: one is of other numbers, or does not hold them one by one (sparse, quantised, on no device).
    """
    if not isinstance(held, Mapping):
        return {}
    tensors = {str(name): tensor.detach() for name, tensor in held.items() if isinstance(tensor, torch.Tensor)}
    return {name: _array_of(name, tensor) for name, tensor in tensors.items()}


def _array_of(name: str, tensor: torch.Tensor) -> NDArray[Any]:
    kind = str(tensor.dtype).removeprefix("torch.")
    is_count = not tensor.ndim and kind.startswith("int")  # of batches, as batch norm keeps it
    if not (kind in _FLOATS or is_count) or tensor.layout != torch.strided or tensor.is_meta:
        about = "on no device" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
        raise InputError(
            f"weights: {name!r} is a tensor of {kind} ({about}); it must be of dense floating-point numbers: save it "
            "as tensor.to_dense().float()."
        )
    return np.asarray((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).resolve_neg().numpy())


_FLOATS = ("float64", "float32", "float16", "bfloat16")
