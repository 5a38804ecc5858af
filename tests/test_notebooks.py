"""The notebooks run from top to bottom, warn of nothing, and keep to what a lesson of theirs looks like."""

from __future__ import annotations

import itertools
import logging
import re
from pathlib import Path
from typing import Any

import jupytext  # type: ignore[import-untyped]
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))
SLOW = ["5_degradation_and_lesions"]
ENCRYPTED = Config(KernelManager={"transport_encryption": "auto"})  # else every kernel warns of it
NUMBER = re.compile(r"(?<![\w./])\d+\.\d+(?![\w/])")
LONGEST = 22  # lines of a cell


def cells(path: Path) -> list[Any]:
    return jupytext.read(path).cells


def solution(cell: Any) -> bool:
    return "solution" in cell.metadata.get("tags", ())


each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_marked = pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] if path.stem in SLOW else []) for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)


def execute(notebook: Any, folder: Path) -> None:
    """Run every cell, as docs/_ext/notebooks.py does; a cell that raises, raises here."""
    quiet = logging.getLogger(__name__)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources=resources, config=ENCRYPTED, log=quiet
    ).execute()


@each_marked
def test_runs_and_warns_of_nothing(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONWARNINGS", "default")  # pytest's own filters do not reach the kernel
    notebook = jupytext.read(path)

    execute(notebook, tmp_path)

    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    said = [output.text for cell in code for output in cell.outputs if output.get("name") == "stderr"]
    assert said == []
    assert any("<svg" in str(output.get("data", {}).get("text/html")) for cell in code for output in cell.outputs)
    assert list(tmp_path.iterdir()) == []


def test_a_cell_that_fails_fails_the_test(tmp_path: Path):
    notebook = jupytext.reads("# %%\nassert 1 + 1 == 3\n", fmt="py:percent")

    with pytest.raises(Exception, match="AssertionError"):
        execute(notebook, tmp_path)


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 3
    assert {path.stem for path in NOTEBOOKS} >= set(SLOW)


@each
def test_every_exercise_has_its_solution_behind_it(path: Path):
    found = cells(path)
    kinds = ["solution" if solution(cell) else "exercise" * ("**Exercise" in cell.source) for cell in found]
    pairs = [(kind, after) for kind, after in itertools.pairwise([*kinds, ""]) if kind == "exercise"]

    assert len(pairs) >= 3
    assert all(after == "solution" for _, after in pairs)
    assert all(cell.metadata.jupyter["source_hidden"] for cell in found if solution(cell))
    numbers = [int(n) for cell in found for n in re.findall(r"\*\*Exercise (\d+)", cell.source)]
    assert numbers == list(range(1, len(pairs) + 1))


@each
def test_asks_for_predictions(path: Path):
    assert sum("**Predict" in cell.source for cell in cells(path)) >= 3


@each
def test_cells_are_short(path: Path):
    assert max(len(cell.source.splitlines()) for cell in cells(path)) <= LONGEST


@each
def test_a_number_in_prose_is_one_that_a_cell_computes_with(path: Path):
    """Results are shown by cells; a sentence may name a setting, not a measurement."""
    found = cells(path)
    code = "\n".join(cell.source for cell in found if cell.cell_type == "code")
    prose = "\n".join(cell.source for cell in found if cell.cell_type == "markdown")
    numbers = {number for number in NUMBER.findall(re.sub(r"arXiv:\S+|https?:\S+", "", prose))}

    assert {number for number in numbers if number not in code} <= {"4.1"}  # a section of the paper


@each
def test_is_a_page_of_the_docs(path: Path):
    page = NOTEBOOKS[0].parents[1] / "docs" / "notebooks" / f"{path.stem}.md"

    assert page.read_text() == f"```{{notebook}} {path.stem}\n```\n"
    assert path.stem in (page.parent / "index.md").read_text()
