"""The gradient by path, against all 2^L paths multiplied out, and against what must hold of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from skipscope import InputError, Spec, build, draws, losses
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.engines.paths import path_gradients, path_moments, path_weights
from skipscope.losses import Cotangent
from skipscope.spec import Gains, Head, Stage, Stem

Array = NDArray[Any]
SEEDS = (2, 9)
FEATURES = 3

ORDERS = ("before-add", "after-add", "pre-activation")
NORMS = ("none", "batch", "layer")
ACTIVATIONS = ("relu", "tanh", "linear")


def dense(**fields: Any) -> Spec:
    return Spec.dense(**{"width": 6, "blocks": 2, "features": FEATURES} | fields)


def drawn(spec: Spec, samples: int, seeds: tuple[int, ...] = SEEDS) -> tuple[Array, Cotangent]:
    inputs = draws.normals(seeds, "input", (samples, spec.stem.features))
    return inputs, losses.cotangent("gaussian", seeds=seeds, batch=samples, outputs=spec.head.features)


def gradients(network: NumpyNetwork, batch: Any, loss: Cotangent) -> dict[str, Array]:
    """The gradient by what every site hands on."""
    found: dict[str, Array] = {}

    def observe(site: str, /, **roles: Array) -> None:
        if "activation_grad" in roles:
            found[site] = roles["activation_grad"].copy()

    network.run(batch, loss, observe)
    return found


# ------------------------------------------------------------------------------------- all paths, by torch's autograd
#
# Independent of the engine: the forward is written in torch.nn.functional from the module docstring of spec.py, the
# Jacobian of every branch is torch's, and the 2^L products are formed one by one.


FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "linear": torch.clone,
}


class Enumerated:
    """One network of an ensemble in torch, with the Jacobians of its parts over the flattened batch."""

    def __init__(self, network: NumpyNetwork, index: int, inputs: Array) -> None:
        self.spec = network.spec
        self.parameters = {name: torch.tensor(array[index]) for name, array in network.parameters.items()}
        self.inputs = torch.tensor(inputs)

    def activated(self, x: torch.Tensor, site: str, norm: str, activation: str) -> torch.Tensor:
        if norm == "batch":
            x = functional.batch_norm(
                x, None, None, self.parameters[f"{site}.gamma"], self.parameters[f"{site}.beta"], training=True
            )
        if norm == "layer":
            gamma, beta = self.parameters[f"{site}.gamma"], self.parameters[f"{site}.beta"]
            x = functional.layer_norm(x, x.shape[-1:], gamma, beta)
        return FUNCTIONS[activation](x)

    def affine(self, x: torch.Tensor, site: str) -> torch.Tensor:
        return functional.linear(x, self.parameters[f"{site}.weight"], self.parameters.get(f"{site}.bias"))

    def branch(self, x: torch.Tensor, site: str, stage: Stage) -> torch.Tensor:
        for index in range(1, stage.layers + 1):
            layer = f"{site}.layer{index}"
            if stage.order == "pre-activation":
                x = self.affine(self.activated(x, layer, stage.norm, stage.activation), layer)
            else:
                last = stage.order == "after-add" and index == stage.layers
                x = self.activated(self.affine(x, layer), layer, stage.norm, "linear" if last else stage.activation)
        scalar = self.parameters.get(f"{site}.gain")
        return x if scalar is None else x * scalar

    def by_length(self, cotangent: Array) -> Array:
        """G of shape (L + 1, b, n)."""
        spec, (stage,) = self.spec, self.spec.stages
        x = self.activated(self.affine(self.inputs, "stem"), "stem", spec.stem.norm, spec.stem.activation)
        shape, size = x.shape, x.numel()
        gain_s, gain_b = stage.gains.values(stage.blocks)
        steps: list[tuple[Array, Array]] = []  # the Jacobian of a block along its shortcut, and along its branch
        for block in range(1, stage.blocks + 1):
            site = f"stage1.block{block}"
            through = torch.autograd.functional.jacobian(lambda x, site=site: self.branch(x, site, stage), x)
            total = gain_s * x + gain_b * self.branch(x, site, stage)
            gate = torch.eye(size, dtype=x.dtype)
            if stage.order == "after-add":
                after = FUNCTIONS[stage.activation]
                gate = torch.autograd.functional.jacobian(after, total).reshape(size, size)
                total = after(total)
            steps.append(((gain_s * gate).numpy(), (gain_b * gate @ through.reshape(size, size)).numpy()))
            x = total
        top = self.top(x.detach(), cotangent)
        found = np.zeros((stage.blocks + 1, size))
        for path in itertools.product((0, 1), repeat=stage.blocks):
            g = top
            for step, taken in zip(reversed(steps), reversed(path), strict=True):
                g = step[taken].T @ g
            found[sum(path)] += g
        return found.reshape(stage.blocks + 1, *shape)

    def top(self, x: torch.Tensor, cotangent: Array) -> Array:
        """The gradient by the output of the last block."""
        x.requires_grad_()
        stage = self.spec.stages[-1]
        h = self.activated(x, "final", stage.norm, stage.activation) if self.spec.pre_activation else x
        y = self.activated(self.affine(h, "head"), "head", "none", self.spec.head.activation)
        (gradient,) = torch.autograd.grad((y * torch.tensor(cotangent)).sum(), x)
        return gradient.flatten().numpy()


def assert_enumerated(spec: Spec, samples: int = 3, scalars: float | None = None) -> None:
    network = build(spec, seed=SEEDS)
    for name, parameter in network.parameters.items():
        if name.endswith((".gamma", ".beta")):  # their initial values, 1 and 0, would hide a factor left out
            parameter += 0.3 * np.random.default_rng(len(name)).standard_normal(parameter.shape)
        if name.endswith(".gain") and scalars is not None:
            parameter[...] = [scalars, -2 * scalars]
    inputs, loss = drawn(spec, samples)
    by_path = path_gradients(network, inputs, loss)
    for index in range(len(SEEDS)):
        expected = Enumerated(network, index, inputs[index]).by_length(loss.v[index])
        assert expected.any()
        # float64: a few hundred operations; 1e-11 of the largest entry is far above rounding, far below any error.
        assert np.abs(by_path[index] - expected).max() <= 1e-11 * np.abs(expected).max()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_order_norm_and_activation_is_the_sum_over_all_paths(order, norm, activation):
    assert_enumerated(dense(order=order, norm=norm, activation=activation, output="relu"))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("blocks", [1, 3])
def test_every_branch_and_depth_is_the_sum_over_all_paths(order, layers, blocks):
    assert_enumerated(dense(order=order, layers=layers, blocks=blocks, init="torch", bias=True))


@pytest.mark.parametrize("order", ORDERS)
def test_gains_multiply_every_path_that_takes_them(order):
    assert_enumerated(dense(order=order, blocks=3, shortcut_gain=-0.7, branch_gain="1/sqrt(L)"))


@pytest.mark.parametrize("order", ORDERS)
def test_learned_gains_count_with_their_value(order):
    assert_enumerated(dense(order=order, branch_gain="zero"), scalars=0.4)


# -------------------------------------------------------------------------------------------------- what must hold


def several_stages() -> Spec:
    """Five junctions in two stages of different width, a plain stage that widens between them."""
    stages = (
        Stage(blocks=2, width=4, order="after-add", norm="layer"),
        Stage(blocks=1, width=6, layers=1, shortcut="none", activation="tanh", gains=Gains(branch=0.5)),
        Stage(blocks=3, width=6, layers=3, order="pre-activation", norm="batch", gains=Gains(branch="1/L")),
    )
    return Spec(stem=Stem(features=FEATURES, width=4, norm="batch"), stages=stages, head=Head(features=2))


SPECS = {
    **{f"{order}, {norm}": dense(order=order, norm=norm, blocks=6) for order in ORDERS for norm in NORMS},
    "several stages": several_stages(),
    "float32": dense(blocks=6, dtype="float32"),
    "plain": dense(shortcut="none", width=12),
    "no blocks": dense(blocks=0, width=12),
}


@pytest.mark.parametrize("name", SPECS)
def test_paths_sum_to_the_gradient_and_weights_to_one(name):
    spec = SPECS[name]
    network = build(spec, seed=SEEDS)
    batch, loss = drawn(spec, 5)
    by_path = path_gradients(network, batch, loss)
    ordinary = gradients(network, batch, loss)["stem"]
    eps = np.finfo(spec.dtype).eps
    # Rounding: sums of at most 6 x 64 terms, and a few divisions by standard deviations.
    assert np.abs(by_path.sum(axis=1) - ordinary).max() <= 200 * eps * np.abs(ordinary).max()
    assert np.allclose(path_weights(by_path).sum(axis=1), 1.0, rtol=0, atol=1e-12)
    assert by_path.shape[1] == sum(not block.plain for block in spec.body) + 1


def test_a_network_without_junctions_has_one_path_of_length_zero():
    for spec in (SPECS["plain"], SPECS["no blocks"]):
        weights = path_weights(path_gradients(build(spec, seed=SEEDS), *drawn(spec, 5)))
        assert weights.tolist() == [[1.0], [1.0]]
        mean, deviation = path_moments(weights)
        assert mean.tolist() == deviation.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("order", ORDERS)
def test_without_shortcuts_all_weight_is_at_the_longest_and_without_branches_at_the_shortest(order):
    spec = dense(order=order, blocks=5, width=12)
    network = build(spec, seed=SEEDS)
    batch, loss = drawn(spec, 3)
    with network.gains(shortcut=0):
        assert path_weights(path_gradients(network, batch, loss)).tolist() == [[0, 0, 0, 0, 0, 1]] * 2
    with network.gains(branch=0):
        assert path_weights(path_gradients(network, batch, loss)).tolist() == [[1, 0, 0, 0, 0, 0]] * 2
    with network.gains(branch=0, at="stage1.block2"):  # a lesion: no path is longer than 4
        weights = path_weights(path_gradients(network, batch, loss))
        assert weights[:, 5].tolist() == [0, 0]
        assert (weights[:, :5] != 0).all()


def test_a_gain_of_zero_leaves_a_term_out_that_has_overflowed():
    spec = dense(blocks=2)
    network = build(spec, seed=0)
    network.parameters["stage1.block1.layer2.weight"] *= np.inf
    batch, loss = drawn(spec, 3, seeds=(0,))
    with network.gains(branch=0, at="stage1.block1"):
        assert np.isfinite(path_gradients(network, batch, loss)).all()
    assert np.isnan(path_weights(path_gradients(network, batch, loss)).data).all()


def test_a_network_has_the_same_bits_alone_and_in_any_ensemble():
    seeds = tuple(range(7))
    for spec in (dense(blocks=9, width=13), SPECS["several stages"]):
        batch, loss = drawn(spec, 3, seeds)
        whole = path_gradients(build(spec, seed=seeds), batch, loss)
        weights = path_weights(whole)
        for start, stop in ((0, 1), (1, 3), (3, 7), (6, 7)):
            part = path_gradients(build(spec, seed=seeds[start:stop]), batch[start:stop], Cotangent(loss.v[start:stop]))
            assert np.array_equal(part, whole[start:stop])
            assert np.array_equal(path_weights(part), weights[start:stop])


def test_the_engine_is_not_disturbed():
    spec = dense()
    network = build(spec, seed=SEEDS)
    before = {name: parameter.copy() for name, parameter in network.parameters.items()}
    batch, loss = drawn(spec, 3)
    path_gradients(network, batch, loss)
    assert all(np.array_equal(network.parameters[name], before[name]) for name in before)
    with pytest.raises(InputError, match="has no gradient"):
        path_gradients(network, batch, lambda output, batch: output.sum())  # type: ignore[arg-type]  # what is tested


# ----------------------------------------------------------------------------------------------- weights and moments


def test_weights_and_moments_of_a_gradient_written_down():
    by_path = np.array([[3.0, 0.0], [1.0, 2.0], [0.0, -2.0]])[None, :, None]  # g = (4, 0)
    weights = path_weights(by_path)
    assert weights.tolist() == [[0.75, 0.25, 0.0]]
    mean, deviation = path_moments(weights)
    assert mean.tolist() == [0.25]
    assert np.allclose(deviation, [np.sqrt(0.75 * 0.25)], rtol=1e-15)


def test_paths_may_work_against_each_other():
    weights = path_weights(np.array([3.0, -4.0, 2.0])[None, :, None, None])
    assert weights.tolist() == [[3.0, -4.0, 2.0]]
    mean, deviation = path_moments(weights)
    assert mean.tolist() == [0.0]
    assert np.allclose(deviation, 2.0)  # -4 * 1 + 2 * 4
    assert path_moments(path_weights(np.array([2.0, -3.0, 2.0])[None, :, None, None]))[0].tolist() == [1.0]
    assert path_moments(path_weights(np.array([1.0, 1.0, -1.0])[None, :, None, None]))[1].mask.tolist() == [True]


def test_where_no_gradient_arrives_there_are_no_weights():
    by_path = np.zeros((2, 3, 1, 4))
    by_path[1, 2] = 1.0
    weights = path_weights(by_path)
    assert weights.mask.tolist() == [[True] * 3, [False] * 3]
    mean, deviation = path_moments(weights)
    assert mean.mask.tolist() == deviation.mask.tolist() == [True, False]


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_weights_do_not_depend_on_the_size_of_the_gradient(rng, size):
    by_path = rng.standard_normal((2, 4, 3, 5))
    assert np.allclose(path_weights(by_path * size), path_weights(by_path), rtol=1e-12)
