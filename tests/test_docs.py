"""What README and docs show is what happens: Python sessions are doctests, console blocks are run and compared."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(page.read_text()) if kind == language]


def commands(text: str) -> list[tuple[str, str]]:
    """The commands of a console block with the output that is shown under each."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert parts[0] == "", f"a console block starts with a command: {text!r}"
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts[1:])]


SESSIONS = [(page.name, text) for page in PAGES for text in ["".join(blocks(page, "python"))] if ">>>" in text]
# Installing and building are tested by doing them; what is checked here is what skipscope prints.
CONSOLE = [
    (
        page.name,
        [pair for block in blocks(page, "console") for pair in commands(block) if pair[0].startswith("skipscope")],
    )
    for page in PAGES
]


def shown(*, demo: bool) -> list[tuple[str, list[tuple[str, str]]]]:
    """The commands of every page: the demos, which take a minute, or all others."""
    found = [
        (name, [pair for pair in pairs if pair[0].startswith("skipscope demo") == demo]) for name, pairs in CONSOLE
    ]
    return [(name, pairs) for name, pairs in found if pairs]


def words(text: str) -> list[str]:
    """Output apart from white space, which depends on the width of the terminal."""
    return text.split()


@pytest.mark.parametrize(("name", "text"), SESSIONS, ids=[name for name, _ in SESSIONS])
def test_python_session(name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest(text, {}, name, name, 0)
    failures: list[str] = []

    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).run(
        test, out=failures.append
    )

    assert result.attempted > 0
    assert result.failed == 0, "".join(failures)


@pytest.mark.parametrize(("name", "pairs"), shown(demo=False), ids=lambda each: str(each)[:20])
def test_console(name: str, pairs: list[tuple[str, str]], tmp_path: Path):
    check(name, pairs, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pairs"), shown(demo=True), ids=lambda each: str(each)[:20])
def test_console_demo(name: str, pairs: list[tuple[str, str]], tmp_path: Path):
    check(name, pairs, tmp_path)


def check(name: str, pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    """Run the commands of a page and compare what they print with what it shows."""
    for command, expected in pairs:
        arguments = shlex.split(command, comments=True)[1:]
        done = subprocess.run(
            [sys.executable, "-m", "skipscope", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, f"{name}: $ {command}\n{done.stderr}"
        if expected.strip():
            assert words(done.stdout) == words(expected), f"{name}: $ {command}\n{done.stdout}"


def test_readme_shows_commands_and_sessions():
    assert blocks(ROOT / "README.md", "python")
    assert any(name == "README.md" and pairs for name, pairs in CONSOLE)


def test_the_tests_that_pages_name_are_there():
    named = [
        (page.name, file, test)
        for page in PAGES
        for file, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text(encoding="utf-8"))
    ]
    assert named
    assert not [each for each in named if f"def {each[2]}(" not in (ROOT / each[1]).read_text(encoding="utf-8")]
