"""The notebook's names: the same bits as the engine's networks, and the notebook's own claims about them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skipscope import InputError, PlainLayer, PlainNetwork, ResidualBlock, ResidualNetwork, Spec, build
from skipscope.losses import Cotangent

Array = NDArray[Any]
AnyNetwork = PlainNetwork | ResidualNetwork
UNKNOWN: Any = "one"
SEVERAL: Any = [0, 1]
HALF: Any = 0.5

NETWORKS: list[tuple[type[AnyNetwork], tuple[int, int, int]]] = [
    (PlainNetwork, (16, 36, 28)),
    (PlainNetwork, (16, 16, 10)),
    (PlainNetwork, (3, 5, 2)),
    (ResidualNetwork, (16, 36, 28)),
    (ResidualNetwork, (16, 16, 10)),
    (ResidualNetwork, (3, 5, 1)),
]


class Gradients:
    """Keeps the gradients of the weights and of the input, by site."""

    def __init__(self) -> None:
        self.weights: dict[str, Array] = {}
        self.input: Array | None = None

    def __call__(self, site: str, /, **roles: Array) -> None:
        if "weight_grad" in roles:
            self.weights[site] = roles["weight_grad"][0]
        if site == "input" and "activation_grad" in roles:
            self.input = roles["activation_grad"][0]


def plain_layers(network: AnyNetwork) -> list[PlainLayer]:
    """The weight layers in order of depth."""
    return [part for layer in network.layers for part in ([layer] if isinstance(layer, PlainLayer) else layer.layers)]


# ------------------------------------------------------------------------------------------- the same as the engine's


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(("kind", "sizes"), NETWORKS)
def test_network_is_the_engines_bit_for_bit(
    kind: type[AnyNetwork], sizes: tuple[int, int, int], batch: int, rng: np.random.Generator
):
    network = kind(*sizes, seed=7)
    engine = build(network.spec, seed=7)
    x, dy = rng.standard_normal((2, batch, sizes[0]))
    seen = Gradients()
    run = engine.run(x, Cotangent(dy), seen)

    assert np.array_equal(network.forward(x), run.output[0])
    dx = network.backward(dy)
    assert seen.input is not None
    assert np.array_equal(dx, seen.input)
    layers = plain_layers(network)
    assert [layer.site for layer in network.spec.layers] == [site for site in reversed(seen.weights)]
    for layer, site in zip(layers, reversed(seen.weights), strict=True):
        assert np.array_equal(layer.W, engine.parameters[f"{site}.weight"][0])
        assert np.array_equal(layer.dW, seen.weights[site])


@pytest.mark.parametrize(("kind", "sizes"), NETWORKS)
def test_network_has_the_notebooks_layers(kind: type[AnyNetwork], sizes: tuple[int, int, int]):
    features, hidden, count = sizes
    network = kind(*sizes, seed=0)
    shapes = [layer.W.shape for layer in plain_layers(network)]
    inner = count - 2 if kind is PlainNetwork else 2 * count

    assert shapes == [(hidden, features), *[(hidden, hidden)] * inner, (features, hidden)]
    assert len(network.layers) == (count if kind is PlainNetwork else count + 2)
    assert all(not layer.b.any() for layer in plain_layers(network))
    assert network.spec.head.activation == "relu"


def test_a_shallow_network_is_the_beginning_of_a_deep_one():
    shallow, deep = (plain_layers(PlainNetwork(16, 36, depth, seed=3)) for depth in (5, 9))

    assert all(np.array_equal(a.W, b.W) for a, b in zip(shallow[:-1], deep, strict=False))
    assert np.array_equal(shallow[-1].W, deep[-1].W)


def test_seeds_give_different_networks():
    first, second = (PlainNetwork(16, 36, 5, seed=seed).layers[0] for seed in (0, 1))

    assert isinstance(first, PlainLayer)
    assert isinstance(second, PlainLayer)
    assert not np.array_equal(first.W, second.W)


# ----------------------------------------------------------------------------------------------- by hand and by limit


def test_a_layer_by_hand():
    layer = PlainLayer(2, 2, W=np.array([[1.0, 2.0], [-1.0, 0.0]]))
    layer.b = np.array([0.5, 0.0])

    assert layer.forward(np.array([[1.0, 1.0], [-2.0, 0.0]])).tolist() == [[3.5, 0.0], [0.0, 2.0]]
    dx = layer.backward(np.array([[1.0, 1.0], [1.0, 1.0]]))
    assert dx.tolist() == [[1.0, 2.0], [-1.0, 0.0]]
    assert layer.dW.tolist() == [[1.0, 1.0], [-2.0, 0.0]]
    assert layer.db.tolist() == [1.0, 1.0]
    assert layer.gradient_norm() == pytest.approx(np.sqrt(6))


def test_a_layer_draws_he():
    W = PlainLayer(50, 2000, seed=0).W

    # 100,000 normals of variance 2/50: the mean of the squares has a relative standard error of sqrt(2/100,000).
    assert (W**2).mean() == pytest.approx(2 / 50, rel=4 * np.sqrt(2 / W.size))
    assert np.array_equal(W, PlainLayer(50, 2000, seed=0).W)
    assert not np.array_equal(W, PlainLayer(50, 2000, seed=1).W)


def test_a_block_adds_its_shortcut(rng: np.random.Generator):
    block = ResidualBlock(6, seed=2)
    x, dy = rng.standard_normal((2, 3, 6))

    F = block.F(x)
    first, second = block.layers
    assert np.array_equal(F, np.maximum(0, np.maximum(0, x @ first.W.T) @ second.W.T))
    assert np.array_equal(block.forward(x), x + F)
    dF = first.backward(second.backward(dy))
    assert np.array_equal(block.backward(dy), dF + dy)
    assert block.gradient_norm() == pytest.approx((np.linalg.norm(first.dW) + np.linalg.norm(second.dW)) / 2)


def test_a_block_draws_two_layers_from_its_seed():
    a, b = ResidualBlock(6, seed=2), ResidualBlock(6, seed=2)

    assert all(np.array_equal(x.W, y.W) for x, y in zip(a.layers, b.layers, strict=True))
    assert not np.array_equal(a.layers[0].W, a.layers[1].W)


@pytest.mark.parametrize(("kind", "sizes"), [(PlainNetwork, (5, 7, 4)), (ResidualNetwork, (5, 7, 3))])
def test_gradients_are_those_of_finite_differences(
    kind: type[AnyNetwork], sizes: tuple[int, int, int], rng: np.random.Generator
):
    network = kind(*sizes, seed=1)
    x, dy = rng.standard_normal((2, 4, sizes[0]))
    layers = plain_layers(network)

    def loss(moved: Array) -> float:
        return float((network.forward(moved) * dy).sum())

    loss(x)
    dx = network.backward(dy)
    directions = [(x, rng.standard_normal(x.shape), dx)]
    for layer in layers:
        directions.append((layer.W, rng.standard_normal(layer.W.shape), layer.dW))
        directions.append((layer.b, rng.standard_normal(layer.b.shape), layer.db))
    # Central difference with h = 1e-6: rounding 2^-53/h = 1e-10 of the loss (below 100), truncation of order h^2. The
    # slopes are of order 1 to 100. In these draws no pre-activation is within h of its kink, which would show.
    h = 1e-6
    for array, direction, gradient in directions:
        step = h * direction
        array += step
        up = loss(x)
        array -= 2 * step
        down = loss(x)
        array += step
        numeric, analytic = (up - down) / (2 * h), float((gradient * direction).sum())
        assert analytic == pytest.approx(numeric, rel=1e-6, abs=1e-7)
        assert analytic != 0


# ----------------------------------------------------------------------------------------------- what the notebook says


def test_weights_scaled_by_a_thousandth_make_the_branch_a_millionth(rng: np.random.Generator):
    """N8: F is homogeneous of degree 2 in its weights; the block gives its input back to 1e-6."""
    block = ResidualBlock(16, seed=0)
    x = rng.standard_normal((4, 16))
    before = block.F(x)
    for layer in block.layers:
        layer.W *= 0.001

    assert np.linalg.norm(block.F(x)) == pytest.approx(1e-6 * np.linalg.norm(before), rel=1e-12)
    assert np.abs(block.forward(x) - x).max() == pytest.approx(1e-6 * np.abs(before).max(), rel=1e-9)


@pytest.mark.parametrize(("kind", "sizes"), NETWORKS)
def test_gradient_norms_are_in_order_of_depth(
    kind: type[AnyNetwork], sizes: tuple[int, int, int], rng: np.random.Generator
):
    network = kind(*sizes, seed=0)
    y = network.forward(rng.standard_normal((1, sizes[0])))
    network.backward(np.ones_like(y))
    norms = [float(np.linalg.norm(layer.dW)) for layer in plain_layers(network)]

    found = network.gradient_norms()
    assert len(found) == len(network.layers)
    assert (found[0], found[-1]) == pytest.approx((norms[0], norms[-1]), rel=1e-15)
    if kind is ResidualNetwork:
        blocks = [(a + b) / 2 for a, b in zip(norms[1:-1:2], norms[2:-1:2], strict=True)]
        assert found[1:-1] == pytest.approx(blocks, rel=1e-15)
    else:
        assert found == pytest.approx(norms, rel=1e-15)


def test_the_spec_says_what_the_network_is():
    plain, residual = PlainNetwork(16, 36, 28, seed=0).spec, ResidualNetwork(16, 36, 28, seed=0).spec

    assert plain == Spec.dense(features=16, width=36, blocks=26, layers=1, shortcut="none", output="relu")
    assert residual == Spec.dense(features=16, width=36, blocks=28, output="relu")
    assert (plain.depth, residual.depth) == (28, 58)


def test_a_network_takes_lists():
    network = PlainNetwork(2, 3, 4, seed=0)

    assert network.forward([[1, 2]]).shape == (1, 2)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: PlainLayer(3, 4), "either seed"),
        (lambda: PlainLayer(3, 4, seed=0, W=np.zeros((4, 3))), "either seed"),
        (lambda: PlainLayer(3, 4, W=np.zeros((3, 4))), "W must have the shape (4, 3); got (3, 4)"),
        (lambda: PlainLayer(0, 4, seed=0), "n_in must be at least 1; got 0"),
        (lambda: PlainLayer(3, HALF, seed=0), "n_out must be a whole number"),
        (lambda: PlainLayer(3, 4, seed=-1), "seed must be at least 0; got -1"),
        (lambda: PlainLayer(3, 4, seed=SEVERAL), "seed must be a whole number"),
        (lambda: ResidualBlock(3), "either seed"),
        (lambda: ResidualBlock(0, seed=0), "width must be at least 1"),
        (
            lambda: ResidualBlock(3, layers=(PlainLayer(3, 4, seed=0), PlainLayer(4, 3, seed=0))),
            "layers must be of 3 units in and out",
        ),
        (lambda: PlainNetwork(16, 36, 1, seed=0), "num_layers must be at least 2; got 1"),
        (lambda: PlainNetwork(16, 0, 5, seed=0), "width must be at least 1; got 0"),
        (lambda: PlainNetwork(16, 36, 5, seed=UNKNOWN), "seed must be a whole number"),
        (lambda: PlainNetwork(16, 36, 5, seed=SEVERAL), "seed must be a whole number"),
        (lambda: ResidualNetwork(16, 36, 0, seed=0), "num_blocks must be at least 1; got 0"),
        (lambda: ResidualNetwork(0, 36, 3, seed=0), "features must be at least 1; got 0"),
        (lambda: PlainLayer(3, 4, seed=0).forward(np.zeros(3)), "x must have the shape (samples, 3); got (3,)"),
        (lambda: ResidualBlock(3, seed=0).forward(np.zeros((2, 4))), "x must have the shape (samples, 3); got (2, 4)"),
        (lambda: PlainNetwork(16, 36, 5, seed=0).forward(np.zeros((1, 36))), "x must have the shape (samples, 16)"),
        (lambda: PlainLayer(3, 4, seed=0).backward(np.zeros((1, 4))), "call forward(x) first"),
        (lambda: PlainNetwork(16, 36, 5, seed=0).backward(np.zeros((1, 16))), "call forward(x) first"),
    ],
)
def test_mistakes_are_explained(call: Any, words: str):
    with pytest.raises(InputError) as caught:
        call()

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gradient_of_another_shape_is_refused():
    network = PlainNetwork(16, 36, 5, seed=0)
    network.forward(np.zeros((3, 16)))

    with pytest.raises(InputError, match=r"the gradient must have the output's shape \(3, 16\); got \(16,\)"):
        network.backward(np.ones(16))


def test_a_seed_is_required():
    with pytest.raises(TypeError, match="seed"):
        PlainNetwork(16, 36, 28)  # type: ignore[call-arg]
