"""What the engines build a network from: its weight layers and its blocks, as the parts of a spec say them.

Everything that follows from the geometry (shapes of weights, sizes of images, how many parameters, how many
multiply-adds) is derived here, once. Imports the parts and the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from skipscope.spec.stages import Activation, Norm, Shortcut, Stage

__all__ = ["Block", "Join", "Layer", "LayerKind", "blocks_of", "size_after"]

LayerKind = Literal["affine", "conv"]
"""What a weight layer is."""

Join = Literal["none", "identity", "pad", "pad-both", "projection"]
"""How a block's input comes to its junction; see `Block`."""


@dataclass(frozen=True)
class Layer:
    """One weight matrix, or the weights of one convolution, and what stands around it, as the engines build it.

    `first` says which side norm and activation are on: `"affine"` is `activation(norm(W x + b))`, `"norm"` is
    `W activation(norm(x)) + b` (pre-activation).

    Attributes:
        site: the path that names it.
        n_in: features, or channels, that come in.
        n_out: those that go out.
        norm: of n_out features, or with `first="norm"` of n_in.
        activation: after the norm.
        kind: affine, or a convolution over images without bias, padded by zeros so that at stride 1 it keeps the size.
        kernel: height and width of the convolution; odd, and 1 for an affine layer.
        stride: of the convolution, in both directions.
        size: height and width of the images that come in; 1 for an affine layer.
        bias: whether a bias is added.
        gamma: what the norm's gamma starts at.
    """

    site: str
    n_in: int
    n_out: int
    norm: Norm
    activation: Activation
    first: Literal["affine", "norm"] = "affine"
    kind: LayerKind = "affine"
    kernel: int = 1
    stride: int = 1
    size: int = 1
    bias: bool = False
    gamma: float = 1.0

    @property
    def padding(self) -> int:
        """Rows and columns of zeros on each side of the image."""
        return self.kernel // 2

    @property
    def size_out(self) -> int:
        """Height and width of the images that go out; 1 for an affine layer."""
        return size_after(self.size, self.kernel, self.stride)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of the weights: (n_out, n_in), or of a convolution (c_out, c_in, k, k)."""
        matrix = (self.n_out, self.n_in)
        return matrix if self.kind == "affine" else (*matrix, self.kernel, self.kernel)

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return math.prod(self.weight_shape)

    @property
    def fan_in(self) -> int:
        """How many inputs one output sums: n_in, or c_in k k."""
        return self.n_in * self.kernel**2

    @property
    def fan_out(self) -> int:
        """How many outputs one input goes into, at stride 1: n_out, or c_out k k."""
        return self.n_out * self.kernel**2

    @property
    def normed(self) -> int:
        """How many features the layer normalises (0 without normalisation)."""
        if self.norm == "none":
            return 0
        return self.n_out if self.first == "affine" else self.n_in

    @property
    def parameters(self) -> int:
        """How many numbers are trained: weights, biases, gamma and beta."""
        return self.weights + self.bias * self.n_out + 2 * self.normed

    @property
    def multiply_adds(self) -> int:
        """How many multiply-adds its weights take a sample: each is used once for every position that goes out."""
        return self.weights * self.size_out**2


@dataclass(frozen=True)
class Block:
    """A branch and how it meets its shortcut; `activation` is what follows the addition.

    How the block's input comes to the junction: `"none"` (it does not: the block is plain), `"identity"` as it is,
    `"pad"` every `stride`-th position with channels of zeros after the others, `"pad-both"` the same with the zeros in
    equal parts before and after the others, `"projection"` through the convolution (and norm) `projection`.
    """

    site: str
    layers: tuple[Layer, ...]
    width: int
    shortcut: Join
    shortcut_gain: float
    branch_gain: float
    learned_gain: bool
    activation: Activation
    projection: Layer | None = None

    @property
    def plain(self) -> bool:
        """Whether the block has no shortcut."""
        return self.shortcut == "none"

    @property
    def n_in(self) -> int:
        """How many features, or channels, come in; `width` go out."""
        return self.layers[0].n_in

    @property
    def stride(self) -> int:
        """How many positions of the input there are to one of the output, in either direction."""
        return math.prod(layer.stride for layer in self.layers)

    @property
    def size(self) -> int:
        """Height and width of the images that come in; 1 in a dense block."""
        return self.layers[0].size

    @property
    def size_out(self) -> int:
        """Height and width of the images that go out; 1 in a dense block."""
        return self.layers[-1].size_out


def size_after(size: int, kernel: int, stride: int) -> int:
    """Height and width of an image after a convolution or pooling, padded by kernel // 2 on each side."""
    return (size + 2 * (kernel // 2) - kernel) // stride + 1


def blocks_of(stage: Stage, *, number: int, n_in: int, size: int, blocks: int, bias: bool) -> Iterator[Block]:
    """The blocks of the stage that is called stage1, stage2, ... by its number.

    Args:
        n_in: features, or channels, that come in.
        size: height and width of the images that come in; 1 in a dense network.
        blocks: of the whole network.
        bias: whether dense layers have biases.
    """
    shortcut_gain, branch_gain = stage.gains.values(blocks)
    for index in range(1, stage.blocks + 1):
        site = f"stage{number}.block{index}"
        stride = stage.stride if index == 1 else 1
        join = _join(stage.shortcut, changes=n_in != stage.outputs or stride != 1)
        layers = tuple(_branch(site, stage, n_in, size, first=index == 1, bias=bias))
        yield Block(
            site=site,
            layers=layers,
            width=stage.outputs,
            shortcut=join,
            shortcut_gain=shortcut_gain,
            branch_gain=branch_gain,
            learned_gain=stage.gains.learned,
            activation=stage.activation if stage.order == "after-add" else "linear",
            projection=_projection(site, stage, n_in, size, stride) if join == "projection" else None,
        )
        n_in, size = stage.outputs, layers[-1].size_out


def _join(shortcut: Shortcut, *, changes: bool) -> Join:
    """How a block is passed by; `changes` is whether what goes out is of another shape than what comes in."""
    match shortcut:
        case "none" | "identity":
            return shortcut
        case "A":
            return "pad" if changes else "identity"
        case "A-both":
            return "pad-both" if changes else "identity"
        case "B":
            return "projection" if changes else "identity"
        case "C":
            return "projection"


def _branch(site: str, stage: Stage, n_in: int, size: int, *, first: bool, bias: bool) -> Iterator[Layer]:
    """The layers of one block; `first` is whether it is the stage's first, which has the stride."""
    for index in range(1, stage.layers + 1):
        last = index == stage.layers
        bare = last and stage.order == "after-add"  # its activation comes after the addition
        layer = Layer(
            site=f"{site}.layer{index}",
            n_in=n_in,
            n_out=stage.outputs if last else stage.width,
            norm=stage.norm,
            activation="linear" if bare else stage.activation,
            first="norm" if stage.order == "pre-activation" else "affine",
            kind="conv" if stage.images else "affine",
            kernel=stage.kernels[index - 1],
            stride=stage.strides[index - 1] if first else 1,
            size=size,
            bias=bias,
            gamma=0.0 if last and stage.gains.zero_gamma else 1.0,
        )
        yield layer
        n_in, size = layer.n_out, layer.size_out


def _projection(site: str, stage: Stage, n_in: int, size: int, stride: int) -> Layer:
    # The shortcut takes the block's input as it is, so in pre-activation order nothing stands before the convolution;
    # and nothing after it, for there the branch's sum is bare too.
    return Layer(
        site=f"{site}.shortcut",
        n_in=n_in,
        n_out=stage.outputs,
        norm="none" if stage.order == "pre-activation" else stage.norm,
        activation="linear",
        kind="conv",
        stride=stride,
        size=size,
    )
