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
from skipscope.errors import InputError, quoted, require_type

__all__ = ["read", "write"]

_FORMAT = "skipscope checkpoint 1"


def write(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], notes: Mapping[str, Any]) -> None:
    """Write a checkpoint; one that is there is replaced.

    Args:
        path: where the file is to be.
        arrays: by name.
        notes: what JSON can hold.

    Raises:
        InputError: something is not as above, or the operating system refuses.
    """
    from safetensors.numpy import save

    require_type("arrays", arrays, Mapping, "arrays by name, such as {'weight': w}")
    require_type("notes", notes, Mapping, "what JSON can hold, by name")
    whole = {name: _array(name, array) for name, array in arrays.items()}
    try:
        told = json.dumps({"notes": notes, "digest": _digest(whole, notes)}, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise InputError(f"notes must be what JSON can hold: {error}; leave it out, or write it as text.") from None
    # One entry: safetensors writes several in an order that differs from one run to the next.
    files.write_whole(path, save(whole, {_FORMAT: told}))


def _array(name: object, array: object) -> NDArray[Any]:
    """Numbers as they are written."""
    found = np.asarray(array, order="C") if isinstance(array, np.ndarray | np.generic) else None
    if found is None or found.dtype.kind not in "biuf" or not isinstance(name, str):
        raise InputError(f"arrays must be NumPy arrays of numbers by name; got {quoted(name)}: {quoted(array)}.")
    return found


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
