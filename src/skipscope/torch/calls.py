"""Which call of which module is running, and where in its code an addition stands: how junctions get their names.

Hooks say when a module's call begins and ends; while the outermost call lasts, a mode of PyTorch is on, which is handed
every operation that the model's code calls (`TorchFunctionMode`). A call is named as in `skipscope.torch.listening`, by
where it stands; an addition is known by the call that it is made in and by its place in the code, which another batch
does not change. Nothing is written on modules, and no hook outlives `Calls.off`.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from skipscope.torch.log import Hook
from skipscope.torch.names import Names

__all__ = ["Addition", "Call", "Calls", "Place", "addition"]

_ADDING = frozenset((torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__))
_OTHER = {
    getattr(owner, name): doubt
    for names, doubt in (
        ("sub sub_ subtract subtract_ rsub __sub__ __isub__ __rsub__", "one term is subtracted from the other"),
        ("addmm addmm_ addbmm baddbmm", "the last weight of the branch is part of the addition"),
        (
            "index_add index_add_ scatter_add scatter_add_ index_reduce scatter_reduce index_put index_put_",
            "what is added goes to chosen entries of the other term",
        ),
    )
    for name in names.split()
    for owner in (torch, Tensor)
    if hasattr(owner, name)
}
"""What adds as well, together with something else: it is found, and not taken apart."""


def _named(names: str) -> frozenset[Any]:
    return frozenset(
        getattr(owner, name) for name in names.split() for owner in (torch, Tensor) if hasattr(owner, name)
    )


_LERP, _PRODUCT, _QUOTIENT = _named("lerp lerp_"), _named("addcmul addcmul_"), _named("addcdiv addcdiv_")
_REDUCING = _named("sum mean nansum")
_WRITING = (
    *("add_", "__iadd__", "sub_", "subtract_", "__isub__", "lerp_", "addcmul_", "addcdiv_", "addmm_"),
    *("index_add_", "scatter_add_", "index_put_"),
)
_OURS = ("skipscope.torch.", "torch.overrides", "torch._tensor")
_TRANSPARENT = ("OptimizedModule", "CheckpointWrapper")


@dataclass(frozen=True)
class Place:
    """Where an addition is made; the same in every run of the same code.

    Attributes:
        call: the name of the module's call, "" for the model itself.
        number: how often the module had been called in this place before.
        file: of the code that adds.
        line: of the addition.
        column: where it begins in the line.
        turn: how often this call had passed here before, as in a loop.
    """

    call: str
    number: int
    file: str
    line: int
    column: int
    turn: int


@dataclass(frozen=True, eq=False)
class Addition:
    """An addition of two tensors, as it was called.

    Attributes:
        operands: both terms in order; one that the operation makes itself is computed for whoever asks.
        factors: the numbers that they are multiplied by in the sum.
        target: what becomes the sum, where it is made in place.
        doubt: why it is no plain addition; "" where it is one.
        made_of: of either term, the tensors that it is the product of, where the operation multiplies them itself.
        stacked: the tensor of which the terms are the two parts along an axis, where it was stacked and is summed.
        axis: that axis.
    """

    operands: tuple[Tensor, Tensor]
    factors: tuple[float, float] = (1, 1)
    target: Tensor | None = None
    doubt: str = ""
    made_of: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] = ((), ())
    stacked: Tensor | None = None
    axis: int = 0

    @property
    def in_place(self) -> bool:
        """Whether it is written over a tensor."""
        return self.target is not None


def _counter() -> defaultdict[Any, int]:  # made for every call, and a third of the price of a Counter
    return defaultdict(int)


@dataclass(eq=False, slots=True)
class Call:
    """A call that has begun and not ended."""

    module: nn.Module | None
    name: str
    number: int
    met: defaultdict[int, int] = field(default_factory=_counter)
    passed: defaultdict[tuple[str, int, int], int] = field(default_factory=_counter)


class Calls:
    """Follows the calls of one model through hooks, and has a mode on while one lasts.

    Args:
        model: the model.
        mode: what is handed every operation.
        begun: called with the module and its arguments as an outermost call begins; says whether the mode shall be on.
        ended: called with a module, what it was given and what it hands on, within its call.
        first: whether the mode goes under those that are put on by other hooks of the same call.
    """

    def __init__(
        self,
        model: nn.Module,
        mode: TorchFunctionMode,
        begun: Callable[[nn.Module, Any], bool],
        ended: Callable[[nn.Module, Any, Any], None] | None = None,
        *,
        first: bool = False,
    ) -> None:
        self._model = model
        self._mode = mode
        self._begun = begun
        self._ended = ended
        self._first = first
        self._names = Names(model)
        self._positions: dict[int, tuple[CodeType, list[tuple[int | None, ...]]]] = {}
        self._handles: list[Any] = []
        self._stack: list[Call] = []
        self._numbers: defaultdict[str, int] = defaultdict(int)
        self._entered = False

    def on(self) -> None:
        """Attach the hooks."""
        before, after = Hook(self._before), Hook(self._after)
        for module in self._model.modules():
            if type(module).__name__ not in _TRANSPARENT:
                self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True, prepend=self._first))
                self._handles.append(module.register_forward_hook(after, with_kwargs=True, always_call=True))

    def off(self) -> None:
        """Remove the hooks, and the mode, should an interrupt have left it."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._stack.clear()
        self._leave()

    @property
    def current(self) -> str:
        """The name of the call that is running."""
        return self._stack[-1].name if self._stack else ""

    def place(self) -> Place:
        """Where the operation is called that the mode is being handed."""
        frame = sys._getframe(1)
        while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith(_OURS):
            frame = frame.f_back
        here = self._position(frame.f_code, frame.f_lasti)
        call = self._stack[-1] if self._stack else Call(None, "", 0)
        turn = call.passed[here]
        call.passed[here] += 1
        return Place(call.name, call.number, *here, turn)

    def _position(self, code: CodeType, offset: int) -> tuple[str, int, int]:
        """File, line and column: the offset itself changes as Python specialises a call that is made often."""
        if id(code) not in self._positions:
            self._positions[id(code)] = code, list(code.co_positions())
        line, _, column, _ = self._positions[id(code)][1][offset // 2]
        return code.co_filename, line or code.co_firstlineno, column or 0

    # ----------------------------------------------------------------------------------------------------- hooks

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        again = torch._C._current_graph_task_id() != -1
        if module is self._model and not again:
            self._numbers.clear()
            self._stack.clear()
        name = self._names.of(module, self._stack[-1] if self._stack else None)
        number = 0 if again else self._numbers[name]  # which call is computed again, checkpoints do not say
        self._numbers[name] += not again
        outermost = not self._stack
        self._stack.append(Call(module, name, number))
        if outermost and not self._entered and self._begun(module, (args, kwargs)):
            self._mode.__enter__()  # type: ignore[no-untyped-call]
            self._entered = True

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any = None) -> None:
        if self._ended is not None and self._entered and output is not None:
            self._ended(module, (args, kwargs), output)
        while self._stack and self._stack.pop().module is not module:
            pass  # calls that an exception ended
        if not self._stack:
            self._leave()

    def _leave(self) -> None:
        if self._entered:
            self._entered = False
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]


def addition(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Addition | None:
    """The addition of two tensors that this call is, if it is one."""
    taken_apart = _TAKEN_APART.get(func)
    return None if taken_apart is None else taken_apart(func, args, kwargs)


def _given(args: Sequence[Any], kwargs: Mapping[str, Any], *names: str) -> list[Any]:
    """Arguments by place or name; None for one that is not there."""
    return [args[index] if index < len(args) else kwargs.get(name) for index, name in enumerate(names)]


def _target(func: Any, first: Tensor) -> Tensor | None:
    return first if func.__name__ in _WRITING else None


def _plain(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Addition | None:
    """`first + alpha * second`."""
    first, second = _given(args, kwargs, "input", "other")
    if not isinstance(first, Tensor) or not isinstance(second, Tensor) or kwargs.get("out") is not None:
        return None
    return Addition((first, second), (1, kwargs.get("alpha", 1)), _target(func, first))


def _lerp(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Addition | None:
    """`first + weight * (second - first)`: a sum of both, in parts that add up to 1."""
    first, second, weight = _given(args, kwargs, "input", "end", "weight")
    if not isinstance(first, Tensor) or not isinstance(second, Tensor) or kwargs.get("out") is not None:
        return None
    target = _target(func, first)
    if not isinstance(weight, Tensor):
        return Addition((first, second), (1 - weight, weight), target)
    with torch._C.DisableTorchFunction():
        operands = (1 - weight) * first, weight * second
    return Addition(operands, target=target, made_of=((first, weight), (second, weight)))


def _with_product(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Addition | None:
    """`first + value * a * b`, or of a quotient."""
    first, a, b = _given(args, kwargs, "input", "tensor1", "tensor2")
    if not all(isinstance(x, Tensor) for x in (first, a, b)) or kwargs.get("out") is not None:
        return None
    with torch._C.DisableTorchFunction():
        product = a * b if func in _PRODUCT else a / b
    # Which part of the gradient came by way of which would not be told apart.
    doubt = "one term is a factor of the other" if first is a or first is b else ""
    value = kwargs.get("value", 1)
    return Addition((first, product), (1, value), _target(func, first), doubt, made_of=((), (a, b)))


def _reduction(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Addition | None:
    """The sum or mean along one axis: an addition, if its entries were tensors, of which the first two are given."""
    x, axis = _given(args, kwargs, "input", "dim")
    if isinstance(axis, list | tuple) and len(axis) == 1:
        (axis,) = axis
    if not isinstance(x, Tensor) or not isinstance(axis, int) or isinstance(axis, bool) or x.ndim < 2:
        return None
    if not -x.ndim <= axis < x.ndim or x.shape[axis] < 2 or kwargs.get("out") is not None or "dtype" in kwargs:
        return None
    keeps = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
    axis %= x.ndim
    with torch._C.DisableTorchFunction():
        first, second = (x.narrow(axis, index, 1) if keeps else x.select(axis, index) for index in (0, 1))
    factor = 0.5 if func.__name__ == "mean" else 1
    return Addition((first, second), (factor, factor), stacked=x, axis=axis)


def _other(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Addition | None:
    """The terms of an operation that adds among other things, if it is one and they are tensors."""
    doubt = _OTHER[func]
    given = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
    if "entries" in doubt:  # what says which entries comes between
        given = [x for x in given if x.is_floating_point() or x.is_complex()]
    if len(given) < 2:
        return None
    return Addition((given[0], given[1]), target=_target(func, given[0]), doubt=doubt)


_TAKEN_APART: Mapping[Any, Callable[[Any, Sequence[Any], Mapping[str, Any]], Addition | None]] = {
    **dict.fromkeys(_OTHER, _other),
    **dict.fromkeys(_REDUCING, _reduction),
    **dict.fromkeys(_PRODUCT | _QUOTIENT, _with_product),
    **dict.fromkeys(_LERP, _lerp),
    **dict.fromkeys(_ADDING, _plain),
}
