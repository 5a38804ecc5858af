"""The waist: `Readings`, the tidy table that probes write and that summaries, findings and charts read.

Three tables and a note: `rows` has one measured value a row, `cells` one row a network that was measured (what it is,
and the study's factors), `sites` one row a place in such a network; `meta` says where all of it comes from. Undefined
is no row, so a NaN or an infinity always means that something overflowed. A key comes once.

On disk they are one Parquet file that any Parquet reader can open, the two small tables and `meta` in its metadata.
Equal readings with equal `meta` give equal files, in whatever order they were gathered: rows are sorted by key, and
there is no time stamp. The file carries a checksum of itself (see `skipscope.sealed`).

In memory the rows are packed (see `skipscope.packed`), a fifth of what they take as a table. `rows` unpacks them, and
keeps the table; whoever looks at millions of rows does so part by part, with `rows_of` and `by_kind`.

What the tables must be stands in `skipscope.tables`. This module imports Polars, the errors, the files and those three,
and nothing of what stands left or right of the waist.
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

from skipscope import packed, sealed, tables
from skipscope.errors import InputError, as_list, choose, quoted, require_type
from skipscope.files import as_path, check_writable, read_whole
from skipscope.packed import KEY, ROWS
from skipscope.tables import CELLS, SITES, STATUSES
from skipscope.words import counted

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

SCHEMA_VERSION = 1

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
        packed_rows = tables.packed_rows(rows)
        tables.check_once("rows", packed.unpack(packed.multiple(packed_rows)), KEY)
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
        known = tables.checked("cells", cells, CELLS, key=("cell",), required=("cell",))
        places = tables.checked("sites", sites, SITES, key=_PLACE, required=tuple(SITES))
        tables.check_statuses(places)
        tables.check_known("sites", places, known, ("cell",))
        tables.check_known("rows", packed.distinct(packed_rows, _PLACE), places, _PLACE)
        self._set(packed_rows, known, places, tables.checked_meta(meta))

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
        object.__setattr__(made, "meta", tables.checked_meta(meta))
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
            "cells": tables.to_json(self.cells.sort("cell")),
            "sites": tables.to_json(self.sites.sort("cell", "order", "site")),
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
            rows = packed.together([tables.packed_rows(piece) for piece in sealed.pieces(data)])
            tables.check_once("rows", packed.unpack(packed.multiple(rows)), KEY)
            return cls._described(
                rows,
                cells=tables.from_json(noted["cells"]),
                sites=tables.from_json(noted["sites"]),
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
        tables.check_factor_types([part.cells for part in listed])
        sites = pl.concat([part.sites for part in listed])
        rank = pl.col("status").cast(pl.Enum(STATUSES))
        return cls._described(
            tables.one_of_each(packed.together([part._packed for part in listed])),
            cells=tables.once("cells", pl.concat([part.cells for part in listed], how="diagonal"), ("cell",)),
            sites=tables.once(
                "sites",
                sites.with_columns(rank.min().over("cell", "site").cast(pl.String)),
                ("cell", "site"),
            ),
            meta=tables.joined_meta([part.meta for part in listed]),
        )

    def equals(self, other: Readings) -> bool:
        """Whether the three tables are the same to the bit, in whatever order; `meta` may differ."""
        pairs = ((self.rows, other.rows), (self.cells, other.cells), (self.sites, other.sites))
        return all(tables.same(mine, theirs) for mine, theirs in pairs)

    # ------------------------------------------------------------------------------------------------ for people

    def wide(self) -> pl.DataFrame:
        """One flat table: every reading with its factors and, as `site_order`, `site_depth` ..., its site's columns."""
        sites = self.sites.rename(tables.SITE_COLUMNS)
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
            f"<Readings: {counted(len(self), 'reading')} of {counted(len(quantities), 'quantity', 'quantities')} "
            f"({tables.listed(quantities.to_list(), most=5)}) in {counted(len(cells), 'cell')} "
            f"({tables.listed(cells.to_list(), most=3)}), {counted(len(seeds), 'seed')} "
            f"({tables.listed(seeds.to_list(), most=3)})>"
        )

    def _repr_html_(self) -> str:
        """How many readings there are of each quantity in each cell; no colours of its own, so it suits any page."""
        return _html_counts(self._packed, title=f"Readings: {counted(len(self), 'reading')}")


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


# --------------------------------------------------------------------------------------------------------- selection


def _matching(name: str, wanted: object, known: Sequence[Any]) -> list[Any]:
    """Those of the `known` values of a column that are wanted.

    Raises:
        InputError: nothing is wanted, or something that is not there.
    """
    listed = as_list(wanted)
    if not listed:
        raise InputError(f"{name} is empty: give at least one of the values there are ({tables.listed(known)}).")
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
    there = f"there {'is' if len(known) == 1 else 'are'} {tables.listed(known) or 'no reading'}"
    raise InputError(f"{name}={quoted(wanted)} matches nothing: {there}.{hint}")


def _only(found: Mapping[str, list[Any]], *names: str) -> dict[str, list[Any]]:
    return {name: values for name, values in found.items() if name in names}


def _where(frame: pl.DataFrame, found: Mapping[str, list[Any]]) -> pl.DataFrame:
    """The rows that match in every one of the columns that `frame` has."""
    conditions = [
        pl.col(name).is_in(values, nulls_equal=True) for name, values in found.items() if name in frame.columns
    ]
    return frame.filter(*conditions) if conditions else frame


# ------------------------------------------------------------------------------------------------------- for people


def _html_counts(rows: pl.DataFrame, *, title: str, most_cells: int = 12, most_quantities: int = 8) -> str:
    cells, quantities = (rows[name].unique().sort().to_list() for name in ("cell", "quantity"))
    counts = {(cell, quantity): count for cell, quantity, count in rows.group_by("cell", "quantity").len().rows()}
    shown = quantities[:most_quantities]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ["cell", *shown])
    body = "".join(
        f"<tr><th>{html.escape(cell)}</th>"
        + "".join(f"<td>{counts.get((cell, quantity), 0):,}</td>" for quantity in shown)
        + "</tr>"
        for cell in cells[:most_cells]
    )
    hidden = [
        counted(len(values) - most, *words)
        for values, most, words in (
            (cells, most_cells, ("cell",)),
            (quantities, most_quantities, ("quantity", "quantities")),
        )
        if len(values) > most
    ]
    more = f"<p>and {' and '.join(hidden)} more</p>" if hidden else ""
    return f"<div><p>{html.escape(title)}</p><table><tr>{head}</tr>{body}</table>{more}</div>"
