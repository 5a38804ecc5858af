"""The section on study `representation`: what a linear classifier can read at every depth, untrained and trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from skipscope import charts, separability
from skipscope.charts.look import design_places
from skipscope.diagnosis import Finding
from skipscope.errors import as_list, require_type
from skipscope.readings import Readings
from skipscope.report.page import Block, Claim, Claims, Facts, Figure, Method, Prose, Section, Table
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
    plural,
    quoted,
    seeds_of,
    versions_of,
)
from skipscope.separability import MARGIN, Pictures, points
from skipscope.words import percent

__all__ = ["representation_section"]


def representation_section(
    readings: Readings, *, anchor: str = "representation", pictures: Sequence[Pictures] = ()
) -> Section:
    """The section on readings of study `representation`.

    Args:
        readings: of the study.
        anchor: the section's name in links.
        pictures: what `skipscope.studies.pictures` makes of the readings. They hold no samples, so that without these
            the section has no pictures, and says how to come by them.

    Raises:
        InputError: the readings hold no accuracy of linear classifiers.
    """
    table = charts.separability_data(readings)
    findings = _findings(readings)
    claims = _claims(findings)
    pictures = as_list(pictures)
    for each in pictures:
        require_type("pictures", each, Pictures, "skipscope.studies.pictures(readings) gives some")
    blocks: list[Block] = [
        Prose((_ASKED, f"{_trained(readings, table)} The networks:")),
        designs_told(readings),
        *[_samples(each) for each in pictures if not each.samples.is_empty()],
        _figure(readings, "linear_accuracy", _ACCURACY),
        _ends(readings),
        *([_differences(readings)] if not separability.pairs_data(readings).is_empty() else []),
        *[_components(each) for each in pictures if not each.components.is_empty()],
        *([Prose((_NO_PICTURES,))] if not pictures else []),
        *_dimension(readings),
    ]
    if claims:
        blocks += [Prose((), "What is commonly said, and what was measured"), Claims(claims)]
    blocks += [limits(*_LIMITS, *_easy(table)), *in_full(findings)]
    return Section(
        title="What every depth has learned",
        anchor=anchor,
        answer=_answer(table, findings, readings),
        blocks=(*blocks, _method(readings, table)),
        versions=versions_of(readings),
        about="What can be read from a network half-way through, untrained and trained?",
        part=TRAINED,
    )


_LIMITS = (
    "That a linear classifier can read something does not mean that the network uses it; and what it cannot read may "
    "be there in another form.",
)


def _easy(table: pl.DataFrame) -> list[str]:
    """In which settings the input alone tells so much that little is left to learn; nothing where in none."""
    inputs = table.filter(pl.col("site") == "input", pl.col("mean") > _EASY).unique("setting", maintain_order=True)
    return [
        f"{capital(str(row['setting']))}: a linear classifier reads {percent(row['mean'])} from the input itself, so "
        "that little is left for depth to add. A harder task could look different."
        for row in inputs.iter_rows(named=True)
    ]


_EASY = 0.9
"""Above which accuracy at the input a task is called easy."""


_ASKED = (
    "What does a network know of the classes half-way through? All samples are shown to it, and a linear classifier is "
    "fitted on the activations of the training part at every depth and asked for the classes of the test part (Alain "
    "and Bengio 2016, arXiv:1610.01644). A linear classifier adds little of its own: what it can read there is there. "
    "But random weights let much through, so the same is asked of every network before its first step."
)
_ACCURACY = (
    "Share of test samples whose class a linear classifier reads from the activations: at the input (0 layers), behind "
    "the first layer, behind every block, and at the output; of networks as they are drawn, and of the same networks "
    "trained. Line: mean over seeds; band: its 95 % interval; dotted: the accuracy of always naming the most frequent "
    "class."
)
_NO_PICTURES = (
    "Pictures of samples, and of where networks put them, are no readings, and so are not in these. They take the run: "
    "`skipscope representation --report` makes them, or, of these readings, `skipscope.studies.pictures(readings)`, "
    "which trains one seed again, and `report.representation_section(readings, pictures=...)` shows them."
)


def _trained(readings: Readings, table: pl.DataFrame) -> str:
    settings = joined(table["setting"].unique(maintain_order=True))
    steps = joined(f"{each:,}" for each in readings.cells["steps"].drop_nulls().unique().sort())
    designs = table["design"].unique(maintain_order=True).to_list()
    said = (
        f"Here {quoted(designs)} networks ({settings}) are drawn with {seeds_of(readings)}, each trained for {steps} "
        "steps."
    )
    if lost := _lost(table):
        said += f" {lost}"
    return said


def _lost(table: pl.DataFrame) -> str:
    """How many networks have no trained readings, by design; nothing where all have."""
    told = []
    for (setting, design), part in table.group_by("setting", "design", maintain_order=True):
        seeds = {state: part.filter(pl.col("state") == state)["n"].max() or 0 for state in separability.STATES}
        lost = int(str(seeds["untrained"])) - int(str(seeds["trained"]))
        if lost > 0:
            told.append(f"{plural(lost, 'network')} of the {design} design ({setting})")
    if not told:
        return ""
    return f"Without trained readings, as their loss stopped being a number: {joined(told)}."


def _samples(pictures: Pictures) -> Figure:
    table = charts.samples_data(pictures)
    ink = table.group_by("panel", "sample", "row", maintain_order=True).agg(pl.col("ink").mean())
    return Figure(
        name=f"Samples of {pictures.data}, class by class",
        chart=charts.samples(pictures),
        caption="The first two samples of every class in the training part, as they are before standardising.",
        table=ink.select(pl.col("panel").alias("class"), "sample", "row", pl.col("ink").alias("ink, mean of the row")),
    )


def _components(pictures: Pictures) -> Figure:
    table = charts.components_data(pictures)
    panels = table.unique("panel", maintain_order=True)
    signs = dict(table.select("class", "sign").unique().sort("class").iter_rows())
    key = joined(f"{sign} for {name}" for name, sign in signs.items() if sign != name)
    return Figure(
        name=f"Test samples of {pictures.data} on two principal components, at three depths",
        chart=charts.components(pictures),
        caption=(
            f"One network a row, seed {pictures.seed}, untrained and trained; every letter or digit is a test sample"
            f"{f' ({key})' if key else ''}. The components are those of the training part at the same place. What "
            "looks mixed here may be apart in other directions: the table has what a linear classifier reads of all."
        ),
        table=panels.select(
            pl.col("panel").alias("network and place"),
            "layers",
            pl.col("share").alias("share of variance shown"),
            pl.col("accuracy").alias("accuracy of a linear classifier"),
        ),
    )


def _figure(readings: Readings, quantity: str, caption: str) -> Figure:
    table = charts.separability_data(readings, quantity)
    return Figure(
        name=charts.separability_name(quantity),
        chart=charts.separability_by_depth(readings, quantity),
        caption=caption,
        table=table.select(
            pl.col("design").alias("network"),
            "setting",
            "state",
            "site",
            "layers",
            pl.col("n").alias("seeds"),
            "mean",
            pl.col("low").alias("95 % interval|from"),
            pl.col("high").alias("95 % interval|to"),
            pl.col("least").alias("single networks|least"),
            pl.col("most").alias("single networks|most"),
        ),
    )


def _dimension(readings: Readings) -> list[Block]:
    """In how many directions activations spread; nothing where that was not measured."""
    if "effective_dimension" not in readings.distinct("quantity")["quantity"].to_list():
        return []
    table = charts.separability_data(readings, "effective_dimension")
    told = []
    for (setting,), part in separability.end_of_body(table).group_by("setting", maintain_order=True):
        known = part.filter(pl.col("mean").is_not_null())
        values = joined(f"{row['mean']:.1f} ({row['state']} {row['design']})" for row in known.iter_rows(named=True))
        told.append(f"{values}{_of(table, str(setting))}")
    widths = joined(map(str, readings.cells["width"].unique().sort()))
    said = (
        f"In how many directions do activations spread? The participation ratio counts them: at the last block, of "
        f"{widths} units, {'; '.join(told)}. Few directions by themselves say nothing about the classes: read them "
        "beside the accuracy."
    )
    caption = (
        "Participation ratio of the principal components of the training part's activations: n where n directions have "
        "equal variance, 1 where one has all. Line: mean over seeds; band: its 95 % interval."
    )
    return [*([Prose((said,))] if told else []), _figure(readings, "effective_dimension", caption)]


def _of(table: pl.DataFrame, setting: str) -> str:
    """The setting, where there are several."""
    return f" in {setting}" if table["setting"].n_unique() > 1 else ""


def _ends(readings: Readings) -> Table:
    """Input, first layer and last block, untrained and trained."""
    table = separability.depth_data(readings)
    last = separability.end_of_body(table).with_columns(place=pl.lit("last block"))
    first = table.filter(pl.col("site").is_in(["input", "stem"])).with_columns(
        place=pl.col("site").replace({"stem": "first layer"})
    )
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in pl.concat([first, last]).iter_rows(named=True):
        shown = rows.setdefault((row["setting"], row["design"]), {"network": row["design"], "setting": row["setting"]})
        if row["place"] == "input":
            shown["input"] = _percent(row)
        else:
            shown[f"{row['state']}|{row['place']}"] = _percent(row)
    for key, share in _own_answers(readings).items():
        if key in rows:
            rows[key]["trained|the network itself"] = share
    found = pl.DataFrame(list(rows.values()), infer_schema_length=None)
    places = [f"{state}|{place}" for state in separability.STATES for place in _PLACES]
    return Table(
        found.select([name for name in ("network", "setting", "input", *places) if name in found.columns]),
        "Share of test samples whose class is read right, in percent: mean over seeds with its 95 % interval. The "
        "network itself: its own answers.",
        main=("trained|last block",),
    )


_PLACES = ("first layer", "last block", "the network itself")


def _own_answers(readings: Readings) -> dict[tuple[str, str], str]:
    """The share of test samples that the networks themselves tell right after their last step."""
    settings = separability.settings_of(readings)
    found: dict[tuple[str, str], str] = {}
    for cell in readings.cells.filter(pl.col("state") == "in training").iter_rows(named=True):
        rows = readings.rows_of(cell["cell"]).filter(
            pl.col("quantity") == "test_error", pl.col("step") == cell["steps"]
        )
        errors = rows["value"].to_list()
        if errors:
            found[settings[cell["cell"]], cell["design"]] = f"{100 - 100 * sum(errors) / len(errors):.1f}"
    return found


def _percent(row: dict[str, Any]) -> str:
    if row["mean"] is None:
        return ""
    if row["low"] is None or row["high"] - row["low"] < 5e-4:
        return f"{100 * row['mean']:.1f}"
    return f"{100 * row['mean']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def _differences(readings: Readings) -> Table:
    """What training does, and what shortcuts do, at the last block, seed by seed."""
    table = separability.end_of_body(separability.pairs_data(readings))
    return Table(
        table.select(
            pl.col("comparison").str.replace(" - ", " − "),
            "of",
            "setting",
            pl.col("n").alias("seeds"),
            (100 * pl.col("mean")).alias("difference, points"),
            (100 * pl.col("low")).alias("95 % interval|from"),
            (100 * pl.col("high")).alias("95 % interval|to"),
            pl.col("above").map_elements(percent, pl.String).alias("seeds above 0"),
        ),
        "Differences of the accuracy at the last block, in percentage points, seed by seed.",
    )


# ---------------------------------------------------------------------------------------------------------- the claims


def _findings(readings: Readings) -> list[Finding]:
    """By design, in the order of the charts; what compares designs last."""
    places, designs = design_places(readings), dict(readings.cells.select("cell", "design").iter_rows())
    found = separability.findings(readings)
    return sorted(found, key=lambda each: (" against " in each.subject, places[designs[each.cell]]))


def _claims(findings: list[Finding]) -> tuple[Claim, ...]:
    claims = []
    for rule, words in _CLAIMS.items():
        asked = [each for each in findings if each.rule == rule]
        if asked:
            holds = holds_of(by_rule(asked, rule, {}), right="holds")
            claims.append(Claim(words, holds, " ".join(map(_measured, asked))))
    return tuple(claims)


def _measured(finding: Finding) -> str:
    """The two accuracies of a finding, and their difference."""
    row = finding.evidence.row(0, named=True)
    one, other = finding.evidence.columns[1:3]
    said = (
        f"{capital(finding.subject)}: {100 * row[one]:.1f} % {one}, {100 * row[other]:.1f} % {other}; the "
        f"difference is {points(row['difference'])} points"
    )
    if row["low"] is not None:
        said += f" ({points(row['low'])} to {points(row['high'])})"
    return f"{said}{', which does not decide' if finding.verdict == 'cannot tell' else ''}."


_CLAIMS = {
    "accuracy grows over depth, from the first layer": "The deeper in a trained network, the better classes are apart.",
    "training makes classes more separable": "What the last block can tell apart, training has taught it.",
    "an untrained network keeps what the input tells": "A random network keeps what its input tells of the classes.",
    "shortcuts make classes more separable": "Shortcuts help the last block to tell classes apart.",
}


def _answer(table: pl.DataFrame, findings: list[Finding], readings: Readings) -> str:
    told = []
    for (setting,), part in separability.end_of_body(table).group_by("setting", maintain_order=True):
        known = part.filter(pl.col("mean").is_not_null())
        shares = {
            (row["design"], row["state"]): percent(row["mean"]) for row in known.iter_rows(named=True) if row["n"]
        }
        values = joined(
            f"{share} ({design}"
            + (f", untrained {shares[design, 'untrained']})" if (design, "untrained") in shares else ")")
            for (design, state), share in shares.items()
            if state == "trained"
        )
        before = table.filter(pl.col("setting") == setting, pl.col("site") == "input")["mean"]
        given = f"; at the input {percent(before[0])}" if len(before.drop_nulls()) else ""
        if values:
            told.append(
                f"On {setting}, a linear classifier at the last block reads the class of {values} of samples{given}."
            )
    settings = separability.settings_of(readings)
    told += [
        f"{_SHORTCUTS[str(each.verdict)]} ({each.subject.partition(' (')[0]}{_of(table, settings[each.cell])})."
        for each in findings
        if each.rule == "shortcuts make classes more separable"
    ]
    return " ".join(told) or "These readings hold no trained network whose last block was looked at."


_SHORTCUTS = {
    "holds": f"Shortcuts add more than {100 * MARGIN:g} point",
    "does not hold": f"Shortcuts do not add more than {100 * MARGIN:g} point",
    "cannot tell": f"Whether shortcuts add more than {100 * MARGIN:g} point, these seeds do not decide",
}


# ---------------------------------------------------------------------------------------------------------- the method


def _method(readings: Readings, table: pl.DataFrame) -> Method:
    told = method(readings.select(state="trained") if "trained" in set(table["state"]) else readings)
    blocks = [
        Facts(tuple(fact for fact in block.facts if fact[0] not in ("Samples a network", "Quantiles")))
        if isinstance(block, Facts)
        else block
        for block in told.blocks
    ]
    cells = readings.cells.filter(pl.col("state") != "in training")

    def values(column: str) -> str:
        found = cells[column].unique().sort()
        return joined(f"{value:g}" if isinstance(value, float) else str(value) for value in found)

    facts = (
        (
            "Training",
            (
                f"{values('steps')} steps of {values('batch')} samples, learning rate {values('rate')} "
                f"({values('schedule')}), momentum {values('momentum')}, weight decay {values('weight_decay')}"
            ),
        ),
        (
            "Linear classifier",
            (
                "linear discriminant analysis (closed form: nothing in it is tuned or can fail to converge); features "
                "standardised on the training part; covariance 0.99 of the measured one and 0.01 of a multiple of the "
                "identity, which keeps it well-conditioned where units are dead"
            ),
        ),
        (
            "Activations",
            ("in inference; an untrained network's batch normalisation has the averages of the whole training part"),
        ),
        (
            "Intervals",
            (
                "95 %, Student's over seeds; all seeds are shown the same samples, so how far another test part would "
                "move all accuracies together is not in them"
            ),
        ),
    )
    return Method((*blocks, Facts(facts)))
