"""Docstrings are written to be read in the source: plain text, code in single backticks, formulas and tables indented.

Sphinx would read them as reStructuredText, where `|x|` is a substitution and an indented table a quotation. This turns
the first into the second. *Emphasis* stays, and so do the sections (Args, Raises, ...): they are napoleon's, which runs
after it.
"""

import re
from collections.abc import Iterator

from sphinx.application import Sphinx

SECTION = re.compile(r"(Args|Attributes|Examples?|Note|Raises|Returns|Yields):")
CODE = r"``.+?``|`(?P<code>[^`]+)`"
EMPHASIS = r"(?<![\w*])(?P<stars>\*{1,2})(?=[^\s*])[^*]+(?<=[^\s*])(?P=stars)(?![\w*])"
MARKUP = r"(?P<markup>[*|]|(?<=\w)_(?!\w))"
TOKEN = re.compile(f"{CODE}|{EMPHASIS}|{MARKUP}", flags=re.DOTALL)


def paragraphs(lines: list[str]) -> Iterator[tuple[bool, list[str]]]:
    """The paragraphs of a docstring, and whether each is literal: indented, and not part of a section."""
    paragraph: list[str] = []
    in_section = False
    for line in [*lines, ""]:
        if line:
            paragraph.append(line)
        elif paragraph:
            indented = paragraph[0][0].isspace()
            in_section = in_section and indented
            yield indented and not in_section, paragraph
            in_section = in_section or bool(SECTION.fullmatch(paragraph[0]))
            paragraph = []


def restructured(token: re.Match[str]) -> str:
    """Code in the backticks that Sphinx takes for code; a character that would be markup, escaped."""
    if token["code"]:
        return f"``{token['code']}``"
    return f"\\{token['markup']}" if token["markup"] else token[0]


def rewrite(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Rewrite one docstring in place (autodoc-process-docstring)."""
    written: list[str] = []
    for literal, paragraph in paragraphs(lines):
        text = ["::", "", *paragraph] if literal else TOKEN.sub(restructured, "\n".join(paragraph)).split("\n")
        written += [*text, ""]
    lines[:] = written


def setup(app: Sphinx) -> dict[str, bool]:
    """Run before napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", rewrite, priority=400)
    return {"parallel_read_safe": True}
