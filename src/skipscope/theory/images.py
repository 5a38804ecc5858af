"""Convolutional networks: plain ones and those of pre-activation order, with and without batch normalisation.

At infinite width the numbers of one channel, over all positions p of all samples, are jointly Gaussian in front of a
ReLU, channels are independent, and all that a layer needs to know of the one before is

    same(p, p') = E x_p x_p'   within a sample,        other(p, p') = E x_p x_p'   between two samples.

Step by step, with batch B, P positions, N = B P, and v the variance of a weight:

    convolution     same'(p, p')  =  c_in v sum over offsets d of same(s p + d, s p' + d),   s the stride, 0 outside
    ReLU            same'  =  sqrt(q q') (sqrt(1 - r^2) + r (pi - arccos r))/(2 pi),   q = same(p, p), of p' q',
                                                                                       r = same/sqrt(q q')
    batch norm      E z z^T/(|z|^2/N) of z ~ N(0, K~), K~ the N x N matrix less the means of its rows and columns

Zeros around the image make its border different from its middle in every sample alike: a pattern that the
normalisation cannot take away, as it subtracts one mean from all positions. So a channel's variance is a sum over few
directions, and differs between channels however many there are: hence a mean of a ratio, which is an integral over the
eigenvalues of K~. Backward, with G(p, p') = E g_p g_p' within a sample, for cotangents that are independent between
samples:

    ReLU            G'  =  G P(x_p > 0, x_p' > 0)  =  G (pi - arccos r)/(2 pi)
    batch norm      G' = G E 1/(|z|^2/N), less what is along the mean and z: (1^T G 1 + sum G relu(z) relu(z)^T)/N
    convolution     the transpose of the above, times c_out/c_in

On images without a border, P and B large, that is law (d), pi/(pi - 1) a layer; the border makes it less. At a junction
the branch ends in a bare convolution and adds its own; option A's channels of zeros are kept as a group of their own.

What is left out: that what a ReLU sees is not Gaussian behind a normalisation over few directions; and 1/width. There
is no such recursion where a ReLU follows the addition: what goes on is not Gaussian, and the paper's own residual block
has no law here.

Source: the kernels are Cho & Saul 2009; of convolutions, Xiao et al. 2018 (arXiv:1806.05393); of batch normalisation,
Yang et al. 2019 (arXiv:1902.08129). What zero padding does to them is derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skipscope.draws import weight_variance
from skipscope.spec import Block, Layer, Norm, Spec
from skipscope.theory import law
from skipscope.theory.law import Law, Quantity, Setting

__all__ = ["IMAGES"]

Array = NDArray[np.float64]
Gradients = list[Array]  # one G(p, p') a group of channels
Back = Callable[[Gradients], Gradients]

_MOST = 25_000_000  # numbers of all layers' matrices: 56 layers on 32x32, 1202 on 16x16; more takes many minutes


@dataclass(frozen=True)
class _Channels:
    """Channels that are alike: which share of all they are, and both matrices, of shape (P, P)."""

    share: float
    same: Array
    other: Array


# -------------------------------------------------------------------------- the steps, each with its way back beside it


def _mixed(groups: list[_Channels], layer: Layer, gain: float) -> tuple[list[_Channels], Back]:
    """A convolution; `gain` is c_in k k v, by which it multiplies the mean square of what it sees."""
    shares = [group.share for group in groups]
    scale = gain / layer.kernel**2
    same, other = (
        scale * _gathered(_mean(shares, matrices), layer)
        for matrices in zip(*[(group.same, group.other) for group in groups], strict=True)
    )

    def back(gradients: Gradients) -> Gradients:
        (gradient,) = gradients
        return [scale * layer.n_out / layer.n_in * _scattered(gradient, layer)] * len(shares)

    return [_Channels(1.0, same, other)], back


def _mean(shares: list[float], matrices: tuple[Array, ...] | Gradients) -> Array:
    weighted = (share * matrix for share, matrix in zip(shares, matrices, strict=True))
    return np.sum(list(weighted), axis=0)  # type: ignore[no-any-return]


def _places(layer: Layer) -> Iterator[tuple[slice, slice, slice, slice]]:
    """For every offset of the kernel, which entries of a padded (h, w, h, w) the outputs see."""
    reach = layer.stride * (layer.size_out - 1) + 1
    for i in range(layer.kernel):
        for j in range(layer.kernel):
            rows, columns = (slice(start, start + reach, layer.stride) for start in (i, j))
            yield rows, columns, rows, columns


def _gathered(matrix: Array, layer: Layer) -> Array:
    inner = np.pad(matrix.reshape((layer.size,) * 4), layer.padding)
    out: Array = np.zeros((layer.size_out,) * 4)
    for place in _places(layer):
        out += inner[place]
    return out.reshape((layer.size_out**2,) * 2)


def _scattered(matrix: Array, layer: Layer) -> Array:
    """The transpose of `_gathered`."""
    inner: Array = np.zeros((layer.size + 2 * layer.padding,) * 4)
    for place in _places(layer):
        inner[place] += matrix.reshape((layer.size_out,) * 4)
    kept = (slice(layer.padding, layer.padding + layer.size),) * 4
    return inner[kept].reshape((layer.size**2,) * 2)


def _activated(groups: list[_Channels], norm: Norm, batch: int) -> tuple[list[_Channels], Back]:
    """A ReLU, behind a normalisation or not."""
    found = [_one_activated(group, norm, batch) for group in groups]

    def back(gradients: Gradients) -> Gradients:
        return [one(gradient) for (_, one), gradient in zip(found, gradients, strict=True)]

    return [group for group, _ in found], back


def _one_activated(group: _Channels, norm: Norm, batch: int) -> tuple[_Channels, Callable[[Array], Array]]:
    scale = 1.0
    if norm == "batch":
        group, scale = _normalised(group, batch)
    before = group.same

    def back(gradient: Array) -> Array:
        gated = gradient * _both_open(before)
        if norm != "batch":
            return gated
        lost = (gated.sum() + (gradient * _rectified(before, before)).sum()) / (batch * len(before))
        kept: Array = scale * (1.0 - lost / gated.trace()) * gated
        return kept

    return replace(group, same=_rectified(before, before), other=_rectified(group.other, before)), back


def _normalised(group: _Channels, batch: int) -> tuple[_Channels, float]:
    """Behind the normalisation; and by what it multiplies the square of a gradient: E 1/(a channel's variance).

    What samples have in common has the covariance `common`, once, less its mean; in which they differ `own`, B - 1
    times. With K = U diag(k) U^T, E z z^T/|z|^2 has the same U, and 1/x is the integral of exp(-t x).
    """
    positions = len(group.same)
    numbers = batch * positions
    common = group.same + (batch - 1) * group.other
    common = common - common.mean(0) - common.mean(1)[:, None] + common.mean()
    spectra = [np.linalg.eigh(each) for each in (common, group.same - group.other)]
    times = (1, batch - 1)
    total = sum(many * np.maximum(values, 0.0).sum() for (values, _), many in zip(spectra, times, strict=True))
    values = [np.maximum(each, 0.0) * (numbers / total) for each, _ in spectra]  # so that the mean variance is 1
    slowed = [1.0 + 2.0 * each[:, None] * _NODES / numbers for each in values]
    logs = sum(many * np.log(each).sum(0) for each, many in zip(slowed, times, strict=True))
    weights = _WEIGHTS * np.exp(-0.5 * logs)
    common, own = (
        (vectors * (each * (weights / slow).sum(1))) @ vectors.T
        for (_, vectors), each, slow in zip(spectra, values, slowed, strict=True)
    )
    other = (common - own) / batch
    return replace(group, same=own + other, other=other), float(weights.sum()) * numbers / total


_NODES = np.exp(np.arange(-20.0, 8.0, 0.05))  # of the integral over t, by the trapezoid rule in ln t
_WEIGHTS = 0.05 * _NODES


def _cosines(matrix: Array, of: Array) -> tuple[Array, Array]:
    """The products of the deviations, and the cosines."""
    deviations = np.sqrt(of.diagonal())
    products = np.outer(deviations, deviations)
    return products, np.clip(matrix / products, -1.0, 1.0)


def _rectified(matrix: Array, of: Array) -> Array:
    """E relu(x) relu(x') of Gaussians with these covariances; their variances are the diagonal of `of`."""
    products, cosines = _cosines(matrix, of)
    angles = np.pi - np.arccos(cosines)
    rectified: Array = products * (np.sqrt(1.0 - cosines**2) + cosines * angles) / (2.0 * np.pi)
    return rectified


def _both_open(matrix: Array) -> Array:
    """P(x > 0, x' > 0)."""
    both: Array = (np.pi - np.arccos(_cosines(matrix, matrix)[1])) / (2.0 * np.pi)
    return both


def _scaled(groups: list[_Channels], gain: float) -> tuple[list[_Channels], Back]:
    """A multiplication by a number."""
    square = gain**2
    scaled = [_Channels(each.share, square * each.same, square * each.other) for each in groups]
    return scaled, lambda gradients: [square * each for each in gradients]


def _shortcut(groups: list[_Channels], block: Block, spec: Spec) -> tuple[list[_Channels], Back]:
    """What a block's input is at the junction."""
    if block.projection is not None:
        return _mixed(groups, block.projection, _gain(spec, block.projection))
    if block.shortcut == "identity":
        return groups, lambda gradients: gradients
    thinned = Layer("", block.n_in, block.width, "none", "linear", kind="conv", stride=block.stride, size=block.size)
    known = block.n_in / block.width
    found = [
        _Channels(known * group.share, _gathered(group.same, thinned), _gathered(group.other, thinned))
        for group in groups
    ]
    if known < 1.0:
        nothing = np.zeros_like(found[0].same)
        found.append(_Channels(1.0 - known, nothing, nothing))

    def back(gradients: Gradients) -> Gradients:
        return [_scattered(gradient, thinned) for gradient in gradients[: len(groups)]]

    return found, back


# ------------------------------------------------------------------------------------------------ a network as a walk


def _gain(spec: Spec, layer: Layer) -> float:
    return layer.fan_in * weight_variance(spec, layer)


def _layers(groups: list[_Channels], spec: Spec, layers: tuple[Layer, ...], batch: int) -> tuple[list[_Channels], Back]:
    """The layers of a branch, each a convolution with what stands before or behind it."""
    backs: list[Back] = []
    for layer in layers:
        if layer.first == "norm":
            groups, back = _activated(groups, layer.norm, batch)
            backs.append(back)
        groups, back = _mixed(groups, layer, _gain(spec, layer))
        backs.append(back)
        if layer.first == "affine":  # that of the last layer may be said to follow the addition: of nothing else
            groups, back = _activated(groups, layer.norm, batch)
            backs.append(back)
    return groups, _chained(backs)


def _chained(backs: list[Back]) -> Back:
    def back(gradients: Gradients) -> Gradients:
        for each in reversed(backs):
            gradients = each(gradients)
        return gradients

    return back


def _block(groups: list[_Channels], spec: Spec, block: Block, batch: int) -> tuple[list[_Channels], Back]:
    branch, back_branch = _layers(groups, spec, block.layers, batch)
    if block.plain:
        scaled, back_scaled = _scaled(branch, block.branch_gain)
        return scaled, _chained([back_branch, back_scaled])
    passed, back_shortcut = _shortcut(groups, block, spec)
    skip, add = block.shortcut_gain**2, block.branch_gain**2
    (adds,) = branch
    out = [
        _Channels(each.share, skip * each.same + add * adds.same, skip * each.other + add * adds.other)
        for each in passed
    ]
    shares = [each.share for each in out]

    def back(gradients: Gradients) -> Gradients:
        by_branch = back_branch([add * _mean(shares, gradients)])
        by_shortcut = back_shortcut([skip * gradient for gradient in gradients])
        return [a + b for a, b in zip(by_shortcut, by_branch, strict=True)]

    return out, back


Squares = dict[str, float]  # ln of the squared gain, by site


@lru_cache(maxsize=16)
def _walked(spec: Spec, batch: int, input_rms: float) -> tuple[Squares, Squares]:
    """ln E of the squared gains at the ends of blocks, forward and backward."""
    positions = spec.stem.size**2
    groups = [_Channels(1.0, input_rms**2 * np.eye(positions), np.zeros((positions, positions)))]
    sent = spec.stem.features * positions * input_rms**2  # squared norm of a sample
    sites: list[tuple[str, int, list[float]]] = [("input", spec.stem.features, [1.0])]
    backs: list[Back] = []
    forward: Squares = {"input": 0.0}

    def passed(site: str, channels: int, found: tuple[list[_Channels], Back]) -> list[_Channels]:
        groups, back = found
        forward[site] = math.log(channels * sum(each.share * each.same.trace() for each in groups) / sent)
        backs.append(back)
        sites.append((site, channels, [each.share for each in groups]))
        return groups

    with np.errstate(over="ignore", invalid="ignore"):
        groups = passed("stem", spec.stem.width, _stem(groups, spec, batch))
        for block in spec.body:
            groups = passed(block.site, block.width, _block(groups, spec, block, batch))
        if spec.pre_activation:
            groups = passed("final", spec.body_width, _activated(groups, spec.stages[-1].norm, batch))
        head = spec.head_layer
        seen = sum(each.share * each.same.mean() for each in groups)
        forward["head"] = math.log(_gain(spec, head) * head.n_out * seen / sent)
        last = weight_variance(spec, head) * head.n_out / spec.body_size**4
        gradients = [np.full_like(each.same, last) for each in groups]
        backward: Squares = {"head": 0.0}
        for (site, channels, shares), back in zip(reversed(sites), [*reversed(backs), None], strict=True):
            square = sum(share * each.trace() for share, each in zip(shares, gradients, strict=True))
            backward[site] = math.log(channels * square / head.n_out)
            gradients = back(gradients) if back is not None else gradients
    return forward, dict(reversed(backward.items()))


def _stem(groups: list[_Channels], spec: Spec, batch: int) -> tuple[list[_Channels], Back]:
    layer = spec.stem_layer
    if layer.activation == "linear":
        return _mixed(groups, layer, _gain(spec, layer))
    return _layers(groups, spec, (layer,), batch)


def _predict(place: int, quantity: Quantity) -> Callable[[Setting], pl.DataFrame]:
    def predict(setting: Setting) -> pl.DataFrame:
        assert setting.input_rms is not None  # `_refuse` sees to it
        return law.table_of_means(quantity, _walked(setting.spec, setting.batch, setting.input_rms)[place])

    return predict


# ----------------------------------------------------------------------------------------------------- when it holds


def _refuse(setting: Setting) -> Iterator[str]:
    spec = setting.spec
    if spec.stem.pooled:
        yield "There is a max pooling behind the stem: the law is about convolutions and ReLUs."
    orders = {stage.order for stage in spec.stages if not stage.plain} - {"pre-activation"}
    for order in sorted(orders):
        yield (
            f"The order is {order}: a ReLU stands between the branch's last convolution and the next block, so that "
            "what goes on is not Gaussian, and no recursion is known here."
        )
    for where, stage in law.stages(spec):
        shortcut, branch = law.gains_of(spec, stage)
        if stage.gains.silent or shortcut < 0.0 or branch <= 0.0:
            yield f"The gains in {where} are not above 0: the law is about branches that add something."
    if len({stage.order for stage in spec.stages if not stage.plain}) > 1 or _half_bare(spec):
        yield "Stages differ in their order: the law is about networks whose stages are alike."
    if {spec.stem.activation, *(stage.activation for stage in spec.stages)} - {"relu"} and not _bare(spec):
        yield "Not every activation is a ReLU: the law needs that."
    if spec.head.activation != "linear":
        yield f"The activation in the head is {spec.head.activation}: the law needs a linear output."
    if spec.init == "torch":
        yield "The head's bias starts uniform (init='torch'): the law needs a bias of zero."
    if setting.input_rms is None:
        yield "The input is not Gaussian noise: the law needs pixels that are independent of each other."
    if spec.coupled and setting.cotangent == "ones":
        yield (
            "The cotangent is ones, the same for every sample, which the normalisation takes away: the law needs one "
            "that differs between samples."
        )
    if spec.coupled and setting.batch < _FEWEST:
        yield f"The batch is {setting.batch}: with batch normalisation the law needs {_FEWEST} samples at least."
    yield from law.narrow(setting)
    if (numbers := sum(layer.size_out**4 for layer in spec.layers)) > _MOST:
        yield (
            f"The law takes {numbers:,} numbers, one a layer and pair of positions, and stops at {_MOST:,}: use "
            "smaller images, or fewer layers."
        )


_FEWEST = 8  # samples: fewer were not measured


def _bare(spec: Spec) -> bool:
    """Whether the stem alone is linear, as it is in pre-activation order."""
    return (
        spec.pre_activation
        and spec.stem.activation == "linear"
        and {stage.activation for stage in spec.stages} == {"relu"}
    )


def _half_bare(spec: Spec) -> bool:
    return len({stage.order == "pre-activation" for stage in spec.stages}) > 1


def _bias(setting: Setting) -> str:
    spec = setting.spec
    if not spec.coupled:
        return "What is left out is of the order 1/width a layer."
    return (
        "The factor a layer was measured to be within 2 % of it, from images of 8x8 and a batch of 8 on; over depth "
        "that adds up."
    )


_ABOUT = "convolutions with zeros around the image: plain, or of pre-activation order; with or without batch norm"
_SOURCE = (
    "kernels: Cho & Saul 2009; of convolutions: Xiao et al. 2018, arXiv:1806.05393; of batch normalisation: Yang et "
    "al. 2019, arXiv:1902.08129; what zero padding does: derived in skipscope.theory.images"
)

IMAGES: tuple[Law, ...] = (
    Law(
        name=f"(d) {_ABOUT}, forward",
        quantity="forward_gain",
        kind="asymptotic in width",
        statement="E ||a_l||^2/||x||^2 by the covariances between positions, carried from layer to layer.",
        source=_SOURCE,
        refuse=_refuse,
        predict=_predict(0, "forward_gain"),
        bias=_bias,
        images=True,
    ),
    Law(
        name=f"(d) {_ABOUT}, backward",
        quantity="backward_gain",
        kind="asymptotic in width",
        statement=(
            "E ||g_l||^2/||cotangent||^2 by the covariances between positions; with batch norm, in the middle of a "
            "large image, it grows by pi/(pi - 1) = 1.467 a plain layer."
        ),
        source=_SOURCE,
        refuse=_refuse,
        predict=_predict(1, "backward_gain"),
        bias=_bias,
        images=True,
    ),
)
"""Law (d) and its like on images."""
