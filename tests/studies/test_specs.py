"""Studies on networks of the paper in place of designs: the same measurements, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from skipscope import InputError, Spec, build, paths, probe, report, studies, trends
from skipscope.studies import room
from skipscope.studies.lesion import runs_of, swapped_places
from skipscope.training import Recipe

SMALL: dict[str, Any] = {"size": 8, "width": 4, "classes": 3, "dtype": "float64"}
PAIR = {"residual": Spec.cifar(14, **SMALL), "plain": Spec.cifar(14, shortcut="none", **SMALL)}


def test_flow_of_networks_is_their_probes():
    readings = studies.flow(specs=PAIR, seeds=(3, 1), batch=2)

    assert readings.cells["design"].to_list() == ["residual", "plain"]
    assert readings.cells["depth"].to_list() == [14, 14]
    assert readings.cells["batch"].to_list() == [2, 2]
    for (name, spec), cell in zip(PAIR.items(), readings.cells["cell"], strict=True):
        alone = probe(build(spec, seed=[1]), 2)
        mine = readings.rows.filter((pl.col("cell") == cell) & (pl.col("seed") == 1))
        both = mine.join(alone.rows, on=["site", "quantity"], suffix="_alone")
        assert both.height == mine.height > 100, name
        np.testing.assert_array_equal(both["value"], both["value_alone"])


def test_neither_chunks_nor_processes_change_a_number():
    ways: list[dict[str, Any]] = [{}, {"chunk": 1}, {"jobs": 2}]
    found = [studies.flow(specs=PAIR, seeds=range(4), batch=2, **how) for how in ways]

    assert found[0].equals(found[1])
    assert found[0].equals(found[2])


def test_networks_are_known_by_their_names():
    fields: dict[str, Any] = {"size": 8, "dtype": "float64", "classes": 3}
    named = studies.flow(specs=["cifar-8", "cifar-8-plain"], seeds=[0], **fields)

    given = {"cifar-8": Spec.cifar(8, **fields), "cifar-8-plain": Spec.cifar(8, shortcut="none", **fields)}
    assert named.equals(studies.flow(specs=given, seeds=[0]))


def test_a_sweep_takes_depths_for_depths(tmp_path: Any):
    names = [f"cifar-{depth}{form}" for depth in (8, 14, 20) for form in ("", "-plain")]
    readings = studies.sweep(specs=names, seeds=range(6), batch=2, size=8, folder=tmp_path / "kept")

    assert sorted(readings.cells.select("design", "depth").rows()) == [
        (design, depth) for design in ("cifar", "cifar-plain") for depth in (8, 14, 20)
    ]
    rates = trends.rates(readings)
    assert set(rates["design"]) == {"cifar", "cifar-plain"}
    assert rates["rate"].is_finite().all()


def test_highway_has_shares_and_paths():
    readings = studies.highway(
        specs={"A": PAIR["residual"], "B": Spec.cifar(14, shortcut="B", **SMALL)}, seeds=range(3), batch=2
    )

    weights = readings.rows.filter(pl.col("quantity") == "path_weight")
    sums = weights.group_by("cell", "seed").agg(pl.col("value").sum(), pl.len())
    assert sums["len"].to_list() == [7] * 6  # of 6 blocks 0 to 6 branches
    np.testing.assert_allclose(sums["value"], 1, rtol=1e-9)
    assert paths.misfit_data(readings).height > 0


def test_a_lesion_study_of_convolutional_networks():
    fields: dict[str, Any] = {"width": 4, "size": 8, "channels": 1}
    specs = {"residual": Spec.cifar(20, **fields), "plain": Spec.cifar(20, shortcut="none", **fields)}
    readings = studies.lesion(
        specs=specs, seeds=range(2), recipe=Recipe(steps=3, batch=16), draws=1, deleted=[1, 7], swapped=[2]
    )

    assert set(readings.cells["depth"]) == {20}
    one = readings.select(done="one deleted").rows.filter(pl.col("quantity") == "test_error")
    assert one["site"].n_unique() == 7  # those of nine blocks that keep the shape
    assert one.height == 2 * 2 * 7
    assert readings.select(done="swapped").rows.filter(pl.col("quantity") == "kendall_tau")["value"].is_finite().all()


def test_blocks_change_places_with_blocks_of_their_shape(rng: np.random.Generator):
    runs = runs_of(Spec.cifar(20, width=4, size=8))

    assert [len(run) for run in runs] == [3, 2, 2]
    seen = set()
    for _ in range(200):
        places = swapped_places(7, 1, rng, runs=[3, 2, 2])
        seen.add(tuple(places))
        assert {frozenset(places[:3]), frozenset(places[3:5]), frozenset(places[5:])} == {
            frozenset({0, 1, 2}), frozenset({3, 4}), frozenset({5, 6})
        }  # fmt: skip
    assert len(seen) == 5


@pytest.mark.parametrize("study", [studies.flow, studies.sweep, studies.highway])
def test_a_report_of_networks_by_name(study: Callable[..., Any]):
    readings = study(specs=["cifar-8", "cifar-14", "cifar-8-plain", "cifar-14-plain"], seeds=range(6), size=8, batch=2)

    (section,) = report.sections_of(readings)

    page = report.render([section], title="networks", command="skipscope")
    assert "cifar" in page
    assert "option A" in page or study is studies.highway


@pytest.mark.parametrize(
    "spec", [*PAIR.values(), Spec.imagenet(18, width=4, size=32), Spec.imagenet(50, width=4, size=32)], ids=str
)
def test_what_a_convolutional_network_holds_is_counted(spec: Spec):
    """Within a fifth: projections, and what precedes a stride, are left out."""
    weights = sum(layer.weights for layer in spec.layers)
    units = sum(layer.n_out * layer.size_out**2 for layer in spec.layers) + np.prod(spec.input_shape)

    assert room.numbers(spec, 3) == pytest.approx(weights + 3 * units, rel=0.2)
    assert len(build(spec, seed=0).sites) <= room.sites(spec) <= 1.5 * len(build(spec, seed=0).sites)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"specs": []}, "specs is empty"),
        ({"specs": ["cifar-21"]}, "depth must be 6n"),
        ({"specs": ["resnet"]}, "spec must be the name of a network"),
        ({"specs": {"mine": "cifar-20"}}, r"specs\['mine'\] must be a Spec"),
        ({"specs": PAIR, "size": 8}, "size is for networks given by name"),
        ({"specs": ["cifar-20"], "colour": 3}, "field"),
    ],
)
def test_what_is_no_network_is_refused(given: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        studies.flow(seeds=[0], **given)


def test_a_dense_network_has_a_study_of_its_own():
    with pytest.raises(InputError, match="'mine' is dense"):
        studies.lesion(specs={"mine": Spec.dense(width=3, blocks=4)})
