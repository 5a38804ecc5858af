"""The paper's networks (He, Zhang, Ren, Sun 2015, arXiv:1512.03385) as parts of a spec.

Their plain forms and their shortcut options are the same parts with another `shortcut`. Imports the parts and the
errors; `Spec.cifar` and `Spec.imagenet` put the parts together.
"""

from __future__ import annotations

from typing import Any, Literal

from skipscope.errors import InputError, choose, quoted, require_int
from skipscope.spec.stages import Gains, Head, Norm, Order, Shortcut, Stage, StageKind, Stem

__all__ = ["CIFAR_DEPTHS", "IMAGENET_BLOCKS", "ImageNetDepth", "Parts", "StridePlace", "cifar", "imagenet"]

CIFAR_DEPTHS = (20, 32, 44, 56, 110, 1202)
"""The depths of the paper's Table 6; any other 6n + 2 is a network of the same kind."""

ImageNetDepth = Literal[18, 34, 50, 101, 152]
"""The depths of the paper's Table 1."""

IMAGENET_BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks of the four stages by depth (Table 1): basic blocks at 18 and 34 layers, bottlenecks above."""

StridePlace = Literal["v1", "v1.5"]
"""Where a bottleneck has its stride: on the first 1x1 convolution (the paper's), or on the 3x3 (torchvision's)."""

Parts = tuple[Stem, tuple[Stage, ...], Head]
"""The stem, the stages and the head of a spec."""

_OPTIONS = ("none", "A", "A-both", "B", "C")


def cifar(
    depth: int,
    *,
    shortcut: Shortcut,
    order: Order,
    norm: Norm,
    gains: Gains,
    width: int,
    size: int,
    channels: int,
    classes: int,
) -> Parts:
    """The networks of section 4.2: three stages of n basic blocks of two layers, 6n + 2 weight layers.

    Raises:
        InputError: there is no such network, or a field is unknown.
    """
    require_int("depth", depth, least=1)
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        lower = 6 * max(blocks, 1) + 2
        nearest = f"{lower} or {lower + 6}" if depth > lower else str(lower)
        raise InputError(f"depth must be 6n + 2, as 20, 32, 44, 56, 110; got {quoted(depth)}. Use {nearest}.")
    widths = [_times(width, factor) for factor in (1, 2, 4)]
    return _parts(
        Stem(kind="conv3", **_input(channels, size, widths[0], order, norm)),
        [(blocks, each) for each in widths],
        classes,
        kind="basic",
        shortcut=shortcut,
        order=order,
        norm=norm,
        gains=gains,
    )


def imagenet(
    depth: int,
    *,
    shortcut: Shortcut | None,
    stride: StridePlace,
    order: Order,
    norm: Norm,
    gains: Gains,
    width: int,
    size: int,
    channels: int,
    classes: int,
) -> Parts:
    """The networks of Table 1: four stages, of basic blocks at 18 and 34 layers, of bottlenecks above.

    Raises:
        InputError: there is no such network, or a field is unknown.
    """
    require_int("depth", depth, least=1)
    if depth not in IMAGENET_BLOCKS:
        raise InputError(f"depth must be one of {', '.join(map(str, IMAGENET_BLOCKS))}; got {quoted(depth)}.")
    choose("stride", stride, ("v1", "v1.5"))
    bottleneck: StageKind = "bottleneck" if stride == "v1" else "bottleneck-v1.5"
    basic = depth < 50
    if shortcut is None:
        shortcut = "A" if basic else "B"
    widths = [_times(width, factor) for factor in (1, 2, 4, 8)]
    return _parts(
        Stem(kind="conv7", **_input(channels, size, widths[0], order, norm)),
        list(zip(IMAGENET_BLOCKS[depth], widths, strict=True)),
        classes,
        kind="basic" if basic else bottleneck,
        shortcut=shortcut,
        order=order,
        norm=norm,
        gains=gains,
    )


def _times(width: int, factor: int) -> int:
    return require_int("width", width, least=1) * factor


def _input(channels: int, size: int, width: int, order: Order, norm: Norm) -> dict[str, Any]:
    """The fields of a stem; in pre-activation order it hands on its bare sum, as the first block activates it."""
    around = {"norm": "none", "activation": "linear"} if order == "pre-activation" else {"norm": norm}
    return {"features": channels, "size": size, "width": width, **around}


def _parts(
    stem: Stem, stages: list[tuple[int, int]], classes: int, *, kind: StageKind, shortcut: Shortcut, **fields: Any
) -> Parts:
    """Stages given by their blocks and widths; all but the first halve the image."""
    choose("shortcut", shortcut, _OPTIONS)
    built = tuple(
        Stage(
            blocks=blocks,
            width=width,
            kind=kind,
            layers=2 if kind == "basic" else 3,
            stride=1 if index == 0 else 2,
            shortcut=shortcut,
            **fields,
        )
        for index, (blocks, width) in enumerate(stages)
    )
    return stem, built, Head(features=require_int("classes", classes, least=1), kind="pooled")
