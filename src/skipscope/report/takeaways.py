"""The section that answers "what do skip connections do?": the notebook's takeaways, judged by the other studies."""

from __future__ import annotations

from skipscope.diagnosis import Finding
from skipscope.readings import Readings
from skipscope.report.page import Claim, Claims, Findings, Holds, Prose, Section
from skipscope.report.prose import method, versions_of
from skipscope.takeaways import answer, takeaways

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
            Prose(
                (
                    "The original notebook ends with takeaways. Each stands here beside what the studies of this "
                    "report found; the sections below show how.",
                )
            ),
            Claims(tuple(_claim(finding) for finding in found)),
            Findings(tuple(measured), folded=f"The {len(measured)} findings with all that they rest on"),
            method(readings),
        ),
        versions=versions_of(readings),
        sums_up=True,
    )


def _claim(finding: Finding) -> Claim:
    return Claim(finding.rule, _HOLDS.get(finding.verdict, "unknown"), finding.statement)
