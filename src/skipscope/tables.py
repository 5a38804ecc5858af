"""What the three tables of readings must be: their schemas, their keys, and how several become one.

Every refusal names the table, the column or the key, and what to do. Imports Polars, the errors, and how rows are
packed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from skipscope import packed
from skipscope.errors import InputError, choose, quoted
from skipscope.packed import KEY, ROWS
from skipscope.words import counted

__all__ = [
    "CELLS",
    "SITES",
    "SITE_COLUMNS",
    "STATUSES",
    "Schema",
    "check_factor_types",
    "check_known",
    "check_once",
    "check_statuses",
    "checked",
    "checked_meta",
    "from_json",
    "joined_meta",
    "listed",
    "once",
    "one_of_each",
    "packed_rows",
    "same",
    "to_json",
]

Schema = dict[str, type[pl.DataType]]

CELLS: Schema = {
    "cell": pl.String,
    "spec": pl.String,
    "study": pl.String,
    "design": pl.String,
    "depth": pl.Int64,
    "width": pl.Int64,
    "batch": pl.Int64,
    "cotangent": pl.String,
    "gain": pl.String,
    "norm": pl.String,
    "data": pl.String,
    "edit": pl.String,
    "dtype": pl.String,
}

SITES: Schema = {
    "cell": pl.String,
    "site": pl.String,
    "order": pl.Int64,
    "depth": pl.Int64,
    "kind": pl.String,
    "name": pl.String,
    "activation": pl.String,
    "block": pl.Int64,
    "tied_to": pl.String,
    "status": pl.String,
}
# In order of precedence: a site that was measured in one of two runs of a cell was measured.
STATUSES = ("measured", "frozen", "no gradient", "not executed", "undefined")

FACTOR_TYPES: Schema = {"String": pl.String, "Int64": pl.Int64, "Float64": pl.Float64, "Boolean": pl.Boolean}
SITE_COLUMNS = {name: f"site_{name}" for name in SITES if name not in ("cell", "site")}  # in the wide table


# --------------------------------------------------------------------------------------------- what a table must be


def packed_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows packed, if they have the columns `ROWS` and no nulls."""
    return packed.pack(_filled("rows", rows, ROWS, required=tuple(ROWS)))


def checked(
    table: str, frame: pl.DataFrame, schema: Schema, *, key: Sequence[str], required: Sequence[str]
) -> pl.DataFrame:
    """`frame` with its columns in the schema's order, if it meets the schema and every key comes once."""
    filled = _filled(table, frame, schema, required=required)
    check_once(table, filled.filter(filled.select(key).is_duplicated()), key)
    return filled


def _filled(table: str, frame: pl.DataFrame, schema: Schema, *, required: Sequence[str]) -> pl.DataFrame:
    """`frame` with its columns in the schema's order, if it meets the schema; `required` columns have no nulls."""
    if not isinstance(frame, pl.DataFrame):
        raise InputError(f"{table} must be a Polars DataFrame; got {type(frame).__name__}.")
    for name, dtype in schema.items():
        if name not in frame.columns:
            raise InputError(f"{table} lacks the column {name!r} ({dtype()}); its columns are {listed(frame.columns)}.")
        if frame.schema[name] != dtype:
            raise InputError(f"column {name!r} of {table} must be {dtype()}; got {frame.schema[name]}. Cast it.")
    extra = sorted(set(frame.columns) - set(schema))
    _check_extra(table, frame, extra)
    frame = frame.select(*schema, *extra)
    for name in required:
        if missing := frame[name].null_count():
            raise InputError(
                f"column {name!r} of {table} has {counted(missing, 'null')}; every row needs a value (what is "
                "undefined is left out)."
            )
    return _one_nan(frame)


def check_once(table: str, multiple: pl.DataFrame, key: Sequence[str]) -> None:
    """Refuse rows that share their key."""
    if not multiple.is_empty():
        first = multiple.row(0, named=True)
        raise InputError(f"{table} has {_named(first, key)} more than once: the key must be unique. Keep one of them.")


def _check_extra(table: str, frame: pl.DataFrame, extra: Sequence[str]) -> None:
    """Only `cells` may have more columns than its schema: a study's own factors."""
    if extra and table != "cells":
        raise InputError(f"{table} has an unknown column {extra[0]!r}: only cells may have more columns, factors.")
    for name in extra:
        if name in ROWS or name in SITE_COLUMNS.values():
            raise InputError(f"column {name!r} of cells must be called otherwise: the name is taken by another table.")
        if frame.schema[name] not in FACTOR_TYPES.values():
            choices = ", ".join(FACTOR_TYPES)
            raise InputError(f"column {name!r} of cells must be one of {choices}; got {frame.schema[name]}. Cast it.")


def _one_nan(frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` with a single bit pattern for NaN: sign and payload differ between processors, and mean nothing."""
    return frame.with_columns(pl.col(pl.Float64).fill_nan(float("nan")))


def check_statuses(sites: pl.DataFrame) -> None:
    """Refuse sites whose status is none of `STATUSES`."""
    for status in sites["status"].unique().sort():
        choose("column 'status' of sites", status, STATUSES)


def check_known(table: str, frame: pl.DataFrame, known: pl.DataFrame, key: Sequence[str]) -> None:
    """Whatever `frame` speaks of must be in the table that describes it."""
    stray = frame.select(key).unique().join(known, on=key, how="anti")
    if not stray.is_empty():
        described = "cells" if len(key) == 1 else "sites"
        first = stray.sort(key).row(0, named=True)
        raise InputError(f"{table} has {_named(first, key)}, which {described} does not describe. Add a row there.")


def checked_meta(meta: object) -> dict[str, str]:
    """`meta` in order of its names, if it maps text to text."""
    if not isinstance(meta, Mapping):
        raise InputError(f"meta must be a mapping of text to text; got {type(meta).__name__}.")
    for name, value in meta.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InputError(f"meta must map text to text; got {name!r}: {quoted(value)}. Use str().")
    return {name: meta[name] for name in sorted(meta)}


# ------------------------------------------------------------------------------------------------------------ unions


def _as_bits(frame: pl.DataFrame) -> pl.DataFrame:
    """Floats as their bits: then 0.0 and -0.0 differ, and NaN (of which there is one) equals itself."""
    return frame.with_columns(pl.col(pl.Float64).reinterpret(dtype=pl.Int64))


def same(mine: pl.DataFrame, theirs: pl.DataFrame) -> bool:
    """Whether two tables, each with a unique key, have the same rows."""
    if mine.schema != theirs.schema or mine.height != theirs.height:
        return False
    return _as_bits(mine).join(_as_bits(theirs), on=mine.columns, how="anti", nulls_equal=True).is_empty()


def one_of_each(packed_rows: pl.DataFrame) -> pl.DataFrame:
    """Packed rows with every key once."""
    multiple = packed.multiple(packed_rows)
    if multiple.is_empty():
        return packed_rows
    _check_agreed("rows", packed.unpack(multiple), KEY)
    return packed_rows.unique(subset=KEY, keep="first", maintain_order=True)


def once(table: str, frame: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """`frame` with every key once."""
    _check_agreed(table, frame.filter(frame.select(key).is_duplicated()), key)
    return frame.unique(subset=key, keep="first", maintain_order=True)


def _check_agreed(table: str, shared: pl.DataFrame, key: Sequence[str]) -> None:
    """Refuse rows that share a key and are not equal to the bit."""
    distinct = _as_bits(shared).unique()
    if distinct.height > shared.select(key).unique().height:
        first = distinct.filter(distinct.select(key).is_duplicated()).sort(key).select(key).head(1)
        raise InputError(_clash(table, shared.join(first, on=key, how="semi"), key))


def _clash(table: str, rivals: pl.DataFrame, key: Sequence[str]) -> str:
    """What differs between rows that share a key."""
    told = {name: rivals[name].unique().sort(nulls_last=True).to_list() for name in rivals.columns if name not in key}
    for name in rivals.select(pl.col(pl.Float64)).columns:  # unique() takes 0.0 and -0.0 for one
        told[name] = sorted({repr(value): value for value in rivals[name].to_list()}.values(), key=repr)
    name, values = next((name, values) for name, values in told.items() if len(values) > 1)
    return (
        f"{table} with {_named(rivals.row(0, named=True), key)} disagree: {name} is {values[0]!r} and {values[1]!r}. "
        "Keep one of the two, or give the cells different names."
    )


def check_factor_types(tables: Sequence[pl.DataFrame]) -> None:
    """Refuse tables of cells in which a factor has several types."""
    known: dict[str, pl.DataType] = {}
    for table in tables:
        for name, dtype in table.schema.items():
            if known.setdefault(name, dtype) != dtype:
                raise InputError(
                    f"column {name!r} of cells is {known[name]} in one part and {dtype} in another. Cast one."
                )


def joined_meta(metas: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What all of them say, under each name."""
    joined: dict[str, str] = {}
    for name in {name for meta in metas for name in meta}:
        values = {meta[name] for meta in metas if name in meta}
        # Split before joining: so it does not matter in which order, and how often, parts are put together.
        parts = {part for value in values for part in value.split("; ")}
        joined[name] = values.pop() if len(values) == 1 else "; ".join(sorted(parts))
    return joined


# ------------------------------------------------------------------------------------------------------ on disk


def to_json(frame: pl.DataFrame) -> str:
    """A small table as JSON, column by column with its type; NaN and infinities, which JSON lacks, as text."""
    columns = {}
    for column in frame.get_columns():
        values: list[Any] = column.to_list()
        if column.dtype == pl.Float64:
            values = [str(value) if value is not None and value - value != 0.0 else value for value in values]
        columns[column.name] = [str(column.dtype), values]
    return json.dumps(columns, allow_nan=False, separators=(",", ":"))


def from_json(text: str) -> pl.DataFrame:
    """The table that `to_json` wrote."""
    columns = []
    for name, (dtype, values) in json.loads(text).items():
        if dtype == "Float64":
            values = [None if value is None else float(value) for value in values]
        columns.append(pl.Series(name, values, dtype=FACTOR_TYPES[dtype], strict=True))
    return pl.DataFrame(columns)


# ------------------------------------------------------------------------------------------------------- for people


def listed(values: Sequence[object], most: int = 8) -> str:
    """The first and the last of the values, as text."""
    if len(values) <= most:
        return ", ".join(quoted(value, 60) for value in values)
    return f"{', '.join(quoted(value, 60) for value in values[: most - 1])} ... {quoted(values[-1], 60)}"


def _named(row: Mapping[str, object], key: Sequence[str]) -> str:
    return ", ".join(f"{name}={row[name]!r}" for name in key)
