"""What networks are trained on, and in which order: data sets and mini-batches as functions of a seed.

A `Dataset` is a frozen value: a training and a test part, standardised by what the training part alone tells. Its parts
are pairs of arrays, which networks and losses take as a batch. The data sets are the patterns of the original notebook,
scikit-learn's handwritten digits, the outputs of a random network and the identity; `Dataset.from_arrays` makes one of
anybody's arrays. The mini-batch of a step is computed from seed and step alone, so that a run that goes on at step k
sees what it would have seen. This module draws from `skipscope.draws` and builds the teacher with the NumPy engine;
scikit-learn is imported by `digits` alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from skipscope.draws import are_several, require_seeds, stream
from skipscope.engines.numpy_engine import build
from skipscope.errors import InputError, choose, require_int, require_number, require_type
from skipscope.spec import Spec

__all__ = [
    "DATASETS",
    "Dataset",
    "Samples",
    "Source",
    "batch",
    "batches",
    "digits",
    "identity",
    "lines",
    "load",
    "order",
    "patterns",
    "teacher",
]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Standardise = Literal["feature", "whole", "none"]

SIDE = 8
"""Pixels a side of the patterns and of the digits."""


class Samples(NamedTuple):
    """Inputs with their targets: a batch, as networks and losses take it.

    Attributes:
        inputs: of shape (b, n), or (s, b, n) where every seed has its own.
        targets: labels, whole numbers of shape (b,); or, in a regression, numbers of shape (b, n_out).
    """

    inputs: Array
    targets: NDArray[Any]

    @property
    def size(self) -> int:
        """How many samples it has, b."""
        return int(self.inputs.shape[-2])

    def take(self, indices: Indices) -> Samples:
        """The samples at `indices` of shape (b,), or for every seed its own at indices of shape (s, b)."""
        return Samples(self.inputs[indices], self.targets[indices])


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Samples to train on and samples to test on, as a value: the arrays can only be read.

    Made by `Dataset.from_arrays` and by the functions of this module.

    Attributes:
        name: what it is called.
        train: what is trained on.
        test: what is not.
        classes: how many labels there are, counted from 0; None in a regression.
        class_names: what the labels mean, in their order; empty in a regression.
        shape: of one sample as a picture, e.g. (8, 8); None where samples are no pictures.
        centre: what was subtracted from the inputs, of shape (n,).
        scale: what they were divided by then, of shape (n,).
        description: one line: what it is, and its source.
    """

    name: str
    train: Samples = field(repr=False)
    test: Samples = field(repr=False)
    classes: int | None
    class_names: tuple[str, ...] = ()
    shape: tuple[int, ...] | None = None
    centre: Array = field(repr=False)
    scale: Array = field(repr=False)
    description: str = ""

    def __post_init__(self) -> None:
        for array in (*self.train, *self.test, self.centre, self.scale):
            array.flags.writeable = False

    @classmethod
    def from_arrays(
        cls,
        *,
        train: tuple[Any, Any],
        test: tuple[Any, Any],
        name: str = "mine",
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        shape: Sequence[int] | None = None,
        standardise: Standardise = "feature",
        resolution: float = 0.0,
        description: str = "",
    ) -> Dataset:
        """A data set of one's own arrays, which are copied.

        Args:
            train: inputs and targets. Inputs are numbers of shape (b, n), or pictures (b, height, width), which are
                flattened. Targets of whole numbers, of shape (b,), are labels from 0; floats, of shape (b,) or
                (b, n_out), make it a regression and are left as they are.
            test: likewise.
            name: what it is called.
            classes: how many labels there are; if not given, as many as occur in `train`.
            class_names: what the labels mean; the numbers themselves if not given.
            shape: of one sample as a picture, where the inputs are flat.
            standardise: `"feature"` subtracts from every feature its mean over `train` and divides by its standard
                deviation there (1/b, not 1/(b - 1)); `"whole"` does so with one mean and one standard deviation of all
                features together, which keeps pictures what they look like; `"none"` leaves the inputs alone.
            resolution: the smallest standard deviation that is divided by, in the units of the inputs. A feature that
                varies less is divided by this, or, where this is 0 and the feature is constant, by 1. It keeps a
                feature that hardly ever varies from becoming the largest of all when it does.
            description: one line: what it is, and its source.

        Raises:
            InputError: the arrays do not fit together, or hold what is no finite number; the message says where.
        """
        choose("standardise", standardise, get_args(Standardise))
        if require_number("resolution", resolution) < 0:
            raise InputError(f"resolution must be at least 0; got {resolution}.")
        parts = {"train": _pair("train", train), "test": _pair("test", test)}
        inputs = {part: _inputs(part, given[0]) for part, given in parts.items()}
        if inputs["train"].shape[1:] != inputs["test"].shape[1:]:
            raise InputError(
                f"test inputs must have the shape (b, {_listed(inputs['train'].shape[1:])}), as those of train have; "
                f"got {inputs['test'].shape}."
            )
        seen = _picture_shape(inputs["train"].shape[1:], shape)
        flat = {part: each.reshape(len(each), -1) for part, each in inputs.items()}
        targets = {part: _targets(part, given[1], len(flat[part])) for part, given in parts.items()}
        known = _classes(targets, classes)
        centre, scale = _statistics(flat["train"], standardise, float(resolution))
        standard = {part: _standardised(part, each, centre, scale) for part, each in flat.items()}
        return cls(
            name=name,
            train=Samples(standard["train"], targets["train"]),
            test=Samples(standard["test"], targets["test"]),
            classes=known,
            class_names=_class_names(class_names, known),
            shape=seen,
            centre=centre,
            scale=scale,
            description=description,
        )

    @property
    def features(self) -> int:
        """How many numbers a sample has: a network's `features`."""
        return int(self.train.inputs.shape[-1])

    @property
    def outputs(self) -> int:
        """How many numbers a network has to give a sample: one a class, or one a target."""
        return int(self.train.targets.shape[-1]) if self.classes is None else self.classes

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of the arrays, bit for bit: where they are the same, so are the data."""
        found = hashlib.blake2b(digest_size=8)
        for array in (*self.train, *self.test):
            found.update(f"{array.dtype.str}{array.shape}".encode())
            found.update(array.tobytes())
        return found.hexdigest()

    def pictures(self, inputs: Any) -> Array:
        """`inputs` of shape (..., n) as pictures, of shape (..., height, width), in the units before standardising.

        Raises:
            InputError: the samples are no pictures, or not of this data set.
        """
        if self.shape is None:
            raise InputError(f"the samples of {self.name!r} are no pictures: its shape is None.")
        given = np.asarray(inputs)
        if given.ndim == 0 or given.shape[-1] != self.features:
            raise InputError(f"inputs must have the shape (..., {self.features}); got {given.shape}.")
        raw: Array = given * self.scale + self.centre
        return raw.reshape(*given.shape[:-1], *self.shape)


class Source(Protocol):
    """Where a data set comes from: a function of a seed."""

    def __call__(self, *, seed: int) -> Dataset:
        """The data set of a seed, the same whenever it is asked for."""


# ------------------------------------------------------------------------------------------------------- data sets


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
    require_int("seed", seed, least=0)
    _require_noise(noise)
    sizes = require_int("train", train, least=3), require_int("test", test, least=3)
    parts = [_drawn_patterns(stream(seed, "data", part), size, noise) for part, size in enumerate(sizes)]
    return Dataset.from_arrays(
        name="patterns",
        train=parts[0],
        test=parts[1],
        class_names=("horizontal", "vertical", "diagonal"),
        standardise="whole",
        description=f"noisy lines of 8 x 8 pixels, noise {noise:g}; drawn, after the original notebook",
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
    require_int("seed", seed, least=0)
    from sklearn.datasets import load_digits  # a second to import

    bunch = load_digits()
    shuffled = stream(seed, "data").permutation(len(bunch.target))
    tested = _stratified(bunch.target[shuffled], 450)
    train, test = shuffled[~tested], shuffled[tested]
    return Dataset.from_arrays(
        name="digits",
        train=(bunch.images[train], bunch.target[train]),
        test=(bunch.images[test], bunch.target[test]),
        resolution=1.0,
        description="handwritten digits of 8 x 8 pixels; Alpaydin and Kaynak 1998, UCI data set 80, from scikit-learn",
    )


def _stratified(labels: Indices, size: int) -> NDArray[np.bool_]:
    """Which of `labels` to take for `size` in all: the first of every class, in proportion to the class.

    Proportions are rounded to whole samples by the largest remainders (ties to the lower label).
    """
    exact = np.bincount(labels) * size / len(labels)
    quota = np.floor(exact).astype(np.int64)
    most_lost = np.argsort(quota - exact, kind="stable")
    quota[most_lost[: size - quota.sum()]] += 1
    taken = np.zeros(len(labels), bool)
    for label, count in enumerate(quota):
        taken[np.flatnonzero(labels == label)[:count]] = True
    return taken


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
    require_int("seed", seed, least=0)
    _require_noise(noise)
    sizes = require_int("train", train, least=1), require_int("test", test, least=1)
    spec = Spec.dense(features=features, outputs=outputs, width=width, blocks=blocks, layers=1, shortcut="none")
    # A number of the data stream seeds the teacher: under `seed` itself it would begin as its students do.
    own = int(stream(seed, "data", 2).integers(2**63))
    generators = [stream(seed, "data", part).spawn(2) for part in range(2)]
    inputs = [drawing.standard_normal((size, features)) for size, (drawing, _) in zip(sizes, generators, strict=True)]
    answers = [_answers(spec, own, each) for each in inputs]
    rms = math.sqrt(np.mean(answers[0] ** 2))
    if rms == 0:
        raise InputError(
            f"the teacher of seed={seed} gives 0 whatever comes in: its units are dead. Use another seed, or a width "
            f"above {width}."
        )
    targets = [
        answer / rms + noise * disturbing.standard_normal(answer.shape)
        for answer, (_, disturbing) in zip(answers, generators, strict=True)
    ]
    return Dataset.from_arrays(
        name="teacher",
        train=(inputs[0], targets[0]),
        test=(inputs[1], targets[1]),
        standardise="none",
        description=f"outputs of a random ReLU network of {blocks + 2} layers, width {width}, noise {noise:g}; drawn",
    )


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
    require_int("seed", seed, least=0)
    require_int("features", features, least=1)
    sizes = require_int("train", train, least=1), require_int("test", test, least=1)
    parts = [stream(seed, "data", part).standard_normal((size, features)) for part, size in enumerate(sizes)]
    return Dataset.from_arrays(
        name="identity",
        train=(parts[0], parts[0]),
        test=(parts[1], parts[1]),
        standardise="none",
        description=f"x -> x: {features} standard normals a sample, which are the targets too; drawn",
    )


DATASETS: dict[str, Source] = {"patterns": patterns, "digits": digits, "teacher": teacher, "identity": identity}
"""Every data set by its name."""


def load(name: str, *, seed: int) -> Dataset:
    """The data set called `name`, of a seed.

    Raises:
        InputError: there is none of this name; the message lists those there are.
    """
    return DATASETS[choose("data", name, DATASETS)](seed=seed)


# ---------------------------------------------------------------------------------------------------- mini-batches
#
# An epoch is a permutation of the samples, a function of seed and epoch. Epochs follow on each other without a gap, and
# mini-batch k is what stands at k b to (k + 1) b in this sequence: all are of b samples, none is dropped at an epoch's
# end, and a mini-batch across the end of an epoch has its first samples from the one and its last from the next (so it
# alone may hold a sample twice). Networks of the same seed are shown the same mini-batches, whatever they look like.


def order(seeds: int | Iterable[int], epoch: int, samples: int) -> Indices:
    """In which order an epoch goes through the samples: a permutation of 0 to `samples - 1`.

    Args:
        seeds: a seed, for shape (samples,); or several, for shape (s, samples).
        epoch: which, from 0.
        samples: how many there are.

    Raises:
        InputError: a number is out of range.
    """
    known = require_seeds(seeds)
    require_int("epoch", epoch, least=0)
    require_int("samples", samples, least=1)
    stacked = np.stack([stream(seed, "order", epoch).permutation(samples) for seed in known])
    return stacked if are_several(seeds) else stacked[0]


def batch(seeds: int | Iterable[int], step: int, *, samples: int, size: int) -> Indices:
    """The samples of one step: those of `batches`, without the steps before.

    Args:
        seeds: a seed, for shape (b,); or several, for shape (s, b).
        step: which, from 0.
        samples: how many there are.
        size: of the mini-batch, b.

    Raises:
        InputError: a number is out of range, or `size` above `samples`.
    """
    return next(batches(seeds, samples=samples, size=size, start=step))


def batches(seeds: int | Iterable[int], *, samples: int, size: int, start: int = 0) -> Iterator[Indices]:
    """The samples of step `start`, of the next step, and so on without end.

    An epoch is `samples / size` steps, not always a whole number: mini-batches run on across its end.

    Args:
        seeds: a seed, for mini-batches of shape (b,); or several, for shape (s, b).
        samples: how many there are.
        size: of the mini-batch, b.
        start: the first step.

    Raises:
        InputError: a number is out of range, or `size` above `samples`.
    """
    several = are_several(seeds)
    known = require_seeds(seeds)
    require_int("samples", samples, least=1)
    if require_int("size", size, least=1) > samples:
        raise InputError(f"size={size} is more than there are samples, {samples}: use a smaller mini-batch.")
    found = _batches(known, samples, size, require_int("step", start, least=0))
    return found if several else (each[0] for each in found)


def _batches(seeds: tuple[int, ...], samples: int, size: int, start: int) -> Iterator[Indices]:
    epoch, gone = divmod(start * size, samples)
    left = order(seeds, epoch, samples)[:, gone:]
    while True:
        if left.shape[1] < size:
            epoch += 1
            left = np.concatenate([left, order(seeds, epoch, samples)], axis=1)
        yield left[:, :size].copy()
        left = left[:, size:]


# ------------------------------------------------------------------------------------------------- a user's arrays


def _require_noise(noise: float) -> None:
    if require_number("noise", noise) < 0:
        raise InputError(f"noise must be at least 0: it is a standard deviation; got {noise}.")


def _pair(part: str, given: Any) -> tuple[Any, Any]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise InputError(f"{part} must be a pair (inputs, targets); got {type(given).__name__}.")
    return given[0], given[1]


def _array(what: str, given: Any) -> NDArray[Any]:
    """`given` as an array of finite real numbers with at least one axis."""
    try:
        array = np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{what} must be an array of numbers; got rows of different lengths.") from error
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        raise InputError(f"{what} must be real numbers; got an array of {array.dtype}. Convert it first.")
    finite = np.isfinite(array)
    if not finite.all():
        place = np.argwhere(~finite)[0].tolist()
        raise InputError(
            f"{what} must be finite; got {array[tuple(place)]} at {place}, and {(~finite).sum()} such in all."
        )
    return array


def _inputs(part: str, given: Any) -> Array:
    array = _array(f"{part} inputs", given)
    if array.ndim < 2 or array.size == 0:
        raise InputError(
            f"{part} inputs must have the shape (b, n), or (b, height, width), and not be empty; got {array.shape}."
        )
    with np.errstate(over="ignore"):
        wide = array.astype(np.float64)
    if not np.isfinite(wide).all():
        raise InputError(f"{part} inputs exceed the range of float64, in which networks are given them.")
    return wide


def _targets(part: str, given: Any, samples: int) -> NDArray[Any]:
    """Labels of shape (b,) as int64, or targets of shape (b, n_out) as float64."""
    what = f"{part} targets"
    array = _array(what, given)
    labels = np.issubdtype(array.dtype, np.integer)
    if array.ndim not in ((1,) if labels else (1, 2)) or 0 in array.shape[1:]:
        shapes = "(b,), for whole numbers are labels (give floats for a regression)" if labels else "(b,) or (b, n_out)"
        raise InputError(f"{what} must have the shape {shapes}; got {array.shape}.")
    if len(array) != samples:
        raise InputError(f"{what} must be as many as {part} inputs, {samples}; got {len(array)}.")
    if labels:
        if array.min() < 0 or array.max() >= 2**31:
            raise InputError(f"{what} must be labels counted from 0; got {array.min()} to {array.max()}.")
        return array.astype(np.int64)
    return array.astype(np.float64).reshape(samples, -1)


def _classes(targets: dict[str, NDArray[Any]], given: int | None) -> int | None:
    """How many classes there are, None in a regression; the parts must agree, and labels be in range."""
    train, test = targets["train"], targets["test"]
    if train.dtype != test.dtype or train.shape[1:] != test.shape[1:]:
        raise InputError(f"train and test targets must be of one kind; got {_kind(train)} and {_kind(test)}.")
    if train.ndim == 2:
        if given is not None:
            raise InputError(f"classes={given!r} needs targets that are whole numbers, from 0; got floats.")
        return None
    highest = int(train.max())
    classes = highest + 1 if given is None else require_int("classes", given, least=2)
    if classes < 2:
        raise InputError("train targets must be labels of at least two classes; got 0 alone.")
    for part, labels in targets.items():
        if labels.max() >= classes:
            told = "" if given is not None else ", as train has them; give classes= if there are more"
            raise InputError(f"{part} targets must be labels from 0 to {classes - 1}{told}; got {labels.max()}.")
    if given is None:
        absent = np.setdiff1d(np.arange(min(classes, len(train) + 1)), train)
        if len(absent):
            raise InputError(
                f"train targets must have every label from 0 to {highest}; there is no {absent[0]}. Count labels from "
                f"0, or give classes={classes} if it is meant to be so."
            )
    return classes


def _kind(targets: NDArray[Any]) -> str:
    return "labels" if targets.ndim == 1 else f"floats, {targets.shape[1]} a sample"


def _class_names(given: Sequence[str] | None, classes: int | None) -> tuple[str, ...]:
    if classes is None:
        if given is not None:
            raise InputError("class_names needs labels; targets are floats, and this is a regression.")
        return ()
    if given is None:
        return tuple(map(str, range(classes)))
    if isinstance(given, str) or len(given) != classes or not all(isinstance(each, str) for each in given):
        raise InputError(f"class_names must be {classes} texts, one a class; got {given!r}.")
    return tuple(given)


def _picture_shape(found: tuple[int, ...], given: Sequence[int] | None) -> tuple[int, ...] | None:
    """The shape of one sample as a picture: that of the inputs, or the one given for flat inputs."""
    if given is None:
        return found if len(found) > 1 else None
    require_type("shape", given, Sequence, "e.g. (8, 8)")
    shape = tuple(require_int("shape", each, least=1) for each in given)
    if math.prod(shape) != math.prod(found) or (len(found) > 1 and shape != found):
        raise InputError(f"shape={shape} does not fit inputs of shape (b, {_listed(found)}).")
    return shape


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _statistics(inputs: Array, standardise: Standardise, resolution: float) -> tuple[Array, Array]:
    """What to subtract from the features and what to divide them by, each of shape (n,)."""
    features = inputs.shape[1]
    if standardise == "none":
        return np.zeros(features), np.ones(features)
    columns = inputs if standardise == "feature" else inputs.reshape(-1, 1)
    with np.errstate(all="ignore"):
        centre, spread = columns.mean(axis=0), columns.std(axis=0)
    if not (np.isfinite(centre).all() and np.isfinite(spread).all()):
        raise InputError("train inputs are too large to be standardised in float64: divide them by a constant first.")
    # The mean of equal numbers may differ from them in the last bit: a constant feature is to become 0, not that bit.
    constant = columns.min(axis=0) == columns.max(axis=0)
    centre = np.where(constant, columns[0], centre)
    spread = np.where(constant, 0.0, spread)
    scale = np.where(spread > resolution, spread, resolution or 1.0)
    return np.broadcast_to(centre, features).copy(), np.broadcast_to(scale, features).copy()


def _standardised(part: str, inputs: Array, centre: Array, scale: Array) -> Array:
    with np.errstate(all="ignore"):
        standard: Array = (inputs - centre) / scale
    if not np.isfinite(standard).all():
        raise InputError(f"{part} inputs exceed the range of float64 when standardised: use standardise='none'.")
    return standard
