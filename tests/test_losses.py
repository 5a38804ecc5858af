"""Losses: what they are, what they ask of a batch, and how they refuse another."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from skipscope import InputError, draws
from skipscope.engines import ops
from skipscope.losses import Cotangent, CrossEntropy, MeanSquaredError, cotangent
from skipscope.protocol import Loss

SEEDS = (3, 9)


@pytest.fixture
def output(rng: np.random.Generator) -> Any:
    """Of two networks, five samples, four outputs."""
    return rng.standard_normal((2, 5, 4))


def test_cross_entropy(output: Any):
    labels = np.array([0, 3, 1, 2, 0])
    loss = CrossEntropy()

    for given in (labels, labels.astype(np.uint8), labels.tolist(), np.stack([labels, labels]), labels[None]):
        logp = ops.log_softmax(output)
        value, gradient = ops.cross_entropy(logp, labels), ops.cross_entropy_backward(logp, labels)
        assert np.array_equal(loss(output, (None, given)), value)
        assert np.array_equal(loss.gradient(output, (None, given)), gradient)
        assert all(map(np.array_equal, loss.with_gradient(output, (None, given)), (value, gradient)))


def test_mean_squared_error(output: Any, rng: np.random.Generator):
    targets = rng.standard_normal((5, 4))
    loss: Loss = MeanSquaredError()

    for given in (targets, targets.tolist(), np.stack([targets, targets]), targets[None]):
        assert np.array_equal(loss(output, (None, given)), ops.mean_squared_error(output, targets))
        assert np.array_equal(loss.gradient(output, (None, given)), ops.mean_squared_error_backward(output, targets))


@pytest.mark.parametrize("shape", [(5, 4), (1, 5, 4), (2, 5, 4)])
def test_a_cotangent_is_its_own_gradient(output: Any, shape: tuple[int, ...], rng: np.random.Generator):
    v = rng.standard_normal(shape)
    loss: Loss = Cotangent(v)

    assert np.array_equal(loss.gradient(output, None), np.broadcast_to(v, output.shape))
    # The same 20 products, added up in another order.
    expected = [float(np.vdot(np.broadcast_to(v, output.shape)[seed], output[seed])) for seed in range(2)]
    assert loss(output, None) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("loss", [CrossEntropy(), MeanSquaredError(), Cotangent(np.ones((5, 4)))])
def test_precision_is_the_outputs(loss: Loss, output: Any):
    single = output.astype(np.float32)
    given = np.zeros(5, int) if isinstance(loss, CrossEntropy) else np.zeros((5, 4))

    assert loss(single, (None, given)).dtype == np.float32
    assert loss.gradient(single, (None, given)).dtype == np.float32


def test_losses_are_values():
    assert CrossEntropy() == CrossEntropy()
    assert repr(MeanSquaredError()) == "MeanSquaredError()"
    with pytest.raises(dataclasses.FrozenInstanceError):
        Cotangent(np.ones((1, 1))).v = None  # type: ignore[misc, assignment]


@pytest.mark.parametrize(
    ("loss", "batch", "message"),
    [
        (CrossEntropy(), np.zeros((5, 4)), "this loss needs a batch of (inputs, labels); got ndarray."),
        (CrossEntropy(), (1, 2, 3), "this loss needs a batch of (inputs, labels); got tuple."),
        (MeanSquaredError(), [0, 0], "this loss needs a batch of (inputs, targets); got list."),
        (CrossEntropy(), (None, [0.0] * 5), "labels must be whole numbers; got an array of float64."),
        (CrossEntropy(), (None, [True] * 5), "labels must be whole numbers; got an array of bool."),
        (
            CrossEntropy(),
            (None, [0, 1]),
            "labels must have the shape (5,) (or (2, 5), one for every seed); got (2,).",
        ),
        (
            CrossEntropy(),
            (None, np.zeros((3, 5), int)),
            "labels must have the shape (5,) (or (2, 5), one for every seed); got (3, 5).",
        ),
        (
            CrossEntropy(),
            (None, [0, 1, 2, 3, 4]),
            "labels must be from 0 to 3 for a network of 4 outputs; got 0 to 4.",
        ),
        (
            CrossEntropy(),
            (None, [0, 1, -1, 3, 2]),
            "labels must be from 0 to 3 for a network of 4 outputs; got -1 to 3.",
        ),
        (
            MeanSquaredError(),
            (None, np.zeros((5, 3))),
            "targets must have the shape (5, 4) (or (2, 5, 4), one for every seed); got (5, 3).",
        ),
        (
            Cotangent(np.ones((4, 5))),
            None,
            "cotangent must have the shape (5, 4) (or (2, 5, 4), one for every seed); got (4, 5).",
        ),
        (
            Cotangent(np.ones((3, 5, 4))),
            None,
            "cotangent must have the shape (5, 4) (or (2, 5, 4), one for every seed); got (3, 5, 4).",
        ),
    ],
)
def test_refused_batches(loss: Loss, batch: Any, message: str, output: Any):
    for function in (loss, loss.gradient):
        with pytest.raises(InputError) as caught:
            function(output, batch)
        assert str(caught.value) == message


def test_a_gaussian_cotangent_is_each_seeds_own():
    loss = cotangent("gaussian", seeds=SEEDS, batch=5, outputs=4)

    assert np.array_equal(loss.v, draws.normals(SEEDS, "cotangent", (5, 4)))
    assert not np.array_equal(loss.v[0], draws.normals(SEEDS, "input", (5, 4))[0])


def test_a_cotangent_of_one_seed_is_everybodys():
    loss = cotangent("gaussian", seeds=SEEDS, batch=5, outputs=4, seed=9)

    assert np.array_equal(loss.v, draws.normals([9], "cotangent", (5, 4)))


def test_a_cotangent_of_ones():
    assert cotangent("ones", seeds=SEEDS, batch=5, outputs=4).v.tolist() == np.ones((1, 5, 4)).tolist()


def test_an_unknown_cotangent():
    with pytest.raises(InputError) as caught:
        cotangent("gauss", seeds=SEEDS, batch=5, outputs=4)  # type: ignore[arg-type]
    assert str(caught.value) == "cotangent must be one of 'gaussian', 'ones'; got 'gauss'. Did you mean 'gaussian'?"
