"""What all laws share: how they are asked, what they answer, and which is the best."""

from __future__ import annotations

import math
from typing import Any

import polars as pl
import pytest

from skipscope.errors import InputError
from skipscope.spec import Gains, Head, Spec, Stage, Stem
from skipscope.theory import LAWS, Prediction, best, branch_square, laws

UNKNOWN: Any = "one"


def dense(**fields: Any) -> Spec:
    return Spec.dense(**{"width": 16, "blocks": 3, **fields})


SPECS: dict[str, tuple[Spec, dict[str, Any]]] = {
    "plain": (dense(shortcut="none"), {}),
    "plain, ones": (dense(shortcut="none", output="relu"), {"cotangent": "ones"}),
    "plain, batch of 4": (dense(shortcut="none"), {"batch": 4}),
    "plain, uniform": (dense(shortcut="none", init="torch"), {}),
    "plain, uniform biases": (dense(shortcut="none", init="torch", bias=True), {}),
    "plain, tanh": (dense(shortcut="none", activation="tanh"), {}),
    "plain, normalised": (dense(shortcut="none", norm="batch", width=64), {"batch": 64}),
    "before-add": (dense(), {}),
    "before-add, batch of 4": (dense(), {"batch": 4}),
    "before-add, ones": (dense(output="relu"), {"cotangent": "ones"}),
    "after-add": (dense(order="after-add"), {}),
    "pre-activation": (dense(order="pre-activation"), {}),
    "linear": (dense(activation="linear"), {}),
    "silent": (dense(branch_gain="zero"), {}),
    "shortcut gain 0": (dense(shortcut_gain=0), {}),
}
BEST = {
    "plain": ("(a)", "(a)"),
    "plain, ones": ("(a)", "(a)"),
    "plain, batch of 4": ("(f)", "(f)"),
    "plain, uniform": ("(f)", "(f)"),
    "plain, uniform biases": ("(f)", "(f)"),
    "plain, tanh": ("(f)", "(f)"),
    "plain, normalised": (None, "(d)"),
    "before-add": ("(b2)", "(b2)"),
    "before-add, batch of 4": ("(b2)", "(b2)"),
    "before-add, ones": ("(b2)", "(b2)"),
    "after-add": ("(b3)", None),
    "pre-activation": ("(b1)", "(b1)"),
    "linear": ("(b1)", "(b1)"),
    "silent": ("(b1)", "(b1)"),
    "shortcut gain 0": ("(a)", "(a)"),
}
QUANTITIES: tuple[Any, ...] = ("forward_gain", "backward_gain")


@pytest.mark.parametrize("case", SPECS)
def test_the_best_law_is_the_sharpest_that_holds(case: str):
    spec, setting = SPECS[case]

    for quantity, letter in zip(QUANTITIES, BEST[case], strict=True):
        found = best(spec, quantity, **setting)
        assert found.quantity == quantity
        assert (found.law.split()[0] if found.holds else None) == letter
        others = [each for each in laws(spec, **setting) if each.quantity == quantity and each.holds]
        sharpness = ["exact in law", "exact in mean", "asymptotic in width"]
        if found.holds:
            assert found.kind == min((each.kind for each in others), key=sharpness.index)


@pytest.mark.parametrize("case", SPECS)
def test_tables_are_alike(case: str):
    spec, setting = SPECS[case]

    for each in laws(spec, **setting):
        assert each.table.schema == laws(dense())[0].table.schema
        assert each.table.is_empty() == (not each.holds)
        assert set(each.table["quantity"]) <= {each.quantity}
        assert bool(each.bias) == (each.holds and each.kind == "asymptotic in width")
        squares = each.table.select("square_mean", "rms").drop_nulls()
        assert squares.height == each.table.height
        assert squares["square_mean"].to_list() == pytest.approx((squares["rms"] ** 2).to_list(), rel=1e-12)
        logs = each.table.select("log_mean", "log_variance", "q05", "q50", "q95")
        assert logs.null_count().row(0) in {(0,) * 5, (each.table.height,) * 5}
        if each.kind == "exact in mean":
            assert logs.null_count().row(0) == (each.table.height,) * 5


@pytest.mark.parametrize("case", SPECS)
def test_laws_that_hold_together_agree(case: str):
    # Asymptotic ones to a few times 1/n = 6 %; at these depths nothing exceeds 20 %.
    spec, setting = SPECS[case]

    for quantity in ("forward_gain", "backward_gain"):
        tables = [each.table for each in laws(spec, **setting) if each.quantity == quantity and each.holds]
        for other in tables[1:]:
            both = tables[0].join(other, on="site")
            assert both.height
            for one, two in both.select("square_mean", "square_mean_right").iter_rows():
                assert one == pytest.approx(two, rel=0.2)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"order": "after-add"}, "The branch in stage 1 has ReLUs and is of after-add order: the exact law needs"),
        ({"norm": "layer"}, "There is a layer norm in the stem: the law is about networks without"),
        ({"activation": "tanh"}, "The activation in the stem is tanh: the law needs relu or linear."),
        ({"order": "pre-activation", "output": "relu", "cotangent": "ones"}, "The cotangent is ones under a ReLU"),
    ],
)
def test_what_no_law_speaks_of_is_refused_by_the_one_that_fits_best(fields: dict[str, Any], sentence: str):
    setting = {"cotangent": fields.pop("cotangent")} if "cotangent" in fields else {}

    found = best(dense(**fields), "backward_gain", **setting)

    assert sentence in found.refusal
    assert found.law.startswith("(b")
    assert found.table.is_empty()
    assert found.refusal == " ".join(found.refusals)


def test_laws_are_told_apart_and_sourced():
    assert len({law.name for law in LAWS}) == len(LAWS)
    for law in LAWS:
        assert "\n" not in law.statement
        assert "arXiv:" in law.source
        assert law.name.startswith("(")


def test_depth_does_not_overflow_what_a_gain_can_be():
    # (1 + 2 * 2)^500 is 1e349 for the square, and its root 1e175.
    table = best(dense(width=16, blocks=500, activation="linear"), "forward_gain").table
    last = table.row(by_predicate=pl.col("site") == "stage1.block500", named=True)

    assert last["square_mean"] == math.inf
    assert last["rms"] == pytest.approx(math.sqrt(2) * 5.0**250, rel=1e-9)


@pytest.mark.parametrize(
    "spec",
    [dense(blocks=1000), dense(blocks=1000, order="pre-activation"), dense(blocks=1000, order="after-add"),
     dense(blocks=1000, branch_gain="1/L", order="after-add"), dense(blocks=1000, shortcut="none", init="torch")],
    ids=lambda spec: f"{spec.stages[0].order}, {spec.stages[0].gains.branch}, {spec.stages[0].shortcut}",
)  # fmt: skip
def test_a_thousand_blocks_have_a_law_at_every_site(spec: Spec):
    for quantity in ("forward_gain", "backward_gain"):
        found: Prediction = best(spec, quantity)
        if found.holds:
            assert found.table.height >= 3000
            assert found.table["square_mean"].is_not_nan().all()


@pytest.mark.parametrize(
    ("fields", "square"),
    [
        ({}, 1.0),
        ({"order": "after-add"}, 2.0),
        ({"order": "pre-activation", "branch_gain": 0.5}, 0.25),
        ({"activation": "linear", "branch_gain": "1/sqrt(L)", "blocks": 4}, 1.0),
        ({"branch_gain": "zero"}, 0.0),
    ],
)
def test_the_square_of_a_branch(fields: dict[str, Any], square: float):
    spec = dense(**fields)

    assert branch_square(spec, spec.body[-1]) == pytest.approx(square, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: laws(dense(), cotangent=UNKNOWN), "cotangent must be one of 'gaussian', 'ones'; got 'one'."),
        (lambda: laws(dense(), batch=0), "batch must be at least 1; got 0."),
        (lambda: laws(dense(), input_rms=0.0), "input_rms must be above 0, or None where it is not known; got 0.0."),
        (lambda: best(dense(), UNKNOWN), "quantity must be one of 'forward_gain', 'backward_gain'; got 'one'."),
    ],
)
def test_errors_name_the_parameter(call: Any, message: str):
    with pytest.raises(InputError) as error:
        call()

    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        ([Stage(blocks=1, width=16, order="after-add")], "The order in stage 1 is after-add: the law is about before"),
        ([Stage(blocks=1, width=16, shortcut="none")], "There are no shortcuts: the law is about residual networks."),
        ([Stage(blocks=1, width=16, gains=Gains(shortcut=0, branch=-1.0))], "The branch gain in stage 1 is -1"),
    ],
)
def test_law_b2_says_what_it_needs(stages: list[Stage], sentence: str):
    spec = Spec(stem=Stem(features=4, width=16), stages=tuple(stages), head=Head(features=4))

    found = next(each for each in laws(spec) if each.law.startswith("(b2)"))

    assert sentence in found.refusal


def test_narrow_networks_have_no_asymptotic_law():
    for each in laws(dense(width=7)):
        if each.kind == "asymptotic in width" and each.law.startswith("(b2)"):
            assert "The width is 7" in each.refusal


# Layers of 3 and 4 units die often: gates above a dead layer are all closed, which the exact laws have to count.
NARROW: dict[str, tuple[Spec, dict[str, Any]]] = {
    "plain": (dense(width=4, layers=2, blocks=2, shortcut="none", features=5), {}),
    "plain, pre-activation, ones": (
        dense(width=4, layers=3, blocks=1, shortcut="none", order="pre-activation", output="relu", features=3),
        {"cotangent": "ones"},
    ),
    "plain, uniform, batch of 2": (
        dense(width=4, layers=2, blocks=1, shortcut="none", init="torch", order="after-add", output="relu", features=5),
        {"batch": 2},
    ),
    "linear branches on a ReLU stem": (dense(width=3, blocks=1, activation="linear", output="relu", features=5), {}),
    "silent": (dense(width=3, blocks=2, branch_gain="zero", output="relu", order="after-add", features=5), {}),
}


@pytest.mark.parametrize("case", NARROW)
def test_dead_layers_are_counted(case: str, squares: Any, compare: Any):
    spec, probing = NARROW[case]
    if case == "linear branches on a ReLU stem":
        spec = Spec(stem=Stem(features=5, width=3), stages=spec.stages, head=spec.head)
    measured = squares(spec, 6000, **probing)

    exact = [each for each in laws(spec, **probing) if each.holds and each.kind != "asymptotic in width"]
    assert exact
    for prediction in exact:
        for each in compare(prediction, measured):
            if each.what == "square":
                assert abs(each.z) < 4, (prediction.law, each)
