"""A network as a value: `Spec`, which puts the parts together and says what the network consists of.

Imports the parts, the layers and the paper's networks, the errors and the standard library.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

from skipscope.errors import InputError, as_list, choose, quoted, require_int
from skipscope.spec import paper
from skipscope.spec.layers import Block, Layer, blocks_of, size_after
from skipscope.spec.paper import StridePlace
from skipscope.spec.stages import Activation, GainRule, Gains, Head, Norm, Order, Shortcut, Stage, Stem

__all__ = ["Dtype", "Init", "Spec"]

Dtype = Literal["float32", "float64"]
"""The numbers that a network computes with."""

Init = Literal["he", "xavier", "lecun", "torch"]
"""The law that initial weights are drawn from; see `Spec`."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A network as a value: the stem, the stages in order of depth, the head, and how it is initialised.

    Initialisations give every weight matrix (n_out, n_in) the variance he 2/n_in (He et al. 2015b,
    arXiv:1502.01852), xavier 2/(n_in + n_out), lecun 1/n_in, all Gaussian, or torch 1/(3 n_in), uniform, as
    `torch.nn.Linear` does by default. Of a convolution n_in is c_in k k and n_out c_out k k. Biases start at zero, with
    torch uniform of the same variance.

    The paper initialises as He et al. 2015b, which is he (they derive 2/n_in, and find 2/n_out as good); torchvision's
    residual networks have 2/n_out. Convolutions have no bias, whether they are normalised or not, so `bias` is for
    dense networks alone; a pooled head has one always.

    Raises:
        InputError: the parts do not make sense together; the message says why.
    """

    stem: Stem
    stages: tuple[Stage, ...]
    head: Head
    init: Init = "he"
    bias: bool = False
    dtype: Dtype = "float64"

    def __post_init__(self) -> None:
        choose("init", self.init, get_args(Init))
        choose("dtype", self.dtype, get_args(Dtype))
        if not isinstance(self.bias, bool):
            raise InputError(f"bias must be True or False; got {quoted(self.bias)}.")
        _require_parts(self)
        object.__setattr__(self, "stages", tuple(self.stages))
        _require_one_kind(self)
        width = self.stem.width
        for number, stage in enumerate(self.stages, start=1):
            _require_joinable(number, stage, width)
            if stage.norm == "batch" and self.bias:
                raise InputError(
                    f"bias=True in stage {number} has no effect: batch normalisation subtracts the batch mean, and has "
                    "a bias of its own. Use bias=False."
                )
            if stage.norm == "layer" and stage.order == "pre-activation" and width == 1:
                raise InputError(
                    f"norm='layer' in stage {number}, of pre-activation order, is over the 1 feature that comes in, "
                    "and so 0 whatever that is; let 2 or more features come in, or use norm='none'."
                )
            width = stage.outputs
        if self.stem.norm == "batch" and self.bias:
            raise InputError("bias=True has no effect on a stem with batch normalisation. Use bias=False.")
        if self.stem.norm == "layer" and self.stem.width == 1:
            raise InputError("norm='layer' over a width of 1 is 0 whatever comes in; use width >= 2 or norm='none'.")

    # ---------------------------------------------------------------------------------------------- constructors

    @classmethod
    def dense(
        cls,
        *,
        width: int,
        blocks: int,
        layers: int = 2,
        shortcut: Shortcut = "identity",
        order: Order = "before-add",
        norm: Norm = "none",
        activation: Activation = "relu",
        features: int | None = None,
        outputs: int | None = None,
        output: Activation = "linear",
        shortcut_gain: float | GainRule = 1.0,
        branch_gain: float | GainRule = 1.0,
        init: Init = "he",
        bias: bool = False,
        dtype: Dtype = "float64",
    ) -> Spec:
        """A fully connected network of one stage: an input layer, `blocks` blocks of `layers` layers, an output layer.

        It has `blocks * layers + 2` weight layers. A plain network of d layers is
        `Spec.dense(blocks=d - 2, layers=1, shortcut="none", ...)`; `blocks=0` is the input and output layer alone.

        Args:
            width: units of every hidden layer.
            features: numbers a sample has; `width` if not given.
            outputs: numbers the network gives a sample; `features` if not given.
            output: activation of the output layer; `"relu"` as in the original notebook.
        """
        require_int("blocks", blocks, least=0)
        gains = Gains(shortcut=shortcut_gain, branch=branch_gain)
        stages: tuple[Stage, ...] = ()
        if blocks:
            stage = Stage(
                blocks=blocks,
                width=width,
                layers=layers,
                shortcut=shortcut,
                order=order,
                norm=norm,
                activation=activation,
                gains=gains,
            )
            stages = (stage,)
        # In pre-activation order the stem hands on its bare sum, because the first block normalises and activates it.
        bare = order == "pre-activation" and blocks > 0
        features = width if features is None else features
        return cls(
            stem=Stem(
                features=features,
                width=width,
                norm="none" if bare else norm,
                activation="linear" if bare else activation,
            ),
            stages=stages,
            head=Head(features=features if outputs is None else outputs, activation=output),
            init=init,
            bias=bias,
            dtype=dtype,
        )

    @classmethod
    def cifar(
        cls,
        depth: int,
        *,
        shortcut: Shortcut = "A",
        order: Order = "after-add",
        norm: Norm = "batch",
        width: int = 16,
        size: int = 32,
        channels: int = 3,
        classes: int = 10,
        shortcut_gain: float | GainRule = 1.0,
        branch_gain: float | GainRule = 1.0,
        init: Init = "he",
        dtype: Dtype = "float32",
    ) -> Spec:
        """The paper's network for CIFAR-10 of 6n + 2 weight layers (section 4.2), by default as in the paper.

        A 3x3 convolution, three stages of n blocks of two 3x3 convolutions, of `width`, 2 and 4 times `width` channels
        on images of `size`, a half and a quarter of `size`, global average pooling, and a dense layer.

        Args:
            depth: weight layers; 20, 32, 44, 56, 110 and 1202 in the paper.
            shortcut: `"A"` as in the paper, `"A-both"` as in widespread checkpoints, `"B"`, `"C"`, or `"none"` for the
                plain network; see `Stage`.
            width: channels of the first stage; k times 16 is a network k times as wide.
            size: height and width of the images.
        """
        gains = Gains(shortcut=shortcut_gain, branch=branch_gain)
        stem, stages, head = paper.cifar(
            depth,
            shortcut=shortcut,
            order=order,
            norm=norm,
            gains=gains,
            width=width,
            size=size,
            channels=channels,
            classes=classes,
        )
        return cls(stem=stem, stages=stages, head=head, init=init, dtype=dtype)

    @classmethod
    def imagenet(
        cls,
        depth: int,
        *,
        shortcut: Shortcut | None = None,
        stride: StridePlace = "v1",
        order: Order = "after-add",
        norm: Norm = "batch",
        width: int = 64,
        size: int = 224,
        channels: int = 3,
        classes: int = 1000,
        shortcut_gain: float | GainRule = 1.0,
        branch_gain: float | GainRule = 1.0,
        init: Init = "he",
        dtype: Dtype = "float32",
    ) -> Spec:
        """The paper's network for ImageNet of 18, 34, 50, 101 or 152 weight layers (Table 1), as in the paper.

        A 7x7 convolution and a max pooling, each of stride 2, four stages, all but the first halving the image, global
        average pooling, and a dense layer. torchvision's are those with `shortcut="B", stride="v1.5"`.

        Args:
            depth: weight layers; blocks are basic at 18 and 34, and bottlenecks above.
            shortcut: if not given A at 18 and 34 (the paper's Table 2) and B above (its Table 4); see `Stage`.
            stride: where a bottleneck has its stride: `"v1"` on the first 1x1 convolution, `"v1.5"` on the 3x3. Of
                basic blocks both are the same network.
            width: channels of the first stage's layers (of a bottleneck's inner ones).
            size: height and width of the images.
        """
        gains = Gains(shortcut=shortcut_gain, branch=branch_gain)
        stem, stages, head = paper.imagenet(
            depth,
            shortcut=shortcut,
            stride=stride,
            order=order,
            norm=norm,
            gains=gains,
            width=width,
            size=size,
            channels=channels,
            classes=classes,
        )
        return cls(stem=stem, stages=stages, head=head, init=init, dtype=dtype)

    def twin(self) -> Spec:
        """The same network with the shortcuts taken away, or, if it has none, with shortcuts added.

        Same draw, same gains: `twin()` of a residual network computes what the network computes under
        `gains(shortcut=0)`. Same parameters, for identities and option A have none: twin and network are the paper's
        pairs. What has projections (options B and C) loses their parameters as well, and its twin is smaller by them.

        Shortcuts that are added are identities, in a convolutional network option A. So twice gives the spec back if
        it was such a one.

        Raises:
            InputError: there is nothing to take away or to add, or the twin would output a constant.
        """
        if not self.stages:
            raise InputError("a network without blocks has no twin: give it blocks >= 1.")
        plain = {stage.plain for stage in self.stages}
        if len(plain) > 1:
            raise InputError(
                "a network with both plain and residual stages has no twin: make all stages one or the other."
            )
        shortcut: Shortcut = "none" if plain == {False} else "A" if self.images else "identity"
        silent = [stage.gains.branch for stage in self.stages if stage.gains.silent]
        if shortcut == "none" and silent:
            raise InputError(
                f"the twin of a network with branch_gain={silent[0]!r} outputs 0 whatever comes in: give the branch a "
                "gain that is another number, '1/sqrt(L)' or '1/L'."
            )
        return replace(self, stages=tuple(replace(stage, shortcut=shortcut) for stage in self.stages))

    # ------------------------------------------------------------------------------------------- what it contains

    @property
    def pre_activation(self) -> bool:
        """Whether a last norm and activation stand between the body and the head (He et al. 2016, section 3.1)."""
        return bool(self.stages) and self.stages[-1].order == "pre-activation"

    @property
    def coupled(self) -> bool:
        """Whether batch normalisation lets the samples of a batch depend on each other."""
        return "batch" in {self.stem.norm, *(stage.norm for stage in self.stages)}

    @property
    def images(self) -> bool:
        """Whether the network is convolutional, and a sample an image."""
        return self.stem.images

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of a sample: (features,), or (channels, size, size)."""
        return (self.stem.features, self.stem.size, self.stem.size) if self.images else (self.stem.features,)

    @cached_property
    def stem_layer(self) -> Layer:
        """The input layer; where `stem.pooled`, a max pooling follows."""
        stem = self.stem
        kernel, stride = {"dense": (1, 1), "conv3": (3, 1), "conv7": (7, 2)}[stem.kind]
        return Layer(
            "stem",
            stem.features,
            stem.width,
            stem.norm,
            stem.activation,
            kind="conv" if stem.images else "affine",
            kernel=kernel,
            stride=stride,
            size=stem.size or 1,
            bias=self.bias,
        )

    @property
    def stem_size(self) -> int:
        """Height and width of the images that the stem hands on, after its pooling; 1 in a dense network."""
        size = self.stem_layer.size_out
        return size_after(size, kernel=3, stride=2) if self.stem.pooled else size

    @cached_property
    def head_layer(self) -> Layer:
        """The output layer; where `head.pooled`, the mean over all positions precedes it."""
        bias = self.bias or self.head.pooled
        return Layer("head", self.body_width, self.head.features, "none", self.head.activation, bias=bias)

    @property
    def width(self) -> int:
        """By which it is told: channels of the first stage, as its makers take them; of a dense one `body_width`."""
        if self.images:
            return self.stages[0].width if self.stages else self.stem.width
        return self.body_width

    @property
    def body_width(self) -> int:
        """How many features, or channels, the body hands to the head."""
        return self.stages[-1].outputs if self.stages else self.stem.width

    @property
    def body_size(self) -> int:
        """Height and width of the images that the body hands to the head; 1 in a dense network."""
        return self.body[-1].size_out if self.body else self.stem_size

    @cached_property
    def body(self) -> tuple[Block, ...]:
        """The blocks of all stages in order of depth."""
        return tuple(self._blocks())

    def _blocks(self) -> Iterator[Block]:
        total = sum(stage.blocks for stage in self.stages)
        width, size = self.stem.width, self.stem_size
        for number, stage in enumerate(self.stages, start=1):
            blocks = list(blocks_of(stage, number=number, n_in=width, size=size, blocks=total, bias=self.bias))
            yield from blocks
            width, size = stage.outputs, blocks[-1].size_out

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The weight layers that count in depth, in its order: the stem, the branches' layers, the head."""
        return (self.stem_layer, *(layer for block in self.body for layer in block.layers), self.head_layer)

    @cached_property
    def projections(self) -> tuple[Layer, ...]:
        """The weight layers of the shortcuts, in order of depth, in which they do not count."""
        return tuple(block.projection for block in self.body if block.projection is not None)

    @property
    def depth(self) -> int:
        """Number of weight layers, without those of the shortcuts, as the paper counts."""
        return len(self.layers)

    @property
    def parameters(self) -> int:
        """Number of trained numbers: weights, biases, the norms' gamma and beta, learned gains."""
        count = sum(layer.parameters for layer in (*self.layers, *self.projections))
        if self.pre_activation and self.stages[-1].norm != "none":
            count += 2 * self.body_width
        return count + sum(block.learned_gain for block in self.body)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one forward pass a sample, in the weight layers (the paper's "FLOPs", its Table 1)."""
        return sum(layer.multiply_adds for layer in (*self.layers, *self.projections))

    # ------------------------------------------------------------------------------------------------- as JSON

    def to_json(self) -> str:
        """The spec as one line of JSON with sorted keys; equal specs give equal text."""
        return self._json

    @cached_property
    def _json(self) -> str:
        fields = dataclasses.asdict(self)
        if not self.images:  # the text that a dense network had before there were others
            del fields["stem"]["size"]
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """The spec that `to_json` wrote.

        Raises:
            InputError: the text is not such a spec.
        """
        if not isinstance(text, str):
            raise InputError(f"a spec is read from text, as to_json() writes it; got {type(text).__name__}.")
        try:
            fields: dict[str, Any] = json.loads(text)
            stages = tuple(Stage(**{**stage, "gains": Gains(**stage["gains"])}) for stage in fields["stages"])
            parts = {"stem": Stem(**fields["stem"]), "stages": stages, "head": Head(**fields["head"])}
            return cls(**{**fields, **parts})
        except InputError:
            raise
        except (TypeError, KeyError, ValueError, RecursionError) as error:
            raise InputError(f"this is not a spec that skipscope wrote: {error}; got {quoted(text)}.") from None


def _require_parts(spec: Spec) -> None:
    """Whether stem, stages and head are what they must be, so that their fields can be looked at."""
    if not isinstance(spec.stem, Stem):
        raise InputError(f"stem must be a Stem, e.g. Stem(features=16, width=36); got {quoted(spec.stem)}.")
    if not isinstance(spec.head, Head):
        raise InputError(f"head must be a Head, e.g. Head(features=16); got {quoted(spec.head)}.")
    if isinstance(spec.stages, Stage) or not all(isinstance(stage, Stage) for stage in as_list(spec.stages)):
        raise InputError(
            f"stages must be a list of Stage, e.g. [Stage(blocks=8, width=36)]; got {quoted(spec.stages)}."
        )


def _require_one_kind(spec: Spec) -> None:
    """Whether stem, stages and head are all about images, or none of them."""
    if spec.images and spec.bias:
        raise InputError("bias=True is for dense networks: convolutions have none, and a pooled head always has one.")
    for number, stage in enumerate(spec.stages, start=1):
        if stage.images != spec.images:
            raise InputError(
                f"stage {number} is of kind {stage.kind!r} and the stem of kind {spec.stem.kind!r}: make both dense, "
                "or both convolutional."
            )
    if spec.head.pooled != spec.images:
        raise InputError(
            f"the head is of kind {spec.head.kind!r} and the stem of kind {spec.stem.kind!r}: images need a 'pooled' "
            "head, and nothing else does."
        )


def _require_joinable(number: int, stage: Stage, width: int) -> None:
    """Whether the stage's shortcuts can bring the `width` features that come in to its junctions."""
    if stage.shortcut == "identity" and not stage.images and stage.width != width:
        raise InputError(
            f"stage {number} has width {stage.width} but {width} features come in: an identity shortcut adds arrays of "
            f"one shape. Give it width={width} or shortcut='none'."
        )
    if stage.shortcut == "identity" and (stage.outputs, stage.stride) != (width, 1):
        raise InputError(
            f"stage {number} makes {stage.outputs} channels of {width}, at stride {stage.stride}: an identity shortcut "
            "adds arrays of one shape. Use shortcut='A', 'B' or 'C'."
        )
    if stage.shortcut in ("A", "A-both") and stage.outputs < width:
        raise InputError(
            f"stage {number} has {stage.outputs} channels and {width} come in: shortcut={stage.shortcut!r} adds "
            "channels, and takes none away. Use shortcut='B'."
        )
    if stage.shortcut == "A-both" and (stage.outputs - width) % 2:
        raise InputError(
            f"stage {number} has {stage.outputs} channels and {width} come in: shortcut='A-both' adds as many on one "
            "side as on the other. Use shortcut='A'."
        )
