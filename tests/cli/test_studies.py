"""The studies highway, jacobian and correlation on the command line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skipscope import paths, shattering, spectra
from skipscope.readings import Readings
from skipscope.summary import summarise

HIGHWAY = ["highway", "--depth", "3", "--width", "6", "--seeds", "8", "--gain", "1,1/L", "--order", "pre-activation"]
JACOBIAN = ["jacobian", "--depths", "3,5", "--width", "5", "--seeds", "6", "--design", "plain"]
JACOBIAN += ["--design", "residual, 1/sqrt(L)"]
CORRELATION = ["correlation", "--depths", "3,5", "--width", "5", "--seeds", "6", "--design", "plain"]
CORRELATION += ["--design", "residual, 1/sqrt(L)"]


@pytest.mark.parametrize(
    ("command", "anchor"), [(HIGHWAY, "highway"), (JACOBIAN, "jacobian"), (CORRELATION, "correlation")]
)
def test_a_study_is_saved_and_reported_and_can_be_reported_again(
    succeeded: Callable[..., str], command: list[str], anchor: str, tmp_path: Path
):
    file, page, again = tmp_path / "a.parquet", tmp_path / "a.html", tmp_path / "b.html"
    out = succeeded(*command, "--out", file, "--report", page)
    assert "residual" in out or "pre-activation" in out
    assert set(Readings.load(file).cells["study"]) == {anchor}
    succeeded("report", file, "--out", again)
    for each in (page, again):
        assert f'<section id="{anchor}">' in each.read_text()


def test_highway_as_json_holds_everything(succeeded: Callable[..., str], tmp_path: Path):
    told = json.loads(succeeded(*HIGHWAY, "--format", "json", "--out", tmp_path / "a.parquet"))
    readings = Readings.load(tmp_path / "a.parquet")
    assert list(told) == ["shares", "lengths", "misfit", "findings"]
    assert told["lengths"] == json.loads(json.dumps(paths.paths_data(readings).to_dicts()))
    assert [each["verdict"] for each in told["findings"]] == [each.verdict for each in paths.judge(readings)]
    assert set(readings.cells["gain"]) == {"1.0, 1.0", "1.0, 1/L"}


def test_highway_prints_verdicts_unless_quiet(succeeded: Callable[..., str]):
    assert "path lengths by energy" in succeeded(*HIGHWAY)
    assert "path lengths" not in succeeded(*HIGHWAY, "--quiet")


def test_csv_has_a_line_a_row(succeeded: Callable[..., str], tmp_path: Path):
    file = tmp_path / "a.parquet"
    for command in (JACOBIAN, CORRELATION):
        rows = list(csv.DictReader(io.StringIO(succeeded(*command, "--format", "csv", "--out", file, "--overwrite"))))
        readings = Readings.load(file)
        expected = (
            spectra.spectrum_data(summarise(readings)) if command is JACOBIAN else shattering.correlation_data(readings)
        )
        assert len(rows) == expected.height
        assert list(rows[0]) == expected.columns


def test_inputs_can_be_left_independent(succeeded: Callable[..., str]):
    rows = csv.DictReader(io.StringIO(succeeded(*CORRELATION, "--independent", "--format", "csv")))
    assert {row["inputs"] for row in rows} == {"independent"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["highway", "--order", "sideways"], "sideways"),
        (["highway", "--depth", "many"], "many"),
        (["highway", "--gain", "much"], "much"),
        (["jacobian", "--design", "plian"], "Did you mean 'plain'?"),
        (["jacobian", "--part", "soul"], "soul"),
        (["correlation", "--cosine", "2"], "cosine must be from -1 to 1"),
        (["correlation", "--report", "page.pdf"], "--report must end in .html"),
        (["jacobian", "--depths", "10000000", "--design", "plain"], "this is too large"),
        (["correlation", "--width", "10000000", "--design", "plain"], "this is too large"),
    ],
)
def test_what_makes_no_sense_is_one_line(run: Callable[..., Any], arguments: list[str], words: str):
    code, out, err = run(*arguments, "--seeds", "6")
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
