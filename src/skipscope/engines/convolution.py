"""Convolution by hand: every kernel, stride and padding, forward, and backward by the input and by the weight.

Images lie as skipscope.engines.images says; weights are (s, o, c, k, k), as everybody has them. 3x3 kernels at stride
1 with padding 1, nearly all of a residual network, go by skipscope.engines.winograd; the rest is here: patches laid
side by side, and one matrix product of them for a cache-sized unit of work. A weight that lies in memory as
(s, o, k, k, c) need not be copied. Imports images, spread and winograd.

Winograd's way adds and takes away what lies beside a patch, so that a patch of zeros gives its rounding error in place
of 0: a ReLU after it would let a gradient through where everything is dead. `exact` keeps to the definition.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skipscope.engines.images import Unit, blank, blank_like, inside, units_of
from skipscope.engines.spread import kept_for_thread, spread
from skipscope.engines.winograd import fits, winograd, winograd_backward

__all__ = [
    "conv",
    "conv_backward",
    "conv_backward_input",
    "conv_backward_weight",
    "conv_jvp",
    "size_after",
]

Array = NDArray[np.floating[Any]]

UNIT = 1 << 19  # numbers in the patches of a unit of work, about
FEW = 1024  # pixels, of which units of work share the channels out, since the weights are then most of the work

# --------------------------------------------------------------------------------------------------- convolution
#
# y[p, o] = sum_ij sum_c W[o, c, i, j] x[t p + (i, j) - d, c], for the stride t and the padding d, x = 0 outside. With
# patches X (pixels, i j c) of x and W as (o, i j c):
#   y = X W^T,   dW = dy^T X   (as for ops.affine: a sample is a pixel).
# By the input, dx[q] collects every p and (i, j) with t p + (i, j) - d = q. Let q = t a + r, r the remainder, per axis:
# then (i, j) are those with i = r + d modulo t, and p = a + (r + d - i)/t. For each of the t^2 remainders that is a
# convolution of dy at stride 1 by some of the taps, whose output is every t-th pixel of dx: nothing is added to what
# another pixel of dy has written, and a remainder without taps (t > k) has dx = 0.
# y is linear in x, so that ty = conv(tx).


def conv(
    x: Array, weight: Array, *, stride: int = 1, padding: int = 0, exact: bool = False, out: Array | None = None
) -> Array:
    """y (s, h' + 2, b, w' + 1, o) of x (s, h + 2, b, w + 1, c) and the weight (s, o, c, k, k), without bias."""
    s, o, _, kernel, _ = weight.shape
    h, w = (size_after(size, kernel, stride, padding) for size in (x.shape[1] - 2, x.shape[3] - 1))
    y = blank((s, h, x.shape[2], w, o), x.dtype) if out is None else out
    if _halved(x.shape, kernel, stride, padding, exact):
        winograd(x, weight, y)
    else:
        matrix = weight.transpose(0, 1, 3, 4, 2).reshape(s, o, -1).swapaxes(-1, -2)
        _multiplied(x, matrix, _taps(kernel, stride, padding), y)
    return y


def conv_backward(
    dy: Array,
    x: Array,
    weight: Array,
    *,
    stride: int = 1,
    padding: int = 0,
    exact: bool = False,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """The gradients (dx, dW) of `conv`; dx is written to `out` if given."""
    if not _halved(x.shape, weight.shape[-1], stride, padding, exact):
        how: dict[str, Any] = {"stride": stride, "padding": padding, "exact": exact}
        dx = conv_backward_input(dy, x.shape, weight, **how, out=out)
        return dx, conv_backward_weight(dy, x, weight.shape, **how)
    dx, dweight = blank_like(x) if out is None else out, np.empty(weight.shape, weight.dtype)
    winograd_backward(dy, x, weight, dx, dweight)  # both at once, for what they have in common
    return dx, dweight


def conv_backward_input(
    dy: Array,
    shape: tuple[int, ...],
    weight: Array,
    *,
    stride: int = 1,
    padding: int = 0,
    exact: bool = False,
    out: Array | None = None,
) -> Array:
    """The gradient dx of `conv` alone, of the shape that x has."""
    s, h, b, w, c = shape
    dx = blank((s, h - 2, b, w - 1, c), dy.dtype) if out is None else out
    if _halved(shape, weight.shape[-1], stride, padding, exact):
        winograd_backward(dy, dx, weight, dx, None)
        return dx
    for row in range(min(stride, h - 2)):
        for column in range(min(stride, w - 1)):
            _collected(dy, weight, dx, (row, column), stride, padding)
    return dx


def conv_backward_weight(
    dy: Array,
    x: Array,
    shape: tuple[int, ...],
    *,
    stride: int = 1,
    padding: int = 0,
    exact: bool = False,
    out: Array | None = None,
) -> Array:
    """The gradient dW of `conv` alone, of the shape (s, o, c, k, k) that the weight has."""
    dweight: Array = np.empty(shape, dy.dtype) if out is None else out
    s, o, c, kernel, _ = shape
    if _halved(x.shape, kernel, stride, padding, exact):
        winograd_backward(dy, x, dweight, None, dweight)
        return dweight
    taps = _taps(kernel, stride, padding)
    units = _units(dy.shape, len(taps.offsets) * c, o)

    def work(unit: Unit) -> Array:
        found: Array = np.matmul(_rows(dy, unit).T, _patches(x, unit, taps, dy.shape))
        return found

    total = np.zeros((s, o, len(taps.offsets) * c), dy.dtype)
    for unit, part in zip(units, spread(work, units), strict=True):
        total[unit.seed] += part
    dweight[...] = total.reshape(s, o, kernel, kernel, c).transpose(0, 1, 4, 2, 3)
    return dweight


def conv_jvp(tx: Array, weight: Array, *, stride: int = 1, padding: int = 0, exact: bool = False) -> Array:
    """ty = conv(tx)."""
    return conv(tx, weight, stride=stride, padding=padding, exact=exact)


def size_after(size: int, kernel: int, stride: int, padding: int) -> int:
    """How many places a kernel has along an axis."""
    return (size + 2 * padding - kernel) // stride + 1


def _halved(shape: tuple[int, ...], kernel: int, stride: int, padding: int, exact: bool) -> bool:
    """Whether Winograd's way halves the products."""
    return not exact and (kernel, stride, padding) == (3, 1, 1) and fits(shape)


def _collected(dy: Array, weight: Array, dx: Array, remainder: tuple[int, int], stride: int, padding: int) -> None:
    """dx at the pixels that leave this remainder modulo the stride."""
    row, column = remainder
    part = inside(dx)[:, row::stride, :, column::stride]
    down, right = (range((r + padding) % stride, weight.shape[-1], stride)[::-1] for r in remainder)
    chosen = [(i, j) for i in down for j in right]
    if not chosen:
        part[...] = 0
        return
    offsets = tuple(((row + padding - i) // stride, (column + padding - j) // stride) for i, j in chosen)
    matrix = np.concatenate([weight[:, :, :, i, j] for i, j in chosen], axis=1)
    if stride == 1:
        _multiplied(dy, matrix, _Taps(offsets, 1), dx)
        return
    s, h, b, w, c = part.shape
    found = kept_for_thread(blank, (s, h, b, w, c), dx.dtype)
    _multiplied(dy, matrix, _Taps(offsets, 1), found)
    part[...] = inside(found)


# ----------------------------------------------------------------------------------------------- patches and products


class _Taps(NamedTuple):
    """Where a patch's pixels lie: at stride * (row, column) of the output plus each of these offsets."""

    offsets: tuple[tuple[int, int], ...]
    stride: int

    @property
    def runs(self) -> list[tuple[int, int, int]]:
        """The offsets as runs of neighbours along a row, in order: row, first column, length."""
        found: list[tuple[int, int, int]] = []
        for down, right in self.offsets:
            if found and found[-1][0] == down and found[-1][1] + found[-1][2] == right:
                found[-1] = (down, found[-1][1], found[-1][2] + 1)
            else:
                found.append((down, right, 1))
        return found


def _taps(kernel: int, stride: int, padding: int) -> _Taps:
    return _Taps(tuple((i - padding, j - padding) for i in range(kernel) for j in range(kernel)), stride)


def _units(shape: tuple[int, ...], numbers: int, channels: int) -> list[Unit]:
    """The work on an output of this shape, with so many numbers in a patch, of which so many channels are made."""
    few = shape[1] * shape[2] * shape[3] < FEW
    unit = UNIT if few else min(UNIT, (1 << 24) // channels)  # the latter for its products
    return units_of((*shape[:4], numbers), unit=unit)


def _multiplied(x: Array, matrix: Array, taps: _Taps, y: Array) -> None:
    """y = X M for the patches X of x and a matrix (s, taps c, o)."""
    o = y.shape[4]
    half = o // 2 if y.shape[1] * y.shape[2] * y.shape[3] < FEW and o >= 64 else 0
    shares = [slice(half), slice(half, o)] if half else [slice(o)]
    units = [(unit, share) for unit in _units(y.shape, matrix.shape[1], o) for share in shares]

    def work(each: tuple[Unit, slice]) -> None:
        unit, share = each
        patches = _patches(x, unit, taps, y.shape)
        part = y[unit.seed, 1:-1][unit.rows, unit.images]
        if unit.size[1] == y.shape[2]:  # all images: rows of pixels that follow each other
            np.matmul(patches, matrix[unit.seed][:, share], out=part.reshape(-1, o)[:, share])
        else:
            part.reshape(part.shape[0], -1)[...] = np.matmul(patches, matrix[unit.seed]).reshape(part.shape[0], -1)

    spread(work, units)


def _rows(x: Array, unit: Unit) -> Array:
    """The unit's pixels, its border's columns among them, as rows (pixels, c)."""
    return x[unit.seed, 1:-1][unit.rows, unit.images].reshape(-1, x.shape[4])


def _patches(x: Array, unit: Unit, taps: _Taps, shape: tuple[int, ...]) -> Array:
    """(pixels, taps c) of a unit of the output, which has this shape; zeros in the border's column."""
    if taps == _Taps(((0, 0),), 1) and x.shape[:4] == shape[:4]:
        return _rows(x, unit)
    columns = shape[3] - 1
    h, w, c = x.shape[1] - 2, x.shape[3] - 1, x.shape[4]
    s, done = taps.stride, 0
    rows, images = unit.size
    out = kept_for_thread(np.zeros, (rows, images, columns + 1, len(taps.offsets) * c), x.dtype)
    for down, right, length in taps.runs:
        top, bottom = _within(unit.rows.start, unit.rows.stop, s, down, h)
        # The border's column is what lies one to the left or one to the right of a row; further out is nothing.
        whole = right >= -1 and s * (columns - 1) + right + length - 1 <= w
        for first, many in [(right, length)] if whole else [(right + place, 1) for place in range(length)]:
            left, end = (0, columns) if whole else _within(0, columns, s, first, w)
            to = out[:, :, :columns, done : done + many * c]
            done += many * c
            if (top, bottom, left, end) != (unit.rows.start, unit.rows.stop, 0, columns):
                to[...] = 0
            if top < bottom and left < end:
                to[top - unit.rows.start : bottom - unit.rows.start, :, left:end] = _window(
                    x, unit, (s * top + down, s * left + first), s, (bottom - top, end - left), many
                )
    return out.reshape(-1, len(taps.offsets) * c)


def _within(start: int, stop: int, stride: int, offset: int, size: int) -> tuple[int, int]:
    """Between which of the places from start to stop, stride * place + offset lies within 0 to size."""
    return max(start, -(offset // stride)), min(stop, (size - 1 - offset) // stride + 1)


def _window(x: Array, unit: Unit, at: tuple[int, int], s: int, shape: tuple[int, int], many: int) -> Array:
    """(rows, images, columns, many c): pixels from a place on, at a stride, each with its neighbours to the right."""
    _, by_row, by_image, by_column, by_channel = x.strides
    start = (at[0] + 1) * by_row + unit.images.start * by_image + at[1] * by_column
    return np.lib.stride_tricks.as_strided(
        x[unit.seed].reshape(-1)[start // x.itemsize :],
        (shape[0], unit.size[1], shape[1], many * x.shape[4]),
        (s * by_row, by_image, s * by_column, by_channel),
        writeable=False,
    )
