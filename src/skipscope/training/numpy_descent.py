"""Descent by hand, on the NumPy engine: many networks at once, their weights in one block of memory.

All weights of a network lie in a row, in the order of its parameters, so that a step of descent is a few operations on
one array; gradients are pushed by the engine into a second one. Networks that a core can keep near it make a group, and
groups may have a thread each.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope.data import Samples
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.engines.spread import one_thread, spread, threads
from skipscope.protocol import Loss, Observer, ignore
from skipscope.spec import Spec
from skipscope.training.descent import State, Stopped, Task, first_bad
from skipscope.training.evaluation import evaluate

__all__ = ["NumpyDescent"]

Array = NDArray[np.floating[Any]]

_RUNNING = 0.1  # the share of a batch in the running averages
_NEAR = 1 << 22  # numbers of a group of networks that are trained at once: about a core's share of the last cache
_PIECE = 1 << 15  # numbers of a weight block that are updated at once
_WORTH = 1 << 16  # numbers of an array that a thread computes at once, where there are several threads


class NumpyDescent:
    """The networks of a run, see `skipscope.training.descent.Descent`; the given network is left as it is."""

    identity: Mapping[str, Any] = {}
    factors: Mapping[str, str] = {}

    def __init__(self, network: NumpyNetwork, task: Task) -> None:
        self.task = task
        self.network = network
        self.weights = _flat(network.parameters)
        self._velocity = np.zeros_like(self.weights)
        self._attach(range(len(network.seeds)), 0)

    @property
    def velocity(self) -> Mapping[str, Array]:
        """By the parameters' names, in the memory of the block."""
        return _views(self.network.parameters, self._velocity)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """BLAS has one thread, and what is spread over threads has those of the task."""
        with one_thread(), threads(self.task.jobs):
            yield

    def keep(self, rows: Sequence[int], step: int) -> None:
        """Go on with these networks alone."""
        self.weights, self._velocity = self.weights[rows], self._velocity[rows]
        self._attach(rows, step)

    def _attach(self, rows: Sequence[int], step: int) -> None:
        """Make the networks whose weights are the rows of the block, and the groups in which they are trained."""
        whole, task = self.network, self.task
        alive = tuple(whole.seeds[row] for row in rows)
        running = {name: array[rows] for name, array in whole.running.items()}
        self.network = NumpyNetwork(whole.spec, alive, _views(whole.parameters, self.weights), running=running)
        size, lanes = _shared_out(whole.spec, task.recipe.batch, len(alive), task.jobs)
        gradients = np.empty((lanes, min(size, len(alive)), self.weights.shape[1]), self.weights.dtype)
        groups = [
            self._group(slice(start, start + size), gradients[number % lanes, : len(alive) - start], step)
            for number, start in enumerate(range(0, len(alive), size))
        ]
        self.groups = groups
        self.lanes = [groups[lane::lanes] for lane in range(lanes)]

    def _group(self, rows: slice, gradient: Array, step: int) -> _Group:
        blocks = self.weights[rows], self._velocity[rows], gradient[: len(self.network.seeds[rows])]
        return _Group(self.task, self.network, rows, blocks, step)

    def load(self, state: State) -> None:
        """Into the memory of the block."""
        own = {"weights": self.network.parameters, "velocity": self.velocity, "running": self.network.running}
        for block, named in own.items():
            for name, array in named.items():
                array[...] = state[block][name]

    def advance(self, steps: range) -> list[Stopped]:
        """The groups of a lane one after the other."""

        def along(lane: Sequence[_Group]) -> None:
            for group in lane:
                group.advance(steps)

        spread(along, self.lanes)
        return self._stopped()

    def look(self, step: int) -> list[Stopped]:
        """A forward pass that moves nothing."""
        for group in self.groups:
            group.look(step)
        return self._stopped()

    def _stopped(self) -> list[Stopped]:
        return [each for group in self.groups for each in group.stopped]

    def evaluate(self, pieces: Iterator[Samples], loss: Loss) -> tuple[Array, Array | None]:
        """As any network of this engine is."""
        return evaluate(self.network, pieces, loss)


class _Group:
    """Some networks of a run, which are trained at once: as many as a core keeps near it, with all that a step takes.

    A network whose loss is lost stays until the whole run stops, and disturbs no other, as none does.
    """

    def __init__(
        self, task: Task, whole: NumpyNetwork, rows: slice, blocks: tuple[Array, Array, Array], step: int
    ) -> None:
        weights, velocity, gradient = blocks
        self.recipe, self.loss = task.recipe, task.loss
        self.seeds = whole.seeds[rows]
        self.network = NumpyNetwork(
            whole.spec,
            self.seeds,
            {name: array[rows] for name, array in whole.parameters.items()},
            running={name: array[rows] for name, array in whole.running.items()},
            gradients=_views(whole.parameters, gradient),
        )
        self.observe: Observer = _Averages(self.network, task.recipe.batch) if whole.running else ignore
        self.batches = task.data.batches(self.seeds, size=task.recipe.batch, start=step)
        self.pieces = list(_cut(weights, velocity, gradient))
        self.stopped: list[Stopped] = []

    def advance(self, steps: Iterable[int]) -> None:
        """So many steps of descent."""
        for step in steps:
            self.descend(step)
            if len(self.stopped) == len(self.seeds):
                return
            self._update(self.recipe.rate_at(step))

    def descend(self, step: int) -> None:
        """The gradient of a step."""
        batch = next(self.batches)
        self._note(step, self.network.run(batch, self.loss, self.observe).loss, batch)

    def look(self, step: int) -> None:
        """The loss of a step, and nothing else."""
        batch = next(self.batches)
        with np.errstate(all="ignore"):
            self._note(step, self.loss(self.network.run(batch).output, batch), batch)

    def _note(self, step: int, loss: Any, batch: Samples) -> None:
        """Remember the networks whose loss is no number, and where it was lost."""
        finite = np.isfinite(loss)
        if not finite.all():
            known = {each.seed for each in self.stopped}
            for row in np.flatnonzero(~finite).tolist():
                if self.seeds[row] not in known:
                    site, role = first_bad(self.network, batch.inputs, row)
                    self.stopped.append(Stopped(self.seeds[row], step, site, role))

    def _update(self, rate: float) -> None:
        """v <- m v + g + w d, then w <- w - r v."""
        momentum, decay = self.recipe.momentum, self.recipe.weight_decay
        with np.errstate(all="ignore"):
            for weights, velocity, gradient, spare in self.pieces:
                if decay:
                    np.multiply(weights, decay, out=spare)
                    gradient += spare
                velocity *= momentum
                velocity += gradient
                np.multiply(velocity, rate, out=spare)
                weights -= spare


def _together(spec: Spec, batch: int) -> int:
    """How many networks make a group."""
    of_layers = sum(layer.n_out * layer.size_out**2 for layer in spec.layers)
    return max(1, _NEAR // (3 * spec.parameters + 3 * batch * of_layers))


def _shared_out(spec: Spec, batch: int, networks: int, jobs: int) -> tuple[int, int]:
    """How many networks make a group, and over how many lanes the groups are spread, each with a thread.

    Every call of NumPy takes hold of the interpreter once, so that threads gain where a call has much to compute.
    Convolutional networks spread their work themselves.
    """
    near = _together(spec, batch)
    if spec.images:
        return near, 1
    widest = max(layer.fan_out for layer in spec.layers)
    worth = -(-_WORTH // (batch * widest))
    size = min(max(near, worth), -(-networks // jobs))
    if jobs == 1 or 2 * size < worth:
        return near, 1
    return size, min(jobs, -(-networks // size))


def _cut(weights: Array, velocity: Array, gradient: Array) -> Iterator[tuple[Array, Array, Array, Array]]:
    """The three blocks in pieces that a core keeps near it while it passes over them, each with one piece to spare."""
    flat = [block.reshape(-1) for block in (weights, velocity, gradient)]
    spare = np.empty(min(_PIECE, flat[0].size), weights.dtype)
    for start in range(0, flat[0].size, _PIECE):
        first, second, third = (block[start : start + _PIECE] for block in flat)
        yield first, second, third, spare[: first.size]


class _Averages:
    """The observer that moves the running averages of batch normalisation."""

    def __init__(self, network: NumpyNetwork, batch: int) -> None:
        self.averages: dict[tuple[str, str], tuple[Array, float]] = {}
        sizes = _sizes_normed(network.spec)
        for name, array in network.running.items():
            site, _, parameter = name.rpartition(".")
            count = batch * sizes[site] ** 2
            # Of so many numbers, the variance with one less below, as in PyTorch.
            scale = count / (count - 1) if parameter == "running_variance" else 1.0
            self.averages[site, parameter.replace("running", "batch")] = array, scale

    def wants(self, site: str) -> Collection[str]:
        return ("batch_mean", "batch_variance") if (site, "batch_mean") in self.averages else ()

    def __call__(self, site: str, /, **roles: Array) -> None:
        if "batch_mean" in roles:
            for role, array in roles.items():
                average, scale = self.averages[site, role]
                average += _RUNNING * (array * scale - average)


def _sizes_normed(spec: Spec) -> dict[str, int]:
    """Height and width of the images that every site normalises, if it does; 1 in a dense network."""
    layers = (*spec.layers, *spec.projections)
    sizes = {layer.site: layer.size_out if layer.first == "affine" else layer.size for layer in layers}
    return sizes | {"final": spec.body_size}


def _flat(parameters: Mapping[str, Array]) -> Array:
    """All parameters of every network in a row, of shape (s, parameters)."""
    return np.concatenate([array.reshape(len(array), -1) for array in parameters.values()], axis=1)


def _views(parameters: Mapping[str, Array], flat: Array) -> dict[str, Array]:
    """The rows of `flat` in the shapes of the parameters."""
    views: dict[str, Array] = {}
    start = 0
    for name, array in parameters.items():
        stop = start + math.prod(array.shape[1:])
        views[name] = flat[:, start:stop].reshape(len(flat), *array.shape[1:])
        start = stop
    return views
