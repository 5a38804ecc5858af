"""Speed, as ratios within one run: machines are noisy, but what they do in the same minute compares.

`make bench` runs this and writes RESULTS.md beside it. Every figure is a median over interleaved repetitions, with the
smallest and largest ratio, and is named with its n.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import skipscope
from skipscope import draws, notebook
from skipscope.designs import design
from skipscope.studies.ensemble import Cell, measure, run

RESULTS = Path(__file__).with_name("RESULTS.md")
PACKAGES = ("skipscope", "numpy", "polars", "scipy")


@dataclass(frozen=True)
class Ratio:
    """How long one thing takes in units of another, over interleaved repetitions."""

    what: str
    against: str
    bound: str
    ratios: list[float]

    def row(self) -> str:
        """A line of the table."""
        middle, low, high = statistics.median(self.ratios), min(self.ratios), max(self.ratios)
        figure = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        return f"| {self.what} | {self.against} | {figure} | {len(self.ratios)} | {self.bound} |"


def seconds(function: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleaved(
    what: str, function: Callable[[], object], against: str, other: Callable[[], object], *, n: int, bound: str
) -> Ratio:
    """Time both n times in turn, after one warm-up of each."""
    function()
    other()
    ratios = []
    for _ in range(n):
        below = seconds(other)
        ratios.append(seconds(function) / below)
    return Ratio(what, against, bound, ratios)


def python(code: str) -> Callable[[], object]:
    """Running `code` in a fresh interpreter."""
    return lambda: subprocess.run([sys.executable, "-c", code], check=True)


def imports() -> Ratio:
    """What `import skipscope` costs beyond what it is made of."""
    return interleaved(
        "`import skipscope`",
        python("import skipscope"),
        "`import numpy, polars`",
        python("import numpy, polars"),
        n=15,
        bound="at most 1.3",
    )


def _cell() -> Cell:
    return Cell(
        spec=design("plain", depth=28, width=36, features=16, output="relu"),
        factors={"design": "plain"},
        quantities={name: skipscope.QUANTITIES[name] for name in ("forward_growth", "backward_growth")},
        sites=("network",),
    )


def ensemble() -> Ratio:
    """Measuring an ensemble against drawing its weights, the part that nobody can leave out."""
    cell, seeds = _cell(), range(400)
    size = cell.spec.parameters
    return interleaved(
        "400 plain networks of depth 28, width 36, measured",
        lambda: run([cell], seeds),
        "only drawing their weights",
        lambda: [draws.normals((seed,), "weights", (size,)) for seed in seeds],
        n=7,
        bound="",
    )


def one_by_one() -> Ratio:
    """The same networks one at a time, as a script in the notebook's style does it."""
    cell, seeds = _cell(), range(100)

    def learner() -> None:
        for seed in seeds:
            network = notebook.PlainNetwork(16, 36, 28, seed=seed)
            y = network.forward(draws.normals((seed,), "input", (1, 16))[0])
            network.backward(np.ones_like(y))
            network.gradient_norms()

    return interleaved(
        "100 such networks one at a time, layer by layer",
        learner,
        "as one ensemble",
        lambda: measure([cell], tuple(seeds)),
        n=7,
        bound="",
    )


def machine() -> str:
    """What the figures were measured on."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    cores = f"{os.cpu_count()} cores ({platform.machine()}), one BLAS thread"
    return f"{cores}, Python {platform.python_version()}, {versions}."


def main() -> None:
    """Measure everything and write the table."""
    with threadpool_limits(limits=1, user_api="blas"):
        rows = [measured().row() for measured in (imports, ensemble, one_by_one)]
    table = "\n".join(
        [
            "# Speed",
            "",
            f"Written by `make bench`. {machine()}",
            "",
            "| time of | in units of | median (smallest to largest) | n | bound |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    RESULTS.write_text(table)
    print(table)


if __name__ == "__main__":
    main()
