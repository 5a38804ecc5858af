"""`skipscope compare`: what it prints of two files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl

from skipscope.comparison import compare
from skipscope.readings import Readings

SMALL = ["--seeds", "8", "--depth", "6", "--width", "8"]


def test_compare_as_json(succeeded: Callable[..., str], saved: dict[str, Path]):
    records = json.loads(succeeded("compare", saved["he"], saved["lecun"], "--format", "json"))

    table = compare(Readings.load(saved["he"]), Readings.load(saved["lecun"]))
    assert records == json.loads(json.dumps(table.to_dicts()))
    assert {record["pairs"] for record in records if record["quantity"] == "parameters"} == {4}  # seeds 4 to 7


def test_compare_as_csv(succeeded: Callable[..., str], saved: dict[str, Path]):
    text = succeeded("compare", saved["he"], saved["lecun"], "--format", "csv")

    table = compare(Readings.load(saved["he"]), Readings.load(saved["lecun"]))
    assert pl.read_csv(io.StringIO(text), schema=table.schema).equals(table)


def test_compare_as_a_table(succeeded: Callable[..., str], saved: dict[str, Path]):
    lines = succeeded("compare", saved["he"], saved["lecun"]).splitlines()

    assert lines[0].split() == ["cell_a", "quantity", "pairs", "ratio", "low", "high", "larger"]
    growth = next(line.split() for line in lines if line.startswith("plain-6 ") and "forward_growth" in line)
    # Half of the square a layer; four pairs are too few for an interval.
    assert growth == ["plain-6", "forward_growth", "4", "0.5", "0"]
    assert max(map(len, lines)) < 80


def test_compare_chosen_sites_and_quantities(succeeded: Callable[..., str], saved: dict[str, Path]):
    chosen = ["--site", "stage1.block2*", "--site", "head", "--quantity", "forward_gain", "--format", "json"]

    records = json.loads(succeeded("compare", saved["he"], saved["lecun"], *chosen))

    assert {record["quantity"] for record in records} == {"forward_gain"}
    assert {record["site"] for record in records} == {
        "stage1.block2", "stage1.block2.layer1", "stage1.block2.layer2", "head",
    }  # fmt: skip
    table = succeeded("compare", saved["he"], saved["lecun"], *chosen[:-2])
    assert "stage1.block2.layer1" in table


def test_comparing_a_file_with_itself_gives_ratios_of_one(succeeded: Callable[..., str], saved: dict[str, Path]):
    records = json.loads(succeeded("compare", saved["he"], saved["he"], "--format", "json"))

    assert {record["ratio"] for record in records} == {1.0, None}


def test_compare_two_designs(succeeded: Callable[..., str], here: Path):
    for design in ("plain", "residual"):
        succeeded("flow", *SMALL, "--design", design, "--out", f"{design}.parquet")

    line = succeeded("compare", "plain.parquet", "residual.parquet", "--quantity", "forward_growth").splitlines()[1]

    assert line.split()[:2] == ["plain-6", "residual-6"]
