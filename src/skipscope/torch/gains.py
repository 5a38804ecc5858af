"""Junctions of a user's model turned like knobs: a shortcut at 0 is the plain twin, a branch at 0 a lesion.

Within `gains(model, batch, shortcut=0)` the additions that were found beforehand are computed with other weights, by a
mode of PyTorch that is on while the model runs; the gradient follows, since autograd sees what is computed. Code and
parameters stay as they are, and where both gains are 1 the model's own addition is called. What activation checkpoints
compute again in the backward pass is re-weighted too, if that is run within the context.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from skipscope.errors import require_number
from skipscope.torch.calls import Addition, Calls, Place, addition
from skipscope.torch.junctions import Junction, Junctions, junctions
from skipscope.torch.keeping import eager, only_module, unwrapped
from skipscope.torch.shortcuts import broadcast
from skipscope.torch.steps import arguments

__all__ = ["Turned", "gains", "told", "turned_at"]


@dataclass(frozen=True)
class Turned:
    """What a context of `gains` re-weights.

    Attributes:
        junctions: the junctions that were chosen.
        kept: the names of those whose shortcut was to be removed and is not, since the branch alone has another shape.
            (Where a branch is added to the sum of the same input with another, the shortcut's gain acts on that sum.)
    """

    junctions: tuple[Junction, ...]
    kept: tuple[str, ...]


@contextmanager
def gains(
    model: nn.Module,
    batch: Any,
    *,
    shortcut: float = 1.0,
    branch: float = 1.0,
    at: str | Iterable[str] | None = None,
) -> Iterator[Turned]:
    """Within the context junctions are re-weighted, forward and backward: `shortcut * x + branch * f(x)`.

    Works in training and inference, for batches of other shapes and under autocast; contexts of one model inside each
    other multiply. The model has to be called as `model(x)`.

    Args:
        model: any module.
        batch: as for `junctions`, which are found with it; or what that has given for this model, or for one that is
            built and written alike, as its copies are.
        shortcut: what shortcuts are multiplied by; 0 removes them.
        branch: what branches are multiplied by; 0 removes them.
        at: names of junctions, shell patterns allowed; None is all.

    Raises:
        InputError: a gain is not a finite number, `at` names no junction, the junctions are another model's, or the
            model cannot be run by one process.
    """
    factors = require_number("shortcut", shortcut), require_number("branch", branch)
    inner = only_module(model)
    if isinstance(batch, Junctions):
        batch.require_of(inner)
    turning = _ACTIVE.get(id(inner))
    if turning is not None:
        if not isinstance(batch, Junctions):
            arguments(batch)  # says what is wrong with it, though the junctions are known
        with turning.turned(at, factors) as turned:
            yield turned
        return
    turning = _Turning(inner, batch if isinstance(batch, Junctions) else junctions(model, batch))
    with turning.turned(at, factors) as turned, turning.on(), eager():
        yield turned


def turned_at(model: nn.Module, place: Place) -> tuple[float, float]:
    """The gains of the shortcut and the branch of a junction at this moment."""
    turning = _ACTIVE.get(id(unwrapped(model)))
    return (1.0, 1.0) if turning is None else turning.factors_at(place)[1]


def told(model: nn.Module) -> tuple[str, str]:
    """The gains at this moment: of every junction that has others than 1, as `0, 1 at b.0, b.1`; and in short."""
    turning = _ACTIVE.get(id(unwrapped(model)))
    if turning is None:
        return "", ""
    groups, count = turning.groups()
    if not groups:
        return "", ""
    if len(groups) == 1 and count == len(next(iter(groups.values()))):
        ((shortcut, branch),) = groups
        return f"{shortcut:g}, {branch:g}", f"shortcuts times {shortcut:g}, branches times {branch:g}"
    listed = [f"{shortcut:g}, {branch:g} at {', '.join(names)}" for (shortcut, branch), names in groups.items()]
    short = [
        f"shortcut times {shortcut:g}, branch times {branch:g} at "
        + (", ".join(names) if len(names) <= 4 else f"{len(names)} junctions")
        for (shortcut, branch), names in groups.items()
    ]
    return "; ".join(listed), "; ".join(short)


class _Turning(TorchFunctionMode):
    """Computes the junctions of one model with the gains that they have at the moment."""

    def __init__(self, model: nn.Module, found: Junctions) -> None:
        super().__init__()
        self._model = model
        self._found = found
        self._calls = Calls(model, self, lambda module, given: True, first=True)
        self._factors: dict[str, tuple[float, float]] = {}
        self._known: dict[Place, dict[int, Junction]] = defaultdict(dict)
        for junction in found:
            self._known[replace(junction.place, number=0)][junction.call] = junction

    @contextmanager
    def on(self) -> Iterator[None]:
        """Within the context the model is run under this mode."""
        _ACTIVE[id(self._model)] = self
        self._calls.on()
        try:
            yield
        finally:
            self._calls.off()
            del _ACTIVE[id(self._model)]

    @contextmanager
    def turned(self, at: str | Iterable[str] | None, factors: tuple[float, float]) -> Iterator[Turned]:
        """Within the context the gains of the chosen junctions are what they were times these."""
        if factors != (1.0, 1.0):
            self._found.require_some()
        chosen = self._found.at(at)
        kept = tuple(each.name for each in chosen if factors[0] == 0 and not each.removable)
        if kept:
            warnings.warn(
                f"shortcut=0 leaves the shortcut at {', '.join(kept)}: the branch there is broadcast, and has another "
                "shape than the sum.",
                stacklevel=5,
            )
        before = dict(self._factors)
        for each in chosen:
            old = before.get(each.name, (1.0, 1.0))
            first = old[0] if each.name in kept or each.continues else old[0] * factors[0]
            self._factors[each.name] = first, old[1] * factors[1]
        try:
            yield Turned(chosen, kept)
        finally:
            self._factors = before

    def groups(self) -> tuple[dict[tuple[float, float], list[str]], int]:
        """The junctions whose gains are not 1, by gains, in order; and how many junctions there are."""
        found: dict[tuple[float, float], list[str]] = defaultdict(list)
        for junction in self._found:
            factors = self._factors.get(junction.name, (1.0, 1.0))
            if factors != (1.0, 1.0):
                found[factors].append(junction.name)
        return found, len(self._found)

    def factors_at(self, place: Place) -> tuple[Junction | None, tuple[float, float]]:
        """The junction at a place, and its gains; of a call beyond those that were found, those of the last found."""
        calls = self._known.get(replace(place, number=0))
        if not calls:
            return None, (1.0, 1.0)
        junction = calls.get(place.number) or calls[max(calls)]
        return junction, self._factors.get(junction.name, (1.0, 1.0))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Let the operation happen, or the re-weighted one in its place."""
        kwargs = kwargs or {}
        adding = addition(func, args, kwargs)
        if adding is not None:
            junction, factors = self.factors_at(self._calls.place())
            if junction is not None and factors != (1.0, 1.0):
                return _reweighted(adding, factors if junction.operand == 0 else factors[::-1])
        return func(*args, **kwargs)


_ACTIVE: dict[int, _Turning] = {}


def _reweighted(adding: Addition, factors: tuple[float, float]) -> Tensor:
    """The sum with these factors of its operands, in their order; a term whose factor is 0 is left out."""
    a, b = adding.operands
    first, second = (gain * own for gain, own in zip(factors, adding.factors, strict=True))
    if adding.target is not None and adding.target is not a:
        total = _reweighted(replace(adding, target=None), factors)
        return adding.target.copy_(total)
    if adding.in_place:
        if first == 0:
            return a.zero_() if second == 0 else a.copy_(_times(b, second))
        a = a if first == 1 else a.mul_(first)
        return a if second == 0 else a.add_(_times(b, second))
    # As in the addition itself: what comes after sees the type and the shape that it always sees.
    shape, dtype = torch.Size(broadcast(a.shape, b.shape)), torch.result_type(a, b)
    if first == 0 and second == 0:
        return torch.zeros(shape, dtype=dtype, device=a.device)
    if first == 0 or second == 0:
        term, factor = (b, second) if first == 0 else (a, first)
        term = _times(term, factor).to(dtype)
        # A tensor of its own, since what comes after may write on it.
        return term.clone() if term.shape == shape else term.expand(shape).contiguous()
    return _times(a, first) + _times(b, second)


def _times(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x * factor
