"""The directive `notebook`: a script of notebooks/ as a page, executed while the documentation is built.

    ```{notebook} 1_one_draw_is_not_enough
    ```

What the page shows is what the cells gave just now: an exception in a cell fails the build. Jupytext reads the script,
nbclient runs it in a kernel of this environment, and what comes out is Markdown that MyST parses. Sphinx keeps the
parsed page, and runs the cells again only when the script or the package has changed; an extension for notebooks in
general would bring a database for that. Cells with the tag `solution` are folded away.
"""

import itertools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jupytext
from docutils.nodes import Node
from nbclient import NotebookClient
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from traitlets.config import Config

import skipscope

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PACKAGE = Path(skipscope.__file__).parent
ENCRYPTED = Config(KernelManager={"transport_encryption": "auto"})  # else every kernel warns of it
SECONDS = 300  # for a cell, on a machine with others at work


def executed(path: Path) -> Any:
    """The notebook with what its cells gave."""
    notebook = jupytext.read(path)
    quiet = logging.getLogger(__name__)
    quiet.setLevel(logging.WARNING)
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", config=ENCRYPTED, log=quiet).execute()
    return notebook


def markdown(cells: Iterable[Any]) -> Iterator[str]:
    """The cells as Markdown; neighbours that are solutions together, behind one word that unfolds them."""
    for solution, group in itertools.groupby(cells, lambda cell: "solution" in cell.metadata.get("tags", ())):
        if solution:
            yield raw('<details class="solution"><summary>Solution</summary>')
        for cell in group:
            yield from [cell.source] if cell.cell_type == "markdown" else code(cell)
        if solution:
            yield raw("</details>")


def code(cell: Any) -> Iterator[str]:
    """What the cell says, and what came of it."""
    yield fenced("{code-block} python", cell.source)
    for output in cell.outputs:
        if output.output_type == "stream":
            yield fenced("{code-block} text", output.text, "output")
        elif "text/html" in output.data:
            yield raw(f'<div class="output">{output.data["text/html"]}</div>')
        else:
            yield fenced("{code-block} text", output.data["text/plain"], "output")


def fenced(language: str, text: str, *classes: str) -> str:
    """A block of code, in a fence that is longer than any in the text."""
    options = "".join(f":class: {name}\n" for name in classes)
    return f"``````{language}\n{options}\n{text.rstrip()}\n``````"


def raw(html: str) -> str:
    """HTML as it is."""
    return f"``````{{raw}} html\n{html}\n``````"


class Notebook(SphinxDirective):
    """Puts the executed notebook in the place of the directive."""

    required_arguments = 1

    def run(self) -> list[Node]:
        """Its cells as nodes."""
        path = NOTEBOOKS / f"{self.arguments[0]}.py"
        for source in (path, *PACKAGE.rglob("*.py")):
            self.env.note_dependency(str(source))
        text = "\n\n".join(markdown(executed(path).cells))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("notebook", Notebook)
    return {"parallel_read_safe": True}
