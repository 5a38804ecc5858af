"""The log of a step: the sums of what was heard, in the order in which it was heard, and the hooks on tensors.

Whoever hears a model (`listening` for the first time, `replaying` from then on) says what each tensor is, a `Heard`,
and hands it over the moment it exists. It is summed at once and not kept. Its gradient is met where the backward pass
enters the node that made it: a hook on the node sees what one on the tensor does, also when the tensor is changed in
place later, for a third of the price; tensors that no node made (leaves) have one of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skipscope.errors import InputError
from skipscope.moments import Field
from skipscope.torch.sums import Sums, sums

__all__ = ["Heard", "Hook", "Log"]


@dataclass(eq=False)
class Heard:
    """One output of one call of a module, or an input of the model: what it is, and what is wanted of it.

    Attributes:
        site: its name.
        call: how often the module had been called in this place before.
        order: its place in the order of execution.
        depth: weight layers passed.
        module: what handed it on; None for inputs.
        kind: input, module, or junction, which no module hands on.
        into: the module that is given it, of an input.
        path: where it stands in the module's output, e.g. `[0][1]`; "" where it is all of it.
        entered: the shape of the first tensor that the module was given.
        shape: its own.
        channels: the axis of its units.
        wants: role -> what to sum beside squares; a role that is missing is not looked at.
        same: the tensor had been handed on before, by this one: then it holds the sums of both.
        step: the last step in which it was met.
        about: what a junction consists of, in words.
    """

    site: str
    call: int
    order: int
    depth: int
    module: nn.Module | None
    kind: Literal["input", "module", "junction"] = "module"
    into: nn.Module | None = None
    path: str = ""
    entered: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    channels: int = -1
    wants: Mapping[str, Collection[Field]] = field(default_factory=dict)
    same: Heard | None = None
    step: int = 0
    about: str = ""

    @property
    def name(self) -> str:
        """The call's, without the path."""
        return self.site.removesuffix(self.path)

    @property
    def source(self) -> Heard:
        """The one that holds the sums."""
        return self if self.same is None else self.same.source


Entry = tuple[Heard, str, Sums]
Product = tuple[Heard, tuple[str, str], Tensor | NDArray[np.float64]]


class Log:
    """The sums of one step, which may have several passes (micro-batches).

    Attributes:
        entries: (what, role, sums), in the order of execution.
        products: (what, pair of roles, what their inner product is made of), of junctions.
        step: counts steps.
        passes: how often the model as a whole was run.
        turn: another number for every pass of every step.
        batch: samples of the pass.
        samples: likewise, of all passes.
        sizes: the different numbers of samples that passes had.
        graded: whether autograd follows anything that was heard.
        unfollowed: whether a part was run without autograd, while the model as a whole was run with it.
        unpaired: what was heard in such a part, by the name of the call.
    """

    def __init__(self) -> None:
        self.step = self.turn = self.batch = 0
        self._handles: list[Any] = []
        self._followed = True
        self.clear()

    def clear(self) -> None:
        """Begin another step."""
        self.off()
        self.step += 1
        self.turn += 1
        self.passes = self.samples = 0
        self.sizes: set[int] = set()
        self.entries: list[Entry] = []
        self.products: list[Product] = []
        self.graded = self.unfollowed = False
        self.unpaired: dict[str, list[Heard]] = defaultdict(list)

    def off(self) -> None:
        """Remove every hook that is left: a graph that is kept would go on calling them."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def begin(self, inputs: Sequence[Tensor]) -> None:
        """The model as a whole is called."""
        self.passes += 1
        self.turn += 1
        self.batch = next((x.shape[0] for x in inputs if x.ndim), 0)
        self.samples += self.batch
        self.sizes.add(self.batch)
        self._followed = torch.is_grad_enabled()

    def hear(self, heard: Heard, x: Tensor) -> None:
        """A tensor that is being handed on.

        Raises:
            InputError: it has no values of its own.
        """
        if torch._C._functorch.is_functorch_wrapped_tensor(x):
            raise InputError(
                f"the model is run inside torch.func (vmap, grad, ...), where {heard.name!r} has no values of its own: "
                "probe the model itself, outside of the transform."
            )
        heard.step = self.step
        self.sum(heard, "activation", x)
        if x.requires_grad:
            self.follow(heard, x)
        elif self._followed and not torch.is_grad_enabled():
            self.unfollowed = True
            self.unpaired[heard.name].append(heard)

    def sum(self, heard: Heard, role: str, x: Tensor, batch: int | None = None) -> None:
        """Sum x, as one role of what was heard, if that is wanted; of this batch's samples, None for the last's."""
        fields = heard.wants.get(role)
        if fields is not None:
            samples = self.batch if batch is None else batch
            self.entries.append((heard, role, sums(x, fields, batch=samples, channels=heard.channels)))

    def follow(self, heard: Heard, x: Tensor) -> None:
        """Sum the gradient of x when it comes."""
        self.graded = True
        if "activation_grad" not in heard.wants:
            return
        node = x.grad_fn
        if node is None:
            hook = Hook(partial(self.sum, heard, "activation_grad", batch=self.batch))
            self._handles.append(x.register_hook(hook))  # type: ignore[no-untyped-call]
        else:
            self._handles.append(node.register_prehook(partial(self._entered, heard, x.output_nr, self.batch)))

    def _entered(self, heard: Heard, index: int, batch: int, gradients: tuple[Tensor | None, ...]) -> None:
        gradient = gradients[index]
        if gradient is not None:
            self.sum(heard, "activation_grad", gradient, batch)

    def recomputed(self, name: str, found: Sequence[Tensor]) -> None:
        """A checkpointed part, computed again: what was run without autograd before can be followed now."""
        waiting = self.unpaired.get(name, [])
        # Of several calls it is not known which this is, so their gradients are left out rather than mixed up.
        if len({heard.call for heard in waiting}) == 1 and len(waiting) == len(found):
            for heard, x in zip(waiting, found, strict=True):
                if x.requires_grad:
                    self.follow(heard, x)


class Hook:
    """A hook that neither copies nor pickles what it serves: in a copy of the model it does nothing."""

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call

    def __call__(self, *given: Any) -> None:
        """Look at it, and change nothing; what is done to look is no part of what the model does."""
        with torch._C.DisableTorchFunction():
            self._call(*given)

    def __reduce__(self) -> tuple[Any, ...]:
        return Hook, (_nothing,)

    def __deepcopy__(self, memo: Mapping[int, Any]) -> Hook:
        """One that does nothing."""
        return Hook(_nothing)


def _nothing(*given: Any) -> None:
    pass
