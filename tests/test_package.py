"""What the package says of itself is true, and said the same everywhere."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import skipscope
from skipscope import readings

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The `[project]` table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


@pytest.fixture(scope="module")
def citation() -> dict[str, str]:
    """The one-line entries of CITATION.cff."""
    entries = re.findall(r'^([a-z-]+): "?(.+?)"?$', (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    return dict(entries)


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    """The version of each package in constraints.txt."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    return dict(line.split("==") for line in lines)


def kind(name: str) -> int:
    """Constants, then classes, then the rest: the order that the linter gives `__all__`."""
    return 0 if name.isupper() else 1 if name[0].isupper() else 2


def test_all_is_sorted():
    assert list(skipscope.__all__) == sorted(set(skipscope.__all__), key=lambda name: (kind(name), name))


@pytest.mark.parametrize("name", skipscope.__all__)
def test_public_name_is_there(name: str):
    assert getattr(skipscope, name) is not None
    assert name in dir(skipscope)


def test_all_is_complete():
    def ours(value: object) -> bool:
        return not isinstance(value, ModuleType) and getattr(value, "__module__", "skipscope").startswith("skipscope")

    public = {name for name, value in vars(skipscope).items() if not name.startswith("_") and ours(value)}

    assert public - {"TYPE_CHECKING", "annotations"} <= set(skipscope.__all__)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        skipscope.no_such_name  # noqa: B018 - the attribute access is what is tested


def test_versions_agree(project: dict[str, Any], citation: dict[str, str]):
    assert skipscope.__version__ == project["version"] == citation["version"]


def test_citation_agrees(project: dict[str, Any], citation: dict[str, str]):
    assert citation["title"] == project["name"]
    assert citation["license"] == project["license"]
    assert citation["abstract"].startswith(project["description"])


def test_types_are_shipped():
    assert resources.files("skipscope").joinpath("py.typed").is_file()


def test_every_dependency_has_an_exact_version(project: dict[str, Any], pins: dict[str, str]):
    extras = project["optional-dependencies"].values()
    required = [Requirement(line) for line in sum(extras, start=project["dependencies"])]

    unmet = [
        str(each)
        for each in required
        if each.name != project["name"] and not each.specifier.contains(pins.get(canonicalize_name(each.name), "0"))
    ]

    assert unmet == []


def test_every_module_is_in_the_reference():
    source = ROOT / "src" / "skipscope"
    modules = {
        ".".join(file.relative_to(source.parent).with_suffix("").parts).removesuffix(".__init__")
        for file in source.rglob("*.py")
        if re.search(r"^__all__", file.read_text(), flags=re.MULTILINE)
    }

    described = set(re.findall(r"automodule:: ([\w.]+)", (ROOT / "docs" / "api.md").read_text()))

    assert modules - described == {"skipscope"}, "name the module in docs/api.md"
    assert described <= modules


def test_the_schema_page_has_every_column():
    page = (ROOT / "docs" / "readings.md").read_text()

    for title, schema in (("rows", readings.ROWS), ("cells", readings.CELLS), ("sites", readings.SITES)):
        section = page.partition(f"## `{title}`")[2].partition("\n## ")[0]
        lines = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
        described = {name: dtype.strip() for names, dtype in lines for name in re.findall("`(.+?)`", names)}
        assert described == {name: str(dtype()) for name, dtype in schema.items()}
