"""The NumPy engine against torch's autograd, closed forms, and its own promises."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from skipscope import InputError, Spec, build, draws, losses
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.losses import Cotangent, CrossEntropy, MeanSquaredError
from skipscope.protocol import Loss
from skipscope.spec import Gains, Head, Stage, Stem
from skipscope.testing import specs

Array = NDArray[Any]
SEEDS = (4, 11)
JUNCTIONS = ("stage1.block1", "stage1.block2", "stage1.block3")


def residual(**fields: Any) -> Spec:
    return Spec.dense(**{"width": 5, "blocks": 3, "features": 3, "outputs": 2} | fields)


def gaussian(spec: Spec, samples: int = 6) -> tuple[Array, Cotangent]:
    """Inputs and a cotangent, drawn by each of SEEDS."""
    inputs = draws.normals(SEEDS, "input", (samples, spec.stem.features))
    return inputs, Cotangent(draws.normals(SEEDS, "cotangent", (samples, spec.head.features)))


def record(network: NumpyNetwork, batch: Any, loss: Loss | None = None) -> dict[str, Array]:
    """Everything that a run gives, by `site.role`; and `output`, `loss`."""
    pushed: dict[str, Array] = {}

    def observe(site: str, /, **roles: Array) -> None:
        pushed.update({f"{site}.{role}": array.copy() for role, array in roles.items()})

    run = network.run(batch, loss, observe)
    return pushed | {"output": run.output} | ({} if run.loss is None else {"loss": run.loss})


def gradients(pushed: dict[str, Array], network: NumpyNetwork) -> dict[str, Array]:
    """The gradients by the input and by all parameters."""
    return {"input": pushed["input.activation_grad"]} | {name: pushed[f"{name}_grad"] for name in network.parameters}


def assert_equal(one: dict[str, Array], other: dict[str, Array]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        assert np.array_equal(one[key], other[key], equal_nan=True), key


# ----------------------------------------------------------------------------------------------- against torch


Tensors = dict[str, torch.Tensor]
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}


def in_torch(spec: Spec, p: Tensors, x: torch.Tensor) -> torch.Tensor:
    """The output of one network, written once more, from the formulas at the head of spec.py."""
    total = sum(stage.blocks for stage in spec.stages)
    rules = {"1/sqrt(L)": total**-0.5 if total else 1.0, "1/L": 1 / total if total else 1.0, "zero": 1.0}

    def affine(site: str, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, p[f"{site}.weight"], p.get(f"{site}.bias"))

    def norm(site: str, kind: str, x: torch.Tensor) -> torch.Tensor:
        if kind == "none":
            return x
        gamma, beta = p[f"{site}.gamma"], p[f"{site}.beta"]
        if kind == "batch":
            return functional.batch_norm(x, None, None, gamma, beta, training=True)
        return functional.layer_norm(x, x.shape[-1:], gamma, beta)

    x = ACTIVATIONS[spec.stem.activation](norm("stem", spec.stem.norm, affine("stem", x)))
    for number, stage in enumerate(spec.stages, start=1):
        act = ACTIVATIONS[stage.activation]
        gain_s, gain_b = (rules[g] if isinstance(g, str) else g for g in (stage.gains.shortcut, stage.gains.branch))
        for index in range(1, stage.blocks + 1):
            block = f"stage{number}.block{index}"
            branch = x
            for layer in range(1, stage.layers + 1):
                site = f"{block}.layer{layer}"
                if stage.order == "pre-activation":
                    branch = affine(site, act(norm(site, stage.norm, branch)))
                else:
                    branch = norm(site, stage.norm, affine(site, branch))
                    if stage.order == "before-add" or layer < stage.layers:
                        branch = act(branch)
            branch = branch * gain_b * p.get(f"{block}.gain", 1.0)
            x = branch if stage.shortcut == "none" else x * gain_s + branch
            if stage.order == "after-add":
                x = act(x)
    if spec.stages and spec.stages[-1].order == "pre-activation":
        x = ACTIVATIONS[spec.stages[-1].activation](norm("final", spec.stages[-1].norm, x))
    return ACTIVATIONS[spec.head.activation](affine("head", x))


def autograd(network: NumpyNetwork, index: int, x: Array, scalar: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Output, loss and gradients of the ensemble's network at `index`."""
    p = {name: torch.tensor(array[index], requires_grad=True) for name, array in network.parameters.items()}
    inputs = torch.tensor(x, requires_grad=True)
    output = in_torch(network.spec, p, inputs)
    loss = scalar(output)
    loss.backward()
    found = {name: tensor.grad for name, tensor in ({"input": inputs} | p).items()}
    return output.detach().numpy(), loss.item(), {name: g.numpy() for name, g in found.items() if g is not None}


def assert_agrees(
    network: NumpyNetwork, x: Array, targets: Array, loss: Loss, scalar: Callable[..., torch.Tensor]
) -> None:
    pushed = record(network, (x, targets), loss)
    found = gradients(pushed, network)
    for index in range(len(network.seeds)):
        output, value, expected = autograd(network, index, x[index], functools.partial(scalar, index=index))
        assert_close("output", pushed["output"][index], output)
        # A loss may be 0 by cancellation, and so may a gradient (of a bias that a norm takes away): then what is left
        # is the rounding of the terms.
        assert pushed["loss"][index] == pytest.approx(value, rel=1e-10, abs=1e-13 * float(np.linalg.norm(output)))
        whole = sum(float((g * g).sum()) for g in expected.values()) ** 0.5
        assert expected.keys() == found.keys()
        for name, gradient in expected.items():
            assert_close(name, found[name][index], gradient, 1e-13 * whole)


def assert_close(what: str, value: Array, expected: Array, absolute: float = 0.0) -> None:
    assert value.shape == expected.shape, what
    off = float(np.linalg.norm(value - expected))
    assert off <= 1e-10 * float(np.linalg.norm(expected)) + absolute, f"{what}: {value} is not {expected}"


def moved(network: NumpyNetwork, rng: np.random.Generator) -> NumpyNetwork:
    """The network away from its initialisation, where biases, gains and betas are 0 and gammas 1."""
    for array in network.parameters.values():
        array += 0.3 * rng.standard_normal(array.shape)
    return network


def inner_product(y: torch.Tensor, v: torch.Tensor, index: int) -> torch.Tensor:
    return (y * v[index]).sum()


def test_every_network_agrees_with_torch(rng: np.random.Generator):
    # Whatever four choices meet somewhere in the grid of specs.
    for spec in specs(together=4):
        x, loss = gaussian(spec)
        scalar = functools.partial(inner_product, v=torch.tensor(loss.v))
        for network in (build(spec, seed=SEEDS), moved(build(spec, seed=SEEDS), rng)):
            assert_agrees(network, x, loss.v, loss, scalar)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_losses_agree_with_torch(norm: Any, rng: np.random.Generator):
    spec = residual(norm=norm, outputs=4)
    network = moved(build(spec, seed=SEEDS), rng)
    x, _ = gaussian(spec)
    labels, targets = np.array([0, 3, 1, 1, 2, 0]), rng.standard_normal((2, 6, 4))

    assert_agrees(
        network, x, labels, CrossEntropy(), lambda y, index: functional.cross_entropy(y, torch.tensor(labels))
    )
    assert_agrees(
        network, x, targets, MeanSquaredError(), lambda y, index: functional.mse_loss(y, torch.tensor(targets[index]))
    )


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("order", ["before-add", "after-add", "pre-activation"])
def test_single_precision_agrees_with_double(order: Any, norm: Any):
    spec = residual(order=order, norm=norm, width=32, blocks=4)
    x, loss = gaussian(spec, samples=32)
    double, single = (
        record(build(dataclasses.replace(spec, dtype=dtype), seed=SEEDS), x, loss) for dtype in ("float64", "float32")
    )

    assert double.keys() == single.keys()
    # Every number is the sum of up to 32 products, rounded to 6e-8, and passes through at most 10 layers and their
    # backward: 20 * sqrt(32) * 6e-8 = 7e-6, and more where a sum cancels.
    for key, array in double.items():
        assert single[key].dtype == np.float32
        assert np.linalg.norm(single[key] - array) <= 1e-4 * np.linalg.norm(array), key


# ------------------------------------------------------------------------------------------------ closed forms


def test_a_linear_chain_has_a_known_gradient():
    spec = residual(shortcut="none", layers=1, activation="linear")
    network = build(spec, seed=7)
    x, v = np.array([[1.0, -2.0, 0.5]]), np.array([[3.0, -1.0]])

    pushed = record(network, x, Cotangent(v))

    matrices = [network.parameters[f"{layer.site}.weight"][0] for layer in spec.layers]
    for index, layer in enumerate(spec.layers):
        before = x[0]
        for matrix in matrices[:index]:
            before = matrix @ before
        after = v[0]
        for matrix in matrices[:index:-1]:
            after = matrix.T @ after
        assert pushed[f"{layer.site}.weight_grad"][0] == pytest.approx(np.outer(after, before), rel=1e-12)


def test_a_linear_residual_chain_is_a_product_of_identities_and_branches():
    spec = residual(activation="linear", shortcut_gain=0.5, branch_gain=2.0)
    network = build(spec, seed=7)
    x, v = np.array([[1.0, -2.0, 0.5]]), np.array([[3.0, -1.0]])

    pushed = record(network, x, Cotangent(v))

    w = {name.removesuffix(".weight"): array[0] for name, array in network.parameters.items()}
    jacobian = w["stem"]
    for site in JUNCTIONS:
        jacobian = (0.5 * np.eye(5) + 2.0 * w[f"{site}.layer2"] @ w[f"{site}.layer1"]) @ jacobian
    jacobian = w["head"] @ jacobian
    assert pushed["output"][0] == pytest.approx(x @ jacobian.T, rel=1e-12)
    assert pushed["input.activation_grad"][0] == pytest.approx(v @ jacobian, rel=1e-12)


def test_one_sample_gives_an_outer_product():
    spec = residual()
    pushed = record(build(spec, seed=3), np.ones((1, 3)), Cotangent(np.ones((1, 2))))

    # ||dW||_F = ||delta|| ||a||, THEORY (h).
    for before, site in (("stage1.block1.layer1", "stage1.block1.layer2"), ("stage1.block3", "head")):
        product = np.linalg.norm(pushed[f"{site}.preactivation_grad"]) * np.linalg.norm(pushed[f"{before}.activation"])
        assert np.linalg.norm(pushed[f"{site}.weight_grad"]) == pytest.approx(product, rel=1e-13)


# ---------------------------------------------------------------------------------------------- common numbers


@pytest.mark.parametrize("order", ["before-add", "after-add", "pre-activation"])
@pytest.mark.parametrize("gains", [{}, {"branch_gain": "1/L", "shortcut_gain": 0.5}, {"branch_gain": -0.7}])
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_the_twin_is_the_network_without_its_shortcuts(order: Any, gains: dict[str, Any], norm: Any):
    spec = residual(order=order, norm=norm, **gains)
    x, loss = gaussian(spec)
    network, twin = build(spec, seed=SEEDS), build(spec.twin(), seed=SEEDS)

    with network.gains(shortcut=0):
        edited = record(network, x, loss)
    plain = record(twin, x, loss)

    assert {key: array.tobytes() for key, array in edited.items() if key in plain} == {
        key: array.tobytes() for key, array in plain.items()
    }
    assert not any(edited[f"{site}.{role}"].any() for site in JUNCTIONS for role in ("shortcut", "shortcut_grad"))


@pytest.mark.parametrize("order", ["before-add", "after-add"])
def test_without_its_last_branch_a_network_is_the_shallower_network(order: Any):
    deep, shallow = (build(residual(order=order, blocks=blocks), seed=SEEDS) for blocks in (3, 2))
    x, loss = gaussian(deep.spec)

    with deep.gains(branch=0, at="stage1.block3"):
        lesioned = record(deep, x, loss)

    # Not every gradient by an activation: where the activation is 0, a second ReLU stops it one site earlier.
    expected = record(shallow, x, loss)
    assert_equal(gradients(lesioned, shallow), gradients(expected, shallow))
    assert lesioned["output"].tobytes() == expected["output"].tobytes()


def test_the_size_of_the_batch_does_not_change_the_network():
    network = build(residual(), seed=SEEDS)
    x, _ = gaussian(network.spec)

    whole = network.run(x).output

    # Up to rounding: BLAS adds up in another order for another number of rows.
    assert network.run(x[:, :1]).output == pytest.approx(whole[:, :1], rel=1e-13)


def test_one_batch_for_all_is_the_same_batch_for_each():
    network = build(residual(), seed=SEEDS)
    x, _ = gaussian(network.spec)
    loss = MeanSquaredError()
    y = np.zeros((6, 2))

    for shared in (x[0], x[:1], x[0].tolist()):
        assert_equal(
            record(network, (shared, y), loss), record(network, (np.stack([x[0], x[0]]), np.stack([y, y])), loss)
        )


@pytest.mark.parametrize("samples", [1, 6])
def test_the_layout_of_the_batch_does_not_change_a_bit(samples: int):
    spec = residual(features=33, width=17)
    network = build(spec, seed=SEEDS)
    x, loss = gaussian(spec, samples)

    usual = record(network, x, loss)
    for other in (np.asfortranarray(x), np.repeat(x, 2, axis=-1)[..., ::2], x[::-1].copy()[::-1], x.tolist()):
        assert {key: array.tobytes() for key, array in record(network, other, loss).items()} == {
            key: array.tobytes() for key, array in usual.items()
        }


# -------------------------------------------------------------------------------------------------------- gains


def test_gains_multiply_the_specs_gains():
    x, loss = gaussian(residual())
    built = build(residual(shortcut_gain=0.25, branch_gain=-3.0), seed=SEEDS)
    edited = build(residual(shortcut_gain=0.5, branch_gain=2.0), seed=SEEDS)

    with edited.gains(shortcut=0.5, branch=-1.5):
        assert_equal(record(edited, x, loss), record(built, x, loss))


def test_gains_nest_and_end():
    network = build(residual(), seed=SEEDS)
    x, loss = gaussian(network.spec)
    before = record(network, x, loss)

    with network.gains(branch=0.5):
        with network.gains(branch=0.5, shortcut=0.25, at="stage1.block2"):
            assert network.edit == (
                "stage1.block1: shortcut x 1, branch x 0.5; stage1.block2: shortcut x 0.25, branch x 0.25; "
                "stage1.block3: shortcut x 1, branch x 0.5"
            )
        half = record(network, x, loss)
    assert_equal(record(network, x, loss), before)
    assert network.edit == ""

    assert_equal(half, record(build(residual(branch_gain=0.5), seed=SEEDS), x, loss))


def test_gains_end_whatever_is_raised():
    network = build(residual(), seed=1)

    def interrupted() -> None:
        with network.gains(shortcut=0), network.gains(branch=0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert network.edit == ""


@pytest.mark.parametrize(
    ("at", "chosen"),
    [
        (None, [1, 2, 3]),
        ("stage1.block2", [2]),
        ("stage1.*", [1, 2, 3]),
        ("*.block[13]", [1, 3]),
        (["stage1.block3", "stage1.block?"], [1, 2, 3]),
        (iter(["stage1.block3", "stage1.block1"]), [1, 3]),
        ([], []),
    ],
)
def test_at_names_junctions_by_pattern(at: Any, chosen: list[int]):
    network = build(residual(), seed=1)

    with network.gains(branch=0, at=at):
        assert network.edit == "; ".join(f"stage1.block{index}: shortcut x 1, branch x 0" for index in chosen)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shortcut": "0"}, "shortcut must be a number; got '0'."),
        ({"branch": float("nan")}, "branch must be a finite number; got nan."),
        ({"at": "stage2.*"}, "at='stage2.*' names no junction; they are 'stage1.block1' to 'stage1.block3'."),
        (
            {"at": ["stage1.block1", "stem"]},
            "at='stem' names no junction; they are 'stage1.block1' to 'stage1.block3'.",
        ),
    ],
)
def test_refused_gains(fields: dict[str, Any], message: str):
    network = build(residual(), seed=1)

    with pytest.raises(InputError) as caught, network.gains(**fields):
        pass
    assert str(caught.value) == message
    assert network.edit == ""


@pytest.mark.parametrize("spec", [residual().twin(), Spec.dense(width=4, blocks=0)])
def test_a_plain_network_has_no_gains(spec: Spec):
    with pytest.raises(InputError) as caught, build(spec, seed=1).gains(shortcut=0):
        pass
    assert str(caught.value) == "gains: this network is plain and has no junction; its twin() has."


def test_gains_of_a_mixed_network_are_those_of_its_junctions():
    stages = (Stage(blocks=1, width=4, shortcut="none"), Stage(blocks=1, width=4))
    network = build(Spec(stem=Stem(features=4, width=4), stages=stages, head=Head(features=4)), seed=1)

    with network.gains(shortcut=0):
        assert network.edit == "stage2.block1: shortcut x 0, branch x 1"


def test_a_learned_gain_starts_at_zero_and_has_a_gradient():
    network = build(residual(branch_gain="zero"), seed=SEEDS)
    x, loss = gaussian(network.spec)

    pushed = record(network, x, loss)

    for site in JUNCTIONS:
        assert network.parameters[f"{site}.gain"].tolist() == [0, 0]
        assert not pushed[f"{site}.branch"].any()
        assert not pushed[f"{site}.layer1.weight_grad"].any()
        assert pushed[f"{site}.gain_grad"].all()


# ---------------------------------------------------------------------------------------------- what is pushed


def test_pushes_come_in_order_of_execution_and_then_back():
    spec = Spec.dense(width=4, blocks=1, order="pre-activation", norm="layer", bias=True, branch_gain="zero")
    network = build(spec, seed=1)
    calls: list[tuple[str, ...]] = []
    network.run(np.ones((2, 4)), Cotangent(np.ones((2, 4))), lambda site, /, **roles: calls.append((site, *roles)))

    layer = ("preactivation", "activation"), ("preactivation_grad", "activation_grad")
    weight = ("weight", "weight_grad")
    bias = ("bias", "bias_grad")
    norm = ("gamma", "gamma_grad"), ("beta", "beta_grad")
    block, one, two = "stage1.block1", "stage1.block1.layer1", "stage1.block1.layer2"
    assert calls == [
        ("input", "activation"),
        ("stem", *layer[0]),
        (one, *layer[0]),
        (two, *layer[0]),
        (block, "shortcut", "branch", "total"),
        (block, "activation"),
        ("final", *layer[0]),
        ("head", *layer[0]),
        ("head", *layer[1]),
        ("head", *weight),
        ("head", *bias),
        ("final", *layer[1]),
        ("final", *norm[0]),
        ("final", *norm[1]),
        (block, "activation_grad"),
        (block, "gain", "gain_grad"),
        (two, *weight),
        (two, *bias),
        (two, *layer[1]),
        (two, *norm[0]),
        (two, *norm[1]),
        (one, *weight),
        (one, *bias),
        (one, *layer[1]),
        (one, *norm[0]),
        (one, *norm[1]),
        (block, "shortcut_grad", "branch_grad", "total_grad"),
        ("stem", *layer[1]),
        ("stem", *weight),
        ("stem", *bias),
        ("input", "activation_grad"),
    ]


def test_without_a_loss_there_is_no_backward():
    network = build(residual(), seed=SEEDS)
    x, loss = gaussian(network.spec)

    forward = record(network, x)

    assert not any(key.endswith("_grad") or key == "loss" for key in forward)
    assert network.run(x).loss is None
    both = record(network, x, loss)
    assert_equal(forward, {key: both[key] for key in forward})


def test_terms_and_parts_add_up():
    network = build(residual(shortcut_gain=0.5, branch_gain=2.0, order="after-add"), seed=SEEDS)
    x, loss = gaussian(network.spec)

    pushed = record(network, x, loss)

    before = "stem"
    for site in JUNCTIONS:
        assert np.array_equal(pushed[f"{site}.shortcut"], 0.5 * pushed[f"{before}.activation"])
        assert np.array_equal(pushed[f"{site}.branch"], 2.0 * pushed[f"{site}.layer2.activation"])
        assert np.array_equal(pushed[f"{site}.total"], pushed[f"{site}.shortcut"] + pushed[f"{site}.branch"])
        assert np.array_equal(pushed[f"{site}.activation"], np.maximum(pushed[f"{site}.total"], 0))
        assert np.array_equal(
            pushed[f"{site}.total_grad"], pushed[f"{site}.shortcut_grad"] + pushed[f"{site}.branch_grad"]
        )
        assert np.array_equal(pushed[f"{site}.total_grad"], pushed[f"{before}.activation_grad"])
        before = site


def test_an_observer_that_raises_leaves_the_network_as_it_was():
    network = build(residual(), seed=SEEDS)
    x, loss = gaussian(network.spec)
    before = record(network, x, loss)

    def burst(site: str, /, **roles: Array) -> None:
        if "weight" in roles:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        network.run(x, loss, burst)
    assert_equal(record(network, x, loss), before)


# ------------------------------------------------------------------------------------------------------ overflow


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_overflow_is_a_measurement_not_a_warning(dtype: Any):
    network = build(residual(blocks=40, branch_gain=1e10, dtype=dtype), seed=SEEDS)
    x, loss = gaussian(network.spec)

    pushed = record(network, x, loss)  # warnings are errors

    assert np.isfinite(pushed["stage1.block1.activation"]).all()
    assert not np.isfinite(pushed["stage1.block40.activation"]).all()
    assert not np.isfinite(pushed["loss"]).any()


def test_a_lesion_is_finite_where_its_branch_overflows():
    network = build(residual(), seed=1)
    network.parameters["stage1.block3.layer2.weight"][...] = 1e308
    x = np.ones((4, 3))

    assert not np.isfinite(network.run(x).output).all()
    with network.gains(branch=0, at="stage1.block3"):
        pushed = record(network, x, Cotangent(np.ones((4, 2))))
    assert np.isfinite(pushed["output"]).all()
    assert np.isfinite(pushed["input.activation_grad"]).all()


# ----------------------------------------------------------------------------------------------- what comes in


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            np.zeros((5, 4)),
            "batch must have the shape (samples, 3), or (2, samples, 3) with one batch a seed; got (5, 4).",
        ),
        (np.zeros(3), "batch must have the shape (samples, 3), or (2, samples, 3) with one batch a seed; got (3,)."),
        (
            np.zeros((3, 5, 3)),
            "batch must have the shape (samples, 3), or (2, samples, 3) with one batch a seed; got (3, 5, 3).",
        ),
        ((), "batch must have the shape (samples, 3), or (2, samples, 3) with one batch a seed; got (0,)."),
        (np.zeros((0, 3)), "batch is empty: give at least 1 sample."),
        (np.zeros((2, 0, 3)), "batch is empty: give at least 1 sample."),
        ([[1.0, float("nan"), float("inf")]], "batch has 2 entries that are nan or inf: mend the data first."),
        ([["a", "b", "c"]], "batch must be an array of real numbers; got list."),
        ([[1.0], [1.0, 2.0]], "batch must be an array of real numbers; got list."),
        ({1, 2}, "batch must be an array of real numbers; got set."),
        (None, "batch must be an array of real numbers; got NoneType."),
        ([[1j, 0, 0]], "batch must be an array of real numbers; got list."),
    ],
)
def test_refused_batches(batch: Any, message: str):
    network = build(residual(), seed=SEEDS)

    for given in (batch,) if isinstance(batch, tuple) else (batch, (batch, np.zeros(5))):
        with pytest.raises(InputError) as caught:
            network.run(given)
        assert str(caught.value) == message


def test_what_overflows_single_precision_is_refused_without_a_warning():
    with pytest.raises(InputError, match="batch has 1 entries that are nan or inf"):
        build(residual(dtype="float32"), seed=1).run(np.array([[1e300, 0.0, 0.0]]))


@pytest.mark.parametrize("order", ["before-add", "pre-activation"])
def test_batch_normalisation_needs_two_samples(order: Any):
    network = build(residual(norm="batch", order=order), seed=1)

    with pytest.raises(InputError) as caught:
        network.run(np.zeros((1, 3)))
    assert str(caught.value) == (
        "batch of 1 sample: batch normalisation over one sample is 0 whatever comes in; give 2 or more."
    )
    network.run(np.zeros((2, 3)))


def test_the_batch_is_not_changed():
    network = build(residual(norm="batch"), seed=SEEDS)
    x, y = np.ones((4, 3)), np.zeros((4, 2))
    for array in (x, y):
        array.flags.writeable = False  # writing to it raises

    network.run((x, y), MeanSquaredError())

    assert (x == 1).all()


def test_a_loss_without_gradient_is_refused():
    def loss(output: Array, batch: Any) -> Array:
        return output.sum((-2, -1))

    with pytest.raises(InputError, match=r"has no gradient\(output, batch\), and this engine differentiates by hand"):
        build(residual(), seed=1).run(np.ones((4, 3)), loss)  # type: ignore[arg-type]


def test_a_gradient_of_another_shape_is_refused():
    class Sum:
        def __call__(self, output: Array, batch: Any) -> Array:
            return output.sum((-2, -1))

        def gradient(self, output: Array, batch: Any) -> Array:
            return np.ones(output.shape[1:])

        def __repr__(self) -> str:
            return "Sum()"

    with pytest.raises(InputError) as caught:
        build(residual(), seed=SEEDS).run(np.ones((4, 3)), Sum())
    assert str(caught.value) == "loss Sum() has a gradient of shape (4, 2); the output has (2, 4, 2)."


def test_a_loss_of_ones_own():
    class Power:
        """The sum of fourth powers: neither normalised nor contiguous."""

        def __call__(self, output: Array, batch: Any) -> Array:
            total: Array = (output**4).sum((-2, -1))
            return total

        def gradient(self, output: Array, batch: Any) -> Array:
            return np.asfortranarray(4 * output**3)

    network = build(residual(), seed=SEEDS)
    x, _ = gaussian(network.spec)
    output = network.run(x).output

    assert_equal(
        gradients(record(network, x, Power()), network),
        gradients(record(network, x, Cotangent(4 * output**3)), network),
    )


# --------------------------------------------------------------------------------------------- the network itself


def test_parameters_are_those_that_the_spec_counts():
    for spec in specs():
        network = build(spec, seed=SEEDS)
        assert sum(array[0].size for array in network.parameters.values()) == spec.parameters
        weights = [array for name, array in network.parameters.items() if name.endswith(".weight")]
        assert sum(array[0].size for array in weights) == spec.multiply_adds
        assert len(weights) == spec.depth
        assert all(len(array) == 2 and array.dtype == spec.dtype for array in network.parameters.values())


def test_seeds_and_sites():
    network = build(residual(), seed=[8, 3])

    assert network.seeds == (8, 3)
    assert network.sites[0].site == "input"
    assert network.sites[-1].site == "network"
    assert build(residual(), seed=8).seeds == (8,)


@pytest.mark.parametrize("seed", [-1, "1", [], [1, 1]])
def test_refused_seeds(seed: Any):
    with pytest.raises(InputError, match=r"^seeds? "):
        build(residual(), seed=seed)


def test_changing_a_parameter_in_place_changes_the_network():
    network = build(residual(), seed=SEEDS)
    x, _ = gaussian(network.spec)
    before = network.run(x).output

    network.parameters["head.weight"][1] *= 2

    after = network.run(x).output
    assert np.array_equal(after[0], before[0])
    assert np.array_equal(after[1], 2 * before[1])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_copy_is_a_network_of_its_own(copied: Callable[[NumpyNetwork], NumpyNetwork]):
    network = build(residual(branch_gain="zero", norm="layer", bias=True), seed=SEEDS)
    x, loss = gaussian(network.spec)
    before = record(network, x, loss)

    other = copied(network)
    assert_equal(record(other, x, loss), before)
    for array in other.parameters.values():
        array += 1

    assert not np.array_equal(other.run(x).output, before["output"])
    assert_equal(record(network, x, loss), before)


def test_normal_numbers_differ_between_seeds():
    network = build(residual(), seed=SEEDS)

    assert not any(np.array_equal(array[0], array[1]) for array in network.parameters.values())


def test_any_number_of_workers_gives_the_same_bits():
    spec = residual(width=33, norm="layer")
    seeds = tuple(range(12))

    def kernel(some: tuple[int, ...]) -> dict[str, bytes]:  # nested, so that it travels by value
        from skipscope import build, draws, losses

        pushed = {}

        def observe(site: str, /, **roles: Any) -> None:
            pushed.update({f"{site}.{role}": array.tobytes() for role, array in roles.items()})

        loss = losses.cotangent("gaussian", seeds=some, batch=9, outputs=2)
        build(spec, seed=some).run(draws.normals(some, "input", (9, 3)), loss, observe)
        return pushed

    def in_chunks(size: int) -> Iterator[tuple[int, ...]]:
        return (seeds[start : start + size] for start in range(0, len(seeds), size))

    def joined(parts: list[dict[str, bytes]]) -> dict[str, bytes]:
        return {key: b"".join(part[key] for part in parts) for key in parts[0]}

    whole = kernel(seeds)
    with joblib.parallel_config(backend="loky", n_jobs=2):
        for size in (1, 5):
            assert joined(joblib.Parallel()(joblib.delayed(kernel)(some) for some in in_chunks(size))) == whole


def test_gains_rules_reach_the_network():
    stages = (Stage(blocks=4, width=4, layers=1, gains=Gains(shortcut="1/L", branch="1/sqrt(L)")),)
    network = build(Spec(stem=Stem(features=4, width=4), stages=stages, head=Head(features=4)), seed=1)

    pushed = record(network, np.ones((2, 4)))

    assert np.array_equal(pushed["stage1.block1.shortcut"], pushed["stem.activation"] / 4)
    assert np.array_equal(pushed["stage1.block1.branch"], pushed["stage1.block1.layer1.activation"] / 2)


def test_the_gaussian_cotangent_of_a_probe_is_the_networks_own():
    one = losses.cotangent("gaussian", seeds=SEEDS, batch=6, outputs=2)

    assert np.array_equal(one.v, gaussian(residual())[1].v)
