"""`skipscope propagation` on the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skipscope import propagation, studies
from skipscope.readings import Readings


def test_the_verb_measures_prints_and_keeps(succeeded: Callable[..., str], tmp_path: Path):
    how = ["--depths", "8", "--design", "plain, batch norm", "--seeds", "20", "--width", "8", "--size", "8"]
    told = json.loads(succeeded("propagation", *how, "--folder", tmp_path / "kept", "--format", "json"))
    assert {row["of"] for row in told["ends"]} == {"signal", "gradient"}
    assert [each["rule"] for each in told["findings"]] == list(propagation.CLAIMS.values())
    again = succeeded("propagation", *how, "--folder", tmp_path / "kept")
    assert "section 4.1" in again
    found = Readings.load(tmp_path / "kept" / "readings.parquet")
    assert math.isclose(told["ends"][1]["q50"], propagation.ends(found)["q50"][1])


def test_full_is_the_papers_size_where_nothing_else_was_said(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    asked: dict[str, Any] = {}

    def study(**given: Any) -> None:
        asked.update(given)
        raise KeyboardInterrupt

    monkeypatch.setattr(studies, "propagation", study)
    run("propagation", "--full", "--width", "4")
    assert {name: asked[name] for name in ("width", "size", "batch")} == {"width": 4, "size": 32, "batch": 128}
    assert asked["depths"] == (20, 32, 44, 56, 110)
