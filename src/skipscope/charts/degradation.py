"""The charts of study `degradation`: learning curves as in He et al. 2015 (Fig. 1 and 6), and the gradient beside them.

The tables are those of `skipscope.degradation`; here they get their panels and the labels of their lines. In charts
over steps the colour is the depth, and the panel says design and norm; against depth the colour is the design's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from skipscope import degradation
from skipscope.charts.look import (
    COLOURS,
    INK,
    OTHERS,
    PERCENT,
    SHAPES,
    Rows,
    Shared,
    as_range,
    as_rows,
    as_text,
    capital,
    facet,
    in_order,
    log_axis,
    require_rows,
    seeds_in_words,
    tooltip,
    zoom,
)
from skipscope.errors import choose, require_int
from skipscope.readings import Readings
from skipscope.words import number, percent

__all__ = [
    "error_by_depth",
    "error_by_depth_data",
    "error_curves",
    "gradient_curves",
    "gradient_curves_data",
    "learning_curves",
    "learning_curves_data",
]

_NORMS = {"none": "no norm", "batch": "batch norm", "layer": "layer norm"}
_PARTS = {"train_error": "training", "test_error": "test"}
_DEPTHS = OTHERS
"""Of the networks from the shallowest on; the number of layers stands at the end of each line, for those who see no
colours."""

_GRADIENTS = {
    "gradient_norm": "gradient norm (loss per parameter)",
    "factor": "gradient norm, first block / last",
}


def _panels(table: pl.DataFrame) -> pl.DataFrame:
    """With `panel` (design and norm) and `label` (layers)."""
    return table.with_columns(
        panel=pl.format("{}, {}", "design", pl.col("norm").replace(_NORMS)),
        label=pl.format("{} layers", "layers"),
    )


# ------------------------------------------------------------------------------------------------------- over the steps


def learning_curves_data(readings: Readings) -> pl.DataFrame:
    """What `learning_curves` draws: `skipscope.degradation.curves` of both errors, with `part`, `panel` and `label`.

    Raises:
        InputError: the readings are not of study `degradation`.
    """
    both = pl.concat([degradation.curves(readings, quantity) for quantity in _PARTS])
    return _panels(both.with_columns(part=pl.col("quantity").replace_strict(_PARTS)))


def learning_curves(readings: Readings, *, columns: int = 2) -> alt.FacetChart:
    """Training error (thin, dashed) and test error (bold) over the steps: a panel a design and norm, a colour a depth.

    Args:
        readings: of study `degradation`.
        columns: panels in a row.

    Raises:
        InputError: the readings are not of study `degradation`.
    """
    table = learning_curves_data(readings)
    told = f"mean of {seeds_in_words(table)}, with its 95 % interval"
    return error_curves(table, told, columns=require_int("columns", columns, least=1))


def error_curves(table: pl.DataFrame, told: str, *, columns: int) -> alt.FacetChart:
    """Training and test error over the steps, with that of a validation part, of any study's table that has them.

    Args:
        table: columns `panel`, `label`, `layers`, `part` (training, validation or test), `step`, `n`, and of the error
            `mean`, `low` and `high`: the line, and the band around it.
        told: what the line and the band are.
        columns: panels in a row.
    """
    height = _errors(table)
    x, colours = _steps(table), _depths(table)
    base = alt.Chart().encode(x=x, color=colours, detail="part:N")
    y = alt.Y("mean:Q", **height)
    train, held, test = (base.transform_filter(f"datum.part === '{part}'") for part in _LOOKS)
    validated = "validation" in set(table["part"])
    dots = {"size": 30} if table["step"].n_unique() == 1 else False  # a line of one point is none
    layers = [
        base.mark_area(opacity=0.15, clip=True).encode(y=alt.Y("low:Q", **height), y2="high:Q"),
        train.mark_line(strokeWidth=1.1, strokeDash=[4, 2], clip=True, point=dots).encode(y=y),
        *([held.mark_line(strokeWidth=1.6, strokeDash=[1, 3], clip=True, point=dots).encode(y=y)] if validated else []),
        test.mark_line(strokeWidth=2.2, clip=True, point=dots).encode(y=y).add_params(zoom(["x", "y"])),
        _ends(y),
        _points(base, y, part="error", value="error"),
    ]
    return facet(
        layers,
        _curve_rows(table, part=pl.col("part")),
        in_order(table["panel"]),
        columns=columns,
        title=f"Training{', validation' if validated else ''} and test error over the steps",
        subtitle=["; ".join([f"{look}: {part}" for part, look in _looks(table).items()] + [told])],
        description=_curve_words(table.filter(part="training"), "Training error", percent),
    )


_LOOKS = {"training": "thin, dashed", "validation": "dotted", "test": "bold"}


def _looks(table: pl.DataFrame) -> dict[str, str]:
    """How the line of each part that there is looks."""
    return {part: look for part, look in _LOOKS.items() if part in set(table["part"])}


def gradient_curves_data(readings: Readings, quantity: str = "gradient_norm") -> pl.DataFrame:
    """What `gradient_curves` draws: `skipscope.degradation.curves` of the quantity, with `panel` and `label`.

    Raises:
        InputError: there is no such quantity, or the readings are not of study `degradation`.
    """
    choose("quantity", quantity, _GRADIENTS)
    return _panels(degradation.curves(readings, quantity))


def gradient_curves(readings: Readings, quantity: str = "gradient_norm", *, columns: int = 2) -> alt.FacetChart:
    """A gradient over the steps, on a log axis: a panel a design and norm, a colour a depth.

    Args:
        readings: of study `degradation`.
        quantity: `gradient_norm`, of the gradient by all parameters; or `factor`, by which the gradient's norm changes
            from the last block back to the first.
        columns: panels in a row.

    Raises:
        InputError: there is no such quantity, or the readings are not of study `degradation`.
    """
    table = require_rows(gradient_curves_data(readings, quantity), "no gradient that arrives is finite.")
    title = _GRADIENTS[quantity]
    height = log_axis(table.select(pl.col("low").alias("q05"), pl.col("mean").alias("q50")), title)
    base = alt.Chart().encode(x=_steps(table), color=_depths(table))
    y = alt.Y("mean:Q", **height)
    layers = [
        base.mark_area(opacity=0.15, clip=True).encode(y=alt.Y("low:Q", **height), y2="high:Q"),
        base.mark_line(strokeWidth=1.8, clip=True, point={"size": 12}).encode(y=y).add_params(zoom(["x", "y"])),
        _ends(y),
        _points(base, y, value="geometric mean"),
    ]
    if quantity == "factor":
        one = alt.Chart().mark_rule(color=INK, opacity=0.6, strokeDash=[6, 3]).encode(y=alt.Y("one:Q", **height))
        layers.insert(0, one)
    return facet(
        layers,
        _curve_rows(table, one=pl.when(pl.int_range(pl.len()).over("panel") == 0).then(1.0)),
        in_order(table["panel"]),
        columns=require_int("columns", columns, least=1),
        title=f"{capital(title)}, over the steps",
        subtitle=[f"geometric mean over {seeds_in_words(table)} in which a gradient arrives, with its 95 % interval"],
        description=_curve_words(table, capital(title), number),
    )


def _errors(table: pl.DataFrame) -> Shared:
    """From 0 to the next whole tenth above all intervals, which may go beyond what an error can be: not the axis."""
    largest = max(float(str(table[name].max() or 0.0)) for name in ("mean", "high"))
    scale = alt.Scale(domain=[0, min(1.0, math.ceil(10 * largest + 0.1) / 10)], nice=False)
    return {"title": "share of samples told wrong", "scale": scale, "axis": alt.Axis(labelExpr=PERCENT, tickCount=6)}


def _steps(table: pl.DataFrame) -> alt.X:
    """Up to a little beyond the last step, where the number of layers stands."""
    last = max(1, int(str(table["step"].max())))
    end = 1.14 * last
    return alt.X(
        "step:Q",
        title="step",
        scale=alt.Scale(domain=[0, float(f"{end:.4g}")], nice=False),
        axis=alt.Axis(grid=False, tickCount=min(6, last), tickMinStep=1, format="d"),
    )


def _depths(table: pl.DataFrame) -> alt.Color:
    labels = in_order(table.sort("layers")["label"])
    colours = [_DEPTHS[i % len(_DEPTHS)] for i in range(len(labels))]
    legend = alt.Legend(
        title=None, orient="top", symbolOpacity=1, symbolSize=160, symbolType="stroke", symbolStrokeWidth=3
    )
    return alt.Color("label:N", scale=alt.Scale(domain=labels, range=colours), legend=legend)


def _ends(y: alt.Y) -> alt.Chart:
    """The number of layers at the end of a line."""
    text = alt.Chart().mark_text(align="left", dx=4, fontSize=10, color=INK)
    drawn: alt.Chart = text.encode(x="step:Q", y=y, text="end:N")
    return drawn


def _points(base: alt.Chart, y: alt.Y, **titles: str) -> alt.Chart:
    """Points that only the pointer shows: the nearest one says what it is."""
    hovered = alt.selection_point(name="hover", on="pointerover", clear="pointerout", nearest=True, empty=False)
    value = titles.pop("value")
    hover = tooltip(
        label="network", panel="design", **titles, step_text="step", mean_text=value, interval="95 %", n="n"
    )
    points = base.mark_point(filled=True, clip=True, size=60).encode(
        y=y, tooltip=hover, opacity=alt.when(hovered).then(alt.value(1)).otherwise(alt.value(0))
    )
    drawn: alt.Chart = points.add_params(hovered)
    return drawn


def _curve_rows(table: pl.DataFrame, **more: pl.Expr) -> Rows:
    last = pl.col("step") == pl.col("step").max().over("panel", "label")
    bold = last & (pl.col("part") == "test") if "part" in table.columns else last
    logarithmic = "part" not in table.columns
    ends = pl.DataFrame(_merged(table.filter(bold), logarithmic), schema=[*_LINE, ("end", pl.String)], orient="row")
    return as_rows(
        table.join(ends, on=["panel", "label"], how="left", maintain_order="left")
        .with_columns(
            as_text("mean_text", pl.col("mean")),
            as_range("interval", "low", "high"),
            step_text=pl.col("step").cast(pl.String),
            end=pl.when(bold).then(pl.col("end")).fill_null(""),
            **more,
        )
        .select(
            *("panel", "label", "step", "n", "mean", "low", "high", "end", "mean_text", "interval", "step_text"),
            *more,
        )
    )


_LINE = (("panel", pl.String), ("label", pl.String))
_NEAR = 0.05
"""Lines that end nearer to each other than this share of the axis have one label together."""


def _merged(ends: pl.DataFrame, logarithmic: bool) -> list[tuple[str, str, str]]:
    """What stands at the end of every line (panel, label): its layers, with those of its neighbours."""
    height = pl.col("mean").log() if logarithmic else pl.col("mean")
    heights = ends.select("panel", "label", "layers", "step", height=height).sort("panel", "step", "height")
    near = _NEAR * max(1e-9, float(str(heights["height"].max())) - float(str(heights["height"].min())))
    found: list[tuple[str, str, str]] = []
    before: tuple[str, int, float] | None = None
    for panel, label, layers, step, at in heights.iter_rows():
        if before is not None and before[:2] == (panel, step) and at - before[2] < near:
            neighbour, name, said = found.pop()
            found += [(neighbour, name, ""), (panel, label, f"{said}, {layers}")]
        else:
            found.append((panel, label, str(layers)))
        before = (panel, step, at)
    return found


def _curve_words(table: pl.DataFrame, what: str, said: Any) -> str:
    told = []
    for (panel, label), part in table.group_by("panel", "label", maintain_order=True):
        first, last = part.row(0, named=True), part.row(-1, named=True)
        told.append(f"{panel}, {label}: {said(first['mean'])}, after {last['step']} steps {said(last['mean'])}")
    return f"{what} over the steps, {seeds_in_words(table)}. {'. '.join(told)}."


# -------------------------------------------------------------------------------------------------------- against depth


def error_by_depth_data(readings: Readings) -> pl.DataFrame:
    """What `error_by_depth` draws: `skipscope.degradation.final` of both errors, with `panel` (part and norm).

    Raises:
        InputError: the readings are not of study `degradation`.
    """
    table = degradation.final(readings).filter(pl.col("quantity").is_in(list(_PARTS)))
    places = {name: i for i, name in enumerate(in_order(table["norm"]))}
    return table.with_columns(
        panel=pl.format("{} error, {}", pl.col("quantity").replace_strict(_PARTS), pl.col("norm").replace(_NORMS)),
        label=pl.col("design"),
    ).sort(
        pl.col("norm").replace_strict(places),
        pl.col("quantity").replace_strict({name: i for i, name in enumerate(_PARTS)}),
        maintain_order=True,
    )


def error_by_depth(readings: Readings, *, columns: int = 2) -> alt.FacetChart:
    """The error after the last step against the number of layers: a panel for training and test, a colour a design.

    Args:
        readings: of study `degradation`.
        columns: panels in a row.

    Raises:
        InputError: the readings are not of study `degradation`.
    """
    table = error_by_depth_data(readings)
    layers = sorted(table["layers"].unique().to_list())
    x = alt.X(
        "layers:Q",
        title="weight layers",
        scale=alt.Scale(domain=[0, float(f"{1.05 * layers[-1]:.4g}")], nice=False),
        axis=alt.Axis(values=layers, grid=False, format="d"),
    )
    height = _errors(table)
    y = alt.Y("mean:Q", **height)
    names = in_order(table["label"])
    base = alt.Chart().encode(x=x, color=_designs(names))
    hover = tooltip(label="design", panel="what", layers_text="layers", mean_text="error", interval="95 %", n="seeds")
    points = base.mark_point(filled=True, opacity=1, clip=True, size=45).encode(
        y=y, shape=_shapes(names), tooltip=hover
    )
    drawn = [
        base.mark_area(opacity=0.2, clip=True).encode(y=alt.Y("low:Q", **height), y2="high:Q"),
        base.mark_line(strokeWidth=1.8, clip=True).encode(y=y).add_params(zoom(["x", "y"])),
        points,
    ]
    rows = as_rows(
        table.with_columns(
            as_text("mean_text", pl.col("mean")),
            as_range("interval", "low", "high"),
            layers_text=pl.col("layers").cast(pl.String),
        ).select("panel", "label", "layers", "n", "mean", "low", "high", "mean_text", "interval", "layers_text")
    )
    return facet(
        drawn,
        rows,
        in_order(table["panel"]),
        columns=require_int("columns", columns, least=1),
        title="Error after the last step, by depth",
        subtitle=[f"mean of {seeds_in_words(table)}, with its 95 % interval"],
        description=_depth_words(table),
    )


def _designs(names: Sequence[str]) -> alt.Color:
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, symbolSize=60)
    return alt.Color("label:N", scale=alt.Scale(domain=names, range=[COLOURS[name] for name in names]), legend=legend)


def _shapes(names: Sequence[str]) -> alt.Shape:
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, symbolSize=60)
    return alt.Shape("label:N", scale=alt.Scale(domain=names, range=[SHAPES[name] for name in names]), legend=legend)


def _depth_words(table: pl.DataFrame) -> str:
    told = []
    for (panel, label), part in table.group_by("panel", "label", maintain_order=True):
        values = ", ".join(f"{percent(row['mean'])} at {row['layers']}" for row in part.iter_rows(named=True))
        told.append(f"{capital(panel)}, {label}: {values} layers")
    return f"Error after the last step by depth, {seeds_in_words(table)}. {'. '.join(told)}."
