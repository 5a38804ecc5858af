"""Images: bytes in memory, standardised by the training part, and cropped as a function of seed and step alone."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipscope import InputError, data
from skipscope.data import Augmentation, Images
from skipscope.data.augment import shown

PAPER = Augmentation(padding=4, mirror=True)


def drawn(rng: np.random.Generator, samples: int = 40, shape: tuple[int, ...] = (3, 6, 5)) -> tuple[Any, Any]:
    """Pixels that differ from place to place in mean and spread, and labels of ten classes."""
    mean = rng.integers(40, 200, size=shape)
    pixels = (mean + rng.integers(-40, 50, size=(samples, *shape))).astype(np.uint8)
    return pixels, np.arange(samples) % 10


def made(rng: np.random.Generator, **changed: Any) -> Images:
    pixels, labels = drawn(rng)
    given: dict[str, Any] = {"train": (pixels, labels), "test": (pixels[:7], labels[:7]), "classes": 10}
    return Images.from_pixels(**given | changed)


# ------------------------------------------------------------------------------------------------ what an image becomes


def naive(pixels: Any, centre: Any, scale: Any, crops: data.Crops, padding: int) -> Any:
    """The definition, image by image: subtract, divide, pad with zeros, cut out, mirror."""
    images = []
    for image, top, left, mirrored in zip(pixels, *crops, strict=True):
        standard = (image.astype(np.float32) - centre) / scale
        padded = np.pad(standard, ((0, 0), (padding, padding), (padding, padding)))
        cut = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
        images.append(cut[:, :, ::-1] if mirrored else cut)
    return np.stack(images)


@given(
    samples=st.integers(1, 70),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    padding=st.integers(0, 5),
    mirror=st.booleans(),
    seed=st.integers(0, 99),
)
def test_images_are_shown_as_the_definition_says(samples: int, shape: Any, padding: int, mirror: bool, seed: int):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(256, size=(samples, *shape), dtype=np.uint8)
    centre, scale = rng.random((2, *shape), np.float32) * 200 + 1
    crops = Augmentation(padding=padding, mirror=mirror).crops(seed, 3, size=samples)

    found = shown(pixels, centre, scale, crops, padding)

    assert found.dtype == np.float32
    assert np.array_equal(found, naive(pixels, centre, scale, crops, padding))


def test_crops_by_hand():
    image = np.arange(1, 10, dtype=np.uint8).reshape(1, 1, 3, 3)
    one, zero = np.ones((1, 3, 3), np.float32), np.zeros((1, 3, 3), np.float32)

    def cut(top: int, left: int, mirrored: bool) -> list[list[float]]:
        crops = data.Crops(np.array([top]), np.array([left]), np.array([mirrored]))
        found: list[list[float]] = shown(image, zero, one, crops, 1)[0, 0].tolist()
        return found

    assert cut(1, 1, False) == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert cut(1, 1, True) == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    assert cut(0, 0, False) == [[0, 0, 0], [0, 1, 2], [0, 4, 5]]
    assert cut(2, 0, True) == [[5, 4, 0], [8, 7, 0], [0, 0, 0]]


def test_windows_and_mirrors_are_equally_probable():
    crops = PAPER.crops(range(4), 7, size=50_000)

    # Each of 81 windows has N/81 of N = 200,000 with a relative standard deviation of sqrt(80/N) = 2.0 %, a mirrored
    # image a half with 0.22 %; 4 of them. A tenth window in each direction, or 5 % more mirrors, is far outside.
    counts = np.bincount((crops.top * 9 + crops.left).ravel(), minlength=81) * 81 / 200_000
    assert counts.shape == (81,)
    assert abs(counts - 1).max() < 4 * 0.020
    assert abs(2 * crops.mirrored.mean() - 1) < 4 * 0.0022
    # top, left and mirror of one image, and of two seeds, have nothing to do with each other.
    columns = [*crops.top, *crops.left, *crops.mirrored]
    assert abs(np.corrcoef(columns)[np.triu_indices(12, 1)]).max() < 5 / 50_000**0.5


def test_what_is_not_asked_for_is_not_done():
    plain = Augmentation().crops(0, 0, size=100)
    padded, mirrored = (Augmentation(padding=4, mirror=mirror).crops(0, 0, size=100) for mirror in (False, True))

    assert not any(each.any() for each in plain)
    assert not padded.mirrored.any()
    assert np.array_equal(padded.top, mirrored.top)
    assert mirrored.mirrored.any()


# --------------------------------------------------------------------------------------------------------- mini-batches


@given(seed=st.integers(0, 2**63 - 1), start=st.integers(0, 30), size=st.integers(1, 40))
def test_going_on_at_a_step_is_never_having_stopped(seed: int, start: int, size: int):
    images = made(np.random.default_rng(1), augmentation=Augmentation(padding=2, mirror=True))
    through = list(itertools.islice(images.batches(seed, size=size), start + 3))

    resumed = list(itertools.islice(images.batches(seed, size=size, start=start), 3))

    for one, other in zip(resumed, through[start:], strict=True):
        assert np.array_equal(one.inputs, other.inputs)
        assert np.array_equal(one.targets, other.targets)


def test_a_batch_is_of_the_order_and_of_the_crops(rng: np.random.Generator):
    images = made(rng, augmentation=PAPER)

    batch = next(images.batches([5, 8], size=16, start=6))

    assert batch.inputs.shape == (2, 16, 3, 6, 5)
    assert batch.inputs.dtype == np.float32
    assert batch.size == 16
    for row, seed in enumerate([5, 8]):
        taken = images.train.take(data.batch(seed, 6, samples=40, size=16))
        crops = PAPER.crops(seed, 6, size=16)
        centre, scale = images.centre.astype(np.float32), images.scale.astype(np.float32)
        assert np.array_equal(batch.inputs[row], naive(taken.inputs, centre, scale, crops, 4))
        assert np.array_equal(batch.targets[row], taken.targets)


def test_a_seed_sees_the_same_alone_and_in_company(rng: np.random.Generator):
    images = made(rng, augmentation=PAPER)
    together = [next(itertools.islice(images.batches([3, 9, 4], size=12), 2, None)) for _ in range(2)]
    alone = next(images.batches(9, size=12, start=2))

    assert np.array_equal(together[0].inputs, together[1].inputs)
    assert np.array_equal(together[0].inputs[1], alone.inputs)
    assert np.array_equal(together[0].targets[1], alone.targets)
    assert alone.inputs.shape == (12, 3, 6, 5)
    assert not np.array_equal(together[0].inputs[0], alone.inputs)


def test_steps_are_cropped_differently():
    crops = [PAPER.crops(0, step, size=64) for step in range(3)]

    assert len({each.top.tobytes() for each in crops}) == 3


def test_without_augmentation_an_epoch_is_every_image_once(rng: np.random.Generator):
    images = made(rng)
    epoch = list(itertools.islice(images.batches(0, size=8), 5))

    seen = np.concatenate([images.pictures(batch.inputs) for batch in epoch]).round().astype(int)
    assert {each.tobytes() for each in seen} == {each.tobytes() for each in images.train.inputs.astype(int)}


@pytest.mark.parametrize("part", ["train", "test", "validation"])
def test_pieces_are_the_part_in_its_order(rng: np.random.Generator, part: str):
    images = made(rng, validation=10, augmentation=PAPER)
    samples = getattr(images, part)

    pieces = list(images.pieces(part, size=4))

    assert [each.size for each in pieces[:-1]] == [4] * (len(pieces) - 1)
    assert np.array_equal(np.concatenate([each.targets for each in pieces]), samples.targets)
    found = np.concatenate([each.inputs for each in pieces])
    # One subtraction and one division in float32 of numbers of at most 1.
    assert found == pytest.approx((samples.inputs - images.centre) / images.scale, abs=3e-7)


def test_a_dataset_gives_batches_and_pieces_alike():
    patterns = data.patterns(seed=0)

    batch = next(patterns.batches([1, 2], size=16, start=40))
    assert np.array_equal(batch.inputs[1], patterns.train.inputs[data.batch(2, 40, samples=600, size=16)])
    assert batch.targets.shape == (2, 16)
    pieces = list(patterns.pieces("test", size=128))
    assert [each.size for each in pieces] == [128, 128, 44]
    assert np.array_equal(np.concatenate([each.inputs for each in pieces]), patterns.test.inputs)


# -------------------------------------------------------------------------------------------------------- standardising


def moments(images: Images) -> tuple[Any, Any]:
    shown_once = np.concatenate([each.inputs for each in images.pieces("train")]).astype(np.float64)
    return shown_once, images.train.inputs.astype(np.float64)


def test_the_papers_is_the_mean_of_every_pixel(rng: np.random.Generator):
    inputs, pixels = moments(made(rng))

    assert abs(inputs.mean(axis=0)).max() < 1e-7
    assert inputs.std(axis=0) == pytest.approx(pixels.std(axis=0) / 255, rel=1e-6)  # in units of full, undivided


def test_by_pixel(rng: np.random.Generator):
    inputs, _ = moments(made(rng, normalise="pixel"))

    assert abs(inputs.mean(axis=0)).max() < 1e-6
    assert inputs.std(axis=0) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("normalise", ["channel", "channel-mean"])
def test_by_channel(rng: np.random.Generator, normalise: str):
    images = made(rng, normalise=normalise)
    inputs, pixels = moments(images)

    assert abs(inputs.mean(axis=(0, 2, 3))).max() < 1e-6
    spread = 1 if normalise == "channel" else pixels.std(axis=(0, 2, 3)) / 255
    assert inputs.std(axis=(0, 2, 3)) == pytest.approx(spread, rel=1e-6)
    assert (images.centre == images.centre[:, :1, :1]).all()
    assert len(np.unique(images.centre)) == 3


def test_left_alone_but_for_the_unit(rng: np.random.Generator):
    images = made(rng, normalise="none")

    assert next(images.pieces("test")).inputs == pytest.approx(images.test.inputs / 255, abs=1e-7)
    assert next(images.pieces("test")).inputs.max() <= 1


@pytest.mark.parametrize("samples", [3, 5000])
def test_statistics_of_many_images_are_those_of_numpy(samples: int):
    pixels, labels = drawn(np.random.default_rng(0), samples, (2, 3, 3))
    images = Images.from_pixels(train=(pixels, labels), test=(pixels, labels), classes=10, normalise="pixel")

    # Means of squares of at most 65,025, less a square: some roundings of it, over a variance of at least 100.
    assert images.centre == pytest.approx(pixels.mean(axis=0), rel=1e-14)
    assert images.scale == pytest.approx(pixels.std(axis=0), rel=1e-11)


def test_a_pixel_that_never_varies_is_divided_by_one(rng: np.random.Generator):
    pixels, labels = drawn(rng)
    pixels[:, :, 0] = 77
    images = Images.from_pixels(train=(pixels, labels), test=(pixels + 1, labels), classes=10, normalise="pixel")

    assert (images.scale[:, 0] == 1).all()
    assert not next(images.pieces("train")).inputs[:, :, 0].any()
    assert (next(images.pieces("test")).inputs[:, :, 0] == 1).all()


@pytest.mark.parametrize("normalise", ["pixel-mean", "pixel", "channel-mean", "channel", "none"])
def test_test_and_validation_parts_leak_nothing(rng: np.random.Generator, normalise: Any):
    usual = made(rng, validation=10, normalise=normalise)
    pixels, labels = drawn(np.random.default_rng(20151210))
    held = np.array([any(np.array_equal(each, other) for other in usual.validation.inputs) for each in pixels])  # type: ignore[union-attr]
    pixels[held] = 255
    wild = Images.from_pixels(
        train=(pixels, labels), test=(255 - pixels, labels), classes=10, validation=10, normalise=normalise
    )

    assert held.sum() == 10
    assert np.array_equal(usual.centre, wild.centre)
    assert np.array_equal(usual.scale, wild.scale)


def test_what_is_held_out_is_drawn_and_of_every_class_its_share():
    pixels = np.arange(1000, dtype=np.uint16).view(np.uint8).reshape(1000, 1, 1, 2)
    labels = np.repeat(np.arange(10), 100)
    first, second = (
        Images.from_pixels(train=(pixels, labels), test=(pixels, labels), validation=100, seed=seed) for seed in (0, 1)
    )

    for images in (first, second):
        assert images.validation is not None
        assert (images.train.size, images.validation.size, images.test.size) == (900, 100, 1000)
        assert np.bincount(images.validation.targets).tolist() == [10] * 10
        numbers = [
            each.inputs.reshape(-1, 2).copy().view(np.uint16).ravel() for each in (images.train, images.validation)
        ]
        assert np.array_equal(np.sort(np.concatenate(numbers)), np.arange(1000))
        assert (labels[numbers[0]] == images.train.targets).all()
    assert first.digest != second.digest


# --------------------------------------------------------------------------------------------------------- the value


def test_digits_as_images_are_the_digits():
    images, flat = data.load_images("digits", seed=3), data.digits(seed=3)

    assert (images.shape, images.features, images.outputs) == ((1, 8, 8), 64, 10)
    assert np.array_equal(images.train.targets, flat.train.targets)
    assert np.array_equal(images.test.inputs[:, 0], flat.pictures(flat.test.inputs).round())
    assert images.augmentation == Augmentation()
    assert next(images.batches(0, size=32)).inputs.shape == (32, 1, 8, 8)
    assert abs(next(images.pieces("train", size=2000)).inputs).max() <= 1  # in units of all ink


def test_a_value_is_read_only_and_survives_pickling(rng: np.random.Generator):
    images = made(rng, validation=10, augmentation=PAPER)

    assert images.validation is not None
    for array in (*images.train, *images.validation, *images.test, images.centre, images.scale):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        images.name = "other"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(images)).digest == images.digest
    assert "pixels" not in repr(images)


def test_arrays_are_copied_unless_nobody_can_write_to_them(rng: np.random.Generator):
    pixels, labels = drawn(rng)
    kept = pixels.copy()
    kept.flags.writeable = False
    copied, same = (
        Images.from_pixels(train=(each, labels), test=(each, labels), classes=10) for each in (pixels, kept)
    )

    pixels[:] = 0

    assert copied.digest == same.digest
    assert np.shares_memory(same.train.inputs, kept)
    assert labels.flags.writeable


def test_the_digest_is_of_all_that_networks_are_shown(rng: np.random.Generator):
    pixels, labels = drawn(rng)

    def images(**changed: Any) -> Images:
        given: dict[str, Any] = {"train": (pixels, labels), "test": (pixels[:5], labels[:5]), "classes": 10}
        return Images.from_pixels(**given | changed)

    others = [
        images(train=(pixels[:, ::-1], labels)),
        images(train=(pixels, labels[::-1])),
        images(test=(pixels[:6], labels[:6])),
        images(normalise="pixel"),
        images(augmentation=PAPER),
        images(validation=5),
    ]

    assert images(name="other", seed=7).digest == images().digest
    assert len({each.digest for each in (images(), *others)}) == 7


def test_channels_may_be_left_out_of_grey_images(rng: np.random.Generator):
    pixels, labels = drawn(rng, shape=(6, 5))
    images = Images.from_pixels(train=(pixels, labels), test=(pixels, labels), classes=10)

    assert images.shape == (1, 6, 5)
    assert images.pictures(next(images.pieces("test")).inputs) == pytest.approx(pixels[:, None], abs=1e-3)


GOOD = np.zeros((4, 1, 2, 2), np.uint8), np.array([0, 1, 2, 3])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train": GOOD[0]}, "train must be a pair (inputs, targets); got ndarray."),
        (
            {"train": (GOOD[0] / 1, GOOD[1])},
            "train pixels must be bytes (uint8) of shape (b, c, h, w) or (b, h, w), and not be empty; got float64 of "
            "shape (4, 1, 2, 2).",
        ),
        (
            {"test": (GOOD[0][:0], GOOD[1][:0])},
            "test pixels must be bytes (uint8) of shape (b, c, h, w) or (b, h, w), and not be empty; got uint8 of "
            "shape (0, 1, 2, 2).",
        ),
        (
            {"test": (np.zeros((4, 3, 2, 2), np.uint8), GOOD[1])},
            "test pixels must have the shape (b, 1, 2, 2), as those of train have; got (4, 3, 2, 2).",
        ),
        ({"train": (GOOD[0] + 17, GOOD[1]), "full": 16}, "train pixels must be at most full=16; got 17."),
        ({"train": (GOOD[0], GOOD[1][:3])}, "train targets must be as many as train inputs, 4; got 3."),
        (
            {"train": (GOOD[0], GOOD[1] / 1), "test": (GOOD[0], GOOD[1] / 1)},
            "train targets must be whole numbers, labels from 0; got floats.",
        ),
        ({"validation": 4}, "validation=4 leaves nothing to train on: there are 4 images."),
        ({"validation": -1}, "validation must be at least 0; got -1."),
        ({"full": 0}, "full must be at least 1; got 0."),
        (
            {"normalise": "pixels"},
            "normalise must be one of 'pixel-mean', 'pixel', 'channel-mean', 'channel', 'none'; got 'pixels'. Did you "
            "mean 'pixel'?",
        ),
        (
            {"augmentation": 4},
            "augmentation must be a Augmentation: Augmentation(padding=4, mirror=True) is one; got int.",
        ),
        ({"class_names": 4}, "class_names must be 4 texts, one a class; got 4."),
        ({"name": 4}, "name must be a str: it is text; got int."),
    ],
)
def test_refused_images(changed: dict[str, Any], message: str):
    with pytest.raises(InputError) as caught:
        Images.from_pixels(**{"train": GOOD, "test": GOOD} | changed)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda images: images.pieces("tests"), "part must be one of 'train', 'validation', 'test'; got 'tests'."),
        (lambda images: images.pieces("validation"), "'mine' has no validation part: load it with validation=5000"),
        (lambda images: images.pieces("test", size=0), "size must be at least 1; got 0."),
        (lambda images: images.batches(0, size=41), "size=41 is more than there are samples, 40: use a smaller"),
        (lambda images: images.batches(0, size=4, start=-1), "step must be at least 0; got -1."),
        (
            lambda images: images.pictures(np.zeros((3, 5, 6))),
            "inputs must have the shape (..., 3, 6, 5); got (3, 5, 6).",
        ),
        (
            lambda images: images.train.take(np.array([40])),
            "indices must be whole numbers below 40; index 40 is out of",
        ),
        (lambda images: Augmentation(padding=-1), "padding must be at least 0; got -1."),
        (lambda images: Augmentation(padding=2**40), "padding must be at most 16,777,216 pixels; got 1099511627776."),
        (lambda images: Augmentation(mirror=1), "mirror must be True or False; got 1."),  # type: ignore[arg-type]
        (lambda images: PAPER.crops(0, -1, size=4), "step must be at least 0; got -1."),
        (lambda images: PAPER.crops(0, 0, size=2**40), "size must be at most 16,777,216 images; got 1099511627776."),
        (
            lambda images: data.load_images("cifar", seed=0),
            "data must be one of 'digits', 'fashion-mnist', 'cifar10'; ",
        ),
        (lambda images: data.load_images("digits", seed=0, folder="x"), "data folder 'x': digits are in no folder"),
        (lambda images: data.load_images("digits", seed=0, train=2000), "train must be at most the 1347 images that"),
        (lambda images: data.load_images("digits", seed=0, augment=1), "augment must be True or False; got 1."),  # type: ignore[arg-type]
        (
            lambda images: data.load("cifar10", seed=0),
            "data='cifar10' is a set of images: use data.load_images('cifar10'",
        ),
    ],
)
def test_refused(rng: np.random.Generator, call: Any, message: str):
    with pytest.raises(InputError) as caught:
        call(made(rng))  # at the call, not at the first batch
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- speed


def test_images_are_not_shown_one_by_one():
    """Ten times as fast as the definition, when it was written; 1.5 is asked for, on machines that have other work."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(512, 1, 28, 28), dtype=np.uint8)
    centre, scale = np.full((2, 1, 28, 28), 100, np.float32)
    crops = PAPER.crops(0, 0, size=512)

    def seconds(call: Any) -> float:
        began = time.perf_counter()
        call(pixels, centre, scale, crops, 4)
        return time.perf_counter() - began

    ratios = [seconds(naive) / seconds(shown) for _ in range(15)]

    assert np.median(ratios) > 1.5
