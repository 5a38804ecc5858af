"""Where networks on PyTorch are: what a device is called, and whether it is there."""

from __future__ import annotations

import torch

from skipscope.errors import InputError, choose, quoted

__all__ = ["DEVICES", "device_for"]

DEVICES = ("auto", "cpu", "cuda", "mps")
"""What may be asked for; `"auto"` is the fastest that is there: cuda, or else mps, or else cpu."""


def device_for(name: str | torch.device = "auto", *, dtype: str = "float32") -> torch.device:
    """The device of that name.

    Args:
        name: one of `DEVICES`, or one of several as PyTorch counts them, e.g. `cuda:1`.
        dtype: of the numbers that are to be computed with there; mps has no float64, and auto passes it by for such.

    Raises:
        InputError: there is no such device here, or it does not compute with such numbers.
    """
    if name == "auto":
        return torch.device("cuda" if _there("cuda") else "mps" if _there("mps") and dtype != "float64" else "cpu")
    kind, _, index = str(name).partition(":")
    choose("device", kind, DEVICES[1:] if isinstance(name, torch.device) else DEVICES)
    if index and not (kind == "cuda" and index.isascii() and index.isdigit()):
        raise InputError(
            f"device must be one of {', '.join(map(repr, DEVICES))}, or 'cuda:1'; got {quoted(str(name))}."
        )
    if not _there(kind, int(index or 0)):
        raise InputError(f"device={str(name)!r}: PyTorch finds no such device here; use device='cpu' or 'auto'.")
    if kind == "mps" and dtype == "float64":
        raise InputError("device='mps' has no float64: use dtype='float32', or device='cpu'.")
    return torch.device(name)


def _there(kind: str, index: int = 0) -> bool:
    if kind == "cuda":
        return torch.cuda.is_available() and index < torch.cuda.device_count()
    return kind == "cpu" or torch.backends.mps.is_available()
