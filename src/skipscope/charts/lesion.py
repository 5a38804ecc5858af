"""The charts of study `lesion`: the test error by deleted block, by how many are deleted, and by how they are swapped.

The tables are those of `skipscope.lesions`; here they get their panels and the labels of their networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from skipscope import lesions
from skipscope.charts.look import (
    INK,
    PERCENT,
    Rows,
    Shared,
    as_percent,
    as_percents,
    as_rows,
    as_text,
    colour,
    facet,
    in_order,
    labels,
    require_rows,
    seeds_in_words,
    shape,
    tooltip,
    zoom,
)
from skipscope.errors import require_int
from skipscope.readings import Readings
from skipscope.words import tenths

__all__ = [
    "lesion_blocks",
    "lesion_blocks_data",
    "lesion_deleted",
    "lesion_deleted_data",
    "lesion_swapped",
    "lesion_swapped_data",
]

_ERROR = "test error"


def lesion_blocks_data(readings: Readings) -> pl.DataFrame:
    """What `lesion_blocks` draws: `skipscope.lesions.block_data` with `panel`, the network's label.

    Raises:
        InputError: the readings hold no networks with one block deleted.
    """
    table = require_rows(lesions.block_data(readings), "in these readings no block was deleted by itself.")
    return _labelled(table, readings, "panel")


def lesion_deleted_data(readings: Readings) -> pl.DataFrame:
    """What `lesion_deleted` draws: `skipscope.lesions.deleted_data` with `panel` (the data) and `label`.

    Raises:
        InputError: the readings hold no networks with random blocks deleted.
    """
    return _by_data(
        require_rows(lesions.deleted_data(readings), "in these readings no random blocks are deleted."), readings
    )


def lesion_swapped_data(readings: Readings) -> pl.DataFrame:
    """What `lesion_swapped` draws: `skipscope.lesions.swapped_data` with `panel` (the data) and `label`.

    Raises:
        InputError: the readings hold no networks with blocks swapped.
    """
    return _by_data(require_rows(lesions.swapped_data(readings), "in these readings no blocks are swapped."), readings)


def _labelled(table: pl.DataFrame, readings: Readings, column: str) -> pl.DataFrame:
    named = labels(readings.select(done="nothing"))
    places = {cell: place for place, cell in enumerate(named)}
    shown = table.with_columns(pl.col("kind").replace_strict(named).alias(column))
    return shown.sort(pl.col("kind").replace_strict(places), maintain_order=True)


def _by_data(table: pl.DataFrame, readings: Readings) -> pl.DataFrame:
    data = readings.cells.filter(done="nothing").select("data", kind="cell")
    return _labelled(table.join(data, on="kind").rename({"data": "panel"}), readings, "label")


# ---------------------------------------------------------------------------------------------------------- the charts


def lesion_blocks(readings: Readings, *, columns: int = 2) -> alt.FacetChart:
    """The test error against the block that was deleted, a panel a network; dashed: with nothing deleted.

    Args:
        readings: of study `lesion`.
        columns: panels in a row.

    Raises:
        InputError: the readings hold no networks with one block deleted.
    """
    table = lesion_blocks_data(readings)
    require_int("columns", columns, least=1)
    last = int(str(table["block"].max()))
    x = alt.X("block:Q", title="deleted block", scale=alt.Scale(domain=[0.5, last + 0.5], nice=False), axis=_whole())
    hover = tooltip(panel="network", name="deleted block", text="test error", interval="95 % interval", n="seeds")
    hover += tooltip(before="with nothing deleted", harm="damage", size="|F(x)|/|x|")
    told = [f"mean over {seeds_in_words(table)} with its 95 % interval; dashed: nothing deleted; dotted: guessing"]
    return facet(
        [*_rules(["intact", "guess"]), *_points(table, x, hover, legend=False)],
        _rows(table.with_columns(name=pl.col("block").cast(pl.String))),
        in_order(table["panel"]),
        columns=columns,
        title="Test error with one block deleted, by block",
        subtitle=told,
        description=_block_words(table),
        size=(300, 240),
    )


def lesion_deleted(readings: Readings, *, columns: int = 2) -> alt.FacetChart:
    """The test error against how many random blocks are deleted, a panel a data set, a colour a network.

    Args:
        readings: of study `lesion`.
        columns: panels in a row.

    Raises:
        InputError: the readings hold no networks with random blocks deleted.
    """
    table = lesion_deleted_data(readings)
    require_int("columns", columns, least=1)
    end = 1.03 * int(str(table["k"].max()))
    x = alt.X("k:Q", title="blocks deleted", scale=alt.Scale(domain=[-0.03 * end, end], nice=False), axis=_whole())
    return _lines(
        table,
        x,
        tooltip(label="network", name="blocks deleted"),
        name=pl.col("k").cast(pl.String),
        title="Test error with random blocks deleted",
        columns=columns,
    )


def lesion_swapped(readings: Readings, *, columns: int = 2) -> alt.FacetChart:
    """The test error against Kendall's tau between the orders of the blocks, a panel a data set, a colour a network.

    Args:
        readings: of study `lesion`.
        columns: panels in a row.

    Raises:
        InputError: the readings hold no networks with blocks swapped.
    """
    table = lesion_swapped_data(readings)
    require_int("columns", columns, least=1)
    least = min(0.0, float(str(table["tau"].min())))
    scale = alt.Scale(domain=[1.03, least - 0.03], nice=False)
    x = alt.X("tau:Q", title="Kendall's tau of the order (1: as trained, 0: none)", scale=scale, axis=_plain_axis())
    return _lines(
        table,
        x,
        tooltip(label="network", name="swaps", order="tau"),
        name=pl.col("k").cast(pl.String),
        title="Test error with blocks swapped",
        columns=columns,
    )


def _lines(
    table: pl.DataFrame, x: alt.X, hover: list[alt.Tooltip], *, name: pl.Expr, title: str, columns: int
) -> alt.FacetChart:
    told = tooltip(text="test error", interval="95 % interval", harm="damage", n="seeds")
    line = alt.Chart().mark_line(strokeWidth=1.8, clip=True).encode(x=x, y=_y("error"), color=colour(table))
    return facet(
        [*_rules(["guess"]), line, *_points(table, x, [*hover, *told], legend=True)],
        _rows(table.with_columns(name=name)),
        in_order(table["panel"]),
        columns=columns,
        title=title,
        subtitle=[
            f"mean over {seeds_in_words(table)}, each its mean over random choices, with its 95 % interval",
            "dotted: guessing",
        ],
        description=_line_words(table, title),
        size=(420, 260),
    )


def _points(table: pl.DataFrame, x: alt.X, hover: list[alt.Tooltip], *, legend: bool) -> list[alt.Chart]:
    """Points with their intervals; the nearest to the pointer says what it is."""
    near = alt.selection_point(name="hover", on="pointerover", clear="pointerout", nearest=True, empty=False)
    base = alt.Chart().encode(x=x, color=colour(table, legend=legend))
    points = base.mark_point(filled=True, opacity=1, clip=True).encode(
        y=_y("error"),
        shape=shape(table, legend=legend),
        tooltip=hover,
        size=alt.when(near).then(alt.value(120)).otherwise(alt.value(40)),
    )
    bars = base.mark_rule(strokeWidth=1.4, clip=True).encode(y=_y("low"), y2="high:Q")
    return [bars.add_params(zoom(["x", "y"])), points.add_params(near)]


def _rules(names: Sequence[str]) -> list[alt.Chart]:
    """Across a panel: the error with nothing done, dashed, and that of guessing, dotted."""
    dashes = {"intact": [6, 3], "guess": [2, 3]}
    return [
        alt.Chart().mark_rule(color=INK, strokeWidth=1.3, strokeDash=dashes[name]).encode(y=_y(f"{name}_rule"))
        for name in names
    ]


def _y(name: str) -> alt.Y:
    height: Shared = {
        "title": _ERROR,
        "scale": alt.Scale(domain=[0, 1], nice=False),
        "axis": alt.Axis(labelExpr=PERCENT, tickCount=5),
    }
    return alt.Y(f"{name}:Q", **height)


def _whole() -> alt.Axis:
    return alt.Axis(tickMinStep=1, grid=False, format="d")


def _plain_axis() -> alt.Axis:
    return alt.Axis(grid=False, tickCount=5)


def _rows(table: pl.DataFrame) -> Rows:
    """The table with its numbers as text, and the rules on the first row of every panel."""
    first = pl.int_range(pl.len()).over("panel") == 0
    shown = table.with_columns(
        as_percent("text", pl.col("error")),
        as_percent("before", pl.col("intact")),
        as_text("harm", pl.col("damage"), 2),
        as_percents("interval", "low", "high"),
        *(as_text(name, pl.col(of), 2) for of, name in (("ratio", "size"), ("tau", "order")) if of in table.columns),
        intact_rule=pl.when(first).then("intact"),
        guess_rule=pl.when(first).then("guess"),
    )
    return as_rows(shown.drop("kind", "intact", "guess"))


# ----------------------------------------------------------------------------------------------------------- in words


def _block_words(table: pl.DataFrame) -> str:
    told = []
    for (panel,), part in table.group_by("panel", maintain_order=True):
        errors = part["error"]
        told.append(
            f"{panel}: {tenths(errors.min())} to {tenths(errors.max())}, with nothing deleted "  # type: ignore[arg-type]
            f"{tenths(part['intact'][0])}"
        )
    return f"Test error with one block deleted, mean over {seeds_in_words(table)}. {'. '.join(told)}."


def _line_words(table: pl.DataFrame, title: str) -> str:
    told = []
    for (panel, label), part in table.group_by("panel", "label", maintain_order=True):
        first, last = part.row(0, named=True), part.row(-1, named=True)
        told.append(
            f"{label}, {panel}: {tenths(first['error'])} with {first['k']}, {tenths(last['error'])} with {last['k']}"
        )
    return f"{title}, mean over {seeds_in_words(table)}. {'. '.join(told)}."
