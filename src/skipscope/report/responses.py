"""The section on study `responses`: how strongly layers respond, in the form of the paper's Fig. 7."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from skipscope.charts import labels
from skipscope.charts.responses import layer_responses, layer_responses_data
from skipscope.diagnosis import Finding
from skipscope.readings import Readings, require_readings
from skipscope.report.page import Block, Claim, Claims, Facts, Figure, Holds, Method, Prose, Section, Table
from skipscope.report.prose import (
    TRAINED,
    by_rule,
    capital,
    designs_told,
    holds_of,
    in_full,
    joined,
    limits,
    method,
    quoted,
    seeds_of,
    versions_of,
)
from skipscope.responses import ALONE, DEEPER, SMALLER, differences, findings, network_data
from skipscope.spec import Spec
from skipscope.words import number, tenths

__all__ = ["responses_section"]


def responses_section(readings: Readings, *, anchor: str = "responses") -> Section:
    """The section on readings of study `responses`.

    Raises:
        InputError: the readings hold no responses.
    """
    require_readings(readings)
    table = network_data(readings)
    named = labels(readings.select(cell=table["kind"].to_list()))
    table = table.with_columns(network=pl.col("kind").replace_strict(named))
    found = findings(readings)
    claims = tuple(_claims(found, named))
    sources = set(table["source"])
    blocks: list[Block] = [
        Prose((_ASKED, f"{_origin(readings, sources)} The networks:")),
        designs_told(readings),
        _overview(table),
        _figure(readings, table),
    ]
    if "weights" in sources:
        blocks.append(Prose((_described(table.filter(source="weights")),), "One network each"))
    if claims:
        blocks += [Prose((), "What is commonly said, and what was measured"), Claims(claims)]
    blocks += [*_against(readings, named), limits(*_limits(sources)), *in_full(found)]
    return Section(
        title="Responses of layers",
        anchor=anchor,
        answer=_answer(table, found),
        blocks=(*blocks, _method(readings, readings.select(cell=list(named)))),
        versions=versions_of(readings),
        about="How strongly does every layer respond, with shortcuts and without?",
        part=TRAINED,
    )


_ASKED = (
    "How strongly does a layer respond, and does it respond less where there are shortcuts? He et al. 2015 "
    "(arXiv:1512.03385, Fig. 7) show for trained networks the standard deviation of every 3x3 layer's output, after "
    "batch normalisation and before the ReLU or the addition. They find that residual networks respond less than plain "
    "ones, and deeper residual networks less than shallower: every layer changes the signal less."
)

_ORIGINS = {
    "weights": "Networks come from files of weights, one each.",
    "trained": "Networks are trained here, every seed's with and without shortcuts from the same draw.",
    "initial": (
        "Networks are as they are initialised, gamma 1 and beta 0: every response that is normalised is 1, whatever "
        "the network. Fig. 7 is about trained networks, and nothing about it can be seen here."
    ),
}


def _origin(readings: Readings, sources: set[str]) -> str:
    told = " ".join(words for source, words in _ORIGINS.items() if source in sources)
    data = [each for each in readings.cells["data"].unique().sort() if each]
    return f"{told} The data: {joined(data)}." if data else f"{told} There are no data: gamma and beta tell."


def _overview(table: pl.DataFrame) -> Table:
    shown = table.select(
        "network",
        pl.col("layers").alias("3x3 layers"),
        pl.col("n").alias("networks"),
        pl.col("std").alias("median over layers|mean"),
        pl.col("low").alias("median over layers|from"),
        pl.col("high").alias("median over layers|to"),
        pl.col("least").alias("layers|least"),
        pl.col("most").alias("layers|most"),
        pl.col("test_error").map_elements(tenths, pl.String).alias("test error"),
    )
    if table["low"].null_count() == table.height:
        shown = shown.drop("median over layers|from", "median over layers|to")
    shown = shown.drop("test error") if table["test_error"].null_count() == table.height else shown
    interval = "; from and to: the 95 % interval" if "median over layers|from" in shown.columns else ""
    return Table(shown, f"Standard deviation of the responses of 3x3 layers{interval}.")


_MODES = {
    "training": "measured on one mini-batch, which normalises itself",
    "parameters": "by gamma and beta alone",
    "inference": "measured on one mini-batch, normalised by the running averages",
}


def _figure(readings: Readings, table: pl.DataFrame) -> Figure:
    drawn = layer_responses_data(readings)
    several = int(str(table["n"].max())) > 1
    how = joined(dict.fromkeys(_MODES[mode] for mode in table["mode"]))
    band = "Line: mean over networks; band: its 95 % interval. " if several else ""
    shown = drawn.select(
        pl.col("panel").alias("layers"),
        pl.col("label").alias("network"),
        pl.col("layer").alias("place"),
        pl.col("site").alias("site"),
        pl.col("n").alias("networks"),
        pl.col("std").alias("standard deviation"),
        pl.col("low").alias("95 % interval|from"),
        pl.col("high").alias("95 % interval|to"),
    )
    sorts = "every network's layers are sorted by themselves, and then meaned rank by rank" if several else "sorted"
    return Figure(
        name="Responses by layer",
        chart=layer_responses(readings),
        caption=(
            f"{capital(how)}. {band}Solid: with shortcuts; dashed: plain. Above: in order of depth; below: {sorts}. "
            "Only 3x3 layers, as in the paper."
        ),
        table=shown if several else shown.drop("95 % interval|from", "95 % interval|to"),
    )


# --------------------------------------------------------------------------------------------------------- in sentences


def _answer(table: pl.DataFrame, found: list[Finding]) -> str:
    told = joined(f"{number(row['std'])} in {quoted([row['network']])}" for row in table.iter_rows(named=True))
    said = f"The median 3x3 layer responds with a standard deviation of {told}."
    for rule, words in _ANSWERS.items():
        if verdicts := by_rule(found, rule, {}):
            said += f" {words[holds_of(verdicts, right='holds')]}"
    return said


_ANSWERS: dict[str, dict[Holds, str]] = {
    SMALLER: {
        "right": "Residual networks respond less than plain ones.",
        "wrong": "Residual networks respond more than plain ones, not less.",
        "unknown": "Whether residual networks respond less than plain ones, these do not decide for all.",
        "depends": "Whether residual networks respond less than plain ones depends on the network.",
    },
    DEEPER: {
        "right": "Deeper residual networks respond less.",
        "wrong": "Deeper residual networks respond more, not less.",
        "unknown": "Whether deeper residual networks respond less, these do not decide for all.",
        "depends": "Whether deeper residual networks respond less depends on the depths.",
    },
}

_CLAIMS = {
    SMALLER: "Residual networks have smaller responses than plain ones.",
    DEEPER: "The deeper a residual network, the smaller its responses.",
    ALONE["training"]: "On the batch that normalises itself, gamma and beta alone tell a layer's response.",
    ALONE["inference"]: "They tell it in inference too.",
}


def _claims(found: list[Finding], named: dict[str, str]) -> Iterator[Claim]:
    for rule, claim in _CLAIMS.items():
        about = [finding for finding in found if finding.rule == rule]
        if about:
            holds = holds_of(by_rule(about, rule, named), right="holds")
            told = about if rule in _ANSWERS else [max(about, key=_furthest)]
            yield Claim(claim, holds, " ".join(dict.fromkeys(finding.statement for finding in told)))


def _furthest(finding: Finding) -> float:
    """By how much gamma and beta alone miss a response, at most."""
    return float(str(finding.evidence["difference"].abs().max()))


def _described(table: pl.DataFrame) -> str:
    """How files of weights compare: one network each, and so no verdict."""
    ordered = table.sort("std")
    told = joined(
        f"{number(row['std'])} in {quoted([row['network']])} (layers {number(row['least'])} to {number(row['most'])})"
        for row in ordered.iter_rows(named=True)
    )
    after = " Of each design there is one network, and so this is a description and no verdict on designs."
    return f"From the smallest median over layers to the largest: {told}.{after if table.height > 1 else ''}"


def _against(readings: Readings, named: dict[str, str]) -> Iterator[Block]:
    """What is measured against gamma and beta alone, layer by layer, behind a line."""
    table = differences(readings)
    if table.is_empty():
        return
    shown = table.select(
        pl.col("kind").replace_strict(named).alias("network"),
        "mode",
        "site",
        pl.format("{}x{}", "kernel", "kernel").alias("layer"),
        pl.col("alone").alias("gamma and beta alone"),
        "measured",
        pl.col("difference").alias("largest relative difference"),
    )
    caption = "measured/alone − 1, of the network for which it is largest in size; all other numbers are means."
    yield Table(shown, caption, folded="What was measured against gamma and beta alone, layer by layer")


def _limits(sources: set[str]) -> Iterator[str]:
    yield (
        "A response is relative to nothing: what a branch adds counts by its size against the stream it is added to, "
        "which the ratio |F(x)|/|x| tells (study flow), and the stream grows along a residual network."
    )
    yield (
        "Behind batch normalisation a response is gamma's size and beta's spread, and little else: that it is small "
        "says what gamma was trained to, by its gradient and by weight decay, which pulls on gamma too."
    )
    if "trained" in sources:
        yield (
            "These networks are trained for few steps, and gamma begins at 1: the paper's were trained for 64,000, and "
            "how far responses part is a matter of how long they had."
        )
    if "weights" in sources:
        yield "One network a design says nothing of designs: another seed gives other responses."


# ----------------------------------------------------------------------------------------------------------- the method


def _method(readings: Readings, one_each: Readings) -> Method:
    """How it was measured; `one_each` has one cell a network."""
    cells = readings.cells

    def values(column: str) -> list[Any]:
        return cells[column].drop_nulls().unique().sort().to_list() if column in cells.columns else []

    orders = {stage.order for text in cells["spec"].unique() if text for stage in Spec.from_json(str(text)).stages}
    own = "weights" not in values("source")
    facts = (
        ("Drawn", f"{seeds_of(readings)}; a seed gives all networks the same order of mini-batches" if own else ""),
        ("Steps of training", joined(f"{steps:,}" for steps in values("steps"))),
        ("Learning rate", joined(f"{rate:g}" for rate in values("rate"))),
        ("Images a step", _images(cells.filter(mode="learning"))),
        ("Images measured on", _shown(cells.filter(pl.col("mode").is_in(("training", "inference"))))),
        (
            "Pre-activation",
            "the normalisation is the one that follows the layer; what is added is normalised by nothing"
            if "pre-activation" in orders
            else "",
        ),
        ("Standard deviation", "over samples, positions and channels, about their one mean"),
        ("Arithmetic", joined(values("dtype"))),
        ("Intervals", "Student's t over networks, 95 %" if own else ""),
    )
    networks = [block for block in method(one_each).blocks if isinstance(block, Table)]
    return Method((*networks, Facts(tuple((name, value) for name, value in facts if value))))


def _shown(cells: pl.DataFrame) -> str:
    return f"{_images(cells)} of the training part, as they are: neither cropped nor mirrored" if cells.height else ""


def _images(cells: pl.DataFrame) -> str:
    return joined(map(str, cells["batch"].unique().sort()))
