"""The charts of studies of one model of one's own: with and without its shortcuts, and without each of its blocks.

The tables are those of `skipscope.twins` and `skipscope.absences`; here they get their panels and labels.
"""

from __future__ import annotations

import altair as alt
import polars as pl

from skipscope import absences, twins
from skipscope.charts.look import (
    COLOURS,
    INK,
    LOG_LABELS,
    OTHERS,
    SHAPES,
    as_range,
    as_rows,
    as_text,
    capital,
    facet,
    in_order,
    require_rows,
    title_of,
    tooltip,
    zoom,
)
from skipscope.errors import InputError, require_int
from skipscope.readings import Readings
from skipscope.words import number

__all__ = ["absent_blocks", "absent_blocks_data", "twin_flow", "twin_flow_data", "twin_losses", "twin_losses_data"]

AS_IS, WITHOUT = "as it is", "without shortcuts"

_FLOWS = {"activation_rms": "the signal, forward", "activation_grad_norm": "the gradient, backward"}


def twin_flow_data(readings: Readings) -> pl.DataFrame:
    """What `twin_flow` draws: size of signal and gradient at every site, with and without shortcuts.

    Returns:
        Columns `panel` (the direction), `label` (the side), `site`, `place` (in order of execution, from 1), `value`
        (median over batches).

    Raises:
        InputError: the readings are not of study `twin`, or hold neither.
    """
    profile = twins.profile_data(readings)
    rows = profile.filter(pl.col("quantity").is_in(list(_FLOWS)), pl.col("call") == 0)
    require_rows(rows, "neither activation_rms nor activation_grad_norm was measured; see studies.twin.")
    places = {site: place for place, site in enumerate(rows.sort("order")["site"].unique(maintain_order=True), start=1)}
    long = rows.rename({"with_": AS_IS, "without": WITHOUT}).unpivot(
        [AS_IS, WITHOUT], index=["site", "quantity"], variable_name="label", value_name="value"
    )
    return long.select(
        pl.col("quantity").replace_strict(_FLOWS).alias("panel"),
        "label",
        "site",
        pl.col("site").replace_strict(places, return_dtype=pl.Int64).alias("place"),
        "value",
    ).sort("panel", "label", "place", descending=[True, False, False])


def twin_flow(readings: Readings, *, columns: int = 2) -> alt.FacetChart:
    """Signal and gradient by place, with and without shortcuts.

    Args:
        readings: of study `twin`.
        columns: panels in a row.

    Raises:
        InputError: the readings are not of study `twin`, or hold neither.
    """
    table = twin_flow_data(readings)
    require_int("columns", columns, least=1)
    drawn = table.filter(pl.col("value") > 0, pl.col("value").is_finite())
    last = int(str(table["place"].max()))
    x = alt.X("place:Q", title="place in order of execution", axis=alt.Axis(tickMinStep=1, grid=False, format="d"),
              scale=alt.Scale(domain=[0.5, last + 0.5], nice=False))  # fmt: skip
    y = alt.Y("value:Q", title="size (see the panel)", scale=alt.Scale(type="log"),
              axis=alt.Axis(labelExpr=LOG_LABELS, tickCount=4))  # fmt: skip
    hover = tooltip(site="site", label="model", text="size")
    return facet(
        _lines(x, y, hover),
        as_rows(drawn.with_columns(as_text("text", pl.col("value")))),
        in_order(table["panel"]),
        columns=columns,
        title="Signal and gradient, with and without shortcuts",
        subtitle=[
            f"medians over batches; {title_of('activation_rms')}, {title_of('activation_grad_norm')}",
            f"without shortcuts: without {twins.taken_out(readings)}",
        ],
        description=_ends(table, f"Signal and gradient by place, with and without {twins.taken_out(readings)}."),
        size=(320, 220),
    )


def twin_losses_data(readings: Readings) -> pl.DataFrame:
    """What `twin_losses` draws: columns `panel`, `label` (the side), `step`, `value`, the loss before its update.

    Raises:
        InputError: the readings are not of study `twin`, or nothing was trained.
    """
    losses = require_rows(twins.training_data(readings), "nothing was trained: give steps to studies.twin.")
    long = losses.rename({"with_": AS_IS, "without": WITHOUT}).unpivot(
        [AS_IS, WITHOUT], index="step", variable_name="label", value_name="value"
    )
    return long.filter(pl.col("value").is_finite()).select(
        pl.lit("training loss").alias("panel"), "label", "step", "value"
    )


def twin_losses(readings: Readings, *, columns: int = 1) -> alt.FacetChart:
    """The loss by step of training, with and without shortcuts.

    Args:
        readings: of study `twin`, with steps of training.
        columns: panels in a row.

    Raises:
        InputError: the readings are not of study `twin`, or nothing was trained.
    """
    table = twin_losses_data(readings)
    require_int("columns", columns, least=1)
    steps = [0] if table.is_empty() else table["step"].to_list()  # of no finite loss there is nothing to draw
    first, last = min(steps), max(steps)
    beside = 0.03 * max(1, last - first)  # so that no point is cut in half
    # Ticks at whole steps alone: a few steps would else be labelled 0 1 1 2 2, whatever the smallest step of ticks is.
    whole = alt.Axis(tickCount=min(10, max(1, last - first)), tickMinStep=1, grid=False, format="d")
    x = alt.X("step:Q", title="step", axis=whole, scale=alt.Scale(domain=[first - beside, last + beside], nice=False))
    y = alt.Y("value:Q", title="loss", scale=alt.Scale(zero=False))
    return facet(
        _lines(x, y, tooltip(label="model", step="step", text="loss")),
        as_rows(table.with_columns(as_text("text", pl.col("value")))),
        in_order(table["panel"]),
        columns=columns,
        title="Training loss, with and without shortcuts",
        subtitle=[
            "from the same weights, on the same batches in the same order; one run of each",
            f"without shortcuts: without {twins.taken_out(readings)}",
        ],
        description=_ends(table, f"Training loss, with and without {twins.taken_out(readings)}."),
        size=(420, 240),
    )


def _lines(x: alt.X, y: alt.Y, hover: list[alt.Tooltip]) -> list[alt.Chart]:
    near = alt.selection_point(name="hover", on="pointerover", clear="pointerout", nearest=True, empty=False)
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, symbolSize=60)
    colours = alt.Scale(domain=[AS_IS, WITHOUT], range=[COLOURS["residual"], COLOURS["twin"]])
    shapes = alt.Scale(domain=[AS_IS, WITHOUT], range=[SHAPES["residual"], SHAPES["twin"]])
    base = alt.Chart().encode(x=x, y=y, color=alt.Color("label:N", scale=colours, legend=legend))
    points = base.mark_point(filled=True, opacity=1, clip=True).encode(
        shape=alt.Shape("label:N", scale=shapes, legend=legend),
        tooltip=hover,
        size=alt.when(near).then(alt.value(90)).otherwise(alt.value(20)),
    )
    return [base.mark_line(strokeWidth=1.8, clip=True).add_params(zoom(["x", "y"])), points.add_params(near)]


def _ends(table: pl.DataFrame, said: str) -> str:
    told = [
        f"{panel}, {label}: {number(part['value'][0])} first, {number(part['value'][-1])} last"
        for (panel, label), part in table.group_by("panel", "label", maintain_order=True)
    ]
    return f"{said} {'. '.join(told)}."


def absent_blocks_data(readings: Readings) -> pl.DataFrame:
    """What `absent_blocks` draws of `skipscope.absences.block_data`: of a block the rise of loss and error.

    Returns:
        Columns `panel`, `site`, `block`, `value`, and its interval `low`, `high` (null where there is none).

    Raises:
        InputError: the readings are no lesions of a model.
    """
    table = absences.block_data(readings)
    parts = [
        table.select(
            pl.lit(panel).alias("panel"), "site", "block", value=name, low=f"{name}_low", high=f"{name}_high"
        ).cast({"value": pl.Float64, "low": pl.Float64, "high": pl.Float64})
        for panel, name in (("rise of the loss", "rise"), ("rise of the error", "more"))
        if table[name].null_count() < table.height
    ]
    return pl.concat(parts)


def absent_blocks(readings: Readings, *, columns: int = 2) -> alt.FacetChart:
    """By how much loss and error rise without each block, with their intervals.

    Args:
        readings: of study `lesion`, of a model of one's own.
        columns: panels in a row.

    Raises:
        InputError: the readings are no lesions of a model.
    """
    table = absent_blocks_data(readings)
    require_int("columns", columns, least=1)
    if not table["value"].is_finite().any():
        raise InputError("there is nothing to draw: without any block the loss is no finite number.")
    last = int(str(table["block"].max()))
    x = alt.X("block:Q", title="block that is taken out", axis=alt.Axis(tickMinStep=1, grid=False, format="d"),
              scale=alt.Scale(domain=[0.5, last + 0.5], nice=False))  # fmt: skip
    base = alt.Chart().encode(x=x, color=alt.value(OTHERS[0]))
    hover = tooltip(site="without", text="rise", interval="interval")
    title = "rise"
    drawn = table.filter(pl.col("value").is_finite())
    return facet(
        [
            alt.Chart().mark_rule(color=INK, strokeDash=[6, 3], clip=True).encode(y=alt.Y("zero:Q", title=title)),
            base.mark_rule(strokeWidth=1.6, clip=True).encode(y=alt.Y("low:Q", title=title), y2="high:Q"),
            base.mark_point(filled=True, opacity=1, size=50, clip=True).encode(
                y=alt.Y("value:Q", title=title), tooltip=hover
            ),
        ],
        as_rows(
            drawn.with_columns(
                as_text("text", pl.col("value")),
                as_range("interval", "low", "high"),
                zero=pl.when(pl.int_range(pl.len()).over("panel") == 0).then(0.0),
            )
        ),
        in_order(table["panel"]),
        columns=columns,
        title="Without each block, by itself",
        subtitle=["points with intervals that hold at 95 % for all blocks together; dashed: nothing changes"],
        description=capital(
            ". ".join(
                f"{panel}: {number(float(str(part['value'].min())))} to {number(float(str(part['value'].max())))}"
                for (panel,), part in drawn.group_by("panel", maintain_order=True)
            )
        )
        + ".",
        independent=True,
        size=(300, 220),
    )
