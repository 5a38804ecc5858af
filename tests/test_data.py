"""Data: data sets are functions of a seed, and mini-batches of seed and step alone."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipscope import InputError, Spec, build, data, draws
from skipscope.data import Dataset, Samples
from skipscope.data.order import stratified
from skipscope.losses import CrossEntropy, MeanSquaredError

SEEDS = st.integers(0, 2**63 - 1)


# ------------------------------------------------------------------------------------------------------- patterns


def test_lines_pixel_by_pixel():
    lines = data.lines()

    assert lines.shape == (3, 8, 8, 8)
    for place in range(8):
        horizontal, vertical, diagonal = np.zeros((3, 8, 8))
        horizontal[place, :] = 1
        vertical[:, place] = 1
        for row in range(8):
            diagonal[row, (row + place) % 8] = 1
        assert np.array_equal(lines[:, place], [horizontal, vertical, diagonal])
    assert np.array_equal(lines[2, 0], np.eye(8))


def test_patterns_without_noise_are_lines():
    dataset = data.patterns(seed=3, train=240, test=30, noise=0)

    for part in (dataset.train, dataset.test):
        pictures = dataset.pictures(part.inputs)
        # Standardised and back: two roundings, of numbers of at most 3.
        distance = abs(pictures[:, None] - data.lines()[part.targets]).max(axis=(-2, -1))
        assert (distance.min(axis=1) < 4e-15).all()
    # 80 lines of a class leave out one of the eight places with a probability below 3 * 8 * (7/8)^80 = 6e-4.
    seen = zip(dataset.train.targets.tolist(), _places(dataset, dataset.train).tolist(), strict=True)
    assert set(seen) == set(itertools.product(range(3), range(8)))


def _places(dataset: Dataset, part: Samples) -> Any:
    """Where the line of every picture stands: at the line of its class that is nearest."""
    distance = abs(dataset.pictures(part.inputs)[:, None] - data.lines()[part.targets]).sum(axis=(-2, -1))
    return distance.argmin(axis=1)


def test_places_are_drawn_with_equal_probability():
    dataset = data.patterns(seed=1, train=24_000, test=3, noise=0)

    for label in range(3):
        inked = dataset.pictures(dataset.train.inputs[dataset.train.targets == label]).mean(axis=0)
        # 8,000 lines, so a standard deviation of sqrt(7/64 / 8000) = 3.0 % of 1/8; 24 different shares, hence 4.
        assert abs(8 * inked - 1).max() < 4 * 0.030


def test_patterns_are_balanced_and_labelled_as_in_the_notebook():
    dataset = data.patterns(seed=0, train=100, test=4)

    assert np.array_equal(dataset.train.targets, np.arange(100) % 3)
    assert np.array_equal(dataset.test.targets, [0, 1, 2, 0])
    assert dataset.class_names == ("horizontal", "vertical", "diagonal")
    assert (dataset.classes, dataset.shape, dataset.features, dataset.outputs) == (3, (8, 8), 64, 3)


def test_patterns_are_standardised_as_a_whole():
    dataset = data.patterns(seed=0)
    raw = dataset.pictures(dataset.train.inputs)

    # Means of 38,400 numbers of at most 4, rounded: far below 1e-13.
    assert dataset.train.inputs.mean() == pytest.approx(0, abs=1e-13)
    assert dataset.train.inputs.std() == pytest.approx(1, abs=1e-13)
    assert dataset.centre == pytest.approx(raw.mean(), abs=1e-13)  # the same for every pixel
    assert dataset.scale == pytest.approx(raw.std(), abs=1e-13)


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_noise_is_gaussian_of_its_standard_deviation(noise: float):
    from scipy import stats

    clean, noisy = (data.patterns(seed=5, train=3000, test=3, noise=each) for each in (0.0, noise))
    added = (noisy.pictures(noisy.train.inputs) - clean.pictures(clean.train.inputs)).ravel() / noise

    # The mean square of N normals has the relative standard deviation sqrt(2/N) = 0.32 %; 3 of them. 5 % off is 15.
    assert np.mean(added**2) == pytest.approx(1, abs=3 * (2 / added.size) ** 0.5)
    assert stats.kstest(added, "norm").pvalue > 0.001


def test_a_smaller_part_is_the_beginning_of_a_larger():
    small = data.patterns(seed=2, train=31, test=12)
    large = data.patterns(seed=2, train=200, test=40)

    for few, many in ((small.train, large.train), (small.test, large.test)):
        # Standardised by different statistics, and back: some roundings of numbers of at most 5.
        again = large.pictures(many.inputs)[: few.size]
        assert small.pictures(few.inputs) == pytest.approx(again, abs=1e-14)


def test_train_and_test_share_no_noise():
    dataset = data.patterns(seed=2, train=300, test=300)
    noise = [
        part.inputs.reshape(-1, 8, 8) - (data.lines()[part.targets, _places(dataset, part)] - dataset.centre[0]) / scale
        for part, scale in ((dataset.train, dataset.scale[0]), (dataset.test, dataset.scale[0]))
    ]

    # The correlation of 19,200 independent pairs has the standard deviation 1/sqrt(19200); 4 of them.
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 4 / 19_200**0.5
    assert (_places(dataset, dataset.train) != _places(dataset, dataset.test)).any()


@given(scale=st.sampled_from([1e-3, 1.0, 30.0]), seed=st.integers(0, 1000))
def test_no_linear_classifier_looks_at_lines(scale: float, seed: int):
    rng = np.random.default_rng(seed)
    weights, bias = scale * rng.standard_normal((3, 64)), rng.standard_normal(3)
    pictures, labels = data.lines().reshape(24, 64), np.repeat(np.arange(3), 8)

    loss = CrossEntropy()((pictures @ weights.T + bias)[None], (None, labels))[0]

    # log-sum-exp is convex and the mean score is the same for every class, so by Jensen the loss is at least log 3.
    assert loss >= math.log(3) - 1e-12


def test_what_is_not_linear_tells_patterns_apart():
    dataset = data.patterns(seed=4)
    pictures = dataset.pictures(dataset.test.inputs).reshape(-1, 64)

    best = (pictures @ data.lines().reshape(24, 64).T).reshape(-1, 3, 8).max(axis=2).argmax(axis=1)

    # A line meets itself in 8 pixels, one of another class in 1: apart by 7, at a noise of 0.1 sqrt(14) = 0.37.
    assert np.array_equal(best, dataset.test.targets)


# --------------------------------------------------------------------------------------------------------- digits


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """The digits of one seed; they can only be read."""
    return data.digits(seed=0)


def _hashable(pictures: Any, labels: Any) -> set[tuple[bytes, int]]:
    return {(each.round().astype(int).tobytes(), int(label)) for each, label in zip(pictures, labels, strict=True)}


def raw_digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, bunch.target


@pytest.mark.parametrize("seed", [0, 7, 2**40])
def test_the_split_is_every_digit_once(seed: int):
    dataset = data.digits(seed=seed)
    images, labels = raw_digits()

    assert (dataset.train.size, dataset.test.size) == (1347, 450)
    both = np.concatenate([dataset.pictures(part.inputs) for part in (dataset.train, dataset.test)])
    # Standardised and back, numbers of at most 16; no two of scikit-learn's pictures are the same.
    found = _hashable(both, [*dataset.train.targets, *dataset.test.targets])
    assert found == _hashable(images, labels)
    assert len(found) == 1797
    assert abs(both - both.round()).max() < 1e-13


@pytest.mark.parametrize("seed", [0, 7])
def test_the_split_is_stratified(seed: int):
    dataset = data.digits(seed=seed)
    _, labels = raw_digits()

    tested = np.bincount(dataset.test.targets)

    assert (abs(tested - np.bincount(labels) * 450 / 1797) < 1).all()
    assert tested.sum() == 450


def test_splits_of_different_seeds_differ(digits: Dataset):
    other = data.digits(seed=1)

    tested = [_hashable(each.pictures(each.test.inputs), each.test.targets) for each in (digits, other)]
    shared = len(tested[0] & tested[1])

    # Hypergeometric: 450 of 1797 twice share 112.7, with a standard deviation of 8.0; 4 of them.
    assert abs(shared - 112.7) < 32


def test_digits_come_in_no_order_of_their_labels(digits: Dataset):
    assert len(np.unique(digits.train.targets[:100])) == 10
    assert abs(np.corrcoef(digits.train.targets, np.arange(1347))[0, 1]) < 4 / 1347**0.5


def test_digits_are_standardised_by_pixel(digits: Dataset):
    pixels = digits.pictures(digits.train.inputs).round().reshape(-1, 64)
    mean, spread = digits.train.inputs.mean(axis=0), digits.train.inputs.std(axis=0)
    alive = pixels.std(axis=0) > 1

    assert 40 < alive.sum() < 50
    assert abs(mean).max() < 1e-13
    assert spread[alive] == pytest.approx(1, abs=1e-13)
    assert spread[~alive] == pytest.approx(pixels.std(axis=0)[~alive], abs=1e-13)
    constant = pixels.min(axis=0) == pixels.max(axis=0)
    assert constant.sum() >= 3  # blank in all 1,797
    assert not digits.train.inputs[:, constant].any()
    assert abs(digits.test.inputs).max() <= 16  # not more than all ink that there can be


def test_what_is_known_of_digits(digits: Dataset):
    from sklearn.linear_model import RidgeClassifier
    from sklearn.neighbors import KNeighborsClassifier

    linear = RidgeClassifier(alpha=1.0).fit(*digits.train).score(*digits.test)
    nearest = KNeighborsClassifier(1).fit(*digits.train).score(*digits.test)

    # Least squares gets 94 % right and the nearest neighbour 98 %, whatever the split; of 450 pictures these shares
    # have standard deviations of 1.1 % and 0.7 %; 4 of them. Wrong labels, scrambled pixels or test pictures among the
    # training ones (then the nearest neighbour makes no mistake) are outside.
    assert 0.94 - 4 * 0.011 < linear < 0.94 + 4 * 0.011
    assert 0.98 - 4 * 0.007 < nearest < 1


def test_digits_say_where_they_are_from(digits: Dataset):
    assert "Alpaydin" in digits.description
    assert digits.class_names == tuple("0123456789")
    assert (digits.classes, digits.shape, digits.features, digits.outputs) == (10, (8, 8), 64, 10)


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=60).map(np.array),
    share=st.floats(0, 1),
)
def test_stratified(labels: Any, share: float):
    size = int(share * len(labels))

    taken = stratified(labels, size)

    assert taken.sum() == size
    counts = np.bincount(labels)
    assert (abs(np.bincount(labels[taken], minlength=len(counts)) - counts * size / len(labels)) < 1 + 1e-9).all()
    for label in range(len(counts)):  # the first of every class
        mine = taken[labels == label]
        assert np.array_equal(mine, np.arange(len(mine)) < mine.sum())


# -------------------------------------------------------------------------------------------------------- teacher


def test_targets_are_the_outputs_of_a_network_of_the_engine():
    dataset = data.teacher(seed=6, features=5, outputs=3, width=7, blocks=1, train=40, test=20)
    own = int(draws.stream(6, "data", 2).integers(2**63))
    network = build(Spec.dense(features=5, outputs=3, width=7, blocks=1, layers=1, shortcut="none"), seed=own)

    ratio = dataset.train.targets / network.run(dataset.train.inputs).output[0]

    assert dataset.train.targets.shape == (40, 3)
    assert ratio == pytest.approx(ratio[0, 0], rel=1e-12)  # one number for all
    assert dataset.test.targets == pytest.approx(ratio[0, 0] * network.run(dataset.test.inputs).output[0], rel=1e-12)
    assert (dataset.classes, dataset.class_names, dataset.shape) == (None, (), None)
    assert (dataset.features, dataset.outputs) == (5, 3)


def test_answering_zero_has_an_error_of_one():
    dataset = data.teacher(seed=1, outputs=4)
    zeros = np.zeros((1, 1000, 4))

    assert MeanSquaredError()(zeros, dataset.train)[0] == pytest.approx(1, abs=1e-12)


def test_noise_of_a_teacher_is_what_no_student_learns():
    clean, noisy = (data.teacher(seed=1, outputs=4, noise=noise) for noise in (0.0, 0.3))

    assert np.array_equal(clean.train.inputs, noisy.train.inputs)
    for part, other in ((clean.train, noisy.train), (clean.test, noisy.test)):
        error = MeanSquaredError()(part.targets[None], other)[0]
        # The mean of 4,000 squares of normals: relative standard deviation sqrt(2/4000) = 2.2 %; 3 of them. What is
        # tested here to 7 % is whether the unit is right; the law itself is a sum of NumPy's normals.
        assert error == pytest.approx(0.09, rel=3 * (2 / 4000) ** 0.5)


def test_inputs_of_a_teacher_are_standard_normal():
    from scipy import stats

    dataset = data.teacher(seed=3, features=20, train=5000, test=5000)

    for part in (dataset.train, dataset.test):
        assert stats.kstest(part.inputs.ravel(), "norm").pvalue > 0.001
    # 20 features of one part against those of the other: correlations of standard deviation 1/sqrt(5000); 400 of them.
    correlation = dataset.train.inputs.T @ dataset.test.inputs / 5000
    assert abs(correlation).max() < 5 / 5000**0.5


def test_the_student_of_a_seed_is_not_its_teacher():
    spec = Spec.dense(features=16, outputs=1, width=16, blocks=2, layers=1, shortcut="none")
    for seed in range(5):
        dataset = data.teacher(seed=seed)
        answer = build(spec, seed=seed).run(dataset.train.inputs).output[0]
        assert abs(np.corrcoef(answer.ravel(), dataset.train.targets.ravel())[0, 1]) < 0.99


def test_a_dead_teacher_is_refused():
    seed = next(seed for seed in range(50) if _dies(seed))

    with pytest.raises(InputError, match=f"teacher of seed={seed} gives 0 whatever comes in"):
        data.teacher(seed=seed, width=1, blocks=3, train=5, test=5)


def _dies(seed: int) -> bool:
    """Whether a hidden weight behind the first of a teacher of width 1 is negative, or its first sees nothing."""
    own = int(draws.stream(seed, "data", 2).integers(2**63))
    spec = Spec.dense(features=16, outputs=1, width=1, blocks=3, layers=1, shortcut="none")
    body = [each for name, each in build(spec, seed=own).parameters.items() if name.startswith("stage1")]
    return any(weight.item() < 0 for weight in body)


# --------------------------------------------------------------------------------------------------- all data sets


@pytest.mark.parametrize("name", data.DATASETS)
def test_load(name: str):
    dataset = data.load(name, seed=4)

    assert dataset.name == name
    assert dataset.digest == data.DATASETS[name](seed=4).digest
    assert dataset.digest != data.load(name, seed=5).digest
    assert dataset.description
    assert "\n" not in dataset.description


@pytest.mark.parametrize("name", data.DATASETS)
def test_a_data_set_is_a_batch_for_networks_and_losses(name: str):
    dataset = data.load(name, seed=4)
    network = build(Spec.dense(features=dataset.features, width=5, blocks=1, outputs=dataset.outputs), seed=range(2))
    loss = MeanSquaredError() if dataset.classes is None else CrossEntropy()

    indices = data.batch(range(2), 3, samples=dataset.train.size, size=10)
    for batch in (dataset.test, dataset.train.take(indices), dataset.train.take(indices[0])):
        run = network.run(batch, loss)
        assert run.loss is not None
        assert run.output.shape == (2, batch.size, dataset.outputs)
        assert np.isfinite(run.loss).all()


@pytest.mark.parametrize("name", data.DATASETS)
def test_arrays_can_only_be_read(name: str):
    dataset = data.load(name, seed=4)

    for array in (*dataset.train, *dataset.test, dataset.centre, dataset.scale):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert dataset.train.inputs.dtype == dataset.test.inputs.dtype == np.float64
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.name = "other"  # type: ignore[misc]


def test_take():
    samples = Samples(np.arange(12.0).reshape(4, 3), np.array([5, 6, 7, 8]))

    one = samples.take(np.array([2, 0]))
    assert one.inputs.tolist() == [[6, 7, 8], [0, 1, 2]]
    assert one.targets.tolist() == [7, 5]
    several = samples.take(np.array([[2, 0], [3, 3]]))
    assert several.inputs.shape == (2, 2, 3)
    assert several.targets.tolist() == [[7, 5], [8, 8]]
    assert [each.size for each in (samples, one, several)] == [4, 2, 2]


# Integers, divided and added up in an order of NumPy's that no BLAS has a part in: the same on every machine.
DIGESTS = {"digits": "94c3fe428b7b4dd5", "patterns without noise": "ca06866f92fc6f2b"}


def test_digests_are_what_they_were():
    found = {
        "digits": data.digits(seed=0).digest,
        "patterns without noise": data.patterns(seed=0, noise=0).digest,
    }
    assert found == DIGESTS


def test_another_process_with_other_threads_has_the_same_data():
    script = "from skipscope import data; print(*[data.load(name, seed=11).digest for name in data.DATASETS])"
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for threads in ("1", "2")
    }

    assert found == {" ".join(data.load(name, seed=11).digest for name in data.DATASETS) + "\n"}


def test_the_digest_is_of_the_arrays():
    def dataset(**changed: Any) -> Dataset:
        given = {"train": (np.eye(3), [0, 1, 2]), "test": (np.eye(3), [0, 1, 2])} | changed
        return Dataset.from_arrays(standardise="none", **given)

    same = dataset(name="other", description="other", class_names=["a", "b", "c"])
    others = [
        dataset(train=(np.eye(3), [0, 2, 1])),
        dataset(test=(np.eye(3) + 1e-15, [0, 1, 2])),
        dataset(test=(np.eye(3)[:2], [0, 1])),
        dataset(train=(np.eye(3), [0.0, 1.0, 2.0]), test=(np.eye(3), [0.0, 1.0, 2.0])),
    ]

    assert same.digest == dataset().digest
    assert len({each.digest for each in (same, *others)}) == 5
    assert pickle.loads(pickle.dumps(same)).digest == same.digest
    assert len(same.digest) == 16
    assert int(same.digest, 16) >= 0


# ------------------------------------------------------------------------------------------------- a user's arrays


def arrays(**changed: Any) -> dict[str, Any]:
    """Arguments of `from_arrays`, with a change."""
    return {"train": ([[1, 2], [3, 4], [5, 9]], [0, 1, 0]), "test": ([[0, 2]], [1])} | changed


def test_from_arrays_standardises_by_the_training_part():
    dataset = Dataset.from_arrays(**arrays())

    centre, scale = np.array([3, 5]), np.array([8 / 3, 26 / 3]) ** 0.5
    assert dataset.centre == pytest.approx(centre, rel=1e-15)
    assert dataset.scale == pytest.approx(scale, rel=1e-15)
    assert dataset.train.inputs == pytest.approx(([[1, 2], [3, 4], [5, 9]] - centre) / scale, abs=1e-15)
    assert dataset.test.inputs == pytest.approx(([[0, 2]] - centre) / scale, abs=1e-15)
    assert (dataset.name, dataset.classes, dataset.class_names, dataset.shape) == ("mine", 2, ("0", "1"), None)


def test_from_arrays_with_one_mean_for_all_features():
    dataset = Dataset.from_arrays(**arrays(standardise="whole"))

    assert dataset.centre.tolist() == [4, 4]
    assert dataset.scale == pytest.approx((20 / 3) ** 0.5, rel=1e-15)  # the mean of 9 4 1 0 1 25
    assert dataset.train.inputs.mean() == pytest.approx(0, abs=1e-15)
    assert dataset.train.inputs.std() == pytest.approx(1, abs=1e-15)


def test_from_arrays_leaves_inputs_alone():
    dataset = Dataset.from_arrays(**arrays(standardise="none"))

    assert dataset.train.inputs.tolist() == [[1, 2], [3, 4], [5, 9]]
    assert dataset.test.inputs.tolist() == [[0, 2]]


@pytest.mark.parametrize("standardise", ["feature", "whole", "none"])
def test_the_test_part_leaks_nothing(standardise: Any):
    usual, wild = (
        Dataset.from_arrays(**arrays(test=(inputs, [1] * len(inputs)), standardise=standardise))
        for inputs in ([[0, 2]], [[1e6, -1e6], [7, 7]])
    )

    assert np.array_equal(usual.train.inputs, wild.train.inputs)
    assert np.array_equal(usual.centre, wild.centre)
    assert np.array_equal(usual.scale, wild.scale)


def test_constant_features():
    constant = [[0.1, 0.0]] * 7  # the mean of seven 0.1 is not 0.1
    train = np.column_stack([constant, np.arange(7.0)])

    dataset = Dataset.from_arrays(train=(train, np.arange(7) % 2), test=([[0.6, 0, 3]], [0]))

    assert np.mean([0.1] * 7) != 0.1
    assert not dataset.train.inputs[:, :2].any()
    assert dataset.test.inputs[0].tolist() == [0.5, 0, 0]
    assert dataset.scale[:2].tolist() == [1, 1]


def test_resolution_is_the_least_spread():
    train = np.array([[0.0, 0.0, 5.0], [0.2, 8.0, 5.0]])

    dataset = Dataset.from_arrays(train=(train, [0, 1]), test=([[1, 0, 6]], [0]), resolution=0.5)

    assert dataset.scale.tolist() == [0.5, 4, 0.5]
    assert dataset.test.inputs[0] == pytest.approx([1.8, -1, 2])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float32])
def test_from_arrays_takes_any_real_numbers(dtype: Any):
    inputs = np.array([[1, 2], [3, 4], [5, 9]], dtype)

    assert Dataset.from_arrays(**arrays(train=(inputs, [0, 1, 0]))).digest == Dataset.from_arrays(**arrays()).digest


def test_from_arrays_copies():
    inputs, targets = np.eye(3), np.arange(3)
    floats = np.arange(3.0)
    dataset = Dataset.from_arrays(train=(inputs, targets), test=(inputs, targets), standardise="none")
    regression = Dataset.from_arrays(train=(inputs, floats), test=(inputs, floats))

    inputs[:], targets[:], floats[:] = 7, 7, 7

    assert np.array_equal(dataset.test.inputs, np.eye(3))
    assert dataset.train.targets.tolist() == [0, 1, 2]
    assert regression.train.targets.tolist() == [[0], [1], [2]]


def test_pictures_are_flattened_and_come_back():
    pictures = np.arange(24.0).reshape(2, 3, 4) ** 1.5
    given: dict[str, Any] = {"train": (pictures, [0, 1]), "test": (pictures[:1], [1])}
    dataset = Dataset.from_arrays(**given)
    flat = Dataset.from_arrays(
        train=(pictures.reshape(2, 12), [0, 1]), test=(pictures[:1].reshape(1, 12), [1]), shape=[3, 4]
    )

    assert dataset.shape == flat.shape == (3, 4)
    assert dataset.digest == flat.digest
    assert dataset.train.inputs.shape == (2, 12)
    assert dataset.pictures(dataset.train.inputs) == pytest.approx(pictures, rel=1e-14)
    assert dataset.pictures(dataset.train.inputs[0]).shape == (3, 4)
    assert dataset.pictures(dataset.train.inputs[None]).shape == (1, 2, 3, 4)


def test_regression_targets():
    for targets, shape in (([0.5, 1.5, 2.5], (3, 1)), (np.ones((3, 2), np.float32), (3, 2))):
        dataset = Dataset.from_arrays(**arrays(train=(np.eye(3), targets), test=(np.eye(3), targets)))
        assert dataset.train.targets.shape == shape
        assert dataset.train.targets.dtype == np.float64
        assert (dataset.classes, dataset.outputs) == (None, shape[1])


def test_more_classes_than_occur():
    dataset = Dataset.from_arrays(**arrays(classes=5, test=([[0, 2]], [4])))

    assert (dataset.classes, dataset.outputs) == (5, 5)


GOOD, LABELS = [[1, 2], [3, 4], [5, 9]], [0, 1, 0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train": np.eye(2)}, "train must be a pair (inputs, targets); got ndarray."),
        ({"test": (np.eye(2),)}, "test must be a pair (inputs, targets); got tuple."),
        (
            {"train": ([[1], [2, 3]], LABELS)},
            "train inputs must be an array of numbers; got rows of different lengths.",
        ),
        (
            {"train": ([["a", "b"]], [0])},
            "train inputs must be real numbers; got an array of <U1. Convert it first.",
        ),
        (
            {"train": (np.eye(3, dtype=complex), LABELS)},
            "train inputs must be real numbers; got an array of complex128. Convert it first.",
        ),
        (
            {"train": ([[1, 2], [np.nan, 4], [5, np.inf]], LABELS)},
            "train inputs must be finite; got nan at [1, 0], and 2 such in all.",
        ),
        (
            {"test": ([[0, -np.inf]], [1])},
            "test inputs must be finite; got -inf at [0, 1], and 1 such in all.",
        ),
        (
            {"train": ([1, 2, 3], LABELS)},
            "train inputs must have the shape (b, n), or (b, height, width), and not be empty; got (3,).",
        ),
        (
            {"test": (np.empty((0, 2)), [])},
            "test inputs must have the shape (b, n), or (b, height, width), and not be empty; got (0, 2).",
        ),
        (
            {"test": ([[0, 2, 3]], [1])},
            "test inputs must have the shape (b, 2), as those of train have; got (1, 3).",
        ),
        ({"train": (GOOD, [0, 1])}, "train targets must be as many as train inputs, 3; got 2."),
        ({"test": ([[0, 2]], [1, 0])}, "test targets must be as many as test inputs, 1; got 2."),
        (
            {"train": (GOOD, [[0], [1], [0]])},
            "train targets must have the shape (b,), for whole numbers are labels (give floats for a regression); got "
            "(3, 1).",
        ),
        (
            {"train": (GOOD, np.ones((3, 1, 1)))},
            "train targets must have the shape (b,) or (b, n_out); got (3, 1, 1).",
        ),
        ({"train": (GOOD, np.ones((3, 0)))}, "train targets must have the shape (b,) or (b, n_out); got (3, 0)."),
        ({"train": (GOOD, 1)}, None),
        (
            {"train": (GOOD, [True, False, True])},
            "train targets must be real numbers; got an array of bool. Convert it first.",
        ),
        (
            {"train": (GOOD, [0.0, np.nan, 1.0])},
            "train targets must be finite; got nan at [1], and 1 such in all.",
        ),
        ({"train": (GOOD, [0, -1, 0])}, "train targets must be labels counted from 0; got -1 to 0."),
        ({"train": (GOOD, [0, 0, 0])}, "train targets must be labels of at least two classes; got 0 alone."),
        (
            {"train": (GOOD, [1, 2, 1])},
            "train targets must have every label from 0 to 2; there is no 0. Count labels from 0, or give classes=3 if "
            "it is meant to be so.",
        ),
        (
            {"train": (GOOD, [0, 2**31 - 1, 1])},
            f"train targets must have every label from 0 to {2**31 - 1}; there is no 2. Count labels from 0, or give "
            f"classes={2**31} if it is meant to be so.",
        ),
        (
            {"test": ([[0, 2]], [2])},
            "test targets must be labels from 0 to 1, as train has them; give classes= if there are more; got 2.",
        ),
        ({"test": ([[0, 2]], [2]), "classes": 2}, "test targets must be labels from 0 to 1; got 2."),
        ({"train": (GOOD, [0, 1, 7]), "classes": 3}, "train targets must be labels from 0 to 2; got 7."),
        ({"classes": 1}, "classes must be at least 2; got 1."),
        (
            {"test": ([[0, 2]], [1.0])},
            "train and test targets must be of one kind; got labels and floats, 1 a sample.",
        ),
        (
            {"train": (GOOD, np.ones((3, 2))), "test": ([[0, 2]], [1.0])},
            "train and test targets must be of one kind; got floats, 2 a sample and floats, 1 a sample.",
        ),
        (
            {"train": (GOOD, [0.0, 1.0, 0.0]), "test": ([[0, 2]], [1.0]), "classes": 2},
            "classes=2 needs targets that are whole numbers, from 0; got floats.",
        ),
        (
            {"train": (GOOD, [0.0, 1.0, 0.0]), "test": ([[0, 2]], [1.0]), "class_names": ["a"]},
            "class_names needs labels; targets are floats, and this is a regression.",
        ),
        ({"class_names": ["a"]}, "class_names must be 2 texts, one a class; got ['a']."),
        ({"class_names": "ab"}, "class_names must be 2 texts, one a class; got 'ab'."),
        ({"class_names": ["a", 1]}, "class_names must be 2 texts, one a class; got ['a', 1]."),
        ({"shape": (3, 1)}, "shape=(3, 1) does not fit inputs of shape (b, 2)."),
        (
            {"train": (np.ones((3, 2, 3)), LABELS), "test": (np.ones((1, 2, 3)), [1]), "shape": (3, 2)},
            "shape=(3, 2) does not fit inputs of shape (b, 2, 3).",
        ),
        ({"shape": 2}, "shape must be a Sequence: e.g. (8, 8); got int."),
        ({"shape": (2, 0)}, "shape must be at least 1; got 0."),
        (
            {"standardise": "features"},
            "standardise must be one of 'feature', 'whole', 'none'; got 'features'. Did you mean 'feature'?",
        ),
        ({"resolution": -1}, "resolution must be at least 0; got -1."),
        (
            {"train": ([[1e300, 1], [-1e300, 2]], [0, 1])},
            "train inputs are too large to be standardised in float64: divide them by a constant first.",
        ),
        (
            {"train": ([[0, 1], [1e-150, 2]], [0, 1]), "test": ([[1e300, 1]], [1])},
            "test inputs exceed the range of float64 when standardised: use standardise='none'.",
        ),
    ],
)
def test_refused_arrays(changed: dict[str, Any], message: str | None):
    with pytest.raises(InputError) as caught:
        Dataset.from_arrays(**arrays(**changed))
    assert "\n" not in str(caught.value)
    if message is None:
        message = (
            "train targets must have the shape (b,), for whole numbers are labels (give floats for a regression); got "
            "()."
        )
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: data.load("digit", seed=0),
            "data must be one of 'patterns', 'digits', 'teacher', 'identity'; got 'digit'. Did you mean 'digits'?",
        ),
        (lambda: data.load("digits", seed=-1), "seed must be at least 0; got -1."),
        (lambda: data.patterns(seed=0.5), "seed must be a whole number of at least 0; got 0.5."),  # type: ignore[arg-type]
        (lambda: data.patterns(seed=0, train=2), "train must be at least 3; got 2."),
        (lambda: data.patterns(seed=0, test=0), "test must be at least 3; got 0."),
        (lambda: data.patterns(seed=0, noise=-0.1), "noise must be at least 0: it is a standard deviation; got -0.1."),
        (lambda: data.patterns(seed=0, noise=math.nan), "noise must be a finite number; got nan."),
        (lambda: data.teacher(seed=0, width=0), "width must be at least 1; got 0."),
        (lambda: data.teacher(seed=0, noise=-1), "noise must be at least 0: it is a standard deviation; got -1."),
        (lambda: data.teacher(seed=0, train=0), "train must be at least 1; got 0."),
        (
            lambda: data.teacher(seed=0).pictures(np.zeros(16)),
            "the samples of 'teacher' are no pictures: its shape is None.",
        ),
        (lambda: data.patterns(seed=0).pictures(np.zeros(63)), "inputs must have the shape (..., 64); got (63,)."),
        (lambda: data.order(0, -1, 5), "epoch must be at least 0; got -1."),
        (lambda: data.order([], 0, 5), "seeds is empty: give at least one seed, e.g. seeds=range(200)."),
        (lambda: data.order(0, 0, 0), "samples must be at least 1; got 0."),
        (lambda: data.batch(0, -1, samples=5, size=2), "step must be at least 0; got -1."),
        (lambda: data.batch(0, 0, samples=5, size=0), "size must be at least 1; got 0."),
        (
            lambda: data.batches(0, samples=5, size=6),  # at the call, not at the first batch
            "size=6 is more than there are samples, 5: use a smaller mini-batch.",
        ),
    ],
)
def test_refused(call: Any, message: str):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == message


# ---------------------------------------------------------------------------------------------------- mini-batches


@given(seed=SEEDS, epoch=st.integers(0, 10**6), samples=st.integers(1, 200))
def test_an_epoch_is_a_permutation(seed: int, epoch: int, samples: int):
    found = data.order(seed, epoch, samples)

    assert found.dtype == np.int64
    assert np.array_equal(np.sort(found), np.arange(samples))
    assert np.array_equal(found, data.order(seed, epoch, samples))


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    """A number of samples, and the size of a mini-batch."""
    samples = draw(st.integers(1, 60))
    return samples, draw(st.integers(1, samples))


@given(seed=SEEDS, step=st.integers(0, 1000), both=sizes())
def test_a_batch_is_a_function_of_seed_and_step_alone(seed: int, step: int, both: tuple[int, int]):
    samples, size = both
    # What it should be, from the definition: epochs in a row, cut into pieces of `size`.
    last = (step + 1) * size // samples
    row = np.concatenate([data.order(seed, epoch, samples) for epoch in range(step * size // samples, last + 1)])
    first = step * size % samples

    found = data.batch(seed, step, samples=samples, size=size)

    assert np.array_equal(found, row[first : first + size])


@given(seed=SEEDS, start=st.integers(0, 50), both=sizes())
def test_going_on_at_a_step_is_never_having_stopped(seed: int, start: int, both: tuple[int, int]):
    samples, size = both
    through = list(itertools.islice(data.batches(seed, samples=samples, size=size), start + 8))

    resumed = list(itertools.islice(data.batches(seed, samples=samples, size=size, start=start), 8))

    assert np.array_equal(resumed, through[start:])
    assert np.array_equal(resumed[5], data.batch(seed, start + 5, samples=samples, size=size))


@given(seed=SEEDS, both=sizes(), epochs=st.integers(1, 4))
def test_no_sample_is_dropped(seed: int, both: tuple[int, int], epochs: int):
    samples, size = both
    steps = -(-epochs * samples // size)

    row = np.concatenate(list(itertools.islice(data.batches(seed, samples=samples, size=size), steps)))

    for epoch in range(epochs):
        assert np.array_equal(np.sort(row[epoch * samples : (epoch + 1) * samples]), np.arange(samples))


@given(seeds=st.lists(SEEDS, min_size=1, max_size=4, unique=True), step=st.integers(0, 30), both=sizes())
def test_an_ensemble_stacks_what_each_seed_has_alone(seeds: list[int], step: int, both: tuple[int, int]):
    samples, size = both

    together = data.batch(seeds, step, samples=samples, size=size)

    assert together.shape == (len(seeds), size)
    assert together.flags.c_contiguous
    for row, seed in zip(together, seeds, strict=True):
        assert np.array_equal(row, data.batch(seed, step, samples=samples, size=size))
    assert data.order(seeds, step, samples).shape == (len(seeds), samples)


def test_what_counts_as_one_seed():
    for one in (3, np.int64(3), np.array(3)):
        assert data.order(one, 0, 10).shape == (10,)  # type: ignore[arg-type]  # NumPy's integers count as whole
        assert data.batch(one, 0, samples=10, size=4).shape == (4,)  # type: ignore[arg-type]
    for several in ([3], range(3, 4), np.array([3]), (seed for seed in [3])):
        assert data.batch(several, 0, samples=10, size=4).shape == (1, 4)


def test_a_batch_may_be_written_to():
    stream = data.batches(0, samples=10, size=4)
    next(stream)[:] = -1

    assert np.array_equal(next(stream), data.batch(0, 1, samples=10, size=4))


def test_epochs_and_seeds_are_independent():
    samples = 2000
    orders = [data.order(seed, epoch, samples) for seed, epoch in itertools.product(range(3), range(4))]

    # Spearman's correlation of two independent permutations has the standard deviation 1/sqrt(1999); 66 pairs.
    correlations = np.asarray(np.corrcoef(orders))[np.triu_indices(12, 1)]
    assert abs(correlations).max() < 4 / (samples - 1) ** 0.5
    # Two permutations agree in a Poisson number of places, mean 1: so 66 pairs in 66, deviation 8.1; 4 of them.
    agreeing = sum(int((a == b).sum()) for a, b in itertools.combinations(orders, 2))
    assert abs(agreeing - 66) < 4 * 66**0.5


def test_orders_are_uniform():
    from scipy import stats

    found = [tuple(data.order(seed, epoch, 4).tolist()) for seed in range(48) for epoch in range(50)]
    counts = [found.count(each) for each in itertools.permutations(range(4))]

    assert sum(counts) == 2400
    assert stats.chisquare(counts).pvalue > 0.001  # 24 permutations, 100 expected of each


def test_orders_do_not_depend_on_what_is_drawn_besides():
    """The same mini-batches for a network and its twin; and other streams of the seed do not know of them."""
    first = draws.stream(1, "order", 0).standard_normal(50_000)
    others = [
        draws.stream(1, "order", 1),
        draws.stream(1, "order"),
        draws.stream(1, "data", 0),
        draws.stream(1, "data"),
    ]

    # The correlation of two independent series of N numbers has the standard deviation 1/sqrt(N) = 0.0045.
    for other in others:
        assert abs(np.corrcoef(first, other.standard_normal(50_000))[0, 1]) < 4 * 50_000**-0.5


def test_an_order_is_what_it_was():
    assert data.order(0, 0, 10).tolist() == [0, 3, 2, 4, 9, 8, 5, 6, 1, 7]
    assert data.batch([5, 6], 100, samples=10, size=3).tolist() == [[5, 6, 4], [3, 8, 9]]
