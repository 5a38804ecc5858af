"""The parts that a user writes a network from: stem, stages, head, and the gains of a stage's junctions.

Every part is a frozen value that checks itself; whether parts fit together, the `Spec` says. Imports the errors and
the standard library, and knows no arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from skipscope.errors import InputError, choose, quoted, require_int, require_number

__all__ = [
    "Activation",
    "GainRule",
    "Gains",
    "Head",
    "HeadKind",
    "Norm",
    "Order",
    "Shortcut",
    "Stage",
    "StageKind",
    "Stem",
    "StemKind",
]

Activation = Literal["relu", "tanh", "linear"]
"""What an activation function is called."""

GainRule = Literal["1/sqrt(L)", "1/L", "zero", "zero-gamma"]
"""The gains that are not numbers; see `Gains`."""

HeadKind = Literal["dense", "pooled"]
"""How the head takes what the body gives; see `Head`."""

Norm = Literal["none", "batch", "layer"]
"""What is normalised over: the batch (with images, its positions too), the features, or nothing."""

Order = Literal["before-add", "after-add", "pre-activation"]
"""The places of the activation; see `skipscope.spec`."""

Shortcut = Literal["none", "identity", "A", "A-both", "B", "C"]
"""How a stage's blocks are passed by; see `Stage`."""

StageKind = Literal["dense", "basic", "bottleneck", "bottleneck-v1.5"]
"""What the layers of a branch are; see `Stage`."""

StemKind = Literal["dense", "conv3", "conv7"]
"""What the input layer is; see `Stem`."""

_BOTTLENECKS = ("bottleneck", "bottleneck-v1.5")


@dataclass(frozen=True, kw_only=True)
class Gains:
    """The two weights of a junction: `out = shortcut * x + branch * F(x)`.

    Either is a number, `"1/sqrt(L)"` or `"1/L"` (L is the number of blocks of the network: Depth-muP,
    arXiv:2310.02244; CompleteP, arXiv:2505.01618). `branch="zero"` is one learned scalar a block that starts at zero
    (SkipInit, arXiv:2002.10444; ReZero, arXiv:2003.04887). `branch="zero-gamma"` is no scalar: the gamma of the
    branch's last batch normalisation starts at zero (Goyal et al. 2017, arXiv:1706.02677; not in the paper, and off by
    default in torchvision).
    """

    shortcut: float | GainRule = 1.0
    branch: float | GainRule = 1.0

    def __post_init__(self) -> None:
        for name, rules in (("shortcut", ("1/sqrt(L)", "1/L")), ("branch", get_args(GainRule))):
            value = getattr(self, name)
            if isinstance(value, str):
                choose(f"{name}_gain", value, rules)
            else:
                # + 0.0 makes -0.0 a 0.0: the two are equal, so their JSON must be.
                object.__setattr__(self, name, require_number(f"{name}_gain", value) + 0.0)

    def values(self, blocks: int) -> tuple[float, float]:
        """The shortcut's and the branch's gain as numbers, in a network of `blocks` blocks.

        What is learned and starts at zero counts as 1 here: it is a parameter, and multiplies the branch by itself.
        """
        rules = {"1/sqrt(L)": max(blocks, 1) ** -0.5, "1/L": 1.0 / max(blocks, 1), "zero": 1.0, "zero-gamma": 1.0}

        def number(gain: float | str) -> float:
            return rules[gain] if isinstance(gain, str) else gain

        return number(self.shortcut), number(self.branch)

    @property
    def learned(self) -> bool:
        """Whether the branch has a scalar of its own that starts at zero."""
        return self.branch == "zero"

    @property
    def zero_gamma(self) -> bool:
        """Whether the gamma of the branch's last normalisation starts at zero."""
        return self.branch == "zero-gamma"

    @property
    def silent(self) -> bool:
        """Whether the branch gives 0 at initialisation."""
        return self.branch in (0.0, "zero", "zero-gamma")


@dataclass(frozen=True, kw_only=True)
class Stem:
    """The input layer: `features` numbers a sample in (of images: channels), `width` features (channels) out.

    The kind is `"dense"`, or for images of height and width `size` one of the paper's: `"conv3"`, a 3x3 convolution
    (section 4.2, CIFAR), or `"conv7"`, a 7x7 convolution of stride 2 and after it a 3x3 max pooling of stride 2
    (Table 1, ImageNet). A sample is of shape (features,), or (features, size, size).
    """

    features: int
    width: int
    kind: StemKind = "dense"
    norm: Norm = "none"
    activation: Activation = "relu"
    size: int = 0

    def __post_init__(self) -> None:
        choose("stem kind", self.kind, get_args(StemKind))
        _store_ints(self, width="width", features="channels" if self.images else "features")
        choose("stem norm", self.norm, get_args(Norm))
        choose("stem activation", self.activation, get_args(Activation))
        object.__setattr__(self, "size", require_int("size", self.size, least=int(self.images)))
        if self.images:
            _require_norm_of_images("the stem", self.norm)
        elif self.size != 0:
            raise InputError(f"size must be 0 for a dense stem, which takes no images; got {self.size}.")

    @property
    def images(self) -> bool:
        """Whether the stem is a convolution over images."""
        return self.kind != "dense"

    @property
    def pooled(self) -> bool:
        """Whether a 3x3 max pooling of stride 2 (and padding 1) follows the stem's activation."""
        return self.kind == "conv7"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A run of equal blocks: `blocks` of them, each a branch of `layers` layers of `width` units or channels.

    The kind says what these are:

    - `"dense"`: fully connected layers.
    - `"basic"`: 3x3 convolutions; the first of the stage has its stride.
    - `"bottleneck"`: 1x1, 3x3 and 1x1 convolutions (`layers=3`), the last to `expansion` = 4 times `width` channels;
      the stage's stride is on its first, as in the paper (the counts of its Table 1 allow no other).
    - `"bottleneck-v1.5"`: likewise, with the stride on the 3x3 convolution, as in torchvision.

    The shortcut says how a block is passed by:

    - `"none"`: it is not. The stage is plain: a block is its branch, times the branch gain.
    - `"identity"`: in every block; what comes in has the shape of what goes out.
    - `"A"`: where it has not, every second position in either direction, and zeros for the channels that are missing,
      after the others (the paper does not say where the zeros go).
    - `"A-both"`: as A, with half of the zeros before and half after the others, as in widespread CIFAR checkpoints.
    - `"B"`: where it has not, a projection: a 1x1 convolution with the stage's stride and normalisation (none in
      pre-activation order, where it takes, as every shortcut does, the block's input as it is).
    - `"C"`: a projection in every block.
    """

    blocks: int
    width: int
    kind: StageKind = "dense"
    layers: int = 2
    stride: int = 1
    shortcut: Shortcut = "identity"
    order: Order = "before-add"
    norm: Norm = "none"
    activation: Activation = "relu"
    gains: Gains = field(default_factory=Gains)

    def __post_init__(self) -> None:
        _store_ints(self, blocks="blocks", width="width", layers="layers", stride="stride")
        if self.layers > 3:
            raise InputError(f"layers must be 1, 2 or 3 (weight layers of a branch); got {self.layers}.")
        choose("stage kind", self.kind, get_args(StageKind))
        choose("shortcut", self.shortcut, get_args(Shortcut) if self.images else ("none", "identity"))
        choose("order", self.order, get_args(Order))
        choose("norm", self.norm, get_args(Norm))
        choose("activation", self.activation, get_args(Activation))
        if not isinstance(self.gains, Gains):
            raise InputError(f"gains must be a Gains, e.g. Gains(branch=0.5); got {quoted(self.gains)}.")
        if self.images:
            self._require_images()
        else:
            self._require_dense()
        if self.shortcut != "none" and self.gains.silent and self.gains.shortcut == 0:
            raise InputError(
                f"shortcut_gain=0 with branch_gain={self.gains.branch!r} leaves nothing: the block outputs 0 whatever "
                "comes in. Give one of them another gain."
            )
        if self.shortcut == "none" and self.gains.silent:
            raise InputError(
                f"branch_gain={self.gains.branch!r} needs a shortcut: a plain network with a branch gain of 0 outputs "
                f"0 whatever comes in. Use another number, or shortcut={'A' if self.images else 'identity'!r}."
            )

    def _require_dense(self) -> None:
        if self.stride != 1:
            raise InputError(f"stride must be 1 in a dense stage, which has no positions to skip; got {self.stride}.")
        if self.norm == "layer" and self.width == 1:
            raise InputError("norm='layer' over a width of 1 is 0 whatever comes in; use width >= 2 or norm='none'.")
        if self.gains.zero_gamma:
            raise InputError(
                "branch_gain='zero-gamma' is for convolutional stages; branch_gain='zero' starts a dense branch at 0."
            )

    def _require_images(self) -> None:
        if self.stride > 2:
            raise InputError(f"stride must be 1 or 2; got {self.stride}.")
        if self.kind in _BOTTLENECKS and self.layers != 3:
            raise InputError(f"layers must be 3 in a stage of kind {self.kind!r}; got {self.layers}.")
        _require_norm_of_images("a convolutional stage", self.norm)
        # In the other orders a ReLU follows that normalisation, and its derivative at 0 is 0: gamma would stay there.
        if self.gains.zero_gamma and (self.norm, self.order) != ("batch", "after-add"):
            raise InputError(
                f"branch_gain='zero-gamma' needs norm='batch' and order='after-add', where gamma can leave 0; got "
                f"norm={self.norm!r} and order={self.order!r}."
            )

    @property
    def plain(self) -> bool:
        """Whether the stage has no shortcuts."""
        return self.shortcut == "none"

    @property
    def images(self) -> bool:
        """Whether the stage consists of convolutions over images."""
        return self.kind != "dense"

    @property
    def expansion(self) -> int:
        """How many times `width` features a block hands on."""
        return 4 if self.kind in _BOTTLENECKS else 1

    @property
    def outputs(self) -> int:
        """How many features, or channels, a block hands on."""
        return self.width * self.expansion

    @property
    def kernels(self) -> tuple[int, ...]:
        """The height and width of the layers' convolutions, in order; 1 in a dense stage."""
        if self.kind in _BOTTLENECKS:
            return (1, 3, 1)
        return (3 if self.images else 1,) * self.layers

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides of the layers of the first block, in order; those of the other blocks are 1."""
        strided = 1 if self.kind == "bottleneck-v1.5" else 0
        return tuple(self.stride if index == strided else 1 for index in range(self.layers))


@dataclass(frozen=True, kw_only=True)
class Head:
    """The output layer: `features` numbers a sample out.

    The kind is `"dense"`, or for images `"pooled"`: the mean of every channel over all positions, and then a dense
    layer, which has a bias whatever the network has (the paper's global average pooling and fully connected layer).
    """

    features: int
    kind: HeadKind = "dense"
    activation: Activation = "linear"

    def __post_init__(self) -> None:
        choose("head kind", self.kind, get_args(HeadKind))
        _store_ints(self, features="outputs")
        choose("output", self.activation, get_args(Activation))

    @property
    def pooled(self) -> bool:
        """Whether the head takes the mean over all positions first."""
        return self.kind == "pooled"


def _store_ints(part: object, **parameters: str) -> None:
    """Store every field, called as the user knows it, as an `int`: a NumPy integer has no JSON, and 1.0 is refused."""
    for field_name, parameter in parameters.items():
        object.__setattr__(part, field_name, require_int(parameter, getattr(part, field_name), least=1))


def _require_norm_of_images(where: str, norm: Norm) -> None:
    if norm == "layer":
        raise InputError(
            f"norm='layer' has no one meaning in {where} (over channels, positions, or both); use 'batch' or 'none'."
        )
