"""`skipscope theory`: what the laws say, and why others do not hold."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import polars as pl
import pytest

from skipscope import design, theory


def test_theory_says_what_the_laws_say(succeeded: Callable[..., str]):
    told = json.loads(
        succeeded(
            "theory", "--design", "plain", "--design", "residual", "--depth", "5", "--width", "8", "--format", "json"
        )
    )
    known = {
        name: theory.laws(design(name, depth=5, width=8, features=16, output="relu")) for name in ("plain", "residual")
    }

    assert [(each["design"], each["law"], each["refusal"]) for each in told] == [
        (name, prediction.law, prediction.refusal) for name, predictions in known.items() for prediction in predictions
    ]
    for each, prediction in zip(told, [*known["plain"], *known["residual"]], strict=True):
        assert each["table"] == json.loads(json.dumps(prediction.table.to_dicts()))


def test_theory_as_csv_has_a_row_a_site_or_a_refusal(succeeded: Callable[..., str]):
    out = succeeded(
        "theory", "--design", "plain", "--design", "residual", "--depth", "5", "--width", "8", "--format", "csv"
    )
    table = pl.read_csv(io.StringIO(out))
    known = theory.laws(design("plain", depth=5, width=8, features=16, output="relu"))[0].table

    forward = table.filter(pl.col("design") == "plain", pl.col("law") == "(a) plain network, forward")
    assert forward["site"].to_list() == known["site"].to_list()
    assert forward["log_mean"].to_list() == pytest.approx(known["log_mean"].to_list())
    refusals = table.filter(pl.col("design") == "residual", pl.col("law").str.starts_with("(a) plain network, "))
    assert refusals.height == len([name for name in table["law"].unique() if name.startswith("(a)")])
    assert refusals["refusal"].str.contains("There are shortcuts").all()


def test_the_table_of_theory_lists_refusals_once(succeeded: Callable[..., str]):
    out = succeeded("theory", "--depth", "6", "--width", "8")

    assert "log_mean" in out
    assert "residual, matched: (a) plain network, forward: does not hold" in out
    assert out.count("(a) plain network, forward: does not hold") == 1


def test_theory_hears_the_options(succeeded: Callable[..., str]):
    ones = succeeded("theory", "--design", "plain", "--depth", "6", "--width", "8", "--cotangent", "ones")
    assert "The cotangent is ones under a ReLU output" in ones
    assert "(a) plain network, forward: ||a_l||^2" in ones
    many = succeeded("theory", "--design", "plain", "--depth", "6", "--width", "8", "--batch", "4")
    assert "a batch of 4 samples" in many


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--design", "plain,twin"],
            "--design is one design, given once for each and not with commas; got 'plain,twin'",
        ),
        (["--design", "resnet"], "design must be one of 'plain'"),
        (["--depth", "1", "--design", "plain"], "depth must be at least 2"),
        (["--cotangent", "twos"], "cotangent must be one of"),
        (["--batch", "0"], "batch must be at least 1"),
    ],
)
def test_theory_refuses_in_one_line(refused: Callable[..., str], arguments: list[str], said: str):
    assert said in refused("theory", "--width", "8", *arguments)
