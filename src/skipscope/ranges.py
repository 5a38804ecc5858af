"""What was measured of a model of one's own beside its growth from end to end: how far norms range, what gets nothing.

Growth is measured between the two ends of a body, and says nothing of what stands beside the way from one to the other:
of a decoder after the encoder, a tower beside a tower, a stack before the blocks, the further calls of a block. So what
is said of the ends is said of the model only where what was measured elsewhere agrees. A part of the body is the blocks
whose names differ in their numbers alone; it goes from its first block to its last call of the last. Readings of one
network have no interval here: with few samples more is asked. Imports what words and tables need.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from skipscope.words import counted, number

__all__ = ["Measured", "Part", "reconsidered", "unreached", "without_growth"]

Judged = tuple[Literal["vanishing", "exploding", "dead", "healthy", "cannot tell"], str, pl.DataFrame]
"""Verdict, statement, the rows that it rests on."""

_OF = {"signal": "activation_rms", "gradient": "activation_grad_norm"}


@dataclass(frozen=True)
class Part:
    """Blocks whose names differ in their numbers alone.

    Attributes:
        rows: in order of execution: site, call, block, value (the median over seeds).
        factor: of the norm over them, in the direction of signal or gradient.
        everything: with what is given to the first, also where the factor is that of the blocks alone: where there are
            other parts it may be given to them too, and has its gradient from there.
    """

    rows: pl.DataFrame
    factor: float
    everything: pl.DataFrame

    @property
    def name(self) -> str:
        """From where to where."""
        first, last = (_place(self.rows.row(index, named=True)) for index in (0, -1))
        return f"{first} to {last}"

    @property
    def range(self) -> float:
        """The largest norm over the smallest."""
        return _range(self.everything)


@dataclass(frozen=True)
class Measured:
    """What was measured of one cell.

    Attributes:
        rows: its readings.
        sites: its sites.
        subject: the model, in words.
        blocks: how many its body has.
        samples: of its batch.
        factor: by how much a norm may change from one end to the other.
        enough: samples from which on a factor is taken as it is.
    """

    rows: pl.DataFrame
    sites: pl.DataFrame
    subject: str
    blocks: int
    samples: int
    factor: float
    enough: int

    def has(self, *quantities: str) -> bool:
        """Whether there is a reading of one of these."""
        return not self.rows.filter(pl.col("quantity").is_in(quantities)).is_empty()

    def values(self, quantity: str) -> pl.DataFrame:
        """Of every site and call the median over seeds, with what the table of sites says."""
        found = self.rows.filter(pl.col("quantity") == quantity, pl.col("value").is_finite())
        values = found.group_by("site", "call").agg(pl.col("value").median())
        told = self.sites.select("site", "block", "kind", "name", "order")
        return values.join(told, on="site").with_columns(role=pl.col("site").str.replace_all(r"\d+", "*"))

    def parts(self, what: str) -> list[Part]:
        """The parts of the body of which two places or more were measured, in order."""
        values = self.values(_OF[what])
        blocks = values.filter(pl.col("block") > 0)
        found: list[Part] = []
        passes = max(1, blocks.height // self.blocks) if self.blocks and blocks.height % self.blocks == 0 else 1
        roles = blocks.sort("block").group_by("role", maintain_order=True)
        for rows in (each for _, some in roles for each in _passes(some, passes)):
            first = rows["block"].min() == blocks["block"].min() and rows["call"].min() == 0
            whole = pl.concat([values.filter(_given()), rows]) if first else rows
            several = (whole, rows) if blocks["role"].n_unique() > 1 else (whole,)
            ways = [(each, _factor(each, what)) for each in several if each.height > 1]
            if ways:
                worst, factor = max(ways, key=lambda way: abs(math.log(way[1])))
                found.append(Part(worst, factor, whole))
        return found

    @property
    def strict(self) -> float:
        """The factor beyond which one number is enough for a verdict."""
        return self.factor if self.samples >= self.enough else self.factor**2


def reconsidered(verdict: str, what: str, found: Measured) -> Judged | None:
    """What else was measured against a verdict on the body from end to end; None where it stands.

    Args:
        verdict: that of the ends.
        what: signal or gradient.
        found: what was measured.
    """
    parts = found.parts(what)
    worst = _worst(parts)
    if verdict == "healthy":
        return _of_parts(parts, worst, found) or _elsewhere(what, found)
    if verdict in ("vanishing", "exploding") and len(parts) > 1 and worst is not None and _are_whole(parts):
        return _apart(parts, worst, found)
    return None


def without_growth(what: str, found: Measured) -> Judged:
    """What is said where there is no growth from end to end.

    Args:
        what: signal or gradient.
        found: what was measured.
    """
    if "network" not in set(found.sites["site"]):
        return _unknown(what, found, "the site 'network', whose reading it is, is not in these readings")
    if what == "gradient" and not found.has("activation_grad_norm", "weight_grad_norm", "gradient_norm"):
        return _unknown(what, found, "there is none in these readings")
    if found.blocks == 0:
        return _unknown(what, found, "no blocks were found in it")
    ends = found.values(_OF[what]).filter(pl.col("block") > 0).sort("block", "call")
    begin = ends.head(1) if what == "signal" else ends.tail(1)
    if (begin["value"] == 0).any():
        said = f"The {what} of {found.subject} is 0 at {begin['site'][0]} already, {_WHERE[what]}."
        return "dead", said, begin
    return _unknown(what, found, "it does not reach an end of them, or was not measured there")


_WHERE = {
    "signal": "where its body begins",
    "gradient": "where its body ends: what comes after passes none back, or the loss does not depend on it",
}


def _unknown(what: str, found: Measured, why: str) -> Judged:
    said = f"How the {what} changes over the blocks of {found.subject} is not known: {why}."
    return "cannot tell", said, found.rows.filter(pl.col("quantity") == _OF[what])


def unreached(found: Measured) -> Judged | None:
    """Layers whose parameters get no gradient, though they are there to be trained: not called, or cut off.

    A layer that was skipped is neither dead nor alive: with stochastic depth another step calls it.
    """
    sites = found.sites.filter(pl.col("kind") == "layer", pl.col("tied_to") == "")
    got = found.rows.filter(pl.col("quantity") == "weight_grad_norm").select("site")
    idle = sites.filter(pl.col("status").is_in(["no gradient", "not executed"])).join(got, on="site", how="anti")
    if idle.is_empty() or not found.has("gradient_norm"):  # without a backward pass nothing is cut off
        return None
    skipped = idle["site"].is_in(_skipped(idle, found.sites))
    idle, passed = idle.filter(~skipped), idle.filter(skipped)
    if idle.is_empty():
        said = (
            f"{counted(passed.height, 'layer')} of {found.subject} had no part in this step, and no gradient: "
            f"{_listed(passed)}. Others like them were called, or they were in an earlier step, so they may have been "
            "skipped (stochastic depth); what no step calls is never trained."
        )
        return "cannot tell", said, passed.select("site", "name", "status")
    names = idle["site"].to_list()
    called = idle.filter(pl.col("status") == "no gradient").height
    counts = {
        "were called, and are cut off from the loss (detach, no_grad, an output that it does not use)": called,
        "were not called": len(names) - called,
    }
    said = (
        f"No gradient reaches the parameters of {counted(len(names), 'layer')} of {found.subject}: {_listed(idle)}. "
        f"Of them {', and '.join(f'{count} {what}' for what, count in counts.items() if count)}."
    )
    return "dead", said, idle.select("site", "name", "status")


def _skipped(idle: pl.DataFrame, sites: pl.DataFrame) -> list[str]:
    """Of layers without a gradient those that are in a block that was not called, where others like it were.

    A block that an earlier step called is told by its status; in a step that is heard in full, by its place in a list.
    """
    missed = sites.filter(pl.col("status") == "not executed")
    blocks = set(missed.filter(pl.col("kind") != "layer")["site"])
    called = {_unnumbered(site) for site in sites.join(missed, on="site", how="anti")["site"]}
    absent = idle.filter(pl.col("status") == "not executed")["site"]
    return [site for site in absent if _is_within(site, blocks) or _unnumbered(site) in called]


def _unnumbered(site: str) -> str:
    """A layer's name without the places that it, or what holds it, has in lists."""
    return re.sub(r"(?<![^.])\d+(?=\.|$)", "*", site)


def _listed(sites: pl.DataFrame) -> str:
    names = sites["site"].to_list()
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _worst(parts: list[Part]) -> Part | None:
    return max(parts, key=lambda part: abs(math.log(part.factor)), default=None)


def _of_parts(parts: list[Part], worst: Part | None, found: Measured) -> Judged | None:
    """Where a part of the body, or a place in it, is not as the ends are."""
    if worst is None:
        return None
    nothing = pl.concat([part.everything for part in parts]).filter(pl.col("value") == 0)
    if not nothing.is_empty():
        return "dead", f"But it is 0 at {_place(nothing.row(0, named=True))}.", nothing
    verdict = _verdict(worst.factor, found.strict)
    if verdict != "healthy" and worst.rows.height > 2:
        return verdict, f"But {_over(worst)} it changes by a factor of {number(worst.factor)}.", worst.rows
    if _verdict(worst.factor, found.factor) != "healthy":
        said = f"But {_over(worst)} it changes by a factor of {number(worst.factor)}, which is too little to judge by."
        return "cannot tell", said, worst.rows
    wide = max(parts, key=lambda part: part.range)
    if wide.range > found.factor:
        said = (
            f"But within its body the norm ranges over a factor of {number(wide.range)}: {_extremes(wide.everything)}."
        )
        return "cannot tell", said, wide.everything
    return None


def _apart(parts: list[Part], worst: Part, found: Measured) -> Judged | None:
    """Where the body has several parts, of which nobody says that one follows the other: the verdict of the worst."""
    verdict = _verdict(worst.factor, found.strict)
    if verdict != "healthy":
        return verdict, f"{_over(worst).capitalize()} it changes by a factor of {number(worst.factor)}.", worst.rows
    each = "; ".join(f"{number(part.factor)} over {part.name}" for part in parts)
    said = (
        f"But within its {len(parts)} parts it changes little ({each}), and whether the one stands after the other or "
        "beside it is not known."
    )
    return "cannot tell", said, pl.concat([part.rows for part in parts])


def _elsewhere(what: str, found: Measured) -> Judged | None:
    """Where the gradient outside of the body ranges further than that of a healthy body, or the body is a small part.

    A weight's gradient is a product of a signal and a gradient, each of which may change by the factor.
    """
    if what == "gradient":
        values = found.values("activation_grad_norm")
        blocks = values.filter((pl.col("block") > 0) | _given())
        names = {re.sub(r"[\[+#].*", "", site) for site in blocks["site"]}
        within = pl.Series([_is_within(site, names) for site in values["site"]], dtype=pl.Boolean)
        outside = values.filter(~within).join(blocks.select("role"), on="role", how="anti")
        weights = found.values("weight_grad_norm")
        for rows, by, limit, of in (
            (outside, ["role"], found.factor, "activations"),
            (weights, ["role", "name"], found.factor**2, "weights"),
        ):
            wide = _widest(rows, by, limit)
            if wide is not None:
                said = (
                    f"But the gradient by the {of} of {wide['role'][0]} ranges over a factor of "
                    f"{number(_range(wide))}: {_extremes(wide)}. {_covered(found)}"
                )
                return "cannot tell", said.rstrip(), wide
    return _small(found)


def _small(found: Measured) -> Judged | None:
    """Where fewer than half of the weight layers stand between the ends of a body of blocks."""
    blocks = found.sites.filter(pl.col("block") > 0).sort("block")
    given = found.sites.filter(_given())
    whole = found.sites.filter(pl.col("kind") == "network")["depth"]
    if given.is_empty() or blocks.is_empty() or whole.is_empty():
        return None
    # Where a site is passed is known of its first call: further calls of blocks are as many layers each.
    calls = found.rows.filter(pl.col("site").is_in(blocks["site"].to_list())).select("site", "call").unique().height
    layers = (blocks["depth"][-1] - given["depth"][0]) * max(calls, blocks.height) // blocks.height
    if 2 * layers >= whole[0]:
        return None
    said = f"But that is over {counted(layers, 'weight layer')} of {whole[0]}, too few to judge the model by. "
    return "cannot tell", said + _covered(found), pl.concat([given, blocks])


def _covered(found: Measured) -> str:
    """From where to where the body goes, if that is in the readings."""
    blocks = found.sites.filter(pl.col("block") > 0).sort("order")["site"]
    return f"The body that was judged goes from {blocks[0]} to {blocks[-1]}." if len(blocks) > 1 else ""


def _given() -> pl.Expr:
    """Which site is what the first block is given, of a body of whole blocks."""
    return (pl.col("kind") == "input") & pl.col("name").str.starts_with("what the first block is given")


def _widest(values: pl.DataFrame, by: list[str], limit: float) -> pl.DataFrame | None:
    """Of places that are alike, the group whose norms range furthest, if that is beyond the limit."""
    groups = [rows for _, rows in values.sort("order", "call").group_by(by, maintain_order=True)]
    wide = max(groups, key=_range, default=None)
    return wide if wide is not None and _range(wide) > limit else None


def _passes(rows: pl.DataFrame, passes: int) -> list[pl.DataFrame]:
    """Blocks in order of execution, apart by the calls of what holds them all, where that is called several times.

    A site's number is that of its last call of the first pass. Where numbers count all calls up to there, each block is
    called again at once; else all of them are called in turn.
    """
    sites = rows.group_by("site").agg(last=pl.col("block").first(), share=pl.len() // passes).sort("last")
    at_once = (sites["last"].diff() == sites["share"]).drop_nulls().all()
    turns = rows.join(sites, on="site").with_columns(turn=pl.col("call") // pl.col("share").clip(1))
    ordered = turns.sort("turn", *(("block", "call") if at_once else ("call", "block")))
    return [some.drop("last", "share", "turn") for _, some in ordered.group_by("turn", maintain_order=True)]


def _are_whole(parts: list[Part]) -> bool:
    """Whether the parts are of blocks, not of a chain of layers, in which each follows the one before."""
    return all(set(part.rows["kind"]) <= {"block", "junction", "input"} for part in parts)


def _is_within(site: str, names: set[str]) -> bool:
    parts = re.split(r"(?=[.\[+#])", site)
    return any("".join(parts[:count]) in names for count in range(1, len(parts) + 1))


def _verdict(factor: float, limit: float) -> Literal["vanishing", "exploding", "healthy"]:
    return "exploding" if factor > limit else "vanishing" if factor < 1 / limit else "healthy"


def _over(part: Part) -> str:
    return f"over {part.name} ({counted(part.rows.height - 1, 'block')})"


def _ratio(a: float, b: float) -> float:
    """a/b, held within the range of floats; 1 of nothing and nothing."""
    if a == b:
        return 1.0
    tiny = 1e-300
    return max(tiny, min(1 / tiny, a / b if b > 0 else 1 / tiny))


def _factor(rows: pl.DataFrame, what: str) -> float:
    first, last = rows["value"][0], rows["value"][-1]
    return _ratio(last, first) if what == "signal" else _ratio(first, last)


def _range(rows: pl.DataFrame) -> float:
    values = rows["value"].to_list()
    return _ratio(max(values), min(values)) if values else 1.0


def _extremes(rows: pl.DataFrame) -> str:
    ordered = rows.sort("value")
    least, most = (ordered.row(index, named=True) for index in (0, -1))
    return f"{number(least['value'])} at {_place(least)}, {number(most['value'])} at {_place(most)}"


def _place(row: dict[str, Any]) -> str:
    return str(row["site"]) if row["call"] == 0 else f"{row['site']}#{row['call'] + 1}"
