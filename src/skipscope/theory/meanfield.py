"""Law (f), mean field: plain networks layer by layer, for any initialisation.

A layer multiplies the mean square of the gradient by chi_1 = n_in Var(w) E phi'(z)^2, so that E ||g||^2 ~ chi_1^L with
the depth scale -1/ln chi_1 (Schoenholz et al. 2017, arXiv:1611.01232): 1 for ReLU with He's 2/n_in; 1/2 a layer for
1/n_in, and 1/6 for PyTorch's default 1/(3 n_in), which an instrument must show to vanish.

*ReLU or linear*: chi_1 is a constant, and the mean square is exact at any width and batch, for weights of any symmetric
law, Gaussian or uniform; backward even with biases (squares.py has the reasons). Without biases a gradient is 0 where
a layer is dead, below or above it, and that is counted.

*tanh, or biases that do not start at 0*: at infinite width what goes into a layer is normal of mean square
q_z = n_in Var(w) q + Var(b), and q = E phi(z)^2 (Poole et al. 2016, arXiv:1606.05340). Both phi and the biases have a
scale, so that the law needs the scale of the input. It is 1 for the Gaussian samples that a probe draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skipscope.draws import weight_variance
from skipscope.errors import choose, require_number
from skipscope.spec import Activation, Layer, Spec
from skipscope.theory import law, squares
from skipscope.theory.law import Law, Setting

__all__ = ["MEAN_FIELD", "WIDE_MEAN_FIELD", "chi_1"]

Array = NDArray[np.float64]

# ---------------------------------------------------------------------------------------------------- what it predicts


def chi_1(activation: str, variance: float, q: float = 1.0) -> float:
    """The factor a layer on the mean square of the gradient: `variance` E phi'(sqrt(q) z)^2, z standard normal.

    Args:
        activation: `"relu"`, `"tanh"` or `"linear"`.
        variance: n_in times the variance of a weight.
        q: mean square of what goes into the activation function; only tanh asks for it.

    Raises:
        InputError: the activation is another one, or a number is none.
    """
    choose("activation", activation, get_args(Activation))
    return require_number("variance", variance) * _slope(activation, require_number("q", q))


def _kept(activation: str, q: float) -> float:
    """E phi(z)^2 / q for z of mean square q."""
    return squares.rectifier("", activation) if activation != "tanh" else _mean(lambda z: np.tanh(z) ** 2, q) / q


def _slope(activation: str, q: float) -> float:
    """E phi'(z)^2 for z of mean square q."""
    return squares.rectifier("", activation) if activation != "tanh" else _mean(lambda z: np.cosh(z) ** -4.0, q)


def _mean(function: Callable[[Array], Array], q: float) -> float:
    """E of a function of a normal number of mean square q, by the trapezoid rule, which is exact to 1e-12 here."""
    z = np.linspace(-9.0, 9.0, 721)
    weights = np.exp(-0.5 * z * z)
    return float(weights @ function(math.sqrt(q) * z) / weights.sum())


def _forward(setting: Setting) -> pl.DataFrame:
    return law.table_of_means("forward_gain", squares.forward(setting.spec))


def _backward(setting: Setting) -> pl.DataFrame:
    spec = setting.spec
    alive = {} if spec.bias and spec.init == "torch" else squares.living(spec)
    return law.table_of_means("backward_gain", squares.backward(spec, living=alive))


def _wide_forward(setting: Setting) -> pl.DataFrame:
    found, _ = _profile(setting)
    return law.table_of_means("forward_gain", found)


def _wide_backward(setting: Setting) -> pl.DataFrame:
    _, slopes = _profile(setting)
    return law.table_of_means("backward_gain", squares.backward(setting.spec, lambda site, _: slopes[site]))


def _profile(setting: Setting) -> tuple[dict[str, float], dict[str, float]]:
    """ln of the squared gain forward, and E phi'(z)^2, at every site with an activation function."""
    spec, rms = setting.spec, setting.input_rms
    q = 1.0 if rms is None else rms**2
    start = math.log(spec.stem.features * q)
    found: dict[str, float] = {}
    slopes: dict[str, float] = {}

    def activate(site: str, activation: str, q: float, width: int) -> float:
        slopes[site] = _slope(activation, q)
        q *= _kept(activation, q)
        found[site] = math.log(width * q) - start
        return q

    def layer(each: Layer, q: float) -> float:
        if each.first == "norm":
            return _summed(spec, each, activate(each.site, each.activation, q, each.fan_in))
        return activate(each.site, each.activation, _summed(spec, each, q), each.fan_out)

    q = layer(spec.stem_layer, q)
    for block in spec.body:
        for each in block.layers:
            q = layer(each, q)
        q = activate(block.site, block.activation, q * block.branch_gain**2, block.width)
    if spec.pre_activation:
        q = activate("final", spec.stages[-1].activation, q, spec.body_width)
    layer(spec.head_layer, q)
    return found, slopes


def _summed(spec: Spec, layer: Layer, q: float) -> float:
    """The mean square of W a + b, for a of mean square q."""
    uniform = 1.0 / (3.0 * layer.fan_in) if spec.bias and spec.init == "torch" else 0.0
    return layer.fan_in * weight_variance(spec, layer) * q + uniform


# ----------------------------------------------------------------------------------------------------- when it holds


def _refuse_plain(setting: Setting) -> Iterator[str]:
    yield from law.norms(setting)
    yield from law.shortcuts(setting)
    yield from law.nothing_passes(setting)
    yield from law.one_sided(setting)


def _refuse_forward(setting: Setting) -> Iterator[str]:
    yield from _refuse_plain(setting)
    yield from law.curved(setting)
    yield from law.biases(setting)


def _refuse_backward(setting: Setting) -> Iterator[str]:
    yield from _refuse_plain(setting)
    yield from law.curved(setting)
    yield from law.coherent(setting)


def _refuse_wide_forward(setting: Setting) -> Iterator[str]:
    yield from _refuse_plain(setting)
    yield from law.narrow(setting)
    if setting.input_rms is None:
        yield "The scale of the input is not known: tanh and biases have a scale of their own that it counts against."


def _refuse_wide_backward(setting: Setting) -> Iterator[str]:
    yield from _refuse_wide_forward(setting)
    yield from law.coherent(setting)


def _bias(setting: Setting) -> str:
    features = setting.spec.stem.features
    return (
        f"At finite width an error of the order 1/n is left; and the norm of an input of {features} features "
        f"fluctuates, which tanh and biases do not follow: about 2/features, {2 / features:.1%}."
    )


_SOURCE = "chi_1: Schoenholz et al. 2017, arXiv:1611.01232; exact at any width: derived in skipscope.theory.squares"
_WIDE = "Poole et al. 2016, arXiv:1606.05340; Schoenholz et al. 2017, arXiv:1611.01232"

MEAN_FIELD: tuple[Law, ...] = (
    Law(
        name="(f) mean field, forward",
        quantity="forward_gain",
        kind="exact in mean",
        statement="E ||a_l||^2/||x||^2 is the product over layers of n_out Var(w)/2 (linear: without 1/2).",
        source=_SOURCE,
        refuse=_refuse_forward,
        predict=_forward,
    ),
    Law(
        name="(f) mean field, backward",
        quantity="backward_gain",
        kind="exact in mean",
        statement="E ||g_l||^2/||cotangent||^2 multiplies by chi_1 = n_in Var(w)/2 a layer (linear: without 1/2).",
        source=_SOURCE,
        refuse=_refuse_backward,
        predict=_backward,
    ),
)
"""Law (f) where it is exact."""

WIDE_MEAN_FIELD: tuple[Law, ...] = (
    Law(
        name="(f) mean field at large width, forward",
        quantity="forward_gain",
        kind="asymptotic in width",
        statement="q' = E phi(sqrt(n_in Var(w) q + Var(b)) z)^2 for the mean square q of an activation, z normal.",
        source=_WIDE,
        refuse=_refuse_wide_forward,
        predict=_wide_forward,
        bias=_bias,
    ),
    Law(
        name="(f) mean field at large width, backward",
        quantity="backward_gain",
        kind="asymptotic in width",
        statement="E ||g_l||^2/||cotangent||^2 is the product over layers of chi_1 = n_in Var(w) E phi'(sqrt(q) z)^2.",
        source=_WIDE,
        refuse=_refuse_wide_backward,
        predict=_wide_backward,
        bias=_bias,
    ),
)
"""Law (f) where it is not."""
