"""A run: a folder that keeps long work part by part, so that whoever kills it loses little.

    plan.json            what is measured; written first, whole, and never changed
    part-000017.parquet  the readings of task 17 of the plan: whole, or not there
    readings.parquet     what the study returns, written when the last part is there
    .lock                empty; locked by the process that measures

Started again with the same plan, only parts that are missing or damaged are measured. Which task a part is depends on
the plan alone (not on the number of workers), and a part holds the numbers of its seeds to the bit, so the last file is
the same, byte for byte, however often the work was interrupted. Parts are written by one process, the one that hands
out the work: workers may be anywhere.

Two processes in one folder: the second is refused, by a lock that the operating system takes away with the process,
also when it is killed (no stale locks). Where there are no such locks (Windows, some network file systems) both
measure, which is wasteful and harmless: each file is put in place whole, and both write the same bytes.

This module knows parts and plans, not what is measured: it imports readings, files and errors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from skipscope.errors import InputError
from skipscope.files import as_path, read_whole, write_whole
from skipscope.readings import SCHEMA_VERSION, Readings

__all__ = ["Run", "opened", "scan"]

_FORMAT = "skipscope run 1"
_PLAN = "plan.json"
_READINGS = "readings.parquet"
_LOCK = ".lock"
_STAMP = "part of run"


@dataclass(frozen=True)
class Run:
    """A folder that is open for measuring; see `opened`.

    Attributes:
        folder: where it is.
        parts: how many parts the plan has.
        key: the digest of the plan, which stands in every part.
    """

    folder: Path
    parts: int
    key: str

    def path(self, part: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{part:06d}.parquet"

    def count(self) -> int:
        """How many parts are there, whole or not."""
        return sum(self.path(part).is_file() for part in range(self.parts))

    def load(self, part: int) -> Readings | None:
        """The readings of a part; None where it is missing, damaged, or not the part of this plan."""
        if not self.path(part).is_file():
            return None
        try:
            found = Readings.load(self.path(part))
        except InputError:  # damaged: it is measured again
            return None
        meta = dict(found.meta)
        if meta.pop(_STAMP, "") != self._stamp(part):
            return None
        return found.with_meta(meta)

    def save(self, part: int, readings: Readings) -> None:
        """Write a part, whole or not at all."""
        stamped = readings.with_meta({**readings.meta, _STAMP: self._stamp(part)})
        stamped.save(self.path(part), overwrite=True)

    def finish(self, readings: Readings) -> Path:
        """Write what the study returns; its file."""
        target = self.folder / _READINGS
        readings.save(target, overwrite=True)
        return target

    def _stamp(self, part: int) -> str:
        return f"{self.key}, {part}"


@contextmanager
def opened(folder: str | os.PathLike[str], plan: Mapping[str, Any], *, parts: int) -> Iterator[Run]:
    """A run in `folder`, which is made if need be, or goes on if it holds one of the same plan.

    Args:
        folder: a folder that is empty, not there yet, or a run.
        plan: what is measured, as JSON has it (texts, numbers, lists, mappings). The versions of skipscope, NumPy and
            Polars and of the readings' schema are added to it, for under others a bit might differ.
        parts: how many parts that makes.

    Raises:
        InputError: the folder holds something else, or a run of another plan (the message says what differs), or
            another process measures in it, or the operating system refuses. Work that is refused before its first
            part is there leaves no plan, so that the folder can be used when its input is mended.
    """
    place = as_path(folder)
    written = _text({"format": _FORMAT, "versions": _versions(), **plan, "parts": parts})
    _make(place)
    _require_run(place)
    with _locked(place) as alone:
        if alone:
            _sweep_up(place)
        new = not (place / _PLAN).exists()
        if new:
            write_whole(place / _PLAN, written.encode())
        else:
            _require_same(place, json.loads(written))
        run = Run(place, parts, hashlib.blake2b(written.encode(), digest_size=8).hexdigest())
        try:
            yield run
        except InputError:
            if new and not run.count():
                _leave(place)
            raise


def scan(folder: str | os.PathLike[str]) -> pl.LazyFrame:
    """The rows of all parts of a run as a lazy table (columns `skipscope.readings.ROWS`), read as they are needed.

    This is how site-level rows are read that would not fit the memory; what the cells are is in `readings.parquet`.

    Raises:
        InputError: the folder is no run, or no part is there yet.
    """
    place = as_path(folder)
    if not os.path.isfile(place / _PLAN):  # unlike Path.is_file, it takes a name that is too long
        raise InputError(f"folder {str(place)!r} is no run: it holds no {_PLAN}. Name the folder of a sweep.")
    found = sorted(place.glob("part-*.parquet"))
    if not found:
        raise InputError(f"folder {str(place)!r} holds no part yet: start its sweep again, with the same options.")
    return pl.scan_parquet(found)


# ------------------------------------------------------------------------------------------------------- the folder


def _make(place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if os.path.exists(place) else (error.strerror or type(error).__name__).lower()
        raise InputError(f"folder {str(place)!r} cannot be made: {reason}; name another.") from error


def _require_run(place: Path) -> None:
    """A folder with anything else in it is somebody's, and nothing is written there."""
    try:
        found = [each.name for each in place.iterdir() if each.name != _LOCK and not _unfinished(each)]
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"folder {str(place)!r} cannot be read: {reason}; name another.") from error
    if found and _PLAN not in found:
        raise InputError(
            f"folder {str(place)!r} is no run: it holds {sorted(found)[0]!r} and no {_PLAN}. Name an empty folder, or "
            "one that is not there yet."
        )


def _unfinished(path: Path) -> bool:
    """Whether this is a file that was being written (see files.py) when its process was killed."""
    return path.name.startswith(".skipscope-") and path.suffix == ".tmp"


def _sweep_up(place: Path) -> None:
    for path in place.iterdir():
        if _unfinished(path):
            with contextlib.suppress(OSError):
                path.unlink()


def _leave(place: Path) -> None:
    """Take away a run in which nothing was measured, and its folder unless there is something else in it."""
    for name in (_PLAN, _LOCK):
        with contextlib.suppress(OSError):
            (place / name).unlink()
    with contextlib.suppress(OSError):
        place.rmdir()


@contextmanager
def _locked(place: Path) -> Iterator[bool]:
    """Keeps other processes out; gives whether it could."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield False
        return
    try:
        handle = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"folder {str(place)!r} cannot be written to: {reason}; name another.") from error
    try:
        yield _lock(fcntl, handle, place)
    finally:
        os.close(handle)  # which also unlocks


def _lock(fcntl: Any, handle: int, place: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"folder {str(place)!r} is in use: another process measures in it. Wait for it, or name another folder."
        ) from None
    except OSError:  # a file system without locks
        return False
    return True


# --------------------------------------------------------------------------------------------------------- the plan


def _text(plan: Mapping[str, Any]) -> str:
    return json.dumps(plan, indent=1, allow_nan=False) + "\n"


@cache
def _versions() -> dict[str, Any]:
    from importlib.metadata import version  # a tenth of the import time of NumPy and Polars

    return {name: version(name) for name in ("skipscope", "numpy", "polars")} | {"readings": SCHEMA_VERSION}


def _require_same(place: Path, plan: dict[str, Any]) -> None:
    try:
        known = json.loads(read_whole(place / _PLAN))
    except (ValueError, RecursionError):
        known = None
    if not isinstance(known, dict) or known.get("format") != _FORMAT:
        raise InputError(
            f"folder {str(place)!r} is no run of this version of skipscope: its {_PLAN} says otherwise. Name another."
        )
    if (difference := _difference("", known, plan)) is not None:
        where, then, now = difference
        raise InputError(
            f"folder {str(place)!r} holds another run: {where} is {then} there and {now} here. Give what was given "
            "then, or name another folder."
        )


def _difference(where: str, then: Any, now: Any) -> tuple[str, str, str] | None:
    """The first thing in which two plans differ: its path, and both values."""
    if isinstance(then, dict) and isinstance(now, dict):
        pairs = [(f"{where}.{key}" if where else key, then.get(key), now.get(key)) for key in {**now, **then}]
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        pairs = [(f"{where}[{index}]", *both) for index, both in enumerate(zip(then, now, strict=True))]
    elif isinstance(then, list) and isinstance(now, list):
        return f"the number of {where}", str(len(then)), str(len(now))
    else:
        return None if then == now else (where, _short(then), _short(now))
    return next((found for pair in pairs if (found := _difference(*pair)) is not None), None)


def _short(value: Any, most: int = 80) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[: most - 3]}..."
