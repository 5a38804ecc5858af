"""A training run: steps, readings, checkpoints and stops, the same on both engines.

How weights come down is a `Descent`'s affair; the torch half is imported when a network of the torch engine is given.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skipscope import checkpoints, files
from skipscope.data import Dataset, Images, Samples
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.errors import InputError, as_list, require_int, require_type
from skipscope.probe import Measured, Plan, Recording, uncollected
from skipscope.quantities import LEARNING, QUANTITIES, Quantity
from skipscope.readings import Readings
from skipscope.training.descent import Descent, Stopped, Task, is_torch
from skipscope.training.evaluation import EVALUATED, require_network
from skipscope.training.fit import loss_of, require_data, require_fit
from skipscope.training.numpy_descent import NumpyDescent
from skipscope.training.recipe import Recipe
from skipscope.training.ways import Ways

if TYPE_CHECKING:
    from skipscope.engines.torch_engine import TorchNetwork

__all__ = ["TRAINING_QUANTITIES", "Progress", "Trained", "measured_by_default", "train"]

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

_VALIDATION = ("validation_loss", "validation_error")

_STRETCH = 32  # steps that one group takes before the next has its turn


@dataclass(frozen=True)
class Trained:
    """What training gave.

    Attributes:
        network: the networks as they are at the end, of the engine that they began on; without those that stopped, and
            None if none is left.
        readings: what was measured on the way; of a network that stopped, until it did.
        stopped: those that stopped.
    """

    network: Any
    readings: Readings
    stopped: tuple[Stopped, ...]


def train(
    network: NumpyNetwork | TorchNetwork,
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
    ways: Ways | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train every network of an ensemble, each on mini-batches of its own order; the given network is left as it is.

    Args:
        network: where it starts, e.g. `skipscope.build(spec, seed=range(8))`. One of the torch engine
            (`skipscope.engines.torch_engine.build`) is trained by PyTorch, on the same mini-batches by the same rule:
            the same numbers but for rounding, which training magnifies.
        data: what it learns; classes are learned by cross-entropy, numbers by mean squared error. A convolutional
            network learns `Images`, e.g. of `skipscope.data.load_images`.
        recipe: how.
        record: how often to measure, evenly from the beginning to the end, both included; or after which steps.
        quantities: what to measure, of `QUANTITIES` and `LEARNING`; if not given `TRAINING_QUANTITIES`, with loss and
            error of the validation part where `data` has one. Losses and errors are of a whole part, in inference
            (undefined before the first step where batch normalisation has no averages yet); all others of one fixed
            mini-batch of the training part.
        sites: patterns of the sites to report; None is all.
        factors: columns for the table of cells.
        checkpoint: a file that holds the state; where it is there, training goes on from it.
        every: steps between checkpoints; 0 writes one at the end alone.
        jobs: threads over which the networks are spread, or the work of convolutional ones; no number depends on it.
            Fewer are taken where the networks are too few or too small for threads to gain anything. Of the torch
            engine PyTorch's threads, on which the last bits do depend.
        ways: what PyTorch alone offers.
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
    if ways is not None:
        require_type("ways", ways, Ways, "Ways(device='cpu') is one")
    between = require_int("every", every, least=0)
    hands = require_int("jobs", jobs, least=1)
    recorded, chosen = _steps(record, recipe.steps), _chosen(quantities, data)
    run = _Run(network, data, recipe, recorded, chosen, sites, factors or {}, hands, ways)
    if checkpoint is not None:
        run.resume(files.check_writable(checkpoint, overwrite=True))
    with run.descent.computing(), uncollected():
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


def _chosen(quantities: Mapping[str, Quantity] | None, data: Dataset | Images) -> Mapping[str, Quantity]:
    if quantities is not None:
        return quantities
    measured = QUANTITIES | LEARNING
    return {name: measured[name] for name in measured_by_default(data)}


def measured_by_default(data: Dataset | Images) -> tuple[str, ...]:
    """What `train` measures of networks that learn these data, where nothing else is asked for."""
    return TRAINING_QUANTITIES + (_VALIDATION if "validation" in _parts(data) else ())


def _parts(data: Dataset | Images) -> tuple[str, ...]:
    """What losses and errors there are of."""
    held_out = isinstance(data, Images) and data.validation is not None
    return ("train", "validation", "test") if held_out else ("train", "test")


# ----------------------------------------------------------------------------------------------------------- one run


def _descent(network: NumpyNetwork | TorchNetwork, task: Task, ways: Ways | None) -> Descent:
    """What trains a network, by its engine."""
    if is_torch(network):
        from skipscope.training.torch_descent import TorchDescent

        return TorchDescent(network, task, ways or Ways())
    if ways is not None:
        raise InputError(
            f"ways={ways} are PyTorch's, and this network is of the NumPy engine: leave them out, or build it with "
            "skipscope.engines.torch_engine.build."
        )
    assert isinstance(network, NumpyNetwork)  # `require_network` saw to it
    return NumpyDescent(network, task)


class _Run:
    """The state of a training run: its networks, the step, and what was measured so far."""

    def __init__(
        self,
        network: NumpyNetwork | TorchNetwork,
        data: Dataset | Images,
        recipe: Recipe,
        record: frozenset[int],
        quantities: Mapping[str, Quantity],
        sites: str | Iterable[str] | None,
        factors: Mapping[str, Any],
        jobs: int,
        ways: Ways | None,
    ) -> None:
        require_network(network)
        require_data(data)
        require_fit(network.spec, data, recipe)
        self.spec = network.spec
        self.seeds = network.seeds
        self.data = data
        self.recipe = recipe
        self.record = record
        self.plan = Plan(network.sites, quantities=quantities, patterns=sites)
        self.factors = dict(factors)
        self.step = 0
        self.history: list[Measured] = []
        self.stopped: list[Stopped] = []
        self.began = _digest(network)
        self.task = Task(_cast(data, network.spec.dtype), recipe, loss_of(data), jobs)
        self.descent = _descent(network, self.task, ways)

    # ------------------------------------------------------------------------------------------------------ steps

    def next_stop(self, every: int) -> int:
        """The step up to which nothing is asked for but training."""
        ends = [self.recipe.steps, self.step + _STRETCH, *(step for step in self.record if step > self.step)]
        return min([*ends, self.step - self.step % every + every] if every else ends)

    def advance(self, stop: int) -> None:
        """Train all networks that are alive up to a step."""
        stopped = self.descent.advance(range(self.step, stop))
        self.step = stop
        self._bury(stopped)

    def look_again(self) -> None:
        """Stop the networks that the last step has spoiled."""
        self._bury(self.descent.look(self.step))

    def _bury(self, stopped: list[Stopped]) -> None:
        """Go on without the networks that stopped."""
        if stopped:
            self.stopped = sorted([*self.stopped, *stopped], key=lambda each: (each.step, self.seeds.index(each.seed)))
            gone = {each.seed for each in stopped}
            alive = self.descent.network.seeds
            self.descent.keep([row for row, seed in enumerate(alive) if seed not in gone], self.step)

    # -------------------------------------------------------------------------------------------------- measurement

    def measure_if_asked(self) -> None:
        """Measure the networks as they are, if they are to be after so many steps, and were not before a kill."""
        known = any(measured.step == self.step for measured in self.history)
        network, shown, loss = self.descent.network, self.task.data, self.task.loss
        if known or self.step not in self.record or not network.seeds:
            return
        first = next(shown.pieces("train", size=min(self.recipe.batch, self.data.train.size)))
        recording = Recording(network, self.plan)
        run = network.run(first, loss, recording.observe)
        facts = {}
        # Batch normalisation that has seen no batch has no averages to infer by: its losses are undefined, not bad.
        blind = bool(network.running) and self.step == 0
        for name in _parts(self.data):
            if not blind and {f"{name}_loss", f"{name}_error"} & self.plan.quantities.keys():
                facts[f"{name}_loss"], error = self.descent.evaluate(shown.pieces(name, size=EVALUATED), loss)
                if error is not None:
                    facts[f"{name}_error"] = error
        told = {"data": self.data.name, "cotangent": "", "study": "train", **self.descent.factors, **self.factors}
        measured = recording.measured(run, first, loss, factors=told, facts=facts)
        self.history.append(dataclasses.replace(measured, step=self.step))

    def trained(self) -> Trained:
        """What it came to."""
        readings = Readings.concat([measured.readings() for measured in self.history])
        network = self.descent.network
        return Trained(network if network.seeds else None, readings, tuple(self.stopped))

    # --------------------------------------------------------------------------------------------------- checkpoints

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole state, or nothing; the random numbers to come follow from the seeds and the step."""
        network = self.descent.network
        blocks = {"weights": network.parameters, "velocity": self.descent.velocity, "running": network.running}
        arrays = {f"{block}/{name}": array for block, named in blocks.items() for name, array in named.items()}
        for index, measured in enumerate(self.history):
            values = list(measured.values.values())
            arrays[f"history/{index}/values"] = np.array([np.ma.getdata(each) for each in values], np.float64)
            arrays[f"history/{index}/undefined"] = np.array([np.ma.getmaskarray(each) for each in values], np.uint8)
        notes = {
            "run": self._identity(),
            "step": self.step,
            "seeds": network.seeds,
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
        known, mine = notes.get("run"), self._identity()
        theirs = known if isinstance(known, dict) else {}
        for name in {"engine": None, **mine, **theirs}:  # the engine first: other things differ with it
            if theirs.get(name) != mine.get(name):
                raise InputError(
                    f"checkpoint {str(path)!r} is of another run, {_differs(name, theirs, mine)}: give another name, "
                    "or delete it."
                )
        self.step = notes["step"]
        self.descent.keep([self.seeds.index(seed) for seed in notes["seeds"]], self.step)
        network = self.descent.network
        named = {"weights": network.parameters, "velocity": network.parameters, "running": network.running}
        self.descent.load({block: {name: arrays[f"{block}/{name}"] for name in of} for block, of in named.items()})
        self.stopped = [Stopped(**each) for each in notes["stopped"]]
        for index, each in enumerate(notes["history"]):
            values = np.ma.array(arrays[f"history/{index}/values"], mask=arrays[f"history/{index}/undefined"] == 1)
            found = {(site, name): row for (site, name), row in zip(each["keys"], values, strict=True)}
            self.history.append(Measured(each["cell"], self.plan.chosen, tuple(each["seeds"]), found, each["step"]))

    def _identity(self) -> dict[str, Any]:
        """What a run is of, as JSON has it: whatever would change a number."""
        return {
            "spec": self.spec.to_json(),
            "weights": self.began,
            "seeds": list(self.seeds),
            "data": self.data.digest,
            "recipe": dataclasses.asdict(self.recipe),
            "steps recorded": sorted(self.record),
            "quantities": list(self.plan.quantities),
            "sites": [site.site for site in self.plan.chosen],
            "factors": self.factors,
            **self.descent.identity,
        }


_PLURAL = frozenset({"weights", "seeds", "steps recorded", "quantities", "sites", "factors"})


def _differs(name: str, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """What is another than here, of two identities of runs."""
    if name == "engine":
        # The identity of a run on the NumPy engine does not name it.
        own, other = (identity.get(name, "numpy") for identity in (mine, theirs))
        return f"its engine is {other!r}, and here it is {own!r}"
    return f"its {name} {'differ' if name in _PLURAL else 'differs'}"


def _cast(data: Dataset | Images, dtype: str) -> Dataset | Images:
    """The data in the network's precision, once for all steps; images stay bytes until they are shown."""
    if isinstance(data, Images):
        return data
    return dataclasses.replace(data, train=_cast_samples(data.train, dtype), test=_cast_samples(data.test, dtype))


def _cast_samples(samples: Samples, dtype: str) -> Samples:
    targets = np.asarray(samples.targets)
    kept = targets if np.issubdtype(targets.dtype, np.integer) else targets.astype(dtype)
    return Samples(samples.inputs.astype(dtype), kept)


def _digest(network: NumpyNetwork | TorchNetwork) -> str:
    """Of the weights that training starts from."""
    digest = hashlib.blake2b(digest_size=8)
    for array in network.arrays.values():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
