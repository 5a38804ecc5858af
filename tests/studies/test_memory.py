"""Ten times the seeds take hardly more memory: readings are packed, and written piece by piece."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT = 1.2  # the promise; rows held as tables of texts took 2.2 to 2.7 times as much

RUN = """
import resource, sys

from skipscope.designs import design
from skipscope.quantities import QUANTITIES
from skipscope.studies.ensemble import Cell, run

names = ("weight_grad_first_last", "forward_growth", "backward_growth")
cells = [
    Cell(
        spec=design(name, depth=depth, width=36, features=16, output="relu"),
        factors={"design": name, "depth": depth},
        quantities={each: QUANTITIES[each] for each in names},
        sites=("network",),
    )
    for depth in range(3, 8)
    for name in ("plain", "residual")
]
readings = run(cells, range(int(sys.argv[1])), folder=sys.argv[3] if len(sys.argv) > 3 else None)
readings.save(sys.argv[2])
"""
SWEEP = """
import resource, sys

from skipscope.cli import cli

try:
    cli(["sweep", "--depths", "3:7:1", "--seeds", sys.argv[1], "--out", sys.argv[2]])
except SystemExit as done:
    assert not done.code
"""
PEAK = (
    "\nprint('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"  # in units of the system's
)


def peak(program: str, *arguments: str) -> int:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "POLARS_MAX_THREADS": "2"}
    command = [sys.executable, "-c", program + PEAK, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=600)
    return int(done.stderr.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage")
@pytest.mark.parametrize("way", ["run", "folder", "command line"])
def test_ten_thousand_seeds_take_hardly_more_memory_than_a_thousand(way: str, tmp_path: Path):
    peaks = {}
    for seeds in (1_000, 10_000):
        files = [str(tmp_path / f"{seeds}.parquet"), *([str(tmp_path / f"run{seeds}")] if way == "folder" else [])]
        peaks[seeds] = peak(SWEEP if way == "command line" else RUN, str(seeds), *files)

    assert peaks[10_000] <= LIMIT * peaks[1_000], peaks
