"""Jacobians: exact against closed forms and finite differences, their singular values, and the laws they obey."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from skipscope import InputError, Spec, build, draws, theory
from skipscope.engines import ops
from skipscope.engines.jacobian import Linear, jacobian, largest_singular_value, linearise, singular_values

Array = NDArray[Any]
SEEDS = range(4)
DESIGNS: list[dict[str, Any]] = [
    {},
    {"order": "pre-activation", "branch_gain": 0.4},
    {"order": "after-add", "activation": "tanh"},
    {"norm": "layer"},
    {"norm": "batch", "order": "pre-activation"},
    {"shortcut": "none", "layers": 1},
]


def small(**fields: Any) -> Spec:
    return Spec.dense(**{"width": 9, "blocks": 3, "features": 5, "outputs": 4} | fields)


def inputs(spec: Spec, samples: int = 6) -> Array:
    return draws.normals(SEEDS, "input", (samples, spec.stem.features))


# ------------------------------------------------------------------------------------------------- the matrix itself


def test_of_a_linear_network_it_is_the_product_of_the_weights():
    spec = small(activation="linear", branch_gain=0.5)
    network = build(spec, seed=SEEDS)
    weight = network.parameters
    expected = weight["stem.weight"]
    for block in spec.body:
        first, second = (weight[f"{layer.site}.weight"] for layer in block.layers)
        expected = expected + 0.5 * second @ first @ expected
    np.testing.assert_allclose(jacobian(network, inputs(spec)), weight["head.weight"] @ expected, rtol=1e-12)


@pytest.mark.parametrize("fields", DESIGNS, ids=str)
def test_its_columns_are_finite_differences_of_one_samples_output(fields: dict[str, Any]):
    spec = small(**fields)
    network, x, step = build(spec, seed=SEEDS), inputs(spec), 1e-6
    found = jacobian(network, x, sample=2)
    for column in range(5):
        moved = np.zeros_like(x)
        moved[:, 2, column] = step  # the sample alone: under batch norm the statistics move with it
        change = (network.run(x + moved).output - network.run(x - moved).output)[:, 2] / (2 * step)
        np.testing.assert_allclose(found[:, :, column], change, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fields", DESIGNS, ids=str)
def test_one_hot_cotangents_and_one_hot_tangents_give_the_same_matrix(fields: dict[str, Any]):
    spec = small(**fields)
    linear = linearise(build(spec, seed=SEEDS), inputs(spec), sample=1)
    for part in (linear, linear.at("stage1.block2"), linear.at("body")):
        columns = part.jvp(np.eye(part.inputs)).swapaxes(-1, -2)
        np.testing.assert_allclose(part.matrix(), columns, rtol=1e-11, atol=1e-12)


def test_a_sample_has_the_jacobian_that_it_has_alone_but_for_batch_norm():
    for norm, same in (("none", True), ("layer", True), ("batch", False)):
        spec = small(norm=norm)
        network, x = build(spec, seed=SEEDS), inputs(spec)
        in_batch, of_few = jacobian(network, x, sample=1), jacobian(network, x[:, 1:3])
        assert (in_batch == of_few).all() == same


def test_a_body_is_the_product_of_its_blocks_and_a_network_of_its_parts():
    spec = small()
    linear = linearise(build(spec, seed=SEEDS), inputs(spec, 1))
    product = linear.at("stem").matrix()
    for site in ("stage1.block1", "stage1.block2", "stage1.block3", "head"):
        product = linear.at(site).matrix() @ product
    np.testing.assert_allclose(linear.matrix(), product, rtol=1e-12, atol=1e-12)
    parts = linear.at("head").matrix() @ linear.at("body").matrix() @ linear.at("stem").matrix()
    np.testing.assert_allclose(linear.matrix(), parts, rtol=1e-12, atol=1e-12)


def test_a_lesioned_block_is_the_identity_and_a_block_starting_at_zero_too():
    spec = small()
    network = build(spec, seed=SEEDS)
    with network.gains(branch=0, at="stage1.block2"):
        assert (jacobian(network, inputs(spec, 1), at="stage1.block2") == np.eye(9)).all()
    silent = build(small(branch_gain="zero"), seed=SEEDS)
    assert (jacobian(silent, inputs(spec, 1), at="stage1.block1") == np.eye(9)).all()


@pytest.mark.parametrize("fields", DESIGNS, ids=str)
def test_a_seed_gives_the_same_bits_alone_and_in_an_ensemble(fields: dict[str, Any]):
    spec = small(**fields)
    x = inputs(spec)
    together, alone = linearise(build(spec, seed=SEEDS), x), linearise(build(spec, seed=2), x[2])
    assert (together.matrix()[2] == alone.matrix()[0]).all()
    assert (singular_values(together.matrix())[2] == singular_values(alone.matrix())[0]).all()
    assert largest_singular_value(together)[2] == largest_singular_value(alone)[0]


def test_what_does_not_fit_is_refused():
    network = build(small(), seed=SEEDS)
    linear = linearise(network, np.ones((2, 5)))
    with pytest.raises(InputError, match="sample=2 is not in a batch of 2 samples"):
        linearise(network, np.ones((2, 5)), sample=2)
    with pytest.raises(InputError, match=r"batch must have the shape"):
        linearise(network, np.ones(5))
    with pytest.raises(InputError, match=r"site must be one of .*'body'"):
        linear.at("stage1.block2.layer1")
    with pytest.raises(InputError, match=r"\(k, 5\) or \(s, k, 5\); got \(3, 4\)"):
        linear.jvp(np.ones((3, 4)))
    with pytest.raises(InputError, match="4 seeds in front"):
        linear.vjp(np.ones((3, 1, 4)))
    with pytest.raises(InputError, match="site must be one of"):
        linearise(build(Spec.dense(width=4, blocks=0), seed=0), np.ones((1, 4))).at("body")


# -------------------------------------------------------------------------------------------------- singular values


def test_singular_values_are_those_of_lapack_and_zero_below_rounding(rng: np.random.Generator):
    matrices = rng.standard_normal((3, 6, 4))
    np.testing.assert_allclose(singular_values(matrices), np.linalg.svd(matrices, compute_uv=False), rtol=1e-13)
    lean = matrices[:, :, :2] @ rng.standard_normal((3, 2, 4))
    assert ((singular_values(lean) > 0).sum(axis=1) == 2).all()
    assert (singular_values(np.zeros((1, 2, 3))) == 0).all()


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_singular_values_of_extreme_matrices(rng: np.random.Generator, scale: float):
    matrices = rng.standard_normal((2, 5, 5))
    np.testing.assert_allclose(singular_values(matrices * scale) / scale, singular_values(matrices), rtol=1e-12)


def test_an_overflow_is_nan_and_touches_no_other_network(rng: np.random.Generator):
    matrices = rng.standard_normal((3, 4, 4))
    expected = singular_values(matrices)
    matrices[1, 2, 3] = np.inf
    found = singular_values(matrices)
    assert np.isnan(found[1]).all()
    assert (found[[0, 2]] == expected[[0, 2]]).all()


@pytest.mark.parametrize("fields", DESIGNS, ids=str)
@pytest.mark.parametrize("site", ["network", "body", "stage1.block2"])
def test_lanczos_finds_the_largest(fields: dict[str, Any], site: str):
    spec = small(width=40, features=40, outputs=40, **fields)
    linear = linearise(build(spec, seed=SEEDS), inputs(spec))
    part = linear if site == "network" else linear.at(site)
    # The relative residual, 1e-6, bounds the error of the value; the value converges as its square.
    np.testing.assert_allclose(largest_singular_value(part), singular_values(part.matrix())[:, 0], rtol=1e-6)


def test_lanczos_in_float32_and_of_a_wide_network():
    spec = Spec.dense(width=530, blocks=1, features=20, outputs=25, dtype="float32")
    linear = linearise(build(spec, seed=SEEDS), inputs(spec, 1))
    for part in (linear, linear.at("stage1.block1")):
        expected = np.linalg.norm(part.matrix().astype(float), 2, axis=(1, 2))
        np.testing.assert_allclose(largest_singular_value(part), expected, rtol=1e-5)  # float32 has seven digits


def test_lanczos_of_nothing_and_of_an_overflow():
    spec = small(width=4, features=3, outputs=3)
    network = build(spec, seed=SEEDS)
    network.parameters["head.weight"][0] = 0
    network.parameters["head.weight"][1] = np.inf
    linear = linearise(network, inputs(spec, 1))
    found = largest_singular_value(linear)
    assert found[0] == 0
    assert np.isnan(found[1])
    np.testing.assert_allclose(found[2:], singular_values(linear.matrix())[2:, 0], rtol=1e-9)


def test_lanczos_of_few_directions_ends_when_they_are_spent():
    spec = small(width=30, features=30, outputs=30, blocks=1)
    network = build(spec, seed=SEEDS)
    network.parameters["head.weight"][:, 2:] = 0  # rank 2
    linear = linearise(network, inputs(spec, 1))
    np.testing.assert_allclose(largest_singular_value(linear), singular_values(linear.matrix())[:, 0], rtol=1e-9)


# ---------------------------------------------------------------------------------------------------------- the laws


def gains(linear: Linear) -> Array:
    """ln |J u|^2/|u|^2 for a random u a network; -inf for a dead one."""
    u = draws.normals(linear.seeds, "resample", (1, linear.inputs))
    with np.errstate(divide="ignore"):
        return np.log((linear.jvp(u) ** 2).sum(axis=(1, 2)) / (u**2).sum(axis=(1, 2)))


def test_law_a_of_a_random_direction():
    """|J u|^2 has the law of the forward gain for any fixed u, at any width, in mean and variance."""
    spec = Spec.dense(width=8, blocks=28, layers=1, shortcut="none", output="relu")
    found = np.concatenate(
        [
            gains(linearise(build(spec, seed=seeds), draws.normals(seeds, "input", (1, 8))))
            for seeds in (range(start, start + 2000) for start in range(0, 30_000, 2000))
        ]
    )
    alive = found[np.isfinite(found)]  # the law is given that no layer is dead, each with probability 2^-8
    deaths, expected = 1 - len(alive) / len(found), 1 - (1 - 2**-8) ** 30
    assert abs(deaths - expected) < 3 * (expected * (1 - expected) / len(found)) ** 0.5
    law = theory.best(spec, "forward_gain").table
    ((mean, variance),) = law.filter(pl.col("site") == "head").select("log_mean", "log_variance").rows()
    centred = alive - alive.mean()
    mean_error = alive.std() / len(alive) ** 0.5
    variance_error = ((centred**4).mean() - alive.var() ** 2) ** 0.5 / len(alive) ** 0.5
    assert 0.05 * abs(mean) > 5 * mean_error
    assert 0.05 * variance > 5 * variance_error
    assert abs(alive.mean() - mean) < 3 * mean_error
    assert abs(alive.var() - variance) < 3 * variance_error


@pytest.mark.parametrize(("n", "a", "g2"), [(8, 1.0, 2.0), (8, 0.5, 1.0), (3, 1.0, 2.0)])
def test_law_b1_of_a_residual_block_by_the_ops(n: int, a: float, g2: float):
    """E |J u|^2 = (1 + g2 a^2) |u|^2 for x + a W2 relu(W1 x), exactly at any width: 3 with He on both."""
    draw, networks = np.random.default_rng(n), 40_000
    x, u = draw.standard_normal((2, networks, 1, n))
    first = draw.standard_normal((networks, n, n)) * (2 / n) ** 0.5
    second = draw.standard_normal((networks, n, n)) * (g2 / n) ** 0.5
    gates = ops.relu(ops.affine(x, first))
    branch = ops.affine_jvp(ops.relu_jvp(ops.affine_jvp(u, first), gates), second)
    moved = ops.junction_jvp(u, branch, 1.0, a)
    ratio = (moved**2).sum(axis=(1, 2)) / (u**2).sum(axis=(1, 2))
    error = ratio.std() / networks**0.5
    assert 0.05 * ratio.mean() > 5 * error
    assert abs(ratio.mean() - (1 + g2 * a * a)) < 3 * error
