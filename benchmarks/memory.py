"""Peak memory of a sweep over ten times the seeds, each sweep in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from types import MappingProxyType

from benchmarks.timing import COLUMNS, Bound, Row, ratios, table

FEW, MANY = 1000, 10_000

# Linux keeps a process's peak in /proc; its ru_maxrss would begin at the peak of the process that started this one.
PEAK = """
import pathlib, resource, sys
status = pathlib.Path("/proc/self/status")
if status.exists():
    kib = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
else:
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
print(kib / 1024)
"""
_SWEEP = "from skipscope.studies import sweep\nsweep(seeds=range({seeds}))\n"
_SITES = (
    "import tempfile\nfrom skipscope.studies import sweep\n"
    "with tempfile.TemporaryDirectory() as place:\n"
    "    sweep(seeds=range({seeds}), depths=[5, 10], sites=True, folder=place + '/run')\n"
)


def section() -> str:
    """The section of RESULTS.md."""
    imports = peaks("import skipscope.studies\n", seeds=0, n=3)
    rows, told = [], []
    for what, code, n in (("network-level readings", _SWEEP, 2), ("site-level readings, in a folder", _SITES, 2)):
        few, many = (peaks(code, seeds=seeds, n=n) for seeds in (FEW, MANY))
        rows.append(Row(f"{what}, {MANY:,} seeds", f"{FEW:,} seeds", ratios(many, few), Bound(1.2)))
        told.append(f"{what}: {min(few):.0f} MiB and {min(many):.0f} MiB")
    text = (
        "Of the process that measures, with its imports, which alone take "
        f"{min(imports):.0f} MiB: plain and residual networks of width 36, of depths 5, 10, 20, 30, 40 where the "
        f"readings are of networks, and 5, 10 where they are of sites. With {FEW:,} and {MANY:,} seeds: "
        f"{'; '.join(told)}."
    )
    return "\n\n".join(["## Peak memory", text, table(COLUMNS, [row.cells() for row in rows])])


def peaks(code: str, *, seeds: int, n: int, settings: Mapping[str, str] = MappingProxyType({})) -> list[float]:
    """MiB of n interpreters, with these settings beside those of the environment."""
    command = [sys.executable, "-c", code.format(seeds=seeds) + PEAK]
    around = os.environ | settings
    runs = (subprocess.run(command, check=True, capture_output=True, text=True, env=around) for _ in range(n))
    return [float(run.stdout) for run in runs]
