"""What all verbs of a study share: which options there are, what is measured, and which part of the result is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import polars as pl
import pytest

from skipscope import studies
from skipscope.cli import printing
from skipscope.cli.printing import Shown
from skipscope.cli.study import study
from skipscope.diagnosis import Finding
from skipscope.readings import Readings

ROWS = pl.DataFrame({"depth": [4, 6], "rms": [1.0, float("inf")]})
FINDING = Finding(
    rule="signal",
    cell="plain-4",
    subject="the plain design",
    verdict="healthy",
    statement="It stays.",
    evidence=ROWS,
    threshold="a factor of 10",
    source="definition",
)


def verb(given: dict[str, Any], shown: Shown, **told: Any) -> click.Command:
    """A verb of its own option `--width`, that keeps what it is given."""

    @click.command()
    @click.option("--width", type=int, default=5)
    @study("at work", title="A title", shown=lambda readings: shown, **told)
    def measure(**asked: Any) -> Readings:
        """Measure."""
        given.update(asked)
        return studies.flow(depth=4, width=asked["width"], designs=["plain"], seeds=asked["seeds"])

    return measure


def shown(**more: Any) -> Shown:
    return Shown(table=ROWS, overview=lambda: [ROWS.select("depth"), ROWS.clear(), ROWS.select("rms")], **more)


def test_a_study_is_asked_for_what_was_given():
    given: dict[str, Any] = {}

    verb(given, shown(), seeds=2).main(["--width", "7", "--seed", "3"], standalone_mode=False)

    assert given == {"width": 7, "seeds": range(3, 5), "dtype": "float64", "jobs": 1, "progress": None}


def test_a_study_is_saved_and_its_report_has_the_title(tmp_path: Path):
    out, page = tmp_path / "a.parquet", tmp_path / "a.html"

    verb({}, shown()).main(["--out", str(out), "--report", str(page), "--seeds", "2"], standalone_mode=False)

    assert Readings.load(out).equals(studies.flow(depth=4, width=5, designs=["plain"], seeds=range(2)))
    assert "<title>A title</title>" in page.read_text()


def test_only_who_has_a_folder_is_told_how_to_go_on(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    def interrupted(readings: Readings) -> Shown:
        raise AssertionError("nothing was measured")

    def measure(**asked: Any) -> Readings:
        raise KeyboardInterrupt

    here = click.command()(study("at work", title="", shown=interrupted, folder=True)(measure))

    assert here.main(["--folder", str(tmp_path)], standalone_mode=False) == 130
    assert capsys.readouterr().err.endswith("the same command goes on there.\n")
    with pytest.raises(click.Abort):  # click's word for an interruption
        here.main([], standalone_mode=False)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, [{"depth": 4, "rms": 1.0}, {"depth": 6, "rms": "inf"}]),
        (
            {"further": lambda: {"few": ROWS.select("depth"), "none": ROWS.clear()}},
            {"few": [{"depth": 4}, {"depth": 6}], "none": []},
        ),
    ],
)
def test_json_is_the_table_or_all_tables_by_name(
    more: dict[str, Any], expected: Any, capsys: pytest.CaptureFixture[str]
):
    printing.show(shown(**more), "json", quiet=False)

    assert json.loads(capsys.readouterr().out) == expected


def test_findings_are_beside_the_tables(capsys: pytest.CaptureFixture[str]):
    printing.show(shown(findings=lambda: [FINDING]), "json", quiet=True)

    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["table", "findings"]
    assert [(each["rule"], each["verdict"]) for each in told["findings"]] == [("signal", "healthy")]


def test_tables_and_findings_are_apart_by_a_line(capsys: pytest.CaptureFixture[str]):
    printing.show(shown(findings=lambda: [FINDING]), "table", quiet=False)
    loud = capsys.readouterr().out
    printing.show(shown(findings=lambda: [FINDING]), "table", quiet=True)
    quiet = capsys.readouterr().out

    tables = [["depth", "    4", "    6"], ["rms", "  1", "inf"]]
    assert quiet.split("\n\n") == ["\n".join(tables[0]), "\n".join(tables[1]) + "\n"]
    assert loud == f"{quiet}\nthe plain design: signal: healthy\n  It stays.\n"


def test_csv_is_the_table_alone(capsys: pytest.CaptureFixture[str]):
    def never() -> Any:
        raise AssertionError("csv has no findings")

    printing.show(shown(findings=never, further=never), "csv", quiet=False)

    assert capsys.readouterr().out == "depth,rms\n4,1.0\n6,inf\n"
