"""The section on study `highway`: through shortcuts or branches, and through how many of them."""

from __future__ import annotations

from typing import Any

import polars as pl

from skipscope import charts
from skipscope.diagnosis import SEEDS, Finding
from skipscope.paths import judge, misfit_data
from skipscope.readings import Readings
from skipscope.report.page import Block, Claim, Claims, Facts, Figure, Holds, Prose, Section, Table
from skipscope.report.prose import (
    QUANTILE_NAMES,
    UNTRAINED,
    depths_of,
    holds_of,
    in_full,
    joined,
    limits,
    method,
    quoted,
    seeds_of,
    sent,
    versions_of,
)
from skipscope.words import number, percent

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
        Prose((_ASKED,)),
        _orders_told(readings),
        Prose((_drawn(readings),)),
        Prose((_shares_told(shares),), "At every junction"),
        _shares_figure(readings, shares),
        Prose((_HOW,), "Over the whole body"),
        _lengths_figure(readings, lengths),
        _lengths_told(typical, pooled),
        *_refused(typical),
        Prose((), "What is commonly said, and what was measured"),
        Claims((_share_claim(shares), _short_claim(typical), _law_claim(findings, named), _independent_claim(typical))),
        limits(*_LIMITS),
        *in_full(findings),
        method(readings),
    ]
    return Section(
        title="Which way the gradient comes",
        anchor=anchor,
        answer=_answer(typical),
        blocks=tuple(blocks),
        versions=versions_of(readings),
        about="Through shortcuts or through branches, and through how many of them?",
        part=UNTRAINED,
    )


_ASKED = (
    "A junction adds a shortcut and a branch: out = s x + b F(x), s and b being their gains. On its way back the "
    "gradient takes both ways, and arrives as the sum. Which part came which way, and, over the whole body, through "
    "how many branches? The networks are named by where their ReLU stands and by the gain b of the branch (s is 1):"
)
_ORDERS = {
    "before-add": "ReLU at the end of the branch, before the addition, as in the notebook",
    "after-add": "ReLU after the addition, as in He et al. 2015",
    "pre-activation": "ReLU before the weights, as in He et al. 2016; nothing stands on the shortcut",
}
_LIMITS = (
    "These are networks before any training and, unless their name says so, without a norm. Veit et al. 2016 measured "
    "trained networks with batch normalisation, whose branches weigh less: nothing here contradicts what they found; "
    "it says that short paths are no property of shortcuts as such.",
    "A weight of a path length is a projection, not a probability: it may be negative, and a mean length need not be "
    "the length of any path that matters alone.",
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


def _orders_told(readings: Readings) -> Facts:
    """Where the ReLU stands in every order, and what a gain by rule is."""
    orders = set(readings.cells["order"])
    rules = {str(gain).partition(", ")[2] for gain in readings.cells["gain"]}
    told = [(order, said) for order, said in _ORDERS.items() if order in orders]
    told += [(f"gain {rule}", said) for rule, said in _RULES.items() if rule in rules]
    return Facts(tuple(told))


_RULES = {
    "1/sqrt(L)": "the branch is divided by the root of the number of blocks L",
    "1/L": "the branch is divided by the number of blocks L",
    "zero": "a learned gain of the branch, which starts at 0",
}


def _drawn(readings: Readings) -> str:
    back = joined(map(sent, readings.cells["cotangent"].unique().sort()))
    return (
        f"Here {depths_of(readings)}; every network is drawn with {seeds_of(readings)} and has {back} sent back from "
        "its output."
    )


def _answer(typical: Rows) -> str:
    """The mean lengths, by gain (and whatever else there is beside the order)."""
    groups: dict[tuple[str, int], list[float]] = {}
    for row in typical:
        order, _, rest = row["panel"].partition(", ")
        name = rest if rest and order in _ORDERS else row["panel"]
        groups.setdefault((name, row["junctions"]), []).append(row["mean"])
    told = joined(
        f"{_span(means)} of {junctions} branches {'with' if name.startswith('gain') else 'in'} {quoted([name])}"
        for (name, junctions), means in groups.items()
    )
    where = ", depending on where the ReLU stands" if any(len(means) > 1 for means in groups.values()) else ""
    return f"In the median draw the gradient that reaches the input has come, in the mean, through {told}{where}."


def _span(means: list[float]) -> str:
    low, high = number(min(means)), number(max(means))
    return low if low == high else f"{low} to {high}"


# ---------------------------------------------------------------------------------------------------------- the charts


def _shares_told(shares: pl.DataFrame) -> str:
    told = [f"{number(share, 2)} in {quoted([panel])}" for panel, share in _branch_shares(shares).items()]
    return (
        f"The share of the gradient that came through the branch is {joined(told)} (medians over draws, and of these "
        "over junctions)."
    )


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


def _lengths_told(typical: Rows, pooled: Rows) -> Table:
    rows = [
        {
            "network": one["panel"],
            "branches": one["junctions"],
            "median draw|mean length": one["mean"],
            "median draw|95 % interval": _interval(one),
            "all draws, by energy|mean length": whole["mean"],
            "all draws, by energy|95 % interval": _interval(whole) if whole["effective"] >= SEEDS else "too few",
            "all draws, by energy|worth": whole["effective"],
            "law": None if one["refusal"] else one["law_mean"],
            "draws": one["n"],
        }
        for one, whole in zip(typical, pooled, strict=True)
    ]
    shown = pl.DataFrame(rows, infer_schema_length=None)
    caption = (
        "The mean number of branches that the gradient came through: in the median draw, and in all draws weighted by "
        "their energy (squared gradient norm), of which a few may have most. Worth: how many draws of equal energy "
        f"would weigh as much; an interval needs {SEEDS}. The law speaks of the mean by energy."
    )
    return Table(shown if shown["law"].null_count() < shown.height else shown.drop("law"), caption)


def _interval(row: dict[str, Any]) -> str:
    return "–" if row["low"] is None else f"{number(row['low'])} to {number(row['high'])}"


def _refused(typical: Rows) -> list[Block]:
    """For which networks no law is drawn, and why."""
    why: dict[str, list[str]] = {}
    for row in typical:
        if row["refusal"]:
            why.setdefault(row["refusal"], []).append(row["panel"])
    return (
        [Prose(tuple(f"No law is drawn for {quoted(panels)}. {said}" for said, panels in why.items()))] if why else []
    )


def _lengths_figure(readings: Readings, lengths: pl.DataFrame) -> Figure:
    known = lengths["law"].null_count() < lengths.height
    law = " Dashed: the binomial law by energy, where its conditions are met." if known else ""
    return Figure(
        name="Share of the gradient by the number of branches passed",
        chart=charts.path_lengths(readings),
        caption=(
            f"{_BANDS} Second line: all draws, weighted by their energy.{law} Grey bars: how many of the paths have "
            "that length, as a share. m: the mean length in the median draw. Every panel has its own scale, and bands "
            "are cut off far from the lines."
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
    holds: Holds = "right" if not others else "depends" if main else "wrong"
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
    holds: Holds = ("depends" if short else "wrong") if long else "unknown" if open_ else "right"
    said = [
        f"{words} {joined(rows)}"
        for words, rows in (("It is", short), ("Not short: it is", long), ("Not decided: it is", open_))
        if rows
    ]
    return Claim(
        "In a residual network short paths carry the gradient.",
        holds,
        f"Short is a mean length, in the median draw, below {percent(SHORT)} of the branches. {'. '.join(said)}.",
    )


def _law_claim(findings: list[Finding], named: dict[str, str]) -> Claim:
    pooled = [finding for finding in findings if finding.rule == "path lengths by energy, all draws"]
    verdicts = {
        verdict: [named.get(finding.cell, finding.subject) for finding in pooled if str(finding.verdict) == verdict]
        for verdict in ("law holds", "law does not hold", "cannot tell")
    }
    holds = holds_of({verdict: cells for verdict, cells in verdicts.items() if cells}, right="law holds")
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
    holds: Holds = "right" if not apart else "wrong" if len(apart) == len(typical) else "depends"
    return Claim("The shares at the junctions tell how long the paths are.", holds, said)


def _apart(row: dict[str, Any]) -> bool:
    """Whether the mean length of the median draw differs from that of independent choices, beyond its interval."""
    expected = row["independent_mean"]
    if row["low"] is None or row["low"] <= expected <= row["high"]:
        return False
    return bool(abs(row["mean"] - expected) > AGREE * max(abs(expected), 1.0))
