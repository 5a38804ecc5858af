"""Charts of study `sweep`: numbers of whole networks against depth, rates a block, and draws that contradict.

The tables are those of `skipscope.summary` and `skipscope.trends`; here they get their panels and labels.
"""

from __future__ import annotations

import math

import altair as alt
import polars as pl

from skipscope import trends
from skipscope.charts.look import (
    INK,
    OTHERS,
    PERCENT,
    Rows,
    Shared,
    as_means,
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
    kinds,
    law_lines,
    laws_of_means,
    log_axis,
    mean_law_lines,
    mean_law_words,
    medians,
    require_rows,
    seeds_in_words,
    shape,
    title_of,
    tooltip,
)
from skipscope.errors import require_int
from skipscope.readings import Readings
from skipscope.summary import QUANTILES, Summary, require_summary
from skipscope.words import number

__all__ = [
    "contradictions",
    "contradictions_data",
    "rates",
    "rates_data",
    "scaling",
    "scaling_data",
]

# ------------------------------------------------------------------------------------------------- against depth


def scaling_data(summary: Summary, quantity: str = "backward_gain") -> pl.DataFrame:
    """What `scaling` draws: a number of whole networks, one row a network, by kind of network and depth.

    A gain is that of the whole network: at `head` forward, at `input` backward; of a model of one's own, of its body.

    Returns:
        Columns `cell`, `panel` (the kind), `design`, `depth`, the summary's `n`, `zeros`, `nonfinite`, `q05` to `q95`,
        `law_q05`, `law_q50`, `law_q95` and `z`; `law_rms`, with the measured `rms`, where the law is one of the mean
        square alone.

    Raises:
        InputError: the summary has no such quantity of whole networks.
    """
    require_summary(summary)
    of = summary.of(quantity)
    place = trends.RATES.get(quantity, ("", "network"))[1]
    # Of a model of one's own a gain is that of its body, and stands at the network.
    rows = of.filter(pl.col("site").is_in((place, "network")), pl.col("depth").is_not_null())
    rows = rows.filter(pl.col("step") == pl.col("step").min(), pl.col("call") == 0)
    require_rows(rows, f"{quantity!r} was not measured of a whole network, at site {place!r}; see studies.sweep.")
    named = kinds(summary.readings)
    places = {label: place for place, label in enumerate(in_order(named.values()))}
    numbers = ("n", "zeros", "nonfinite", *QUANTILES, "law_q05", "law_q50", "law_q95", "z")
    return (
        rows.with_columns(panel=pl.col("cell").replace_strict(named))
        .sort(pl.col("panel").replace_strict(places), "depth")
        .select("cell", "panel", "design", "depth", *numbers, *laws_of_means())
    )


def scaling(summary: Summary, quantity: str = "backward_gain", *, columns: int = 3) -> alt.FacetChart:
    """A number of whole networks against depth, a panel a kind: median over seeds with its bands, law dashed.

    Args:
        summary: of readings of study `sweep`.
        quantity: `forward_gain`, `backward_gain`, `weight_grad_first_last`, `forward_growth` or `backward_growth`.
        columns: panels in a row.

    Raises:
        InputError: the summary has no such quantity of whole networks.
    """
    table = scaling_data(summary, quantity)
    require_int("columns", columns, least=1)
    y = log_axis(table, title_of(quantity))
    x = depth_axis(table["depth"], "depth", "depth d")
    base = alt.Chart().encode(x=x, color=colour(table, legend=False))
    hover = tooltip(
        panel="network",
        depth="depth",
        median="median",
        half="25 to 75 %",
        most="5 to 95 %",
        law="law (5 to 95 %)",
        mean_law="root mean square",
        n="seeds",
    )
    known = table["law_q50"].null_count() < table.height
    in_mean = table["law_rms"].null_count() < table.height
    law = [*(law_lines(x, y) if known else []), *(mean_law_lines(x, y) if in_mean else [])]
    return facet(
        [*bands(base, y), *law, *medians(base, y, shape(table, legend=False), hover)],
        _scaling_rows(table),
        in_order(table["panel"]),
        columns=columns,
        title=f"{capital(title_of(quantity))}, against depth",
        subtitle=[
            f"median over {seeds_in_words(table)} with bands 25 to 75 % and 5 to 95 %"
            + ("; dashed: the law's median; dotted: its 5 and 95 % quantiles" if known else ""),
            *([mean_law_words(table)] if in_mean else []),
        ],
        description=_scaling_words(table, quantity),
        size=(250, 200),
    )


def _scaling_rows(table: pl.DataFrame) -> Rows:
    return as_rows(
        table.with_columns(
            as_text("median", pl.col("q50")),
            *as_ranges(),
            as_range("law", "law_q05", "law_q95", "law_q50"),
            as_means("mean_law"),
        )
    )


def _scaling_words(table: pl.DataFrame, quantity: str) -> str:
    told = []
    for (panel,), part in table.group_by("panel", maintain_order=True):
        first, last = part.row(0, named=True), part.row(-1, named=True)
        told.append(
            f"{panel}: median {number(first['q50'])} at depth {first['depth']} (5 to 95 % {number(first['q05'])} to "
            f"{number(first['q95'])}), {number(last['q50'])} at depth {last['depth']} ({number(last['q05'])} to "
            f"{number(last['q95'])})"
        )
    return f"{capital(title_of(quantity))}, against depth, over {seeds_in_words(table)}. {'. '.join(told)}."


# --------------------------------------------------------------------------------------------------- rates a block

_DIRECTIONS = {"signal": "signal, forward", "gradient": "gradient, backward"}


def rates_data(readings: Readings) -> pl.DataFrame:
    """What `rates` draws: `skipscope.trends.rates` of signal and gradient, as factors a block on the norm.

    Returns:
        Columns `panel` (the direction), `label` (the kind of network), `design`, `blocks`, `n`, `left_out`; `factor`,
        of the typical draw, with its 95 % interval `low`, `high`, and the law's `law_factor`; `mean_factor`, in root
        mean square if draws are log-normal, with `mean_low`, `mean_high` and `law_mean_factor`; `z`.

    Raises:
        InputError: there is no quantity of a whole network, or none has two depths.
    """
    about = {name: _DIRECTIONS[what] for name, (what, _) in trends.RATES.items() if what in _DIRECTIONS}
    table = trends.rates(readings).filter(pl.col("quantity").is_in(list(about)))
    require_rows(table, "a rate is fitted over depths: measure two at least, with studies.sweep.")
    named = kinds(readings)
    factors = {
        "factor": "rate",
        "low": "rate_low",
        "high": "rate_high",
        "mean_factor": "mean_rate",
        "mean_low": "mean_rate_low",
        "mean_high": "mean_rate_high",
        "law_factor": "law_rate",
        "law_mean_factor": "law_mean_rate",
    }
    places = {panel: place for place, panel in enumerate(about.values())}
    order = {label: place for place, label in enumerate(in_order(named.values()))}
    return (
        table.with_columns(
            panel=pl.col("quantity").replace_strict(about),
            label=pl.col("cell").replace_strict(named),
            **{name: (pl.col(rate).clip(-1400, 1400) / 2).exp() for name, rate in factors.items()},
        )
        .sort(pl.col("panel").replace_strict(places), pl.col("label").replace_strict(order))
        .select("panel", "label", "design", "blocks", "n", "left_out", *factors, "z")
    )


def rates(readings: Readings, *, columns: int = 2) -> alt.FacetChart:
    """By which factor a block changes the norm: of the typical draw, and in root mean square, with 95 % intervals.

    Args:
        readings: of study `sweep`, of two depths at least.
        columns: panels in a row.

    Raises:
        InputError: there is no quantity of a whole network, or none has two depths.
    """
    table = rates_data(readings)
    require_int("columns", columns, least=1)
    rows = _rate_rows(table)
    names = in_order(table["label"])
    ends = _ends([row[name] for row in rows for name in ("low", "high", "middle", "law") if row[name] is not None])
    x: Shared = {
        "title": "factor a block, on the norm",
        "scale": alt.Scale(type="log", domain=ends, nice=False),
        "axis": alt.Axis(values=_ticks(*ends), format=".3~g", grid=False),
    }
    y = alt.Y("label:N", sort=names, title=None, axis=alt.Axis(labelLimit=260, domain=False, ticks=False))
    # One below the other on the network's line: the typical draw above.
    offset = alt.YOffset("of:N", sort=list(_OF), scale=alt.Scale(paddingOuter=0.6))
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, symbolSize=60)
    colours = alt.Scale(domain=list(_OF), range=[colour for colour, _ in _OF.values()])
    points = alt.Scale(domain=list(_OF), range=[point for _, point in _OF.values()])
    base = alt.Chart().encode(y=y, yOffset=offset, color=alt.Color("of:N", scale=colours, legend=legend))
    hover = tooltip(label="network", panel="of the", of="in", told="factor a block", law_text="law", n="seeds")
    law = alt.Chart().mark_tick(color=INK, thickness=2, height=14, clip=True)
    return facet(
        [
            alt.Chart().mark_rule(color=INK, opacity=0.5).encode(x=alt.X("one:Q", **x), size=alt.value(1)),
            base.mark_rule(strokeWidth=2.5, clip=True).encode(x=alt.X("low:Q", **x), x2="high:Q"),
            law.encode(x=alt.X("law:Q", **x), y=y, yOffset=offset),
            base.mark_point(filled=True, opacity=1, size=60, clip=True).encode(
                x=alt.X("middle:Q", **x), shape=alt.Shape("of:N", scale=points, legend=legend), tooltip=hover
            ),
        ],
        rows,
        in_order(table["panel"]),
        columns=columns,
        title="Factor a block on the norm, fitted over depths",
        subtitle=["points with 95 % intervals over seeds; ticks: the law; line at 1: nothing changes"],
        description=_rate_words(table),
        size=(300, 44 * len(names) + 10),
    )


_OF = {"typical draw": (OTHERS[0], "circle"), "root mean square": (OTHERS[1], "diamond")}
"""Colour and point of the two rates."""

_COLUMNS = {"typical draw": ("factor", "low", "high", "law_factor")} | {
    "root mean square": ("mean_factor", "mean_low", "mean_high", "law_mean_factor")
}


def _rate_rows(table: pl.DataFrame) -> Rows:
    parts = [
        table.select(
            "panel",
            "label",
            "n",
            of=pl.lit(of),
            middle=middle,
            low=low,
            high=high,
            law=law,
        )
        for of, (middle, low, high, law) in _COLUMNS.items()
    ]
    drawn = pl.concat(parts).with_columns(
        as_range("told", "low", "high", "middle"),
        as_text("law_text", pl.col("law")),
        one=pl.when(pl.int_range(pl.len()).over("panel") == 0).then(1.0),
    )
    return as_rows(drawn)


def _ends(values: list[float]) -> list[float]:
    """Around all values, and 1, with a little room."""
    low, high = (math.log(f([*values, 1.0])) for f in (min, max))
    room = max(0.08 * (high - low), 0.02)
    return [float(f"{math.exp(end):.4g}") for end in (low - room, high + room)]


def _ticks(low: float, high: float) -> list[float]:
    """At most a handful of round numbers between the ends: Vega has none where a log axis spans less than a decade."""
    inside = [[step for step in steps if low <= step <= high] for steps in _STEPS]
    return next((each for each in inside if len(each) >= 4), inside[-1])


_STEPS = (
    (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0),
    (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
    (0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0),
    (0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2),
    (0.94, 0.96, 0.98, 0.99, 1.0, 1.01, 1.02, 1.04, 1.06),
)


def _rate_words(table: pl.DataFrame) -> str:
    told = [
        f"{row['label']}, {row['panel']}: {number(row['factor'])} in the typical draw, "
        f"{number(row['mean_factor'])} in root mean square"
        for row in table.iter_rows(named=True)
    ]
    return f"Factor a block on the norm, fitted over depths, over {seeds_in_words(table)}. {'. '.join(told)}."


# ---------------------------------------------------------------------------------------- against the notebook


def contradictions_data(readings: Readings) -> pl.DataFrame:
    """What `contradictions` draws: `skipscope.trends.contradictions` with `panel`, the pair.

    Raises:
        InputError: there is no network without shortcuts beside one with them, of one depth.
    """
    table = trends.contradictions(readings).filter(pl.col("n") > 0)
    require_rows(table, "a contradiction takes a network without shortcuts and one with them, of one depth.")
    differing = [name for name in ("width", "cotangent") if table[name].n_unique() > 1]
    more = [pl.format(f", {name} {{}}", pl.col(name).cast(pl.String)) for name in differing]
    return table.with_columns(panel=pl.concat_str([pl.format("{} against {}", "against", "design"), *more]))


def contradictions(readings: Readings, *, columns: int = 2) -> alt.FacetChart:
    """The share of draws that contradict "shortcuts maintain gradient flow N times better", against depth.

    Args:
        readings: of study `sweep`, of a design without shortcuts and one with them.
        columns: panels in a row.

    Raises:
        InputError: there is no network without shortcuts beside one with them, of one depth.
    """
    table = contradictions_data(readings)
    require_int("columns", columns, least=1)
    x = depth_axis(table["depth"], "depth", "depth d")
    y: Shared = {
        "title": "share of draws",
        "scale": alt.Scale(domain=[0, 1]),
        "axis": alt.Axis(labelExpr=PERCENT, tickCount=5),
    }
    hover = tooltip(panel="pair", depth="depth", told="contradict", median="median N", n="draws")
    base = alt.Chart().encode(x=x, color=alt.value(OTHERS[0]))
    coin = alt.Chart().mark_rule(color=INK, strokeDash=[6, 3], clip=True).encode(y=alt.Y("half:Q", **y))
    point = base.mark_point(filled=True, opacity=1, size=50, clip=True)
    return facet(
        [
            coin,
            base.mark_rule(strokeWidth=2.5, clip=True).encode(y=alt.Y("low:Q", **y), y2="high:Q"),
            base.mark_line(strokeWidth=1.5, clip=True).encode(y=alt.Y("contradicts:Q", **y)),
            point.encode(y=alt.Y("contradicts:Q", **y), tooltip=hover),
        ],
        as_rows(
            table.with_columns(
                as_range("told", "low", "high", "contradicts"),
                as_text("median", pl.col("N")),
                half=pl.when(pl.int_range(pl.len()).over("panel") == 0).then(0.5),
            ).select("panel", "depth", "n", "contradicts", "low", "high", "half", "told", "median")
        ),
        in_order(table["panel"]),
        columns=columns,
        title="Draws that contradict the notebook's conclusion from one",
        subtitle=[f"share of {seeds_in_words(table)} with 95 % interval; dashed: a coin"],
        description=_contradiction_words(table),
        size=(300, 160),
    )


def _contradiction_words(table: pl.DataFrame) -> str:
    told = []
    for (panel,), part in table.group_by("panel", maintain_order=True):
        shares = ", ".join(f"{number(row['contradicts'], 2)} at depth {row['depth']}" for row in part.to_dicts())
        told.append(f"{panel}: {shares}")
    return f"Share of draws that contradict the notebook, by depth, of {seeds_in_words(table)}. {'. '.join(told)}."
