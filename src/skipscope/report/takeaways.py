"""The section that answers "what do skip connections do?": the notebook's takeaways, judged by the other studies."""

from __future__ import annotations

import polars as pl

from skipscope.diagnosis import Finding
from skipscope.readings import Readings
from skipscope.report.page import Claim, Claims, Findings, Holds, Method, Prose, Section, Table
from skipscope.report.prose import joined, versions_of
from skipscope.takeaways import answer, study_of, takeaways

__all__ = ["takeaways_section"]

_HOLDS: dict[str, Holds] = {
    "holds": "right",
    "does not hold": "wrong",
    "holds only if": "depends",
    "quoted": "quoted",
}


def takeaways_section(readings: Readings, *, anchor: str = "takeaways") -> Section:
    """The section on readings of all studies together.

    Raises:
        InputError: there are no readings.
    """
    found = takeaways(readings)
    measured = [finding for finding in found if finding.verdict != "cannot tell"]
    return Section(
        title="What do skip connections do?",
        anchor=anchor,
        answer=answer(found),
        blocks=(
            Prose(_ASKED),
            Claims(tuple(_claim(finding) for finding in found)),
            Findings(tuple(measured), folded=f"The {len(measured)} findings with all that they rest on"),
            Method((_studies(readings),)),
        ),
        versions=versions_of(readings),
        sums_up=True,
        about="The notebook's takeaways, each beside what was found.",
    )


_ASKED = (
    'This report grew out of an educational notebook on "Deep Residual Learning for Image Recognition" (He, Zhang, '
    "Ren, "
    "Sun 2015, arXiv:1512.03385), which draws one plain and one residual network and ends with takeaways. Each stands "
    "here beside what the studies of this report found, and names the section that shows how.",
    "To read it: a draw, or seed, is one random choice of all weights (and, where networks train, of the order of "
    "samples). Nothing is concluded from one; intervals are at 95 % and over draws. A plain network has no shortcuts, "
    "a residual one has; a block is what a shortcut goes around. Where draws are too few or too unlike to decide, the "
    "verdict says that it cannot tell.",
)


def _claim(finding: Finding) -> Claim:
    holds = _HOLDS.get(finding.verdict, "unknown")
    return Claim(finding.rule, holds, finding.statement, see=study_of(finding.rule))


def _studies(readings: Readings) -> Table:
    """What every study measured: its networks, its seeds and its data."""
    rows = []
    for study in sorted(set(readings.cells["study"].fill_null(""))):
        part = readings.select(study=study) if study else readings
        cells = part.cells
        rows.append(
            {
                "study": study,
                "networks": cells.filter(pl.col("spec") != "")["spec"].n_unique(),
                "seeds": part.rows["seed"].n_unique(),
                "input": joined(dict.fromkeys(str(data).partition(", seed")[0] for data in cells["data"] if data)),
                "arithmetic": joined(cells["dtype"].drop_nulls().unique().sort()),
            }
        )
    return Table(
        pl.DataFrame(rows), "What was measured, by study; every section below has its own networks and method."
    )
