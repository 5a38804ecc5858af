"""A sweep over depth against only drawing its networks, the notebook's way, PyTorch and JAX; and on two cores."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from benchmarks import baseline, networks, rivals
from benchmarks.networks import QUANTITIES, SPECS, WIDTH, Array, Measure
from benchmarks.timing import COLUMNS, Bound, Row, in_turn, one_core, ratios, seconds, spread, table
from skipscope.readings import Readings
from skipscope.studies.sweep import SWEEP_DEPTHS, sweep

SEEDS = range(1000)
CHECKED = range(rivals.STACKED)
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Way:
    """One way to measure the ten networks of every seed.

    Attributes:
        what: its name in the table.
        measure: takes seeds; its time is proportional to their number.
        seeds: how many it is timed on.
        values: gives the numbers, from skipscope's draw, to compare with skipscope's; None where there are none.
    """

    what: str
    measure: Callable[[Sequence[int]], object]
    seeds: int
    values: Measure | None


def section() -> str:
    """The section of RESULTS.md."""
    with one_core():
        return _one_thread()


def of_skipscope(seeds: Sequence[int], jobs: int = 1) -> Readings:
    """What a user calls."""
    return sweep(seeds=seeds, width=WIDTH, features=networks.FEATURES, jobs=jobs)


def _values(readings: Readings, seeds: Sequence[int]) -> Array:
    """See `networks.Measure`; nan where a quantity is undefined."""
    wide = readings.wide()
    values = np.full((len(SPECS), len(QUANTITIES), len(seeds)), np.nan)
    for network, (design, depth) in enumerate(SPECS):
        for index, quantity in enumerate(QUANTITIES):
            of = (pl.col("design") == design) & (pl.col("depth") == depth) & (pl.col("quantity") == quantity)
            rows = wide.filter(of)
            values[network, index, [seeds.index(seed) for seed in rows["seed"]]] = rows["value"]
    return values


# ---------------------------------------------------------------------------------------------------- on one thread


def _one_thread() -> str:
    jax, compiled = _jax()
    ways = _ways(jax)
    off = {way.what: _off(way) for way in ways}
    taken = in_turn({way.what: functools.partial(way.measure, range(way.seeds)) for way in ways}, n=7)
    each = {way.what: [time / way.seeds for time in taken[way.what]] for way in ways}
    rows = [_row(way, each, off[way.what]) for way in ways]
    if jax is None:
        rows.append([_JAX, *["JAX is not installed"] * 3, "", "", ""])
    bounds = [
        Row("time of skipscope", "drawing", ratios(each[_OURS], each[_DRAWING]), Bound(1.4)),
        Row(f"time of {_NOTEBOOK}", "skipscope", ratios(each[_NOTEBOOK], each[_OURS]), Bound(7, most=False)),
    ]
    tables = table(_COLUMNS, rows), table(COLUMNS, [bound.cells() for bound in bounds])
    return "\n\n".join(["## A sweep over depth", _what(compiled), *tables])


_DRAWING, _OURS, _NOTEBOOK, _JAX = "only drawing", "skipscope", "the notebook's way, `randn`", "JAX, `jit` of `vmap`"
_COLUMNS = ["way", "ms a seed", "in units of drawing", "in units of skipscope", "n", "seeds", "numbers agree to"]


def _ways(jax: Measure | None) -> list[Way]:
    notebook = functools.partial(baseline.measure, source=baseline.legacy)
    return [
        Way(_DRAWING, networks.only_drawing, len(SEEDS), None),
        Way(_OURS, of_skipscope, len(SEEDS), None),
        Way(_NOTEBOOK, notebook, 60, None),
        Way("the notebook's way, skipscope's draw", baseline.measure, 100, baseline.measure),
        Way("PyTorch, one network at a time", rivals.torch_one_by_one, 100, rivals.torch_one_by_one),
        Way("PyTorch, seeds stacked", rivals.torch_stacked, 500, rivals.torch_stacked),
        Way("PyTorch, `torch.func.vmap`", rivals.torch_vmap, 500, rivals.torch_vmap),
        *([] if jax is None else [Way(_JAX, jax, 500, jax)]),
    ]


def _what(compiled: float) -> str:
    depths = ", ".join(map(str, SWEEP_DEPTHS))
    told = (
        f"Ten networks a seed: plain and residual, depths {depths}, width {WIDTH}, one sample, float64. Three numbers "
        "a network: growth a block forwards and backwards, and |dW_first|/|dW_last|. One thread on one core. Skipscope "
        f"is timed as a user calls it, `sweep(seeds=range({len(SEEDS)}))`, which gives three more numbers and the "
        "table. What is drawn are normals for the weights of the deepest network, of which the shallower ones are the "
        "beginning, for an input and for an output gradient; every way's time has its drawing in it. In the notebook's "
        "way every network draws afresh, with NumPy's `randn` as printed there or from skipscope's streams; elsewhere "
        "the ten networks of a seed share skipscope's draw. PyTorch runs eagerly. PyTorch and JAX differentiate what "
        "the three numbers need and no more. The numbers of every way that has skipscope's draw were compared with "
        f"skipscope's, relatively, over {len(CHECKED)} seeds. "
    )
    return told + (f"JAX compiled for {compiled:.0f} s, which is not counted." if compiled else "")


def _jax() -> tuple[Measure | None, float]:
    """The way of JAX, compiled, and how long that took; None and 0 where JAX is not installed."""
    try:
        jax = rivals.Jax()
    except ImportError:
        return None, 0.0
    first, later = (seconds(functools.partial(jax, CHECKED)) for _ in range(2))
    return jax, first - later


def _off(way: Way) -> str:
    """The largest relative difference from skipscope's numbers, in words; raises where that is more than rounding."""
    if way.values is None:
        return ""
    values, expected = way.values(CHECKED), _values(of_skipscope(CHECKED), CHECKED)
    np.testing.assert_allclose(values, expected, rtol=TOLERANCE, err_msg=way.what)
    return f"{np.nanmax(np.abs(values / expected - 1)):.0e}"


def _row(way: Way, each: dict[str, list[float]], off: str) -> list[str]:
    found = each[way.what]
    times = spread([1000 * time for time in found])
    units = ["1" if way.what == other else spread(ratios(found, each[other])) for other in (_DRAWING, _OURS)]
    return [way.what, times, *units, str(len(found)), str(way.seeds), off]


# ----------------------------------------------------------------------------------------------------- on two cores


def cores() -> str:
    """The section of RESULTS.md on worker processes."""
    from joblib import Parallel, delayed

    seeds = range(2 * len(SEEDS))
    parts = networks.chunks(seeds, len(seeds) // 8)
    start_up = _start_up()
    taken = in_turn({"two": lambda: of_skipscope(seeds, jobs=2), "one": lambda: of_skipscope(seeds)}, n=5)
    # Not in turn with the sweeps: joblib ends its workers when others are asked for, and would start them every time.
    drawing = in_turn(
        {
            "two": lambda: Parallel(n_jobs=2)(delayed(networks.only_drawing)(part) for part in parts),
            "one": lambda: networks.only_drawing(seeds),
        },
        n=5,
    )
    rows = [
        Row("throughput with `jobs=2`", "`jobs=1`", ratios(taken["one"], taken["two"]), Bound(1.8, most=False)),
        Row("throughput of only drawing, two processes", "one process", ratios(drawing["one"], drawing["two"])),
    ]
    told = (
        f"The same sweep over {len(seeds)} seeds. The workers, one thread each, are up before the clock starts: the "
        f"first call with `jobs=2` takes {start_up:.1f} s longer than the next. Only drawing shows what the machine's "
        "second core gives to work that shares nothing."
    )
    return "\n\n".join(["## Two cores", told, table(COLUMNS, [row.cells() for row in rows])])


def _start_up() -> float:
    """Seconds that the first call with workers takes longer than later ones."""
    first, *later = (seconds(lambda: of_skipscope(CHECKED, jobs=2)) for _ in range(4))
    return first - statistics.median(later)
