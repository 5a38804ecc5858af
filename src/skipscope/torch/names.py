"""By which names the calls of a model's modules go: each by where it stands, its caller's name and the attribute there.

So a module that is called in several places has a name in each, and one that several hold under several names is told
by which of them it is called. Whoever follows calls through hooks keeps the stack of those that have begun, and asks
here.

Beside the modules' names there are some of the scope's own: `input`, `output`, `<first block>.input` and `network`. A
model may have parts of the same names, which keep them: then the scope's own is written with a prime, `input'`. Of
`network` it is the other way round, since whatever reads readings looks for that.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Protocol

from torch import nn

__all__ = ["Caller", "Names", "apart", "clean", "free"]

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")


class Caller(Protocol):
    """A call that has begun and not ended."""

    @property
    def module(self) -> nn.Module | None:
        """What was called."""

    @property
    def name(self) -> str:
        """By which name."""

    @property
    def met(self) -> defaultdict[int, int]:
        """How often it has called each module, by id."""


class Names:
    """The names of the calls of one model."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._names = {id(module): clean(name) for name, module in model.named_modules()}
        self._children: dict[int, dict[int, list[str]]] = {}

    def of(self, module: nn.Module, caller: Caller | None) -> str:
        """The name of a call that begins, in the call of `caller`, which is told so; None where there is none."""
        if module is self._model or caller is None or caller.module is None:
            name = self._names[id(module)]
        else:
            name = self._within(caller.module, caller, module)
        if caller is not None:
            caller.met[id(module)] += 1
        return name

    def _within(self, parent: nn.Module, caller: Caller, module: nn.Module) -> str:
        attributes = self._attributes(parent).get(id(module))
        if attributes is None:
            return self._below(parent, caller.name, module)
        attribute = attributes[min(caller.met[id(module)], len(attributes) - 1)]
        return f"{caller.name}.{attribute}" if caller.name else attribute

    def _below(self, parent: nn.Module, name: str, module: nn.Module) -> str:
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


def free(name: str, module: nn.Module) -> str:
    """A name below a module that nothing in it has: the given one, or that with primes."""
    held = (each for several in (module.named_modules(), module.named_parameters()) for each, _ in several)
    taken = {clean(each).partition(".")[0] for each in held}
    while name in taken:
        name += "'"
    return name


def apart(name: str) -> str:
    """The name of a module or parameter as a site, which is not that of the network as a whole."""
    return f"{name}'" if name == "network" else name


def clean(name: str) -> str:
    """A module's name without what wrappers add to it."""
    name = f"{name}."
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.rstrip(".")
