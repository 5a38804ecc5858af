"""Study `lesion`: what a trained network can do without one of its blocks, without several, and in another order.

Veit, Wilber & Belongie 2016 (arXiv:1605.06431) deleted blocks of trained networks, and swapped them, without training
them again: a residual network went on working, a plain one (VGG) did not. Here every seed's network is trained, with
and without shortcuts, on the same mini-batches from the same draw, and its error on the test part is measured in
inference:

- **nothing** is done to it;
- **one deleted**: every block by itself (the readings' site says which);
- **deleted**: k blocks at random;
- **swapped**: k times two blocks at random exchange their places, and Kendall's rank correlation between the order of
  the blocks before and after says how much was disturbed.

A residual block is deleted by the gain 0 of its branch; a plain one by leaving it out, so that what came in goes to
the next, as Veit et al. did. Random choices are those of the network's own seed, the same for all designs with as many
blocks, and those of a larger k begin with those of a smaller. What the readings say is in `skipscope.lesions`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope import data as datasets
from skipscope.data import Dataset, Images
from skipscope.designs import DESIGNS, design
from skipscope.draws import stream
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.engines.spread import one_thread
from skipscope.errors import InputError, as_list, require_int, require_type
from skipscope.probe import Measured, Plan, Recording
from skipscope.protocol import Run
from skipscope.quantities import QUANTITIES
from skipscope.readings import Readings
from skipscope.spec import Norm, Order, Spec
from skipscope.studies.learning import Trial, learn_in
from skipscope.studies.named import Specs, listed, specs_of
from skipscope.studies.own import of_models
from skipscope.training import Recipe, Trained, evaluate, loss_of

__all__ = [
    "LESION_DEMO",
    "LESION_QUANTITIES",
    "LESION_RECIPE",
    "Lesions",
    "guess_error",
    "kendall_tau",
    "lesion",
    "runs_of",
    "swapped_places",
    "without",
]

Array = NDArray[np.floating[Any]]

LESION_RECIPE = Recipe(steps=300, batch=64, rate=0.1, schedule="cosine", warmup=30)
"""How the networks are trained where nothing else is asked for: enough for the digits."""

LESION_DEMO: dict[str, Any] = {"depth": 6, "recipe": replace(LESION_RECIPE, steps=150, warmup=15), "draws": 3}
"""Arguments of `lesion` that show the same in a few seconds."""

LESION_QUANTITIES = ("test_error", "test_loss", "guess_error", "kendall_tau", "branch_ratio")
"""What is measured of trained networks.

`test_error` and `test_loss` are those of `QUANTITIES`, at the site of the block that was deleted or at `network`;
`guess_error`, at `network`, is the error on the test part of whoever always answers the commonest class of the training
part; `kendall_tau` is that of the order of the blocks; `branch_ratio`, at the junctions, is that of `QUANTITIES` over
the test part in inference, with nothing deleted.
"""


@of_models
def lesion(
    *,
    designs: Iterable[str] = ("residual", "twin"),
    specs: Specs | None = None,
    depth: int = 8,
    width: int | None = None,
    data: str = "digits",
    order: Order = "after-add",
    norm: Norm = "batch",
    recipe: Recipe = LESION_RECIPE,
    deleted: Iterable[int] | None = None,
    swapped: Iterable[int] | None = None,
    draws: int = 5,
    seeds: int | Iterable[int] = range(8),
    folder: str | os.PathLike[str] | None = None,
    chunk: int | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    **fields: Any,
) -> Readings:
    """Train networks, and measure their error with blocks deleted and swapped.

    Args:
        designs: names in `skipscope.designs.DESIGNS`; `"twin"` is `"residual"` without its shortcuts.
        specs: convolutional networks in place of the designs, e.g. `["cifar-20", "cifar-20-plain"]`; depth,
            order and norm are not theirs, and `fields` are those of `Spec.cifar`. Deleted and swapped are the blocks
            that hand on images of the shape that they take, and swapped those of one shape.
        depth: d of the designs, see there; the residual design and its twin have d blocks.
        width: units of the hidden layers, 32 if not given; of networks given by name the channels of their first
            stage, as they are in the paper if not given.
        data: a data set of classes, in `skipscope.data.DATASETS`, or for convolutional networks in
            `skipscope.data.IMAGES`.
        order: where the activation stands; the paper's is `"after-add"`.
        norm: normalisation; without one, deep plain networks hardly train.
        recipe: how they are trained.
        deleted: how many blocks to delete at random; None is 1, 2, 3, 4, 6, 8, 12, ..., up to all.
        swapped: how many random swaps of two blocks; None is 1, 2, 4, ..., up to the number of blocks.
        draws: random choices a seed, for every number of blocks and of swaps.
        seeds: the seeds; every design sees the same.
        folder: keeps what is measured, so that the same call goes on where it was stopped; see `skipscope.runs`.
        chunk, jobs, progress: see `skipscope.studies.gather.gather`.
        **fields: further fields of `Spec.dense`.

    Returns:
        Readings with the factors `done` (see the module, and `training` for what was measured on the way), `k` and
        `draw`, `order`, `steps` and `rate`; see `LESION_QUANTITIES`. A network whose training failed has none.

    Raises:
        InputError: a design, the depth, the data, a number of blocks or a field makes no sense, or the folder holds
            something else.

    `lesion(model, batches, loss=fn)` takes the branches of a trained model of one's own out, one by one: see
    `skipscope.torch_studies.lesion`.
    """
    require_type("recipe", recipe, Recipe, "Recipe(steps=300) is one")
    given = (_numbers("deleted", deleted), _numbers("swapped", swapped), require_int("draws", draws, least=1))
    if specs is None:
        networks = _of_designs(
            designs, data, depth=depth, width=32 if width is None else width, order=order, norm=norm, **fields
        )
    else:
        networks = _of_specs(specs, data, width=width, **fields)
    trials = []
    for name, (spec, d) in networks.items():
        factors = {"study": "lesion", "design": name, "depth": d, "order": spec.stages[-1].order if spec.stages else ""}
        factors |= {"steps": recipe.steps, "rate": recipe.rate}
        blocks = sum(map(len, runs_of(spec)))
        lesions = _planned(blocks, *given)
        trials.append(
            Trial(
                spec=spec,
                data=data,
                recipe=recipe,
                factors={**factors, "done": "training"},
                record=(0, recipe.steps),
                quantities=("train_loss", "train_error", "test_loss", "test_error"),
                after=(lesions,),
                more=lesions.most(blocks),
            )
        )
    return learn_in(folder, trials, seeds, chunk=chunk, jobs=jobs, progress=progress)


def _of_designs(designs: Iterable[str], data: str, *, depth: int, **fields: Any) -> dict[str, tuple[Spec, int]]:
    known = datasets.load(data, seed=0)
    if known.classes is None:
        raise InputError(f"data={data!r} has no classes, and so no error to measure: use 'digits' or 'patterns'.")
    fields |= {"features": known.features, "outputs": known.outputs}
    return {name: (design(name, depth=depth, **fields), depth) for name in listed("designs", designs, DESIGNS)}


def _of_specs(specs: Specs, data: str, **fields: Any) -> dict[str, tuple[Spec, int]]:
    if not isinstance(specs, Mapping):
        known = datasets.load_images(data, seed=0)
        fields = {"channels": known.shape[0], "size": known.shape[1], "classes": known.classes, **fields}
    found = specs_of(specs, **fields)
    for name, spec in found.items():
        if not spec.images:
            raise InputError(f"specs: {name!r} is dense; a network of one's own here is convolutional, as Spec.cifar.")
    return {name: (spec, spec.depth) for name, spec in found.items()}


def _numbers(name: str, given: Iterable[int] | None) -> tuple[int, ...] | None:
    return None if given is None else tuple(dict.fromkeys(require_int(name, each, least=1) for each in as_list(given)))


def _planned(blocks: int, deleted: tuple[int, ...] | None, swapped: tuple[int, ...] | None, draws: int) -> Lesions:
    """What is done to a network of so many blocks."""
    if blocks < 2:
        raise InputError(
            f"depth must give 2 blocks at least that can be deleted, for there is nothing to swap or compare; got "
            f"{blocks}."
        )
    doubled = [2**power for power in range(blocks.bit_length())]
    if deleted is None:
        deleted = tuple(sorted(k for k in {*doubled, *(3 * k for k in doubled), blocks} if k <= blocks))
    if deleted and max(deleted) > blocks:
        raise InputError(f"deleted={max(deleted)} is more than the {blocks} blocks that there are.")
    return Lesions(deleted, tuple(doubled) if swapped is None else swapped, draws)


# ----------------------------------------------------------------------------------------------------- what is done


def without(network: NumpyNetwork, sites: Collection[str]) -> AbstractContextManager[None]:
    """The network with these blocks deleted: the gain of their branch 0; in plain networks, left out."""
    if any(block.plain for block in network.spec.body):
        return network.rearranged([block.site for block in network.spec.body if block.site not in sites])
    return network.gains(branch=0, at=sites)


def runs_of(spec: Spec) -> list[list[str]]:
    """The sites of the blocks that can be left out, in runs of those that can change places.

    In a dense network these are all, in one run; in a convolutional one those that hand on images of the shape that
    they take, a run for every shape.
    """
    if not spec.images:
        return [[block.site for block in spec.body]]
    runs: dict[tuple[int, int], list[str]] = {}
    for block in spec.body:
        if (block.n_in, block.size) == (block.width, block.size_out):
            runs.setdefault((block.width, block.size), []).append(block.site)
    return list(runs.values())


def swapped_places(
    blocks: int, swaps: int, rng: np.random.Generator, *, runs: Sequence[int] | None = None
) -> list[int]:
    """The places 0, 1, ... of the blocks after so many swaps of two of them, each pair as likely.

    Args:
        blocks: how many there are.
        swaps: how many.
        rng: draws them.
        runs: how many blocks follow each other that can change places; if not given, all.
    """
    places = list(range(blocks))
    ends = np.cumsum(runs or (blocks,)).tolist()
    pairs = [pair for start, end in zip((0, *ends), ends, strict=False) for pair in combinations(range(start, end), 2)]
    for _ in range(swaps):
        one, other = rng.choice(blocks, 2, replace=False) if len(ends) == 1 else pairs[rng.integers(len(pairs))]
        places[one], places[other] = places[other], places[one]
    return places


def kendall_tau(places: Sequence[int]) -> float:
    """Kendall's rank correlation with the order 0, 1, ...: 1 for that order, -1 for its reverse, 0 for no relation.

    Of n (n - 1)/2 pairs, the share that is in order less the share that is not (Kendall 1938).
    """
    found = np.asarray(places)
    later = np.triu(np.sign(found - found[:, None]), k=1)
    return float(later.sum() / (len(found) * (len(found) - 1) / 2))


@dataclass(frozen=True)
class Lesions:
    """Looks at trained networks: see the module.

    Attributes:
        deleted: how many blocks to delete at random.
        swapped: how many swaps.
        draws: random choices a seed, for each.
    """

    deleted: tuple[int, ...]
    swapped: tuple[int, ...]
    draws: int

    def __call__(self, trial: Trial, data: Dataset | Images, trained: Trained) -> Readings:
        """The readings of all that is done to the networks of a trial."""
        if trained.network is None:
            return Readings.concat([])
        patient = _Patient(trial, data, trained.network)
        with one_thread():
            measured = [patient.intact(), patient.without_each(), *self._deletions(patient), *self._swaps(patient)]
        return Readings.concat([each.readings() for each in measured])

    def most(self, blocks: int) -> int:
        """How many readings that is of a network of so many blocks, at most."""
        intact, errors, order = 3 + blocks, 2, 1
        random = len(self.deleted) * errors + len(self.swapped) * (errors + order)
        return intact + blocks * errors + self.draws * random

    def _deletions(self, patient: _Patient) -> Iterator[Measured]:
        for draw in range(self.draws):
            shuffled = [stream(seed, "lesion", 0, draw).permutation(patient.blocks) for seed in patient.network.seeds]
            for k in self.deleted:
                edits = [
                    without(network, {patient.sites[place] for place in places[:k]})
                    for network, places in zip(patient.alone, shuffled, strict=True)
                ]
                edit = f"{k} random {'block' if k == 1 else 'blocks'} deleted, draw {draw}"
                yield patient.each(edits, {"done": "deleted", "k": k, "draw": draw, "edit": edit})

    def _swaps(self, patient: _Patient) -> Iterator[Measured]:
        for draw in range(self.draws):
            for k in self.swapped:
                orders = [
                    swapped_places(patient.blocks, k, stream(seed, "lesion", 1, draw), runs=patient.runs)
                    for seed in patient.network.seeds
                ]
                edits = [
                    network.rearranged(patient.order(places))
                    for network, places in zip(patient.alone, orders, strict=True)
                ]
                edit = f"{k} random {'swap' if k == 1 else 'swaps'} of blocks, draw {draw}"
                measured = patient.each(edits, {"done": "swapped", "k": k, "draw": draw, "edit": edit})
                tau = np.array([kendall_tau(places) for places in orders])
                yield replace(measured, values={**measured.values, ("network", "kendall_tau"): tau})


class _Patient:
    """The trained networks of a trial, and how they do on the test part."""

    def __init__(self, trial: Trial, data: Dataset | Images, network: NumpyNetwork) -> None:
        self.trial = trial
        self.data = data
        self.network = network
        runs = runs_of(network.spec)
        self.runs = [len(run) for run in runs]
        self.sites = [site for run in runs for site in run]
        self.blocks = len(self.sites)

    def order(self, places: Sequence[int]) -> list[str]:
        """All blocks, those that can change places at these places."""
        moved = dict(zip(self.sites, (self.sites[place] for place in places), strict=True))
        return [moved.get(block.site, block.site) for block in self.network.spec.body]

    @cached_property
    def alone(self) -> list[NumpyNetwork]:
        """Every network by itself, for what is done to it is its own."""
        return [_alone(self.network, row) for row in range(len(self.network.seeds))]

    def intact(self) -> Measured:
        """With nothing done: the error, that of guessing, and how much every branch adds."""
        plan = Plan(self.network.sites, quantities={"branch_ratio": QUANTITIES["branch_ratio"]}, patterns=None)
        recording = Recording(self.network, plan)
        with self.network.inference():
            for piece in self.data.pieces("test"):
                self.network.run(piece.inputs, observe=recording.observe)
        measured = self._told(recording, {"done": "nothing", "edit": ""})
        guess = np.full(len(self.network.seeds), guess_error(self.data))
        own = {**self._errors(self.network), ("network", "guess_error"): guess}
        return replace(measured, values={**measured.values, **own})

    def without_each(self) -> Measured:
        """Every block deleted by itself."""
        values: dict[tuple[str, str], Any] = {}
        for site in self.sites:
            with without(self.network, [site]):
                values |= self._errors(self.network, site)
        told = {"done": "one deleted", "k": 1, "edit": "the site's block deleted"}
        return replace(self._told(self._unseen(self.sites), told), values=values)

    def each(self, edits: Sequence[AbstractContextManager[None]], told: Mapping[str, Any]) -> Measured:
        """Every network of `alone` within an edit of its own."""
        found = []
        for network, edit in zip(self.alone, edits, strict=True):
            with edit:
                found.append(self._errors(network))
        values = {key: np.concatenate([each[key] for each in found]) for key in found[0]}
        return replace(self._told(self._unseen(["network"]), told), values=values)

    def _errors(self, network: NumpyNetwork, site: str = "network") -> dict[tuple[str, str], Array]:
        loss, error = evaluate(network, self.data.pieces("test"), loss_of(self.data))
        assert error is not None  # the study refuses data without classes
        return {(site, "test_loss"): loss, (site, "test_error"): error}

    def _unseen(self, sites: Sequence[str]) -> Recording:
        return Recording(self.network, Plan(self.network.sites, quantities={}, patterns=sites))

    def _told(self, recording: Recording, told: Mapping[str, Any]) -> Measured:
        """A row of the table of cells, with the values that the recording has."""
        known = {"data": self.data.name, "cotangent": "", **self.trial.factors, **told}
        measured = recording.measured(Run(None, None), self.data.test.inputs, loss_of(self.data), factors=known)
        return replace(measured, step=self.trial.recipe.steps)


def guess_error(data: Dataset | Images) -> float:
    """The share of the test part that is not of the commonest class of the training part."""
    commonest = np.bincount(data.train.targets).argmax()
    return float((data.test.targets != commonest).mean())


def _alone(network: NumpyNetwork, row: int) -> NumpyNetwork:
    """One network of an ensemble."""
    parameters = {name: array[row : row + 1] for name, array in network.parameters.items()}
    one = NumpyNetwork(network.spec, (network.seeds[row],), parameters)
    for name, array in one.running.items():
        array[...] = network.running[name][row : row + 1]
    return one
