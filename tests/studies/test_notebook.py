"""The study `notebook` against the tables of an independent simulation: 2000 draws a cell, 16 -> 16, float64, batch 1.

The tables are quantiles over draws. The standard error of the p-quantile of n draws is sqrt(p (1 - p)/n) / f, f the
density there; on the logarithmic scale, on which these ratios are close to normal, f is phi(z_p) / s with s the local
scale: how much ln(ratio) changes from one quantile of the table to the next, a unit of the normal quantile z. Both
tables are estimates, so the tolerance is 4 sqrt(1/2000 + 1/n) / sqrt(1/n) of ours, and half a unit of the last digit
that was printed. One in 16,000 comparisons of true tables fails at 4 standard errors; the seeds are fixed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy import stats

from skipscope import QUANTITIES, InputError, Readings, design
from skipscope.studies import notebook
from skipscope.studies.ensemble import Cell, run
from skipscope.studies.notebook import DEPTHS

Array = NDArray[np.float64]
UNKNOWN: Any = "deep"
SIMULATED = 2000  # draws of every cell of the tables
FEW, MANY = range(500), range(2000)  # how many are drawn here: in every run, and where time is no matter
LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])

# (cotangent, depth) -> quantiles at LEVELS of |dW_first|/|dW_last|, as printed: plain, d layers; residual, d blocks.
TABLE: Mapping[tuple[str, int], tuple[str, str]] = {
    ("ones", 5): (".77 1.27 1.76 2.62 4.82", ".62 .93 1.28 1.72 2.79"),
    ("ones", 10): (".86 1.49 2.30 3.82 8.39", ".57 .94 1.28 1.78 2.93"),
    ("ones", 20): (".90 1.65 2.81 5.20 15.5", ".58 .92 1.26 1.74 2.87"),
    ("ones", 30): (".93 1.77 3.09 5.88 22.5", ".56 .92 1.25 1.73 2.87"),
    ("ones", 40): (".90 1.77 3.10 6.15 25.4", ".59 .91 1.25 1.72 2.91"),
    ("gaussian", 5): (".31 .62 .97 1.60 3.38", ".18 .36 .56 .88 1.55"),
    ("gaussian", 10): (".18 .50 1.00 1.83 4.56", ".086 .23 .43 .73 1.36"),
    ("gaussian", 20): (".13 .49 1.01 2.16 7.31", ".037 .18 .38 .70 1.38"),
    ("gaussian", 30): (".11 .45 1.00 2.19 9.57", ".038 .18 .38 .70 1.45"),
    ("gaussian", 40): (".11 .45 1.03 2.50 11.1", ".040 .18 .40 .69 1.36"),
}

# The share of pairs, drawn independently, in which the plain network's ratio is the larger one.
PLAIN_LARGER: Mapping[str, Sequence[float]] = {
    "ones": (0.68, 0.76, 0.80, 0.84, 0.84),
    "gaussian": (0.71, 0.76, 0.77, 0.75, 0.76),
}

# Medians, cotangent of ones: residual |x_L|/|x_0| and |g_0|/|g_L|, plain |a_(d-1)|/|x| and |delta_1|/|delta_d|.
HIDDEN: Mapping[int, tuple[str, str, str, str]] = {
    5: ("10.4", "10.6", ".76", "1.38"),
    10: ("118", "117", ".48", "1.21"),
    20: ("1.57e4", "1.54e4", ".19", ".58"),
    30: ("2.1e6", "2.0e6", ".080", ".28"),
    40: ("3.0e8", "2.8e8", ".031", ".115"),
}


def printed(text: str) -> tuple[float, float]:
    """A number, and how much on the logarithmic scale its rounding may have changed it."""
    digits = Decimal(text)
    exponent = digits.as_tuple().exponent
    assert isinstance(exponent, int)
    half = 0.5 * 10.0**exponent
    return float(digits), -math.log1p(-half / float(digits))


def allowed(quantiles: Array, draws: int) -> Array:
    """Four standard errors of the difference of two tables' ln(quantile): see the module's docstring."""
    z = stats.norm.ppf(LEVELS)
    slopes = np.diff(np.log(quantiles)) / np.diff(z)
    scales = np.array([slopes[0], *(slopes[:-1] + slopes[1:]) / 2, slopes[-1]])
    error = np.sqrt(LEVELS * (1 - LEVELS)) / stats.norm.pdf(z) * scales
    return 4 * error * math.sqrt(1 / SIMULATED + 1 / draws)


def values(readings: Readings, quantity: str, **filters: Any) -> Array:
    rows = readings.select(quantity=quantity, **filters).rows
    return rows.sort("seed")["value"].to_numpy()


def check_quantiles(readings: Readings, cotangent: str, depth: int, name: str) -> None:
    text = TABLE[cotangent, depth][("plain", "residual").index(name)]
    table, rounding = map(np.array, zip(*map(printed, text.split()), strict=True))
    ours = values(readings, "weight_grad_first_last", cotangent=cotangent, depth=depth, width=16, design=name)
    difference = np.log(np.quantile(ours, LEVELS)) - np.log(table)

    limit = allowed(table, len(ours)) + rounding
    assert (np.abs(difference) <= limit).all(), f"{difference} is more than {limit}"


def check_pairs(readings: Readings, cotangent: str, depth: int) -> None:
    """The simulation drew the two networks of a pair independently; here those of one seed share their draw.

    So every plain network is set against every residual one but its own (Mann and Whitney's statistic; its standard
    error is that of DeLong's two components).
    """
    expected = PLAIN_LARGER[cotangent][DEPTHS.index(depth)]
    plain, residual = (
        values(readings, "weight_grad_first_last", cotangent=cotangent, depth=depth, width=16, design=name)
        for name in ("plain", "residual")
    )
    larger = plain[:, None] > residual[None, :]
    components = larger.mean(axis=1).var() / len(plain) + larger.mean(axis=0).var() / len(residual)
    error = math.sqrt(components + expected * (1 - expected) / SIMULATED)

    assert larger.mean() == pytest.approx(expected, abs=4 * error + 0.005)


def check_growth(readings: Readings, depth: int) -> None:
    """The medians of the residual network's growth over its body, in norm; the spread of ln is that of our draws."""
    for quantity, text in zip(("forward_growth", "backward_growth"), HIDDEN[depth][:2], strict=True):
        expected, rounding = printed(text)
        grown = values(readings, quantity, cotangent="ones", depth=depth, width=16, design="residual")
        logs = np.log(grown) * depth / 2
        error = math.sqrt(math.pi / 2) * logs.std() * math.sqrt(1 / SIMULATED + 1 / len(logs))

        assert np.median(logs) == pytest.approx(math.log(expected), abs=4 * error + rounding)


# ------------------------------------------------------------------------------------------------- the tables


@pytest.fixture(scope="module")
def few() -> Readings:
    return notebook(seeds=FEW)


@pytest.fixture(scope="module")
def many() -> Readings:
    return notebook(seeds=MANY)


@pytest.mark.parametrize("name", ["plain", "residual"])
@pytest.mark.parametrize(("cotangent", "depth"), TABLE)
def test_ratios_have_the_quantiles_of_the_table(few: Readings, cotangent: str, depth: int, name: str):
    check_quantiles(few, cotangent, depth, name)


@pytest.mark.parametrize(("cotangent", "depth"), TABLE)
def test_the_plain_ratio_is_the_larger_one_as_often_as_in_the_table(few: Readings, cotangent: str, depth: int):
    check_pairs(few, cotangent, depth)


@pytest.mark.parametrize("depth", DEPTHS)
def test_residual_networks_grow_as_in_the_table(few: Readings, depth: int):
    check_growth(few, depth)


@pytest.mark.slow
def test_as_many_draws_as_the_simulation_had_give_its_tables(many: Readings):
    for cotangent, depth in TABLE:
        for name in ("plain", "residual"):
            check_quantiles(many, cotangent, depth, name)
        check_pairs(many, cotangent, depth)
    for depth in DEPTHS:
        check_growth(many, depth)


def test_the_comparison_is_one_that_can_fail(few: Readings):
    """Another depth, another cotangent and the other network are told apart by 500 draws."""

    def pretended(**columns: Any) -> Readings:
        return Readings(rows=ones.rows, cells=ones.cells.with_columns(**columns), sites=ones.sites)

    ones = few.select(depth=5, width=16, cotangent="ones")
    deeper = pretended(depth=pl.lit(20, pl.Int64))
    with pytest.raises(AssertionError):
        check_quantiles(deeper, "ones", 20, "plain")
    swapped = pretended(design=pl.col("design").replace({"plain": "residual", "residual": "plain"}))
    with pytest.raises(AssertionError):
        check_growth(swapped, 5)
    with pytest.raises(AssertionError):
        check_pairs(swapped, "ones", 5)
    gaussian = pretended(cotangent=pl.lit("gaussian"))
    for name in ("plain", "residual"):
        with pytest.raises(AssertionError):
            check_quantiles(gaussian, "gaussian", 5, name)


def test_plain_networks_shrink_and_their_gradients_turn_as_in_the_table():
    """|a_(d-1)|/|x| and |delta_1|/|delta_d| of the plain networks, which the study itself leaves out."""
    wanted = {name: QUANTITIES[name] for name in ("forward_gain", "preactivation_grad_norm")}
    specs = {depth: design("plain", depth=depth, width=16, features=16, output="relu") for depth in DEPTHS}
    cells = [
        Cell(spec=spec, factors={"depth": depth}, cotangent="ones", quantities=wanted) for depth, spec in specs.items()
    ]
    readings = run(cells, FEW)
    for depth in DEPTHS:
        last = f"stage1.block{depth - 2}"
        first, final = (
            readings.select(quantity="preactivation_grad_norm", site=site, depth=depth).rows.sort("seed")["value"]
            for site in ("stem", "head")
        )
        signal = values(readings, "forward_gain", site=last, depth=depth)
        for text, found in zip(HIDDEN[depth][2:], (signal, (first / final).to_numpy()), strict=True):
            expected, rounding = printed(text)
            logs = np.log(found[np.isfinite(found) & (found > 0)])
            error = math.sqrt(math.pi / 2) * logs.std() * math.sqrt(1 / SIMULATED + 1 / len(logs))
            assert np.median(logs) == pytest.approx(math.log(expected), abs=4 * error + rounding)


def test_the_residual_network_explodes_where_the_ratio_sees_nothing(few: Readings):
    """Correction 3: 3e8 over 40 blocks forward and backward, with a median ratio of 1.25 at every depth."""
    ratios = [
        np.median(values(few, "weight_grad_first_last", cotangent="ones", depth=depth, width=16, design="residual"))
        for depth in DEPTHS
    ]
    growth = [
        np.median(
            values(few, "forward_growth", cotangent="ones", depth=depth, width=16, design="residual") ** (depth / 2)
        )
        for depth in DEPTHS
    ]

    assert max(ratios) / min(ratios) < 1.2
    assert growth[-1] / growth[0] > 1e7


# ------------------------------------------------------------------------------------------------------------ the study


def test_both_settings_are_measured():
    readings = notebook(seeds=range(3))

    cells = readings.cells.select("design", "depth", "width", "cotangent").sort(pl.all()).rows()
    settings = {(depth, 16, kind) for depth in (5, 10, 20, 30, 40) for kind in ("ones", "gaussian")} | {
        (28, 36, "ones")
    }
    assert cells == sorted((name, *setting) for name in ("plain", "residual") for setting in settings)
    assert set(readings.cells["study"]) == {"notebook"}
    assert set(readings.cells["batch"]) == {1}
    assert set(readings.rows["site"]) == {"network"}
    assert set(readings.rows["quantity"]) == {"weight_grad_first_last", "forward_growth", "backward_growth"}


def test_its_networks_are_the_notebooks():
    from skipscope import PlainNetwork, ResidualNetwork

    readings = notebook(seeds=[0])
    for name, kind in (("plain", PlainNetwork), ("residual", ResidualNetwork)):
        for depth, width in ((10, 16), (28, 36)):
            cell = readings.cells.filter(design=name, depth=depth, width=width)
            assert set(cell["spec"]) == {kind(16, width, depth, seed=0).spec.to_json()}


def test_its_ratio_is_the_one_that_the_notebook_prints():
    from skipscope import PlainNetwork, ResidualNetwork, draws

    readings = notebook(seeds=[42], depths=[10])
    x = draws.normals([42], "input", (1, 16))[0]
    for name, kind in (("plain", PlainNetwork), ("residual", ResidualNetwork)):
        for depth, width in ((10, 16), (28, 36)):
            network = kind(16, width, depth, seed=42)
            network.backward(np.ones_like(network.forward(x)))
            norms = network.gradient_norms()
            (ratio,) = values(
                readings, "weight_grad_first_last", design=name, depth=depth, width=width, cotangent="ones"
            )

            assert ratio == pytest.approx(norms[0] / norms[-1], rel=1e-14)


def test_depths_and_precision_are_chosen():
    readings = notebook(seeds=range(2), depths=[3, 7], dtype="float32")

    assert readings.cells["depth"].unique().sort().to_list() == [3, 7, 28]
    assert readings.cells["dtype"].unique().to_list() == ["float32"]


def test_the_chunk_does_not_change_a_bit():
    assert notebook(seeds=range(5), depths=[5], chunk=2).equals(notebook(seeds=range(5), depths=[5]))


@pytest.mark.slow
def test_nor_does_the_number_of_workers():
    assert notebook(seeds=range(6), depths=[5], jobs=2, chunk=4).equals(notebook(seeds=range(6), depths=[5]))


def test_progress_is_told():
    told: list[tuple[int, int]] = []
    notebook(seeds=range(3), depths=[5], progress=lambda done, total: told.append((done, total)))

    assert told == [(6, 18), (18, 18)]  # the two networks of 16 -> 36 share a draw, and the four of 16 -> 16


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seeds": []}, "seeds is empty"),
        ({"depths": [1]}, "depth must be at least 2; got 1"),
        ({"depths": [UNKNOWN]}, "depths must be a whole number"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"jobs": 0}, "jobs must be at least 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], words: str):
    with pytest.raises(InputError) as caught:
        notebook(**{"seeds": range(2), **arguments})

    assert words in str(caught.value)
