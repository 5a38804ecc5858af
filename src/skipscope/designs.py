"""The designs that studies compare, by name: from a depth and a width to a `Spec`.

The notebook sets a plain network of d weight layers against a residual network of d blocks, which has 2d + 2 layers
and about twice the parameters. The other two designs make the comparison fair in either direction: the residual
network's twin has its parameters without its shortcuts, and the matched residual network has the plain one's layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from skipscope.errors import InputError, choose, quoted, require_int
from skipscope.spec import Spec

__all__ = ["DESIGNS", "Design", "design"]


@dataclass(frozen=True)
class Design:
    """A way to make a network of a depth.

    Attributes:
        about: what it is, with d for the depth.
        fields: fields of `Spec.dense` at depth d; raises InputError where there is no such network.
    """

    about: str
    fields: Callable[[int], dict[str, Any]]


def _plain(depth: int) -> dict[str, Any]:
    require_int("depth", depth, least=2)
    return {"blocks": depth - 2, "layers": 1, "shortcut": "none"}


def _residual(depth: int) -> dict[str, Any]:
    return {"blocks": require_int("depth", depth, least=1), "layers": 2, "shortcut": "identity"}


def _twin(depth: int) -> dict[str, Any]:
    return {"blocks": require_int("depth", depth, least=1), "layers": 2, "shortcut": "none"}


def _matched(depth: int) -> dict[str, Any]:
    require_int("depth", depth, least=4)
    if depth % 2:
        raise InputError(
            f"depth must be even for the matched design, which has (depth - 2)/2 blocks of 2 layers; got {depth}. Use "
            f"{depth + 1}, or leave the matched design out."
        )
    return {"blocks": (depth - 2) // 2, "layers": 2, "shortcut": "identity"}


DESIGNS: dict[str, Design] = {
    "plain": Design("plain network of d weight layers", _plain),
    "residual": Design("residual network of d blocks of 2 layers: 2d + 2 weight layers", _residual),
    "twin": Design("the residual network without its shortcuts: same 2d + 2 layers, same draw", _twin),
    "matched": Design("residual network of (d - 2)/2 blocks: d weight layers, as the plain one", _matched),
}
"""The designs of the studies, in the order of the charts."""


def design(name: str, *, depth: int, width: int, **fields: Any) -> Spec:
    """The `Spec` of a design of `DESIGNS` at a depth and width; `fields` go to `Spec.dense`.

    Raises:
        InputError: there is no such design, it has no network of that depth, or a field is unknown or the design's own.
    """
    choose("design", name, DESIGNS)
    shape = DESIGNS[name].fields(depth)
    for field in fields:
        choose("field", field, inspect.signature(Spec.dense).parameters)
        if field in shape:
            raise InputError(
                f"{field}={quoted(fields[field])} cannot be chosen, as the design {name!r} says it: leave it out, or "
                "build Spec.dense yourself."
            )
    return Spec.dense(width=width, **fields, **shape)
