"""The law of gradient correlation between two inputs, and what the readings of study `correlation` say over depth.

Right of the waist: specs and readings in, numbers and tables out (drawn by `skipscope.charts.shattering`).

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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from skipscope import draws
from skipscope.errors import InputError, require_int
from skipscope.protocol import sites_of
from skipscope.readings import Readings
from skipscope.spec import Spec, Stage

__all__ = ["correlation_data", "expected_correlation", "gradient_correlation", "relu_cosine", "shared_gates"]

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
    here = readings.rows.filter(pl.col("site") == site, pl.col("quantity").is_in(_MEASURED))
    if here.filter(pl.col("quantity") == "gradient_cosine").is_empty():
        raise InputError(f"site {site!r} has no gradient_cosine in these readings: measure it with `correlation`.")
    named, finite = pl.col("quantity"), pl.col("value").is_finite()
    cosine = pl.col("value").filter(named == "gradient_cosine", finite)
    inner, square = (pl.col("value").filter(named == f"gradient_{name}") for name in ("inner", "square"))
    half = 1.959963984540054 * cosine.std() / cosine.len().sqrt()
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
