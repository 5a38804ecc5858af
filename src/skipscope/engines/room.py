"""Memory that arrays take over from arrays that nobody holds any more.

Fresh pages from the system, step after step, would cost a fifth of a step of training. Nobody needs to say that an
array is done with: when the last reference to it, or to a view of it, is gone, its memory is free for the next array of
its size. Imports NumPy alone.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Room", "empty"]

_local = threading.local()


class Room:
    """Memory for arrays, kept for those to come as long as the room itself is."""

    def __init__(self) -> None:
        self._free: dict[int, list[memoryview]] = {}

    def empty(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """As `np.empty`."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        free = self._free.setdefault(size, [])
        block = free.pop() if free else np.empty(size, np.uint8).data
        # The memory is the view's, not an array's, so that NumPy lets all views of the array refer to the array.
        array = np.frombuffer(block, dtype)
        weakref.finalize(array, free.append, block).atexit = False
        return array.reshape(shape)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within the context `empty`, called from this thread, takes memory from here."""
        before = getattr(_local, "room", None)
        _local.room = self
        try:
            yield
        finally:
            _local.room = before


def empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """As `np.empty`; of the room that is used, if one is."""
    room: Room | None = getattr(_local, "room", None)
    return np.empty(shape, dtype) if room is None or 0 in shape else room.empty(shape, dtype)
