"""`skipscope sweep` and `skipscope theory`: what they print, and one clear line for whatever the user can mend."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from skipscope import cli, design, readings, studies, theory, trends

SMALL = ["--depths", "4,6", "--width", "8", "--features", "4", "--seeds", "30"]


def run(*arguments: object) -> tuple[int, str, str]:
    """`main` in this process: its code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main([str(each) for each in arguments])
    return code, out.getvalue(), err.getvalue()


def succeeded(*arguments: object) -> str:
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    return out


def refused(*arguments: object) -> str:
    """The line of a command that is refused."""
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("skipscope: ")
    assert err.count("\n") == 1
    return err.removeprefix("skipscope: ").rstrip("\n")


def measured(**changed: Any) -> readings.Readings:
    shape: dict[str, Any] = {"depths": [4, 6], "width": 8, "features": 4, "seeds": range(30)}
    return studies.sweep(**shape | changed)


# --------------------------------------------------------------------------------------------------------------- sweep


def test_csv_is_by_depth():
    rows = list(csv.DictReader(io.StringIO(succeeded("sweep", *SMALL, "--format", "csv"))))
    expected = trends.by_depth(measured())

    assert list(rows[0]) == expected.columns
    assert [float(row["q50"]) for row in rows] == expected["q50"].to_list()


def test_json_is_everything():
    told = json.loads(succeeded("sweep", *SMALL, "--format", "json"))
    known = measured()

    assert list(told) == ["by_depth", "rates", "contradictions", "misfit", "findings"]
    for name in ("by_depth", "rates", "contradictions", "misfit"):
        assert told[name] == json.loads(json.dumps(getattr(trends, name)(known).to_dicts()))
    assert [each["statement"] for each in told["findings"]] == [each.statement for each in trends.findings(known)]


def test_the_table_has_growth_rates_draws_and_findings():
    out = succeeded("sweep", *SMALL)

    assert "forward a block" in out
    assert "rate a block" in out
    assert "plain / residual" in out
    assert out.count("the notebook's conclusion") == 1
    for finding in trends.findings(measured()):
        assert finding.statement in out
    assert "conclusion" not in succeeded("sweep", *SMALL, "--quiet")


def test_one_depth_is_allowed():
    out = succeeded("sweep", *SMALL, "--depths", "4")

    assert "forward a block" in out
    assert "rate a block" not in out


@pytest.mark.parametrize(
    ("given", "depths"),
    [
        ("4,6", [4, 6]),
        ("4:10:2", [4, 6, 8, 10]),
        ("4:9:2", [4, 6, 8]),
        ("4:6", [4, 5, 6]),
        ("3,5:9:4,20", [3, 5, 9, 20]),
    ],
)
def test_depths_are_numbers_and_ranges(given: str, depths: list[int]):
    assert cli._depths(given) == depths


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--depths", "5:x"], "--depths must be numbers such as 5,10,20 or first:last:step; got '5:x'"),
        (["--depths", ""], "--depths must be numbers"),
        (["--depths", "5,,6"], "--depths must be numbers"),
        (["--depths", "1:2:3:4"], "--depths must be numbers"),
        (["--depths", "9:2"], "--depths '9:2' must be 1 to 10,000 depths"),
        (["--depths", "2:9:0"], "--depths '2:9:0' must be 1 to 10,000 depths"),
        (["--depths", "2:9:-1"], "--depths '2:9:-1' must be 1 to 10,000 depths"),
        (["--depths", "1:999999999"], "--depths '1:999999999' must be 1 to 10,000 depths"),
        (["--depths", "1"], "depth must be at least 2"),
        (["--design", "resnet"], "design must be one of 'plain'"),
        (["--design", ","], "designs is empty"),
        (["--jobs", "0"], "jobs must be at least 1; got 0"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--sites"], "--sites needs --folder"),
        (["--out", "a.csv"], "--out must end in .parquet"),
        (["--folder", "/dev/null"], "folder '/dev/null' cannot be made: it is a file"),
    ],
)
def test_what_makes_no_sense_is_one_line(arguments: list[str], said: str):
    assert said in refused("sweep", *SMALL, *arguments)


def test_out_is_the_readings(tmp_path: Path):
    succeeded("sweep", *SMALL, "--out", tmp_path / "sweep.parquet")

    assert readings.Readings.load(tmp_path / "sweep.parquet").equals(measured())
    assert "--overwrite" in refused("sweep", *SMALL, "--out", tmp_path / "sweep.parquet")


def test_a_report_is_written(tmp_path: Path):
    succeeded("sweep", *SMALL, "--report", tmp_path / "sweep.html", "--quiet")

    page = (tmp_path / "sweep.html").read_text()
    assert "Depth scaling" in page
    assert "sweep" in page


def test_a_folder_keeps_the_work(tmp_path: Path):
    out = succeeded("sweep", *SMALL, "--folder", tmp_path / "run", "--sites")

    assert out.endswith(f"Readings: {tmp_path / 'run' / 'readings.parquet'}\n")
    assert readings.Readings.load(tmp_path / "run" / "readings.parquet").equals(measured())
    assert succeeded("sweep", *SMALL, "--folder", tmp_path / "run", "--sites") == out
    said = refused("sweep", *SMALL, "--folder", tmp_path / "run")
    assert "holds another run: the number of cells[0].quantities is 13 there and 6 here" in said


def test_ctrl_c_says_how_to_go_on(tmp_path: Path):
    """A real signal to a real process, in the middle of the work."""
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "skipscope",
            "sweep",
            "--depths",
            "5:60:5",
            "--seeds",
            "100000",
            "--folder",
            str(folder),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(folder.glob("part-*")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert (process.returncode, out) == (130, "")
    assert err == f"skipscope: interrupted; what is measured is in {folder}: the same command goes on there.\n"
    assert not list(folder.glob(".skipscope*"))
    assert not (folder / "readings.parquet").exists()
    for part in folder.glob("part-*"):
        assert readings.Readings.load(part).rows.height > 0


# -------------------------------------------------------------------------------------------------------------- theory


def test_theory_says_what_the_laws_say():
    told = json.loads(
        succeeded("theory", "--design", "plain,residual", "--depth", "5", "--width", "8", "--format", "json")
    )
    known = {
        name: theory.laws(design(name, depth=5, width=8, features=16, output="relu")) for name in ("plain", "residual")
    }

    assert [(each["design"], each["law"], each["refusal"]) for each in told] == [
        (name, prediction.law, prediction.refusal) for name, predictions in known.items() for prediction in predictions
    ]
    for each, prediction in zip(told, [*known["plain"], *known["residual"]], strict=True):
        assert each["table"] == json.loads(json.dumps(prediction.table.to_dicts()))


def test_theory_as_csv_has_a_row_a_site_or_a_refusal():
    out = succeeded("theory", "--design", "plain,residual", "--depth", "5", "--width", "8", "--format", "csv")
    table = pl.read_csv(io.StringIO(out))
    known = theory.laws(design("plain", depth=5, width=8, features=16, output="relu"))[0].table

    forward = table.filter(pl.col("design") == "plain", pl.col("law") == "(a) plain network, forward")
    assert forward["site"].to_list() == known["site"].to_list()
    assert forward["log_mean"].to_list() == pytest.approx(known["log_mean"].to_list())
    refusals = table.filter(pl.col("design") == "residual", pl.col("law").str.starts_with("(a) plain network, "))
    assert refusals.height == len([name for name in table["law"].unique() if name.startswith("(a)")])
    assert refusals["refusal"].str.contains("There are shortcuts").all()


def test_the_table_of_theory_lists_refusals_once():
    out = succeeded("theory", "--depth", "6", "--width", "8")

    assert "log_mean" in out
    assert "residual, matched: (a) plain network, forward: does not hold" in out
    assert out.count("(a) plain network, forward: does not hold") == 1


def test_theory_hears_the_options():
    ones = succeeded("theory", "--design", "plain", "--depth", "6", "--width", "8", "--cotangent", "ones")
    assert "The cotangent is ones under a ReLU output" in ones
    assert "(a) plain network, forward: ||a_l||^2" in ones
    many = succeeded("theory", "--design", "plain", "--depth", "6", "--width", "8", "--batch", "4")
    assert "a batch of 4 samples" in many


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--design", ","], "--design is empty"),
        (["--design", "resnet"], "design must be one of 'plain'"),
        (["--depth", "1", "--design", "plain"], "depth must be at least 2"),
        (["--cotangent", "twos"], "cotangent must be one of"),
        (["--batch", "0"], "batch must be at least 1"),
    ],
)
def test_theory_refuses_in_one_line(arguments: list[str], said: str):
    assert said in refused("theory", "--width", "8", *arguments)
