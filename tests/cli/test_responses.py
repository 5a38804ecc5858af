"""`skipscope responses`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import save_file

from skipscope import Spec, build, responses, studies
from skipscope.engines import pretrained
from skipscope.readings import Readings

SMALL = ["responses", "--spec", "cifar-8", "--spec", "cifar-8-plain", "--width", "2", "--steps", "2", "--seeds", "2"]
SMALL += ["--batch", "16", "--train-batch", "8", "--dtype", "float32"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    spec = Spec.cifar(8, shortcut="A-both", width=4)
    arrays = build(spec, seed=0).arrays
    names = pretrained.names_of(spec, ["linear.weight"]).items()
    save_file({theirs: np.ascontiguousarray(arrays[ours][0]) for ours, theirs in names}, path)
    return path


def test_a_file_needs_no_data(succeeded: Callable[..., str], file: Path):
    lines = succeeded("responses", "--weights", file).splitlines()
    assert [line.split() for line in lines] == [
        ["design", "source", "mode", "3x3", "layers", "n", "std", "least", "most"],
        ["mine", "weights", "parameters", "7", "1", "1", "1", "1"],
    ]


def test_it_is_saved_and_reported_and_can_be_reported_again(succeeded: Callable[..., str], tmp_path: Path):
    saved, page, again = tmp_path / "a.parquet", tmp_path / "a.html", tmp_path / "b.html"
    out = succeeded(*SMALL, "--out", saved, "--report", page)
    assert "residual responses are smaller than plain ones: cannot tell" in out
    assert "furthest from gamma and beta alone" in out
    succeeded("report", saved, "--out", again)
    for each in (page, again):
        assert '<section id="responses">' in each.read_text()


def test_formats_hold_the_tables(succeeded: Callable[..., str], tmp_path: Path):
    saved = tmp_path / "a.parquet"
    told = json.loads(succeeded(*SMALL, "--format", "json", "--out", saved))
    readings = Readings.load(saved)
    assert list(told) == ["networks", "layers", "sorted", "differences", "stopped", "findings"]
    assert told["layers"] == json.loads(json.dumps(responses.layer_data(readings).to_dicts()))
    rows = list(csv.DictReader(io.StringIO(succeeded(*SMALL, "--format", "csv"))))
    assert len(rows) == responses.response_data(readings).height
    assert list(rows[0]) == responses.response_data(readings).columns


def test_every_option_reaches_the_study(run: Callable[..., Any], tmp_path: Path):
    with mock.patch.object(studies, "responses", side_effect=KeyboardInterrupt) as study:
        run(*SMALL, "--rate", "0.5", "--order", "before-add", "--jobs", "2", "--data", "cifar10",
            "--data-folder", tmp_path, "--folder", tmp_path / "work", "--seed", "4")  # fmt: skip
    told = dict(study.call_args.kwargs)
    recipe = told.pop("recipe")
    assert (recipe.steps, recipe.rate, recipe.batch, recipe.warmup) == (2, 0.5, 8, 0)
    assert told == {
        "weights": None, "specs": ["cifar-8", "cifar-8-plain"], "width": 2, "order": "before-add", "data": "cifar10",
        "data_folder": tmp_path, "batch": 16, "seeds": range(4, 6), "dtype": "float32", "jobs": 2, "progress": None,
        "folder": tmp_path / "work",
    }  # fmt: skip


def test_files_may_have_names(run: Callable[..., Any], file: Path):
    with mock.patch.object(studies, "responses", side_effect=KeyboardInterrupt) as study:
        run("responses", "--weights", file, "--weights", f"other={file}")
    told = study.call_args.kwargs
    assert told["weights"] == {"mine": file, "other": file}
    assert "order" not in told  # which the files say


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--weights", "FILE", "--weights", "FILE"], "two files would be called 'mine'; write one as name=FILE"),
        (["--weights", "FILE", "--steps", "3"], "--steps is about networks that are trained"),
        (["--weights", "FILE", "--seeds", "3"], "--seeds is about networks that are trained"),
        (["--weights", "FILE", "--width", "3"], "--width is about networks given by --spec"),
        (["--weights", "FILE", "--data", "digits"], "takes images of 3 x 8 x 8"),
        (["--weights", "FILE", "--spec", "cifar-20-A-both", "--width", "4"], "does not fit the spec"),
        (["--weights", "FILE", "--spec", "cifar-8", "--order", "pre-activation"], "not of pre-activation order"),
        (["--weights", "FILE", "--data-folder", "/nonexistent"], "--data-folder is about --data"),
        (["--weights", "FILE", "--batch", "4"], "--batch is about --data"),
        (["--weights", "no such file"], "there is no file 'no such file'"),
        (["--spec", "cifar-8", "--data", "mnist"], "data must be one of"),
        (["--spec", "cifar-9"], "depth"),
        (["--spec", "cifar-8", "--steps", "-1"], "steps must be"),
        (["--spec", "cifar-8", "--batch", "5000"], "batch=5000 is more than 'digits' has"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_one_line(refused: Callable[..., str], file: Path, options: list[str], words: str):
    assert words in refused("responses", *(str(file) if each == "FILE" else each for each in options))
