"""What meets at the junctions of a model that somebody runs: shortcut, branch and sum, and both parts of the gradient.

Junctions are found in the very pass that is measured, so that no further one is needed. A hook on the block's input
would see the gradient that comes through shortcut and branch together; the parts are what the nodes of autograd that
consume the input hand back, and a node that is on the way of the branch counts for the branch. Such a hook looks at
what is there and changes no bit of it (an alias of the input would change the order of sums of three and more). As for
every gradient there is none where autograd does not follow: inside reentrant checkpoints, and at a first block whose
input requires none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from skipscope.torch.gains import turned_at
from skipscope.torch.junctions import Junction, Junctions, named
from skipscope.torch.provenance import Provenance, Sum
from skipscope.torch.shortcuts import Shortcut, shortcut_of

__all__ = ["Meetings"]

Observe = Callable[[int, Mapping[str, Tensor]], None]
"""(number of the meeting, role -> tensor): as the table of roles in protocol.py; a tensor must not be kept."""

_Part = Literal["shortcut_grad", "branch_grad"]


class Meetings:
    """Looks at every junction of one model while it runs, from `on` to `off`.

    At every junction `observe` is called three times: with `shortcut` and `branch` (gains applied) before they are
    added, with `total` after, and in the backward pass with `shortcut_grad` and `branch_grad`, which add up. What a
    number stands for, and whether it turned out to be a junction at all, says `junctions` after the pass. The same
    place has the same number in every pass.

    Args:
        model: the model.
        observe: what looks.
    """

    def __init__(self, model: nn.Module, observe: Observe) -> None:
        self._model = model
        self._observe = observe
        self._record = Provenance(model, self._adding, finished=self._finished, edges=True)
        self._met: list[Shortcut] = []
        self._numbers: dict[Any, int] = {}
        self._found: Junctions | None = None

    @contextmanager
    def on(self) -> Iterator[None]:
        """Within the context the model's junctions are looked at."""
        self.attach()
        try:
            yield
        finally:
            self.detach()

    def attach(self) -> None:
        """Begin to look."""
        self._record.on()

    def detach(self) -> None:
        """Look no further."""
        self._record.off()

    @property
    def found(self) -> Junctions:
        """The junctions of the last pass of the whole model, or of what was run of it."""
        if self._found is None:
            self._finished()
        assert self._found is not None
        return self._found

    @property
    def junctions(self) -> dict[int, Junction]:
        """number -> junction."""
        return {self._numbers[each.place]: each for each in self.found if each.place in self._numbers}

    # ------------------------------------------------------------------------------------------------ forward

    def _finished(self) -> None:
        self._found, _ = named(self._model, self._record, self._met)
        self._met = []
        self._record.empty()

    def _adding(self, of: Sum) -> Callable[[Tensor], None] | None:
        shortcut = shortcut_of(self._record, of)
        if shortcut is None:
            return None
        self._met.append(shortcut)
        assert of.addition is not None
        if shortcut.doubt:
            return None
        number = self._numbers.setdefault(of.place, len(self._numbers))
        gains = turned_at(self._model, of.place)
        terms, own = of.addition.operands, of.addition.factors
        factors = gains if shortcut.index == 0 else gains[::-1]
        values = [_times(x.detach(), a * b) for x, a, b in zip(terms, factors, own, strict=True)]
        self._observe(number, {"shortcut": values[shortcut.index], "branch": values[1 - shortcut.index]})
        edge, branch = shortcut.source.edge, of.ways[1 - shortcut.index]
        if not torch.is_grad_enabled():
            edge = None

        def after(total: Tensor) -> None:
            self._observe(number, {"total": total.detach()})
            if edge is not None and total.grad_fn is not None:
                self._follow(number, edge, branch, total.grad_fn)

        return after

    # ----------------------------------------------------------------------------------------------- backward

    def _follow(self, number: int, edge: tuple[Any, int], branch: tuple[Any, ...], total: Any) -> None:
        """Hook the nodes that hand back gradients to the block's input."""
        met: set[Any] = set()
        through_branch = [each for way in branch for each in _consumers(way, edge, met)]
        through_shortcut = _consumers(total, edge, met)
        parts = _Parts(number, self._observe, len(through_branch) + len(through_shortcut))
        found: tuple[tuple[_Part, list[tuple[Any, list[int]]]], ...] = (
            ("branch_grad", through_branch),
            ("shortcut_grad", through_shortcut),
        )
        for part, consumers in found:
            for node, places in consumers:
                node.register_hook(parts.hook(part, places))


class _Parts:
    """The parts of the gradient at one junction, until all have come."""

    def __init__(self, number: int, observe: Observe, expected: int) -> None:
        self._number = number
        self._observe = observe
        self._expected = expected
        self._missing = expected
        self._parts: dict[str, Tensor] = {}

    def hook(self, part: _Part, places: list[int]) -> Callable[[Any, Any], None]:
        """What a node calls with the gradients that it hands back."""

        def arrived(handed_back: tuple[Tensor | None, ...], received: Any) -> None:
            with torch.no_grad():
                for place in places:
                    gradient = handed_back[place]
                    if gradient is not None:
                        gradient = gradient.detach()
                        self._parts[part] = self._parts[part] + gradient if part in self._parts else gradient
                self._missing -= 1
                if self._missing == 0:
                    self._complete()

        return arrived

    def _complete(self) -> None:
        parts, self._parts, self._missing = self._parts, {}, self._expected
        if parts:
            for part in ("shortcut_grad", "branch_grad"):
                if part not in parts:  # nothing came that way
                    parts[part] = torch.zeros_like(next(iter(parts.values())))
            self._observe(self._number, parts)


def _consumers(start: Any, edge: tuple[Any, int], met: set[Any]) -> list[tuple[Any, list[int]]]:
    """The nodes of autograd, from `start` back, that hand a gradient to an edge, each with the places where it does."""
    source, output = edge
    first = source._sequence_nr()
    found: list[tuple[Any, list[int]]] = []
    waiting = [start] if start is not None and start is not source else []
    while waiting:
        node = waiting.pop()
        if node in met:
            continue
        met.add(node)
        following = node.next_functions
        places = [index for index, (other, at) in enumerate(following) if other is source and at == output]
        if places:
            found.append((node, places))
        for other, _ in following:
            # What was made before the input does not lead to it; a leaf has no number, and leads nowhere.
            if other is None or other is source or other in met or not other.next_functions:
                continue
            if other._sequence_nr() > first or not source.next_functions:
                waiting.append(other)
    return found


def _times(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x * factor
