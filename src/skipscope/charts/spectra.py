"""The chart of study `jacobian`: singular values against depth, a panel a design.

The table is that of `skipscope.spectra`; here it gets its panels.
"""

from __future__ import annotations

import math
from typing import Literal

import altair as alt
import polars as pl

from skipscope import spectra
from skipscope.charts.look import (
    INK,
    LOG_LABELS,
    OTHERS,
    Rows,
    Shared,
    as_range,
    as_rows,
    as_text,
    depth_axis,
    design_places,
    facet,
    in_order,
    require_rows,
    seeds_in_words,
    tooltip,
    zoom,
)
from skipscope.errors import quoted, require_int, require_type
from skipscope.summary import Summary
from skipscope.words import number

__all__ = ["CURVES", "FLOOR", "spectrum", "spectrum_data"]

FLOOR = 1e-6
"""What is smaller is not drawn, as the axis to it would flatten all that is near 1: a line in the panel says it."""

CURVES = {
    "sigma_max": ("largest", OTHERS[1], "triangle-up"),
    "rms": ("root mean square", OTHERS[2], "circle"),
    "sigma_median": ("median", OTHERS[0], "square"),
    "sigma_min": ("smallest", OTHERS[3], "triangle-down"),
}
"""The curves: in words, colour and point."""


def spectrum_data(summary: Summary, part: Literal["network", "body"] = "body") -> pl.DataFrame:
    """What `spectrum` draws: `skipscope.spectra.spectrum_data` of one part, with `panel` and `name` (of the curve).

    Raises:
        InputError: the summary holds no readings of this study, or none of that part.
    """
    known = spectra.spectrum_data(summary)
    require_type("part", part, str, "body or network")
    table = known.filter(pl.col("part") == part)
    require_rows(table, f"part {quoted(part)} was not measured; measure it with studies.jacobian(parts=...).")
    widths = table["width"].n_unique() > 1
    panel = pl.format("{}, width {}", "design", "width") if widths else pl.col("design")
    names = {curve: name for curve, (name, _, _) in CURVES.items()}
    places = {curve: place for place, curve in enumerate(CURVES)}
    return table.with_columns(panel=panel, name=pl.col("curve").replace_strict(names)).sort(
        pl.col("design").replace_strict(design_places(summary.readings)),
        "width",
        pl.col("curve").replace_strict(places),
        "depth",
    )


def spectrum(summary: Summary, part: Literal["network", "body"] = "body", *, columns: int = 2) -> alt.FacetChart:
    """Singular values against depth, a panel a design: medians over seeds with the band of 25 to 75 %.

    The axis is logarithmic: a line in the panel says which median is 0, or below `FLOOR`, and so not drawn.

    Args:
        summary: of readings of study `jacobian`.
        part: whose Jacobian, the network's or its body's.
        columns: panels in a row.

    Raises:
        InputError: the summary holds no readings of this study, or none of that part.
    """
    table = spectrum_data(summary, part)
    require_int("columns", columns, least=1)
    axis = alt.Axis(labelExpr=LOG_LABELS, tickCount=6)
    y: Shared = {"title": "singular value", "scale": _scale(table), "axis": axis}
    x = depth_axis(table["depth"], "depth", "depth d")
    rule = alt.Chart().mark_rule(color=INK, opacity=0.5, clip=True).encode(y=alt.Y("one:Q", **y), size=alt.value(1))
    return facet(
        [rule, *_curves(x, y), *_law(x, y, table), *_zeros()],
        _rows(table),
        in_order(table["panel"]),
        columns=columns,
        title=f"Singular values of the {part}'s Jacobian, by depth",
        subtitle=[
            f"median over {seeds_in_words(table)} with band 25 to 75 %; line at 1: nothing is stretched"
            + ("; dashed: the law of the root mean square" if _has_law(table) else "")
        ],
        description=_words(table, part),
        size=(320, 200),
    )


def _scale(table: pl.DataFrame) -> alt.Scale:
    """All that is drawn, and below it room for the notes, where there are any."""
    drawn = pl.concat([table[name].drop_nulls() for name in ("q25", "q50", "q75", "law")])
    positive = drawn.filter(drawn >= FLOOR)
    if positive.is_empty():
        return alt.Scale(type="log")
    low, high = (math.log10(float(str(end))) for end in (min(positive.min(), 1.0), max(positive.max(), 1.0)))  # type: ignore[type-var]
    lines = max((len((_zero(part) or "").split("; ")) for _, part in table.group_by("panel") if _zero(part)), default=0)
    span = max(high - low, 0.5)
    low -= span * (0.05 + 0.09 * lines)
    return alt.Scale(
        type="log", domain=[float(f"{10**low:.3g}"), float(f"{10 ** (high + 0.05 * span):.3g}")], nice=False
    )


def _has_law(table: pl.DataFrame) -> bool:
    return table["law"].null_count() < table.height


def _curves(x: alt.X, y: Shared) -> list[alt.Chart]:
    domain = [name for name, _, _ in CURVES.values()]
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, symbolSize=60)
    colours = alt.Scale(domain=domain, range=[colour for _, colour, _ in CURVES.values()])
    shapes = alt.Scale(domain=domain, range=[point for _, _, point in CURVES.values()])
    base = alt.Chart().encode(x=x, color=alt.Color("name:N", scale=colours, legend=legend))
    # What is 0 at 25 % has no band there: a log axis has no place for it.
    band = base.transform_filter("isValid(datum.q25)").mark_area(opacity=0.25, clip=True)
    hover = tooltip(
        panel="network",
        depth="depth",
        name="singular value",
        median="median",
        half="25 to 75 %",
        law_text="law",
        zeros="draws in which it is 0",
        n="seeds",
    )
    hovered = alt.selection_point(name="hover", on="pointerover", clear="pointerout", nearest=True, empty=False)
    points = base.mark_point(filled=True, opacity=1, clip=True).encode(
        y=alt.Y("q50:Q", **y),
        shape=alt.Shape("name:N", scale=shapes, legend=legend),
        tooltip=hover,
        size=alt.when(hovered).then(alt.value(120)).otherwise(alt.value(36)),
    )
    line = base.mark_line(strokeWidth=1.8, clip=True).encode(y=alt.Y("q50:Q", **y))
    return [
        band.encode(y=alt.Y("q25:Q", **y), y2="q75:Q"),
        line.add_params(zoom(["x", "y"])),
        points.add_params(hovered),
    ]


def _law(x: alt.X, y: Shared, table: pl.DataFrame) -> list[alt.Chart]:
    line = alt.Chart().mark_line(color=INK, strokeWidth=1.5, strokeDash=[6, 3], clip=True)
    return [line.encode(x=x, y=alt.Y("law:Q", **y), detail="name:N")] if _has_law(table) else []


def _zeros() -> list[alt.Chart]:
    """At the bottom of a panel: which curves are 0 in the median draw, a line a curve."""

    def note(line: int) -> alt.Chart:
        shown = alt.Chart().transform_filter(f"isValid(datum.told) && split(datum.told, '; ').length > {line}")
        text = shown.transform_calculate(line=f"split(datum.told, '; ')[{line}]").mark_text(
            color=INK, fontSize=11, align="left", baseline="bottom", x=4, y="height", dy=-4 - 13 * line
        )
        drawn: alt.Chart = text.encode(text="line:N")
        return drawn

    return [note(line) for line in range(2 * len(CURVES))]


def _rows(table: pl.DataFrame) -> Rows:
    told = {panel: _zero(part) for (panel,), part in table.group_by("panel")}
    first = pl.int_range(pl.len()).over("panel") == 0
    drawn = [pl.when(pl.col(name) >= FLOOR).then(pl.col(name)).alias(name) for name in ("q25", "q50", "q75")]
    return as_rows(
        table.with_columns(
            as_text("median", pl.col("q50")),
            as_range("half", "q25", "q75"),
            as_text("law_text", pl.col("law")),
            told=pl.when(first).then(pl.col("panel").replace_strict(told, return_dtype=pl.String)),
            one=pl.when(first).then(1.0),
        )
        .with_columns(drawn)
        .select(
            "panel",
            "depth",
            "name",
            "q25",
            "q50",
            "q75",
            "law",
            "n",
            "zeros",
            "median",
            "half",
            "law_text",
            "told",
            "one",
        )
    )


def _zero(panel: pl.DataFrame) -> str | None:
    """Where the median of a curve is 0 or below `FLOOR`, a line a curve, from below."""
    told = []
    for (name,), part in panel.group_by("name", maintain_order=True):
        zero = part.filter(pl.col("q50") == 0)["depth"].to_list()
        if zero:
            where = "at all depths" if len(zero) == part.height else f"at d = {', '.join(map(str, zero))}"
            told.append(f"{name} is 0 {where}")
        below = part.filter(pl.col("q50") > 0, pl.col("q50") < FLOOR)
        if below.height:
            values = ", ".join(f"{number(row['q50'], 2)} at d = {row['depth']}" for row in below.iter_rows(named=True))
            told.append(f"{name}, not drawn: {values}")
    return "; ".join(told[::-1]) or None


def _words(table: pl.DataFrame, part: str) -> str:
    deepest = table.filter(pl.col("depth") == pl.col("depth").max().over("panel"))
    told = []
    for (panel,), rows in deepest.group_by("panel", maintain_order=True):
        values = ", ".join(f"{row['name']} {number(row['q50'])}" for row in rows.iter_rows(named=True))
        told.append(f"{panel} at depth {rows['depth'][0]}: {values}")
    return (
        f"Singular values of the {part}'s Jacobian against depth, medians over {seeds_in_words(table)}. "
        f"{'. '.join(told)}."
    )
