"""The sums of a tensor where it lies, and the one transfer that brings those of a whole probe to the host.

`sums(x)` is what `skipscope.moments.moments` is for arrays, arranged for tensors: nothing waits for the device, half
precision is accumulated in float32 or wider, and what is kept is a number or two a row, so that what a float can hold
is not lost. `gathered` turns all of them into `Moments`.

On a processor the tensor's memory is summed as a NumPy array, in rows of at most a thousand entries: float32 within a
row, by vector instructions of BLAS (`vecdot`), and float64 over rows. That is as fast as memory and more exact than
float32 throughout; a call costs a third of PyTorch's, which is most of a small layer's price, and it starts no threads,
which in a hook would wait for whoever has the other cores. Where squares may leave the range of float32 the same is
done in float64. Devices, half precision and tensors of other kinds are left to PyTorch; on devices float64 is used at
once, which saves them the question of whether it was needed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skipscope.moments import Dot, Field, Moments

__all__ = ["Sums", "dot_of", "gathered", "inner", "norms_of", "one_number", "pair", "product", "sums"]

# Sums of squares between these squared are ordinary float32 numbers, and what was lost below is no part of the norm.
_SMALL, _LARGE = 1e-15, 1e18
_RANGE = {"f": (_SMALL**2, _LARGE**2), "d": (2.0**-800, 2.0**800)}

# Inner products between these are of terms that float32 holds, and are no small rest of them.
_CROSSED = 1e-25, 1e30

# Entries below which float64 costs no more than float32: by PyTorch, and by NumPy (which has to copy them).
_SHORT, _FEW = 1 << 15, 1 << 13

_ROW = 1024  # entries of a row at most: what float32 sums exactly enough, and what BLAS starts no thread for

_NEAR = 1 << 18  # entries that are looked at while they are near a core; with fewer, calls are felt

_TINY = 1 << 10  # entries up to which many tensors are summed as one line

_HOST = torch.device("cpu")
_COMPLEX = (torch.complex64, torch.complex128)
_BY_NUMPY = (torch.float32, torch.float64, *_COMPLEX)


@dataclass(frozen=True, eq=False)
class Sums:
    """What was summed of one tensor.

    Attributes:
        count: entries.
        rows: samples, where the first axis is the batch's; else 1.
        parts: by name: `norms` of all rows, on the tensor's device, or `squares`, sums of squares on the host, of rows
            that are samples or equal parts of them; and what was asked for.
        scale: in whose units `squares` (squared) and `sums` are.
    """

    count: int
    rows: int
    parts: dict[str, Any] = field(default_factory=dict)
    scale: float = 1.0


def sums(x: Tensor, fields: Collection[Field] = (), *, batch: int = 0, channels: int = -1) -> Sums:
    """The sums of x.

    Args:
        x: floating or complex tensor of any layout; of complex entries the modulus counts, and what asks for an order
            (`positive`, `units`) or for a mean is left out.
        fields: as of `skipscope.moments.moments`.
        batch: samples of the batch; if the first axis is as long, rows are samples.
        channels: the axis of the units.
    """
    if _is_plain(x):
        return _sums_on_host(_array(x), fields, batch, channels)
    return _sums_on_device(x, fields, batch, channels)


def norms_of(tensors: Sequence[Tensor]) -> list[Sums]:
    """The norm of each of many tensors, as are the parameters: on a device a call for all that are alike."""
    plain = [index for index, x in enumerate(tensors) if _is_plain(x)]
    found = dict(zip(plain, _norms_on_host([_array(tensors[index]) for index in plain]), strict=True))
    groups: dict[torch.device, list[int]] = {}
    for index, x in enumerate(tensors):
        elsewhere = index not in found and x.device.type not in ("cpu", "mps")
        if elsewhere and x.layout == torch.strided and x.dtype == torch.float32:
            groups.setdefault(x.device, []).append(index)
    for members in groups.values():
        norms = torch._foreach_norm([tensors[index].detach() for index in members], 2, dtype=torch.float64)
        for index, norm in zip(members, norms, strict=True):
            found[index] = Sums(tensors[index].numel(), 1, {"norms": norm.reshape(1)})
    return [found[index] if index in found else sums(x) for index, x in enumerate(tensors)]


def product(x: Tensor, y: Tensor) -> Tensor | NDArray[np.float64]:
    """The inner product of two tensors of one shape, of shape (3,): in units of two scales, and those scales."""
    rows = _both_in_rows(x, y)
    if rows is not None:
        with np.errstate(all="ignore"):
            total = np.add.reduce(np.vecdot(*rows), axis=None, dtype=np.float64)
        if _CROSSED[0] < abs(total) < _CROSSED[1]:
            return np.array([total, 1.0, 1.0])
    return inner(x, y)  # where terms may have left the range, and where they all but cancel


def pair(x: Tensor, y: Tensor, *, batch: int = 0) -> tuple[Sums, Sums, Tensor | NDArray[np.float64]]:
    """`sums(x)`, `sums(y)` and `product(x, y)`, where it can be in one pass over memory, which is what binds."""
    rows = _both_in_rows(x, y) if x.numel() >= _FEW else None
    found = None if rows is None else _crossed(*rows)
    if found is None:
        return sums(x, batch=batch), sums(y, batch=batch), product(x, y)
    samples = batch if batch and x.ndim and len(x) == batch else 1
    of_x, of_y = (Sums(x.numel(), samples, {"squares": squares}) for squares in found[:2])
    return of_x, of_y, np.array([found[2], 1.0, 1.0])


@torch.no_grad()
def inner(x: Tensor, y: Tensor) -> Tensor:
    """Likewise, on the device, in float64 (float32 on MPS, which has no other): the cosine, and the norms of both."""
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    flat = [each.detach().reshape(-1).to(wide) for each in torch.broadcast_tensors(x, y)]  # type: ignore[no-untyped-call]
    norms = [torch.linalg.vector_norm(each) for each in flat]
    units = [each / torch.where(norm > 0, norm, 1.0) for each, norm in zip(flat, norms, strict=True)]
    return torch.stack([torch.dot(*units), *(torch.where(norm > 0, norm, 1.0) for norm in norms)])


def dot_of(values: NDArray[Any]) -> Dot:
    """The inner product that `product` made, on the host, with the leading axis s = 1."""
    return Dot(*(np.array([value], np.float64) for value in values))


def one_number(x: Tensor) -> Sums:
    """A tensor of one number, as the sum of its one entry."""
    return Sums(1, 1, {"norms": x.detach().abs().reshape(1), "sums": x.detach().reshape(1)})


def gathered(
    everything: Sequence[Sums], products: Sequence[Tensor | NDArray[np.float64]] = ()
) -> tuple[list[Moments], list[NDArray[Any]]]:
    """The moments of all of them, each with the leading axis s = 1, and the small tensors `products` as arrays.

    One transfer a device, none from the host.
    """
    brought = _hosted([*everything, *(Sums(0, 1, {"product": each}) for each in products)])
    hosted, further = brought[: len(everything)], brought[len(everything) :]
    squared = [index for index, each in enumerate(hosted) if "squares" in each.parts]
    summed = [index for index in squared if "sums" in hosted[index].parts]
    sumsq = dict(zip(squared, _totals([hosted[index].parts["squares"] for index in squared]), strict=True))
    total = dict(zip(summed, _totals([hosted[index].parts["sums"] for index in summed]), strict=True))
    moments = [
        _of_squares(each, sumsq[index], total.get(index)) if index in sumsq else _of_norms(each)
        for index, each in enumerate(hosted)
    ]
    return moments, [each.parts["product"] for each in further]


# ---------------------------------------------------------------------------------------------------------- by NumPy


def _is_plain(x: Tensor) -> bool:
    """Whether NumPy can look at its memory."""
    return (
        x.dtype in _BY_NUMPY and x.layout == torch.strided and x.device == _HOST and type(x) in (Tensor, nn.Parameter)
    )


def _array(x: Tensor) -> NDArray[Any]:
    """Its memory, which is shared and not to be written to."""
    if x.requires_grad:
        x = x.detach()
    if x.is_neg() or (x.dtype in _COMPLEX and x.is_conj()):
        x = x.resolve_conj().resolve_neg()
    array: NDArray[Any] = x.numpy()
    return array


def _sums_on_host(a: NDArray[Any], fields: Collection[Field], batch: int, channels: int) -> Sums:
    by_sample = bool(batch) and a.ndim > 0 and len(a) == batch
    samples = batch if by_sample else 1
    with np.errstate(all="ignore"):
        flat, squares, scale, safe = _squares(_rows(a, samples))
        parts: dict[str, Any] = {"squares": squares}
        if fields:
            ordered = a.dtype.kind != "c"
            if "sum" in fields and ordered:
                parts["sums"] = _dots(flat, _ones(flat.shape[-1], flat.dtype))
            if ("positive" in fields or "units" in fields) and ordered and a.size:
                parts |= _active_on_host(a, channels)
            if "nonfinite" in fields:
                parts["nonfinite"] = 0 if safe else np.count_nonzero(~np.isfinite(flat))
            if "samples" in fields and by_sample:
                parts["samples"] = squares
    return Sums(a.size, samples, parts, scale)


def _norms_on_host(arrays: Sequence[NDArray[Any]]) -> list[Sums]:
    """Of each: the large ones one by one, the tiny ones, whose price is that of calls, as one line in float64."""
    with np.errstate(all="ignore"):
        tiny = [index for index, a in enumerate(arrays) if 0 < a.size <= _TINY and a.dtype == np.float32]
        found = dict(zip(tiny, _norms_of_tiny([arrays[index] for index in tiny]), strict=True))
        for index, a in enumerate(arrays):
            if index not in found:
                _, squares, scale, _ = _squares(_rows(a, 1))
                found[index] = Sums(a.size, 1, {"squares": squares}, scale)
    return [found[index] for index in range(len(arrays))]


def _norms_of_tiny(arrays: Sequence[NDArray[Any]]) -> list[Sums]:
    """Of arrays of float32 that have entries: no square of theirs leaves the range of float64."""
    if not arrays:
        return []
    line = np.concatenate(arrays, axis=None, dtype=np.float64)
    starts = np.cumsum([0, *(a.size for a in arrays[:-1])])
    squares = np.add.reduceat(np.square(line, out=line), starts)
    return [Sums(a.size, 1, {"squares": squares[index : index + 1]}) for index, a in enumerate(arrays)]


def _both_in_rows(x: Tensor, y: Tensor) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Two tensors of real numbers, of one shape and kind, as rows that match; None where they are not such."""
    if not (_is_plain(x) and _is_plain(y) and x.shape == y.shape and x.dtype == y.dtype and x.dtype not in _COMPLEX):
        return None
    a, b = _array(x), _array(y)
    if not (a.flags.c_contiguous or b.flags.c_contiguous):
        moved = _with_channels_last(a), _with_channels_last(b)
        a, b = moved if all(each.flags.c_contiguous for each in moved) else (a, b)
    if not (a.flags.c_contiguous and b.flags.c_contiguous):
        one, other = _with_rows_last(a), _with_rows_last(b)
        if one is not None and other is not None:
            return one, other
    width = _width(a.size)
    return np.ascontiguousarray(a).reshape(-1, width), np.ascontiguousarray(b).reshape(-1, width)


def _crossed(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], float] | None:
    """The sums of squares of the rows of both, and their inner product; None where it may have left the range.

    Rows are in order of the samples, and so are the sums, which are kept; what is crossed is not.
    """
    squares, others, products = (np.empty(a.shape[:-1], a.dtype) for _ in range(3))
    step = max(1, _NEAR * len(a) // a.size)
    with np.errstate(all="ignore"):
        for start in range(0, len(a), step):
            of = slice(start, start + step)
            for out, one, other in ((squares, a, a), (others, b, b), (products, a, b)):
                np.vecdot(one[of], other[of], out=out[of])
        low, high = _RANGE[a.dtype.char]
        first, second, crossed = (
            np.add.reduce(each, axis=None, dtype=np.float64) for each in (squares, others, products)
        )
    if not (low < first < high and low < second < high and _CROSSED[0] < abs(crossed) < _CROSSED[1]):
        return None
    return squares.reshape(-1), others.reshape(-1), float(crossed)


def _squares(flat: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], float, bool]:
    """The rows as they were summed, their sums of squares, the scale of both, and whether all entries are finite.

    A total that is an ordinary number says that nothing overflowed, vanished or was nan: the usual case.
    """
    if flat.size < _FEW:
        flat = flat.astype(np.float64, copy=False)
    squares = _dots(flat, flat)
    low, high = _RANGE[flat.dtype.char]
    if low < np.add.reduce(squares) < high or not flat.size:
        return flat, squares, 1.0, True
    flat, scale = _in_range(flat)
    return flat, _dots(flat, flat), scale, False


def _dots(rows: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    """The inner products of rows, in a line."""
    found: NDArray[Any] = np.vecdot(rows, others)
    return found if found.ndim == 1 else found.reshape(-1)


def _rows(a: NDArray[Any], samples: int) -> NDArray[Any]:
    """As rows of real numbers, in order of the samples, without a copy where it can be: order within one is free.

    They are the last axis; of memory that is not contiguous there may be more than one axis before it.
    """
    if not a.flags.c_contiguous:
        a = _with_channels_last(a)
    if not a.flags.c_contiguous:
        rows = _with_rows_last(a)
        if rows is not None:
            return rows
        a = np.ascontiguousarray(a)
    if a.dtype.kind == "c":
        a = a.reshape(samples, -1).view(a.real.dtype)
    width = _width(a.size // samples)
    return a if a.ndim == 2 and a.shape[1] == width else a.reshape(a.size // width, width)


def _with_channels_last(a: NDArray[Any]) -> NDArray[Any]:
    """With the second axis moved to the end, if that is how it lies in memory (`channels_last`)."""
    moved = np.moveaxis(a, 1, -1) if a.ndim > 2 else a
    return moved if moved.flags.c_contiguous else a


def _with_rows_last(a: NDArray[Any]) -> NDArray[Any] | None:
    """As rows that are parts of the last axis, if its entries lie side by side and are many, as in sequences."""
    if a.ndim < 2 or a.dtype.kind == "c" or a.strides[-1] != a.itemsize:
        return None
    width = _width(a.shape[-1])
    return a.reshape(*a.shape[:-1], -1, width) if width >= 32 else None


@lru_cache(maxsize=4096)
def _width(length: int) -> int:
    """The largest divisor that is no longer than a row; all, where there is none of a useful size."""
    if length <= _ROW:
        return max(length, 1)
    found = next(width for width in range(_ROW, 0, -1) if length % width == 0)
    return found if found >= 32 else length


@lru_cache(maxsize=64)
def _ones(length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.ones(length, dtype)


def _in_range(flat: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """The rows in float64, in units of a power of two near the largest entry if their squares would not be normal."""
    wide = flat.astype(np.float64, copy=False)
    if flat.dtype == np.float32:
        return wide, 1.0  # no square of a float32 leaves the range
    largest = float(np.max(np.abs(wide)))
    if not 0 < largest < np.inf:
        return wide, 1.0
    scale = 2.0 ** float(np.clip(np.floor(np.log2(largest)), -1000.0, 1000.0))
    return wide / scale, scale


def _active_on_host(a: NDArray[Any], channels: int) -> dict[str, Any]:
    """How many entries are > 0, and which units ever are."""
    axis = channels % a.ndim if a.ndim else 0
    if axis == 0:
        positive = a > 0
        units = np.logical_or.reduce(positive, axis=tuple(range(1, a.ndim))) if a.ndim else positive
        return {"positive": np.count_nonzero(positive), "units": units.reshape(-1)}
    count, units = _active_in_samples(a)
    others = tuple(each for each in range(units.ndim) if each != axis - 1)
    return {"positive": count, "units": np.logical_or.reduce(units, axis=others) if others else units}


def _active_in_samples(a: NDArray[Any]) -> tuple[int, NDArray[np.bool_]]:
    """How many entries are > 0, and which of a sample ever are: of a large array a part at a time, by a small mask."""
    if a.size <= _NEAR:
        positive = a > 0
        # Over samples first: where a sample's entries lie side by side, that is a row of bytes at a time.
        return int(np.count_nonzero(positive)), np.logical_or.reduce(positive, axis=0)
    step = max(1, _NEAR * len(a) // a.size)
    mask = np.empty_like(a[:step], dtype=bool)
    count, ever = 0, np.zeros(a.shape[1:], bool)
    for start in range(0, len(a), step):
        part = a[start : start + step]
        positive = np.greater(part, 0, out=mask[: len(part)])
        count += int(np.count_nonzero(positive))
        ever |= np.logical_or.reduce(positive, axis=0)
    return count, ever


# ------------------------------------------------------------------------------------------------------- by PyTorch


@torch.no_grad()
def _sums_on_device(x: Tensor, fields: Collection[Field], batch: int, channels: int) -> Sums:
    x = x.detach()
    count = x.numel()
    if x.layout != torch.strided:
        x = x.coalesce().values() if x.is_sparse else x.to_dense()
    is_complex, by_sample = x.is_complex(), bool(batch) and x.ndim > 0 and x.shape[0] == batch
    flat = (torch.view_as_real(x.resolve_conj()) if is_complex else x).reshape(batch if by_sample else 1, -1)
    parts = {"norms": _norms(flat)}
    if "sum" in fields and not is_complex:
        parts["sums"] = flat.sum(dim=1, dtype=_wide(flat))
    if ("positive" in fields or "units" in fields) and not is_complex and x.numel():
        parts |= _active(x, channels)
    if "nonfinite" in fields:
        parts["nonfinite"] = _nonfinite(flat, parts["norms"])
    if "samples" in fields and by_sample:
        parts["samples"] = parts["norms"]
    return Sums(count, batch if by_sample else 1, parts)


def _wide(x: Tensor) -> torch.dtype:
    """What is accumulated in."""
    if x.dtype == torch.float64 or x.device.type not in ("cpu", "mps"):
        return torch.float64
    return torch.float32


def _norm_of(flat: Tensor, dtype: torch.dtype, dim: int | None = 1) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(flat, dim=dim, dtype=dtype)
    return norms


def _norms(flat: Tensor) -> Tensor:
    """The norm of every row."""
    direct = flat.device.type not in ("cpu", "mps") or (flat.device.type == "cpu" and flat.numel() < _SHORT)
    if direct and flat.dtype != torch.float64:
        return _norm_of(flat, torch.float64)  # no square of a float32 leaves its range
    if flat.device.type == "cpu":
        norms = _norm_of(flat, _wide(flat))
        if not flat.numel() or _SMALL < float(_norm_of(norms, torch.float64, None)) < _LARGE:
            return norms
        if flat.dtype != torch.float64:
            return _norm_of(flat, torch.float64)
    return _scaled_norms(flat) if flat.numel() else torch.zeros(len(flat), dtype=_wide(flat), device=flat.device)


def _scaled_norms(flat: Tensor) -> Tensor:
    """Likewise, where squares may leave the range: in units of the largest entry."""
    wide = flat.to(_wide(flat))
    largest = wide.abs().amax()
    usable = (largest > 0) & largest.isfinite()
    scale = torch.where(usable, largest, torch.ones_like(largest))
    return _norm_of(wide / scale, wide.dtype) * scale


def _active(x: Tensor, channels: int) -> dict[str, Tensor]:
    """How many entries are > 0, and which units ever are."""
    positive = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    torch.gt(x, 0, out=positive)
    if x.ndim == 0:
        return {"positive": positive, "units": positive.reshape(1)}
    axis = channels % x.ndim
    others = [each for each in range(x.ndim) if each != axis]
    # In two steps, each of fewer than 2^24 ones, so that float32 counts exactly.
    first = [each for each in others if each != 0] if axis != 0 else others
    counts = (positive.sum(dim=first) if first else positive).to(_wide(x))
    units = counts.sum(dim=0) if axis != 0 and x.ndim > 1 and 0 in others else counts
    return {"positive": units.sum(), "units": units > 0}


def _nonfinite(flat: Tensor, norms: Tensor) -> Tensor:
    """How many entries are nan or inf."""
    if flat.device.type == "cpu" and bool(norms.isfinite().all()):
        return torch.zeros((), dtype=torch.float64)
    return flat.isfinite().logical_not_().sum()


# --------------------------------------------------------------------------------------------------------- on the host


def _hosted(everything: Sequence[Sums]) -> list[Sums]:
    """All parts as arrays of NumPy."""
    by_device: dict[torch.device, list[tuple[int, str, Tensor]]] = {}
    for index, each in enumerate(everything):
        for name, part in each.parts.items():
            if isinstance(part, Tensor):
                by_device.setdefault(part.device, []).append((index, name, part))
    if not by_device:
        return [*everything]
    found = [dict(each.parts) for each in everything]
    for device, members in by_device.items():
        wide = torch.float32 if device.type == "mps" else torch.float64
        line = torch.cat([part.reshape(-1).to(wide) for _, _, part in members]).cpu().double().numpy()
        cuts = np.cumsum([part.numel() for _, _, part in members])[:-1]
        for (index, name, _), values in zip(members, np.split(line, cuts), strict=True):
            found[index][name] = values
    return [replace(each, parts=parts) for each, parts in zip(everything, found, strict=True)]


def _totals(pieces: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """The sum of each, in float64, of shape (pieces, 1)."""
    if not pieces:
        return np.zeros((0, 1))
    # A piece without entries would be given the first of the next.
    full = [piece if len(piece) else np.zeros(1) for piece in pieces]
    starts = np.cumsum([0, *(len(piece) for piece in full[:-1])])
    return np.add.reduceat(np.concatenate(full, dtype=np.float64), starts)[:, None]


_PLAIN = np.ones(1)


def _of_squares(of: Sums, sumsq: NDArray[np.float64], total: NDArray[np.float64] | None) -> Moments:
    parts = of.parts
    return Moments(
        count=of.count,
        rows=of.rows,
        scale=_PLAIN if of.scale == 1 else np.array([of.scale]),
        sumsq=sumsq,
        sum=total,
        positive=_one(parts, "positive"),
        nonfinite=_one(parts, "nonfinite"),
        units=parts["units"][None] if "units" in parts else None,
        samples=parts["samples"].reshape(1, of.rows, -1).sum(axis=2, dtype=np.float64) if "samples" in parts else None,
    )


def _one(parts: dict[str, Any], name: str) -> NDArray[np.float64] | None:
    return np.array([parts[name]], np.float64) if name in parts else None


def _of_norms(of: Sums) -> Moments:
    """Squares in units of a power of two near the largest norm, where those would leave the range of float64."""
    parts = of.parts
    with np.errstate(all="ignore"):
        norms = parts["norms"]
        largest = float(norms.max(initial=0.0))
        safe = 2.0**-400 < largest < 2.0**400 or not np.isfinite(largest) or largest == 0
        scale = 1.0 if safe else 2.0 ** float(np.clip(np.floor(np.log2(largest)), -1000.0, 1000.0))
        units = norms / scale
        one: dict[str, Any] = {
            "scale": np.array([scale]),
            "sumsq": np.array([np.dot(units, units)]),
            "sum": np.array([parts["sums"].sum() / scale]) if "sums" in parts else None,
            "positive": parts.get("positive"),
            "nonfinite": parts.get("nonfinite"),
            "units": parts["units"][None] > 0 if "units" in parts else None,
            "samples": (units * units)[None] if "samples" in parts else None,
        }
    return Moments(count=of.count, rows=of.rows, **one)
