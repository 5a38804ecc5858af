"""`skipscope demo`: a folder, or nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from skipscope import studies
from skipscope.readings import Readings
from skipscope.studies.presets import PRESETS, Part
from skipscope.takeaways import _TAKEAWAYS, answer, takeaways
from skipscope.training import Recipe

ROOT = Path(__file__).parents[2]

_STEPS: dict[str, Any] = {"recipe": Recipe(steps=5), "width": 6}
SMALL = (
    Part("gradient flow", studies.flow, 200, {"depth": 6, "width": 8}),
    Part("as the notebook did it", studies.notebook, 2000, {"depths": (4, 6)}),
    Part("shortcut and branch", studies.highway, 100, {"depth": 4, "width": 6}),
    Part("representation", studies.representation, 8, {"data": "patterns", "depth": 2, **_STEPS}),
)
"""A demo of a second: enough studies for the takeaways, and pictures."""


@contextmanager
def instead(study: str, effect: Any, preset: str = "demo") -> Iterator[mock.Mock]:
    """While it lasts, one study of a preset does something else."""
    fake = mock.Mock(side_effect=effect)
    fake.__name__ = study
    parts = SMALL if preset == "demo" else PRESETS[preset]
    changed = tuple(replace(part, study=fake) if part.study.__name__ == study else part for part in parts)
    with mock.patch.dict(PRESETS, {preset: changed}):
        yield fake


def nothing_is_measured() -> Any:
    return instead("flow", AssertionError("this was not checked first"))


def documented() -> list[tuple[str, str]]:
    """Takeaways with the demo's verdicts, as the docs have them."""
    table = (ROOT / "docs" / "takeaways.md").read_text().partition("## The takeaways")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    return [(claim, verdict) for claim, _, verdict in rows[1:]]


@pytest.fixture
def small() -> Iterator[None]:
    with mock.patch.dict(PRESETS, demo=SMALL):
        yield


@pytest.mark.usefixtures("small")
def test_demo_into_a_new_folder_and_again(
    run: Callable[..., Any], succeeded: Callable[..., str], tree: Callable[..., Any], here: Path
):
    text = succeeded("demo", "--seeds", "20", "--quiet", "--out", "new/folder")

    assert text == "Report: new/folder/index.html\nReadings: new/folder/readings.parquet\n"
    assert sorted(tree(here / "new" / "folder")) == ["index.html", "readings.parquet"]
    measured = Readings.load(here / "new/folder/readings.parquet")
    assert set(measured.cells["study"]) == {"flow", "notebook", "highway", "representation"}
    for study, seeds in (("flow", 20), ("notebook", 200), ("highway", 10), ("representation", 2)):
        assert measured.select(study=study).rows["seed"].n_unique() == seeds
    before = tree(here)

    with instead("flow", KeyboardInterrupt) as flow:
        again = run("demo", "--seeds", "20", "--out", "new/folder")

    flow.assert_called_once()  # the folder is our own, and may be written again
    assert again.code == 130
    assert tree(here) == before


@pytest.mark.usefixtures("small")
def test_demo_says_what_skip_connections_do(succeeded: Callable[..., str], here: Path):
    text = succeeded("demo", "--seeds", "20", "--seed", "5", "--out", "report")

    assert "the notebook's takeaway: Shortcuts add no parameters: holds\n" in text
    assert "This needs the study degradation" in text
    page = (here / "report" / "index.html").read_text()
    assert "What do skip connections do?" in page
    assert "on two principal components, at three depths" in page  # a picture, of what is not in the readings
    assert Readings.load(here / "report/readings.parquet").select(study="flow").rows["seed"].min() == 5


def test_the_preset_chooses_the_studies(run: Callable[..., Any], here: Path):
    with instead("flow", KeyboardInterrupt, preset="full") as full, nothing_is_measured():
        result = run("demo", "--preset", "full")

    full.assert_called_once()
    assert result.code == 130


@pytest.mark.slow  # all studies, trained ones too
def test_the_whole_demo_says_what_the_docs_say(succeeded: Callable[..., str], here: Path):
    succeeded("demo", "--quiet")

    measured = Readings.load(here / "skipscope-report/readings.parquet")
    found = takeaways(measured)
    told, needs = dict(documented()), {each.claim: each.study for each in _TAKEAWAYS}
    assert [each.rule for each in found] == list(told)
    trained = [each.rule for each in found if needs[each.rule] in ("identity", "representation", "degradation")]
    for each in found:
        if each.rule in trained:
            # The last bits of float32 products are the processor's own, and training makes much of them: a verdict at
            # its threshold may be another one elsewhere, but not the opposite.
            assert {each.verdict, told[each.rule]} != {"holds", "does not hold"}, each.rule
        else:
            assert each.verdict == told[each.rule], each.rule
    quoted = " ".join((ROOT / "README.md").read_text().replace("\n>", "\n").split())
    surely = answer(each for each in found if each.rule not in trained)
    assert all(sentence in quoted for sentence in re.split(r"(?<=\.) ", surely))
    assert set(measured.cells["study"]) == {part.study.__name__ for part in PRESETS["demo"]}
    page = (here / "skipscope-report/index.html").read_text()
    assert page.count("<section id=") == len(PRESETS["demo"]) + 2  # the takeaways, and how to repeat it


def test_demo_keeps_out_of_a_folder_of_others(refused: Callable[..., str], tree: Callable[..., Any], here: Path):
    (here / "mine").mkdir()
    (here / "mine" / "index.html").write_text("<html>mine</html>")

    with nothing_is_measured():
        message = refused("demo", "--out", "mine")

    assert message == "--out 'mine' holds files that skipscope did not write: name another folder, or --overwrite."
    assert tree(here) == {"mine": None, "mine/index.html": b"<html>mine</html>"}


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("file", "file exists"),
        ("file/below", "not a directory"),
        ("/dev/null/x", "not a directory"),
        ("x" * 300, "file name too long"),
        ("deep/" + "x" * 300, "file name too long"),
    ],
)
def test_demo_where_no_folder_can_be(
    refused: Callable[..., str], tree: Callable[..., Any], here: Path, out: str, reason: str
):
    (here / "file").write_text("mine")

    with nothing_is_measured():
        message = refused("demo", "--out", out)

    assert message == f"--out {out!r} cannot be the demo's folder: {reason}; give another name."
    assert tree(here) == {"file": b"mine"}


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that even root cannot write to")
def test_demo_in_a_read_only_place(refused: Callable[..., str]):
    with nothing_is_measured():
        assert "cannot be the demo's folder" in refused("demo", "--out", "/proc/skipscope-report")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--preset", "ful"], "preset must be one of 'demo', 'full'; got 'ful'. Did you mean 'full'?"),
        # The first study has 200 seeds and could be measured, the second 2000.
        (["--seed", str(2**63 - 1000)], f"--seed {2**63 - 1000} with --seeds 200 goes beyond 2^63"),
        (["--seeds", str(2**63 - 1)], f"--seeds {2**63 - 1} goes beyond 2^63"),
    ],
)
def test_demo_refuses_before_the_first_study(
    refused: Callable[..., str], tree: Callable[..., Any], here: Path, arguments: list[str], message: str
):
    with nothing_is_measured():
        assert message in refused("demo", *arguments, "--out", "a/b/c")

    assert tree(here) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dtype", "float16"], "dtype must be one of 'float32', 'float64'; got 'float16'"),
        (["--jobs", "0"], "jobs must be at least 1"),
        (["--seeds", "1" + "0" * 15], "this is too large"),
        (["--jobs", "1000000"], "this is too large"),
    ],
)
def test_the_first_study_refuses_for_all(
    refused: Callable[..., str], tree: Callable[..., Any], here: Path, arguments: list[str], message: str
):
    assert message in refused("demo", *arguments, "--out", "a/b/c")
    assert tree(here) == {}


@pytest.mark.parametrize("when", ["flow", "representation"])
def test_demo_that_is_interrupted_leaves_no_folder(
    run: Callable[..., Any], tree: Callable[..., Any], here: Path, when: str
):
    with instead(when, KeyboardInterrupt):
        result = run("demo", "--seeds", "2", "--out", "a/b")

    assert result.code == 130
    assert tree(here) == {}


@pytest.mark.usefixtures("small")
def test_demo_goes_on_in_its_folder_and_ends_with_the_same_bytes(
    run: Callable[..., Any], refused: Callable[..., str], succeeded: Callable[..., str], here: Path
):
    asked = ("demo", "--seeds", "20", "--quiet")
    succeeded(*asked, "--out", "whole")
    with instead("representation", KeyboardInterrupt):
        stopped = run(*asked, "--out", "report", "--folder", "kept")
    assert stopped.code == 130
    assert "what is measured is in kept: the same command goes on there" in stopped.err
    assert not (here / "report").exists()

    with instead("flow", AssertionError("this was measured before")):
        succeeded(*asked, "--out", "report", "--folder", "kept")

    whole = (here / "whole" / "readings.parquet").read_bytes()
    assert (here / "report" / "readings.parquet").read_bytes() == whole
    assert (here / "kept" / "readings.parquet").read_bytes() == whole
    assert (here / "kept" / "representation" / "plan.json").is_file()  # what trains is kept part by part
    message = refused("demo", "--seeds", "30", "--quiet", "--out", "other", "--folder", "kept")
    assert "folder 'kept' holds another run: seeds[1] is 20 there and 30 here" in message
