"""What networks are trained on, and in which order: data sets and mini-batches as functions of a seed.

A data set is a frozen value: a training and a test part, standardised by what the training part alone tells. A
`Dataset` holds numbers of any kind, an `Images` pictures with channels, in the bytes that they came in. Both give
mini-batches, which networks and losses take, and the mini-batch of a step is computed from seed and step alone, so that
a run that goes on at step k sees what it would have seen. Nothing is downloaded: Fashion-MNIST and CIFAR-10 are read
from files that the user has. This package draws from `skipscope.draws` and builds the teacher with the NumPy engine.

    sets.py       patterns, digits, teacher, identity: drawn, or brought along by scikit-learn
    images.py     Images: pictures as bytes, standardised and augmented when they are shown
    kept.py       the sets of images by name, and `load_images`
    fashion.py    Fashion-MNIST, of IDX files
    cifar.py      CIFAR-10, of the binary version or of an .npz file
    places.py     where files are looked for, and how they are read without trusting what they say of themselves
    augment.py    the crop and the mirroring of every image of a step
    dataset.py    Samples, Dataset
    arrays.py     what must hold of a user's arrays
    order.py      which samples a step is shown
"""

from __future__ import annotations

from typing import Protocol

from skipscope.data.augment import Augmentation, Crops
from skipscope.data.dataset import Dataset, Samples
from skipscope.data.images import Images
from skipscope.data.kept import IMAGES, load_images
from skipscope.data.order import batch, batches, order
from skipscope.data.sets import digits, identity, lines, patterns, teacher
from skipscope.errors import InputError, choose

__all__ = [
    "DATASETS",
    "IMAGES",
    "Augmentation",
    "Crops",
    "Dataset",
    "Images",
    "Samples",
    "Source",
    "batch",
    "batches",
    "digits",
    "identity",
    "lines",
    "load",
    "load_images",
    "order",
    "patterns",
    "teacher",
]


class Source(Protocol):
    """Where a data set comes from: a function of a seed."""

    def __call__(self, *, seed: int) -> Dataset:
        """The data set of a seed, the same whenever it is asked for."""


DATASETS: dict[str, Source] = {"patterns": patterns, "digits": digits, "teacher": teacher, "identity": identity}
"""Every data set by its name."""


def load(name: str, *, seed: int) -> Dataset:
    """The data set called `name`, of a seed; sets of images, with channels, are `load_images`'s.

    Raises:
        InputError: there is none of this name; the message lists those there are.
    """
    given: object = name
    if isinstance(given, str) and given in IMAGES and given not in DATASETS:
        raise InputError(f"data={name!r} is a set of images: use data.load_images({name!r}, seed=...).")
    return DATASETS[choose("data", name, DATASETS)](seed=seed)
