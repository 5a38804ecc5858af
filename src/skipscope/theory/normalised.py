"""Law (d), plain networks with batch normalisation: the gradient grows backward by pi/(pi - 1) a layer, in the square.

What goes into a layer's normalisation is W a, a the ReLU of something normalised, hence of variance 1 over the batch:
relu(z) has the variance (1 - 1/pi)/2. So W a has n v (1 - 1/pi)/2, v the variance of a weight, and the normalisation
divides by its root. Backward the gradient meets the ReLU's gates (1/2), that division, and W^T (n v):

    ||g_{l-1}||^2 / ||g_l||^2  =  (1/2) n v / (n v (1 - 1/pi)/2)  =  pi/(pi - 1)  =  1.4669

whatever the initialisation: batch normalisation itself makes it grow (Yang et al. 2019, arXiv:1902.08129). What the
normalisation's derivative takes away besides (the mean of the gradient and its part along z) is 2 of `batch`
directions. The cotangent has to differ between samples: ones are the same for all, and most of it is such a mean.

The factor is that of an infinite batch and width. Measured at widths of 8 to 512 and batches of 8 to 1024 it is larger
by 1.2/batch + 0.6/width, to a third of that; a batch larger than the width (n/B down to 0.04) changes nothing more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import polars as pl

from skipscope.theory import law
from skipscope.theory.law import Law, Setting
from skipscope.theory.steps import Affine, Gate, Normalise, steps

__all__ = ["NORMALISED"]

_VARIANCE = 0.5 * (1.0 - 1.0 / math.pi)  # of relu(z), z of mean 0 and variance 1
_ALLOWED = 0.05  # how far off the factor may be before the law is refused

# ---------------------------------------------------------------------------------------------------- what it predicts


def _backward(setting: Setting) -> pl.DataFrame:
    """Walk down to the stem's normalisation; what it divides by is the input's variance, which is the data's affair."""
    square, normalised = 0.0, False
    found: dict[str, float] = {}
    for step in reversed(list(steps(setting.spec))):
        match step:
            case Gate():
                square += math.log(0.5)
            case Normalise():
                normalised = True
            case Affine():
                # Normalised, n v stands above and below the line.
                square -= math.log(_VARIANCE if normalised else 1.0 / (step.layer.fan_in * step.variance))
                normalised = False
            case str():
                found[step] = square
    del found["input"]
    return law.table_of_means("backward_gain", {site: found[site] for site in reversed(found)})


# ----------------------------------------------------------------------------------------------------- when it holds


def _refuse(setting: Setting) -> Iterator[str]:
    spec = setting.spec
    places = [("the stem", spec.stem.norm, spec.stem.activation)]
    places += [(where, stage.norm, stage.activation) for where, stage in law.stages(spec)]
    for where, norm, activation in places:
        if norm != "batch" or activation != "relu":
            yield f"{where.capitalize()} has norm {norm!r}, {activation}: the law is about batch norm with ReLUs."
    for where, stage in law.stages(spec):
        if stage.order == "pre-activation":
            yield f"The order in {where} is pre-activation: the law needs every norm right behind a weight matrix."
        if law.gains_of(spec, stage)[1] != 1.0:
            yield f"The branch gain in {where} is not 1: the law is about networks without gains."
    yield from law.shortcuts(setting)
    if spec.head.activation not in ("relu", "linear"):
        yield f"The activation in the head is {spec.head.activation}: the law needs relu or linear."
    if setting.cotangent == "ones":
        yield (
            "The cotangent is ones, the same for every sample, which the normalisation takes away: the law needs one "
            "that differs between samples."
        )
    if _error(setting) > _ALLOWED:
        yield (
            f"The width is {_width(setting)} and the batch {setting.batch}: the law is for both far above 1, and the "
            f"factor a layer would be about {_error(setting):.0%} larger than pi/(pi - 1)."
        )


def _width(setting: Setting) -> int:
    """The narrowest normalised layer."""
    return min([setting.spec.stem.width, *(stage.width for stage in setting.spec.stages)])


def _error(setting: Setting) -> float:
    """How far above pi/(pi - 1) the factor a layer is, as measured."""
    return 1.2 / setting.batch + 0.6 / _width(setting)


def _bias(setting: Setting) -> str:
    n, batch = _width(setting), setting.batch
    return (
        f"The factor a layer is about {_error(setting):.1%} larger at width {n} and batch {batch} (n/B = "
        f"{n / batch:.2g}): 1.2/batch + 0.6/width, measured."
    )


NORMALISED: tuple[Law, ...] = (
    Law(
        name="(d) plain network with batch normalisation, backward",
        quantity="backward_gain",
        kind="asymptotic in width",
        statement="E ||g_l||^2/||cotangent||^2 grows by pi/(pi - 1) = 1.467 a layer, whatever the initialisation.",
        source="Yang et al. 2019, arXiv:1902.08129; the factor is derived in skipscope.theory.normalised",
        refuse=_refuse,
        predict=_backward,
        bias=_bias,
    ),
)
"""Law (d)."""
