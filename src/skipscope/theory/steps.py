"""A plain network as the steps that a vector meets on its way: what laws about plain networks walk along.

Forward from the input, or backward from the output; a shortcut of gain 0 counts as none. A string is a site, at which a
law is wanted: there stands the vector that the probe sees as the site's activation. Imports the spec.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from skipscope.draws import weight_variance
from skipscope.spec import Activation, Layer, Norm, Spec

__all__ = ["Affine", "Gain", "Gate", "Normalise", "Step", "steps"]


@dataclass(frozen=True)
class Affine:
    """A weight matrix of entries of `variance`."""

    layer: Layer
    variance: float


@dataclass(frozen=True)
class Gain:
    """A multiplication by a number."""

    gain: float


@dataclass(frozen=True)
class Gate:
    """An activation function, but for linear, which is no step."""

    activation: Activation


@dataclass(frozen=True)
class Normalise:
    """A normalisation over the batch or over the features."""

    norm: Norm


Step = str | Affine | Gain | Gate | Normalise


def steps(spec: Spec) -> Iterator[Step]:
    """What a vector meets from the input to the output of a plain network, in order of execution."""
    yield "input"
    yield from _layer(spec, spec.stem_layer)
    for block in spec.body:
        for layer in block.layers:
            yield from _layer(spec, layer)
        if block.branch_gain != 1.0:
            yield Gain(block.branch_gain)
        yield from _gate(block.activation)
        yield block.site
    if spec.pre_activation:
        yield from _norm(spec.stages[-1].norm)
        yield from _gate(spec.stages[-1].activation)
        yield "final"
    yield from _layer(spec, spec.head_layer)


def _layer(spec: Spec, layer: Layer) -> Iterator[Step]:
    affine = Affine(layer, weight_variance(spec, layer))
    if layer.first == "affine":
        yield affine
    yield from _norm(layer.norm)
    yield from _gate(layer.activation)
    yield layer.site
    if layer.first == "norm":
        yield affine


def _norm(norm: Norm) -> Iterator[Step]:
    if norm != "none":
        yield Normalise(norm)


def _gate(activation: Activation) -> Iterator[Step]:
    if activation != "linear":
        yield Gate(activation)
