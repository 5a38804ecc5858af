"""In which order samples are shown, as a function of seed and step alone, and which of them are held out.

An epoch is a permutation of the samples, a function of seed and epoch. Epochs follow on each other without a gap, and
mini-batch k is what stands at k b to (k + 1) b in this sequence: all are of b samples, none is dropped at an epoch's
end, and a mini-batch across the end of an epoch has its first samples from the one and its last from the next (so it
alone may hold a sample twice). Networks of the same seed are shown the same mini-batches, whatever they look like.
Imports the generators of seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from skipscope.draws import are_several, require_seeds, stream
from skipscope.errors import InputError, require_int

__all__ = ["batch", "batches", "order"]

Indices = NDArray[np.int64]

_MOST = 1 << 28  # samples: an order of 2 GiB


def order(seeds: int | Iterable[int], epoch: int, samples: int) -> Indices:
    """In which order an epoch goes through the samples: a permutation of 0 to `samples - 1`.

    Args:
        seeds: a seed, for shape (samples,); or several, for shape (s, samples).
        epoch: which, from 0.
        samples: how many there are.

    Raises:
        InputError: a number is out of range.
    """
    several, known = are_several(seeds), require_seeds(seeds)
    passed, count = require_int("epoch", epoch, least=0), _require_samples(samples)
    stacked = np.stack([stream(seed, "order", passed).permutation(count) for seed in known])
    return stacked if several else stacked[0]


def batch(seeds: int | Iterable[int], step: int, *, samples: int, size: int) -> Indices:
    """The samples of one step: those of `batches`, without the steps before.

    Args:
        seeds: a seed, for shape (b,); or several, for shape (s, b).
        step: which, from 0.
        samples: how many there are.
        size: of the mini-batch, b.

    Raises:
        InputError: a number is out of range, or `size` above `samples`.
    """
    return next(batches(seeds, samples=samples, size=size, start=step))


def batches(seeds: int | Iterable[int], *, samples: int, size: int, start: int = 0) -> Iterator[Indices]:
    """The samples of step `start`, of the next step, and so on without end.

    An epoch is `samples / size` steps, not always a whole number: mini-batches run on across its end.

    Args:
        seeds: a seed, for mini-batches of shape (b,); or several, for shape (s, b).
        samples: how many there are.
        size: of the mini-batch, b.
        start: the first step.

    Raises:
        InputError: a number is out of range, or `size` above `samples`.
    """
    several = are_several(seeds)
    known = require_seeds(seeds)
    count, taken = _require_samples(samples), require_int("size", size, least=1)
    if taken > count:
        raise InputError(f"size={taken} is more than there are samples, {count}: use a smaller mini-batch.")
    found = _batches(known, count, taken, require_int("step", start, least=0))
    return found if several else (each[0] for each in found)


def _batches(seeds: tuple[int, ...], samples: int, size: int, start: int) -> Iterator[Indices]:
    epoch, gone = divmod(start * size, samples)
    left = order(seeds, epoch, samples)[:, gone:]
    while True:
        if left.shape[1] < size:
            epoch += 1
            left = np.concatenate([left, order(seeds, epoch, samples)], axis=1)
        yield left[:, :size].copy()
        left = left[:, size:]


def _require_samples(samples: int) -> int:
    if (count := require_int("samples", samples, least=1)) > _MOST:
        raise InputError(f"samples must be at most {_MOST:,}, whose order can be held in memory; got {count}.")
    return count


def stratified(labels: Indices, size: int) -> NDArray[np.bool_]:
    """Which of `labels` to take for `size` in all: the first of every class, in proportion to the class.

    Proportions are rounded to whole samples by the largest remainders (ties to the lower label).
    """
    exact = np.bincount(labels) * size / len(labels)
    quota = np.floor(exact).astype(np.int64)
    most_lost = np.argsort(quota - exact, kind="stable")
    quota[most_lost[: size - quota.sum()]] += 1
    taken = np.zeros(len(labels), bool)
    for label, count in enumerate(quota):
        taken[np.flatnonzero(labels == label)[:count]] = True
    return taken
