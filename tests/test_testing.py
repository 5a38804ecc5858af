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
from skipscope.engines import ops, parts
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.losses import Cotangent, CrossEntropy, MeanSquaredError
from skipscope.protocol import Loss, Observer, Run, ignore

Array = NDArray[Any]
SEEDS = (0, 1)


def residual(**fields: Any) -> Spec:
    return Spec.dense(**{"width": 4, "blocks": 2, "features": 3, "outputs": 2} | fields)


def gaussian(spec: Spec, samples: int = 5, seeds: tuple[int, ...] = SEEDS) -> tuple[Array, Cotangent]:
    inputs = draws.normals(seeds, "input", (samples, spec.stem.features))
    return inputs, Cotangent(draws.normals(seeds, "cotangent", (samples, spec.head.features)))


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


def test_gradients_over_the_whole_grid():
    for spec in testing.specs():
        with about(spec):
            testing.check_gradients(build(spec, seed=SEEDS), *gaussian(spec))


def test_invariants_over_the_whole_grid():
    for spec in filter(testing.homogeneous, testing.specs()):
        batch_norm = "batch" in {spec.stem.norm, *(stage.norm for stage in spec.stages)}
        network = build(spec, seed=SEEDS)
        for samples in (2 if batch_norm else 1, 5):
            x, loss = gaussian(spec, samples)
            with about(spec):
                testing.check_invariants(network, x, loss.v)


def test_all_checks_over_the_thinned_grid():
    testing.check_engine(build)


def test_seeds_alone_over_the_thinned_grid():
    # The whole grid is for test-slow: it takes a minute.
    for spec in testing.specs(together=4):
        with about(spec):
            testing.check_alone(build, spec, (3, 1, 2))


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


def test_the_network_is_put_back():
    network = build(residual(norm="layer", branch_gain="zero"), seed=SEEDS)
    before = {name: array.tobytes() for name, array in network.parameters.items()}

    testing.check_gradients(network, *gaussian(network.spec))

    assert {name: array.tobytes() for name, array in network.parameters.items()} == before


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

    assert text == "100 random directions cross a kink of ReLU: the network stands on one."
