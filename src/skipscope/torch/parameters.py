"""The parameters of a model, each with the site and the role that it is measured at, and their sums.

What is remembered of a parameter is where it is held, not what it is: a step may begin with other parameters. What an
optimizer does to one is known by a copy of it, which is there while the optimizer runs and at no other time (`Update`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from skipscope.moments import Field
from skipscope.quantities import UPDATE
from skipscope.torch.names import apart, clean, free
from skipscope.torch.sums import Sums, norms_of, sums

__all__ = ["Held", "Sum", "Update", "parameters_of", "summed", "updates_of", "wanted_of"]

_WIDE = (torch.float32, torch.float64, torch.complex64, torch.complex128)

Summed = tuple[str, str, Sums]  # site, role, sums


@dataclass(frozen=True)
class Held:
    """A parameter, and the site and role that it is measured at.

    Attributes:
        site: of its module, or its own.
        role: `weight`, `bias`, `gamma` or `beta`.
        module: what holds it.
        attribute: by which name.
        tied_to: the site at which it is measured, where it is held by several modules and this is not the first.
    """

    site: str
    role: str
    module: nn.Module
    attribute: str
    tied_to: str = ""

    @property
    def parameter(self) -> nn.Parameter | None:
        """The parameter itself, None where it was taken away."""
        return self.module._parameters.get(self.attribute)


def parameters_of(model: nn.Module, called: Mapping[int, str]) -> list[Held]:
    """Every parameter of real or complex numbers once, and again, tied, for every module that shares it.

    Args:
        called: the names of calls of modules, by id; others go by where they stand in the model.
    """
    held: list[Held] = []
    known: dict[int, str] = {}
    for prefix, module in model.named_modules():
        name = called.get(id(module), clean(prefix))
        for attribute, parameter in module._parameters.items():
            if parameter is None or is_lazy(parameter):
                continue
            if not (parameter.is_floating_point() or parameter.is_complex()):
                continue
            site, role = _place(module, name, attribute, parameter)
            held.append(Held(site, role, module, attribute, known.get(id(parameter), "")))
            known.setdefault(id(parameter), site)
    return held


def _place(module: nn.Module, name: str, attribute: str, parameter: nn.Parameter) -> tuple[str, str]:
    """The site and the role: those of the module for its weight and bias, else a site of the parameter's own."""
    weight = module._parameters.get("weight")
    if attribute in ("weight", "bias") and (name or not module._modules):
        vector = weight is not None and weight.ndim < 2
        roles = {"weight": "gamma" if vector else "weight", "bias": "beta" if vector else "bias"}
        return apart(name) or free("output", module), roles[attribute]
    return f"{name}.{attribute}" if name else apart(attribute), "weight"


@dataclass(frozen=True)
class Sum:
    """What is to be summed of a parameter: itself, its gradient or its update, and which sums beside squares."""

    held: Held
    role: str
    of_gradient: bool
    fields: Collection[Field]


def wanted_of(held: Sequence[Held], wants: Callable[[str, str], Collection[Field] | None]) -> list[Sum]:
    """What is to be summed of parameters and their gradients; one that several modules share is summed once.

    Args:
        held: the parameters.
        wants: (site, role) -> what to sum, None for nothing.
    """
    roles = [
        (each, f"{each.role}{suffix}", bool(suffix)) for each in held if not each.tied_to for suffix in ("", "_grad")
    ]
    found = [Sum(each, role, of_gradient, wants(each.site, role) or ()) for each, role, of_gradient in roles]
    return [each for each in found if wants(each.held.site, each.role) is not None]


def updates_of(held: Sequence[Held], wants: Callable[[str, str], Collection[Field] | None]) -> list[Sum]:
    """Likewise, what is to be summed of what an optimizer adds to parameters."""
    found = [(each, f"{each.role}{UPDATE}") for each in held if not each.tied_to]
    asked = [(each, role, wants(each.site, role)) for each, role in found]
    return [Sum(each, role, False, fields) for each, role, fields in asked if fields is not None]


def summed(wanted: Sequence[Sum], gradient_of: Callable[[nn.Parameter], Tensor | None]) -> list[Summed]:
    """(site, role, sums) of what is wanted, where it is there and has values: on the device `meta` it has none.

    Args:
        wanted: from `wanted_of`.
        gradient_of: the gradient of a parameter, where it has one.
    """
    places: list[Sum] = []
    tensors: list[Tensor] = []
    for each in wanted:
        parameter = each.held.parameter
        tensor = parameter if parameter is None or not each.of_gradient else gradient_of(parameter)
        if tensor is not None and not tensor.is_meta:
            places.append(each)
            tensors.append(tensor)
    bare = [index for index, each in enumerate(places) if not each.fields]
    norms = dict(zip(bare, norms_of([tensors[index] for index in bare]), strict=True))
    return [
        (each.held.site, each.role, norms[index] if index in norms else sums(tensors[index], each.fields))
        for index, each in enumerate(places)
    ]


# -------------------------------------------------------------------------------------------------------------- updates


class Update:
    """What one step of an optimizer adds to parameters: to those that were there, and were trained, when it was made.

    Attributes:
        sums: of what was added, (site, role, sums); None until a step was seen.
    """

    def __init__(self, wanted: Sequence[Sum]) -> None:
        self.sums: list[Summed] | None = None
        there = [(each, each.held.parameter) for each in wanted]
        self._known = [
            (each, weakref.ref(p)) for each, p in there if p is not None and p.requires_grad and not p.is_meta
        ]

    @contextmanager
    def seen(self) -> Iterator[None]:
        """Copies of the parameters, from here to the end of the context; a step that raises is none."""
        there = [(each, each.held.parameter, known()) for each, known in self._known]
        copies = [(each, p, p.detach().clone()) for each, p, known in there if p is not None and p is known]
        yield
        self.sums = [
            (each.held.site, each.role, sums(_added(parameter.detach(), before), each.fields))
            for each, parameter, before in copies
            if each.held.parameter is parameter and _alike(parameter, before)
        ]


def _alike(after: Tensor, before: Tensor) -> bool:
    """Whether one can be taken from the other, entry by entry."""
    return after.shape == before.shape and after.device == before.device


def _added(after: Tensor, before: Tensor) -> Tensor:
    """What was added, in float32 or wider, in the memory of `before` where that is as wide."""
    wide = before.dtype
    if wide not in _WIDE:
        wide = torch.complex64 if before.is_complex() else torch.float32
    start = before.to(wide)
    return torch.sub(after.to(wide), start, out=start)
