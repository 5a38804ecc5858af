"""What the sections of a report share: how sentences are put together, and what tables and method boxes say.

Every sentence is a function of readings, summaries and findings: where they say the opposite, so does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from skipscope.charts import flow_data, junctions_data, labels
from skipscope.charts.look import design_places
from skipscope.designs import DESIGNS
from skipscope.diagnosis import FACTOR, SEEDS, Finding
from skipscope.readings import Readings
from skipscope.report.page import Block, Facts, Findings, Holds, Method, Prose, Table
from skipscope.spec import Spec
from skipscope.summary import CARRYING, Summary, z_limit
from skipscope.words import number

__all__ = [
    "INITS",
    "QUANTILE_NAMES",
    "TRAINED",
    "UNTRAINED",
    "VERBS",
    "against_laws",
    "bands",
    "blocks_told",
    "by_rule",
    "capital",
    "change",
    "depths_of",
    "designs_told",
    "holds_of",
    "in_full",
    "joined",
    "junctions_table",
    "law_lines",
    "laws",
    "limits",
    "listed",
    "measured",
    "method",
    "networks",
    "networks_of",
    "plural",
    "profile_table",
    "quoted",
    "seeds_of",
    "sent",
    "versions_of",
]

QUANTILE_NAMES = {"q05": "5 %", "q25": "25 %", "q50": "median", "q75": "75 %", "q95": "95 %"}
"""The summary's columns of quantiles, as a table for people has them."""

VERBS = {
    "exploding": "explodes",
    "vanishing": "vanishes",
    "spread out": "neither explodes nor vanishes, but spreads out between draws",
    "dead": "does not arrive at all",
    "healthy": f"changes by less than a factor of {FACTOR:g}",
    "cannot tell": "cannot be judged from these draws",
}
"""What a signal or a gradient does, by verdict."""

UNTRAINED, TRAINED = "Before any training", "In and after training"
"""The parts of a report."""

INITS = {"he": "He", "xavier": "Xavier", "lecun": "LeCun", "torch": "PyTorch's default"}
"""The names of the initialisations."""

# --------------------------------------------------------------------------------------------------- small words


def joined(names: Iterable[str]) -> str:
    """A list of names in a sentence."""
    listed = list(names)
    return f"{', '.join(listed[:-1])} and {listed[-1]}" if len(listed) > 1 else "".join(listed)


def _about(spec: Spec) -> str:
    kind = "convolutional" if spec.images else "dense"
    shortcuts = joined(sorted({_SHORTCUTS[stage.shortcut] for stage in spec.stages}))
    return f"a {kind} network, {shortcuts or 'without blocks'}"


_SHORTCUTS = {
    "none": "plain",
    "identity": "with identities for shortcuts",
    "A": "with shortcuts of option A",
    "A-both": "with shortcuts of option A (zeros on both sides)",
    "B": "with shortcuts of option B",
    "C": "with shortcuts of option C",
}


def listed(names: Iterable[str]) -> str:
    """A list of names that hold commas themselves."""
    return "; ".join(names)


def quoted(names: Iterable[str]) -> str:
    """A list of names in a sentence, those that hold commas in quotation marks."""
    return joined(f'"{name}"' if "," in name else name for name in names)


def plural(count: int, one: str, many: str = "") -> str:
    """A counted noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def seeds_of(readings: Readings) -> str:
    """How many seeds, and which."""
    seeds = sorted(readings.rows["seed"].unique().to_list())
    if len(seeds) == 1:
        return f"1 seed ({seeds[0]})"
    gaps = "" if seeds == list(range(seeds[0], seeds[-1] + 1)) else ", not all"
    return f"{len(seeds):,} seeds ({seeds[0]} to {seeds[-1]}{gaps})"


def depths_of(readings: Readings) -> str:
    """The depths of the networks: `d = 20`, or `d is 5, 10 and 20`."""
    depths = [str(depth) for depth in readings.cells["depth"].drop_nulls().unique().sort()]
    return f"d = {depths[0]}" if len(depths) == 1 else f"d is {joined(depths)}"


def designs_told(readings: Readings) -> Facts:
    """What the designs of the readings are, in the order of the charts; and networks that are none of them."""
    own = {row["design"]: row["spec"] for row in readings.cells.iter_rows(named=True) if row["design"]}
    known = [(name, DESIGNS[name].about.replace("d - 2", "d − 2")) for name in DESIGNS if name in own]
    others = [(name, _about(Spec.from_json(text))) for name, text in own.items() if name not in DESIGNS and text]
    return Facts((*known, *others))


def blocks_told(readings: Readings) -> Facts:
    """What the blocks of every design are, for designs that differ in more than their depth."""
    told: dict[str, str] = {}
    for row in readings.cells.iter_rows(named=True):
        spec = Spec.from_json(row["spec"]) if row["spec"] else None
        if spec is not None and spec.stages:
            told.setdefault(row["design"], f"blocks of {_block_of(spec)}")
    return Facts(tuple((name, told[name]) for name in sorted(told, key=design_places(readings).__getitem__)))


def sent(cotangent: object) -> str:
    """The gradient that is sent back from the output, in words."""
    known = {
        "gaussian": "a Gaussian gradient",
        "gaussian, the same twice": "the same Gaussian vector from both outputs",
        "one-hot": "every one-hot vector",
        "ones": "a gradient of ones",
        None: "no gradient",
    }
    return known.get(cotangent if isinstance(cotangent, str) else None, f"the gradient of {cotangent}")


def networks(names: Sequence[str]) -> str:
    """Networks in a sentence, by their labels."""
    return f"the {joined(names)} {'network' if len(names) == 1 else 'networks'}"


def networks_of(*designs: str) -> str:
    """Networks in a sentence, by their designs, of which there are several sizes each."""
    return f"the {quoted(designs)} networks"


def change(finding: Finding) -> dict[str, Any]:
    """The numbers of a finding on a design; empty where it has none, or is about one network."""
    row = finding.evidence.row(0, named=True) if finding.evidence.height else {}
    return row if "median" in row else {}


def measured(finding: Finding) -> str:
    """The numbers of a finding in half a sentence; else what it says itself."""
    found = change(finding)
    if not found:
        return finding.statement.rstrip(".")
    return (
        f"over {plural(found['blocks'], 'block')} its norm changes by a factor of {number(found['median'])} in the "
        f"median draw (95 % interval {number(found['median_low'])} to {number(found['median_high'])}) and of "
        f"{number(found['q05'])} to {number(found['q95'])} in nine draws of ten"
    )


def by_rule(findings: Iterable[Finding], rule: str, names: Mapping[str, str]) -> dict[str, list[str]]:
    """The names of the cells of one rule's findings, by verdict."""
    found: dict[str, list[str]] = {}
    for finding in findings:
        if finding.rule == rule:
            found.setdefault(str(finding.verdict), []).append(names.get(finding.cell, finding.subject))
    return found


def holds_of(found: Mapping[str, Sequence[str]], *, right: str) -> Holds:
    """Whether a claim holds, from `by_rule`: it depends where some have the verdict `right` and some another."""
    if set(found) - {right, "cannot tell"}:
        return "depends" if right in found else "wrong"
    return "unknown" if "cannot tell" in found or not found else "right"


def in_full(findings: Sequence[Finding]) -> list[Block]:
    """All findings of a section, behind one line: its prose and claims have told of them."""
    if not findings:
        return []
    counted = "The finding" if len(findings) == 1 else f"All {len(findings)} findings"
    return [Findings(tuple(findings), f"{counted}, with thresholds, sources and evidence")]


def limits(*said: str) -> Prose:
    """What a section does not show, so that nobody reads it into it."""
    return Prose(tuple(each for each in said if each), "What this does not show")


def bands(draws: int) -> str:
    """How to read the bands of a chart of so many draws."""
    said = "Line: median; dark band: 25 to 75 % of draws; light band: 5 to 95 %"
    few = f", which of {plural(draws, 'draw')} are nearly all" if 1 < draws < SEEDS else ""
    return f"{said}{few}." if draws > 1 else "Line: the one draw."


# ------------------------------------------------------------------------------------------------------------ laws


def against_laws(summary: Summary, quantity: str) -> list[Block]:
    """Whether networks follow the laws about a quantity: in a sentence, and network by network behind a line."""
    held = _held(summary, quantity)
    told = laws(summary, quantity)
    if not told:
        return []
    groups: dict[str, list[str]] = {}
    for name, sites, looks, _ in held:
        groups.setdefault(_agrees(sites, looks), []).append(name)
    said = [words.format(networks(groups[verdict])) for verdict, words in _HELD.items() if verdict in groups]
    if len(held) < summary.laws.filter(pl.col("quantity") == quantity).height:
        said.append("For the others no law is drawn, since none holds.")
    folded = "Network by network, and what the laws say"
    return [Prose((" ".join(said),)), Prose((*told, *([_SYMBOLS] if held else [])), folded=folded)]


_HELD = {
    "agrees": "At every site that can be judged the measurement agrees with the law that is drawn, in {}.",
    "differs": "At some sites the measurement differs from the law that is drawn by more than chance explains, in {}.",
    "open": "Whether the law that is drawn holds, these draws do not tell in {}.",
}
_SYMBOLS = (
    "In the laws x is the input, a_{l} the activation and g_{l} the gradient behind layer l, the cotangent what is "
    "sent back from the output, n the width, E the mean over draws; v is the variance of a weight, χ²_{K} a sum of K "
    "squared standard normals, K the number of units that a ReLU lets pass; s and a are the gains of shortcut and "
    "branch, g2 the factor by which a branch changes the mean square, and k the mean of a branch's output in units of "
    "√(q) (with He 1/√(π))."
)


def laws(summary: Summary, quantity: str) -> tuple[str, ...]:
    """For each law about a quantity: whether the measurement agrees, or why it is not drawn."""
    named = labels(summary.readings)
    told = {row["cell"]: row for row in summary.laws.filter(pl.col("quantity") == quantity).iter_rows(named=True)}
    order = [cell for cell in named if cell in told]
    refused: dict[str, list[str]] = {}
    for cell in order:
        if told[cell]["refusal"]:
            refused.setdefault(told[cell]["refusal"], []).append(named[cell])
    held = [told[cell] for cell in order if not told[cell]["refusal"]]
    sources = {f"The law: {_formula(law['statement'])} Source: {law['source']}." for law in held}
    return (
        *(_agreement(*each) for each in _held(summary, quantity)),
        *sorted(sources),
        *(f"No law is drawn for {networks(cells)}. {refusal}" for refusal, cells in refused.items()),
    )


Held = tuple[str, pl.DataFrame, int, str]  # a network, its sites, how many z are looked at, what its law leaves out


def _held(summary: Summary, quantity: str) -> list[Held]:
    """The networks that a law about a quantity speaks of."""
    named = labels(summary.readings)
    drawn = flow_data(summary, quantity)
    about = summary.laws.filter(pl.col("quantity") == quantity, pl.col("refusal") == "")
    bias = dict(about.select("cell", "bias").iter_rows())
    looks = max(1, summary.table["z"].count())
    return [
        (name, drawn.filter(pl.col("cell") == cell), looks, bias[cell]) for cell, name in named.items() if cell in bias
    ]


def _spoken(sites: pl.DataFrame) -> tuple[pl.DataFrame, bool]:
    """The sites that a law speaks of, and whether it speaks of logarithms."""
    spoken = sites.filter(pl.col("law_q50").is_not_null() | pl.col("law_rms").is_not_null())
    return spoken, spoken["law_q50"].null_count() < spoken.height


def _judged(sites: pl.DataFrame, looks: int) -> pl.DataFrame:
    """The sites with a z, the furthest from its limit first: how far `off` each is, and its `limit`."""
    spoken, of_logarithms = _spoken(sites)
    held = spoken.filter(pl.col("z").is_not_null())
    limits = [z_limit(looks, None if of_logarithms else carrying) for carrying in held["carrying"]]
    return held.with_columns(limit=pl.Series(limits, dtype=pl.Float64), off=pl.col("z").abs()).sort(
        pl.col("off") / pl.col("limit"), descending=True
    )


def _agrees(sites: pl.DataFrame, looks: int) -> str:
    """Whether a network agrees with its law: a key of `_HELD`."""
    spoken, _ = _spoken(sites)
    judged = _judged(sites, looks)
    if int(str(spoken["n"].max() or 0)) < SEEDS or judged.is_empty():
        return "open"
    return "differs" if judged["off"][0] > judged["limit"][0] else "agrees"


def _agreement(name: str, sites: pl.DataFrame, looks: int, bias: str) -> str:
    """Whether a network agrees with the law of its mean logarithm, or mean square, at every site; if not, where not."""
    spoken, of_logarithms = _spoken(sites)
    judged = _judged(sites, looks)
    draws = int(str(spoken["n"].max() or 0))
    if draws < SEEDS:
        return (
            f"Of the {name} network there are too few draws to hold against the law: {draws}, where {SEEDS} would do."
        )
    if judged.is_empty():
        return f"The {name} network is not held against the law: {_why_not(spoken, of_logarithms)}."
    worst, off = judged.row(0, named=True), judged.filter(pl.col("off") > pl.col("limit")).height
    what = "logarithm of the square" if of_logarithms else "square"
    among = f"of {plural(judged.height, 'site')}"
    bound = f"{number(worst['limit'], 2)} standard errors"
    looked = "" if looks == 1 else f", where the largest of {looks:,} such distances is looked at"
    if off:
        said = (
            f"The {name} network differs from the law: {among}, {off} {'has' if off == 1 else 'have'} a mean {what} "
            f"more than {bound} off, the limit{looked}; the most {number(worst['off'], 2)} ({worst['site']})."
        )
        return f"{said}{f' {bias}' if bias else ''}{_unjudged(spoken, of_logarithms)}"
    return (
        f"The {name} network agrees with the law: {among} none has a mean {what} further off than "
        f"{number(worst['off'], 2)} standard errors ({worst['site']}); the limit is {number(worst['limit'], 2)}"
        f"{looked}.{_unjudged(spoken, of_logarithms)}"
    )


def _unjudged(spoken: pl.DataFrame, of_logarithms: bool) -> str:
    """What is said of the sites that have a law but no z; nothing where there are none, or none that could have one."""
    heavy = spoken.filter(pl.col("z").is_null(), pl.col("carrying") < CARRYING)
    if of_logarithms or heavy.is_empty():
        return ""
    return f" {capital(plural(heavy.height, 'more site'))} cannot be judged: {_why_not(heavy, of_logarithms)}."


def _why_not(sites: pl.DataFrame, of_logarithms: bool) -> str:
    """Why sites that have a law have no z."""
    if not of_logarithms and (sites["carrying"] < CARRYING).any():
        least = sites.sort("carrying").row(0, named=True)
        return (
            "the law is one of the mean square, and that mean hangs on the few largest of "
            f"{plural(least['n'], 'draw')}: at {least['site']} they are worth {number(least['carrying'], 2)}, where "
            f"{CARRYING} would do"
        )
    if of_logarithms:
        return "the law has no spread there, or no draw arrives"
    return "its draws do not differ"


def law_lines(table: pl.DataFrame) -> str:
    """How to read the lines of the law in a chart of `flow_data`; nothing where none is drawn."""
    said = ""
    if table["law_q50"].null_count() < table.height:
        said += " Dashed: the law's median; dotted: its 5 and 95 % quantiles."
    if table["law_rms"].null_count() < table.height:
        said += (
            " Dash-dotted: a law that knows only the root mean square over draws, which few large draws make; thin: "
            "that of these draws."
        )
    return said


_SIGNS = (
    (r"\|\|", "‖"),
    (r"\^2", "²"),
    (r"(?<!\w)chi2", "χ²"),
    (r"(?<!\w)chi(?=_)", "χ"),
    (r"(?<!\w)phi", "φ"),
    (r"(?<!\w)pi(?!\w)", "π"),
    (r"sqrt(?=\()", "√"),
    (r"(?<!\w)([a-zφ])'(?!\w)", r"\1′"),  # noqa: RUF001 # a prime, as in print
    (r"(?<!\w)(χ²|[a-zχ])_(\w+)", r"\1_{\2}"),
)


def _formula(statement: str) -> str:
    """A law's one line with the signs that mathematics has for them, and its indices as a page sets them."""
    for plain, sign in _SIGNS:
        statement = re.sub(plain, sign, statement)
    return statement


# ---------------------------------------------------------------------------------------------------------- tables


def profile_table(summary: Summary, quantity: str) -> pl.DataFrame:
    """The numbers of a flow chart, for people."""
    table = flow_data(summary, quantity)
    shown = table.select(
        pl.col("panel").alias("network"),
        "site",
        pl.col("site_depth").alias("layers"),
        pl.col("n").alias("seeds"),
        *[pl.col(name).alias(f"measured|{title}") for name, title in QUANTILE_NAMES.items()],
        *[pl.col(f"law_{name}").alias(f"law|{QUANTILE_NAMES[name]}") for name in ("q05", "q50", "q95")],
        pl.col("rms").alias("root mean square|measured"),
        pl.col("law_rms").alias("root mean square|law"),
        pl.col("z").alias("z"),
    )
    if table["law_q50"].null_count() == table.height:
        shown = shown.drop("^law.*$")
    if table["law_rms"].null_count() == table.height:
        shown = shown.drop("^root mean square.*$")
    return shown if table["z"].null_count() < table.height else shown.drop("z")


def junctions_table(summary: Summary) -> pl.DataFrame:
    """The numbers of a chart of junctions, for people."""
    return junctions_data(summary).select(
        pl.col("panel").alias("what"),
        pl.col("label").alias("network"),
        "block",
        pl.col("n").alias("seeds"),
        *[pl.col(name).alias(title) for name, title in QUANTILE_NAMES.items()],
    )


# ------------------------------------------------------------------------------------------------------ the method


def method(readings: Readings) -> Method:
    """The method box: networks, seeds, batch, cotangent, precision."""
    cells = readings.cells

    def values(column: str) -> list[Any]:
        return [value for value in cells[column].unique().sort() if value not in (None, "")]

    facts = (
        (
            "Drawn",
            f"{seeds_of(readings)}; a seed gives all networks the same normals for their weights and their input",
        ),
        ("Samples a network", joined(map(str, values("batch")))),
        ("Input", joined(map(str, values("data")))),
        ("Sent back from the output", joined(map(sent, values("cotangent")))),
        ("Arithmetic", joined(map(str, values("dtype")))),
        ("Quantiles", "over seeds, linear between the sorted values"),
    )
    shown = tuple((name, value) for name, value in facts if value)
    sizes = _networks(readings)
    if sizes.is_empty():
        return Method((Facts(shown),))
    folded = "" if sizes.height <= 4 else f"The {sizes.height} networks, as a table"
    return Method(
        (Table(sizes, "The networks; d is the depth that the study gives them.", folded=folded), Facts(shown))
    )


def _networks(readings: Readings) -> pl.DataFrame:
    """One row a different network: what it is, and how large."""
    names = list(DESIGNS)

    def place(cell: dict[str, Any]) -> tuple[int, int, int]:
        known = names.index(cell["design"]) if cell["design"] in names else len(names)
        return (cell["width"] or 0, cell["depth"] or 0, known)

    rows: dict[tuple[object, ...], dict[str, Any]] = {}
    for cell in sorted((cell for cell in readings.cells.to_dicts() if cell["spec"]), key=place):
        spec = Spec.from_json(cell["spec"])
        row = {
            "network": cell["design"] or "–",
            "d": cell["depth"],
            "width": cell["width"],
            "weight layers": spec.depth,
            "parameters": spec.parameters,
            "multiply-adds": spec.multiply_adds,
            "initialisation": INITS[spec.init],
            "block": _block_of(spec),
            "output": spec.head.activation,
            "edit": cell["edit"] or "–",
        }
        rows.setdefault(tuple(row.values()), row)
    found = pl.DataFrame(list(rows.values()))
    return found.drop("edit") if rows and set(found["edit"]) == {"–"} else found


_ORDERS = {
    "before-add": "before the addition",
    "after-add": "after the addition",
    "pre-activation": "before the weights",
}


def _block_of(spec: Spec) -> str:
    """The body's block in words."""
    if not spec.stages:
        return "none"
    stage = spec.stages[0]
    words = [plural(stage.layers, "layer")]
    words.append(
        "no shortcut"
        if stage.plain
        else f"{stage.shortcut} shortcut, {stage.activation.replace('relu', 'ReLU')} {_ORDERS[stage.order]}"
    )
    words.append("no norm" if stage.norm == "none" else f"{stage.norm} norm")
    if (stage.gains.shortcut, stage.gains.branch) != (1.0, 1.0):
        gains = (
            f"{gain:g}" if isinstance(gain, float) else gain for gain in (stage.gains.shortcut, stage.gains.branch)
        )
        words.append(f"gains {' and '.join(gains)}")
    return ", ".join(words)


def versions_of(readings: Readings) -> tuple[tuple[str, str], ...]:
    """What the readings were measured with."""
    return tuple((name, value) for name, value in readings.meta.items() if name != "command")
