"""A run's folder: parts are whole or measured again, other folders are left alone, one process measures at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from skipscope import QUANTITIES, InputError, Spec, build, probe
from skipscope.readings import Readings
from skipscope.runs import opened, scan

PLAN: dict[str, Any] = {"seeds": "0-3", "cells": [{"width": 6, "norm": "none"}, {"width": 6, "norm": "layer"}]}


def readings(*seeds: int) -> Readings:
    network = build(Spec.dense(width=6, blocks=2, features=4), seed=seeds)
    return probe(network, 1, quantities={"forward_growth": QUANTITIES["forward_growth"]}, sites="network")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of two parts, both there."""
    place = tmp_path / "run"
    with opened(place, PLAN, parts=2) as run:
        run.save(0, readings(0, 1))
        run.save(1, readings(2, 3))
    return place


def there(folder: Path, plan: dict[str, Any] = PLAN, parts: int = 2) -> list[bool]:
    """Which parts of a run need not be measured again."""
    with opened(folder, plan, parts=parts) as run:
        return [run.load(part) is not None for part in range(parts)]


# ------------------------------------------------------------------------------------------------------------- parts


def test_a_part_comes_back_as_it_was_saved(folder: Path):
    with opened(folder, PLAN, parts=2) as run:
        found = run.load(1)

    assert found is not None
    assert found.equals(readings(2, 3))
    assert found.meta == readings(2, 3).meta


def test_a_new_run_has_its_plan_and_no_parts(tmp_path: Path):
    assert there(tmp_path / "some" / "new") == [False, False]
    assert [each.name for each in (tmp_path / "some" / "new").iterdir() if each.name != ".lock"] == ["plan.json"]


def flipped(data: bytes) -> bytes:
    return data[:300] + bytes([data[300] ^ 1]) + data[301:]


@pytest.mark.parametrize(
    "damage",
    [flipped, lambda data: data[:-50], lambda data: b"", lambda data: b"no Parquet"],
    ids=["bit", "cut", "empty", "text"],
)
def test_a_damaged_part_counts_as_missing(folder: Path, damage: Callable[[bytes], bytes]):
    part = folder / "part-000001.parquet"
    part.write_bytes(damage(part.read_bytes()))

    assert there(folder) == [True, False]


def test_a_part_of_another_number_counts_as_missing(folder: Path):
    (folder / "part-000001.parquet").write_bytes((folder / "part-000000.parquet").read_bytes())

    assert there(folder) == [True, False]


def test_a_part_of_another_run_counts_as_missing(folder: Path, tmp_path: Path):
    with opened(tmp_path / "other", {**PLAN, "seeds": "4-7"}, parts=2) as run:
        run.save(0, readings(4, 5))
    (folder / "part-000000.parquet").write_bytes((tmp_path / "other" / "part-000000.parquet").read_bytes())

    assert there(folder) == [False, True]


def test_what_a_killed_process_was_writing_is_swept_up(folder: Path):
    (folder / ".skipscope-0123456789abcdef.tmp").write_bytes(b"half a part")

    assert there(folder) == [True, True]
    assert list(folder.glob("*.tmp")) == []
    assert list(folder.glob(".skipscope*")) == []


def test_a_folder_that_was_killed_before_its_plan_may_be_used(tmp_path: Path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".skipscope-0123456789abcdef.tmp").write_bytes(b'{"form')

    assert there(tmp_path) == [False, False]


def test_the_end_is_the_readings_as_they_save_themselves(folder: Path, tmp_path: Path):
    whole = readings(0, 1) + readings(2, 3)
    with opened(folder, PLAN, parts=2) as run:
        file = run.finish(whole)
    whole.save(tmp_path / "alone.parquet")

    assert file == folder / "readings.parquet"
    assert file.read_bytes() == (tmp_path / "alone.parquet").read_bytes()


# ------------------------------------------------------------------------------------------------------ other folders


@pytest.mark.parametrize(
    ("changed", "parts", "said"),
    [
        ({"seeds": "0-4"}, 2, 'seeds is "0-3" there and "0-4" here'),
        ({"cells": PLAN["cells"][:1]}, 2, "the number of cells is 2 there and 1 here"),
        ({"cells": [PLAN["cells"][0], {"width": 7, "norm": "layer"}]}, 2, "cells[1].width is 6 there and 7 here"),
        ({"cells": [PLAN["cells"][0], {"width": 6}]}, 2, 'cells[1].norm is "layer" there and nothing here'),
        ({"more": True}, 2, "more is nothing there and true here"),
        ({}, 3, "parts is 2 there and 3 here"),
    ],
)
def test_another_plan_is_refused(folder: Path, changed: dict[str, Any], parts: int, said: str):
    before = {each.name: each.read_bytes() for each in folder.iterdir()}

    with pytest.raises(InputError) as refusal, opened(folder, {**PLAN, **changed}, parts=parts):
        pass

    assert f"{str(folder)!r} holds another run: {said}." in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == before


def test_another_version_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("skipscope.runs._versions", lambda: {"skipscope": "9.9"})

    with pytest.raises(InputError, match=r"versions\.skipscope is \"[0-9.]+\" there and \"9\.9\" here"):
        there(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "skipscope run 99"}'])
def test_a_plan_of_something_else_is_refused(folder: Path, text: str):
    (folder / "plan.json").write_text(text)

    with pytest.raises(InputError, match=r"is no run of this version of skipscope"):
        there(folder)


def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("chapter")

    with pytest.raises(InputError, match=r"is no run: it holds 'thesis.tex' and no plan.json"):
        there(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "file").write_text("")

    with pytest.raises(InputError, match="cannot be made: it is a file"):
        there(tmp_path / "file")
    with pytest.raises(InputError, match="path must be a string or a Path"):
        there(3)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------- two at one time


def test_the_second_process_is_refused(folder: Path):
    with opened(folder, PLAN, parts=2), pytest.raises(InputError, match="is in use: another process measures in it"):
        there(folder)
    assert there(folder) == [True, True]


HOLDER = """
import json, sys, time
from skipscope.runs import opened
with opened(sys.argv[1], json.loads(sys.argv[2]), parts=2):
    print("open", flush=True)
    time.sleep(60)
"""


def test_a_lock_dies_with_its_process(folder: Path):
    import json

    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), json.dumps(PLAN)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(InputError, match="is in use"):
            there(folder)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()

    assert there(folder) == [True, True]


@pytest.mark.parametrize("system", ["without fcntl", "without locks"])
def test_where_there_are_no_locks_two_do_no_harm(folder: Path, monkeypatch: pytest.MonkeyPatch, system: str):
    if system == "without fcntl":
        monkeypatch.setitem(sys.modules, "fcntl", None)
    else:
        import fcntl

        def refuse(handle: int, how: int) -> None:
            raise OSError(95, "operation not supported")

        monkeypatch.setattr(fcntl, "flock", refuse)
    before = (folder / "part-000000.parquet").read_bytes()
    with opened(folder, PLAN, parts=2) as one, opened(folder, PLAN, parts=2) as other:
        unfinished = folder / ".skipscope-0123456789abcdef.tmp"
        unfinished.write_bytes(b"what the other is writing")
        assert there(folder) == [True, True]
        assert unfinished.exists()
        for run in (one, other):
            run.save(0, readings(0, 1))

    assert (folder / "part-000000.parquet").read_bytes() == before


# --------------------------------------------------------------------------------------------------------------- scan


def test_scan_gives_the_rows_of_all_parts(folder: Path):
    rows = scan(folder).sort("seed").collect()

    assert rows["seed"].to_list() == [0, 1, 2, 3]
    assert rows.equals(pl.concat([readings(0, 1).rows, readings(2, 3).rows]))


def test_scan_refuses_what_is_no_run(tmp_path: Path, folder: Path):
    with pytest.raises(InputError, match="is no run"):
        scan(tmp_path)
    for part in folder.glob("part-*"):
        os.remove(part)
    with pytest.raises(InputError, match="holds no part yet"):
        scan(folder)
