"""Checkpoints: arrays by name, and notes about them, in one safetensors file, written whole or not at all.

Safetensors holds numbers and text and runs no code when it is read. Imports files and errors; safetensors is imported
where it is used.
"""

from __future__ import annotations

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

    told = {"format": _FORMAT, "notes": json.dumps(notes, sort_keys=True)}
    files.write_whole(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, told))


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
    if told.get("format") != _FORMAT:
        raise InputError(
            f"cannot read {str(path)!r}: it is not a checkpoint of this version of skipscope "
            f"({told.get('format', 'no format is named')!r}); give another name."
        )
    notes: dict[str, Any] = json.loads(told["notes"])
    return arrays, notes
