"""What a law is: when it holds, in words, and what it predicts, site by site, as a table.

`Setting` is what a law is asked about, `Law` the question and `Prediction` the answer; the modules beside this one hold
the laws themselves. Imports the spec, the cotangents, NumPy and Polars.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import polars as pl

from skipscope.draws import CotangentKind
from skipscope.errors import require_type
from skipscope.spec import Spec, Stage
from skipscope.theory.loglaw import LogLaw, joint_quantiles

__all__ = ["Kind", "Law", "Prediction", "Quantity", "Setting"]

Quantity = Literal["forward_gain", "backward_gain"]
"""What there are laws about, a name in `skipscope.QUANTITIES`."""

Kind = Literal["exact in law", "exact in mean", "asymptotic in width"]
"""How sharp a law is: it has the whole distribution, or the mean of the square, exactly at any width; or either of
them up to an error that vanishes with 1/width."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a law is asked about: the network and how it is probed.

    Attributes:
        spec: the network.
        cotangent: the gradient by the output: `"gaussian"`, independent of the network, or `"ones"`.
        batch: samples in the batch over which norms are taken.
        input_rms: RMS of one number of the input, 1 for Gaussian samples; None where it is not known.
    """

    spec: Spec
    cotangent: CotangentKind = "gaussian"
    batch: int = 1
    input_rms: float | None = 1.0

    def __post_init__(self) -> None:
        require_type("spec", self.spec, Spec, "Spec.dense(width=36, blocks=8), for one")


@dataclass(frozen=True, kw_only=True)
class Law:
    """One law of the theory for one quantity.

    Attributes:
        name: the law's letter and what it is about.
        quantity: what it predicts: `forward_gain` is ||a_site|| / ||x||, x the input; `backward_gain` is
            ||dL/da_site|| / ||cotangent||. Both dimensionless, norms over the batch.
        kind: how sharp it is.
        statement: the law, in one line.
        source: where it comes from.
        refuse: why it does not hold in a setting, a sentence a reason; nothing where it holds.
        predict: its table (see `Prediction`), asked for only where it holds.
        bias: what is left out at a finite width, measured, in a sentence; empty for an exact law.
        residual: whether it is about networks with shortcuts.
        images: whether it is about convolutional networks.
    """

    name: str
    quantity: Quantity
    kind: Kind
    statement: str
    source: str
    refuse: Callable[[Setting], Iterable[str]]
    predict: Callable[[Setting], pl.DataFrame]
    bias: Callable[[Setting], str] = lambda setting: ""
    residual: bool = False
    images: bool = False


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What one law says about one setting; the fields of the law, and its answer.

    Attributes:
        law, quantity, kind, statement, source: see `Law`.
        bias: see `Law`; empty where the law is refused.
        refusals: why the law does not hold here, a sentence a reason; empty where it holds.
        table: one row a site the law speaks of, in order of depth; no rows where the law is refused. `square_mean` is E
            of the squared gain over all draws, and `rms` its root (which holds where the square is too large for a
            float). Laws that are exact in mean alone have no more. Others have `log_mean` and `log_variance` of the
            natural logarithm of the *squared* gain, the same to first order in 1/width (`asymptotic_*`), and `q05` to
            `q95`, quantiles of the gain itself, all given that it is not 0; `dead` is the probability that it is.
    """

    law: str
    quantity: Quantity
    kind: Kind
    statement: str
    source: str
    bias: str
    refusals: tuple[str, ...]
    table: pl.DataFrame

    @property
    def holds(self) -> bool:
        """Whether the law's conditions hold."""
        return not self.refusals

    @property
    def refusal(self) -> str:
        """The reasons in one text; empty where the law holds."""
        return " ".join(self.refusals)


_OTHERS = {
    True: "The network is convolutional: the law is about dense layers.",
    False: "The network is dense: the law is about convolutions.",
}


def objections(law: Law, setting: Setting) -> tuple[str, ...]:
    """Why `law` does not hold in `setting`, a sentence a reason; nothing where it holds."""
    if law.images != setting.spec.images:
        return (_OTHERS[setting.spec.images],)
    return tuple(law.refuse(setting))


def ask(law: Law, setting: Setting) -> Prediction:
    """What `law` says about `setting`."""
    refusals = objections(law, setting)
    return Prediction(
        law=law.name,
        quantity=law.quantity,
        kind=law.kind,
        statement=law.statement,
        source=law.source,
        bias="" if refusals else law.bias(setting),
        refusals=refusals,
        table=pl.DataFrame(schema=_SCHEMA) if refusals else law.predict(setting),
    )


# ----------------------------------------------------------------------------------------------------------- tables


_LEVELS = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
_SCHEMA: dict[str, type[pl.DataType]] = {
    "site": pl.String,
    "quantity": pl.String,
    **dict.fromkeys(("square_mean", "rms"), pl.Float64),
    **dict.fromkeys(("log_mean", "log_variance", "asymptotic_log_mean", "asymptotic_log_variance"), pl.Float64),
    **dict.fromkeys((*_LEVELS, "dead"), pl.Float64),
}


def table_of_laws(quantity: Quantity, found: Mapping[str, LogLaw], dead: Mapping[str, float]) -> pl.DataFrame:
    """The table of a law that has the law of ln(squared gain), given that it is not 0, at every site.

    `dead` is the probability that it is 0: of a layer among the law's factors, or of one below that closes their gates.
    """
    all_laws = list(found.values())
    gains = [np.exp(quantiles / 2.0) for quantiles in joint_quantiles(all_laws, np.array(list(_LEVELS.values())))]
    rows = [
        {
            "site": site,
            "quantity": quantity,
            **_squares(law.log_square + math.log1p(-dead[site]) - math.log1p(-law.death)),
            "log_mean": law.mean,
            "log_variance": law.variance,
            "asymptotic_log_mean": law.asymptotic_mean,
            "asymptotic_log_variance": law.asymptotic_variance,
            **dict(zip(_LEVELS, gain.tolist(), strict=True)),
            "dead": dead[site],
        }
        for (site, law), gain in zip(found.items(), gains, strict=True)
    ]
    return pl.DataFrame(rows, schema=_SCHEMA)


def table_of_means(quantity: Quantity, log_squares: Mapping[str, float]) -> pl.DataFrame:
    """The table of a law that has ln E of the squared gain at every site (-inf where it is 0), and no more."""
    rows = [{"site": site, "quantity": quantity, **_squares(value)} for site, value in log_squares.items()]
    return pl.DataFrame(rows, schema=_SCHEMA)


def table_of_normals(quantity: Quantity, found: Mapping[str, tuple[float, float, float]]) -> pl.DataFrame:
    """The table of a law by which ln(squared gain) is nearly normal: (ln E of the square, mean, variance) by site."""
    rows = []
    for site, (log_square, mean, variance) in found.items():
        quantiles = {name: _exp((mean + _NORMAL[name] * variance**0.5) / 2.0) for name in _LEVELS}
        moments = {"log_mean": mean, "log_variance": variance}
        asymptotic = {f"asymptotic_{name}": value for name, value in moments.items()}
        rows.append({"site": site, "quantity": quantity, **_squares(log_square), **moments, **asymptotic, **quantiles})
    return pl.DataFrame(rows, schema=_SCHEMA)


_NORMAL = {name: NormalDist().inv_cdf(level) for name, level in _LEVELS.items()}


def _squares(log_square: float) -> dict[str, float]:
    return {"square_mean": _exp(log_square), "rms": _exp(log_square / 2.0)}


def _exp(x: float) -> float:
    return math.exp(x) if x < 709.0 else math.inf


# ---------------------------------------------------------------------------------------------- what laws object to


def stages(spec: Spec) -> Iterator[tuple[str, Stage]]:
    """Every stage with what a sentence calls it."""
    for number, stage in enumerate(spec.stages, start=1):
        yield f"stage {number}", stage


def gains_of(spec: Spec, stage: Stage) -> tuple[float, float]:
    """The shortcut's and the branch's gain at initialisation: 0 where there is no shortcut, or a learned gain."""
    shortcut, branch = stage.gains.values(len(spec.body))
    return 0.0 if stage.plain else shortcut, 0.0 if stage.gains.learned else branch


def shortcuts(setting: Setting) -> Iterator[str]:
    """A sentence for every stage with shortcuts."""
    for where, stage in stages(setting.spec):
        if gains_of(setting.spec, stage)[0] != 0.0:
            yield (
                f"There are shortcuts in {where}: the law is about plain networks (no shortcut, or a shortcut gain of "
                "0)."
            )


def norms(setting: Setting) -> Iterator[str]:
    """A sentence for every normalisation."""
    for where, norm in [("the stem", setting.spec.stem.norm), *((w, stage.norm) for w, stage in stages(setting.spec))]:
        if norm != "none":
            yield f"There is a {norm} norm in {where}: the law is about networks without normalisation."


def curved(setting: Setting) -> Iterator[str]:
    """A sentence for every activation function that is neither a ReLU nor linear."""
    spec = setting.spec
    places = [
        ("the stem", spec.stem.activation),
        *((where, stage.activation) for where, stage in stages(spec)),
        ("the head", spec.head.activation),
    ]
    for where, activation in places:
        if activation not in ("relu", "linear"):
            yield f"The activation in {where} is {activation}: the law needs relu or linear."


def nothing_passes(setting: Setting) -> Iterator[str]:
    """A sentence for every stage that needs a sign the law does not know (what outputs 0 is no `Spec`)."""
    for where, stage in stages(setting.spec):
        shortcut, branch = gains_of(setting.spec, stage)
        if shortcut == 0.0 and branch <= 0.0:
            yield f"The branch gain in {where} is {branch:g}: the law needs gains above 0."


def narrow(setting: Setting) -> Iterator[str]:
    """A sentence if the network is too narrow for what is true of wide ones."""
    width = min([setting.spec.stem.width, *(stage.width for stage in setting.spec.stages)])
    if width < NARROWEST:
        yield f"The width is {width}: the law is for widths far above 1, and not drawn below {NARROWEST}."


NARROWEST = 8
"""The width below which no law is drawn that is asymptotic in it; what it leaves out is of the order 1/width."""


def biases(setting: Setting) -> Iterator[str]:
    """A sentence if there are biases that do not start at 0."""
    if setting.spec.bias and setting.spec.init == "torch":
        yield "There are biases that start uniform (init='torch'): the law needs biases of zero."


def coherent(setting: Setting) -> Iterator[str]:
    """A sentence if the cotangent is coherent with the activations."""
    if setting.cotangent == "ones" and setting.spec.head.activation == "relu":
        yield (
            "The cotangent is ones under a ReLU output: the gates are correlated with the activations, and a fixed "
            "cotangent has a component along them that grows backward; the law needs a Gaussian cotangent or a linear "
            "output."
        )


def one_sided(setting: Setting) -> Iterator[str]:
    """A sentence for every stage of pre-activation order whose first ReLU looks at what has a preferred sign."""
    spec = setting.spec
    symmetric = spec.stem.activation != "relu"
    for where, stage in stages(spec):
        shortcut, branch = gains_of(spec, stage)
        if stage.order == "pre-activation" and stage.activation == "relu" and not symmetric:
            yield (
                f"The ReLU in front of {where} gets what has passed a ReLU before: the law needs something without a "
                "preferred sign there, e.g. a stem with activation='linear'."
            )
        if stage.activation == "relu" and branch != 0.0:
            ends_bare = stage.order == "pre-activation"
            symmetric = ends_bare and (symmetric or shortcut == 0.0)
        elif shortcut == 0.0:
            symmetric = True  # a linear plain stage ends in a bare weight matrix
