"""The law of the Jacobian's mean square, and what the readings of study `jacobian` say over depth.

Right of the waist: specs and summaries in, numbers and tables out (drawn by `skipscope.charts.spectra`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import polars as pl

from skipscope.draws import weight_variance
from skipscope.errors import InputError
from skipscope.spec import Block, Layer, Spec
from skipscope.summary import QUANTILES, Summary

__all__ = ["expected_mean_square", "spectrum_data"]

Part = Literal["network", "body"]


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
    curves = {f"jacobian_{name}": name for name in ("sigma_max", "sigma_median", "sigma_min")}
    curves["jacobian_mean_square"] = "rms"
    rows = summary.table.filter(pl.col("quantity").is_in(list(curves)))
    if rows.is_empty():
        raise InputError("this summary holds no quantity of the study jacobian: measure with `jacobian`.")
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
