"""The section on study `lesion`: networks without some of their blocks, and with their blocks in another order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from skipscope.absences import is_model
from skipscope.charts import labels
from skipscope.charts.lesion import (
    lesion_blocks,
    lesion_blocks_data,
    lesion_deleted,
    lesion_deleted_data,
    lesion_swapped,
    lesion_swapped_data,
)
from skipscope.diagnosis import Finding
from skipscope.lesions import DESTROYED, HARDLY, LEARNT, deleted_data, findings, intact_data
from skipscope.readings import Readings, require_readings
from skipscope.report.models import absences_section
from skipscope.report.page import Block, Claim, Claims, Facts, Figure, Method, Prose, Section, Table
from skipscope.report.prose import (
    TRAINED,
    by_rule,
    depths_of,
    designs_told,
    holds_of,
    in_full,
    joined,
    limits,
    method,
    networks_of,
    plural,
    quoted,
    seeds_of,
    versions_of,
)
from skipscope.words import number, percent, tenths

__all__ = ["lesion_section"]


def lesion_section(readings: Readings, *, anchor: str = "lesion") -> Section:
    """The section on readings of study `lesion`.

    Raises:
        InputError: the readings hold no networks with one block deleted.
    """
    require_readings(readings)
    if is_model(readings):
        return absences_section(readings, anchor=anchor)
    intact = readings.select(done="nothing")
    named = labels(intact)
    table = intact_data(readings).with_columns(network=pl.col("kind").replace_strict(named))
    table = table.sort(pl.col("kind").replace_strict({kind: place for place, kind in enumerate(named)}))
    found = findings(readings)
    order = list(named)
    found.sort(key=lambda finding: order.index(finding.cell))
    claims = tuple(_claims(found, named))
    blocks: list[Block] = [
        Prose((_ASKED, f"{_trained(readings, table)} The networks:")),
        designs_told(intact),
        _overview(table),
        _blocks_figure(readings),
        *_random_figures(readings),
    ]
    if paths := _paths(found, table, deleted_data(readings)):
        blocks.append(Prose(paths, "An ensemble of paths?"))
    if claims:
        blocks += [Prose((), "What is commonly said, and what was measured"), Claims(claims)]
    blocks += [limits(*_LIMITS), *in_full(found)]
    return Section(
        title="Deleting and swapping blocks",
        anchor=anchor,
        answer=_answer(found, table),
        blocks=(*blocks, _method(intact, readings)),
        versions=versions_of(readings),
        about="What does a trained network lose with a block, or with its blocks in another order?",
        part=TRAINED,
    )


_LIMITS = (
    "A small damage is not none: where the error was small, deleting a block may well multiply it, and the first "
    "blocks matter more than the mean over blocks says. What hardly and destroyed mean is a convention, told with the "
    "findings.",
    "A block that can be deleted after training was not useless in training; and what is left may be good because the "
    "task is easy.",
)


_ASKED = (
    "Can a trained network do without one of its blocks, or with its blocks in another order? Veit et al. 2016 "
    "(arXiv:1605.06431) tried it: a residual network hardly noticed, a plain one was no better than guessing. Nothing "
    "is trained again after a lesion. Where networks are compared it is by their damage: 0 where the test error stays "
    "what it was, 1 where it is that of guessing."
)


def _trained(readings: Readings, table: pl.DataFrame) -> str:
    data = joined(map(str, readings.cells["data"].unique().sort()))
    told = f"Here every network is trained on {data}, with {seeds_of(readings)}; {depths_of(readings)}."
    for row in table.iter_rows(named=True):
        if row["n"] < row["begun"]:
            told += f" Training failed for {row['begun'] - row['n']} of {row['begun']} in {quoted([row['network']])}."
        if row["learnt"] < row["n"]:
            few = plural(row["n"] - row["learnt"], "network")
            told += (
                f" In {quoted([row['network']])} {few} of {row['n']} kept more than {LEARNT:g} of the error of "
                "guessing: too little learnt to be lost, and left out of every damage."
            )
    return told


_ERRORS = {"intact": "nothing deleted", "error": "one block deleted", "guess": "guessing"}


def _overview(table: pl.DataFrame) -> Table:
    return Table(
        table.select(
            "network",
            "blocks",
            pl.col("n").alias("networks"),
            *(
                pl.col(name).map_elements(tenths, pl.String).alias(f"test error|{title}")
                for name, title in _ERRORS.items()
            ),
            "damage",
            pl.col("low").alias("95 % interval|from"),
            pl.col("high").alias("95 % interval|to"),
        ),
        "One block deleted: means over blocks and networks.",
    )


# ---------------------------------------------------------------------------------------------------------- the charts


def _blocks_figure(readings: Readings) -> Figure:
    table = lesion_blocks_data(readings)
    shown = table.select(
        pl.col("panel").alias("network"),
        pl.col("block").alias("deleted block"),
        pl.col("n").alias("networks"),
        *_errors(),
        pl.col("ratio").alias("|F(x)|/|x|"),
    )
    return Figure(
        name="Test error with one block deleted",
        chart=lesion_blocks(readings),
        caption=(
            "Every block by itself. Point: mean over networks; line: its 95 % interval. Dashed: nothing deleted; "
            "dotted: guessing."
        ),
        table=shown if table["ratio"].null_count() < table.height else shown.drop("|F(x)|/|x|"),
    )


def _errors() -> list[pl.Expr]:
    return [
        *(
            pl.col(name).map_elements(tenths, pl.String).alias(title)
            for name, title in (
                ("error", "test error"),
                ("low", "95 % interval|from"),
                ("high", "95 % interval|to"),
                ("intact", "nothing deleted"),
            )
        ),
        pl.col("damage"),
    ]


def _random_figures(readings: Readings) -> Iterator[Figure]:
    done = set(readings.cells["done"])
    named = pl.col("label").alias("network")
    if "deleted" in done:
        yield Figure(
            name="Test error with several random blocks deleted",
            chart=lesion_deleted(readings),
            caption="A network counts by its mean over random choices of blocks. Dotted: guessing.",
            table=lesion_deleted_data(readings).select(
                named, pl.col("k").alias("blocks deleted"), pl.col("n").alias("networks"), *_errors()
            ),
        )
    if "swapped" in done:
        yield Figure(
            name="Test error with blocks in another order",
            chart=lesion_swapped(readings),
            caption=(
                "Random swaps of two blocks; Kendall's rank correlation (tau) between the orders before and after is 1 "
                "where nothing was swapped. A point a number of swaps, at the mean of its tau. Dotted: guessing."
            ),
            table=lesion_swapped_data(readings).select(
                named, pl.col("k").alias("swaps"), pl.col("tau"), pl.col("n").alias("networks"), *_errors()
            ),
        )


# --------------------------------------------------------------------------------------------------------- in sentences


def _answer(found: list[Finding], table: pl.DataFrame) -> str:
    told = joined(
        f"from {tenths(row['intact'])} to {tenths(row['error'])} in {networks_of(row['network'])}"
        for row in table.iter_rows(named=True)
    )
    guess = joined(tenths(value) for value in table["guess"].unique().sort())
    said = (
        f"With one block of a trained network deleted the test error goes, in the mean over blocks, {told}; guessing "
        f"has {guess}."
    )
    pairs = {str(finding.verdict) for finding in found if finding.rule == "shortcuts soften the loss of a block"}
    return said + _PAIRS.get(next(iter(pairs)), "") if len(pairs) == 1 else said


_PAIRS = {
    "holds": " With shortcuts less of what was learnt is lost than without, seed by seed.",
    "does not hold": " With shortcuts more of what was learnt is lost than without, seed by seed.",
    "cannot tell": " Whether less of what was learnt is lost with shortcuts, these networks do not decide.",
}

_CLAIMS = {
    "one deleted block hardly matters": (
        f"Deleting one block of a residual network hardly matters: it does less than {percent(HARDLY)} of the damage "
        "that guessing would be."
    ),
    "one deleted block destroys it": (
        f"Deleting one block of a plain network destroys it: it does more than {percent(DESTROYED)} of that damage."
    ),
    "shortcuts soften the loss of a block": "It is the shortcuts that soften the loss of a block.",
    "the error grows smoothly with the blocks deleted": (
        "The error of a residual network grows smoothly with the blocks that are deleted."
    ),
    "the more the order is disturbed, the larger the error": (
        "The more the order of its blocks is disturbed, the larger the error of a residual network."
    ),
    "blocks with larger branches matter more": "The blocks of a residual network that add more matter more.",
}


def _claims(found: list[Finding], named: dict[str, str]) -> Iterator[Claim]:
    for rule, claim in _CLAIMS.items():
        about = [finding for finding in found if finding.rule == rule]
        if about:
            holds = holds_of(by_rule(about, rule, named), right="holds")
            yield Claim(claim, holds, " ".join(finding.statement for finding in about))


def _paths(found: list[Finding], table: pl.DataFrame, deleted: pl.DataFrame) -> tuple[str, ...]:
    """What this says of paths, for residual networks; nothing where there are none."""
    residual = table.filter(~pl.col("plain"))
    if residual.is_empty():
        return ()
    counts = joined(f"2^{blocks}" for blocks in residual["blocks"].unique().sort())
    verdicts: dict[str, set[str]] = {}
    for finding in found:
        verdicts.setdefault(finding.rule, set()).add(str(finding.verdict))
    return (
        f"Through its shortcuts and branches a residual network is a sum over paths, here {counts} of them, and half "
        "of them go through a given block: deleting it takes these away and leaves the others. A plain network has "
        f"one path. {_as_ensemble(verdicts)}",
        "It does not say whether the paths are independent, or vote. "
        f"{_size(verdicts, found)}{_bare(residual, deleted)} And networks with and without shortcuts differ in more "
        "than their paths: without a plain block the next one gets features that no training made for it, without a "
        "residual one what the stream had before.",
    )


def _as_ensemble(verdicts: dict[str, set[str]]) -> str:
    hardly = verdicts.get("one deleted block hardly matters", set())
    smooth = verdicts.get("the error grows smoothly with the blocks deleted", set())
    if hardly == {"holds"}:
        grows = ", and growing step by step with more," if smooth == {"holds"} else ""
        return (
            f"So small a damage with half of the paths gone{grows} is what a sum of many paths would show that do not "
            "lean on each other, as in an ensemble."
        )
    if hardly == {"does not hold"}:
        return "Yet with half of the paths gone much is lost: these are no ensembles whose members can be missed."
    return "Whether the loss of half of the paths is borne as by an ensemble these networks do not decide alike."


def _bare(residual: pl.DataFrame, deleted: pl.DataFrame) -> str:
    """What is left of residual networks without any block; nothing where that was not measured."""
    without = residual.select("kind", "network", k="blocks").join(deleted, on=["kind", "k"])
    told = [
        f"{number(row['damage'], 2)} in {networks_of(row['network'])} (test error {tenths(row['error'])})"
        for row in without.iter_rows(named=True)
        if row["damage"] is not None
    ]
    if not told:
        return ""
    return (
        f" With every block deleted, input and output layer alone, the damage is {joined(told)}: what these two can do "
        "by themselves no lesion takes away."
    )


def _size(verdicts: dict[str, set[str]], found: list[Finding]) -> str:
    """How much of it is the size of the branches."""
    rule = "blocks with larger branches matter more"
    ratios = [finding.evidence["ratio"] for finding in found if finding.rule == rule]
    low = min((float(str(each.min())) for each in ratios), default=None)
    high = max((float(str(each.max())) for each in ratios), default=None)
    said = "A branch that adds little can be missed whatever the paths do"
    if low is None or high is None:
        return f"{said}."
    said += f"; here branches add {number(low, 2)} to {number(high, 2)} of the norm of what comes in"
    if verdicts[rule] == {"holds"}:
        return f"{said}, and those that add more are missed more."
    return f"{said}."


# ----------------------------------------------------------------------------------------------------------- the method


def _method(intact: Readings, readings: Readings) -> Method:
    """The networks, and how they were trained and measured."""
    cells = intact.cells

    def values(column: str) -> list[Any]:
        return cells[column].drop_nulls().unique().sort().to_list() if column in cells.columns else []

    facts = (
        (
            "Drawn",
            f"{seeds_of(readings)}; a seed gives all networks the same normals for their weights, the same order of "
            "mini-batches and the same random choices of blocks",
        ),
        ("Steps of training", joined(f"{steps:,}" for steps in values("steps"))),
        ("Learning rate", joined(f"{rate:g}" for rate in values("rate"))),
        ("Test samples", joined(map(str, values("batch")))),
        ("Batch normalisation", "takes its running averages in place of the batch's statistics; they stay as trained"),
        ("Arithmetic", joined(values("dtype"))),
        ("Intervals", "Student's t over networks, 95 %"),
    )
    shown = Facts(tuple((name, value) for name, value in facts if value and _applies(name, values("norm"))))
    networks = [block for block in method(intact).blocks if isinstance(block, Table)]
    return Method((*networks, shown))


def _applies(name: str, norms: list[Any]) -> bool:
    return name != "Batch normalisation" or "batch" in norms
