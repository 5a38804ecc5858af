"""`skipscope sweep`: what it prints, keeps and saves."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skipscope import readings, studies, trends

SMALL = ["--depths", "4,6", "--width", "8", "--features", "4", "--seeds", "30"]


def measured(**changed: Any) -> readings.Readings:
    shape: dict[str, Any] = {"depths": [4, 6], "width": 8, "features": 4, "seeds": range(30)}
    return studies.sweep(**shape | changed)


def test_csv_is_by_depth(succeeded: Callable[..., str]):
    rows = list(csv.DictReader(io.StringIO(succeeded("sweep", *SMALL, "--format", "csv"))))
    expected = trends.by_depth(measured())

    assert list(rows[0]) == expected.columns
    assert [float(row["q50"]) for row in rows] == expected["q50"].to_list()


def test_json_is_everything(succeeded: Callable[..., str]):
    told = json.loads(succeeded("sweep", *SMALL, "--format", "json"))
    known = measured()

    assert list(told) == ["by_depth", "rates", "contradictions", "misfit", "findings"]
    for name in ("by_depth", "rates", "contradictions", "misfit"):
        assert told[name] == json.loads(json.dumps(getattr(trends, name)(known).to_dicts()))
    assert [each["statement"] for each in told["findings"]] == [each.statement for each in trends.findings(known)]


def test_the_table_has_growth_rates_draws_and_findings(succeeded: Callable[..., str]):
    out = succeeded("sweep", *SMALL)

    assert "forward a block" in out
    assert "rate a block" in out
    assert "plain / residual" in out
    assert out.count("the notebook's conclusion") == 1
    for finding in trends.findings(measured()):
        assert finding.statement in out
    assert "conclusion" not in succeeded("sweep", *SMALL, "--quiet")


def test_one_depth_is_allowed(succeeded: Callable[..., str]):
    out = succeeded("sweep", *SMALL, "--depths", "4")

    assert "forward a block" in out
    assert "rate a block" not in out


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
        (["--design", "plain,twin"], "--design is one design"),
        (["--jobs", "0"], "jobs must be at least 1; got 0"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--sites"], "--sites needs --folder"),
        (["--out", "a.csv"], "--out must end in .parquet"),
        (["--folder", "/dev/null"], "folder '/dev/null' cannot be made: it is a file"),
    ],
)
def test_what_makes_no_sense_is_one_line(refused: Callable[..., str], arguments: list[str], said: str):
    assert said in refused("sweep", *SMALL, *arguments)


def test_out_is_the_readings(succeeded: Callable[..., str], refused: Callable[..., str], tmp_path: Path):
    succeeded("sweep", *SMALL, "--out", tmp_path / "sweep.parquet")

    assert readings.Readings.load(tmp_path / "sweep.parquet").equals(measured())
    assert "--overwrite" in refused("sweep", *SMALL, "--out", tmp_path / "sweep.parquet")


def test_a_report_is_written(succeeded: Callable[..., str], tmp_path: Path):
    succeeded("sweep", *SMALL, "--report", tmp_path / "sweep.html", "--quiet")

    page = (tmp_path / "sweep.html").read_text()
    assert "Depth scaling" in page
    assert "sweep" in page


def test_a_folder_keeps_the_work(succeeded: Callable[..., str], refused: Callable[..., str], tmp_path: Path):
    out = succeeded("sweep", *SMALL, "--folder", tmp_path / "run", "--sites")

    assert out.endswith(f"Readings: {tmp_path / 'run' / 'readings.parquet'}\n")
    assert readings.Readings.load(tmp_path / "run" / "readings.parquet").equals(measured())
    assert succeeded("sweep", *SMALL, "--folder", tmp_path / "run", "--sites") == out
    said = refused("sweep", *SMALL, "--folder", tmp_path / "run")
    assert "holds another run: the number of cells[0].quantities is 13 there and 6 here" in said


def test_ctrl_c_says_how_to_go_on(tmp_path: Path):
    """A real signal to a real process, in the middle of the work."""
    folder = tmp_path / "run"
    running = subprocess.Popen(
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
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)

    assert (running.returncode, out) == (130, "")
    assert err == f"skipscope: interrupted; what is measured is in {folder}: the same command goes on there.\n"
    assert not list(folder.glob(".skipscope*"))
    assert not (folder / "readings.parquet").exists()
    for part in folder.glob("part-*"):
        assert readings.Readings.load(part).rows.height > 0
