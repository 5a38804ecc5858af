"""Checkpoints: arrays by name, and notes about them, in one safetensors file, written whole or not at all.

Safetensors holds numbers and text and runs no code when it is read. A digest of arrays and notes tells a file that was
damaged after it was written. The same content gives the same bytes. Imports files and errors; safetensors is imported
where it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope import files
from skipscope.errors import InputError

__all__ = ["read", "write"]

_FORMAT = "skipscope checkpoint 1"


def write(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], notes: Mapping[str, Any]) -> None:
    """Write a checkpoint; one that is there is replaced.

    Args:
        path: where the file is to be.
        arrays: by name.
        notes: what JSON can hold.

    Raises:
        InputError: the operating system refuses.
    """
    from safetensors.numpy import save

    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    told = {"notes": notes, "digest": _digest(whole, notes)}
    # One entry: safetensors writes several in an order that differs from one run to the next.
    files.write_whole(path, save(whole, {_FORMAT: json.dumps(told, sort_keys=True)}))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays and the notes of a checkpoint.

    Raises:
        InputError: there is none, or it is damaged or something else.
    """
    from safetensors import SafetensorError, safe_open

    files.read_whole(path)  # says what is wrong with a path that cannot be read
    try:
        with safe_open(os.fspath(path), framework="np") as opened:
            told = opened.metadata() or {}
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no mapping
    except (SafetensorError, ValueError) as error:
        raise InputError(
            f"cannot read {str(path)!r}: it is not a whole safetensors file ({error}); delete it to begin anew."
        ) from None
    if _FORMAT not in told:
        raise InputError(
            f"cannot read {str(path)!r}: it is not a checkpoint of this version of skipscope; give another name."
        )
    notes: dict[str, Any] = _undamaged(path, arrays, told[_FORMAT])
    return arrays, notes


def _undamaged(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], told: str) -> Any:
    """The notes, if digest and content are of each other."""
    try:
        found = json.loads(told)
        notes, digest = found["notes"], found["digest"]
    except (ValueError, TypeError, KeyError):
        notes, digest = None, None
    if digest is None or digest != _digest(arrays, notes):
        raise InputError(f"cannot read {str(path)!r}: it was damaged after it was written; delete it to begin anew.")
    return notes


def _digest(arrays: Mapping[str, NDArray[Any]], notes: Any) -> str:
    """16 hexadecimal digits of names, shapes, numbers and notes."""
    found = hashlib.blake2b(json.dumps(notes, sort_keys=True).encode(), digest_size=8)
    for name in sorted(arrays):
        found.update(f"\0{name}\0{arrays[name].dtype.str}{arrays[name].shape}".encode("utf-8", "surrogatepass"))
        found.update(arrays[name].tobytes())
    return found.hexdigest()
