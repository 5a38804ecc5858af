"""A model that has been listened to before, heard again through hooks on those modules alone that are measured.

The first step told which modules are called, in which order, and by which names. From then on a hook stands at what is
reported and nowhere else, and it need not find out where it stands. What is run need not be the same each time: a call
that the first step did not have is counted, one that is missing has no reading, and after either the next step is
listened to in full again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skipscope.moments import Field
from skipscope.torch.listening import PUSHED, inputs_of, is_measurable, is_recomputed, tensors_of
from skipscope.torch.log import Heard, Hook, Log

__all__ = ["Replay", "wanting"]


class Replay:
    """Hears what a first step told to be worth hearing, from `on` to `off`.

    Attributes:
        strange: calls that the first step did not have, in this step.
    """

    def __init__(self, model: nn.Module, log: Log, heard: Sequence[Heard]) -> None:
        self._model = model
        self._log = log
        self._handles: list[Any] = []
        self.strange = 0
        self._inputs = {each.path: each for each in heard if each.into is model}
        entries = [each for each in heard if each.into is not None and each.into is not model and each.wants]
        wanted = {id(each.module) for each in heard if each.wants}
        outputs: dict[nn.Module, list[Heard]] = defaultdict(list)
        for each in heard:
            if each.module is not None and id(each.module) in wanted:
                outputs[each.module].append(each)
        self._hooked = [*self._inputs.values(), *entries, *(each for known in outputs.values() for each in known)]
        self._before = [(each.into, Hook(_Entry(log, each).given)) for each in entries if each.into is not None]
        self._after = [(module, Hook(_After(self, log, known))) for module, known in outputs.items()]

    @staticmethod
    def possible(model: nn.Module, heard: Sequence[Heard]) -> bool:
        """Whether all that is wanted comes from modules that stand in one place, by which they are known."""
        places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
        return all(places[id(each.module or each.into)] == 1 for each in heard if each.wants)

    def on(self) -> None:
        """Attach the hooks."""
        self.strange = 0
        self._handles.append(self._model.register_forward_pre_hook(Hook(self._begin), with_kwargs=True))
        for module, before in self._before:
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        for module, after in self._after:
            self._handles.append(module.register_forward_hook(after))

    def off(self) -> None:
        """Remove every hook that is left."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def attached(self) -> bool:
        """Whether there are hooks."""
        return bool(self._handles)

    def missed(self) -> list[Heard]:
        """What should have been heard in this step, and was not."""
        return [each for each in self._hooked if each.step != self._log.step]

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if is_recomputed():
            return
        inputs = list(tensors_of((args, kwargs), every=True))
        self._log.begin([x for _, x in inputs])
        for path, x in inputs_of(inputs):
            if path in self._inputs:
                self._log.hear(self._inputs[path], x)
            else:
                self.strange += 1


class _Entry:
    """What the first block is given, once a pass."""

    def __init__(self, log: Log, heard: Heard) -> None:
        self._log, self._heard, self._turn = log, heard, -1

    def given(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The module is called."""
        if is_recomputed() or self._turn == self._log.turn:
            return
        x = next((x for _, x in tensors_of((args, kwargs))), None)
        if x is not None and x.is_floating_point():
            self._turn = self._log.turn
            self._log.hear(self._heard, x)


class _After:
    """After a module was called: what it handed on."""

    def __init__(self, replay: Replay, log: Log, known: Sequence[Heard]) -> None:
        self._replay, self._log = replay, log
        self._known = {(each.path, each.call): each for each in known}
        self._name = known[0].name
        self._turn, self._calls = -1, 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The module was called."""
        log = self._log
        if is_recomputed():
            if torch.is_grad_enabled():
                log.recomputed(self._name, [x for _, x in tensors_of(output) if is_measurable(x)])
            return
        if self._turn != log.turn:
            self._turn, self._calls = log.turn, 0
        call = self._calls
        self._calls = call + 1
        if isinstance(output, Tensor):
            found = [("", output)] if is_measurable(output) else []
        else:
            found = [(path, x) for path, x in tensors_of(output) if is_measurable(x)]
        for path, x in found:
            heard = self._known.get((path if len(found) > 1 else "", call))
            if heard is None:
                self._replay.strange += 1
            elif heard.wants:
                log.hear(heard, x)
            else:
                heard.step = log.step


def wanting(heard: Sequence[Heard], fields: Mapping[str, Mapping[str, Collection[Field]]]) -> None:
    """From now on these sums are wanted, by site and role, and no others."""
    for each in heard:
        here = fields.get(each.site, {})
        each.wants = {role: tuple(here[role]) for role in PUSHED if role in here}
