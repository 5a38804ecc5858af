"""Files are written whole or not at all, and refusals say what to do."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from skipscope import files
from skipscope.errors import InputError
from skipscope.files import as_path, check_writable, read_whole, write_whole

posix = pytest.mark.skipif(os.name != "posix", reason="permission bits, links and devices are POSIX's")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_bytes(b"old")
    return path


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*args: object, **kwargs: object) -> None:
        raise error

    return call


def half_then(error: BaseException) -> Callable[[BinaryIO], None]:
    def write(stream: BinaryIO) -> None:
        stream.write(b"half of the new")
        stream.flush()
        raise error

    return write


def assert_untouched(target: Path) -> None:
    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]


# ------------------------------------------------------------------------------------------------------ writing


def test_bytes_are_written(tmp_path: Path) -> None:
    write_whole(tmp_path / "new.bin", b"a\x00b\r\n")
    assert read_whole(tmp_path / "new.bin") == b"a\x00b\r\n"
    assert [path.name for path in tmp_path.iterdir()] == ["new.bin"]


def test_a_function_may_write_and_the_path_may_be_a_string(target: Path) -> None:
    def write(stream: BinaryIO) -> None:
        stream.write(b"in ")
        stream.write(b"pieces")

    write_whole(str(target), write)
    assert target.read_bytes() == b"in pieces"
    assert list(target.parent.iterdir()) == [target]


def test_the_old_file_is_whole_until_the_new_one_is(target: Path) -> None:
    seen = []

    def write(stream: BinaryIO) -> None:
        stream.write(b"new")
        stream.flush()
        seen.append(target.read_bytes())

    write_whole(target, write)
    assert seen == [b"old"]
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt(), MemoryError(), InputError("a value")])
def test_whatever_the_writer_raises_the_old_file_stays(target: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write_whole(target, half_then(error))
    assert_untouched(target)


def test_a_killed_process_leaves_the_old_file(target: Path) -> None:
    program = f"""
import os
from skipscope.files import write_whole

def write(stream):
    stream.write(b"half of the new")
    stream.flush()
    os._exit(9)  # as abrupt as a kill: nothing is cleaned up

write_whole({str(target)!r}, write)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 9
    assert target.read_bytes() == b"old"
    write_whole(target, b"new")  # what the killed one left behind is in nobody's way
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(target: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setattr(os, step, raising(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(InputError, match=r"^cannot write '.*report\.html': no space is left on the disk; free some"):
        write_whole(target, b"new")
    assert_untouched(target)


def test_a_disk_that_fills_up_while_the_writer_writes(target: Path) -> None:
    with pytest.raises(InputError, match="no space is left on the disk"):
        write_whole(target, half_then(OSError(errno.ENOSPC, "No space left on device")))
    assert_untouched(target)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EACCES, "permission denied; choose another place, or change its permissions"),
        (errno.EPERM, "permission denied; choose another place, or change its permissions"),
        (errno.EROFS, "that file system is read-only; choose another place"),
        (errno.EDQUOT, "your disk quota is used up; free some space and try again"),
        (errno.EIO, f"{os.strerror(errno.EIO).lower()}; choose another place"),
    ],
)
def test_refusals_say_why_and_what_to_do(
    target: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    monkeypatch.setattr(files, "open", raising(OSError(number, os.strerror(number))), raising=False)
    for refused in (lambda: write_whole(target, b"new"), lambda: check_writable(target, overwrite=True)):
        with pytest.raises(InputError) as caught:
            refused()
        assert str(caught.value) == f"cannot write {str(target)!r}: {reason}."
    assert_untouched(target)


def test_an_error_without_a_number_is_told_as_well(target: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write '.*': the tape is jammed; choose another place"):
        write_whole(target, half_then(OSError("The tape is jammed")))
    with pytest.raises(InputError, match=r"cannot write '.*': oserror; choose another place"):
        write_whole(target, half_then(OSError()))
    assert_untouched(target)


def test_a_directory_that_cannot_be_flushed_is_no_failure(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open
    directories = []

    def open_file(path: Any, *args: Any, **kwargs: Any) -> int:
        if Path(path) == target.parent:
            directories.append(path)
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_file)
    write_whole(target, b"new")
    assert target.read_bytes() == b"new"
    assert directories == [target.parent]


# --------------------------------------------------------------------------------------------- permissions, links


@posix
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_new_file_has_the_usual_permissions(
    tmp_path: Path, umask: Callable[[int], int], mask: int, mode: int
) -> None:
    umask(mask)
    write_whole(tmp_path / "new.bin", b"new")
    assert stat.S_IMODE((tmp_path / "new.bin").stat().st_mode) == mode


@posix
def test_a_replaced_file_keeps_its_permissions(target: Path) -> None:
    target.chmod(0o604)
    write_whole(target, b"new")
    assert stat.S_IMODE(target.stat().st_mode) == 0o604


@posix
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_is_followed_and_stays_a_link(tmp_path: Path, dangling: bool) -> None:
    (tmp_path / "there").mkdir()
    linked, link = tmp_path / "there" / "data.bin", tmp_path / "link.bin"
    if not dangling:
        linked.write_bytes(b"old")
    link.symlink_to(linked)
    check_writable(link, overwrite=True)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert linked.read_bytes() == b"new"
    assert list(linked.parent.iterdir()) == [linked]


@posix
def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for refused in (lambda: write_whole(pipe, b"new"), lambda: check_writable(pipe, overwrite=True)):
        with pytest.raises(InputError, match="it is a device or a pipe; give the name of a file"):
            refused()
    assert stat.S_ISFIFO(pipe.stat().st_mode)


# ------------------------------------------------------------------------------------------------- before the work


def test_check_writable_returns_the_path_and_leaves_nothing_behind(tmp_path: Path) -> None:
    assert check_writable(str(tmp_path / "new.bin")) == tmp_path / "new.bin"
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_refused_unless_it_may_be_replaced(target: Path) -> None:
    with pytest.raises(InputError, match=r"report\.html': it exists; choose another name, or pass overwrite=True"):
        check_writable(target)
    assert check_writable(target, overwrite=True) == target
    assert_untouched(target)


@pytest.mark.parametrize("act", [check_writable, lambda path: write_whole(path, b"new")])
def test_places_where_no_file_can_be(target: Path, act: Callable[[Path], object]) -> None:
    with pytest.raises(InputError, match=r"there is no directory '.*missing'; create it first"):
        act(target.parent / "missing" / "new.bin")
    with pytest.raises(InputError, match="it is a directory; give the name of a file"):
        act(target.parent)
    with pytest.raises(InputError, match="a part of the path is a file, not a directory; choose another path"):
        act(target / "new.bin")
    with pytest.raises(InputError, match="the name is too long; choose a shorter one"):
        act(target.parent / ("x" * 256))
    assert_untouched(target)


def test_a_long_name_that_the_system_takes_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".html")
    check_writable(path)
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("wrong", [3, None, b"bytes", ["a"]])
def test_what_is_no_path_is_said_to_be_none(wrong: Any) -> None:
    for act in (as_path, check_writable, read_whole, lambda path: write_whole(path, b"")):
        with pytest.raises(InputError, match=r"^path must be a string or a Path; got"):
            act(wrong)


def test_a_null_character_is_refused() -> None:
    with pytest.raises(InputError, match="path must not contain a null character"):
        check_writable("a\0b")


# ------------------------------------------------------------------------------------------------------- reading


def test_reading_says_what_is_wrong(target: Path) -> None:
    assert read_whole(target) == b"old"
    with pytest.raises(InputError, match=r"^cannot read '.*none\.bin': there is no such file; check the name"):
        read_whole(target.parent / "none.bin")
    with pytest.raises(InputError, match=r"^cannot read '.*': it is a directory; give the name of a file"):
        read_whole(target.parent)
