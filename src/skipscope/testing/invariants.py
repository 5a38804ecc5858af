"""The check of what holds exactly in a homogeneous network, whatever its weights and its input are.

Imports what the checks have in common, the networks, the losses, the spec and NumPy.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope.engines.ops import EPS
from skipscope.errors import InputError
from skipscope.losses import Cotangent
from skipscope.spec import Spec
from skipscope.testing.engine import CheckedNetwork
from skipscope.testing.networks import homogeneous
from skipscope.testing.recording import Pushed, inner, norm, recorded, require

__all__ = ["check_invariants"]

Array = NDArray[Any]


def check_invariants(network: CheckedNetwork, batch: Any, v: Array) -> None:
    """The exact invariants of a homogeneous network (see `homogeneous`), to rounding, in float64.

    Without norms the output is homogeneous in the activations of every site that all of it passes through, and in
    every weight matrix, be it of a convolution. So, by Euler's theorem, with f = <v, output>, g the gradient by an
    activation a, both summed over samples: <g, a> = f at the sites outside branches, <dW, W> = f for their weights, and
    inside a branch F both are <dsum, F>, dsum the gradient by the junction's sum; in the projection of a shortcut S
    they are <dsum, S>. Where the head has a bias b, they are f - <db, b> but at the output. Allowed is an error of
    1e-12 ||g|| ||a||, not of f, which may be small by cancellation; and of 1e-15 of what is at the output, if a bias is
    taken off there. With norms, see `_check_normalised`.

    Args:
        network: of float64, with biases (but of the head) of 0.
        batch: the inputs.
        v: the gradient by the output, of shape (b, n) or (s, b, n).

    Raises:
        InputError: the network is not homogeneous.
    """
    if not homogeneous(network.spec):
        raise InputError("check_invariants needs a network of ReLU or linear activations without biases.")
    run, pushed = recorded(network, batch, Cotangent(v))
    if any(name.endswith(".gamma") for name in network.parameters):
        _check_normalised(network, pushed)
        return
    biased = "head.bias" in pushed
    rounded = 1e-15 * norm(pushed["head.preactivation_grad"]) * norm(pushed["head.preactivation"]) * biased
    for key, share in _shares(network, pushed, np.asarray(run.loss)).items():
        g, a = pushed[f"{key}_grad"], pushed[key]
        site, _, role = key.rpartition(".")
        require(f"<{role}_grad, {role}> at {site}", inner(g, a), share, 1e-12 * norm(g) * norm(a) + rounded)


def _shares(network: CheckedNetwork, pushed: Pushed, f: Array) -> dict[str, Array]:
    """What <g, a> is, by `site.role`: of every activation, and of every weight."""
    through = f - inner(pushed["head.bias_grad"], pushed["head.bias"]) if "head.bias" in pushed else f
    expected = {site.site: through for site in network.sites}
    for site in network.sites:
        if site.kind == "junction":
            dsum = pushed[f"{site.site}.activation_grad"] * _slope(site.activation, pushed[f"{site.site}.total"])
            share = inner(dsum, pushed[f"{site.site}.branch"])
            expected |= {name: share for name in expected if name.startswith(f"{site.site}.")}
            if f"{site.site}.shortcut" in expected:
                expected[f"{site.site}.shortcut"] = inner(dsum, pushed[f"{site.site}.shortcut"])
    shares = {}
    for key in pushed:
        site_name, _, role = key.rpartition(".")
        if role in ("activation", "weight"):
            shares[key] = f if key == "head.activation" else expected[site_name]
    return shares


def _check_normalised(network: CheckedNetwork, pushed: Pushed) -> None:
    """A norm takes the scale of what comes in away, so a weight matrix that feeds one has <dW, W> = 0, up to epsilon.

    What epsilon leaves is known too: with z the normalised numbers, mean(z^2) = v/(v + eps), and scaling W by
    1 + t scales z by 1 + t eps/(v + eps). So <dW, W> = sum (1 - mean z^2) sum z dz, the sums over what is normalised
    together: a feature's samples (of a channel, and positions), or a sample's features. Allowed is an error of
    1e-12 (||dW|| ||W|| + ||dz|| ||z||), times 1/sqrt(v + eps) where that is above 1: rounding errors are multiplied by
    it like everything else. Where gamma is 0, so are dz and dW.
    """
    for weight_site, norm_site, kind in _normalised(network.spec):
        y, dy = (pushed[f"{norm_site}.{role}"] for role in ("preactivation", "preactivation_grad"))
        gamma, beta = (_over(network.parameters[f"{norm_site}.{name}"], y) for name in ("gamma", "beta"))
        z = (y - beta) / np.where(gamma == 0, 1, gamma)
        dz = dy * gamma
        axes = tuple(axis for axis in range(1, y.ndim) if axis != 2) if kind == "batch" else (-1,)
        lost = 1 - (z * z).mean(axes)  # eps/(v + eps)
        left = (lost * (z * dz).sum(axes)).sum(-1)
        g, w = pushed[f"{weight_site}.weight_grad"], pushed[f"{weight_site}.weight"]
        allowed = 1e-12 * (norm(g) * norm(w) + norm(dz) * norm(z)) * np.maximum(1, (lost.max(-1) / EPS) ** 0.5)
        require(f"<weight_grad, weight> at {weight_site}", inner(g, w), left, allowed)


def _over(numbers: Array, x: Array) -> Array:
    """One number a feature, or channel, (s, n), so that it broadcasts with x, (s, b, n) or (s, b, c, h, w)."""
    return numbers.reshape(len(numbers), 1, -1, *([1] * (x.ndim - 3)))


def _normalised(spec: Spec) -> Iterator[tuple[str, str, str]]:
    """Every weight matrix whose product goes straight into a norm: its site, the norm's site, the norm."""
    shortcuts = [(layer,) for layer in spec.projections]
    for chain in ((spec.stem_layer,), *(block.layers for block in spec.body), *shortcuts):
        for layer, following in itertools.zip_longest(chain, chain[1:]):
            place = layer if layer.first == "affine" else following
            if place is not None and place.norm != "none":
                yield layer.site, place.site, place.norm


def _slope(activation: str, total: Array) -> Array:
    return total > 0 if activation == "relu" else np.ones_like(total)
