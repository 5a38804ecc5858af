"""The charts of study `identity`: the block's picture, the law of its small weights, and what stacks learn of x -> x.

The tables are those of `skipscope.identity`; here they get their panels and the labels of their lines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import altair as alt
import polars as pl

from skipscope import identity
from skipscope.charts.look import (
    COLOURS,
    INK,
    LOG_LABELS,
    OTHERS,
    SHAPES,
    Shared,
    as_range,
    as_rows,
    as_text,
    facet,
    in_order,
    log_axis,
    seeds_in_words,
    tooltip,
    zoom,
)
from skipscope.errors import require_int
from skipscope.readings import Readings
from skipscope.words import number

__all__ = [
    "block_scales",
    "block_scales_data",
    "block_units",
    "block_units_data",
    "stack_errors",
    "stack_errors_data",
]

_PARTS = {"output": ("output y", OTHERS[0], "circle"), "branch": ("F(x)", OTHERS[1], "triangle-up")}
_SCALED = {"branch_ratio": "‖F(x)‖ / ‖x‖", "block_jacobian_minus_identity": "‖J − I‖ / ‖I‖"}
_RAISED = {1: "¹", 2: "²", 3: "³"}
_MORE = ((COLOURS["matched"], "triangle-up"), (COLOURS["twin"], "diamond"), ("#7A7A7A", "cross"))


def _legend(column: str, keys: Mapping[str, tuple[str, str]]) -> tuple[alt.Color, alt.Shape]:
    """The colour and the point of every name, with one legend for both."""
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, symbolSize=60)
    colours = alt.Scale(domain=list(keys), range=[colour for colour, _ in keys.values()])
    shapes = alt.Scale(domain=list(keys), range=[point for _, point in keys.values()])
    return alt.Color(f"{column}:N", scale=colours, legend=legend), alt.Shape(f"{column}:N", scale=shapes, legend=legend)


# --------------------------------------------------------------------------------------------------------- the picture


def block_units_data(readings: Readings, *, seed: int | None = None) -> pl.DataFrame:
    """What `block_units` draws: `skipscope.identity.unit_data`, one row a unit and part (output or branch).

    Raises:
        InputError: see `skipscope.identity.unit_data`.
    """
    table = identity.unit_data(readings, seed=seed)
    names = {name: told for name, (told, _, _) in _PARTS.items()}
    long = table.unpivot(list(_PARTS), index=["scale", "unit", "seed", "input"], variable_name="part")
    return long.with_columns(
        name=pl.col("part").replace_strict(names),
        panel=pl.col("scale").map_elements(lambda c: f"weights × {c:g}", pl.String),
    ).sort("scale", "part", "unit", descending=[True, False, False])


def block_units(readings: Readings, *, seed: int | None = None, columns: int = 5) -> alt.FacetChart:
    """The notebook's picture: every unit's output and branch against its input, a panel a scale of the weights.

    Args:
        readings: of study `identity`.
        seed: which draw; the first if not given.
        columns: panels in a row.

    Raises:
        InputError: the readings hold no units of a block, or not that seed.
    """
    table = block_units_data(readings, seed=seed)
    require_int("columns", columns, least=1)
    ends = max(float(str(table[name].abs().max())) for name in ("input", "value")) * 1.05
    scale = alt.Scale(domain=[-ends, ends], nice=False)
    x = alt.X("input:Q", title="input of the unit", scale=scale, axis=alt.Axis(tickCount=5))
    y: Shared = {"title": "output, and F(x)", "scale": scale, "axis": alt.Axis(tickCount=5)}
    colour, shape = _legend("name", {name: (colour, point) for name, colour, point in _PARTS.values()})
    points = alt.Chart().mark_point(filled=True, opacity=0.9, size=34, clip=True)
    points = points.encode(
        x=x,
        y=alt.Y("value:Q", **y),
        color=colour,
        shape=shape,
        tooltip=tooltip(panel="scale", unit_text="unit", input_text="input", name="what", value_text="value"),
    ).add_params(zoom(["x", "y"]))
    corner = alt.X("end:Q", title="input of the unit", scale=scale, axis=alt.Axis(tickCount=5))
    line = alt.Chart().mark_line(color=INK, opacity=0.5, strokeWidth=1, clip=True)
    first = pl.int_range(pl.len()).over("panel")
    rows = table.with_columns(
        # Two corners of every panel, joined by the line y = x.
        end=pl.when(first < 2).then((2 * first - 1) * ends),
        unit_text=pl.col("unit").cast(pl.String),
        input_text=as_text("input_text", pl.col("input")),
        value_text=as_text("value_text", pl.col("value")),
    ).select("panel", "name", "unit", "input", "value", "end", "unit_text", "input_text", "value_text")
    return facet(
        [line.encode(x=corner, y=alt.Y("end:Q", **y)), points],
        as_rows(rows),
        in_order(table["panel"]),
        columns=columns,
        title="A residual block with small weights: output against input",
        subtitle=[f"every unit of one draw (seed {table['seed'][0]}); line: output = input"],
        description=_units_in_words(table),
        size=(170, 170),
    )


def _units_in_words(table: pl.DataFrame) -> str:
    told = []
    for (panel,), part in table.filter(part="branch").group_by("panel", maintain_order=True):
        told.append(f"{panel}: F(x) is {number(float(str(part['value'].abs().max())), 2)} at most")
    return f"Output and branch of every unit of a residual block against its input. {'. '.join(told)}."


# ------------------------------------------------------------------------------------------------------------- the law


def block_scales_data(readings: Readings) -> pl.DataFrame:
    """What `block_scales` draws: `skipscope.identity.block_data` with `panel`, the quantity in words.

    Raises:
        InputError: the readings hold no block of this study.
    """
    table = identity.block_data(readings)
    several = table["width"].n_unique() > 1
    named = pl.col("quantity").replace_strict(_SCALED)
    panel = pl.format("{}, width {}", named, "width") if several else named
    return table.with_columns(panel=panel)


def block_scales(readings: Readings, *, columns: int = 2) -> alt.FacetChart:
    """How far the block is from the identity against the scale c of its weights, on two log axes.

    Args:
        readings: of study `identity`.
        columns: panels in a row.

    Raises:
        InputError: the readings hold no block of this study.
    """
    table = block_scales_data(readings)
    require_int("columns", columns, least=1)
    scales = sorted(table["scale"].unique().to_list())
    ends = [0.6 * scales[0], scales[-1] / 0.6]
    axis = alt.Axis(labelExpr=LOG_LABELS, values=scales, grid=False)
    x = alt.X(
        "scale:Q", title="scale c of the weights", scale=alt.Scale(type="log", domain=ends, nice=False), axis=axis
    )
    height: Shared = {"scale": alt.Scale(type="log"), "axis": alt.Axis(labelExpr=LOG_LABELS, tickCount=6)}
    y = {"title": "distance from the identity", **height}
    base = alt.Chart().encode(x=x)
    colour = COLOURS["residual"]
    points = base.mark_point(filled=True, opacity=1, size=50, color=colour, clip=True)
    told = tooltip(panel="what", scale_text="c", median="median", range="all draws", law_text="law", n_text="seeds")
    degree = table["degree"].drop_nulls()
    rows = table.with_columns(
        as_text("scale_text", pl.col("scale")),
        as_text("median", pl.col("q50")),
        as_range("range", "least", "most"),
        as_text("law_text", pl.col("law")),
        n_text=pl.col("n").cast(pl.String),
    ).select("panel", "scale", "least", "q50", "most", "law", "scale_text", "median", "range", "law_text", "n_text")
    return facet(
        [
            base.mark_area(opacity=0.25, color=colour, clip=True).encode(y=alt.Y("least:Q", **y), y2="most:Q"),
            base.mark_line(color=INK, strokeWidth=1.5, strokeDash=[6, 3], clip=True).encode(y=alt.Y("law:Q", **y)),
            points.encode(y=alt.Y("q50:Q", **y), tooltip=told).add_params(zoom(["x", "y"])),
        ],
        as_rows(rows),
        in_order(table["panel"]),
        columns=columns,
        title="How far the block is from the identity, by the scale of its weights",
        subtitle=[
            f"median of {seeds_in_words(table)}, band: all of them"
            + (f"; dashed: the law, c{_RAISED[int(degree[0])]}" if len(degree) else "")
        ],
        description=_scales_in_words(table),
        size=(300, 220),
    )


def _scales_in_words(table: pl.DataFrame) -> str:
    told = []
    for (panel,), part in table.group_by("panel", maintain_order=True):
        ends = [part.sort("scale").row(index, named=True) for index in (-1, 0)]
        told.append(f"{panel}: " + ", ".join(f"{number(row['q50'])} at c = {row['scale']:g}" for row in ends))
    return f"Distance of a residual block from the identity, by the scale c of its weights. {'. '.join(told)}."


# ---------------------------------------------------------------------------------------------------------- the stacks


def stack_errors_data(readings: Readings) -> pl.DataFrame:
    """What `stack_errors` draws: `skipscope.identity.error_data` with `panel`; what is infinite is null.

    Raises:
        InputError: see `skipscope.identity.error_data`.
    """
    table = identity.error_data(readings)
    finite = [pl.when(pl.col(name).is_finite()).then(name).alias(name) for name in ("q50", "low", "high")]
    return table.with_columns(*finite, panel=pl.lit("each design at its best learning rate"))


def stack_errors(readings: Readings) -> alt.FacetChart:
    """The held-out error of stacks that learn x -> x against their depth, a line a design.

    Raises:
        InputError: see `skipscope.identity.error_data`.
    """
    table = stack_errors_data(readings)
    depths = sorted(table["depth"].unique().to_list())
    ends = [0.9 * depths[0], 1.1 * depths[-1]]
    x = alt.X(
        "depth:Q",
        title="weight layers d",
        scale=alt.Scale(type="log", domain=ends, nice=False),
        axis=alt.Axis(values=depths, grid=False, format="d"),
    )
    drawn = pl.concat([table[name].drop_nulls() for name in ("q50", "low", "high")])
    positive = [value for value in drawn.to_list() if value > 0]
    domain = [0.8 * min([*positive, 0.5]), 1.25 * max([*positive, 1.0])]
    axis = log_axis(table.with_columns(q05="low"), "held-out error (1: always answers 0)")
    y: Shared = {**axis, "scale": alt.Scale(type="log", domain=domain, nice=False)}
    colour, shape = _legend("design", _keys(in_order(table["design"])))
    base = alt.Chart().encode(x=x, color=colour)
    told = tooltip(
        design="stack", depth_text="weight layers", error="held-out error", rate_text="learning rate", seeds="seeds"
    )
    points = base.mark_point(filled=True, opacity=1, size=50, clip=True).encode(
        y=alt.Y("q50:Q", **y), shape=shape, tooltip=told
    )
    rows = table.with_columns(
        as_range("error", "low", "high", "q50"),
        as_text("rate_text", pl.col("rate")),
        depth_text=pl.col("depth").cast(pl.String),
        seeds=pl.format("{}, {} lost", "n", "lost"),
        one=pl.when(pl.int_range(pl.len()) == 0).then(1.0),
    ).select(
        *("panel", "design", "depth", "q50", "low", "high", "one", "error", "rate_text", "depth_text", "seeds"),
    )
    return facet(
        [
            alt.Chart().mark_rule(color=INK, opacity=0.5).encode(y=alt.Y("one:Q", **y), size=alt.value(1)),
            base.mark_area(opacity=0.22, clip=True).encode(y=alt.Y("low:Q", **y), y2="high:Q"),
            base.mark_line(strokeWidth=1.8, clip=True).encode(y=alt.Y("q50:Q", **y)).add_params(zoom(["x", "y"])),
            points,
        ],
        as_rows(rows),
        in_order(table["panel"]),
        columns=1,
        title="Stacks that learn x → x: held-out error by depth",
        subtitle=[
            f"median of {seeds_in_words(table)} with its 95 % interval",
            *_not_drawn(table),
        ],
        description=_errors_in_words(table),
        size=(460, 280),
    )


def _keys(designs: list[str]) -> dict[str, tuple[str, str]]:
    """Colour and point of every design: its own, or the next one that is free."""
    more = iter(_MORE * len(designs))
    return {name: (COLOURS[name], SHAPES[name]) if name in ("plain", "residual") else next(more) for name in designs}


def _not_drawn(table: pl.DataFrame) -> list[str]:
    """Which points a log axis has no place for, and why."""
    lost = table.filter(pl.col("q50").is_null())
    told = ", ".join(f"{row['design']} at {row['depth']} layers" for row in lost.iter_rows(named=True))
    return [f"not drawn, for most were lost (loss no longer finite): {told}"] if told else []


def _errors_in_words(table: pl.DataFrame) -> str:
    told = []
    for (design,), part in table.group_by("design", maintain_order=True):
        values = [
            f"{'lost' if row['q50'] is None or math.isnan(row['q50']) else number(row['q50'], 2)} at {row['depth']}"
            for row in part.iter_rows(named=True)
        ]
        told.append(f"{design}: {', '.join(values)}")
    return f"Held-out mean squared error of stacks that learn x to x, by weight layers. {'. '.join(told)}."
