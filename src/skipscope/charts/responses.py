"""The chart of study `responses`, in the form of the paper's Fig. 7: layers in order of depth, and sorted by magnitude.

The tables are those of `skipscope.responses`; here they get their panels and the labels of their networks.
"""

from __future__ import annotations

import altair as alt
import polars as pl

from skipscope import responses
from skipscope.charts.look import (
    LOG_LABELS,
    OTHERS,
    SHAPES,
    Rows,
    Shared,
    as_range,
    as_rows,
    as_text,
    facet,
    in_order,
    labels,
    require_rows,
    seeds_in_words,
    tooltip,
    zoom,
)
from skipscope.errors import require_int
from skipscope.readings import Readings
from skipscope.words import number

__all__ = ["layer_responses", "layer_responses_data"]

_PANELS = ("layers in order of depth", "layers sorted by magnitude")
_FAR = 4.0
_MODES = {
    "training": "measured on one mini-batch, which normalises itself",
    "parameters": "by gamma and beta alone",
    "inference": "measured on one mini-batch, normalised by the running averages",
}


def layer_responses_data(readings: Readings, *, mode: str | None = None) -> pl.DataFrame:
    """What `layer_responses` draws: the tables of `skipscope.responses` for 3x3 layers, with `panel` and `label`.

    Args:
        readings: of study `responses`.
        mode: one of `skipscope.responses.MODES`; if not given, of every network the first that it has.

    Raises:
        InputError: the readings hold no responses, or there is no such mode.
    """
    depth = responses.layer_data(readings, mode=mode).filter(kernel=3).drop("kernel")
    ranked = responses.sorted_data(readings, mode=mode).with_columns(site=pl.lit(""))
    both = pl.concat(
        table.with_columns(panel=pl.lit(panel)).select(*depth.columns, "panel")
        for table, panel in zip((depth, ranked), _PANELS, strict=True)
    )
    table = require_rows(both, f"no response was had in mode {mode!r}.")
    named = labels(readings.select(cell=table["kind"].unique().to_list()))
    return table.with_columns(label=pl.col("kind").replace_strict(named))


def layer_responses(readings: Readings, *, mode: str | None = None, columns: int = 1) -> alt.FacetChart:
    """The standard deviation of the responses of 3x3 layers, by layer and by rank, a line a network.

    Plain networks are dashed; networks of one depth share their colour.

    Args:
        readings, mode: see `layer_responses_data`.
        columns: panels in a row.

    Raises:
        InputError: see `layer_responses_data`.
    """
    table = layer_responses_data(readings, mode=mode)
    require_int("columns", columns, least=1)
    looks = _looks(table)
    names = list(looks)
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, symbolSize=60, columns=4)

    def scaled(place: int) -> alt.Scale:
        return alt.Scale(domain=names, range=[looks[name][place] for name in names])

    end = 1.03 * int(str(table["layer"].max()))
    scale = alt.Scale(domain=[0, float(f"{end:.3g}")], nice=False)
    x = alt.X("layer:Q", title="3x3 layer", scale=scale, axis=alt.Axis(tickMinStep=1, grid=False, format="d"))
    y = _height(table)
    base = alt.Chart().encode(x=x, color=alt.Color("label:N", scale=scaled(0), legend=legend))
    hover = tooltip(label="network", place="3x3 layer", name="site", text="standard deviation")
    hover += tooltip(interval="95 % interval", n="seeds")
    near = alt.selection_point(name="hover", on="pointerover", clear="pointerout", nearest=True, empty=False)
    band = base.mark_area(opacity=0.18, clip=True).encode(y=alt.Y("low:Q", **y), y2="high:Q")
    line = base.mark_line(strokeWidth=1.8, clip=True).encode(
        y=alt.Y("std:Q", **y), strokeDash=alt.StrokeDash("label:N", scale=scaled(1), legend=None)
    )
    points = base.mark_point(filled=True, opacity=1, clip=True).encode(
        y=alt.Y("std:Q", **y),
        shape=alt.Shape("label:N", scale=scaled(2), legend=legend),
        tooltip=hover,
        size=alt.when(near).then(alt.value(90)).otherwise(alt.value(16)),
    )
    how = [_MODES[each] for each in in_order(table["mode"])]
    several = int(str(table["n"].max())) > 1
    told = f"mean over {seeds_in_words(table)} with its 95 % interval; dashed: plain" if several else "dashed: plain"
    return facet(
        [*([band] if several else []), line.add_params(zoom(["x", "y"])), points.add_params(near)],
        _rows(table),
        list(_PANELS),
        columns=columns,
        title="Responses of the 3x3 layers",
        subtitle=["; ".join(how), told],
        description=_words(table),
        size=(560, 240),
    )


def _height(table: pl.DataFrame) -> Shared:
    """The axis of a response: logarithmic where responses differ by more than a factor of `_FAR`."""
    title = "standard deviation"
    known = table.filter(pl.col("std") > 0)["std"]
    least, most = (float(str(value or 1.0)) for value in (known.min(), known.max()))
    if most <= _FAR * least:
        return {"title": title, "scale": alt.Scale(zero=False), "axis": alt.Axis(tickCount=6)}
    highest = max(most, float(str(table["high"].max() or most)))
    scale = alt.Scale(type="log", domain=[least / 1.1, highest * 1.1], nice=False)
    return {"title": title, "scale": scale, "axis": alt.Axis(labelExpr=LOG_LABELS, tickCount=6)}


def _looks(table: pl.DataFrame) -> dict[str, tuple[str, list[int], str]]:
    """Colour, dashes and point of every network: a colour a depth, where this tells them apart; else one each."""
    networks = table.select("label", "depth", "plain").unique(maintain_order=True).to_dicts()
    by_depth = len({(each["depth"], each["plain"]) for each in networks}) == len(networks)
    keys = in_order(each["depth"] if by_depth else each["label"] for each in networks)
    found: dict[str, tuple[str, list[int], str]] = {}
    for each in networks:
        place = keys.index(each["depth"] if by_depth else each["label"])
        dash = [5, 3] if each["plain"] else [1, 0]
        found[each["label"]] = (OTHERS[place % len(OTHERS)], dash, SHAPES["plain" if each["plain"] else "residual"])
    return found


def _rows(table: pl.DataFrame) -> Rows:
    shown = table.with_columns(
        as_text("text", pl.col("std")),
        as_range("interval", "low", "high"),
        # A log axis has no place for the end of an interval that is not above 0.
        low=pl.when(pl.col("low") > 0).then("low").otherwise(pl.min_horizontal("high", pl.col("std").min() / 1.1)),
        place=pl.col("layer").cast(pl.String),
        name=pl.when(pl.col("site") == "").then(pl.lit("–")).otherwise("site"),
    )
    return as_rows(shown.drop("kind", "design", "site", "mode", "depth"))


def _words(table: pl.DataFrame) -> str:
    told = []
    for (label,), part in table.filter(panel=_PANELS[0]).group_by(["label"], maintain_order=True):
        known = part["std"].drop_nulls()
        if known.is_empty():
            told.append(f"{label}: no finite number")
            continue
        low, middle, high = (float(str(value)) for value in (known.min(), known.median(), known.max()))
        told.append(f"{label}: {number(low)} to {number(high)}, median {number(middle)}")
    return f"Standard deviation of the responses of 3x3 layers, mean over {seeds_in_words(table)}. {'. '.join(told)}."
