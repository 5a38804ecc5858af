"""The command line of the studies highway, jacobian and correlation."""

from __future__ import annotations

import csv
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from skipscope import Readings, cli, paths, shattering, spectra
from skipscope.summary import summarise

HIGHWAY = ["highway", "--depth", "3", "--width", "6", "--seeds", "8", "--gain", "1,1/L", "--order", "pre-activation"]
JACOBIAN = ["jacobian", "--depths", "3,5", "--width", "5", "--seeds", "6", "--design", "plain"]
JACOBIAN += ["--design", "residual, 1/sqrt(L)"]
CORRELATION = ["correlation", "--depths", "3,5", "--width", "5", "--seeds", "6", "--design", "plain"]
CORRELATION += ["--design", "residual, 1/sqrt(L)"]


def run(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main([str(each) for each in arguments])
    return code, out.getvalue(), err.getvalue()


def succeeded(*arguments: object) -> str:
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    return out


@pytest.mark.parametrize(
    ("command", "anchor"), [(HIGHWAY, "highway"), (JACOBIAN, "jacobian"), (CORRELATION, "correlation")]
)
def test_a_study_is_saved_and_reported_and_can_be_reported_again(command: list[str], anchor: str, tmp_path: Path):
    file, page, again = tmp_path / "a.parquet", tmp_path / "a.html", tmp_path / "b.html"
    out = succeeded(*command, "--out", file, "--report", page)
    assert "residual" in out or "pre-activation" in out
    assert set(Readings.load(file).cells["study"]) == {anchor}
    succeeded("report", file, "--out", again)
    for each in (page, again):
        assert f'<section id="{anchor}">' in each.read_text()


def test_highway_as_json_holds_everything(tmp_path: Path):
    told = json.loads(succeeded(*HIGHWAY, "--format", "json", "--out", tmp_path / "a.parquet"))
    readings = Readings.load(tmp_path / "a.parquet")
    assert list(told) == ["shares", "lengths", "misfit", "findings"]
    assert told["lengths"] == json.loads(json.dumps(paths.paths_data(readings).to_dicts()))
    assert [each["verdict"] for each in told["findings"]] == [each.verdict for each in paths.judge(readings)]
    assert set(readings.cells["gain"]) == {"1.0, 1.0", "1.0, 1/L"}


def test_highway_prints_verdicts_unless_quiet():
    assert "path lengths by energy" in succeeded(*HIGHWAY)
    assert "path lengths" not in succeeded(*HIGHWAY, "--quiet")


def test_csv_has_a_line_a_row(tmp_path: Path):
    file = tmp_path / "a.parquet"
    for command in (JACOBIAN, CORRELATION):
        rows = list(csv.DictReader(io.StringIO(succeeded(*command, "--format", "csv", "--out", file, "--overwrite"))))
        readings = Readings.load(file)
        expected = (
            spectra.spectrum_data(summarise(readings)) if command is JACOBIAN else shattering.correlation_data(readings)
        )
        assert len(rows) == expected.height
        assert list(rows[0]) == expected.columns


def test_inputs_can_be_left_independent():
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
    ],
)
def test_what_makes_no_sense_is_one_line(arguments: list[str], words: str):
    code, out, err = run(*arguments, "--seeds", "6")
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
