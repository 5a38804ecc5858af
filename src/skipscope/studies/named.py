"""Designs under names that also say a norm, an order or a gain, as several studies compare them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from skipscope.designs import design, spec_named
from skipscope.errors import InputError, as_list, choose, quoted, require_int, require_type
from skipscope.spec import Spec

__all__ = ["NAMED_DESIGNS", "Specs", "family_of", "listed", "listed_depths", "named_design", "specs_of"]

Specs = str | Iterable[str] | Mapping[str, Spec]
"""Networks that a study is to look at in place of its designs: names that `skipscope.designs.spec_named` knows, e.g.
`["cifar-20", "cifar-20-plain"]`, or specs of one's own by what they are called."""

NAMED_DESIGNS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "plain": ("plain", {}),
    "residual": ("residual", {}),
    "residual, pre-activation": ("residual", {"order": "pre-activation"}),
    "residual, 1/sqrt(L)": ("residual", {"order": "pre-activation", "branch_gain": "1/sqrt(L)"}),
    "residual, 1/L": ("residual", {"branch_gain": "1/L"}),
    "plain, layer norm": ("plain", {"norm": "layer"}),
    "residual, layer norm": ("residual", {"order": "pre-activation", "norm": "layer"}),
    "plain, batch norm": ("plain", {"norm": "batch"}),
    "residual, batch norm": ("residual", {"order": "pre-activation", "norm": "batch"}),
}
"""By name: one of `skipscope.designs.DESIGNS`, and fields of `Spec.dense`."""


def named_design(name: str, *, depth: int, width: int, **fields: Any) -> Spec:
    """The `Spec` of a name in `NAMED_DESIGNS`.

    Raises:
        InputError: there is no such name, or a field is what the name says already, or makes no sense.
    """
    base, own = NAMED_DESIGNS[choose("design", name, NAMED_DESIGNS)]
    for field in fields:
        if field in own:
            raise InputError(
                f"{field}={quoted(fields[field])} cannot be chosen, as the design {name!r} says it: leave it out, or "
                "choose other designs."
            )
    return design(base, depth=depth, width=width, **own, **fields)


def specs_of(specs: Specs, *, width: int | None = None, **fields: Any) -> dict[str, Spec]:
    """The networks by name; `fields`, e.g. `dtype="float64"` or `size=16`, are for those that are given by name.

    So is the width, that of the paper if it is None.

    Raises:
        InputError: there is none, a name is no network's, or a field makes no sense.
    """
    if width is not None:
        fields["width"] = width
    if isinstance(specs, Mapping):
        for name, spec in specs.items():
            require_type(f"specs[{quoted(name)}]", spec, Spec, "Spec.cifar(20) is one")
        if fields:
            raise InputError(f"{next(iter(fields))} is for networks given by name: say it in the spec.")
        found = dict(specs)
    else:
        found = {name: spec_named(name, **fields) for name in as_list(specs)}
    if not found:
        raise InputError("specs is empty: name at least one network, e.g. specs=['cifar-20', 'cifar-20-plain'].")
    return found


def family_of(name: str) -> str:
    """What a network's name says beside its depth: `cifar-plain` of `cifar-20-plain`."""
    return re.sub(r"-[0-9]+", "", name, count=1)


def listed(parameter: str, given: Iterable[str], choices: Iterable[str]) -> list[str]:
    """One name or several, each once and each one of the choices; `parameter` is a plural.

    Raises:
        InputError: there is none, or one that is no choice.
    """
    names = [choose(parameter.removesuffix("s"), name, choices) for name in as_list(given)]
    if not names:
        raise InputError(f"{parameter} is empty: name at least one of {', '.join(choices)}.")
    return list(dict.fromkeys(names))


def listed_depths(depths: int | Iterable[int]) -> list[int]:
    """One depth or several, each once.

    Raises:
        InputError: there is none, or one that is no whole number of at least 1.
    """
    known = [require_int("depths", depth, least=1) for depth in as_list(depths)]
    if not known:
        raise InputError("depths is empty: give at least one, e.g. depths=[5, 10, 20].")
    return list(dict.fromkeys(known))
