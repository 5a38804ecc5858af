"""The formulas of what is measured: each once, on moments, for NumPy arrays and torch tensors alike.

A formula maps what it sees of a site (`View`) or of a whole network (`Profile`) to an array of shape (s,); where the
value is undefined (a ratio to nothing) the array is masked there. What each of them means, needs and is called is said
in `skipscope.quantities`. Imports NumPy, moments and protocol.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skipscope.intervals import wilson_bound
from skipscope.moments import Dot, Moments
from skipscope.protocol import Site

__all__ = [
    "CONFIDENCE",
    "PARAMETER_GRADIENTS",
    "Profile",
    "View",
    "backward_gain",
    "cosine",
    "dead",
    "dead_bound",
    "fact",
    "first_last",
    "forward_gain",
    "gradient_norm",
    "growth",
    "growth_bound",
    "inactive",
    "nonfinite",
    "norm_ratio",
    "output_norm",
    "rows",
    "share",
]

Values = Any  # an array of shape (s,), masked where undefined
End = Literal["entry", "exit"]

CONFIDENCE = 0.95
"""Level of every interval that a reading carries (`*_low`, `*_high`)."""


PARAMETER_GRADIENTS = ("weight_grad", "bias_grad", "gamma_grad", "beta_grad", "gain_grad")
"""The roles that are gradients by parameters."""


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

    def end(self, which: End, role: str) -> Moments | None:
        """The moments of a role at the body's entry or exit, None in a network without blocks."""
        return next((view.roles.get(role) for view in self.views if view.site.ends == which), None)

    @property
    def blocks(self) -> int:
        """How many blocks the body has."""
        return max((view.site.block for view in self.views), default=0)


# ----------------------------------------------------------------------------------------------------------- of a site


def _masked(values: NDArray[np.float64], undefined: NDArray[np.bool_]) -> Values:
    return np.ma.masked_array(np.where(undefined, 0.0, values), mask=undefined)


def forward_gain(view: View) -> Values:
    """|a|/|x|, against the network's input."""
    return _against(view["activation"], view.input.get("activation"))


def backward_gain(view: View) -> Values:
    """|dL/da|/|dL/dy|, against its output."""
    return _against(view["activation_grad"], view.output.get("activation_grad"))


def _against(a: Moments, end: Moments | None) -> Values:
    """|a|/|end|, undefined where the end of the network was not seen: a model of tokens has no input to compare to."""
    return _masked(np.zeros_like(a.sumsq), np.ones(a.sumsq.shape, bool)) if end is None else norm_ratio(a, end)


def norm_ratio(a: Moments, b: Moments) -> Values:
    """|a|/|b|, by way of both scales: it is finite even where a norm is not."""
    return _masked((a.sumsq / b.sumsq) ** 0.5 * (a.scale / b.scale), b.sumsq == 0)


def cosine(view: View) -> Values:
    """Of the two parts of a junction."""
    skip, branch, product = view["shortcut"], view["branch"], view.dots["shortcut", "branch"]
    norms = skip.sumsq**0.5 * branch.sumsq**0.5
    cosine = product.value / norms * (product.scale_x / skip.scale) * (product.scale_y / branch.scale)
    return _masked(np.clip(cosine, -1.0, 1.0), norms == 0)  # what is beyond is rounding


def share(part: Literal["shortcut_grad", "branch_grad"]) -> Callable[[View], Values]:
    """<part, total> / |total|^2: the shares of both parts sum to one, and either may be negative or above one.

    By <a, a + b> = |a|^2 + <a, b> and |a + b|^2 = |a|^2 + |b|^2 + 2 <a, b>, so that nobody need add the parts up.
    """
    other = "branch_grad" if part == "shortcut_grad" else "shortcut_grad"

    def formula(view: View) -> Values:
        a, b, product = view[part], view[other], view.dots["shortcut_grad", "branch_grad"]
        unit = np.maximum(a.scale, b.scale)
        crossed = product.value * (product.scale_x / unit) * (product.scale_y / unit)
        mine, theirs = a.sumsq * (a.scale / unit) ** 2, b.sumsq * (b.scale / unit) ** 2
        total = mine + theirs + 2 * crossed
        # Parts that cancel leave rounding, of which there is no share.
        return _masked((mine + crossed) / total, total <= 4 * np.finfo(np.float64).eps * (mine + theirs))

    return formula


def inactive(view: View) -> Values:
    """The share of outputs that are 0."""
    moments = view["activation"]
    assert moments.positive is not None
    return _known(view, (moments.count - moments.positive) / moments.count)


def dead(view: View) -> Values:
    """The share of units that were never positive."""
    return _known(view, _silent(view))


def dead_bound(sign: int) -> Callable[[View], Values]:
    """An end of the interval of `dead`, over the units of the layer."""

    def formula(view: View) -> Values:
        return _known(view, wilson_bound(_silent(view), _units(view).shape[1], sign))

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


def rows(view: View) -> Values:
    """How many samples there are."""
    moments = view["activation"]
    return _known(view, np.full(moments.sumsq.shape, float(moments.rows)))


def nonfinite(role: str) -> Callable[[View], Values]:
    """How many entries of a role are nan or inf."""

    def formula(view: View) -> Values:
        count = view[role].nonfinite
        assert count is not None
        return count

    return formula


# -------------------------------------------------------------------------------------------------------- of a network


def growth(role: str, first: End, last: End) -> Callable[[Profile], Values]:
    """The factor a block on the squared norm: (|last|^2 / |first|^2)^(1/L)."""

    def formula(profile: Profile) -> Values:
        a, b = profile.end(first, role), profile.end(last, role)
        if a is None or b is None:
            return _undefined(profile)
        ratio = norm_ratio(b, a)
        return _masked(ratio.data ** (2 / profile.blocks), ratio.mask)

    return formula


def growth_bound(role: str, first: End, last: End, sign: int) -> Callable[[Profile], Values]:
    """Bound of the interval of `growth` over the samples of the batch: the jackknife of its logarithm.

    With a and c the samples' sums of squares, ln(sum a / sum c) is computed with each of the b samples left out in
    turn; their spread gives the standard error (Efron 1982), and Student's t with b - 1 degrees the interval.
    """

    def formula(profile: Profile) -> Values:
        c, a = profile.end(first, role), profile.end(last, role)
        if c is None or a is None or c.rows < 2 or a.rows != c.rows or a.samples is None or c.samples is None:
            return _undefined(profile)
        from scipy.special import stdtrit  # imported here because a probe without a batch needs no SciPy

        b = a.samples.shape[1]
        rest = np.log(_without_each(a.samples)) - np.log(_without_each(c.samples))
        spread = rest - rest.mean(axis=1, keepdims=True)
        error = np.sqrt((b - 1) / b * (spread * spread).sum(axis=1))
        half = stdtrit(b - 1, (1 + CONFIDENCE) / 2) * error
        centre = 2 * np.log(norm_ratio(a, c).data)
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


def gradient_norm(profile: Profile) -> Values:
    """Of the gradient by all parameters together."""
    found = [m for view in profile.views for role, m in view.roles.items() if role in PARAMETER_GRADIENTS]
    if not found:
        return _undefined(profile)
    return functools.reduce(np.hypot, [m.norm for m in found])


def first_last(profile: Profile) -> Values:
    """|dW_first|/|dW_last|."""
    found = {view.site.outer: view.roles.get("weight_grad") for view in profile.views if view.site.outer}
    first, last = found.get("first"), found.get("last")
    return _undefined(profile) if first is None or last is None else norm_ratio(first, last)


def fact(name: str) -> Callable[[Profile], Values]:
    """A fact as a quantity, where it is known."""

    def formula(profile: Profile) -> Values:
        if name not in profile.facts:
            return _undefined(profile)
        return np.broadcast_to(np.asarray(profile.facts[name], float), profile.networks)

    return formula


def output_norm(profile: Profile) -> Values:
    """Of the network's output."""
    output = profile.views[-1].roles.get("activation")
    return _undefined(profile) if output is None else output.norm


def _undefined(profile: Profile) -> Values:
    return _masked(np.zeros(profile.networks), np.ones(profile.networks, bool))
