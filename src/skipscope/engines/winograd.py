"""3x3 convolutions with half the products: F(4, 3) of Winograd's minimal filtering, along the columns of images.

Three taps g over a column d of pixels are 12 products for 4 outputs; 6 suffice (arXiv:1509.09308, from Winograd 1980):

    y = A^T [(G g) * (B^T d)],    d the 6 pixels that the 4 outputs rest on.

That is the product of the polynomials g and y's transpose, taken at the points 0, 1, -1, 2, -2 and infinity. Here a
"pixel" of the column is a row of all images, and the product * is the rest of the convolution, along rows: the sum over
the 3 neighbours and over the channels, one matrix product of (pixels, 3 c) with (3 c, o).

    B^T = | 4  0 -5  0  1  0 |   G = | 1/4    0    0  |   A^T = | 1  1  1  1  1  0 |
          | 0 -4 -4  1  1  0 |       |-1/6 -1/6 -1/6 |         | 0  1 -1  2 -2  0 |
          | 0  4 -4 -1  1  0 |       |-1/6  1/6 -1/6 |         | 0  1  1  4  4  0 |
          | 0 -2 -1  2  1  0 |       | 1/24 1/12  1/6 |         | 0  1 -1  8 -8  1 |
          | 0  2 -1 -2  1  0 |       | 1/24 -1/12 1/6 |
          | 0  4  0 -5  0  1 |       |  0    0    1  |

**No copies along rows.** In the layout of skipscope.engines.images the patch of pixel p, its left neighbour, itself and
its right neighbour, is one run of 3 c numbers that begins c numbers after that of pixel p - 1. Patches overlap, which
BLAS does not allow; but those of p = r, r + 3, r + 6, ... do not, and are a matrix as they lie, for r = 0, 1, 2 each.

**Backwards.** dx = conv(dy, W^) with W^[i, j, o, c] = W[2-i, 2-j, c, o] is again such a convolution. And with a loss L,
of pixels q of x and p of dy, dW[i, j] = sum_q x[q] dy[q - (i, j) + 1]: the gradient by W^ of a convolution of the data
dy whose output has the gradient x. Since y = A^T m, m_j = V_j U_j, U = G g,

    dU_j = V_j^T (A x)_j,   dW^ = G^T dU,   V = B^T dy,

and V serves dx and dW both. Both gather: no two units of work write to one place.

With inf in an image, its neighbours in the tile become nan. Imports images and spread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope.engines.images import Unit, blank, units_of
from skipscope.engines.spread import kept_for_thread, spread

__all__ = ["fits", "winograd", "winograd_backward"]

Array = NDArray[np.floating[Any]]

TILE = 4  # outputs, for which there are TILE + 2 products
UNIT = 1 << 19  # numbers in a unit of work, about
LEAST = 2048  # pixels, below which transforming the weights takes longer than is won

_G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
)
G = np.array((*_G, (0, 0, 1)))


def fits(shape: tuple[int, ...]) -> bool:
    """Whether images of the shape (s, h + 2, b, w + 1, c) fill tiles, nearly, and are enough to gain from it."""
    _, h, b, w, _ = shape
    return 5 * _rounded(h - 2) <= 6 * (h - 2) and (h - 2) * b * (w - 1) >= LEAST


def _rounded(h: int) -> int:
    """The rows of whole tiles."""
    return -(-h // TILE) * TILE


def winograd(x: Array, weight: Array, y: Array) -> None:
    """y = conv(x), for the weight (s, o, c, 3, 3), padding 1 and stride 1; both in the layout of images."""
    if x.shape[1] - 2 != _rounded(x.shape[1] - 2):
        whole = _room_in_tiles(y)
        winograd(_in_tiles(x), weight, whole)
        y[:, 1:-1] = whole[:, 1 : y.shape[1] - 1]
        return
    transformed = _transformed(weight)

    def work(unit: Unit) -> None:
        room = _room(unit, x, y.shape[4])
        rows = _of_tile(unit.of(y))
        for j in _data(x, unit, room):
            _gather(j, room, transformed[unit.seed, j], rows)
        y[unit.seed, 1:-1][unit.rows, unit.images, -1] = 0  # what stands there takes both its neighbours for one row's

    spread(work, _units(x, y))


def winograd_backward(dy: Array, x: Array, weight: Array, dx: Array | None, dweight: Array | None) -> None:
    """The gradients of `winograd`, each written where it is told, if it is."""
    if x.shape[1] - 2 != _rounded(x.shape[1] - 2):
        whole = None if dx is None else _room_in_tiles(dx)
        winograd_backward(_in_tiles(dy), _in_tiles(x), weight, whole, dweight)
        if dx is not None and whole is not None:
            dx[:, 1:-1] = whole[:, 1 : dx.shape[1] - 1]
        return
    flipped = weight[..., ::-1, ::-1].swapaxes(1, 2)
    transformed = None if dx is None else _transformed(flipped)
    units = _units(dy, x)

    def work(unit: Unit) -> Array | None:
        room = _room(unit, dy, x.shape[4])
        given = _of_tile(unit.of(x))
        found = None if dweight is None else np.empty((TILE + 2, 3 * dy.shape[4], x.shape[4]), x.dtype)
        rows = None if dx is None else _of_tile(unit.of(dx))
        for j in _data(dy, unit, room):
            if found is not None:
                _differentiate(j, room, given, found[j])
            if rows is not None and transformed is not None:
                _gather(j, room, transformed[unit.seed, j], rows)
        if dx is not None:
            dx[unit.seed, 1:-1][unit.rows, unit.images, -1] = 0
        return found

    parts = spread(work, units)
    if dweight is not None:
        _added_up(units, parts, dweight)


def _in_tiles(x: Array) -> Array:
    """x with rows of zeros below it, so that its rows are whole tiles."""
    whole = _room_in_tiles(x)
    whole[:, : x.shape[1]] = x
    whole[:, x.shape[1] :] = 0
    return whole


def _room_in_tiles(x: Array) -> Array:
    s, h, b, w, c = x.shape
    return blank((s, _rounded(h - 2), b, w - 1, c), x.dtype)


def _added_up(units: Sequence[Unit], parts: Sequence[Array | None], dweight: Array) -> None:
    """dW (s, o, c, 3, 3) of the units' dU (6, 3 o, c): dW^ = G^T dU, then flipped."""
    s, o, c = dweight.shape[:3]
    total = np.zeros((s, TILE + 2, 3 * o * c), dweight.dtype)
    for unit, part in zip(units, parts, strict=True):
        if part is not None:
            total[unit.seed] += part.reshape(TILE + 2, -1)
    flipped = np.matmul(G.T.astype(dweight.dtype), total).reshape(s, 3, 3, o, c)
    dweight[...] = flipped[:, ::-1, ::-1].transpose(0, 3, 4, 1, 2)


def _transformed(weight: Array) -> Array:
    """U (s, 6, 3 c, o) of the weight (s, o, c, 3, 3): G along the kernel's rows."""
    s, o, c = weight.shape[:3]
    by_row = np.ascontiguousarray(weight.transpose(0, 3, 4, 2, 1)).reshape(s, 3, -1)
    transformed: Array = np.matmul(G.astype(weight.dtype), by_row)
    return transformed.reshape(s, TILE + 2, 3 * c, o)


def _units(x: Array, y: Array) -> list[Unit]:
    return units_of((*x.shape[:4], max(x.shape[4], y.shape[4])), tile=TILE, unit=UNIT)


class _Room:
    """What a unit of work needs for itself: tiles of rows of so many images, c channels in, o out."""

    def __init__(self, tiles: int, images: int, columns: int, c: int, o: int, dtype: Any) -> None:
        points = tiles * images * columns
        into, out = (tiles, images * columns * c), (tiles, images * columns * o)
        # Zeros before the first pixel and after the last stand for the neighbours that those do not have.
        flat = np.zeros((points + 5) * c, dtype)
        self.v = flat[c : c + points * c].reshape(into)
        counts = [len(range(r, points, 3)) for r in range(3)]
        self.patches = [flat[r * c :][: 3 * c * n].reshape(n, 3 * c) for r, n in enumerate(counts)]
        self.a, self.b = np.empty(into, dtype), np.empty(into, dtype)
        self.m = [np.empty(out, dtype) for _ in range(2)]
        self.m_rows = [[m.reshape(points, o)[r::3] for r in range(3)] for m in self.m]
        self.p, self.q = np.empty(out, dtype), np.empty(out, dtype)
        self.part = np.empty((3 * c, o), dtype)


def _room(unit: Unit, x: Array, channels: int) -> _Room:
    rows, images = unit.size
    return kept_for_thread(_Room, rows // TILE, images, x.shape[3], x.shape[4], channels, x.dtype)


def _of_tile(rows: Array) -> list[Array]:
    """The first row of every tile, the second, ..."""
    return [rows[i::TILE] for i in range(TILE)]


def _data(x: Array, unit: Unit, room: _Room) -> Iterator[int]:
    """V = B^T d, one row of it after another into room.v, where each lies while its number is yielded."""
    part = x[unit.seed, :, unit.images]
    part = part.reshape(part.shape[0], -1)[unit.rows.start : unit.rows.stop + 2]
    d0, d1, d2, d3, d4, d5 = (part[i : i + part.shape[0] - 5 : TILE] for i in range(TILE + 2))
    v, a, b = room.v, room.a, room.b
    np.multiply(d2, _number(4, a), out=a)
    np.subtract(d4, a, out=a)
    np.multiply(d1, _number(4, b), out=b)
    np.subtract(d3, b, out=b)
    np.add(a, b, out=v)
    yield 1
    np.subtract(a, b, out=v)
    yield 2
    np.subtract(d4, d2, out=a)
    np.subtract(d3, d1, out=b)
    np.multiply(b, _number(2, b), out=b)
    np.add(a, b, out=v)
    yield 3
    np.subtract(a, b, out=v)
    yield 4
    np.subtract(d0, d2, out=v)
    np.multiply(v, _number(4, v), out=v)
    np.add(v, a, out=v)
    yield 0
    np.multiply(b, _number(2, b), out=b)
    np.subtract(d5, d3, out=v)
    np.subtract(v, b, out=v)
    yield 5


def _gather(j: int, room: _Room, transformed: Array, y: Sequence[Array]) -> None:
    """m_j = V_j U_j, and what A^T makes of it into the four rows y; in the order in which `_data` yields."""
    m, other = room.m[0 if j in (1, 3) else 1], room.m[0]
    for patches, rows in zip(room.patches, room.m_rows[0 if j in (1, 3) else 1], strict=True):
        np.matmul(patches, transformed, out=rows)
    y0, y1, y2, y3 = y
    if j == 2:
        np.add(other, m, out=y0)
        np.subtract(other, m, out=y1)
    elif j == 4:
        total = room.p
        np.add(other, m, out=total)
        np.subtract(other, m, out=m)
        np.multiply(total, _number(4, m), out=other)
        np.add(y0, other, out=y2)
        np.add(y0, total, out=y0)
        np.multiply(m, _number(2, m), out=m)
        np.multiply(m, _number(4, m), out=other)
        np.add(y1, other, out=y3)
        np.add(y1, m, out=y1)
    elif j == 0:
        np.add(y0, m, out=y0)
    elif j == 5:
        np.add(y3, m, out=y3)


def _differentiate(j: int, room: _Room, x: Sequence[Array], out: Array) -> None:
    """dU_j = V_j^T (A x)_j; in the order in which `_data` yields."""
    x0, x1, x2, x3 = x
    z, p, q = room.m[1], room.p, room.q
    if j == 1:
        np.add(x0, x2, out=p)
        np.add(x1, x3, out=q)
        np.add(p, q, out=z)
    elif j == 3:
        np.multiply(x2, _number(4, p), out=p)
        np.add(p, x0, out=p)
        np.multiply(x3, _number(4, q), out=q)
        np.add(q, x1, out=q)
        np.multiply(q, _number(2, q), out=q)
        np.add(p, q, out=z)
    elif j in (2, 4):
        np.subtract(p, q, out=z)
    else:
        np.copyto(z, x0 if j == 0 else x3)
    rows = room.m_rows[1]
    np.matmul(room.patches[0].T, rows[0], out=out)
    for r in (1, 2):
        np.matmul(room.patches[r].T, rows[r], out=room.part)
        np.add(out, room.part, out=out)


def _number(value: int, like: Array) -> Any:
    return like.dtype.type(value)
