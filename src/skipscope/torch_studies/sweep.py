"""Study `sweep` of models of one's own: depths x seeds of a factory `make_model(depth, seed)`.

Every model is made anew, after PyTorch's generator was seeded by its seed alone, is probed on one batch, and forgotten.
What is kept of it by default is what `skipscope.trends` fits and `skipscope.report` draws: growth a block, the change
of signal and gradient over the whole body, and the notebook's ratio. What depths of one seed share of their draw is the
factory's affair; the intervals of a trend, of slopes seed by seed, hold either way.

One thread measures each model, so that neither the number of workers nor the machine's cores change a bit on a
processor. What an accelerator computes may differ from run to run; readings say where they were taken.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from skipscope import draws, runs
from skipscope.errors import InputError, quoted, require_function, require_int
from skipscope.probe import Measured, cell_of
from skipscope.quantities import QUANTITIES
from skipscope.readings import Readings
from skipscope.studies.gather import carried_out, cut, in_parts, ranges, require_jobs
from skipscope.studies.named import listed_depths
from skipscope.torch import scope
from skipscope.torch.gains import gains
from skipscope.torch.junctions import junctions
from skipscope.torch.keeping import only_module, random_state, restore_random_state
from skipscope.torch.naming import named
from skipscope.torch.steps import arguments, data_of
from skipscope.torch_studies.batches import Loss, named_loss, require_functions

__all__ = ["MODEL_SWEEP_QUANTITIES", "require_factory", "sweep"]

MODEL_SWEEP_QUANTITIES = ("forward_growth", "backward_growth", "weight_grad_first_last", "parameters", "loss")
"""What `sweep` measures of a model, of `QUANTITIES`. `forward_gain` and `backward_gain` follow from the growth, over
all blocks of the body: they stand at `network`."""

MODEL_SITE_QUANTITIES = (
    "activation_rms",
    "activation_grad_norm",
    "forward_gain",
    "backward_gain",
    "weight_grad_norm",
    "activation_nonfinite",
    "activation_grad_nonfinite",
)
"""What `sweep` measures of every block and parameter with `sites=True`."""

Factory = Callable[[int, int], nn.Module]


@dataclass(frozen=True)
class _Cell:
    """How the models of one depth are made and measured.

    Attributes:
        make: the factory, or where it is: `package.module:make_model`.
        depth: its first argument.
        batch: what the model sees.
        loss: whose gradient is sent back, or where it is.
        twin: whether the models are measured without their shortcuts too.
        sites: whether every block is measured.
        here: the directory in which modules are looked for.
    """

    make: Factory | str
    depth: int
    batch: Any
    loss: Loss | str | None
    twin: bool
    sites: bool
    here: str


def sweep(
    make_model: Factory | str,
    *,
    batch: Any,
    depths: int | Iterable[int],
    seeds: Iterable[int] = range(20),
    loss: Loss | str | None = None,
    twin: bool = False,
    sites: bool = False,
    folder: str | os.PathLike[str] | None = None,
    chunk: int = 1,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Readings:
    """Measure models of several depths, over seeds.

    Args:
        make_model: `make_model(depth, seed)` gives a model; or where it is, `"package.module:make_model"`. For several
            jobs a function that can be sent. What it draws from PyTorch's generator is the seed's.
        batch: what every model sees, as for `skipscope.probe`.
        depths: one or several numbers for the factory; a trend needs two at least.
        seeds: the seeds.
        loss: as for `skipscope.probe`, or where it is; without one, and none of the model's own, a Gaussian cotangent
            drawn from the model's seed.
        twin: also measure every model without its shortcuts, under the design's name with `without shortcuts`.
        sites: also measure every block; its readings stay in the parts of the folder (`skipscope.runs.scan`).
        folder: keeps what is measured, so that the same call goes on where it was stopped; see `skipscope.runs`. A
            function and a loss are known there by their names.
        chunk: models a part of the folder.
        jobs: worker processes; see `skipscope.studies.gather.gather`.
        progress: called with how many models are measured, and how many there are in all.

    Returns:
        The readings of whole models with the factors `depth` (what the factory was given), `blocks` (how many the
        body has), and of what stays in a twin `kept` and `not_understood`, as of study `twin`.

    Raises:
        InputError: the factory makes no model, a depth, a seed or the batch makes no sense, `sites` has no folder, or
            the folder holds something else.
    """
    for name, value in (("sites", sites), ("twin", twin)):
        if not isinstance(value, bool):
            raise InputError(f"{name} must be True or False; got {quoted(value)}.")
    if sites and folder is None:
        raise InputError("sites=True needs a folder, as site-level readings are too many to hold: give folder='...'.")
    require_factory(named("make_model", make_model) if isinstance(make_model, str) else make_model)
    require_functions(loss=named("loss", loss) if isinstance(loss, str) else loss, progress=progress)
    require_jobs(jobs)
    arguments(batch)
    known = draws.require_seeds(seeds)
    cells = [_Cell(make_model, depth, batch, loss, twin, sites, os.getcwd()) for depth in listed_depths(depths)]
    several = [(cell, some) for cell in cells for some in cut(known, require_int("chunk", chunk, least=1))]
    tasks = [(part, *task) for part, task in enumerate(several)]
    found: dict[int, Readings] = {}

    def told(part: int, readings: Readings) -> None:
        found[part] = _of_networks(readings) if sites else readings

    def show() -> None:
        if progress is not None:
            progress(sum(len(tasks[part][2]) for part in found), len(cells) * len(known))

    if folder is None:
        for part, readings in carried_out(_measured, tasks, jobs):
            told(part, readings)
            show()
        return Readings.concat(found[part] for part in range(len(tasks)))
    with runs.opened(folder, _plan(cells, known, tasks), parts=len(tasks)) as run:
        in_parts(run, _measured, tasks, jobs, told=told, show=show)
        whole = Readings.concat(found[part] for part in range(len(tasks)))
        run.finish(whole)
    return whole


def require_factory(make_model: object, parameter: str = "make_model") -> None:
    """Whether models of several depths can be made by it, as far as its signature tells.

    Args:
        make_model: what was given as the factory.
        parameter: where it was given, for the message.

    Raises:
        InputError: they cannot.
    """
    if isinstance(make_model, nn.Module):
        raise InputError(
            f"{parameter} is a model itself ({type(make_model).__name__}): give a function make_model(depth, seed) "
            "that makes one of every depth."
        )
    require_function(parameter, make_model, ("depth", "seed"), "def make_model(depth, seed): ...", makes=True)


def _plan(
    cells: list[_Cell], seeds: tuple[int, ...], tasks: list[tuple[int, _Cell, tuple[int, ...]]]
) -> dict[str, Any]:
    """What is measured, as JSON: whatever would change a number or move it to another part."""
    one = cells[0]
    return {
        "study": "sweep of models",
        "torch": torch.__version__,
        "make_model": _place(one.make),
        "loss": None if one.loss is None else _place(one.loss),
        "batch": data_of(one.batch),
        "depths": [cell.depth for cell in cells],
        "twin": one.twin,
        "sites": one.sites,
        "seeds": ranges(seeds),
        "tasks": [{"depth": cell.depth, "seeds": ranges(some)} for _, cell, some in tasks],
    }


def _place(function: Callable[..., Any] | str) -> str:
    """Where a function is."""
    if isinstance(function, str):
        return function
    kind: Any = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}:{kind.__qualname__}"


# ------------------------------------------------------------------------------------------------------- measuring


def _measured(part: int, cell: _Cell, seeds: tuple[int, ...]) -> tuple[int, Readings]:
    """A part's number and its readings (a top-level function, so that it can be sent)."""
    if cell.here not in sys.path and isinstance(cell.make, str):  # a worker may have begun elsewhere
        sys.path.insert(0, cell.here)
    loss = named("loss", cell.loss) if isinstance(cell.loss, str) else cell.loss
    found = []
    with _alone():
        for seed in seeds:
            model = _made(cell, seed)
            found += [each.readings() for each in _probes(model, cell, loss, seed)]
    return part, Readings.concat(found)


@contextmanager
def _alone() -> Iterator[None]:
    """Within the context one thread computes; after it generators and threads are as they were."""
    state, threads = random_state(nn.Module()), torch.get_num_threads()
    known = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if known else ()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.set_num_threads(threads)
        restore_random_state(state)


def _made(cell: _Cell, seed: int) -> nn.Module:
    make = named("make_model", cell.make) if isinstance(cell.make, str) else cell.make
    torch.manual_seed(seed)
    found = make(cell.depth, seed)
    if not isinstance(found, nn.Module):
        raise InputError(
            f"make_model(depth={cell.depth}, seed={seed}) must make a torch.nn.Module; got {quoted(found)}."
        )
    return only_module(found)


def _probes(model: nn.Module, cell: _Cell, loss: Loss | None, seed: int) -> Iterator[Measured]:
    yield _probed(model, cell, loss, seed, type(model).__name__, {"kept": "", "not_understood": 0})
    if cell.twin:
        found = junctions(model, cell.batch)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="shortcut=0 leaves the shortcut")  # the readings say it
            with gains(model, found, shortcut=0):
                yield _probed(model, cell, loss, seed, f"{type(model).__name__} without shortcuts", found.staying)


def _probed(
    model: nn.Module, cell: _Cell, loss: Loss | None, seed: int, design: str, stays: Mapping[str, Any]
) -> Measured:
    names = (*MODEL_SWEEP_QUANTITIES, *(MODEL_SITE_QUANTITIES if cell.sites else ()))
    told = {"study": "sweep", "design": design, "depth": cell.depth, **stays}
    told |= {"gain": "", "edit": "" if model.training else "inference"}  # which the design says
    measured = scope.measure(
        model,
        cell.batch,
        loss,
        seed,
        quantities={name: QUANTITIES[name] for name in names},
        sites=None,
        factors=told | ({} if loss is None else {"cotangent": named_loss(loss)}),
    )
    if (measured.cell["cotangent"] or "").startswith("gaussian"):
        told["cotangent"] = "gaussian"  # the models' own seeds draw it: what differs is no other cell
    blocks = max((site.block for site in measured.sites), default=0)
    sites = list(measured.sites) if cell.sites else [site for site in measured.sites if site.kind == "network"]
    row = {name: value for name, value in measured.cell.items() if name != "cell"} | told | {"blocks": blocks}
    return replace(
        measured,
        cell=cell_of(row),
        sites=sites,
        values={**measured.values, **_over_the_body(measured.values, blocks)},
        statuses={name: status for name, status in measured.statuses.items() if cell.sites},
    )


def _over_the_body(values: Mapping[tuple[Any, ...], Any], blocks: int) -> dict[tuple[str, str], Any]:
    """By how much the norms change over all blocks, from the growth of their squares a block."""
    found: dict[tuple[str, str], Any] = {}
    for way in ("forward", "backward"):
        growth = values.get(("network", f"{way}_growth"))
        if growth is not None and blocks:
            with np.errstate(over="ignore", divide="ignore"):
                found["network", f"{way}_gain"] = np.exp(np.log(np.asarray(growth, np.float64)) * (blocks / 2))
    return found


def _of_networks(part: Readings) -> Readings:
    """What a sweep without `sites` would have measured."""
    return part.where(pl.col("site") == "network")
