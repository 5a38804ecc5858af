"""Study `lesion` of a model of one's own: each of its branches taken out, by itself, and what that costs.

Every junction's branch has the gain 0 in turn, so that the block hands on its shortcut alone; nothing is trained again.
The model is run in evaluation mode (running statistics, no dropout), whatever mode it is in, and given back as it was.
What the readings say is in `skipscope.absences`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skipscope.errors import InputError, quoted
from skipscope.probe import Measured, cell_of
from skipscope.protocol import Site
from skipscope.readings import Readings
from skipscope.torch.gains import gains
from skipscope.torch.junctions import Junction, Junctions
from skipscope.torch.keeping import only_module
from skipscope.torch.steps import arguments
from skipscope.torch_studies.batches import (
    Loss,
    each_batch,
    in_inference,
    loss_of,
    named_loss,
    require_functions,
    samples_of,
    shortcuts_of,
)

__all__ = ["MODEL_LESION_QUANTITIES", "lesion"]

MODEL_LESION_QUANTITIES = ("test_loss", "test_error", "spoilt", "mended", "answers", "guess_error")
"""What is measured of a batch, at the site of the junction whose branch is taken out or at `network`.

`test_loss` is the loss; `test_error` the share of wrong answers; `spoilt` and `mended` are the shares of answers that
are wrong without the branch alone, and with it alone (their difference is the rise of the error); `answers` is how many
there are. `guess_error`, at `network` and the same for every batch, is the error on all of them of whoever always
answers their commonest class.
"""

Accuracy = Callable[[Any, Any], Tensor]
Values = dict[tuple[str, str], float]


def lesion(
    model: nn.Module,
    batches: Any,
    *,
    loss: Loss | None = None,
    accuracy: Accuracy | None = None,
    at: str | Iterable[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Readings:
    """Measure loss and error of a model without each of its branches.

    Args:
        model: a model that has been trained.
        batches: one batch as `skipscope.probe` takes it, or several, gone through once: a list of batches, or a loader.
        loss: `loss(output, batch)`, the mean over the batch; without one the model's own.
        accuracy: `accuracy(output, batch)` says of every answer whether it is right, as a tensor of truth values;
            without one an answer is the class of the largest output, if the batch is a pair of inputs and whole
            numbers. Where there are no answers there is the loss alone.
        at: names of the junctions whose branches are taken out, shell patterns allowed; None is all.
        progress: called with how many batches are done, and how many there are in all, as far as is known.

    Returns:
        Readings with the factors `done` (`"nothing"`, `"one deleted"`) and `part`, the batch from 1; see
        `MODEL_LESION_QUANTITIES`.

    Raises:
        InputError: the model has no junctions, `at` names none, or batches, loss or accuracy make no sense.
    """
    model = only_module(model)
    require_functions(loss=loss, accuracy=accuracy, progress=progress)
    count = len(batches) if isinstance(batches, Sized) and not isinstance(batches, Tensor | tuple | Mapping) else 1
    seen: list[_Seen] = []
    found: Junctions | None = None
    chosen: tuple[Junction, ...] = ()
    with in_inference(model):
        for batch in each_batch(batches):
            if found is None:
                found = shortcuts_of(model, batch)
                chosen = found.at(at)
            seen.append(_seen(model, batch, found, chosen, loss, accuracy))
            if progress is not None:
                progress(len(seen), max(count, len(seen)))
    device = ", ".join(sorted({str(parameter.device) for parameter in model.parameters()})) or "cpu"
    parts = _told(model, seen, chosen, loss)
    return Readings.concat(
        replace(each, notes={"torch": torch.__version__, "device": device}).readings() for each in parts
    )


@dataclass(frozen=True)
class _Seen:
    """What was seen of a batch.

    Attributes:
        samples: how many there are.
        values: with nothing done and without each branch.
        classes: how often each class is right; empty where answers are not of classes.
    """

    samples: int
    values: Values
    classes: Counter[int]


def _seen(
    model: nn.Module,
    batch: Any,
    found: Junctions,
    chosen: Sequence[Junction],
    loss: Loss | None,
    accuracy: Accuracy | None,
) -> _Seen:
    args, kwargs = arguments(batch)
    intact, right = _scored(model(*args, **kwargs), batch, loss, accuracy)
    values: Values = {("network", name): value for name, value in intact.items()}
    with gains(model, found):
        for junction in chosen:
            with gains(model, found, branch=0, at=junction.name):
                lost, still = _scored(model(*args, **kwargs), batch, loss, accuracy)
            values |= {(junction.name, name): value for name, value in lost.items() if name != "answers"}
            if right is not None and still is not None:
                _require_alike(right, still)
                values[junction.name, "spoilt"] = float((right & ~still).double().mean())
                values[junction.name, "mended"] = float((~right & still).double().mean())
    classes = Counter(batch[1].flatten().tolist()) if accuracy is None and right is not None else Counter()
    return _Seen(samples_of(batch), values, classes)


def _scored(
    output: Any, batch: Any, loss: Loss | None, accuracy: Callable[[Any, Any], Any] | None
) -> tuple[dict[str, float], Tensor | None]:
    """Loss and error of a batch, and which answers are right."""
    values = {"test_loss": float(loss_of(output, batch, loss))}
    right: Any = _by_argmax(output, batch) if accuracy is None else accuracy(output, batch)
    if accuracy is None and right is None:
        return values, None
    if not isinstance(right, Tensor) or right.dtype != torch.bool or not right.numel():
        got = f"{right.dtype} of shape {tuple(right.shape)}" if isinstance(right, Tensor) else quoted(right)
        raise InputError(
            "accuracy must give a tensor of truth values, one an answer, e.g. "
            f"lambda output, batch: output.argmax(1) == batch[1]; got {got}."
        )
    return {**values, "test_error": 1 - float(right.double().mean()), "answers": float(right.numel())}, right


def _require_alike(right: Tensor, still: Tensor) -> None:
    """Whether the answers with a branch and without it can be compared one by one.

    Raises:
        InputError: they are not as many.
    """
    if right.shape != still.shape:
        raise InputError(
            f"accuracy gives truth values of shape {tuple(right.shape)} with all branches, and {tuple(still.shape)} "
            "without one: make it give one for every answer, whatever the model's output is."
        )


def _by_argmax(output: Any, batch: Any) -> Tensor | None:
    """Which answers are right, where outputs are scores of classes, along axis 1, and targets are whole numbers."""
    scores = getattr(output, "logits", output)
    if not isinstance(batch, list | tuple) or len(batch) != 2 or not isinstance(scores, Tensor) or scores.ndim < 2:
        return None
    targets = batch[1]
    whole = isinstance(targets, Tensor) and not (targets.is_floating_point() or targets.is_complex())
    answers = scores.argmax(dim=1)
    return answers == targets if whole and targets.shape == answers.shape else None


def _told(model: nn.Module, seen: Sequence[_Seen], chosen: Sequence[Junction], loss: Loss | None) -> Iterator[Measured]:
    """The readings of every batch: with nothing done, and with each branch taken out."""
    network = Site("network", len(chosen), 0, "network", "the network as a whole")
    places = [
        Site(each.name, order, 0, "junction", f"{each.kind} + {each.branch}", block=each.order + 1)
        for order, each in enumerate(chosen)
    ]
    classes = sum((each.classes for each in seen), Counter())
    guess = {("network", "guess_error"): 1 - max(classes.values()) / classes.total()} if classes else {}
    for part, one in enumerate(seen, start=1):
        told = {"study": "lesion", "design": type(model).__name__, "batch": one.samples, "batch_number": part}
        told |= {"cotangent": "", "data": f"{len(seen)} batches", "loss": named_loss(loss)}
        intact = {key: value for key, value in one.values.items() if key[0] == "network"} | guess
        rest = {key: value for key, value in one.values.items() if key[0] != "network"}
        yield _cell([network], intact, {**told, "done": "nothing", "edit": "inference"})
        yield _cell(places, rest, {**told, "done": "one deleted", "edit": "inference, the site's branch taken out"})


def _cell(sites: Sequence[Site], values: Values, told: Mapping[str, Any]) -> Measured:
    arrays = {key: np.array([value]) for key, value in values.items()}
    return Measured(cell_of({"depth": 0, **told}), sites, (0,), arrays)
