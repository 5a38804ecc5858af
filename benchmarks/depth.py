"""Whether a layer of a very deep network costs what a layer of a shallow one does."""

from __future__ import annotations

import functools

from benchmarks.networks import FEATURES, QUANTITIES, WIDTH
from benchmarks.timing import COLUMNS, Bound, Row, in_turn, one_core, ratios, spread, table
from skipscope import QUANTITIES as FORMULAS
from skipscope.spec import Spec
from skipscope.studies.ensemble import Cell, measure

BATCH = 16
DEPTHS = {100: 40, 1000: 4, 10_000: 1}  # blocks: networks, one after the other


def section() -> str:
    """The section of RESULTS.md."""
    with one_core():
        taken = in_turn({str(depth): functools.partial(_measured, depth) for depth in DEPTHS}, n=9)
    each = {
        depth: [1e6 * time / (networks * _cell(depth).spec.depth) for time in taken[str(depth)]]
        for depth, networks in DEPTHS.items()
    }
    shallow, *deep = DEPTHS
    rows = [
        Row(f"time a layer, depth {depth:,}", f"depth {shallow}", ratios(each[depth], each[shallow]), Bound(1.15))
        for depth in deep
    ]
    text = (
        "Residual networks with a branch of zero mean (pre-activation order) and branch gain 1/sqrt(L), so that "
        f"nothing overflows: L blocks of two layers, width {WIDTH}, {BATCH} samples, the three numbers of the sweep. "
        "From the list of layers and the draw to the numbers, one network at a time at every depth; µs a layer: "
        f"{'; '.join(f'depth {depth:,} {spread(times)}' for depth, times in each.items())}."
    )
    return "\n\n".join(["## Depth", text, table(COLUMNS, [row.cells() for row in rows])])


def _measured(depth: int) -> None:
    for seed in range(DEPTHS[depth]):
        measure([_cell(depth)], (seed,))


def _cell(depth: int) -> Cell:
    """Made anew, with nothing of what a spec or a cell keeps for the next time."""
    return Cell(
        spec=Spec.dense(width=WIDTH, blocks=depth, features=FEATURES, order="pre-activation", branch_gain="1/sqrt(L)"),
        factors={"design": "residual"},
        batch=BATCH,
        quantities={name: FORMULAS[name] for name in QUANTITIES},
        sites=("network",),
    )
