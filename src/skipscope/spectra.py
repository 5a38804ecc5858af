"""The law of the Jacobian's mean square, and what the readings of study `jacobian` say over depth.

Right of the waist: specs and summaries in, numbers, tables and findings out (drawn by `skipscope.charts.spectra`).
Findings are about the deepest networks of every design, and rest on intervals of medians over draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from skipscope.diagnosis import FACTOR, SEEDS, Finding, Verdict
from skipscope.draws import weight_variance
from skipscope.errors import InputError, quoted, require_type
from skipscope.readings import Readings, require_factors, require_readings
from skipscope.spec import Block, Layer, Spec
from skipscope.summary import CARRYING, QUANTILES, Summary, require_summary, summarise, with_median_interval, z_limit
from skipscope.words import number, percent

__all__ = ["NEAR", "expected_mean_square", "findings", "law_data", "spectrum_data"]

Part = Literal["network", "body"]

NEAR = 0.5
"""Below which |J - I|/|I| a block is called near the identity."""


def expected_mean_square(spec: Spec, part: Part = "network") -> float | None:
    """E |J|^2/n_in over initialisations, where there is a law: else None.

    With a fixed vector u a layer of independent weights of variance v has E |W u|^2 = n_out v |u|^2, and a gate lets
    half of that through, because the sign of w.x is a fair coin that does not know (w.u)^2. So in a plain ReLU network
    the factors multiply, exactly at any width (He: 1 a ReLU layer, 2 a linear one). At a junction shortcut and branch
    are uncorrelated where the branch's last weights have no ReLU behind them (pre-activation order), so their squares
    add: gain_s^2 + gain_b^2 g2 a block, g2 the product of its layers' factors; there the gates in front of the branch
    know of the block before, which leaves an error of order 1/n (derived here; measured in the tests).
    """
    stages_hold = all(
        stage.norm == "none"
        and stage.activation in ("relu", "linear")
        and (stage.plain or (stage.order == "pre-activation" and not stage.gains.silent))
        for stage in spec.stages
    )
    ends_hold = spec.stem.norm == "none" and "tanh" not in {spec.stem.activation, spec.head.activation}
    if spec.bias or not (stages_hold and ends_hold):
        return None
    factor = 1.0
    for block in spec.body:
        factor *= _block_factor(spec, block)
    if part == "body":
        return factor if spec.body else None
    last = 0.5 if spec.pre_activation and spec.stages[-1].activation == "relu" else 1.0
    return factor * last * _layer_factor(spec, spec.stem_layer) * _layer_factor(spec, spec.head_layer)


def _block_factor(spec: Spec, block: Block) -> float:
    branch = block.branch_gain**2
    for layer in block.layers:
        branch *= _layer_factor(spec, layer)
    if block.activation == "relu" and block.layers[-1].activation == "linear":
        branch /= 2  # the activation of a plain block in the order after-add
    return branch if block.plain else block.shortcut_gain**2 + branch


def _layer_factor(spec: Spec, layer: Layer) -> float:
    return layer.fan_out * weight_variance(spec, layer) * (0.5 if layer.activation == "relu" else 1.0)


def spectrum_data(summary: Summary) -> pl.DataFrame:
    """What a chart of the spectrum against depth is drawn from: one row a design, part, depth and curve.

    Returns:
        Columns `design`, `part`, `depth`, `width`; `curve`, one of `sigma_max`, `sigma_median`, `sigma_min` (singular
        values) and `rms` (the root of the mean square); `n` seeds, `zeros` of them with the value 0; quantiles over
        seeds `q05` to `q95`; `median_low` and `median_high`, a 95 % interval of the median; `law`, the root of
        `expected_mean_square` in the rows of `rms`, null where there is none.

    Raises:
        InputError: the summary holds no readings of this study.
    """
    require_summary(summary)
    curves = {f"jacobian_{name}": name for name in ("sigma_max", "sigma_median", "sigma_min")}
    curves["jacobian_mean_square"] = "rms"
    rows = summary.table.filter(pl.col("quantity").is_in(list(curves)))
    if rows.is_empty():
        raise InputError("this summary holds no quantity of the study jacobian: measure with `jacobian`.")
    require_factors(summary.readings, "jacobian", "part")
    numbers = [*QUANTILES, "median_low", "median_high"]
    root = pl.col("quantity") == "jacobian_mean_square"
    laws = [_law(cell) for cell in summary.readings.cells.iter_rows(named=True)]
    cells = summary.readings.cells.select("cell", "part").with_columns(law=pl.Series(laws, dtype=pl.Float64).sqrt())
    return (
        rows.join(cells, on="cell", how="left")
        .with_columns(pl.when(root).then(pl.col(name).sqrt()).otherwise(pl.col(name)) for name in numbers)
        .with_columns(curve=pl.col("quantity").replace_strict(curves), law=pl.when(root).then(pl.col("law")))
        .select("design", "part", "depth", "width", "curve", "n", "zeros", *numbers, "law")
        .sort("design", "part", "curve", "depth", "width")
    )


def _law(cell: Mapping[str, Any]) -> float | None:
    if cell["study"] != "jacobian" or not cell["spec"] or cell["edit"]:
        return None
    return expected_mean_square(Spec.from_json(cell["spec"]), cell["part"])


def law_data(readings: Readings) -> pl.DataFrame:
    """The mean square of the Jacobian against its law, one row a network of which there is one.

    Returns:
        Columns `cell`, `design`, `part`, `depth`, `width`; `n` seeds, `mean` over them of |J|^2/n_in, its standard
        `error`, `carrying`, how many seeds carry it, (sum v)^2 / sum v^2; the `law`; and `z` = (mean - law) / error,
        null where fewer than `skipscope.summary.CARRYING` seeds carry the mean or all are alike.
    """
    require_readings(readings)
    require_factors(readings, "jacobian", "part")
    laws = [_law(cell) for cell in readings.cells.iter_rows(named=True)]
    cells = readings.cells.with_columns(law=pl.Series(laws, dtype=pl.Float64)).filter(pl.col("law").is_not_null())
    value = pl.col("value")
    rows = readings.rows.filter(pl.col("quantity") == "jacobian_mean_square", value.is_finite())
    table = rows.group_by("cell").agg(
        n=pl.len().cast(pl.Int64),
        mean=value.mean(),
        error=value.std() / pl.len().sqrt(),
        carrying=value.sum() * value.sum() / (value * value).sum(),
    )
    trusted = (pl.col("carrying") >= CARRYING) & (pl.col("error") > 0)
    z = pl.when(trusted).then((pl.col("mean") - pl.col("law")) / pl.col("error"))
    named = cells.select("cell", "design", *(["part"] if "part" in cells.columns else []), "depth", "width", "law")
    return named.join(table, on="cell").with_columns(z=z).sort("design", "depth", "width")


# ----------------------------------------------------------------------------------------------------------- findings


@dataclass(frozen=True)
class _Group:
    """The networks of one design and width, of one part, over depth.

    Attributes:
        part: whose Jacobian.
        table: the summary's rows about them.
        readings: theirs.
        spec: of the deepest.
    """

    part: str
    table: pl.DataFrame
    readings: Readings
    spec: Spec

    @property
    def deepest(self) -> dict[str, Any]:
        row: dict[str, Any] = self.readings.cells.sort("depth").row(-1, named=True)
        return row

    @property
    def subject(self) -> str:
        row = self.deepest
        return f"the {row['design']} design at depth {row['depth']}, width {row['width']}"

    def of(self, quantity: str) -> pl.DataFrame:
        """The rows of a quantity, by depth."""
        return self.table.filter(pl.col("quantity") == quantity, pl.col("n") > 0).sort("depth")

    def finding(self, rule: str, verdict: Verdict, statement: str, evidence: pl.DataFrame) -> Finding:
        threshold, source = _RULES[rule]
        return Finding(
            rule=rule,
            cell=self.deepest["cell"],
            subject=self.subject,
            verdict=verdict,
            statement=statement,
            evidence=evidence,
            threshold=threshold,
            source=source,
        )


_MEDIAN = f"with the whole 95 % interval of the median over draws, at the largest depth; a verdict needs {SEEDS} seeds"
_RULES = {
    "largest singular value": (
        f"exploding: above {FACTOR:g}; vanishing: below 1/{FACTOR:g}; healthy: between; each {_MEDIAN}",
        f"a factor of {FACTOR:g}: a convention of this instrument; interval of a median: by ranks, without assumption",
    ),
    "directions": (
        f"directions lost: fewer singular values than directions are not 0 to working precision; spread out: all are, "
        f"but the smallest is below 1/{FACTOR:g}; healthy: it is not; each {_MEDIAN}",
        "dynamical isometry: Pennington et al. 2017, arXiv:1711.04735; a factor of "
        f"{FACTOR:g}: a convention of this instrument; interval of a median: by ranks",
    ),
    "block against the identity": (
        f"near: |J - I|/|I| of a block, the median over blocks, is below {NEAR:g}; far: it is not; each {_MEDIAN}",
        "Hardt and Ma 2016, arXiv:1611.04231; the number is a convention of this instrument",
    ),
    "law of the mean square": (
        "law does not hold: at some depth the mean over draws is further off than z_limit says, in standard errors, "
        f"for the number of networks looked at; a verdict needs {SEEDS} seeds, and {CARRYING} that carry the mean",
        "the law: skipscope.spectra.expected_mean_square; limit: Sidak 1967, Student's t",
    ),
}


def findings(readings: Readings, *, part: Part | None = None) -> list[Finding]:
    """What readings of study `jacobian` show of every design: what is stretched, lost, near the identity, as the law.

    The verdicts are `exploding`, `vanishing`, `healthy`; `directions lost`, `spread out`; `near the identity`, `far
    from the identity`; `law holds`, `law does not hold`; and `cannot tell`.

    Args:
        readings: of study `jacobian`.
        part: whose Jacobian; the body's, or where that was not measured the network's, unless one is given.

    Raises:
        InputError: the readings hold none of this study, or none of that part.
    """
    require_readings(readings)
    summary = summarise(readings)
    known = set(spectrum_data(summary)["part"])
    asked = ("body" if "body" in known else "network") if part is None else part
    require_type("part", asked, str, "body or network")
    if asked not in known:
        raise InputError(f"part {quoted(asked)} was not measured; measure it with studies.jacobian(parts=...).")
    laws = law_data(readings).filter(pl.col("part") == asked)
    return [finding for group in _groups(summary, asked) for finding in _judged(group, laws)]


def _groups(summary: Summary, part: str) -> Iterator[_Group]:
    cells = summary.readings.cells.filter(pl.col("part") == part, pl.col("spec") != "")
    for _, rows in cells.sort("depth").group_by("design", "width", maintain_order=True):
        names = rows["cell"].to_list()
        yield _Group(
            part=part,
            table=summary.table.filter(pl.col("cell").is_in(names)),
            readings=summary.readings.select(cell=names),
            spec=Spec.from_json(rows["spec"][-1]),
        )


def _judged(group: _Group, laws: pl.DataFrame) -> Iterator[Finding]:
    if group.of("jacobian_sigma_max").height:
        yield _stretched(group)
    if group.of("jacobian_rank").height and group.of("jacobian_sigma_min").height:
        yield _directions(group)
    blocks = group.readings.rows.filter(pl.col("quantity") == "block_jacobian_minus_identity")
    if any(not stage.plain for stage in group.spec.stages) and blocks.height:
        yield _identity(group, blocks.filter(pl.col("cell") == group.deepest["cell"]))
    own = laws.filter(design=group.deepest["design"], width=group.deepest["width"])
    if own.height:
        yield _fit(group, own, looks=max(1, laws["z"].count()))


def _told(rows: pl.DataFrame) -> str:
    """A median at the deepest, with its interval, and at the shallowest."""
    first, last = rows.row(0, named=True), rows.row(-1, named=True)
    interval = ""
    if last["median_low"] is not None:
        interval = f" (95 % interval {number(last['median_low'])} to {number(last['median_high'])})"
    began = "" if rows.height == 1 else f", and {number(first['q50'])} at depth {first['depth']}"
    return f"{number(last['q50'])}{interval} in the median of {last['n']} draws{began}"


def _few(row: dict[str, Any]) -> str:
    return f" A verdict needs {SEEDS} draws." if row["n"] < SEEDS else ""


def _stretched(group: _Group) -> Finding:
    rows = group.of("jacobian_sigma_max")
    last = rows.row(-1, named=True)
    verdict: Verdict = "cannot tell"
    if last["n"] >= SEEDS:
        if last["median_low"] > FACTOR:
            verdict = "exploding"
        elif last["median_high"] < 1 / FACTOR:
            verdict = "vanishing"
        elif last["median_low"] >= 1 / FACTOR and last["median_high"] <= FACTOR:
            verdict = "healthy"
    said = f"The largest singular value of the {group.part} of {group.subject} is {_told(rows)}.{_few(last)}"
    return group.finding("largest singular value", verdict, said, _evidence(rows))


def _directions(group: _Group) -> Finding:
    ranks, least = group.of("jacobian_rank"), group.of("jacobian_sigma_min")
    rank, last, all_ = ranks.row(-1, named=True), least.row(-1, named=True), group.deepest["width"]
    verdict: Verdict = "cannot tell"
    if rank["n"] >= SEEDS:
        if rank["median_high"] < all_:
            verdict = "directions lost"
        elif last["median_high"] < 1 / FACTOR:
            verdict = "spread out"
        elif last["median_low"] >= 1 / FACTOR:
            verdict = "healthy"
    said = f"Of {all_} directions {rank['q50']:g} pass the {group.part} of {group.subject} in the median of "
    said += f"{rank['n']} draws"
    if ranks.height > 1:
        said += f", {ranks['q50'][0]:g} at depth {ranks['depth'][0]}"
    said += f"; the smallest singular value is {_told(least)}.{_few(rank)}"
    return group.finding("directions", verdict, said, _evidence(pl.concat([ranks, least])))


def _identity(group: _Group, rows: pl.DataFrame) -> Finding:
    """A draw's median over its blocks, and the median of those over draws."""
    each = rows.group_by("seed").agg(pl.col("value").median()).sort("seed")
    sorted_ = each.select(n=pl.len(), q50=pl.col("value").median(), _sorted=pl.col("value").sort().implode())
    table = with_median_interval(sorted_, "_sorted", "median_low", "median_high")
    row = table.row(0, named=True)
    verdict: Verdict = "cannot tell"
    if row["n"] >= SEEDS:
        if row["median_high"] < NEAR:
            verdict = "near the identity"
        elif row["median_low"] >= NEAR:
            verdict = "far from the identity"
    told = table.with_columns(depth=pl.lit(group.deepest["depth"]))
    said = f"The distance |J - I|/|I| of a block of {group.subject} is {_told(told)}.{_few(row)}"
    return group.finding("block against the identity", verdict, said, told)


def _fit(group: _Group, rows: pl.DataFrame, *, looks: int) -> Finding:
    judged = rows.filter(pl.col("z").is_not_null(), pl.col("n") >= SEEDS)
    if judged.is_empty():
        last = rows.row(-1, named=True)
        said = (
            f"The mean square of the Jacobian of {group.subject} is not held against its law, {number(last['law'])}: "
            f"of {last['n']} draws, worth {number(last['carrying'], 2)} by what they give, too few carry the mean."
        )
        return group.finding("law of the mean square", "cannot tell", said, rows)
    limits = [z_limit(looks, carrying) for carrying in judged["carrying"]]
    ranked = judged.with_columns(limit=pl.Series(limits)).sort(pl.col("z").abs() / pl.col("limit"))
    worst = ranked.row(-1, named=True)
    holds = abs(worst["z"]) <= worst["limit"]
    said = (
        f"The mean square of the Jacobian of the {group.part}, {group.deepest['design']}, is furthest from its law at "
        f"depth {worst['depth']}: {number(worst['mean'])} ± {number(worst['error'], 2)}, where the law says "
        f"{number(worst['law'])}: z = {number(worst['z'], 2)}, the limit for {looks} looks being "
        f"{number(worst['limit'], 2)}."
    )
    if holds:
        said += f" An error of {percent(worst['limit'] * worst['error'] / worst['law'])} there would have shown."
    if left := [str(depth) for depth in rows["depth"] if depth not in set(judged["depth"])]:
        said += f" Too few draws carry the mean at depth {', '.join(left)}."
    if not holds and any(not stage.plain for stage in group.spec.stages):
        said += " What the law leaves out behind a shortcut is of order 1/width."
    return group.finding("law of the mean square", "law holds" if holds else "law does not hold", said, rows)


def _evidence(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("quantity", "depth", "n", "zeros", "median_low", "q50", "median_high")
