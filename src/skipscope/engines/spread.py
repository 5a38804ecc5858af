"""Work spread over threads, with the same bits for any number of them.

NumPy lets go of Python's lock while it computes, so that threads do use several cores. What the units of work are is
the caller's choice and must not depend on the number of threads; results come back in the order of the units, and
who adds them up in that order gets the same sum every time. BLAS should be at one thread meanwhile. Imports the
standard library alone, and threadpoolctl when BLAS is held to a thread.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any, TypeVar

__all__ = ["kept_for_thread", "one_thread", "spread", "threads"]

Unit = TypeVar("Unit")
Result = TypeVar("Result")
Made = TypeVar("Made")

_local = threading.local()
_KEPT = 128  # objects a thread; a network of any depth has few different shapes


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Within the context `spread`, called from this thread, uses so many threads in place of one for every core."""
    before = getattr(_local, "threads", None)
    _local.threads = number
    try:
        yield
    finally:
        _local.threads = before


def spread(work: Callable[[Unit], Result], units: Sequence[Unit]) -> list[Result]:
    """`work` of every unit, in the order of the units; the caller's thread takes its share.

    What `work` raises is raised here, after the other threads have come to their ends.
    """
    hands = min(getattr(_local, "threads", None) or _cores(), len(units))
    if hands < 2:
        return [work(unit) for unit in units]
    found: dict[int, Result] = {}
    left = list(reversed(range(len(units))))

    def take() -> None:
        while True:
            try:
                index = left.pop()  # atomic, so that no unit is taken twice
            except IndexError:
                return
            found[index] = work(units[index])

    others = [_pool(hands - 1, os.getpid()).submit(take) for _ in range(hands - 1)]
    try:
        take()
    finally:
        for other in others:
            other.result()
    return [found[index] for index in range(len(units))]


@contextmanager
def one_thread() -> Iterator[None]:
    """One BLAS thread: with several, how a sum is split, and so its last bit, depends on the machine."""
    if getattr(_local, "alone", False):  # to ask for it again takes a tenth of a millisecond
        yield
        return
    _local.alone = True
    try:
        with _thread_pools(len(sys.modules)).limit(limits=1, user_api="blas"):
            yield
    finally:
        _local.alone = False


@lru_cache(maxsize=1)
def _thread_pools(modules: int) -> Any:
    """The libraries with threads, looked for again (which takes a millisecond) when modules have been imported."""
    from threadpoolctl import ThreadpoolController  # not at import, which `skipscope --help` pays for

    return ThreadpoolController()


@cache
def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool(size: int, process: int) -> ThreadPoolExecutor:
    """Threads that wait for work; by process, since a fork takes the pool along but not its threads."""
    return ThreadPoolExecutor(size, thread_name_prefix="skipscope")


def kept_for_thread(make: Callable[..., Made], *key: Any) -> Made:
    """`make(*key)`, the same object for the same key on the same thread: room to work in without asking for it anew.

    What lies in it from the last time is still there.
    """
    known: dict[Any, Any] = _local.__dict__.setdefault("known", {})
    found: Made | None = known.get((make, key))
    if found is None:
        if len(known) >= _KEPT:
            known.pop(next(iter(known)))
        found = known[make, key] = make(*key)
    return found
