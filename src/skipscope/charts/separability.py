"""The charts of study `representation`: samples, accuracies by depth, and samples on two principal components.

The tables are those of `skipscope.separability`, the samples those of its `Pictures`; here they get their panels.
"""

from __future__ import annotations

import altair as alt
import polars as pl

from skipscope import separability
from skipscope.charts.look import (
    INK,
    PERCENT,
    Rows,
    Shared,
    as_range,
    as_rows,
    as_text,
    capital,
    colour,
    depth_axis,
    facet,
    in_order,
    require_rows,
    seeds_in_words,
    shape,
    tooltip,
    zoom,
)
from skipscope.errors import InputError, choose, require_int
from skipscope.readings import Readings
from skipscope.separability import STATES, Pictures
from skipscope.words import number, percent

__all__ = [
    "components",
    "components_data",
    "samples",
    "samples_data",
    "separability_by_depth",
    "separability_data",
    "separability_name",
]

_AXES = {
    "linear_accuracy": "share of test samples read right",
    "linear_accuracy_train": "share of training samples read right",
    "effective_dimension": "effective dimension (directions)",
    "component_share_1": "share of variance on the first component",
    "component_share_2": "share of variance on the second component",
}
_NAMES = {
    "linear_accuracy": "Accuracy of a linear classifier",
    "linear_accuracy_train": "Accuracy of a linear classifier on what it was fitted on",
    "effective_dimension": "Effective dimension",
    "component_share_1": "Share of the first principal component",
    "component_share_2": "Share of the second principal component",
}

# --------------------------------------------------------------------------------------------------- against depth


def separability_data(readings: Readings, quantity: str = "linear_accuracy") -> pl.DataFrame:
    """What `separability_by_depth` draws: `skipscope.separability.depth_data` with `panel` and `label`.

    Raises:
        InputError: the readings hold none of the quantity.
    """
    table = separability.depth_data(readings, choose("quantity", quantity, _AXES))
    several = table["setting"].n_unique() > 1
    state = pl.col("state")
    panel = pl.concat_str(pl.col("setting"), pl.lit(": "), state) if several else state.map_elements(capital, pl.String)
    return table.with_columns(panel=panel, label="design")


def separability_name(quantity: str) -> str:
    """The heading of the chart of a quantity."""
    return f"{_NAMES[quantity]}, by depth"


def separability_by_depth(readings: Readings, quantity: str = "linear_accuracy", *, columns: int = 2) -> alt.FacetChart:
    """A quantity of study `representation` against the layers passed: untrained beside trained, a colour a design.

    Args:
        readings: of study `representation`.
        quantity: one of `skipscope.studies.REPRESENTATION_QUANTITIES`.
        columns: panels in a row.

    Raises:
        InputError: the readings hold none of the quantity.
    """
    table = require_rows(separability_data(readings, quantity), f"there is no {quantity}.")
    require_int("columns", columns, least=1)
    chance = quantity.startswith("linear_accuracy")
    return facet(
        _layers(table, quantity, chance=chance),
        _rows(table),
        in_order(table["panel"]),
        columns=columns,
        title=separability_name(quantity),
        subtitle=[
            f"mean over {seeds_in_words(table)} with its 95 % interval"
            + ("; dotted: the most frequent class" if chance else "")
        ],
        description=_words(table, quantity),
    )


def _layers(table: pl.DataFrame, quantity: str, *, chance: bool) -> list[alt.Chart]:
    x = depth_axis(table["layers"], "layers", "weight layers passed")
    share = quantity != "effective_dimension"
    scale = alt.Scale(domain=[0, 1.03]) if share else alt.Scale(zero=True)  # no point at 1 is cut in half
    axis = alt.Axis(labelExpr=PERCENT, tickCount=6) if share else alt.Axis(tickCount=6)
    height: Shared = {"title": _AXES[quantity], "scale": scale, "axis": axis}

    def y(name: str) -> alt.Y:
        return alt.Y(f"{name}:Q", **height)

    base = alt.Chart().encode(x=x, color=colour(table))
    hovered = alt.selection_point(name="hover", on="pointerover", clear="pointerout", nearest=True, empty=False)
    hover = tooltip(
        label="network", panel="state", site="site", layers="layers", told="mean", interval="95 % interval", n="seeds"
    )
    points = base.mark_point(filled=True, opacity=1, clip=True).encode(
        y=y("mean"),
        shape=shape(table),
        tooltip=hover,
        size=alt.when(hovered).then(alt.value(110)).otherwise(alt.value(30)),
    )
    layers = [
        base.mark_area(opacity=0.22, clip=True).encode(y=y("low"), y2="high:Q"),
        base.mark_line(strokeWidth=1.8, clip=True).encode(y=y("mean")).add_params(zoom(["x", "y"])),
    ]
    if chance:
        dotted = alt.Chart().mark_line(color=INK, strokeWidth=1.2, strokeDash=[2, 3], clip=True)
        layers.append(dotted.encode(x=x, y=y("chance"), detail="label:N"))
    return [*layers, points.add_params(hovered)]


def _rows(table: pl.DataFrame) -> Rows:
    shown = table.with_columns(as_text("told", pl.col("mean")), as_range("interval", "low", "high"))
    names = ("panel", "label", "site", "layers", "n", "mean", "low", "high", "chance", "told", "interval")
    return as_rows(shown.select(names))


def _words(table: pl.DataFrame, quantity: str) -> str:
    told = []
    for (panel, label), part in table.group_by("panel", "label", maintain_order=True):
        body = separability.end_of_body(part)
        ends = (part.row(0, named=True), (body if body.height else part).row(-1, named=True))
        values = [number(row["mean"]) for row in ends]
        told.append(f"{panel}, {label}: {values[0]} at the {ends[0]['site']}, {values[1]} at {ends[1]['site']}")
    return f"{_NAMES[quantity]} by depth, over {seeds_in_words(table)}. {'. '.join(told)}."


# ------------------------------------------------------------------------------------------------------- the samples


def samples_data(pictures: Pictures) -> pl.DataFrame:
    """What `samples` draws: `pictures.samples` with `panel` (the class) and `x`, where the samples stand in a row.

    Raises:
        InputError: the samples are no pictures.
    """
    table = pictures.samples
    if table.is_empty():
        raise InputError(f"there is nothing to draw: the samples of {pictures.data} are no pictures.")
    side = int(str(table["column"].max())) + 1
    gap = max(1, side // 8)
    return table.with_columns(panel="class", x=pl.col("sample") * (side + gap) + pl.col("column"))


def samples(pictures: Pictures, *, columns: int = 5) -> alt.FacetChart:
    """Some samples of every class, as a grid of pictures: a panel a class.

    Args:
        pictures: see `skipscope.studies.pictures`.
        columns: panels in a row.

    Raises:
        InputError: the samples are no pictures.
    """
    table = samples_data(pictures)
    require_int("columns", columns, least=1)
    wide, high = int(str(table["x"].max())) + 1, int(str(table["row"].max())) + 1
    base = alt.Chart().encode(
        x=alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, wide], nice=False)),
        x2="right:Q",
        y=alt.Y("row:Q", axis=None, scale=alt.Scale(domain=[high, 0], nice=False)),
        y2="below:Q",
    )
    pixels = base.mark_rect(color=INK, stroke=None).encode(
        opacity=alt.Opacity("ink:Q", scale=None, legend=None), tooltip=tooltip(panel="class", told="ink")
    )
    shown = table.with_columns(as_text("told", pl.col("ink"), 2), right=pl.col("x") + 1, below=pl.col("row") + 1)
    count = int(str(table["sample"].max())) + 1
    names = in_order(table["panel"])
    per_row = min(columns, len(names))
    room = 1040 / per_row - 18  # as wide as a page leaves a panel, so that pixels are square there
    return facet(
        [pixels],
        as_rows(shown.select("panel", "x", "right", "row", "below", "ink", "told")),
        names,
        columns=per_row,
        title=f"Samples of {pictures.data}, class by class",
        subtitle=[f"the first {count} of every class in the training part"],
        description=f"The first {count} training samples of every class of {pictures.data}: {', '.join(names)}.",
        size=(round(room), round(room * high / wide)),
        square=True,
    )


# ----------------------------------------------------------------------------------------------------- the components

_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#7A7A7A")  # of five classes; the letter tells them apart


def components_data(pictures: Pictures) -> pl.DataFrame:
    """What `components` draws: `pictures.components` with `panel` and `sign`, a letter or digit for every class.

    Raises:
        InputError: there are none.
    """
    table = require_rows(pictures.components, "no network has activations that vary.")
    named = {name: _sign(name, in_order(table["class"])) for name in in_order(table["class"])}
    panel = pl.concat_str(
        pl.col("design"), pl.lit(", "), pl.col("state"), pl.lit(": "), pl.col("site").map_elements(_place, pl.String)
    )
    return table.with_columns(panel=panel, sign=pl.col("class").replace_strict(named, return_dtype=pl.String)).sort(
        "design", pl.col("state").cast(pl.Enum(STATES)), "layers", "sample", maintain_order=True
    )


def _sign(name: str, names: list[str]) -> str:
    """A class in one letter, where its first is its own; else its place."""
    firsts = [each[:1].upper() for each in names]
    return name[:1].upper() if firsts.count(name[:1].upper()) == 1 else str(names.index(name))


def _place(site: str) -> str:
    return "first layer" if site == "stem" else f"block {site.rpartition('block')[2]}" if "block" in site else site


def components(pictures: Pictures, *, columns: int = 3) -> alt.FacetChart:
    """Where test samples stand on the two largest principal components, at some depths: a letter a sample.

    Args:
        pictures: see `skipscope.studies.pictures`.
        columns: panels in a row.

    Raises:
        InputError: there are none.
    """
    table = components_data(pictures)
    require_int("columns", columns, least=1)
    classes = sorted(in_order(table["class"]))
    colours = alt.Scale(domain=classes, range=[_COLOURS[i % len(_COLOURS)] for i in range(len(classes))])
    ends = [-1.08, 1.08]  # no letter is cut in half
    axes: Shared = {"scale": alt.Scale(domain=ends), "axis": alt.Axis(labels=False, ticks=False, grid=False)}
    letters = (
        alt.Chart()
        .mark_text(fontSize=10, fontWeight="bold", clip=True, opacity=0.85)
        .encode(
            x=alt.X("first:Q", title="first component", **axes),
            y=alt.Y("second:Q", title="second component", **axes),
            text="sign:N",
            color=alt.Color("class:N", scale=colours, legend=None),
            tooltip=tooltip(**{"class": "class", "panel": "network", "told": "variance shown", "right": "read right"}),
        )
        .add_params(zoom(["x", "y"]))
    )
    shown = table.with_columns(
        told=pl.col("share").map_elements(percent, pl.String),
        right=pl.col("accuracy").map_elements(percent, pl.String),
    )
    signs = dict(table.select("class", "sign").unique().sort("class").iter_rows())
    key = ", ".join(f"{sign} {name}" for name, sign in signs.items() if sign != name)
    return facet(
        [letters],
        as_rows(shown.select("panel", "class", "sign", "first", "second", "told", "right")),
        in_order(table["panel"]),
        columns=columns,
        title=f"Test samples of {pictures.data} on two principal components",
        subtitle=[f"one network a row (seed {pictures.seed})" + (f"; {key}" if key else "; every digit a sample")],
        description=_component_words(table, pictures),
        size=(250, 210),
    )


def _component_words(table: pl.DataFrame, pictures: Pictures) -> str:
    told = [
        f"{row['panel']}: {percent(row['share'])} of the variance is shown, a linear classifier of all "
        f"activations reads the class of {percent(row['accuracy'])} of test samples"
        for row in table.unique("panel", maintain_order=True).iter_rows(named=True)
    ]
    return f"Test samples of {pictures.data} on two principal components, seed {pictures.seed}. {'. '.join(told)}."
