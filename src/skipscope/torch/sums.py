"""The sums of a tensor on its own device, and the one transfer that brings those of a whole probe to the host.

`sums(x)` is what `skipscope.moments.moments` is for arrays, arranged for tensors: nothing waits for the device, half
precision is accumulated in float32 or wider, and what is kept is a norm and a sum a row, never a square, so that what a
float can hold is not lost. On a processor float32 is summed in float32 (each row by vector instructions, rows in
float64), which is as fast as memory; where that leaves the range of squares, again in float64. On other devices
float64 is used at once, which saves them the question. `gathered` turns all of them into `Moments`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipscope.moments import Field, Moments

__all__ = ["Sums", "gathered", "norms_of", "sums"]

# Sums of squares between these squared are ordinary float32 numbers, and what was lost below is no part of the norm.
_SMALL, _LARGE = 1e-12, 1e18

_SHORT = 1 << 15  # entries; below, float64 costs less than the question whether it was needed


@dataclass(frozen=True, eq=False)
class Sums:
    """What was summed of one tensor.

    Attributes:
        count: entries.
        rows: samples, where the first axis is the batch's; else 1.
        parts: by name, on the tensor's device: `norms` of all rows, and what was asked for.
    """

    count: int
    rows: int
    parts: dict[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
def sums(x: Tensor, fields: Collection[Field] = (), *, batch: int = 0, channels: int = -1) -> Sums:
    """The sums of x.

    Args:
        x: floating or complex tensor of any layout; of complex entries the modulus counts, and what asks for an order
            (`positive`, `units`) or for a mean is left out.
        fields: as of `skipscope.moments.moments`.
        batch: samples of the batch; if the first axis is as long, rows are samples.
        channels: the axis of the units.
    """
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


def norms_of(tensors: Sequence[Tensor]) -> list[Sums]:
    """The norm of each of many tensors, as are the parameters: a call for all of them, where they are alike."""
    plain = [index for index, x in enumerate(tensors) if x.layout == torch.strided and x.dtype == torch.float32]
    found: dict[int, Sums] = {}
    groups: dict[torch.device, list[int]] = {}
    for index in plain:
        groups.setdefault(tensors[index].device, []).append(index)
    for device, members in groups.items():
        wide = torch.float64 if device.type not in ("cpu", "mps") else None
        norms = torch._foreach_norm([tensors[index].detach() for index in members], 2, dtype=wide)
        if device.type == "cpu":
            odd = [not _SMALL < norm < _LARGE for norm in torch.stack(norms).tolist()]
        elif device.type == "mps":
            odd = [True] * len(members)
        else:
            odd = [False] * len(members)
        for index, norm, again in zip(members, norms, odd, strict=True):
            if not again:
                found[index] = Sums(tensors[index].numel(), 1, {"norms": norm.reshape(1)})
    return [found[index] if index in found else sums(x) for index, x in enumerate(tensors)]


def gathered(everything: Sequence[Sums]) -> list[Moments]:
    """The moments of all of them, each with the leading axis s = 1: one transfer a device."""
    pieces = [(index, name, part) for index, each in enumerate(everything) for name, part in each.parts.items()]
    hosted: list[dict[str, Any]] = [{} for _ in everything]
    by_device: dict[torch.device, list[tuple[int, str, Tensor]]] = {}
    for piece in pieces:
        by_device.setdefault(piece[2].device, []).append(piece)
    for device, members in by_device.items():
        wide = torch.float32 if device.type == "mps" else torch.float64
        line = torch.cat([part.reshape(-1).to(wide) for _, _, part in members]).cpu().double().numpy()
        cuts = np.cumsum([part.numel() for _, _, part in members])[:-1]
        for (index, name, _), values in zip(members, np.split(line, cuts), strict=True):
            hosted[index][name] = values
    return [_moments(each, parts) for each, parts in zip(everything, hosted, strict=True)]


# ------------------------------------------------------------------------------------------------------ on the device


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


def _moments(of: Sums, parts: dict[str, Any]) -> Moments:
    """Squares in units of a power of two near the largest norm, where those would leave the range of float64."""
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
