"""Every parameter of every public function of the data, with every kind of value: it works, or is refused in one line.

The functions are found by their names, so that new ones join; what stands here is one good call of each.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skipscope import InputError, data
from skipscope.data import Augmentation, Dataset, Images, Samples

PIXELS, LABELS = np.zeros((6, 1, 4, 4), np.uint8), np.arange(6) % 3
NUMBERS = np.arange(12.0).reshape(6, 2)
DATASET = Dataset.from_arrays(train=(NUMBERS, LABELS), test=(NUMBERS, LABELS), shape=(1, 2))
IMAGES = Images.from_pixels(train=(PIXELS, LABELS), test=(PIXELS, LABELS), validation=3)


class Strange:
    """Nothing that anybody can use, whose `repr` fails as well."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 3, 2**62, 10**30, 0.5, math.nan, math.inf, -1e308, 1e308, 1j, "", "nope", "3", "a\nb", "x\0",
    b"x", (), [], [1, 2], [[1], [2, 3]], {}, {"a": 1}, {3}, range(3), range(10**18), object(), Strange(), int, print,
    ..., np.array(3), np.array(3.0), np.array("x"), np.array(None), np.array([], int), np.arange(3), np.arange(3.0),
    np.zeros((2, 0)), np.full(3, np.nan), np.array(["a"]), np.array([object()]), np.float64("nan"), np.int8(3),
    np.datetime64("2015-12-10"), iter([1, 2]), Samples(NUMBERS, LABELS), DATASET, IMAGES, Path("/nowhere"),
)  # fmt: skip

DRAWN = {"seed": 0, "train": 6, "test": 6}
MADE = {"name": "mine", "classes": 3, "class_names": ("0", "1", "2"), "description": ""}
GOOD: dict[str, tuple[Any, dict[str, Any]]] = {
    "patterns": (data.patterns, DRAWN | {"noise": 0.1}),
    "digits": (data.digits, {"seed": 0}),
    "teacher": (data.teacher, DRAWN | {"features": 3, "outputs": 2, "width": 8, "blocks": 1, "noise": 0.1}),
    "identity": (data.identity, DRAWN | {"features": 3}),
    "lines": (data.lines, {}),
    "load": (data.load, {"name": "patterns", "seed": 0}),
    "load_images": (
        data.load_images,
        {"name": "digits", "seed": 0, "folder": None, "train": 60, "test": 60, "validation": 10, "augment": True}
        | {"normalise": "pixel"},
    ),
    "order": (data.order, {"seeds": 0, "epoch": 0, "samples": 6}),
    "batch": (data.batch, {"seeds": [0, 1], "step": 0, "samples": 6, "size": 3}),
    "batches": (data.batches, {"seeds": 0, "samples": 6, "size": 3, "start": 0}),
    "Augmentation": (Augmentation, {"padding": 1, "mirror": True}),
    "Augmentation.crops": (Augmentation(padding=1).crops, {"seeds": 0, "step": 0, "size": 3}),
    "Samples.take": (DATASET.train.take, {"indices": np.array([0])}),
    "Dataset": (
        Dataset,
        MADE
        | {"train": DATASET.train, "test": DATASET.test, "shape": (1, 2)}
        | {"centre": DATASET.centre, "scale": DATASET.scale},
    ),
    "Dataset.from_arrays": (
        Dataset.from_arrays,
        MADE
        | {"train": (NUMBERS, LABELS), "test": (NUMBERS, LABELS), "shape": (1, 2)}
        | {"standardise": "whole", "resolution": 0.0},
    ),
    "Dataset.batches": (DATASET.batches, {"seeds": 0, "size": 3, "start": 0}),
    "Dataset.pieces": (DATASET.pieces, {"part": "test", "size": 4}),
    "Dataset.pictures": (DATASET.pictures, {"inputs": NUMBERS}),
    "Images": (
        Images,
        MADE
        | {"train": IMAGES.train, "test": IMAGES.test, "validation": None, "augmentation": Augmentation()}
        | {"centre": IMAGES.centre, "scale": IMAGES.scale},
    ),
    "Images.from_pixels": (
        Images.from_pixels,
        MADE
        | {"train": (PIXELS, LABELS), "test": (PIXELS, LABELS), "full": 255, "validation": 3, "seed": 0}
        | {"normalise": "pixel", "augmentation": Augmentation()},
    ),
    "Images.batches": (IMAGES.batches, {"seeds": 0, "size": 3, "start": 0}),
    "Images.pieces": (IMAGES.pieces, {"part": "test", "size": 4}),
    "Images.pictures": (IMAGES.pictures, {"inputs": PIXELS}),
}
# Values that programs make, which no user writes down, or tables.
BESIDES = {"Crops", "Samples", "Source", "DATASETS", "IMAGES"}
CASES = [(function, parameter) for function, (_, good) in GOOD.items() for parameter in good]


def done(call: Any, arguments: dict[str, Any]) -> None:
    """Call it, and take the first of what comes one by one."""
    result = call(**arguments)
    if isinstance(result, Iterator):
        next(result)


def test_every_public_name_is_tried():
    assert {name.partition(".")[0] for name in GOOD} | BESIDES == set(data.__all__) | {"Samples"}
    for name in ("Dataset", "Images", "Augmentation"):
        methods = {each for each, _ in inspect.getmembers(getattr(data, name), callable) if each[0] != "_"}
        assert {f"{name}.{each}" for each in methods} <= GOOD.keys()
    for call, good in GOOD.values():
        assert set(inspect.signature(call).parameters) == good.keys()
        done(call, good)


@pytest.mark.parametrize(("function", "parameter"), CASES)
def test_wrong_values_are_refused_in_one_line(function: str, parameter: str):
    call, good = GOOD[function]
    said = []
    for value in WRONG:
        try:
            done(call, good | {parameter: value})
        except InputError as error:
            said.append(str(error))
    assert len(said) > 10
    assert not any("\n" in each or len(each) > 1000 for each in said)


def test_seeds_and_sizes_of_numpy_are_whole_numbers():
    for three in (np.array(3), np.int8(3), np.uint64(3)):
        assert data.patterns(seed=three).digest == data.patterns(seed=3).digest  # type: ignore[arg-type]
        assert data.teacher(seed=0, train=three, width=three, blocks=three).digest == (  # type: ignore[arg-type]
            data.teacher(seed=0, train=3, width=3, blocks=3).digest
        )
        assert np.array_equal(data.order(three, three, three), data.order(3, 3, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Dataset(train=0, test=0, name="x", classes=2, centre=0, scale=0),  # type: ignore[arg-type]
            "train must be a Samples: Dataset.from_arrays(train=..., test=...) makes both; got int.",
        ),
        (lambda: data.teacher(seed=0, features=None), "features must be a whole number of at least 1; got None."),  # type: ignore[arg-type]
        (
            lambda: data.identity(seed=0, features=2**30),
            "train must be at most 0 samples of 1,073,741,824 numbers; got",
        ),
        (lambda: data.teacher(seed=0, width=10**6), "a teacher of features=16, outputs=1, width=1000000, blocks=2 has"),
        (
            lambda: data.order(0, 0, 2**40),
            "samples must be at most 268,435,456, whose order can be held in memory; got",
        ),
    ],
)
def test_refused(call: Any, message: str):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(message)
