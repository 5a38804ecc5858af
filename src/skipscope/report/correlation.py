"""The section on study `correlation`: how alike the gradients at two inputs are, by depth."""

from __future__ import annotations

from typing import Any

import polars as pl

from skipscope import charts
from skipscope.charts.look import design_places
from skipscope.diagnosis import Finding
from skipscope.readings import Readings
from skipscope.report.page import Block, Claim, Claims, Figure, Holds, Prose, Section, Table
from skipscope.report.prose import (
    UNTRAINED,
    blocks_told,
    by_rule,
    depths_of,
    holds_of,
    in_full,
    joined,
    limits,
    method,
    quoted,
    seeds_of,
    versions_of,
)
from skipscope.shattering import KEPT
from skipscope.shattering import findings as judge
from skipscope.spec import Spec
from skipscope.words import number, percent

__all__ = ["correlation_section"]

Rows = list[dict[str, Any]]


def correlation_section(readings: Readings, *, anchor: str = "correlation") -> Section:
    """The section on readings of study `correlation`.

    Raises:
        InputError: the readings hold no correlation at the input, or pairs of inputs of several kinds.
    """
    table = charts.correlation_data(readings)
    named = _names(table, readings)
    findings = _findings(readings)
    claims = _claims(findings, readings, named)
    blocks: list[Block] = [
        Prose((_ASKED,)),
        blocks_told(readings),
        Prose((_drawn(readings, table),)),
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
        _ends(table),
    ]
    if claims:
        blocks += [Prose((), "What is commonly said, and what was measured"), Claims(claims)]
    blocks += [limits(*_LIMITS), *in_full(findings)]
    return Section(
        title="Correlation of gradients between inputs",
        anchor=anchor,
        answer=_answer(table, findings, named),
        blocks=(*blocks, method(readings)),
        versions=versions_of(readings),
        about="Do the gradients of two inputs have anything in common?",
        part=UNTRAINED,
    )


def _ends(table: pl.DataFrame) -> Table:
    """The shallowest and the deepest networks of every line."""
    rows = [
        {
            "network": name,
            **{
                f"{which}|{title}": value
                for which, row in (("shallowest", rows[0]), ("deepest", rows[-1]))
                for title, value in (
                    ("d", row["depth"]),
                    ("correlation", row["correlation"]),
                    ("95 % interval", _interval(row)),
                    ("law", row["law"]),
                )
            },
        }
        for name, rows in _lines(table)
    ]
    shown = pl.DataFrame(rows, infer_schema_length=None)
    empty = [name for name in shown.columns if name.endswith("|law") and shown[name].null_count() == shown.height]
    return Table(shown.drop(empty), "The shallowest and the deepest networks, with their law where there is one.")


def _interval(row: dict[str, Any]) -> str:
    return "–" if row["low"] is None else f"{number(row['low'], 2)} to {number(row['high'], 2)}"


_QUANTILES = {"q05": "5 %", "q50": "median", "q95": "95 %"}
_ASKED = (
    "Do two inputs tell the first layer anything alike? Both go through the same network, the same Gaussian vector is "
    "sent back from both outputs, and the cosine between the gradients that arrive is averaged over networks. Where "
    'that correlation falls to 0 gradients are said to be "shattered": what a step does for one input says nothing of '
    "the other (Balduzzi et al. 2017, arXiv:1702.08591). The networks that are compared:"
)
_LIMITS = (
    "Balduzzi et al. halve the correlation a layer for networks in which the activations of two inputs stay unrelated, "
    "as a norm by batch keeps them. Without a norm inputs become alike with depth, and the correlation falls more "
    "slowly: that a half a layer fails there does not contradict them.",
    "Nothing is trained here, and two inputs are not a data set: a small correlation makes training harder only if it "
    "stays small.",
)


def _drawn(readings: Readings, table: pl.DataFrame) -> str:
    widths = joined(map(str, table["width"].unique().sort()))
    regime = str(table["inputs"][0])
    inputs = f"of {regime}" if regime.startswith("cosine") else regime
    return f"Here the two inputs are {inputs}; {depths_of(readings)}, the width is {widths}; {seeds_of(readings)}."


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


def _names(table: pl.DataFrame, readings: Readings) -> dict[str, str]:
    """The name of every cell's line: its design, and its width where there are several."""
    several = table["width"].n_unique() > 1
    return {
        row["cell"]: f"{row['design']}, width {row['width']}" if several else str(row["design"])
        for row in readings.cells.iter_rows(named=True)
    }


def _findings(readings: Readings) -> list[Finding]:
    """By design, in the order of the chart."""
    places, designs = design_places(readings), dict(readings.cells.select("cell", "design").iter_rows())
    return sorted(judge(readings), key=lambda finding: places[designs[finding.cell]])


def _answer(table: pl.DataFrame, findings: list[Finding], named: dict[str, str]) -> str:
    found = by_rule(findings, "correlation over depth", named)
    deepest = {name: rows[-1]["correlation"] for name, rows in _lines(table) if rows[-1]["correlation"] is not None}
    depths = table["depth"].unique().sort()
    inputs = f"The mean cosine between the gradients at two {table['inputs'][0]} inputs"
    if str(table["inputs"][0]).startswith("cosine"):
        inputs = f"The mean cosine between the gradients at two inputs of {table['inputs'][0]}"
    told = []
    for verdict, words in _VERDICTS.items():
        if verdict in found:
            told.append(f"{words} {joined(_with_value(name, deepest) for name in found[verdict])}")
    if not told:
        return f"{inputs} is {joined(f'{number(value, 2)} in {quoted([name])}' for name, value in deepest.items())}."
    return f"{inputs}, from depth {depths[0]} to {depths[-1]}, {'; it '.join(told)}."


_VERDICTS = {
    "kept": f"keeps more than {percent(KEPT)} of its size in",
    "shattered": f"falls below {percent(KEPT)} of it in",
    "cannot tell": f"may or may not have fallen below {percent(KEPT)} in",
}


def _with_value(name: str, deepest: dict[str, float]) -> str:
    return f"{quoted([name])} (to {number(deepest[name], 2)})" if name in deepest else quoted([name])


# ---------------------------------------------------------------------------------------------------------- the claims


def _claims(findings: list[Finding], readings: Readings, named: dict[str, str]) -> tuple[Claim, ...]:
    specs = {row["cell"]: row["spec"] for row in readings.cells.iter_rows(named=True)}
    claims = [_halving_claim(named[f.cell], f) for f in findings if f.rule == "a half a layer"]
    skips = [f for f in findings if any(not stage.plain for stage in Spec.from_json(specs[f.cell]).stages)]
    found = by_rule(skips, "correlation over depth", named)
    return (*claims, _skip_claim(found)) if found else tuple(claims)


def _halving_claim(name: str, finding: Finding) -> Claim:
    """Whether a plain network loses a half a layer: against the interval at every depth."""
    which: dict[str, Holds] = {"law holds": "right", "law does not hold": "wrong"}
    holds = which.get(finding.verdict, "unknown")
    return Claim(f'In the network "{name}" gradients shatter as a half a layer, 2^-L.', holds, finding.statement)


def _skip_claim(found: dict[str, list[str]]) -> Claim:
    """Whether the deepest residual networks keep what the shallowest have."""
    words = {
        "kept": "It is kept in",
        "shattered": "It is lost in",
        "cannot tell": "These draws do not decide it in",
    }
    told = ". ".join(f"{said} {quoted(found[verdict])}" for verdict, said in words.items() if verdict in found)
    return Claim(
        "Skip connections prevent shattering.",
        holds_of(found, right="kept"),
        f"Of the correlation in the shallowest networks more than {percent(KEPT)} should be left in the deepest. "
        f"{told}.",
    )
