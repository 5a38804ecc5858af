"""The section on study `identity`: the block of small weights, and stacks that learn to give back what comes in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from skipscope import charts, identity
from skipscope.diagnosis import Finding
from skipscope.identity import MARGIN, SMALL
from skipscope.readings import Readings
from skipscope.report.page import Block, Claim, Claims, Figure, Holds, Prose, Section, Table
from skipscope.report.prose import (
    TRAINED,
    by_rule,
    capital,
    holds_of,
    in_full,
    joined,
    limits,
    listed,
    method,
    plural,
    quoted,
    seeds_of,
    versions_of,
)
from skipscope.spec import Spec
from skipscope.words import number, percent

__all__ = ["identity_section"]

_BETTER = "represents x -> x better than the plain stack"
_DEEPER = "deeper is no worse"
_ZERO = "trained branches are near 0"


def identity_section(readings: Readings, *, anchor: str = "identity") -> Section:
    """The section on readings of study `identity`.

    Raises:
        InputError: the readings hold nothing of this study, or stacks of several widths or steps.
    """
    findings = identity.findings(readings)
    parts = set(readings.cells["part"])
    blocks: list[Block] = [Prose((_ASKED,))]
    if "block" in parts:
        blocks += _block(readings, findings)
    if "stack" in parts:
        blocks += _stacks(readings)
    if claims := _claims(readings, findings):
        blocks += [Prose((), "What is commonly said, and what was measured"), Claims(claims)]
    return Section(
        title="The identity, with and without a shortcut",
        anchor=anchor,
        answer=_answer(readings, findings),
        blocks=(*blocks, limits(*_LIMITS, *_at_the_edge(readings, parts)), *in_full(findings), method(readings)),
        versions=versions_of(readings),
        about="Is doing nothing easier to learn with a shortcut?",
        part=TRAINED,
    )


_ASKED = (
    "A deeper network could do what a shallower one does if its further blocks handed on what they get. He et al. 2015 "
    "(arXiv:1512.03385, section 3.1) suppose that a residual block finds that easier, since its branch F need only be "
    "0. First the notebook's picture of it, one block with small weights; then stacks that are trained to do it."
)
_LIMITS = (
    "Giving back the input is a task of its own. That one stack learns it faster than another, in this number of "
    "steps, does not say that networks that learn something else have blocks near the identity.",
)


def _at_the_edge(readings: Readings, parts: set[str]) -> list[str]:
    """Which stacks got the largest or the smallest of the rates that were tried; nothing where none did."""
    if "stack" not in parts:
        return []
    rates = identity.rate_data(readings)
    if rates["rate"].n_unique() == 1:
        return []
    told = []
    for end, words in ((rates["rate"].max(), "largest"), (rates["rate"].min(), "smallest")):
        chosen = rates.filter("chosen", pl.col("rate") == end)
        stacks = listed(f"{row['design']} at {row['depth']} layers" for row in chosen.iter_rows(named=True))
        if stacks:
            told.append(f"the {words} rate that was tried is the best for {stacks}")
    return [f"{capital('. '.join(map(capital, told)))}: beyond it they may do better."] if told else []


# ---------------------------------------------------------------------------------------------------------- the block


def _block(readings: Readings, findings: list[Finding]) -> list[Block]:
    asked = (
        "A residual block gives x + F(x). With all weights of its branch times a small c its output is its input, to "
        "the eye: that is the picture below. It is an exact law and no discovery: a branch of ReLU layers without "
        "biases is homogeneous in its weights, so that F shrinks as a power of c, whatever the weights are."
    )
    told = [finding.statement for finding in findings if finding.rule == "degree of the branch"]
    units, scales = charts.block_units_data(readings), charts.block_scales_data(readings)
    return [
        Prose((asked, *told), "One block with small weights"),
        Figure(
            name="Output and branch of every unit, against its input",
            chart=charts.block_units(readings),
            caption=f"Every unit of one draw (seed {units['seed'][0]}), a panel a scale of the weights.",
            table=identity.unit_data(readings).select(
                pl.col("scale").alias("c"), "unit", "input", pl.col("branch").alias("F(x)"), "output"
            ),
        ),
        Figure(
            name="Distance from the identity, by the scale of the weights",
            chart=charts.block_scales(readings),
            caption="Points: median over draws; band: from the least to the most. Dashed: the law at He's "
            "initialisation. J is the block's Jacobian; norms of matrices are Frobenius norms.",
            table=scales.select(
                pl.col("panel").alias("what"),
                pl.col("scale").alias("c"),
                pl.col("n").alias("seeds"),
                "least",
                pl.col("q50").alias("median"),
                "most",
                pl.col("rms").alias("root mean square"),
                "law",
                "slope",
            ),
        ),
    ]


# --------------------------------------------------------------------------------------------------------- the stacks


def _stacks(readings: Readings) -> list[Block]:
    errors = identity.error_data(readings)
    return [
        Prose(_trained(readings, errors), "Stacks that learn x → x"),
        _errors(readings, errors),
        *_paired(readings),
        *_branches(readings),
        _rates(readings),
    ]


def _trained(readings: Readings, errors: pl.DataFrame) -> tuple[str, ...]:
    """Which stacks are trained, and how the comparison is kept fair."""
    tried = joined(f"{rate:g}" for rate in identity.rate_data(readings)["rate"].unique().sort())
    cell = readings.cells.filter(pl.col("part") == "stack").row(0, named=True)
    features = Spec.from_json(cell["spec"]).stem.features
    how = (
        f"Whether training finds the identity is another question. Stacks of {_depths(errors)} weight layers, "
        f"{cell['width']} wide, learn to give back {features} standard normals; all end in a linear layer and carry "
        "either sign of every feature, so that each of them can. Stacks of a depth have the same layers and "
        "parameters, start from the same draw and see the same mini-batches "
        f"({plural(cell['steps'], 'step')} of {cell['batch']}; {seeds_of(readings)})."
    )
    fair = (
        "No one learning rate is fair to all, for residual stacks of He's initialisation grow with depth: every design "
        f"is trained at {tried} (down to 0 along a cosine; momentum 0.9, no weight decay, which would pull branches to "
        "0), and is compared where the fewest of its stacks are lost, and then where its training loss is smallest."
    )
    return how, *_designs_told(errors), fair


def _errors(readings: Readings, errors: pl.DataFrame) -> Figure:
    return Figure(
        name="Held-out error by depth",
        chart=charts.stack_errors(readings),
        caption="Mean squared error on new samples: the share of the inputs' variance that is not given back. "
        f"Band: 95 % interval of the median over seeds, by ranks.{_not_drawn(errors)}",
        table=errors.select(
            pl.col("design").alias("stack"),
            pl.col("depth").alias("weight layers"),
            pl.col("rate").alias("learning rate"),
            pl.col("n").alias("seeds"),
            "lost",
            pl.col("q50").alias("held-out error|median"),
            pl.col("low").alias("held-out error|from"),
            pl.col("high").alias("held-out error|to"),
        ),
    )


def _rates(readings: Readings) -> Table:
    return Table(
        identity.rate_data(readings).select(
            pl.col("design").alias("stack"),
            pl.col("depth").alias("weight layers"),
            pl.col("rate").alias("learning rate"),
            pl.col("n").alias("seeds"),
            "lost",
            pl.col("train").alias("median error|training"),
            pl.col("test").alias("median error|held out"),
            pl.when("chosen").then(pl.lit("yes")).otherwise(pl.lit("")).alias("chosen"),
        ),
        "Every design at every learning rate; lost: the loss was no longer finite.",
        folded="All learning rates, as a table",
    )


_DESIGNS = {
    "residual": "the notebook's block, as it is",
    "residual, gain 1/sqrt(L)": "its branch times 1/sqrt(L), L being the blocks of the stack",
    "residual, gain zero": "its branch times a learned scalar that starts at 0",
}


def _designs_told(errors: pl.DataFrame) -> list[str]:
    known = [f'"{name}", {_DESIGNS[name]}' for name in errors["design"].unique(maintain_order=True) if name in _DESIGNS]
    return [f"The residual stacks: {'; '.join(known)}."] if known else []


def _not_drawn(errors: pl.DataFrame) -> str:
    """A log axis has no place for what is infinite."""
    lost = errors.filter(pl.col("q50").is_infinite())
    told = joined(f'"{row["design"]}" at {row["depth"]} layers' for row in lost.iter_rows(named=True))
    return f" Not drawn, since most of its stacks were lost at every learning rate: {told}." if told else ""


def _depths(errors: pl.DataFrame) -> str:
    return joined(map(str, errors["depth"].unique().sort()))


def _paired(readings: Readings) -> list[Block]:
    table = identity.paired_data(readings)
    if table.is_empty():
        return []
    shown = table.select(
        pl.col("design").alias("stack"),
        pl.col("depth").alias("weight layers"),
        "pairs",
        pl.col("better").alias("smaller in"),
        pl.col("ratio").alias("error/plain|median"),
        pl.col("low").alias("error/plain|from"),
        pl.col("high").alias("error/plain|to"),
    )
    return [Table(shown, "Held-out error of residual stacks over that of the plain stack of the same seed.")]


def _branches(readings: Readings) -> list[Block]:
    table = identity.branch_data(readings)
    if table.is_empty():
        return []
    shown = table.select(
        pl.col("design").alias("stack"),
        pl.col("depth").alias("weight layers"),
        pl.col("when").alias("training"),
        pl.col("n").alias("seeds"),
        pl.col("q50").alias("median"),
        pl.col("low").alias("from"),
        pl.col("high").alias("to"),
    )
    return [Table(shown, "What branches add, |F(x)|/|x|, the median over the blocks of a stack.")]


# --------------------------------------------------------------------------------------------- the answer, the claims


def _designs(readings: Readings) -> dict[str, str]:
    return dict(readings.cells.select("cell", "design").iter_rows())


def _answer(readings: Readings, findings: list[Finding]) -> str:
    told = []
    for finding in findings:
        if finding.rule == "degree of the branch":
            holds = {
                "law holds": "That a block of small weights gives back its input follows from an exact law, and says "
                "nothing of what training finds.",
                "law does not hold": "A block of small weights does not follow the law that it is said to.",
            }
            told.append(holds.get(str(finding.verdict), "The law of a block of small weights could not be judged."))
    steps = readings.cells["steps"].drop_nulls() if "steps" in readings.cells.columns else pl.Series([], dtype=pl.Int64)
    after = f"After {int(str(steps.max())):,} steps" if len(steps) else "After training"
    for verdict, said in _TRAINED.items():
        by_design = _better(readings, findings)
        here = [
            f"{design} at {joined(found[verdict])} layers" for design, found in by_design.items() if verdict in found
        ]
        if here:
            told.append(f"{said.replace('{after}', after)} {listed(here)}.")
    return " ".join(told) or "These readings hold no comparison of stacks."


_TRAINED = {
    "holds": "{after} of training to give back its input, a residual stack is better at it than the plain one of its "
    "depth:",
    "does not hold": "It is not:",
    "cannot tell": "These draws do not decide it:",
}


def _better(readings: Readings, findings: list[Finding]) -> dict[str, dict[str, list[str]]]:
    """By design and verdict: the depths at which a residual stack represents the identity better."""
    cells = {row["cell"]: row for row in readings.cells.iter_rows(named=True)}
    found: dict[str, dict[str, list[str]]] = {}
    for finding in findings:
        if finding.rule == _BETTER:
            cell = cells[finding.cell]
            depths = found.setdefault(cell["design"], {}).setdefault(str(finding.verdict), [])
            depths.append(str(cell["depth"]))
    return found


def _claims(readings: Readings, findings: list[Finding]) -> tuple[Claim, ...]:
    designs = _designs(readings)
    claims = _easier(readings, findings)
    if near := by_rule(findings, _ZERO, designs):
        said = "To represent the identity, training drives the branches to 0."
        claims.append(Claim(said, holds_of(near, right="holds"), _branches_told(readings)))
    return (*claims, *_with_depth(findings, designs))


def _easier(readings: Readings, findings: list[Finding]) -> list[Claim]:
    """Whether residual stacks are better at it than plain ones, a claim a design."""
    better = _better(readings, findings)
    pairs = identity.paired_data(readings) if better else pl.DataFrame()
    said = {"holds": "It is at", "does not hold": "It is not at", "cannot tell": "The draws do not decide it at"}
    claims = []
    for design, found in better.items():
        shown = ". ".join(f"{words} {joined(found[each])} layers" for each, words in said.items() if each in found)
        told = joined(_ratio(row) for row in pairs.filter(pl.col("design") == design).iter_rows(named=True))
        claims.append(
            Claim(
                f'In the stack "{design}" the identity is easier to learn than in a plain one, since F = 0 is enough.',
                holds_of(found, right="holds"),
                f"{shown}, easier being a held-out error that is more than {percent(MARGIN)} smaller: it is {told}.",
            )
        )
    return claims


def _with_depth(findings: list[Finding], designs: Mapping[str, str]) -> Iterator[Claim]:
    """What more layers do to plain stacks, and to those with shortcuts."""
    deeper = [finding for finding in findings if finding.rule == _DEEPER]
    plain = [finding for finding in deeper if designs[finding.cell] == "plain"]
    if plain:
        which: dict[str, Holds] = {"holds": "wrong", "does not hold": "right"}
        said = "A deeper plain stack is worse at the identity, although it could be as good."
        yield Claim(said, which.get(str(plain[0].verdict), "unknown"), plain[0].statement)
    shortcut = [finding for finding in deeper if designs[finding.cell] != "plain"]
    if shortcut:
        found = by_rule(shortcut, _DEEPER, designs)
        words = {
            "holds": "The deepest stack is no worse than the shallowest of",
            "does not hold": "It is worse of",
            "cannot tell": "These draws do not decide it of",
        }
        shown = ". ".join(f"{start} the {quoted(found[each])} stacks" for each, start in words.items() if each in found)
        said = "With shortcuts a deeper stack is no worse at the identity."
        yield Claim(said, holds_of(found, right="holds"), f"{shown}.")


def _ratio(row: dict[str, Any]) -> str:
    """How the error of a residual stack compares with the plain one's, in half a sentence."""
    if not row["pairs"] or math.isinf(row["ratio"]):
        return f"lost at {row['depth']}"
    return f"{number(row['ratio'], 2)} of the plain stack's at {row['depth']}"


def _branches_told(readings: Readings) -> str:
    """From where to where the branches of every design went."""
    table = identity.branch_data(readings)
    told = []
    for (design,), part in table.group_by("design", maintain_order=True):
        deepest = part.filter(pl.col("depth") == pl.col("depth").max())
        before, after = (deepest.filter(when=when).row(0, named=True) for when in ("before", "after"))
        if after["n"]:
            told.append(f'"{design}" from {number(before["q50"], 2)} to {number(after["q50"], 2)}')
        else:
            told.append(f'"{design}" is lost at every learning rate')
    return (
        f"What the branches of the deepest stacks add, |F(x)|/|x|: {'; '.join(told)}. Near 0 is below {SMALL:g}. "
        "A gain that starts at zero has only to stay there."
    )
