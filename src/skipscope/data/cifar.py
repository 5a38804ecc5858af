"""CIFAR-10: 60,000 photographs of 32 x 32 pixels in three colours, of ten kinds (A. Krizhevsky 2009).

Read from the "binary version", its archive `cifar-10-binary.tar.gz` or the folder that is in it: six files of 10,000
records, each a byte for the label and 3072 for the pixels, channel by channel (red, green, blue), row by row. Or from
an .npz file with the arrays x_train, y_train, x_test and y_test, which may hold fewer. The "python version" consists of
pickles, which can run any code when they are loaded, and is refused. Imports NumPy.
"""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib
from typing import IO, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from skipscope.data.places import Folder, Lookup
from skipscope.errors import InputError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

ARCHIVE = "cifar-10-binary.tar.gz"
_GET = (
    f"get the binary version, {ARCHIVE} (162 MiB), from https://www.cs.toronto.edu/~kriz/cifar.html, and name it or "
    "its folder: --data-folder, folder=, or SKIPSCOPE_DATA"
)
LOOKUP = Lookup(name="cifar10", get=_GET, inside=("cifar-10-batches-bin", "cifar10"))

_BATCHES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
_ARRAYS = {"x_train": np.uint8, "y_train": np.integer, "x_test": np.uint8, "y_test": np.integer}
_PICKLED = ("cifar-10-python.tar.gz", "cifar-10-batches-py", "data_batch_1")
_RECORDS = 10_000  # in a file
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32
_BESIDES = 1 << 20  # bytes of an archive besides the batches: names, a readme

Bytes = NDArray[np.uint8]
Part = tuple[Bytes, NDArray[np.uint8]]


class _Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, as many as are asked for where there are so many."""


def read(folder: Folder) -> tuple[Part, Part]:
    """Pixels of shape (b, 3, 32, 32) with their labels, to train and to test on.

    Raises:
        InputError: the files are not there, or are not what they should be.
    """
    places = LOOKUP.places(folder)
    for place in places:
        if os.path.isfile(place):
            return _file(place)
        if any(os.path.isfile(os.path.join(place, name)) for name in _BATCHES):
            return _parts(place, {name: _batch_file(place, name) for name in _BATCHES})
        for name in (ARCHIVE, ARCHIVE.removesuffix(".gz"), "cifar10.npz", "cifar10_subset.npz"):
            if os.path.isfile(path := os.path.join(place, name)):
                return _file(path)
    for place in places:
        if os.path.basename(os.path.normpath(place)) in _PICKLED:
            raise _pickled(place)
        for name in _PICKLED:
            if os.path.exists(path := os.path.join(place, name)):
                raise _pickled(path)
    raise LOOKUP.nowhere(places)


def _file(path: str) -> tuple[Part, Part]:
    """One file that holds all, by what it begins with."""
    with LOOKUP.opened(path) as stream:
        begin = stream.read(262)
    if begin[:2] == b"PK":
        return _npz(path)
    if begin[257:262] == b"ustar":
        return _parts(path, _archived(path))
    if begin[:1] == b"\x80":
        raise _pickled(path)
    raise LOOKUP.refused(path, "it is neither an archive (.tar.gz) nor an .npz file")


def _pickled(path: str) -> InputError:
    return LOOKUP.refused(path, "it is of the python version, pickles, which can run any code and are never loaded")


# -------------------------------------------------------------------------------------------------- the binary version


def _batch_file(place: str, name: str) -> bytes:
    path = os.path.join(place, name)
    if not os.path.isfile(path):
        raise LOOKUP.refused(place, f"there is no {name}")
    with LOOKUP.opened(path) as stream:
        return _batch(path, stream)


def _batch(path: str, stream: _Readable) -> bytes:
    """The bytes of six equal files, if they are as many as they should be."""
    wanted = _RECORDS * _RECORD
    data = stream.read(wanted + 1)
    if len(data) != wanted:
        found = "more follow" if len(data) > wanted else f"only {len(data):,} are there: it is not whole"
        raise LOOKUP.refused(path, f"it should hold {wanted:,} bytes, {_RECORDS:,} images, and {found}")
    return data


def _archived(path: str) -> dict[str, bytes]:
    """The batches in an archive, which is read from beginning to end once and never unpacked to the disk."""
    found: dict[str, bytes] = {}
    with LOOKUP.opened(path) as stream:
        bounded = cast(IO[bytes], _Bounded(path, stream, len(_BATCHES) * _RECORDS * _RECORD + _BESIDES))
        try:
            with tarfile.open(mode="r|", fileobj=bounded) as archive:
                for member in archive:
                    folder, name = os.path.split(member.name)
                    if folder == "cifar-10-batches-py":
                        raise _pickled(path)
                    if name in _BATCHES and (file := archive.extractfile(member)) is not None:
                        found[name] = _batch(f"{path}/{member.name}", file)
        except tarfile.TarError as error:
            raise LOOKUP.refused(path, f"the archive is damaged or not whole ({error})") from None
        while bounded.read(1 << 16):  # to the end, where the checksum of the whole is
            pass
    if absent := [name for name in _BATCHES if name not in found]:
        raise LOOKUP.refused(path, f"there is no {absent[0]} in it")
    return found


class _Bounded:
    """A stream that refuses to give more bytes than there ought to be, whatever the headers in it say."""

    def __init__(self, path: str, stream: _Readable, most: int) -> None:
        self.path, self.stream, self.left = path, stream, most

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)  # tarfile asks for no more than 10 KB at a time
        self.left -= len(data)
        if self.left < 0:
            raise LOOKUP.refused(self.path, "it unpacks to more than CIFAR-10 is")
        return data


def _parts(path: str, batches: dict[str, bytes]) -> tuple[Part, Part]:
    records = [np.frombuffer(batches[name], np.uint8).reshape(-1, _RECORD) for name in _BATCHES]
    return _part(path, "train", records[:-1]), _part(path, "test", records[-1:])


def _part(path: str, part: str, records: list[Bytes]) -> Part:
    labels = np.concatenate([each[:, 0] for each in records])
    pixels = np.concatenate([each[:, 1:] for each in records]).reshape(-1, *_SHAPE)
    _require_labels(path, part, labels)
    pixels.flags.writeable = False  # so that nobody needs a copy
    return pixels, labels


def _require_labels(path: str, part: str, labels: NDArray[Any]) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= len(CLASSES)))
    if len(wrong):
        raise LOOKUP.refused(path, f"label {wrong[0]} of {part} is {labels[wrong[0]]}, not 0 to 9")


# ----------------------------------------------------------------------------------------------------------- .npz files


def _npz(path: str) -> tuple[Part, Part]:
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {name: _member(path, archive, name) for name in _ARRAYS}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise LOOKUP.refused(path, f"it is damaged or not whole ({error})") from None
    except OSError as error:
        raise LOOKUP.refused(path, (error.strerror or str(error)).lower()) from None
    parts = [(arrays[f"x_{part}"], arrays[f"y_{part}"], part) for part in ("train", "test")]
    for pixels, labels, part in parts:
        if len(pixels) != len(labels):
            raise LOOKUP.refused(path, f"{part} has {len(pixels)} images and {len(labels)} labels")
        _require_labels(path, part, labels)
        pixels.flags.writeable = False
    (train, of_train, _), (test, of_test, _) = parts
    return (train, of_train), (test, of_test)


def _member(path: str, archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """One array, whose head is looked at before its numbers are read, and which is never unpickled."""
    if f"{name}.npy" not in archive.namelist():
        raise LOOKUP.refused(path, f"there is no array {name} in it")
    image = name.startswith("x")
    with archive.open(f"{name}.npy") as stream:
        try:
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):  # of the others, the head alone may say that it is 4 GiB
                raise ValueError(f"version {version}")
            shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
        except ValueError as error:
            raise LOOKUP.refused(path, f"{name} is no array that can be read here ({error})") from None
        fits = np.issubdtype(dtype, _ARRAYS[name]) and shape[1:] == (_SHAPE if image else ()) and not by_column
        if not fits or not (len(shape) and 1 <= shape[0] <= 50_000):
            wanted = "uint8 of shape (1 to 50000, 3, 32, 32)" if image else "whole numbers of shape (1 to 50000,)"
            raise LOOKUP.refused(path, f"{name} must be {wanted}; it says {dtype} of shape {shape}")
        size = int(np.prod(shape)) * dtype.itemsize
        data = stream.read(size + 1)
    if len(data) != size:
        raise LOOKUP.refused(
            path, f"{name} should hold {size:,} bytes, and holds {'more' if len(data) > size else 'fewer'}"
        )
    return np.frombuffer(data, dtype).reshape(shape)
