"""What the readings of study `representation` say: how well a linear classifier reads the classes at every depth.

Right of the waist: readings in, tables and findings out (drawn by `skipscope.charts.separability`). All comparisons
are paired: the same seed gives two networks the same weights to begin with and the same mini-batches, so differences
are taken seed by seed, and the interval is Student's over the seeds. Samples are the same for all seeds: how far
another test part would move all accuracies together is in no interval here.

`Pictures` is what the study can show beside its readings, samples and their places on two principal components: a
reading is one number of a network at a site, and these are none. So they are a value of their own, which nothing saves;
`skipscope.studies.pictures` makes it from readings, for it can train the same network again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from skipscope.diagnosis import Finding, Verdict
from skipscope.errors import InputError, quoted, require_type
from skipscope.intervals import student_half
from skipscope.readings import Readings, require_readings
from skipscope.spec import Gains, Spec
from skipscope.words import percent

__all__ = [
    "DRAWS",
    "MARGIN",
    "PAIRS",
    "STATES",
    "Pictures",
    "depth_data",
    "end_of_body",
    "findings",
    "pairs_data",
    "points",
    "settings_of",
]

MARGIN = 0.01
"""By how much an accuracy must differ to count: one test sample in a hundred."""

DRAWS = 5
"""Seeds that a verdict needs: below, Student's interval is wider than any difference that is looked for."""

PAIRS = {"residual": "twin", "matched": "plain"}
"""Designs of the same layers and parameters, with shortcuts: without."""

STATES = ("untrained", "trained")
"""In which state a network is looked at."""


@dataclass(frozen=True)
class Pictures:
    """What one data set looks like, and what networks of one seed make of it.

    Attributes:
        data: the name of the data set.
        setting: the networks, as `settings_of` names them.
        seed: of the networks.
        samples: one row a pixel: `class`, `sample`, `row`, `column`, `ink` (0 the least of all pixels, 1 the most).
        components: one row a test sample, design, state and site: `design`, `state`, `site`, `layers`, `accuracy` (of
            the linear classifier there), `share` (of the variance on the two components), `class`, `sample`, `first`
            and `second`, its place on the first two principal components of the training part, shifted and by one
            factor scaled into the square from -1 to 1.
    """

    data: str
    setting: str
    seed: int
    samples: pl.DataFrame
    components: pl.DataFrame


# ------------------------------------------------------------------------------------------------------- the tables

_OWN = ("cell", "spec", "design", "state", "edit", "gain")  # what networks that are compared may differ in


def settings_of(readings: Readings) -> dict[str, str]:
    """For every cell the setting it belongs to: networks that differ in shortcuts and training alone have one.

    A setting is named by its data set and its depth, and by whatever else it takes to tell it from the others.
    """
    require_readings(readings)
    keys = {row["cell"]: _key(row) for row in readings.cells.iter_rows(named=True)}
    different = [json.loads(key) for key in dict.fromkeys(keys.values())]
    varying = [name for name in (different[0] if different else ()) if len({row[name] for row in different}) > 1]
    further = [name for name in varying if name not in ("data", "depth", "chance", "body")]
    names: dict[str, str] = {}
    for row in different:
        told = [str(row["data"]), f"depth {row['depth']}", *(f"{name} {row[name]}" for name in further)]
        name = ", ".join(told)
        same = sum(each == name or each.startswith(f"{name}, no. ") for each in names.values())
        names[json.dumps(row, sort_keys=True)] = name if not same else f"{name}, no. {same + 1}"
    return {cell: names[key] for cell, key in keys.items()}


def _key(row: dict[str, Any]) -> str:
    """A cell's factors, and of its network all but shortcuts, blocks and layers a block."""
    spec = Spec.from_json(row["spec"])
    alike = (replace(stage, shortcut="none", gains=Gains(), blocks=1, layers=1) for stage in spec.stages)
    body = replace(spec, stages=tuple(alike)).to_json()
    return json.dumps({**{n: v for n, v in row.items() if n not in _OWN}, "body": body}, sort_keys=True, default=str)


def _rows(readings: Readings, quantity: str) -> pl.DataFrame:
    """The readings of a quantity with their setting, design, state and place.

    Raises:
        InputError: there are none.
    """
    require_readings(readings)
    own = readings.cells.filter(pl.col("study") == "representation")["cell"]
    known = readings.rows_of(*own)
    require_type("quantity", quantity, str, "the name of one, such as 'linear_accuracy'")
    rows = known.filter(pl.col("quantity") == quantity)
    if not {"state", "chance"} <= set(readings.cells.columns) or rows.is_empty():
        raise InputError(
            f"quantity {quoted(quantity)}: these readings hold none of it: measure it with study `representation`."
        )
    named = settings_of(readings)
    cells = readings.cells.select(
        *("cell", "data", "design", "state", "chance"),
        d="depth",
        setting=pl.col("cell").replace_strict(named, return_dtype=pl.String),
    )
    places = readings.sites.select("cell", "site", "order", "kind", "block", layers="depth")
    return rows.join(cells, on="cell", maintain_order="left").join(places, on=["cell", "site"], maintain_order="left")


def _over_seeds(column: str) -> dict[str, pl.Expr]:
    """The number of seeds, the mean of a column, and the ends of its 95 % interval; those null for one seed."""
    kept = pl.col(column).filter(pl.col(column).is_finite())
    return {"n": kept.len().cast(pl.Int64), "mean": kept.mean(), "deviation": kept.std()}


def _with_interval(table: pl.DataFrame) -> pl.DataFrame:
    """Student's interval of the mean at 95 %, from the number of seeds and their standard deviation."""
    half = [
        None if row["deviation"] is None else student_half(row["n"], row["deviation"])
        for row in table.select("n", "deviation").iter_rows(named=True)
    ]
    ends = pl.Series(half, dtype=pl.Float64)
    return table.with_columns(low=pl.col("mean") - ends, high=pl.col("mean") + ends).drop("deviation")


_IDENTITY = ("setting", "data", "d", "design", "state")


def depth_data(readings: Readings, quantity: str = "linear_accuracy") -> pl.DataFrame:
    """A quantity of every design and state, site by site: what a chart against depth is drawn from.

    Returns:
        Columns `setting`, `data`, `d`, `design`, `state`, `site`, `order`, `layers` (weight layers passed), `block`,
        `n` seeds with a finite value, `mean` with `low` and `high`, its 95 % interval (null for one seed; cut where
        no share can be), the `least` and the `most` of single networks, and `chance`, the accuracy of who always names
        the most frequent class.

    Raises:
        InputError: the readings hold none of the quantity at any site.
    """
    rows = _rows(readings, quantity)
    finite = pl.col("value").filter(pl.col("value").is_finite())
    table = rows.group_by(*_IDENTITY, "site", "order", "layers", "block", "chance", maintain_order=True).agg(
        **_over_seeds("value"), least=finite.min(), most=finite.max()
    )
    return (
        _with_interval(table)
        .with_columns(pl.col("low", "high").clip(0.0, None if quantity == "effective_dimension" else 1.0))
        .select(
            *(*_IDENTITY, "site", "order", "layers", "block", "n", "mean", "low", "high", "least", "most", "chance")
        )
        .sort("setting", pl.col("state") == "trained", "design", "order", maintain_order=True)
    )


def pairs_data(readings: Readings, quantity: str = "linear_accuracy") -> pl.DataFrame:
    """Differences of a quantity, seed by seed: what training does, and what shortcuts do, at every depth.

    Returns:
        Columns `setting`, `comparison` (`trained - untrained`, or e.g. `residual - twin`), `of` (the design, or the
        state, that both have), `site` (of the first), `order`, `layers`, `block`, `n` seeds, `mean` difference with
        `low` and `high`, its 95 % interval (null for one seed), and the share of seeds in which it is above 0, `above`.

    Raises:
        InputError: the readings hold none of the quantity at any site.
    """
    rows = _rows(readings, quantity).filter(pl.col("value").is_finite())
    # Sites of two designs correspond where as many layers are passed.
    rows = rows.with_columns(place=pl.when(pl.col("site") == "final").then(pl.lit("final")).otherwise(pl.col("layers")))
    parts = [
        _differences(rows, "state", "trained", "untrained", of="design"),
        *[_differences(rows, "design", with_them, without, of="state") for with_them, without in PAIRS.items()],
    ]
    table = pl.concat(parts)
    grouped = table.group_by(
        "setting", "comparison", "of", "site", "order", "layers", "block", maintain_order=True
    ).agg(**_over_seeds("difference"), above=(pl.col("difference") > 0).mean())
    return (
        _with_interval(grouped)
        .select(
            *("setting", "comparison", "of", "site", "order", "layers", "block", "n", "mean", "low", "high", "above")
        )
        .sort("setting", "comparison", "of", "order", maintain_order=True)
    )


def _differences(rows: pl.DataFrame, column: str, one: str, other: str, *, of: str) -> pl.DataFrame:
    """One row a seed and site that both have: the first less the second."""
    keys = ["setting", of, "place", "seed"]
    first, second = (rows.filter(pl.col(column) == name) for name in (one, other))
    both = first.join(second.select(*keys, subtracted="value"), on=keys, maintain_order="left")
    return both.select(
        *("setting", "seed", "site", "order", "layers", "block"),
        comparison=pl.lit(f"{one} - {other}"),
        of=pl.col(of),
        difference=pl.col("value") - pl.col("subtracted"),
    )


def end_of_body(table: pl.DataFrame) -> pl.DataFrame:
    """The rows of `depth_data` or `pairs_data` at the last block; at the first layer, where there is no block."""
    shared = [name for name in (*_IDENTITY, "comparison", "of") if name in table.columns]
    return table.filter(pl.col("site") != "head", pl.col("site") != "final", pl.col("site") != "input").filter(
        pl.col("order") == pl.col("order").max().over(shared)
    )


# ----------------------------------------------------------------------------------------------------------- findings

_SOURCE = "linear classifiers as probes: Alain & Bengio 2016, arXiv:1610.01644; margin: a convention of this instrument"


@dataclass(frozen=True)
class _Question:
    """A claim about the difference of two accuracies.

    Attributes:
        rule: the claim.
        one: what a classifier reads, for a sentence.
        other: what it is compared with.
        margin: the difference above which the claim holds.
    """

    rule: str
    one: str
    other: str
    margin: float = MARGIN

    @property
    def threshold(self) -> str:
        """What would have to change for another verdict."""
        return (
            f"holds: the whole 95 % interval of the difference (Student's, over paired seeds) is above "
            f"{self.margin:g}; does not hold: all of it is at most that; a verdict needs {DRAWS} seeds"
        )


_LAST = "from the trained last block"
_GROWS = "accuracy grows over depth"
_FROM_INPUT = _Question(f"{_GROWS}, from the input", _LAST, "from the input")
_FROM_STEM = _Question(f"{_GROWS}, from the first layer", _LAST, "from the trained first layer")
_TRAINING = _Question("training makes classes more separable", _LAST, "from the untrained one")
_UNTRAINED = _Question(
    "an untrained network keeps what the input tells", "from the untrained last block", "from the input", -MARGIN
)


def findings(readings: Readings) -> list[Finding]:
    """What readings of study `representation` show of every design: `holds`, `does not hold` or `cannot tell`.

    Whether accuracy grows over depth (from the input, and from the first layer), whether training makes the classes
    more separable at the end of the body, whether an untrained network keeps what the input tells, and whether
    shortcuts make the classes more separable, both networks trained.

    Raises:
        InputError: the readings hold no accuracy of linear classifiers.
    """
    require_readings(readings)
    rows = _rows(readings, "linear_accuracy").filter(pl.col("value").is_finite())
    found: list[Finding] = []
    for (setting,), part in rows.group_by("setting", maintain_order=True):
        for (design,), own in part.group_by("design", maintain_order=True):
            found += _of_design(own, f"the {design} design ({setting})")
        trained = part.filter(pl.col("state") == "trained")
        for one, other in PAIRS.items():
            asked = _Question("shortcuts make classes more separable", f"{_LAST} of {one}", f"from that of {other}")
            pair = (_last(trained.filter(pl.col("design") == name)) for name in (one, other))
            found += _judged(asked, f"{one} against {other} ({setting})", *pair)
    return found


def _of_design(rows: pl.DataFrame, subject: str) -> Iterator[Finding]:
    untrained, trained = (rows.filter(pl.col("state") == state) for state in STATES)
    yield from _judged(_FROM_INPUT, subject, _last(trained), trained.filter(pl.col("site") == "input"))
    yield from _judged(_FROM_STEM, subject, _last(trained), trained.filter(pl.col("site") == "stem"))
    yield from _judged(_TRAINING, subject, _last(trained), _last(untrained))
    yield from _judged(_UNTRAINED, subject, _last(untrained), untrained.filter(pl.col("site") == "input"))


def _last(rows: pl.DataFrame) -> pl.DataFrame:
    """The last block; none where there are no blocks."""
    return rows.filter(pl.col("block") > 0, pl.col("block") == pl.col("block").max())


def _judged(asked: _Question, subject: str, one: pl.DataFrame, other: pl.DataFrame) -> Iterator[Finding]:
    """The finding on the difference of two accuracies, seed by seed; none where there are no pairs."""
    both = one.select("seed", "cell", "chance", first="value").join(
        other.select("seed", second="value"), on="seed", maintain_order="left"
    )
    if both.is_empty():
        return
    evidence = _with_interval(
        both.with_columns(difference=pl.col("first") - pl.col("second")).select(
            **_over_seeds("difference"),
            first=pl.col("first").mean(),
            second=pl.col("second").mean(),
            chance=pl.col("chance").first(),
        )
    ).select(
        pl.col("n").alias("seeds"),
        pl.col("first").alias(asked.one),
        pl.col("second").alias(asked.other),
        pl.col("mean").alias("difference"),
        *("low", "high", "chance"),
    )
    row = evidence.row(0, named=True)
    verdict, why = _verdict(row, asked.margin)
    yield Finding(
        rule=asked.rule,
        cell=both["cell"][0],
        subject=subject,
        verdict=verdict,
        statement=_statement(asked, row) + why,
        evidence=evidence,
        threshold=asked.threshold,
        source=_SOURCE,
    )


def _verdict(row: dict[str, Any], margin: float) -> tuple[Verdict, str]:
    """The verdict on a difference, and why there is none."""
    if row["seeds"] < DRAWS:
        return (
            "cannot tell",
            f" {row['seeds']} {'seed is' if row['seeds'] == 1 else 'seeds are'} too few for a verdict.",
        )
    if row["low"] > margin:
        return "holds", ""
    if row["high"] <= margin:
        return "does not hold", ""
    return "cannot tell", f" The interval has {points(margin)} points in it: these seeds do not decide."


def _statement(asked: _Question, row: dict[str, Any]) -> str:
    interval = "" if row["low"] is None else f"95 % interval {points(row['low'])} to {points(row['high'])}, "
    return (
        f"A linear classifier reads the class of {percent(row[asked.one])} of test samples {asked.one}, and of "
        f"{percent(row[asked.other])} {asked.other} (the most frequent class alone: {percent(row['chance'])}). The "
        f"difference is {points(row['difference'])} points ({interval}{row['seeds']} "
        f"{'seed' if row['seeds'] == 1 else 'seeds'})."
    )


def points(share: float) -> str:
    """A share, or the difference of two, in percentage points."""
    told = f"{100 * share:.1f}"
    return "0.0" if told == "-0.0" else told.replace("-", "−")
