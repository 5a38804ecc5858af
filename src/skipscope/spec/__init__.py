"""What a network is: a frozen, validated value from which either engine builds the same network.

A network is a stem (the input layer), stages of blocks, and a head (the output layer). A block is a branch of one
to three layers; where the stage has a shortcut, block and shortcut meet at a junction,
`out = gain_s * shortcut + gain_b * branch`. The three places of the activation are the field's:

    before-add       x -> x + relu(N(W2 relu(N(W1 x))))      the original notebook; He et al. 2016, Fig. 4 (c)
    after-add        x -> relu(x + N(W2 relu(N(W1 x))))      the paper (He et al. 2015, eq. 1)
    pre-activation   x -> x + W2 relu(N(W1 relu(N(x))))      He et al. 2016, Fig. 4 (e)

N is the normalisation, or nothing; in pre-activation order a last relu(N(.)) precedes the head. W is a matrix, or in
the paper's networks a convolution.

`stages` has the parts that a user writes, `layers` what the engines build of them, `paper` the paper's networks and
`network` the spec itself; all that others need is to be imported from here. Nothing here knows arrays: it imports the
errors and the standard library.
"""

from __future__ import annotations

from skipscope.spec.layers import Block, Join, Layer
from skipscope.spec.network import Dtype, Init, Spec
from skipscope.spec.paper import CIFAR_DEPTHS, IMAGENET_BLOCKS, StridePlace
from skipscope.spec.stages import (
    Activation,
    GainRule,
    Gains,
    Head,
    HeadKind,
    Norm,
    Order,
    Shortcut,
    Stage,
    StageKind,
    Stem,
    StemKind,
)

__all__ = [
    "CIFAR_DEPTHS",
    "IMAGENET_BLOCKS",
    "Activation",
    "Block",
    "Dtype",
    "GainRule",
    "Gains",
    "Head",
    "HeadKind",
    "Init",
    "Join",
    "Layer",
    "Norm",
    "Order",
    "Shortcut",
    "Spec",
    "Stage",
    "StageKind",
    "Stem",
    "StemKind",
    "StridePlace",
]
