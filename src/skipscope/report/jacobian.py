"""The section on study `jacobian`: how networks stretch small changes of their input, by depth."""

from __future__ import annotations

from typing import Literal, cast

import polars as pl

from skipscope import charts
from skipscope.errors import InputError
from skipscope.readings import Readings
from skipscope.report.page import Block, Claim, Claims, Figure, Holds, Prose, Section
from skipscope.report.prose import joined, listed, method, seeds_of, versions_of
from skipscope.spec import Spec
from skipscope.summary import Summary, summarise
from skipscope.words import number

__all__ = ["jacobian_section"]

Part = Literal["network", "body"]

NEAR = 0.5
"""Below which |J - I|/|I| a block is called near the identity here."""

ISOMETRY = 10.0
"""Between which singular values (its inverse, and it) a Jacobian is called an isometry here."""


def jacobian_section(readings: Readings, *, anchor: str = "jacobian") -> Section:
    """The section on readings of study `jacobian`.

    Raises:
        InputError: the readings hold no singular values.
    """
    summary = summarise(readings)
    parts = [part for part in ("body", "network") if part in set(readings.cells["part"])]
    if not parts:
        raise InputError("these readings say of no part: measure them with studies.jacobian.")
    main = cast(Part, parts[0])
    claims = _claims(summary, main)
    blocks: list[Block] = [Prose((_ASKED, _drawn(readings)))]
    for part in parts:
        blocks += _part(summary, cast(Part, part))
    if claims:
        blocks += [Prose((), "What is commonly said, and what was measured"), Claims(claims)]
    return Section(
        title="Singular values of the Jacobian",
        anchor=anchor,
        answer=_answer(_deepest(summary, main), main),
        blocks=(*blocks, method(readings)),
        versions=versions_of(readings),
    )


_ASKED = (
    "The Jacobian, output by input, says how small changes of the input are stretched: its singular values are the "
    "factors. Values near one in all directions are called dynamical isometry (Pennington et al. 2017, "
    "arXiv:1711.04735); a direction with the value 0 is lost, forward and backward."
)
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
    depths = joined(f"d = {depth}" for depth in readings.cells["depth"].unique().sort())
    batches = readings.cells.filter(pl.col("batch") > 1)["batch"].unique().sort()
    said = f"Here {depths}, {seeds_of(readings)}; the Jacobian is that of one sample's output by its own input."
    if batches.len():
        said += (
            f" With batch normalisation it depends on the batch, of {joined(map(str, batches))} samples: it is the "
            "total derivative, the statistics moving along."
        )
    return said


# ---------------------------------------------------------------------------------------------------------- the charts


def _deepest(summary: Summary, part: Part) -> dict[str, dict[str, float]]:
    """For every panel its deepest networks' medians by curve, with the depth."""
    table = charts.spectrum_data(summary, part)
    last = table.filter(pl.col("depth") == pl.col("depth").max().over("panel"))
    found: dict[str, dict[str, float]] = {}
    for row in last.iter_rows(named=True):
        if row["q50"] is not None:
            found.setdefault(row["panel"], {"depth": row["depth"]})[row["curve"]] = row["q50"]
    return found


def _answer(deepest: dict[str, dict[str, float]], part: Part) -> str:
    told = "; ".join(f"{panel}: {_span(values)}" for panel, values in deepest.items())
    return f"Singular values of the {part}, smallest to largest in the median draw of the deepest networks. {told}."


def _span(values: dict[str, float]) -> str:
    least = f"{number(values['sigma_min'], 2)} to " if "sigma_min" in values else "up to "
    return f"{least}{number(values['sigma_max'], 2)}" if "sigma_max" in values else "no finite number"


def _part(summary: Summary, part: Part) -> list[Block]:
    table = charts.spectrum_data(summary, part)
    law = table["law"].null_count() < table.height
    figure = Figure(
        name=f"Singular values of the {part}, by depth",
        chart=charts.spectrum(summary, part),
        caption=(
            "Lines: medians over draws; bands: 25 to 75 %. The line at 1 is where nothing is stretched. The axis is "
            "logarithmic, so a value of 0 (to rounding) has no place on it: a note says where the median is 0."
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


def _claims(summary: Summary, part: Part) -> tuple[Claim, ...]:
    deepest = _deepest(summary, part)
    claims = [_plain_claim(summary, part), _identity_claim(summary), _isometry_claim(summary, deepest)]
    return tuple(claim for claim in claims if claim is not None)


def _medians(summary: Summary, quantity: str, *, plain: bool) -> pl.DataFrame:
    """Medians over draws of a quantity in the deepest networks of every design, with shortcuts or without."""
    kinds = pl.DataFrame(
        [
            (row["cell"], row["part"], not any(not stage.plain for stage in Spec.from_json(row["spec"]).stages))
            for row in summary.readings.cells.iter_rows(named=True)
            if row["spec"]
        ],
        schema={"cell": pl.String, "part": pl.String, "plain": pl.Boolean},
        orient="row",
    )
    rows = summary.table.filter(pl.col("quantity") == quantity).join(kinds, on="cell")
    rows = rows.filter(pl.col("plain") == plain, pl.col("q50").is_not_null())
    return rows.filter(pl.col("depth") == pl.col("depth").max().over("design", "width"))


def _plain_claim(summary: Summary, part: Part) -> Claim | None:
    """Whether a plain network (without a norm) makes all directions smaller, or takes some away."""
    ranks = _medians(summary, "jacobian_rank", plain=True).filter(pl.col("part") == part, pl.col("design") == "plain")
    largest = _medians(summary, "jacobian_sigma_max", plain=True).filter(
        pl.col("part") == part, pl.col("design") == "plain"
    )
    if ranks.is_empty() or largest.is_empty():
        return None
    rank, most, width = ranks["q50"][0], largest["q50"][0], ranks["width"][0]
    holds: Holds = "right" if most < 1 else "wrong"
    said = f"At depth {ranks['depth'][0]} {number(rank)} of {width} directions arrive in the median draw"
    said += f", the largest singular value is {number(most)}"
    said += "." if most < 1 else ": the others are mapped to 0, which no scaling repairs." if rank < width else "."
    return Claim("In a deep plain network all directions fade.", holds, said)


def _identity_claim(summary: Summary) -> Claim | None:
    rows = _medians(summary, "block_jacobian_minus_identity", plain=False)
    if rows.is_empty():
        return None
    order = list(dict.fromkeys(charts.spectrum_data(summary, rows["part"][0])["design"]))
    found = dict(rows.group_by("design", maintain_order=True).agg(pl.col("q50").median()).iter_rows())
    told = listed(f"{number(found[name], 2)} in {name}" for name in order if name in found)
    far = [name for name in order if found.get(name, 0.0) >= NEAR]
    return Claim(
        "The + I makes every block nearly the identity.",
        "wrong" if far else "right",
        f"The distance |J - I|/|I| of a block, as a median over draws and blocks of the deepest networks: {told}.",
    )


def _isometry_claim(summary: Summary, deepest: dict[str, dict[str, float]]) -> Claim | None:
    """Which of the residual designs keep all singular values within a factor of `ISOMETRY` of one."""
    residual = set(_medians(summary, "jacobian_sigma_max", plain=False)["design"])
    known = {
        panel: values
        for panel, values in deepest.items()
        if panel.partition(", width ")[0] in residual and {"sigma_min", "sigma_max"} <= set(values)
    }
    if not known:
        return None
    kept = [p for p, v in known.items() if v["sigma_min"] >= 1 / ISOMETRY and v["sigma_max"] <= ISOMETRY]
    lost = [f"{panel} ({_span(values)})" for panel, values in known.items() if panel not in kept]
    said = f"Within a factor of {ISOMETRY:g} of one they stay in {listed(kept)}." if kept else ""
    if lost:
        said += f" They do not in {listed(lost)}."
    return Claim("Shortcuts keep all singular values near one.", "wrong" if lost else "right", said.strip())
