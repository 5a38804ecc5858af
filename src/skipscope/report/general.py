"""The section on any readings: charts of what they hold by depth, findings, and the numbers of whole networks."""

from __future__ import annotations

import polars as pl

from skipscope import charts
from skipscope.diagnosis import Finding, diagnose
from skipscope.errors import InputError
from skipscope.readings import Readings, require_readings
from skipscope.report.page import Block, Figure, Findings, Prose, Section, Table
from skipscope.report.prose import (
    QUANTILE_NAMES,
    against_laws,
    bands,
    capital,
    joined,
    junctions_table,
    law_lines,
    method,
    plural,
    profile_table,
    seeds_of,
    versions_of,
)
from skipscope.summary import Summary, summarise

__all__ = ["MOST_PANELS", "PROFILES", "readings_section"]

PROFILES = ("backward_gain", "forward_gain", "activation_rms", "activation_grad_norm", "weight_grad_norm", "dead")
"""What is drawn by depth, of what there is."""

MOST_PANELS = 12
"""More networks than that are not drawn, but are in the tables."""


def readings_section(readings: Readings, *, title: str = "Readings", anchor: str = "readings") -> Section:
    """A section on any readings.

    Raises:
        InputError: there are no readings.
    """
    require_readings(readings)
    if not len(readings):
        raise InputError("there is nothing to report: these readings are empty.")
    shown, note = _shown(readings)
    summary = summarise(shown)
    findings = _findings(readings)
    blocks: list[Block] = [Prose((_asked(readings) + note,))]
    for quantity in PROFILES:
        if not summary.table.filter(pl.col("quantity") == quantity, pl.col("kind") != "network").is_empty():
            blocks += _profile(summary, quantity)
    if "branch_ratio" in set(summary.table["quantity"]):
        blocks.append(_junctions(summary))
    if findings:
        blocks += [Prose((), "Findings"), Findings(tuple(findings))]
    blocks += [*_networks(summarise(readings)), method(readings)]
    return Section(
        title=title,
        anchor=anchor,
        answer=_answer(findings, readings),
        blocks=tuple(blocks),
        versions=versions_of(readings),
    )


def _shown(readings: Readings) -> tuple[Readings, str]:
    cells = readings.cells["cell"].to_list()
    if len(cells) <= MOST_PANELS:
        return readings, ""
    return (
        readings.select(cell=cells[:MOST_PANELS]),
        f" The charts show the first {MOST_PANELS} of {len(cells)} networks; findings and tables are of all.",
    )


def _findings(readings: Readings) -> list[Finding]:
    try:
        return diagnose(readings)
    except InputError:  # nothing that a rule could judge: the charts still say what there is
        return []


def _asked(readings: Readings) -> str:
    quantities = readings.rows["quantity"].n_unique()
    return (
        f"{plural(len(readings), 'reading')} of {plural(quantities, 'quantity', 'quantities')} in "
        f"{plural(readings.cells.height, 'network')}, with {seeds_of(readings)}."
    )


def _answer(findings: list[Finding], readings: Readings) -> str:
    """The findings by rule and verdict."""
    if not findings:
        return f"{_asked(readings)} They hold nothing that a rule could judge."
    told = []
    for rule in dict.fromkeys(finding.rule for finding in findings):
        group = [finding for finding in findings if finding.rule == rule]
        verdicts = dict.fromkeys(finding.verdict for finding in group)
        if len(group) == 1:
            told.append(f"{rule}: {group[0].verdict}")
            continue
        counts = joined(f"{verdict} in {sum(f.verdict == verdict for f in group)}" for verdict in verdicts)
        told.append(f"{rule}: {counts} of {plural(len(group), 'network')}")
    return f"{capital('; '.join(told))}."


def _profile(summary: Summary, quantity: str) -> list[Block]:
    table = charts.flow_data(summary, quantity)
    figure = Figure(
        name=f"{capital(charts.title_of(quantity))}, by depth",
        chart=charts.flow(summary, quantity),
        caption=bands(int(str(table["n"].max()))) + law_lines(table),
        table=profile_table(summary, quantity),
    )
    return [figure, *against_laws(summary, quantity)]


def _junctions(summary: Summary) -> Figure:
    table = charts.junctions_data(summary)
    return Figure(
        name="Shortcut and branch, block by block",
        chart=charts.junctions(summary),
        caption=f"{bands(int(str(table['n'].max())))}{charts.coincident_words(table)}",
        table=junctions_table(summary),
    )


def _networks(summary: Summary) -> list[Block]:
    """The quantities of whole networks."""
    named = charts.labels(summary.readings)
    table = summary.table.filter(pl.col("site") == "network")
    if table.is_empty():
        return []
    shown = table.select(
        pl.col("cell").replace_strict(named).alias("network"),
        "quantity",
        "step",
        pl.col("n").alias("seeds"),
        *[pl.col(name).alias(title) for name, title in QUANTILE_NAMES.items()],
    )
    caption = "Numbers of whole networks, over seeds."
    folded = "" if shown.height <= 24 else "The numbers of whole networks, as a table"
    return [Prose((), "Whole networks"), Table(shown, caption, folded=folded)]
