"""Study `notebook`: gradient flow as the original notebook did it, beside what its one draw was drawn from.

Its networks (ReLU output, He), its output gradient of ones, its unmatched pair (d plain layers against d residual
blocks) and its ratio |dW_first|/|dW_last|, over many seeds. The seed that comes first plays the notebook's one draw.
Two settings: 16 -> 36 -> 16 at depth 28, and 16 -> 16 at depth 10, which is swept over depth as in its last part; there
a Gaussian cotangent too, which shows what of the result was the cotangent's.
"""

from __future__ import annotations

from collections.abc import Iterable

from skipscope.designs import design
from skipscope.draws import CotangentKind
from skipscope.quantities import QUANTITIES
from skipscope.readings import Readings
from skipscope.studies.ensemble import Cell, Progress, run
from skipscope.studies.named import listed_depths

__all__ = ["DEPTHS", "notebook"]

DEPTHS = (5, 10, 20, 30, 40)
"""The depths of the notebook's scaling study (N9)."""

_QUANTITIES = ("weight_grad_first_last", "forward_growth", "backward_growth")
_DESIGNS = ("plain", "residual")


def notebook(
    *,
    seeds: Iterable[int] = range(2000),
    depths: Iterable[int] = DEPTHS,
    dtype: str = "float64",
    chunk: int | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Readings:
    """Measure the notebook's two settings over seeds: ratios and growth of whole networks.

    Args:
        seeds: the seeds; the first is the one draw.
        depths: of the 16 -> 16 networks.
        dtype: `"float64"` or `"float32"`.
        chunk, jobs, progress: see `skipscope.studies.ensemble.run`.

    Raises:
        InputError: a seed or a depth makes no sense.
    """
    cells = [_cell(name, 28, 36, "ones", dtype) for name in _DESIGNS]
    for depth in listed_depths(depths):
        for cotangent in ("ones", "gaussian"):
            cells += [_cell(name, depth, 16, cotangent, dtype) for name in _DESIGNS]
    return run(cells, seeds, chunk=chunk, jobs=jobs, progress=progress)


def _cell(name: str, depth: int, width: int, cotangent: CotangentKind, dtype: str) -> Cell:
    return Cell(
        spec=design(name, depth=depth, width=width, features=16, output="relu", dtype=dtype),
        factors={"study": "notebook", "design": name, "depth": depth},
        cotangent=cotangent,
        quantities={name: QUANTITIES[name] for name in _QUANTITIES},
        sites=("network",),
    )
