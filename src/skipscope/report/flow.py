"""The section on study `flow`: signal and gradient by depth, in designs that can be compared."""

from __future__ import annotations

from typing import Any

import polars as pl

from skipscope import charts
from skipscope.charts import labels
from skipscope.diagnosis import FACTOR, SEEDS, Finding, diagnose
from skipscope.readings import Readings
from skipscope.report.page import Block, Claim, Claims, Figure, Holds, Prose, Section, Table
from skipscope.report.prose import (
    INITS,
    UNTRAINED,
    VERBS,
    against_laws,
    bands,
    capital,
    change,
    depths_of,
    designs_told,
    in_full,
    joined,
    junctions_table,
    law_lines,
    limits,
    measured,
    method,
    networks,
    plural,
    profile_table,
    seeds_of,
    sent,
    versions_of,
)
from skipscope.spec import Spec
from skipscope.summary import Summary, summarise
from skipscope.words import number

__all__ = ["flow_section"]


def flow_section(readings: Readings, *, anchor: str = "flow") -> Section:
    """The section on readings of study `flow`.

    Raises:
        InputError: the readings hold nothing that can be diagnosed.
    """
    summary = summarise(readings)
    order = list(labels(readings))
    findings = sorted(diagnose(readings), key=lambda finding: order.index(finding.cell))
    claims = _claims(findings, readings)
    blocks: list[Block] = [
        Prose((_ASKED,)),
        designs_told(readings),
        Prose((_drawn(readings),)),
        *_profile(summary, "backward_gain", "The gradient, on its way back", _GRADIENT),
        *_profile(summary, "forward_gain", "The signal, on its way forward", _SIGNAL),
        *_profile(summary, "weight_grad_norm", "What the notebook draws: the norm of every weight gradient", _WEIGHTS),
        *_junctions(summary),
    ]
    if claims:
        blocks += [Prose((), "What is commonly said, and what was measured"), Claims(claims)]
    return Section(
        title="Signal and gradient by depth",
        anchor=anchor,
        answer=_answer(findings, readings),
        blocks=(*blocks, limits(*_LIMITS), *in_full(findings), method(readings)),
        versions=versions_of(readings),
        about="What happens to the size of signal and gradient on their way through a network?",
        part=UNTRAINED,
    )


_ASKED = (
    "How do the norm of the signal, on its way forward, and that of the gradient, on its way back, change with depth "
    "before any training? The networks that are compared:"
)
_LIMITS = (
    "These are networks as they are drawn, before any training, fully connected and narrow, with one sample at a time "
    "and no normalisation unless the table of networks says so. Whether a network trains well is another question: a "
    "gradient of any size is a direction to go, and an optimiser may scale it.",
    "A factor over all blocks is one of what the blocks do; the first and the last layer change the size as well, so "
    "that the charts, which have them, end at other values.",
)


def _drawn(readings: Readings) -> str:
    cells = readings.cells
    inits = joined(sorted({INITS[Spec.from_json(text).init] for text in cells["spec"] if text}))
    batch = joined(plural(batch, "sample") for batch in cells["batch"].unique().sort())
    back = joined(map(sent, cells["cotangent"].unique().sort()))
    return (
        f"Here {depths_of(readings)}. Every network is drawn with {seeds_of(readings)} and {inits} initialisation, "
        f"sees {batch}, and has {back} sent back from its output. Lines are medians over draws; bands say where half "
        "and nine tenths of the draws are."
    )


# -------------------------------------------------------------------------------------------------------- the charts

_GRADIENT = (
    "Norm of the gradient by what each block hands on, relative to the gradient at the output. Read it from right to "
    "left, as the gradient goes."
)
_SIGNAL = "Norm of what each block hands on, relative to the input."
_WEIGHTS = (
    "Frobenius norm of the gradient by every weight matrix: the product of a backward and a forward norm, so a flat "
    "line does not mean that either is flat."
)


def _profile(summary: Summary, quantity: str, name: str, about: str) -> list[Block]:
    """A chart by depth with its caption, and what the laws say to it; nothing where it was not measured."""
    if quantity not in set(summary.table["quantity"]):
        return []
    table = charts.flow_data(summary, quantity)
    draws = int(str(table["n"].max()))
    figure = Figure(
        name=f"{capital(charts.title_of(quantity))}, by depth",
        chart=charts.flow(summary, quantity),
        caption=f"{about} {bands(draws)}{law_lines(table)}",
        table=profile_table(summary, quantity),
    )
    return [
        Prose((), name),
        figure,
        _ends(table, backward=quantity == "backward_gain"),
        *against_laws(summary, quantity),
    ]


def _ends(table: pl.DataFrame, *, backward: bool) -> Table:
    """Where each line begins and ends, seen in the direction of travel."""
    rows, places = [], ""
    for (panel,), part in table.group_by("panel", maintain_order=True):
        start, end = (part.row(i, named=True) for i in ((-1, 0) if backward else (0, -1)))
        label, _, layers = str(panel).rpartition(": ")
        places = f"From the {start['site']} to the {end['site']}"
        rows.append(
            {
                "network": label,
                "layers": int(layers.partition(" ")[0]),
                "draws": end["n"],
                f"at the {start['site']}|median": start["q50"],
                f"at the {end['site']}|median": end["q50"],
                # Of fewer draws, the quantiles are the extremes.
                f"at the {end['site']}|nine draws in ten": _between(end) if end["n"] >= SEEDS else "too few",
            }
        )
    return Table(pl.DataFrame(rows), f"{places}: where the lines of the chart begin and end.")


def _between(row: dict[str, Any]) -> str:
    return f"{number(row['q05'])} to {number(row['q95'])}"


def _junctions(summary: Summary) -> list[Block]:
    if "branch_ratio" not in set(summary.table["quantity"]):
        return []
    table = charts.junctions_data(summary)
    last = table.group_by("label", "quantity", maintain_order=True).last()
    told = []
    for (label,), part in last.group_by("label", maintain_order=True):
        found = {row["quantity"]: number(row["q50"]) for row in part.iter_rows(named=True)}
        if "branch_ratio" not in found:
            continue
        words = [f"the branch has {found['branch_ratio']} of the shortcut's norm"]
        if "branch_cosine" in found:
            words.append(f"at a cosine of {found['branch_cosine']}")
        if "shortcut_share" in found:
            words.append(f"and {found['shortcut_share']} of the gradient comes through the shortcut")
        told.append(f"in the {label} network {', '.join(words)}")
    figure = Figure(
        name="Shortcut and branch, block by block",
        chart=charts.junctions(summary),
        caption=(
            "What the branch adds relative to the shortcut, the cosine between the two, and which share of the "
            "gradient by the block's input came either way: a share is a projection on the whole, and the two sum to "
            f"one. {bands(int(str(table['n'].max())))}{charts.coincident_words(table)}"
        ),
        table=junctions_table(summary),
    )
    return [Prose((f"In the last block, as medians over draws: {'; '.join(told)}.",), "What each block adds"), figure]


# ---------------------------------------------------------------------------------------------------------- the words


def _answer(findings: list[Finding], readings: Readings) -> str:
    """What the gradient does, by verdict, with the networks and their numbers; without a gradient, the signal."""
    named = labels(readings)
    rules = [finding.rule for finding in findings]
    rule = next((rule for rule in ("gradient", "signal", *rules) if rule in rules), "")
    told = []
    for verdict, verb in VERBS.items():
        group = [finding for finding in findings if finding.rule == rule and finding.verdict == verdict]
        if group:
            numbers = "; ".join(_numbers(finding, named[finding.cell]) for finding in group if change(finding))
            told.append(f"{verb} in {networks([named[f.cell] for f in group])}" + (f" ({numbers})" if numbers else ""))
    judged = {finding.cell for finding in findings if finding.rule == rule}
    if silent := [name for cell, name in named.items() if cell not in judged]:
        told.append(f"cannot be judged in {networks(silent)}, of which these readings hold no growth over blocks")
    return f"Before any training, the {rule} {'; it '.join(told)}."


def _numbers(finding: Finding, name: str) -> str:
    found = change(finding)
    factor = f"{number(found['median'])} in the median draw"
    if finding.verdict == "spread out":
        factor = f"{number(found['q05'])} to {number(found['q95'])} in nine draws of ten"
    return f"{name}: over {plural(found['blocks'], 'block')} a factor of {factor}"


def _claims(findings: list[Finding], readings: Readings) -> tuple[Claim, ...]:
    """The popular story, against the verdicts on the gradient; it is about designs, so there must be one of each."""
    if readings.cells["design"].drop_nulls().is_duplicated().any():
        return ()
    designs = dict(zip(readings.cells["cell"], readings.cells["design"], strict=True))
    gradient = {designs[finding.cell]: finding for finding in findings if finding.rule == "gradient"}
    claims = []
    if "plain" in gradient:
        claims.append(_plain_claim(gradient["plain"]))
    if "residual" in gradient:
        claims.append(_residual_claim(gradient["residual"], readings))
    if "residual" in gradient and "twin" in gradient:
        claims.append(_twin_claim(gradient["residual"], gradient["twin"]))
    if "residual" in gradient and "plain" in gradient and "" not in readings.cells["spec"]:
        claims.append(_fair_claim(gradient, readings))
    return tuple(claims)


def _plain_claim(finding: Finding) -> Claim:
    told: dict[str, tuple[Holds, str]] = {
        "vanishing": ("right", "It does"),
        "exploding": ("wrong", "It grows instead"),
        "dead": ("right", "It does, wholly"),
        "healthy": ("wrong", f"It stays within a factor of {FACTOR:g}"),
        "spread out": ("wrong", f"What depth adds is spread{_spread_of(finding)}"),
        "cannot tell": ("unknown", "These draws do not decide it"),
    }
    holds, words = told[finding.verdict]
    return Claim("In a deep plain network the gradient vanishes.", holds, f"{words}: {measured(finding)}.")


def _spread_of(finding: Finding) -> str:
    """Which way draws go that differ by much."""
    found = change(finding)
    if not found:
        return ""
    typical = "shrinks" if found["median"] < 1 else "grows"
    if found["q05"] < 1 < found["q95"]:
        return f" (the median draw {typical}, and some {'grow' if typical == 'shrinks' else 'shrink'})"
    return f" (nearly every draw {typical}, by very different factors)"


def _kept(finding: Finding, readings: Readings) -> bool:
    """Whether the shortcuts of a network hand on what they get: gain 1, and nothing after the addition."""
    text = readings.cells.filter(pl.col("cell") == finding.cell)["spec"][0]
    blocks = Spec.from_json(text).body if text else ()
    return bool(blocks) and all(block.shortcut_gain == 1.0 and block.activation == "linear" for block in blocks)


def _residual_claim(finding: Finding, readings: Readings) -> Claim:
    why = ", since an identity keeps a gradient from vanishing but not from growing" if _kept(finding, readings) else ""
    told: dict[str, tuple[Holds, str]] = {
        "vanishing": ("wrong", "It vanishes all the same"),
        "exploding": ("wrong", f"It explodes{why}"),
        "dead": ("wrong", "Nothing arrives"),
        "healthy": ("right", f"They do, within a factor of {FACTOR:g}"),
        "spread out": ("wrong", "It differs from draw to draw"),
        "cannot tell": ("unknown", "These draws do not decide it"),
    }
    holds, words = told[finding.verdict]
    return Claim("Shortcuts let the gradient through unchanged.", holds, f"{words}: {measured(finding)}.")


def _twin_claim(residual: Finding, twin: Finding) -> Claim:
    """What the shortcuts alone do: both networks have the same parameters and the same draws."""
    a, b = residual.verdict, twin.verdict
    holds: Holds = "unknown" if "cannot tell" in (a, b) else "wrong" if a == b else "right"
    return Claim(
        "What sets the residual network apart is its shortcuts, not its size.",
        holds,
        f"Its twin has the same parameters and the same draws, and no shortcuts. With them the gradient {VERBS[a]}; "
        f"without them it {VERBS[b]}.",
    )


def _fair_claim(findings: dict[str | None, Finding], readings: Readings) -> Claim:
    """The notebook's pair by size, and the residual network that has the plain one's."""
    specs = {row["design"]: Spec.from_json(row["spec"]) for row in readings.cells.iter_rows(named=True) if row["spec"]}
    plain, residual = specs["plain"], specs["residual"]
    ratio = residual.parameters / plain.parameters
    said = (
        f"The plain network has {plain.depth} weight layers and {plain.parameters:,} parameters, the residual one "
        f"{residual.depth} and {residual.parameters:,}, {number(ratio)} times as many."
    )
    matched, whole = (change(findings[name]) if name in findings else {} for name in ("matched", "residual"))
    if matched and whole:
        said += (
            f" A residual network of {specs['matched'].depth} layers ({specs['matched'].parameters:,} parameters) "
            f"changes the gradient by a factor of {number(matched['median'])} in the median draw, instead of "
            f"{number(whole['median'])}."
        )
    holds: Holds = "right" if 0.95 <= ratio <= 1.05 else "wrong"
    return Claim("A plain network of d layers is a fair match for a residual one of d blocks.", holds, said)
