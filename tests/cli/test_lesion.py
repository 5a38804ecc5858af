"""`skipscope lesion`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from skipscope import lesions, studies
from skipscope.readings import Readings

LESION = ["lesion", "--data", "patterns", "--depth", "2", "--width", "6", "--steps", "10", "--seeds", "2"]
LESION += ["--deleted", "1,2", "--swapped", "1", "--draws", "1", "--batch", "16"]


def test_it_is_saved_and_reported_and_can_be_reported_again(succeeded: Callable[..., str], tmp_path: Path):
    file, page, again = tmp_path / "a.parquet", tmp_path / "a.html", tmp_path / "b.html"
    out = succeeded(*LESION, "--out", file, "--report", page)
    assert "one deleted block hardly matters: cannot tell" in out
    succeeded("report", file, "--out", again)
    for each in (page, again):
        assert '<section id="lesion">' in each.read_text()


def test_formats_hold_the_tables(succeeded: Callable[..., str], tmp_path: Path):
    file = tmp_path / "a.parquet"
    told = json.loads(succeeded(*LESION, "--format", "json", "--out", file))
    readings = Readings.load(file)
    assert list(told) == ["intact", "blocks", "deleted", "swapped", "stopped", "findings"]
    assert told["blocks"] == json.loads(json.dumps(lesions.block_data(readings).to_dicts()))
    rows = list(csv.DictReader(io.StringIO(succeeded(*LESION, "--format", "csv"))))
    assert len(rows) == lesions.damages(readings).height
    assert list(rows[0]) == lesions.damages(readings).columns


def test_every_option_reaches_the_study(run: Callable[..., Any]):
    with mock.patch.object(studies, "lesion", side_effect=KeyboardInterrupt) as study:
        run(*LESION, "--design", "plain", "--order", "before-add", "--norm", "none", "--rate", "0.5", "--jobs", "2")
    told = dict(study.call_args.kwargs)
    recipe = told.pop("recipe")
    assert (recipe.steps, recipe.rate, recipe.batch, recipe.warmup) == (10, 0.5, 16, 1)
    assert told == {
        "designs": ["plain"], "depth": 2, "width": 6, "data": "patterns", "order": "before-add", "norm": "none",
        "deleted": [1, 2], "swapped": [1], "draws": 1, "seeds": range(2), "dtype": "float64", "jobs": 2,
        "progress": None, "folder": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--deleted", "one"], "--deleted must be numbers such as 1,2,4"),
        (["--deleted", "3"], "deleted=3 is more than the 2 blocks"),
        (["--data", "teacher"], "data='teacher' has no classes"),
        (["--depth", "1"], "depth must give 2 blocks at least"),
        (["--steps", "-1"], "steps must be"),
        (["--steps", "40", "--rate", "1e9", "--norm", "none"], "at a smaller rate if its training failed"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_one_line(run: Callable[..., Any], options: list[str], words: str):
    code, out, err = run(*LESION, *options)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_networks_by_name_learn_images(run: Callable[..., Any]):
    with mock.patch.object(studies, "lesion", side_effect=KeyboardInterrupt) as study:
        run("lesion", "--spec", "cifar-20", "--data", "fashion-mnist", "--steps", "10", "--seeds", "2")

    told = dict(study.call_args.kwargs)
    assert told.pop("recipe").steps == 10
    assert told == {
        "specs": ["cifar-20"], "data": "fashion-mnist", "deleted": None, "swapped": None, "draws": 5,
        "seeds": range(2), "dtype": "float64", "jobs": 1, "progress": None, "folder": None,
    }  # fmt: skip
