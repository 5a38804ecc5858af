"""The law of gradient correlation between two inputs, and what the readings of study `correlation` say over depth.

Right of the waist: specs and readings in, numbers, tables and findings out (drawn by `skipscope.charts.shattering`).

*Law.* Let c be the cosine between two inputs of a wide layer, w.x_1 and w.x_2 then being Gaussian with correlation c.
Both gates are open with probability (pi - arccos c)/(2 pi), one of them with probability 1/2, and so

    kappa_0(c) = (pi - arccos c)/pi                          what a ReLU layer leaves of the gradients' correlation
    kappa_1(c) = (sqrt(1 - c^2) + c (pi - arccos c))/pi      the cosine of its outputs

(arc-cosine kernels: Cho and Saul 2009). Gradients are taken to be independent of activations, as in every law of
infinite width. A plain network multiplies kappa_0 over its ReLU layers. At a junction x + a F(x) whose branch ends in
a linear layer (pre-activation order), covariances add as squares do: with g the branch's squared gain times a^2, and k
the product of its layers' kappa_0, the factor is (1 + g k)/(1 + g), and the cosine moves to (c + g c_F)/(1 + g).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from skipscope import draws
from skipscope.diagnosis import SEEDS, Finding, Verdict
from skipscope.errors import InputError, quoted, require_int, require_type
from skipscope.intervals import Z95, student
from skipscope.protocol import sites_of
from skipscope.readings import Readings, require_factors, require_readings
from skipscope.spec import Spec, Stage
from skipscope.summary import z_limit
from skipscope.words import number

__all__ = [
    "KEPT",
    "correlation_data",
    "expected_correlation",
    "findings",
    "gradient_correlation",
    "relu_cosine",
    "shared_gates",
]

KEPT = 0.5
"""Which part of the correlation of its shallowest networks a design has to keep in its deepest."""

Array = NDArray[np.float64]


def shared_gates(cosine: ArrayLike) -> Array:
    """kappa_0: the correlation that a wide ReLU layer leaves of two gradients, its inputs being of that cosine."""
    gates: Array = 1 - np.arccos(np.clip(cosine, -1, 1)) / np.pi
    return gates


def relu_cosine(cosine: ArrayLike) -> Array:
    """kappa_1: the cosine between the outputs of a wide ReLU layer whose inputs are of that cosine."""
    c = np.clip(np.asarray(cosine, np.float64), -1, 1)
    return np.asarray(np.sqrt(1 - c * c) / np.pi + c * shared_gates(c))


def gradient_correlation(layers: int, cosine: float = 0.0) -> Array:
    """The law for a plain He network without centring: the correlation of gradients behind 0, 1, ..., `layers` layers.

    All are ReLU layers. From orthogonal inputs it is 0.1416, 0.0500, 0.0133 and 0.0028 behind 4, 8, 16 and 32 of them:
    about L^-3, since 1 - c_l tends to 9 pi^2/(2 l^2), and not the 2^-L of centred networks.
    """
    require_int("layers", layers, least=0)
    found = [1.0]
    for _ in range(layers):
        found.append(found[-1] * float(shared_gates(cosine)))
        cosine = float(relu_cosine(cosine))
    return np.array(found)


def expected_correlation(spec: Spec, cosine: float = 0.0) -> float | None:
    """The law for a network, at infinite width: between the gradients by its input; None where there is none.

    It holds for ReLU layers without biases and norms, in plain networks and in blocks of pre-activation order, whatever
    the (centred) initialisation. In the other orders the branch has a mean of its own.
    """
    if spec.bias or spec.stem.norm != "none" or not all(_holds(stage) for stage in spec.stages):
        return None
    if "tanh" in {spec.stem.activation, spec.head.activation}:
        return None
    state = _through(_State(1.0, cosine), spec.stem.activation)
    for block in spec.body:
        branch, gain = _State(1.0, state.cosine), block.branch_gain**2
        for layer in block.layers:
            branch = _through(branch, layer.activation)
            gain *= layer.fan_out * draws.weight_variance(spec, layer) * (0.5 if layer.activation == "relu" else 1.0)
        if block.plain:
            state = _through(_State(state.correlation * branch.correlation, branch.cosine), block.activation)
            continue
        whole = block.shortcut_gain**2 + gain
        state = _State(
            state.correlation * (block.shortcut_gain**2 + gain * branch.correlation) / whole,
            (block.shortcut_gain**2 * state.cosine + gain * branch.cosine) / whole,
        )
    if spec.pre_activation:
        state = _through(state, spec.stages[-1].activation)
    return _through(state, spec.head.activation).correlation


@dataclass(frozen=True)
class _State:
    """On the way through the layers: what is left of the gradients' correlation, and the activations' cosine."""

    correlation: float
    cosine: float


def _through(state: _State, activation: str) -> _State:
    if activation == "linear":
        return state
    return _State(state.correlation * float(shared_gates(state.cosine)), float(relu_cosine(state.cosine)))


def _holds(stage: Stage) -> bool:
    sums = stage.plain or (stage.order == "pre-activation" and not stage.gains.silent)
    return stage.norm == "none" and stage.activation in ("relu", "linear") and sums


_MEASURED = ("gradient_cosine", "gradient_inner", "gradient_square")


def correlation_data(readings: Readings, *, site: str = "input") -> pl.DataFrame:
    """What a chart of the correlation against depth is drawn from: one row a design, regime and depth.

    Returns:
        Columns `design`, `inputs`, `depth`, `width`, `batch`, `norm`; `order` of the body's blocks, empty without
        shortcuts; `n` networks, less those where a gradient is 0 or not
        finite; `correlation`, their mean cosine, with `low` and `high`, its 95 % interval over seeds (normal; null for
        one seed); the quantiles `q05`, `q50`, `q95` of single networks; `pooled`, see the module; `law`,
        `expected_correlation` at the inputs' cosine (0 for independent ones) at the site `input`, null where there is
        none; `halving`, 2^-(ReLU layers), Balduzzi's plain network with centring.

    Raises:
        InputError: the readings hold none of this study at the site.
    """
    require_readings(readings)
    rows = readings.rows.filter(pl.col("quantity").is_in(_MEASURED))
    require_type("site", site, str, "the name of one, such as 'input'")
    here = rows.filter(pl.col("site") == site)
    if here.filter(pl.col("quantity") == "gradient_cosine").is_empty():
        raise InputError(
            f"site {quoted(site)} has no gradient_cosine in these readings: measure it with `correlation`."
        )
    require_factors(readings, "correlation", "inputs")
    named, finite = pl.col("quantity"), pl.col("value").is_finite()
    cosine = pl.col("value").filter(named == "gradient_cosine", finite)
    inner, square = (pl.col("value").filter(named == f"gradient_{name}") for name in ("inner", "square"))
    half = Z95 * cosine.std() / cosine.len().sqrt()
    table = here.group_by("cell").agg(
        n=cosine.len().cast(pl.Int64),
        correlation=cosine.mean(),
        low=cosine.mean() - half,
        high=cosine.mean() + half,
        **{name: cosine.quantile(level, "linear") for name, level in (("q05", 0.05), ("q50", 0.5), ("q95", 0.95))},
        pooled=inner.sum() / square.sum(),
    )
    laws = pl.DataFrame(
        [(cell["cell"], _order(cell), *_laws(cell, site)) for cell in readings.cells.iter_rows(named=True)],
        schema={"cell": pl.String, "order": pl.String, "law": pl.Float64, "halving": pl.Float64},
        orient="row",
    )
    cells = readings.cells.select("cell", "design", "inputs", "depth", "width", "batch", "norm")
    return cells.join(table, on="cell").join(laws, on="cell").drop("cell").sort("design", "inputs", "depth", "width")


def _order(cell: Mapping[str, Any]) -> str:
    stages = Spec.from_json(cell["spec"]).stages if cell["spec"] else ()
    return next((stage.order for stage in stages if not stage.plain), "")


def _laws(cell: Mapping[str, Any], site: str) -> tuple[float | None, float | None]:
    if cell["study"] != "correlation" or site != "input" or cell["edit"]:
        return None, None
    spec = Spec.from_json(cell["spec"])
    relus = sum(each.kind == "layer" and each.activation == "relu" for each in sites_of(spec))
    return expected_correlation(spec, cell.get("input_cosine") or 0.0), 0.5**relus


# ----------------------------------------------------------------------------------------------------------- findings

_RULES = {
    "correlation over depth": (
        f"kept: the deepest networks have more than {KEPT:g} of the correlation of the shallowest; shattered: "
        "less; each with the whole 95 % interval of the difference, of pairs of one seed; there must be a correlation "
        f"to lose; a verdict needs {SEEDS} draws",
        "shattering: Balduzzi et al. 2017, arXiv:1702.08591; the share is a convention of this instrument; interval: "
        "Student's t over seeds",
    ),
    "law of infinite width": (
        "law does not hold: at some depth the mean cosine is further off than z_limit says, in standard errors, for "
        f"the number of networks looked at; a verdict needs {SEEDS} draws",
        "the law: skipscope.shattering.expected_correlation, from Cho and Saul 2009; limit: Sidak 1967, Student's t",
    ),
    "a half a layer": (
        "law does not hold: at some depth the mean cosine is further from 2^-(ReLU layers) than z_limit says; law "
        "holds: at none, and at some depth the correlation is not 0, nor what the law of infinite width says; a "
        f"verdict needs {SEEDS} draws",
        "Balduzzi et al. 2017, arXiv:1702.08591, of plain networks whose layers see unrelated inputs",
    ),
}


@dataclass(frozen=True)
class _Line:
    """The networks of one design, width and kind of inputs, by depth: rows of `correlation_data` with z-scores."""

    rows: pl.DataFrame
    cosines: list[dict[int, float]]  # by seed, of every depth
    cell: str  # the deepest

    @property
    def first(self) -> dict[str, Any]:
        return self.rows.row(0, named=True)

    @property
    def last(self) -> dict[str, Any]:
        return self.rows.row(-1, named=True)

    @property
    def subject(self) -> str:
        return f"the {self.last['design']} design, width {self.last['width']}, {self.last['inputs']} inputs"

    def finding(self, rule: str, verdict: Verdict, statement: str) -> Finding:
        threshold, source = _RULES[rule]
        return Finding(
            rule=rule,
            cell=self.cell,
            subject=self.subject,
            verdict=verdict,
            statement=statement,
            evidence=self.rows,
            threshold=threshold,
            source=source,
        )


def findings(readings: Readings, *, site: str = "input") -> list[Finding]:
    """What readings of study `correlation` show of every design: whether gradients shatter, and as which law says.

    The verdicts are `kept`, `shattered`; `law holds`, `law does not hold`; and `cannot tell`.

    Args:
        readings: of study `correlation`.
        site: at which gradients are compared.

    Raises:
        InputError: the readings hold none of this study at the site.
    """
    require_readings(readings)
    lines = list(_by_line(readings, site))
    plain = [line for line in lines if _halves(line)]
    looks = sum(line.rows["z"].count() for line in lines) + sum(line.rows["z_halving"].count() for line in plain)
    found: list[Finding] = []
    for line in lines:
        if line.rows.height > 1:
            found.append(_kept(line))
        if line.rows["law"].count():
            found.append(_fit(line, max(1, looks)))
        if _halves(line):
            found.append(_halving(line, max(1, looks)))
    return found


def _by_line(readings: Readings, site: str) -> Iterator[_Line]:
    data = correlation_data(readings, site=site)
    error = (pl.col("high") - pl.col("low")) / (2 * Z95)
    known = pl.when(error > 0, pl.col("n") >= SEEDS)
    table = data.with_columns(
        z=known.then((pl.col("correlation") - pl.col("law")) / error),
        z_halving=known.then((pl.col("correlation") - pl.col("halving")) / error),
    )
    value = pl.col("value")
    rows = readings.rows.filter(site=site, quantity="gradient_cosine").filter(value.is_finite())
    for (design, inputs, width), part in table.group_by("design", "inputs", "width", maintain_order=True):
        same = readings.cells.filter(design=design, inputs=inputs, width=width)
        cells = [same.filter(depth=depth)["cell"][0] for depth in part["depth"]]
        cosines = [dict(rows.filter(cell=cell).select("seed", "value").iter_rows()) for cell in cells]
        yield _Line(part, cosines, cells[-1])


def _halves(line: _Line) -> bool:
    """Whether it is commonly said of such a network that it shatters as a half a layer."""
    return line.last["order"] == "" and line.last["norm"] in ("none", "batch") and line.rows["halving"].count() > 0


def _kept(line: _Line) -> Finding:
    """Seeds have networks of all depths, so the difference is taken seed by seed."""
    first, last = line.first, line.last
    said = (
        f"From depth {first['depth']} to {last['depth']} of {line.subject} the mean cosine between the gradients goes "
        f"from {_with_interval(first)} to {_with_interval(last)}"
    )
    shallow, deep = line.cosines[0], line.cosines[-1]
    pairs = np.array([(shallow[seed], deep[seed]) for seed in sorted(shallow.keys() & deep.keys())]).reshape(-1, 2)
    if len(pairs) < SEEDS:
        return line.finding("correlation over depth", "cannot tell", f"{said}; {len(pairs)} draws are too few.")
    _, low, high = student(pairs[:, 1] - KEPT * pairs[:, 0])
    began = student(pairs[:, 0])[1] > 0
    verdict: Verdict = "cannot tell"
    if began and (low > 0 or high < 0):
        verdict = "kept" if low > 0 else "shattered"
    said += f" ({len(pairs)} draws)."
    if not began:
        said += " The shallowest have none that could be lost."
    elif verdict == "cannot tell":
        said += f" Whether more than {KEPT:g} of it is left these draws do not decide."
    return line.finding("correlation over depth", verdict, said)


def _fit(line: _Line, looks: int) -> Finding:
    return _held(line, "law of infinite width", "law", "z", looks)


def _halving(line: _Line, looks: int) -> Finding:
    found = _held(line, "a half a layer", "halving", "z_halving", looks)
    if found.verdict != "law holds":
        return found
    # Where the correlation may as well be 0, or what the other law says, that this law fits says nothing.
    limit = z_limit(looks, line.last["n"])
    for row in line.rows.filter(pl.col("z_halving").is_not_null()).iter_rows(named=True):
        error = (row["high"] - row["low"]) / (2 * Z95)
        if row["correlation"] > limit * error and (row["z"] is None or abs(row["z"]) > limit):
            return found
    told = f"{found.statement} Nor would these draws show another law."
    return line.finding("a half a layer", "cannot tell", told)


def _held(line: _Line, rule: str, column: str, z: str, looks: int) -> Finding:
    judged = line.rows.filter(pl.col(z).is_not_null())
    if judged.is_empty():
        said = f"{line.last['n']} draws of {line.subject} are too few to hold against a law: measure {SEEDS} at least."
        return line.finding(rule, "cannot tell", said)
    limits = pl.Series([z_limit(looks, n) for n in judged["n"]])
    ranked = judged.with_columns(limit=limits).sort(pl.col(z).abs() / pl.col("limit"))
    worst = ranked.row(-1, named=True)
    off = ranked.filter(pl.col(z).abs() > pl.col("limit")).height
    said = (
        f"Of {line.subject} the mean cosine is furthest from the law at depth {worst['depth']}: "
        f"{_with_interval(worst)}, where it says {number(worst[column], 2)}: z = {number(worst[z], 2)}, the limit for "
        f"{looks} looks being {number(worst['limit'], 2)}."
    )
    if off:
        said += f" At {off} of {judged.height} depths it is beyond."
        if column == "law":
            said += " The law is that of infinite width; at this one draws differ, and a floor remains."
    else:
        error = worst["limit"] * (worst["high"] - worst["low"]) / (2 * Z95)
        said += f" A distance of {number(error, 2)} there would have shown."
    return line.finding(rule, "law does not hold" if off else "law holds", said)


def _with_interval(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return number(row["correlation"], 2)
    return f"{number(row['correlation'], 2)} ({number(row['low'], 2)} to {number(row['high'], 2)})"
