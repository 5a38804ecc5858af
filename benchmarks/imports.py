"""What `import skipscope` costs beyond what it is made of."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.timing import COLUMNS, Bound, Row, Work, in_turn, ratios, table


def section() -> str:
    """The section of RESULTS.md."""
    taken = in_turn({"skipscope": _python("import skipscope"), "parts": _python("import numpy, polars")}, n=15)
    found = ratios(taken["skipscope"], taken["parts"])
    row = Row("time of `import skipscope`", "`import numpy, polars`", found, Bound(1.3))
    return f"## Import\n\nEach in a fresh interpreter.\n\n{table(COLUMNS, [row.cells()])}"


def _python(code: str) -> Work:
    return lambda: subprocess.run([sys.executable, "-c", code], check=True)
