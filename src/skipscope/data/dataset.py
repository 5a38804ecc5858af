"""A data set as a value: a training and a test part, standardised by what the training part alone tells.

Its parts are pairs of arrays, which networks and losses take as a batch. Imports the checks of a user's arrays and the
order of mini-batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from skipscope.data import arrays
from skipscope.data.arrays import Standardise
from skipscope.data.order import batches
from skipscope.errors import InputError, choose, require_int, require_number, require_type

__all__ = ["Dataset", "Samples"]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


class Samples(NamedTuple):
    """Inputs with their targets: a batch, as networks and losses take it.

    Attributes:
        inputs: of shape (b, n), or images of shape (b, c, h, w); with an axis s in front where every seed has its own.
        targets: labels, whole numbers of shape (b,), or (s, b); or, in a regression, numbers of shape (b, n_out).
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]

    @property
    def size(self) -> int:
        """How many samples it has, b."""
        return int(self.inputs.shape[-2 if self.inputs.ndim < 4 else -4])

    def take(self, indices: Indices) -> Samples:
        """The samples at `indices` of shape (b,), or for every seed its own at indices of shape (s, b).

        Raises:
            InputError: there are no such samples.
        """
        try:
            return Samples(self.inputs[indices], self.targets[indices])
        except (IndexError, ValueError, MemoryError) as error:
            raise InputError(f"indices must be whole numbers below {self.size}; {error}.") from None


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
        for part in ("train", "test"):
            require_type(part, getattr(self, part), Samples, "Dataset.from_arrays(train=..., test=...) makes both")
        arrays.require_told(self.name, self.description, self.classes, self.class_names)
        given: dict[str, Any] = {"centre": self.centre, "scale": self.scale}
        for part, samples in (("train", self.train), ("test", self.test)):
            given |= {f"{part} inputs": samples.inputs, f"{part} targets": samples.targets}
        for what, array in given.items():
            require_type(what, array, np.ndarray, "Dataset.from_arrays(...) makes them of whatever NumPy reads")
        if self.shape is not None:
            arrays.picture_shape(self.train.inputs.shape[1:], self.shape)
        for array in given.values():
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
        parts = {"train": arrays.pair("train", train), "test": arrays.pair("test", test)}
        inputs = {part: arrays.inputs(part, given[0]) for part, given in parts.items()}
        if inputs["train"].shape[1:] != inputs["test"].shape[1:]:
            wanted = arrays.listed(inputs["train"].shape[1:])
            raise InputError(
                f"test inputs must have the shape (b, {wanted}), as those of train have; got {inputs['test'].shape}."
            )
        seen = arrays.picture_shape(inputs["train"].shape[1:], shape)
        flat = {part: each.reshape(len(each), -1) for part, each in inputs.items()}
        targets = {part: arrays.targets(part, given[1], len(flat[part])) for part, given in parts.items()}
        known = arrays.classes(targets, classes)
        centre, scale = arrays.statistics(flat["train"], standardise, float(resolution))
        standard = {part: arrays.standardised(part, each, centre, scale) for part, each in flat.items()}
        return cls(
            name=name,
            train=Samples(standard["train"], targets["train"]),
            test=Samples(standard["test"], targets["test"]),
            classes=known,
            class_names=arrays.class_names(class_names, known),
            shape=seen,
            centre=centre,
            scale=scale,
            description=description,
        )

    def batches(self, seeds: int | Iterable[int], *, size: int, start: int = 0) -> Iterator[Samples]:
        """The mini-batches of step `start`, of the next step, and so on without end; see `skipscope.data.batches`.

        Raises:
            InputError: a number is out of range, or `size` above the number of samples.
        """
        return map(self.train.take, batches(seeds, samples=self.train.size, size=size, start=start))

    def pieces(self, part: str, *, size: int = 512) -> Iterator[Samples]:
        """A part in the order it is kept in, so many samples at once.

        Raises:
            InputError: there is no such part, or the size is below 1.
        """
        samples: Samples = getattr(self, choose("part", part, ("train", "test")))
        step = require_int("size", size, least=1)
        starts = range(0, samples.size, step)
        return (Samples(samples.inputs[at : at + step], samples.targets[at : at + step]) for at in starts)

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
        given = arrays.numbers("inputs", inputs)
        if given.ndim == 0 or given.shape[-1] != self.features:
            raise InputError(f"inputs must have the shape (..., {self.features}); got {given.shape}.")
        raw: Array = given * self.scale + self.centre
        return raw.reshape(*given.shape[:-1], *self.shape)
