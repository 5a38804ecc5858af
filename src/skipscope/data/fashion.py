"""Fashion-MNIST: 70,000 pictures of articles of clothing, 28 x 28 pixels in grey, of ten kinds (arXiv:1708.07747).

Four files in the IDX format: two zero bytes, one for the type (8: bytes) and one for the number of axes; the lengths of
the axes, each in four bytes, the highest first; then the numbers. Compressed by gzip or not. Imports NumPy.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from skipscope.data.places import Folder, Lookup

CLASSES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip

LOOKUP = Lookup(
    name="fashion-mnist",
    get=(
        "get it by `apt-get install dataset-fashion-mnist` (Debian), or its four files from "
        "https://github.com/zalandoresearch/fashion-mnist, and name their folder: --data-folder, folder=, or "
        "SKIPSCOPE_DATA"
    ),
    inside=("fashion-mnist", os.path.join("FashionMNIST", "raw")),
    usual=("/usr/share/datasets/fashion-mnist",),
)

_FILES = {"train": "train", "test": "t10k"}
_SIDE = 28
_MOST = 60_000  # images in a file
_DIGITS = {"train": bytes.fromhex("0500040109020103010403050306010702080609"),
           "t10k": bytes.fromhex("0702010004010409050900060900010509070304")}  # fmt: skip
"""The first labels of MNIST, whose files have the same names and lengths and hold handwritten digits."""

Bytes = NDArray[np.uint8]
Part = tuple[Bytes, NDArray[np.uint8]]


def read(folder: Folder) -> tuple[Part, Part]:
    """Pixels of shape (b, 1, 28, 28) with their labels, to train and to test on.

    Raises:
        InputError: the files are not there, or are not what they should be.
    """
    places = LOOKUP.places(folder)
    for place in places:
        if any(_found(place, name, kind) for name in _FILES.values() for kind in ("images-idx3", "labels-idx1")):
            return _part(place, "train"), _part(place, "t10k")
    raise LOOKUP.nowhere(places)


def _found(place: str, name: str, kind: str) -> str | None:
    """The path of a file, as it is or compressed, if there is one."""
    paths = (os.path.join(place, f"{name}-{kind}-ubyte{end}") for end in ("", ".gz"))
    return next((path for path in paths if os.path.isfile(path)), None)


def _part(place: str, name: str) -> Part:
    images, labels = (_array(place, name, kind) for kind in ("images-idx3", "labels-idx1"))
    if len(images) != len(labels):
        raise LOOKUP.refused(place, f"the {name} files hold {len(images)} images and {len(labels)} labels")
    if labels.tobytes().startswith(_DIGITS[name]):
        raise LOOKUP.refused(place, f"the labels of {name} begin like MNIST's: these are digits, and no clothing")
    if (highest := int(labels.max())) >= len(CLASSES):
        where = int(np.argmax(labels >= len(CLASSES)))
        raise LOOKUP.refused(
            place, f"label {where} of {name} is {labels[where]} ({highest} is the highest), not 0 to 9"
        )
    return images[:, None], labels


def _array(place: str, name: str, kind: str) -> Bytes:
    """The numbers of a file, of shape (b, 28, 28) or (b,)."""
    path = _found(place, name, kind)
    if path is None:
        raise LOOKUP.refused(place, f"there is no {name}-{kind}-ubyte or {name}-{kind}-ubyte.gz")
    axes = 3 if kind == "images-idx3" else 1
    with LOOKUP.opened(path) as stream:
        head = stream.read(4 + 4 * axes)
        if head[:4] != bytes([0, 0, 8, axes]):
            raise LOOKUP.refused(path, f"it begins with {head[:4].hex() or 'nothing'}, not with 000008{axes:02x}")
        number, *sides = (int.from_bytes(head[at : at + 4], "big") for at in range(4, 4 + 4 * axes, 4))
        if len(head) < 4 + 4 * axes or not 1 <= number <= _MOST or sides != [_SIDE] * (axes - 1):
            wanted = f"1 to {_MOST:,}" + f" x {_SIDE}" * (axes - 1)
            raise LOOKUP.refused(path, f"it says that it holds {' x '.join(map(str, (number, *sides)))}, not {wanted}")
        size = number * _SIDE ** (axes - 1)
        data = stream.read(size + 1)
    if len(data) != size:
        found = "more follow" if len(data) > size else f"only {len(data):,} are there: it is not whole"
        raise LOOKUP.refused(path, f"it should hold {size:,} bytes after its head, and {found}")
    return np.frombuffer(data, np.uint8).reshape(number, *sides)
