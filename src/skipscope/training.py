"""Training by hand: stochastic gradient descent with momentum on whole ensembles of networks at once.

The mini-batch of a step is a function of seed and step alone (see `skipscope.data`), and no number of one network
depends on another: seed s is trained to the same weights, bit for bit, alone, in an ensemble, and when it goes on from
a checkpoint. A convolutional network learns a set of images. All weights of a network lie in one block of memory, in
the order of its parameters, so that a step of descent is a few operations on one array; gradients are pushed by the
engine into a second one.

Update, as PyTorch has it: v <- m v + g + w d, then w <- w - r v, with momentum m, weight decay d (on every parameter)
and rate r. Batch normalisation's running averages move by a tenth a step, likewise.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from skipscope import checkpoints, files
from skipscope.data import Dataset, Images, Samples
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.engines.room import Room
from skipscope.engines.spread import one_thread, spread, threads
from skipscope.errors import InputError, as_list, choose, require_int, require_number, require_type
from skipscope.losses import CrossEntropy, MeanSquaredError
from skipscope.probe import Measured, Plan, Recording, uncollected
from skipscope.protocol import Loss, Observer, ignore
from skipscope.quantities import LEARNING, QUANTITIES, Quantity
from skipscope.readings import Readings
from skipscope.spec import Spec

__all__ = ["TRAINING_QUANTITIES", "Recipe", "Stopped", "Trained", "evaluate", "loss_of", "require_fit", "train"]

Array = NDArray[np.floating[Any]]
Schedule = Literal["constant", "drops", "cosine"]
Progress = Callable[[int, int], None]
"""Called with how many steps are done, and how many there are."""

TRAINING_QUANTITIES = (
    "train_loss",
    "train_error",
    "test_loss",
    "test_error",
    "gradient_norm",
    "forward_growth",
    "backward_growth",
    "weight_grad_first_last",
)
"""What `train` measures of a network, of `QUANTITIES` and `LEARNING`, where nothing else is asked for."""

_RUNNING = 0.1  # the share of a batch in the running averages
_EVALUATED = 512  # samples at once
_NEAR = 1 << 22  # numbers of a group of networks that are trained at once: about a core's share of the last cache
_PIECE = 1 << 15  # numbers of a weight block that are updated at once
_WORTH = 1 << 16  # numbers of an array that a thread computes at once, where there are several threads
_STRETCH = 32  # steps that one group takes before the next has its turn


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained; momentum, weight decay and drops are the paper's (He et al. 2015, section 4.2).

    Attributes:
        steps: updates.
        batch: samples a step.
        rate: the learning rate, before its schedule.
        momentum: the share of its velocity that a weight keeps.
        weight_decay: the pull of every parameter towards 0.
        schedule: `"constant"`; `"drops"`, to a tenth at half and again at three quarters of the steps, as the paper's
            32k and 48k of 64k; `"cosine"`, down to 0 (arXiv:1608.03983).
        warmup: steps over which the rate rises linearly from 0 to `rate` first.
    """

    steps: int
    batch: int = 64
    rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule = "constant"
    warmup: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch", 1), ("warmup", 0)):
            object.__setattr__(self, name, require_int(name, getattr(self, name), least=least))
        for name in ("rate", "momentum", "weight_decay"):
            object.__setattr__(self, name, require_number(name, getattr(self, name)) + 0.0)
        if self.rate < 0 or self.weight_decay < 0 or not 0 <= self.momentum < 1:
            name = next(n for n in ("rate", "weight_decay", "momentum") if getattr(self, n) < 0 or n == "momentum")
            wanted = "at least 0 and below 1" if name == "momentum" else "at least 0"
            raise InputError(f"{name} must be {wanted}; got {getattr(self, name)}.")
        choose("schedule", self.schedule, get_args(Schedule))

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        if self.schedule == "drops":
            return self.rate * 0.1 ** ((2 * step >= self.steps) + (4 * step >= 3 * self.steps))
        if self.schedule == "cosine":
            return self.rate * (1 + math.cos(math.pi * step / max(self.steps, 1))) / 2
        return self.rate


@dataclass(frozen=True)
class Stopped:
    """A network whose loss stopped being a number.

    Attributes:
        seed: its seed.
        step: steps that were done before.
        site: the first site that holds nan or inf, in order of execution.
        role: what it holds: an activation, or a parameter that the step before had spoiled.
    """

    seed: int
    step: int
    site: str
    role: str

    def __str__(self) -> str:
        return f"seed {self.seed} after {self.step} steps: {self.role} of {self.site} is not finite"


@dataclass(frozen=True)
class Trained:
    """What training gave.

    Attributes:
        network: the networks as they are at the end; without those that stopped.
        readings: what was measured on the way; of a network that stopped, until it did.
        stopped: those that stopped.
    """

    network: NumpyNetwork | None
    readings: Readings
    stopped: tuple[Stopped, ...]


def train(
    network: NumpyNetwork,
    data: Dataset | Images,
    recipe: Recipe,
    *,
    record: int | Iterable[int] = 10,
    quantities: Mapping[str, Quantity] | None = None,
    sites: str | Iterable[str] | None = "network",
    factors: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int = 0,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Trained:
    """Train every network of an ensemble, each on mini-batches of its own order; the given network is left as it is.

    Args:
        network: where it starts, e.g. `skipscope.build(spec, seed=range(8))`.
        data: what it learns; classes are learned by cross-entropy, numbers by mean squared error. A convolutional
            network learns `Images`, e.g. of `skipscope.data.load_images`.
        recipe: how.
        record: how often to measure, evenly from the beginning to the end, both included; or after which steps.
        quantities: what to measure, of `QUANTITIES` and `LEARNING`; `TRAINING_QUANTITIES` if not given. Losses and
            errors are of the whole training and test part, in inference (undefined before the first step where batch
            normalisation has no averages yet); all others of one fixed mini-batch of the training part.
        sites: patterns of the sites to report; None is all.
        factors: columns for the table of cells.
        checkpoint: a file that holds the state; where it is there, training goes on from it.
        every: steps between checkpoints; 0 writes one at the end alone.
        jobs: threads over which the networks are spread, or the work of convolutional ones; no number depends on it.
            Fewer are taken where the networks are too few or too small for threads to gain anything.
        progress: see `Progress`.

    Raises:
        InputError: network, data and recipe do not fit each other, or the checkpoint is of something else.
    """
    require_type("recipe", recipe, Recipe, "Recipe(steps=500) is one")
    for name, given, hint in (
        ("quantities", quantities, "skipscope.QUANTITIES is one, of names to Quantity"),
        ("factors", factors, "columns for the table of cells, such as {'design': 'plain'}"),
    ):
        if given is not None:
            require_type(name, given, Mapping, hint)
    between = require_int("every", every, least=0)
    hands = require_int("jobs", jobs, least=1)
    run = _Run(network, data, recipe, _steps(record, recipe.steps), _chosen(quantities), sites, factors or {}, hands)
    if checkpoint is not None:
        run.resume(files.check_writable(checkpoint, overwrite=True))
    with one_thread(), threads(hands), uncollected():
        run.measure_if_asked()
        while run.step < recipe.steps:
            run.advance(run.next_stop(between))
            if checkpoint is not None and between and run.step % between == 0:
                run.save(checkpoint)
            run.measure_if_asked()
            if progress is not None:
                progress(run.step, recipe.steps)
        run.look_again()
        if checkpoint is not None:
            run.save(checkpoint)
    return run.trained()


def loss_of(data: Dataset | Images) -> Loss:
    """The loss by which a data set is learned.

    Raises:
        InputError: it is no data set.
    """
    _require_data(data)
    return MeanSquaredError() if data.classes is None else CrossEntropy()


def _require_data(data: object) -> None:
    if not isinstance(data, Images):
        require_type("data", data, Dataset, "skipscope.data.load('digits', seed=0) is one")


def evaluate(network: NumpyNetwork, samples: Samples | Iterator[Samples], loss: Loss) -> tuple[Array, Array | None]:
    """The loss of every network over all samples, and the share of samples it gets wrong, both of shape (s,).

    In inference (see `NumpyNetwork.inference`), a piece at a time. In a regression the second is None.

    Args:
        network: the networks.
        samples: what they are shown, at once or in pieces, as `Dataset.pieces` and `Images.pieces` give them.
        loss: of all their outputs, and a batch whose targets are those of all pieces.

    Raises:
        InputError: it is no network of this engine, or these are no samples, or not of its size.
    """
    require_type("network", network, NumpyNetwork, "skipscope.build(spec, seed=0) makes one")
    if not isinstance(samples, Iterator):
        require_type("samples", samples, Samples, "the train or the test part of a data set is one")
    targets, outputs = [], []
    with network.inference(), Room().used(), np.errstate(all="ignore"):
        for piece in _pieces(samples) if isinstance(samples, Samples) else samples:
            outputs.append(network.run(piece.inputs).output)
            targets.append(piece.targets)
        output, target = np.concatenate(outputs, axis=1), np.concatenate(targets)
        value = np.asarray(loss(output, samples if isinstance(samples, Samples) else (None, target)), np.float64)
    if not np.issubdtype(target.dtype, np.integer):
        return value, None
    wrong = (output.argmax(axis=-1) != target) | ~np.isfinite(output).all(axis=-1)
    return value, wrong.mean(axis=-1)


def _pieces(samples: Samples) -> Iterator[Samples]:
    return (
        Samples(samples.inputs[start : start + _EVALUATED], samples.targets[start : start + _EVALUATED])
        for start in range(0, samples.size, _EVALUATED)
    )


def _steps(record: int | Iterable[int], steps: int) -> frozenset[int]:
    if isinstance(record, Iterable) and getattr(record, "ndim", 1) != 0:  # an array of no axes is one number
        try:
            listed = as_list(record)
        except InputError as error:
            raise InputError(f"record: {error}") from None
        asked = frozenset(require_int("record", step, least=0) for step in listed)
        if asked and max(asked) > steps:
            raise InputError(f"record={max(asked)} is after the last step: the recipe has {steps} steps.")
        return asked
    count = require_int("record", record, least=1)
    return frozenset(round(steps * part / count) for part in range(count + 1))


def _chosen(quantities: Mapping[str, Quantity] | None) -> Mapping[str, Quantity]:
    measured = QUANTITIES | LEARNING
    return {name: measured[name] for name in TRAINING_QUANTITIES} if quantities is None else quantities


# ----------------------------------------------------------------------------------------------------------- one run


class _Run:
    """The state of a training run: weights, velocity, running averages, the step, and what was measured so far."""

    def __init__(
        self,
        network: NumpyNetwork,
        data: Dataset | Images,
        recipe: Recipe,
        record: frozenset[int],
        quantities: Mapping[str, Quantity],
        sites: str | Iterable[str] | None,
        factors: Mapping[str, Any],
        jobs: int = 1,
    ) -> None:
        require_type("network", network, NumpyNetwork, "skipscope.build(spec, seed=0) makes one")
        _require_data(data)
        require_fit(network.spec, data, recipe)
        self.seeds = network.seeds
        self.data = data
        self.recipe = recipe
        self.record = record
        self.plan = Plan(network.sites, quantities=quantities, patterns=sites)
        self.factors = dict(factors)
        self.jobs = jobs
        self.loss = loss_of(data)
        self.shown = _cast(data, network.spec.dtype)
        self.step = 0
        self.history: list[Measured] = []
        self.stopped: list[Stopped] = []
        self.began = _digest(network)
        self._begin(network, range(len(network.seeds)))

    def _begin(self, network: NumpyNetwork, rows: Sequence[int]) -> None:
        """Hold the weights of the networks at these rows in one block of memory, their velocity in another."""
        self.weights = _flat(network.parameters)[rows]
        self.velocity = np.zeros_like(self.weights)
        self._attach(network, rows)

    def _attach(self, network: NumpyNetwork, rows: Sequence[int]) -> None:
        """Make the networks whose weights are the rows of the block, and the groups in which they are trained."""
        alive = tuple(network.seeds[row] for row in rows)
        running = {name: array[rows] for name, array in network.running.items()}
        self.network = NumpyNetwork(network.spec, alive, _views(network.parameters, self.weights), running=running)
        size, lanes = _shared_out(network.spec, self.recipe.batch, len(alive), self.jobs)
        gradients = np.empty((lanes, min(size, len(alive)), self.weights.shape[1]), self.weights.dtype)
        self.groups = [
            _Group(self, slice(start, start + size), gradients[number % lanes, : len(alive) - start])
            for number, start in enumerate(range(0, len(alive), size))
        ]
        self.lanes = [self.groups[lane::lanes] for lane in range(lanes)]

    # ------------------------------------------------------------------------------------------------------ steps

    def next_stop(self, every: int) -> int:
        """The step up to which nothing is asked for but training."""
        ends = [self.recipe.steps, self.step + _STRETCH, *(step for step in self.record if step > self.step)]
        return min([*ends, self.step - self.step % every + every] if every else ends)

    def advance(self, stop: int) -> None:
        """Train all networks that are alive up to a step, the groups of a lane one after the other."""
        steps = range(self.step, stop)

        def along(lane: Sequence[_Group]) -> None:
            for group in lane:
                group.advance(steps)

        spread(along, self.lanes)
        self.step = stop
        self._bury()

    def look_again(self) -> None:
        """Stop the networks that the last step has spoiled."""
        for group in self.groups:
            group.look(self.step)
        self._bury()

    def _bury(self) -> None:
        """Go on without the networks that stopped."""
        stopped = [each for group in self.groups for each in group.stopped]
        if stopped:
            self.stopped = sorted([*self.stopped, *stopped], key=lambda each: (each.step, self.seeds.index(each.seed)))
            gone = {each.seed for each in stopped}
            rows = [row for row, seed in enumerate(self.network.seeds) if seed not in gone]
            self.weights, self.velocity = self.weights[rows], self.velocity[rows]
            self._attach(self.network, rows)

    # -------------------------------------------------------------------------------------------------- measurement

    def measure_if_asked(self) -> None:
        """Measure the networks as they are, if they are to be after so many steps, and were not before a kill."""
        known = any(measured.step == self.step for measured in self.history)
        if known or self.step not in self.record or not self.network.seeds:
            return
        first = next(self.shown.pieces("train", size=min(self.recipe.batch, self.data.train.size)))
        recording = Recording(self.network, self.plan)
        run = self.network.run(first, self.loss, recording.observe)
        facts = {}
        # Batch normalisation that has seen no batch has no averages to infer by: its losses are undefined, not bad.
        blind = bool(self.network.running) and self.step == 0
        for name in ("train", "test"):
            if not blind and {f"{name}_loss", f"{name}_error"} & self.plan.quantities.keys():
                pieces = self.shown.pieces(name, size=_EVALUATED)
                facts[f"{name}_loss"], error = evaluate(self.network, pieces, self.loss)
                if error is not None:
                    facts[f"{name}_error"] = error
        told = {"data": self.data.name, "cotangent": "", "study": "train", **self.factors}
        measured = recording.measured(run, first, self.loss, factors=told, facts=facts)
        self.history.append(dataclasses.replace(measured, step=self.step))

    def trained(self) -> Trained:
        """What it came to."""
        readings = Readings.concat([measured.readings() for measured in self.history])
        return Trained(self.network if self.network.seeds else None, readings, tuple(self.stopped))

    # --------------------------------------------------------------------------------------------------- checkpoints

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole state, or nothing; the random numbers to come follow from the seeds and the step."""
        velocity = _views(self.network.parameters, self.velocity)
        blocks = {"weights": self.network.parameters, "velocity": velocity, "running": self.network.running}
        arrays = {f"{block}/{name}": array for block, named in blocks.items() for name, array in named.items()}
        for index, measured in enumerate(self.history):
            values = list(measured.values.values())
            arrays[f"history/{index}/values"] = np.array([np.ma.getdata(each) for each in values], np.float64)
            arrays[f"history/{index}/undefined"] = np.array([np.ma.getmaskarray(each) for each in values], np.uint8)
        notes = {
            "run": self._identity(),
            "step": self.step,
            "seeds": self.network.seeds,
            "stopped": [dataclasses.asdict(each) for each in self.stopped],
            "history": [
                {"cell": measured.cell, "seeds": measured.seeds, "step": measured.step, "keys": list(measured.values)}
                for measured in self.history
            ],
        }
        checkpoints.write(path, arrays, notes)

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Take over the state that is in the file, if there is one.

        Raises:
            InputError: it is of another run.
        """
        if not os.path.exists(path):
            return
        arrays, notes = checkpoints.read(path)
        known = notes.get("run")
        for name, mine in self._identity().items():
            if not isinstance(known, dict) or known.get(name) != mine:
                raise InputError(
                    f"checkpoint {str(path)!r} is of another run, its {name} differs: give another name, or delete it."
                )
        self.step = notes["step"]  # before the groups are made, whose mini-batches begin here
        self._begin(self.network, [self.seeds.index(seed) for seed in notes["seeds"]])
        velocity = _views(self.network.parameters, self.velocity)
        blocks = {"weights": self.network.parameters, "velocity": velocity, "running": self.network.running}
        for block, named in blocks.items():
            for name, array in named.items():
                array[...] = arrays[f"{block}/{name}"]
        self.stopped = [Stopped(**each) for each in notes["stopped"]]
        for index, each in enumerate(notes["history"]):
            values = np.ma.array(arrays[f"history/{index}/values"], mask=arrays[f"history/{index}/undefined"] == 1)
            found = {(site, name): row for (site, name), row in zip(each["keys"], values, strict=True)}
            self.history.append(Measured(each["cell"], self.plan.chosen, tuple(each["seeds"]), found, each["step"]))

    def _identity(self) -> dict[str, Any]:
        """What a run is of, as JSON has it: whatever would change a number."""
        return {
            "spec": self.network.spec.to_json(),
            "weights": self.began,
            "seeds": list(self.seeds),
            "data": self.data.digest,
            "recipe": dataclasses.asdict(self.recipe),
            "steps recorded": sorted(self.record),
            "quantities": list(self.plan.quantities),
            "sites": [site.site for site in self.plan.chosen],
            "factors": self.factors,
        }


class _Group:
    """Some networks of a run, which are trained at once: as many as a core keeps near it, with all that a step takes.

    A network whose loss is lost stays until the whole run stops, and disturbs no other, as none does.
    """

    def __init__(self, run: _Run, rows: slice, gradient: Array) -> None:
        whole = run.network
        self.recipe, self.loss = run.recipe, run.loss
        self.seeds = whole.seeds[rows]
        self.network = NumpyNetwork(
            whole.spec,
            self.seeds,
            {name: array[rows] for name, array in whole.parameters.items()},
            running={name: array[rows] for name, array in whole.running.items()},
            gradients=_views(whole.parameters, gradient[: len(self.seeds)]),
        )
        self.observe: Observer = _Averages(self.network, run.recipe.batch) if whole.running else ignore
        self.batches = run.shown.batches(self.seeds, size=run.recipe.batch, start=run.step)
        self.pieces = list(_cut(run.weights[rows], run.velocity[rows], gradient[: len(self.seeds)]))
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
                    site, role = _first_bad(self.network, batch.inputs, row)
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


def _cast(data: Dataset | Images, dtype: str) -> Dataset | Images:
    """The data in the network's precision, once for all steps; images stay bytes until they are shown."""
    if isinstance(data, Images):
        return data
    return dataclasses.replace(data, train=_cast_samples(data.train, dtype), test=_cast_samples(data.test, dtype))


def _cast_samples(samples: Samples, dtype: str) -> Samples:
    targets = np.asarray(samples.targets)
    kept = targets if np.issubdtype(targets.dtype, np.integer) else targets.astype(dtype)
    return Samples(samples.inputs.astype(dtype), kept)


def _digest(network: NumpyNetwork) -> str:
    """Of the weights that training starts from."""
    digest = hashlib.blake2b(digest_size=8)
    for array in network.arrays.values():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _first_bad(network: NumpyNetwork, inputs: Array, row: int) -> tuple[str, str]:
    """The first site of one network that holds nan or inf, and what: a parameter, or else an activation."""
    for name, array in network.parameters.items():
        if not np.isfinite(array[row]).all():
            site, _, parameter = name.rpartition(".")
            return site, parameter
    found: list[tuple[str, str]] = []

    def observe(site: str, /, **roles: Array) -> None:
        found.extend((site, role) for role, array in roles.items() if not np.isfinite(array[row]).all())

    network.run(inputs, observe=observe)
    return found[0] if found else ("network", "loss")


def require_fit(spec: Spec, data: Dataset | Images, recipe: Recipe) -> None:
    """Refuse a network that cannot be trained like that.

    Raises:
        InputError: it takes or gives another number of features than the data have, or the batch is too large or too
            small.
    """
    if spec.images or isinstance(data, Images):
        _require_images(spec, data)
    elif (spec.stem.features, spec.head.features) != (data.features, data.outputs):
        raise InputError(
            f"the network takes {spec.stem.features} numbers and gives {spec.head.features}, but {data.name} has "
            f"{data.features} a sample and needs {data.outputs}: use Spec.dense(features={data.features}, "
            f"outputs={data.outputs}, ...)."
        )
    if recipe.batch > data.train.size:
        raise InputError(f"batch={recipe.batch} is more than {data.name} has to train on, {data.train.size}.")
    if spec.coupled and recipe.batch * spec.body_size**2 == 1:
        raise InputError("batch=1 leaves batch normalisation nothing to compare: use 2 samples or more a step.")


def _require_images(spec: Spec, data: Dataset | Images) -> None:
    if not isinstance(data, Images):
        raise InputError(
            f"the network takes images, and {data.name} is no set of images: use skipscope.data.load_images."
        )
    if not spec.images:
        raise InputError(f"the network is dense, and {data.name} is a set of images: use Spec.cifar, or another set.")
    channels, height, width = data.shape
    if (spec.input_shape, spec.head.features) != (data.shape, data.outputs):
        own = "x".join(map(str, spec.input_shape))
        raise InputError(
            f"the network takes images of {own} and gives {spec.head.features} numbers, but {data.name} has "
            f"{channels}x{height}x{width} and {data.outputs} classes: use Spec.cifar(channels={channels}, "
            f"size={height}, classes={data.outputs}, ...)."
        )
