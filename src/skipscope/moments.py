"""One pass over an array: the sums that every quantity is made of.

`moments(x)` reduces every axis but the first (s, the networks) and gives sums of shape (s,). Sums add over chunks,
micro-batches and ranks, so the moments of the parts are the moments of the whole. It is written against the array API:
the same pass measures a NumPy ensemble and a tensor on a GPU. Sums are accumulated in float64.

Sums of squares leave the range of floats where the numbers themselves do not: 1e200 squared is inf, 1e-200 squared is
0. So a network's sums are in units of `scale`, a power of two that is 1 unless they would leave the range: what is
representable is never reported as 0 or inf, and where nothing is scaled the bits are those of the plain sum. NumPy's
floating-point warnings are silenced here, since what they warn of is what is being measured. This module imports NumPy
and the array API alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import array_api_compat
import numpy as np

__all__ = ["Dot", "Field", "Moments", "dot", "moments"]

Array = Any  # anything that speaks the array API
Field = Literal["sum", "positive", "nonfinite", "units", "samples"]

_SAFE = 2.0**400  # squares of numbers within 1/_SAFE to _SAFE, and sums of 2**200 of them, are normal float64


@dataclass(frozen=True, eq=False)
class Moments:
    """The sums of one array, or of several chunks of it; arrays of shape (s,) unless said otherwise.

    Attributes:
        count: entries a network.
        rows: samples a network (the second axis), where the array has one; else 1.
        scale: power of two in whose units `sum`, `sumsq` and `samples` (squared) are.
        sumsq: sum of squares, in units of scale^2.
        sum: sum of the entries, in units of scale.
        positive: how many entries are > 0.
        nonfinite: how many entries are nan or inf.
        units: shape (s, n): whether a unit was ever > 0: of the last axis, or a channel of images, (s, c).
        samples: shape (s, b): sum of squares of every sample, in units of scale^2.
    """

    count: int
    rows: int
    scale: Array
    sumsq: Array
    sum: Array | None = None
    positive: Array | None = None
    nonfinite: Array | None = None
    units: Array | None = None
    samples: Array | None = None

    @property
    def norm(self) -> Array:
        """The Frobenius norm."""
        return self.sumsq**0.5 * self.scale

    @property
    def rms(self) -> Array:
        """The root mean square of the entries."""
        return (self.sumsq / self.count) ** 0.5 * self.scale

    @property
    def mean(self) -> Array:
        """The mean of the entries."""
        return _required(self.sum, "sum") / self.count * self.scale

    @property
    def variance(self) -> Array:
        """The (biased) variance of the entries, to about 1e-16 of their mean square; rounding below 0 is 0."""
        xp = array_api_compat.array_namespace(self.sumsq)
        mean = _required(self.sum, "sum") / self.count
        spread = self.sumsq / self.count - mean * mean
        return xp.where(spread < 0, xp.zeros_like(spread), spread) * self.scale * self.scale

    @np.errstate(all="ignore")
    def __add__(self, other: Moments) -> Moments:
        """The moments of both arrays together: chunks of one batch, in order."""
        xp = array_api_compat.array_namespace(self.sumsq)
        scale, mine, theirs = _joined(xp, self.scale, other.scale, self.sumsq == 0, other.sumsq == 0)
        joined: dict[str, Array | None] = {}
        for name in ("sum", "positive", "nonfinite", "units", "samples"):
            a, b = getattr(self, name), getattr(other, name)
            if a is None or b is None:
                joined[name] = None
            elif name == "sum":
                joined[name] = a * mine + b * theirs
            elif name == "units":
                joined[name] = a | b
            elif name == "samples":
                # One factor at a time: mine * mine may be 0, which would make nan of inf.
                a, b = (a * mine[:, None] * mine[:, None], b * theirs[:, None] * theirs[:, None])
                joined[name] = xp.concat([a, b], axis=1)
            else:
                joined[name] = a + b
        return Moments(
            count=self.count + other.count,
            rows=self.rows + other.rows,
            scale=scale,
            sumsq=self.sumsq * mine * mine + other.sumsq * theirs * theirs,
            **joined,
        )


@np.errstate(all="ignore")
def moments(x: Array, fields: Collection[Field] = ()) -> Moments:
    """The moments of x, of shape (s, ...); count and sum of squares always, the other `fields` where asked for.

    Args:
        x: real floating-point array with the leading axis s.
        fields: of `sum`, `positive`, `nonfinite`, `units` (x of shape (s, ..., n), or images (s, b, c, h, w)),
            `samples` (x of shape (s, b, ...)).
    """
    xp = array_api_compat.array_namespace(x)
    flat = _flat(xp, x)
    size = flat.shape[1]
    sumsq = xp.vecdot(flat, flat)
    scale = xp.ones_like(sumsq)
    # A sum of squares that is an ordinary number says that nothing overflowed, vanished or was nan: the usual case,
    # and the only pass over the array. Else look closer.
    odd = ~((sumsq > 1 / _SAFE) & (sumsq < _SAFE))
    if size and bool(xp.any(odd)):
        scale = _scale(xp, flat, odd)
        flat = flat / scale[:, None]
        sumsq = xp.vecdot(flat, flat)
    whole = Moments(count=size, rows=x.shape[1] if x.ndim > 2 else 1, scale=scale, sumsq=sumsq)
    return replace(whole, **_extra(xp, x, flat, fields, odd))


@dataclass(frozen=True, eq=False)
class Dot:
    """The inner product of two arrays, of shape (s,), in units of `scale_x * scale_y`."""

    value: Array
    scale_x: Array
    scale_y: Array

    @np.errstate(all="ignore")
    def __add__(self, other: Dot) -> Dot:
        """The inner product of both chunks together."""
        xp = array_api_compat.array_namespace(self.value)
        empty = self.value == 0, other.value == 0
        scale_x, mine_x, theirs_x = _joined(xp, self.scale_x, other.scale_x, *empty)
        scale_y, mine_y, theirs_y = _joined(xp, self.scale_y, other.scale_y, *empty)
        return Dot(self.value * mine_x * mine_y + other.value * theirs_x * theirs_y, scale_x, scale_y)


@np.errstate(all="ignore")
def dot(x: Array, y: Array, mx: Moments, my: Moments) -> Dot:
    """The inner product of x and y over every axis but s; `mx` and `my` are their moments, which give the units."""
    xp = array_api_compat.array_namespace(x, y)
    flat_x = _flat(xp, x) / mx.scale[:, None]
    flat_y = _flat(xp, y) / my.scale[:, None]
    return Dot(xp.vecdot(flat_x, flat_y), mx.scale, my.scale)


def _flat(xp: Any, x: Array) -> Array:
    """x as (s, entries), in float64."""
    return xp.astype(xp.reshape(x, (x.shape[0], _size(x.shape[1:]))), xp.float64, copy=False)


def _scale(xp: Any, flat: Array, odd: Array) -> Array:
    """A power of two near the largest |x| of the networks where `odd`, 1 elsewhere and where x is 0, nan or inf."""
    largest = xp.max(xp.abs(flat), axis=1)
    usable = odd & (largest > 0) & xp.isfinite(largest)
    exponent = xp.floor(xp.log2(xp.where(usable, largest, xp.ones_like(largest))))
    # Half way at a time: 2**1023 is a float and 2**-1074 is one, but neither is the inverse of a float.
    exponent = xp.clip(exponent, -1000.0, 1000.0)
    return xp.where(usable, 2.0**exponent, xp.ones_like(largest))


def _joined(xp: Any, mine: Array, theirs: Array, mine_empty: Array, theirs_empty: Array) -> tuple[Array, Array, Array]:
    """The larger of two scales, and what both are in units of it; where a part is empty, 0, it has no say."""
    larger = xp.where(mine > theirs, mine, theirs)
    scale = xp.where(mine_empty, theirs, xp.where(theirs_empty, mine, larger))
    one = xp.ones_like(scale)
    return scale, xp.where(mine_empty, one, mine / scale), xp.where(theirs_empty, one, theirs / scale)


def _extra(xp: Any, x: Array, flat: Array, fields: Collection[Field], odd: Array) -> Mapping[str, Array]:
    found: dict[str, Array] = {}
    if "sum" in fields:
        found["sum"] = xp.sum(flat, axis=1)
    if "positive" in fields:
        # Of x itself: in units of the largest, the smallest may be 0.
        found["positive"] = xp.astype(xp.count_nonzero(xp.reshape(x > 0, flat.shape), axis=1), xp.float64)
    if "nonfinite" in fields:
        finite = not bool(xp.any(odd))
        found["nonfinite"] = (
            xp.zeros_like(flat[:, 0]) if finite else xp.astype(xp.count_nonzero(~xp.isfinite(flat), axis=1), xp.float64)
        )
    if "units" in fields:
        found["units"] = xp.any(x > 0, axis=tuple(axis for axis in range(1, x.ndim) if axis != _unit_axis(x)))
    if "samples" in fields:
        rows = xp.reshape(flat, (x.shape[0], x.shape[1], -1))
        found["samples"] = xp.vecdot(rows, rows)
    return found


def _unit_axis(x: Array) -> int:
    """Of images (s, b, c, h, w), the channels."""
    return 2 if x.ndim == 5 else x.ndim - 1


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _required(field: Array | None, name: str) -> Array:
    assert field is not None, f"moments were taken without {name!r}"
    return field
