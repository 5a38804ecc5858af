"""`skipscope diagnose`: verdicts as text and as records."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from skipscope import diagnosis, studies

SMALL = ["--seeds", "8", "--depth", "6", "--width", "8"]


def test_diagnose_as_json(succeeded: Callable[..., str]):
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


def test_diagnose_as_csv(succeeded: Callable[..., str]):
    rows = list(csv.DictReader(io.StringIO(succeeded("diagnose", *SMALL, "--seeds", "20", "--format", "csv"))))

    assert len(rows) == 12
    assert {row["verdict"] for row in rows} >= {"exploding", "healthy"}


def test_diagnose_as_text(succeeded: Callable[..., str]):
    lines = succeeded("diagnose", *SMALL, "--seeds", "20", "--design", "residual").splitlines()

    assert lines[0] == "the residual design at depth 6, width 8: signal: exploding"
    assert lines[1].startswith("  Over 6 blocks the signal of the residual design")
    assert len(lines) == 6


def test_diagnose_saved_readings(succeeded: Callable[..., str], saved: dict[str, Path]):
    records = json.loads(succeeded("diagnose", saved["he"], "--format", "json"))

    assert {record["verdict"] for record in records} == {"cannot tell"}  # of 8 seeds
    assert len(records) == 8


def test_diagnose_says_that_options_do_not_go_with_a_file(refused: Callable[..., str], saved: dict[str, Path]):
    message = refused("diagnose", saved["he"], "--branch-gain", "1/L")

    assert message.startswith("--branch-gain describes a network to measure, but FILE holds readings already")


def test_an_overflow_is_valid_json(succeeded: Callable[..., str]):
    deep = ["--design", "residual", "--depth", "250", "--width", "8", "--seeds", "2", "--dtype", "float32"]

    records = json.loads(succeeded("diagnose", *deep, "--format", "json"), parse_constant=pytest.fail)

    assert {"exploding"} <= {record["verdict"] for record in records}
    assert "inf" in json.dumps(records)
    flow = json.loads(succeeded("flow", *deep, "--format", "json"), parse_constant=pytest.fail)
    assert max(record["nonfinite"] for record in flow) == 2
