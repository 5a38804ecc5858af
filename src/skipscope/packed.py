"""Rows of readings, packed: what one reading takes of memory while a study collects millions of them.

As a table for people a row takes 80 bytes: three texts of 16 each, three whole numbers and a value of 8. The texts are
few, the whole numbers small. Packed, a text is its place in the sorted list of all such texts (a Polars Enum, so that
packed rows sort as the texts do), a whole number is as narrow as the column allows, and a row takes some 15 bytes.

Whatever needs the texts of many rows sees them a slice at a time. Keys are compared as one whole number of 64 bits
wherever all of a table's keys fit into that: they are then sorted in place, and nothing is hashed.

This module knows columns, not what they mean: it imports Polars and NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = [
    "KEY",
    "ROWS",
    "distinct",
    "grouped",
    "having",
    "kept",
    "multiple",
    "pack",
    "slices",
    "sorted_by_place",
    "together",
    "unpack",
]

ROWS: dict[str, type[pl.DataType]] = {
    "cell": pl.String,
    "seed": pl.Int64,
    "step": pl.Int64,
    "site": pl.String,
    "call": pl.Int64,
    "quantity": pl.String,
    "value": pl.Float64,
}
KEY = ("cell", "seed", "step", "site", "call", "quantity")

_TEXTS = [name for name, dtype in ROWS.items() if dtype == pl.String]
_WHOLE = [name for name, dtype in ROWS.items() if dtype == pl.Int64]
_PIECES = 256  # of which a table may consist
_SLICE = 1 << 14  # rows that are held unpacked at once: 1 MB


def pack(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with the columns `ROWS`, packed; their order stays."""
    texts = {name: _enum(rows[name].unique().to_list()) for name in _TEXTS}
    return rows.with_columns(pl.col(name).cast(dtype) for name, dtype in texts.items()).with_columns(
        rows[name].shrink_dtype() for name in _WHOLE
    )


def unpack(packed: pl.DataFrame) -> pl.DataFrame:
    """The rows that were packed."""
    return packed.cast(ROWS)  # type: ignore[arg-type]  # names and types


def slices(packed: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """All rows, unpacked a slice at a time."""
    return (unpack(each) for each in packed.iter_slices(_SLICE))


def having(packed: pl.DataFrame, column: str, texts: Iterable[str]) -> pl.DataFrame:
    """The packed rows with one of these texts in a column."""
    known = set(_texts(packed, column))
    wanted = pl.Series([text for text in texts if text in known], dtype=packed.schema[column])
    return packed.filter(pl.col(column).is_in(wanted.implode()))


def grouped(packed: pl.DataFrame, column: str) -> Iterator[pl.DataFrame]:
    """All packed rows, some at a time: those that share the text in a column come together."""
    texts: list[str] = []
    count = 0
    for text, rows in packed.group_by(column, maintain_order=True).len().iter_rows():
        if texts and count + rows > _SLICE:
            yield having(packed, column, texts)
            texts, count = [], 0
        texts.append(text)
        count += rows
    yield having(packed, column, texts)


def together(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Packed rows, one part after the other, as one table."""
    texts = {name: _enum({text for part in parts for text in _texts(part, name)}) for name in _TEXTS}
    alike = [part.cast(texts) for part in parts]  # type: ignore[arg-type]  # names and types
    # A copy in one piece takes as much room again; a table of very many pieces is slow.
    return pl.concat(alike, how="vertical_relaxed", rechunk=len(parts) > _PIECES)


def kept(packed: pl.DataFrame, keep: Callable[[pl.DataFrame], pl.DataFrame]) -> pl.DataFrame:
    """Those packed rows that `keep` keeps of rows (it is given them a slice at a time, with one more column)."""
    chosen = [keep(rows.with_row_index("_row", each * _SLICE))["_row"] for each, rows in enumerate(slices(packed))]
    return packed[pl.concat(chosen)] if chosen else packed


def distinct(packed: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Every combination that occurs of what is in the columns, once, unpacked."""
    found = [each.select(columns).unique() for each in packed.iter_slices(_SLICE)]
    once = pl.concat(found or [packed.select(columns)]).unique()
    return once.cast({name: ROWS[name] for name in columns})


def multiple(packed: pl.DataFrame) -> pl.DataFrame:
    """The rows whose key comes more than once."""
    keys = _keys(packed, [_codes(packed, name) for name in KEY])
    if keys is not None:
        keys.sort()
        if not (keys[1:] == keys[:-1]).any():
            return packed.clear()
    return packed.filter(packed.select(KEY).is_duplicated())


def sorted_by_place(packed: pl.DataFrame, sites: pl.DataFrame) -> pl.DataFrame:
    """Packed rows sorted by cell, seed, step, the order of the site, site, call and quantity.

    Args:
        packed: rows whose keys come once each.
        sites: cell, site and order of every place that occurs.
    """
    ranks = sites.select("cell", "order", "site").sort("cell", "order", "site").with_row_index("_place")
    by_key = ["cell", "seed", "step", "_place", "call", "quantity"]
    keys = _keys(packed, [_codes(packed, name) if name != "_place" else _ranks(packed, ranks) for name in by_key])
    if keys is None:  # keys too far apart, as of seeds that are any number of 64 bits
        placed = packed.with_columns(_place=_ranks(packed, ranks)(0, packed.height))
        return placed.sort(by_key).drop("_place")
    if (keys[1:] > keys[:-1]).all():
        return packed
    order = keys.argsort()
    del keys
    return packed[order]


# ------------------------------------------------------------------------------------------------ keys as numbers

Codes = Callable[[int, int], NDArray[np.int64]]  # the codes of the rows from one to another


def _enum(texts: Iterable[str]) -> pl.Enum:
    return pl.Enum(pl.Series(list(texts), dtype=pl.String).sort())


def _texts(packed: pl.DataFrame, name: str) -> list[str]:
    dtype = packed.schema[name]
    assert isinstance(dtype, pl.Enum)
    return dtype.categories.to_list()


def _codes(packed: pl.DataFrame, name: str) -> Codes:
    column = packed[name].to_physical() if name in _TEXTS else packed[name]
    return lambda start, stop: column[start:stop].cast(pl.Int64).to_numpy()


def _ranks(packed: pl.DataFrame, ranks: pl.DataFrame) -> Codes:
    """The rank of every row's place, of the places (cell, site) with their rank `_place`."""
    texts = {name: packed.schema[name] for name in ("cell", "site")}
    count = len(_texts(packed, "site"))
    occurring = ranks.filter(pl.col(name).is_in(_texts(packed, name)) for name in texts).cast(texts)  # type: ignore[arg-type]
    cell, site = (_codes(occurring, name)(0, occurring.height) for name in texts)
    pairs = cell * count + site
    by_pair = pairs.argsort()
    known, rank = pairs[by_pair], occurring["_place"].cast(pl.Int64).to_numpy()[by_pair]
    cells, sites = (_codes(packed, name) for name in texts)
    return lambda start, stop: rank[np.searchsorted(known, cells(start, stop) * count + sites(start, stop))]


def _keys(packed: pl.DataFrame, columns: Sequence[Codes]) -> NDArray[np.int64] | None:
    """One number a row that sorts as the columns do, first by the first; None where 63 bits do not suffice."""
    cuts = [(start, min(start + _SLICE, packed.height)) for start in range(0, packed.height, _SLICE)]
    bounds = []
    for codes in columns:
        ends = [(int(found.min()), int(found.max())) for found in (codes(*cut) for cut in cuts)] or [(0, 0)]
        bounds.append((min(low for low, _ in ends), max(high for _, high in ends)))
    total = 1
    for low, high in bounds:
        total *= high - low + 1
    if total >= 1 << 63:
        return None
    keys = np.zeros(packed.height, np.int64)
    for cut in cuts:
        for codes, (low, high) in zip(columns, bounds, strict=True):
            keys[slice(*cut)] *= high - low + 1
            keys[slice(*cut)] += codes(*cut) - low
    return keys
