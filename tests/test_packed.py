"""Packed rows: the same rows in less room, sorted and compared as numbers, or by columns where those do not suffice."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipscope import packed
from skipscope.packed import KEY, ROWS

near = st.integers(-3, 3)
far = st.sampled_from([-(2**63), -1, 0, 2**62, 2**63 - 1])
names = st.sampled_from(["", "b", "a", "é", "a\0"])


def table(keys: list[tuple[object, ...]]) -> pl.DataFrame:
    return pl.DataFrame([(*key, float(index)) for index, key in enumerate(keys)], schema=ROWS, orient="row")


def keys(whole: st.SearchStrategy[int]) -> st.SearchStrategy[list[tuple[object, ...]]]:
    return st.lists(st.tuples(names, whole, whole, names, whole, names), max_size=12)


@given(keys(near) | keys(far))
def test_packing_loses_nothing(listed: list[tuple[object, ...]]):
    assert packed.unpack(packed.pack(table(listed))).equals(table(listed))


@given(keys(near) | keys(far))
def test_rows_that_share_a_key_are_found(listed: list[tuple[object, ...]]):
    rows = table(listed)
    shared = rows.filter(rows.select(KEY).is_duplicated())

    assert packed.unpack(packed.multiple(packed.pack(rows))).equals(shared)


@given(keys(near) | keys(far), st.permutations(["", "b", "a", "é", "a\0"]))
def test_rows_are_sorted_as_texts_and_places_are(listed: list[tuple[object, ...]], order: list[str]):
    rows = table(list(dict.fromkeys(listed)))
    sites = pl.DataFrame(
        [(cell, site, order.index(site) // 2) for cell in order for site in order],
        schema={"cell": pl.String, "site": pl.String, "order": pl.Int64},
        orient="row",
    )
    expected = (
        rows.join(sites, on=["cell", "site"])
        .sort("cell", "seed", "step", "order", "site", "call", "quantity")
        .drop("order")
    )

    assert packed.unpack(packed.sorted_by_place(packed.pack(rows), sites)).equals(expected)


@given(st.lists(keys(near) | keys(far), min_size=1, max_size=4))
def test_parts_are_put_one_after_the_other(parts: list[list[tuple[object, ...]]]):
    tables = [table(each) for each in parts]

    assert packed.unpack(packed.together([packed.pack(each) for each in tables])).equals(pl.concat(tables))


@pytest.mark.parametrize("height", [0, 3, 100])
def test_slices_are_all_there_is(height: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packed, "_SLICE", 7)
    rows = table([("ab"[seed % 2], seed, 0, "cde"[seed % 3], 0, "q") for seed in range(height)])
    small = packed.pack(rows)

    assert sum(each.height for each in packed.slices(small)) == height
    assert packed.unpack(packed.kept(small, lambda some: some.filter(pl.col("seed") % 5 == 1))).equals(
        rows.filter(pl.col("seed") % 5 == 1)
    )
    places = packed.distinct(small, ("cell", "site"))
    assert places.sort(pl.all()).equals(rows.select("cell", "site").unique().sort(pl.all()))
    assert packed.multiple(small).is_empty()
    assert packed.unpack(packed.having(small, "cell", ["b", "none"])).equals(rows.filter(pl.col("cell") == "b"))


def test_a_row_takes_a_fifth_of_the_room():
    rows = table([("residual-40", seed, 0, "network", 0, "forward_growth") for seed in range(10_000)])

    # Value 8, seed 2, and 1 byte each of three texts and two whole numbers: 15 of 80 bytes.
    assert packed.pack(rows).estimated_size() == 15 * rows.height


@given(keys(near), st.integers(1, 5))
def test_groups_are_whole_and_all_there_is(listed: list[tuple[object, ...]], most: int):
    rows = table(listed)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(packed, "_SLICE", most)
        groups = [packed.unpack(each) for each in packed.grouped(packed.pack(rows), "site")]

    assert pl.concat(groups).sort("value").equals(rows)
    assert sum(each["site"].n_unique() for each in groups) == rows["site"].n_unique()
    assert all(each.height <= most or each["site"].n_unique() == 1 for each in groups)
