"""The check of training: steps of descent, each from a state that is handed over.

What is compared is a step, and not how the chaos of training multiplies rounding from step to step. The update is
written out here, so that neither engine's own optimizer nor skipscope.training is taken for granted: v <- m v + g + w d
and then w <- w - r v, with momentum m, weight decay d on every parameter and rate r; running averages move a tenth of
the way to the batch's mean and its variance with one less below. Imports what the checks have in common, the NumPy
engine, the losses and NumPy.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skipscope.engines import numpy_engine
from skipscope.engines.common import parameters_of, running_of
from skipscope.losses import CrossEntropy
from skipscope.spec import Spec
from skipscope.testing.engine import Build
from skipscope.testing.recording import norm, require

__all__ = ["Descent", "State", "Step", "check_steps", "step_by"]

Array = NDArray[Any]
Arrays = Mapping[str, Array]

_GRADIENTS = ("weight_grad", "bias_grad", "gamma_grad", "beta_grad", "gain_grad")
_STATISTICS = ("batch_mean", "batch_variance", "activation")
_SHARE = 0.1  # of a batch in the running averages
_ROOM = 4  # times that two engines may be apart what last bits do; those at hand are a quarter of it apart


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How a step goes: by default as in the paper (He et al. 2015, arXiv:1512.03385, section 4.2)."""

    rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4


@dataclass(frozen=True, eq=False)
class State:
    """Networks in training; all arrays have the leading axis s.

    Attributes:
        parameters: by `site.name`.
        velocity: what momentum has gathered, likewise.
        running: the running averages of batch normalisation, by `site.running_mean` and `site.running_variance`.
    """

    parameters: Arrays
    velocity: Arrays
    running: Arrays


class Step(Protocol):
    """How an engine takes a step of training; `step_by(build)` is one, and an engine with its own training another."""

    def __call__(self, spec: Spec, state: State, batch: tuple[Array, Array], descent: Descent) -> State:
        """The state after one step; the one that is given stays as it is.

        Args:
            spec: of the networks.
            state: of all networks.
            batch: inputs (b, n), or images (b, c, h, w), and labels (b,), the same for every network.
            descent: how; the loss is the mean cross-entropy.
        """


def check_steps(
    step: Step,
    spec: Spec,
    *,
    seeds: Collection[int] = (0,),
    steps: int = 10,
    samples: int = 8,
    descent: Descent | None = None,
    tolerance: float = 1e-9,
) -> None:
    """Steps of training agree with the NumPy engine's: parameters, velocity and running averages, in float64.

    Both take each step from the same state, the NumPy engine's. Allowed in the gradient of an array is a difference of
    1e-9 of its norm, and of 1e-13 of the whole gradient's (what is 0 but for rounding has no norm of its own); and
    what the NumPy engine's result moves by, times 4, where every parameter is moved by its last bit: no engine can
    come nearer, for none has more bits. In a residual network that is 1e-14 of the norm at any depth, and nothing
    beside the rest. In plain networks with batch normalisation it grows with depth as their gradients do: of narrow
    ones from 5e-14 at 20 layers to 2e-11 at 56, and to 2e-6 at 110, where alone it is what counts.

    Args:
        step: of the engine to be checked.
        spec: of float64.
        seeds: of the networks.
        steps: how many.
        samples: of a mini-batch.
        descent: `Descent()` if not given.
        tolerance: in place of 1e-9.
    """
    descent = descent or Descent()
    reference = step_by(numpy_engine.build)
    parameters = parameters_of(spec, tuple(seeds))
    still = {name: np.zeros_like(array) for name, array in parameters.items()}
    state = State(parameters, still, running_of(spec, len(seeds)))
    for number in range(steps):
        batch = _batch(spec, samples, number)
        expected = reference(spec, state, batch, descent)
        moved = reference(spec, _in_the_last_bit(state, number), batch, descent)
        try:
            _compare(step(spec, state, batch, descent), expected, moved, state, descent, tolerance)
        except AssertionError as error:
            raise AssertionError(f"after step {number + 1}: {error}") from error
        state = expected


def step_by(build: Build) -> Step:
    """The steps of an engine that has no training of its own, by the gradients that its networks push."""
    built = functools.cache(lambda spec, count: build(spec, seed=range(count)))

    def step(spec: Spec, state: State, batch: tuple[Array, Array], descent: Descent) -> State:
        network = built(spec, len(state.parameters["stem.weight"]))
        for name, array in network.parameters.items():
            array[...] = state.parameters[name]
        seen = _Seen(set(state.parameters), set(state.running))
        network.run(batch, CrossEntropy(), seen)
        return _descended(state, seen.gradients, seen.statistics, descent)

    return step


class _Seen:
    """The observer that keeps the gradients by all parameters, and what moves the running averages."""

    def __init__(self, parameters: set[str], running: set[str]) -> None:
        self.parameters, self.running = parameters, running
        self.gradients: dict[str, Array] = {}
        self.statistics: dict[str, Array] = {}

    def wants(self, site: str) -> Collection[str]:
        gradients = [role for role in _GRADIENTS if f"{site}.{role.removesuffix('_grad')}" in self.parameters]
        return (*gradients, *_STATISTICS) if f"{site}.running_mean" in self.running else gradients

    def __call__(self, site: str, /, **roles: Any) -> None:
        for role, array in roles.items():
            name = f"{site}.{role.removesuffix('_grad')}"
            if role.endswith("_grad") and name in self.parameters:
                self.gradients[name] = np.array(array)
        if "batch_mean" in roles:
            self.statistics[f"{site}.running_mean"] = np.array(roles["batch_mean"])
            self.statistics[f"{site}.running_variance"] = np.array(roles["batch_variance"])
        if "activation" in roles and f"{site}.running_variance" in self.running:
            # Of so many numbers, the variance with one less below; what is activated has the shape of what is normed.
            count = roles["activation"].size // self.statistics[f"{site}.running_variance"].size
            self.statistics[f"{site}.running_variance"] *= count / (count - 1)


def _descended(state: State, gradients: Arrays, statistics: Arrays, descent: Descent) -> State:
    parameters, velocity = {}, {}
    for name, weight in state.parameters.items():
        pull = gradients[name] + descent.weight_decay * weight
        velocity[name] = descent.momentum * state.velocity[name] + pull
        parameters[name] = weight - descent.rate * velocity[name]
    running = {name: (1 - _SHARE) * array + _SHARE * statistics[name] for name, array in state.running.items()}
    return State(parameters, velocity, running)


def _batch(spec: Spec, samples: int, number: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(number)
    return rng.standard_normal((samples, *spec.input_shape)), rng.integers(0, spec.head.features, samples)


def _in_the_last_bit(state: State, seed: int) -> State:
    """The same state, every parameter being the next number above or below, or itself."""
    rng = np.random.default_rng(seed)

    def moved(array: Array) -> Array:
        toward: Array = np.nextafter(array, np.inf * rng.choice([-1, 1], array.shape))
        return toward

    return State({name: moved(array) for name, array in state.parameters.items()}, state.velocity, state.running)


def _compare(found: State, expected: State, moved: State, state: State, descent: Descent, tolerance: float) -> None:
    """Hold the parts of a state to those expected, by the norms of every network's arrays; see `check_steps`."""
    pulls = {name: norm(new - descent.momentum * state.velocity[name]) for name, new in expected.velocity.items()}
    whole = np.sqrt(sum(pull**2 for pull in pulls.values()))
    for name, new in expected.velocity.items():
        # The sums have their own rounding, beside numbers that may be much larger than the gradient.
        sums = 4e-16 * (norm(new) + norm(state.velocity[name]))
        apart = _ROOM * norm(moved.velocity[name] - new) + tolerance * pulls[name] + 1e-13 * whole + sums
        _hold(f"the velocity of {name}", found.velocity[name], new, apart)
        weights = expected.parameters[name]
        _hold(name, found.parameters[name], weights, descent.rate * apart + 4e-16 * norm(weights))
    for name, average in expected.running.items():
        size = norm(average)
        if name.endswith("running_mean"):  # which may be 0, in units of what it is the mean of
            size = size + norm(expected.running[name.replace("running_mean", "running_variance")]) ** 0.5
        apart = _ROOM * norm(moved.running[name] - average) + tolerance * size
        _hold(name, found.running[name], average, apart)


def _hold(what: str, found: Array, expected: Array, allowed: Array) -> None:
    if found.shape != expected.shape:
        raise AssertionError(f"{what} has the shape {found.shape}; expected {expected.shape}.")
    require(f"the distance of {what} from the NumPy engine's", norm(found - expected), np.zeros(len(found)), allowed)
