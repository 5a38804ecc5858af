"""Readings: what they must be, how they survive the disk, how they are parted and joined."""

from __future__ import annotations

import errno
import fnmatch
import io
import json
import math
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipscope import readings, tables
from skipscope.errors import InputError
from skipscope.readings import CELLS, KEY, ROWS, SITES, STATUSES, Readings

ODD_FLOATS = [0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, -2.2e-308, 1.7976931348623157e308, 0.1]


def cell_row(cell: str, **factors: Any) -> dict[str, Any]:
    usual = {
        "spec": '{"width": 16}',
        "study": "gradient flow",
        "design": "plain",
        "depth": 10,
        "width": 16,
        "batch": 1,
        "cotangent": "ones",
        "gain": "1",
        "norm": "none",
        "data": "gaussian",
        "edit": "",
        "dtype": "float64",
    }
    return {"cell": cell, **usual, **factors}


def site_row(cell: str, site: str, order: int, status: str = "measured") -> dict[str, Any]:
    return {
        "cell": cell,
        "site": site,
        "order": order,
        "depth": order,
        "kind": "layer",
        "name": f"affine at {site}",
        "activation": "relu",
        "block": 0,
        "tied_to": "",
        "status": status,
    }


def frame(rows: list[dict[str, Any]], schema: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=schema, orient="row")


def small(scale: float = 1.0, seeds: int = 3) -> Readings:
    """Two cells of three sites, of which one is frozen; two quantities at the two others."""
    cells = [cell_row("p"), cell_row("r", design="residual", depth=20)]
    places = [("stem", "measured"), ("stage1.block1", "frozen"), ("head", "measured")]
    sites = [site_row(cell, site, order, status) for cell in "pr" for order, (site, status) in enumerate(places)]
    rows = [
        dict(zip(ROWS, (cell, seed, 0, site, 0, quantity, scale * (seed + order)), strict=True))
        for cell in "pr"
        for seed in range(seeds)
        for order, site in enumerate(["stem", "head"])
        for quantity in ("activation norm", "gradient norm")
    ]
    return Readings(frame(rows, ROWS), frame(cells, CELLS), frame(sites, SITES), {"version": "1"})


def replaced(base: Readings, **tables: Any) -> Readings:
    return Readings(**{"rows": base.rows, "cells": base.cells, "sites": base.sites, "meta": base.meta, **tables})


def bits(values: pl.Series) -> list[bytes]:
    return [struct.pack("<d", value) for value in values]


def shuffled(base: Readings, seed: int) -> Readings:
    """The same readings, every table in another order and in several chunks."""
    tables = {}
    for name in ("rows", "cells", "sites"):
        table = getattr(base, name).sample(fraction=1, shuffle=True, seed=seed)
        columns = sorted(table.columns, reverse=bool(seed % 2))
        half = table.height // 2
        tables[name] = pl.concat([table[:half], table[half:]], rechunk=False).select(columns)
    return Readings(**tables, meta=dict(reversed(list(base.meta.items()))))


# ---------------------------------------------------------------------------------------------- generated readings

texts = st.text(max_size=6)
floats = st.floats() | st.sampled_from(ODD_FLOATS)
whole = st.integers(-(2**63), 2**63 - 1)
extras = {
    "noise": (pl.Float64, st.none() | floats),
    "augmented": (pl.Boolean, st.none() | st.booleans()),
    "order": (pl.String, st.none() | texts),  # a column of sites as well: factors have a name space of their own
    "patience": (pl.Int64, st.none() | whole),
}


@st.composite
def many_readings(draw: st.DrawFn) -> Readings:
    """Readings of up to 3 cells with odd names and numbers, with or without further factors."""
    names = draw(st.lists(texts, max_size=3, unique=True))
    added = draw(st.sets(st.sampled_from(sorted(extras))))
    cells, sites, rows = [], [], []
    for cell in names:
        factors = {name: draw(extras[name][1]) for name in added}
        cells.append(cell_row(cell, depth=draw(st.none() | whole), design=draw(st.none() | texts), **factors))
        places = draw(st.lists(texts, max_size=3, unique=True))
        for site in places:
            sites.append(site_row(cell, site, draw(st.integers(0, 2)), draw(st.sampled_from(STATUSES))))
        if places:
            keys = st.tuples(whole, st.integers(0, 2), st.sampled_from(places), st.integers(0, 1), texts)
            rows += [(cell, *key, draw(floats)) for key in draw(st.lists(keys, max_size=4, unique=True))]
    return Readings(
        frame([dict(zip(ROWS, row, strict=True)) for row in rows], ROWS),
        frame(cells, {**CELLS, **{name: extras[name][0] for name in added}}),
        frame(sites, SITES),
        draw(st.dictionaries(texts, texts, max_size=2)),
    )


@st.composite
def three_parts(draw: st.DrawFn) -> tuple[Readings, Readings, Readings]:
    """Parts of the same readings, which overlap but never disagree, except in status and meta."""
    base = draw(many_readings())
    parts = []
    for _ in range(3):
        kept = draw(st.lists(st.booleans(), min_size=len(base), max_size=len(base)))
        sites = base.sites.with_columns(
            pl.Series("status", [draw(st.sampled_from(STATUSES)) for _ in range(base.sites.height)], pl.String)
        )
        meta = draw(st.dictionaries(st.sampled_from("ab"), st.sampled_from(["1", "2", "2; 1", "1; 2"])))
        parts.append(Readings(base.rows.filter(pl.Series(kept, dtype=pl.Boolean)), base.cells, sites, meta))
    return parts[0], parts[1], parts[2]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readings") / "all.parquet"


# --------------------------------------------------------------------------------------------------- what they must be


def test_columns_come_in_one_order_and_further_factors_last() -> None:
    base = small()
    cells = base.cells.with_columns(zeal=pl.lit(1.5), augmented=pl.lit(True)).select(pl.all().reverse())
    made = replaced(base, cells=cells.select(sorted(cells.columns)), rows=base.rows.select(sorted(ROWS)))
    assert made.rows.columns == list(ROWS)
    assert made.cells.columns == [*CELLS, "augmented", "zeal"]


@pytest.mark.parametrize("table", ["rows", "cells", "sites"])
def test_a_column_that_is_missing_or_of_another_type_is_named(table: str) -> None:
    base = small()
    for name in getattr(base, table).columns:
        with pytest.raises(InputError, match=rf"^{table} lacks the column '{name}' \("):
            replaced(base, **{table: getattr(base, table).drop(name)})
        wrong = getattr(base, table).with_columns(pl.lit(b"x").alias(name))
        with pytest.raises(InputError, match=rf"^column '{name}' of {table} must be \w+; got Binary. Cast it"):
            replaced(base, **{table: wrong})


@pytest.mark.parametrize("name", ROWS)
def test_no_column_of_rows_may_have_nulls(name: str) -> None:
    base = small()
    rows = base.rows.with_columns(pl.when(pl.int_range(pl.len()) == 1).then(None).otherwise(pl.col(name)).alias(name))
    with pytest.raises(InputError, match=f"^column '{name}' of rows has 1 null; every row needs a value"):
        replaced(base, rows=rows)


def test_factors_may_be_null_but_the_name_of_the_cell_may_not() -> None:
    base = small()
    nothing = base.cells.with_columns(
        pl.lit(None, dtype).alias(name) for name, dtype in CELLS.items() if name != "cell"
    )
    assert replaced(base, cells=nothing).cells["depth"].null_count() == 2
    with pytest.raises(InputError, match=r"^column 'cell' of cells has 2 nulls"):
        replaced(base, cells=base.cells.with_columns(cell=pl.lit(None, pl.String)))


def wrong_tables() -> dict[str, tuple[Callable[[Readings], Any], str]]:
    return {
        "no frame": (
            lambda base: replaced(base, rows=[1]),
            r"rows must be a Polars DataFrame; got list\.",
        ),
        "lazy": (
            lambda base: replaced(base, cells=base.cells.lazy()),
            r"cells must be a Polars DataFrame; got LazyFrame\.",
        ),
        "key of rows": (
            lambda base: replaced(base, rows=pl.concat([base.rows, base.rows[4:5]])),
            "rows has cell='p', seed=1, step=0, site='stem', call=0, quantity='activation norm' more than once",
        ),
        "key of cells": (
            lambda base: replaced(base, cells=pl.concat([base.cells, base.cells[:1]])),
            "cells has cell='p' more than once",
        ),
        "key of sites": (
            lambda base: replaced(base, sites=pl.concat([base.sites, base.sites[2:3]])),
            "sites has cell='p', site='head' more than once",
        ),
        "undescribed cell": (
            lambda base: replaced(base, cells=base.cells[:1]),
            "sites has cell='r', which cells does not describe. Add a row there",
        ),
        "undescribed site": (
            lambda base: replaced(base, sites=base.sites.filter(pl.col("site") != "head")),
            "rows has cell='p', site='head', which sites does not describe. Add a row there",
        ),
        "status": (
            lambda base: replaced(base, sites=base.sites.with_columns(status=pl.lit("frozn"))),
            "column 'status' of sites must be one of 'measured', .*; got 'frozn'. Did you mean 'frozen'",
        ),
        "extra column": (
            lambda base: replaced(base, rows=base.rows.with_columns(unit=pl.lit("nats"))),
            "rows has an unknown column 'unit': only cells may have more columns",
        ),
        "taken by rows": (
            lambda base: replaced(base, cells=base.cells.with_columns(seed=pl.lit(1))),
            "column 'seed' of cells must be called otherwise: the name is taken",
        ),
        "taken by the wide table": (
            lambda base: replaced(base, cells=base.cells.with_columns(site_depth=pl.lit(1))),
            "column 'site_depth' of cells must be called otherwise: the name is taken",
        ),
        "type of a factor": (
            lambda base: replaced(base, cells=base.cells.with_columns(noise=pl.lit(1, pl.Int8))),
            "column 'noise' of cells must be one of String, Int64, Float64, Boolean; got Int8. Cast it",
        ),
        "meta": (lambda base: replaced(base, meta="text"), r"meta must be a mapping of text to text; got str\."),
        "value of meta": (
            lambda base: replaced(base, meta={"seeds": 3}),
            "meta must map text to text; got 'seeds': 3. Use",
        ),
    }


@pytest.mark.parametrize("case", wrong_tables())
def test_wrong_tables_are_refused_in_one_line(case: str) -> None:
    make, message = wrong_tables()[case]
    with pytest.raises(InputError, match=f"^{message}") as caught:
        make(small())
    assert "\n" not in str(caught.value)


def test_they_do_not_change() -> None:
    base = small()
    with pytest.raises(AttributeError):
        base.rows = base.rows[:1]
    meta = {"a": "1"}
    kept = replaced(base, meta=meta)
    meta["a"] = "2"
    assert kept.meta == {"a": "1"}


def test_they_travel_between_processes() -> None:
    base = small(math.inf)
    copy = pickle.loads(pickle.dumps(base))
    assert copy.equals(base)
    assert copy.meta == base.meta


# --------------------------------------------------------------------------------------------------------- on disk


@given(many_readings())
def test_every_bit_survives_the_disk(path: Path, base: Readings) -> None:
    base.save(path, overwrite=True)
    loaded = Readings.load(path)
    assert loaded.equals(base)
    assert loaded.meta == base.meta
    assert loaded.cells.schema == base.cells.schema
    order = [*KEY, "value"]
    assert bits(loaded.rows.sort(order)["value"]) == bits(base.rows.sort(order)["value"])
    if "noise" in base.cells.columns:
        assert loaded.cells.sort("cell")["noise"].equals(base.cells.sort("cell")["noise"], null_equal=True)


@pytest.mark.parametrize("value", ODD_FLOATS)
def test_odd_numbers_survive_the_disk(tmp_path: Path, value: float) -> None:
    base = replaced(small(value), cells=small().cells.with_columns(noise=pl.lit(value)))
    base = replaced(base, rows=base.rows.with_columns(value=pl.lit(value)))
    base.save(tmp_path / "a.parquet")
    loaded = Readings.load(tmp_path / "a.parquet")
    assert bits(loaded.rows["value"]) == [struct.pack("<d", value)] * len(base)
    assert bits(loaded.cells["noise"]) == [struct.pack("<d", value)] * 2


@given(many_readings(), st.integers(0, 1000))
def test_equal_readings_give_equal_files(path: Path, base: Readings, seed: int) -> None:
    base.save(path, overwrite=True)
    whole_file = path.read_bytes()
    shuffled(base, seed).save(path, overwrite=True)
    assert path.read_bytes() == whole_file


def test_the_number_of_threads_and_of_parts_leaves_no_trace(tmp_path: Path) -> None:
    program = """
import sys
import polars as pl
from skipscope.readings import Readings

base = Readings.load(sys.argv[1])
parts = [base.select(seed=range(first, len(base) // 8, 7)) for first in range(7)]
Readings.concat(parts[::-1]).save(sys.argv[2])
print(pl.thread_pool_size())
"""
    small(seeds=5000).save(tmp_path / "whole.parquet")
    for threads in ("1", "3"):
        joined = tmp_path / f"joined{threads}.parquet"
        command = [sys.executable, "-c", program, str(tmp_path / "whole.parquet"), str(joined)]
        environment = {**os.environ, "POLARS_MAX_THREADS": threads}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
        assert done.stdout.strip() == threads
        assert joined.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_rows_are_saved_in_order_of_depth(tmp_path: Path) -> None:
    shuffled(small(), 1).save(tmp_path / "a.parquet")
    rows = Readings.load(tmp_path / "a.parquet").rows
    assert rows["site"][:4].to_list() == ["stem", "stem", "head", "head"]  # the alphabet has them the other way
    assert rows["cell"].is_sorted()
    assert rows.filter(cell="p")["seed"].is_sorted()


def test_any_parquet_reader_can_open_the_file(tmp_path: Path) -> None:
    small().save(tmp_path / "a.parquet")
    assert pl.read_parquet(tmp_path / "a.parquet").schema == pl.Schema(ROWS)
    noted = pl.read_parquet_metadata(tmp_path / "a.parquet")
    assert noted["format"] == "skipscope readings"
    assert noted["schema version"] == "1"
    assert json.loads(noted["cells"])["design"] == ["String", ["plain", "residual"]]
    assert json.loads(noted["meta"]) == {"version": "1"}


def test_empty_readings_are_legal(tmp_path: Path) -> None:
    nothing = Readings.concat([])
    nothing.save(tmp_path / "none.parquet")
    assert Readings.load(tmp_path / "none.parquet").equals(nothing)
    assert len(nothing) == 0
    assert repr(nothing) == "<Readings: none>"
    assert "0 readings" in nothing._repr_html_()
    assert nothing.wide().is_empty()
    without_rows = replaced(small(), rows=small().rows.clear())
    without_rows.save(tmp_path / "rowless.parquet")
    assert Readings.load(tmp_path / "rowless.parquet").equals(without_rows)
    assert (nothing + small()).equals(small())


def test_a_name_may_look_like_the_checksum(tmp_path: Path) -> None:
    name = "\x18\x12skipscope checksum\x18\x0800000000\x00"
    base = small()
    tables = {
        table: getattr(base, table).with_columns(cell=name + pl.col("cell")) for table in ("rows", "cells", "sites")
    }
    replaced(base, **tables, meta={name: name}).save(tmp_path / "a.parquet")
    assert Readings.load(tmp_path / "a.parquet").equals(replaced(base, **tables))


# -------------------------------------------------------------------------------------------------- refusing to save


def test_what_must_not_be_overwritten_is_not(tmp_path: Path) -> None:
    target = tmp_path / "a.parquet"
    small().save(target)
    with pytest.raises(InputError, match=r"a\.parquet': it exists; choose another name, or pass overwrite=True"):
        small(2.0).save(target)
    assert Readings.load(target).equals(small())
    small(2.0).save(target, overwrite=True)
    assert Readings.load(target).equals(small(2.0))


@pytest.mark.parametrize("name", ["a.csv", "a", "a.parquet.gz", "a.PARQUET"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"^path must end in '\.parquet'; got '.*{name}'\. Use '.*\.parquet', or"):
        small().save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(InputError, match=r"folder\.parquet': it is a directory; give the name of a file"):
        small().save(tmp_path / "folder.parquet")
    with pytest.raises(InputError, match=r"there is no directory '.*missing'; create it first"):
        small().save(tmp_path / "missing" / "a.parquet")
    with pytest.raises(InputError, match=r"path must be a file whose name ends in '\.parquet'; got '\.'"):
        small().save("")
    with pytest.raises(InputError, match="path must be a string or a Path; got 3"):
        small().save(3)  # type: ignore[arg-type]


def test_a_full_disk_costs_neither_the_old_file_nor_the_readings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.parquet"
    small().save(target)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    later = small(2.0)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="no space is left on the disk; free some space and try again"):
            later.save(target, overwrite=True)
    assert list(tmp_path.iterdir()) == [target]
    assert Readings.load(target).equals(small())
    later.save(target, overwrite=True)
    assert Readings.load(target).equals(later)


# -------------------------------------------------------------------------------------------------- refusing to load


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    target = tmp_path_factory.mktemp("saved") / "a.parquet"
    small().save(target)
    return target.read_bytes()


def load_bytes(monkeypatch: pytest.MonkeyPatch, data: bytes) -> Readings:
    monkeypatch.setattr(readings, "read_whole", lambda path: data)
    return Readings.load("a.parquet")


def test_a_file_cut_off_anywhere_is_refused(saved: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for length in range(1, len(saved)):
        with pytest.raises(InputError, match=r"^'a\.parquet' is (cut off|damaged|not a Parquet file)"):
            load_bytes(monkeypatch, saved[:length])


def test_a_flipped_byte_anywhere_is_refused(saved: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(len(saved)):
        damaged = bytearray(saved)
        damaged[index] ^= 1 << index % 8
        with pytest.raises(InputError, match="damaged"):
            load_bytes(monkeypatch, bytes(damaged))
    assert load_bytes(monkeypatch, saved).equals(small())


@given(st.data())
@settings(max_examples=50)
def test_bytes_added_lost_or_moved_are_refused(saved: bytes, data: st.DataObject) -> None:
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(saved))] * 2)))
    changed = saved[:start] + data.draw(st.binary(max_size=20)) + saved[stop:]
    with pytest.MonkeyPatch.context() as monkeypatch:
        if changed == saved:
            assert load_bytes(monkeypatch, changed).equals(small())
        else:
            with pytest.raises(InputError):
                load_bytes(monkeypatch, changed)


def foreign_parquet() -> bytes:
    stream = io.BytesIO()
    small().rows.write_parquet(stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty: the readings were not saved, or a copy failed"),
        (b"hello\n", "is not a Parquet file: load reads what Readings.save wrote"),
        (b'{"rows": []}', "is not a Parquet file: load reads what Readings.save wrote"),
        (b"PAR1", "is cut off or damaged: its end is missing"),
        (
            foreign_parquet(),
            "is a Parquet file, but none that skipscope saved .*; open others with polars.read_parquet",
        ),
        (foreign_parquet()[:-3], "is cut off or damaged: its end is missing"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(InputError, match=rf"^'.*a\.parquet' {message}") as caught:
        Readings.load(tmp_path / "a.parquet")
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read '.*none\.parquet': there is no such file; check the name"):
        Readings.load(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="it is a directory; give the name of a file"):
        Readings.load(tmp_path)


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(readings, "SCHEMA_VERSION", 2)
        small().save(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="has version 2 of the format, and this skipscope reads version 1: use"):
        Readings.load(tmp_path / "a.parquet")


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other:
        other.setattr(readings, "_FORMAT", "skipscope checkpoints")
        small().save(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"is not a file of readings: load reads what Readings\.save wrote"):
        Readings.load(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"cell": 1}', '{"cell": ["Int8", [1]]}', '{"cell": ["Int64", ["a"]]}']
)
def test_tables_that_make_no_sense_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with monkeypatch.context() as wrong:
        wrong.setattr(tables, "to_json", lambda table: text)
        small().save(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet' does not hold readings as skipscope saves them: ") as caught:
        Readings.load(tmp_path / "a.parquet")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- selecting


def test_select_by_rows_and_by_factors() -> None:
    base = small()
    assert base.select() is base
    assert len(base.select(design="plain")) == len(base) // 2
    assert base.select(depth=20).cells["cell"].to_list() == ["r"]
    assert base.select(depth=[10, 20]).equals(base)
    part = base.select(cell="p", seed=range(2), quantity=["gradient norm"], site="head", step=0, call=0)
    assert part.rows.rows() == [("p", seed, 0, "head", 0, "gradient norm", seed + 1.0) for seed in (0, 1)]
    assert part.cells["cell"].to_list() == ["p"]
    assert part.sites["site"].to_list() == ["head"]
    assert part.meta == base.meta


def test_select_takes_what_numpy_and_polars_hold() -> None:
    seeds = small().rows["seed"].unique()
    assert small().select(seed=seeds).equals(small())
    assert small().select(seed=seeds.to_numpy()).equals(small())
    assert small().select(seed=seeds.to_numpy()[1]).equals(small().select(seed=1))


def test_select_takes_shell_patterns_of_sites_only() -> None:
    base = small()
    assert base.select(site="st*").rows["site"].unique().to_list() == ["stem"]
    assert base.select(site=["*ea?", "[s]tem"]).rows["site"].n_unique() == 2
    with pytest.raises(InputError, match=r"site='HEAD' matches nothing: there are 'head', 'stage1\.block1', 'stem'\."):
        base.select(site="HEAD")
    with pytest.raises(InputError, match=r"quantity='\* norm' matches nothing"):
        base.select(quantity="* norm")


def test_sites_without_rows_stay_where_their_status_says_why() -> None:
    base = small()
    assert base.select(quantity="gradient norm").sites.filter(cell="p")["site"].to_list() == [
        "stem",
        "stage1.block1",
        "head",
    ]
    assert base.select(site="stem").sites.filter(cell="p")["site"].to_list() == ["stem"]
    fewer = replaced(base, rows=base.rows.filter((pl.col("site") == "stem") | (pl.col("seed") == 0)))
    assert fewer.select(seed=1).sites.filter(cell="p")["site"].to_list() == ["stem", "stage1.block1"]


def test_filters_that_exclude_each_other_give_empty_readings() -> None:
    nothing = small().select(cell="p", design="residual")
    assert (len(nothing), nothing.cells.height, nothing.sites.height) == (0, 0, 0)


def test_a_filter_takes_nulls_and_factors_of_every_type() -> None:
    base = small()
    cells = base.cells.with_columns(
        noise=pl.Series([0.5, None]), augmented=pl.Series([True, False]), order=pl.Series(["after-add", None])
    )
    base = replaced(base, cells=cells)
    for filters, cell in (
        ({"noise": 0.5}, "p"),
        ({"noise": None}, "r"),
        ({"augmented": True}, "p"),
        ({"augmented": False}, "r"),
        ({"order": "after-add"}, "p"),
        ({"order": [None]}, "r"),
    ):
        assert base.select(**filters).cells["cell"].to_list() == [cell]
    with pytest.raises(InputError, match=r"seed=True matches nothing: there are 0, 1, 2\."):
        base.select(seed=True)
    with pytest.raises(InputError, match=r"augmented=1 matches nothing: there are False, True\."):
        base.select(augmented=1)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (
            {"desing": "plain"},
            "filter of select must be one of 'cell', 'seed', .*; got 'desing'. Did you mean 'design'",
        ),
        ({"spec": "{}"}, "filter of select must be one of 'cell', .*; got 'spec'"),
        ({"value": 1.0}, "filter of select must be one of 'cell', .*; got 'value'"),
        ({"design": "plian"}, "design='plian' matches nothing: there are 'plain', 'residual'. Did you mean 'plain'"),
        ({"depth": [10, 99]}, r"depth=99 matches nothing: there are 10, 20\."),
        ({"depth": "10"}, r"depth='10' matches nothing: there are 10, 20\."),
        ({"step": 7}, r"step=7 matches nothing: there is 0\."),
        ({"seed": 200}, r"seed=200 matches nothing: there are 0, 1, 2, 3, 4, 5, 6 \.\.\. 99\."),
        ({"seed": [[1]]}, r"seed=\[1\] matches nothing"),
        ({"seed": []}, r"seed is empty: give at least one of the values there are \(0, 1"),
    ],
)
def test_filters_that_match_nothing_are_refused(filters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}") as caught:
        small(seeds=100).select(**filters)
    assert "\n" not in str(caught.value)


def test_nothing_can_be_selected_from_nothing() -> None:
    with pytest.raises(InputError, match=r"^seed=0 matches nothing: there are no reading"):
        Readings.concat([]).select(seed=0)


@given(many_readings(), st.data())
def test_select_keeps_just_what_matches(base: Readings, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["cell", "seed", "step", "site", "call", "quantity", "design", "depth"]))
    factors = {row["cell"]: row for row in base.cells.rows(named=True)}
    known = [factors[row["cell"]].get(name, row.get(name)) for row in base.rows.rows(named=True)]
    if not known:
        return
    wanted = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
    part = base.select(**{name: wanted})
    expected = [row for row, value in zip(base.rows.rows(), known, strict=True) if value in wanted]
    assert [str(row) for row in part.rows.rows()] == [str(row) for row in expected]  # str: NaN differs from itself
    assert set(part.cells["cell"]) == set(part.rows["cell"])
    measured = part.sites.filter(status="measured").select("cell", "site").rows()
    assert set(measured) <= set(part.rows.select("cell", "site").rows())


@given(st.lists(st.text("ab.*?[]!", min_size=1, max_size=4), min_size=1, max_size=5, unique=True), st.data())
def test_site_patterns_are_those_of_the_shell(names: list[str], data: st.DataObject) -> None:
    sites = frame([site_row("p", name, order) for order, name in enumerate(names)], SITES)
    rows = frame([dict(zip(ROWS, ("p", 0, 0, name, 0, "q", 1.0), strict=True)) for name in names], ROWS)
    base = Readings(rows, frame([cell_row("p")], CELLS), sites)
    pattern = data.draw(st.text("ab.*?[]!", min_size=1, max_size=4))
    # A name that is there means itself, even where it could be read as a pattern.
    expected = [pattern] if pattern in names else [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if expected:
        assert base.select(site=pattern).rows["site"].to_list() == expected
    else:
        with pytest.raises(InputError, match="matches nothing"):
            base.select(site=pattern)


# -------------------------------------------------------------------------------------------------------------- unions


@given(three_parts())
def test_the_union_is_commutative_associative_and_idempotent(parts: tuple[Readings, Readings, Readings]) -> None:
    a, b, c = parts
    for one, other in ((a + b, b + a), ((a + b) + c, a + (b + c)), (a + a, a), (Readings.concat(parts), a + b + c)):
        assert one.equals(other)
        assert one.meta == other.meta
    assert set((a + b).rows.select(KEY).rows()) == set(a.rows.select(KEY).rows()) | set(b.rows.select(KEY).rows())


@given(many_readings(), st.integers(1, 4))
def test_parts_give_back_the_whole(base: Readings, count: int) -> None:
    part_of = pl.int_range(pl.len()) % count
    parts = [replaced(base, rows=base.rows.filter(part_of == index)) for index in range(count)]
    assert Readings.concat(iter(parts)).equals(base)


def test_hundreds_of_parts_are_joined_at_once() -> None:
    whole_thing = small(seeds=300)
    parts = [replaced(whole_thing, rows=rows) for rows in whole_thing.rows.partition_by("seed")]
    assert len(parts) == 300
    assert Readings.concat(parts).equals(whole_thing)


@pytest.mark.parametrize(("one", "other"), [(1.0, 2.0), (0.0, -0.0), (math.nan, 1.0), (1.0, math.nextafter(1.0, 2.0))])
def test_two_values_of_one_key_are_refused(one: float, other: float) -> None:
    base = small()
    changed = pl.when((pl.col("seed") == 1) & (pl.col("cell") == "r"))
    first, second = (
        replaced(
            base, rows=base.rows.with_columns(changed.then(pl.lit(value)).otherwise(pl.col("value")).alias("value"))
        )
        for value in (one, other)
    )
    with pytest.raises(InputError) as caught:
        first + second
    key = "cell='r', seed=1, step=0, site='head', call=0, quantity='activation norm'"
    assert str(caught.value).startswith(f"rows with {key} disagree: value is ")
    assert repr(one) in str(caught.value)
    assert repr(other) in str(caught.value)
    with pytest.raises(InputError) as reverse:
        second + first
    assert str(reverse.value) == str(caught.value)


def test_nan_agrees_with_nan_whatever_its_bits() -> None:
    (negative,) = struct.unpack("<d", struct.pack("<Q", 0xFFF8_0000_0000_0001))  # as some processors make it
    base = small()
    one, other = (replaced(base, rows=base.rows.with_columns(value=pl.lit(nan))) for nan in (math.nan, negative))
    assert one.equals(other)
    assert (one + other).equals(one)
    assert bits(other.rows["value"]) == bits(one.rows["value"])


def test_two_descriptions_of_one_cell_are_refused() -> None:
    base = small()
    other = replaced(base, cells=base.cells.with_columns(width=pl.lit(32, pl.Int64)))
    with pytest.raises(InputError, match=r"^cells with cell='p' disagree: width is 16 and 32\. Keep one of the two"):
        base + other
    noisy = replaced(base, cells=base.cells.with_columns(noise=pl.lit(-0.0)))
    with pytest.raises(InputError, match=r"^cells with cell='p' disagree: noise is -0\.0 and None"):
        base + noisy
    noiseless = replaced(base, cells=base.cells.with_columns(noise=pl.lit(0.0)))
    with pytest.raises(InputError, match=r"^cells with cell='p' disagree: noise is -0\.0 and 0\.0"):
        noiseless + noisy


def test_two_descriptions_of_one_site_are_refused() -> None:
    base = small()
    with pytest.raises(InputError, match=r"^sites with cell='p', site='head' disagree: kind is 'input' and 'layer'"):
        base + replaced(base, sites=base.sites.with_columns(kind=pl.lit("input")))


def test_a_site_measured_once_was_measured() -> None:
    base = small()
    frozen, measured = (replaced(base, sites=base.sites.with_columns(status=pl.lit(s))) for s in ("frozen", "measured"))
    assert (frozen + measured).equals(measured)
    assert (measured + frozen).equals(measured)


def test_a_factor_that_one_part_lacks_is_null_there() -> None:
    base = small()
    noisy = base.select(cell="p")
    noisy = replaced(noisy, cells=noisy.cells.with_columns(noise=pl.lit(0.5)))
    joined = base.select(cell="r") + noisy
    assert joined.cells.sort("cell").select("cell", "noise").rows() == [("p", 0.5), ("r", None)]


def test_a_factor_of_two_types_is_refused() -> None:
    one, other = (replaced(small(), cells=small().cells.with_columns(noise=pl.lit(noise))) for noise in (0.5, "0.5"))
    with pytest.raises(InputError, match=r"^column 'noise' of cells is Float64 in one part and String in another"):
        one + other


def test_notes_that_differ_are_kept_side_by_side() -> None:
    metas = [{"a": "1", "b": "x"}, {"a": "2", "c": "z; y"}, {"a": "1"}, {"c": "z; y"}]
    joined = Readings.concat(replaced(small(), meta=meta) for meta in metas)
    assert joined.meta == {"a": "1; 2", "b": "x", "c": "z; y"}
    assert (joined + replaced(small(), meta={"a": "2"})).meta["a"] == "1; 2"


def test_only_readings_can_be_joined() -> None:
    with pytest.raises(TypeError):
        small() + 1
    with pytest.raises(InputError, match=r"^parts must be Readings; got str\."):
        Readings.concat("ab")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ equality


@given(many_readings(), st.integers(0, 1000))
def test_order_does_not_matter_for_equality(base: Readings, seed: int) -> None:
    assert base.equals(shuffled(base, seed))


def test_every_table_counts_for_equality() -> None:
    base = small()
    assert base.equals(replaced(base, meta={}))
    assert not base.equals(replaced(base, rows=base.rows[1:]))
    assert not replaced(base, rows=base.rows[1:]).equals(base)
    assert not base.equals(small(2.0))
    assert not base.equals(replaced(base, cells=base.cells.with_columns(edit=pl.lit("lesion"))))
    assert not base.equals(replaced(base, cells=base.cells.with_columns(noise=pl.lit(None, pl.Float64))))
    assert not base.equals(replaced(base, sites=base.sites.with_columns(depth=pl.col("depth") + 1)))
    zero, minus = (replaced(base, rows=base.rows.with_columns(value=pl.lit(value))) for value in (0.0, -0.0))
    assert not zero.equals(minus)


# ---------------------------------------------------------------------------------------------------------- for people


def test_the_wide_table_has_everything_in_one_place() -> None:
    base = replaced(small(), cells=small().cells.with_columns(order=pl.lit("after-add")))
    wide = base.wide()
    assert wide.height == len(base)
    assert wide.columns[: len(ROWS)] == list(ROWS)
    assert set(wide.columns) == {*ROWS, *CELLS, "order", *(f"site_{name}" for name in SITES)} - {
        "spec",
        "site_cell",
        "site_site",
    }
    assert wide.select(*ROWS).equals(base.rows)
    row = wide.filter(cell="r", seed=2, site="head", quantity="gradient norm").row(0, named=True)
    assert (row["design"], row["depth"], row["site_depth"], row["order"], row["value"]) == (
        "residual",
        20,
        2,
        "after-add",
        3.0,
    )


def test_pandas_gets_the_wide_table() -> None:
    pandas = pytest.importorskip("pandas")
    base = small()
    base = replaced(base, cells=base.cells.with_columns(depth=pl.Series([10, None])))
    table = base.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert list(table.columns) == base.wide().columns
    assert table["value"].tolist() == base.rows["value"].to_list()
    assert table["seed"].dtype == "int64"
    assert table["design"].tolist() == base.wide()["design"].to_list()
    assert table["depth"].isna().tolist() == [cell == "r" for cell in base.rows["cell"]]


def test_without_pandas_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError) as caught:
        small().to_pandas()
    assert str(caught.value) == "Readings.to_pandas needs pandas: pip install 'skipscope[pandas]'."


def test_repr_tells_how_much_of_what() -> None:
    assert repr(small(seeds=200)) == (
        "<Readings: 1,600 readings of 2 quantities ('activation norm', 'gradient norm') in 2 cells ('p', 'r'), "
        "200 seeds (0, 1 ... 199)>"
    )
    one = small().select(cell="p", seed=0, site="stem", quantity="gradient norm")
    assert repr(one) == "<Readings: 1 reading of 1 quantity ('gradient norm') in 1 cell ('p'), 1 seed (0)>"
    assert len(one) == 1


class Tags(HTMLParser):
    """Tags in order, the text between them, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.open.append(tag)
        assert not attrs  # no colours: the page's own suit light and dark

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_html_counts_readings_and_escapes_names() -> None:
    base = small()
    evil = "<script>alert('&')</script>"
    tables = {name: getattr(base, name).with_columns(pl.col("cell").replace("p", evil)) for name in ("cells", "sites")}
    rows = base.rows.with_columns(pl.col("cell").replace("p", evil), pl.col("quantity").replace("gradient norm", evil))
    tags = Tags(replaced(base, rows=rows[1:], **tables)._repr_html_())
    assert not tags.open
    assert "script" not in tags.seen
    assert tags.text == ["Readings: 23 readings", "cell", evil, "activation norm", evil, "6", "5", "r", "6", "6"]


def test_html_stays_small() -> None:
    cells = [f"c{number:03}" for number in range(50)]
    rows = [(cell, 0, 0, "stem", 0, f"q{number:02}", 1.0) for cell in cells for number in range(20)]
    base = Readings(
        frame([dict(zip(ROWS, row, strict=True)) for row in rows], ROWS),
        frame([cell_row(cell) for cell in cells], CELLS),
        frame([site_row(cell, "stem", 0) for cell in cells], SITES),
    )
    tags = Tags(base._repr_html_())
    assert tags.seen.count("tr") == 13
    assert tags.seen.count("td") == 12 * 8
    assert tags.text[-1] == "and 38 cells and 12 quantities more"


# ------------------------------------------------------------------------------------------- many rows, some at a time


@given(many_readings())
def test_rows_are_the_same_in_parts(base: Readings) -> None:
    assert pl.concat(base.by_kind()).sort(KEY).equals(base.rows.sort(KEY), null_equal=True)
    for cell in base.cells["cell"]:
        assert base.rows_of(cell).equals(base.rows.filter(pl.col("cell") == cell))
    assert set(base.distinct("cell", "quantity").rows()) == set(base.rows.select("cell", "quantity").rows())


def test_where_leaves_what_has_a_reading() -> None:
    found = small().where(pl.col("site") == "head", pl.col("value") > 2)

    assert found.rows.equals(small().rows.filter(pl.col("site") == "head", pl.col("value") > 2))
    assert found.sites.select("cell", "site").rows() == [("p", "head"), ("r", "head")]
    assert found.meta == small().meta
    assert found.cells.equals(small().cells)
    assert small().where(pl.col("value") < 0).cells.is_empty()


def test_the_table_of_rows_does_not_travel() -> None:
    base = small(seeds=1000)
    size = len(pickle.dumps(base))
    base.rows  # noqa: B018  # makes the table

    assert len(pickle.dumps(base)) == size
    assert base.with_meta({"a": "1"}).meta == {"a": "1"}
