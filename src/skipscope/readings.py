"""The waist: `Readings`, the tidy table that probes write and that summaries, findings and charts read.

Three tables and a note: `rows` has one measured value a row, `cells` one row a network that was measured (what it is,
and the study's factors), `sites` one row a place in such a network; `meta` says where all of it comes from. Undefined
is no row, so a NaN or an infinity always means that something overflowed. A key comes once.

On disk they are one Parquet file that any Parquet reader can open, the two small tables and `meta` in its metadata.
Equal readings with equal `meta` give equal files, in whatever order they were gathered: rows are sorted by key, and
there is no time stamp. The file carries a checksum of itself (see `skipscope.sealed`).

In memory the rows are packed (see `skipscope.packed`), a fifth of what they take as a table. `rows` unpacks them, and
keeps the table; whoever looks at millions of rows does so part by part, with `rows_of` and `by_kind`.

This module imports Polars, the errors, the files and those two, and nothing of what stands left or right of the waist.
"""

from __future__ import annotations

import difflib
import html
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any

import polars as pl

from skipscope import packed, sealed
from skipscope.errors import InputError, as_list, choose, quoted, require_type
from skipscope.files import as_path, check_writable, read_whole
from skipscope.packed import KEY, ROWS

if TYPE_CHECKING:
    import pandas

__all__ = [
    "CELLS",
    "KEY",
    "ROWS",
    "SCHEMA_VERSION",
    "SITES",
    "STATUSES",
    "Readings",
    "require_factors",
    "require_readings",
]

Schema = dict[str, type[pl.DataType]]

SCHEMA_VERSION = 1

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

_FACTOR_TYPES: Schema = {"String": pl.String, "Int64": pl.Int64, "Float64": pl.Float64, "Boolean": pl.Boolean}
_SITE_COLUMNS = {name: f"site_{name}" for name in SITES if name not in ("cell", "site")}  # in the wide table

_FORMAT = "skipscope readings"
_PLACE = ("cell", "site")


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Readings:
    """Measured values with what they were measured on. Immutable; every method returns new readings.

    Args:
        rows: one measured value a row: columns `ROWS`, of which all but `value` are the key, unique.
        cells: one row a measured network: columns `CELLS`, `cell` unique. A study may add factors of its own as
            further columns (String, Int64, Float64 or Boolean); a factor that does not apply is null.
        sites: one row a place in a network: columns `SITES`, (cell, site) unique, `status` one of `STATUSES`.
        meta: where the readings come from (versions, command), as text.

    Raises:
        InputError: a table is not as above; the message names the table and the column.
    """

    cells: pl.DataFrame
    sites: pl.DataFrame
    meta: Mapping[str, str]
    _packed: pl.DataFrame

    def __init__(
        self, rows: pl.DataFrame, cells: pl.DataFrame, sites: pl.DataFrame, meta: Mapping[str, str] | None = None
    ) -> None:
        packed_rows = _packed(rows)
        _check_once("rows", packed.unpack(packed.multiple(packed_rows)), KEY)
        self._describe(packed_rows, cells, sites, {} if meta is None else meta)

    @classmethod
    def _described(
        cls, packed_rows: pl.DataFrame, cells: pl.DataFrame, sites: pl.DataFrame, meta: Mapping[str, str]
    ) -> Readings:
        """Readings of packed rows whose keys come once, with tables that are to be checked."""
        made = cls.__new__(cls)
        made._describe(packed_rows, cells, sites, meta)
        return made

    def _describe(
        self, packed_rows: pl.DataFrame, cells: pl.DataFrame, sites: pl.DataFrame, meta: Mapping[str, str]
    ) -> None:
        known = _checked("cells", cells, CELLS, key=("cell",), required=("cell",))
        places = _checked("sites", sites, SITES, key=_PLACE, required=tuple(SITES))
        _check_statuses(places)
        _check_known("sites", places, known, ("cell",))
        _check_known("rows", packed.distinct(packed_rows, _PLACE), places, _PLACE)
        self._set(packed_rows, known, places, _checked_meta(meta))

    def _set(
        self, packed_rows: pl.DataFrame, cells: pl.DataFrame, sites: pl.DataFrame, meta: Mapping[str, str]
    ) -> None:
        for name, value in (("_packed", packed_rows), ("cells", cells), ("sites", sites), ("meta", meta)):
            object.__setattr__(self, name, value)

    def _part(self, packed_rows: pl.DataFrame, cells: pl.DataFrame, sites: pl.DataFrame) -> Readings:
        """Some of these readings: what is a part of what was checked needs no check."""
        made = type(self).__new__(type(self))
        made._set(packed_rows, cells, sites, self.meta)
        return made

    def __getstate__(self) -> dict[str, Any]:
        """What travels between processes: the packed rows, and not their table as well."""
        return {name: value for name, value in self.__dict__.items() if name != "rows"}

    # --------------------------------------------------------------------------------------------------- the rows

    @cached_property
    def rows(self) -> pl.DataFrame:
        """One measured value a row: columns `ROWS`."""
        return packed.unpack(self._packed)

    def rows_of(self, *cells: str) -> pl.DataFrame:
        """The rows of some cells: all of them would take five times the memory that the readings do."""
        return packed.unpack(packed.having(self._packed, "cell", cells))

    def by_kind(self) -> Iterator[pl.DataFrame]:
        """All rows, some at a time: those that share cell and quantity come together."""
        for cells in packed.grouped(self._packed, "cell"):
            for rows in packed.grouped(cells, "quantity"):
                yield packed.unpack(rows)

    def distinct(self, *columns: str) -> pl.DataFrame:
        """Every combination that occurs of what is in these columns of `rows`, once, in no particular order."""
        return packed.distinct(self._packed, columns)

    def where(self, *predicates: pl.Expr) -> Readings:
        """The readings whose rows fulfil all `predicates`, expressions in the columns `ROWS`, row by row.

        Cells and sites without a reading left go.
        """
        rows = packed.kept(self._packed, lambda rows: rows.filter(*predicates))
        places = packed.distinct(rows, _PLACE)
        return self._part(
            rows,
            cells=self.cells.join(places, on="cell", how="semi", maintain_order="left"),
            sites=self.sites.join(places, on=_PLACE, how="semi", maintain_order="left"),
        )

    def with_meta(self, meta: Mapping[str, str]) -> Readings:
        """The same readings with another `meta`."""
        made = self._part(self._packed, self.cells, self.sites)
        object.__setattr__(made, "meta", _checked_meta(meta))
        return made

    # --------------------------------------------------------------------------------------------------- on disk

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write one Parquet file, whole or not at all.

        Equal readings with equal `meta` give equal bytes under one version of Polars, in whatever order they were
        gathered.

        Args:
            path: the file; its name ends in `.parquet`.
            overwrite: whether a file that is there already may be replaced.

        Raises:
            InputError: the name ends otherwise, or there is something that must not or cannot be replaced.
        """
        target = as_path(path)
        if target.suffix != ".parquet":
            raise InputError(
                f"path must end in '.parquet'; got {str(target)!r}. Use {str(target.with_suffix('.parquet'))!r}, or "
                "write another format with the table that wide() returns."
                if target.name
                else f"path must be a file whose name ends in '.parquet'; got {str(target)!r}."
            )
        check_writable(target, overwrite=overwrite)
        noted = {
            "format": _FORMAT,
            "schema version": str(SCHEMA_VERSION),
            "cells": _to_json(self.cells.sort("cell")),
            "sites": _to_json(self.sites.sort("cell", "order", "site")),
            "meta": json.dumps(dict(self.meta)),
        }
        in_order = packed.sorted_by_place(self._packed, self.sites)
        sealed.write(target, in_order, ROWS, noted)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Readings:
        """The readings that `save` wrote, every bit of every number as it was.

        Raises:
            InputError: there is no such file, it is damaged, or it is something else; the message says which.
        """
        data = read_whole(path)
        name = str(as_path(path))
        sealed.check(name, data)
        noted = sealed.notes(data)
        if noted.get("format") != _FORMAT:
            raise InputError(f"{name!r} is not a file of readings: load reads what Readings.save wrote.")
        if noted.get("schema version") != str(SCHEMA_VERSION):
            raise InputError(
                f"{name!r} has version {noted.get('schema version')} of the format, and this skipscope reads version "
                f"{SCHEMA_VERSION}: use the version of skipscope that saved it, or measure again."
            )
        try:
            rows = packed.together([_packed(piece) for piece in sealed.pieces(data)])
            _check_once("rows", packed.unpack(packed.multiple(rows)), KEY)
            return cls._described(
                rows,
                cells=_from_json(noted["cells"]),
                sites=_from_json(noted["sites"]),
                meta=json.loads(noted["meta"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, pl.exceptions.PolarsError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{name!r} does not hold readings as skipscope saves them: {reason}") from error

    # ------------------------------------------------------------------------------------------ parts and unions

    def select(self, **filters: object) -> Readings:
        """The readings for which every filter holds; without filters, these.

        A filter is a column of `rows` other than `value`, or a factor (a column of `cells` other than `spec`). It takes
        one value or several of which one must match: `select(design="plain", depth=[10, 20])`. `site` takes shell
        patterns: `site="stage1.*"`. Filters that match each, but no reading together, give empty readings, because
        undefined is no row. Cells without a reading left go; so do sites, unless their status says why they have none.

        Raises:
            InputError: there is no such filter, or a value occurs nowhere; the message lists what there is.
        """
        columns = [name for name in (*KEY, *self.cells.columns) if name != "spec"]
        found: dict[str, list[Any]] = {}
        for name, wanted in filters.items():
            choose("filter of select", name, dict.fromkeys(columns))
            found[name] = _matching(name, wanted, self._values(name))
        if not found:
            return self
        cells = _where(self.cells, found)
        sites = _where(self.sites, _only(found, "site")).join(cells, on="cell", how="semi", maintain_order="left")
        wanted_rows = _only(found, *KEY)
        rows = packed.kept(
            self._packed,
            lambda rows: _where(rows, wanted_rows).join(sites, on=["cell", "site"], how="semi", maintain_order="left"),
        )
        places = packed.distinct(rows, _PLACE)
        emptied = sites.filter(pl.col("status") == "measured").join(places, on=["cell", "site"], how="anti")
        return self._part(
            rows,
            cells=cells.join(places, on="cell", how="semi", maintain_order="left"),
            sites=sites.join(places, on="cell", how="semi", maintain_order="left").join(
                emptied, on=["cell", "site"], how="anti", maintain_order="left"
            ),
        )

    def _values(self, name: str) -> list[Any]:
        """All values of a column that `select` can filter by, in order."""
        table = self.cells if name in self.cells.columns else self.sites if name == "site" else self._packed
        values: list[Any] = table[name].unique().sort().to_list()
        return values

    def __add__(self, other: object) -> Readings:
        """The union: see `concat`."""
        return Readings.concat([self, other]) if isinstance(other, Readings) else NotImplemented

    @classmethod
    def concat(cls, parts: Iterable[Readings]) -> Readings:
        """The union of any number of readings; of none, empty readings.

        What comes twice, the same to the bit, is kept once (NaN is equal to NaN). A factor that one part lacks is
        null there. A site whose status differs gets the first of them in the order of `STATUSES`. Notes of `meta` that
        differ are kept side by side, joined by "; ".

        Raises:
            InputError: one key with two values, one cell with two descriptions, one factor of two types.
        """
        listed = as_list(parts)
        for part in listed:
            if not isinstance(part, Readings):
                raise InputError(f"parts must be Readings; got {type(part).__name__}.")
        if not listed:
            return cls(pl.DataFrame(schema=ROWS), pl.DataFrame(schema=CELLS), pl.DataFrame(schema=SITES))
        _check_factor_types([part.cells for part in listed])
        sites = pl.concat([part.sites for part in listed])
        rank = pl.col("status").cast(pl.Enum(STATUSES))
        return cls._described(
            _one_of_each(packed.together([part._packed for part in listed])),
            cells=_once("cells", pl.concat([part.cells for part in listed], how="diagonal"), ("cell",)),
            sites=_once(
                "sites",
                sites.with_columns(rank.min().over("cell", "site").cast(pl.String)),
                ("cell", "site"),
            ),
            meta=_joined_meta([part.meta for part in listed]),
        )

    def equals(self, other: Readings) -> bool:
        """Whether the three tables are the same to the bit, in whatever order; `meta` may differ."""
        pairs = ((self.rows, other.rows), (self.cells, other.cells), (self.sites, other.sites))
        return all(_same(mine, theirs) for mine, theirs in pairs)

    # ------------------------------------------------------------------------------------------------ for people

    def wide(self) -> pl.DataFrame:
        """One flat table: every reading with its factors and, as `site_order`, `site_depth` ..., its site's columns."""
        sites = self.sites.rename(_SITE_COLUMNS)
        with_factors = self.rows.join(self.cells.drop("spec"), on="cell", how="left", maintain_order="left")
        return with_factors.join(sites, on=["cell", "site"], how="left", maintain_order="left")

    def to_pandas(self) -> pandas.DataFrame:
        """The table that `wide` returns, for pandas; missing whole numbers become NaN, as pandas has it.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise InputError("Readings.to_pandas needs pandas: pip install 'skipscope[pandas]'.") from None
        # Column by column through NumPy, because Polars' own way needs PyArrow as well.
        return pandas.DataFrame({column.name: column.to_numpy() for column in self.wide().get_columns()})

    def __len__(self) -> int:
        """Number of readings."""
        return self._packed.height

    def __repr__(self) -> str:
        if not len(self):
            return "<Readings: none>"
        cells, seeds, quantities = (self._packed[name].unique().sort() for name in ("cell", "seed", "quantity"))
        return (
            f"<Readings: {_count(len(self), 'reading')} of {_count(len(quantities), 'quantity', 'quantities')} "
            f"({_listed(quantities.to_list(), most=5)}) in {_count(len(cells), 'cell')} "
            f"({_listed(cells.to_list(), most=3)}), {_count(len(seeds), 'seed')} "
            f"({_listed(seeds.to_list(), most=3)})>"
        )

    def _repr_html_(self) -> str:
        """How many readings there are of each quantity in each cell; no colours of its own, so it suits any page."""
        return _html_counts(self._packed, title=f"Readings: {_count(len(self), 'reading')}")


# --------------------------------------------------------------------------------------------- what a table must be


def _packed(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows packed, if they have the columns `ROWS` and no nulls."""
    return packed.pack(_filled("rows", rows, ROWS, required=tuple(ROWS)))


def _checked(
    table: str, frame: pl.DataFrame, schema: Schema, *, key: Sequence[str], required: Sequence[str]
) -> pl.DataFrame:
    """`frame` with its columns in the schema's order, if it meets the schema and every key comes once."""
    filled = _filled(table, frame, schema, required=required)
    _check_once(table, filled.filter(filled.select(key).is_duplicated()), key)
    return filled


def _filled(table: str, frame: pl.DataFrame, schema: Schema, *, required: Sequence[str]) -> pl.DataFrame:
    """`frame` with its columns in the schema's order, if it meets the schema; `required` columns have no nulls."""
    if not isinstance(frame, pl.DataFrame):
        raise InputError(f"{table} must be a Polars DataFrame; got {type(frame).__name__}.")
    for name, dtype in schema.items():
        if name not in frame.columns:
            raise InputError(
                f"{table} lacks the column {name!r} ({dtype()}); its columns are {_listed(frame.columns)}."
            )
        if frame.schema[name] != dtype:
            raise InputError(f"column {name!r} of {table} must be {dtype()}; got {frame.schema[name]}. Cast it.")
    extra = sorted(set(frame.columns) - set(schema))
    _check_extra(table, frame, extra)
    frame = frame.select(*schema, *extra)
    for name in required:
        if missing := frame[name].null_count():
            raise InputError(
                f"column {name!r} of {table} has {_count(missing, 'null')}; every row needs a value (what is undefined "
                "is left out)."
            )
    return _one_nan(frame)


def _check_once(table: str, multiple: pl.DataFrame, key: Sequence[str]) -> None:
    """Refuse rows that share their key."""
    if not multiple.is_empty():
        first = multiple.row(0, named=True)
        raise InputError(f"{table} has {_named(first, key)} more than once: the key must be unique. Keep one of them.")


def _check_extra(table: str, frame: pl.DataFrame, extra: Sequence[str]) -> None:
    """Only `cells` may have more columns than its schema: a study's own factors."""
    if extra and table != "cells":
        raise InputError(f"{table} has an unknown column {extra[0]!r}: only cells may have more columns, factors.")
    for name in extra:
        if name in ROWS or name in _SITE_COLUMNS.values():
            raise InputError(f"column {name!r} of cells must be called otherwise: the name is taken by another table.")
        if frame.schema[name] not in _FACTOR_TYPES.values():
            choices = ", ".join(_FACTOR_TYPES)
            raise InputError(f"column {name!r} of cells must be one of {choices}; got {frame.schema[name]}. Cast it.")


def _one_nan(frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` with a single bit pattern for NaN: sign and payload differ between processors, and mean nothing."""
    return frame.with_columns(pl.col(pl.Float64).fill_nan(float("nan")))


def _check_statuses(sites: pl.DataFrame) -> None:
    for status in sites["status"].unique().sort():
        choose("column 'status' of sites", status, STATUSES)


def _check_known(table: str, frame: pl.DataFrame, known: pl.DataFrame, key: Sequence[str]) -> None:
    """Whatever `frame` speaks of must be in the table that describes it."""
    stray = frame.select(key).unique().join(known, on=key, how="anti")
    if not stray.is_empty():
        described = "cells" if len(key) == 1 else "sites"
        first = stray.sort(key).row(0, named=True)
        raise InputError(f"{table} has {_named(first, key)}, which {described} does not describe. Add a row there.")


def _checked_meta(meta: object) -> dict[str, str]:
    if not isinstance(meta, Mapping):
        raise InputError(f"meta must be a mapping of text to text; got {type(meta).__name__}.")
    for name, value in meta.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InputError(f"meta must map text to text; got {name!r}: {quoted(value)}. Use str().")
    return {name: meta[name] for name in sorted(meta)}


# ------------------------------------------------------------------------------------------------- what a reader asks


def require_readings(readings: object) -> None:
    """Refuse what are no readings.

    Raises:
        InputError: they are not.
    """
    require_type("readings", readings, Readings, "skipscope.probe and the studies give them")


def require_factors(readings: Readings, study: str, *factors: str) -> None:
    """Refuse readings whose cells lack factors that a study gives them.

    Raises:
        InputError: one of them is not there.
    """
    for factor in factors:
        if factor not in readings.cells.columns:
            raise InputError(
                f"these readings have no factor {factor!r}, which study {study} gives: skipscope.studies.{study} "
                "measures some."
            )


# ------------------------------------------------------------------------------------------------------------ unions


def _as_bits(frame: pl.DataFrame) -> pl.DataFrame:
    """Floats as their bits: then 0.0 and -0.0 differ, and NaN (of which there is one) equals itself."""
    return frame.with_columns(pl.col(pl.Float64).reinterpret(dtype=pl.Int64))


def _same(mine: pl.DataFrame, theirs: pl.DataFrame) -> bool:
    """Whether two tables, each with a unique key, have the same rows."""
    if mine.schema != theirs.schema or mine.height != theirs.height:
        return False
    return _as_bits(mine).join(_as_bits(theirs), on=mine.columns, how="anti", nulls_equal=True).is_empty()


def _one_of_each(packed_rows: pl.DataFrame) -> pl.DataFrame:
    """Packed rows with every key once."""
    multiple = packed.multiple(packed_rows)
    if multiple.is_empty():
        return packed_rows
    _check_agreed("rows", packed.unpack(multiple), KEY)
    return packed_rows.unique(subset=KEY, keep="first", maintain_order=True)


def _once(table: str, frame: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
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


def _check_factor_types(tables: Sequence[pl.DataFrame]) -> None:
    known: dict[str, pl.DataType] = {}
    for table in tables:
        for name, dtype in table.schema.items():
            if known.setdefault(name, dtype) != dtype:
                raise InputError(
                    f"column {name!r} of cells is {known[name]} in one part and {dtype} in another. Cast one."
                )


def _joined_meta(metas: Sequence[Mapping[str, str]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name in {name for meta in metas for name in meta}:
        values = {meta[name] for meta in metas if name in meta}
        # Split before joining: so it does not matter in which order, and how often, parts are put together.
        parts = {part for value in values for part in value.split("; ")}
        joined[name] = values.pop() if len(values) == 1 else "; ".join(sorted(parts))
    return joined


# --------------------------------------------------------------------------------------------------------- selection


def _matching(name: str, wanted: object, known: Sequence[Any]) -> list[Any]:
    """Those of the `known` values of a column that are wanted.

    Raises:
        InputError: nothing is wanted, or something that is not there.
    """
    listed = as_list(wanted)
    if not listed:
        raise InputError(f"{name} is empty: give at least one of the values there are ({_listed(known)}).")
    exact = {(isinstance(value, bool), value): value for value in known}  # True is 1 for Python, but not as a filter
    found: list[Any] = []
    for value in listed:
        try:
            found.append(exact[isinstance(value, bool), value])
        except (KeyError, TypeError):  # TypeError: something that no column holds, such as a list
            found += _matching_pattern(name, value, known)
    return found


def _matching_pattern(name: str, wanted: object, known: Sequence[Any]) -> list[str]:
    """The known sites that match a shell pattern; other columns take no patterns."""
    if name == "site" and isinstance(wanted, str) and (found := [each for each in known if fnmatchcase(each, wanted)]):
        return found
    text = wanted[:80] if isinstance(wanted, str) else ""
    near = difflib.get_close_matches(text, [each for each in known if isinstance(each, str)], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    there = f"there {'is' if len(known) == 1 else 'are'} {_listed(known) or 'no reading'}"
    raise InputError(f"{name}={quoted(wanted)} matches nothing: {there}.{hint}")


def _only(found: Mapping[str, list[Any]], *names: str) -> dict[str, list[Any]]:
    return {name: values for name, values in found.items() if name in names}


def _where(frame: pl.DataFrame, found: Mapping[str, list[Any]]) -> pl.DataFrame:
    """The rows that match in every one of the columns that `frame` has."""
    conditions = [
        pl.col(name).is_in(values, nulls_equal=True) for name, values in found.items() if name in frame.columns
    ]
    return frame.filter(*conditions) if conditions else frame


# ------------------------------------------------------------------------------------------------------ on disk


def _to_json(frame: pl.DataFrame) -> str:
    """A small table as JSON, column by column with its type; NaN and infinities, which JSON lacks, as text."""
    columns = {}
    for column in frame.get_columns():
        values: list[Any] = column.to_list()
        if column.dtype == pl.Float64:
            values = [str(value) if value is not None and value - value != 0.0 else value for value in values]
        columns[column.name] = [str(column.dtype), values]
    return json.dumps(columns, allow_nan=False, separators=(",", ":"))


def _from_json(text: str) -> pl.DataFrame:
    """The table that `_to_json` wrote."""
    columns = []
    for name, (dtype, values) in json.loads(text).items():
        if dtype == "Float64":
            values = [None if value is None else float(value) for value in values]
        columns.append(pl.Series(name, values, dtype=_FACTOR_TYPES[dtype], strict=True))
    return pl.DataFrame(columns)


# ------------------------------------------------------------------------------------------------------- for people


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _listed(values: Sequence[object], most: int = 8) -> str:
    """The first and the last of the values, as text."""
    if len(values) <= most:
        return ", ".join(quoted(value, 60) for value in values)
    return f"{', '.join(quoted(value, 60) for value in values[: most - 1])} ... {quoted(values[-1], 60)}"


def _named(row: Mapping[str, object], key: Sequence[str]) -> str:
    return ", ".join(f"{name}={row[name]!r}" for name in key)


def _html_counts(rows: pl.DataFrame, *, title: str, most_cells: int = 12, most_quantities: int = 8) -> str:
    cells, quantities = (rows[name].unique().sort().to_list() for name in ("cell", "quantity"))
    counted = rows.group_by("cell", "quantity").len().rows()
    counts = {(cell, quantity): count for cell, quantity, count in counted}
    shown = quantities[:most_quantities]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ["cell", *shown])
    body = "".join(
        f"<tr><th>{html.escape(cell)}</th>"
        + "".join(f"<td>{counts.get((cell, quantity), 0):,}</td>" for quantity in shown)
        + "</tr>"
        for cell in cells[:most_cells]
    )
    hidden = [
        _count(len(values) - most, *words)
        for values, most, words in (
            (cells, most_cells, ("cell",)),
            (quantities, most_quantities, ("quantity", "quantities")),
        )
        if len(values) > most
    ]
    more = f"<p>and {' and '.join(hidden)} more</p>" if hidden else ""
    return f"<div><p>{html.escape(title)}</p><table><tr>{head}</tr>{body}</table>{more}</div>"
