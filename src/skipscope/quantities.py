"""What is measured: every formula once, on moments, for NumPy arrays and torch tensors alike.

A `Quantity` says which roles it needs (see the table of roles in protocol.py), what has to be summed about them, at
which sites it makes sense, and how the value follows. A formula gives an array of shape (s,); where the value is
undefined (a ratio to nothing) the array is masked there, and no reading is made. So nan and inf in a reading always
mean that something overflowed. `QUANTITIES` at the foot is the whole list; `QUANTITIES | {"mine": Quantity(...)}`
measures one more. Imports NumPy, moments and protocol.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skipscope.moments import Dot, Field, Moments
from skipscope.protocol import Site

__all__ = ["QUANTITIES", "Profile", "Quantity", "View"]

Values = Any  # an array of shape (s,), masked where undefined
Roles = Mapping[str, tuple[Field, ...]]

CONFIDENCE = 0.95
"""Level of every interval that a reading carries (`*_low`, `*_high`)."""

_Z95 = 1.959963984540054  # the normal quantile at 0.975


@dataclass(frozen=True)
class View:
    """What a formula sees of a site: `view["activation"]` is the `Moments` of that role.

    Attributes:
        site: the site.
        roles: moments by role.
        dots: inner products by pair of roles.
        input: the roles of the site `input`.
        output: the roles of the last layer.
    """

    site: Site
    roles: Mapping[str, Moments]
    dots: Mapping[tuple[str, str], Dot] = field(default_factory=dict)
    input: Mapping[str, Moments] = field(default_factory=dict)
    output: Mapping[str, Moments] = field(default_factory=dict)

    def __getitem__(self, role: str) -> Moments:
        return self.roles[role]


@dataclass(frozen=True)
class Profile:
    """What a formula of a whole network sees: its sites' views in order, and `facts` that need no array.

    `facts` may hold `parameters` and `multiply_adds` (numbers) and `loss` (s,); `networks` is s.
    """

    views: Sequence[View]
    facts: Mapping[str, Any]
    networks: int

    def end(self, which: Literal["entry", "exit"], role: str) -> Moments | None:
        """The moments of a role at the body's entry or exit, None in a network without blocks."""
        return next((view.roles.get(role) for view in self.views if view.site.ends == which), None)

    @property
    def blocks(self) -> int:
        """How many blocks the body has."""
        return max((view.site.block for view in self.views), default=0)


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A formula with what it needs and what it means.

    Attributes:
        formula: maps a `View` (scope `site`) or a `Profile` (scope `network`) to values of shape (s,). Mask what is
            undefined at the end: arithmetic on masked arrays also masks inf and nan, which are readings.
        symbol: as the docs and the charts write it.
        about: one sentence.
        unit: of the value.
        source: paper and equation, or "definition".
        at_init: what a He-initialised ReLU network shows.
        needs: role -> what to sum beside its square.
        where: the sites that the quantity is made at (scope `site`) or reads (scope `network`).
        pairs: roles of one call whose inner product is needed.
        scope: of one site, or of the network as a whole.
    """

    formula: Callable[[Any], Values]
    symbol: str
    about: str
    unit: str
    source: str = "definition"
    at_init: str = ""
    needs: Roles = field(default_factory=dict)
    where: Callable[[Site], bool] = lambda site: site.kind != "network"
    pairs: tuple[tuple[str, str], ...] = ()
    scope: Literal["site", "network"] = "site"


# ------------------------------------------------------------------------------------------------ where they apply


def _rectified(site: Site) -> bool:
    return site.activation == "relu"


def _junction(site: Site) -> bool:
    return site.kind == "junction"


def _outer(site: Site) -> bool:
    return site.outer != ""


def _ends(site: Site) -> bool:
    return site.ends != ""


def _layer(site: Site) -> bool:
    return site.kind == "layer"


# ------------------------------------------------------------------------------------------------------- formulas


def _masked(values: NDArray[np.float64], undefined: NDArray[np.bool_]) -> Values:
    return np.ma.masked_array(np.where(undefined, 0.0, values), mask=undefined)


def _forward_gain(view: View) -> Values:
    return _norm_ratio(view["activation"], view.input["activation"])


def _backward_gain(view: View) -> Values:
    return _norm_ratio(view["activation_grad"], view.output["activation_grad"])


def _norm_ratio(a: Moments, b: Moments) -> Values:
    """|a|/|b|, by way of both scales: it is finite even where a norm is not."""
    return _masked((a.sumsq / b.sumsq) ** 0.5 * (a.scale / b.scale), b.sumsq == 0)


def _cosine(view: View) -> Values:
    skip, branch, product = view["shortcut"], view["branch"], view.dots["shortcut", "branch"]
    norms = skip.sumsq**0.5 * branch.sumsq**0.5
    cosine = product.value / norms * (product.scale_x / skip.scale) * (product.scale_y / branch.scale)
    return _masked(np.clip(cosine, -1.0, 1.0), norms == 0)  # what is beyond is rounding


def _share(part: str) -> Callable[[View], Values]:
    """<part, total> / |total|^2: the shares of both parts sum to one, and either may be negative or above one."""

    def formula(view: View) -> Values:
        total, product = view["total_grad"], view.dots[part, "total_grad"]
        share = product.value / total.sumsq * (product.scale_x / total.scale) * (product.scale_y / total.scale)
        return _masked(share, total.sumsq == 0)

    return formula


def _inactive(view: View) -> Values:
    moments = view["activation"]
    assert moments.positive is not None
    return _known(view, (moments.count - moments.positive) / moments.count)


def _dead(view: View) -> Values:
    return _known(view, _silent(view))


def _dead_bound(sign: int) -> Callable[[View], Values]:
    """Wilson's interval for a share, over the units of the layer (Wilson 1927)."""

    def formula(view: View) -> Values:
        share, n = _silent(view), _units(view).shape[1]
        centre = share + _Z95**2 / (2 * n)
        spread = _Z95 * np.sqrt(share * (1 - share) / n + _Z95**2 / (4 * n * n))
        return _known(view, np.clip((centre + sign * spread) / (1 + _Z95**2 / n), 0.0, 1.0))

    return formula


def _known(view: View, values: NDArray[np.float64]) -> Values:
    """`values`, undefined where an activation is nan, which is neither positive nor 0."""
    return _masked(values, np.isnan(view["activation"].sumsq))


def _silent(view: View) -> NDArray[np.float64]:
    """The share of units that were never positive."""
    share: NDArray[np.float64] = (~_units(view)).mean(axis=1)
    return share


def _units(view: View) -> NDArray[np.bool_]:
    units = view["activation"].units
    assert units is not None
    found: NDArray[np.bool_] = units
    return found


def _rows(view: View) -> Values:
    moments = view["activation"]
    return _known(view, np.full(moments.sumsq.shape, float(moments.rows)))


def _nonfinite(role: str) -> Callable[[View], Values]:
    def formula(view: View) -> Values:
        count = view[role].nonfinite
        assert count is not None
        return count

    return formula


def _growth(role: str, first: Literal["entry", "exit"], last: Literal["entry", "exit"]) -> Callable[[Profile], Values]:
    """The factor a block on the squared norm: (|last|^2 / |first|^2)^(1/L)."""

    def formula(profile: Profile) -> Values:
        a, b = profile.end(first, role), profile.end(last, role)
        if a is None or b is None:
            return _undefined(profile)
        ratio = _norm_ratio(b, a)
        return _masked(ratio.data ** (2 / profile.blocks), ratio.mask)

    return formula


def _growth_bound(
    role: str, first: Literal["entry", "exit"], last: Literal["entry", "exit"], sign: int
) -> Callable[[Profile], Values]:
    """Bound of the interval of `_growth` over the samples of the batch: the jackknife of its logarithm.

    With a and c the samples' sums of squares, ln(sum a / sum c) is computed with each of the b samples left out in
    turn; their spread gives the standard error (Efron 1982), and Student's t with b - 1 degrees the interval.
    """

    def formula(profile: Profile) -> Values:
        c, a = profile.end(first, role), profile.end(last, role)
        if c is None or a is None or c.rows < 2:
            return _undefined(profile)
        from scipy.special import stdtrit  # imported here because a probe without a batch needs no SciPy

        assert a.samples is not None
        assert c.samples is not None
        b = a.samples.shape[1]
        rest = np.log(_without_each(a.samples)) - np.log(_without_each(c.samples))
        spread = rest - rest.mean(axis=1, keepdims=True)
        error = np.sqrt((b - 1) / b * (spread * spread).sum(axis=1))
        half = stdtrit(b - 1, (1 + CONFIDENCE) / 2) * error
        centre = 2 * np.log(_norm_ratio(a, c).data)
        # One sample that holds everything leaves nothing when it is left out: then there is no interval.
        return _masked(np.exp((centre + sign * half) / profile.blocks), ~np.isfinite(rest).all(axis=1))

    return formula


def _without_each(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums of all samples but one, of shape (s, b): what is before it and what is after.

    The whole sum less the sample would be rounding error where the sample is nearly the whole.
    """
    rest = np.zeros_like(samples)
    rest[:, 1:] = samples[:, :-1].cumsum(axis=1)
    rest[:, :-1] += samples[:, :0:-1].cumsum(axis=1)[:, ::-1]
    return rest


def _gradient_norm(profile: Profile) -> Values:
    found = [m for view in profile.views for role, m in view.roles.items() if role in _PARAMETER_GRADIENTS]
    if not found:
        return _undefined(profile)
    return functools.reduce(np.hypot, [m.norm for m in found])


def _first_last(profile: Profile) -> Values:
    found = {view.site.outer: view.roles.get("weight_grad") for view in profile.views if view.site.outer}
    first, last = found.get("first"), found.get("last")
    return _undefined(profile) if first is None or last is None else _norm_ratio(first, last)


def _fact(name: str) -> Callable[[Profile], Values]:
    def formula(profile: Profile) -> Values:
        if name not in profile.facts:
            return _undefined(profile)
        return np.broadcast_to(np.asarray(profile.facts[name], float), profile.networks)

    return formula


def _output_norm(profile: Profile) -> Values:
    output = profile.views[-1].roles.get("activation")
    return _undefined(profile) if output is None else output.norm


def _undefined(profile: Profile) -> Values:
    return _masked(np.zeros(profile.networks), np.ones(profile.networks, bool))


_PARAMETER_GRADIENTS = ("weight_grad", "bias_grad", "gamma_grad", "beta_grad", "gain_grad")
_HE = "He et al. 2015b, arXiv:1502.01852"
_HE2016 = "He et al. 2016, arXiv:1603.05027, eq. 5"
_LAST = "only ratios over depth compare between batch sizes"

QUANTITIES: dict[str, Quantity] = {
    "activation_rms": Quantity(
        formula=lambda view: view["activation"].rms,
        needs={"activation": ()},
        symbol="rms(a)",
        unit="RMS per element",
        about="Root mean square of what the site hands on, over batch and features.",
        source=_HE,
        at_init="constant over depth in the mean of its square for a plain He network",
    ),
    "activation_mean": Quantity(
        formula=lambda view: view["activation"].mean,
        needs={"activation": ("sum",)},
        symbol="mean(a)",
        unit="per element",
        about="Mean of what the site hands on, over batch and features.",
        at_init="rms/sqrt(pi) after a wide ReLU layer",
    ),
    "activation_variance": Quantity(
        formula=lambda view: view["activation"].variance,
        needs={"activation": ("sum",)},
        symbol="var(a)",
        unit="per element, squared",
        about="Variance of what the site hands on, over batch and features together.",
        at_init="(1 - 1/pi) rms^2 after a wide ReLU layer",
    ),
    "forward_gain": Quantity(
        formula=_forward_gain,
        needs={"activation": ()},
        symbol="|a|/|x|",
        unit="dimensionless",
        about="Frobenius norm of the activation relative to that of the network's input.",
        source="Hanin & Nica 2018, arXiv:1812.05994",
        at_init="log-normal: spread grows with depth/width (law a)",
    ),
    "activation_grad_norm": Quantity(
        formula=lambda view: view["activation_grad"].norm,
        needs={"activation_grad": ()},
        symbol="|dL/da|",
        unit=f"loss per activation; {_LAST}",
        about="Frobenius norm over batch and features of the gradient of the loss by the activation.",
        source=_HE,
        at_init="constant over depth in the mean of its square for a plain He network",
    ),
    "backward_gain": Quantity(
        formula=_backward_gain,
        needs={"activation_grad": ()},
        symbol="|dL/da|/|dL/dy|",
        unit="dimensionless",
        about="Norm of the gradient by the activation relative to that by the network's output.",
        source="Hanin & Nica 2018, arXiv:1812.05994",
        at_init="log-normal: spread grows with depth/width (law a)",
    ),
    "preactivation_grad_norm": Quantity(
        formula=lambda view: view["preactivation_grad"].norm,
        needs={"preactivation_grad": ()},
        where=_layer,
        symbol="|dL/dz|",
        unit=f"loss per preactivation; {_LAST}",
        about="Frobenius norm of the gradient of the loss by what goes into the activation function.",
        source=_HE,
        at_init="1/sqrt(2) of |dL/da| in the mean of its square",
    ),
    "weight_norm": Quantity(
        formula=lambda view: view["weight"].norm,
        needs={"weight": ()},
        where=_layer,
        symbol="|W|",
        unit="Frobenius norm",
        about="Norm of the weight matrix.",
        at_init="sqrt(2 n_out)",
    ),
    "weight_grad_norm": Quantity(
        formula=lambda view: view["weight_grad"].norm,
        needs={"weight_grad": ()},
        where=_layer,
        symbol="|dL/dW|",
        unit=f"loss per weight; {_LAST}",
        about="Frobenius norm of the gradient of the loss by the weight matrix; for one sample it is |dL/dz| |a_in|.",
        source="docs, What theory predicts: it mixes a backward and a forward norm",
    ),
    "grad_weight_ratio": Quantity(
        formula=lambda view: _norm_ratio(view["weight_grad"], view["weight"]),
        needs={"weight_grad": (), "weight": ()},
        where=_layer,
        symbol="|dL/dW|/|W|",
        unit="loss per weight, squared",
        about="Norm of the weight gradient relative to that of the weight: times the learning rate, one step's change.",
    ),
    "inactive": Quantity(
        formula=_inactive,
        needs={"activation": ("positive",)},
        where=_rectified,
        symbol="P(a = 0)",
        unit="share of outputs",
        about="Share of outputs of a ReLU that are 0, over batch and features.",
        at_init="1/2",
    ),
    "dead": Quantity(
        formula=_dead,
        needs={"activation": ("units",)},
        where=_rectified,
        symbol="dead",
        unit="share of units",
        about="Share of units that were positive on none of the samples of the batch (`samples` says how many).",
        at_init="about 2^-N on N unrelated samples in the first layer, more in depth",
    ),
    "dead_low": Quantity(
        formula=_dead_bound(-1),
        needs={"activation": ("units",)},
        where=_rectified,
        symbol="dead, low",
        unit="share of units",
        about="Lower bound of the 95 % interval of `dead` over units.",
        source="Wilson 1927, J. Am. Stat. Assoc. 22: 209",
    ),
    "dead_high": Quantity(
        formula=_dead_bound(+1),
        needs={"activation": ("units",)},
        where=_rectified,
        symbol="dead, high",
        unit="share of units",
        about="Upper bound of the 95 % interval of `dead` over units.",
        source="Wilson 1927, J. Am. Stat. Assoc. 22: 209",
    ),
    "samples": Quantity(
        formula=_rows,
        needs={"activation": ()},
        where=_rectified,
        symbol="N",
        unit="samples",
        about="Samples that `dead` rests on: a unit never positive on N is active on fewer than 3/N of inputs (95 %).",
        source="rule of three: Hanley & Lippman-Hand 1983, JAMA 249: 1743",
    ),
    "activation_nonfinite": Quantity(
        formula=_nonfinite("activation"),
        needs={"activation": ("nonfinite",)},
        symbol="#nonfinite(a)",
        unit="entries",
        about="How many activations are nan or inf.",
        at_init="0",
    ),
    "activation_grad_nonfinite": Quantity(
        formula=_nonfinite("activation_grad"),
        needs={"activation_grad": ("nonfinite",)},
        symbol="#nonfinite(dL/da)",
        unit="entries",
        about="How many entries of the gradient by the activation are nan or inf.",
        at_init="0",
    ),
    "branch_ratio": Quantity(
        formula=lambda view: _norm_ratio(view["branch"], view["shortcut"]),
        needs={"shortcut": (), "branch": ()},
        where=_junction,
        symbol="|F(x)|/|x|",
        unit="dimensionless",
        about="Norm of what the branch adds relative to the shortcut, both with their gains.",
        source="He et al. 2015, arXiv:1512.03385, section 4.2 (layer responses)",
        at_init="1 in the mean of its square, for the notebook's block and for pre-activation without norm",
    ),
    "branch_cosine": Quantity(
        formula=_cosine,
        needs={"shortcut": (), "branch": ()},
        where=_junction,
        pairs=(("shortcut", "branch"),),
        symbol="cos(x, F(x))",
        unit="dimensionless",
        about="Cosine between what the branch adds and the shortcut.",
        at_init="0 in the mean for a branch without a last ReLU; positive with it",
    ),
    "shortcut_share": Quantity(
        formula=_share("shortcut_grad"),
        needs={"shortcut_grad": (), "total_grad": ()},
        where=_junction,
        pairs=(("shortcut_grad", "total_grad"),),
        symbol="<g_s, g>/|g|^2",
        unit="share",
        about="Share of the gradient by the block's input that came through the shortcut; both shares sum to one.",
        source=_HE2016,
        at_init="1/(1 + g2) for a branch of squared gain g2",
    ),
    "branch_share": Quantity(
        formula=_share("branch_grad"),
        needs={"branch_grad": (), "total_grad": ()},
        where=_junction,
        pairs=(("branch_grad", "total_grad"),),
        symbol="<g_b, g>/|g|^2",
        unit="share",
        about="Share of the gradient by the block's input that came through the branch; both shares sum to one.",
        source=_HE2016,
        at_init="g2/(1 + g2) for a branch of squared gain g2",
    ),
    "output_norm": Quantity(
        formula=_output_norm,
        needs={"activation": ()},
        where=_layer,
        scope="network",
        symbol="|y|",
        unit="Frobenius norm",
        about="Norm of the network's output over batch and features.",
    ),
    "gradient_norm": Quantity(
        formula=_gradient_norm,
        needs=dict.fromkeys(_PARAMETER_GRADIENTS, ()),
        scope="network",
        symbol="|dL/dtheta|",
        unit=f"loss per parameter; {_LAST}",
        about="Norm of the gradient by all parameters together.",
    ),
    "weight_grad_first_last": Quantity(
        formula=_first_last,
        needs={"weight_grad": ()},
        where=_outer,
        scope="network",
        symbol="|dW_first|/|dW_last|",
        unit="dimensionless",
        about="The notebook's ratio: norm of the first weight gradient over that of the last.",
        source="the original notebook; docs, What theory predicts: it cannot see growth",
        at_init="median 1 for a plain He network with a Gaussian cotangent",
    ),
    "forward_growth": Quantity(
        formula=_growth("activation", "entry", "exit"),
        needs={"activation": ()},
        where=_ends,
        scope="network",
        symbol="(|x_L|^2/|x_0|^2)^(1/L)",
        unit="factor a block, on the squared norm",
        about="Growth of the signal a block, from the first block's input to the last block's output.",
        source="docs, What theory predicts",
        at_init="1 in the mean for a plain He network, 2 for pre-activation, 2.904 for the notebook's block",
    ),
    "forward_growth_low": Quantity(
        formula=_growth_bound("activation", "entry", "exit", -1),
        needs={"activation": ("samples",)},
        where=_ends,
        scope="network",
        symbol="forward growth, low",
        unit="factor a block, on the squared norm",
        about="Lower bound of the 95 % interval of `forward_growth` over the samples of the batch.",
        source="jackknife: Efron 1982, doi:10.1137/1.9781611970319",
    ),
    "forward_growth_high": Quantity(
        formula=_growth_bound("activation", "entry", "exit", +1),
        needs={"activation": ("samples",)},
        where=_ends,
        scope="network",
        symbol="forward growth, high",
        unit="factor a block, on the squared norm",
        about="Upper bound of the 95 % interval of `forward_growth` over the samples of the batch.",
        source="jackknife: Efron 1982, doi:10.1137/1.9781611970319",
    ),
    "backward_growth": Quantity(
        formula=_growth("activation_grad", "exit", "entry"),
        needs={"activation_grad": ()},
        where=_ends,
        scope="network",
        symbol="(|g_0|^2/|g_L|^2)^(1/L)",
        unit="factor a block, on the squared norm",
        about="Growth of the gradient a block, from the last block's output back to the first block's input.",
        source="docs, What theory predicts",
        at_init="1 in the mean for a plain He network; 2 to 2.9 for the notebook's block, 2 for pre-activation",
    ),
    "backward_growth_low": Quantity(
        formula=_growth_bound("activation_grad", "exit", "entry", -1),
        needs={"activation_grad": ("samples",)},
        where=_ends,
        scope="network",
        symbol="backward growth, low",
        unit="factor a block, on the squared norm",
        about="Lower bound of the 95 % interval of `backward_growth` over the samples of the batch.",
        source="jackknife: Efron 1982, doi:10.1137/1.9781611970319",
    ),
    "backward_growth_high": Quantity(
        formula=_growth_bound("activation_grad", "exit", "entry", +1),
        needs={"activation_grad": ("samples",)},
        where=_ends,
        scope="network",
        symbol="backward growth, high",
        unit="factor a block, on the squared norm",
        about="Upper bound of the 95 % interval of `backward_growth` over the samples of the batch.",
        source="jackknife: Efron 1982, doi:10.1137/1.9781611970319",
    ),
    "loss": Quantity(
        formula=_fact("loss"),
        scope="network",
        symbol="L",
        unit="of the loss",
        about="The loss that the probe was given; a probe with a cotangent has none.",
    ),
    "parameters": Quantity(
        formula=_fact("parameters"),
        scope="network",
        symbol="#theta",
        unit="numbers",
        about="How many numbers the network trains.",
    ),
    "multiply_adds": Quantity(
        formula=_fact("multiply_adds"),
        scope="network",
        symbol="MACs",
        unit="multiply-adds a sample",
        about="Multiply-adds of one forward pass in the weight matrices (the paper's FLOPs).",
        source="He et al. 2015, arXiv:1512.03385, Table 1",
    ),
}
"""Everything that a probe measures, in the order of the docs."""
