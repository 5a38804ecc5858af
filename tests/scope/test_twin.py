"""What the twin of a model of one's own lacks, and what of it stays: said wherever something is said of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import polars as pl
import pytest
import torch
import torch.fx
from torch import Tensor, nn

from scope.designs import Calls, Dense, ListedStreams, dense, streams_listed
from skipscope import InputError, Readings, charts, report, studies, twins
from skipscope.report.page import Prose

pytestmark = pytest.mark.usefixtures("one_thread")


def added(x: Tensor, y: Tensor, block: Any) -> Tensor:
    return x + y


def subtracted(x: Tensor, y: Tensor, block: Any) -> Tensor:
    return x - y


def broadcast(x: Tensor, y: Tensor, block: Any) -> Tensor:
    return x + y.mean(0, keepdim=True)


def loss(output: Tensor, batch: Any) -> Tensor:
    return output.square().mean()


def batches(count: int) -> list[tuple[Tensor, int]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(12, 4, generator=generator), 0) for _ in range(count)]


def twin_of(ways: Iterable[Any], *, count: int = 1, steps: int = 0) -> Readings:
    torch.manual_seed(0)
    return studies.twin(dense(*(Dense(way) for way in ways)), batches(count), loss=loss, steps=steps)


@pytest.mark.parametrize(
    ("ways", "removed", "lacks"),
    [
        ([added], 1, "its shortcut"),
        ([added] * 3, 3, "its 3 shortcuts"),
        ([added, subtracted], 1, "1 of its shortcuts (1 addition that is not understood stays)"),
        ([added, subtracted, added, subtracted], 2, "2 of its shortcuts (2 additions that are not understood stay)"),
        ([added, broadcast], 1, "1 of its shortcuts (the shortcut at 2 cannot be removed and stays)"),
        ([broadcast, added, broadcast], 1, "1 of its shortcuts (the shortcuts at 1, 3 cannot be removed and stay)"),
        (
            [added, broadcast, subtracted],
            1,
            "1 of its shortcuts (the shortcut at 2 cannot be removed and stays; "
            "1 addition that is not understood stays)",
        ),
    ],
)
def test_what_stays_is_counted_and_told(ways: list[Any], removed: int, lacks: str):
    found = twin_of(ways, steps=1)
    assert set(found.cells["not_understood"]) == {ways.count(subtracted)}
    assert set(found.cells.filter(done="without shortcuts")["removed"]) == {removed}
    assert twins.taken_out(found) == lacks
    for finding in twins.findings(found):
        assert f"without {lacks}" in finding.subject + finding.statement


def test_verdicts_claim_no_more_than_was_removed():
    whole, part = (twin_of([added, *[way] * 2, added], count=6, steps=20) for way in (added, subtracted))
    assert [(each.rule, each.verdict) for each in twins.findings(whole)] == [
        ("without shortcuts less of the signal arrives", "holds"),
        ("without shortcuts less of the gradient arrives", "holds"),
        ("with its shortcuts the model trains better", "trains worse"),
    ]
    assert [each.rule for each in twins.findings(part)] == [
        "without some of its shortcuts less of the signal arrives",
        "without some of its shortcuts less of the gradient arrives",
        "with all of its shortcuts the model trains better",
    ]


def test_streams_that_are_not_understood_are_told_beside_the_shortcuts_that_are_removed():
    torch.manual_seed(0)
    streams = Calls(streams_listed, stem=nn.Linear(6, 6), layers=nn.ModuleList([ListedStreams(), ListedStreams()]))
    model = nn.Sequential(nn.Linear(4, 6), Dense(added), streams)
    found = studies.twin(model, batches(1), loss=loss)
    assert twins.taken_out(found) == "1 of its shortcuts (6 additions that are not understood stay)"


def test_the_report_and_the_charts_say_what_stays():
    found = twin_of([added, subtracted, added], steps=2)
    lacks = "2 of its shortcuts (1 addition that is not understood stays)"
    for chart in (charts.twin_flow(found), charts.twin_losses(found)):
        told = chart.to_dict()
        assert f"without shortcuts: without {lacks}" in told["title"]["subtitle"]
        assert lacks in told["description"]
    (section,) = report.sections_of(found)
    assert lacks in section.answer
    asked = next(block for block in section.blocks if isinstance(block, Prose))
    assert lacks in asked.paragraphs[0]
    method = next(block for block in section.blocks if isinstance(block, report.Method))
    facts = dict(fact for block in method.blocks if isinstance(block, report.Facts) for fact in block.facts)
    assert facts["Additions that are not understood, and stay"] == "1"


def test_of_readings_that_do_not_count_what_is_not_understood_nothing_is_said_of_it():
    found = twin_of([added, subtracted])
    before = Readings(rows=found.rows, cells=found.cells.drop("not_understood"), sites=found.sites, meta=found.meta)
    assert twins.taken_out(before) == "its shortcut"


def test_a_copy_whose_code_torch_fx_writes_anew_is_trained_without_shortcuts_too():
    torch.manual_seed(0)
    model = dense(Dense(added), Dense(added))
    traced, written = (
        twins.training_data(studies.twin(each, batches(1), loss=loss, steps=4))
        for each in (torch.fx.symbolic_trace(model), model)
    )
    assert traced.equals(written)
    assert traced.filter(pl.col("with_") == pl.col("without")).is_empty()


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"seed": [1, 2]}, r"^seed must be a whole number of at least 0; got \[1, 2\]\.$"),
        ({"seed": -1}, r"^seed must be at least 0; got -1\.$"),
        ({"steps": 1.5}, r"^steps must be a whole number of at least 0; got 1\.5\.$"),
        ({"rate": float("nan"), "steps": 1}, r"^rate must be a finite number; got nan\.$"),
        ({"probes": "a"}, r"^probes must be a whole number of at least 1; got 'a'\.$"),
        ({"sites": "nowhere"}, r"^sites='nowhere' matches none of the "),
    ],
    ids=str,
)
def test_refusals(given: dict[str, Any], match: str):
    with pytest.raises(InputError, match=match):
        studies.twin(dense(Dense(added)), batches(1), loss=loss, **given)


def test_a_sweep_with_twins_counts_what_stays_too():
    def made(depth: int, seed: int) -> Any:
        torch.manual_seed(seed)
        return dense(*(Dense(subtracted if place % 2 else added) for place in range(depth)))

    found = studies.sweep(made, batch=batches(1)[0][0], depths=[2, 4], seeds=range(3), twin=True)
    counts = found.cells.filter(pl.col("design").str.ends_with("without shortcuts")).select("depth", "not_understood")
    assert dict(counts.unique().iter_rows()) == {2: 1, 4: 2}
    assert set(found.cells.filter(~pl.col("design").str.ends_with("shortcuts"))["not_understood"]) == {0}
    blocks = [block for section in report.sections_of(found) for block in section.blocks if isinstance(block, Prose)]
    told = " ".join(text for block in blocks for text in block.paragraphs)
    assert "Additions that are not understood stay too, by depth: 1 at 2 and 2 at 4." in told
