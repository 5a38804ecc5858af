"""Checkpoints come back as they were written; what is damaged or something else is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from skipscope import InputError, checkpoints

ARRAYS = {
    "weights/stem.weight": np.arange(6.0).reshape(1, 2, 3),
    "strided": np.arange(12, dtype="float32").reshape(3, 4)[:, 1:3],
    "none": np.zeros((0, 3)),
    "lost": np.array([np.nan, -np.inf, -0.0]),
}
NOTES = {"step": 3, "seeds": [1, 2**62], "text": 'quoted "and" ü', "nested": {"b": [1.5], "a": None}}


def test_what_is_read_is_what_was_written(tmp_path: Path):
    checkpoints.write(tmp_path / "one", ARRAYS, NOTES)
    arrays, notes = checkpoints.read(tmp_path / "one")

    assert notes == NOTES
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        assert arrays[name].tobytes() == array.tobytes()


def test_the_same_content_is_the_same_file(tmp_path: Path):
    checkpoints.write(tmp_path / "one", ARRAYS, NOTES)
    checkpoints.write(tmp_path / "two", dict(reversed(ARRAYS.items())), dict(reversed(NOTES.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@given(
    array=arrays_of.arrays(
        st.sampled_from([np.float32, np.float64, np.uint8, np.int64]), arrays_of.array_shapes(min_dims=0, min_side=0)
    ),
    notes=st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.floats(allow_nan=False)),
)
def test_any_content_comes_back(array: Any, notes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("any") / "file"
    checkpoints.write(path, {"array": array}, notes)
    arrays, found = checkpoints.read(path)

    assert found == notes
    assert arrays["array"].shape == array.shape
    assert arrays["array"].tobytes() == array.tobytes()


def test_one_that_cannot_be_written_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "run"
    checkpoints.write(path, ARRAYS, NOTES)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="no space is left on the disk"):
        checkpoints.write(path, ARRAYS, NOTES | {"step": 4})
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def refused(path: Path) -> str:
    with pytest.raises(InputError) as refusal:
        checkpoints.read(path)
    assert "\n" not in str(refusal.value)
    assert repr(str(path)) in str(refusal.value)
    return str(refusal.value)


def test_none_is_none(tmp_path: Path):
    assert "there is no such file" in refused(tmp_path / "none")
    (tmp_path / "folder").mkdir()
    assert "it is a directory" in refused(tmp_path / "folder")


def test_a_damaged_one_is_refused(tmp_path: Path):
    path = tmp_path / "run"
    checkpoints.write(path, ARRAYS, NOTES)
    whole = path.read_bytes()
    for kept in (0, 1, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        assert "it is not a whole safetensors file" in refused(path)
    for content in (b"no checkpoint at all\n" * 20, whole + b"\0", b"\xff" * 64):
        path.write_bytes(content)
        assert "it is not a whole safetensors file" in refused(path)


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused(place: int, bit: int, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("bit") / "run"
    checkpoints.write(path, ARRAYS, NOTES)
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)
    assert refused(path)


@pytest.mark.parametrize("told", [None, {"format": "another"}, {"skipscope checkpoint 0": "{}"}])
def test_someone_elses_file_is_refused(told: dict[str, str] | None, tmp_path: Path):
    from safetensors.numpy import save_file

    save_file({"weight": np.ones(3)}, tmp_path / "other", told)
    assert "it is not a checkpoint of this version of skipscope" in refused(tmp_path / "other")


@pytest.mark.parametrize("told", ["no json", "[1, 2]", json.dumps("text"), "{}", '{"notes": 1, "digest": null}'])
def test_notes_that_are_none_are_refused(told: str, tmp_path: Path):
    from safetensors.numpy import save_file

    save_file({"weight": np.ones(3)}, tmp_path / "other", {"skipscope checkpoint 1": told})
    assert "it was damaged after it was written" in refused(tmp_path / "other")
