"""The section on study `highway`: through shortcuts or branches, and through how many of them."""

from __future__ import annotations

from typing import Any

import polars as pl

from skipscope import charts
from skipscope.diagnosis import Finding
from skipscope.paths import judge, misfit_data
from skipscope.readings import Readings
from skipscope.report.page import Block, Claim, Claims, Figure, Findings, Holds, Prose, Section, Table
from skipscope.report.prose import QUANTILE_NAMES, joined, method, quoted, seeds_of, sent, versions_of
from skipscope.words import number

__all__ = ["highway_section"]

Rows = list[dict[str, Any]]

SHORT = 0.25
"""Which share of the branches a path may pass at most to be called short here."""

AGREE = 0.1
"""By how much the mean length may differ from that of independent choices, relative to it."""


def highway_section(readings: Readings, *, anchor: str = "highway") -> Section:
    """The section on readings of study `highway`.

    Raises:
        InputError: the readings hold no path weights, or no shares.
    """
    shares, lengths = charts.shares_data(readings), charts.path_lengths_data(readings)
    named = dict(lengths.select("cell", "panel").unique(maintain_order=True).iter_rows())
    misfit = misfit_data(readings).with_columns(panel=pl.col("cell").replace_strict(named))
    findings = judge(readings)
    order = list(named)
    findings.sort(key=lambda finding: order.index(finding.cell) if finding.cell in order else len(order))
    typical, pooled = (_rows(misfit, estimate, order) for estimate in ("typical", "pooled"))
    blocks: list[Block] = [
        Prose((_ASKED, _drawn(readings))),
        Prose((_shares_told(shares),), "At every junction"),
        _shares_figure(readings, shares),
        Prose((_HOW,), "Over the whole body"),
        _lengths_told(pooled),
        _lengths_figure(readings, lengths),
        Prose((), "What is commonly said, and what was measured"),
        Claims((_share_claim(shares), _short_claim(typical), _law_claim(findings, named), _independent_claim(typical))),
        Prose((), "Findings"),
        Findings(tuple(findings)),
        method(readings),
    ]
    return Section(
        title="Which way the gradient comes",
        anchor=anchor,
        answer=_answer(pooled),
        blocks=tuple(blocks),
        versions=versions_of(readings),
    )


_ASKED = (
    "Behind a junction out = s x + F(x) the gradient is a sum of what came through the shortcut and what came through "
    "the branch. Which part came which way, and, over the whole body, through how many branches?"
)
_HOW = (
    "Nothing is sampled: with the gates as the forward pass left them every path is linear, and one backward pass "
    "carries a gradient for every length. The weight of a length is the projection of its gradient on the whole, so "
    "weights sum to one, and where paths work against each other some are negative."
)
_BANDS = "Line: median draw; dark band: 25 to 75 % of draws; light band: 5 to 95 %."


def _rows(misfit: pl.DataFrame, estimate: str, order: list[str]) -> Rows:
    rows = misfit.filter(pl.col("estimate") == estimate).to_dicts()
    return sorted(rows, key=lambda row: order.index(row["cell"]))


def _drawn(readings: Readings) -> str:
    cells = readings.cells
    depths = joined(f"d = {depth}" for depth in cells["depth"].unique().sort())
    back = joined(map(sent, cells["cotangent"].unique().sort()))
    return f"Here {depths}; every network is drawn with {seeds_of(readings)} and has {back} sent back from its output."


def _answer(pooled: Rows) -> str:
    told = joined(f"{number(row['mean'])} of {row['junctions']} in {quoted([row['panel']])}" for row in pooled)
    return f"By energy, the gradient that reaches the input came, in the mean, through so many branches: {told}."


# ---------------------------------------------------------------------------------------------------------- the charts


def _shares_told(shares: pl.DataFrame) -> str:
    told = [f"{number(share, 2)} in {quoted([panel])}" for panel, share in _branch_shares(shares).items()]
    return f"Through the branch came, as a median over draws and then over junctions, {joined(told)}."


def _branch_shares(shares: pl.DataFrame) -> dict[str, float]:
    """The branch's share in every panel: the median over junctions of the medians over draws."""
    branch = shares.filter(pl.col("part") == "branch")
    return dict(branch.group_by("panel", maintain_order=True).agg(pl.col("q50").median()).iter_rows())


def _shares_figure(readings: Readings, shares: pl.DataFrame) -> Figure:
    law = " Dashed: the law, where its conditions are met." if shares["law"].null_count() < shares.height else ""
    return Figure(
        name="Shares of the gradient, block by block",
        chart=charts.shares(readings),
        caption=f"The share is a projection on the whole; the two sum to one. {_BANDS}{law}",
        table=shares.select(
            pl.col("panel").alias("network"),
            "part",
            "block",
            pl.col("n").alias("seeds"),
            *[pl.col(name).alias(title) for name, title in QUANTILE_NAMES.items()],
            "law",
        ),
    )


def _lengths_told(pooled: Rows) -> Table:
    rows = [
        {
            "network": row["panel"],
            "branches passed|mean": row["mean"],
            "branches passed|95 % interval": _interval(row),
            "branches passed|law": row["law_mean"],
            "branches passed|of": row["junctions"],
            "draws|drawn": row["n"],
            "draws|worth by energy": row["effective"],
        }
        for row in pooled
    ]
    caption = "The mean number of branches passed, all draws weighted by their energy. A few draws may have most of it."
    return Table(pl.DataFrame(rows, infer_schema_length=None), caption)


def _interval(row: dict[str, Any]) -> str:
    return "–" if row["low"] is None else f"{number(row['low'])} to {number(row['high'])}"


def _lengths_figure(readings: Readings, lengths: pl.DataFrame) -> Figure:
    return Figure(
        name="Share of the gradient by the number of branches passed",
        chart=charts.path_lengths(readings),
        caption=(
            f"{_BANDS} Second line: all draws, weighted by their energy. Dashed: the binomial law by energy, faint "
            "where its conditions are not met. Grey bars: the share of the number of paths. m: mean length by energy. "
            "Every panel has its own scale, and bands are cut off far from the lines."
        ),
        table=lengths.select(
            pl.col("panel").alias("network"),
            pl.col("length").alias("branches"),
            pl.col("n").alias("seeds"),
            *[pl.col(name).alias(f"one draw|{title}") for name, title in QUANTILE_NAMES.items()],
            pl.col("pooled").alias("all draws|by energy"),
            "law",
            pl.col("independent").alias("independent choices"),
            pl.col("count").alias("number of paths"),
        ),
    )


# ---------------------------------------------------------------------------------------------------------- the claims


def _share_claim(shares: pl.DataFrame) -> Claim:
    found = _branch_shares(shares)
    main = [panel for panel, share in found.items() if share < 0.45]
    others = [f"{number(share, 2)} in {quoted([panel])}" for panel, share in found.items() if share >= 0.45]
    holds: Holds = "right" if not others else "wrong"
    said = f"Most of it does in {quoted(main)}. " if main else ""
    if others:
        said += f"Through the branch comes a share of {joined(others)}."
    return Claim("At a junction the gradient comes through the shortcut.", holds, said.strip())


def _short_claim(typical: Rows) -> Claim:
    """Whether the mean length of the median draw is below `SHORT` of the branches, with its whole interval."""
    short: list[str] = []
    long: list[str] = []
    open_: list[str] = []
    for row in typical:
        limit = SHORT * row["junctions"]
        told = f"{number(row['mean'])} of {row['junctions']} in {quoted([row['panel']])}"
        if row["low"] is None or row["low"] <= limit <= row["high"]:
            open_.append(told)
        else:
            (short if row["high"] < limit else long).append(told)
    holds: Holds = "wrong" if long else "unknown" if open_ else "right"
    said = [
        f"{words} {joined(rows)}"
        for words, rows in (("Short are", short), ("Not short are", long), ("These draws do not decide", open_))
        if rows
    ]
    return Claim(
        "In a residual network short paths carry the gradient.",
        holds,
        f"Mean length in the median draw, short being below {SHORT:g} of the branches. {'. '.join(said)}.",
    )


def _law_claim(findings: list[Finding], named: dict[str, str]) -> Claim:
    pooled = [finding for finding in findings if finding.rule == "path lengths by energy, all draws"]
    verdicts = {
        verdict: [named.get(finding.cell, finding.subject) for finding in pooled if str(finding.verdict) == verdict]
        for verdict in ("law holds", "law does not hold", "cannot tell")
    }
    holds: Holds = "wrong" if verdicts["law does not hold"] else "unknown" if verdicts["cannot tell"] else "right"
    words = {
        "law holds": "What they carry is binomial in",
        "law does not hold": "It is not in",
        "cannot tell": "It cannot be told, or there is no such law, in",
    }
    told = " ".join(f"{words[verdict]} {quoted(cells)}." for verdict, cells in verdicts.items() if cells)
    return Claim("Path lengths are binomial.", holds, f"The number of paths is, always. {told}")


def _independent_claim(typical: Rows) -> Claim:
    apart = [row for row in typical if _apart(row)]
    told = joined(
        f"{quoted([row['panel']])} (the shares say {number(row['independent_mean'])}, measured {number(row['mean'])})"
        for row in apart or typical
    )
    said = f"Not in {told}: the junctions do not choose independently." if apart else f"They do, in {told}."
    return Claim("The shares at the junctions tell how long the paths are.", "wrong" if apart else "right", said)


def _apart(row: dict[str, Any]) -> bool:
    """Whether the mean length of the median draw differs from that of independent choices, beyond its interval."""
    expected = row["independent_mean"]
    if row["low"] is None or row["low"] <= expected <= row["high"]:
        return False
    return bool(abs(row["mean"] - expected) > AGREE * max(abs(expected), 1.0))
