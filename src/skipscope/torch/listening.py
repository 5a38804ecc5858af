"""What is heard of a model that is listened to for the first time: which module was called when, and what it handed on.

A forward hook on every module looks at its output the moment it exists: not a full backward hook, which changes the
path (in-place operations fail under it) and misses dicts. A call is named by where it stands, block by block, so that
one module that serves many places has many names; a module called again in one place has further calls. What
checkpointing computes again in the backward pass is heard once. What is heard goes into the `log`; what the model
turned out to be is what `replaying` goes by in the steps that follow, with fewer hooks.

Hooks return None, write nothing on modules, and are gone after `Listener.off`; a copy of a model that is listened to
(deepcopy, pickle) has hooks that do nothing.
"""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from skipscope.moments import Field
from skipscope.torch.log import Heard, Hook, Log
from skipscope.torch.names import Names, apart, free

__all__ = [
    "PUSHED",
    "Listener",
    "activation_of",
    "inputs_of",
    "is_measurable",
    "is_recomputed",
    "is_weight_layer",
    "tensors_of",
]

Wants = Callable[[str, str, str, bool], Collection[Field] | None]
"""(site, role, activation, whether it is an end of the model) -> what to sum, None for nothing."""

_CONVOLUTION = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
_FEATURES_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.RNNBase, nn.MultiheadAttention)


@dataclass(eq=False)
class _Frame:
    """A call that has begun and not ended."""

    module: nn.Module
    name: str
    entered: tuple[int, ...]
    met: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))


class Listener:
    """Hears one model through hooks on every module, from `on` to `off`.

    Attributes:
        heard: everything in order of execution, over the first pass; further passes (micro-batches) add to it.
        silent: names of calls without a floating-point tensor in their output.
        called: the modules that were called, by id, with the name of their first call.
        depth: weight layers passed.
    """

    def __init__(self, model: nn.Module, log: Log, wants: Wants, *, first_of: Collection[nn.Module] = ()) -> None:
        self._model = model
        self._log = log
        self._wants = wants
        self._first_of = {id(module) for module in first_of}
        self._entered: set[int] = set()
        self._names = Names(model)
        self._input, self._output = free("input", model), free("output", model)
        self._handles: list[Any] = []
        self._stack: list[_Frame] = []
        self._calls: Counter[str] = Counter()
        self._known: dict[tuple[str, int], Heard] = {}
        self._recent: dict[int, tuple[weakref.ref[Tensor], int, Heard]] = {}
        self._channels_first = False
        self.depth = 0
        self.heard: list[Heard] = []
        self.silent: list[str] = []
        self.called: dict[int, str] = {}

    # ------------------------------------------------------------------------------------------------ on and off

    def on(self) -> None:
        """Attach the hooks."""
        before, after = Hook(self._before), Hook(self._after)
        for name, module in self._model.named_modules():
            if _is_wrapper(module) or "parametrizations" in name.split("."):
                continue  # the latter makes a weight, and no activation
            # First to see what comes in, last to see what goes out: as the module's neighbours see it.
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            self._handles.append(module.register_forward_hook(after))

    def off(self) -> None:
        """Remove every hook that is left."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._stack.clear()
        self._recent.clear()

    @property
    def attached(self) -> bool:
        """Whether there are hooks."""
        return bool(self._handles)

    # ---------------------------------------------------------------------------------------------- forward hooks

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        again = is_recomputed()
        if module is self._model and not again:
            self._begin(args, kwargs)
        given = next((x for _, x in tensors_of((args, kwargs))), None)
        name = self._names.of(module, self._stack[-1] if self._stack else None)
        frame = _Frame(module, name, () if given is None else tuple(given.shape))
        self._stack.append(frame)
        first = id(module) in self._first_of and id(module) not in self._entered
        if first and given is not None and not again and given.is_floating_point():
            self._entered.add(id(module))
            self._hear(f"{frame.name}.{free('input', module)}", None, "", given, frame.entered, 0, into=module)

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._stack.clear()
        self._calls.clear()
        self._entered.clear()
        self.depth = 0
        inputs = list(tensors_of((args, kwargs), every=True))
        self._log.begin([x for _, x in inputs])
        for path, x in inputs_of(inputs):
            self._hear(self._input, None, path, x, (), 0, into=self._model)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        frame = self._ended(module)
        name = apart(frame.name) or self._output
        if is_recomputed():
            if torch.is_grad_enabled():
                self._log.recomputed(name, [x for _, x in tensors_of(output) if is_measurable(x)])
            return
        if is_weight_layer(module):
            self.depth += 1
        if isinstance(module, _CONVOLUTION):
            self._channels_first = True
        elif isinstance(module, _FEATURES_LAST):
            self._channels_first = False
        self.called.setdefault(id(module), frame.name)
        if _is_container(module) and module is not self._model:
            return
        call = self._calls[name]
        self._calls[name] += 1
        found = [(path, x) for path, x in tensors_of(output) if is_measurable(x)]
        if not found:
            self.silent.append(name)
        for path, x in found:
            self._hear(name, module, path if len(found) > 1 else "", x, frame.entered, call)

    def _ended(self, module: nn.Module) -> _Frame:
        """The frame of the call that ends; calls that an exception ended before it are gone."""
        while self._stack:
            frame = self._stack.pop()
            if frame.module is module:
                return frame
        return _Frame(
            module, self._names.of(module, None), ()
        )  # the model's own call was not heard, e.g. model.forward(x)

    # ---------------------------------------------------------------------------------------------- what was heard

    def _hear(
        self,
        name: str,
        module: nn.Module | None,
        path: str,
        x: Tensor,
        entered: tuple[int, ...],
        call: int,
        *,
        into: nn.Module | None = None,
    ) -> None:
        heard = self._known.get((f"{name}{path}", call))
        if heard is None:
            heard = Heard(f"{name}{path}", call, len(self.heard), self.depth, module, path=path)
            heard.kind, heard.into, heard.entered = "input" if module is None else "module", into, entered
            self._met(heard, x)
        if heard.same is not None:
            if _covers(heard.same.wants, heard.wants):
                heard.step = self._log.step
                self._log.graded |= x.requires_grad
                return
            heard.same = None  # what holds the sums lacks some
        self._log.hear(heard, x)
        self._recent[id(x)] = (weakref.ref(x), _version(x), heard)

    def _met(self, heard: Heard, x: Tensor) -> None:
        """The first time: what it is like, and what is wanted of it."""
        self._known[heard.site, heard.call] = heard
        self.heard.append(heard)
        heard.shape = tuple(x.shape)
        heard.channels = 1 if self._channels_first and x.ndim > 2 else -1
        heard.same = self._seen(x)
        activation, end = activation_of(heard.module), self._model in (heard.module, heard.into)
        wanted = {role: self._wants(heard.site, role, activation, end) for role in PUSHED}
        heard.wants = {role: fields for role, fields in wanted.items() if fields is not None}

    def _seen(self, x: Tensor) -> Heard | None:
        """Who handed on this very tensor before, unchanged since."""
        found = self._recent.get(id(x))
        if found is None:
            return None
        known, version, heard = found
        return heard if known() is x and version == _version(x) else None


PUSHED = ("activation", "activation_grad")
"""The roles that tensors are handed on in."""


def _covers(more: Mapping[str, Collection[Field]], less: Mapping[str, Collection[Field]]) -> bool:
    return all(role in more and set(fields) <= set(more[role]) for role, fields in less.items())


# ------------------------------------------------------------------------------------------------------ small questions


def tensors_of(value: Any, path: str = "", *, every: bool = False) -> Iterator[tuple[str, Tensor]]:
    """The tensors in a tensor, tuple, list, dict, dataclass or ModelOutput, each with its path, e.g. `[0][1]`.

    Args:
        every: also those of whole numbers.
    """
    if isinstance(value, Tensor):
        if every or value.is_floating_point() or value.is_complex():
            yield path, value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from tensors_of(each, f"{path}.{name}", every=every)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for name, each in zip(value._fields, value, strict=True):
            yield from tensors_of(each, f"{path}.{name}", every=every)
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from tensors_of(each, f"{path}[{index}]", every=every)
    elif hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        for name in value.__dataclass_fields__:
            yield from tensors_of(getattr(value, name), f"{path}.{name}", every=every)


def inputs_of(inputs: Collection[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """What the model was given that can be measured, of `tensors_of((args, kwargs))`, with the paths of its sites."""
    floating = [(path, x) for path, x in inputs if is_measurable(x)]
    for path, x in floating:
        yield "" if len(floating) == 1 else path[3:], x  # without the [0] or [1] of args, kwargs


def is_recomputed() -> bool:
    """Whether the backward pass is running: what is called then is computed again, for a checkpoint."""
    return torch._C._current_graph_task_id() != -1


def is_weight_layer(module: nn.Module) -> bool:
    """Whether it has a weight matrix of its own, or one behind a parametrization.

    Of a module with parts only what is called a weight counts, as in attention: not its positions or class tokens.
    """
    if "parametrizations" in module._modules:
        return True
    held: dict[str, Any] = module._parameters
    return any(
        parameter is not None and not is_lazy(parameter) and parameter.ndim >= 2
        for name, parameter in held.items()
        if not module._modules or "weight" in name
    )


def is_measurable(x: Tensor) -> bool:
    """Whether it has floating-point numbers, and has them here."""
    return (x.is_floating_point() or x.is_complex()) and not x.is_quantized and x.device.type != "meta"


def _is_container(module: nn.Module) -> bool:
    """A list of modules, whose output is that of its last."""
    return isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)


def _is_wrapper(module: nn.Module) -> bool:
    """What stands around a module without being one to the user."""
    return type(module).__name__ in ("OptimizedModule", "CheckpointWrapper")


def activation_of(module: nn.Module | None) -> str:
    """The activation function that a module is, `linear` where it is none."""
    return "relu" if isinstance(module, nn.ReLU | nn.ReLU6) else "tanh" if isinstance(module, nn.Tanh) else "linear"


def _version(x: Tensor) -> int:
    """How often it was changed in place; an inference tensor does not count."""
    return 0 if x.is_inference() else x._version
