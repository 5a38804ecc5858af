"""Comparisons: which cells and seeds are paired, and what is said of the pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipscope import readings, studies
from skipscope.comparison import compare
from skipscope.errors import InputError
from skipscope.readings import Readings
from skipscope.summary import median_ranks


def readings_of(values: Mapping[int, float], *, cell: str = "cell", quantity: str = "mine", **factors: Any) -> Readings:
    """One cell, one site, one quantity, its values by seed."""
    site = (cell, "here", 1, 1, "layer", "", "relu", 0, "", "measured")
    return Readings(
        rows=pl.DataFrame(
            [(cell, seed, 0, "here", 0, quantity, float(value)) for seed, value in values.items()],
            schema=readings.ROWS,
            orient="row",
        ),
        cells=pl.DataFrame([{"cell": cell, **factors}], schema=readings.CELLS),
        sites=pl.DataFrame([site], schema=readings.SITES, orient="row"),
    )


def compared(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    """The one row of the comparison of two cells that share their seeds."""
    return compare(readings_of(dict(enumerate(a))), readings_of(dict(enumerate(b)))).row(0, named=True)


def flow(**fields: Any) -> Readings:
    return studies.flow(**{"depth": 6, "width": 8, "seeds": range(8), **fields})


# --------------------------------------------------------------------------------------------------- what is said


def test_a_comparison_by_hand():
    row = compared([1, 2, 4, 8, 16, 32, 64], [2, 2, 2, 2, 2, 2, 2])

    assert row == {
        "cell_a": "cell",
        "cell_b": "cell",
        "step": 0,
        "site": "here",
        "call": 0,
        "quantity": "mine",
        "pairs": 7,
        "left_out": 0,
        "median_a": 8.0,
        "median_b": 2.0,
        "ratio": 0.25,
        "ratio_low": 1 / 32,  # of seven values the smallest and the largest enclose the median with 98 %
        "ratio_high": 2.0,
        "larger": 1 / 7,
    }


def test_the_ratio_is_of_pairs_and_not_of_medians():
    row = compared([1, 10, 100], [100, 20, 200])

    assert (row["median_a"], row["median_b"], row["ratio"]) == (10, 100, 2)


def test_pairs_are_by_seed():
    a, b = readings_of({3: 1.0, 5: 2.0, 9: 4.0}), readings_of({9: 4.0, 5: 4.0, 3: 4.0})

    row = compare(a, b).row(0, named=True)

    assert (row["pairs"], row["ratio"], row["larger"]) == (3, 2, 2 / 3)


def test_only_seeds_that_both_hold_are_paired():
    row = compare(readings_of({0: 1.0, 1: 2.0, 2: 4.0}), readings_of({1: 6.0, 2: 12.0, 3: 1.0})).row(0, named=True)

    assert (row["pairs"], row["median_a"], row["median_b"]) == (2, 3, 9)
    assert row["ratio"] == pytest.approx(3, rel=1e-15)


def test_what_is_0_or_not_finite_has_no_ratio():
    row = compared([0, 1, math.inf, 1, math.nan, 2], [1, 0, 1, math.inf, 1, 6])

    assert (row["pairs"], row["left_out"]) == (6, 5)
    assert row["ratio"] == pytest.approx(3, rel=1e-15)
    # Of the five pairs without nan b is larger in three: 1 > 0, inf > 1, 6 > 2.
    assert row["larger"] == 3 / 5


def test_where_no_pair_has_a_ratio_there_is_none():
    row = compared([0, 0], [0, 1])

    assert (row["left_out"], row["ratio"], row["ratio_low"], row["ratio_high"]) == (2, None, None, None)
    assert row["larger"] == 0.5


def test_few_pairs_have_no_interval():
    assert compared([1] * 5, [2] * 5)["ratio_low"] is None
    assert compared([1] * 6, [2] * 6)["ratio_low"] == 2


def test_values_of_both_signs_have_a_ratio():
    assert compared([1, 1, -1], [-3, 2, -5])["ratio"] == 2


POSITIVE = st.lists(st.tuples(st.floats(1e-100, 1e100), st.floats(1e-100, 1e100)), min_size=1, max_size=30)


@given(POSITIVE)
def test_swapping_inverts_the_ratio(pairs: list[tuple[float, float]]):
    a, b = zip(*pairs, strict=True)

    there, back = compared(a, b), compared(b, a)

    assert there["ratio"] * back["ratio"] == pytest.approx(1, rel=1e-12)
    if there["ratio_low"] is not None:
        assert there["ratio_low"] * back["ratio_high"] == pytest.approx(1, rel=1e-12)
        assert there["ratio_high"] * back["ratio_low"] == pytest.approx(1, rel=1e-12)
    assert there["larger"] + back["larger"] == pytest.approx(1 - np.mean(np.equal(a, b)))
    assert (there["median_a"], there["median_b"]) == (back["median_b"], back["median_a"])


@given(POSITIVE, st.sampled_from([2.0**-20, 0.5, 2.0, 2.0**33]))
def test_the_ratio_scales_with_b(pairs: list[tuple[float, float]], factor: float):
    a, b = zip(*pairs, strict=True)

    plain, scaled = compared(a, b), compared(a, [factor * each for each in b])

    assert scaled["ratio"] == pytest.approx(factor * plain["ratio"], rel=1e-12)
    for end in ("ratio_low", "ratio_high"):
        assert scaled[end] == (None if plain[end] is None else factor * plain[end])  # powers of two do not round


@given(st.lists(st.floats(allow_subnormal=False), min_size=1, max_size=20))
def test_any_values_against_themselves_are_equal(values: list[float]):
    row = compared(values, values)

    usable = sum(math.isfinite(value) and value != 0 for value in values)
    assert row["left_out"] == len(values) - usable
    assert row["ratio"] == (1 if usable else None)
    assert row["larger"] in (0, None)  # None: nothing but nan


def test_the_interval_is_that_of_the_median(rng: np.random.Generator):
    a, b = rng.lognormal(size=(2, 40))

    row = compared(list(a), list(b))

    low, high = median_ranks(40) or (0, 0)
    ratios = np.sort(b / a)
    assert (row["ratio_low"], row["ratio_high"]) == (ratios[low], ratios[high])
    assert row["ratio"] == pytest.approx(math.exp(np.median(np.log(ratios))), rel=1e-14)


# ---------------------------------------------------------------------------------------------- which cells are paired


def matched(table: pl.DataFrame) -> set[tuple[str, str]]:
    """The design and the depth, e.g. plain-6, of both cells of every pair."""
    pairs = table.select(pl.col("cell_a", "cell_b").str.replace("-[0-9a-f]+$", "")).unique()
    return set(pairs.rows())


def test_readings_against_themselves_pair_every_cell_with_itself():
    both = flow(designs=["plain"]) + flow(designs=["plain"], init="lecun")  # equal in all factors, but not one cell

    table = compare(both, both)

    assert table["cell_a"].to_list() == table["cell_b"].to_list()
    assert set(table["cell_a"]) == set(both.cells["cell"])
    assert set(table["ratio"].drop_nulls()) == {1.0}


def test_a_cell_alone_is_compared_with_whatever_the_other_holds():
    table = compare(flow(designs=["plain"]), flow(designs=["residual"], depth=10))

    assert matched(table) == {("plain-6", "residual-10")}


def test_cells_are_matched_by_their_factors():
    a, b = (flow(designs=["residual", "plain"], init=init) for init in ("he", "lecun"))

    assert matched(compare(a, b)) == {("plain-6", "plain-6"), ("residual-6", "residual-6")}


@pytest.mark.parametrize("changed", [{"norm": "layer"}, {"batch": 4}, {"dtype": "float32"}, {"cotangent": "ones"}])
def test_where_factors_differ_design_depth_and_width_decide(changed: dict[str, Any]):
    table = compare(flow(designs=["residual", "plain"]), flow(designs=["residual", "plain", "twin"], **changed))

    assert matched(table) == {("plain-6", "plain-6"), ("residual-6", "residual-6")}


def test_a_cell_that_agrees_in_all_factors_goes_before_one_that_does_not():
    many = flow(designs=["plain"]) + flow(designs=["plain"], batch=4)
    other = flow(designs=["plain"], init="lecun") + flow(designs=["plain"], batch=4, init="lecun")

    table = compare(many, other)

    batches = {cell: batch for cell, batch in [*many.cells.select("cell", "batch").rows()]} | dict(
        other.cells.select("cell", "batch").rows()
    )
    assert table.select("cell_a", "cell_b").unique().height == 2
    assert all(batches[a] == batches[b] for a, b in table.select("cell_a", "cell_b").rows())


def test_a_missing_factor_matches_a_missing_factor():
    def two(design: str | None) -> Readings:
        return readings_of({0: 1.0}, cell="one", design=design) + readings_of({0: 2.0}, cell=f"{design}", design="x")

    assert compare(two(None), two(None)).height == 2


def test_rows_are_in_order_of_depth_in_every_cell():
    table = compare(flow(), flow(init="lecun"))

    for cell, part in table.filter(quantity="forward_gain").group_by("cell_a"):
        sites = flow().sites.filter(cell=cell[0]).sort("order")["site"].to_list()
        assert part["site"].to_list() == sites[:-1]  # all but the network as a whole


# ------------------------------------------------------------------------------------------------------------- errors


def test_no_seed_in_common():
    with pytest.raises(InputError, match=r"no reading in common: seeds 0 to 1 against 5 to 5\. Measure the same seeds"):
        compare(readings_of({0: 1.0, 1: 1.0}), readings_of({5: 1.0}))


def test_no_quantity_in_common():
    with pytest.raises(InputError, match="no reading in common"):
        compare(readings_of({0: 1.0}), readings_of({0: 1.0}, quantity="another"))


def test_no_cell_in_common():
    a = flow(designs=["plain", "residual"])

    with pytest.raises(InputError, match=r"no cells match: plain-6-\w+, residual-6-\w+ against twin-6-\w+"):
        compare(a, flow(designs=["twin"]))


def test_nothing_to_compare():
    empty = Readings.concat([])

    with pytest.raises(InputError, match="no cells match"):
        compare(empty, empty)
