"""Networks by name: the designs that studies compare, from a depth and a width to a `Spec`, and the paper's networks.

The notebook sets a plain network of d weight layers against a residual network of d blocks, which has 2d + 2 layers
and about twice the parameters. The other two designs make the comparison fair in either direction: the residual
network's twin has its parameters without its shortcuts, and the matched residual network has the plain one's layers.

The paper's networks are called by data set, depth and what departs from the paper: `cifar-20`, `cifar-20-plain`,
`imagenet-34-B`, `imagenet-50-v1.5`.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from skipscope.errors import InputError, choose, quoted, require_int, require_type
from skipscope.spec import CIFAR_DEPTHS, Spec

__all__ = ["DESIGNS", "NETWORKS", "Design", "design", "spec_named"]


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


# ---------------------------------------------------------------------------------------------- the paper's networks

NETWORKS: tuple[str, ...] = (
    *(f"cifar-{depth}{form}" for depth in CIFAR_DEPTHS for form in ("", "-plain")),
    *("imagenet-18", "imagenet-18-plain", "imagenet-18-B"),
    *("imagenet-34", "imagenet-34-plain", "imagenet-34-B", "imagenet-34-C"),
    *("imagenet-50", "imagenet-101", "imagenet-152"),
)
"""The networks that the paper trains, by the names that `spec_named` knows among others."""

_NAME = re.compile(r"(cifar|imagenet)-([0-9]{1,9})(?:-(plain|A-both|A|B|C))?(-v1\.5)?")


def spec_named(name: str, **fields: Any) -> Spec:
    """The `Spec` of one of the paper's networks by its name; `fields` go to `Spec.cifar` or `Spec.imagenet`.

    A name is `cifar-` or `imagenet-` and the depth, then `-plain` or a shortcut option (`-A`, `-A-both`, `-B`, `-C`)
    where it is not the paper's for that depth, then `-v1.5` for torchvision's place of the stride.

    Raises:
        InputError: the name is no such name, or a field is unknown or said by the name.
    """
    require_type("spec", name, str, "the name of a network, as cifar-20")
    match = _NAME.fullmatch(name)
    if match is None or (match[1] == "cifar" and match[4]):
        near = difflib.get_close_matches(name[:80], NETWORKS, n=1)
        raise InputError(
            "spec must be the name of a network, as cifar-20, cifar-56-plain, imagenet-34-B or imagenet-50-v1.5; got "
            f"{quoted(name)}." + (f" Did you mean {near[0]!r}?" if near else "")
        )
    make = Spec.cifar if match[1] == "cifar" else Spec.imagenet
    said: dict[str, Any] = {"depth": int(match[2])}
    if match[3]:
        said["shortcut"] = "none" if match[3] == "plain" else match[3]
    if match[4]:
        said["stride"] = "v1.5"
    for field in fields:
        choose("field", field, inspect.signature(make).parameters)
        if field in said:
            raise InputError(
                f"{field}={quoted(fields[field])} cannot be chosen, as the name {name!r} says it: leave it out, or "
                "give another name."
            )
    return make(**said, **fields)
