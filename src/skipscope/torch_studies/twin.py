"""Study `twin` of a model of one's own: what it would do without its shortcuts.

The twin is the model with the gain 0 at every shortcut: the same weights, the same batches. Both are probed on each
batch; and, for a number of steps, copies of both are trained, from these weights on the same batches in the same order.
What the readings say is in `skipscope.twins`.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from skipscope.errors import InputError, as_list, quoted, require_int, require_number
from skipscope.probe import Measured, cell_of, probe
from skipscope.protocol import Site
from skipscope.quantities import QUANTITIES
from skipscope.readings import Readings
from skipscope.torch.gains import gains
from skipscope.torch.junctions import Junctions, junctions
from skipscope.torch.keeping import only_module, random_state, restore_random_state
from skipscope.torch.steps import arguments
from skipscope.torch_studies.batches import (
    Loss,
    each_batch,
    loss_of,
    named_loss,
    optimizer_of,
    require_functions,
    reseed,
    samples_of,
    shortcuts_of,
)

__all__ = ["TWIN_QUANTITIES", "twin"]

TWIN_QUANTITIES = (
    "activation_rms",
    "activation_grad_norm",
    "weight_grad_norm",
    "activation_nonfinite",
    "activation_grad_nonfinite",
    *(f"{way}_growth{end}" for way in ("forward", "backward") for end in ("", "_low", "_high")),
    "gradient_norm",
    "loss",
)
"""What `twin` measures of a model as it is and without its shortcuts, of `QUANTITIES`."""

AS_IS, WITHOUT = "as it is", "without shortcuts"

_NETWORK = Site("network", 0, 0, "network", "the network as a whole")


def twin(
    model: nn.Module,
    batches: Any,
    *,
    loss: Loss | None = None,
    seed: int = 0,
    probes: int = 8,
    steps: int = 0,
    rate: float = 0.01,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    sites: str | Iterable[str] | None = None,
) -> Readings:
    """Measure a model with and without its shortcuts: gradient flow, and training loss over a short run.

    The model is given back as it was, to the bit. What stays in the twin is told in two columns: `kept` names the
    shortcuts that cannot be removed without breaking shapes, and `not_understood` counts the additions that look like
    one and cannot be told.

    Args:
        model: any module, in the mode in which it is to be probed.
        batches: one batch as `skipscope.probe` takes it, or several: a list of batches, or a loader.
        loss: `loss(output, batch)`; without one the model's own, and for the gradient flow alone a Gaussian cotangent.
        seed: draws the cotangent, and whatever the model draws while it is trained.
        probes: how many of the batches are probed, from the first; the batch is the unit that is paired.
        steps: steps of training; 0 is none. Batches come in their order, again and again if they are fewer.
        rate: the learning rate of stochastic gradient descent with momentum 0.9.
        optimizer: makes an optimizer of the parameters, in place of that.
        sites: patterns of the sites to report, as for `skipscope.probe`; the blocks are reported in any case.

    Returns:
        Readings with the factors `done` (`"as it is"`, `"without shortcuts"`), `part` (the batch, from 1; null where it
        is trained), `removed` (how many shortcuts the twin lacks), `kept` and `not_understood`. Of the flow,
        `TWIN_QUANTITIES`; of training, `loss` by `step`, in training mode before the step's update, with `steps` and
        `optimizer` as further factors, and at the last step, of copies as they are then, the `loss` of every batch (the
        `call`).

    Raises:
        InputError: the model has no shortcuts, or batches, loss or a number make no sense.
    """
    model = only_module(model)
    require_functions(loss=loss, optimizer=optimizer)
    seed = require_int("seed", seed, least=0)
    probes, steps = require_int("probes", probes, least=1), require_int("steps", steps, least=0)
    made = _optimizer(require_number("rate", rate)) if optimizer is None else optimizer
    state = random_state(model)
    try:
        reseed(seed)  # in what order a loader shuffles
        held = list(islice(each_batch(batches), max(probes, steps)))
    finally:
        restore_random_state(state)
    found = shortcuts_of(model, held[0])
    kept = [each.name for each in found if not each.removable]
    if len(kept) == len(found):
        raise InputError(
            f"model: none of the shortcuts at {', '.join(kept)} can be removed: the branches are broadcast."
        )
    told = {"study": "twin", **found.staying, "edit": "" if model.training else "inference"}
    how: dict[str, Any] = {"loss": loss, "seed": seed}
    how["sites"] = None if sites is None else [*as_list(sites), *_body(model, held[0], how)]
    parts = [
        _probed(model, found, batch, {**told, **_told(found, kept, done), "batch_number": part}, how)
        for part, batch in enumerate(held[:probes], start=1)
        for done in (AS_IS, WITHOUT)
    ]
    if steps:
        try:
            parts += _trained(model, found, held, loss, made, steps=steps, seed=seed, told=told, kept=kept)
        finally:
            restore_random_state(state)
    return Readings.concat(parts)


def _body(model: nn.Module, batch: Any, how: Mapping[str, Any]) -> list[str]:
    """The sites by which it is told how signal and gradient change over the body."""
    sites = probe(model, batch, quantities={"parameters": QUANTITIES["parameters"]}, **how).sites
    return [*sites.filter((pl.col("block") > 0) | (pl.col("kind") == "network"))["site"]]


def _told(found: Junctions, kept: Sequence[str], done: str) -> dict[str, Any]:
    removed = len(found) - len(kept) if done == WITHOUT else 0
    return {"done": done, "removed": removed, "gain": "0, 1" if removed else "1, 1"}


@contextmanager
def _turned(model: nn.Module, found: Junctions, done: str) -> Iterator[None]:
    """The model as it is, or without its shortcuts."""
    with warnings.catch_warnings(), ExitStack() as stack:
        # Which ones stay is said in the readings.
        warnings.filterwarnings("ignore", message="shortcut=0 leaves the shortcut")
        stack.enter_context(nullcontext() if done == AS_IS else gains(model, found, shortcut=0))
        yield


def _probed(
    model: nn.Module, found: Junctions, batch: Any, factors: Mapping[str, Any], how: Mapping[str, Any]
) -> Readings:
    quantities = {name: QUANTITIES[name] for name in TWIN_QUANTITIES}
    with _turned(model, found, str(factors["done"])):
        return probe(model, batch, quantities=quantities, factors=factors, **how)


# ------------------------------------------------------------------------------------------------------- short training


def _optimizer(rate: float) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    if rate <= 0:
        raise InputError(f"rate must be above 0; got {quoted(rate)}.")

    def made(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9)

    return made


class _Run:
    """A copy of the model that is being trained.

    Attributes:
        losses: by step, before its update.
        stopped: whether a loss was no finite number.
    """

    def __init__(self, model: nn.Module, made: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]) -> None:
        self.model = copy.deepcopy(model)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not trained:
            raise InputError("model: no parameter requires a gradient, so there is nothing to train: leave steps at 0.")
        self.optimizer = optimizer_of(made, trained)
        self.losses: list[float] = []
        self.stopped = False

    def step(self, batch: Any, loss: Loss | None) -> None:
        """One step, unless the run has stopped."""
        if self.stopped:
            return
        self.optimizer.zero_grad()
        with torch.enable_grad():
            value = self.loss(batch, loss)
            self.losses.append(float(value.detach()))
            self.stopped = not math.isfinite(self.losses[-1])
            if not self.stopped:
                torch.autograd.backward(value)
                self.optimizer.step()

    def loss(self, batch: Any, loss: Loss | None) -> torch.Tensor:
        """The loss of a batch, now."""
        args, kwargs = arguments(batch)
        return loss_of(self.model(*args, **kwargs), batch, loss)


def _trained(
    model: nn.Module,
    found: Junctions,
    held: Sequence[Any],
    loss: Loss | None,
    made: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    *,
    steps: int,
    seed: int,
    told: Mapping[str, Any],
    kept: Sequence[str],
) -> list[Readings]:
    """Both trained side by side, so that each step sees the same batch, and draws alike."""
    runs = {done: _Run(model, made) for done in (AS_IS, WITHOUT)}
    # Of the copy itself, and in the mode that it was given in: `torch.fx` writes the code of every copy anew.
    copied = junctions(runs[WITHOUT].model, held[0])
    for run in runs.values():
        run.model.train()
    last: dict[str, list[float]] = {}
    with _turned(runs[WITHOUT].model, copied, WITHOUT):
        for step in range(steps):
            for run in runs.values():
                reseed(seed, step)
                run.step(held[step % len(held)], loss)
        for done, run in runs.items():
            last[done] = [] if run.stopped else [_after(run, batch, loss, seed, steps) for batch in held]
    cell = {
        **told,
        "edit": "",  # it is trained in training mode, whatever mode it was given in
        "design": type(model).__name__,
        "depth": 0,
        "batch": samples_of(held[0]),
        "cotangent": named_loss(loss),
        "data": f"{len(held)} batches",
        "steps": steps,
        "optimizer": _described(runs[AS_IS].optimizer),
    }
    return [
        _losses({**cell, **_told(found, kept, done)}, run.losses, last[done], steps=steps, seed=seed)
        for done, run in runs.items()
    ]


def _after(run: _Run, batch: Any, loss: Loss | None, seed: int, steps: int) -> float:
    reseed(seed, steps)
    with torch.no_grad():
        return float(run.loss(batch, loss))


def _losses(cell: Mapping[str, Any], losses: list[float], last: list[float], *, steps: int, seed: int) -> Readings:
    """The losses of a run by step, and those of every batch after it."""
    one = Measured(cell_of(cell), [_NETWORK], (seed,), {("network", "loss"): np.array(losses[:1])}).readings()
    rows = pl.DataFrame(
        {
            "step": [*range(len(losses)), *[steps] * len(last)],
            "call": [*[0] * len(losses), *range(len(last))],
            "value": [*losses, *last],
        },
        schema={"step": pl.Int64, "call": pl.Int64, "value": pl.Float64},
    )
    named = one.rows.select("cell", "seed", "site", "quantity")
    whole = named.join(rows, how="cross").select(one.rows.columns)
    return Readings(rows=whole, cells=one.cells, sites=one.sites, meta=one.meta)


def _described(optimizer: torch.optim.Optimizer) -> str:
    rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(float(group["lr"]) for group in optimizer.param_groups))
    return f"{type(optimizer).__name__}, rate {rates}"
