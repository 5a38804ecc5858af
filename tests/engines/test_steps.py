"""Ten steps of training, each from the same state, on PyTorch and by hand: to 1e-9 of the gradient, at any depth.

The networks of the paper's list have here 4 channels in their first stage, images of 8x8 pixels with 2 channels, 5
classes and mini-batches of 8; those of 20 and 110 layers are taken at full size in test-slow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from skipscope import Spec, build, testing
from skipscope.engines import torch_engine
from skipscope.engines.torch_module import NetworkModule, arrays_of, state_of
from skipscope.testing import Descent, State

DEPTHS = (20, 32, 44, 56, 110)
NARROW: dict[str, Any] = {"width": 4, "size": 8, "channels": 2, "classes": 5, "dtype": "float64"}

DENSE: dict[str, dict[str, Any]] = {
    "plain": {"shortcut": "none"},
    "residual": {},
    "layer norm, biases": {"norm": "layer", "bias": True},
    "batch norm, pre-activation": {"norm": "batch", "order": "pre-activation"},
    "batch norm, after-add": {"norm": "batch", "order": "after-add"},
    "learned gains": {"branch_gain": "zero", "activation": "tanh"},
}
OTHERS = {
    "B": Spec.cifar(20, shortcut="B", **NARROW),
    "C, pre-activation": Spec.cifar(20, shortcut="C", order="pre-activation", **NARROW),
    "A-both, before-add": Spec.cifar(20, shortcut="A-both", order="before-add", **NARROW),
    "zero gamma": Spec.cifar(20, branch_gain="zero-gamma", **NARROW),
    "projections that are left out": Spec.cifar(8, shortcut="C", shortcut_gain=0.0, **NARROW),
    "branches that are left out": Spec.cifar(8, shortcut="C", branch_gain=0.0, **NARROW),
    "no norm": Spec.cifar(14, norm="none", branch_gain="1/L", **NARROW),
    "max pooling": Spec.imagenet(18, **NARROW | {"size": 33}),
    "bottlenecks": Spec.imagenet(50, stride="v1.5", **NARROW | {"size": 64, "width": 2}),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks as small as these gain nothing by a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


by_engine = testing.step_by(torch_engine.build)


def by_module(spec: Spec, state: State, batch: tuple[NDArray[Any], NDArray[Any]], descent: Descent) -> State:
    """The step that a user of PyTorch takes: the module in training mode, autograd and `torch.optim.SGD`."""
    module = NetworkModule(spec, channels_last=spec.images)
    module.load_state_dict(state_of({**state.parameters, **state.running}))
    optimizer = torch.optim.SGD(
        module.parameters(), lr=descent.rate, momentum=descent.momentum, weight_decay=descent.weight_decay
    )
    held = dict(module.named_parameters())
    for name, velocity in state_of(state.velocity).items():
        optimizer.state[held[name]]["momentum_buffer"] = velocity
    x, labels = (torch.from_numpy(each) for each in batch)
    nn.functional.cross_entropy(module(x), labels).backward()
    optimizer.step()
    buffers = arrays_of({name: optimizer.state[parameter]["momentum_buffer"] for name, parameter in held.items()})
    arrays = arrays_of(module.state_dict())
    return State(_of(arrays, state.parameters), buffers, _of(arrays, state.running))


def _of(arrays: Mapping[str, Any], those: Mapping[str, Any]) -> dict[str, Any]:
    return {name: arrays[name] for name in those}


STEPS: dict[str, testing.Step] = {"engine": by_engine, "module": by_module}


def stepped(quick: bool) -> list[Any]:
    """Both steps; where it is not quick, the engine's, whose gradients the suite compares anyway, is for test-slow."""
    engine = pytest.param(by_engine, id="engine", marks=() if quick else pytest.mark.slow)
    return [engine, pytest.param(by_module, id="module")]


LIST = [
    pytest.param(depth, *step.values, id=f"{depth}-{step.id}", marks=step.marks)
    for depth in DEPTHS
    for step in stepped(quick=depth in (20, 110))
]


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("fields", DENSE.values(), ids=DENSE)
def test_dense_networks(step: testing.Step, fields: dict[str, Any]):
    testing.check_steps(step, Spec.dense(width=6, blocks=4, features=4, outputs=3, **fields))


@pytest.mark.parametrize(("depth", "step"), LIST)
@pytest.mark.parametrize("shortcut", ["none", "A"])
def test_the_papers_depths(step: testing.Step, depth: int, shortcut: Any):
    testing.check_steps(step, Spec.cifar(depth, shortcut=shortcut, **NARROW))


@pytest.mark.parametrize("step", stepped(quick=False))
@pytest.mark.parametrize("spec", OTHERS.values(), ids=OTHERS)
def test_other_networks(step: testing.Step, spec: Spec):
    testing.check_steps(step, spec)


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("depth", [20, 110])
@pytest.mark.parametrize("shortcut", ["none", "A"])
def test_the_papers_networks_at_full_size(step: testing.Step, depth: int, shortcut: Any):
    testing.check_steps(step, Spec.cifar(depth, shortcut=shortcut, dtype="float64"))


def test_an_ensemble():
    testing.check_steps(by_engine, Spec.cifar(14, **NARROW), seeds=(4, 0, 7), steps=3)


# --------------------------------------------------------------------------------------------------- it can fail


def changed(**fields: Any) -> testing.Step:
    """The module's step, by another descent than is asked for."""

    def step(spec: Spec, state: State, batch: Any, descent: Descent) -> State:
        return by_module(spec, state, batch, dataclasses.replace(descent, **fields))

    return step


@pytest.mark.parametrize("fields", [{"rate": 0.1001}, {"momentum": 0.899}, {"weight_decay": 0.0}])
@pytest.mark.parametrize("spec", [Spec.dense(width=6, blocks=4), Spec.cifar(20, **NARROW)], ids=["dense", "images"])
def test_another_descent_is_caught(fields: dict[str, Any], spec: Spec):
    with pytest.raises(AssertionError, match=r"after step [12]: the distance of .* from the NumPy engine's is"):
        testing.check_steps(changed(**fields), spec)


def test_averages_with_all_samples_below_are_caught(monkeypatch: pytest.MonkeyPatch):
    """PyTorch divides the variance that it keeps by one less than there are numbers."""
    right = nn.functional.batch_norm

    def biased(x: Any, mean: Any, variance: Any, gamma: Any, beta: Any, *rest: Any) -> Any:
        count, moved = x.numel() // x.shape[1], (mean.clone(), variance.clone())  # which autograd watches
        y = right(x, *moved, gamma, beta, *rest)
        mean.copy_(moved[0])
        variance.copy_(0.9 * variance + (moved[1] - 0.9 * variance) * (count - 1) / count)
        return y

    monkeypatch.setattr(nn.functional, "batch_norm", biased)

    with pytest.raises(AssertionError, match=r"after step 1: the distance of \S+\.running_variance from"):
        testing.check_steps(by_module, Spec.cifar(8, **NARROW))


def test_zeros_on_the_wrong_side_are_caught():
    def step(spec: Spec, state: State, batch: Any, descent: Descent) -> State:
        other = dataclasses.replace(
            spec, stages=tuple(dataclasses.replace(stage, shortcut="A-both") for stage in spec.stages)
        )
        return by_module(other, state, batch, descent)

    with pytest.raises(AssertionError, match=r"after step 1: the distance of the velocity of stem\.weight"):
        testing.check_steps(step, Spec.cifar(8, **NARROW))


@pytest.mark.parametrize("depth", [8, 110])
def test_what_last_bits_do_excuses_nothing_in_a_residual_network(depth: int):
    """Allowed is 1e-9 of the gradient at any depth, as if nothing else were."""

    def step(spec: Spec, state: State, batch: Any, descent: Descent) -> State:
        after = testing.step_by(build)(spec, state, batch, descent)
        velocity = {name: array * factor for name, array in after.velocity.items()}
        parameters = {name: state.parameters[name] - descent.rate * array for name, array in velocity.items()}
        return State(parameters, velocity, after.running)

    factor = 1 + 0.9e-9
    testing.check_steps(step, Spec.cifar(depth, **NARROW), steps=1)  # before the first step there is no velocity
    factor = 1 + 1.1e-9
    with pytest.raises(AssertionError, match="after step 1: the distance of the velocity of stem"):
        testing.check_steps(step, Spec.cifar(depth, **NARROW), steps=1)
