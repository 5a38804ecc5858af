"""Taking times in turn, and what becomes of them: ratios, with a bound beside them, as rows of a table."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True)
class Bound:
    """What a ratio should be: at least or at most a number."""

    at: float
    most: bool = True

    def verdict(self, value: float) -> str:
        """The bound in words, and whether `value` keeps it."""
        kept = value <= self.at if self.most else value >= self.at
        return f"{'at most' if self.most else 'at least'} {self.at:g}: {'met' if kept else '**missed**'}"


@dataclass(frozen=True)
class Row:
    """How much of something one thing takes in units of another, over repetitions in turn."""

    what: str
    against: str
    ratios: Sequence[float]
    bound: Bound | None = None

    def cells(self) -> list[str]:
        """The row of a table with the columns `COLUMNS`."""
        verdict = "" if self.bound is None else self.bound.verdict(statistics.median(self.ratios))
        return [self.what, self.against, spread(self.ratios), str(len(self.ratios)), verdict]


COLUMNS = ["of", "in units of", "median (smallest to largest)", "n", "bound"]


def spread(values: Sequence[float]) -> str:
    """The median, and between what the values lie."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def seconds(work: Work) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(works: Mapping[str, Work], *, n: int) -> dict[str, list[float]]:
    """Seconds of n calls of each, one after the other n times over, after one call that is not counted."""
    for work in works.values():
        work()
    rounds = [{name: seconds(work) for name, work in works.items()} for _ in range(n)]
    return {name: [each[name] for each in rounds] for name in works}


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The ratio of every round."""
    return [a / b for a, b in zip(above, below, strict=True)]


@contextmanager
def one_core() -> Iterator[None]:
    """Hold this process, and whatever threads it starts, to one core; where the system can (Linux)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
