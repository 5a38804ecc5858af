"""Pooling by hand, and the shortcut of option A, which leaves pixels out and adds channels of zeros.

Images lie as skipscope.engines.images says. Imports images and convolution (for sizes).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skipscope.engines.convolution import size_after
from skipscope.engines.images import blank, inside

__all__ = [
    "Pooled",
    "average_pool",
    "average_pool_backward",
    "average_pool_jvp",
    "global_pool",
    "global_pool_backward",
    "global_pool_jvp",
    "max_pool",
    "max_pool_backward",
    "max_pool_jvp",
    "padded_shortcut",
    "padded_shortcut_backward",
    "padded_shortcut_jvp",
]

Array = NDArray[np.floating[Any]]

# --------------------------------------------------------------------------------------------------------- windows
#
# A pixel p of the output rests on the pixels t p + (i, j) - d of the input, for the stride t and the padding d. For
# one (i, j) and all p these are a slice of the input at a step of t, and different p have different ones: sums over
# the few (i, j) of slices are all that follows, forwards and backwards.


def _windows(
    shape: tuple[int, ...], kernel: int, stride: int, padding: int
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """For every (i, j) which pixels of the output, (s, h', b, w', c), have it within the input, and where there."""
    sizes = shape[1] - 2, shape[3] - 1
    for i in range(kernel):
        for j in range(kernel):
            down, right = (_window(size, at, kernel, stride, padding) for size, at in zip(sizes, (i, j), strict=True))
            every = slice(None)
            yield (every, down[0], every, right[0]), (every, down[1], every, right[1])


def _window(size: int, at: int, kernel: int, stride: int, padding: int) -> tuple[slice, slice]:
    first = max(0, -((at - padding) // stride))
    stop = min(size_after(size, kernel, stride, padding), (size - 1 - at + padding) // stride + 1)
    start = stride * first + at - padding
    return slice(first, max(first, stop)), slice(start, start + stride * max(0, stop - first), stride)


def _blank_after(x: Array, kernel: int, stride: int, padding: int) -> Array:
    s, h, b, w, c = x.shape
    return blank(
        (s, size_after(h - 2, kernel, stride, padding), b, size_after(w - 1, kernel, stride, padding), c), x.dtype
    )


# ----------------------------------------------------------------------------------------------------- max pooling
#
# y[p] = max over (i, j) of x[t p + (i, j) - d]; nothing outside counts. The derivative is 1 by the pixel that is the
# largest, the first of them where several are, as everybody has it, and 0 by the others.


class Pooled(NamedTuple):
    """Which (i, j), counted along rows, is the largest at every pixel of the output; and how it was pooled."""

    largest: NDArray[np.int8]
    shape: tuple[int, ...]
    kernel: int
    stride: int
    padding: int


def max_pool(x: Array, *, kernel: int = 3, stride: int = 2, padding: int = 1) -> tuple[Array, Pooled]:
    """The largest pixel of every window, and what the backward pass needs."""
    y = _blank_after(x, kernel, stride, padding)
    best = inside(y)
    best[...] = -np.inf
    largest = np.zeros(best.shape, np.int8)
    for number, (to, of) in enumerate(_windows(x.shape, kernel, stride, padding)):
        pixels = inside(x)[of]
        np.copyto(largest[to], np.int8(number), where=pixels > best[to])
        np.maximum(best[to], pixels, out=best[to])
    return y, Pooled(largest, x.shape, kernel, stride, padding)


def max_pool_backward(dy: Array, kept: Pooled) -> Array:
    """The gradient dx of `max_pool`."""
    dx: Array = np.zeros(kept.shape, dy.dtype)
    for number, (to, of) in enumerate(_windows(kept.shape, *kept[2:])):
        inside(dx)[of] += inside(dy)[to] * (kept.largest[to] == number)
    return dx


def max_pool_jvp(tx: Array, kept: Pooled) -> Array:
    """ty: how the pixels move that are the largest."""
    ty = _blank_after(tx, *kept[2:])
    inside(ty)[...] = 0
    for number, (to, of) in enumerate(_windows(kept.shape, *kept[2:])):
        inside(ty)[to] += inside(tx)[of] * (kept.largest[to] == number)
    return ty


# ------------------------------------------------------------------------------------------------- average pooling
#
# y[p] = 1/k^2 sum over (i, j) of x[t p + (i, j)]: linear, so that ty is that of tx; and dx[q] = 1/k^2 sum of the dy of
# the windows that q is in. Over the whole image, y = mean over pixels, dx = dy/(h w) everywhere.


def average_pool(x: Array, *, kernel: int = 2, stride: int = 2) -> Array:
    """The mean of every window."""
    y = _blank_after(x, kernel, stride, 0)
    inside(y)[...] = 0
    for to, of in _windows(x.shape, kernel, stride, 0):
        inside(y)[to] += inside(x)[of]
    y /= kernel * kernel
    return y


def average_pool_backward(dy: Array, shape: tuple[int, ...], *, kernel: int = 2, stride: int = 2) -> Array:
    """The gradient dx of `average_pool`, of the shape that x has."""
    dx: Array = np.zeros(shape, dy.dtype)
    for to, of in _windows(shape, kernel, stride, 0):
        inside(dx)[of] += inside(dy)[to]
    dx /= kernel * kernel
    return dx


def average_pool_jvp(tx: Array, *, kernel: int = 2, stride: int = 2) -> Array:
    """ty of `average_pool`."""
    return average_pool(tx, kernel=kernel, stride=stride)


def global_pool(x: Array) -> Array:
    """The mean over pixels, (s, b, c)."""
    y: Array = inside(x).sum(axis=(1, 3))
    y /= (x.shape[1] - 2) * (x.shape[3] - 1)
    return y


def global_pool_backward(dy: Array, shape: tuple[int, ...]) -> Array:
    """The gradient dx of `global_pool`, of the shape that x has."""
    s, h, b, w, c = shape
    dx = blank((s, h - 2, b, w - 1, c), dy.dtype)
    inside(dx)[...] = (dy / ((h - 2) * (w - 1)))[:, None, :, None]
    return dx


def global_pool_jvp(tx: Array) -> Array:
    """ty of `global_pool`."""
    return global_pool(tx)


# ---------------------------------------------------------------------------------------------------- option A
#
# Where a stage halves the image and has more channels, the parameter-free shortcut takes every other pixel of every
# other row (no mean of them) and fills the new channels with zeros (arXiv:1512.03385, section 3.3). The paper does not
# say where the zeros go: after the channels (`before` = 0), or on both sides of them. A choice of entries: dx puts them
# back, and is 0 elsewhere; ty is that of tx.


def padded_shortcut(x: Array, channels: int, *, before: int = 0, stride: int = 2) -> Array:
    """Every stride-th pixel along both axes, with zeros for channels before and after, so many channels in all."""
    s, h, b, w, c = x.shape
    y: Array = np.zeros((s, -((2 - h) // stride) + 2, b, -((1 - w) // stride) + 1, channels), x.dtype)
    inside(y)[..., before : before + c] = inside(x)[:, ::stride, :, ::stride]
    return y


def padded_shortcut_backward(dy: Array, shape: tuple[int, ...], *, before: int = 0, stride: int = 2) -> Array:
    """The gradient dx of `padded_shortcut`, of the shape that x has."""
    dx: Array = np.zeros(shape, dy.dtype)
    inside(dx)[:, ::stride, :, ::stride] = inside(dy)[..., before : before + shape[4]]
    return dx


def padded_shortcut_jvp(tx: Array, channels: int, *, before: int = 0, stride: int = 2) -> Array:
    """ty of `padded_shortcut`."""
    return padded_shortcut(tx, channels, before=before, stride=stride)
