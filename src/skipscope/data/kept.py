"""The sets of images by name: digits, Fashion-MNIST and CIFAR-10.

Each is read from where it is kept; what is then made of it is the same for all. Imports the readers of the files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from skipscope.data import cifar, fashion
from skipscope.data.augment import Augmentation
from skipscope.data.images import Images, Normalise
from skipscope.data.places import Folder
from skipscope.data.sets import DIGITS, written_digits
from skipscope.errors import InputError, choose, quoted, require_int

__all__ = ["IMAGES", "Kept", "load_images"]

_PAPER = Augmentation(padding=4, mirror=True)


@dataclass(frozen=True)
class Kept:
    """A set of images that is kept somewhere.

    Attributes:
        read: gives pixels and labels, to train and to test on, of a seed and of the folder that the user names.
        class_names: what the labels mean.
        description: one line: what it is, and its source.
        full: the largest pixel that there can be.
        augmentation: how its images are varied while they are trained on.
    """

    read: Callable[[int, Folder], tuple[tuple[Any, Any], tuple[Any, Any]]]
    class_names: tuple[str, ...]
    description: str
    full: int = 255
    augmentation: Augmentation = _PAPER


def load_images(
    name: str,
    *,
    seed: int,
    folder: Folder = None,
    train: int | None = None,
    test: int | None = None,
    validation: int = 0,
    normalise: Normalise = "pixel-mean",
    augment: bool = True,
) -> Images:
    """The set of images called `name`: `"digits"`, `"fashion-mnist"` or `"cifar10"`.

    Args:
        name: of the set, in `IMAGES`.
        seed: draws what is held out, and for digits the split into train and test.
        folder: where the files are. If not given, they are looked for in the folder that the environment variable
            SKIPSCOPE_DATA names, then, for Fashion-MNIST, where Debian's package puts them. Nothing is downloaded.
        train: how many of the images that there are to train on, the first ones; all of them if not given.
        test: likewise.
        validation: how many of those to train on are held out, of every class its share; the paper's number is 5,000.
        normalise: see `Images.from_pixels`; the paper's is the default.
        augment: whether mini-batches are varied as the set has it: CIFAR-10 and Fashion-MNIST as in the paper (padded
            by 4 pixels, cropped, mirrored), digits not at all.

    Raises:
        InputError: there is none of this name; its files are not there, with how to get them, or are damaged; a number
            is out of range.
    """
    kept = IMAGES[choose("data", name, IMAGES)]
    known = require_int("seed", seed, least=0)
    if not isinstance(augment, bool):
        raise InputError(f"augment must be True or False; got {quoted(augment)}.")
    parts = dict(zip(("train", "test"), kept.read(known, folder), strict=True))
    taken = {
        part: _first(part, kept_part, asked)
        for (part, kept_part), asked in zip(parts.items(), (train, test), strict=True)
    }
    return Images.from_pixels(
        name=name,
        train=taken["train"],
        test=taken["test"],
        classes=len(kept.class_names),
        class_names=kept.class_names,
        full=kept.full,
        validation=validation,
        seed=known,
        normalise=normalise,
        augmentation=kept.augmentation if augment else None,
        description=kept.description,
    )


def _first(part: str, kept: tuple[Any, Any], asked: int | None) -> tuple[Any, Any]:
    pixels, labels = kept
    if asked is None:
        return pixels, labels
    if (number := require_int(part, asked, least=1)) > len(labels):
        raise InputError(f"{part} must be at most the {len(labels)} images that there are; got {number}.")
    return pixels[:number], labels[:number]


def _digits(seed: int, folder: Folder) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    if folder is not None:
        raise InputError(f"data folder {quoted(folder)}: digits are in no folder, scikit-learn brings them along.")
    parts = [(images.astype(np.uint8)[:, None], labels) for images, labels in written_digits(seed)]
    return parts[0], parts[1]


IMAGES: dict[str, Kept] = {
    "digits": Kept(_digits, tuple("0123456789"), DIGITS, full=16, augmentation=Augmentation()),
    "fashion-mnist": Kept(
        lambda seed, folder: fashion.read(folder),
        fashion.CLASSES,
        "articles of clothing, 28 x 28 pixels in grey; Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747",
    ),
    "cifar10": Kept(
        lambda seed, folder: cifar.read(folder),
        cifar.CLASSES,
        "photographs of 32 x 32 pixels in colour; Krizhevsky 2009, CIFAR-10",
    ),
}
"""Every set of images by its name."""
