"""`skipscope train` on the command line."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from skipscope import convergence, studies
from skipscope.data import Augmentation
from skipscope.engines import pretrained
from skipscope.readings import Readings
from skipscope.training import Ways

ONE = ["train", "--spec", "cifar-8", "--width", "4", "--steps", "4", "--batch", "16", "--record", "2"]
SMALL = [*ONE, "--spec", "cifar-14", "--seeds", "3"]


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_it_is_shown_saved_and_reported_and_its_weights_are_evaluated(
    engine: str, succeeded: Callable[..., str], here: Path
):
    files = ["--out", "a.parquet", "--report", "a.html", "--save", "w.safetensors"]
    out = succeeded(*SMALL, "--engine", engine, *files)
    lines = out.splitlines()

    assert "step" in lines[0]
    assert "training error" in lines[0]
    assert [line.split()[:4] for line in lines[1:5]] == [
        ["cifar", layers, step, "3"] for layers in ("8", "14") for step in ("2", "4")
    ]
    assert "cifar, 14 layers, width 4, " in out
    readings = Readings.load(here / "a.parquet")
    assert set(readings.cells["study"]) == {"train"}
    assert '<section id="train">' in (here / "a.html").read_text()
    assert len(list(here.glob("w-cifar-*-seed*.safetensors"))) == 6
    told = json.loads(succeeded("evaluate", "--weights", "w-cifar-14-seed2.safetensors", "--format", "json"))
    last = readings.select(seed=2, step=4, quantity="test_error").rows
    deep = readings.cells.filter(depth=14)["cell"].item()
    # The other engine rounds otherwise: of 450 images one may tip over.
    assert abs(1 - told["top1"]["share"] - last.filter(cell=deep)["value"].item()) < 1.5 / 450


def test_as_json_it_holds_everything_and_as_csv_a_line_a_row(succeeded: Callable[..., str], here: Path):
    told = json.loads(succeeded(*SMALL, "--format", "json", "--out", "a.parquet"))
    readings = Readings.load(here / "a.parquet")
    assert list(told) == ["curves", "final", "paired", "stopped", "findings"]
    assert told["curves"] == json.loads(json.dumps(convergence.curves(readings).to_dicts()))
    assert [each["verdict"] for each in told["findings"]] == [each.verdict for each in convergence.findings(readings)]
    rows = list(csv.DictReader(io.StringIO(succeeded(*ONE, "--format", "csv"))))
    assert list(rows[0]) == convergence.curves(readings).columns


def test_the_same_command_goes_on(run: Callable[..., Any], succeeded: Callable[..., str], here: Path):
    whole = succeeded(*ONE, "--format", "csv")
    kept = [*ONE, "--format", "csv", "--checkpoint", "c.st", "--every", "2"]
    replace = os.replace

    def once(*given: Any, **more: Any) -> None:
        replace(*given, **more)
        raise KeyboardInterrupt

    with mock.patch.object(os, "replace", side_effect=once):
        stopped = run(*kept)
    assert (stopped.code, stopped.out) == (130, "")
    assert stopped.err == "skipscope: interrupted; what is measured is in c.st: the same command goes on there.\n"
    assert (here / "c.st").exists()
    assert succeeded(*kept) == whole


TWO = [*ONE, "--spec", "cifar-8-plain", "--seeds", "2", "--format", "csv", "--quiet", "--checkpoint", "c.st"]
WRITTEN = ["--every", "2", "--save", "w.safetensors", "--out", "a.parquet", "--report", "a.html"]


@pytest.mark.parametrize("kill", range(1, 12))
def test_killed_after_any_file_it_goes_on_and_leaves_what_an_unbroken_run_does(
    run: Callable[..., Any], succeeded: Callable[..., str], here: Path, kill: int
):
    """Three checkpoints and two files of weights a network, then the readings and the report."""
    replace, count = os.replace, 0

    def one(*given: Any, **more: Any) -> None:
        nonlocal count
        replace(*given, **more)
        count += 1
        if count == kill:
            raise KeyboardInterrupt

    with mock.patch.object(os, "replace", side_effect=one):
        assert run(*TWO, *WRITTEN).code == 130
    succeeded(*TWO, *WRITTEN)
    found = {path.name: path.read_bytes() for path in here.glob("w-*")}
    for path in here.iterdir():
        path.unlink()
    succeeded(*TWO, *WRITTEN)
    assert len(found) == 4
    assert found == {path.name: path.read_bytes() for path in here.glob("w-*")}


def test_a_network_half_trained_replaces_nothing(run: Callable[..., Any], refused: Callable[..., str], here: Path):
    replace = os.replace

    def once(*given: Any, **more: Any) -> None:
        replace(*given, **more)
        raise KeyboardInterrupt

    kept = [*ONE, "--checkpoint", "c.st", "--every", "2"]
    with mock.patch.object(os, "replace", side_effect=once):
        run(*kept)
    for option, name in (("--save", "w.safetensors"), ("--out", "a.parquet"), ("--report", "a.html")):
        (here / name).write_text("mine")
        assert f"{option} {name!r} exists" in refused(*kept, option, name)
        assert (here / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("option", "name"), [("--save", "w.safetensors"), ("--out", "a.parquet"), ("--report", "a.html")]
)
def test_a_trained_network_replaces_nothing_of_somebody_else(
    succeeded: Callable[..., str], refused: Callable[..., str], here: Path, option: str, name: str
):
    kept = [*ONE, "--checkpoint", "c.st", "--quiet"]
    succeeded(*kept, option, f"own{Path(name).suffix}")
    own = (here / f"own{Path(name).suffix}").read_bytes()
    (here / name).write_bytes(b"mine")
    assert f"{option} {name!r} exists" in refused(*kept, option, name)
    assert (here / name).read_bytes() == b"mine"
    succeeded(*kept, option, f"own{Path(name).suffix}")  # its own is its own
    assert (here / f"own{Path(name).suffix}").read_bytes() == own


def test_what_is_held_out_is_told_beside_the_other_parts(succeeded: Callable[..., str]):
    without = succeeded(*ONE, "--quiet")
    held = succeeded(*ONE, "--validation", "100", "--quiet")
    assert "validation error" in held
    assert "validation" not in without


def test_every_option_reaches_the_study(run: Callable[..., Any]):
    with mock.patch.object(studies, "train", side_effect=KeyboardInterrupt) as study:
        run(
            *("train", "--spec", "cifar-8", "--spec", "cifar-8-plain", "--width", "9", "--data", "digits"),
            *("--train-images", "900", "--test-images", "77", "--validation", "100", "--normalise", "channel"),
            *("--engine", "torch", "--steps", "7", "--batch", "5", "--rate", "0.5", "--record", "3", "--every", "4"),
            *("--checkpoint", "c", "--save", "w.safetensors", "--device", "auto", "--channels-first", "--autocast"),
            *("--compile", "--seeds", "3", "--seed", "5", "--dtype", "float64", "--jobs", "2", "--no-augment"),
        )
    given = dict(study.call_args.kwargs)
    images = given.pop("data")
    assert callable(given.pop("check"))  # of the files that weights go to
    assert study.call_args.args == (["cifar-8", "cifar-8-plain"],)
    assert given == {
        "width": 9,
        "engine": "torch",
        "steps": 7,
        "batch": 5,
        "rate": 0.5,
        "record": 3,
        "every": 4,
        "checkpoint": Path("c"),
        "save": Path("w.safetensors"),
        "ways": Ways(device="auto", channels_last=False, autocast=True, compile=True),
        "seeds": range(5, 8),
        "dtype": "float64",
        "jobs": 2,
        "progress": None,
    }
    assert (images.train.size, images.validation.size, images.test.size) == (800, 100, 77)
    assert images.augmentation == Augmentation()


def test_networks_fit_the_data(succeeded: Callable[..., str], here: Path):
    succeeded(*ONE, "--save", "w.safetensors", "--quiet")
    spec = pretrained.spec_of(here / "w.safetensors")
    assert (spec.input_shape, spec.head.features, spec.stages[0].width) == ((1, 8, 8), 10, 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--spec", "cifar-9"], "depth must be 6n + 2"),
        (["--spec", "resnet"], "spec must be the name of a network"),
        (["--spec", "cifar-8,cifar-14"], "--spec is one network, given once for each"),
        (["--data", "patterns"], "data must be one of 'digits', 'fashion-mnist', 'cifar10'; got 'patterns'"),
        (["--data", "cifar10"], "cifar10"),
        (["--data-folder", "no/such"], "digits are in no folder"),
        (["--engine", "jax"], "engine must be one of 'numpy', 'torch'; got 'jax'"),
        (["--device", "cuda"], "--device 'cuda' is for --engine torch, and the engine is 'numpy': leave one out"),
        (["--autocast"], "--autocast is for --engine torch"),
        (["--compile"], "--compile is for --engine torch"),
        (["--channels-first"], "--channels-first is for --engine torch"),
        (["--engine", "torch", "--device", "gpu"], "device must be one of"),
        (["--engine", "torch", "--autocast", "--dtype", "float64"], "autocast is for dtype float32"),
        (["--steps", "-1"], "--steps must be at least 1; got -1"),
        (["--steps", "0", "--out", "a.parquet"], "--steps must be at least 1; got 0"),
        (["--checkpoint", "c.safetensors", "--save", "./c.safetensors"], "save and checkpoint would both be the file"),
        (["--checkpoint", "a.parquet", "--out", "a.parquet"], "--out and --checkpoint would both be the file"),
        (["--seeds", "100000000"], "this is too large: seeds=100000000 of networks of depth 8, width 4"),
        (["--batch", "9999"], "batch=9999 is more than digits has to train on"),
        (["--rate", "nan"], "rate must be a finite number"),
        (["--record", "0"], "record must be at least 1"),
        (["--validation", "99999"], "validation"),
        (["--train-images", "0"], "train"),
        (["--save", "w.pt"], "--save must end in .safetensors; got 'w.pt'"),
        (["--checkpoint", "no/such/c"], "cannot write 'no/such/c'"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--width", "0"], "width must be at least 1"),
        (["--dtype", "float16"], "dtype must be one of"),
    ],
)
def test_what_makes_no_sense_is_one_line(refused: Callable[..., str], here: Path, arguments: list[str], words: str):
    with mock.patch.dict(os.environ, {"SKIPSCOPE_DATA": ""}):
        assert words in refused(*ONE, *arguments)
    assert list(here.iterdir()) == []


def test_weights_that_are_there_are_not_replaced_unasked(
    refused: Callable[..., str], succeeded: Callable[..., str], here: Path
):
    file = here / "w-seed1.safetensors"
    file.write_text("mine")
    asked = [*ONE, "--seeds", "2", "--save", "w.safetensors"]
    assert "--save 'w-seed1.safetensors' exists: give another name, or --overwrite." in refused(*asked)
    assert file.read_text() == "mine"
    succeeded(*asked, "--overwrite")
    assert pretrained.spec_of(file).depth == 8
