"""Images by hand: how they lie in memory, batch normalisation over them, and the activation.

Where networks are looked at, images are (s, b, c, h, w); while they run, they lie as `laid_out` puts them: rows
first, channels last, with a border of zeros, (s, h + 2, b, w + 1, c). Then

- a row of all images is one run of memory, so that whatever works entry by entry is a few long loops, and a 1x1
  convolution is one matrix product with pixels for rows;
- the three neighbours of a pixel along its row are one run too, of 3 c numbers, so that a convolution along rows needs
  no copies: see skipscope.engines.winograd. One column of zeros is the right border of a row and the left border of
  the next.

Every function takes and gives this layout, and leaves the border zero. No operation mixes networks, and what is summed
up in one piece depends on the images alone, neither on the number of networks nor of threads, so that a network gives
the same bits alone and in an ensemble. Where `out` is given, blank images of the right shape, the result is written
there; a network that runs many times saves the time that fresh memory takes. Notation as in skipscope.engines.ops.
Imports ops, room and spread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skipscope.engines.ops import EPS
from skipscope.engines.room import empty
from skipscope.engines.spread import kept_for_thread, spread

__all__ = [
    "NormalisedImages",
    "Unit",
    "added",
    "as_observed",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_jvp",
    "blank",
    "blank_like",
    "fixed_norm",
    "fixed_norm_backward",
    "fixed_norm_jvp",
    "inside",
    "laid_out",
    "relu",
    "relu_backward",
    "relu_jvp",
    "units_of",
]

Array = NDArray[np.floating[Any]]

BLOCK = 32  # images that are worked on together
UNIT = 1 << 18  # numbers in a unit of work, about: more miss the cache, fewer make calls that wait for Python's lock


# ------------------------------------------------------------------------------------------------------- layout


def blank(shape: tuple[int, int, int, int, int], dtype: Any) -> Array:
    """Images (s, h, b, w, c) yet to be written, laid out as (s, h + 2, b, w + 1, c): the border alone is set, to 0."""
    s, h, b, w, c = shape
    out: Array = empty((s, h + 2, b, w + 1, c), dtype)
    out[:, 0] = 0
    out[:, -1] = 0
    out[:, :, :, -1] = 0
    return out


def blank_like(x: Array, channels: int | None = None) -> Array:
    """Blank images of the number and the size of x, with other channels if told."""
    s, h, b, w, c = x.shape
    return blank((s, h - 2, b, w - 1, channels or c), x.dtype)


def laid_out(x: Array) -> Array:
    """Images (s, b, c, h, w) in the layout of this module."""
    s, b, c, h, w = x.shape
    out = blank((s, h, b, w, c), x.dtype)
    inside(out)[...] = x.transpose(0, 3, 1, 4, 2)
    return out


def as_observed(x: Array) -> Array:
    """Images in the layout of this module as (s, b, c, h, w); a view."""
    return inside(x).transpose(0, 2, 4, 1, 3)


def inside(x: Array) -> Array:
    """The images without their border, (s, h, b, w, c); a view."""
    return x[:, 1:-1, :, :-1]


class Unit(NamedTuple):
    """A piece of work: some rows (the border is not counted) of some images of one network."""

    seed: int
    rows: slice
    images: slice

    @property
    def size(self) -> tuple[int, int]:
        """Its number of rows, and of images."""
        return self.rows.stop - self.rows.start, self.images.stop - self.images.start

    def of(self, x: Array) -> Array:
        """The unit's part of x, (rows, all numbers in a row of the images); a view."""
        part = x[self.seed, 1:-1][self.rows, self.images]
        return part.reshape(part.shape[0], -1)


def units_of(shape: tuple[int, ...], *, tile: int = 1, unit: int = UNIT) -> list[Unit]:
    """The work on images of the shape (s, h + 2, b, w + 1, c), in units of about so many numbers, of whole tiles."""
    s, h, b, w, c = shape
    found = []
    for start in range(0, b, BLOCK):
        size = min(BLOCK, b - start)
        step = max(1, unit // (size * w * c * tile)) * tile
        for row in range(0, h - 2, step):
            found.append((slice(row, min(h - 2, row + step)), slice(start, start + size)))
    return [Unit(seed, *each) for seed in range(s) for each in found]


# --------------------------------------------------------------------------------------------------- activation
#
# As in skipscope.engines.ops: relu's derivative is 1 where y > 0 and 0 elsewhere.


def relu(x: Array, out: Array | None = None) -> Array:
    """y = max(0, x)."""
    y = empty(x.shape, x.dtype) if out is None else out
    _entry_by_entry(_rectified, x, y)
    return y


def relu_backward(dy: Array, y: Array, *, plus: Array | None = None, out: Array | None = None) -> Array:
    """dx = dy where y > 0, else 0; of dy + plus where two paths come back."""
    dx = empty(dy.shape, dy.dtype) if out is None else out
    if plus is None:
        _entry_by_entry(_masked, dy, y, dx)
    else:
        _entry_by_entry(_masked_sum, dy, plus, y, dx)
    return dx


def relu_jvp(tx: Array, y: Array) -> Array:
    """ty = tx where y > 0, else 0."""
    return relu_backward(tx, y)


def added(x: Array, y: Array, out: Array | None = None) -> Array:
    """x + y, where two paths meet."""
    total = empty(x.shape, x.dtype) if out is None else out
    _entry_by_entry(_sum, x, y, total)
    return total


def _entry_by_entry(work: Callable[..., None], *arrays: Array) -> None:
    flat = [each.reshape(-1) for each in arrays]
    spread(lambda start: work(*(each[start : start + UNIT] for each in flat)), range(0, flat[0].size, UNIT))


def _sum(x: Array, y: Array, out: Array) -> None:
    np.add(x, y, out=out)


def _rectified(x: Array, out: Array) -> None:
    # Against a number NumPy compares entry by entry, against an array of zeros a vector register at a time.
    np.maximum(x, kept_for_thread(np.zeros, x.shape, x.dtype), out=out)


def _masked(dy: Array, y: Array, out: Array) -> None:
    # y >= 0 is positive where its bits are, read as a whole number (those of -0 are negative); minus that has the sign
    # bit set, which a shift to the right spreads over all bits. Faster than a product with truth values, which NumPy
    # converts in pieces, and 0 where y is, whatever dy is.
    whole: Any = np.dtype(f"i{dy.itemsize}")
    mask: NDArray[Any] = kept_for_thread(np.empty, dy.shape, whole)
    np.maximum(y.view(whole), kept_for_thread(np.zeros, dy.shape, whole), out=mask)
    np.negative(mask, out=mask)
    np.right_shift(mask, 8 * dy.itemsize - 1, out=mask)
    np.bitwise_and(mask, dy.view(whole), out=out.view(whole))


def _masked_sum(dy: Array, plus: Array, y: Array, out: Array) -> None:
    np.add(dy, plus, out=out)
    _masked(out, y, out)


# ------------------------------------------------------------------------------------------------ normalisation
#
# z = (x - m) r, y = gamma z + beta, with m and r = 1/sqrt(v + eps) of a channel over the n = b h w pixels of images.
# The derivation stands in skipscope.engines.ops; with g the gradient by y, and sums over pixels,
#   dbeta = sum g,   dgamma = sum g z = r sum g (x - m),
#   dx = gamma r (g - mean(g) - z mean(g z)) = A g + B x + C,
#   A = gamma r,   B = -A r dgamma/n,   C = -A dbeta/n - B m,
# numbers of a channel: two passes, one for the sums and one for dx. Forwards likewise, y = A x + (beta - A m). With a
# fixed mean and variance B = C = 0. dy -> dx is symmetric, gamma being one number for all pixels, so that ty is to tx
# what dx is to dy.
# The variance is that of the units of work and of their means (Chan, Golub and LeVeque 1979), all of it around the mean
# of the first row of the first image: a difference of large squares only where that is no guide to the rest.


class NormalisedImages(NamedTuple):
    """What the backward pass needs: the input x, and of every channel the mean, the variance and r, (s, c)."""

    x: Array
    mean: Array
    variance: Array
    r: Array


def batch_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    *,
    shortcut: Array | None = None,
    rectified: bool = False,
    out: Array | None = None,
) -> tuple[Array, NormalisedImages]:
    """Normalise every channel over all pixels of the batch, then scale and shift it; gamma and beta are (s, c).

    In the same pass over memory, if told, adds a shortcut, and takes max(0, .) of it all.
    """
    return fixed_norm(x, gamma, beta, *_moments(x), shortcut=shortcut, rectified=rectified, out=out)


def fixed_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    mean: Array,
    variance: Array,
    *,
    shortcut: Array | None = None,
    rectified: bool = False,
    out: Array | None = None,
) -> tuple[Array, NormalisedImages]:
    """`batch_norm` by a mean and a variance (s, c) that are given."""
    r = 1 / np.sqrt(variance + x.dtype.type(EPS))
    slope = gamma * r
    slopes, offsets = _in_rows(slope, x), _in_rows(beta - slope * mean, x)
    y = blank_like(x) if out is None else out

    def work(unit: Unit) -> None:
        to = unit.of(y)
        np.multiply(unit.of(x), slopes[unit.seed, : to.shape[1]], out=to)
        np.add(to, offsets[unit.seed, : to.shape[1]], out=to)
        if shortcut is not None:
            np.add(to, unit.of(shortcut), out=to)
        if rectified:
            _rectified(to, to)

    spread(work, units_of(x.shape))
    return y, NormalisedImages(x, mean, variance, r)


def batch_norm_backward(
    dy: Array, gamma: Array, kept: NormalisedImages, *, out: Array | None = None
) -> tuple[Array, Array, Array]:
    """The gradients (dx, dgamma, dbeta) of `batch_norm` before a shortcut is added and anything rectified."""
    dgamma, dbeta = _norm_sums(dy, kept)
    n = (dy.shape[1] - 2) * dy.shape[2] * (dy.shape[3] - 1)
    slope = gamma * kept.r
    by_x = -slope * kept.r * dgamma / n
    offset = -slope * dbeta / n - by_x * kept.mean
    slopes, by_xs, offsets = _in_rows(slope, dy), _in_rows(by_x, dy), _in_rows(offset, dy)
    dx = blank_like(dy) if out is None else out

    def work(unit: Unit) -> None:
        to = unit.of(dx)
        rest = kept_for_thread(np.empty, to.shape, to.dtype)
        np.multiply(unit.of(kept.x), by_xs[unit.seed, : to.shape[1]], out=rest)
        np.add(rest, offsets[unit.seed, : to.shape[1]], out=rest)
        np.multiply(unit.of(dy), slopes[unit.seed, : to.shape[1]], out=to)
        np.add(to, rest, out=to)

    spread(work, units_of(dy.shape))
    return dx, dgamma.astype(dy.dtype), dbeta.astype(dy.dtype)


def batch_norm_jvp(tx: Array, gamma: Array, kept: NormalisedImages) -> Array:
    """ty of `batch_norm`, whose mean and variance move with every image."""
    return batch_norm_backward(tx, gamma, kept)[0]


def fixed_norm_backward(dy: Array, gamma: Array, kept: NormalisedImages) -> tuple[Array, Array, Array]:
    """The gradients (dx, dgamma, dbeta) of `fixed_norm`."""
    dgamma, dbeta = _norm_sums(dy, kept)
    return fixed_norm_jvp(dy, gamma, kept), dgamma.astype(dy.dtype), dbeta.astype(dy.dtype)


def fixed_norm_jvp(tx: Array, gamma: Array, kept: NormalisedImages) -> Array:
    """ty = gamma r tx of `fixed_norm`."""
    ty: Array = tx * (gamma * kept.r)[:, None, None, None]
    return ty


def _moments(x: Array) -> tuple[Array, Array]:
    """The mean and the (biased) variance of every channel, (s, c)."""
    first = x[:, 1, 0, :-1].mean(axis=1)
    firsts, columns = _in_rows(first, x), x.shape[3] - 1

    def work(unit: Unit) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
        part = unit.of(x)
        apart = kept_for_thread(np.empty, part.shape, part.dtype)
        np.subtract(part, firsts[unit.seed, : part.shape[1]], out=apart)  # 0 in the border
        total = _summed(apart, x.shape[4])
        np.multiply(apart, apart, out=apart)
        return unit.size[0] * unit.size[1] * columns, total, _summed(apart, x.shape[4])

    n = (x.shape[1] - 2) * x.shape[2] * columns
    off, variance = np.zeros(first.shape), np.zeros(first.shape)
    units = units_of(x.shape)
    found = list(zip(units, spread(work, units), strict=True))
    for unit, (_, total, _) in found:
        off[unit.seed] += total / n
    for unit, (count, total, square) in found:
        # The squares around the unit's mean, and that mean's around the mean of all.
        variance[unit.seed] += (square - total**2 / count + (total / count - off[unit.seed]) ** 2 * count) / n
    return (first + off).astype(x.dtype), variance.astype(x.dtype)


def _norm_sums(dy: Array, kept: NormalisedImages) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sums dgamma and dbeta, (s, c)."""
    means = _in_rows(kept.mean, dy)

    def work(unit: Unit) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        part = unit.of(dy)
        apart = kept_for_thread(np.empty, part.shape, part.dtype)
        np.subtract(unit.of(kept.x), means[unit.seed, : part.shape[1]], out=apart)
        np.multiply(apart, part, out=apart)
        return _summed(apart, dy.shape[4]), _summed(part, dy.shape[4])

    units = units_of(dy.shape)
    dgamma, dbeta = np.zeros(kept.mean.shape), np.zeros(kept.mean.shape)
    for unit, (product, total) in zip(units, spread(work, units), strict=True):
        dgamma[unit.seed] += product
        dbeta[unit.seed] += total
    return dgamma * kept.r, dbeta


def _summed(part: Array, channels: int) -> NDArray[np.float64]:
    """The sum over pixels of (rows, all numbers in a row): (c,)."""
    # BLAS adds up columns twice as fast as np.add.reduce; in two steps, which also rounds less.
    by_place = np.matmul(kept_for_thread(np.ones, part.shape[0], part.dtype), part).reshape(-1, channels)
    total: Array = np.matmul(kept_for_thread(np.ones, by_place.shape[0], part.dtype), by_place)
    return total.astype(np.float64)


def _in_rows(values: NDArray[Any], x: Array) -> Array:
    """Numbers for every channel (s, c), as often as each stands in a row of a unit of x, and 0 in the border."""
    rows: Array = np.zeros((x.shape[0], min(BLOCK, x.shape[2]), *x.shape[3:]), x.dtype)
    rows[:, :, :-1] = values[:, None, None]
    return rows.reshape(x.shape[0], -1)
