"""Charts of study `propagation`: the gradient from layer to layer, and what it has changed by over the whole body.

One line a network, so that networks of one depth are compared in one panel. A design's colour says how blocks are
passed by; those with and without normalisation have panels of their own, as they go different ways. The tables are
those of `skipscope.summary` and `skipscope.propagation`; here they get their panels and labels.
"""

from __future__ import annotations

import altair as alt
import polars as pl

from skipscope import propagation
from skipscope.charts.look import (
    COLOURS,
    INK,
    LOG_LABELS,
    OTHERS,
    SHAPES,
    Rows,
    Shared,
    as_range,
    as_rows,
    as_text,
    bands,
    capital,
    facet,
    in_order,
    log_axis,
    medians,
    require_rows,
    seeds_in_words,
    title_of,
    tooltip,
)
from skipscope.errors import require_int
from skipscope.readings import Readings
from skipscope.spec import Spec
from skipscope.summary import QUANTILES, Summary, require_summary
from skipscope.words import number

__all__ = ["body_factors", "body_factors_data", "propagation_by_layer", "propagation_by_layer_data"]

_NORMS = {"batch": "batch norm", "none": "no norm"}
_LINES = {
    "plain": (COLOURS["plain"], SHAPES["plain"]),
    "option A": (COLOURS["residual"], SHAPES["residual"]),
    "option B": (COLOURS["matched"], SHAPES["matched"]),
    "option C": (COLOURS["twin"], SHAPES["twin"]),
    "pre-activation": (OTHERS[0], "triangle-down"),
}
"""Colour and point by what a design's name says beside its norm; options are ways to pass blocks by."""
_FURTHER = ((OTHERS[1], "cross"), (OTHERS[2], "circle"), (OTHERS[4], "square"))


def _named(readings: Readings) -> pl.DataFrame:
    """By cell: the line it is, its norm, and its weight layers; those with a norm first, by depth."""
    rows = []
    for place, row in enumerate(readings.cells.iter_rows(named=True)):
        norm = _NORMS.get(row["norm"] or "none", f"{row['norm']} norm")
        line = (row["design"] or "network").removesuffix(f", {norm}")
        layers = Spec.from_json(row["spec"]).depth if row["spec"] else row["depth"]
        rows.append({"cell": row["cell"], "label": line, "norm_told": norm, "all_layers": layers, "place": place})
    return pl.DataFrame(rows).with_columns(
        norm_place=pl.col("norm_told").replace_strict({"batch norm": 0, "no norm": 2}, default=1)
    )


# -------------------------------------------------------------------------------------------------- layer by layer


def propagation_by_layer_data(summary: Summary, quantity: str = "backward_gain") -> pl.DataFrame:
    """What `propagation_by_layer` draws: one row a site and network, in order of depth.

    Ends of blocks with the input and the layers outside blocks; of a quantity that only layers have, all layers.

    Returns:
        Columns `cell`, `panel` (norm and depth), `label`, `site`, `share` (weight layers up to the site, as a share of
        the network's), `n`, `nonfinite`, `q05` to `q95`, and `law`, in root mean square.

    Raises:
        InputError: the summary has no such quantity, or none with a place in depth.
    """
    require_summary(summary)
    rows = summary.of(quantity).filter(~pl.col("kind").is_in(["network", "module"]), pl.col("call") == 0)
    require_rows(rows, f"{quantity!r} is a number of the network as a whole; draw it with charts.distribution.")
    if quantity == "weight_grad_norm" or set(rows["kind"]) == {"layer"}:
        rows = rows.filter(pl.col("kind") == "layer", ~pl.col("site").str.ends_with(".shortcut"))
    else:
        rows = rows.filter(~pl.col("site").str.contains(r"\.(layer[0-9]+|shortcut)$"))
    return (
        rows.join(_named(summary.readings), on="cell")
        .with_columns(
            panel=pl.format("{} layers, {}", "all_layers", "norm_told"),
            share=pl.col("site_depth") / pl.col("all_layers"),
            law="law_rms",
        )
        .sort("norm_place", "all_layers", "place", "site_order")
        .select("cell", "panel", "label", "site", "share", "n", "nonfinite", *QUANTILES, "law")
    )


def propagation_by_layer(
    summary: Summary, quantity: str = "backward_gain", *, columns: int | None = None
) -> alt.FacetChart:
    """A quantity from layer to layer, one line a network: its median over seeds with bands, the law dashed.

    Args:
        summary: of readings of study `propagation`.
        quantity: `backward_gain`, `forward_gain`, `activation_rms` or `weight_grad_norm`.
        columns: panels in a row; if not given as many as there are depths.

    Raises:
        InputError: the summary has no such quantity, or none with a place in depth.
    """
    table = propagation_by_layer_data(summary, quantity)
    panels = in_order(table["panel"])
    columns = _of_one_norm(panels) if columns is None else require_int("columns", columns, least=1)
    x = alt.X(
        "share:Q",
        title="depth, as a share of the weight layers",
        scale=alt.Scale(domain=[0, 1.03], nice=False),
        axis=alt.Axis(tickCount=5, grid=False),
    )
    y = log_axis(table, title_of(quantity))
    base = alt.Chart().encode(x=x, color=_colour(table))
    drawn = [*bands(base, y), *_laws(table, x, y), *medians(base, y, _shape(table), _hover(place="site"))]
    known = table["law"].null_count() < table.height
    return facet(
        drawn,
        _rows(table),
        panels,
        columns=columns,
        title=f"{capital(title_of(quantity))}, layer by layer",
        subtitle=[
            f"median over {seeds_in_words(table)} with bands 25 to 75 % and 5 to 95 %"
            + ("; dashed: the law, in root mean square" if known else "")
        ],
        description=_layer_words(table, quantity),
        size=(250, 250),
    )


def _of_one_norm(panels: list[str]) -> int:
    """How many panels there are of each norm."""
    norms = [panel.partition(", ")[2] for panel in panels]
    return max(norms.count(norm) for norm in norms)


def _lines(table: pl.DataFrame) -> dict[str, tuple[str, str]]:
    """Colour and point of every line of the table."""
    names = in_order(table["label"])
    further = iter(_FURTHER * len(names))
    return {name: _LINES.get(name) or next(further) for name in names}


def _colour(table: pl.DataFrame) -> alt.Color:
    lines = _lines(table)
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, symbolSize=60)
    scale = alt.Scale(domain=list(lines), range=[colour for colour, _ in lines.values()])
    return alt.Color("label:N", scale=scale, legend=legend)


def _shape(table: pl.DataFrame) -> alt.Shape:
    lines = _lines(table)
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, symbolSize=60)
    scale = alt.Scale(domain=list(lines), range=[shape for _, shape in lines.values()])
    return alt.Shape("label:N", scale=scale, legend=legend)


def _laws(table: pl.DataFrame, x: alt.X, y: Shared) -> list[alt.Chart]:
    """The law of every line that has one, dashed."""
    if table["law"].null_count() == table.height:
        return []
    drawn = alt.Chart().mark_line(color=INK, strokeWidth=1.2, strokeDash=[6, 3], clip=True)
    dashed: alt.Chart = drawn.encode(x=x, y=alt.Y("law:Q", **y), detail="label:N")
    return [dashed.transform_filter("isValid(datum.law)")]


def _rows(table: pl.DataFrame) -> Rows:
    return as_rows(
        table.with_columns(
            as_text("median", pl.col("q50")),
            as_range("half", "q25", "q75"),
            as_range("most", "q05", "q95"),
            as_text("law_told", pl.col("law")),
        )
    )


def _hover(place: str) -> list[alt.Tooltip]:
    return tooltip(
        label="network",
        panel="panel",
        **{place: place},
        median="median",
        half="25 to 75 %",
        most="5 to 95 %",
        law_told="law",
        n="seeds",
    )


def _layer_words(table: pl.DataFrame, quantity: str) -> str:
    told = []
    for (panel, label), part in table.group_by("panel", "label", maintain_order=True):
        first, last = part.row(0, named=True), part.row(-1, named=True)
        told.append(
            f"{label}, {panel}: median {number(first['q50'])} at {first['site']}, {number(last['q50'])} at "
            f"{last['site']}"
        )
    return f"{capital(title_of(quantity))}, layer by layer, over {seeds_in_words(table)}. {'. '.join(told)}."


# ------------------------------------------------------------------------------------------------ over the whole body

_WHICH = {"gradient": "gradient, first / last", "signal": "signal, last / first"}


def body_factors_data(readings: Readings) -> pl.DataFrame:
    """What `body_factors` draws: `skipscope.propagation.ends` with `panel` (the direction and the norm) and `label`.

    Raises:
        InputError: the readings hold no growth over a body.
    """
    places = {what: place for place, what in enumerate(_WHICH)}
    return (
        propagation.ends(readings)
        .join(_named(readings), on="cell")
        .with_columns(panel=pl.format("{}: {}", pl.col("of").replace_strict(_WHICH), "norm_told"))
        .sort("norm_place", pl.col("of").replace_strict(places), pl.col("place").min().over("label"), "all_layers")
        .select(
            "cell", "panel", "label", "depth", "of", "n", "nonfinite", *QUANTILES, "median_low", "median_high", "law"
        )
    )


def body_factors(readings: Readings, *, columns: int = 2) -> alt.FacetChart:
    """By which factor the norms of gradient and signal change over the body, against depth; the law dashed.

    Args:
        readings: of study `propagation`.
        columns: panels in a row.

    Raises:
        InputError: the readings hold no growth over a body.
    """
    table = body_factors_data(readings).filter(pl.col("q50") > 0)
    require_rows(table, "no draw has a finite factor over the body.")
    require_int("columns", columns, least=1)
    depths = sorted(set(table["depth"]))
    far = depths[-1] > 10 * depths[0]  # 1202 beside 20
    x = alt.X(
        "depth:Q",
        title="weight layers",
        scale=alt.Scale(type="log" if far else "linear", zero=False, nice=False, padding=12),
        axis=alt.Axis(values=depths, grid=False, labelOverlap=True, format="d"),
    )
    y: Shared = {
        "title": "factor on the norm, over the body",
        "scale": alt.Scale(type="log"),
        "axis": alt.Axis(labelExpr=LOG_LABELS, tickCount=5),
    }
    base = alt.Chart().encode(x=x, color=_colour(table))
    one = alt.Chart().mark_rule(color=INK, opacity=0.5).encode(y=alt.Y("one:Q", **y), size=alt.value(1))
    drawn = [one, *bands(base, y), *_laws(table, x, y), *medians(base, y, _shape(table), _hover(place="depth"))]
    first = pl.int_range(pl.len()).over("panel") == 0
    known = table["law"].null_count() < table.height
    return facet(
        drawn,
        _rows(table.with_columns(one=pl.when(first).then(1.0))),
        in_order(table["panel"]),
        columns=columns,
        title="What the whole body does to the norms, against depth",
        subtitle=[
            f"median over {seeds_in_words(table)} with bands 25 to 75 % and 5 to 95 %; line at 1: nothing changes"
            + ("; dashed: the law, in root mean square" if known else "")
        ],
        description=_factor_words(table),
        size=(320, 230),
    )


def _factor_words(table: pl.DataFrame) -> str:
    told = [
        f"{row['label']}, {row['panel']}, {row['depth']} layers: {number(row['q50'])}"
        for row in table.iter_rows(named=True)
    ]
    return f"Factor on the norm over the body, over {seeds_in_words(table)}. {'. '.join(told)}."
