"""Study `lesion`: what is done to trained networks, and that the errors are those of networks so changed."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from skipscope import data as datasets
from skipscope.designs import design
from skipscope.draws import stream
from skipscope.engines.numpy_engine import NumpyNetwork, build
from skipscope.errors import InputError
from skipscope.readings import Readings
from skipscope.studies import lesion
from skipscope.studies.lesion import guess_error, kendall_tau, swapped_places, without
from skipscope.training import Recipe, evaluate, loss_of, train

RECIPE = Recipe(steps=12, batch=32, rate=0.05)
SMALL: dict[str, Any] = {
    "depth": 3, "width": 8, "data": "patterns", "recipe": RECIPE, "deleted": (1, 2), "swapped": (2,), "draws": 2
}  # fmt: skip
SEEDS = (4, 9)


@pytest.fixture(scope="module")
def readings() -> Readings:
    return lesion(**SMALL, seeds=SEEDS)


def trained(name: str, **fields: Any) -> tuple[NumpyNetwork, datasets.Dataset]:
    """The networks of `SMALL`, trained by other means than the study's."""
    data = datasets.load("patterns", seed=0)
    told = {"order": "after-add", "norm": "batch", **fields}
    spec = design(name, depth=3, width=8, features=data.features, outputs=data.outputs, **told)
    network = train(build(spec, seed=SEEDS), data, RECIPE, record=(0,)).network
    assert network is not None
    return network, data


def errors(readings: Readings, quantity: str = "test_error", **told: Any) -> dict[tuple[int, str], float]:
    rows = readings.rows.filter(quantity=quantity).join(readings.cells.filter(**told), on="cell", how="semi")
    return {(seed, site): value for seed, site, value in rows.select("seed", "site", "value").iter_rows()}


# ------------------------------------------------------------------------------------------------------- what is done


@pytest.mark.parametrize("order", ["before-add", "after-add", "pre-activation"])
def test_a_deleted_residual_block_passes_on_what_comes_in_exactly(order: str):
    network, data = trained("residual", order=order)
    x = data.test.inputs
    with without(network, ["stage1.block2"]):
        assert network.edit == "stage1.block2: shortcut x 1, branch x 0"
        deleted = network.run(x).output
    with network.rearranged(["stage1.block1", "stage1.block3"]):
        assert np.array_equal(network.run(x).output, deleted)
    assert not np.array_equal(network.run(x).output, deleted)


def test_a_deleted_plain_block_is_left_out():
    network, _ = trained("twin")
    with without(network, {"stage1.block2", "stage1.block1"}):
        assert network.edit == "left out: stage1.block1, stage1.block2"


@pytest.mark.parametrize("blocks", [2, 3, 5])
def test_kendall_tau_is_that_of_scipy(blocks: int):
    for places in permutations(range(blocks)):
        assert kendall_tau(places) == pytest.approx(stats.kendalltau(range(blocks), places).statistic, abs=1e-12)
    assert kendall_tau(range(blocks)) == 1
    assert kendall_tau(range(blocks)[::-1]) == -1


def test_swaps_are_of_two_places_each_pair_as_likely():
    rng = np.random.default_rng(0)
    counts = dict.fromkeys([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)], 0)
    for _ in range(6000):
        places = swapped_places(4, 1, rng)
        counts[tuple(at for at, place in enumerate(places) if at != place)] += 1  # type: ignore[index]
    # 1000 each, standard deviation sqrt(6000 * 1/6 * 5/6) = 29; 4 of them: 1 in 2600 seeds for six counts. A pair that
    # is 12 % more likely than it should be fails.
    assert all(abs(count - 1000) < 4 * 29 for count in counts.values())
    assert swapped_places(4, 0, rng) == [0, 1, 2, 3]
    assert sorted(swapped_places(6, 9, rng)) == list(range(6))


def test_more_swaps_begin_with_the_fewer():
    few, many = (swapped_places(9, k, stream(3, "lesion", 1, 0)) for k in (1, 2))
    assert sum(a != b for a, b in zip(few, many, strict=True)) in (2, 3)


# --------------------------------------------------------------------------------------------------------- the readings


@pytest.mark.parametrize("name", ["residual", "twin"])
def test_errors_are_those_of_networks_so_changed(readings: Readings, name: str):
    network, data = trained(name)
    loss = loss_of(data)
    sites = [block.site for block in network.spec.body]

    def expected(kept: list[str]) -> tuple[Any, Any]:
        with network.rearranged(kept):
            return evaluate(network, data.test, loss)

    values, wrong = expected(sites)
    assert errors(readings, design=name, done="nothing") == {
        (s, "network"): e for s, e in zip(SEEDS, wrong, strict=True)
    }
    assert errors(readings, "test_loss", design=name, done="nothing") == {
        (s, "network"): v for s, v in zip(SEEDS, values, strict=True)
    }
    found = errors(readings, design=name, done="one deleted")
    for left in sites:
        _, wrong = expected([site for site in sites if site != left])
        assert [found[seed, left] for seed in SEEDS] == wrong.tolist()
    for row, seed in enumerate(SEEDS):
        for draw in range(2):
            shuffled = stream(seed, "lesion", 0, draw).permutation(3)
            for k in (1, 2):
                _, wrong = expected([site for place, site in enumerate(sites) if place not in shuffled[:k]])
                found = errors(readings, design=name, done="deleted", k=k, draw=draw)
                assert found[seed, "network"] == wrong[row]
            places = swapped_places(3, 2, stream(seed, "lesion", 1, draw))
            _, wrong = expected([sites[place] for place in places])
            assert errors(readings, design=name, done="swapped", k=2, draw=draw)[seed, "network"] == wrong[row]
            tau = errors(readings, "kendall_tau", design=name, done="swapped", k=2, draw=draw)
            assert tau[seed, "network"] == kendall_tau(places)


def test_branches_of_the_intact_network_are_measured_in_inference(readings: Readings):
    network, data = trained("residual")
    seen = {}

    def observe(site: str, /, **roles: Any) -> None:
        if "branch" in roles:
            branch, shortcut = (np.linalg.norm(roles[role], axis=(1, 2)) for role in ("branch", "shortcut"))
            seen.update({(seed, site): value for seed, value in zip(SEEDS, branch / shortcut, strict=True)})

    with network.inference():
        network.run(data.test.inputs, observe=observe)
    assert len(seen) == 6
    assert errors(readings, "branch_ratio") == pytest.approx(seen, rel=1e-12)  # two ways to add up the same squares


def test_guessing_answers_the_commonest_class(readings: Readings):
    data = datasets.Dataset.from_arrays(
        train=(np.eye(5), np.array([0, 1, 1, 1, 0])), test=(np.eye(5)[:4], np.array([0, 1, 0, 0]))
    )
    assert guess_error(data) == 0.75
    patterns = datasets.load("patterns", seed=0)
    assert set(errors(readings, "guess_error").values()) == {guess_error(patterns)}


def test_factors_say_what_was_done(readings: Readings):
    cells = readings.cells
    assert set(cells["study"]) == {"lesion"}
    assert set(cells["design"]) == {"residual", "twin"}
    assert set(cells["done"]) == {"training", "nothing", "one deleted", "deleted", "swapped"}
    random = cells.filter(pl.col("done").is_in(("deleted", "swapped")))
    assert set(random.filter(design="twin").select("done", "k", "draw").iter_rows()) == {
        *[("deleted", k, draw) for k in (1, 2) for draw in (0, 1)],
        *[("swapped", 2, draw) for draw in (0, 1)],
    }
    assert "2 random blocks deleted, draw 1" in set(random["edit"])
    assert set(readings.rows.join(cells.filter(done="nothing"), on="cell", how="semi")["step"]) == {RECIPE.steps}


def test_neither_chunks_nor_jobs_change_a_bit(readings: Readings):
    assert lesion(**SMALL, seeds=SEEDS, chunk=1, jobs=2).equals(readings)


def test_numbers_of_blocks_follow_the_depth():
    found = lesion(**{**SMALL, "depth": 6, "deleted": None, "swapped": None, "draws": 1}, designs="residual", seeds=1)
    cells = found.cells
    assert cells.filter(done="deleted")["k"].to_list() == [1, 2, 3, 4, 6]
    assert cells.filter(done="swapped")["k"].to_list() == [1, 2, 4]


def test_networks_whose_training_fails_have_no_lesions():
    wild = Recipe(steps=30, batch=32, rate=1e6)
    found = lesion(**{**SMALL, "recipe": wild, "norm": "none"}, designs="residual", seeds=SEEDS)
    assert set(found.cells["done"]) == {"training"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data": "teacher"}, "data='teacher' has no classes"),
        ({"data": "digit"}, "digits"),
        ({"depth": 1}, "depth must give 2 blocks at least"),
        ({"deleted": (4,)}, "deleted=4 is more than the 3 blocks that there are"),
        ({"deleted": (0,)}, "deleted must be"),
        ({"swapped": (-1,)}, "swapped must be"),
        ({"draws": 0}, "draws must be"),
        ({"designs": ("resdiual",)}, "residual"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words) as caught:
        lesion(**{**SMALL, **fields}, seeds=1)
    assert "\n" not in str(caught.value)
