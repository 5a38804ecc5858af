"""What is heard of a model while somebody runs it: which module was called when, and the sums of what it handed on.

A forward hook looks at a module's output the moment it exists, and a hook on that tensor at its gradient: not a full
backward hook, which changes the path (in-place operations fail under it) and misses dicts. Nothing is kept but sums. A
call is named by where it stands, block by block, so that one module that serves many places has many names; a module
called again in one place has further calls. What checkpointing computes again in the backward pass is heard once.

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

from skipscope.errors import InputError
from skipscope.moments import Field
from skipscope.torch.sums import Sums, sums

__all__ = ["Heard", "Listener", "clean", "is_weight_layer", "tensors_of"]

Wants = Callable[[str, str, str], Collection[Field] | None]
"""(site, role, activation) -> what to sum, None for nothing."""

_CONVOLUTION = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
_FEATURES_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.RNNBase, nn.MultiheadAttention)
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")


@dataclass(eq=False)
class Heard:
    """One output of one call of a module, or an input of the model.

    Attributes:
        site: its name.
        call: how often the module had been called in this place before.
        order: its place in the order of execution.
        depth: weight layers passed.
        module: what handed it on; None for inputs.
        path: where it stands in the module's output, e.g. `[0][1]`; "" where it is all of it.
        entered: the shape of the first tensor that the module was given.
        shape: its own.
        sums: by role; several where several micro-batches were heard.
        same: the tensor had been handed on before, by this one: then it holds the sums of both.
        graded: whether autograd follows it.
    """

    site: str
    call: int
    order: int
    depth: int
    module: nn.Module | None
    path: str = ""
    entered: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    sums: dict[str, list[Sums]] = field(default_factory=lambda: defaultdict(list))
    same: Heard | None = None
    graded: bool = False

    @property
    def source(self) -> Heard:
        """The one that holds the sums."""
        return self if self.same is None else self.same.source


@dataclass(eq=False)
class _Frame:
    """A call that has begun and not ended."""

    module: nn.Module
    name: str
    entered: tuple[int, ...]
    met: Counter[int] = field(default_factory=Counter)


class Listener:
    """Hears one model through hooks, from `on` to `off`.

    Attributes:
        heard: everything in order of execution, over the first pass; further passes (micro-batches) add to it.
        silent: names of calls without a floating-point tensor in their output.
        called: the modules that were called, by id, with the name of their first call.
        passes: how often the model as a whole was run.
        depth: weight layers passed.
        batch: samples of the batch.
        unfollowed: whether a part was run without autograd, while the model as a whole was run with it.
    """

    def __init__(self, model: nn.Module, wants: Wants, *, first_of: Collection[nn.Module] = ()) -> None:
        self._model = model
        self._wants = wants
        self._first_of = {id(module) for module in first_of}
        self._names = {id(module): clean(name) for name, module in model.named_modules()}
        self._children: dict[int, dict[int, list[str]]] = {}
        self._handles: list[Any] = []
        self._stack: list[_Frame] = []
        self._calls: Counter[str] = Counter()
        self._known: dict[tuple[str, int], Heard] = {}
        self._recent: dict[int, tuple[weakref.ref[Tensor], int, Heard]] = {}
        self._unpaired: dict[str, list[Heard]] = defaultdict(list)
        self._channels_first = False
        self._followed = torch.is_grad_enabled()
        self.depth = 0
        self.batch = 0
        self.unfollowed = False
        self.heard: list[Heard] = []
        self.silent: list[str] = []
        self.called: dict[int, str] = {}
        self.passes = 0

    # ------------------------------------------------------------------------------------------------ on and off

    def on(self) -> None:
        """Attach the hooks."""
        before, after = _Hook(self._before), _Hook(self._after)
        for module in self._model.modules():
            # First to see what comes in, last to see what goes out: as the module's neighbours see it.
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            self._handles.append(module.register_forward_hook(after, with_kwargs=True))

    def off(self) -> None:
        """Remove every hook that is left."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._stack.clear()
        self._recent.clear()

    # ---------------------------------------------------------------------------------------------- forward hooks

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if _is_wrapper(module):
            return
        again = torch._C._current_graph_task_id() != -1
        root = module is self._model and not again
        if root:
            self._begin(args, kwargs)
        given = next((x for _, x in tensors_of((args, kwargs))), None)
        frame = _Frame(module, self._name(module), () if given is None else tuple(given.shape))
        if self._stack:
            self._stack[-1].met[id(module)] += 1
        self._stack.append(frame)
        if id(module) in self._first_of and given is not None and not again and given.is_floating_point():
            self._first_of.discard(id(module))
            self._hear(f"{frame.name}.input", None, "", given, frame.entered, 0)

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.passes += 1
        self._followed = torch.is_grad_enabled()
        self._stack.clear()
        self._calls.clear()
        self.depth = 0
        inputs = list(tensors_of((args, kwargs), every=True))
        self.batch = next((x.shape[0] for _, x in inputs if x.ndim), 0)
        floating = [(path, x) for path, x in inputs if _is_measurable(x)]
        for path, x in floating:
            name = "input" if len(floating) == 1 else f"input{path[3:]}"  # without the [0] or [1] of args, kwargs
            self._hear(name, None, "", x, (), 0)

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if _is_wrapper(module):
            return
        frame = self._ended(module)
        again = torch._C._current_graph_task_id() != -1
        if again:
            self._recompute(frame, output)
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
        name = frame.name or "output"
        call = self._calls[name]
        self._calls[name] += 1
        found = [(path, x) for path, x in tensors_of(output) if _is_measurable(x)]
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
        return _Frame(module, self._name(module), ())  # the model's own call was not heard, e.g. model.forward(x)

    def _name(self, module: nn.Module) -> str:
        """Where the call stands: the caller's name and the attribute by which it holds the module."""
        if module is self._model or not self._stack:
            return self._names[id(module)]
        parent = self._stack[-1]
        attributes = self._attributes(parent.module).get(id(module))
        if attributes is None:
            return self._named_below(parent.module, parent.name, module)
        attribute = attributes[min(parent.met[id(module)], len(attributes) - 1)]
        return f"{parent.name}.{attribute}" if parent.name else attribute

    def _named_below(self, parent: nn.Module, name: str, module: nn.Module) -> str:
        """Of a module in a list or deeper, which is held by its caller through others that are not called."""
        for below, each in parent.named_modules(remove_duplicate=False):
            if each is module and below:
                return f"{name}.{clean(below)}" if name else clean(below)
        return self._names[id(module)]

    def _attributes(self, parent: nn.Module) -> dict[int, list[str]]:
        if id(parent) not in self._children:
            found: dict[int, list[str]] = defaultdict(list)
            for attribute, child in parent._modules.items():
                if child is not None:
                    inner = getattr(child, "_orig_mod", child) if attribute != "_orig_mod" else child
                    found[id(inner)].append(attribute)
            self._children[id(parent)] = found
        return self._children[id(parent)]

    # ---------------------------------------------------------------------------------------------- what is summed

    def _hear(
        self, name: str, module: nn.Module | None, path: str, x: Tensor, entered: tuple[int, ...], call: int
    ) -> None:
        if torch._C._functorch.is_functorch_wrapped_tensor(x):
            raise InputError(
                f"the model is run inside torch.func (vmap, grad, ...), where {name!r} has no values of its own: "
                "probe the model itself, outside of the transform."
            )
        site = f"{name}{path}"
        key = (site, call)
        heard = self._known.get(key)
        if heard is None:
            heard = Heard(site, call, len(self.heard), self.depth, module, path, entered, tuple(x.shape))
            self._known[key] = heard
            self.heard.append(heard)
            heard.same = self._seen(x)
        heard.graded |= x.requires_grad
        if heard.same is not None:
            if not self._wanted(heard) <= self._wanted(heard.same):
                heard.same = None  # what holds the sums lacks some
            else:
                return
        self._sum(heard, "activation", x)
        self._recent[id(x)] = (weakref.ref(x), _version(x), heard)
        if x.requires_grad:
            self._on_gradient(heard, x)
        elif self._followed and not torch.is_grad_enabled():
            self.unfollowed = True
            self._unpaired[name].append(heard)

    def _seen(self, x: Tensor) -> Heard | None:
        """Who handed on this very tensor before, unchanged since."""
        found = self._recent.get(id(x))
        if found is None:
            return None
        known, version, heard = found
        return heard if known() is x and version == _version(x) else None

    def _wanted(self, heard: Heard) -> set[tuple[str, str]]:
        found = {
            role: self._wants(heard.site, role, _activation(heard.module)) for role in ("activation", "activation_grad")
        }
        return {(role, each) for role, fields in found.items() if fields is not None for each in ("", *fields)}

    def _sum(self, heard: Heard, role: str, x: Tensor) -> None:
        fields = self._wants(heard.site, role, _activation(heard.module))
        if fields is not None:
            channels = 1 if self._channels_first and x.ndim > 2 else -1
            heard.sums[role].append(sums(x, fields, batch=self.batch, channels=channels))

    def _on_gradient(self, heard: Heard, x: Tensor) -> None:
        if self._wants(heard.site, "activation_grad", _activation(heard.module)) is not None:
            # The handles are needed for leaves alone, whose hooks outlive the pass; the others go with the graph.
            hook = _Hook(lambda gradient: self._sum(heard, "activation_grad", gradient))
            self._handles.append(x.register_hook(hook))  # type: ignore[no-untyped-call]

    def _recompute(self, frame: _Frame, output: Any) -> None:
        """A checkpointed part, computed again: what was run without autograd before can be followed now."""
        if not torch.is_grad_enabled():
            return
        found = [(path, x) for path, x in tensors_of(output) if _is_measurable(x)]
        waiting = self._unpaired.get(frame.name, [])
        # Of several calls it is not known which this is, so their gradients are left out rather than mixed up.
        if len({heard.call for heard in waiting}) == 1 and len(waiting) == len(found):
            for heard, (_, x) in zip(waiting, found, strict=True):
                if x.requires_grad:
                    heard.graded = True
                    self._on_gradient(heard, x)


class _Hook:
    """A hook that neither copies nor pickles what it serves: in a copy of the model it does nothing."""

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call

    def __call__(self, *given: Any) -> None:
        self._call(*given)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, (_nothing,)

    def __deepcopy__(self, memo: Mapping[int, Any]) -> _Hook:
        return _Hook(_nothing)


def _nothing(*given: Any) -> None:
    pass


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


def clean(name: str) -> str:
    """A module's name without what wrappers add to it."""
    name = f"{name}."
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.rstrip(".")


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


def _is_measurable(x: Tensor) -> bool:
    return (x.is_floating_point() or x.is_complex()) and not x.is_quantized and x.device.type != "meta"


def _is_container(module: nn.Module) -> bool:
    """A list of modules, whose output is that of its last."""
    return isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)


def _is_wrapper(module: nn.Module) -> bool:
    """What stands around a module without being one to the user, or makes a weight and no activation."""
    return type(module).__name__ in ("OptimizedModule", "CheckpointWrapper") or isinstance(
        module, nn.utils.parametrize.ParametrizationList
    )


def _activation(module: nn.Module | None) -> str:
    return "relu" if isinstance(module, nn.ReLU | nn.ReLU6) else "tanh" if isinstance(module, nn.Tanh) else "linear"


def _version(x: Tensor) -> int:
    """How often it was changed in place; an inference tensor does not count."""
    return 0 if x.is_inference() else x._version
