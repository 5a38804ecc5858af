"""The section on study `jacobian`: how networks stretch small changes of their input, by depth."""

from __future__ import annotations

from typing import Literal, cast

import polars as pl

from skipscope import charts
from skipscope.charts.look import design_places
from skipscope.diagnosis import FACTOR, Finding
from skipscope.errors import InputError
from skipscope.readings import Readings, require_factors
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
    networks_of,
    quoted,
    seeds_of,
    versions_of,
)
from skipscope.spec import Spec
from skipscope.spectra import findings as judge
from skipscope.summary import Summary, summarise
from skipscope.words import number

__all__ = ["jacobian_section"]

Part = Literal["network", "body"]


def jacobian_section(readings: Readings, *, anchor: str = "jacobian") -> Section:
    """The section on readings of study `jacobian`.

    Raises:
        InputError: the readings hold no singular values.
    """
    summary = summarise(readings)
    require_factors(readings, "jacobian", "part")
    parts = [part for part in ("body", "network") if part in set(readings.cells["part"])]
    if not parts:
        raise InputError("these readings say of no part: measure them with studies.jacobian.")
    main = cast(Part, parts[0])
    findings = _findings(readings, main)
    claims = _claims(findings, readings)
    blocks: list[Block] = [
        Prose((_ASKED,)),
        blocks_told(readings),
        Prose((_drawn(readings),)),
        *_deepest(summary, main),
    ]
    for part in parts:
        blocks += _part(summary, cast(Part, part))
    if claims:
        blocks += [Prose((), "What is commonly said, and what was measured"), Claims(claims)]
    blocks += [limits(*_LIMITS, *_at_rounding(summary, main)), *in_full(findings)]
    return Section(
        title="Singular values of the Jacobian",
        anchor=anchor,
        answer=_answer(findings, readings, main),
        blocks=(*blocks, method(readings)),
        versions=versions_of(readings),
        about="By how much are small changes of the input stretched, and are any lost?",
        part=UNTRAINED,
    )


def _findings(readings: Readings, part: Part) -> list[Finding]:
    """By design, in the order of the panels."""
    places, designs = design_places(readings), dict(readings.cells.select("cell", "design").iter_rows())
    return sorted(judge(readings, part=part), key=lambda finding: places[designs[finding.cell]])


_ASKED = (
    "The Jacobian, output by input, says how small changes of the input are stretched: its singular values are the "
    "factors. Values near one in all directions are called dynamical isometry (Pennington et al. 2017, "
    "arXiv:1711.04735); a direction with the value 0 is lost, forward and backward. The networks that are compared:"
)
_LIMITS = (
    "The Jacobian is that of one point, before any training: it says what an infinitely small step does there, and not "
    "how the network trains. Designs that differ in where the ReLU stands as well as in a gain or a norm are compared "
    "as they are used, so that a difference between two of them is not the work of one of these alone.",
)


def _at_rounding(summary: Summary, part: Part) -> list[str]:
    """Of which networks the smallest singular value is at the limit of the arithmetic; nothing where of none."""
    table = charts.spectrum_data(summary, part)
    ends = table.filter(pl.col("curve").is_in(["sigma_max", "sigma_min"])).pivot(
        "curve", index=["panel", "depth"], values="q50", maintain_order=True
    )
    lost = ends.filter(pl.col("sigma_min") > 0, pl.col("sigma_min") < _RESOLVED * pl.col("sigma_max"))
    told = joined(f"{quoted([row['panel']])} at d = {row['depth']}" for row in lost.iter_rows(named=True))
    if not told:
        return []
    return [
        f"Of {told} the smallest singular value is less than {number(_RESOLVED)} of the largest: that is as small as "
        "this arithmetic resolves beside the largest, so that it is known to be tiny, but not how tiny."
    ]


_RESOLVED = 1e-13
"""Some hundreds of roundings of float64 (2e-16), of which a product of many matrices makes as many."""
_WHICH = {
    "body": (
        "All blocks in a row, last block's output by first block's input: without the layers at both ends, which the "
        "design does not choose."
    ),
    "network": (
        "Output by input. A network has a ReLU layer or a change of width at an end, which takes directions away "
        "whatever is in between."
    ),
}


def _drawn(readings: Readings) -> str:
    batches = readings.cells.filter(pl.col("batch") > 1)["batch"].unique().sort()
    said = (
        f"Here {depths_of(readings)}, drawn with {seeds_of(readings)}; the Jacobian is that of one sample's output by "
        "its own input."
    )
    if batches.len():
        said += (
            f" With batch normalisation it depends on the batch, of {joined(map(str, batches))} samples: it is the "
            "total derivative, the statistics moving along."
        )
    return said


# ---------------------------------------------------------------------------------------------------------- the charts


def _deepest(summary: Summary, part: Part) -> list[Block]:
    """The deepest networks of every design: medians by curve."""
    table = charts.spectrum_data(summary, part)
    last = table.filter(pl.col("depth") == pl.col("depth").max().over("panel"))
    ranks = summary.table.filter(pl.col("quantity") == "jacobian_rank").select(
        "design", "width", "depth", "cell", pl.col("q50").alias("rank")
    )
    own = ranks.join(summary.readings.cells.filter(pl.col("part") == part), on="cell", how="semi").drop("cell")
    shown = last.pivot("name", index=["panel", "design", "depth", "width"], values="q50", maintain_order=True)
    shown = shown.join(own, on=["design", "width", "depth"], how="left", maintain_order="left")
    names = [name for name, _, _ in charts.CURVES.values() if name in shown.columns]
    columns = [pl.col(name).alias(f"singular value|{name}") for name in reversed(names)]
    rank = [] if own.is_empty() else [pl.col("rank").cast(pl.Int64).alias("directions|that pass")]
    of = [] if own.is_empty() else [pl.col("width").alias("directions|of")]
    return [
        Table(
            shown.select(pl.col("panel").alias("network"), pl.col("depth").alias("d"), *columns, *rank, *of),
            f"Medians over draws of the deepest networks' {part}.",
        )
    ]


def _answer(findings: list[Finding], readings: Readings, part: Part) -> str:
    """What happens to the singular values, by verdict, with the designs."""
    designs = dict(readings.cells.select("cell", "design").iter_rows())
    largest = by_rule(findings, "largest singular value", designs)
    kept = by_rule(findings, "directions", designs)
    both = [name for name in largest.get("healthy", []) if name in kept.get("healthy", [])]
    depth = joined(map(str, sorted({_depth(readings, finding.cell) for finding in findings})))
    said = (
        f"At depth {depth} all singular values of the {part} are within a factor of {FACTOR:g} of one in "
        f"{networks_of(*both) if both else 'no design'}."
    )
    if "exploding" in largest:
        said += f" The largest is beyond that in {networks_of(*largest['exploding'])}."
    if "vanishing" in largest:
        said += f" All are below it in {networks_of(*largest['vanishing'])}."
    if "spread out" in kept:
        said += f" The smallest is far below it in {networks_of(*kept['spread out'])}."
    if "directions lost" in kept:
        said += f" Directions are lost, mapped to 0, in {networks_of(*kept['directions lost'])}."
    open_ = dict.fromkeys([*largest.get("cannot tell", []), *kept.get("cannot tell", [])])
    return f"{said} These draws do not decide it in {networks_of(*open_)}." if open_ else said


def _depth(readings: Readings, cell: str) -> int:
    return int(readings.cells.filter(pl.col("cell") == cell)["depth"][0])


def _part(summary: Summary, part: Part) -> list[Block]:
    table = charts.spectrum_data(summary, part)
    law = table["law"].null_count() < table.height
    figure = Figure(
        name=f"Singular values of the {part}, by depth",
        chart=charts.spectrum(summary, part),
        caption=(
            "Lines: medians over draws; bands: 25 to 75 %. The line at 1 is where nothing is stretched. The axis is "
            "logarithmic: a note says where a median is 0 (to rounding), or below 10⁻⁶ and so not drawn."
            + (" Dashed: the law, the root of the expected mean square." if law else "")
        ),
        table=table.select(
            pl.col("panel").alias("network"),
            pl.col("depth").alias("d"),
            pl.col("name").alias("singular value"),
            pl.col("n").alias("seeds"),
            pl.col("zeros").alias("draws with 0"),
            pl.col("q25").alias("25 %"),
            pl.col("q50").alias("median"),
            pl.col("q75").alias("75 %"),
            "law",
        ),
    )
    return [Prose((_WHICH[part],), f"Of the {part}"), figure]


# ---------------------------------------------------------------------------------------------------------- the claims


def _claims(findings: list[Finding], readings: Readings) -> tuple[Claim, ...]:
    designs = dict(readings.cells.select("cell", "design").iter_rows())
    specs = {row["cell"]: Spec.from_json(row["spec"]) for row in readings.cells.iter_rows(named=True) if row["spec"]}
    residual = [f for f in findings if any(not stage.plain for stage in specs[f.cell].stages)]
    plain = [f for f in findings if designs[f.cell] == "plain"]
    claims = [_plain_claim(plain), _identity_claim(residual, designs), _isometry_claim(residual, designs)]
    return tuple(claim for claim in claims if claim is not None)


def _plain_claim(findings: list[Finding]) -> Claim | None:
    """Whether a plain network (without a norm) makes all directions smaller, or takes some away."""
    largest = next((f for f in findings if f.rule == "largest singular value"), None)
    if largest is None:
        return None
    which: dict[str, Holds] = {"vanishing": "right", "cannot tell": "unknown"}
    kept = next((f for f in findings if f.rule == "directions"), None)
    said = largest.statement
    if kept is not None:
        said += f" {kept.statement}"
        if kept.verdict == "directions lost" and largest.verdict != "vanishing":
            said += " It does not fade evenly, it forgets: what is mapped to 0 no scaling brings back."
    return Claim("In a deep plain network all directions fade.", which.get(largest.verdict, "wrong"), said)


def _identity_claim(findings: list[Finding], designs: dict[str, str]) -> Claim | None:
    """Whether blocks with a shortcut are near the identity."""
    found = by_rule(findings, "block against the identity", designs)
    if not found:
        return None
    values = {designs[f.cell]: f.evidence["q50"][0] for f in findings if f.rule == "block against the identity"}
    told = [
        f"{words} {joined(f'{quoted([name])} ({number(values[name], 2)})' for name in found[verdict])}"
        for verdict, words in (
            ("near the identity", "Near it are"),
            ("far from the identity", "Far from it are"),
            ("cannot tell", "These draws do not decide it in"),
        )
        if verdict in found
    ]
    return Claim(
        "The + I makes every block nearly the identity.",
        holds_of(found, right="near the identity"),
        f"The distance ‖J − I‖/‖I‖ of a block (Frobenius norms), as a median over draws and blocks of the deepest "
        f"networks. "
        f"{'. '.join(told)}.",
    )


def _isometry_claim(findings: list[Finding], designs: dict[str, str]) -> Claim | None:
    """Which of the residual designs keep all singular values within a factor of one."""
    largest = by_rule(findings, "largest singular value", designs)
    kept = by_rule(findings, "directions", designs)
    judged = [name for names in kept.values() for name in names]
    if not judged:
        return None
    near = [name for name in judged if name in largest.get("healthy", []) and name in kept.get("healthy", [])]
    open_ = [
        name
        for name in judged
        if name not in near
        and all(name in [*group.get("cannot tell", []), *group.get("healthy", [])] for group in (largest, kept))
    ]
    lost = [
        f"{quoted([name])} ({joined(_words(name, largest, kept))})"
        for name in judged
        if name not in near and name not in open_
    ]
    told = []
    if near:
        told.append(f"Within a factor of {FACTOR:g} of one they stay in {quoted(near)}.")
    if lost:
        told.append(f"They do not in {joined(lost)}.")
    if open_:
        told.append(f"These draws do not decide it in {quoted(open_)}.")
    holds: Holds = ("depends" if near else "wrong") if lost else "unknown" if open_ else "right"
    return Claim("Shortcuts keep all singular values near one.", holds, " ".join(told))


def _words(name: str, largest: dict[str, list[str]], kept: dict[str, list[str]]) -> list[str]:
    """What goes wrong in a design, in a word or two."""
    told = {
        "exploding": "the largest explodes",
        "vanishing": "all vanish",
        "directions lost": "directions are lost",
        "spread out": "the smallest is far below",
    }
    return [
        told[verdict]
        for group in (largest, kept)
        for verdict, names in group.items()
        if name in names and verdict in told
    ]
