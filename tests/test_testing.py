"""The conformance suite holds over the whole grid of specs, and fails where something is wrong."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skipscope import InputError, Spec, build, draws, testing
from skipscope.engines import convolution, images, ops, parts, parts_images, pooling, winograd
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.losses import Cotangent, CrossEntropy, MeanSquaredError
from skipscope.protocol import Loss, Observer, Run, ignore
from skipscope.spec import Head, Stage, Stem

Array = NDArray[Any]
SEEDS = (0, 1)


def residual(**fields: Any) -> Spec:
    return Spec.dense(**{"width": 4, "blocks": 2, "features": 3, "outputs": 2} | fields)


def paper(**fields: Any) -> Spec:
    """A narrow network of the paper, on images that do not halve evenly."""
    small: dict[str, Any] = {"width": 2, "size": 7, "channels": 2, "classes": 3, "dtype": "float64"}
    return Spec.cifar(8, **small | fields)


def pooled(**fields: Any) -> Spec:
    """Max pooling, and bottlenecks with projections."""
    stage: dict[str, Any] = {"kind": "bottleneck", "layers": 3, "shortcut": "B", "order": "after-add"} | fields
    return Spec(
        stem=Stem(kind="conv7", features=2, width=3, size=13, norm=fields.get("norm", "none")),
        stages=(Stage(blocks=1, width=2, **stage), Stage(blocks=1, width=2, stride=2, **stage)),
        head=Head(features=3, kind="pooled"),
    )


def gaussian(spec: Spec, samples: int = 5, seeds: tuple[int, ...] = SEEDS) -> tuple[Array, Cotangent]:
    return testing.shown(spec, seeds, samples)


@contextmanager
def about(spec: Spec) -> Iterator[None]:
    """Names the network in whatever fails."""
    try:
        yield
    except AssertionError as error:
        error.add_note(spec.to_json())
        raise


# ----------------------------------------------------------------------------------------------------- the grid


def test_the_grid_has_every_network_that_spec_accepts():
    found = set(testing.specs())
    grid = testing.GRID

    refused = 0
    for choices in itertools.product(*grid.values()):
        fields = dict(zip(grid, choices, strict=True))
        shortcut_gain, branch_gain = fields.pop("gains")
        try:
            spec = residual(shortcut_gain=shortcut_gain, branch_gain=branch_gain, **fields)
        except InputError:
            # Biases that a batch norm takes away, and plain networks that output 0, are all that is refused.
            needless = fields["bias"] and fields["norm"] == "batch"
            silent = fields["shortcut"] == "none" and branch_gain == "zero"
            refused += needless or silent
        else:
            assert spec in found
    assert len(found) == len(testing.specs())
    assert len(found) - 8 + refused == np.prod([len(values) for values in grid.values()])  # 8: the uneven ones


def choices_of(spec: Spec) -> tuple[Any, ...]:
    """What of the grid the network is, read back from it."""
    (stage,) = spec.stages
    gains = stage.gains.shortcut, stage.gains.branch
    return (
        *(stage.order, stage.norm, stage.layers, stage.shortcut, stage.activation, gains),
        *(spec.head.activation, spec.bias, spec.init),
    )


def test_the_grid_of_images_has_every_network_that_spec_accepts():
    grid = testing.IMAGE_GRID

    refused = 0
    for choices in itertools.product(*grid.values()):
        of = dict(zip(grid, choices, strict=True))
        # Plain networks that output 0, and gammas of 0 that no gradient reaches, are all that is refused.
        silent = of["shortcut"] == "none" and of["gains"][1] in ("zero", "zero-gamma")
        stuck = of["gains"][1] == "zero-gamma" and (of["norm"], of["order"]) != ("batch", "after-add")
        refused += silent or stuck
    found = testing.image_specs()
    assert len(found) == len(set(found))
    assert len(found) - 8 + refused == np.prod([len(values) for values in grid.values()])  # 8: the uneven ones


def test_a_thinned_grid_of_images_has_all_that_meet():
    def met(specs: Iterable[Spec]) -> set[tuple[tuple[int, Any], ...]]:
        even = (spec for spec in specs if len(spec.stages) == 1)
        return {each for spec in even for each in itertools.combinations(enumerate(image_choices_of(spec)), 2)}

    thinned = testing.image_specs(2)

    assert len(thinned) <= 60
    assert set(thinned) <= set(testing.image_specs())
    assert met(thinned) == met(testing.image_specs())


def image_choices_of(spec: Spec) -> tuple[Any, ...]:
    (stage,) = spec.stages
    return (
        *(spec.stem.kind, stage.kind, stage.shortcut, stage.order, stage.norm, stage.activation),
        *((stage.gains.shortcut, stage.gains.branch), spec.stem.size % 2, spec.init),
    )


@pytest.mark.parametrize(("together", "most"), [(2, 60), (3, 200), (4, 650)])
def test_a_thinned_grid_has_all_that_meet(together: int, most: int):
    def met(specs: Iterable[Spec]) -> set[tuple[tuple[int, Any], ...]]:
        even = (spec for spec in specs if len(spec.stages) == 1 and spec.stem.features == 3)
        return {each for spec in even for each in itertools.combinations(enumerate(choices_of(spec)), together)}

    thinned = testing.specs(together)

    assert len(thinned) <= most + 8
    assert set(thinned) <= set(testing.specs())
    assert met(thinned) == met(testing.specs())


# ------------------------------------------------------------------------------------------ over the whole grid


@pytest.mark.parametrize("together", [4, pytest.param(len(testing.GRID), marks=pytest.mark.slow)])
def test_gradients_over_the_grid(together: int):
    for spec in testing.specs(together):
        with about(spec):
            testing.check_gradients(build(spec, seed=SEEDS), *gaussian(spec))


@pytest.mark.parametrize("together", [4, pytest.param(len(testing.GRID), marks=pytest.mark.slow)])
def test_invariants_over_the_grid(together: int):
    for spec in filter(testing.homogeneous, testing.specs(together)):
        batch_norm = "batch" in {spec.stem.norm, *(stage.norm for stage in spec.stages)}
        network = build(spec, seed=SEEDS)
        for samples in (2 if batch_norm else 1, 5):
            x, loss = gaussian(spec, samples)
            with about(spec):
                testing.check_invariants(network, x, loss.v)


def test_all_checks_over_the_thinned_grids():
    testing.check_engine(build, together=2)


def test_all_checks_of_dense_networks():
    for spec in testing.specs(together=3):
        testing.check_network(build, spec)


@pytest.mark.slow
def test_all_checks_over_larger_grids():
    testing.check_engine(build)
    for spec in testing.image_specs(together=4):
        testing.check_network(build, spec)


@pytest.mark.slow
def test_seeds_alone_over_the_whole_grid():
    for spec in testing.specs():
        with about(spec):
            testing.check_alone(build, spec, (3, 1, 2))


# ----------------------------------------------------------------------------------------- larger, and elsewhere


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("samples", [2, 64])
@pytest.mark.parametrize(
    ("norm", "width"),
    [
        (norm, width)
        for norm in ("none", "batch", "layer")
        for width in (1, 2, 3, 17, 36, 64)
        if (norm, width) != ("layer", 1)
    ],
)
def test_seeds_alone_at_other_sizes(norm: Any, width: int, samples: int, dtype: Any):
    # Kernels of BLAS and of NumPy differ by size, and begin and end an array by other means than its middle.
    spec = residual(width=width, norm=norm, activation="tanh", output="relu", branch_gain="1/L", dtype=dtype)
    testing.check_alone(build, spec, (5, 0, 9, 7), samples=samples)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("width", "size", "samples"), [(3, 11, 33), (16, 8, 2), (5, 16, 1)])
def test_seeds_of_images_alone_at_other_sizes(width: int, size: int, samples: int, dtype: Any):
    testing.check_alone(build, paper(width=width, size=size, dtype=dtype), (5, 0, 9), samples=samples)


@pytest.mark.parametrize("width", [1, 3, 33])
def test_seeds_alone_with_one_sample(width: int):
    testing.check_alone(build, residual(width=width, order="after-add"), tuple(range(9)), samples=1)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("output", ["linear", "tanh"])
def test_gradients_of_losses(norm: Any, output: Any, rng: np.random.Generator):
    spec = residual(norm=norm, outputs=4, output=output)
    x, _ = gaussian(spec)
    network = build(spec, seed=SEEDS)

    testing.check_gradients(network, (x, np.array([0, 3, 1, 1, 2])), CrossEntropy())
    testing.check_gradients(network, (x[0], rng.standard_normal((5, 4))), MeanSquaredError())


@pytest.mark.parametrize("order", ["before-add", "after-add", "pre-activation"])
def test_invariants_of_a_deep_network(order: Any):
    spec = residual(blocks=20, width=16, order=order)
    x, loss = gaussian(spec)

    for one in (spec, spec.twin()):
        testing.check_invariants(build(one, seed=SEEDS), x, loss.v)


def test_gradients_and_invariants_hold_under_other_gains():
    spec = residual(norm="none")
    network = build(spec, seed=SEEDS)
    x, loss = gaussian(spec)

    every: list[dict[str, Any]] = [{"shortcut": 0}, {"branch": 0, "at": "*2"}, {"shortcut": -2, "branch": 0.3}]
    for gains in every:
        with network.gains(**gains):
            testing.check_gradients(network, x, loss)
            testing.check_invariants(network, x, loss.v)


@pytest.mark.parametrize("spec", [residual(norm="layer", branch_gain="zero"), pooled(norm="batch")])
def test_the_network_is_put_back(spec: Spec):
    network = build(spec, seed=SEEDS)
    before = {name: array.tobytes() for name, array in network.arrays.items()}

    testing.check_gradients(network, *gaussian(spec))
    testing.check_inference(network, build(spec, seed=SEEDS), *gaussian(spec))

    assert {name: array.tobytes() for name, array in network.arrays.items()} == before


def test_a_pooling_at_a_kink_is_told_from_one_that_is_not():
    """Where another pixel becomes the largest, the loss has no derivative: along such directions none is judged."""
    spec = Spec(
        stem=Stem(kind="conv7", features=1, width=1, size=6, activation="linear"),
        stages=(),
        head=Head(features=1, kind="pooled"),
    )
    network, x = build(spec, seed=[0]), np.zeros((2, 1, 6, 6))

    text = fails(lambda: testing.check_gradients(network, x, Cotangent(np.ones((2, 1)))))

    assert text == "100 random directions cross a kink (of ReLU or max pooling): the network stands on one."
    testing.check_gradients(network, x + np.arange(6) ** 2, Cotangent(np.ones((2, 1))))


def test_the_suite_is_light():
    code = "import sys, skipscope.testing; print(*{'torch', 'pytest', 'scipy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == []


# ------------------------------------------------------------------------------------------- the checks can fail


def fails(check: Callable[[], None]) -> str:
    """What a check says that does not hold; "" where it holds."""
    try:
        check()
    except AssertionError as error:
        return str(error)
    return ""


def failures(spec: Spec) -> dict[str, str]:
    """What each check says of a network."""
    network = build(spec, seed=SEEDS)
    x, loss = gaussian(spec)
    return {
        "gradients": fails(lambda: testing.check_gradients(network, x, loss)),
        "invariants": fails(lambda: testing.check_invariants(network, x, loss.v)) if testing.homogeneous(spec) else "",
    }


def forget_the_mask(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(parts.ACTIVATIONS, "relu", (ops.relu, ops.linear_backward))


def forget_the_square(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(parts.ACTIVATIONS, "tanh", (ops.tanh, lambda dy, y: dy * (1 - y)))


def forget_the_shortcut(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ops, "junction_backward", lambda dout, gain_s, gain_b: (0 * dout, gain_b * dout))


def forget_the_gains(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ops, "junction_backward", lambda dout, gain_s, gain_b: (dout, dout))


def forget_a_path(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ops, "junction_joined", lambda dskip, dbranch, gain_s, gain_b: dbranch)


def wrong_affine(what: str, factor: float) -> Callable[..., None]:
    def mutate(patch: pytest.MonkeyPatch) -> None:
        right = getattr(ops, f"affine_backward_{what}")
        patch.setattr(ops, f"affine_backward_{what}", lambda *given: factor * right(*given))

    return mutate


average_over_the_batch = wrong_affine("weight", 1 / 5)
double_the_input = wrong_affine("input", 2)
forget_the_bias = wrong_affine("bias", 0)
lose_a_thousandth = wrong_affine("weight", 0.999)


def wrong_norm(name: str, change: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    def mutate(patch: pytest.MonkeyPatch) -> None:
        patch.setitem(parts.NORMS, name, (getattr(ops, f"{name}_norm"), change))

    return mutate


def mean_and_variance_are_constants(dy: Array, gamma: Array, kept: ops.Normalised) -> tuple[Array, Array, Array]:
    return kept.r * gamma[:, None] * dy, (dy * kept.z).sum(axis=-2), dy.sum(axis=-2)


def variance_is_a_constant(dy: Array, gamma: Array, kept: ops.Normalised) -> tuple[Array, Array, Array]:
    dz = gamma[:, None] * dy
    dx = kept.r * (dz - dz.mean(axis=-2, keepdims=True))
    return dx, (dy * kept.z).sum(axis=-2), dy.sum(axis=-2)


def beta_is_scaled_by_gamma(dy: Array, gamma: Array, kept: ops.Normalised) -> tuple[Array, Array, Array]:
    dx, dgamma, dbeta = ops.layer_norm_backward(dy, gamma, kept)
    return dx, dgamma, gamma * dbeta


@pytest.mark.parametrize(
    ("mutate", "spec", "caught_by"),
    [
        (forget_the_mask, residual(), {"gradients", "invariants"}),
        (forget_the_mask, residual(order="after-add"), {"gradients", "invariants"}),
        (forget_the_mask, residual(order="pre-activation"), {"gradients", "invariants"}),
        (forget_the_mask, residual().twin(), {"gradients", "invariants"}),
        (forget_the_square, residual(activation="tanh"), {"gradients"}),
        (forget_the_shortcut, residual(), {"gradients", "invariants"}),
        (forget_the_gains, residual(branch_gain=0.5), {"gradients", "invariants"}),
        (forget_the_gains, residual(shortcut_gain=0.5), {"gradients", "invariants"}),
        (forget_a_path, residual(), {"gradients", "invariants"}),
        (average_over_the_batch, residual(), {"gradients", "invariants"}),
        (double_the_input, residual(), {"gradients", "invariants"}),
        (forget_the_bias, residual(bias=True), {"gradients"}),
        (lose_a_thousandth, residual(), {"gradients", "invariants"}),
        # The invariant of a norm is exact: what epsilon leaves of <dW, W> is off by a thousandth too.
        (lose_a_thousandth, residual(norm="batch", order="after-add"), {"gradients", "invariants"}),
        (wrong_norm("batch", mean_and_variance_are_constants), residual(norm="batch"), {"gradients", "invariants"}),
        (wrong_norm("batch", variance_is_a_constant), residual(norm="batch"), {"gradients", "invariants"}),
        (wrong_norm("layer", mean_and_variance_are_constants), residual(norm="layer"), {"gradients", "invariants"}),
        # At its initialisation gamma is 1, so that only a network moved away from it shows this one.
        (wrong_norm("layer", beta_is_scaled_by_gamma), residual(norm="layer"), {"gradients"}),
    ],
)
def test_a_wrong_backward_is_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], spec: Spec, caught_by: set[str], monkeypatch: pytest.MonkeyPatch
):
    assert failures(spec) == {"gradients": "", "invariants": ""}

    mutate(monkeypatch)

    assert {name for name, text in failures(spec).items() if text} == caught_by


# -------------------------------------------------------------------------------- of convolutions the same


def conv_times(dx: float, dweight: float) -> Callable[[pytest.MonkeyPatch], None]:
    def mutate(patch: pytest.MonkeyPatch) -> None:
        right = convolution.conv_backward

        def wrong(*given: Any, **how: Any) -> tuple[Array, Array]:
            by_input, by_weight = right(*given, **how)
            return dx * by_input, dweight * by_weight

        patch.setattr(convolution, "conv_backward", wrong)

    return mutate


def lose_the_largest(patch: pytest.MonkeyPatch) -> None:
    right = pooling.max_pool_backward
    patch.setattr(pooling, "max_pool_backward", lambda dy, kept: 0 * right(dy, kept))


def give_the_largest_to_all(patch: pytest.MonkeyPatch) -> None:
    right = pooling.max_pool_backward
    everywhere = np.int8(0)

    def wrong(dy: Array, kept: pooling.Pooled) -> Array:
        return right(dy, kept._replace(largest=np.full_like(kept.largest, everywhere)))

    patch.setattr(pooling, "max_pool_backward", wrong)


def sum_in_place_of_the_mean(patch: pytest.MonkeyPatch) -> None:
    right = pooling.global_pool_backward
    patch.setattr(pooling, "global_pool_backward", lambda dy, shape: 4 * right(dy, shape))


def lose_the_padded(patch: pytest.MonkeyPatch) -> None:
    right = pooling.padded_shortcut_backward
    patch.setattr(pooling, "padded_shortcut_backward", lambda *given, **how: 0 * right(*given, **how))


def forget_the_mask_of_images(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(parts_images._ACTIVATIONS, "relu", (images.relu, ops.linear_backward, images.relu_jvp))


def images_are_normalised_by_constants(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(images, "batch_norm_backward", images.fixed_norm_backward)


@pytest.mark.parametrize(
    ("mutate", "spec", "caught_by"),
    [
        (conv_times(1, 0.999), paper(), {"gradients", "invariants"}),
        (conv_times(1, 0.999), paper(norm="none"), {"gradients", "invariants"}),
        (conv_times(1, 0.999), pooled(), {"gradients", "invariants"}),
        (conv_times(2, 1), paper(norm="none", order="pre-activation", shortcut="none"), {"gradients", "invariants"}),
        (conv_times(2, 1), pooled(), {"gradients", "invariants"}),
        (forget_the_mask_of_images, paper(norm="none", order="before-add"), {"gradients", "invariants"}),
        (forget_the_shortcut, paper(norm="none", shortcut="C"), {"gradients", "invariants"}),
        (forget_the_gains, paper(norm="none", branch_gain=0.5), {"gradients", "invariants"}),
        (lose_the_largest, pooled(), {"gradients", "invariants"}),
        (lose_the_largest, pooled(norm="batch"), {"gradients"}),
        (give_the_largest_to_all, pooled(), {"gradients", "invariants"}),
        (sum_in_place_of_the_mean, paper(norm="none"), {"gradients", "invariants"}),
        (lose_the_padded, paper(norm="none"), {"gradients", "invariants"}),
        (lose_the_padded, paper(shortcut="A-both"), {"gradients"}),
        (images_are_normalised_by_constants, paper(), {"gradients", "invariants"}),
        (images_are_normalised_by_constants, paper(shortcut="C", order="pre-activation"), {"gradients", "invariants"}),
    ],
)
def test_a_wrong_backward_of_images_is_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], spec: Spec, caught_by: set[str], monkeypatch: pytest.MonkeyPatch
):
    assert failures(spec) == {"gradients": "", "invariants": ""}

    mutate(monkeypatch)

    assert {name for name, text in failures(spec).items() if text} == caught_by


def broken(mutate: Callable[[pytest.MonkeyPatch], None]) -> testing.Build:
    """An engine that computes something else, forward and backward alike: in itself it is consistent."""

    class Broken(NumpyNetwork):
        def run(self, batch: Any, loss: Loss | None = None, observe: Observer = ignore) -> Run:
            with pytest.MonkeyPatch.context() as patch:
                mutate(patch)
                return super().run(batch, loss, observe)

    def building(spec: Spec, *, seed: int | Iterable[int]) -> Broken:
        right = build(spec, seed=seed)
        return Broken(spec, right.seeds, right.parameters)

    return building


def padded_after_alone(patch: pytest.MonkeyPatch) -> None:
    """Option A's zeros after the channels, wherever the spec says they go."""
    there, back = pooling.padded_shortcut, pooling.padded_shortcut_backward
    patch.setattr(pooling, "padded_shortcut", lambda x, channels, before, stride: there(x, channels, stride=stride))
    patch.setattr(pooling, "padded_shortcut_backward", lambda dy, shape, before, stride: back(dy, shape, stride=stride))


def every_other_pixel_from_the_second(patch: pytest.MonkeyPatch) -> None:
    right = pooling.padded_shortcut
    patch.setattr(pooling, "padded_shortcut", lambda x, *given, **how: right(np.roll(x, -1, axis=1), *given, **how))


def variance_with_one_less_below(patch: pytest.MonkeyPatch) -> None:
    right = images._moments

    def wrong(x: Array) -> tuple[Array, Array]:
        mean, variance = right(x)
        count = (x.shape[1] - 2) * x.shape[2] * (x.shape[3] - 1)
        return mean, variance * count / (count - 1)

    patch.setattr(images, "_moments", wrong)


@pytest.mark.parametrize(
    ("mutate", "spec", "first"),
    [
        (padded_after_alone, paper(shortcut="A-both"), "stage2.block1.shortcut is "),
        (every_other_pixel_from_the_second, paper(), "stage2.block1.shortcut is "),
        (variance_with_one_less_below, paper(), "stem.batch_variance is "),
    ],
)
def test_another_network_is_caught_by_comparison(mutate: Callable[[pytest.MonkeyPatch], None], spec: Spec, first: str):
    network, right = broken(mutate)(spec, seed=SEEDS), build(spec, seed=SEEDS)

    assert fails(lambda: testing.check_same(network, right, *gaussian(spec))).startswith(first)


def test_a_stride_at_another_place_is_caught():
    """Of the two places of a bottleneck's stride the weights have the same shapes."""
    spec, other = pooled(), pooled(kind="bottleneck-v1.5")
    network = NumpyNetwork(other, SEEDS, build(spec, seed=SEEDS).parameters)

    text = fails(lambda: testing.check_same(network, build(spec, seed=SEEDS), *gaussian(spec)))

    assert text == ("stage2.block1.layer1.preactivation has the shape (2, 5, 2, 4, 4); expected (2, 5, 2, 2, 2).")


def test_an_engine_that_infers_by_the_batch_is_caught():
    class Forgetful(NumpyNetwork):
        def _fix(self, fixed: bool) -> None:
            pass

    for spec in (paper(), residual(norm="batch")):
        right, x, loss = build(spec, seed=SEEDS), *gaussian(spec)
        forgetful = Forgetful(spec, right.seeds, build(spec, seed=SEEDS).parameters)
        testing.check_same(forgetful, right, x, loss)
        text = fails(lambda: testing.check_inference(forgetful, right, x, loss))  # noqa: B023
        assert text.startswith("pushed by one network alone: ['stage1.block1.layer1.batch_mean', "), text


def test_averages_that_are_not_there_are_caught():
    spec = paper()
    right = build(spec, seed=SEEDS)
    without = NumpyNetwork(spec, SEEDS, right.parameters, running={})

    text = fails(lambda: testing.check_inference(without, right, *gaussian(spec)))

    assert text.startswith("running averages of one network alone: ['stage1.block1.layer1.running_mean', ")


def test_a_fault_in_the_way_of_larger_work_is_caught(monkeypatch: pytest.MonkeyPatch):
    """Images that are few take another way through a convolution than those that are many."""

    def wrong(x: Array, weight: Array, y: Array) -> None:
        winograd.winograd(x, weight, y)
        y *= 1.001

    monkeypatch.setattr(convolution, "winograd", wrong)
    testing.check_network(build, paper())

    spec = testing.crowded_spec()
    x, loss = gaussian(spec, samples=33)
    text = fails(lambda: testing.check_gradients(build(spec, seed=SEEDS), x, loss))
    assert text.startswith("gradients along a random direction of everything: analytic ")


def test_mixed_images_are_caught(monkeypatch: pytest.MonkeyPatch):
    right = images._moments

    def of_all(x: Array) -> tuple[Array, Array]:
        mean, variance = right(x)
        return np.broadcast_to(mean.mean(axis=0), mean.shape), variance

    monkeypatch.setattr(images, "_moments", of_all)

    text = fails(lambda: testing.check_alone(build, paper(), SEEDS))
    assert text.startswith("stem.batch_mean of seeds [0] differs, by up to ")


def test_a_projection_that_stays_is_caught(monkeypatch: pytest.MonkeyPatch):
    spec = paper(shortcut="B")
    testing.check_twin(build, spec, SEEDS)
    monkeypatch.setattr(ops, "junction", lambda skip, branch, gain_s, gain_b: (skip + branch, skip, branch))

    assert "under gains(shortcut=0) differs from the twin's" in fails(lambda: testing.check_twin(build, spec, SEEDS))


def test_too_few_bits_are_caught():
    """Of an engine that rounds its weights to float16, 5e-4 apart, where float32 was asked for."""
    spec = paper(dtype="float32")
    right, x, loss = build(spec, seed=SEEDS), *gaussian(spec)
    rounded = {name: array.astype(np.float16).astype(np.float32) for name, array in right.parameters.items()}

    rough = NumpyNetwork(spec, SEEDS, rounded)

    testing.check_same(build(spec, seed=SEEDS), right, x, loss, tolerance=1e-5)
    assert fails(lambda: testing.check_same(rough, right, x, loss, tolerance=1e-5)).startswith("stem.batch_mean is ")


# ------------------------------------------------------------------------------------------------ steps of training


def stepping(spec: Spec, change: Callable[[testing.State, testing.State], testing.State]) -> str:
    """What the check says of steps that are right but for a change, of what a step began and ended with."""
    right = testing.step_by(build)

    def step(spec: Spec, state: testing.State, batch: Any, descent: testing.Descent) -> testing.State:
        return change(state, right(spec, state, batch, descent))

    return fails(lambda: testing.check_steps(step, spec, steps=3, seeds=SEEDS))


def one(array: str, change: Callable[[Array, Array], Array]) -> Callable[..., testing.State]:
    """A change of the arrays of a state that are called so."""

    def changed(before: testing.State, after: testing.State) -> testing.State:
        blocks = {}
        for block in ("parameters", "velocity", "running"):
            old, new = getattr(before, block), getattr(after, block)
            named = {f"{block}/{name}": name for name in new}
            blocks[block] = {
                name: change(old[name], new[name]) if array in key else new[name] for key, name in named.items()
            }
        return testing.State(**blocks)

    return changed


STEPPED = {"dense": residual(norm="batch"), "images": paper(), "deep": Spec.cifar(20, width=2, size=8, dtype="float64")}


@pytest.mark.parametrize("spec", STEPPED.values(), ids=STEPPED)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one("", lambda old, new: new), ""),
        (one("velocity/stem.weight", lambda old, new: new * (1 + 1e-6)), "the velocity of stem.weight from "),
        (one("parameters/head.weight", lambda old, new: new + 1e-9), "of head.weight from "),
        # Momentum that is forgotten, seen from the second step on, when there is some.
        (one("velocity/stem.gamma", lambda old, new: new - 0.9 * old), "the velocity of stem.gamma from "),
        # A gamma without weight decay.
        (one("velocity/stem.gamma", lambda old, new: new - 1e-4), "the velocity of stem.gamma from "),
        (one("velocity/head", lambda old, new: np.full_like(new, np.nan)), "the velocity of head."),
        (one("parameters/stem.weight", lambda old, new: old), "of stem.weight from "),
        (one("running/stem.running_mean", lambda old, new: old), "of stem.running_mean from "),
        # The share of PyTorch's momentum mistaken for its rest.
        (one("running/stem.running_mean", lambda old, new: old + 9 * (new - old)), "of stem.running_mean from "),
        # The variance with all below, and not one less: off by 1 in (samples times positions).
        (one("running/stem.running_variance", lambda old, new: new - 0.1 * new / 600), "of stem.running_variance "),
    ],
)
def test_wrong_steps_are_caught(change: Any, message: str, spec: Spec):
    text = stepping(spec, change)

    assert (message in text) if message else not text, text


def test_steps_of_another_shape_are_caught():
    text = stepping(residual(), one("velocity/head.weight", lambda old, new: new[..., :1]))

    assert text == ("after step 1: the velocity of head.weight has the shape (2, 2, 1); expected (2, 2, 4).")


def test_a_wrong_gradient_is_caught_at_any_depth():
    """At 110 layers too a factor of 1 + 1e-6 is more than what last bits of the weights do."""
    for spec in (Spec.cifar(110, shortcut=option, width=2, size=8, dtype="float64") for option in ("A", "none")):
        change = one("velocity/stage2.block1.layer1.weight", lambda old, new: new * (1 + 1e-6))
        assert "the velocity of stage2.block1.layer1.weight from the NumPy engine's is " in stepping(spec, change)


# ---------------------------------------------------------------------------------------------------- the messages


def test_the_message_names_the_parameter_and_both_numbers(monkeypatch: pytest.MonkeyPatch):
    network = build(residual(bias=True), seed=SEEDS)
    forget_the_bias(monkeypatch)

    text = fails(lambda: testing.check_gradients(network, *gaussian(network.spec)))

    number = r"-?\d[-+.e\d]*"
    assert re.match(rf"gradients along a random direction of everything: analytic {number}, numeric {number} ", text)
    assert re.search(rf"; stage1\.block1\.layer2\.bias: analytic 0, numeric {number} \(seed [01]\)", text)
    assert "weight" not in text
    assert "input" not in text


def test_the_message_of_an_invariant(monkeypatch: pytest.MonkeyPatch):
    network = build(residual(), seed=SEEDS)
    x, loss = gaussian(network.spec)
    average_over_the_batch(monkeypatch)

    text = fails(lambda: testing.check_invariants(network, x, loss.v))

    assert text.startswith("<weight_grad, weight> at head is ")
    assert "; allowed is a difference of " in text


def test_mixed_networks_are_caught(monkeypatch: pytest.MonkeyPatch):
    spec = residual(norm="batch")
    testing.check_alone(build, spec, SEEDS)

    generator = np.random.default_rng(0)

    def one_generator(seed: int, which: draws.Stream) -> np.random.Generator:
        return generator

    def one_batch(x: Array, gamma: Array, beta: Array) -> tuple[Array, ops.Normalised]:
        z, kept = ops.batch_norm(x.reshape(1, -1, x.shape[-1]), gamma[:1], beta[:1])
        return z.reshape(x.shape), ops.Normalised(kept.z.reshape(x.shape), kept.r)

    with monkeypatch.context() as patch:
        patch.setattr(draws, "stream", one_generator)
        assert "differs, by up to " in fails(lambda: testing.check_alone(build, spec, SEEDS))
    with monkeypatch.context() as patch:
        patch.setitem(parts.NORMS, "batch", (one_batch, ops.batch_norm_backward))
        text = fails(lambda: testing.check_alone(build, spec, SEEDS))
    assert text.startswith("stem.preactivation of seeds [0] differs, by up to ")
    assert text.endswith("from the same seeds in an ensemble of 2.")


def test_a_shortcut_that_stays_is_caught(monkeypatch: pytest.MonkeyPatch):
    spec = residual()
    testing.check_twin(build, spec, SEEDS)
    monkeypatch.setattr(ops, "junction", lambda skip, branch, gain_s, gain_b: (skip + branch, skip, branch))

    assert "under gains(shortcut=0) differs from the twin's" in fails(lambda: testing.check_twin(build, spec, SEEDS))


class Faulty(NumpyNetwork):
    """A network that pushes, or computes, something else than it should."""

    def __init__(self, spec: Spec, fault: str) -> None:
        right = build(spec, seed=SEEDS)
        super().__init__(spec, right.seeds, right.parameters)
        self.fault = fault

    def run(self, batch: Any, loss: Loss | None = None, observe: Observer = ignore) -> Run:
        def push(site: str, /, **roles: Any) -> None:
            if self.fault == "silent" and "weight" in roles:
                return
            if self.fault == "squeezed" and "activation_grad" in roles:
                roles["activation_grad"] = roles["activation_grad"][0]
            if self.fault == "elsewhere" and site == "head":
                observe("tail", **roles)
            if self.fault == "twice" and site == "head":
                observe(site, **roles)
            observe(site, **roles)

        if self.fault == "learning":
            self.parameters["head.weight"] *= 0.999
        return super().run(batch, loss, push)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("none", ""),
        ("silent", "head.weight was not pushed."),
        ("squeezed", "head.activation and its gradient have the shapes ((2, 5, 2), (5, 2)), for 2 seeds."),
        ("elsewhere", "pushed at sites that the network does not list: ['tail']."),
        ("twice", "head.preactivation was pushed twice in one run."),
        ("learning", "head.weight was changed by a run."),
    ],
)
def test_wrong_pushes_are_caught(fault: str, message: str):
    spec = residual()

    assert fails(lambda: testing.check_pushes(Faulty(spec, fault), *gaussian(spec))) == message


def test_another_engine_is_caught_by_comparison():
    spec = residual()
    right = build(spec, seed=SEEDS)
    testing.check_same(build(spec, seed=SEEDS), right, *gaussian(spec))

    off = build(spec, seed=SEEDS)
    off.parameters["stage1.block1.layer1.weight"] *= 1 + 1e-9

    text = fails(lambda: testing.check_same(off, right, *gaussian(spec)))
    assert text.startswith("stage1.block1.layer1.preactivation is ")
    silent = fails(lambda: testing.check_same(Faulty(spec, "silent"), right, *gaussian(spec)))
    assert silent.startswith("pushed by one network alone: ['head.weight', 'head.weight_grad', ")


def test_check_engine_names_the_network():
    def wrong(spec: Spec, *, seed: int | Iterable[int]) -> NumpyNetwork:
        network = build(spec, seed=seed)
        network.parameters["stem.weight"] *= 2
        return network

    text = fails(lambda: testing.check_engine(wrong, together=1))

    assert text.startswith("stem.preactivation is ")
    assert ' The network: {"bias": ' in text


def test_invariants_are_for_homogeneous_networks():
    for spec in (residual(activation="tanh"), residual(bias=True), residual(output="tanh")):
        with pytest.raises(InputError, match="ReLU or linear activations without biases"):
            testing.check_invariants(build(spec, seed=SEEDS), *gaussian(spec))  # type: ignore[arg-type]


def test_a_network_on_a_kink_is_not_judged():
    spec = residual()  # without biases, so that a sample of zeros has preactivations of 0

    text = fails(lambda: testing.check_gradients(build(spec, seed=SEEDS), np.zeros((5, 3)), gaussian(spec)[1]))

    assert text == "100 random directions cross a kink (of ReLU or max pooling): the network stands on one."
