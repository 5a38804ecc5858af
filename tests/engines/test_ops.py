"""Every op against finite differences and against torch, over shapes down to one unit and one sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from skipscope.engines import ops

Array = NDArray[Any]
Arrays = tuple[Array, ...]

# s seeds, b samples, n features in; each op gets arrays of these, and widths out of its own.
SHAPES = [(1, 1, 1), (1, 1, 5), (1, 6, 1), (3, 1, 4), (2, 5, 3), (4, 7, 17)]
WIDTH = 6


class Op(NamedTuple):
    """An op with what it is held to; arrays carry the seeds axis, but for `oracle`, which sees one seed's."""

    inputs: Callable[[int, int, int], list[tuple[int, ...]]]  # shapes for s, b, n
    forward: Callable[..., Array]
    backward: Callable[..., Arrays]  # of dy and the inputs
    oracle: Callable[..., torch.Tensor]
    least: tuple[int, int] = (1, 1)  # samples and features for which torch's is defined, and well conditioned


def same(s: int, b: int, n: int) -> list[tuple[int, ...]]:
    return [(s, b, n)]


def normed(s: int, b: int, n: int) -> list[tuple[int, ...]]:
    return [(s, b, n), (s, n), (s, n)]


def normalisation(name: str) -> tuple[Callable[..., Array], Callable[..., Arrays]]:
    forward, backward = getattr(ops, name), getattr(ops, f"{name}_backward")
    return lambda *inputs: forward(*inputs)[0], lambda dy, *inputs: backward(dy, inputs[1], forward(*inputs)[1])


def averages(like: Array) -> tuple[Array, Array]:
    """A mean and a variance (s, n) of every feature, the same for all seeds, of the shape and dtype of an array."""
    places = np.linspace(0, 1, like.shape[-1], dtype=like.dtype)
    return np.broadcast_to(3 * places - 1, like.shape), np.broadcast_to(2.5 * places + 0.5, like.shape)


def torch_fixed_norm(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    mean, variance = (torch.tensor(each) for each in averages(gamma.detach().numpy()))
    return functional.batch_norm(x, mean, variance, gamma, beta, eps=ops.EPS)


def of_output(name: str) -> tuple[Callable[..., Array], Callable[..., Arrays]]:
    forward, backward = getattr(ops, name), getattr(ops, f"{name}_backward")
    return forward, lambda dy, x: (backward(dy, forward(x)),)


def targets(b: int, n: int) -> Array:
    return np.linspace(-1, 2, b * n).reshape(b, n)


def labels(b: int, n: int) -> NDArray[np.int64]:
    return (np.arange(b) * 5) % n


# A loss has one number a seed; as an op it takes the gradient of that number, dy of shape (s,).
OPS = {
    "affine": Op(
        lambda s, b, n: [(s, b, n), (s, WIDTH, n), (s, WIDTH)],
        ops.affine,
        lambda dy, x, weight, bias: ops.affine_backward(dy, x, weight),
        functional.linear,
    ),
    "affine without bias": Op(
        lambda s, b, n: [(s, b, n), (s, WIDTH, n)],
        ops.affine,
        lambda dy, x, weight: ops.affine_backward(dy, x, weight)[:2],
        functional.linear,
    ),
    "affine to width 1": Op(
        lambda s, b, n: [(s, b, n), (s, 1, n), (s, 1)],
        ops.affine,
        lambda dy, x, weight, bias: ops.affine_backward(dy, x, weight),
        functional.linear,
    ),
    "relu": Op(same, *of_output("relu"), torch.relu),
    "tanh": Op(same, *of_output("tanh"), torch.tanh),
    "linear": Op(same, *of_output("linear"), lambda x: x),
    # Over 2 numbers z is +-1 up to eps, and what is left of dx is rounding; over 1 it is 0.
    "batch_norm": Op(
        normed,
        *normalisation("batch_norm"),
        lambda x, gamma, beta: functional.batch_norm(x, None, None, gamma, beta, training=True, eps=ops.EPS),
        least=(3, 1),
    ),
    "layer_norm": Op(
        normed,
        *normalisation("layer_norm"),
        lambda x, gamma, beta: functional.layer_norm(x, x.shape[-1:], gamma, beta, eps=ops.EPS),
        least=(1, 3),
    ),
    "fixed_norm": Op(
        normed,
        lambda x, gamma, beta: ops.fixed_norm(x, gamma, beta, *averages(gamma))[0],
        lambda dy, x, gamma, beta: ops.fixed_norm_backward(
            dy, gamma, ops.fixed_norm(x, gamma, beta, *averages(gamma))[1]
        ),
        torch_fixed_norm,
    ),
    "junction": Op(
        lambda s, b, n: [(s, b, n), (s, b, n)],
        lambda skip, branch: ops.junction(skip, branch, 0.5, -0.7)[0],
        lambda dy, skip, branch: ops.junction_backward(dy, 0.5, -0.7),
        lambda skip, branch: 0.5 * skip - 0.7 * branch,
    ),
    "junction, one path": Op(
        same,
        lambda x: ops.junction(x, np.sin(x), 0.5, 3.0)[0],
        lambda dy, x: (back_through_sine(dy, x, 0.5, 3.0),),
        lambda x: 0.5 * x + 3.0 * torch.sin(x),
    ),
    "cross_entropy": Op(
        same,
        lambda y: ops.cross_entropy(ops.log_softmax(y), labels(*y.shape[-2:])),
        lambda dy, y: (dy[:, None, None] * ops.cross_entropy_backward(ops.log_softmax(y), labels(*y.shape[-2:])),),
        lambda y: functional.cross_entropy(y, torch.from_numpy(labels(*y.shape))),
    ),
    "mean_squared_error": Op(
        same,
        lambda y: ops.mean_squared_error(y, targets(*y.shape[-2:])),
        lambda dy, y: (dy[:, None, None] * ops.mean_squared_error_backward(y, targets(*y.shape[-2:])),),
        lambda y: functional.mse_loss(y, torch.from_numpy(targets(*y.shape))),
    ),
}


def back_through_sine(dy: Array, x: Array, gain_s: float, gain_b: float) -> Array:
    dskip, dbranch = ops.junction_backward(dy, gain_s, gain_b)
    return ops.junction_joined(dskip, dbranch * np.cos(x), gain_s, gain_b)


CASES = [
    pytest.param(op, shape, id=f"{name}-{shape}")
    for name, op in OPS.items()
    for shape in SHAPES
    if shape[1] >= op.least[0] and shape[2] >= op.least[1]
]


def drawn(op: Op, shape: tuple[int, int, int], rng: np.random.Generator) -> tuple[list[Array], Array]:
    """Inputs of the op, and a gradient by its output."""
    inputs = [rng.standard_normal(each) for each in op.inputs(*shape)]
    return inputs, rng.standard_normal(np.shape(op.forward(*inputs)))


@pytest.mark.parametrize(("op", "shape"), CASES)
def test_finite_difference(op: Op, shape: tuple[int, int, int], rng: np.random.Generator):
    inputs, dy = drawn(op, shape, rng)
    directions = [rng.standard_normal(each.shape) for each in inputs]
    h = 1e-5
    if op is OPS["relu"]:  # an input within 10 h of the kink would be another function on its other side
        inputs[0] = np.where(abs(inputs[0]) < 10 * h, 1.0, inputs[0])

    def value(step: float) -> float:
        y = op.forward(*(x + step * u for x, u in zip(inputs, directions, strict=True)))
        return float((dy * y).sum())

    # Five points: the truncation error is of order h^4, 1e-20; the rounding error 1.5 * 1e-16 / h, 1e-11, both times
    # sums of up to 500 numbers of order 1 and a derivative that a norm may multiply by 10 each time it is taken.
    numeric = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    gradients = op.backward(dy, *inputs)
    analytic = sum(float((g * u).sum()) for g, u in zip(gradients, directions, strict=True))

    scale = sum(float((g * g).sum()) for g in gradients) ** 0.5 + abs(value(0.0))
    assert abs(analytic - numeric) <= 1e-8 * scale, f"analytic {analytic}, numeric {numeric}"


@pytest.mark.parametrize(("op", "shape"), CASES)
def test_torch(op: Op, shape: tuple[int, int, int], rng: np.random.Generator):
    inputs, dy = drawn(op, shape, rng)

    y = op.forward(*inputs)
    gradients = op.backward(dy, *inputs)

    for seed in range(shape[0]):
        tensors = [torch.tensor(each[seed], requires_grad=True) for each in inputs]
        expected = op.oracle(*tensors)
        expected.backward(torch.tensor(dy[seed]))
        assert_close(y[seed], expected.detach().numpy())
        for gradient, tensor in zip(gradients, tensors, strict=True):
            assert tensor.grad is not None
            assert_close(gradient[seed], tensor.grad.numpy())


def assert_close(value: Array, expected: Array) -> None:
    assert value.shape == expected.shape
    assert np.linalg.norm(value - expected) <= 1e-10 * np.linalg.norm(expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("op", "shape"), CASES)
def test_a_seed_gives_the_same_bits_alone(op: Op, shape: tuple[int, int, int], dtype: str, rng: np.random.Generator):
    s, b, n = max(shape[0], 5), *shape[1:]
    inputs, dy = drawn(op, (s, b, n), rng)
    inputs, dy = [each.astype(dtype) for each in inputs], dy.astype(dtype)

    whole = [op.forward(*inputs), *op.backward(dy, *inputs)]

    for part in (slice(0, 1), slice(3, 4), slice(1, 3)):
        cut = [each[part].copy() for each in inputs]
        alone = [op.forward(*cut), *op.backward(dy[part].copy(), *cut)]
        assert [each[part].tobytes() for each in whole] == [each.tobytes() for each in alone]


@pytest.mark.parametrize(("op", "shape"), CASES)
def test_inputs_are_not_changed_and_precision_is_kept(op: Op, shape: tuple[int, int, int], rng: np.random.Generator):
    inputs, dy = drawn(op, shape, rng)
    inputs, dy = [each.astype(np.float32) for each in inputs], dy.astype(np.float32)
    for each in (*inputs, dy):
        each.flags.writeable = False  # writing to it raises

    y, *gradients = op.forward(*inputs), *op.backward(dy, *inputs)

    if op is not OPS["mean_squared_error"]:  # its targets are float64; the loss converts them
        assert {y.dtype, *(each.dtype for each in gradients)} == {np.dtype(np.float32)}


# ---------------------------------------------------------------------------------------------------- closed forms


def test_relu_at_zero_passes_no_gradient():
    x = np.array([[[-1.0, -0.0, 0.0, 5e-324, 2.0]]])

    y = ops.relu(x)

    assert y.tolist() == [[[0, 0, 0, 5e-324, 2]]]
    assert ops.relu_backward(np.ones_like(x), y).tolist() == [[[0, 0, 0, 1, 1]]]


def test_tanh_saturates():
    y = ops.tanh(np.array([[[-1e4, 0.0, 1e4]]]))

    assert y.tolist() == [[[-1, 0, 1]]]
    assert ops.tanh_backward(np.ones_like(y), y).tolist() == [[[0, 1, 0]]]


def test_affine_by_hand():
    x, weight, bias = np.array([[[1.0, 2.0]]]), np.array([[[3.0, 4.0], [5.0, 6.0]]]), np.array([[0.5, -0.5]])

    y = ops.affine(x, weight, bias)
    dx, dweight, dbias = ops.affine_backward(np.array([[[1.0, 10.0]]]), x, weight)

    assert y.tolist() == [[[11.5, 16.5]]]
    assert dx.tolist() == [[[53, 64]]]
    assert dweight.tolist() == [[[1, 2], [10, 20]]]
    assert dbias.tolist() == [[1, 10]]


@pytest.mark.parametrize(("norm", "axis"), [(ops.batch_norm, 1), (ops.layer_norm, 2)])
def test_normalised_numbers_have_mean_0_and_variance_1(norm, axis: int, rng: np.random.Generator):
    x = 30 + 20 * rng.standard_normal((2, 64, 50))

    y, kept = norm(x, np.ones((2, 50)), np.zeros((2, 50)))

    assert np.array_equal(y, kept.z)
    assert abs(y.mean(axis)).max() < 1e-13
    # The variance is v/(v + eps), with v near 400 (at least 100).
    assert abs(y.var(axis) - 1).max() < 2 * ops.EPS / 100


@pytest.mark.parametrize("norm", ["batch_norm", "layer_norm"])
def test_a_constant_normalises_to_beta(norm: str):
    x, gamma, beta = np.full((1, 4, 3), 7.0), np.full((1, 3), 2.0), np.array([[1.0, 2.0, 3.0]])

    y, kept = getattr(ops, norm)(x, gamma, beta)
    dx, dgamma, dbeta = getattr(ops, f"{norm}_backward")(np.ones_like(x), gamma, kept)

    assert np.array_equal(y, np.broadcast_to(beta, x.shape))
    assert not dx.any()
    assert not dgamma.any()
    assert dbeta.tolist() == [[4, 4, 4]]


@pytest.mark.parametrize("norm", ["batch_norm", "layer_norm"])
def test_a_norm_passes_no_gradient_along_a_shift_or_along_itself(norm: str, rng: np.random.Generator):
    x, gamma, beta = rng.standard_normal((2, 9, 8)), np.ones((2, 8)), np.zeros((2, 8))
    axis = -2 if norm == "batch_norm" else -1

    _, kept = getattr(ops, norm)(x, gamma, beta)
    dx, _, _ = getattr(ops, f"{norm}_backward")(rng.standard_normal(x.shape), gamma, kept)

    assert abs(dx.sum(axis)).max() < 1e-13
    # Along z what epsilon leaves: a share eps/(v + eps), with v of order 1 (at least 0.1 here).
    assert abs((dx * kept.z).sum(axis)).max() < 1e-3
    assert abs(dx).max() > 0.1


def test_cross_entropy_of_equal_logits_is_log_n():
    logits = np.full((2, 3, 10), 4.0)

    assert ops.cross_entropy(ops.log_softmax(logits), np.array([0, 5, 9])) == pytest.approx(np.log(10), rel=1e-15)
    gradient = ops.cross_entropy_backward(ops.log_softmax(logits), np.array([0, 5, 9]))
    assert gradient[0, 1] == pytest.approx((np.full(10, 0.1) - np.eye(10)[5]) / 3, rel=1e-14)


def test_cross_entropy_of_huge_logits():
    logits = np.array([[[1e4, 0.0, -1e4], [1e4, 0.0, -1e4]]])

    assert ops.cross_entropy(ops.log_softmax(logits), np.array([0, 0])).tolist() == [0]
    assert ops.cross_entropy(ops.log_softmax(logits), np.array([0, 2])).tolist() == [1e4]  # the mean of 0 and 2e4
    assert ops.cross_entropy_backward(ops.log_softmax(logits), np.array([0, 2])).tolist() == [
        [[0, 0, 0], [0.5, 0, -0.5]]
    ]


def test_cross_entropy_of_one_class_is_zero():
    logits = np.array([[[3.0], [-2.0]]])

    assert ops.cross_entropy(ops.log_softmax(logits), np.array([0, 0])).tolist() == [0]
    assert ops.cross_entropy_backward(ops.log_softmax(logits), np.array([0, 0])).tolist() == [[[0], [0]]]


def test_cross_entropy_takes_labels_of_every_seed(rng: np.random.Generator):
    logits, given = rng.standard_normal((2, 5, 3)), np.array([[0, 1, 2, 0, 1], [2, 2, 1, 0, 0]])

    both = ops.cross_entropy(ops.log_softmax(logits), given), ops.cross_entropy_backward(ops.log_softmax(logits), given)

    for seed in range(2):
        assert both[0][seed] == ops.cross_entropy(ops.log_softmax(logits[[seed]]), given[seed])[0]
        assert np.array_equal(
            both[1][seed], ops.cross_entropy_backward(ops.log_softmax(logits[[seed]]), given[seed])[0]
        )


def test_mean_squared_error_is_the_mean_without_a_half():
    y, target = np.array([[[1.0, 2.0], [3.0, 4.0]]]), np.array([[0.0, 0.0], [0.0, 0.0]])

    assert ops.mean_squared_error(y, target).tolist() == [30 / 4]
    assert ops.mean_squared_error_backward(y, target).tolist() == [[[0.5, 1], [1.5, 2]]]


# -------------------------------------------------------------------------------------------------------- junctions


def test_gains_of_one_cost_nothing():
    skip, branch = np.ones((1, 2, 3)), np.ones((1, 2, 3))

    total, first, second = ops.junction(skip, branch, 1.0, 1.0)

    assert first is skip
    assert second is branch
    assert np.array_equal(total, np.full((1, 2, 3), 2.0))


@pytest.mark.parametrize(("gain_s", "gain_b", "expected"), [(0.0, 2.0, 6.0), (2.0, 0.0, 2.0)])
def test_a_gain_of_zero_leaves_its_term_out(gain_s: float, gain_b: float, expected: float):
    overflowed = np.full((1, 1, 2), np.inf)
    skip, branch = (overflowed, np.full((1, 1, 2), 3.0)) if gain_s == 0 else (np.ones((1, 1, 2)), overflowed)

    total, first, second = ops.junction(skip, branch, gain_s, gain_b)
    joined = ops.junction_joined(skip * 2, branch * 2, gain_s, gain_b)

    assert total.tolist() == [[[expected, expected]]]
    assert not (first if gain_s == 0 else second).any()
    assert np.isfinite(joined).all()


def test_both_gains_zero_is_zero():
    x = np.ones((1, 2, 3))

    assert not ops.junction(x, x, 0.0, 0.0)[0].any()
    assert not ops.junction_joined(*ops.junction_backward(x, 0.0, 0.0), 0.0, 0.0).any()
