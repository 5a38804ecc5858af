"""`skipscope degradation` on the command line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from skipscope import degradation, studies
from skipscope.readings import Readings
from skipscope.training import Recipe

SMALL = ["degradation", "--data", "patterns", "--depths", "4,6", "--width", "6", "--norms", "batch", "--seeds", "8"]
SMALL += ["--steps", "10", "--batch", "16", "--rate", "0.05", "--record", "2"]


def test_it_is_saved_and_reported_and_can_be_reported_again(succeeded: Callable[..., str], tmp_path: Path):
    file, page, again = tmp_path / "a.parquet", tmp_path / "a.html", tmp_path / "b.html"
    out = succeeded(*SMALL, "--out", file, "--report", page)
    assert "the plain design, with batch norm, 6 layers, width 6: degradation: " in out
    assert set(Readings.load(file).cells["study"]) == {"degradation"}
    succeeded("report", file, "--out", again)
    for each in (page, again):
        assert '<section id="degradation">' in each.read_text()


def test_as_json_it_holds_everything(succeeded: Callable[..., str], tmp_path: Path):
    told = json.loads(succeeded(*SMALL, "--format", "json", "--out", tmp_path / "a.parquet"))
    readings = Readings.load(tmp_path / "a.parquet")
    assert list(told) == [
        *("final", "paired", "gradients", "rates", "stopped", "train_error", "test_error", "gradient_norm", "findings")
    ]
    assert told["paired"] == json.loads(json.dumps(degradation.paired(readings).to_dicts()))
    assert [each["verdict"] for each in told["findings"]] == [each.verdict for each in degradation.findings(readings)]


def test_csv_has_a_line_a_row(succeeded: Callable[..., str], tmp_path: Path):
    rows = list(csv.DictReader(io.StringIO(succeeded(*SMALL, "--format", "csv", "--out", tmp_path / "a.parquet"))))
    expected = degradation.final(Readings.load(tmp_path / "a.parquet"))
    assert (len(rows), list(rows[0])) == (expected.height, expected.columns)


def test_every_option_reaches_the_study(run: Callable[..., Any]):
    with mock.patch.object(studies, "degradation", side_effect=KeyboardInterrupt) as study:
        run(
            *(
                "degradation",
                "--data",
                "patterns",
                "--depths",
                "4:8:2",
                "--width",
                "9",
                "--design",
                "residual",
                "--design",
                "twin",
            ),
            *("--norms", "none, layer", "--order", "before-add", "--steps", "7", "--batch", "5", "--rate", "1,0.1"),
            *("--schedule", "drops", "--tuning", "2", "--record", "4", "--seeds", "3", "--seed", "5"),
        )
    assert study.call_args.kwargs == {
        "data": "patterns",
        "depths": [4, 6, 8],
        "width": 9,
        "designs": ["residual", "twin"],
        "norms": ["none", "layer"],
        "order": "before-add",
        "recipe": Recipe(steps=7, batch=5, schedule="drops"),
        "rates": [1.0, 0.1],
        "tuning": 2,
        "record": 4,
        "seeds": range(5, 8),
        "dtype": "float64",
        "jobs": 1,
        "progress": None,
        "folder": None,
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--design", "plian"], "Did you mean 'plain'?"),
        (["--norms", "group"], "group"),
        (["--norms", ""], "norms is empty"),
        (["--data", "teacher"], "data='teacher' has no classes"),
        (["--rate", "fast"], "--rate must be numbers such as 0.001,0.01,0.1; got 'fast'"),
        (["--rate", "-1"], "rate must be at least 0"),
        (["--rate", "nan"], "rate must be a finite number"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--batch", "1"], "batch=1 leaves batch normalisation nothing to compare"),
        (["--record", "0"], "record must be at least 1"),
        (["--order", "sideways"], "sideways"),
        (["--schedule", "never"], "never"),
        (["--depths", "1"], "depth must be at least 2"),
        (["--depths", "3,5"], "depth must be"),  # of the matched design, which needs an even one of 4 at least
    ],
)
def test_what_makes_no_sense_is_one_line(run: Callable[..., Any], arguments: list[str], words: str):
    result = run(*SMALL, *arguments)
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert len(result.err.splitlines()) == 1
