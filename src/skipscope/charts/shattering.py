"""The chart of study `correlation`: how alike the gradients at two inputs are, against depth.

The table is that of `skipscope.shattering`; here it gets its panels, one a norm, and the labels of its lines.
"""

from __future__ import annotations

import altair as alt
import polars as pl

from skipscope import shattering
from skipscope.charts.look import (
    INK,
    Rows,
    Shared,
    as_range,
    as_rows,
    as_text,
    design_places,
    facet,
    in_order,
    seeds_in_words,
    tooltip,
    zoom,
)
from skipscope.errors import InputError, require_int
from skipscope.readings import Readings
from skipscope.words import number

__all__ = ["correlation", "correlation_data"]

_NORMS = {"none": "no norm", "layer": "layer norm", "batch": "batch norm"}

_KEYS = (
    ("#D55E00", "circle"),
    ("#0072B2", "square"),
    ("#009E73", "triangle-up"),
    ("#CC79A7", "diamond"),
    ("#7A7A7A", "cross"),
)
"""Colour and point of every design, in order: a design has the same ones in every panel."""


def correlation_data(readings: Readings, *, site: str = "input") -> pl.DataFrame:
    """What `correlation` draws: `skipscope.shattering.correlation_data` with `panel` (the norm) and `label`.

    `halving` is kept only where it is the rule: in plain networks with batch normalisation.

    Raises:
        InputError: the readings hold none of this study at the site, or pairs of inputs of several kinds.
    """
    table = shattering.correlation_data(readings, site=site)
    if table["inputs"].n_unique() > 1:
        kinds = ", ".join(sorted(table["inputs"].unique()))
        raise InputError(f"these readings hold inputs of several kinds ({kinds}): draw each with readings.select.")
    several = table["width"].n_unique() > 1
    shown = table.with_columns(
        panel=pl.col("norm").replace_strict(_NORMS, default=pl.col("norm")),
        label=pl.struct("design", "norm", "order", "width").map_elements(
            lambda row: _label(**row) + (f", width {row['width']}" if several else ""), pl.String
        ),
        halving=pl.when((pl.col("norm") == "batch") & (pl.col("order") == "")).then(pl.col("halving")),
    )
    return shown.sort(pl.col("design").replace_strict(design_places(readings)), "width", "depth")


def _label(design: str, norm: str, order: str, width: int) -> str:
    """The design without its norm, which the panel says, and with its order if that is not the notebook's."""
    name = design.removesuffix(f", {norm} norm")
    return f"{name}, {order}" if order == "pre-activation" and name == "residual" else name


def correlation(readings: Readings, *, site: str = "input", columns: int = 3) -> alt.FacetChart:
    """The correlation of gradients between two inputs against depth, a panel a norm, a colour a design.

    Args:
        readings: of study `correlation`.
        site: where.
        columns: panels in a row.

    Raises:
        InputError: the readings hold none of this study at the site, or pairs of inputs of several kinds.
    """
    table = correlation_data(readings, site=site)
    require_int("columns", columns, least=1)
    regime = table["inputs"][0]
    halved = table["halving"].null_count() < table.height
    dashed = table["law"].null_count() < table.height
    return facet(
        _layers(table, dashed=dashed, halved=halved),
        _rows(table),
        in_order(table["panel"]),
        columns=columns,
        title=f"Correlation of gradients between two {regime} inputs, by depth"
        if not regime.startswith("cosine")
        else f"Correlation of gradients between two inputs of {regime}, by depth",
        subtitle=[
            f"mean cosine over {seeds_in_words(table)} with its 95 % interval"
            + ("; dashed: the law at infinite width" if dashed else "")
            + ("; dotted: a half a ReLU layer" if halved else "")
        ],
        description=_words(table),
        size=(270, 240),
    )


def _layers(table: pl.DataFrame, *, dashed: bool, halved: bool) -> list[alt.Chart]:
    depths = sorted(table["depth"].unique().to_list())
    ends = [0.9 * depths[0], 1.1 * depths[-1]]
    x = alt.X(
        "depth:Q",
        title="depth d",
        scale=alt.Scale(type="log", domain=ends, nice=False),
        axis=alt.Axis(values=depths, grid=False, format="d"),
    )
    height: Shared = {"title": "correlation", "scale": alt.Scale(zero=True), "axis": alt.Axis(tickCount=6)}

    def y(name: str) -> alt.Y:
        return alt.Y(f"{name}:Q", **height)

    names = in_order(table["label"])
    keys = [_KEYS[i % len(_KEYS)] for i in range(len(names))]
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, symbolSize=60)
    colours = alt.Scale(domain=names, range=[colour for colour, _ in keys])
    shapes = alt.Scale(domain=names, range=[point for _, point in keys])
    base = alt.Chart().encode(x=x, color=alt.Color("label:N", scale=colours, legend=legend))
    hover = tooltip(
        label="network",
        panel="norm",
        depth="depth",
        mean="correlation",
        interval="95 % interval",
        law_text="law",
        halving_text="a half a layer",
        n="seeds",
    )
    hovered = alt.selection_point(name="hover", on="pointerover", clear="pointerout", nearest=True, empty=False)
    points = base.mark_point(filled=True, opacity=1, clip=True).encode(
        y=y("correlation"),
        shape=alt.Shape("label:N", scale=shapes, legend=legend),
        tooltip=hover,
        size=alt.when(hovered).then(alt.value(120)).otherwise(alt.value(36)),
    )
    layers = [
        alt.Chart().mark_rule(color=INK, opacity=0.5).encode(y=y("zero"), size=alt.value(1)),
        base.mark_area(opacity=0.22, clip=True).encode(y=y("low"), y2="high:Q"),
        base.mark_line(strokeWidth=1.8, clip=True).encode(y=y("correlation")).add_params(zoom(["x", "y"])),
    ]
    if dashed:
        layers.append(base.mark_line(strokeWidth=1.5, strokeDash=[6, 3], clip=True).encode(y=y("law")))
    if halved:
        dotted = alt.Chart().mark_line(color=INK, strokeWidth=1.5, strokeDash=[2, 3], clip=True)
        layers.append(dotted.encode(x=x, y=y("halving"), detail="label:N"))
    return [*layers, points.add_params(hovered)]


def _rows(table: pl.DataFrame) -> Rows:
    return as_rows(
        table.with_columns(
            as_text("mean", pl.col("correlation")),
            as_range("interval", "low", "high"),
            as_text("law_text", pl.col("law")),
            as_text("halving_text", pl.col("halving")),
            zero=pl.when(pl.int_range(pl.len()).over("panel") == 0).then(0.0),  # one line a panel
        ).select(
            *("panel", "label", "design", "depth", "n", "correlation", "low", "high", "law", "halving", "zero"),
            *("mean", "interval", "law_text", "halving_text"),
        )
    )


def _words(table: pl.DataFrame) -> str:
    told = []
    for (panel, label), part in table.group_by("panel", "label", maintain_order=True):
        first, last = part.row(0, named=True), part.row(-1, named=True)
        told.append(
            f"{label}, {panel}: {number(first['correlation'])} at depth {first['depth']}, "
            f"{number(last['correlation'])} at depth {last['depth']}"
        )
    return (
        f"Mean cosine between gradients at two inputs ({table['inputs'][0]}), over {seeds_in_words(table)}. "
        f"{'. '.join(told)}."
    )
