"""Law (b3), the paper's block without its normalisation, relu(x + W2 relu(W1 x)), forward.

Given x, the branch ends in a bare weight matrix: its entries are independent N(0, g2 q), with q = ||x||^2/n and
g2 = E ||F||^2/||x||^2. At infinite width q does not fluctuate, so that every coordinate u goes its own way,

    u' = relu(s u + a sqrt(g2 q) z),   z standard normal,   q = E u^2,

a reflected random walk. Its distribution, an atom at 0 and a density above, is carried along on a grid, in units of
sqrt(q), behind a rectified (or plain) Gaussian from the stem. With gains of 1 the factor a block on q is 2.318, 2.381,
2.394, ... -> 2.399 with He on both layers, and 1.681, 1.724, ... -> 1.744 where g2 is 1.

Backward nothing is tabled here: the gates remember which coordinates are large, and no closed recursion is known here.

Source: the block is He et al. 2015 (arXiv:1512.03385), eq. 1; the recursion is derived here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skipscope.draws import weight_variance
from skipscope.spec import Layer, Spec
from skipscope.theory import law, squares
from skipscope.theory.law import Law, Setting

__all__ = ["AFTER_ADD"]

Array = NDArray[np.float64]

_REACH = 12.0  # of the grid, in RMS: a Gaussian has fallen to 1e-31 there
_STEP = 0.02  # of the grid, in RMS; finer where the branch is small
_FINEST = 1e-3  # the smallest branch, in units of the shortcut, that the grid is made to resolve

# ---------------------------------------------------------------------------------------------------- what it predicts


@dataclass(frozen=True)
class _Coordinate:
    """The distribution of one coordinate u >= 0 of an activation, in units of its RMS or of another's.

    `atom` is the probability of 0; `density` is that above, at 0, h, 2h, ..., with h = `step`.
    """

    atom: float
    density: Array
    step: float

    @property
    def places(self) -> Array:
        places: Array = self.step * np.arange(len(self.density), dtype=np.float64)
        return places

    @property
    def masses(self) -> Array:
        """The density times the weights of quadrature: Gregory's end correction at 0; the far end is 0 anyway."""
        weights = np.full(len(self.density), self.step)
        weights[:3] *= 3.0 / 8.0, 7.0 / 6.0, 23.0 / 24.0
        masses: Array = weights * self.density
        return masses

    @property
    def square(self) -> float:
        """E u^2."""
        return float(self.masses @ self.places**2)

    def normalised(self) -> _Coordinate:
        """The same in units of its RMS."""
        rms = self.square**0.5
        return _Coordinate(self.atom, self.density * rms, self.step / rms)

    def refined(self, step: float) -> _Coordinate:
        """The same on a grid of `step` at most; and as coarse as that, by powers of two."""
        if step < self.step:
            places = np.arange(0.0, self.places[-1], step)
            return _Coordinate(self.atom, np.interp(places, self.places, self.density), step)
        stride = 2 ** max(int(math.log2(step / self.step)), 0)
        return _Coordinate(self.atom, self.density[::stride], self.step * stride)

    def reflected(self, spread: float) -> _Coordinate:
        """relu(u + spread z): a convolution with a Gaussian, of which what is below 0 goes to the atom."""
        from scipy.special import ndtr

        h, masses = self.step, self.masses
        near = math.ceil(8.0 * spread / h)  # further than that nothing gets
        kernel = _normal(h * np.arange(-near, near + 1, dtype=np.float64), spread)
        cells = math.ceil(_REACH * math.hypot(self.square**0.5, spread) / h)
        density = np.zeros(cells + 1)
        whole = np.convolve(masses, kernel)[near : near + cells + 1]
        density[: len(whole)] = whole
        reached = kernel[near : near + cells + 1]
        density[: len(reached)] += self.atom * reached
        below = ndtr(-h / spread * np.arange(min(near + 1, len(masses))))
        atom = self.atom / 2.0 + float(masses[: near + 1] @ below)
        return _Coordinate(atom, density, h)


def _normal(x: Array, spread: float) -> Array:
    density: Array = np.exp(-0.5 * (x / spread) ** 2) / (spread * math.sqrt(2.0 * math.pi))
    return density


def _rectified_gaussian() -> _Coordinate:
    """relu(z): what a plain ReLU layer gives."""
    places = _STEP * np.arange(math.ceil(_REACH / _STEP) + 1, dtype=np.float64)
    return _Coordinate(0.5, _normal(places, 1.0), _STEP).normalised()


def _over(coordinate: _Coordinate, shortcut: float, branch: float) -> tuple[float, _Coordinate]:
    """The factor of E u^2 over u' = relu(shortcut u + branch rms(u) z), and the distribution of u'."""
    if branch == 0.0:
        return shortcut**2, coordinate
    if shortcut == 0.0:
        return branch**2 / 2.0, _rectified_gaussian()
    spread = branch / shortcut
    after = coordinate.refined(min(_STEP, spread / 4.0)).reflected(spread)
    return shortcut**2 * after.square, after.normalised()


def _forward(setting: Setting) -> pl.DataFrame:
    spec = setting.spec
    found: dict[str, float] = {}
    square = _layer(spec, spec.stem_layer, 0.0, found)
    coordinate = _rectified_gaussian()
    for block, (shortcut, branch) in zip(spec.body, _gains(spec), strict=True):
        term = square
        for each in block.layers:
            term = _layer(spec, each, term, found)
        widened = block.width / block.layers[0].fan_in  # squares are totals, coordinates are not
        gain = abs(branch) * math.exp((term - square) / 2.0) / math.sqrt(widened)
        factor, coordinate = _over(coordinate, shortcut, gain)
        square += math.log(factor * widened)
        found[block.site] = square
    _layer(spec, spec.head_layer, square, found)
    return law.table_of_means("forward_gain", found)


def _layer(spec: Spec, layer: Layer, square: float, found: dict[str, float]) -> float:
    square += math.log(layer.fan_out * weight_variance(spec, layer) * squares.rectifier(layer.site, layer.activation))
    found[layer.site] = square
    return square


def _gains(spec: Spec) -> list[tuple[float, float]]:
    return [law.gains_of(spec, stage) for stage in spec.stages for _ in range(stage.blocks)]


# ----------------------------------------------------------------------------------------------------- when it holds


def _refuse(setting: Setting) -> Iterator[str]:
    spec = setting.spec
    yield from law.norms(setting)
    yield from law.curved(setting)
    yield from law.biases(setting)
    yield from law.nothing_passes(setting)
    yield from law.narrow(setting)
    if spec.stem.activation != "relu":
        yield "The stem has no ReLU: the law starts from a ReLU's output."
    residual = False
    for where, stage in law.stages(spec):
        shortcut, branch = law.gains_of(spec, stage)
        residual |= shortcut != 0.0
        if stage.order != "after-add" or stage.activation != "relu":
            yield f"The order in {where} is {stage.order}, {stage.activation}: the law is about after-add order, relu."
        if shortcut < 0.0:
            yield f"The shortcut gain in {where} is {shortcut:g}: the law needs shortcut gains of at least 0."
        if 0.0 < abs(branch) < _FINEST * abs(shortcut):
            yield (
                f"The branch gain in {where} is {branch:g} against {shortcut:g}: the law is computed on a grid that "
                f"resolves no less than {_FINEST:g} of the shortcut."
            )
    if not residual:
        yield "There are no shortcuts: the law is about residual networks."


AFTER_ADD: tuple[Law, ...] = (
    Law(
        name="(b3) residual network with a ReLU after the addition, forward",
        quantity="forward_gain",
        kind="asymptotic in width",
        residual=True,
        statement=(
            "E ||a_l||^2/||x||^2 = n E u_l^2 of the reflected walk u' = relu(s u + a sqrt(g2 q) z), q = E u^2: 2.399 a "
            "block with He."
        ),
        source="derived in skipscope.theory.after_add; the block: He et al. 2015, arXiv:1512.03385, eq. 1",
        refuse=_refuse,
        predict=_forward,
        bias=lambda setting: (
            "At finite width the mean square is within 2 % of this (measured at n = 16 and 36 with 8 and 12 blocks)."
        ),
    ),
)
"""Law (b3), and (c) for its branches."""
