"""The section that sums a report up: its claims are the takeaways, and its answer opens the report."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from skipscope import InputError, Readings, report, studies
from skipscope.diagnosis import Finding, Verdict
from skipscope.report import Claim, Claims, Findings, Prose, Section
from skipscope.report import takeaways as section_of
from skipscope.takeaways import answer, takeaways


@pytest.fixture(scope="module")
def readings() -> Readings:
    """Four studies: a report on as many begins with the takeaways."""
    return Readings.concat(
        [
            studies.flow(depth=4, width=4, seeds=range(4)),
            studies.notebook(depths=(4, 6), seeds=range(4)),
            studies.sweep(depths=(4, 6), width=4, seeds=range(4)),
            studies.highway(depth=4, width=6, seeds=range(4)),
        ]
    )


def claims_of(section: Section) -> tuple[Claim, ...]:
    (block,) = (block for block in section.blocks if isinstance(block, Claims))
    return block.claims


def findings_of(section: Section) -> Findings:
    (block,) = (block for block in section.blocks if isinstance(block, Findings))
    return block


HOLDS = {
    "holds": "right",
    "does not hold": "wrong",
    "holds only if": "depends",
    "quoted": "quoted",
    "cannot tell": "unknown",
}
BADGES = {
    "right": "borne out here",
    "wrong": "not borne out here",
    "depends": "it depends",
    "quoted": "the paper\u2019s, not measured here",
    "unknown": "cannot tell from here",
}


def test_every_takeaway_is_a_claim(readings: Readings):
    found, section = takeaways(readings), report.takeaways_section(readings)
    assert [(claim.claim, claim.measured) for claim in claims_of(section)] == [(f.rule, f.statement) for f in found]
    assert [claim.holds for claim in claims_of(section)] == [HOLDS[f.verdict] for f in found]
    assert section.answer == answer(found)
    assert section.sums_up


def test_what_was_judged_is_told_with_all_that_it_rests_on(readings: Readings):
    block = findings_of(report.takeaways_section(readings))
    judged = [found for found in takeaways(readings) if found.verdict != "cannot tell"]
    assert [found.rule for found in block.findings] == [found.rule for found in judged]
    assert block.folded == f"The {len(judged)} findings with all that they rest on"
    assert 0 < len(judged) < len(takeaways(readings))


def judged(*verdicts: Verdict) -> list[Finding]:
    evidence = pl.DataFrame({"what": ["evidence"]})
    return [Finding(f"takeaway {i}", "", "s", v, f"said {i}.", evidence, "t", "o") for i, v in enumerate(verdicts)]


def test_verdicts_have_badges(readings: Readings, monkeypatch: pytest.MonkeyPatch):
    verdicts: tuple[Verdict, ...] = ("holds", "does not hold", "holds only if", "quoted", "cannot tell")
    monkeypatch.setattr(section_of, "takeaways", lambda readings: judged(*verdicts))
    section = report.takeaways_section(readings)

    page = report.render([section], title="t", command="c")

    badge = r'<span class="badge" data-sign="(.)">(.+?)</span>'
    drawn = re.findall(rf'<li class="story (\w+)"><p class="claim">(.+?)</p><p>{badge} (.+?)</p>', page)
    assert [(kind, claim, words, said) for kind, claim, _, words, said in drawn] == [
        (HOLDS[verdict], f"takeaway {i}", BADGES[HOLDS[verdict]], f"said {i}.") for i, verdict in enumerate(verdicts)
    ]
    assert len({sign for _, _, sign, _, _ in drawn}) == 5  # colour is never all there is
    style = page.partition("<style>")[2].partition("</style>")[0]
    for kind in BADGES:
        assert re.search(rf"\.{kind}\b[^{{}}]*{{ --mark: #", style), kind


def opening(page: str) -> list[str]:
    """The paragraphs that open the report."""
    before = page.partition("<section id=")[0]
    (box,) = re.findall(r'<div class="answer"[^>]*>(.*?)</div>', before, flags=re.DOTALL)
    return re.findall("<p>(.+?)</p>", box)


def heads(page: str) -> dict[str, str]:
    """By section, the answer at its head."""
    found: dict[str, str] = {}
    for anchor, text in re.findall(r'<section id="([\w-]+)">\n<h2>.+?</h2>\n(.*?)</section>', page, flags=re.DOTALL):
        if head := re.match(r'<div class="answer" role="note"><p>(.+?)</p></div>', text):
            found[anchor] = head[1]
    return found


def test_the_answer_opens_the_report_alone(readings: Readings):
    sections = report.sections_of(readings)
    page = report.render(sections, title="t", command="c")

    assert [section.anchor for section in sections] == ["takeaways", "flow", "notebook", "sweep", "highway"]
    assert len(opening(page)) == 1
    assert opening(page)[0].startswith("A skip connection gives signal and gradient a second path")
    assert set(heads(page)) == {"flow", "notebook", "sweep", "highway"}
    for section in sections[1:]:
        assert heads(page)[section.anchor][:20] == section.answer[:20].replace("'", "\u2019")


def test_without_it_all_answers_open_the_report(readings: Readings):
    sections = report.sections_of(readings.select(study=["flow", "notebook", "sweep"]))
    page = report.render(sections, title="t", command="c")

    assert [section.anchor for section in sections] == ["flow", "notebook", "sweep"]
    assert len(opening(page)) == 3
    assert heads(page) == {}


def test_it_can_stand_alone(readings: Readings, tmp_path: Path):
    section = report.takeaways_section(readings.select(study="flow"), anchor="summary")
    page = report.write(tmp_path / "page.html", [section], title="t", command="c").read_text()

    assert '<section id="summary">' in page
    assert "This needs the study degradation" in page
    assert isinstance(section.blocks[0], Prose)


def test_a_selection_of_many_studies_is_reported(readings: Readings):
    """What a takeaway is about may have been left out: that is no reason to have no report."""
    rest = readings.select(study=["notebook", "sweep", "highway"])
    part = readings.select(study="flow", quantity="activation_rms", site="stem") + rest
    sections = report.sections_of(part)
    assert [section.anchor for section in sections] == ["takeaways", "readings-flow", "notebook", "sweep", "highway"]


def test_no_readings_are_refused(readings: Readings):
    empty = Readings(readings.rows.clear(), readings.cells, readings.sites, readings.meta)
    with pytest.raises(InputError, match="these readings are empty"):
        report.takeaways_section(empty)
