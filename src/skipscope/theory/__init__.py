"""What the theory predicts for a spec at initialisation: laws to draw beside the measurement.

A law is one entry of `LAWS`, at the foot of this file: when it holds, in words, how sharp it is, and what it predicts,
site by site, as a table. Where a condition fails, the law is not drawn but says which. Laws speak of a `Spec`, never of
arrays that somebody measured, so this package imports the spec, how it is initialised, NumPy and Polars; SciPy's
special functions are heavy and wait inside the functions that need them.

    plain.py        (a)   plain networks: the exact law of the squared gain; ones under a ReLU output
    residual.py     (b1)  residual networks with zero-mean branches, and of pre-activation order
    before_add.py   (b2)  the notebook's block, its ReLU before the addition
    after_add.py    (b3)  the paper's block, its ReLU after the addition
    normalised.py   (d)   batch normalisation
    images.py       (d)   convolutional networks, position by position; with batch normalisation or without
    meanfield.py    (f)   any initialisation, any batch, tanh
    paths.py        (g)   how long the paths through a residual network are

Branch gains, law (c), are part of the (b)s. The letters are those of the docs, "What theory predicts". Below them all:
law.py (what a law is), loglaw.py (sums of logarithms of chi-squares), squares.py (means that multiply), steps.py.
"""

from __future__ import annotations

from typing import get_args

from skipscope.draws import CotangentKind
from skipscope.errors import InputError, choose, quoted, require_int, require_number, require_type
from skipscope.spec import Spec
from skipscope.theory.after_add import AFTER_ADD
from skipscope.theory.before_add import BEFORE_ADD, first_last_ratio
from skipscope.theory.images import IMAGES
from skipscope.theory.law import Kind, Law, Prediction, Quantity, Setting, ask, objections
from skipscope.theory.loglaw import Factor, LogLaw, increment
from skipscope.theory.meanfield import MEAN_FIELD, WIDE_MEAN_FIELD, chi_1
from skipscope.theory.normalised import NORMALISED
from skipscope.theory.paths import PathLengths
from skipscope.theory.plain import PLAIN, fixed_cotangent_growth
from skipscope.theory.residual import RESIDUAL
from skipscope.theory.squares import branch_square

__all__ = [
    "LAWS",
    "Factor",
    "Kind",
    "Law",
    "LogLaw",
    "PathLengths",
    "Prediction",
    "Quantity",
    "Setting",
    "best",
    "branch_square",
    "chi_1",
    "first_last_ratio",
    "fixed_cotangent_growth",
    "increment",
    "laws",
]

_MOST_LAYERS = 100_000  # a second each 3,000
_MOST_UNITS = 10_000_000  # a table of all numbers of open gates: 80 MB


def laws(
    spec: Spec, *, cotangent: CotangentKind = "gaussian", batch: int = 1, input_rms: float | None = 1.0
) -> tuple[Prediction, ...]:
    """What every law of `LAWS` says about the networks that `spec` describes, at initialisation.

    Args:
        spec: the network.
        cotangent: the gradient by the output that is sent back: `"gaussian"` (standard normal, drawn independently of
            the network) or `"ones"`.
        batch: samples in the batch over which norms are taken.
        input_rms: RMS of one number of the input; 1 for the Gaussian samples that a probe draws, None if not known.

    Raises:
        InputError: the cotangent is another one, the batch is below 1, or the RMS is not above 0.
    """
    setting = _setting(spec, cotangent, batch, input_rms)
    return tuple(ask(law, setting) for law in LAWS)


def best(
    spec: Spec,
    quantity: Quantity,
    *,
    cotangent: CotangentKind = "gaussian",
    batch: int = 1,
    input_rms: float | None = 1.0,
) -> Prediction:
    """The sharpest law about `quantity` that holds; where none does, the one that fits best.

    That is one about networks with shortcuts where the spec has some, and of those the one with the fewest objections.

    Args:
        spec, cotangent, batch, input_rms: see `laws`.
        quantity: `"forward_gain"` or `"backward_gain"`.

    Raises:
        InputError: as `laws`, or there are no laws about the quantity.
    """
    choose("quantity", quantity, get_args(Quantity))
    setting = _setting(spec, cotangent, batch, input_rms)
    residual = not all(stage.plain for stage in spec.stages)

    def misfit(law: Law) -> tuple[bool, bool, bool, int]:
        against = len(objections(law, setting))
        return against > 0, law.images != spec.images, law.residual != residual, against

    return ask(min((law for law in LAWS if law.quantity == quantity), key=misfit), setting)


def _setting(spec: Spec, cotangent: CotangentKind, batch: int, input_rms: float | None) -> Setting:
    choose("cotangent", cotangent, get_args(CotangentKind))
    if input_rms is not None and require_number("input_rms", input_rms) <= 0.0:
        raise InputError(f"input_rms must be above 0, or None where it is not known; got {quoted(input_rms)}.")
    _require_size(spec)
    return Setting(spec=spec, cotangent=cotangent, batch=require_int("batch", batch, least=1), input_rms=input_rms)


def _require_size(spec: Spec) -> None:
    """Refuse what would take hours or all memory: laws are reckoned layer by layer, and sums over a layer's units."""
    require_type("spec", spec, Spec, "Spec.dense(width=36, blocks=8), for one")
    layers = 2 + sum(stage.blocks * stage.layers for stage in spec.stages)
    units = max(spec.stem.features, spec.stem.width, spec.head.features, *(stage.width for stage in spec.stages), 0)
    if layers > _MOST_LAYERS or units > _MOST_UNITS:
        raise InputError(
            f"this is too large: the laws are for networks of at most {_MOST_LAYERS:,} layers and {_MOST_UNITS:,} "
            f"units or features; got {layers:,} layers and {units:,}. Make the depth, width or features smaller."
        )


LAWS: tuple[Law, ...] = (
    *PLAIN,
    *MEAN_FIELD,
    *RESIDUAL,
    *BEFORE_ADD,
    *AFTER_ADD,
    *NORMALISED,
    *IMAGES,
    *WIDE_MEAN_FIELD,
)
"""All laws; of two that speak of the same quantity where both hold, the sharper comes first."""
