"""The light half is a promise, and this is where it is kept: fresh interpreters tell what they have imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"altair", "joblib", "pandas", "rich", "scipy", "sklearn", "torch"}
# What runs after the code under test; the command line ends with SystemExit, hence `finally`.
REPORT = "print('\\nimported', *{name.partition('.')[0] for name in sys.modules})"


def imported(code: str) -> set[str]:
    """The packages that a fresh interpreter has imported after running `code`."""
    script = f"import sys\ntry:\n    {code}\nfinally:\n    {REPORT}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    word, *packages = done.stdout.splitlines()[-1].split()
    assert word == "imported"
    return set(packages)


def command_line(*arguments: str) -> str:
    """Code that runs `python -m skipscope` with the arguments."""
    return f"import runpy; sys.argv[1:] = {list(arguments)}; runpy.run_module('skipscope', run_name='__main__')"


def test_import_is_light():
    packages = imported("import skipscope")

    assert "skipscope" in packages
    assert not packages & HEAVY


def test_import_leaves_the_engines_for_later():
    """Which is why it takes little more than NumPy and Polars do: see the benchmark of imports."""
    code = "import skipscope; assert 'skipscope.engines.numpy_engine' not in sys.modules; skipscope.build"

    assert "skipscope" in imported(code)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_the_command_line_answers_without_heavy_imports(arguments: list[str]):
    packages = imported(command_line(*arguments))

    assert "click" in packages
    assert not packages & {"altair", "pandas", "scipy", "sklearn", "torch"}


def test_a_probe_of_numpy_networks_does_not_look_for_torch():
    code = (
        "import skipscope; n = skipscope.build(skipscope.Spec.dense(width=4, blocks=2), seed=0); skipscope.probe(n, 2)"
    )

    assert "torch" not in imported(code)


def test_the_check_can_fail():
    assert imported("import skipscope; import scipy.special") & HEAVY == {"scipy"}
