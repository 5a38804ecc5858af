"""Charts over draws: how one number of a network is distributed over seeds, and how that changes with depth."""

from __future__ import annotations

import math

import altair as alt
import numpy as np
import polars as pl

from skipscope.charts.look import (
    INK,
    LOG_LABELS,
    NOTE,
    as_range,
    as_ranges,
    as_rows,
    as_text,
    bands,
    capital,
    colour,
    depth_axis,
    facet,
    in_order,
    labels,
    log_axis,
    medians,
    require_rows,
    seeds_in_words,
    shape,
    title_of,
    tooltip,
    zoom,
)
from skipscope.designs import DESIGNS
from skipscope.errors import InputError, quoted, require_int, require_number, require_type
from skipscope.readings import Readings, require_readings
from skipscope.summary import QUANTILES, Summary, require_summary
from skipscope.words import number

__all__ = ["depth_ratio", "depth_ratio_data", "distribution", "distribution_data"]

# --------------------------------------------------------------------------------------- the distribution over seeds


def distribution_data(readings: Readings, quantity: str, *, seed: int | None = None, bins: int = 48) -> pl.DataFrame:
    """What `distribution` draws: how many draws fall into bins of equal width on a log axis, the same for all cells.

    Args:
        readings: with a quantity of the network as a whole.
        quantity: which.
        seed: the draw to mark; None marks none.
        bins: bins from the smallest to the largest value of all cells.

    Returns:
        One row a cell and bin: `panel`, `design`, the bin's `low` and `high`, `draws` in it, of `n` in all (positive
        and finite; others cannot be drawn on a log axis), and the marked draw's `value` (null without one).

    Raises:
        InputError: there is no such quantity of whole networks, or no such seed.
    """
    require_readings(readings)
    require_int("bins", bins, least=1)
    require_type("quantity", quantity, str, "the name of one, such as 'forward_growth'")
    rows = readings.rows.filter(pl.col("quantity") == quantity, pl.col("site") == "network")
    rows = rows.filter(pl.col("step") == pl.col("step").min())
    positive = rows.filter(pl.col("value").is_finite(), pl.col("value") > 0)
    whole = readings.rows.filter(pl.col("site") == "network")["quantity"].unique().sort()
    held = ", ".join(whole) or "none"
    require_rows(positive, f"no positive {quoted(quantity)}, a quantity of whole networks; the readings hold {held}.")
    seeds = rows["seed"].to_list()
    if seed is not None and require_int("seed", seed, least=0) not in seeds:
        raise InputError(f"seed={quoted(seed)} is not in these readings; they hold {min(seeds)} to {max(seeds)}.")
    logs = np.log10(positive["value"].to_numpy())
    edges = np.linspace(logs.min(), max(logs.max(), logs.min() + 0.1), bins + 1)
    found = []
    for cell, label in labels(readings).items():
        values = positive.filter(pl.col("cell") == cell)
        if values.is_empty():
            continue
        draws, _ = np.histogram(np.log10(values["value"].to_numpy()), edges)
        marked = values.filter(pl.col("seed") == seed)["value"] if seed is not None else None
        shared = {
            "panel": label,
            "design": readings.cells.filter(pl.col("cell") == cell)["design"][0],
            "n": values.height,
            "value": marked[0] if marked is not None and len(marked) else None,
        }
        found += [
            shared | {"low": 10.0**low, "high": 10.0**high, "draws": int(count)}
            for low, high, count in zip(edges, edges[1:], draws, strict=False)
        ]
    schema = {"panel": pl.String, "design": pl.String, "low": pl.Float64, "high": pl.Float64, "draws": pl.Int64}
    return pl.DataFrame(found, schema=schema | {"n": pl.Int64, "value": pl.Float64})


def distribution(
    readings: Readings,
    quantity: str,
    *,
    seed: int | None = None,
    called: str = "",
    title: str = "",
    reference: float | None = None,
    bins: int = 48,
    columns: int = 3,
) -> alt.FacetChart:
    """A histogram over seeds, a panel a cell, with one draw marked.

    Args:
        readings: with a quantity of the network as a whole.
        quantity: which.
        seed: the draw to mark.
        called: what it is called; `seed 0` and so on if not given.
        title: of the axis; the quantity in words if not given.
        reference: a value to draw a dashed line at, e.g. 1 for a ratio.
        bins: see `distribution_data`.
        columns: panels in a row.

    Raises:
        InputError: there is no such quantity of whole networks, or no such seed.
    """
    for name, text in (("called", called), ("title", title)):
        require_type(name, text, str, "a few words")
    table = distribution_data(readings, quantity, seed=seed, bins=bins)
    require_int("columns", columns, least=1)
    highest = max(1, int(str(table["draws"].max())))
    title = title or title_of(quantity)
    layers = [_histogram(table, title, top=1.25 * highest)]  # the marked draw's label stands above the bars
    if reference is not None:
        reference = require_number("reference", reference)
        rule = alt.Chart().mark_rule(color=INK, strokeDash=[3, 3], clip=True)
        layers.append(rule.encode(x=alt.datum(reference), y=alt.datum(0), y2=alt.datum(highest), size=alt.value(1)))
    if seed is not None:
        layers += _marked(math.sqrt(float(str(table["low"].min())) * float(str(table["high"].max()))))
    first = pl.int_range(pl.len()).over("panel") == 0  # one line a panel, though its value is in every row
    name = called or f"seed {seed}"
    told = pl.col("value").map_elements(lambda value: f"{name}: {number(value)}", pl.String)
    return facet(
        layers,
        as_rows(table.with_columns(as_range("between", "low", "high"), told=pl.when(first).then(told))),
        in_order(table["panel"]),
        columns=columns,
        title=capital(title),
        subtitle=[f"over {seeds_in_words(table)}" + ("" if seed is None else f"; the line is {name}")],
        description=_distribution_words(table, title, name),
        size=(230, 170),
    )


def _histogram(table: pl.DataFrame, title: str, *, top: float) -> alt.Chart:
    axis = alt.Axis(labelExpr=LOG_LABELS, tickCount=3, grid=False)
    ends = [float(f"{end:.6g}") for end in (table["low"].to_numpy().min(), table["high"].to_numpy().max())]
    drawn: alt.Chart = (
        alt.Chart()
        .mark_rect(opacity=0.6, clip=True)
        .encode(
            x=alt.X("low:Q", title=title, scale=alt.Scale(type="log", domain=ends, nice=False), axis=axis),
            x2="high:Q",
            y=alt.Y("draws:Q", title="draws", axis=alt.Axis(tickCount=4), scale=alt.Scale(domain=[0, top], nice=False)),
            y2=alt.datum(0),
            color=colour(table, legend=False),
            tooltip=tooltip(panel="network", between="value", draws="draws in this bin", n="draws in all"),
        )
        .add_params(zoom(["x"]))
    )
    return drawn


def _marked(centre: float) -> list[alt.Chart]:
    """A line at the marked draw, and what it is, on that side of the line where there is more room."""
    shown = alt.Chart().transform_filter("isValid(datum.told)").encode(x="value:Q")
    line = shown.mark_rule(color=INK, clip=True)
    hover = tooltip(panel="network", told="the marked draw")
    left = shown.transform_filter(f"datum.value >= {centre:.6g}").mark_text(align="right", dx=-5, **NOTE)
    right = shown.transform_filter(f"datum.value < {centre:.6g}").mark_text(align="left", dx=5, **NOTE)
    return [line.encode(size=alt.value(2), tooltip=hover), left.encode(text="told:N"), right.encode(text="told:N")]


def _distribution_words(table: pl.DataFrame, title: str, name: str) -> str:
    told = []
    for (panel,), part in table.group_by("panel", maintain_order=True):
        full = part.filter(pl.col("draws") > 0).rows(named=True)
        top = max(full, key=lambda row: row["draws"])
        words = (
            f"{panel}: {part['n'][0]:,} draws from {number(full[0]['low'])} to {number(full[-1]['high'])}, most "
            f"between {number(top['low'])} and {number(top['high'])}"
        )
        if part["value"][0] is not None:
            words += f", {name} at {number(part['value'][0])}"
        told.append(words)
    return f"Histograms of {title}. {'. '.join(told)}."


# ----------------------------------------------------------------------------------------- the notebook's depth sweep


def depth_ratio_data(summary: Summary, quantity: str = "weight_grad_first_last") -> pl.DataFrame:
    """What `depth_ratio` draws: one row a cell, of those that were measured at more than one depth.

    Returns:
        Columns `panel` (what was sent back), `design`, `label`, `depth`, `width`, `cotangent`, `n` and `q05` to `q95`.

    Raises:
        InputError: the summary has no such quantity, or nothing at more than one depth.
    """
    require_summary(summary)
    rows = summary.of(quantity).filter(pl.col("site") == "network")
    rows = rows.filter(pl.col("step") == pl.col("step").min())
    swept = pl.col("depth").n_unique().over("design", "width", "cotangent") > 1
    rows = require_rows(rows.filter(swept), f"{quantity!r} was not measured at more than one depth.")
    names = list(DESIGNS)
    place = pl.col("design").map_elements(lambda d: names.index(d) if d in names else len(names), pl.Int64)
    return (
        rows.with_columns(
            panel=pl.format("output gradient: {}", "cotangent"), label="design", _wave=pl.col("cotangent") != "ones"
        )
        .sort("_wave", "cotangent", place, "design", "width", "depth")
        .select("panel", "design", "label", "depth", "width", "cotangent", "n", *QUANTILES)
    )


def depth_ratio(summary: Summary, quantity: str = "weight_grad_first_last", *, columns: int = 2) -> alt.FacetChart:
    """A number of whole networks against their depth, a panel a cotangent: medians over seeds with bands.

    Args:
        summary: what `summarise` returned.
        quantity: of the network as a whole; the notebook's ratio if not given.
        columns: panels in a row.

    Raises:
        InputError: the summary has no such quantity, or nothing at more than one depth.
    """
    table = depth_ratio_data(summary, quantity)
    require_int("columns", columns, least=1)
    y = log_axis(table, title_of(quantity))
    x = depth_axis(table["depth"], "depth", "depth d (plain: d layers, residual: d blocks)")
    base = alt.Chart().encode(x=x, color=colour(table))
    one = alt.Chart().mark_rule(color=INK, strokeDash=[3, 3], clip=True).encode(y=alt.datum(1), size=alt.value(1))
    hover = tooltip(
        label="network",
        panel="sent back",
        depth="depth",
        median="median",
        half="25 to 75 %",
        most="5 to 95 %",
        n="seeds",
    )
    return facet(
        [*bands(base, y), one, *medians(base, y, shape(table), hover)],
        as_rows(table.with_columns(as_text("median", pl.col("q50")), *as_ranges())),
        in_order(table["panel"]),
        columns=columns,
        title=f"{capital(title_of(quantity))}, against depth",
        subtitle=[f"median over {seeds_in_words(table)} with bands 25 to 75 % and 5 to 95 %"],
        description=_depth_words(table, quantity),
    )


def _depth_words(table: pl.DataFrame, quantity: str) -> str:
    told = []
    for (panel, label), part in table.group_by("panel", "label", maintain_order=True):
        first, last = part.row(0, named=True), part.row(-1, named=True)
        told.append(
            f"{panel}, {label}: median {number(first['q50'])} at depth {first['depth']} (5 to 95 % "
            f"{number(first['q05'])} to {number(first['q95'])}), {number(last['q50'])} at depth {last['depth']} "
            f"({number(last['q05'])} to {number(last['q95'])})"
        )
    return f"{capital(title_of(quantity))}, against depth, over {seeds_in_words(table)}. {'. '.join(told)}."
