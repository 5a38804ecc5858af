"""`skipscope report`: a page from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from skipscope import report


def test_report(succeeded: Callable[..., str], tree: Callable[..., Any], here: Path, saved: dict[str, Path]):
    text = succeeded("report", saved["he"], saved["lecun"], "--out", "page.html", "--title", "Two <of> them")

    assert text == "Report: page.html\n"
    assert "<title>Two &lt;of&gt; them</title>" in (here / "page.html").read_text()
    assert list(tree(here)) == ["page.html"]


def test_a_quiet_report_says_nothing(succeeded: Callable[..., str], here: Path, saved: dict[str, Path]):
    with mock.patch.object(report, "write") as write:
        assert succeeded("report", saved["he"], "--out", "page.html", "--quiet") == ""

    write.assert_called_once()


def test_a_report_replaces_nothing_unasked(
    refused: Callable[..., str], tree: Callable[..., Any], here: Path, saved: dict[str, Path]
):
    (here / "page.html").write_text("mine")

    assert "exists: give another name, or --overwrite." in refused("report", saved["he"], "--out", "page.html")
    assert tree(here) == {"page.html": b"mine"}
