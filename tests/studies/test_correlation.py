"""The study `correlation`: the law's recursion, readings against it, and the data of its chart."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from skipscope import InputError, Readings, Spec, build, draws
from skipscope.engines.jacobian import linearise
from skipscope.shattering import (
    correlation_data,
    expected_correlation,
    gradient_correlation,
    relu_cosine,
    shared_gates,
)
from skipscope.studies.correlation import (
    CORRELATION_DESIGNS,
    CORRELATION_QUANTITIES,
    correlation,
)

Array = NDArray[Any]
SEEDS = range(8)


@pytest.fixture(scope="module")
def readings() -> Readings:
    return correlation(depths=(3, 6), width=10, seeds=SEEDS, batch=5, sites=None)


def values(readings: Readings, quantity: str, **filters: Any) -> Array:
    return readings.select(quantity=quantity, **filters).rows.sort("site", "seed")["value"].to_numpy()


# ------------------------------------------------------------------------------------------------------------ the law


def test_the_kernels_are_those_of_two_gaussians(rng: np.random.Generator):
    for cosine in (-0.6, 0.0, 0.5, 0.99):
        z, other = rng.standard_normal((2, 400_000))
        w = cosine * z + (1 - cosine**2) ** 0.5 * other
        shares = ((z > 0) & (w > 0)).mean() / 0.5  # of the gradient's square, what both gates leave in common
        overlap = (np.maximum(z, 0) * np.maximum(w, 0)).mean() / 0.5
        # Standard errors of 0.0016 at most for both, over 400,000 draws.
        assert shares == pytest.approx(shared_gates(cosine), abs=0.005)
        assert overlap == pytest.approx(relu_cosine(cosine), abs=0.01)


def test_the_kernels_have_their_ends():
    np.testing.assert_allclose(shared_gates([-1, 0, 1]), [0, 0.5, 1], atol=1e-15)
    np.testing.assert_allclose(relu_cosine([-1, 0, 1]), [0, 1 / np.pi, 1], atol=1e-15)


def test_the_recursion_of_a_plain_network():
    law = gradient_correlation(32)
    np.testing.assert_allclose(law[[0, 1, 4, 8, 16, 32]], [1, 0.5, 0.1416, 0.0500, 0.0133, 0.0028], atol=5e-5)
    deep = gradient_correlation(4000)
    slope = np.log(deep[4000] / deep[2000]) / np.log(2)
    assert slope == pytest.approx(-3, abs=0.02)  # and not 2^-L
    assert (gradient_correlation(5, cosine=1.0) == 1).all()


def test_a_networks_law_is_the_recursion_and_more():
    plain = Spec.dense(width=8, blocks=6, layers=1, shortcut="none")
    assert expected_correlation(plain) == pytest.approx(gradient_correlation(7)[-1])
    with_relu = Spec.dense(width=8, blocks=6, layers=1, shortcut="none", output="relu")
    assert expected_correlation(with_relu, 0.3) == pytest.approx(gradient_correlation(8, 0.3)[-1])
    silent = Spec.dense(width=8, blocks=6, order="pre-activation", branch_gain=1e-9)
    assert expected_correlation(silent) == pytest.approx(0.5)  # what the last ReLU leaves
    plain_blocks = Spec.dense(width=8, blocks=3, order="pre-activation", shortcut="none")
    assert expected_correlation(plain_blocks) == pytest.approx(gradient_correlation(7)[-1])


@pytest.mark.parametrize(
    "fields",
    [{}, {"norm": "layer"}, {"order": "after-add"}, {"activation": "tanh"}, {"bias": True}, {"branch_gain": "zero"}],
)
def test_the_law_is_silent_elsewhere(fields: dict[str, Any]):
    assert expected_correlation(Spec.dense(width=4, blocks=2, **fields)) is None


@pytest.mark.parametrize(
    ("fields", "width", "seeds"),
    [
        ({"blocks": 3, "layers": 1, "shortcut": "none"}, 256, 700),
        ({"blocks": 4, "order": "pre-activation", "branch_gain": "1/sqrt(L)"}, 128, 300),
    ],
)
def test_the_law_is_measured(fields: dict[str, Any], width: int, seeds: int):
    """Over all cotangents at once, the cosine between two whole Jacobians, whose spread over networks is small."""
    spec = Spec.dense(width=width, features=32, outputs=48, **fields)
    law = expected_correlation(spec)
    assert law is not None
    found = []
    for start in range(0, seeds, 20):
        chunk = range(start, start + 20)
        network, pair = build(spec, seed=chunk), draws.normals(chunk, "input", (2, 32))
        pair[:, 1] -= (pair[:, :1] @ pair[:, 1, :, None])[:, 0] / (pair[:, 0] ** 2).sum(-1)[:, None] * pair[:, 0]
        J1, J2 = (linearise(network, pair, sample=sample).matrix() for sample in (0, 1))
        norms = ((J1**2).sum(axis=(1, 2)) * (J2**2).sum(axis=(1, 2))) ** 0.5
        found.append((J1 * J2).sum(axis=(1, 2)) / norms)
    cosine = np.concatenate(found)
    error = cosine.std() / seeds**0.5
    assert 0.05 * law > 4 * error
    # The law is that of infinite width; at these widths it is measured up to 1.5 % below the networks' mean.
    assert -3 * error < cosine.mean() - law < 3 * error + 0.015 * law


def test_the_study_measures_the_law():
    found = correlation_data(correlation(depths=(5,), width=100, designs="plain", seeds=range(1500)))
    (row,) = found.to_dicts()
    assert row["law"] == pytest.approx(0.1416, abs=5e-5)
    assert row["halving"] == 0.5**4
    error = (row["high"] - row["low"]) / 2 / 1.96
    assert error < 0.05 * row["law"] / 1.5  # one cotangent a network spreads widely
    assert abs(row["correlation"] - row["law"]) < 3 * error + 0.03 * row["law"]  # 3/n too much at this width
    assert row["correlation"] - row["halving"] > 10 * error  # not Balduzzi's regime


# ------------------------------------------------------------------------------------------------------- the readings


@pytest.mark.parametrize(("name", "batch"), [("plain", 2), ("residual", 2), ("plain, batch norm", 5)])
def test_readings_are_cosines_of_jacobian_vector_products(readings: Readings, name: str, batch: int):
    here: dict[str, Any] = {"design": name, "depth": 6, "site": "input"}
    cell = readings.select(design=name, depth=6).cells.row(0, named=True)
    assert cell["batch"] == batch
    network = build(Spec.from_json(cell["spec"]), seed=SEEDS)
    x = draws.normals(SEEDS, "input", (batch, 10))
    one, other = x[:, 0], x[:, 1]
    across = other - (other * one).sum(-1, keepdims=True) / (one * one).sum(-1, keepdims=True) * one
    x[:, 1] = across * (np.linalg.norm(one, axis=1) / np.linalg.norm(across, axis=1))[:, None]
    v = draws.normals(SEEDS, "cotangent", (1, 10))
    g1, g2 = (linearise(network, x, sample=sample).vjp(v)[:, 0] for sample in (0, 1))
    inner, norms = (g1 * g2).sum(axis=1), np.linalg.norm(g1, axis=1) * np.linalg.norm(g2, axis=1)
    alive = norms > 0
    np.testing.assert_allclose(values(readings, "gradient_cosine", **here), (inner / norms)[alive], atol=1e-10)
    np.testing.assert_allclose(values(readings, "gradient_inner", **here), inner, rtol=1e-8, atol=1e-10)
    square = ((g1**2).sum(axis=1) + (g2**2).sum(axis=1)) / 2
    np.testing.assert_allclose(values(readings, "gradient_square", **here), square, rtol=1e-8)


@pytest.mark.parametrize("cosine", [0.0, 0.7, -1.0, 1.0])
def test_the_inputs_have_the_cosine_that_was_asked_for(cosine: float):
    found = correlation(depths=(3,), width=6, designs="plain", seeds=SEEDS, cosine=cosine)
    np.testing.assert_allclose(values(found, "activation_cosine"), cosine, atol=1e-14)
    if cosine == 1:
        np.testing.assert_allclose(values(found, "gradient_cosine"), 1, atol=1e-12)
    (regime,) = found.cells["inputs"]
    assert regime == ("orthogonal" if cosine == 0 else f"cosine {cosine:g}")


def test_independent_inputs_stay_as_they_are_drawn():
    found = correlation(depths=(3,), width=6, designs="plain", seeds=SEEDS, cosine=None)
    x = draws.normals(SEEDS, "input", (2, 6))
    expected = (x[:, 0] * x[:, 1]).sum(axis=1) / np.linalg.norm(x, axis=2).prod(axis=1)
    np.testing.assert_allclose(values(found, "activation_cosine"), expected)
    assert found.cells["inputs"].to_list() == ["independent"]
    assert correlation_data(found)["law"][0] == pytest.approx(gradient_correlation(2)[-1])


def test_activations_of_a_wide_network_align_as_the_law_says():
    found = correlation(depths=(6,), width=300, designs="plain", seeds=range(40), sites=("stem", "stage1.block4"))
    expected = 0.0
    for layer in range(1, 6):
        expected = float(relu_cosine(expected))
        if layer in (1, 5):
            site = "stem" if layer == 1 else "stage1.block4"
            cosines = values(found, "activation_cosine", site=site)
            error = cosines.std() / len(cosines) ** 0.5
            # Five layers at width 300 bend the mean by up to 0.005.
            assert abs(cosines.mean() - expected) < 3 * error + 0.005
            assert error < 0.02


def test_the_table_has_every_design_and_site(readings: Readings):
    assert set(readings.cells["design"]) == set(CORRELATION_DESIGNS)
    assert set(readings.rows["quantity"]) == set(CORRELATION_QUANTITIES)
    plain = readings.select(design="plain", depth=3)
    assert plain.sites.sort("order")["site"].to_list() == [
        "input",
        "stem",
        "stage1.block1.layer1",
        "stage1.block1",
        "head",
    ]
    # At the output both gradients are the same vector.
    np.testing.assert_allclose(values(plain, "gradient_cosine", site="head"), 1)
    cosines = readings.rows.filter(pl.col("quantity").str.ends_with("cosine"))["value"]
    assert cosines.abs().max() <= 1 + 1e-12  # type: ignore[operator]


def test_a_dead_network_has_no_cosine():
    found = correlation(depths=(12,), width=2, designs="plain", seeds=range(20))
    square, cosine = values(found, "gradient_square"), values(found, "gradient_cosine")
    assert 0 < (square > 0).sum() < 20
    assert len(cosine) <= (square > 0).sum()
    data = correlation_data(found)
    assert data["n"][0] == len(cosine)


def test_chunks_and_workers_change_no_bit():
    arguments: dict[str, Any] = {"depths": (3,), "width": 6, "seeds": range(6), "batch": 4}
    arguments["designs"] = ("residual", "plain, batch norm")
    whole = correlation(**arguments)
    assert correlation(**arguments, chunk=4).equals(whole)
    assert correlation(**arguments, chunk=3, jobs=2).equals(whole)


def test_the_data_of_the_chart(readings: Readings):
    data = correlation_data(readings)
    assert data.height == len(CORRELATION_DESIGNS) * 2
    row = data.row(by_predicate=(pl.col("design") == "residual") & (pl.col("depth") == 6), named=True)
    here: dict[str, Any] = {"design": "residual", "depth": 6, "site": "input"}
    cosine = values(readings, "gradient_cosine", **here)
    assert row["n"] == len(cosine)
    assert row["correlation"] == pytest.approx(cosine.mean())
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * cosine.std(ddof=1) / len(cosine) ** 0.5, rel=1e-4)
    assert row["q50"] == pytest.approx(np.median(cosine))
    pooled = values(readings, "gradient_inner", **here).sum() / values(readings, "gradient_square", **here).sum()
    assert row["pooled"] == pytest.approx(pooled)
    assert row["law"] is None
    assert row["halving"] == 0.5**13
    assert data.filter(pl.col("design") == "plain")["law"].null_count() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"designs": "plian"}, "Did you mean 'plain'"),
        ({"designs": ()}, "designs is empty"),
        ({"cosine": 1.5}, "cosine must be from -1 to 1"),
        ({"cosine": "high"}, "cosine must be a number"),
        ({"features": 1}, "features must be at least 2"),
        ({"sites": "stem2"}, "site must be one of"),
        ({"batch": 1, "designs": "plain, batch norm"}, "batch must be at least 2"),
        ({"norm": "layer", "designs": "plain, batch norm"}, "norm='layer' cannot be chosen"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        correlation(**{"width": 4, "depths": (3,), "seeds": 0, **arguments})


def test_data_of_other_readings_is_refused():
    found = correlation(depths=(3,), width=4, designs="plain", seeds=0)
    with pytest.raises(InputError, match="site 'head' has no gradient_cosine"):
        correlation_data(found, site="head")
