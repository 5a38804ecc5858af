"""The study `degradation`, end to end on small networks: pairs, the choice of rates, networks that stop, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from skipscope import InputError, Readings, build, studies
from skipscope import data as datasets
from skipscope.degradation import final, findings, gradients, paired, rates
from skipscope.spec import Spec
from skipscope.studies import DEGRADATION_DEMO, DEGRADATION_QUANTITIES
from skipscope.training import Recipe, train

SMALL: dict[str, Any] = {"data": "patterns", "width": 8, "depths": (3, 6), "designs": ("plain",), "record": 2}
RECIPE = Recipe(steps=12, batch=16)


def small(**told: Any) -> Readings:
    return studies.degradation(**{**SMALL, "recipe": RECIPE, "rates": 0.05, "seeds": range(2), "norms": "none", **told})


@pytest.fixture(scope="module")
def readings() -> Readings:
    return small(norms=("none", "batch"), rates=(0.01, 0.1), designs=("plain", "residual", "twin"), tuning=2)


def test_what_is_measured_of_which_networks(readings: Readings):
    measured = readings.cells.filter(~pl.col("tuning"))
    assert sorted(measured.select("design", "depth", "norm").rows()) == [
        (design, depth, norm)
        for design in ("plain", "residual", "twin")
        for depth in (3, 6)
        for norm in ("batch", "none")
    ]
    assert set(readings.rows["site"]) == {"network"}
    assert set(readings.rows["quantity"]) == set(DEGRADATION_QUANTITIES)
    assert set(readings.rows["step"]) == {0, 6, 12}
    assert set(readings.cells["study"]) == {"degradation"}
    for spec in map(Spec.from_json, measured["spec"]):
        assert {stage.order for stage in spec.stages} == {"after-add"}  # as in the paper
        assert (spec.stem.features, spec.head.features, spec.head.activation) == (64, 3, "linear")


def test_it_is_what_training_by_hand_gives():
    readings = small(depths=6, norms="batch")
    (spec,) = map(Spec.from_json, readings.cells["spec"])
    data = datasets.load("patterns", seed=0)
    by_hand = train(build(spec, seed=range(2)), data, Recipe(steps=12, batch=16, rate=0.05), record=2).readings
    for quantity in ("train_loss", "test_error", "backward_growth"):
        mine, theirs = (
            each.rows.filter(quantity=quantity).sort("seed", "step")["value"] for each in (readings, by_hand)
        )
        assert mine.to_list() == theirs.to_list()


def test_a_network_without_its_shortcuts_starts_from_the_same_weights(readings: Readings):
    """So that pairs are pairs: residual network and twin have the same draw."""
    cells = readings.cells.filter(~pl.col("tuning"), depth=3, norm="batch")
    specs = {row["design"]: Spec.from_json(row["spec"]) for row in cells.iter_rows(named=True)}
    weights = [build(specs[name], seed=[1]).parameters for name in ("residual", "twin")]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert set(paired(readings).filter(compared="shortcuts")["against"]) == {"twin"}  # no plain one has its layers


def test_the_rate_is_chosen_by_seeds_that_are_not_measured(readings: Readings):
    tuning = readings.cells.filter("tuning")["cell"].to_list()
    assert set(readings.rows_of(*tuning)["seed"]) == {2, 3}
    measured = readings.cells.filter(~pl.col("tuning"))["cell"].to_list()
    assert set(readings.rows_of(*measured)["seed"]) == {0, 1}
    table = rates(readings)
    for _, tried in table.group_by("design", "norm", "layers"):
        assert tried["chosen"].sum() == 1
        assert tried.filter("chosen")["train_loss"][0] == tried["train_loss"].min()


def test_a_rate_that_blows_up_is_not_chosen():
    readings = small(rates=(0.05, 1e6))
    assert set(final(readings)["rate"]) == {0.05}
    tried = rates(readings).filter(rate=1e6)
    assert set(tried["stopped"]) == {3}
    assert tried["train_loss"].to_list() == pytest.approx([np.log(3)] * tried.height)  # as guessing


def test_a_rate_at_which_some_fail_is_not_chosen_for_the_others():
    """Of five seeds four do better at 0.1 than at 0.02, and one is worse than guessing."""
    readings = small(depths=3, rates=(0.02, 0.1), tuning=5, recipe=Recipe(steps=80, batch=16))
    assert set(final(readings)["rate"]) == {0.02}
    last = readings.rows.join(readings.cells.filter("tuning").select("cell", "rate"), on="cell")
    losses = last.filter(quantity="train_loss", step=80).group_by("rate").agg(pl.col("value").median())
    assert dict(losses.iter_rows())[0.1] < dict(losses.iter_rows())[0.02]


def test_networks_that_stop_are_counted_and_are_no_error():
    readings = small(rates=1e6)
    table = final(readings)
    assert set(table["stopped"]) == {2}
    assert table.filter(quantity="train_loss")["mean"].to_list() == pytest.approx([np.log(3)] * 2)
    assert table.filter(quantity="test_error")["mean"].to_list() == pytest.approx([2 / 3] * 2)
    assert gradients(readings)["began"].null_count() == 0
    assert "stopped being a number" in findings(readings)[0].statement


def test_neither_chunks_nor_workers_change_a_bit():
    told: dict[str, Any] = {"rates": (0.01, 0.1), "tuning": 1, "norms": "batch"}
    assert small(**told, chunk=1, jobs=2).equals(small(**told))


def test_progress_counts_both_rounds():
    seen: list[tuple[int, int]] = []
    small(rates=(0.01, 0.1), tuning=3, progress=lambda done, total: seen.append((done, total)))
    total = 2 * 2 * 3 + 2 * 2  # networks by rates by tuning seeds, and networks by seeds
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
    assert {each for _, each in seen} == {total}


def test_other_training_gives_other_cells():
    """So that readings of two recipes can be put together."""
    both = small() + small(recipe=Recipe(steps=12, batch=16, momentum=0.5)) + small(data_seed=1)
    assert both.cells.height == 3 * 2


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"designs": ("plian",)}, "Did you mean 'plain'"),
        ({"designs": ()}, "designs is empty"),
        ({"depths": ()}, "depths is empty"),
        ({"depths": 1}, "depth must be at least 2"),
        ({"norms": "group"}, "norm must be one of"),
        ({"data": "teacher"}, "data='teacher' has no classes"),
        ({"data": "cats"}, "must be one of"),
        ({"rates": ()}, "rates is empty"),
        ({"rates": "fast"}, "rate must be a number"),
        ({"rates": (0.1, -1.0)}, "rate must be at least 0"),
        ({"recipe": Recipe(steps=0)}, "steps must be at least 1"),
        ({"recipe": 500}, "recipe must be a Recipe"),
        ({"recipe": Recipe(steps=5, batch=10_000)}, "batch=10000 is more than"),
        ({"tuning": 0, "rates": (0.1, 0.2)}, "tuning must be at least 1"),
        ({"record": 0}, "record must be at least 1"),
        ({"seeds": ()}, "seeds"),
        ({"depth": 3}, "depth cannot be chosen here, as depths says it"),
        ({"features": 3}, "features cannot be chosen here, as data says it"),
        ({"witdh": 3}, "Did you mean 'width'"),
        ({"layers": 1}, "cannot be chosen, as the design 'plain' says it"),
    ],
)
def test_what_makes_no_sense_is_refused(told: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        small(**told)


@pytest.mark.slow
def test_on_digits_plain_networks_degrade_and_shortcuts_mend_it_under_batch_normalisation():
    """The demo's size. Gaps are 0.5 nats, a hundred times the rounding of another machine."""
    readings = studies.degradation(**DEGRADATION_DEMO, seeds=range(8), norms=("batch",))
    designs = dict(readings.cells.select("cell", "design").iter_rows())
    verdicts = {(designs[each.cell], each.rule): each.verdict for each in findings(readings)}
    assert verdicts["plain", "degradation"] == "degrades"
    assert verdicts["matched", "shortcuts"] == "trains better"
    assert verdicts["plain", "gradient while training"] == "healthy"
