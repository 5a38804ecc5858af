"""Data sets of images with channels: bytes in memory, numbers when they are shown.

A set of 60,000 images is kept as it came, one byte a pixel, for as numbers for a network it would take four or eight
times the memory; a mini-batch is standardised, and cropped and mirrored where the set says so, when its turn comes.
Imports the checks of a user's arrays, the order of mini-batches and the augmentation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from skipscope.data import arrays
from skipscope.data.augment import Augmentation, Crops, shown
from skipscope.data.dataset import Samples
from skipscope.data.order import batches, stratified
from skipscope.draws import are_several, require_seeds, stream
from skipscope.errors import InputError, choose, require_int, require_type

__all__ = ["Images", "Normalise"]

Array = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Indices = NDArray[np.int64]
Normalise = Literal["pixel-mean", "pixel", "channel-mean", "channel", "none"]
"""What the training part tells that images are standardised by; see `Images.from_pixels`."""

_PARTS = ("train", "validation", "test")
_CHUNK = 2000  # images whose squares are held at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Images to train on and images to test on, as a value: the arrays can only be read.

    Made by `Images.from_pixels` and by `skipscope.data.load_images`. What networks take of it, `batches` and `pieces`
    give, as a `Dataset` does.

    Attributes:
        name: what it is called.
        train: what is trained on: pixels of shape (b, c, h, w), uint8, and labels of shape (b,).
        test: what is not.
        validation: what was held out of the training part, if anything was.
        classes: how many labels there are, counted from 0.
        class_names: what the labels mean, in their order.
        centre: what is subtracted from the pixels, of shape (c, h, w).
        scale: what they are divided by then, of shape (c, h, w).
        augmentation: how the images of a mini-batch are varied.
        description: one line: what it is, and its source.
    """

    name: str
    train: Samples = field(repr=False)
    test: Samples = field(repr=False)
    validation: Samples | None = field(repr=False, default=None)
    classes: int
    class_names: tuple[str, ...]
    centre: Array = field(repr=False)
    scale: Array = field(repr=False)
    augmentation: Augmentation
    description: str = ""

    def __post_init__(self) -> None:
        arrays.require_told(self.name, self.description, self.classes, self.class_names)
        require_type("augmentation", self.augmentation, Augmentation, "Augmentation(padding=4, mirror=True) is one")
        held = {} if self.validation is None else {"validation": self.validation}
        given: dict[str, Any] = {"centre": self.centre, "scale": self.scale}
        for part, samples in {"train": self.train, **held, "test": self.test}.items():
            require_type(part, samples, Samples, "Images.from_pixels(train=..., test=...) makes it")
            given |= {f"{part} pixels": samples.inputs, f"{part} labels": samples.targets}
        for what, array in given.items():
            require_type(what, array, np.ndarray, "Images.from_pixels(...) makes them")
            array.flags.writeable = False

    @classmethod
    def from_pixels(
        cls,
        *,
        train: tuple[Any, Any],
        test: tuple[Any, Any],
        name: str = "mine",
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        full: int = 255,
        validation: int = 0,
        seed: int = 0,
        normalise: Normalise = "pixel-mean",
        augmentation: Augmentation | None = None,
        description: str = "",
    ) -> Images:
        """A data set of one's own images.

        Args:
            train: pixels and labels. Pixels are bytes (uint8) of shape (b, c, h, w), or (b, h, w) for one channel;
                labels are whole numbers from 0, of shape (b,). Arrays that can be written to are copied.
            test: likewise.
            name: what it is called.
            classes: how many labels there are; if not given, as many as occur in `train`.
            class_names: what the labels mean; the numbers themselves if not given.
            full: the largest pixel that there can be; inputs are given in units of it where nothing else is divided by.
            validation: how many images to hold out of `train`, of every class its share. The paper holds out 5,000 of
                50,000.
            seed: draws which. Without a validation part, nothing depends on it.
            normalise: what is subtracted and divided by, as the training part (less what is held out of it) tells.
                `"pixel-mean"`, the paper's: the mean of every pixel is subtracted, and nothing else done;
                `"channel-mean"`: likewise, the mean of every channel; `"pixel"` and `"channel"`: divided by its
                standard deviation (1/b) too, of at least 1, the smallest step of a pixel; `"none"`: only put in units
                of `full`, so from 0 to 1.
            augmentation: how the images of a mini-batch are varied; not at all if not given.
            description: one line: what it is, and its source.

        Raises:
            InputError: the arrays do not fit together, or a number is out of range; the message says where.
        """
        choose("normalise", normalise, get_args(Normalise))
        most = require_int("full", full, least=1)
        parts = {"train": arrays.pair("train", train), "test": arrays.pair("test", test)}
        pixels = {part: _pixels(part, given[0], most) for part, given in parts.items()}
        if pixels["train"].shape[1:] != pixels["test"].shape[1:]:
            raise InputError(
                f"test pixels must have the shape (b, {arrays.listed(pixels['train'].shape[1:])}), as those of train "
                f"have; got {pixels['test'].shape}."
            )
        labels = {part: arrays.targets(part, given[1], len(pixels[part])) for part, given in parts.items()}
        known = arrays.classes(labels, classes)
        if known is None:
            raise InputError("train targets must be whole numbers, labels from 0; got floats.")
        whole = Samples(pixels["train"], labels["train"])
        trained, held = _split(
            whole, require_int("validation", validation, least=0), require_int("seed", seed, least=0)
        )
        centre, scale = _statistics(trained.inputs, normalise, float(most))
        return cls(
            name=name,
            train=trained,
            test=Samples(pixels["test"], labels["test"]),
            validation=held,
            classes=known,
            class_names=arrays.class_names(class_names, known),
            centre=centre,
            scale=scale,
            augmentation=Augmentation() if augmentation is None else augmentation,
            description=description,
        )

    # --------------------------------------------------------------------------------------- what networks are shown

    def batches(self, seeds: int | Iterable[int], *, size: int, start: int = 0) -> Iterator[Samples]:
        """The mini-batches of step `start`, of the next step, and so on without end: standardised and augmented.

        Which images, and what is done to each, is a function of seed and step alone. Images of shape (b, c, h, w) in
        float32, their labels of shape (b,); for several seeds, every one its own, (s, b, c, h, w) and (s, b).

        Args:
            seeds: a seed, or several.
            size: of the mini-batch, b.
            start: the first step.

        Raises:
            InputError: a number is out of range, or `size` above the number of images.
        """
        several, known = are_several(seeds), require_seeds(seeds)
        found = self._batches(known, batches(known, samples=self.train.size, size=size, start=start), size, start)
        return found if several else (Samples(each.inputs[0], each.targets[0]) for each in found)

    def _batches(self, seeds: tuple[int, ...], orders: Iterator[Indices], size: int, start: int) -> Iterator[Samples]:
        for step, indices in enumerate(orders, start):
            crops = self.augmentation.crops(seeds, step, size=size)
            images = self._shown(self.train.inputs[indices.reshape(-1)], crops.flat())
            yield Samples(images.reshape(*indices.shape, *self.shape), self.train.targets[indices])

    def pieces(self, part: str, *, size: int = 512) -> Iterator[Samples]:
        """A part in the order it is kept in, so many images at once: standardised, as they are.

        Args:
            part: `"train"`, `"test"`, or `"validation"` where images were held out.
            size: images at once.

        Raises:
            InputError: there is no such part, or the size is below 1.
        """
        samples: Samples | None = getattr(self, choose("part", part, _PARTS))
        if samples is None:
            raise InputError(f"{self.name!r} has no validation part: load it with validation=5000, for one.")
        step = require_int("size", size, least=1)
        starts = range(0, samples.size, step)
        return (Samples(self._shown(samples.inputs[at : at + step]), samples.targets[at : at + step]) for at in starts)

    def _shown(self, pixels: Bytes, crops: Crops | None = None) -> NDArray[np.float32]:
        return shown(pixels, *self._float32, crops, self.augmentation.padding)

    @cached_property
    def _float32(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.centre.astype(np.float32), self.scale.astype(np.float32)

    def pictures(self, inputs: Any) -> Array:
        """Inputs of shape (..., c, h, w) in the units of the pixels again.

        Raises:
            InputError: they are no images of this data set.
        """
        given = arrays.numbers("inputs", inputs)
        if given.shape[-3:] != self.shape:
            raise InputError(f"inputs must have the shape (..., {arrays.listed(self.shape)}); got {given.shape}.")
        raw: Array = given * self.scale + self.centre
        return raw

    # ---------------------------------------------------------------------------------------------------- what it is

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image: (c, h, w)."""
        return self.train.inputs.shape[1:]

    @property
    def features(self) -> int:
        """How many numbers an image has."""
        return int(np.prod(self.shape))

    @property
    def outputs(self) -> int:
        """How many numbers a network has to give an image: one a class."""
        return self.classes

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of all that networks are shown: of the arrays, bit for bit, and the augmentation."""
        held = () if self.validation is None else self.validation
        found = hashlib.blake2b(repr(self.augmentation).encode(), digest_size=8)
        for array in (*self.train, *held, *self.test, self.centre, self.scale):
            found.update(f"{array.dtype.str}{array.shape}".encode())
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()


def _pixels(part: str, given: Any, full: int) -> Bytes:
    """Pixels of shape (b, c, h, w), which nobody else can write to."""
    array = arrays.numbers(f"{part} pixels", given)
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.size == 0:
        raise InputError(
            f"{part} pixels must be bytes (uint8) of shape (b, c, h, w) or (b, h, w), and not be empty; got "
            f"{array.dtype} of shape {array.shape}."
        )
    if (highest := int(array.max())) > full:
        raise InputError(f"{part} pixels must be at most full={full}; got {highest}.")
    kept = array.copy() if array.flags.writeable else array
    return kept[:, None] if kept.ndim == 3 else kept


def _split(whole: Samples, held: int, seed: int) -> tuple[Samples, Samples | None]:
    """The training part without what is held out, and what is; both in the order of the whole."""
    if held == 0:
        return whole, None
    if held >= whole.size:
        raise InputError(f"validation={held} leaves nothing to train on: there are {whole.size} images.")
    shuffled = stream(seed, "data", 3).permutation(whole.size)
    out = np.zeros(whole.size, bool)
    out[shuffled[stratified(whole.targets[shuffled], held)]] = True
    return whole.take(np.flatnonzero(~out)), whole.take(np.flatnonzero(out))


def _statistics(pixels: Bytes, normalise: Normalise, full: float) -> tuple[Array, Array]:
    """What to subtract from the pixels and what to divide them by, each of shape (c, h, w)."""
    shape = pixels.shape[1:]
    if normalise == "none":
        return np.zeros(shape), np.full(shape, full)
    mean, square = _moments(pixels)
    if normalise.startswith("channel"):
        mean, square = (each.mean(axis=(1, 2), keepdims=True) for each in (mean, square))
    # Sums of whole numbers are exact, and so this is 0 where all pixels are the same.
    spread = np.sqrt(np.maximum(square - mean**2, 0.0))
    scale = np.full(shape, full) if normalise.endswith("mean") else np.maximum(spread, 1.0)
    return np.broadcast_to(mean, shape).copy(), np.broadcast_to(scale, shape).copy()


def _moments(pixels: Bytes) -> tuple[Array, Array]:
    """The mean of every pixel and of its square, each of shape (c, h, w)."""
    total, square = (np.zeros(pixels.shape[1:], np.int64) for _ in range(2))
    for start in range(0, len(pixels), _CHUNK):
        piece = pixels[start : start + _CHUNK]
        total += piece.sum(axis=0, dtype=np.int64)
        square += np.square(piece, dtype=np.uint16).sum(axis=0, dtype=np.int64)  # 255 squared is below 2^16
    return total / len(pixels), square / len(pixels)
