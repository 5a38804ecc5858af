"""The directive `quantities`: the tables of docs/quantities.md, from `skipscope.quantities`."""

import re
from collections.abc import Iterator, Mapping

from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from skipscope.quantities import QUANTITIES, UPDATES, Quantity

SCOPES = {"site": "Of a site", "network": "Of a network as a whole"}
HEADER = "| quantity | what it is | at initialisation |\n|---|---|---|"
CODE = re.compile(r"(`[^`]+`)")
MARKUP = re.compile(r"[\\*_<>\[\]|]")


def markdown(quantities: Mapping[str, Quantity]) -> Iterator[str]:
    """One table a scope, one row a quantity."""
    for scope, title in SCOPES.items():
        yield f"## {title}\n\n{HEADER}"
        yield from (row(name, each) for name, each in quantities.items() if each.scope == scope)
        yield ""


def row(name: str, each: Quantity) -> str:
    """The row of one quantity."""
    about = f"{text(each.about)}<br>*Unit:* {text(each.unit)}. *Source:* {text(each.source)}."
    return f"| `{name}`<br>{text(each.symbol)} | {about} | {text(each.at_init)} |"


def text(written: str) -> str:
    """The text as Markdown that shows it unchanged, but for code in backticks."""
    return "".join(
        part.replace("|", r"\|") if part.startswith("`") else MARKUP.sub(r"\\\g<0>", part)
        for part in CODE.split(written)
    )


class Quantities(SphinxDirective):
    """Puts the tables in the place of the directive."""

    def run(self) -> list[Node]:
        """The tables as nodes."""
        return self.parse_text_to_nodes("\n".join(markdown(QUANTITIES | UPDATES)), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("quantities", Quantities)
    return {"parallel_read_safe": True}
