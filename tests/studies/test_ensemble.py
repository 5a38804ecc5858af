"""Cells over seeds: neither chunks nor workers change a bit, and the progress is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipscope import QUANTITIES, InputError, Spec, build, probe
from skipscope.probe import Measured
from skipscope.quantities import Quantity
from skipscope.readings import Readings
from skipscope.studies import ensemble
from skipscope.studies.ensemble import Cell, measure, run

UNKNOWN: Any = "one"
PLAIN = Spec.dense(width=6, blocks=3, layers=1, features=4, shortcut="none", output="relu")
RESIDUAL = Spec.dense(width=6, blocks=3, features=4, output="relu", norm="layer")
CELLS = (
    Cell(spec=PLAIN, factors={"study": "test", "design": "plain"}),
    Cell(spec=RESIDUAL, factors={"study": "test", "design": "residual"}, batch=3, cotangent="ones"),
)


def test_a_cell_is_a_probe():
    (measured,) = measure(CELLS[1:], (2, 7))
    network = build(RESIDUAL, seed=[2, 7])

    probed = probe(network, 3, cotangent="ones", factors={"study": "test", "design": "residual"})
    assert measured.readings().equals(probed)


def test_a_cell_says_what_to_measure_and_where():
    few = {"dead": QUANTITIES["dead"], "forward_growth": QUANTITIES["forward_growth"]}
    (measured,) = measure([Cell(spec=PLAIN, factors={}, quantities=few, sites=("stem", "network"))], (0,))
    readings = measured.readings()

    assert set(readings.rows.select("site", "quantity").iter_rows()) == {
        ("stem", "dead"),
        ("network", "forward_growth"),
    }


@settings(max_examples=15)
@given(
    seeds=st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True),
    chunk=st.one_of(st.none(), st.integers(1, 10)),
)
def test_the_chunk_does_not_change_a_bit(seeds: list[int], chunk: int | None):
    whole = Readings.concat(measured.readings() for cell in CELLS for measured in measure([cell], tuple(seeds)))

    assert run(CELLS, seeds, chunk=chunk).equals(whole)


@pytest.mark.slow
def test_nor_does_the_number_of_workers():
    alone = run(CELLS, range(7), chunk=2)

    assert run(CELLS, range(7), chunk=2, jobs=2).equals(alone)
    assert run(CELLS, range(7), chunk=3, jobs=3).equals(alone)


@pytest.mark.slow
def test_workers_measure_a_quantity_of_ones_own_and_tell_their_progress():
    told: list[tuple[int, int]] = []
    cell = Cell(spec=PLAIN, factors={}, quantities={"mine": QUANTITIES["dead"]})
    readings = run([cell], range(5), chunk=2, jobs=2, progress=lambda done, total: told.append((done, total)))

    assert set(readings.rows["quantity"]) == {"mine"}
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_saved_bytes_are_the_same_for_any_chunk(tmp_path: Any):
    for chunk in (1, 2, 5):
        run(CELLS, range(5), chunk=chunk).save(tmp_path / f"{chunk}.parquet")

    assert len({(tmp_path / f"{chunk}.parquet").read_bytes() for chunk in (1, 2, 5)}) == 1


def test_progress_is_told_after_every_chunk():
    told: list[tuple[int, int]] = []
    run(CELLS, range(5), chunk=2, progress=lambda done, total: told.append((done, total)))

    assert told == [(4, 10), (8, 10), (10, 10)]  # both cells share a draw, and are measured together


def test_seeds_may_be_one_or_an_iterator():
    assert run(CELLS, [3]).rows["seed"].unique().to_list() == [3]
    assert run(iter(CELLS), iter([4, 2])).rows["seed"].unique().sort().to_list() == [2, 4]


def test_seeds_may_be_an_array():
    assert run(CELLS, np.arange(2)).equals(run(CELLS, range(2)))


def test_a_cell_that_is_given_twice_is_measured_once(tmp_path: Path):
    told: list[tuple[int, int]] = []
    once = run(CELLS, range(3))

    assert run([*CELLS, *CELLS], range(3), progress=lambda done, total: told.append((done, total))).equals(once)
    assert told[-1] == (6, 6)
    assert run([*CELLS, *CELLS], range(3), folder=tmp_path / "run").equals(once)


def test_cells_of_every_kind_measured_together_are_probes():
    """Other designs, depths, batches, cotangents, precisions, quantities and sites share a draw and a pass."""
    mine = {
        "mine": Quantity(
            formula=lambda view: view["weight_grad"].norm,
            needs={"weight_grad": ()},
            where=lambda site: site.kind == "layer",
            symbol="|dW|",
            about="",
            unit="",
        )
    }
    asked: list[dict[str, Any]] = [
        {},
        {"quantities": mine, "sites": ("head", "*layer1"), "cotangent": "ones"},
        {"quantities": QUANTITIES | mine, "batch": 4},
    ]
    shapes: list[dict[str, Any]] = [
        {},
        {"shortcut": "none"},
        {"branch_gain": "1/sqrt(L)", "order": "pre-activation"},
        {"dtype": "float32", "norm": "layer", "bias": True},
    ]
    cells = [
        Cell(spec=Spec.dense(width=5, features=4, blocks=blocks, **shape), factors={"design": str(place)}, **each)
        for blocks in (2, 5)
        for shape in shapes
        for place, each in enumerate(asked)
    ]

    for cell, measured in zip(cells, measure(cells, (3, 1)), strict=True):
        probed = probe(
            build(cell.spec, seed=[3, 1]),
            cell.batch,
            cotangent=cell.cotangent,
            quantities=cell.quantities,
            sites=cell.sites,
            factors=cell.factors,
        )
        assert measured.readings().equals(probed)


def test_no_cells_give_no_readings():
    assert len(run([], range(3))) == 0


@pytest.mark.parametrize(
    ("batch", "width", "chunk"),
    # 2^23 numbers a chunk; a network has 10 matrices of width^2 and 10 layers' activations of batch * width.
    [(1, 8, 2**23 // (10 * 64 + 10 * 8)), (4096, 8, 2**23 // (10 * 64 + 10 * 4096 * 8)), (1, 917, 1)],
)
def test_a_chunk_of_its_own_choice_fits_its_memory(batch: int, width: int, chunk: int, monkeypatch: pytest.MonkeyPatch):
    chunks: list[int] = []

    right = ensemble.measure

    def counted(cells: Sequence[Cell], seeds: Sequence[int], **options: Any) -> list[Measured]:
        chunks.append(len(seeds))
        return right(cells, [seeds[0]], **options)

    monkeypatch.setattr(ensemble, "measure", counted)
    monkeypatch.setattr(Measured, "concat", lambda parts: parts[0])
    spec = Spec.dense(width=width, blocks=4, features=width)
    run([Cell(spec=spec, factors={}, batch=batch)], range(2 * chunk + 1))

    assert chunks == ([chunk, chunk, 1] if chunk > 1 else [1, 1, 1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [1, 1]}, "seeds must differ from each other; got 1 twice"),
        ({"seeds": [-1]}, "seed must be at least 0"),
        ({"seeds": 200}, "seeds must be a list of seeds, e.g. range(200), or [200] for one; got 200."),
        ({"seeds": [0, UNKNOWN]}, "seed must be a whole number"),
        ({"chunk": 0}, "chunk must be at least 1; got 0"),
        ({"chunk": 2.5}, "chunk must be a whole number"),
        ({"jobs": 0}, "jobs must be at least 1; got 0"),
        ({"jobs": UNKNOWN}, "jobs must be a whole number"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], words: str):
    with pytest.raises(InputError) as caught:
        run(CELLS, **{"seeds": range(2), **arguments})

    assert words in str(caught.value)


@pytest.mark.parametrize("batch", [0, -5, UNKNOWN])
def test_a_batch_that_makes_no_sense_is_refused(batch: Any):
    with pytest.raises(InputError, match="batch must be"):
        run([Cell(spec=PLAIN, factors={}, batch=batch)], range(2))


def test_readings_of_both_cells_are_told_apart():
    readings = run(CELLS, range(3))

    assert readings.cells.sort("design")["design"].to_list() == ["plain", "residual"]
    assert readings.cells.sort("design")["batch"].to_list() == [1, 3]
    counts = readings.rows.filter(pl.col("quantity") == "forward_growth").group_by("cell").len()
    assert counts["len"].to_list() == [3, 3]
