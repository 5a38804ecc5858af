"""Convolution, normalisation, pooling and shortcuts of images: against finite differences, torch, and invariants."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch.nn import functional

from skipscope import Spec, build
from skipscope.engines import convolution, images, pooling, winograd
from skipscope.engines.images import as_observed, laid_out
from skipscope.engines.spread import spread, threads

Array = NDArray[Any]
Arrays = tuple[Array, ...]


@pytest.fixture(autouse=True)
def one_blas_thread():
    with threadpool_limits(1, user_api="blas"):
        yield


class Op(NamedTuple):
    """An op on images as they are observed, (s, b, c, h, w), and what it is held to; `oracle` sees one seed's."""

    shapes: Callable[[int], tuple[tuple[int, ...], ...]]  # of its inputs for so many seeds; images first
    forward: Callable[..., Array]
    backward: Callable[..., Arrays]  # of dy and the inputs
    oracle: Callable[..., torch.Tensor]
    jvp: Callable[..., Array]  # of tx and the inputs: the first of them moves


def conv(kernel: int, stride: int, padding: int, shape: tuple[int, int, int, int], o: int) -> Op:
    how: dict[str, Any] = {"stride": stride, "padding": padding}

    def backward(dy: Array, x: Array, weight: Array) -> Arrays:
        dx, dweight = convolution.conv_backward(laid_out(dy), laid_out(x), weight, **how)
        return seen(dx), dweight

    return Op(
        lambda s: ((s, *shape), (s, o, shape[1], kernel, kernel)),
        lambda x, weight: seen(convolution.conv(laid_out(x), weight, **how)),
        backward,
        lambda x, weight: functional.conv2d(x, weight, **how),
        lambda tx, x, weight: seen(convolution.conv_jvp(laid_out(tx), weight, **how)),
    )


def seen(x: Array) -> Array:
    """The images, after a look at their border."""
    assert not x[:, 0].any()
    assert not x[:, -1].any()
    assert not x[:, :, :, -1].any()
    return as_observed(x)


def averages(gamma: Array) -> Arrays:
    """A mean and a positive variance for every channel, the same for every seed."""
    angle = np.broadcast_to(np.arange(gamma.shape[-1]), gamma.shape).astype(gamma.dtype)
    return np.sin(angle), 1.5 + np.cos(angle)


def normalisation(fixed: bool, rectified: bool) -> Op:
    shape = 40, 3, 5, 6  # more images than are worked on together

    def forward(x: Array, gamma: Array, beta: Array, shortcut: Array) -> tuple[Array, images.NormalisedImages]:
        told: dict[str, Any] = {"shortcut": laid_out(shortcut), "rectified": rectified}
        if fixed:
            return images.fixed_norm(laid_out(x), gamma, beta, *averages(gamma), **told)
        return images.batch_norm(laid_out(x), gamma, beta, **told)

    def backward(dy: Array, x: Array, gamma: Array, beta: Array, shortcut: Array) -> Arrays:
        y, kept = forward(x, gamma, beta, shortcut)
        dsum = images.relu_backward(laid_out(dy), y) if rectified else laid_out(dy)
        through = images.fixed_norm_backward if fixed else images.batch_norm_backward
        dx, dgamma, dbeta = through(dsum, gamma, kept)
        return seen(dx), dgamma, dbeta, seen(dsum)

    def jvp(tx: Array, x: Array, gamma: Array, beta: Array, shortcut: Array) -> Array:
        y, kept = forward(x, gamma, beta, shortcut)
        ty = (images.fixed_norm_jvp if fixed else images.batch_norm_jvp)(laid_out(tx), gamma, kept)
        return seen(images.relu_jvp(ty, y) if rectified else ty)

    def oracle(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        mean, variance = (torch.tensor(each) if fixed else None for each in averages(gamma.detach().numpy()))
        y = functional.batch_norm(x, mean, variance, gamma, beta, training=not fixed, eps=1e-5) + shortcut
        return torch.relu(y) if rectified else y

    return Op(
        lambda s: ((s, *shape), (s, shape[1]), (s, shape[1]), (s, *shape)),
        lambda *inputs: seen(forward(*inputs)[0]),
        backward,
        oracle,
        jvp,
    )


def relu() -> Op:
    return Op(
        lambda s: ((s, 3, 2, 4, 5),),
        lambda x: seen(images.relu(laid_out(x))),
        lambda dy, x: (seen(images.relu_backward(laid_out(dy), images.relu(laid_out(x)))),),
        torch.relu,
        lambda tx, x: seen(images.relu_jvp(laid_out(tx), images.relu(laid_out(x)))),
    )


def max_pool(shape: tuple[int, int, int, int], kernel: int, stride: int, padding: int) -> Op:
    how: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding}

    def kept(x: Array) -> pooling.Pooled:
        return pooling.max_pool(laid_out(x), **how)[1]

    return Op(
        lambda s: ((s, *shape),),
        lambda x: seen(pooling.max_pool(laid_out(x), **how)[0]),
        lambda dy, x: (seen(pooling.max_pool_backward(laid_out(dy), kept(x))),),
        lambda x: functional.max_pool2d(x, kernel, stride, padding),
        lambda tx, x: seen(pooling.max_pool_jvp(laid_out(tx), kept(x))),
    )


def average_pool(shape: tuple[int, int, int, int], kernel: int, stride: int) -> Op:
    how: dict[str, Any] = {"kernel": kernel, "stride": stride}
    return Op(
        lambda s: ((s, *shape),),
        lambda x: seen(pooling.average_pool(laid_out(x), **how)),
        lambda dy, x: (seen(pooling.average_pool_backward(laid_out(dy), laid_out(x).shape, **how)),),
        lambda x: functional.avg_pool2d(x, kernel, stride),
        lambda tx, x: seen(pooling.average_pool_jvp(laid_out(tx), **how)),
    )


def global_pool() -> Op:
    return Op(
        lambda s: ((s, 3, 2, 4, 5),),
        lambda x: pooling.global_pool(laid_out(x)),
        lambda dy, x: (seen(pooling.global_pool_backward(dy, laid_out(x).shape)),),
        lambda x: x.mean((2, 3)),
        lambda tx, x: pooling.global_pool_jvp(laid_out(tx)),
    )


def padded(shape: tuple[int, int, int, int], channels: int, before: int) -> Op:
    after = channels - before - shape[1]
    return Op(
        lambda s: ((s, *shape),),
        lambda x: seen(pooling.padded_shortcut(laid_out(x), channels, before=before)),
        lambda dy, x: (seen(pooling.padded_shortcut_backward(laid_out(dy), laid_out(x).shape, before=before)),),
        lambda x: functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, after)),
        lambda tx, x: seen(pooling.padded_shortcut_jvp(laid_out(tx), channels, before=before)),
    )


SIZES = [(2, 3, 8, 8), (3, 2, 7, 9), (1, 4, 12, 7), (34, 2, 8, 8)]  # the last by Winograd, where 3x3
CONVOLUTIONS = {
    f"conv {kernel}x{kernel}/{stride} padding {padding}, {size}": conv(kernel, stride, padding, size, 5)
    for kernel, stride, padding, size in product((1, 3, 7), (1, 2), (0, 1, 3), SIZES)
}
OPS = CONVOLUTIONS | {
    "batch norm": normalisation(fixed=False, rectified=False),
    "batch norm, rectified": normalisation(fixed=False, rectified=True),
    "fixed norm": normalisation(fixed=True, rectified=False),
    "fixed norm, rectified": normalisation(fixed=True, rectified=True),
    "relu": relu(),
    "max pool": max_pool((2, 3, 8, 8), 3, 2, 1),
    "max pool, odd": max_pool((2, 3, 7, 9), 3, 2, 1),
    "max pool 2x2": max_pool((2, 3, 7, 6), 2, 2, 0),
    "average pool": average_pool((2, 3, 8, 7), 2, 2),
    "average pool, overlapping": average_pool((2, 3, 8, 7), 3, 2),
    "global pool": global_pool(),
    "option A": padded((2, 3, 8, 8), 6, 0),
    "option A, odd, both sides": padded((2, 4, 7, 9), 8, 2),
}


def drawn(op: Op, rng: np.random.Generator, seeds: int = 2) -> tuple[list[Array], Array]:
    """Inputs of the op, and a gradient by its output."""
    inputs = [rng.standard_normal(shape) for shape in op.shapes(seeds)]
    return inputs, rng.standard_normal(op.forward(*inputs).shape)


def assert_close(value: Array, expected: Array, tolerance: float = 1e-10) -> None:
    assert value.shape == expected.shape
    assert np.linalg.norm(value - expected) <= tolerance * np.linalg.norm(expected)


def assert_as_torch(op: Op, inputs: list[Array], dy: Array) -> None:
    y, gradients = op.forward(*inputs), op.backward(dy, *inputs)
    for seed in range(len(dy)):
        tensors = [torch.tensor(each[seed], requires_grad=True) for each in inputs]
        expected = op.oracle(*tensors)
        expected.backward(torch.tensor(dy[seed]))
        assert_close(y[seed], expected.detach().numpy())
        for gradient, tensor in zip(gradients, tensors, strict=True):
            assert tensor.grad is not None
            assert_close(gradient[seed], tensor.grad.numpy())


@pytest.mark.parametrize("name", OPS)
def test_torch(name: str, rng: np.random.Generator):
    assert_as_torch(OPS[name], *drawn(OPS[name], rng))


@settings(max_examples=40)
@given(
    kernel=st.sampled_from([1, 2, 3, 5]),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    size=st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(5, 13), st.integers(5, 13)),
    o=st.integers(1, 6),
)
def test_any_convolution_is_torchs(kernel: int, stride: int, padding: int, size: tuple[int, int, int, int], o: int):
    op = conv(kernel, stride, padding, size, o)
    assert_as_torch(op, *drawn(op, np.random.default_rng(1)))


@settings(max_examples=20)
@given(
    images=st.integers(1, 70),
    height=st.sampled_from([4, 7, 8, 10, 11, 14, 16]),  # whole tiles, and nearly
    width=st.integers(3, 9),
    c=st.integers(1, 5),
)
def test_any_convolution_in_tiles_is_torchs(images: int, height: int, width: int, c: int):
    images = max(images, -(-winograd.LEAST // (height * width)))
    op = conv(3, 1, 1, (images, c, height, width), 3)
    inputs, dy = drawn(op, np.random.default_rng(2), seeds=1)

    assert winograd.fits(laid_out(inputs[0]).shape)
    assert_as_torch(op, inputs, dy)


@pytest.mark.parametrize("name", OPS)
def test_finite_difference(name: str, rng: np.random.Generator):
    op, h = OPS[name], 1e-5
    inputs, dy = drawn(op, rng)
    directions = [rng.standard_normal(each.shape) for each in inputs]

    def value(step: float) -> float:
        return float((dy * op.forward(*(x + step * u for x, u in zip(inputs, directions, strict=True)))).sum())

    if "relu" in name:  # an input within h of the kink would be another function on its other side
        inputs[0] = np.where(abs(inputs[0]) < 10 * h, 1.0, inputs[0])
    if "rectified" in name:  # likewise, for what is rectified: the shortcut moves it away from 0
        plain = OPS[name.removesuffix(", rectified")].forward(*inputs)
        inputs[-1] = inputs[-1] + np.where(abs(plain) < 1e-3, 1.0, 0.0)
    # Five points: truncation of order h^4, and rounding of 1.5 * 1e-16 / h, on sums of up to 1e4 numbers.
    numeric = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    gradients = op.backward(dy, *inputs)
    analytic = sum(float((g * u).sum()) for g, u in zip(gradients, directions, strict=True))

    scale = sum(float((g * g).sum()) for g in gradients) ** 0.5 + abs(value(0.0))
    assert abs(analytic - numeric) <= 1e-8 * scale, f"{name}: analytic {analytic}, numeric {numeric}"


@pytest.mark.parametrize("name", OPS)
def test_forwards_and_backwards_are_one_matrix(name: str, rng: np.random.Generator):
    op = OPS[name]
    inputs, dy = drawn(op, rng)
    tx = rng.standard_normal(inputs[0].shape)

    forwards = float((dy * op.jvp(tx, *inputs)).sum())
    backwards = float((op.backward(dy, *inputs)[0] * tx).sum())

    # Sums of up to 1e4 products of order 1, which may cancel.
    assert abs(forwards - backwards) <= 1e-10 * np.sqrt(dy.size)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPS)
def test_a_seed_gives_the_same_bits_alone_and_for_any_number_of_threads(
    name: str, dtype: str, rng: np.random.Generator
):
    op = OPS[name]
    inputs, dy = drawn(op, rng, seeds=3)
    inputs, dy = [each.astype(dtype) for each in inputs], dy.astype(dtype)

    def bits(number: int, part: slice) -> list[bytes]:
        cut = [each[part].copy() for each in inputs]
        with threads(number):
            found = [op.forward(*cut), *op.backward(dy[part].copy(), *cut)]
        assert {each.dtype for each in found} == {np.dtype(dtype)}
        return [each[-1].tobytes() for each in found]

    assert bits(1, slice(1, 2)) == bits(2, slice(0, 2)) == bits(3, slice(1, 2))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_each_gradient_alone_is_that_of_both(name: str, rng: np.random.Generator):
    op = CONVOLUTIONS[name]
    (x, weight), dy = drawn(op, rng)
    kernel, stride = weight.shape[-1], int(name.split("/")[1][0])
    how: dict[str, Any] = {"stride": stride, "padding": int(name.split("padding ")[1][0])}
    assert kernel == int(name.split("x")[1][0])

    both = convolution.conv_backward(laid_out(dy), laid_out(x), weight, **how)

    dx = convolution.conv_backward_input(laid_out(dy), laid_out(x).shape, weight, **how)
    dweight = convolution.conv_backward_weight(laid_out(dy), laid_out(x), weight.shape, **how)
    assert dx.tobytes() == both[0].tobytes()
    assert dweight.tobytes() == both[1].tobytes()


@pytest.mark.parametrize(("stride", "away"), [(1, slice(3, -1)), (2, slice(2, None))])
def test_a_convolution_is_linear_and_moves_with_its_images(stride: int, away: slice, rng: np.random.Generator):
    op = OPS[f"conv 3x3/{stride} padding 1, (34, 2, 8, 8)"]
    (x, weight), _ = drawn(op, rng)
    other = rng.standard_normal(x.shape)

    assert_close(op.forward(x - 3 * other, weight), op.forward(x, weight) - 3 * op.forward(other, weight), 1e-13)
    # Away from the edges, 2 pixels of the input are 2 / stride of the output.
    moved = op.forward(np.roll(x, 2, axis=-2), weight)[..., away, :]
    assert_close(moved, np.roll(op.forward(x, weight), 2 // stride, axis=-2)[..., away, :], 1e-13)


def test_batch_norm_forgets_scale_and_mean(rng: np.random.Generator):
    op = OPS["batch norm"]
    (x, gamma, beta, shortcut), dy = drawn(op, rng)
    x *= 100  # so that eps adds 1e-9 to the variance
    factor, offset = rng.uniform(0.5, 2, (2, 1, 3, 1, 1)), rng.standard_normal((2, 1, 3, 1, 1))

    scaled = op.forward(x * factor + offset, gamma, beta, shortcut)
    dx = op.backward(dy, x, gamma, beta, shortcut)[0]

    assert_close(scaled, op.forward(x, gamma, beta, shortcut), 1e-8)
    # No gradient along what the output does not depend on: a constant, and (but for eps) x itself.
    assert (abs(dx.sum(axis=(1, 3, 4))) <= 1e-12 * abs(dx).sum(axis=(1, 3, 4))).all()
    assert (abs((dx * x).sum(axis=(1, 3, 4))) <= 1e-8 * abs(dx * x).sum(axis=(1, 3, 4))).all()


def test_the_variance_of_large_numbers_is_exact_to_rounding(rng: np.random.Generator):
    x = (1000 + rng.standard_normal((1, 40, 3, 16, 16))).astype("float32")

    _, kept = images.batch_norm(laid_out(x), np.ones((1, 3), "float32"), np.zeros((1, 3), "float32"))

    # Rounding of 1000 to 6e-5 is what the data have; the difference of squares would be off by 1e6 * 1e-7, 10 %.
    assert np.allclose(kept.variance, x.astype("float64").var(axis=(1, 3, 4)), rtol=1e-3)
    assert np.allclose(kept.mean, x.astype("float64").mean(axis=(1, 3, 4)), rtol=1e-6)


@pytest.mark.parametrize("c", [3, 16, 64])
def test_winograds_way_rounds_little_more(c: int, rng: np.random.Generator):
    x, weight = rng.standard_normal((1, 64, c, 8, 8)), rng.standard_normal((1, 16, c, 3, 3))
    exact = convolution.conv(laid_out(x), weight, padding=1)

    single = convolution.conv(laid_out(x.astype("float32")), weight.astype("float32"), padding=1)

    # 6e-8 a number; the transforms' entries are up to 8 and partly cancel, which costs one digit.
    assert_close(single, exact, 2e-6)


def test_without_a_norm_nothing_comes_of_nothing(rng: np.random.Generator):
    """A ReLU asks whether a number is above 0: where a window sees zeros alone, it must not be rounding."""
    x, weight = rng.standard_normal((1, 64, 2, 11, 11)), rng.standard_normal((1, 3, 2, 3, 3))
    x[..., 5:10, 5:10] = 0
    unseen = np.s_[..., 6:9, 6:9]

    fast, exact = (convolution.conv(laid_out(x), weight, padding=1, exact=exact) for exact in (False, True))

    assert as_observed(fast)[unseen].any()  # what there is to guard against
    assert not as_observed(exact)[unseen].any()
    np.testing.assert_allclose(as_observed(fast), as_observed(exact), rtol=0, atol=1e-13)


def test_a_network_without_norms_has_exact_convolutions(rng: np.random.Generator):
    spec = Spec.cifar(8, norm="none", width=3, size=11, channels=2, classes=3, dtype="float64")
    x = rng.standard_normal((64, 2, 11, 11))
    x[..., 5:10, 5:10] = 0
    found = {}

    build(spec, seed=0).run(x, observe=lambda site, /, **roles: found.update({site: roles}))

    assert not found["stem"]["preactivation"][..., 6:9, 6:9].any()


def test_a_gradient_that_overflowed_is_not_let_through_where_nothing_was():
    y = np.array([[0.0, 2.0, 0.0, 1e-45, -0.0]], "float32").reshape(1, 1, 1, 1, 5)
    dy = np.array([[np.inf, np.inf, np.nan, 3, 5]], "float32").reshape(1, 1, 1, 1, 5)

    dx = as_observed(images.relu_backward(laid_out(dy), laid_out(y))).ravel()

    assert dx.tolist() == [0, np.inf, 0, 3, 0]
    assert as_observed(images.relu_backward(laid_out(y), laid_out(y), plus=laid_out(y))).ravel()[1] == 4


def test_max_pool_gives_the_gradient_to_the_first_of_equals():
    x = np.zeros((1, 1, 1, 4, 4))

    gradients = OPS["max pool"].backward(np.ones((1, 1, 1, 2, 2)), x)

    assert gradients[0][0, 0, 0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_max_pool_of_negative_pixels_does_not_see_the_border():
    assert (OPS["max pool"].forward(np.full((1, 1, 1, 4, 4), -3.0)) == -3).all()


def test_spread_keeps_the_order_and_passes_on_what_was_raised():
    def work(unit: int) -> int:
        if unit == 100:
            raise ValueError("unit 100")
        return unit * unit

    for number in (1, 2, 5):
        with threads(number):
            assert spread(work, range(37)) == [unit * unit for unit in range(37)]
            assert spread(work, []) == []
            with pytest.raises(ValueError, match="unit 100"):
                spread(work, range(90, 130))
