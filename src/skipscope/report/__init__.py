"""The report: one HTML file that opens offline, asks for nothing, and says what the readings say.

    report.write("skipscope-report", report.sections_of(readings), title="...", command="skipscope demo")

Right of the waist: readings in, a page out. A study has a function that makes a `Section` of its readings (flow.py,
notebook.py; general.py for any others), of which every number and every sentence is computed; page.py makes the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from skipscope.errors import InputError
from skipscope.files import as_path, check_writable, write_whole
from skipscope.readings import Readings, require_readings
from skipscope.report.convergence import convergence_section
from skipscope.report.correlation import correlation_section
from skipscope.report.degradation import degradation_section
from skipscope.report.flow import flow_section
from skipscope.report.general import readings_section
from skipscope.report.highway import highway_section
from skipscope.report.identity import identity_section
from skipscope.report.jacobian import jacobian_section
from skipscope.report.lesion import lesion_section
from skipscope.report.models import absences_section, twin_section
from skipscope.report.notebook import notebook_section
from skipscope.report.page import (
    Block,
    Claim,
    Claims,
    Facts,
    Figure,
    Findings,
    Holds,
    Method,
    Prose,
    Section,
    Table,
    render,
)
from skipscope.report.propagation import propagation_section
from skipscope.report.representation import representation_section
from skipscope.report.responses import responses_section
from skipscope.report.sweep import sweep_section
from skipscope.report.takeaways import takeaways_section

__all__ = [
    "SECTIONS",
    "Block",
    "Claim",
    "Claims",
    "Facts",
    "Figure",
    "Findings",
    "Holds",
    "Method",
    "Prose",
    "Section",
    "Table",
    "absences_section",
    "convergence_section",
    "correlation_section",
    "degradation_section",
    "flow_section",
    "highway_section",
    "identity_section",
    "jacobian_section",
    "lesion_section",
    "notebook_section",
    "propagation_section",
    "readings_section",
    "render",
    "representation_section",
    "responses_section",
    "sections_of",
    "sweep_section",
    "takeaways_section",
    "twin_section",
    "write",
]


def write(
    path: str | os.PathLike[str],
    sections: Iterable[Section],
    *,
    title: str,
    command: str,
    overwrite: bool = False,
) -> Path:
    """Write a report, whole or not at all.

    Args:
        path: a file whose name ends in `.html`, or a directory, which is made if need be and gets an `index.html`.
        sections: what it shows, in order; see `sections_of`.
        title: of the page.
        command: the command that repeats it.
        overwrite: whether a report that is there already may be replaced.

    Returns:
        The file.

    Raises:
        InputError: there are no sections, two have one anchor, or the file cannot be written.
    """
    listed = list(sections)
    if not listed:
        raise InputError("sections is empty: a report needs at least one; sections_of(readings) makes them.")
    anchors = [section.anchor for section in listed]
    if twice := [anchor for anchor in anchors if anchors.count(anchor) > 1]:
        raise InputError(f"anchor {twice[0]!r} is that of two sections: give each its own.")
    target = _target(path)
    check_writable(target, overwrite=overwrite)
    write_whole(target, render(listed, title=title, command=command).encode())
    return target


def _target(path: str | os.PathLike[str]) -> Path:
    target = as_path(path)
    if target.suffix.lower() in (".html", ".htm") and not target.is_dir():
        return target
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"cannot make the directory {str(target)!r}: {reason}; choose another place.") from error
    return target / "index.html"


SECTIONS: dict[str, Callable[..., Section]] = {
    "flow": flow_section,
    "twin": twin_section,
    "notebook": notebook_section,
    "sweep": sweep_section,
    "propagation": propagation_section,
    "highway": highway_section,
    "jacobian": jacobian_section,
    "correlation": correlation_section,
    "train": convergence_section,
    "degradation": degradation_section,
    "identity": identity_section,
    "representation": representation_section,
    "lesion": lesion_section,
    "responses": responses_section,
}
"""Which function makes the section of which study; readings of others get `readings_section`."""


_MANY = 4
"""From how many studies on a report begins with the takeaways."""


def sections_of(readings: Readings, *, beside: Mapping[str, Mapping[str, Any]] | None = None) -> list[Section]:
    """The sections of readings: one for every study in them, in the order in which they come.

    Args:
        readings: of any studies.
        beside: by study, what its section takes beside the readings, e.g. `{"representation": {"pictures": ...}}`.

    Raises:
        InputError: there are no readings.
    """
    require_readings(readings)
    if not len(readings):
        raise InputError("there is nothing to report: these readings are empty.")
    studies = list(dict.fromkeys(readings.cells["study"].fill_null("").to_list()))
    studies.sort(key=lambda study: list(SECTIONS).index(study) if study in SECTIONS else len(SECTIONS))
    sections = [_section_of(study, readings, (beside or {}).get(study, {})) for study in studies]
    # Several studies together can be asked what no one of them can answer.
    return [takeaways_section(readings), *sections] if len(studies) >= _MANY else sections


def _section_of(study: str, readings: Readings, beside: Mapping[str, Any]) -> Section:
    part = _part(study, readings)
    if study in SECTIONS:
        try:
            return SECTIONS[study](part, **beside)
        except InputError:  # a selection of a study, which lacks what its own section is about
            return readings_section(part, title=f"Readings of study {study}", anchor=f"readings-{study}")
    title = f"Readings of study {study}" if study not in ("", "probe") else "Readings"
    return readings_section(part, title=title, anchor=_anchor(study))


def _part(study: str, readings: Readings) -> Readings:
    cells = readings.cells.filter(pl.col("study").fill_null("") == study)
    return Readings(
        rows=readings.rows.join(cells, on="cell", how="semi", maintain_order="left"),
        cells=cells,
        sites=readings.sites.join(cells, on="cell", how="semi", maintain_order="left"),
        meta=readings.meta,
    )


def _anchor(study: str) -> str:
    letters = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in study)
    return f"readings-{letters}" if letters else "readings"
