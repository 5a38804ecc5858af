"""What the readings of study `lesion` say: how much of what a network has learnt goes with its blocks.

Right of the waist: readings in, tables and findings out (drawn by `skipscope.charts.lesion`).

*Damage.* Errors of networks that differ without a lesion cannot be compared by their rise. So what is judged is

    damage = (error - error of the intact network)/(error of guessing - error of the intact network),

seed by seed: 0 where nothing is lost, 1 where nothing is left of what was learnt; guessing always answers the commonest
class. A network whose intact error is more than half of that of guessing has learnt too little to lose it, and is left
out of every damage. Over blocks and random draws a network counts by its mean; intervals are Student's t over seeds,
whose networks are independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skipscope.absences import is_model
from skipscope.diagnosis import Finding, Verdict
from skipscope.errors import InputError
from skipscope.intervals import student
from skipscope.readings import Readings, require_readings
from skipscope.spec import Spec
from skipscope.words import number, tenths

__all__ = [
    "DESTROYED",
    "HARDLY",
    "LEARNT",
    "NETWORKS",
    "block_data",
    "damages",
    "deleted_data",
    "findings",
    "intact_data",
    "swapped_data",
]

Array = NDArray[np.float64]

HARDLY = 0.1
"""The mean damage below which a lesion hardly matters."""

DESTROYED = 0.5
"""The mean damage above which a lesion destroys the network; and the largest step of damage that is not abrupt."""

LEARNT = 0.5
"""Which part of the error of guessing a network may have at most to have learnt something."""

NETWORKS = 8
"""Networks that a verdict needs."""

_KIND = ("design", "depth", "width", "gain", "norm", "order", "data", "dtype", "steps", "rate", "spec")
"""The columns of the table of cells that all lesions of one kind of network share."""


def damages(readings: Readings) -> pl.DataFrame:
    """Every error that was measured, with its damage.

    Returns:
        One row a network and lesion: `kind` (the cell of the intact networks), `seed`, `done`, `k`, `draw`, `block`
        (its place from 1, 0 where blocks were chosen at random), `error`, `intact`, `guess`, `damage` (null for a
        network that has learnt too little), `tau` (null but for swaps).

    Raises:
        InputError: the readings hold no lesions, or no network without one.
    """
    _require(readings)
    cells = _kinds(readings)
    asked = pl.col("quantity").is_in(("test_error", "guess_error", "kendall_tau"))
    told = readings.rows.filter(asked, pl.col("value").is_finite())
    rows = told.join(cells, on="cell").join(_places(readings), on=["cell", "site"])
    wide = rows.pivot("quantity", index=["kind", "seed", "done", "k", "draw", "block"], values="value")
    for name in ("guess_error", "kendall_tau"):
        if name not in wide.columns:
            wide = wide.with_columns(pl.lit(None, pl.Float64).alias(name))
    before = wide.filter(done="nothing").select("kind", "seed", intact="test_error", guess="guess_error")
    found = wide.filter(pl.col("done") != "nothing").drop("guess_error").join(before, on=["kind", "seed"])
    learnt = pl.col("intact") <= LEARNT * pl.col("guess")
    damage = (pl.col("test_error") - pl.col("intact")) / (pl.col("guess") - pl.col("intact"))
    return found.select(
        *("kind", "seed", "done", "k", "draw", "block"),
        error="test_error",
        intact="intact",
        guess="guess",
        damage=pl.when(learnt).then(damage),
        tau="kendall_tau",
    ).sort("kind", "done", "k", "draw", "block", "seed", nulls_last=True)


def _require(readings: Readings) -> None:
    require_readings(readings)
    if is_model(readings):
        raise InputError("these are lesions of a model of one's own: skipscope.absences says what they show.")
    if "done" not in readings.cells.columns or readings.cells.filter(done="nothing").is_empty():
        raise InputError(
            "these readings hold no trained network with nothing done to it, which its lesions are held against: "
            "measure it with `lesion`, at a smaller rate if its training failed."
        )
    if readings.where(pl.col("quantity") == "test_error", pl.col("value").is_finite()).rows.is_empty():
        raise InputError("these readings hold no test_error that is a number: measure with `lesion`.")


def _kinds(readings: Readings) -> pl.DataFrame:
    """Columns `cell`, `kind`, `done`, `k`, `draw` of all lesions."""
    cells = readings.cells
    for name, dtype in (("k", pl.Int64), ("draw", pl.Int64)):
        if name not in cells.columns:
            cells = cells.with_columns(pl.lit(None, dtype).alias(name))
    shared = [name for name in _KIND if name in cells.columns]
    intact = cells.filter(done="nothing").select(*shared, kind="cell")
    known = cells.filter(pl.col("done").is_in(("nothing", "one deleted", "deleted", "swapped")))
    return known.join(intact, on=shared, nulls_equal=True).select("cell", "kind", "done", "k", "draw")


def _places(readings: Readings) -> pl.DataFrame:
    return readings.sites.select("cell", "site", "block")


# --------------------------------------------------------------------------------------------------------- the tables


def intact_data(readings: Readings) -> pl.DataFrame:
    """One row a kind of network, with nothing done to it.

    Returns:
        `kind`, `design`, `depth`, `blocks`, `plain`, `begun` (networks whose training began), `n` (those that it did
        not fail), `intact` (mean error), `guess`, `learnt` (networks that have learnt enough to be judged); and of one
        deleted block, means over blocks: `error`, and `damage` with its 95 % interval `low`, `high`.

    Raises:
        InputError: see `damages`.
    """
    found, begun = damages(readings), _begun(readings)
    rows = []
    for cell in readings.cells.filter(done="nothing").iter_rows(named=True):
        one = found.filter(kind=cell["cell"], done="one deleted")
        firsts, means = pl.col("intact", "guess").first(), pl.col("error", "damage").mean()
        each = one.group_by("seed", maintain_order=True).agg(firsts, means)
        body = Spec.from_json(cell["spec"]).body
        rows.append(
            {
                "kind": cell["cell"],
                "design": cell["design"],
                "depth": cell["depth"],
                "blocks": len(body),
                "plain": any(block.plain for block in body),
                "begun": begun.get(cell["cell"], each.height),
                "n": each.height,
                "intact": each["intact"].mean(),
                "error": each["error"].mean(),
                "guess": each["guess"].mean(),
                "learnt": each["damage"].count(),
                **_spread("damage", each["damage"]),
            }
        )
    floats = ("intact", "error", "guess", "damage", "low", "high")
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(floats, pl.Float64))


def _begun(readings: Readings) -> dict[str, int]:
    """How many networks of every kind were trained, by the readings of their training."""
    trained = readings.cells.filter(done="training")
    shared = [name for name in _KIND if name in readings.cells.columns]
    intact = readings.cells.filter(done="nothing").select(*shared, kind="cell")
    cells = trained.join(intact, on=shared, nulls_equal=True).select("cell", "kind")
    rows = readings.rows.join(cells, on="cell")
    return dict(rows.group_by("kind").agg(pl.col("seed").n_unique()).iter_rows())


def _spread(name: str, values: pl.Series) -> dict[str, float | None]:
    """The mean with its 95 % interval, over networks."""
    known = values.drop_nulls().to_numpy()
    low, high = interval(known)
    return {name: float(known.mean()) if len(known) else None, "low": low, "high": high}


def interval(values: Array) -> tuple[float | None, float | None]:
    """Of the mean, at 95 %: Student's t; None for fewer than two values."""
    return student(values)[1:] if len(values) > 1 else (None, None)


def block_data(readings: Readings) -> pl.DataFrame:
    """The error with one block deleted, one row a kind of network and block.

    Returns:
        `kind`, `design`, `block`, `n` networks, `error` with its 95 % interval `low`, `high`, `intact` and `guess`
        (means), `damage` (mean), and `ratio`, the mean of |F(x)|/|x| at the junction, null in plain networks.

    Raises:
        InputError: see `damages`.
    """
    found = damages(readings).filter(done="one deleted")
    ratios = _ratios(readings).group_by("kind", "block").agg(ratio=pl.col("ratio").mean())
    table = _grouped(found, ["kind", "block"]).join(ratios, on=["kind", "block"], how="left")
    return _with_design(table, readings).drop("k", "tau").sort("place", "block").drop("place")


def _ratios(readings: Readings) -> pl.DataFrame:
    """The size of every branch of the intact networks: columns `kind`, `seed`, `block`, `ratio`."""
    intact = readings.cells.filter(done="nothing").select(kind="cell")
    rows = readings.rows.filter(quantity="branch_ratio").join(intact, left_on="cell", right_on="kind")
    return rows.join(_places(readings), on=["cell", "site"]).select("seed", "block", kind="cell", ratio="value")


def deleted_data(readings: Readings) -> pl.DataFrame:
    """The error with k random blocks deleted, one row a kind of network and k, of which the first is 0.

    Returns:
        `kind`, `design`, `k`, `n` networks, `error` with its 95 % interval `low`, `high`, `intact`, `guess`, `damage`;
        a network counts by its mean over draws.

    Raises:
        InputError: see `damages`.
    """
    return _by_k(readings, "deleted").drop("tau")


def swapped_data(readings: Readings) -> pl.DataFrame:
    """The error with blocks swapped at random k times, one row a kind of network and k, of which the first is 0.

    Returns:
        As `deleted_data`, with `tau`, the mean of Kendall's rank correlation between the orders before and after.

    Raises:
        InputError: see `damages`.
    """
    return _by_k(readings, "swapped")


def _by_k(readings: Readings, done: str) -> pl.DataFrame:
    found = damages(readings).filter(done=done)
    none = found.unique(["kind", "seed"], maintain_order=True).with_columns(
        k=pl.lit(0, pl.Int64),
        error="intact",
        damage=pl.when(pl.col("damage").is_not_null()).then(0.0),
        tau=pl.when(pl.col("tau").is_not_null()).then(1.0),
    )
    each = ["kind", "k", "seed"]
    together = pl.concat([none, found.select(none.columns)])
    means = together.group_by(each).agg(
        pl.col("error", "intact", "guess", "damage", "tau").mean(), pl.col("block").first()
    )
    return _with_design(_grouped(means, ["kind", "k"]), readings).drop("block").sort("place", "k").drop("place")


def _grouped(rows: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Means over networks; of the error with its interval."""
    found = []
    for _, part in rows.sort(*keys, "seed").group_by(keys, maintain_order=True):
        low, high = interval(part["error"].to_numpy())
        means = {name: part[name].mean() for name in ("error", "intact", "guess", "damage", "tau")}
        first = part.row(0, named=True)
        found.append({"kind": first["kind"], "block": first["block"], "k": first["k"], "n": part.height, **means})
        found[-1] |= {"low": low, "high": high}
    floats = ("error", "intact", "guess", "damage", "tau", "low", "high")
    schema: dict[str, Any] = {"kind": pl.String, "block": pl.Int64, "k": pl.Int64, "n": pl.Int64}
    return pl.DataFrame(found, schema=schema | dict.fromkeys(floats, pl.Float64))


def _with_design(table: pl.DataFrame, readings: Readings) -> pl.DataFrame:
    """With the design, and its place among all."""
    known = readings.cells.filter(done="nothing").select("design", kind="cell").with_row_index("place")
    return table.join(known, on="kind").select("kind", "design", pl.exclude("kind", "design"))


# ----------------------------------------------------------------------------------------------------------- findings

_T = f"interval: Student's t over seeds, 95 %; a verdict needs {NETWORKS} networks that have learnt something"
_VEIT = "Veit et al. 2016, arXiv:1605.06431"
_SOURCE = f"the claim: {_VEIT}; the thresholds are conventions of this instrument; {_T}"
_RULES = {
    "one deleted block hardly matters": (
        f"holds: the mean damage over blocks is below {HARDLY:g} (0 is none, 1 is all that was learnt), with its whole "
        "interval; does not hold: it is above"
    ),
    "one deleted block destroys it": (
        f"holds: the mean damage over blocks is above {DESTROYED:g} (0 is none, 1 is all that was learnt), with its "
        "whole interval; does not hold: it is below"
    ),
    "shortcuts soften the loss of a block": (
        "holds: the mean damage of one deleted block is smaller than in the plain network of the same seed, with the "
        "whole interval of the difference; does not hold: it is larger"
    ),
    "the error grows smoothly with the blocks deleted": (
        "holds: no step of the mean damage from one number of deleted blocks to the next that was measured is above "
        f"{DESTROYED:g}, with the whole interval of the largest, and all damage together is above {HARDLY:g}; does not "
        "hold: a step is above"
    ),
    "the more the order is disturbed, the larger the error": (
        "holds: over swaps and draws the slope of the damage on 1 - tau (tau: Kendall's rank correlation of the order "
        "before and after) is above 0, with its whole interval; does not hold: it is below"
    ),
    "blocks with larger branches matter more": (
        "holds: Spearman's rank correlation over blocks between |F(x)|/|x| and the damage of deleting the block is "
        "above 0, with its whole interval; does not hold: it is below"
    ),
}


@dataclass(frozen=True)
class _Kind:
    """One kind of network, with its rows of `damages`."""

    cell: Mapping[str, Any]
    rows: pl.DataFrame
    ratios: pl.DataFrame

    @property
    def plain(self) -> bool:
        return any(block.plain for block in Spec.from_json(self.cell["spec"]).body)

    @property
    def subject(self) -> str:
        norm = "no norm" if self.cell["norm"] == "none" else f"{self.cell['norm']} norm"
        order = "" if self.plain else f", {self.cell['order']}"
        at = f"depth {self.cell['depth']}, width {self.cell['width']}, {norm}{order}, {self.cell['data']}"
        return f"the {self.cell['design']} design at {at}"

    @cached_property
    def one(self) -> pl.DataFrame:
        """Of networks that have learnt something: the damage of every block."""
        return self.rows.filter(pl.col("done") == "one deleted", pl.col("damage").is_not_null())

    @cached_property
    def mean_damage(self) -> dict[int, float]:
        """By seed."""
        return dict(self.one.group_by("seed").agg(pl.col("damage").mean()).sort("seed").iter_rows())

    def finding(self, rule: str, verdict: Verdict, statement: str, evidence: pl.DataFrame) -> Finding:
        return Finding(
            rule=rule,
            cell=self.cell["cell"],
            subject=self.subject,
            verdict=verdict,
            statement=statement,
            evidence=evidence,
            threshold=_RULES[rule],
            source=_SOURCE,
        )


def findings(readings: Readings) -> list[Finding]:
    """What readings of study `lesion` show: each a claim with the verdict holds, does not hold, or cannot tell.

    Raises:
        InputError: see `damages`.
    """
    found, ratios = damages(readings), _ratios(readings)
    kinds = [
        _Kind(cell, found.filter(kind=cell["cell"]), ratios.filter(kind=cell["cell"]))
        for cell in readings.cells.filter(done="nothing").iter_rows(named=True)
    ]
    return [finding for kind in kinds for finding in _asked(kind, kinds)]


def _asked(kind: _Kind, kinds: Sequence[_Kind]) -> Iterator[Finding]:
    if not kind.rows.filter(done="one deleted").is_empty():
        yield _destroyed(kind) if kind.plain else _hardly(kind)
        if not kind.plain:
            yield from (_softened(kind, other) for other in kinds if _comparable(kind, other))
    if kind.plain:
        return
    if kind.rows.filter(done="deleted")["k"].n_unique() > 1:
        yield _smooth(kind)
    if not kind.rows.filter(done="swapped").is_empty():
        yield _ordered(kind)
    if not kind.one.is_empty() and not kind.ratios.is_empty():
        yield _branches(kind)


def _comparable(kind: _Kind, other: _Kind) -> bool:
    """Whether the other is plain, and else trained alike at the same depth of the study."""
    same = ("depth", "width", "norm", "data", "steps", "rate", "dtype")
    return other.plain and all(kind.cell.get(name) == other.cell.get(name) for name in same)


def _few(kind: _Kind, count: int) -> str:
    return f"{count} {'network' if count == 1 else 'networks'} of {kind.subject} that learnt something are too few"


def _hardly(kind: _Kind) -> Finding:
    return _of_one(kind, "one deleted block hardly matters", HARDLY, below=True)


def _destroyed(kind: _Kind) -> Finding:
    return _of_one(kind, "one deleted block destroys it", DESTROYED, below=False)


def _of_one(kind: _Kind, rule: str, limit: float, *, below: bool) -> Finding:
    """Whether the mean damage of one deleted block is on the right side of a limit."""
    by_block = kind.one.group_by("block").agg(pl.col("damage").mean(), pl.col("error").mean()).sort("block")
    values = np.array(list(kind.mean_damage.values()))
    if len(values) < NETWORKS:
        return kind.finding(rule, "cannot tell", f"{_few(kind, len(values))}.", by_block)
    low, high = _bounds(values)
    worst = by_block.sort("damage").row(-1, named=True)
    least = by_block.sort("damage").row(0, named=True)
    said = (
        f"Deleting one block of {kind.subject} raises the test error from {tenths(_intact(kind))} to "
        f"{tenths(float(by_block['error'].to_numpy().mean()))}, the mean over blocks: a damage of "
        f"{_with_interval(values)} over {len(values)} networks; the least {number(least['damage'], 2)} (block "
        f"{least['block']}), the most {number(worst['damage'], 2)} (block {worst['block']})."
    )
    return kind.finding(rule, _side(low, high, limit, below=below), said, by_block)


def _side(low: float, high: float, limit: float, *, below: bool) -> Verdict:
    """Whether an interval is below (or above) a limit."""
    if low <= limit <= high:
        return "cannot tell"
    return "holds" if (high < limit) == below else "does not hold"


def _bounds(values: Array) -> tuple[float, float]:
    low, high = interval(values)
    assert low is not None  # there are enough
    assert high is not None
    return low, high


def _with_interval(values: Array) -> str:
    low, high = _bounds(values)
    return f"{number(float(values.mean()), 2)} (95 % interval {number(low, 2)} to {number(high, 2)})"


def _intact(kind: _Kind) -> float:
    return float(kind.one.unique("seed")["intact"].to_numpy().mean())


def _softened(kind: _Kind, other: _Kind) -> Finding:
    """Damage of plain less residual, seed by seed."""
    rule = "shortcuts soften the loss of a block"
    seeds = sorted(kind.mean_damage.keys() & other.mean_damage.keys())
    pairs = pl.DataFrame(
        {
            "seed": seeds,
            "plain": [other.mean_damage[seed] for seed in seeds],
            "residual": [kind.mean_damage[seed] for seed in seeds],
        },
        schema={"seed": pl.Int64, "plain": pl.Float64, "residual": pl.Float64},
    )
    if len(seeds) < NETWORKS:
        told = f"{len(seeds)} pairs of {kind.subject} and the {other.cell['design']} design are too few."
        return kind.finding(rule, "cannot tell", told, pairs)
    difference = (pairs["plain"] - pairs["residual"]).to_numpy()
    low, high = _bounds(difference)
    said = (
        f"Deleting one block does {_with_interval(difference)} more damage to the {other.cell['design']} design than "
        f"to {kind.subject}, trained on the same mini-batches: the mean over {len(seeds)} seeds."
    )
    return kind.finding(rule, _side(low, high, 0.0, below=False), said, pairs)


def _smooth(kind: _Kind) -> Finding:
    """The largest step of the mean damage between neighbouring numbers of deleted blocks."""
    rule = "the error grows smoothly with the blocks deleted"
    rows = kind.rows.filter(pl.col("done") == "deleted", pl.col("damage").is_not_null())
    means = rows.group_by("k", "seed").agg(pl.col("damage").mean()).sort("k", "seed")
    by_k = means.group_by("k").agg(pl.col("damage").mean(), n=pl.len()).sort("k")
    count = means["seed"].n_unique()
    if count < NETWORKS:
        return kind.finding(rule, "cannot tell", f"{_few(kind, count)}.", by_k)
    ks = [0, *by_k["k"]]
    values = np.array([np.zeros(count), *(means.filter(k=k)["damage"].to_numpy() for k in ks[1:])])
    steps = np.diff(values, axis=0)
    largest = int(steps.mean(axis=1).argmax())
    low, high = _bounds(steps[largest])
    total = values.max(axis=0)
    said = (
        f"The damage to {kind.subject} is "
        f"{', '.join(f'{number(value, 2)} with {k}' for k, value in by_k.select('k', 'damage').iter_rows())} of its "
        f"{len(Spec.from_json(kind.cell['spec']).body)} blocks deleted; the largest step, from {ks[largest]} to "
        f"{ks[largest + 1]}, is {_with_interval(steps[largest])}."
    )
    verdict = _side(low, high, DESTROYED, below=True)
    if verdict == "holds" and _bounds(total)[0] <= HARDLY:
        return kind.finding(rule, "cannot tell", f"{said} That is too little damage to have a shape.", by_k)
    return kind.finding(rule, verdict, said, by_k)


def _ordered(kind: _Kind) -> Finding:
    """The slope of the damage on 1 - tau, seed by seed, over all numbers of swaps and all draws."""
    rule = "the more the order is disturbed, the larger the error"
    rows = kind.rows.filter(pl.col("done") == "swapped", pl.col("damage").is_not_null())
    by_k = rows.group_by("k").agg(pl.col("tau", "damage").mean()).sort("k")
    slopes = np.array([_slope(part) for _, part in rows.sort("seed").group_by("seed", maintain_order=True)])
    slopes = slopes[np.isfinite(slopes)]
    if len(slopes) < NETWORKS:
        return kind.finding(rule, "cannot tell", f"{_few(kind, len(slopes))}.", by_k)
    low, high = _bounds(slopes)
    first, last = by_k.row(0, named=True), by_k.row(-1, named=True)
    said = (
        f"With {_swaps(first['k'])} of blocks (tau {number(first['tau'], 2)} in the mean) the damage to {kind.subject} "
        f"is {number(first['damage'], 2)}, with {_swaps(last['k'])} (tau {number(last['tau'], 2)}) "
        f"{number(last['damage'], 2)}; from order to no order, tau from 1 to 0, it rises by {_with_interval(slopes)}, "
        f"a straight line for each of {len(slopes)} networks."
    )
    return kind.finding(rule, _side(low, high, 0.0, below=False), said, by_k)


def _swaps(k: int) -> str:
    return f"{k} random {'swap' if k == 1 else 'swaps'}"


def _slope(rows: pl.DataFrame) -> float:
    """Of least squares, with an intercept; nan where all orders are equally far."""
    x, y = 1 - rows["tau"].to_numpy(), rows["damage"].to_numpy()
    centred = x - x.mean()
    spread = float(centred @ centred)
    return float(centred @ y) / spread if spread > 0 else math.nan


def _branches(kind: _Kind) -> Finding:
    """Whether a block's damage goes with the size of its branch, over the blocks of every network."""
    rule = "blocks with larger branches matter more"
    rows = kind.one.join(kind.ratios, on=["kind", "seed", "block"])
    by_block = rows.group_by("block").agg(pl.col("ratio", "damage").mean()).sort("block")
    each = rows.group_by("seed").agg(rank=pl.corr("ratio", "damage", method="spearman")).sort("seed")
    ranks = each["rank"].to_numpy()
    ranks = ranks[np.isfinite(ranks)]
    if len(ranks) < NETWORKS:
        return kind.finding(rule, "cannot tell", f"{_few(kind, len(ranks))}.", by_block)
    low, high = _bounds(ranks)
    said = (
        f"In {kind.subject} the branches add {number(float(str(by_block['ratio'].min())), 2)} to "
        f"{number(float(str(by_block['ratio'].max())), 2)} of the norm of what comes in, and the rank correlation over "
        f"blocks between that and the damage of deleting the block is {_with_interval(ranks)}, over {len(ranks)} "
        "networks."
    )
    return kind.finding(rule, _side(low, high, 0.0, below=False), said, by_block)
