"""The networks that an engine is put through: small, and of every combination of what a `Spec` can say.

Imports the spec.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from skipscope.errors import InputError
from skipscope.spec import Gains, Head, Norm, Shortcut, Spec, Stage, Stem

__all__ = ["GRID", "IMAGE_GRID", "crowded_spec", "homogeneous", "image_specs", "specs", "trained_specs"]

Grid = Mapping[str, tuple[Any, ...]]

GRID: Grid = {
    "order": ("before-add", "after-add", "pre-activation"),
    "norm": ("none", "batch", "layer"),
    "layers": (1, 2, 3),
    "shortcut": ("identity", "none"),
    "activation": ("relu", "tanh", "linear"),
    "gains": ((1, 1), (0.5, 1), (1, -0.7), (1, "1/sqrt(L)"), ("1/sqrt(L)", "1/L"), (1, "zero")),
    "output": ("linear", "relu"),
    "bias": (False, True),
    "init": ("he", "xavier", "lecun", "torch"),
}
"""The choices of `Spec.dense` that are combined; `gains` is (shortcut_gain, branch_gain)."""

IMAGE_GRID: Grid = {
    "stem": ("conv3", "conv7"),
    "kind": ("basic", "bottleneck", "bottleneck-v1.5"),
    "shortcut": ("none", "A", "A-both", "B", "C"),
    "order": ("before-add", "after-add", "pre-activation"),
    "norm": ("none", "batch"),
    "activation": ("relu", "tanh", "linear"),
    "gains": ((1, 1), (0.5, 1), (1, -0.7), (1, "1/sqrt(L)"), (1, "zero"), (1, "zero-gamma")),
    "odd": (False, True),
    "init": ("he", "torch"),
}
"""The choices of a convolutional network that are combined; `odd` is whether strides leave a remainder."""


@functools.cache
def specs(together: int = len(GRID)) -> tuple[Spec, ...]:
    """Small networks of every combination in `GRID` that `Spec` accepts, and some whose stages differ from each other.

    Args:
        together: thins the grid: whatever so many choices meet in a network of it still meet in one that is left. All
            of it is some 12,700 networks; 4 leaves 600 of them, 3 leaves 180, and 2 leaves 60.
    """
    return (*_thinned(GRID, _dense, together), *_uneven())


@functools.cache
def image_specs(together: int = len(IMAGE_GRID)) -> tuple[Spec, ...]:
    """Small convolutional networks, likewise: of every combination in `IMAGE_GRID`, and some that are uneven.

    Args:
        together: as of `specs`; all of the grid is some 10,700 networks; 3 leaves 190 of them, and 2 leaves 50.
    """
    return (*_thinned(IMAGE_GRID, _convolutional, together), *_uneven_images())


def _thinned(grid: Grid, accepted: Callable[..., Spec | None], together: int) -> Iterator[Spec]:
    """The networks of a grid in which some choices meet that did not before."""
    met = set[tuple[tuple[int, Any], ...]]()
    combinations = list(itertools.product(*grid.values()))
    for index in np.random.default_rng(0).permutation(len(combinations)):  # scattered, each brings many new ones
        choices = combinations[index]
        new = set(itertools.combinations(enumerate(choices), together)) - met
        spec = accepted(**dict(zip(grid, choices, strict=True))) if new else None
        if spec is not None:
            yield spec
            met |= new


def _dense(gains: tuple[Any, Any], **choices: Any) -> Spec | None:
    """A network of three features, two blocks of four units, two outputs; None if there is none."""
    shortcut, branch = gains
    try:
        return Spec.dense(
            width=4, blocks=2, features=3, outputs=2, shortcut_gain=shortcut, branch_gain=branch, **choices
        )
    except InputError:
        return None


def _convolutional(
    stem: Any, gains: tuple[Any, Any], odd: bool, init: Any, activation: Any, norm: Norm, **choices: Any
) -> Spec | None:
    """A network of two channels, two blocks, of which the first halves the image, and three outputs; None if none is.

    What comes into the second block has the shape of what goes out.
    """
    basic = choices["kind"] == "basic"
    width, wider = (3, 5) if basic else (2, 3)  # a bottleneck hands on four times as many channels
    size = {"conv3": 6, "conv7": 12}[stem] + odd
    # In pre-activation order the stem hands on its bare sum, because the first block normalises and activates it.
    around: dict[str, Any] = {"norm": norm, "activation": activation}
    if choices["order"] == "pre-activation":
        around = {"activation": "linear"}
    try:
        stage = Stage(
            blocks=2,
            width=wider,
            layers=2 if basic else 3,
            stride=2,
            gains=Gains(shortcut=gains[0], branch=gains[1]),
            norm=norm,
            activation=activation,
            **choices,
        )
        return Spec(
            stem=Stem(kind=stem, features=2, width=width, size=size, **around),
            stages=(stage,),
            head=Head(features=3, kind="pooled"),
            init=init,
        )
    except InputError:
        return None


def _uneven() -> Iterator[Spec]:
    """What `Spec.dense` cannot say: stages of several widths, orders and norms; and the smallest networks."""
    norms: tuple[tuple[Norm, Norm], ...] = (("none", "none"), ("batch", "layer"), ("none", "batch"))
    for norm, other in norms:
        plain = Stage(blocks=2, width=5, layers=1, shortcut="none", order="after-add", norm=norm)
        narrow = Stage(blocks=1, width=3, shortcut="none", activation="tanh", gains=Gains(branch=0.7), norm=other)
        residual = Stage(blocks=2, width=3, order="pre-activation", norm=norm, gains=Gains(branch="zero"))
        for stages in ((plain, narrow), (plain, narrow, residual)):
            yield Spec(stem=Stem(features=3, width=4, activation="tanh"), stages=stages, head=Head(features=2))
    yield Spec.dense(width=4, blocks=0)
    yield Spec.dense(width=1, blocks=2, features=1)


def _uneven_images() -> Iterator[Spec]:
    """The paper's own, and what they are not: stages of several kinds, options and norms; and the smallest images."""
    options: tuple[Shortcut, ...] = ("A-both", "none")
    small: dict[str, Any] = {"width": 2, "channels": 2, "classes": 3, "dtype": "float64"}
    for option in options:
        yield Spec.cifar(14, size=8, shortcut=option, **small)
        yield Spec.cifar(8, size=3, shortcut=option, norm="none", **small)  # 1x1 at the end: borders are all there is
    yield Spec.imagenet(18, size=33, shortcut="B", **small)
    mixed = (
        Stage(kind="basic", blocks=1, width=3, layers=1, shortcut="identity", order="after-add", norm="batch"),
        Stage(kind="bottleneck", blocks=1, width=2, layers=3, stride=2, shortcut="B", norm="none", order="after-add"),
        Stage(kind="basic", blocks=1, width=8, layers=3, stride=2, shortcut="A", activation="tanh", norm="batch"),
        Stage(kind="basic", blocks=1, width=4, stride=1, shortcut="none", gains=Gains(branch=0.7)),
        Stage(kind="basic", blocks=2, width=4, shortcut="C", order="pre-activation", gains=Gains(branch="zero")),
    )
    for stages in (mixed, mixed[:2], ()):
        yield Spec(
            stem=Stem(kind="conv3", features=1, width=3, size=9), stages=stages, head=Head(features=2, kind="pooled")
        )


def trained_specs() -> tuple[Spec, ...]:
    """Networks for steps of training: dense ones, and narrow ones of the paper, plain and residual."""
    dense: dict[str, Any] = {"width": 6, "blocks": 3, "features": 4, "outputs": 3}
    small: dict[str, Any] = {"width": 2, "size": 8, "channels": 2, "classes": 3, "dtype": "float64"}
    return (
        Spec.dense(**dense, norm="layer", bias=True),
        Spec.dense(**dense, norm="batch", order="pre-activation"),
        Spec.dense(**dense, shortcut="none", branch_gain=0.5),
        Spec.cifar(20, shortcut="none", **small),
        Spec.cifar(20, **small),
        Spec.cifar(14, shortcut="B", order="pre-activation", **small),
    )


def crowded_spec() -> Spec:
    """A network for more images than the others are shown: an engine may have other ways for work that is larger."""
    return Spec.cifar(8, width=3, size=11, channels=2, classes=3, dtype="float64")


def homogeneous(spec: Spec) -> bool:
    """Whether scaling a weight matrix by 2 doubles what it feeds: ReLU or linear, without biases.

    The invariants of `check_invariants` hold exactly where this does; the bias of a pooled head, which stands after all
    else, is taken into account.
    """
    activations = {spec.stem.activation, spec.head.activation, *(stage.activation for stage in spec.stages)}
    return not spec.bias and "tanh" not in activations
