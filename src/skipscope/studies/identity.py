"""Study `identity`: is the identity easier with a shortcut? One block with small weights, and stacks that learn x -> x.

*The block*, untrained, as the notebook has it: y = x + F(x), every weight times a scale c. Its branch is homogeneous in
the weights, F(c W; x) = c^2 F(W; x) for two layers without biases (the gates of ReLUs do not see a positive factor),
and so are the branch's Jacobian and with it J - I. That the output is close to the input when c is small is this law,
and says nothing of what training finds.

*The stacks* are trained to give back what comes in. Plain and residual ones of a depth have the same layers and
parameters, the same draw, the same order of mini-batches; all can represent x -> x exactly, since they end in a linear
layer and are wide enough to carry either sign of every feature through ReLUs (two units each). What differs:

- the notebook's residual stack grows with depth at initialisation, so that a rate that suits one design kills another.
  Every design is therefore trained at every rate of one grid, and compared at its own best, by *training* loss;
- two more designs scale the branches: by 1/sqrt(L), and by a learned scalar that starts at zero;
- there is no weight decay, which would pull branches to 0 and so favour the shortcut for another reason.

What the readings say is in `skipscope.identity`. Source of the claim: He et al. 2015, arXiv:1512.03385, section 3.1.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope import draws, losses
from skipscope.data import identity as identity_data
from skipscope.designs import design
from skipscope.engines.jacobian import jacobian
from skipscope.engines.numpy_engine import NumpyNetwork, build
from skipscope.engines.spread import one_thread
from skipscope.errors import InputError, as_list, require_int, require_number
from skipscope.probe import measure
from skipscope.protocol import Site
from skipscope.quantities import QUANTITIES, Quantity
from skipscope.readings import Readings
from skipscope.spec import Spec
from skipscope.studies import room
from skipscope.studies.gather import gather, kept, planned
from skipscope.studies.learning import Trial, learn, require_held, round_of
from skipscope.studies.named import listed
from skipscope.training import Recipe

__all__ = [
    "IDENTITY_DEMO",
    "IDENTITY_DESIGNS",
    "IDENTITY_QUANTITIES",
    "BlockCell",
    "block_network",
    "identity",
    "measure_block",
]

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]

IDENTITY_DESIGNS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "plain": ("plain", {}),
    "residual": ("matched", {}),
    "residual, gain 1/sqrt(L)": ("matched", {"branch_gain": "1/sqrt(L)"}),
    "residual, gain zero": ("matched", {"branch_gain": "zero"}),
}
"""The stacks by name: one of `skipscope.designs.DESIGNS`, and fields of `Spec.dense`; d weight layers each."""

IDENTITY_DEMO: dict[str, Any] = {
    "depths": (4, 12),
    "designs": ("plain", "residual", "residual, gain zero"),
    "rates": (0.1, 0.01, 0.003),
    "steps": 120,
}
"""Arguments of `identity` for an answer in some seconds."""

_HARDT = "Hardt & Ma 2016, arXiv:1611.04231"
IDENTITY_QUANTITIES: dict[str, Quantity] = {
    "branch_ratio": QUANTITIES["branch_ratio"],
    "block_jacobian_minus_identity": Quantity(
        formula=lambda found: found,
        symbol="|J - I|/|I|",
        unit="dimensionless",
        about="Distance of the block's Jacobian from the identity in the Frobenius norm, over that of the identity.",
        source=_HARDT,
        at_init="1 in the mean of its square for the notebook's block",
    ),
    "unit_input": Quantity(
        formula=lambda found: found,
        symbol="x_i",
        unit="activation",
        about="What comes into the block at unit i, the site `units.i`.",
    ),
    "unit_branch": Quantity(
        formula=lambda found: found,
        symbol="F(x)_i",
        unit="activation",
        about="What the branch adds there.",
    ),
    "unit_output": Quantity(
        formula=lambda found: found,
        symbol="y_i",
        unit="activation",
        about="What comes out there.",
    ),
}
"""What is measured of the block; the stacks have `train_loss`, `test_loss` and `branch_ratio`."""

_BLOCK = "stage1.block1"
_TRAINED = ("train_loss", "test_loss", "branch_ratio")


@dataclass(frozen=True)
class BlockCell:
    """One residual block whose weights are scaled.

    Attributes:
        spec: the block between an input and an output layer that `block_network` makes the identity.
        factors: the study's columns in the table of cells.
        scale: c, of all weights of the branch.
    """

    spec: Spec
    factors: Mapping[str, Any]
    scale: float

    @property
    def batch(self) -> int:
        """Samples a network."""
        return 1


def identity(
    *,
    scales: Iterable[float] = (1.0, 0.1, 0.01, 0.001, 0.0001),
    layers: int = 2,
    depths: Iterable[int] = (4, 10, 22),
    width: int = 36,
    designs: Iterable[str] = tuple(IDENTITY_DESIGNS),
    rates: Iterable[float] = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001),
    steps: int = 600,
    batch: int = 64,
    seeds: int | Iterable[int] = range(8),
    dtype: str = "float64",
    folder: str | os.PathLike[str] | None = None,
    chunk: int | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Readings:
    """Measure one block at several scales of its weights, and train stacks of several depths to represent x -> x.

    The block is measured in float64, whatever the dtype: at c = 0.0001 its J - I is below what float32 can tell from 0.

    Args:
        scales: c, factors of the weights of the block's branch; empty leaves the block out.
        layers: weight layers of its branch, 1 to 3: the degree of the law.
        depths: d, weight layers of the stacks, even and at least 4; empty leaves the stacks out.
        width: units of the hidden layers, and of the block.
        designs: names in `IDENTITY_DESIGNS`.
        rates: learning rates, every one of which every stack is trained at; down to 0 along a cosine.
        steps: updates.
        batch: samples a step.
        seeds: the seeds; every scale, design, depth and rate sees the same.
        dtype: of the stacks.
        folder: keeps what is measured, so that the same call goes on where it was stopped; see `skipscope.runs`.
        chunk, jobs, progress: see `skipscope.studies.gather.gather`.

    Returns:
        Readings with the factors `part` ("block" or "stack"), `scale` and `rate`. Of the block `branch_ratio` and
        `block_jacobian_minus_identity`, and at the sites `units.1`, `units.2`, ... what the picture is made of; of the
        stacks, before the first step and after the last, `train_loss` and `test_loss` (mean squared error; 1 is that of
        an answer of 0) and `branch_ratio` at every junction. A stack whose loss was no longer finite has no reading
        after the last step.

    Raises:
        InputError: a scale, a depth, a design, a rate or the width makes no sense, nothing is left to measure, or the
            folder holds something else.
    """
    blocks = _block_cells(_numbers("scales", scales), layers, width)
    trials = _trials(
        names=listed("designs", designs, IDENTITY_DESIGNS),
        depths=list(dict.fromkeys(require_int("depth", each, least=4) for each in as_list(depths))),
        rates=_numbers("rates", rates),
        width=width,
        recipe=Recipe(steps=require_int("steps", steps, least=1), batch=batch, weight_decay=0.0, schedule="cosine"),
        dtype=dtype,
    )
    if not blocks and not trials:
        raise InputError("scales and depths are both empty: nothing is left to measure; give at least one of them.")
    needed: dict[str, Any] = {
        "numbers": lambda cell: room.numbers(cell.spec, 1) + 4 * width * width,
        "readings": lambda cell: 3 * width + 2,
        "jobs": 1,
    }
    room.require_room(blocks, seeds=room.count(seeds), **needed)
    require_held(trials, seeds, jobs=jobs)
    known = draws.require_seeds(seeds)
    first, whole = len(blocks) * len(known), (len(blocks) + len(trials)) * len(known)
    at_once = {**needed, "chunk": chunk}

    def plan() -> dict[str, Any]:
        return {
            "block": planned(blocks, known, described=_described, **at_once),
            "stacks": round_of(trials, known, chunk=chunk, jobs=jobs),
        }

    with kept(folder, plan) as work:
        told = _shifted(progress, 0, whole)
        untrained = gather(measure_block, blocks, known, progress=told, work=work, **at_once)
        told = _shifted(progress, first, whole)
        trained = learn(trials, known, chunk=chunk, jobs=jobs, progress=told, work=work)
        return work.finished(Readings.concat([untrained, trained]))


def _described(cell: BlockCell) -> dict[str, Any]:
    """A block as JSON."""
    return {**dataclasses.asdict(cell), "spec": json.loads(cell.spec.to_json())}


def _numbers(name: str, given: Iterable[float]) -> list[float]:
    """Positive numbers, each once."""
    found = [require_number(name.removesuffix("s"), each) for each in as_list(given)]
    for each in found:
        if each <= 0:
            raise InputError(f"{name.removesuffix('s')} must be above 0; got {each:g}.")
    return list(dict.fromkeys(found))


def _shifted(progress: Progress | None, before: int, whole: int) -> Progress | None:
    """The progress of one part of the work as that of all of it."""
    return None if progress is None else lambda done, _: progress(before + done, whole)


# ---------------------------------------------------------------------------------------------------------- the block


def _block_cells(scales: Sequence[float], layers: int, width: int) -> list[BlockCell]:
    spec = Spec.dense(width=width, blocks=1, layers=layers)
    # Nothing but the block: its input and output layers are the identity.
    bare = replace(spec, stem=replace(spec.stem, activation="linear"))
    told = {"study": "identity", "part": "block", "design": "residual", "depth": 1}
    return [
        BlockCell(bare, {**told, "scale": scale, "edit": "" if scale == 1 else f"weights x {scale:g}"}, scale)
        for scale in scales
    ]


def block_network(spec: Spec, seeds: Sequence[int], scale: float) -> NumpyNetwork:
    """The block alone: between layers that hand on what they get, the weights of its branch times `scale`."""
    network = build(spec, seed=seeds)
    for name, array in network.parameters.items():
        if name.startswith(f"{_BLOCK}."):
            array *= scale
        else:
            array[...] = np.eye(spec.body_width, dtype=array.dtype)
    return network


def measure_block(cell: BlockCell, seeds: tuple[int, ...]) -> Readings:
    """The readings of the block at one scale over some seeds (a top-level function, so that it can be sent)."""
    network = block_network(cell.spec, seeds, cell.scale)
    x = draws.normals(seeds, "input", (1, cell.spec.body_width))
    with one_thread():
        loss = losses.cotangent("ones", seeds=seeds, batch=1, outputs=cell.spec.head.features)
        told = {"data": "gaussian", "cotangent": "", **cell.factors}
        ratio = {"branch_ratio": IDENTITY_QUANTITIES["branch_ratio"]}
        measured = measure(network, x, loss, quantities=ratio, sites=_BLOCK, factors=told)
        distance = _from_identity(jacobian(network, x, at=_BLOCK))
        units = _units(network, x)
    values = {(f"units.{i + 1}", name): row for name, rows in units.items() for i, row in enumerate(rows.T)}
    sites = [*measured.sites, *_unit_sites(measured.sites[0], cell.spec.body_width)]
    values |= {**measured.values, (_BLOCK, "block_jacobian_minus_identity"): distance}
    return replace(measured, sites=sites, values=values).readings()


def _from_identity(J: NDArray[np.floating[Any]]) -> Array:
    """|J - I|/|I| in the Frobenius norm, for J of shape (s, n, n)."""
    difference = J - np.eye(J.shape[-1])
    return np.asarray(np.sqrt((difference * difference).sum(axis=(-2, -1)) / J.shape[-1]))


def _units(network: NumpyNetwork, x: Array) -> dict[str, Array]:
    """What comes in, is added and comes out, (s, n) each, at the one sample."""
    found = {"unit_input": x[:, 0]}

    def observe(site: str, /, **roles: Any) -> None:
        if site == _BLOCK:
            for role, name in (("branch", "unit_branch"), ("activation", "unit_output")):
                if role in roles:
                    found[name] = np.array(roles[role][:, 0])

    network.run(x, observe=observe)
    return found


def _unit_sites(block: Site, units: int) -> list[Site]:
    """A unit of the block as a site, so that its readings have a place."""
    return [
        replace(
            block,
            site=f"units.{i}",
            order=block.order + i,
            kind="layer",
            name=f"unit {i} of {units} of the block",
            block=0,
        )
        for i in range(1, units + 1)
    ]


# --------------------------------------------------------------------------------------------------------- the stacks


def _trials(
    *, names: Sequence[str], depths: Sequence[int], rates: Sequence[float], width: int, recipe: Recipe, dtype: str
) -> list[Trial]:
    features = identity_data(seed=0, train=1, test=1).features
    if depths and require_int("width", width, least=1) < 2 * features:
        raise InputError(
            f"width must be at least {2 * features}, two units for each of the {features} features, or no ReLU stack "
            f"can represent x -> x; got {width}."
        )
    if depths and not rates:
        raise InputError("rates is empty: give at least one learning rate, e.g. 0.1.")
    trials = []
    for depth in depths:
        if depth % 2:  # so that blocks of two layers fill it
            raise InputError(f"depth must be even, (depth - 2)/2 blocks of two layers; got {depth}. Use {depth + 1}.")
        for name in names:
            base, own = IDENTITY_DESIGNS[name]
            spec = design(base, depth=depth, width=width, features=features, dtype=dtype, **own)
            for rate in rates:
                told = {"study": "identity", "part": "stack", "design": name, "depth": depth, "rate": rate}
                told["steps"] = recipe.steps
                way = replace(recipe, rate=rate)
                trials.append(Trial(spec, "identity", way, told, record=1, quantities=_TRAINED, sites=None))
    return trials
