"""`skipscope evaluate`: what it prints of a small trained network, in every format, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from skipscope import Spec, build, data
from skipscope.accuracy import accuracy, network_of, spec_for
from skipscope.engines import pretrained
from skipscope.training import Recipe, train

SPEC = Spec.cifar(8, shortcut="A-both", width=8, size=8, channels=1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small network that has learned the digits, in files of several kinds, and files that are none."""
    folder = tmp_path_factory.mktemp("weights")
    images = data.load_images("digits", seed=0)
    found = train(build(SPEC, seed=0), images, Recipe(steps=60, batch=64), record=[], quantities={}).network
    assert found is not None
    arrays = {name: np.ascontiguousarray(array[0]) for name, array in found.arrays.items()}
    plain = {theirs: arrays[ours] for ours, theirs in pretrained.names_of(SPEC, ["linear.weight"]).items()}
    kinds = ("whole.safetensors", "saved.th", "nan.safetensors", "cut.th", "cut.safetensors", "empty.th", "text.th")
    files = {name: folder / name for name in (*kinds, "code.th", "other.th", "colour.npz", "missing.th")}
    save_file(plain, files["whole.safetensors"])
    save_file(plain | {"linear.bias": np.full(10, np.nan, np.float32)}, files["nan.safetensors"])
    state = {f"module.{name}": torch.from_numpy(array) for name, array in plain.items()}
    torch.save({"state_dict": state, "best_prec1": 91.7}, files["saved.th"])
    torch.save({"state_dict": state, "when": Path("code")}, files["code.th"])
    torch.save({"conv1.weight": torch.zeros(4, 3, 3, 3)}, files["other.th"])
    files["cut.th"].write_bytes(files["saved.th"].read_bytes()[:-500])
    files["cut.safetensors"].write_bytes(files["whole.safetensors"].read_bytes()[:-500])
    files["empty.th"].write_bytes(b"")
    files["text.th"].write_text("these are no weights\n")
    pixels = np.zeros((10, 3, 32, 32), np.uint8)
    half: dict[str, Any] = {"x_train": pixels, "y_train": np.arange(10), "x_test": pixels, "y_test": np.arange(10)}
    np.savez(files["colour.npz"], **half)
    return files


def record(succeeded: Callable[..., str], *arguments: object) -> Any:
    return json.loads(succeeded("evaluate", *arguments, "--format", "json"))


@pytest.mark.parametrize("file", ["whole.safetensors", "saved.th"])
@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_json_has_what_the_library_finds(succeeded: Callable[..., str], weights: Any, file: str, engine: Any):
    images = data.load_images("digits", seed=0)
    expected = accuracy(network_of(weights[file], spec_for(weights[file], images), engine=engine), images)

    found = record(succeeded, "--weights", weights[file], "--engine", engine)

    assert 0.8 < expected.top1.value < 1
    assert found["top1"] == {
        "right": expected.top1.right,
        "n": 450,
        "share": expected.top1.value,
        "low": expected.top1.low,
        "high": expected.top1.high,
    }
    assert expected.top5 is not None
    assert found["top5"]["right"] == expected.top5.right
    assert found["confusion"] == expected.confusion.tolist()
    assert [each["recall"]["right"] for each in found["classes"]] == np.diag(expected.confusion).tolist()
    assert (found["data"], found["part"], found["engine"], found["check"]) == ("digits", "test", engine, None)
    assert found["spec"] == json.loads(SPEC.to_json())
    assert found["notes"] == [
        "No shape tells whether there are shortcuts without weights, and where their zeros are: taken as the names "
        "mean it in most files. Otherwise --spec cifar-8-A or cifar-8-plain, with --width 8."
    ]


def test_csv_is_one_table_of_shares(succeeded: Callable[..., str], weights: Any):
    given = ("--weights", weights["whole.safetensors"])
    found = record(succeeded, *given)

    rows = list(csv.DictReader(io.StringIO(succeeded("evaluate", *given, "--format", "csv"))))

    assert [row["measure"] for row in rows] == ["top-1", "top-5", *(f"recall of {digit}" for digit in range(10))]
    assert [int(row["right"]) for row in rows[:2]] == [found["top1"]["right"], found["top5"]["right"]]
    assert float(rows[3]["share"]) == found["classes"][1]["recall"]["share"]


def test_the_table_shows_shares_confusion_and_what_was_looked_at(succeeded: Callable[..., str], weights: Any):
    given = ("--weights", weights["whole.safetensors"])
    found = record(succeeded, *given)
    top, confusion = found["top1"], found["confusion"]

    lines = succeeded("evaluate", *given).splitlines()

    name = str(weights["whole.safetensors"])
    assert lines[0] == (
        f"{name}: CIFAR network of 8 layers, {SPEC.parameters:,} parameters, option A with zeros on both sides of the "
        "channels"
    )
    assert lines[1] == "digits, test part: 450 images of 1x8x8, normalised by pixel-mean; numpy, float32"
    assert lines[4].split() == [
        *("top-1", str(top["right"]), "450", f"{100 * top['share']:.2f}"),
        *(f"{100 * top['low']:.2f}", "to", f"{100 * top['high']:.2f}", f"{100 * (1 - top['share']):.2f}"),
    ]
    for label in range(10):
        assert lines[8 + label].split()[:11] == [str(label), *map(str, confusion[label])]
    quiet = succeeded("evaluate", *given, "--quiet").splitlines()
    assert quiet == lines[3:18]


def test_the_confusion_is_saved(succeeded: Callable[..., str], refused: Callable[..., str], weights: Any, here: Path):
    given = ("evaluate", "--weights", weights["whole.safetensors"], "--out", "confusion.csv")
    succeeded(*given)

    rows = list(csv.reader(io.StringIO((here / "confusion.csv").read_text())))

    assert rows[0] == ["class", *map(str, range(10))]
    table = [list(map(int, row[1:])) for row in rows[1:]]
    assert table == record(succeeded, "--weights", weights["whole.safetensors"])["confusion"]
    assert "exists" in refused(*given)
    succeeded(*given, "--overwrite")


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_check_asks_the_other_engine(succeeded: Callable[..., str], weights: Any, engine: str):
    found = record(succeeded, "--weights", weights["saved.th"], "--engine", engine, "--check", "--dtype", "float64")

    assert found["check"]["disagree"] == []
    # In float64 rounding is 1e-16 of outputs of about 10, over eight layers.
    assert 0 < found["check"]["moved"] < 1e-12 < found["check"]["closest"]
    both = "numpy and torch" if engine == "numpy" else "torch and numpy"
    assert found["notes"][-1].startswith(f"{both} agree on all 450 images. The smallest margin")


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        (("--normalise", "none"), "normalised by none? See --normalise"),
        (("--mean", "-30"), "normalised by mean -30 and std 1? See --normalise"),
    ],
)
def test_who_is_at_chance_is_told_to_look_at_the_preprocessing(
    succeeded: Callable[..., str], weights: Any, wrong: tuple[str, ...], part: str
):
    found = record(succeeded, "--weights", weights["whole.safetensors"], *wrong)
    at_chance = found["top1"]["low"] <= found["chance"]

    as_trained = record(succeeded, "--weights", weights["whole.safetensors"])["top1"]["share"]
    assert found["top1"]["share"] < as_trained - 0.2, "wrong preprocessing should hurt"
    assert any(part in note for note in found["notes"]) == at_chance
    assert at_chance == (wrong[0] == "--mean"), "one of the two cases is to be at chance, the other is not"


def test_mean_and_std_are_those_of_the_pixels_from_0_to_1(succeeded: Callable[..., str], weights: Any):
    """Nothing subtracted and nothing divided by is what `none` is; twice the std is half the image."""
    given = ("--weights", weights["whole.safetensors"])
    none, same = record(succeeded, *given, "--normalise", "none"), record(succeeded, *given, "--mean", "0")
    half = record(succeeded, *given, "--mean", "0", "--std", "2")

    assert none["confusion"] == same["confusion"] != half["confusion"]
    images = data.load_images("digits", seed=0, normalise="none")
    network = network_of(weights["whole.safetensors"], SPEC)
    with network.inference():
        output = network.run(images.test.inputs / np.float32(32)).output[0]
    assert half["top1"]["right"] == int((output.argmax(axis=1) == images.test.targets).sum())


def test_a_spec_of_other_zeros_is_used_and_noted(succeeded: Callable[..., str], weights: Any):
    given = ("--weights", weights["whole.safetensors"], "--width", "8", "--spec")
    right, wrong, none = (record(succeeded, *given, name) for name in ("cifar-8-A-both", "cifar-8", "cifar-8-plain"))

    assert right["notes"] == []
    assert right["confusion"] == record(succeeded, *given[:2])["confusion"]
    for other, means in ((wrong, "option A with the zeros after the channels"), (none, "no shortcuts")):
        assert other["confusion"] != right["confusion"]
        assert other["notes"][0] == (
            f"--spec means {means}; the file, by its names or in words, option A with zeros on both sides of the "
            "channels. No shape tells which. If the accuracy is low, leave --spec out."
        )


def test_a_file_that_says_its_spec_is_taken_at_its_word(succeeded: Callable[..., str], weights: Any, here: Path):
    """Option A, which the names would not mean, and of which nothing is left to note."""
    spec = replace(SPEC, stages=Spec.cifar(8, shortcut="A", width=8, size=8, channels=1).stages)
    images = data.load_images("digits", seed=0)
    arrays = network_of(weights["whole.safetensors"], SPEC).arrays
    pretrained.save("told.safetensors", spec, arrays)

    found = record(succeeded, "--weights", "told.safetensors")

    assert found["notes"] == []
    assert found["spec"] == json.loads(spec.to_json())
    assert found["top1"]["right"] == accuracy(network_of("told.safetensors", spec), images).top1.right


def test_outputs_that_are_no_numbers_are_told(succeeded: Callable[..., str], weights: Any):
    text = succeeded("evaluate", "--weights", weights["nan.safetensors"])
    assert "450 of 450 images have outputs that are nan or inf: they are counted as wrong." in text
    assert "Top-1 is not above chance" in text
    assert "nothing" in text


def test_parts_and_what_is_held_out(succeeded: Callable[..., str], weights: Any):
    given = ("--weights", weights["whole.safetensors"])
    train_part = record(succeeded, *given, "--part", "train")
    held = record(succeeded, *given, "--part", "validation", "--validation", "100")
    other = record(succeeded, *given, "--seed", "1")

    assert (train_part["top1"]["n"], held["top1"]["n"], other["top1"]["n"]) == (1347, 100, 450)
    assert other["confusion"] != record(succeeded, *given)["confusion"]


def test_a_network_for_colours(succeeded: Callable[..., str], weights: Any, here: Path):
    """torchvision's ResNet-50, narrow, with random weights, on ten black images."""
    spec = Spec.imagenet(50, shortcut="B", stride="v1.5", width=4, size=32, classes=10)
    network = build(spec, seed=0)
    names = pretrained.names_of(spec)
    save_file(
        {names[ours]: np.ascontiguousarray(array[0]) for ours, array in network.arrays.items()}, "r50.safetensors"
    )
    given = ("--weights", "r50.safetensors", "--data", "cifar10", "--data-folder", weights["colour.npz"])

    found = record(succeeded, *given, "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--check")

    assert found["top1"]["right"] == 1  # all images are the same one, and every class has one
    assert found["notes"][0].startswith("No shape tells where bottlenecks have their stride: taken as in torchvision.")
    assert found["notes"][0].endswith("it is --spec imagenet-50, with --width 4.")
    assert found["check"]["disagree"] == []
    moved = record(succeeded, *given, "--spec", "imagenet-50", "--width", "4")
    assert moved["notes"][0].startswith("--spec means option B, the stride on the first 1x1 convolution (v1);")


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("missing.th", "", "there is no such file"),
        (".", "", "it is a directory"),
        ("empty.th", "", "neither a whole safetensors file nor one that torch.save wrote"),
        ("text.th", "", "neither a whole safetensors file nor one that torch.save wrote"),
        ("cut.th", "", "cannot read"),
        ("cut.safetensors", "", "it is not a whole safetensors file"),
        ("code.th", "", "more than tensors is not loaded, since that would run code of the file"),
        ("other.th", "", "does not look like one of the paper's networks"),
        ("colour.npz", "", "cannot read"),
        ("saved.th", "--spec cifar-8", "at 'conv1.weight' it has (8, 1, 3, 3), and the spec has (16, 1, 3, 3)"),
        ("saved.th", "--spec cifar-14 --width 8", "at 'layer1.1.conv1.weight' it has nothing"),
        ("saved.th", "--spec cifr-8", "spec must be the name of a network"),
        ("saved.th", "--width 8", "--width 8 is for --spec"),
        ("saved.th", "--data mnist", "data must be one of 'digits', 'fashion-mnist', 'cifar10'; got 'mnist'"),
        ("saved.th", "--data cifar10 --data-folder nowhere", "data folder 'nowhere': there is no such file or folder"),
        ("saved.th", "--data cifar10 --data-folder {npz}", "is of a network for 1 channel and 10 classes"),
        ("saved.th", "--data-folder .", "digits are in no folder"),
        ("saved.th", "--part tset", "part must be one of 'test', 'train', 'validation'; got 'tset'. Did you mean"),
        ("saved.th", "--part validation", "nothing is held out"),
        ("saved.th", "--validation 5000", "validation=5000 leaves nothing to train on"),
        ("saved.th", "--normalise imagenet", "normalise must be one of"),
        ("saved.th", "--mean a", "--mean must be numbers"),
        ("saved.th", "--mean nan", "--mean must be a finite number"),
        ("saved.th", "--mean 1,2,3", "--mean must be 1 number, for digits; got 3 numbers"),
        ("saved.th", "--mean 0 --std 0", "--std must be above 0"),
        ("saved.th", "--std 1", "--std 1 is for --mean"),
        ("saved.th", "--mean 0 --normalise pixel", "--mean is in place of --normalise 'pixel'"),
        ("saved.th", "--engine jax", "engine must be one of 'numpy', 'torch'; got 'jax'"),
        ("saved.th", "--device cuda", "--device 'cuda' is for --engine torch"),
        ("saved.th", "--engine torch --device tpu", "device must be one of"),
        ("saved.th", "--dtype float16", "dtype must be one of"),
        ("saved.th", "--batch 0", "batch must be at least 1"),
        ("saved.th", "--batch 100000000000", "this is too large"),
        ("saved.th", "--spec cifar-999999998", "networks of depth 999999998"),
        ("saved.th", "--jobs 0", "jobs must be at least 1"),
        ("saved.th", "--out confusion.txt", "--out must end in .csv"),
        ("saved.th", "--out no/such/folder.csv", "there is no directory"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    refused: Callable[..., str], weights: Any, here: Path, file: str, options: str, message: str
):
    path = weights.get(file, here)
    told = refused("evaluate", "--weights", path, *options.format(npz=weights["colour.npz"]).split())
    assert message in told


def test_weights_are_asked_for(refused: Callable[..., str]):
    assert refused("evaluate") == "Missing option '--weights'."
