"""The small data sets, as functions of a seed: patterns, digits, the outputs of a random network, the identity.

They are drawn here, but for the digits, which scikit-learn brings along (and which alone imports it). The teacher is
built by the NumPy engine.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from skipscope.data.dataset import Dataset
from skipscope.data.order import stratified
from skipscope.draws import stream
from skipscope.engines.numpy_engine import build
from skipscope.errors import InputError, require_int, require_number
from skipscope.spec import Spec

__all__ = ["digits", "identity", "lines", "patterns", "teacher"]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

SIDE = 8
"""Pixels a side of the patterns and of the digits."""

DIGITS = "handwritten digits of 8 x 8 pixels; Alpaydin and Kaynak 1998, UCI data set 80, from scikit-learn"

_MOST = 1 << 28  # numbers: 2 GiB of float64
_LOUDEST = 1e100  # whose square is far within the range of floats


def patterns(*, seed: int, train: int = 600, test: int = 300, noise: float = 0.1) -> Dataset:
    """The original notebook's pictures of 8 x 8 pixels: a line of ones on zeros, and Gaussian noise on every pixel.

    Sample i has the label i % 3: 0 a horizontal line, 1 a vertical one, 2 a diagonal. The line stands in one of eight
    places, drawn with equal probability; a diagonal that leaves the picture on the right comes in again on the left, so
    that every line has eight pixels. Hence the lines of a class add up to the same picture for every class, and no
    linear classifier has an expected cross-entropy below log 3, that of guessing: what a network achieves here it owes
    to its hidden layers. Standardised by one mean and one standard deviation of all pixels of the training part, for
    all pixels have the same law.

    Args:
        seed: draws places and noise. The same seed has the same pictures at every `noise` (but for the noise) and at
            every size, of which a smaller part is the beginning of a larger.
        train: samples of the training part.
        test: samples of the test part.
        noise: standard deviation of the noise; the line is 1.

    Raises:
        InputError: fewer than three samples in a part, or a noise below 0.
    """
    own = require_int("seed", seed, least=0)
    spread = _require_noise(noise)
    sizes = _require_sizes(train, test, least=3, numbers=SIDE * SIDE)
    parts = [_drawn_patterns(stream(own, "data", part), size, spread) for part, size in enumerate(sizes)]
    return Dataset.from_arrays(
        name="patterns",
        train=parts[0],
        test=parts[1],
        class_names=("horizontal", "vertical", "diagonal"),
        standardise="whole",
        description=f"noisy lines of 8 x 8 pixels, noise {spread:g}; drawn, after the original notebook",
    )


def lines() -> Array:
    """The 24 patterns without noise, of shape (3, 8, 8, 8): class, place, row, column."""
    place, row, column = np.ogrid[:SIDE, :SIDE, :SIDE]
    kinds = np.broadcast_arrays(row == place, column == place, column == (row + place) % SIDE)
    return np.stack(kinds).astype(np.float64)


def _drawn_patterns(generator: np.random.Generator, samples: int, noise: float) -> tuple[Array, Indices]:
    placing, disturbing = generator.spawn(2)  # so that fewer samples are the first of more
    labels = np.arange(samples) % 3
    pictures = lines()[labels, placing.integers(SIDE, size=samples)]
    return pictures + noise * disturbing.standard_normal(pictures.shape), labels


def digits(*, seed: int) -> Dataset:
    """Real handwritten digits, 8 x 8 pixels of 0 to 16: the 1,797 that scikit-learn brings along.

    They are the test part of the Optical Recognition of Handwritten Digits of E. Alpaydin and C. Kaynak, 1998 (UCI
    Machine Learning Repository, data set 80), by 13 people, who are in both parts here: the test error says nothing of
    the hands of others. 1,347 are trained on and 450, a quarter, are not, of every class its share to the nearest
    sample. Standardised pixel by pixel by the training part; a pixel of a standard deviation below 1, the smallest step
    of ink, is divided by 1. Three pixels are always blank, and some so rarely inked that a trace of ink would be up to
    42 of their own standard deviations from the mean.

    Args:
        seed: draws the split, and the order within the parts.

    Raises:
        InputError: seed is no whole number of at least 0.
    """
    train, test = written_digits(require_int("seed", seed, least=0))
    return Dataset.from_arrays(name="digits", train=train, test=test, resolution=1.0, description=DIGITS)


def written_digits(seed: int) -> tuple[tuple[Array, Indices], tuple[Array, Indices]]:
    """The split of a seed: pictures of shape (b, 8, 8), of 0 to 16, with their labels, to train and to test on."""
    from sklearn.datasets import load_digits  # a second to import

    bunch = load_digits()
    shuffled = stream(seed, "data").permutation(len(bunch.target))
    tested = stratified(bunch.target[shuffled], 450)
    train, test = shuffled[~tested], shuffled[tested]
    return (bunch.images[train], bunch.target[train]), (bunch.images[test], bunch.target[test])


def teacher(
    *,
    seed: int,
    features: int = 16,
    outputs: int = 1,
    width: int = 16,
    blocks: int = 2,
    train: int = 1000,
    test: int = 1000,
    noise: float = 0.0,
) -> Dataset:
    """A regression whose answer is known to be within reach: the targets are what a small random network gives.

    The teacher is plain, `blocks + 2` weight layers of ReLU units at He's initialisation without biases, with a linear
    output. Its inputs are independent standard normals, and stay so, for they are standard by law. Its outputs are
    divided by their root mean square over the training part (one number, no mean subtracted, so that a student without
    biases can match them exactly): the mean squared error of a network that always answers 0 is 1. Noise comes after:
    no student gets below `noise**2` on new samples.

    Args:
        seed: draws teacher, inputs and noise, from another stream than `skipscope.build` does: the student of a seed is
            not its teacher.
        features: numbers a sample has.
        outputs: numbers the teacher gives a sample.
        width: units of the teacher's hidden layers.
        blocks: its hidden layers after the first.
        train: samples of the training part.
        test: samples of the test part.
        noise: standard deviation of the Gaussian noise on the targets, in units of their root mean square.

    Raises:
        InputError: there is no such network, or it gives 0 whatever comes in.
    """
    known = require_int("seed", seed, least=0)
    spread = _require_noise(noise)
    taken = require_int("features", features, least=1)
    given = require_int("outputs", outputs, least=1)
    spec = _teacher_spec(taken, given, require_int("width", width, least=1), require_int("blocks", blocks, least=0))
    sizes = _require_sizes(train, test, least=1, numbers=max(taken, given, spec.stem.width))
    # A number of the data stream seeds the teacher: under `seed` itself it would begin as its students do.
    own = int(stream(known, "data", 2).integers(2**63))
    generators = [stream(known, "data", part).spawn(2) for part in range(2)]
    inputs = [drawing.standard_normal((size, taken)) for size, (drawing, _) in zip(sizes, generators, strict=True)]
    answers = [_answers(spec, own, each) for each in inputs]
    rms = math.sqrt(np.mean(answers[0] ** 2))
    if rms == 0:
        raise InputError(
            f"the teacher of seed={known} gives 0 whatever comes in: its units are dead. Use another seed, or a width "
            f"above {spec.stem.width}."
        )
    made = f"{len(spec.layers)} layers, width {spec.stem.width}"
    targets = [
        answer / rms + spread * disturbing.standard_normal(answer.shape)
        for answer, (_, disturbing) in zip(answers, generators, strict=True)
    ]
    return Dataset.from_arrays(
        name="teacher",
        train=(inputs[0], targets[0]),
        test=(inputs[1], targets[1]),
        standardise="none",
        description=f"outputs of a random ReLU network of {made}, noise {spread:g}; drawn",
    )


def _teacher_spec(features: int, outputs: int, width: int, blocks: int) -> Spec:
    """What a teacher is, if it is no larger than memory holds with ease."""
    weights = width * (features + outputs + blocks * width)
    if weights > _MOST:
        raise InputError(
            f"a teacher of features={features}, outputs={outputs}, width={width}, blocks={blocks} has {weights:,} "
            f"weights: make it smaller, at most {_MOST:,}."
        )
    return Spec.dense(features=features, outputs=outputs, width=width, blocks=blocks, layers=1, shortcut="none")


def _answers(spec: Spec, seed: int, inputs: Array) -> Array:
    """What the network of `seed` gives for `inputs`: of shape (b, n_out)."""
    from threadpoolctl import threadpool_limits  # not at import, which `skipscope --help` pays for

    with threadpool_limits(limits=1, user_api="blas"):  # the same bits whatever the number of threads
        output: Array = build(spec, seed=seed).run(inputs).output[0]
    return output


def identity(*, seed: int, features: int = 16, train: int = 1000, test: int = 1000) -> Dataset:
    """A regression whose targets are its inputs, independent standard normals: x -> x.

    Whoever always answers 0 has a mean squared error of 1. A ReLU network needs two units a feature in every layer to
    have none, one for either sign; then plain and residual networks of any depth can.

    Args:
        seed: draws the inputs.
        features: numbers a sample has.
        train: samples of the training part.
        test: samples of the test part.

    Raises:
        InputError: a number is out of range.
    """
    own = require_int("seed", seed, least=0)
    count = require_int("features", features, least=1)
    sizes = _require_sizes(train, test, least=1, numbers=count)
    parts = [stream(own, "data", part).standard_normal((size, count)) for part, size in enumerate(sizes)]
    return Dataset.from_arrays(
        name="identity",
        train=(parts[0], parts[0]),
        test=(parts[1], parts[1]),
        standardise="none",
        description=f"x -> x: {count} standard normals a sample, which are the targets too; drawn",
    )


def _require_noise(noise: float) -> float:
    if (spread := require_number("noise", noise)) < 0:
        raise InputError(f"noise must be at least 0: it is a standard deviation; got {noise}.")
    if spread > _LOUDEST:
        raise InputError(f"noise must be at most {_LOUDEST:g}, so that samples can be standardised; got {noise}.")
    return spread


def _require_sizes(train: int, test: int, *, least: int, numbers: int) -> tuple[int, int]:
    """How many samples of so many numbers the parts have, if memory can hold them with ease."""
    sizes = require_int("train", train, least=least), require_int("test", test, least=least)
    for part, size in zip(("train", "test"), sizes, strict=True):
        if size * numbers > _MOST:
            raise InputError(f"{part} must be at most {_MOST // numbers:,} samples of {numbers:,} numbers; got {size}.")
    return sizes
