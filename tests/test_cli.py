"""The command line: what it writes and where, and one clear line for whatever the user can mend.

Most tests call `main` in this process; those about pipes, terminals and signals start a process of their own.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import click
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import skipscope
from skipscope import Spec, build, cli, diagnosis, readings, report, studies, summary
from skipscope.comparison import compare
from skipscope.readings import Readings
from skipscope.studies import ensemble, room

SMALL = ["--seeds", "8", "--depth", "6", "--width", "8"]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def run(*arguments: object) -> Result:
    """`main` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main([str(each) for each in arguments])
    return Result(code, out.getvalue(), err.getvalue())


def succeeded(*arguments: object) -> str:
    """What a command that succeeds writes to stdout; stderr is empty, for nobody watches it."""
    result = run(*arguments)
    assert (result.code, result.err) == (0, "")
    return result.out


def refused(*arguments: object) -> str:
    """The line of a command that is refused."""
    result = run(*arguments)
    assert (result.code, result.out) == (2, ""), result
    assert result.err.startswith("skipscope: ")
    assert result.err.count("\n") == 1
    assert result.err.endswith("\n")
    return result.err.removeprefix("skipscope: ").rstrip("\n")


def process(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """`python -m skipscope` in a process of its own."""
    usual = {name: value for name, value in os.environ.items() if name not in ("PYTHONUNBUFFERED", "NO_COLOR")}
    environment = usual | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"} | options.pop("env", {})
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, *(options.pop("code", None) or ["-m", "skipscope"]), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, **(pipes | options))


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file under a folder, with what is in it."""
    return {str(each.relative_to(folder)): each.read_bytes() if each.is_file() else None for each in folder.rglob("*")}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of readings, and of other things that are none."""
    folder = tmp_path_factory.mktemp("saved")
    files = ("he", "lecun", "others", "deep", "empty", "cut", "flipped", "foreign", "later", "text", "missing")
    found = {name: folder / f"{name}.parquet" for name in files} | {"folder": folder / "folder"}
    small: dict[str, Any] = {"depth": 6, "width": 8}
    studies.flow(seeds=range(8), **small).save(found["he"])
    studies.flow(seeds=range(4, 12), init="lecun", **small).save(found["lecun"])
    studies.flow(seeds=range(100, 104), **small).save(found["others"])
    studies.flow(seeds=range(8), depth=8, width=8).save(found["deep"])
    whole = found["he"].read_bytes()
    found["empty"].write_bytes(b"")
    found["cut"].write_bytes(whole[:-100])
    found["flipped"].write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    found["text"].write_text("this is no Parquet file\n")
    found["folder"].mkdir()
    pl.DataFrame({"a": [1, 2]}).write_parquet(found["foreign"])
    with mock.patch.object(readings, "SCHEMA_VERSION", 99):
        studies.flow(seeds=range(2), **small).save(found["later"])
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the commands run."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# ---------------------------------------------------------------------------------------------------------- the frame


def test_version():
    assert succeeded("--version") == f"skipscope {skipscope.__version__}\n"


def test_module_and_script_are_the_command_line():
    done = process("--version")
    assert done.communicate() == (f"skipscope {skipscope.__version__}\n".encode(), b"")
    assert done.returncode == 0


def test_without_a_command_there_is_help_and_code_2():
    result = run()

    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("Usage: skipscope")


NETWORK = (
    "--design --depth --width --features --order --norm --init --activation --output --bias --shortcut-gain "
    "--branch-gain --cotangent"
)
OPTIONS = {
    "demo": "--seeds --seed --dtype --jobs --out --overwrite --quiet",
    "flow": f"{NETWORK} --batch --seeds --seed --dtype --jobs --out --report --overwrite --format --quiet",
    "diagnose": f"{NETWORK} --batch --seeds --seed --dtype --jobs --format --quiet",
    "report": "--out --title --overwrite --quiet",
    "compare": "--quantity --site --format --quiet",
}


@pytest.mark.parametrize("command", OPTIONS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_has_every_option(command: str, flag: str):
    text = succeeded(command, flag)

    assert set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", text, flags=re.MULTILINE)) == {
        *OPTIONS[command].split(),
        "--help",
    }
    assert text.startswith(f"Usage: skipscope {command}")


def test_every_option_says_what_it_is():
    for command in cli.cli.commands.values():
        assert command.help
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None), parameter.name


def test_help_lists_every_command():
    text = succeeded("--help")

    assert set(OPTIONS) <= set(cli.cli.commands)
    for command in cli.cli.commands:
        assert re.search(rf"^  {command} ", text, flags=re.MULTILINE)


def test_every_option_of_the_network_reaches_the_study():
    with mock.patch.object(studies, "flow", side_effect=KeyboardInterrupt) as flow:
        given = {
            "depth": 6, "width": 8, "features": 4, "batch": 3, "jobs": 2, "dtype": "float32", "order": "after-add",
            "norm": "layer", "init": "xavier", "activation": "tanh", "output": "linear", "cotangent": "ones",
            "shortcut_gain": 0.5, "branch_gain": "1/L",
        }  # fmt: skip
        options = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", value)]
        run("flow", "--design", "residual, plain", "--seeds", "5", "--seed", "7", "--bias", *options)

    expected = {**given, "designs": ["residual", "plain"], "seeds": range(7, 12), "bias": True, "progress": None}
    assert flow.call_args.kwargs == expected


# -------------------------------------------------------------------------------------------------------------- flow


def test_flow_as_json_is_the_summary():
    records = json.loads(succeeded("flow", *SMALL, "--format", "json"))

    table = summary.summarise(studies.flow(depth=6, width=8, seeds=range(8))).table
    assert records == json.loads(json.dumps(table.to_dicts()))
    assert {record["design"] for record in records} == {"plain", "residual", "twin", "matched"}


def test_flow_as_csv_is_the_summary():
    text = succeeded("flow", *SMALL, "--format", "csv")

    table = summary.summarise(studies.flow(depth=6, width=8, seeds=range(8))).table
    assert pl.read_csv(io.StringIO(text), schema=table.schema).equals(table)


def test_flow_as_a_table():
    lines = succeeded("flow", *SMALL).splitlines()

    assert lines[0].split() == ["design", "parameters", "quantity", "n", "q05", "q50", "q95"]
    first = lines[1].split()
    row = summary.summarise(studies.flow(depth=6, width=8, seeds=range(8))).table.row(
        by_predicate=(pl.col("design") == "plain") & (pl.col("quantity") == "weight_grad_first_last"), named=True
    )
    assert first[:4] == ["plain", "512", "weight_grad_first_last", "8"]
    assert [float(each) for each in first[4:]] == pytest.approx([row["q05"], row["q50"], row["q95"]], rel=5e-3)
    assert len(lines) == 1 + 4 * 3
    assert max(map(len, lines)) < 80


def test_a_seed_is_the_same_network_wherever_it_is_first():
    def of(*seeds: object) -> list[dict[str, Any]]:
        return json.loads(succeeded("flow", *SMALL[2:], "--design", "plain", "--format", "json", *seeds))

    assert of("--seed", 5, "--seeds", 1) != of("--seed", 6, "--seeds", 1)
    assert of("--seed", 5, "--seeds", 1) == json.loads(
        json.dumps(
            summary.summarise(studies.flow(depth=6, width=8, designs=["plain"], seeds=[5])).table.to_dicts(),
        )
    )


def test_jobs_do_not_change_the_numbers(here: Path):
    for jobs in ("1", "2"):
        succeeded("flow", *SMALL, "--jobs", jobs, "--out", f"{jobs}.parquet", "--quiet")

    assert (here / "1.parquet").read_bytes() == (here / "2.parquet").read_bytes()


def test_flow_saves_what_it_measured(here: Path):
    succeeded("flow", *SMALL, "--init", "lecun", "--out", "flow.parquet")

    loaded = Readings.load(here / "flow.parquet")
    assert loaded.equals(studies.flow(depth=6, width=8, seeds=range(8), init="lecun"))
    assert list(tree(here)) == ["flow.parquet"]


def test_flow_writes_a_report(here: Path):
    text = succeeded("flow", *SMALL, "--report", "page.html", "--format", "json")

    json.loads(text)
    page = (here / "page.html").read_text()
    assert page.startswith("<!")
    assert "skipscope flow --seeds 8 --depth 6 --width 8 --report page.html --format json" in page


@pytest.mark.parametrize(
    "arguments", [["flow", *SMALL], ["flow", *SMALL, "--report", "page.html"]], ids=["out", "report"]
)
def test_what_exists_is_not_replaced(here: Path, arguments: list[str]):
    target = "page.html" if "--report" in arguments else "flow.parquet"
    more = [] if "--report" in arguments else ["--out", target]
    (here / target).write_text("mine")

    with mock.patch.object(studies, "flow") as flow:
        message = refused(*arguments, *more)

    assert re.fullmatch(rf"--(out|report) '{target}' exists: give another name, or --overwrite\.", message)
    assert tree(here) == {target: b"mine"}
    flow.assert_not_called()  # it is found out before the work


def test_overwrite_replaces(here: Path):
    (here / "flow.parquet").write_text("mine")

    succeeded("flow", *SMALL, "--out", "flow.parquet", "--overwrite")

    assert len(Readings.load(here / "flow.parquet"))


def test_quiet_leaves_the_result():
    assert succeeded("flow", *SMALL, "--quiet") == succeeded("flow", *SMALL)


# --------------------------------------------------------------------------------------------------------- diagnose


def test_diagnose_as_json():
    records = json.loads(succeeded("diagnose", *SMALL, "--seeds", "20", "--format", "json"))

    assert {record["rule"] for record in records} == {"signal", "gradient", "dead units"}
    measured = studies.flow(depth=6, width=8, seeds=range(20), batch=64, quantities=studies.DIAGNOSIS_QUANTITIES)
    found = diagnosis.diagnose(measured)
    assert [(each["cell"], each["verdict"], each["statement"]) for each in records] == [
        (each.cell, each.verdict, each.statement) for each in found
    ]
    for record in records:
        assert list(record) == [
            "rule", "cell", "subject", "verdict", "statement", "threshold", "source", "evidence",
        ]  # fmt: skip
        assert record["evidence"]


def test_diagnose_as_csv():
    rows = list(csv.DictReader(io.StringIO(succeeded("diagnose", *SMALL, "--seeds", "20", "--format", "csv"))))

    assert len(rows) == 12
    assert {row["verdict"] for row in rows} >= {"exploding", "healthy"}


def test_diagnose_as_text():
    lines = succeeded("diagnose", *SMALL, "--seeds", "20", "--design", "residual").splitlines()

    assert lines[0] == "the residual design at depth 6, width 8: signal: exploding"
    assert lines[1].startswith("  Over 6 blocks the signal of the residual design")
    assert len(lines) == 6


def test_diagnose_saved_readings(saved: dict[str, Path]):
    records = json.loads(succeeded("diagnose", saved["he"], "--format", "json"))

    assert {record["verdict"] for record in records} == {"cannot tell"}  # of 8 seeds
    assert len(records) == 8


def test_diagnose_says_that_options_do_not_go_with_a_file(saved: dict[str, Path]):
    message = refused("diagnose", saved["he"], "--branch-gain", "1/L")

    assert message.startswith("--branch-gain describes a network to measure, but FILE holds readings already")


def test_an_overflow_is_valid_json():
    deep = ["--design", "residual", "--depth", "250", "--width", "8", "--seeds", "2", "--dtype", "float32"]

    records = json.loads(succeeded("diagnose", *deep, "--format", "json"), parse_constant=pytest.fail)

    assert {"exploding"} <= {record["verdict"] for record in records}
    assert "inf" in json.dumps(records)
    flow = json.loads(succeeded("flow", *deep, "--format", "json"), parse_constant=pytest.fail)
    assert max(record["nonfinite"] for record in flow) == 2


# ----------------------------------------------------------------------------------------------------------- compare


def test_compare_as_json(saved: dict[str, Path]):
    records = json.loads(succeeded("compare", saved["he"], saved["lecun"], "--format", "json"))

    table = compare(Readings.load(saved["he"]), Readings.load(saved["lecun"]))
    assert records == json.loads(json.dumps(table.to_dicts()))
    assert {record["pairs"] for record in records if record["quantity"] == "parameters"} == {4}  # seeds 4 to 7


def test_compare_as_csv(saved: dict[str, Path]):
    text = succeeded("compare", saved["he"], saved["lecun"], "--format", "csv")

    table = compare(Readings.load(saved["he"]), Readings.load(saved["lecun"]))
    assert pl.read_csv(io.StringIO(text), schema=table.schema).equals(table)


def test_compare_as_a_table(saved: dict[str, Path]):
    lines = succeeded("compare", saved["he"], saved["lecun"]).splitlines()

    assert lines[0].split() == ["cell_a", "quantity", "pairs", "ratio", "low", "high", "larger"]
    growth = next(line.split() for line in lines if line.startswith("plain-6 ") and "forward_growth" in line)
    # Half of the square a layer; four pairs are too few for an interval.
    assert growth == ["plain-6", "forward_growth", "4", "0.5", "0"]
    assert max(map(len, lines)) < 80


def test_compare_chosen_sites_and_quantities(saved: dict[str, Path]):
    chosen = ["--site", "stage1.block2*", "--site", "head", "--quantity", "forward_gain", "--format", "json"]

    records = json.loads(succeeded("compare", saved["he"], saved["lecun"], *chosen))

    assert {record["quantity"] for record in records} == {"forward_gain"}
    assert {record["site"] for record in records} == {
        "stage1.block2", "stage1.block2.layer1", "stage1.block2.layer2", "head",
    }  # fmt: skip
    table = succeeded("compare", saved["he"], saved["lecun"], *chosen[:-2])
    assert "stage1.block2.layer1" in table


def test_comparing_a_file_with_itself_gives_ratios_of_one(saved: dict[str, Path]):
    records = json.loads(succeeded("compare", saved["he"], saved["he"], "--format", "json"))

    assert {record["ratio"] for record in records} == {1.0, None}


def test_compare_two_designs(here: Path):
    for design in ("plain", "residual"):
        succeeded("flow", *SMALL, "--design", design, "--out", f"{design}.parquet")

    line = succeeded("compare", "plain.parquet", "residual.parquet", "--quantity", "forward_growth").splitlines()[1]

    assert line.split()[:2] == ["plain-6", "residual-6"]


# ------------------------------------------------------------------------------------------------------------ report


def test_report(here: Path, saved: dict[str, Path]):
    text = succeeded("report", saved["he"], saved["lecun"], "--out", "page.html", "--title", "Two <of> them")

    assert text == "Report: page.html\n"
    assert "<title>Two &lt;of&gt; them</title>" in (here / "page.html").read_text()
    assert list(tree(here)) == ["page.html"]


def test_a_quiet_report_says_nothing(here: Path, saved: dict[str, Path]):
    with mock.patch.object(report, "write") as write:
        assert succeeded("report", saved["he"], "--out", "page.html", "--quiet") == ""

    write.assert_called_once()


def test_a_report_replaces_nothing_unasked(here: Path, saved: dict[str, Path]):
    (here / "page.html").write_text("mine")

    assert "exists: give another name, or --overwrite." in refused("report", saved["he"], "--out", "page.html")
    assert tree(here) == {"page.html": b"mine"}


# -------------------------------------------------------------------------------------------------------------- demo


def test_demo_into_a_new_folder_and_again(here: Path):
    text = succeeded("demo", "--seeds", "20", "--out", "new/folder")

    assert text.endswith("Report: new/folder/index.html\nReadings: new/folder/readings.parquet\n")
    assert sorted(tree(here / "new" / "folder")) == ["index.html", "readings.parquet"]
    measured = Readings.load(here / "new/folder/readings.parquet")
    assert set(measured.cells["study"]) == {"flow", "notebook"}
    assert measured.select(study="notebook").rows["seed"].n_unique() == 200
    before = tree(here)

    with mock.patch.object(studies, "flow", side_effect=KeyboardInterrupt) as flow:
        again = run("demo", "--seeds", "20", "--out", "new/folder")

    flow.assert_called_once()  # the folder is our own, and may be written again
    assert again.code == 130
    assert tree(here) == before


def nothing_is_measured() -> Any:
    return mock.patch.object(studies, "flow", side_effect=AssertionError("the folder was not checked first"))


def test_demo_keeps_out_of_a_folder_of_others(here: Path):
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
def test_demo_where_no_folder_can_be(here: Path, out: str, reason: str):
    (here / "file").write_text("mine")

    with nothing_is_measured():
        message = refused("demo", "--out", out)

    assert message == f"--out {out!r} cannot be the demo's folder: {reason}; give another name."
    assert tree(here) == {"file": b"mine"}


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that even root cannot write to")
def test_demo_in_a_read_only_place():
    with nothing_is_measured():
        assert "cannot be the demo's folder" in refused("demo", "--out", "/proc/skipscope-report")


def test_demo_that_is_refused_leaves_no_folder(here: Path):
    refused("demo", "--seeds", "0")
    refused("demo", "--seeds", "2", "--dtype", "float16", "--out", "a/b/c")

    assert tree(here) == {}


@pytest.mark.parametrize("when", ["flow", "notebook"])
def test_demo_that_is_interrupted_leaves_no_folder(here: Path, when: str):
    with mock.patch.object(studies, when, side_effect=KeyboardInterrupt):
        result = run("demo", "--seeds", "2", "--out", "a/b")

    assert result.code == 130
    assert tree(here) == {}


# ----------------------------------------------------------------------------------------- what the user can mend

FLOW = ["flow", *SMALL]
BAD: dict[str, tuple[list[str], str]] = {
    # commands and options
    "unknown command": (["flwo"], "flwo"),
    "unknown option": ([*FLOW, "--sedes", "3"], "--sedes"),
    "option of another command": (["compare", "{he}", "{he}", "--depth", "3"], "--depth"),
    "option without its value": (["flow", "--depth"], "--depth"),
    "extra argument": ([*FLOW, "extra"], "extra"),
    "missing argument": (["compare", "{he}"], "'B'"),
    "no file": (["report", "--out", "page.html"], "FILES"),
    "no page": (["report", "{he}"], "--out"),
    # names
    "design": ([*FLOW, "--design", "residul"], r"design must be one of .*; got 'residul'\. Did you mean 'residual'\?"),
    "no design": ([*FLOW, "--design", ","], "designs is empty: name at least one of plain"),
    "format": ([*FLOW, "--format", "xml"], "'xml' is not one of 'table', 'json', 'csv'"),
    "dtype": ([*FLOW, "--dtype", "float16"], r"dtype must be one of 'float32', 'float64'; got 'float16'"),
    "dtype of the demo": (["demo", "--dtype", "half"], "dtype must be one of .*'half'"),
    "init": ([*FLOW, "--init", "hee"], "init must be one of .*'hee'.*Did you mean 'he'"),
    "norm": ([*FLOW, "--norm", "group"], "norm must be one of 'none', 'batch', 'layer'; got 'group'"),
    "order": ([*FLOW, "--order", "post"], "order must be one of .*'post'"),
    "activation": ([*FLOW, "--activation", "gelu"], "activation must be one of .*'gelu'"),
    "output": ([*FLOW, "--output", "softmax"], "output must be one of .*'softmax'"),
    "cotangent": ([*FLOW, "--cotangent", "normal"], "cotangent must be one of .*'normal'"),
    # numbers
    "depth 0": ([*FLOW, "--depth", "0"], "depth must be at least 2; got 0"),
    "depth 1": ([*FLOW, "--depth", "1"], "depth must be at least 2; got 1"),
    "depth odd": ([*FLOW, "--depth", "7"], "depth must be even for the matched design.*got 7"),
    "depth negative": ([*FLOW, "--depth", "-4"], "depth must be at least 2; got -4"),
    "depth word": ([*FLOW, "--depth", "deep"], "--depth.*'deep' is not a valid integer"),
    "depth fraction": ([*FLOW, "--depth", "6.0"], "--depth.*'6.0' is not a valid integer"),
    "depth endless": ([*FLOW, "--depth", "9" * 5000], "--depth"),
    "width 0": ([*FLOW, "--width", "0"], "width must be at least 1; got 0"),
    "features 0": ([*FLOW, "--features", "0"], "features must be at least 1; got 0"),
    "seeds 0": ([*FLOW, "--seeds", "0"], "--seeds must be at least 1; got 0"),
    "seeds -1": ([*FLOW, "--seeds", "-1"], "--seeds must be at least 1; got -1"),
    "seeds 1.5": ([*FLOW, "--seeds", "1.5"], "--seeds.*'1.5' is not a valid integer"),
    "seeds empty": ([*FLOW, "--seeds", ""], "--seeds.*'' is not a valid integer"),
    "seed -1": ([*FLOW, "--seed", "-1"], "--seed must be at least 0; got -1"),
    "seed too large": ([*FLOW, "--seed", str(2**63)], r"--seed 9223372036854775808 with --seeds 8 goes beyond 2\^63"),
    "jobs 0": ([*FLOW, "--jobs", "0"], "jobs must be at least 1; got 0"),
    "batch 0": ([*FLOW, "--batch", "0"], "batch must be at least 1; got 0"),
    "batch norm of one": ([*FLOW, "--norm", "batch"], "batch of 1 sample: batch normalisation"),
    "gain nan": ([*FLOW, "--branch-gain", "nan"], "branch_gain must be a finite number; got nan"),
    "gain inf": ([*FLOW, "--shortcut-gain", "inf"], "shortcut_gain must be a finite number; got inf"),
    "gain word": ([*FLOW, "--branch-gain", "1/l"], r"branch_gain must be one of .*; got '1/l'\. Did you mean '1/L'\?"),
    "gain zero of a plain network": ([*FLOW, "--branch-gain", "0"], r"branch_gain=0.0 needs a shortcut"),
    # too large
    "depth huge": ([*FLOW, "--depth", "10000000"], "this is too large.*depth 10000000.*GB of memory"),
    "width huge": ([*FLOW, "--width", "1000000", "--seeds", "200"], "this is too large.*width 1000000"),
    "seeds huge": ([*FLOW, "--seeds", "1" + "0" * 15], "this is too large.*seeds=1000000000000000"),
    "batch huge": ([*FLOW, "--batch", "1" + "0" * 30], "this is too large"),
    "features huge": ([*FLOW, "--features", "1" + "0" * 400], "this is too large"),
    "jobs huge": ([*FLOW, "--jobs", "1000000"], "this is too large.*1000000 processes"),
    "demo huge": (["demo", "--seeds", "1" + "0" * 15], "this is too large"),
    # files to read
    "missing file": (["diagnose", "{missing}"], "cannot read .*missing.parquet.*: there is no such file"),
    "folder as file": (["diagnose", "{folder}"], "cannot read .*folder.*: it is a directory"),
    "empty file": (["diagnose", "{empty}"], "empty.parquet' is empty"),
    "truncated file": (["compare", "{he}", "{cut}"], "cut.parquet' is (cut off or )?damaged"),
    "damaged file": (["compare", "{flipped}", "{he}"], "flipped.parquet' is damaged: its checksum does not match"),
    "foreign file": (["report", "{he}", "{foreign}", "--out", "page.html"], "is a Parquet file, but none"),
    "text file": (["diagnose", "{text}"], "text.parquet' is not a Parquet file"),
    "later version": (["diagnose", "{later}"], "has version 99 of the format"),
    "options beside a file": (["diagnose", "{he}", "--depth", "28"], "--depth describes a network to measure"),
    # what does not go together
    "no cell in common": (["compare", "{he}", "{deep}"], "no cells match: .*plain-6-.*against.*plain-8-"),
    "no seed in common": (["compare", "{he}", "{others}"], "no reading in common: seeds 0 to 7 against 100 to 103"),
    "unknown quantity": (["compare", "{he}", "{lecun}", "--quantity", "forward_gian"], "Did you mean 'forward_gain'"),
    "unknown site": (["compare", "{he}", "{lecun}", "--site", "stage9.*"], r"site='stage9\.\*' matches nothing"),
    # files to write
    "readings as text": ([*FLOW, "--out", "flow.csv"], "--out must end in .parquet; got 'flow.csv'"),
    "readings without a name": ([*FLOW, "--out", ""], "--out must end in .parquet"),
    "report as text": ([*FLOW, "--report", "flow.txt"], "--report must end in .html; got 'flow.txt'"),
    "page as text": (["report", "{he}", "--out", "page.pdf"], "--out must end in .html; got 'page.pdf'"),
    "no such folder": ([*FLOW, "--out", "no/such/flow.parquet"], "there is no directory 'no/such'; create it first"),
    "below a file": ([*FLOW, "--out", "{he}/flow.parquet"], "a part of the path is a file"),
    "folder as page": (["report", "{he}", "--out", "{folder}"], "--out must end in .html"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, here: Path, saved: dict[str, Path]):
    arguments, reason = BAD[case]
    sources = next(iter(saved.values())).parent
    before = tree(sources)

    message = refused(*[argument.format(**saved) if "{" in argument else argument for argument in arguments])

    assert re.search(reason, message), message
    assert "Traceback" not in message
    assert tree(here) == {}
    assert tree(sources) == before


def test_bad_input_in_a_process_of_its_own(here: Path):
    done = process("flow", "--depth", "10000000", "--out", "flow.parquet")
    out, err = done.communicate()

    assert (done.returncode, out) == (2, b"")
    assert err.decode().splitlines() == [mock.ANY]
    assert tree(here) == {}


def test_a_report_that_cannot_be_finished_leaves_nothing(here: Path, saved: dict[str, Path]):
    damaged = refused("report", saved["he"], saved["cut"], "--out", "page.html")

    assert "damaged" in damaged
    assert tree(here) == {}


# --------------------------------------------------------------------------------------------------------- properties

TEXT = st.text(st.characters(exclude_characters="\0"), max_size=12)  # no argument of a process holds a null character
WHOLE = st.integers(-3, 10**25).map(str)
NUMBER = WHOLE | st.floats().map(str) | TEXT
VALUES = {
    "--design": st.lists(st.sampled_from(["plain", "residual", "twin", "matched", "none"])).map(",".join) | TEXT,
    **dict.fromkeys(("--depth", "--width", "--features", "--seeds", "--seed", "--jobs", "--batch"), NUMBER),
    **dict.fromkeys(("--shortcut-gain", "--branch-gain"), st.sampled_from(["1/L", "1/sqrt(L)", "zero", "0"]) | NUMBER),
    "--dtype": st.sampled_from(["float32", "float64"]) | TEXT,
    "--order": st.sampled_from(["before-add", "after-add", "pre-activation"]) | TEXT,
    "--norm": st.sampled_from(["none", "batch", "layer"]) | TEXT,
    "--init": st.sampled_from(["he", "xavier", "lecun", "torch"]) | TEXT,
    "--activation": st.sampled_from(["relu", "tanh", "linear"]) | TEXT,
    "--output": st.sampled_from(["relu", "tanh", "linear"]) | TEXT,
    "--cotangent": st.sampled_from(["gaussian", "ones"]) | TEXT,
    "--format": st.sampled_from(["table", "json", "csv"]) | TEXT,
}  # fmt: skip
GIVEN = st.lists(
    st.sampled_from(sorted(VALUES)).flatmap(lambda name: st.tuples(st.just(name), VALUES[name])), max_size=5
)
real_flow = studies.flow


def small_flow(**fields: Any) -> Readings:
    """The study, at sizes at which it takes no time; sizes that it would refuse are left as they are."""
    least = {"depth": 4, "width": 3, "features": 2, "batch": 2, "jobs": 1}
    smaller = {name: min(fields[name], most) for name, most in least.items()}
    return real_flow(**{**fields, **smaller, "seeds": fields["seeds"][:2]})


@given(st.sampled_from(["flow", "diagnose"]), GIVEN)
def test_no_value_of_an_option_gives_a_traceback(command: str, given: list[tuple[str, str]]):
    with mock.patch.object(studies, "flow", small_flow):
        result = run(command, *[text for pair in given for text in pair])

    if result.code == 0:
        assert result.err == ""
        assert result.out
        if ("--format", "json") in given[-1:]:
            json.loads(result.out, parse_constant=pytest.fail)
    else:
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith("skipscope: ")
        assert result.err.count("\n") == 1


@given(st.sampled_from(["diagnose", "compare", "report"]), st.lists(TEXT, min_size=1, max_size=3))
def test_no_name_of_a_file_gives_a_traceback(command: str, names: list[str]):
    if {"-h", "--help"} & set(names):
        return

    result = run(command, *names)

    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1


# ------------------------------------------------------------------------------------------ pipes, terminals, signals


def with_terminal(*arguments: object, streams: Sequence[str], **environment: str) -> tuple[int, bytes, bytes]:
    """Run with some streams on a pseudo-terminal: the exit code, what came through the pipes, and on the terminal."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    options: dict[str, Any] = dict.fromkeys(streams, slave)
    done = process(*arguments, env={"TERM": "xterm-256color", **environment}, **options)
    os.close(slave)
    seen: list[bytes] = []
    reader = threading.Thread(target=lambda: seen.extend(read_terminal(master)))
    reader.start()
    out, err = done.communicate()
    reader.join()
    os.close(master)
    return done.returncode, (out or b"") + (err or b""), b"".join(seen)


def read_terminal(master: int) -> Iterator[bytes]:
    try:
        while data := os.read(master, 4096):
            yield data
    except OSError:  # how Linux says that nobody writes to it any more
        return


def test_json_is_alone_on_stdout_while_progress_is_on_the_terminal():
    code, out, terminal = with_terminal("flow", *SMALL, "--format", "json", streams=["stderr"])

    assert code == 0
    assert len(json.loads(out)) > 100
    assert b"networks" in terminal
    assert b"gradient flow" in terminal


def test_quiet_means_no_progress():
    code, out, terminal = with_terminal("flow", *SMALL, "--format", "csv", "--quiet", streams=["stderr"])

    assert (code, terminal) == (0, b"")
    assert out.startswith(b"cell,step,site")


def test_a_terminal_gets_bold_type_unless_told_otherwise():
    arguments = ["diagnose", *SMALL, "--quiet"]

    bold = with_terminal(*arguments, streams=["stdout", "stderr"])
    plain = with_terminal(*arguments, streams=["stdout", "stderr"], NO_COLOR="1")

    assert bold[:2] == plain[:2] == (0, b"")
    assert b"\x1b[1m" in bold[2]
    assert b"\x1b" not in plain[2]


@pytest.mark.parametrize("arguments", [["flow", *SMALL], ["diagnose", *SMALL], ["--help"]], ids=lambda each: each[0])
def test_what_goes_into_a_pipe_has_no_escape_codes(arguments: list[str]):
    done = process(*arguments, env={"FORCE_COLOR": "1", "TERM": "xterm-256color"})
    out, err = done.communicate()

    assert (done.returncode, err) == (0, b"")
    assert b"\x1b" not in out


def test_the_lines_of_a_pipe_are_whole():
    out, _ = process("diagnose", *SMALL, "--seeds", "20", env={"COLUMNS": "40"}).communicate()

    lines = out.decode().splitlines()
    assert len(lines) == 4 * 3 * 2
    assert max(map(len, lines)) > 200


@pytest.mark.parametrize("format_", ["json", "csv", "table"])
def test_a_reader_that_leaves_is_no_error(format_: str, here: Path):
    deep = studies.flow(depth=300, width=2, designs=["plain"], seeds=range(2))
    deep.save("deep.parquet")  # as any format more than a pipe holds
    done = process("compare", "deep.parquet", "deep.parquet", "--site", "*", "--format", format_)
    assert done.stdout is not None
    assert done.stderr is not None

    line = done.stdout.readline()
    done.stdout.close()

    assert line.strip()
    assert (done.wait(), done.stderr.read()) == (0, b"")
    done.stderr.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("format_", ["json", "csv", "table"])
def test_a_full_disk_is_one_line(format_: str):
    with open("/dev/full", "w") as full:
        done = process("diagnose", *SMALL, "--format", format_, stdout=full)
        _, err = done.communicate()

    assert done.returncode == 2
    assert err == b"skipscope: cannot write the output: no space left on device; write it elsewhere.\n"


def test_a_closed_stdout_is_no_error():
    done = process("flow", *SMALL, stdout=None, preexec_fn=lambda: os.close(1))
    _, err = done.communicate()

    assert (done.returncode, err) == (0, b"")


def test_an_old_terminal_is_no_error():
    arguments = ["diagnose", "--design", "residual", "--depth", "40", "--width", "8", "--seeds", "20"]
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    done, record = process(*arguments, env=ascii_only), process(*arguments, "--format", "json", env=ascii_only)
    out, err = done.communicate()
    written, _ = record.communicate()

    assert (done.returncode, err, record.returncode) == (0, b"", 0)
    assert b"? 10?" in out  # for " × 10⁵" and the like
    statements = [each["statement"] for each in json.loads(written)]
    assert re.search(" × 10[⁵⁶⁷⁸⁹]", statements[0])


# A signal from within comes at the same moment on any machine.
INTERRUPTED = """
import os, signal, sys
from skipscope import cli
from skipscope.studies import ensemble
real = ensemble.measure
def measure(cell, seeds):
    if seeds[0] >= 20:
        os.kill(os.getpid(), signal.SIGINT)
    return real(cell, seeds)
ensemble.measure = measure
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["flow", "--seeds", "60", "--depth", "20", "--width", "64", "--out", "flow.parquet", "--report", "flow.html"],
        ["demo", "--seeds", "60"],
    ],
    ids=["flow", "demo"],
)
def test_interrupted(arguments: list[str], here: Path):
    done = process(*arguments, code=["-c", INTERRUPTED])
    out, err = done.communicate()

    assert (done.returncode, out) == (130, b"")
    assert err.decode().strip() == "skipscope: interrupted; no file is half written."
    assert tree(here) == {}


# ------------------------------------------------------------------------------------------------------------- memory


def cell(spec: Spec, batch: int = 1) -> ensemble.Cell:
    return ensemble.Cell(spec=spec, factors={"depth": 6}, batch=batch)


@pytest.mark.parametrize(
    "spec",
    [
        Spec.dense(width=7, blocks=0, features=3),
        Spec.dense(width=7, blocks=5, layers=1, shortcut="none", features=3, outputs=4),
        Spec.dense(width=7, blocks=5, features=3),
        Spec.dense(width=7, blocks=2, layers=3, features=3),
    ],
    ids=lambda spec: str(spec.depth),
)
@pytest.mark.parametrize("batch", [1, 10])
def test_what_a_network_holds_is_counted(spec: Spec, batch: int):
    arrays: list[int] = []

    def observe(site: str, /, **roles: Any) -> None:
        arrays.extend(
            roles[role].size for role in ("activation", "weight") if role in roles and "block" not in site[-7:]
        )

    class Sum:
        def __call__(self, output: Any, batch: Any) -> Any:
            return output.sum(axis=(1, 2))

        def gradient(self, output: Any, batch: Any) -> Any:
            return 0 * output + 1

    network = build(spec, seed=0)
    network.run([[0.0] * 3] * batch, Sum(), observe)

    assert room._numbers(cell(spec, batch)) == sum(arrays)


def test_the_memory_of_this_machine_is_known():
    assert 2**28 < room._memory() < math.inf


@pytest.mark.parametrize(("held", "fits"), [(3.4e6, False), (3.5e6, True)])
def test_what_fits_is_measured(held: float, fits: bool, monkeypatch: pytest.MonkeyPatch):
    # Four networks of 66 sites together, of 16 kB each, and 8 x 66 x 15 readings of 300 bytes: 3.43 MB; weights: 17 kB.
    monkeypatch.setattr(room, "_memory", lambda: held)

    assert run(*FLOW).code == (0 if fits else 2)
