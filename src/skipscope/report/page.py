"""A report as a page: what a section is made of, and how that becomes one HTML file that asks nobody for anything.

A section is a small value, a tuple of blocks; a study makes one, and this module alone knows HTML. All text is escaped
here, once: a block holds plain text, in which `backticks` mark code, x_{1} has an index, and numbers like 2.5e+06 are
set as 2.5 × 10⁶, powers like 2^-L with their exponent raised.
The template, its style and its script are files beside this one.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from importlib.metadata import version
from string import Template
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from skipscope.diagnosis import Finding
from skipscope.words import number

if TYPE_CHECKING:
    import altair as alt

__all__ = [
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
    "render",
]

Holds = Literal["right", "wrong", "depends", "quoted", "unknown"]

# ------------------------------------------------------------------------------------------------------- the values


@dataclass(frozen=True)
class Prose:
    """Paragraphs of text, with a heading if it is not empty; `folded` is the line that opens hidden ones."""

    paragraphs: tuple[str, ...]
    heading: str = ""
    folded: str = ""


@dataclass(frozen=True)
class Table:
    """A table for people: floats are set to three digits, text as it is.

    Attributes:
        table: columns named as they are to be read; `"plain|5 %"` puts the column `5 %` under the heading `plain`.
        caption: what it shows.
        folded: the line that opens it; empty for a table that is always open.
        main: columns to set in bold.
    """

    table: pl.DataFrame
    caption: str
    folded: str = ""
    main: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A chart with its caption, and its numbers as a table, for those who do not see it.

    Attributes:
        name: the heading of the chart.
        chart: a row of panels, as `skipscope.charts` draws them; its description becomes its label.
        caption: how to read it.
        table: what is drawn, columns named as they are to be read.
    """

    name: str
    chart: alt.FacetChart
    caption: str
    table: pl.DataFrame


@dataclass(frozen=True)
class Claim:
    """What is commonly said, whether these readings bear it out, and what they show.

    Attributes:
        claim: what is said.
        holds: whether it is so.
        measured: what was measured.
        see: the anchor of the section that shows it, if that is another one.
    """

    claim: str
    holds: Holds
    measured: str
    see: str = ""


@dataclass(frozen=True)
class Claims:
    """A numbered list of claims."""

    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Findings:
    """Findings with all that they rest on; `folded` is the line that opens them, empty for findings in full view."""

    findings: tuple[Finding, ...]
    folded: str = ""


@dataclass(frozen=True)
class Facts:
    """Names and values, side by side."""

    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Method:
    """The box that says how it was measured."""

    blocks: tuple[Prose | Table | Facts, ...]


Block = Prose | Table | Figure | Claims | Findings | Facts | Method


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        title: its heading.
        anchor: its name in links, unique in the report: letters, digits and hyphens.
        answer: what it found, in one or two sentences; the answers of all sections open the report.
        blocks: what it shows, in order.
        versions: what it was measured with, by name.
        sums_up: whether its answer opens the report alone; then the others' stand at the head of their sections.
        about: what it asks, in a few words, for the table of contents.
        part: the part of the report that it belongs to, a heading in the table of contents.
    """

    title: str
    anchor: str
    answer: str
    blocks: tuple[Block, ...]
    versions: tuple[tuple[str, str], ...] = ()
    sums_up: bool = False
    about: str = ""
    part: str = ""


# ------------------------------------------------------------------------------------------------------- the page


def render(sections: Sequence[Section], *, title: str, command: str) -> str:
    """The report as one HTML document. Equal sections give equal text: there is no date in it."""
    opening = [section for section in sections if section.sums_up] or sections
    figures = [(f"{section.anchor}-{i}", block) for section in sections for i, block in _figures(section)]
    places = _places(sections)
    return Template(_resource("page.html")).substitute(
        version=html.escape(version("skipscope")),
        title=_text(title),
        css=_resource("page.css"),
        answer="\n".join(f"<p>{_text(section.answer)}</p>" for section in opening),
        contents=_contents(sections, places),
        sections="\n".join(
            _section(section, places, answered=opening is sections or section.sums_up) for section in sections
        ),
        command=html.escape(command),
        versions=_facts(Facts(tuple(dict.fromkeys(pair for section in sections for pair in section.versions)))),
        charts=_json(
            [{"id": name, "panels": _panels(figure.chart), "spec": _spec(figure.chart)} for name, figure in figures]
        ),
        bundle=_bundle(),
        js=_resource("page.js"),
    )


def _places(sections: Sequence[Section]) -> dict[str, str]:
    """The number and title of every section, by its anchor; one alone needs no number."""
    counted = (f"{place}. " if len(sections) > 1 else "" for place in range(1, len(sections) + 1))
    return {section.anchor: f"{number}{section.title}" for number, section in zip(counted, sections, strict=True)}


def _contents(sections: Sequence[Section], places: dict[str, str]) -> str:
    """The table of contents: every section with what it asks, under the heading of its part."""
    lines, part = [], ""
    for section in sections:
        if section.part != part:
            part = section.part
            lines.append(f'<li class="part">{_text(part)}</li>' if part else "")
        about = f" <span>{_text(section.about)}</span>" if section.about else ""
        lines.append(f'<li><a href="#{_attribute(section.anchor)}">{_text(places[section.anchor])}</a>{about}</li>')
    return "\n".join([*filter(None, lines), '<li class="last"><a href="#repeat">Repeat it</a></li>'])


def _figures(section: Section) -> Iterable[tuple[int, Figure]]:
    return ((i, block) for i, block in enumerate(section.blocks) if isinstance(block, Figure))


def _section(section: Section, places: dict[str, str], *, answered: bool) -> str:
    answer = "" if answered else f'<div class="answer" role="note"><p>{_text(section.answer)}</p></div>\n'
    blocks = "\n".join(_block(block, f"{section.anchor}-{i}", places) for i, block in enumerate(section.blocks))
    title = _text(places[section.anchor])
    return f'<section id="{_attribute(section.anchor)}">\n<h2>{title}</h2>\n{answer}{blocks}\n</section>'


def _block(block: Block, name: str, places: dict[str, str]) -> str:
    match block:
        case Prose():
            return _prose(block)
        case Table():
            return _table(block)
        case Figure():
            return _figure(block, name)
        case Claims():
            return f'<ol class="stories">{"".join(_claim(claim, places) for claim in block.claims)}</ol>'
        case Findings():
            return _findings(block)
        case Facts():
            return _facts(block)
        case Method():
            inner = "\n".join(_block(each, name, places) for each in block.blocks)
            return f'<aside class="method" aria-label="Method">\n<h3>Method</h3>\n{inner}\n</aside>'


def _prose(block: Prose) -> str:
    heading = f"<h3>{_text(block.heading)}</h3>\n" if block.heading else ""
    paragraphs = "\n".join(f"<p>{_text(paragraph)}</p>" for paragraph in block.paragraphs)
    if block.folded:
        paragraphs = f"<details><summary>{_text(block.folded)}</summary>{paragraphs}</details>"
    return heading + paragraphs


def _figure(figure: Figure, name: str) -> str:
    label = _attribute(str(figure.chart.description))
    table = _table(Table(figure.table, "", folded="The numbers of this chart, as a table"))
    return f"""<figure>
<p class="name">{_text(figure.name)}</p>
<div class="chart" id="{_attribute(name)}" role="img" aria-label="{label}"></div>
<figcaption>{_text(figure.caption)}</figcaption>
<div class="tools" hidden></div>
{table}
</figure>"""


_BADGES: dict[Holds, tuple[str, str]] = {
    "right": ("✓", "borne out here"),
    "wrong": ("✕", "not borne out here"),
    "depends": ("◆", "it depends"),
    "quoted": ("”", "the paper's, not measured here"),
    "unknown": ("?", "cannot tell from here"),
}


def _claim(claim: Claim, places: dict[str, str]) -> str:
    sign, words = _BADGES[claim.holds]
    see = ""
    if claim.see in places:  # a report may lack the section
        see = f' <a class="see" href="#{_attribute(claim.see)}">{_text(places[claim.see])}</a>'
    return (
        f'<li class="story {claim.holds}"><p class="claim">{_text(claim.claim)}</p>'
        f"<p>{_badge(sign, words)} {_text(claim.measured)}{see}</p></li>"
    )


_VERDICTS = {  # class and sign: colour is never all there is
    "exploding": ("exploding", "▲"),
    "vanishing": ("vanishing", "▼"),
    "spread out": ("spread", "◆"),
    "dead": ("dead", "✕"),
    "healthy": ("healthy", "✓"),
    "does not vanish": ("spread", "≠"),
    "law holds": ("healthy", "✓"),
    "law does not hold": ("spread", "≠"),
    "draws agree": ("healthy", "✓"),
    "draws disagree": ("spread", "≠"),
    "contradicted": ("dead", "✕"),
    "directions lost": ("dead", "✕"),
    "near the identity": ("healthy", "✓"),
    "far from the identity": ("spread", "≠"),
    "kept": ("healthy", "✓"),
    "shattered": ("dead", "✕"),
    "degrades": ("dead", "✕"),
    "does not degrade": ("healthy", "✓"),
    "trains better": ("healthy", "✓"),
    "trains no better": ("spread", "≠"),
    "trains worse": ("dead", "✕"),
    "holds": ("healthy", "✓"),
    "does not hold": ("spread", "≠"),
    "holds only if": ("spread", "◆"),
    "quoted": ("unknown", "”"),
    "cannot tell": ("unknown", "?"),
}


def _badge(sign: str, words: str) -> str:
    return f'<span class="badge" data-sign="{sign}">{_text(words)}</span>'


def _findings(block: Findings) -> str:
    listed = f'<ul class="findings">{"".join(map(_finding, block.findings))}</ul>'
    return f"<details><summary>{_text(block.folded)}</summary>{listed}</details>" if block.folded else listed


_SHOWN = 20  # rows of evidence; a page is no place for more


def _rows_of(finding: Finding) -> str:
    rows = finding.evidence.height
    counted = f"{rows:,} {'row' if rows == 1 else 'rows'} of evidence"
    return counted if rows <= _SHOWN else f"The first {_SHOWN} of {counted}"


def _finding(finding: Finding) -> str:
    kind, sign = _VERDICTS[finding.verdict]
    evidence = _table(Table(finding.evidence.head(_SHOWN), _rows_of(finding)))
    return f"""<li class="finding {kind}">
<p class="about">{_badge(sign, finding.verdict)} {_text(f"{finding.rule}: {finding.subject}")}</p>
<p>{_text(finding.statement)}</p>
<details><summary>Threshold, source and evidence</summary>
<p class="note">{_text(finding.threshold)}. Source: {_text(finding.source)}.</p>{evidence}</details>
</li>"""


def _facts(block: Facts) -> str:
    rows = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in block.facts)
    return f"<dl>{rows}</dl>" if rows else ""


# --------------------------------------------------------------------------------------------------------- tables


def _table(block: Table) -> str:
    columns = block.table.columns
    numeric = {name for name in columns if block.table.schema[name].is_numeric()}
    body = "\n".join(
        f"<tr>{''.join(_cell(name, value, name in numeric, name in block.main) for name, value in row.items())}</tr>"
        for row in block.table.iter_rows(named=True)
    )
    caption = f'<p class="note">{_text(block.caption)}</p>' if block.caption else ""
    label = _attribute(block.caption or block.folded or "Table")
    tight = ' class="tight"' if len(columns) > 12 else ""
    table = (
        f'{caption}<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table{tight}>'
        f"<thead>{_head(columns, numeric)}</thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )
    if not block.folded:
        return table
    return f'<details class="table"><summary>{_text(block.folded)}</summary>{table}</details>'


def _head(columns: Sequence[str], numeric: set[str]) -> str:
    """One row of headings, or two where columns have a group ("plain|5 %")."""
    names = [name.rpartition("|")[2] for name in columns]
    last = "".join(
        f'<th scope="col"{_class(column in numeric)}>{_text(name)}</th>'
        for column, name in zip(columns, names, strict=True)
    )
    groups = [name.rpartition("|")[0] for name in columns]
    if not any(groups):
        return f"<tr>{last}</tr>"
    first, start = "", 0
    while start < len(groups):
        end = start
        while end < len(groups) and groups[end] == groups[start]:
            end += 1
        tag = '<th scope="colgroup" class="group"' if groups[start] else "<td"
        first += f'{tag} colspan="{end - start}">{_text(groups[start])}</{tag[1:3]}>'
        start = end
    return f"<tr>{first}</tr><tr>{last}</tr>"


def _cell(column: str, value: Any, numeric: bool, main: bool) -> str:
    text = (
        number(value) if isinstance(value, float) else "–" if value is None else f"{value:,}" if numeric else str(value)
    )
    if numeric and isinstance(value, int) and column.rpartition("|")[2] == "seed":
        text = str(value)
    names = [name for name, so in (("num", numeric), ("main", main), ("wrap", len(text) > 40)) if so]
    attribute = f' class="{" ".join(names)}"' if names else ""
    return f"<td{attribute}>{_text(text)}</td>"


def _class(numeric: bool) -> str:
    return ' class="num"' if numeric else ""


# ------------------------------------------------------------------------------------------------ text and scripts

_NORM = re.compile(r"\|(F\(x\)|x|J [-−] I|I)\|")  # a minus, as in print
_QUOTED = re.compile(r'(?<!\w)"([^"]*)"')
_TOGETHER = re.compile(r"(?<=\d) (?=%|× 10)|(?<=\d\s×) (?=10)")  # no line is broken inside a number
_INDEX = re.compile(r"_\{(\w+)\}")
_POWER = re.compile(r"(?<=\w)\^(-?\w+)")
_MINUS = "\u2212"  # at which, other than at a hyphen, no line is broken
_EXPONENT = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?e[+-]?\d+(?!\w)")


def _text(text: str) -> str:
    """Plain text as HTML; the only markup is `code` and the index in x_{1}."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner is no markup
        return _set(text)
    return "".join(f"<code>{html.escape(part)}</code>" if i % 2 else _set(part) for i, part in enumerate(parts))


def _set(text: str) -> str:
    told = _INDEX.sub(r"<sub>\1</sub>", html.escape(_typeset(text)))
    return _POWER.sub(lambda found: f"<sup>{found[1].replace('-', _MINUS)}</sup>", told)


def _attribute(text: str) -> str:
    return html.escape(_INDEX.sub(r" \1", _typeset(text)), quote=True)


def _typeset(text: str) -> str:
    """Numbers with a power of ten, norms, quotation marks and apostrophes as print has them."""
    text = _EXPONENT.sub(lambda found: number(float(found[0])), text)
    text = _NORM.sub(lambda found: f"‖{found[1].replace('-', _MINUS)}‖", text)
    text = _TOGETHER.sub("\u00a0", text.replace("J - I", f"J {_MINUS} I"))
    return _QUOTED.sub("\u201c\\1\u201d", text).replace("'", "\u2019")


_FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"  # as in page.css


def _spec(chart: alt.FacetChart) -> dict[str, Any]:
    """The chart as the page draws it: without its title and paper, which are the page's."""
    spec: dict[str, Any] = chart.to_dict()
    spec.pop("title", None)
    spec["config"] = {**spec["config"], "background": None, "font": _FONT}
    return spec


def _panels(chart: alt.FacetChart) -> int:
    (rows,) = chart.to_dict()["datasets"].values()
    return len({row["panel"] for row in rows})


def _json(value: object) -> str:
    """JSON that can stand inside a script element: nothing in it can end one."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _resource(name: str) -> str:
    return (resources.files("skipscope.report") / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    import altair as alt  # both are heavy, and wanted only here
    import vl_convert

    vega_lite = alt.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
    script: str = vl_convert.javascript_bundle(None, vega_lite)  # type: ignore[arg-type] # no snippet: the default one
    return script.replace("</script", "<\\/script")
