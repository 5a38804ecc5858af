"""`skipscope flow`: what it prints, saves and reports."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import polars as pl
import pytest

from skipscope import Spec, studies, summary
from skipscope.readings import Readings

SMALL = ["--seeds", "8", "--depth", "6", "--width", "8"]


def test_flow_as_json_is_the_summary(succeeded: Callable[..., str]):
    records = json.loads(succeeded("flow", *SMALL, "--format", "json"))

    table = summary.summarise(studies.flow(depth=6, width=8, seeds=range(8))).table
    assert records == json.loads(json.dumps(table.to_dicts()))
    assert {record["design"] for record in records} == {"plain", "residual", "twin", "matched"}


def test_flow_as_csv_is_the_summary(succeeded: Callable[..., str]):
    text = succeeded("flow", *SMALL, "--format", "csv")

    table = summary.summarise(studies.flow(depth=6, width=8, seeds=range(8))).table
    assert pl.read_csv(io.StringIO(text), schema=table.schema).equals(table)


def test_flow_as_a_table(succeeded: Callable[..., str]):
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


def test_a_seed_is_the_same_network_wherever_it_is_first(succeeded: Callable[..., str]):
    def of(*seeds: object) -> list[dict[str, Any]]:
        return json.loads(succeeded("flow", *SMALL[2:], "--design", "plain", "--format", "json", *seeds))

    assert of("--seed", 5, "--seeds", 1) != of("--seed", 6, "--seeds", 1)
    assert of("--seed", 5, "--seeds", 1) == json.loads(
        json.dumps(
            summary.summarise(studies.flow(depth=6, width=8, designs=["plain"], seeds=[5])).table.to_dicts(),
        )
    )


def test_jobs_do_not_change_the_numbers(succeeded: Callable[..., str], here: Path):
    for jobs in ("1", "2"):
        succeeded("flow", *SMALL, "--jobs", jobs, "--out", f"{jobs}.parquet", "--quiet")

    assert (here / "1.parquet").read_bytes() == (here / "2.parquet").read_bytes()


def test_flow_saves_what_it_measured(succeeded: Callable[..., str], tree: Callable[..., Any], here: Path):
    succeeded("flow", *SMALL, "--init", "lecun", "--out", "flow.parquet")

    loaded = Readings.load(here / "flow.parquet")
    assert loaded.equals(studies.flow(depth=6, width=8, seeds=range(8), init="lecun"))
    assert list(tree(here)) == ["flow.parquet"]


def test_flow_writes_a_report(succeeded: Callable[..., str], here: Path):
    text = succeeded("flow", *SMALL, "--report", "page.html", "--format", "json")

    json.loads(text)
    page = (here / "page.html").read_text()
    assert page.startswith("<!")
    assert "skipscope flow --seeds 8 --depth 6 --width 8 --report page.html --format json" in page


@pytest.mark.parametrize(
    "arguments", [["flow", *SMALL], ["flow", *SMALL, "--report", "page.html"]], ids=["out", "report"]
)
def test_what_exists_is_not_replaced(
    refused: Callable[..., str], tree: Callable[..., Any], here: Path, arguments: list[str]
):
    target = "page.html" if "--report" in arguments else "flow.parquet"
    more = [] if "--report" in arguments else ["--out", target]
    (here / target).write_text("mine")

    with mock.patch.object(studies, "flow") as flow:
        message = refused(*arguments, *more)

    assert re.fullmatch(rf"--(out|report) '{target}' exists: give another name, or --overwrite\.", message)
    assert tree(here) == {target: b"mine"}
    flow.assert_not_called()  # it is found out before the work


def test_overwrite_replaces(succeeded: Callable[..., str], here: Path):
    (here / "flow.parquet").write_text("mine")

    succeeded("flow", *SMALL, "--out", "flow.parquet", "--overwrite")

    assert len(Readings.load(here / "flow.parquet"))


def test_quiet_leaves_the_result(succeeded: Callable[..., str]):
    assert succeeded("flow", *SMALL, "--quiet") == succeeded("flow", *SMALL)


def test_flow_of_networks_by_name(succeeded: Callable[..., str]):
    records = json.loads(
        succeeded(
            "flow", "--spec", "cifar-8", "--spec", "cifar-8-plain", "--seeds", 2, "--batch", 2, "--format", "json"
        )
    )

    readings = studies.flow(specs=["cifar-8", "cifar-8-plain"], seeds=range(2), batch=2, dtype="float64")
    assert records == json.loads(json.dumps(summary.summarise(readings).table.to_dicts()))
    assert {record["design"] for record in records} == {"cifar-8", "cifar-8-plain"}


def test_networks_are_named_one_by_one(refused: Callable[..., str]):
    assert "--spec is one network" in refused("flow", "--spec", "cifar-8,cifar-8-plain")


def test_what_is_about_designs_is_refused_with_networks(refused: Callable[..., str]):
    assert refused("flow", "--spec", "cifar-8", "--features", 8) == (
        "--features is about designs, and --spec names 'cifar-8': leave one out."
    )


def test_networks_of_the_paper_can_be_made_narrower_and_smaller(
    succeeded: Callable[..., str], refused: Callable[..., str], tmp_path: Path
):
    how = ["--spec", "cifar-8", "--seeds", 2, "--batch", 2, "--out", tmp_path / "a.parquet"]
    succeeded("flow", *how, "--width", 2, "--size", 6)
    spec = Spec.from_json(Readings.load(tmp_path / "a.parquet").cells["spec"][0])
    assert spec == Spec.cifar(8, width=2, size=6, dtype="float64")
    assert "--size 6 is of networks of images" in refused("flow", "--size", 6)


def test_highway_tells_several_networks_apart(succeeded: Callable[..., str]):
    names = ("cifar-8", "cifar-8-B", "cifar-8-plain")
    given = [text for name in names for text in ("--spec", name)]
    out = succeeded("highway", *given, "--width", 2, "--size", 6, "--seeds", 6, "--batch", 2, "--quiet")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["design", "cifar-8", "cifar-8", "cifar-8-B", "cifar-8-B"]
