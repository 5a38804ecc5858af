"""The command line as tests use it: in this process, or in one of its own, and files for it to read.

Most tests call `main` in this process; those about pipes, terminals and signals start a process of their own.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import polars as pl
import pytest

from skipscope import cli, readings, studies


class Result(NamedTuple):
    code: int
    out: str
    err: str


def _run(*arguments: object) -> Result:
    """`main` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main([str(each) for each in arguments])
    return Result(code, out.getvalue(), err.getvalue())


def _succeeded(*arguments: object) -> str:
    """What a command that succeeds writes to stdout; stderr is empty, for nobody watches it."""
    result = _run(*arguments)
    assert (result.code, result.err) == (0, "")
    return result.out


def _refused(*arguments: object) -> str:
    """The line of a command that is refused."""
    result = _run(*arguments)
    assert (result.code, result.out) == (2, ""), result
    assert result.err.startswith("skipscope: ")
    assert result.err.count("\n") == 1
    assert result.err.endswith("\n")
    return result.err.removeprefix("skipscope: ").rstrip("\n")


def _process(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """`python -m skipscope` in a process of its own."""
    usual = {name: value for name, value in os.environ.items() if name not in ("PYTHONUNBUFFERED", "NO_COLOR")}
    environment = usual | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"} | options.pop("env", {})
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, *(options.pop("code", None) or ["-m", "skipscope"]), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, **(pipes | options))


def _tree(folder: Path) -> dict[str, bytes | None]:
    """Every file under a folder, with what is in it."""
    return {str(each.relative_to(folder)): each.read_bytes() if each.is_file() else None for each in folder.rglob("*")}


@pytest.fixture(scope="session")
def run() -> Callable[..., Result]:
    return _run


@pytest.fixture(scope="session")
def succeeded() -> Callable[..., str]:
    return _succeeded


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    return _refused


@pytest.fixture(scope="session")
def process() -> Callable[..., subprocess.Popen[bytes]]:
    return _process


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, bytes | None]]:
    return _tree


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of readings, and of other things that are none."""
    folder = tmp_path_factory.mktemp("saved")
    files = ("he", "lecun", "others", "deep", "empty", "cut", "flipped", "foreign", "later", "text", "missing")
    found = {name: folder / f"{name}.parquet" for name in files} | {"folder": folder / "folder"}
    small: dict[str, Any] = {"depth": 6, "width": 8}
    studies.flow(seeds=range(8), **small).save(found["he"])
    studies.flow(seeds=range(4, 12), init="lecun", **small).save(found["lecun"])
    studies.flow(seeds=range(100, 104), **small).save(found["others"])
    studies.flow(seeds=range(8), depth=8, width=8).save(found["deep"])
    whole = found["he"].read_bytes()
    found["empty"].write_bytes(b"")
    found["cut"].write_bytes(whole[:-100])
    found["flipped"].write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    found["text"].write_text("this is no Parquet file\n")
    found["folder"].mkdir()
    pl.DataFrame({"a": [1, 2]}).write_parquet(found["foreign"])
    with mock.patch.object(readings, "SCHEMA_VERSION", 99):
        studies.flow(seeds=range(2), **small).save(found["later"])
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the commands run."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
