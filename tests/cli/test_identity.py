"""`skipscope identity` on the command line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skipscope import identity
from skipscope.readings import Readings

SMALL = ["identity", "--depths", "4,6", "--rates", "0.1", "--steps", "5", "--batch", "8", "--seeds", "2"]
SMALL += ["--design", "plain", "--design", "residual, gain zero", "--scales", "1,0.001"]


def test_identity_is_saved_and_reported_and_can_be_reported_again(succeeded: Callable[..., str], tmp_path: Path):
    file, page, again = tmp_path / "a.parquet", tmp_path / "a.html", tmp_path / "b.html"
    out = succeeded(*SMALL, "--out", file, "--report", page)
    assert "degree of the branch: law holds" in out
    assert "residual, gain zero" in out
    assert set(Readings.load(file).cells["study"]) == {"identity"}
    succeeded("report", file, "--out", again)
    for each in (page, again):
        assert '<section id="identity">' in each.read_text()


def test_identity_as_json_and_csv(succeeded: Callable[..., str], tmp_path: Path):
    told = json.loads(succeeded(*SMALL, "--format", "json", "--out", tmp_path / "a.parquet"))
    readings = Readings.load(tmp_path / "a.parquet")
    assert list(told) == ["block", "errors", "paired", "deeper", "branches", "rates", "stopped", "findings"]
    assert [each["verdict"] for each in told["findings"]] == [each.verdict for each in identity.findings(readings)]
    rows = list(csv.DictReader(io.StringIO(succeeded(*SMALL, "--format", "csv"))))
    assert list(rows[0]) == identity.error_data(readings).columns
    assert len(rows) == 4


def test_a_part_alone(succeeded: Callable[..., str]):
    told = json.loads(succeeded(*SMALL, "--only", "block", "--format", "json"))
    assert list(told) == ["block", "findings"]
    told = json.loads(succeeded(*SMALL, "--only", "stacks", "--format", "json"))
    assert "block" not in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rates", "fast"], "--rates must be numbers such as 0.1,0.01; got 'fast'."),
        (["--scales", "1,,2"], "--scales must be numbers such as 0.1,0.01; got '1,,2'."),
        (["--scales", "nan"], "scale must be a finite number"),
        (["--width", "20"], "width must be at least 32"),
        (["--depths", "5"], "depth must be even"),
        (["--design", "plian"], "Did you mean 'plain'?"),
        (["--width", "10000000"], "this is too large"),
    ],
)
def test_what_makes_no_sense_is_one_line(run: Callable[..., Any], arguments: list[str], words: str):
    code, out, err = run("identity", *arguments, "--seeds", "2", "--steps", "1")
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
