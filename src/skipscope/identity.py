"""What the readings of study `identity` say: the law of the small block, and which stacks represent x -> x.

Right of the waist: readings in, numbers, tables and findings out (drawn by `skipscope.charts.identity`).

*Law.* Without biases and norms a branch of k ReLU layers is homogeneous of degree k in its weights: F(c W; x) is
c^k F(W; x) exactly, for c > 0 opens no gate and closes none; its Jacobian J - I likewise. At He's initialisation
E |F(W; x)|^2 = |x|^2 and E |J - I|^2 = |I|^2 (Frobenius) for equal widths, so that c^k is the root mean square of both.

*Stacks.* A stack whose loss was no longer finite is lost: it counts as infinitely wrong, and is in every median. A
design at a depth is represented by its best learning rate, of one grid for all designs: where the fewest stacks are
lost, and of these where the median *training* loss is smallest. Held-out errors are compared seed by seed; intervals
are those of the median over seeds, by ranks, which infinities do not disturb. An error is the share of the inputs'
variance that is not given back: 1 is that of an answer of 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skipscope import draws
from skipscope.diagnosis import Finding, Verdict
from skipscope.errors import InputError, require_int
from skipscope.readings import Readings, require_readings
from skipscope.spec import Spec
from skipscope.summary import median_ranks
from skipscope.words import number, percent

__all__ = [
    "MARGIN",
    "SMALL",
    "TOLERANCE",
    "block_data",
    "branch_data",
    "deeper_data",
    "degree",
    "error_data",
    "expected_branch",
    "findings",
    "paired_data",
    "rate_data",
    "unit_data",
]

MARGIN = 0.1
"""How much smaller, as a share, the error of a better stack is; and how much, of the variance, a worse one adds."""

SMALL = 0.1
"""Below which |F(x)|/|x| a branch is called near 0: the block changes its input by less than a tenth."""

TOLERANCE = 1e-6
"""How far a slope may be from the degree that the law says: rounding alone is left, the law being exact."""

_SCALED = ("branch_ratio", "block_jacobian_minus_identity")

Array = NDArray[np.float64]

# ------------------------------------------------------------------------------------------------------------ the law


def degree(spec: Spec) -> int | None:
    """The degree in which the branch of a network's blocks is homogeneous in its weights; None where it is not."""
    stages = spec.stages
    homogeneous = all(stage.norm == "none" and stage.activation in ("relu", "linear") for stage in stages)
    if not stages or spec.bias or not homogeneous or len({stage.layers for stage in stages}) > 1:
        return None
    return stages[0].layers


def expected_branch(spec: Spec, scale: float) -> float | None:
    """The root mean square over draws of |F(x)|/|x|, and of |J - I|/|I|, of a block whose weights are times `scale`.

    With a fixed x a layer of independent weights of variance v has E |W x|^2 = n_out v |x|^2, of which a ReLU leaves a
    half. None where the branch is not homogeneous.
    """
    power = degree(spec)
    if power is None:
        return None
    block = spec.body[0]
    square = block.branch_gain**2
    for layer in block.layers:
        square *= layer.fan_out * draws.weight_variance(spec, layer) * (0.5 if layer.activation == "relu" else 1.0)
    return float(scale) ** power * math.sqrt(square)


# ---------------------------------------------------------------------------------------------------------- the block


def block_data(readings: Readings) -> pl.DataFrame:
    """How far the block is from the identity at every scale of its weights.

    Returns:
        Columns `cell`, `width`, `scale`, `quantity` (`branch_ratio` or `block_jacobian_minus_identity`); `n` seeds;
        `least`, `q50`, `most` over them; `rms`; `law`, `expected_branch`; `degree`, the law's; `slope`, that from the
        next larger scale, d log(value)/d log(c), of the seed in which it is furthest from the degree; and `allowed`,
        how far rounding may put it. Null where there is none.

    Raises:
        InputError: the readings hold no block of this study.
    """
    cells = _cells(readings, "block").sort("width", "scale", descending=[False, True])
    rows: list[dict[str, Any]] = []
    for quantity in _SCALED:
        before: tuple[Mapping[str, Any], dict[int, float]] | None = None
        for cell in cells.iter_rows(named=True):
            values = _by_seed(readings, cell["cell"], quantity)
            if before is not None and before[0]["width"] != cell["width"]:
                before = None
            rows.append(_block_row(cell, quantity, values, before))
            before = cell, values
    schema = {"cell": pl.String, "width": pl.Int64, "scale": pl.Float64, "quantity": pl.String, "n": pl.Int64}
    numbers = ("least", "q50", "most", "rms", "law", "degree", "slope", "allowed")
    return pl.DataFrame(rows, schema={**schema, **dict.fromkeys(numbers, pl.Float64)})


def _block_row(
    cell: Mapping[str, Any],
    quantity: str,
    values: Mapping[int, float],
    before: tuple[Mapping[str, Any], Mapping[int, float]] | None,
) -> dict[str, Any]:
    spec = Spec.from_json(cell["spec"])
    found = np.array(sorted(values.values()))
    power = degree(spec)
    row = {name: cell[name] for name in ("cell", "width", "scale")}
    row |= {"quantity": quantity, "n": len(found), "law": expected_branch(spec, cell["scale"]), "degree": power}
    if len(found):
        rms = math.sqrt(float((found**2).mean()))
        row |= {"least": found[0], "q50": float(np.median(found)), "most": found[-1], "rms": rms}
    if before is not None and power is not None:
        step = math.log(before[0]["scale"] / cell["scale"])
        # J - I is what is left when ones are taken from ones: rounding of their size stays. F is exact at any size.
        rounding = 0.0 if quantity == "branch_ratio" else 8 * float(np.finfo(np.float64).eps)
        slopes = [
            (math.log(larger / smaller) / step, TOLERANCE + rounding / (smaller * step))
            for seed, smaller in values.items()
            if smaller > 0 and (larger := before[1].get(seed, 0.0)) > 0
        ]
        if slopes:
            row["slope"], row["allowed"] = max(slopes, key=lambda each: abs(each[0] - power) / each[1])
    return row


def unit_data(readings: Readings, *, seed: int | None = None) -> pl.DataFrame:
    """The picture of the block: what comes in, is added and comes out, unit by unit, of one draw.

    Args:
        readings: of study `identity`.
        seed: which draw; the first if not given.

    Returns:
        Columns `scale` (falling), `unit`, `input`, `branch`, `output`, `seed`.

    Raises:
        InputError: the readings hold no units, or not that seed.
    """
    require_readings(readings)
    cells = _cells(readings, "block").select("cell", "scale")
    names = {"unit_input": "input", "unit_branch": "branch", "unit_output": "output"}
    rows = readings.rows.filter(pl.col("quantity").is_in(list(names))).join(cells, on="cell")
    if rows.is_empty():
        raise InputError("these readings hold no units of a block: measure with studies.identity(scales=...).")
    known = sorted(rows["seed"].unique().to_list())
    chosen = known[0] if seed is None else require_int("seed", seed, least=0)
    if chosen not in known:
        raise InputError(f"seed {seed} is not in these readings, which hold {known[0]} to {known[-1]}.")
    unit = pl.col("site").str.split(".").list.last().cast(pl.Int64)
    table = rows.filter(pl.col("seed") == chosen).with_columns(unit=unit, name=pl.col("quantity").replace_strict(names))
    wide = table.pivot("name", index=["scale", "unit", "seed"], values="value")
    return wide.select("scale", "unit", "input", "branch", "output", "seed").sort(
        "scale", "unit", descending=[True, False]
    )


# --------------------------------------------------------------------------------------------------------- the stacks


def rate_data(readings: Readings) -> pl.DataFrame:
    """What every stack came to at every learning rate.

    Returns:
        Columns `cell`, `design`, `depth`, `rate`; `n` seeds, `lost` of them whose loss was no longer finite; the
        medians over seeds of the mean squared error, `train` and `test`, infinite where half are lost; `chosen`,
        whether this is the design's rate at that depth.

    Raises:
        InputError: the readings hold no stacks of this study, or stacks of several widths, steps or precisions.
    """
    cells = _stacks(readings)
    ends = {part: _ends(readings, part) for part in ("train", "test")}
    rows = []
    for cell in cells.iter_rows(named=True):
        train, test = (np.array(list(ends[part][cell["cell"]].values())) for part in ("train", "test"))
        rows.append(
            {
                **{name: cell[name] for name in ("cell", "design", "depth", "rate")},
                "n": len(test),
                "lost": int(np.isinf(test).sum()),
                "train": _median(train),
                "test": _median(test),
            }
        )
    table = pl.DataFrame(rows).sort(_place(readings), "depth", "rate")
    # Where all are lost, the smallest rate stands for the design.
    best = table.sort("lost", "train", "rate").group_by("design", "depth", maintain_order=True).first()["cell"]
    return table.with_columns(chosen=pl.col("cell").is_in(best.implode()))


def error_data(readings: Readings) -> pl.DataFrame:
    """The held-out error of every design at every depth, at its own learning rate.

    Returns:
        Columns `cell`, `design`, `depth`, `rate`, `n`, `lost`; over seeds `q50` with `low` and `high`, its 95 %
        interval by ranks (null for fewer than six), `least` and `most`; infinite where stacks are lost.

    Raises:
        InputError: see `rate_data`.
    """
    chosen, held_out = rate_data(readings).filter("chosen"), _ends(readings, "test")
    rows = []
    for row in chosen.iter_rows(named=True):
        values = np.array(list(held_out[row["cell"]].values()))
        rows.append({**_middle(values), "least": values.min(), "most": values.max()})
    schema = dict.fromkeys(("q50", "low", "high", "least", "most"), pl.Float64)
    return pl.concat(
        [chosen.select("cell", "design", "depth", "rate", "n", "lost"), pl.DataFrame(rows, schema=schema)],
        how="horizontal",
    )


def paired_data(readings: Readings) -> pl.DataFrame:
    """Every residual design against the plain stack of its depth, seed by seed.

    Returns:
        Columns `cell`, `design`, `depth`, `rate`, `plain_rate`; `pairs`, seeds in which not both are lost; `ratio`, the
        median of residual/plain held-out error, with `low` and `high`, its 95 % interval by ranks (null for fewer than
        six pairs); `better`, pairs in which the residual stack has the smaller error; `lost`, `plain_lost`.

    Raises:
        InputError: see `rate_data`.
    """
    errors, held_out = error_data(readings), _ends(readings, "test")
    plain = {row["depth"]: row for row in errors.filter(design="plain").iter_rows(named=True)}
    rows = []
    for row in errors.filter(pl.col("design") != "plain").iter_rows(named=True):
        if row["depth"] not in plain:
            continue
        other = plain[row["depth"]]
        mine, its = _paired(held_out[row["cell"]], held_out[other["cell"]])
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = mine / its
        found = _middle(ratios)
        rows.append(
            {
                **{name: row[name] for name in ("cell", "design", "depth", "rate")},
                "plain_rate": other["rate"],
                "pairs": len(ratios),
                "ratio": found["q50"],
                "low": found["low"],
                "high": found["high"],
                "better": int((ratios < 1).sum()),
                "lost": row["lost"],
                "plain_lost": other["lost"],
            }
        )
    named = {"cell": pl.String, "design": pl.String, "depth": pl.Int64, "rate": pl.Float64, "plain_rate": pl.Float64}
    counted = {"pairs": pl.Int64, "ratio": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return pl.DataFrame(rows, schema={**named, **counted, "better": pl.Int64, "lost": pl.Int64, "plain_lost": pl.Int64})


def deeper_data(readings: Readings) -> pl.DataFrame:
    """The deepest stack of every design against its shallowest, seed by seed.

    Returns:
        Columns `cell` (the deepest's), `design`, `shallow`, `deep` (depths), `pairs`; `difference`, the median of
        deepest - shallowest held-out error, with `low` and `high`, as in `paired_data`; the medians `q50_shallow` and
        `q50_deep`; `lost`, of the deepest. No rows where there is one depth.

    Raises:
        InputError: see `rate_data`.
    """
    rows, held_out = [], _ends(readings, "test")
    for (design,), part in error_data(readings).group_by("design", maintain_order=True):
        ordered = part.sort("depth")
        if ordered.height < 2:
            continue
        first, last = ordered.row(0, named=True), ordered.row(-1, named=True)
        deep, shallow = _paired(held_out[last["cell"]], held_out[first["cell"]])
        found = _middle(deep - shallow)
        told = {"cell": last["cell"], "design": design, "shallow": first["depth"], "deep": last["depth"]}
        told |= {"pairs": len(deep), "difference": found["q50"], "low": found["low"], "high": found["high"]}
        rows.append({**told, "q50_shallow": first["q50"], "q50_deep": last["q50"], "lost": last["lost"]})
    named = {"cell": pl.String, "design": pl.String, "shallow": pl.Int64, "deep": pl.Int64, "pairs": pl.Int64}
    numbers = ("difference", "low", "high", "q50_shallow", "q50_deep")
    return pl.DataFrame(rows, schema={**named, **dict.fromkeys(numbers, pl.Float64), "lost": pl.Int64})


def branch_data(readings: Readings) -> pl.DataFrame:
    """What the branches of the residual stacks add, before and after training, at each design's own learning rate.

    Returns:
        Columns `cell`, `design`, `depth`, `when` ("before" or "after"), `n` seeds that were not lost; the quantiles
        over seeds, by ranks, `q50`, `low`, `high` of |F(x)|/|x|, the median over the blocks of a stack.

    Raises:
        InputError: see `rate_data`.
    """
    rows, held_out, steps = [], _ends(readings, "test"), _stacks(readings)["steps"][0]
    known = readings.where(pl.col("quantity") == "branch_ratio").rows
    for row in error_data(readings).filter(pl.col("design") != "plain").iter_rows(named=True):
        ratios = known.filter(pl.col("cell") == row["cell"])
        lost = [seed for seed, error in held_out[row["cell"]].items() if math.isinf(error)]
        for when, step in (("before", 0), ("after", steps)):
            here = ratios.filter(pl.col("step") == step, ~pl.col("seed").is_in(lost))
            values = here.group_by("seed").agg(pl.col("value").median())["value"].to_numpy()
            told = {name: row[name] for name in ("cell", "design", "depth")}
            rows.append({**told, "when": when, "n": len(values), **_middle(values)})
    named = {"cell": pl.String, "design": pl.String, "depth": pl.Int64, "when": pl.String, "n": pl.Int64}
    return pl.DataFrame(rows, schema={**named, **dict.fromkeys(("q50", "low", "high"), pl.Float64)})


# ------------------------------------------------------------------------------------------------- what tables share


def _cells(readings: Readings, part: str) -> pl.DataFrame:
    require_readings(readings)
    known = "part" in readings.cells.columns
    cells = readings.cells.filter(pl.col("study") == "identity", pl.col("part") == part) if known else None
    if cells is None or cells.is_empty():
        asked = "scales" if part == "block" else "depths"
        raise InputError(
            f"these readings hold no {part} of study identity: measure with studies.identity({asked}=...)."
        )
    return cells


def _stacks(readings: Readings) -> pl.DataFrame:
    cells = _cells(readings, "stack")
    for name in ("width", "steps", "dtype", "batch"):
        if cells[name].n_unique() > 1:
            several = ", ".join(str(each) for each in cells[name].unique().sort())
            raise InputError(f"these stacks differ in {name} ({several}): choose one with readings.select({name}=...).")
    return cells


def _place(readings: Readings) -> pl.Expr:
    """Plain before residual, then as they were measured."""
    designs = list(dict.fromkeys(_cells(readings, "stack")["design"]))
    designs.sort(key=lambda name: (name != "plain", name))
    return pl.col("design").replace_strict({name: place for place, name in enumerate(designs)}, return_dtype=pl.Int64)


def _by_seed(readings: Readings, cell: str, quantity: str) -> dict[int, float]:
    rows = readings.rows_of(cell).filter(pl.col("quantity") == quantity)
    return dict(rows.select("seed", "value").sort("seed").iter_rows())


def _ends(readings: Readings, part: str) -> dict[str, dict[int, float]]:
    """By stack and seed: the loss after the last step, infinite where it is not finite, or the training stopped."""
    cells = _stacks(readings).select("cell", "steps")
    rows = readings.where(pl.col("quantity") == f"{part}_loss").rows.join(cells, on="cell")
    found: dict[str, dict[int, float]] = {}
    for cell, seed in rows.select("cell", "seed").unique().sort("cell", "seed").iter_rows():
        found.setdefault(cell, {})[seed] = math.inf
    if missing := set(cells["cell"]) - found.keys():
        raise InputError(
            f"these readings hold no {part}_loss of {sorted(missing)[0]!r}: measure the stacks as they are."
        )
    last = rows.filter(pl.col("step") == pl.col("steps"), pl.col("value").is_finite())
    for cell, seed, value in last.select("cell", "seed", "value").iter_rows():
        found[cell][seed] = value
    return found


def _paired(one: Mapping[int, float], other: Mapping[int, float]) -> tuple[Array, Array]:
    """The errors of the seeds that both have, less those in which both are infinite."""
    pairs = [(one[seed], other[seed]) for seed in sorted(one.keys() & other.keys())]
    left = np.array([pair for pair in pairs if not (math.isinf(pair[0]) and math.isinf(pair[1]))]).reshape(-1, 2)
    return left[:, 0], left[:, 1]


def _median(values: Any) -> float | None:
    """Also of values that are infinite: the mean of the middle two is infinite where one is."""
    return float(np.median(values)) if len(values) else None


def _middle(values: Any) -> dict[str, float | None]:
    """The median with its 95 % interval by ranks, null where there are too few values."""
    ranks = median_ranks(len(values))
    ordered = np.sort(values)
    low, high = (None, None) if ranks is None else (float(ordered[ranks[0]]), float(ordered[ranks[1]]))
    return {"q50": _median(ordered), "low": low, "high": high}


# ----------------------------------------------------------------------------------------------------------- findings

_BY_RANKS = "with the whole 95 % interval of the median over seeds, by ranks, which takes six at least"
_RECIPE = (
    "every design at its own learning rate of one grid, where the fewest stacks are lost and then the median training "
    "loss is smallest; a lost stack, its loss no longer finite, counts as infinitely wrong"
)
_RULES = {
    "degree of the branch": (
        f"law does not hold: in a draw the slope between two scales is further from the degree than {TOLERANCE:g} and "
        "what rounding explains; law holds: in none",
        "Euler's homogeneity: a branch of k ReLU layers without biases is of degree k in its weights, exactly",
    ),
    "represents x -> x better than the plain stack": (
        f"holds: the held-out error is more than {percent(MARGIN)} smaller than that of the plain stack of the same "
        f"seed; does not hold: it is not; each {_BY_RANKS}; {_RECIPE}",
        "the claim: He et al. 2015, arXiv:1512.03385, section 3.1; the margin is a convention of this instrument",
    ),
    "deeper is no worse": (
        f"holds: the held-out error of the deepest stack is larger than that of the shallowest of the same seed by at "
        f"most {MARGIN:g}, in shares of the inputs' variance; does not hold: by more; each {_BY_RANKS}; {_RECIPE}",
        "the added layers could be the identity: He et al. 2015, arXiv:1512.03385, section 1; the margin is a "
        "convention of this instrument",
    ),
    "trained branches are near 0": (
        f"holds: after training |F(x)|/|x|, the median over the blocks of the deepest stack, is below {SMALL:g}; does "
        f"not hold: it is not; each {_BY_RANKS}",
        "the claim: He et al. 2015, arXiv:1512.03385, section 3.1; the number is a convention of this instrument",
    ),
}


def findings(readings: Readings) -> list[Finding]:
    """What readings of study `identity` show: the law of the block, and of every design of the stacks three claims.

    The verdicts are `law holds`, `law does not hold`; `holds`, `does not hold`; and `cannot tell`.

    Raises:
        InputError: the readings hold nothing of this study, or stacks of several widths or steps.
    """
    require_readings(readings)
    cells = readings.cells
    parts = set(cells.filter(pl.col("study") == "identity")["part"]) if "part" in cells.columns else set()
    if not parts & {"block", "stack"}:
        raise InputError("these readings hold nothing of study identity: measure with studies.identity(...).")
    found: list[Finding] = []
    if "block" in parts:
        found += _degrees(block_data(readings))
    if "stack" in parts:
        steps = _stacks(readings)["steps"][0]
        found += [
            *_better(paired_data(readings), steps),
            *_deeper(deeper_data(readings)),
            *_zero(branch_data(readings)),
        ]
    return found


def _finding(rule: str, cell: str, subject: str, verdict: Verdict, statement: str, evidence: pl.DataFrame) -> Finding:
    threshold, source = _RULES[rule]
    return Finding(rule, cell, subject, verdict, statement, evidence, threshold, source)


def _degrees(table: pl.DataFrame) -> Iterator[Finding]:
    for (width,), part in table.group_by("width", maintain_order=True):
        subject = f"the residual block, width {width}"
        power = part["degree"][0]
        # A slope that rounding may put anywhere says nothing.
        judged = part.filter(pl.col("slope").is_not_null(), pl.col("allowed") < 0.05)
        verdict: Verdict = "cannot tell"
        if power is None:
            said = f"The branch of {subject} is not homogeneous in its weights: a norm, a bias or another activation."
        elif judged.is_empty():
            said = f"Of {subject} there are no two scales between which a slope could be taken."
        else:
            off = (pl.col("slope") - pl.col("degree")).abs()
            worst = judged.sort(off / pl.col("allowed")).row(-1, named=True)
            distance = abs(worst["slope"] - power)
            verdict = "law holds" if distance <= worst["allowed"] else "law does not hold"
            said = (
                f"With its weights times c, {_both(judged)} as c^{number(power, 1)} in {subject}: over "
                f"{part['scale'].n_unique()} scales and {worst['n']} draws the slope furthest from {number(power, 1)} "
                f"is off by {number(distance, 2)}."
                if verdict == "law holds"
                else f"Between two scales the slope of {worst['quantity']} of {subject} is {number(worst['slope'])}, "
                f"where the law says {number(power, 1)}."
            )
        yield _finding("degree of the branch", part["cell"][0], subject, verdict, said, part)


def _both(judged: pl.DataFrame) -> str:
    """What follows the law."""
    names = {"branch_ratio": "|F(x)|", "block_jacobian_minus_identity": "J - I"}
    found = [told for name, told in names.items() if name in set(judged["quantity"])]
    return f"{' and '.join(found)} {'go' if len(found) > 1 else 'goes'}"


def _within(row: Mapping[str, Any], limit: float) -> Verdict:
    """Whether a median is below a limit, with its whole interval."""
    if row["low"] is None or row["low"] <= limit < row["high"]:
        return "cannot tell"
    return "holds" if row["high"] <= limit else "does not hold"


def _better(table: pl.DataFrame, steps: int) -> Iterator[Finding]:
    rule = "represents x -> x better than the plain stack"
    for row in table.iter_rows(named=True):
        subject = f"the {row['design']} design at depth {row['depth']}"
        if not row["pairs"]:
            said = (
                f"Of {subject} and of the plain stack all are lost at every learning rate: nothing is left to compare."
            )
        elif math.isinf(row["ratio"]):
            said = (
                f"Of {row['pairs']} seeds {subject} is lost in most where the plain stack is not; its error is smaller "
                f"in {row['better']}."
            )
        else:
            said = (
                f"After {steps:,} steps the held-out error of {subject} is {_told(row, 'ratio', ' times')} that of the "
                f"plain stack in the median of {row['pairs']} seeds; it is smaller in {row['better']} of them."
            )
        said += _lost(row["lost"], "residual") + _lost(row["plain_lost"], "plain")
        yield _finding(rule, row["cell"], subject, _within(row, 1 - MARGIN), said, table.filter(cell=row["cell"]))


def _deeper(table: pl.DataFrame) -> Iterator[Finding]:
    for row in table.iter_rows(named=True):
        subject = f"the {row['design']} design"
        way = f"From {row['shallow']} to {row['deep']} layers"
        if not row["pairs"]:
            said = f"{way} all stacks of {subject} are lost."
        elif math.isinf(row["difference"]):
            said = f"{way} most stacks of {subject} go from {number(row['q50_shallow'], 2)} to lost."
        else:
            said = (
                f"{way} the held-out error of {subject} goes from {number(row['q50_shallow'], 2)} to "
                f"{number(row['q50_deep'], 2)}: a difference of {_told(row, 'difference')} in the median of "
                f"{row['pairs']} seeds."
            )
        said += _lost(row["lost"], "deep")
        verdict = _within(row, MARGIN)
        yield _finding("deeper is no worse", row["cell"], subject, verdict, said, table.filter(cell=row["cell"]))


def _zero(table: pl.DataFrame) -> Iterator[Finding]:
    for (design,), part in table.group_by("design", maintain_order=True):
        deepest = part.filter(pl.col("depth") == pl.col("depth").max())
        before, after = (deepest.filter(when=when).row(0, named=True) for when in ("before", "after"))
        subject = f"the {design} design at depth {after['depth']}"
        said = f"No stack of {subject} was trained to the end at any learning rate."
        if after["n"]:
            drawn = f"{after['n']} draws" if after["n"] > 1 else "the one draw that is left"
            said = (
                f"After training, the branches of {subject} add {_told(after, 'q50')} of their input's norm, the "
                f"median over blocks, in the median of {drawn}; before it they added {number(before['q50'], 2)}."
            )
        yield _finding("trained branches are near 0", after["cell"], subject, _within(after, SMALL), said, deepest)


def _told(row: Mapping[str, Any], name: str, times: str = "") -> str:
    """A number with its interval."""
    interval = ""
    if row["low"] is not None:
        high = "unbounded" if math.isinf(row["high"]) else number(row["high"], 2)
        interval = f" (95 % interval {number(row['low'], 2)} to {high})"
    return f"{number(row[name], 2)}{times}{interval}"


def _lost(count: int, which: str) -> str:
    if not count:
        return ""
    return f" {count} {which} {'stacks were' if count > 1 else 'stack was'} lost."
