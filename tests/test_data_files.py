"""Fashion-MNIST and CIFAR-10 from files: small valid ones are written here, and spoiled in every way that is known."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skipscope import InputError, data
from skipscope.data import cifar, fashion, places

DEBIAN = Path(fashion.LOOKUP.usual[0])


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder of the machine's own plays a part, unless a test says so."""
    monkeypatch.delenv(places.VARIABLE, raising=False)


def refusal(call: Callable[[], Any]) -> str:
    """What is said, in one line, and how one gets the files at its end."""
    with pytest.raises(InputError) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said
    return said


# -------------------------------------------------------------------------------------------------------- Fashion-MNIST


def idx(numbers: Any) -> bytes:
    """An array of bytes as IDX has it."""
    head = bytes([0, 0, 8, numbers.ndim]) + b"".join(size.to_bytes(4, "big") for size in numbers.shape)
    return bytes(head + numbers.tobytes())


def fashion_arrays(samples: int, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.integers(256, size=(samples, 28, 28), dtype=np.uint8), np.arange(samples, dtype=np.uint8) % 10


def write_fashion(folder: Path, *, end: str = ".gz") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pack = gzip.compress if end else bytes
    for seed, (name, samples) in enumerate({"train": 30, "t10k": 20}.items()):
        images, labels = fashion_arrays(samples, seed)
        (folder / f"{name}-images-idx3-ubyte{end}").write_bytes(pack(idx(images)))
        (folder / f"{name}-labels-idx1-ubyte{end}").write_bytes(pack(idx(labels)))
    return folder


def load_fashion(folder: Any = None, **options: Any) -> data.Images:
    return data.load_images("fashion-mnist", seed=0, folder=folder, **options)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_fashion_mnist_is_what_was_written(tmp_path: Path, end: str):
    images = load_fashion(write_fashion(tmp_path, end=end))

    for seed, part in enumerate((images.train, images.test)):
        pixels, labels = fashion_arrays(part.size, seed)
        assert np.array_equal(part.inputs[:, 0], pixels)
        assert np.array_equal(part.targets, labels)
    assert (images.train.size, images.test.size, images.shape, images.classes) == (30, 20, (1, 28, 28), 10)
    assert images.class_names[9] == "ankle boot"
    assert images.augmentation == data.Augmentation(padding=4, mirror=True)
    assert load_fashion(tmp_path, augment=False).augmentation == data.Augmentation()


def test_fewer_are_the_first(tmp_path: Path):
    write_fashion(tmp_path)
    whole, few = load_fashion(tmp_path), load_fashion(tmp_path, train=20, test=5, validation=10)

    assert few.validation is not None
    assert (few.train.size, few.validation.size, few.test.size) == (10, 10, 5)
    assert np.array_equal(few.test.inputs, whole.test.inputs[:5])


@pytest.mark.parametrize("below", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_a_folder_of_data_may_hold_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str):
    write_fashion(tmp_path / below)

    named = load_fashion(tmp_path)
    monkeypatch.setenv(places.VARIABLE, str(tmp_path))

    assert load_fashion().digest == named.digest == load_fashion(str(tmp_path)).digest


def test_what_is_named_comes_before_what_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_fashion(tmp_path / "right")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "empty"))

    assert load_fashion(tmp_path / "right").train.size == 30
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "right"))
    assert "was not found (looked in" in refusal(lambda: load_fashion(tmp_path / "empty"))  # and nowhere else


def test_where_it_was_looked_for_and_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fashion, "LOOKUP", places.Lookup("fashion-mnist", "get it", ("inside",), ("/usual/place",)))

    assert refusal(load_fashion) == "fashion-mnist was not found (looked in '/usual/place'); get it."
    monkeypatch.setenv(places.VARIABLE, str(tmp_path))
    assert refusal(load_fashion) == (
        f"fashion-mnist was not found (looked in '{tmp_path}', '{tmp_path}/inside', '/usual/place'); get it."
    )
    assert refusal(lambda: load_fashion(tmp_path)) == (
        f"fashion-mnist was not found (looked in '{tmp_path}', '{tmp_path}/inside'); get it."
    )
    monkeypatch.setenv(places.VARIABLE, "")
    assert refusal(load_fashion) == "fashion-mnist was not found (looked in '/usual/place'); get it."
    monkeypatch.setenv(places.VARIABLE, "/nowhere")
    assert refusal(load_fashion).startswith("SKIPSCOPE_DATA '/nowhere': there is no such file or folder")


def test_the_ways_to_get_it_are_told(tmp_path: Path):
    said = refusal(lambda: load_fashion(tmp_path))

    for way in (
        "apt-get install dataset-fashion-mnist",
        "github.com/zalandoresearch",
        "--data-folder",
        "SKIPSCOPE_DATA",
    ):
        assert way in said


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
PIXELS, KINDS = (idx(each) for each in fashion_arrays(30, 0))
SPOILED: dict[str, tuple[str, bytes, str]] = {
    "empty": (IMAGES, b"", "it begins with nothing, not with 00000803"),
    "labels for images": (IMAGES, KINDS, "it begins with 00000801, not with 00000803"),
    "another type": (IMAGES, b"\0\0\x0d\x03" + PIXELS[4:], "it begins with 00000d03, not with 00000803"),
    "a page that was not found": (IMAGES, b"<!DOCTYPE html>" * 9, "it begins with 3c21444f, not with 00000803"),
    "a head cut off": (IMAGES, PIXELS[:9], "not 1 to 60,000 x 28 x 28"),
    "no images": (IMAGES, idx(np.zeros((0, 28, 28), np.uint8)), "it says that it holds 0 x 28 x 28, not 1 to 60,000"),
    "other sides": (IMAGES, idx(np.zeros((5, 32, 28), np.uint8)), "it says that it holds 5 x 32 x 28, not 1 to 60,000"),
    "too many": (IMAGES, PIXELS[:4] + b"\xff" * 12, "4294967295 x 4294967295 x 4294967295, not 1 to 60,000 x 28 x 28"),
    "cut off": (IMAGES, PIXELS[:-1], "it should hold 23,520 bytes after its head, and only 23,519 are there"),
    "gone on with": (IMAGES, PIXELS + b"\0", "it should hold 23,520 bytes after its head, and more follow"),
    "compressed, cut off": (IMAGES, gzip.compress(PIXELS)[:-100], "its compressed data end too early"),
    "compressed, damaged": (
        IMAGES,
        gzip.compress(PIXELS)[:200] + b"\xff" * 40 + gzip.compress(PIXELS)[240:],
        "damaged",
    ),
    "compressed, other sum": (IMAGES, gzip.compress(PIXELS)[:-8] + b"\1" * 8, "its compressed data are damaged"),
    "fewer labels": (LABELS, idx(np.zeros(29, np.uint8)), "the train files hold 30 images and 29 labels"),
    "a label of 12": (LABELS, KINDS[:-1] + b"\x0c", "label 29 of train is 12 (12 is the highest), not 0 to 9"),
}


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("train", [5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3, 5, 3, 6, 1, 7, 2, 8, 6, 9]),
        ("t10k", [7, 2, 1, 0, 4, 1, 4, 9, 5, 9, 0, 6, 9, 0, 1, 5, 9, 7, 3, 4]),
    ],
)
def test_digits_are_not_taken_for_clothing(tmp_path: Path, name: str, first: list[int]):
    write_fashion(tmp_path, end="")
    labels = np.arange({"train": 30, "t10k": 20}[name], dtype=np.uint8) % 10
    labels[: len(first)] = first
    (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))

    with pytest.raises(InputError, match=f"the labels of {name} begin like MNIST's: these are digits"):
        load_fashion(tmp_path)

    labels[19] = (labels[19] + 1) % 10
    (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    assert load_fashion(tmp_path).classes == 10


@pytest.mark.parametrize("how", SPOILED)
def test_spoiled_files_are_refused(tmp_path: Path, how: str):
    name, content, reason = SPOILED[how]
    write_fashion(tmp_path, end="")
    (tmp_path / name).write_bytes(content)

    said = refusal(lambda: load_fashion(tmp_path))

    assert said.startswith(f"cannot read '{tmp_path}")
    assert reason in said
    assert "apt-get install dataset-fashion-mnist" in said


def test_an_absent_file_is_named(tmp_path: Path):
    write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()

    assert "there is no t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz" in refusal(lambda: load_fashion(tmp_path))


def peak(call: Callable[[], Any]) -> int:
    """Bytes of memory that a call takes at most."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_does_not_go_off(tmp_path: Path):
    write_fashion(tmp_path)
    zeros = gzip.compress(PIXELS[:4] + (30).to_bytes(4, "big") + PIXELS[8:] + bytes(50_000_000))
    (tmp_path / f"{IMAGES}.gz").write_bytes(zeros)

    assert len(zeros) < 100_000
    assert peak(lambda: refusal(lambda: load_fashion(tmp_path))) < 2_000_000


@given(at=st.integers(0, 23_535), value=st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_a_flipped_byte_is_another_image_or_a_refusal(tmp_path: Path, at: int, value: int):
    write_fashion(tmp_path, end="")
    spoiled = bytearray(PIXELS)
    spoiled[at] ^= value
    (tmp_path / IMAGES).write_bytes(spoiled)

    if at >= 16:
        assert (load_fashion(tmp_path).train.inputs != fashion_arrays(30, 0)[0][:, None]).sum() == 1
    else:
        refusal(lambda: load_fashion(tmp_path))


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_real_files():
    images = load_fashion(validation=5000)

    assert images.validation is not None
    assert (images.train.size, images.validation.size, images.test.size) == (55_000, 5000, 10_000)
    assert np.bincount(images.test.targets).tolist() == [1000] * 10
    assert np.bincount(images.validation.targets).tolist() == [500] * 10
    whole = load_fashion()
    assert whole.digest == REAL
    # What is published of them: a mean of 0.2860 and a standard deviation of 0.3530, in units of 255.
    mean, spread = whole.train.inputs.mean() / 255, whole.train.inputs.std() / 255
    assert mean == pytest.approx(0.2860, abs=5e-5)
    assert spread == pytest.approx(0.3530, abs=5e-5)


REAL = "56a664696c653d32"
"""Sums of whole numbers, divided once: the same on every machine."""


# ------------------------------------------------------------------------------------------------------------- CIFAR-10

RECORDS = 4


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 4 images rather than 10,000."""
    monkeypatch.setattr(cifar, "_RECORDS", RECORDS)
    monkeypatch.setattr(cifar, "_BESIDES", 20_000)  # a tar file ends with up to 10,240 zeros


def batch(number: int) -> Any:
    """The records of a file, of shape (4, 3073)."""
    records = np.random.default_rng(number).integers(256, size=(RECORDS, 3073), dtype=np.uint8)
    records[:, 0] = (np.arange(RECORDS) + number) % 10
    return records


BATCHES = {name: batch(number).tobytes() for number, name in enumerate(cifar._BATCHES)}


def write_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in BATCHES.items():
        (folder / name).write_bytes(content)
    return folder


def archive(contents: dict[str, bytes], folder: str = "cifar-10-batches-bin", mode: Any = "w:gz") -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode=mode) as opened:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return written.getvalue()


def npz(**changed: Any) -> bytes:
    """An .npz file like that of the development data, with changes; None leaves an array out."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        f"{axis}_{part}": rng.integers(256, size=(size, 3, 32, 32), dtype=np.uint8) if axis == "x" else np.arange(size)
        for part, size in (("train", 10), ("test", 5))
        for axis in "xy"
    } | changed
    written = io.BytesIO()
    np.savez_compressed(written, **{name: array for name, array in arrays.items() if array is not None})
    return written.getvalue()


def load_cifar(folder: Any = None, **options: Any) -> data.Images:
    return data.load_images("cifar10", seed=0, folder=folder, **options)


@pytest.mark.usefixtures("small")
def test_cifar_is_what_was_written(tmp_path: Path):
    write_folder(tmp_path / "bin" / "cifar-10-batches-bin")
    (tmp_path / cifar.ARCHIVE).write_bytes(archive({"batches.meta.txt": b"airplane", **BATCHES, "readme.html": b"-"}))
    (tmp_path / "plain.tar").write_bytes(archive(BATCHES, mode="w"))

    ways = [load_cifar(tmp_path / each) for each in ("bin", "bin/cifar-10-batches-bin", "", cifar.ARCHIVE, "plain.tar")]

    images = ways[0]
    records = np.concatenate([batch(number) for number in range(5)])
    assert np.array_equal(images.train.targets, records[:, 0])
    assert images.train.inputs[7, 2, 31, 30] == records[7, 1 + 2 * 1024 + 31 * 32 + 30]  # channel, row, column
    assert np.array_equal(images.test.inputs, batch(5)[:, 1:].reshape(-1, 3, 32, 32))
    assert (images.train.size, images.test.size, images.classes, images.class_names[6]) == (20, 4, 10, "frog")
    assert len({each.digest for each in ways}) == 1


def test_an_npz_file_may_hold_fewer(tmp_path: Path):
    (tmp_path / "cifar10_subset.npz").write_bytes(npz())

    for path in (tmp_path, tmp_path / "cifar10_subset.npz"):
        images = load_cifar(path)
        assert (images.train.size, images.test.size, images.shape) == (10, 5, (3, 32, 32))
    with np.load(tmp_path / "cifar10_subset.npz") as kept:
        assert np.array_equal(load_cifar(tmp_path).train.inputs, kept["x_train"])


def test_cifar_has_no_usual_place():
    said = refusal(load_cifar)

    assert said.startswith(
        "cifar10 was not found (no folder is named, and there is no usual one); get the binary version"
    )
    for way in ("cifar-10-binary.tar.gz", "https://www.cs.toronto.edu/~kriz/cifar.html", "--data-folder"):
        assert way in said


def write_archive(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def write_spoiled(name: str, content: bytes | None) -> Callable[[Path], Path]:
    """The folder of the binary version with another file, or without one."""

    def write(folder: Path) -> Path:
        write_folder(folder)
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
        return folder

    return write


def write_pickles(below: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / below).mkdir(parents=True, exist_ok=True)
        (folder / below / "data_batch_1").write_bytes(pickle.dumps({b"data": 1}))
        return folder

    return write


class Loaded:
    """A pickle that tells that it was loaded."""

    def __reduce__(self) -> Any:
        return os.putenv, ("SKIPSCOPE_WAS_FOOLED", "1")


WHOLE = archive(BATCHES)
PYTHON = "it is of the python version, pickles"
SIX = "it should hold 12,292 bytes, 4 images, and"
WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no test batch": (write_spoiled("test_batch.bin", None), "there is no test_batch.bin"),
    "cut off": (write_spoiled("data_batch_3.bin", BATCHES["data_batch_3.bin"][:-3073]), f"{SIX} only 9,219 are there"),
    "gone on with": (write_spoiled("data_batch_3.bin", BATCHES["data_batch_3.bin"] * 2), f"{SIX} more follow"),
    "another label": (
        write_spoiled("data_batch_2.bin", b"\x0a" + BATCHES["data_batch_2.bin"][1:]),
        "label 4 of train is 10, not 0 to 9",
    ),
    "the python folder": (write_pickles("cifar-10-batches-py"), PYTHON),
    "in the python folder": (write_pickles(""), PYTHON),
    "the python archive": (
        write_archive("cifar-10-python.tar.gz", archive({"data_batch_1": b"\x80"}, "cifar-10-batches-py")),
        PYTHON,
    ),
    "a pickle": (write_archive("data_batch_1", pickle.dumps({b"data": Loaded()})), PYTHON),
    "not an archive": (write_archive("x.tar.gz", b"<!DOCTYPE html>" * 99), "it is neither an archive (.tar.gz) nor"),
    "an empty file": (write_archive("x.tar.gz", b""), "it is neither an archive (.tar.gz) nor an .npz file"),
    "compressed text": (write_archive("x.tar.gz", gzip.compress(b"?" * 999)), "it is neither an archive (.tar.gz) nor"),
    "an archive cut off": (write_archive("x.tar.gz", WHOLE[: len(WHOLE) // 2]), "its compressed data end too early"),
    "an archive's end cut off": (write_archive("x.tar.gz", WHOLE[:-4]), "its compressed data end too early"),
    "an archive's sum": (write_archive("x.tar.gz", WHOLE[:-8] + b"\1" * 8), "its compressed data are damaged"),
    "a tar cut off": (write_archive("x.tar", archive(BATCHES, mode="w")[:30_000]), "the archive is damaged or not"),
    "an archive of less": (
        write_archive("x.tar.gz", archive({name: BATCHES[name] for name in list(BATCHES)[1:]})),
        "there is no data_batch_1.bin in it",
    ),
    "a large stranger": (write_archive("x.tar.gz", archive({"film": bytes(10**6), **BATCHES})), "it unpacks to more"),
    "a batch too large": (write_archive("x.tar.gz", archive(BATCHES | {"test_batch.bin": bytes(20_000)})), "more f"),
    "no such array": (write_archive("c.npz", npz(y_test=None)), "there is no array y_test in it"),
    "by column": (
        write_archive("c.npz", npz(x_test=np.zeros((2, 3, 32, 32), np.uint8, order="F"))),
        "x_test must be uint8 of shape (1 to 50000, 3, 32, 32)",
    ),
    "channels last": (
        write_archive("c.npz", npz(x_train=np.zeros((2, 32, 32, 3), np.uint8))),
        "it says uint8 of shape (2, 32, 32, 3)",
    ),
    "floats": (write_archive("c.npz", npz(y_train=np.arange(10.0))), "y_train must be whole numbers of shape"),
    "one label": (write_archive("c.npz", npz(y_train=np.array(3))), "it says int64 of shape ()"),
    "none": (write_archive("c.npz", npz(x_test=np.zeros((0, 3, 32, 32), np.uint8))), "it says uint8 of shape (0, 3"),
    "fewer labels": (write_archive("c.npz", npz(y_train=np.arange(9))), "train has 10 images and 9 labels"),
    "a negative label": (write_archive("c.npz", npz(y_train=-np.arange(10))), "label 1 of train is -1, not 0 to 9"),
    "objects": (
        write_archive("c.npz", npz(y_train=np.array([Loaded()] * 10, dtype=object))),
        "y_train must be whole numbers of shape (1 to 50000,); it says object",
    ),
    "an .npz cut off": (write_archive("c.npz", npz()[:-50]), "it is damaged or not whole"),
    "an .npz damaged": (write_archive("c.npz", npz()[:5000] + b"\xff" * 99 + npz()[5099:]), "it is damaged or not"),
}  # fmt: skip


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("how", WRONG)
def test_wrong_files_are_refused(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch):
    write, reason = WRONG[how]
    monkeypatch.setattr(pickle, "Unpickler", None)  # whoever unpickles fails otherwise than by a refusal

    said = refusal(lambda: load_cifar(write(tmp_path)))

    assert said.startswith(f"cannot read '{tmp_path}")
    assert reason in said
    assert "cifar-10-binary.tar.gz (162 MiB), from https://www.cs.toronto.edu/~kriz/cifar.html" in said
    assert "SKIPSCOPE_WAS_FOOLED" not in os.environ


def test_a_cut_at_a_record_is_seen_at_full_size(tmp_path: Path):
    """Whole records but too few: 10,000 are demanded, for the format does not tell how many there are."""
    path = write_folder(tmp_path)

    assert "it should hold 30,730,000 bytes, 10,000 images, and only 12,292 are there" in refusal(
        lambda: load_cifar(path)
    )


def pax_bomb() -> bytes:
    """An archive whose first header says that a comment of 50 MB follows, and it does."""
    named = tarfile.TarInfo("train")
    named.pax_headers = {"comment": "a" * 50_000_000}
    return gzip.compress(named.tobuf(tarfile.PAX_FORMAT))


def npz_bomb() -> bytes:
    """An array that says it is small, and 50 MB of zeros after it."""
    written = io.BytesIO()
    head = io.BytesIO()
    np.save(head, np.zeros((2, 3, 32, 32), np.uint8))
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("x_train.npy", head.getvalue() + bytes(50_000_000))
    return written.getvalue()


def head_bomb() -> bytes:
    """An array of format 2.0 whose head alone has 50 MB."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("x_train.npy", b"\x93NUMPY\x02\x00" + (50_000_000).to_bytes(4, "little") + b" " * 50_000_000)
    return written.getvalue()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("bomb", [pax_bomb, npz_bomb, head_bomb])
def test_no_bomb_goes_off(tmp_path: Path, bomb: Callable[[], bytes]):
    (tmp_path / "x.tar.gz").write_bytes(bomb())

    assert (tmp_path / "x.tar.gz").stat().st_size < 200_000
    assert peak(lambda: refusal(lambda: load_cifar(tmp_path / "x.tar.gz"))) < 2_000_000
    said = refusal(lambda: load_cifar(tmp_path / "x.tar.gz"))
    assert any(
        each in said for each in ("unpacks to more", "should hold 6,144 bytes, and holds more", "version (2, 0)")
    )


@pytest.mark.usefixtures("small")
@given(at=st.integers(0, len(WHOLE) - 1), value=st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_a_flipped_byte_of_an_archive_changes_nothing_or_is_refused(tmp_path: Path, at: int, value: int):
    spoiled = bytearray(WHOLE)
    spoiled[at] ^= value
    (tmp_path / "x.tar.gz").write_bytes(spoiled)

    try:
        images = load_cifar(tmp_path / "x.tar.gz")
    except InputError:
        return
    assert at < 30  # the name and the date in the head of gzip, which the sum does not cover
    assert np.array_equal(images.test.inputs, batch(5)[:, 1:].reshape(-1, 3, 32, 32))


@pytest.mark.parametrize("folder", [5, b"x\0", "a\0b", "", "x" * 5000, ["a"]])
@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_no_folder_at_all(name: str, folder: Any):
    refusal(lambda: data.load_images(name, seed=0, folder=folder))
