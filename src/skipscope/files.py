"""Whole-or-nothing files: a reader sees the old file or the new one, never half of one.

What is written goes to a hidden file beside the target, is flushed to the disk, and takes the target's name in one
step. Whatever fails before that step (a full disk, a bug, Ctrl-C) leaves what was there untouched and nothing
new behind. Whoever computes for an hour and writes at the end calls `check_writable` first. What the operating system
refuses is an `InputError` that says what to do. This module imports the errors and the standard library, so
that readings, checkpoints, charts and reports can all write through it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from skipscope.errors import InputError, quoted

__all__ = ["as_path", "check_writable", "read_whole", "write_whole"]

_ELSEWHERE = "choose another place, or change its permissions."
_REASONS = {
    errno.ENOTDIR: ("a part of the path is a file, not a directory", "choose another path."),
    errno.EISDIR: ("it is a directory", "give the name of a file."),
    errno.EACCES: ("permission denied", _ELSEWHERE),
    errno.EPERM: ("permission denied", _ELSEWHERE),
    errno.EROFS: ("that file system is read-only", "choose another place."),
    errno.ENOSPC: ("no space is left on the disk", "free some space and try again."),
    errno.EDQUOT: ("your disk quota is used up", "free some space and try again."),
    errno.EFBIG: ("it would be larger than files may be here", "choose another place, or make it smaller."),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one."),
}


def as_path(path: str | os.PathLike[str]) -> Path:
    """`path` as a `Path`.

    Raises:
        InputError: it is no path at all.
    """
    try:
        known = Path(path)
    except TypeError:
        raise InputError(f"path must be a string or a Path; got {quoted(path)}.") from None
    if "\0" in str(known):
        raise InputError(f"path must not contain a null character; got {quoted(str(known))}.")
    return known


def check_writable(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Return `path` as a `Path` if a file can be written there; to be called before the work that is to be saved.

    Tried, not deduced: a file is created beside the target and removed again, since permission bits do not know of
    read-only mounts, quotas and access lists.

    Args:
        path: where the file is to be.
        overwrite: whether a file that is there already may be replaced.

    Raises:
        InputError: it is a directory or a device, it exists and `overwrite` is False, or no file can be made there.
    """
    target = as_path(path)
    try:
        _require_file(target)
        if target.exists() and not overwrite:
            raise InputError(f"cannot write {str(target)!r}: it exists; choose another name, or pass overwrite=True.")
        beside = _beside(target)
        with open(beside, "xb"):
            pass
        beside.unlink()
    except OSError as error:
        raise _refusal("write", target, error) from error
    return target


def write_whole(path: str | os.PathLike[str], data: bytes | Callable[[BinaryIO], None]) -> None:
    """Write a file whole, or leave everything as it was; an existing file is replaced.

    A link is followed, a replaced file's permissions are kept, a new file gets the usual ones.

    Args:
        path: where the file is to be.
        data: what is in it, or a function that writes it to the binary stream it is given, where it may also read.

    Raises:
        InputError: the operating system refuses.
    """
    named = as_path(path)
    try:
        target = Path(os.path.realpath(named))
        _require_file(target)
        beside = _beside(target)
        try:
            _fill(beside, data)
            if target.exists():
                os.chmod(beside, stat.S_IMODE(target.stat().st_mode))
            os.replace(beside, target)
        except BaseException:  # Ctrl-C too must leave nothing behind
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
    except OSError as error:
        raise _refusal("write", named, error) from error
    _settle(target.parent)


def read_whole(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a file.

    Raises:
        InputError: the operating system refuses, most often because there is no such file.
    """
    source = as_path(path)
    try:
        if source.exists() and not (source.is_file() or source.is_dir()):  # whose end may never come
            raise InputError(f"cannot read {str(source)!r}: it is a device or a pipe; give the name of a file.")
        return source.read_bytes()
    except OSError as error:
        raise _refusal("read", source, error) from error


def _require_file(target: Path) -> None:
    """Only a regular file may be replaced: anything else (/dev/null, a pipe) would be lost to everybody."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory")
    if target.exists() and not target.is_file():
        raise InputError(f"cannot write {str(target)!r}: it is a device or a pipe; give the name of a file.")


def _beside(target: Path) -> Path:
    """A new name in the target's own directory: only within one file system is a rename one step."""
    with contextlib.suppress(FileNotFoundError):
        os.lstat(target)  # refuses a name that is too long, which the hidden file's short one would not show
    return Path(os.path.realpath(target)).with_name(f".skipscope-{secrets.token_hex(8)}.tmp")


def _fill(beside: Path, data: bytes | Callable[[BinaryIO], None]) -> None:
    with open(beside, "x+b") as stream:  # unlike tempfile's, such a file has the permissions the umask gives
        if callable(data):
            data(stream)
        else:
            stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _settle(directory: Path) -> None:
    """Make the rename survive a power cut, where the system can flush a directory (Windows cannot)."""
    with contextlib.suppress(OSError):
        opened = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _refusal(verb: str, path: Path, error: OSError) -> InputError:
    unknown = ((error.strerror or str(error) or type(error).__name__).lower(), "choose another place.")
    reason, advice = _REASONS.get(error.errno or 0, unknown)
    if error.errno == errno.ENOENT and verb == "read":
        reason, advice = "there is no such file", "check the name and the directory."
    elif error.errno == errno.ENOENT and not path.parent.exists():
        reason, advice = f"there is no directory {str(path.parent)!r}", "create it first."
    return InputError(f"cannot {verb} {str(path)!r}: {reason}; {advice}")
