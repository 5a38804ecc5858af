"""Charts over depth: signal and gradient with their law, and what shortcut and branch do at every junction."""

from __future__ import annotations

import altair as alt
import polars as pl

from skipscope.charts.look import (
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
    labelled,
    labels,
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

__all__ = ["coincident", "coincident_words", "flow", "flow_data", "junctions", "junctions_data"]

_JUNCTION_QUANTITIES = {
    "branch_ratio": "norm of branch / norm of shortcut",
    "branch_cosine": "cosine between branch and shortcut",
    "shortcut_share": "share of gradient through shortcut",
    "branch_share": "share of gradient through branch",
}

# ------------------------------------------------------------------------------------------------ profiles over depth


def flow_data(summary: Summary, quantity: str = "backward_gain") -> pl.DataFrame:
    """What `flow` draws: one row a site and cell, in order of depth.

    Whole blocks with the input and the layers outside blocks, since that is the path that signal and gradient take; of
    a quantity that only layers have, all layers. The first step and the first call, where there are several.

    Returns:
        Columns `cell`, `panel`, `design`, the summary's `site`, `site_depth`, `n`, `zeros`, `nonfinite`, `q05` to
        `q95`, `law_q05`, `law_q50`, `law_q95`, `z` and `carrying`; `law_rms`, with the measured `rms`, where the law
        is one of the mean square alone.

    Raises:
        InputError: the summary has no such quantity, or none with a place in depth.
    """
    require_summary(summary)
    rows = summary.of(quantity).filter(pl.col("kind") != "network")
    rows = rows.filter(pl.col("step") == pl.col("step").min(), pl.col("call") == 0)
    require_rows(rows, f"{quantity!r} is a number of the network as a whole; draw it with charts.distribution.")
    blocks = summary.readings.sites.filter(pl.col("kind").is_in(["block", "junction"]))
    if quantity == "weight_grad_norm" or set(rows["kind"]) == {"layer"}:
        rows = rows.filter(pl.col("kind") == "layer")
    else:
        rows = rows.join(_inside(summary.readings, blocks), on=["cell", "site"], how="anti")
    rows = _panels(rows, summary.readings)
    named = ("cell", "panel", "design", "site", "site_depth", "n", "zeros", "nonfinite")
    laws = ("law_q05", "law_q50", "law_q95", "z", "carrying")
    return rows.select(*named, *QUANTILES, *laws, *laws_of_means())


def _inside(readings: Readings, blocks: pl.DataFrame) -> pl.DataFrame:
    """The layers that are part of a block: their names begin with the block's."""
    outer = {(row["cell"], row["site"]) for row in blocks.iter_rows(named=True)}
    found = [
        (cell, site)
        for cell, site in readings.sites.select("cell", "site").iter_rows()
        if any((cell, site[:end]) in outer for end, letter in enumerate(site) if letter == ".")
    ]
    return pl.DataFrame(found, schema={"cell": pl.String, "site": pl.String}, orient="row")


def _panels(rows: pl.DataFrame, readings: Readings) -> pl.DataFrame:
    """`rows` with the panel that shows their cell, in order of panels and depth."""
    named = labels(readings)
    deepest = readings.sites.group_by("cell").agg(pl.col("depth").max())
    layers = dict(zip(deepest["cell"], deepest["depth"], strict=True))
    found = pl.DataFrame(
        [(cell, place, f"{label}: {layers.get(cell, 0)} layers") for place, (cell, label) in enumerate(named.items())],
        schema={"cell": pl.String, "place": pl.Int64, "panel": pl.String},
        orient="row",
    )
    return rows.join(found, on="cell", how="left").sort("place", "site_order")


def flow(summary: Summary, quantity: str = "backward_gain", *, columns: int = 2) -> alt.FacetChart:
    """A quantity by depth, a panel a cell: the median over seeds with its bands, and the law dashed where one holds.

    Args:
        summary: what `summarise` returned.
        quantity: measured at sites: `backward_gain`, `forward_gain`, `activation_rms`, `weight_grad_norm` ...
        columns: panels in a row.

    Raises:
        InputError: the summary has no such quantity, or none with a place in depth.
    """
    table = flow_data(summary, quantity)
    require_int("columns", columns, least=1)
    y = log_axis(table, title_of(quantity))
    x = depth_axis(table["site_depth"], "site_depth", "weight layers from the input")
    base = alt.Chart().encode(x=x, color=colour(table, legend=False))
    point = shape(table, legend=False)
    law = [*(law_lines(x, y) if _has_law(table) else []), *(mean_law_lines(x, y) if mean_law_words(table) else [])]
    layers = [*bands(base, y), *law, *medians(base, y, point, _profile_tooltip())]
    return facet(
        layers,
        _profile_rows(table),
        in_order(table["panel"]),
        columns=columns,
        title=f"{capital(title_of(quantity))}, by depth",
        subtitle=[
            f"median over {seeds_in_words(table)} with bands 25 to 75 % and 5 to 95 %"
            + ("; dashed: the law's median; dotted: its 5 and 95 % quantiles" if _has_law(table) else ""),
            *([mean_law_words(table)] if mean_law_words(table) else []),
        ],
        description=_profile_words(table, quantity),
    )


def _has_law(table: pl.DataFrame) -> bool:
    return table["law_q50"].null_count() < table.height


def _profile_rows(table: pl.DataFrame) -> Rows:
    return as_rows(
        table.with_columns(
            as_text("median", pl.col("q50")),
            as_range("half", "q25", "q75"),
            as_range("most", "q05", "q95"),
            as_range("law", "law_q05", "law_q95", "law_q50"),
            as_means("mean_law"),
            as_text("z_text", pl.col("z"), digits=2),
        )
    )


def _profile_tooltip() -> list[alt.Tooltip]:
    return tooltip(
        panel="network",
        site="site",
        site_depth="weight layers",
        median="median",
        half="25 to 75 %",
        most="5 to 95 %",
        law="law (5 to 95 %)",
        mean_law="root mean square",
        z_text="z of the law",
        n="seeds",
    )


def _profile_words(table: pl.DataFrame, quantity: str) -> str:
    """The chart's text alternative: where every line begins and ends."""
    told = []
    for panel in in_order(table["panel"]):
        part = table.filter(pl.col("panel") == panel)
        first, last = part.row(0, named=True), part.row(-1, named=True)
        told.append(
            f"{panel}: median {number(first['q50'])} at {first['site']} (5 to 95 % {number(first['q05'])} to "
            f"{number(first['q95'])}), {number(last['q50'])} at {last['site']} ({number(last['q05'])} to "
            f"{number(last['q95'])})"
        )
    return f"{capital(title_of(quantity))}, by depth, over {seeds_in_words(table)}. {'. '.join(told)}."


# ------------------------------------------------------------------------------------------------------- junctions


def junctions_data(summary: Summary) -> pl.DataFrame:
    """What `junctions` draws: one row a quantity of junctions, cell and block.

    Returns:
        Columns `panel` (the quantity in words), `quantity`, `label`, `design`, the summary's `site`, `block`, `n` and
        `q05` to `q95`.

    Raises:
        InputError: the summary has no junctions.
    """
    require_summary(summary)
    table = summary.table.filter(pl.col("quantity").is_in(list(_JUNCTION_QUANTITIES)))
    table = table.filter(pl.col("step") == pl.col("step").min(), pl.col("call") == 0)
    require_rows(table, "these readings have no junctions, where a shortcut and a branch are added.")
    order = list(_JUNCTION_QUANTITIES)
    return (
        labelled(table, summary.readings)
        .with_columns(
            panel=pl.col("quantity").replace_strict(_JUNCTION_QUANTITIES),
            _place=pl.col("quantity").replace_strict({name: i for i, name in enumerate(order)}),
        )
        .sort("_place", "place", "site_order")
        .select("panel", "quantity", "label", "design", "site", "block", "n", *QUANTILES)
    )


def junctions(summary: Summary, *, columns: int = 2) -> alt.FacetChart:
    """What each block adds, and which way the gradient takes: medians over seeds with bands, block by block.

    A network that lies on another one (see `coincident`) is dashed and has no bands, so that both are seen.

    Args:
        summary: what `summarise` returned.
        columns: panels in a row.

    Raises:
        InputError: the summary has no junctions.
    """
    table = junctions_data(summary)
    require_int("columns", columns, least=1)
    y: Shared = {"title": None, "scale": alt.Scale(zero=False), "axis": alt.Axis(tickCount=5, labelFlush=True)}
    base = alt.Chart().encode(x=depth_axis(table["block"], "block", "block"), color=colour(table))
    line = pl.when(pl.col("label").is_in(coincident(table))).then(pl.lit("dashed")).otherwise(pl.lit("solid"))
    rows = as_rows(table.with_columns(as_text("median", pl.col("q50")), *as_ranges(), line=line))
    hover = tooltip(label="network", site="site", panel="what", median="median", half="25 to 75 %", most="5 to 95 %")
    # A field of its own: one that colour has too would share its legend, which says nothing of dashes.
    dash = alt.StrokeDash("line:N", scale=alt.Scale(domain=list(_DASHES), range=list(_DASHES.values())), legend=None)
    beneath = base.transform_filter("datum.line === 'solid'")
    return facet(
        [*bands(beneath, y), *medians(base, y, shape(table), hover, dash)],
        rows,
        in_order(table["panel"]),
        columns=columns,
        title="Shortcut and branch, block by block",
        subtitle=[f"median over {seeds_in_words(table)} with bands 25 to 75 % and 5 to 95 %"],
        description=_junction_words(table),
        independent=True,
    )


_DASHES = {"solid": [1, 0], "dashed": [3, 6]}


def coincident(table: pl.DataFrame) -> list[str]:
    """The labels in a table of `junctions_data` whose first block is, draw by draw, that of a label before them.

    Networks of one seed have the same normals from the input on, so a shallow one begins as a deep one does.
    """
    found: list[str] = []
    seen: set[tuple[object, ...]] = set()
    first = table.filter(pl.col("block") == pl.col("block").min(), pl.col("q05") < pl.col("q95"))
    for (label,), part in first.group_by("label", maintain_order=True):
        rows = set(part.select("quantity", "n", *QUANTILES).iter_rows())
        if rows & seen:
            found.append(str(label))
        seen |= rows
    return found


def coincident_words(table: pl.DataFrame) -> str:
    """How to read lines of `junctions` that lie on another; nothing where none does."""
    over = coincident(table)
    if not over:
        return ""
    return (
        f" The dashed lines ({', '.join(over)}), without bands: networks whose first blocks are, draw by draw, those "
        "of another network here, so that the lines coincide where nothing but these blocks counts."
    )


def _junction_words(table: pl.DataFrame) -> str:
    told = []
    for (panel, label), part in table.group_by("panel", "label", maintain_order=True):
        first, last = part.row(0, named=True), part.row(-1, named=True)
        told.append(
            f"{panel}, {label}: median {number(first['q50'])} in block {first['block']}, {number(last['q50'])} in "
            f"block {last['block']}"
        )
    return f"Shortcut and branch, block by block, over {seeds_in_words(table)}. {'. '.join(told)}."
