"""The section on study `correlation`: how alike the gradients at two inputs are, by depth."""

from __future__ import annotations

from typing import Any

import polars as pl

from skipscope import charts
from skipscope.readings import Readings
from skipscope.report.page import Block, Claim, Claims, Figure, Holds, Prose, Section
from skipscope.report.prose import AGREES, joined, listed, method, seeds_of, versions_of
from skipscope.shattering import correlation_data
from skipscope.words import number

__all__ = ["correlation_section"]

Rows = list[dict[str, Any]]

KEPT = 0.5
"""Which part of the correlation of its shallowest networks a design has to keep in its deepest."""


def correlation_section(readings: Readings, *, anchor: str = "correlation") -> Section:
    """The section on readings of study `correlation`.

    Raises:
        InputError: the readings hold no correlation at the input, or pairs of inputs of several kinds.
    """
    table = charts.correlation_data(readings)
    claims = _claims(readings, table)
    blocks: list[Block] = [
        Prose((_ASKED, _drawn(readings, table))),
        Figure(
            name=f"Correlation of the gradients at two inputs ({table['inputs'][0]}), by depth",
            chart=charts.correlation(readings),
            caption=_caption(table),
            table=table.select(
                pl.col("design").alias("network"),
                pl.col("depth").alias("d"),
                pl.col("n").alias("networks"),
                "correlation",
                pl.col("low").alias("95 % interval|from"),
                pl.col("high").alias("95 % interval|to"),
                *[pl.col(name).alias(f"single networks|{title}") for name, title in _QUANTILES.items()],
                "pooled",
                "law",
                pl.col("halving").alias("a half a layer"),
            ),
        ),
        Prose((_ends(table), *_agreement(table))),
    ]
    if claims:
        blocks += [Prose((), "What is commonly said, and what was measured"), Claims(claims)]
    return Section(
        title="Correlation of gradients between inputs",
        anchor=anchor,
        answer=_answer(table),
        blocks=(*blocks, method(readings)),
        versions=versions_of(readings),
    )


_QUANTILES = {"q05": "5 %", "q50": "median", "q95": "95 %"}
_ASKED = (
    "Do two inputs tell the first layer anything alike? Both go through the same network, the same Gaussian vector is "
    "sent back from both outputs, and the cosine between the gradients that arrive is averaged over networks. Where "
    'that correlation falls to 0 gradients are said to be "shattered" (Balduzzi et al. 2017, arXiv:1702.08591).'
)


def _drawn(readings: Readings, table: pl.DataFrame) -> str:
    depths = joined(f"d = {depth}" for depth in table["depth"].unique().sort())
    widths = joined(map(str, table["width"].unique().sort()))
    regime = str(table["inputs"][0])
    inputs = f"of {regime}" if regime.startswith("cosine") else regime
    return f"Here the two inputs are {inputs}; {depths}, width {widths}, {seeds_of(readings)}."


def _caption(table: pl.DataFrame) -> str:
    said = "Mean cosine over networks, with its 95 % interval; a panel a norm."
    if table["law"].null_count() < table.height:
        said += " Dashed: the law at infinite width, where there is one."
    if table["halving"].null_count() < table.height:
        said += " Dotted: a half a ReLU layer, as for networks whose layers see unrelated inputs."
    return said


def _lines(table: pl.DataFrame) -> list[tuple[str, Rows]]:
    """Every line of the chart, by the name of its design (and its width, where there are several)."""
    several = table["width"].n_unique() > 1
    return [
        (f"{design}, width {width}" if several else str(design), part.to_dicts())
        for (design, width), part in table.group_by("design", "width", maintain_order=True)
    ]


def _answer(table: pl.DataFrame) -> str:
    told = listed(f"{number(rows[-1]['correlation'], 2)} in {name}" for name, rows in _lines(table) if _known(rows[-1]))
    depth = joined(sorted({f"depth {rows[-1]['depth']}" for _, rows in _lines(table)}))
    return f"At {depth} the mean cosine between the gradients at two inputs ({table['inputs'][0]}) is {told}."


def _known(row: dict[str, Any]) -> bool:
    return row["correlation"] is not None


def _ends(table: pl.DataFrame) -> str:
    told = [
        f"from {_with_interval(rows[0])} to {_with_interval(rows[-1])} in {name}"
        for name, rows in _lines(table)
        if _known(rows[0]) and _known(rows[-1])
    ]
    return f"From the shallowest to the deepest networks it goes {'; '.join(told)}."


def _with_interval(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return number(row["correlation"], 2)
    return f"{number(row['correlation'], 2)} ({number(row['low'], 2)} to {number(row['high'], 2)})"


def _agreement(table: pl.DataFrame) -> tuple[str, ...]:
    """For every design with a law: at how many depths the interval holds it."""
    told = []
    for name, rows in _lines(table):
        judged = [row for row in rows if row["law"] is not None and row["low"] is not None]
        inside = [row for row in judged if row["low"] <= row["law"] <= row["high"]]
        if judged:
            off = [f"{row['depth']} (law {number(row['law'], 2)})" for row in judged if row not in inside]
            told.append(
                f"In {name} the law of infinite width is within the 95 % interval at {len(inside)} of {len(judged)} "
                f"depths{', not at ' + joined(off) if off else ''}."
            )
    return tuple(told)


# ---------------------------------------------------------------------------------------------------------- the claims


def _claims(readings: Readings, table: pl.DataFrame) -> tuple[Claim, ...]:
    halving = correlation_data(readings).select("design", "width", "depth", halved="halving")
    rows = table.join(halving, on=["design", "width", "depth"], how="left", maintain_order="left")
    plain = [(name, each) for name, each in _lines(rows) if each[0]["order"] == ""]
    residual = [(name, each) for name, each in _lines(rows) if each[0]["order"] != ""]
    claims = [_halving_claim(name, each) for name, each in plain if each[0]["norm"] in ("none", "batch")]
    return tuple(claim for claim in (*claims, _skip_claim(residual)) if claim is not None)


def _halving_claim(name: str, rows: Rows) -> Claim | None:
    """Whether a plain network loses a half a layer: against the interval at every depth."""
    judged = [row for row in rows if row["low"] is not None and row["halved"] is not None]
    if not judged:
        return None
    off = [row for row in judged if _off(row, "halved")]
    seen = [row for row in judged if row["correlation"] > AGREES * _error(row)]
    # Where another law fits as well, that this one fits says nothing.
    told_apart = [row for row in seen if row["law"] is None or _off(row, "law")]
    holds: Holds = "wrong" if off else "right" if told_apart else "unknown"
    said = listed(
        f"{_with_interval(row)} at depth {row['depth']}, where a half a layer leaves {number(row['halved'], 2)}"
        for row in off or judged
    )
    more = {"wrong": "", "right": " The draws do not contradict it.", "unknown": " That is too little to tell."}
    return Claim(f'In the network "{name}" gradients shatter as a half a layer, 2^-L.', holds, f"{said}.{more[holds]}")


def _off(row: dict[str, Any], law: str) -> bool:
    return bool(abs(row["correlation"] - row[law]) > AGREES * _error(row))


def _error(row: dict[str, Any]) -> float:
    """The standard error of the correlation, from its 95 % interval."""
    return float(row["high"] - row["low"]) / (2 * 1.959963984540054)


def _skip_claim(residual: list[tuple[str, Rows]]) -> Claim | None:
    """Whether the deepest residual networks keep what the shallowest have."""
    groups: dict[Holds, list[str]] = {"right": [], "wrong": [], "unknown": []}
    for name, rows in residual:
        first, last = rows[0], rows[-1]
        if last is first or first["low"] is None or last["low"] is None:
            continue
        told = f"{name} ({number(first['correlation'], 2)} to {number(last['correlation'], 2)})"
        limit = KEPT * first["correlation"]
        which: Holds = "right" if last["low"] > limit else "wrong" if last["high"] < limit else "unknown"
        groups[which].append(told)
    if not any(groups.values()):
        return None
    words = {"right": "It is kept in", "wrong": "It is lost in", "unknown": "These draws do not decide it in"}
    holds: Holds = "wrong" if groups["wrong"] else "unknown" if groups["unknown"] else "right"
    told = ". ".join(f"{words[which]} {listed(names)}" for which, names in groups.items() if names)
    return Claim(
        "Skip connections prevent shattering.",
        holds,
        f"From the shallowest to the deepest networks, kept being at least {KEPT:g} of it. {told}.",
    )
