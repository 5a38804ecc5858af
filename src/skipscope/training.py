"""Training by hand: stochastic gradient descent with momentum on whole ensembles of networks at once.

The mini-batch of a step is a function of seed and step alone (see `skipscope.data`), and no number of one network
depends on another: seed s is trained to the same weights, bit for bit, alone, in an ensemble, and when it goes on from
a checkpoint. All weights of a network lie in one block of memory, in the order of its parameters, so that a step of
descent is a few operations on one array; gradients are pushed by the engine into a second one.

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
from skipscope import data as datasets
from skipscope.data import Dataset, Samples
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.errors import InputError, choose, require_int, require_number, require_type
from skipscope.losses import CrossEntropy, MeanSquaredError
from skipscope.probe import Measured, Plan, Recording, one_thread
from skipscope.protocol import Loss
from skipscope.quantities import LEARNING, QUANTITIES, Quantity
from skipscope.readings import Readings
from skipscope.spec import Spec

__all__ = ["TRAINING_QUANTITIES", "Recipe", "Stopped", "Trained", "evaluate", "loss_of", "train"]

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
            return self.rate * (1 + math.cos(math.pi * step / self.steps)) / 2
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
    data: Dataset,
    recipe: Recipe,
    *,
    record: int | Iterable[int] = 10,
    quantities: Mapping[str, Quantity] | None = None,
    sites: str | Iterable[str] | None = "network",
    factors: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int = 0,
    progress: Progress | None = None,
) -> Trained:
    """Train every network of an ensemble, each on mini-batches of its own order; the given network is left as it is.

    Args:
        network: where it starts, e.g. `skipscope.build(spec, seed=range(8))`.
        data: what it learns; classes are learned by cross-entropy, numbers by mean squared error.
        recipe: how.
        record: how often to measure, evenly from the beginning to the end, both included; or after which steps.
        quantities: what to measure, of `QUANTITIES` and `LEARNING`; `TRAINING_QUANTITIES` if not given. Losses and errors are of the
            whole training and test part, in inference; all others of one fixed mini-batch of the training part.
        sites: patterns of the sites to report; None is all.
        factors: columns for the table of cells.
        checkpoint: a file that holds the state; where it is there, training goes on from it.
        every: steps between checkpoints; 0 writes one at the end alone.
        progress: see `Progress`.

    Raises:
        InputError: network, data and recipe do not fit each other, or the checkpoint is of something else.
    """
    run = _Run(network, data, recipe, _steps(record, recipe.steps), _chosen(quantities), sites, factors or {})
    if checkpoint is not None:
        run.resume(files.check_writable(checkpoint, overwrite=True))
    require_int("every", every, least=0)
    with one_thread():
        for step in run.left():
            run.measure_if_asked(step)
            if step < recipe.steps:
                run.advance(step)
            done = step + (step < recipe.steps)
            if checkpoint is not None and (step == recipe.steps or (every and done % every == 0)):
                run.save(checkpoint)
            if progress is not None:
                progress(done, recipe.steps)
    return run.trained()


def loss_of(data: Dataset) -> Loss:
    """The loss by which a data set is learned."""
    return MeanSquaredError() if data.classes is None else CrossEntropy()


def evaluate(network: NumpyNetwork, samples: Samples, loss: Loss) -> tuple[Array, Array | None]:
    """The loss of every network over all samples, and the share of samples it gets wrong, both of shape (s,).

    In inference (see `NumpyNetwork.inference`), a piece at a time. In a regression the second is None.
    """
    with network.inference(), np.errstate(all="ignore"):
        outputs = np.concatenate([network.run(piece).output for piece in _pieces(samples.inputs)], axis=1)
        value = np.asarray(loss(outputs, samples), np.float64)
    if not np.issubdtype(np.asarray(samples.targets).dtype, np.integer):
        return value, None
    wrong = (outputs.argmax(axis=-1) != samples.targets) | ~np.isfinite(outputs).all(axis=-1)
    return value, wrong.mean(axis=-1)


def _pieces(inputs: Array) -> Iterator[Array]:
    return (inputs[start : start + _EVALUATED] for start in range(0, len(inputs), _EVALUATED))


def _steps(record: int | Iterable[int], steps: int) -> frozenset[int]:
    if isinstance(record, Iterable):
        asked = frozenset(require_int("record", step, least=0) for step in record)
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
        data: Dataset,
        recipe: Recipe,
        record: frozenset[int],
        quantities: Mapping[str, Quantity],
        sites: str | Iterable[str] | None,
        factors: Mapping[str, Any],
    ) -> None:
        require_type("network", network, NumpyNetwork, "skipscope.build(spec, seed=0) makes one")
        require_type("data", data, Dataset, "skipscope.data.load('digits', seed=0) is one")
        require_type("recipe", recipe, Recipe, "Recipe(steps=500) is one")
        _require_fit(network.spec, data, recipe)
        self.seeds = network.seeds
        self.data = data
        self.recipe = recipe
        self.record = record
        self.plan = Plan(network.sites, quantities=quantities, patterns=sites)
        self.factors = dict(factors)
        self.loss = loss_of(data)
        self.parts = [_cast(part, network.spec.dtype) for part in (data.train, data.test)]
        self.step = 0
        self.history: list[Measured] = []
        self.stopped: list[Stopped] = []
        self.began = _digest(network)
        self._begin(network, range(len(network.seeds)))

    def _begin(self, network: NumpyNetwork, rows: Sequence[int]) -> None:
        """Hold the weights of the networks at these rows in one block, with their velocity, gradient and averages."""
        self.weights = _flat(network.parameters)[rows]
        self.velocity = np.zeros_like(self.weights)
        self.gradient = np.zeros_like(self.weights)
        self._attach(network, rows)

    def _attach(self, network: NumpyNetwork, rows: Sequence[int]) -> None:
        alive = tuple(network.seeds[row] for row in rows)
        self.network = NumpyNetwork(network.spec, alive, _views(network.parameters, self.weights))
        for name, array in network.running.items():
            self.network.running[name][...] = array[rows]
        self.spare = np.empty_like(self.weights)
        self.observer = _Pushed(_views(network.parameters, self.gradient), self.network.running, self.recipe.batch)

    # ------------------------------------------------------------------------------------------------------ a step

    def left(self) -> Iterator[int]:
        """The steps that are to be done, and the end."""
        return iter(range(self.step, self.recipe.steps + 1))

    def advance(self, step: int) -> None:
        """One step of descent, of all networks that are alive."""
        if self.network.seeds:
            chosen = datasets.batch(self.network.seeds, step, samples=self.data.train.size, size=self.recipe.batch)
            batch = self.parts[0].take(chosen)
            loss = np.asarray(self.network.run(batch, self.loss, self.observer).loss)
            if not np.isfinite(loss).all():
                self._stop(step, ~np.isfinite(loss), batch)
            self._update(self.recipe.rate_at(step))
        self.step = step + 1

    def _update(self, rate: float) -> None:
        recipe, spare = self.recipe, self.spare
        with np.errstate(all="ignore"):
            if recipe.weight_decay:
                np.multiply(self.weights, recipe.weight_decay, out=spare)
                self.gradient += spare
            self.velocity *= recipe.momentum
            self.velocity += self.gradient
            np.multiply(self.velocity, rate, out=spare)
            self.weights -= spare

    def _stop(self, step: int, lost: NDArray[np.bool_], batch: Samples) -> None:
        """Go on without the networks whose loss is no number, and note where it was lost."""
        for row in np.flatnonzero(lost):
            site, role = _first_bad(self.network, batch.inputs, int(row))
            self.stopped.append(Stopped(self.network.seeds[row], step, site, role))
        rows = np.flatnonzero(~lost)
        self.weights, self.velocity, self.gradient = (
            block[rows] for block in (self.weights, self.velocity, self.gradient)
        )
        self._attach(self.network, rows.tolist())

    # -------------------------------------------------------------------------------------------------- measurement

    def measure_if_asked(self, step: int) -> None:
        """What the recipe's readings are of, after so many steps."""
        if step not in self.record or not self.network.seeds:
            return
        first = self.parts[0].take(np.arange(min(self.recipe.batch, self.data.train.size)))
        recording = Recording(self.network, self.plan)
        run = self.network.run(first, self.loss, recording.observe)
        facts = {}
        for name, part in zip(("train", "test"), self.parts, strict=True):
            if {f"{name}_loss", f"{name}_error"} & self.plan.quantities.keys():
                facts[f"{name}_loss"], error = evaluate(self.network, part, self.loss)
                if error is not None:
                    facts[f"{name}_error"] = error
        told = {"data": self.data.name, "cotangent": "", "study": "train", **self.factors}
        measured = recording.measured(run, first, self.loss, factors=told, facts=facts)
        self.history.append(dataclasses.replace(measured, step=step))

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
        for name, mine in self._identity().items():
            if notes["run"].get(name) != mine:
                raise InputError(
                    f"checkpoint {str(path)!r} is of another run, its {name} differs: give another name, or delete it."
                )
        rows = [list(self.seeds).index(seed) for seed in notes["seeds"]]
        self._begin(self.network, rows)
        velocity = _views(self.network.parameters, self.velocity)
        blocks = {"weights": self.network.parameters, "velocity": velocity, "running": self.network.running}
        for block, named in blocks.items():
            for name, array in named.items():
                array[...] = arrays[f"{block}/{name}"]
        self.step = notes["step"]
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


class _Pushed:
    """The observer that keeps gradients, and moves the running averages of batch normalisation."""

    def __init__(self, gradients: Mapping[str, Array], running: Mapping[str, Array], batch: int) -> None:
        self.roles: dict[str, dict[str, Array]] = {}
        for name, array in gradients.items():
            site, _, parameter = name.rpartition(".")
            self.roles.setdefault(site, {})[f"{parameter}_grad"] = array
        self.averages: dict[tuple[str, str], tuple[Array, float]] = {}
        for name, array in running.items():
            site, _, parameter = name.rpartition(".")
            role = parameter.replace("running", "batch")
            # Of b samples, the variance with b - 1 below, as in PyTorch.
            scale = batch / (batch - 1) if role == "batch_variance" else 1.0
            self.averages[site, role] = array, scale
        self.wanted = {site: set(roles) for site, roles in self.roles.items()}
        for site, role in self.averages:
            self.wanted.setdefault(site, set()).add(role)

    def wants(self, site: str) -> Collection[str]:
        return self.wanted.get(site, ())

    def __call__(self, site: str, /, **roles: Array) -> None:
        gradients = self.roles.get(site, {})
        for role, array in roles.items():
            if role in gradients:
                gradients[role][...] = array
            elif (site, role) in self.averages:
                average, scale = self.averages[site, role]
                average += _RUNNING * (array * scale - average)


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


def _cast(samples: Samples, dtype: str) -> Samples:
    """The samples in the network's precision, once for all steps."""
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


def _require_fit(spec: Spec, data: Dataset, recipe: Recipe) -> None:
    if (spec.stem.features, spec.head.features) != (data.features, data.outputs):
        raise InputError(
            f"the network takes {spec.stem.features} numbers and gives {spec.head.features}, but {data.name} has "
            f"{data.features} a sample and needs {data.outputs}: use Spec.dense(features={data.features}, "
            f"outputs={data.outputs}, ...)."
        )
    if recipe.batch > data.train.size:
        raise InputError(f"batch={recipe.batch} is more than {data.name} has to train on, {data.train.size}.")
    if "batch" in {spec.stem.norm, *(stage.norm for stage in spec.stages)} and recipe.batch == 1:
        raise InputError("batch=1 leaves batch normalisation nothing to compare: use 2 samples or more a step.")
