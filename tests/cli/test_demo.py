"""`skipscope demo`: a folder, or nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from skipscope import studies
from skipscope.readings import Readings


def test_demo_into_a_new_folder_and_again(
    run: Callable[..., Any], succeeded: Callable[..., str], tree: Callable[..., Any], here: Path
):
    text = succeeded("demo", "--seeds", "20", "--out", "new/folder")

    assert text.endswith("Report: new/folder/index.html\nReadings: new/folder/readings.parquet\n")
    assert sorted(tree(here / "new" / "folder")) == ["index.html", "readings.parquet"]
    measured = Readings.load(here / "new/folder/readings.parquet")
    assert set(measured.cells["study"]) == {"flow", "notebook"}
    assert measured.select(study="notebook").rows["seed"].n_unique() == 200
    before = tree(here)

    with mock.patch.object(studies, "flow", side_effect=KeyboardInterrupt) as flow:
        again = run("demo", "--seeds", "20", "--out", "new/folder")

    flow.assert_called_once()  # the folder is our own, and may be written again
    assert again.code == 130
    assert tree(here) == before


def nothing_is_measured() -> Any:
    return mock.patch.object(studies, "flow", side_effect=AssertionError("the folder was not checked first"))


def test_demo_keeps_out_of_a_folder_of_others(refused: Callable[..., str], tree: Callable[..., Any], here: Path):
    (here / "mine").mkdir()
    (here / "mine" / "index.html").write_text("<html>mine</html>")

    with nothing_is_measured():
        message = refused("demo", "--out", "mine")

    assert message == "--out 'mine' holds files that skipscope did not write: name another folder, or --overwrite."
    assert tree(here) == {"mine": None, "mine/index.html": b"<html>mine</html>"}


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("file", "file exists"),
        ("file/below", "not a directory"),
        ("/dev/null/x", "not a directory"),
        ("x" * 300, "file name too long"),
        ("deep/" + "x" * 300, "file name too long"),
    ],
)
def test_demo_where_no_folder_can_be(
    refused: Callable[..., str], tree: Callable[..., Any], here: Path, out: str, reason: str
):
    (here / "file").write_text("mine")

    with nothing_is_measured():
        message = refused("demo", "--out", out)

    assert message == f"--out {out!r} cannot be the demo's folder: {reason}; give another name."
    assert tree(here) == {"file": b"mine"}


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that even root cannot write to")
def test_demo_in_a_read_only_place(refused: Callable[..., str]):
    with nothing_is_measured():
        assert "cannot be the demo's folder" in refused("demo", "--out", "/proc/skipscope-report")


def test_demo_that_is_refused_leaves_no_folder(refused: Callable[..., str], tree: Callable[..., Any], here: Path):
    refused("demo", "--seeds", "0")
    refused("demo", "--seeds", "2", "--dtype", "float16", "--out", "a/b/c")

    assert tree(here) == {}


@pytest.mark.parametrize("when", ["flow", "notebook"])
def test_demo_that_is_interrupted_leaves_no_folder(
    run: Callable[..., Any], tree: Callable[..., Any], here: Path, when: str
):
    with mock.patch.object(studies, when, side_effect=KeyboardInterrupt):
        result = run("demo", "--seeds", "2", "--out", "a/b")

    assert result.code == 130
    assert tree(here) == {}
