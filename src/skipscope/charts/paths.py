"""Charts of study `highway`: by which way the gradient comes, and how long its paths are.

The tables are those of `skipscope.paths`; here they get their panels, a panel a cell.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from skipscope import paths
from skipscope.charts.look import (
    INK,
    OTHERS,
    Rows,
    Shared,
    as_ranges,
    as_rows,
    as_text,
    bands,
    depth_axis,
    facet,
    in_order,
    medians,
    seeds_in_words,
    tooltip,
    zoom,
)
from skipscope.errors import require_int
from skipscope.readings import Readings
from skipscope.words import number

__all__ = ["path_lengths", "path_lengths_data", "shares", "shares_data"]

_PARTS = {"shortcut": (OTHERS[0], "square"), "branch": (OTHERS[1], "circle")}
"""Colour and point of the two ways."""

_ESTIMATES = {"median draw": OTHERS[0], "all draws, by energy": OTHERS[1]}

_BEYOND = (-0.5, 1.5)
"""Where the bands of the weights are cut off, in units of the highest line: single draws may swing far beyond."""


# -------------------------------------------------------------------------------------------------------------- panels


def _panelled(table: pl.DataFrame) -> pl.DataFrame:
    """The table with the name of each cell's panel: what of order, gain, norm, design and depth differs."""
    table = table.sort(_place(), maintain_order=True)
    cells = table.select("cell", "design", "order", "gain", "norm", "depth", "width").unique(maintain_order=True)
    differing = [name for name in cells.columns[1:] if cells[name].n_unique() > 1 or name in ("order", "gain")]
    named = {row["cell"]: _named(row, differing) for row in cells.to_dicts()}
    if len(set(named.values())) < len(named):
        named = {cell: f"{name} ({cell})" for cell, name in named.items()}
    return table.with_columns(panel=pl.col("cell").replace_strict(named))


def _place() -> pl.Expr:
    """Orders as the docs have them, the larger gain first."""
    orders = {"before-add": 0, "after-add": 1, "pre-activation": 2}
    norms = {"none": 0, "layer": 1, "batch": 2}
    return pl.struct(
        "design",
        pl.col("norm").replace_strict(norms, default=len(norms)),
        pl.col("order").replace_strict(orders, default=len(orders)),
        "gain",
        "depth",
    )


def _named(row: dict[str, Any], differing: list[str]) -> str:
    return ", ".join(filter(None, (_told(name, row[name]) for name in differing)))


def _told(name: str, value: Any) -> str:
    """A factor in words; empty where it says nothing."""
    if value in (None, ""):
        return ""
    if name == "gain":
        shortcut, _, branch = str(value).partition(", ")
        gains = [text.removesuffix(".0") for text in (shortcut, branch)]
        return f"gain {gains[1]}" if gains[0] == "1" else f"gains {gains[0]} and {gains[1]}"
    if name == "norm":
        return "no norm" if value == "none" else f"{value} norm"
    return str(value) if name in ("design", "order") else f"{name} {value}"


# -------------------------------------------------------------------------------------------------------------- shares


def shares_data(readings: Readings) -> pl.DataFrame:
    """What `shares` draws: `skipscope.paths.shares_data` with the column `panel`, and the law only where it holds.

    Raises:
        InputError: there are no such readings.
    """
    table = _panelled(paths.shares_data(readings))
    return table.with_columns(law=pl.when(pl.col("refusal") == "").then(pl.col("law")))


def shares(readings: Readings, *, columns: int = 2) -> alt.FacetChart:
    """The shares of the gradient at every junction, over seeds, a panel a cell.

    Args:
        readings: of study `highway`.
        columns: panels in a row.

    Raises:
        InputError: there are no such readings.
    """
    table = shares_data(readings)
    require_int("columns", columns, least=1)
    y: Shared = {"title": "share of the gradient", "scale": alt.Scale(zero=False), "axis": alt.Axis(tickCount=5)}
    x = depth_axis(table["block"], "block", "block")
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, symbolSize=60)
    scale = alt.Scale(domain=list(_PARTS), range=[colour for colour, _ in _PARTS.values()])
    points = alt.Scale(domain=list(_PARTS), range=[point for _, point in _PARTS.values()])
    base = alt.Chart().encode(x=x, color=alt.Color("part:N", scale=scale, legend=legend))
    hover = tooltip(
        panel="network",
        part="through the",
        block="block",
        median="median",
        half="25 to 75 %",
        most="5 to 95 %",
        law_text="law",
        n="seeds",
    )
    drawn = medians(base, y, alt.Shape("part:N", scale=points, legend=legend), hover)
    law = alt.Chart().mark_line(color=INK, strokeWidth=1.5, strokeDash=[6, 3], clip=True)
    dashed = law.encode(x=x, y=alt.Y("law:Q", **y), detail="part:N")
    rows = as_rows(
        table.with_columns(as_text("median", pl.col("q50")), *as_ranges(), as_text("law_text", pl.col("law")))
    )
    return facet(
        [*bands(base, y), *drawn, *([dashed] if _has_law(table) else [])],
        rows,
        in_order(table["panel"]),
        columns=columns,
        title="Which way the gradient comes, junction by junction",
        subtitle=[
            f"median over {seeds_in_words(table)} with bands 25 to 75 % and 5 to 95 %"
            + ("; dashed: the law, where it holds" if _has_law(table) else "")
        ],
        description=_share_words(table),
    )


def _has_law(table: pl.DataFrame) -> bool:
    return table["law"].null_count() < table.height


def _share_words(table: pl.DataFrame) -> str:
    told = []
    for (panel,), part in table.filter(pl.col("part") == "branch").group_by("panel", maintain_order=True):
        first, last = part.row(0, named=True), part.row(-1, named=True)
        told.append(
            f"{panel}: median share through the branch {number(first['q50'])} in block {first['block']}, "
            f"{number(last['q50'])} in block {last['block']}"
        )
    return f"Shares of the gradient at every junction, over {seeds_in_words(table)}. {'. '.join(told)}."


# ------------------------------------------------------------------------------------------------------------- lengths


def path_lengths_data(readings: Readings) -> pl.DataFrame:
    """What `path_lengths` draws: `skipscope.paths.paths_data` with the column `panel`, and the law only where it holds.

    Raises:
        InputError: there are no such readings.
    """
    table = _panelled(paths.paths_data(readings))
    return table.with_columns(law=pl.when(pl.col("refusal") == "").then(pl.col("law")))


def path_lengths(readings: Readings, *, columns: int = 2) -> alt.FacetChart:
    """Which part of the gradient came through how many branches, a panel a cell.

    The median draw with its bands, all draws weighted by their energy, the binomial law where its conditions are met,
    and as bars the share of the *number* of paths. Bands end half the height of the highest line below 0 and
    above it.

    Args:
        readings: of study `highway`.
        columns: panels in a row.

    Raises:
        InputError: there are no such readings.
    """
    table = path_lengths_data(readings)
    require_int("columns", columns, least=1)
    misfit = paths.misfit_data(readings)
    x = depth_axis(table["length"], "length", "branches that a path passes")
    y: Shared = {"title": "share of the gradient", "scale": alt.Scale(nice=False), "axis": alt.Axis(tickCount=5)}
    return facet(
        [*_count(x, y, table), *_measured(x, y), *_laws(x, y, table), _note_layer()],
        _length_rows(table, misfit),
        in_order(table["panel"]),
        columns=columns,
        title="How many branches the gradient came through",
        subtitle=[
            f"median over {seeds_in_words(table)} with bands 25 to 75 % and 5 to 95 %; grey bars: the number of paths",
            "dashed: the binomial law, where its conditions are met; m: mean length of the median draw",
        ],
        description=_length_words(table, misfit),
        independent=True,
    )


def _count(x: alt.X, y: Shared, table: pl.DataFrame) -> list[alt.Chart]:
    width = max(1.0, 0.8 * 320 / (1 + int(str(table["length"].max()))))
    bars = alt.Chart().mark_bar(color="#7A7A7A", opacity=0.35, clip=True, size=width)
    return [bars.encode(x=x, y=alt.Y("count:Q", **y), y2=alt.datum(0))]


def _measured(x: alt.X, y: Shared) -> list[alt.Chart]:
    scale = alt.Scale(domain=list(_ESTIMATES), range=list(_ESTIMATES.values()))
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=3, symbolOpacity=1)
    key = alt.Color("estimate:N", scale=scale, legend=legend)
    median, pooled = (
        alt.Chart().transform_calculate(estimate=f"'{name}'").encode(x=x, color=key) for name in _ESTIMATES
    )
    line = pooled.mark_line(strokeWidth=1.8, clip=True).encode(y=alt.Y("pooled:Q", **y))
    hover = tooltip(
        panel="network",
        length="branches",
        median="median draw",
        half="25 to 75 %",
        most="5 to 95 %",
        pooled_text="all draws, by energy",
        law_text="law",
        count_text="share of the number of paths",
    )
    hovered = alt.selection_point(name="hover", on="pointerover", clear="pointerout", nearest=True, empty=False)
    points = median.mark_point(filled=True, opacity=1, clip=True).encode(
        y=alt.Y("q50:Q", **y), tooltip=hover, size=alt.when(hovered).then(alt.value(90)).otherwise(alt.value(10))
    )
    typical = median.mark_line(strokeWidth=1.5, clip=True).encode(y=alt.Y("q50:Q", **y))
    return [*bands(median, y), typical.add_params(zoom(["x", "y"])), line, points.add_params(hovered)]


def _laws(x: alt.X, y: Shared, table: pl.DataFrame) -> list[alt.Chart]:
    if not _has_law(table):
        return []
    line = alt.Chart().mark_line(color=INK, strokeWidth=1.5, strokeDash=[6, 3], clip=True)
    # Every panel has a scale of its own, and that of a line without values would have no ends: it is drawn, unseen.
    seen = alt.when("isValid(datum.law)").then(alt.value(1)).otherwise(alt.value(0))
    known = line.transform_calculate(drawn="isValid(datum.law) ? datum.law : 0")
    return [known.encode(x=x, y=alt.Y("drawn:Q", **y), opacity=seen)]


def _note_layer() -> alt.Chart:
    """In the corner of every panel the mean length, beside the law's."""
    shown = alt.Chart().transform_filter("isValid(datum.told)")
    note = shown.mark_text(color=INK, fontSize=11, align="right", baseline="top", x="width", dx=-4, y=4, lineBreak="\n")
    drawn: alt.Chart = note.encode(text="told:N")
    return drawn


def _length_rows(table: pl.DataFrame, misfit: pl.DataFrame) -> Rows:
    told = {row["cell"]: _note(row) for row in misfit.filter(pl.col("estimate") == "typical").to_dicts()}
    peak = pl.max_horizontal("q50", "pooled", "law").max().over("cell")
    cut = [pl.col(name).clip(_BEYOND[0] * peak, _BEYOND[1] * peak) for name in ("q05", "q25", "q75", "q95")]
    return as_rows(
        table.with_columns(
            as_text("median", pl.col("q50")),
            *as_ranges(),
            as_text("pooled_text", pl.col("pooled")),
            as_text("law_text", pl.col("law")),
            as_text("count_text", pl.col("count")),
            told=pl.when(pl.col("length") == 0).then(pl.col("cell").replace_strict(told)),
        )
        .with_columns(cut)
        .drop("refusal", "design", "order", "gain", "norm", "depth", "width", "median_low", "median_high")
    )


def _note(row: dict[str, Any]) -> str:
    said = f"m = {number(row['mean'])}"
    return f"{said}, no law" if row["refusal"] else f"{said}, law {number(row['law_mean'])}"


def _length_words(table: pl.DataFrame, misfit: pl.DataFrame) -> str:
    panels = dict(table.select("cell", "panel").unique().iter_rows())
    told = [
        f"{panels[row['cell']]}: in the median draw {number(row['mean'])} of {row['junctions']} branches in the mean, "
        + ("no law" if row["refusal"] else f"the law says {number(row['law_mean'])}")
        for row in misfit.filter(pl.col("estimate") == "typical").to_dicts()
    ]
    return f"Share of the gradient by the number of branches passed, over {seeds_in_words(table)}. {'. '.join(told)}."
