"""What a network is: a frozen, validated value from which either engine builds the same network.

A network is a stem (the input layer), stages of blocks, and a head (the output layer). A block is a branch of one
to three layers; where the stage has a shortcut, block and shortcut meet at a junction,
`out = gain_s * shortcut + gain_b * branch`. The three places of the activation are the field's:

    before-add       x -> x + relu(N(W2 relu(N(W1 x))))      the original notebook; He et al. 2016, Fig. 4 (c)
    after-add        x -> relu(x + N(W2 relu(N(W1 x))))      the paper (He et al. 2015, eq. 1)
    pre-activation   x -> x + W2 relu(N(W1 relu(N(x))))      He et al. 2016, Fig. 4 (e)

N is the normalisation, or nothing; in pre-activation order a last relu(N(.)) precedes the head. This module
knows no arrays: it imports the errors and the standard library.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

from skipscope.errors import InputError, as_list, choose, quoted, require_int, require_number

__all__ = ["Block", "Gains", "Head", "Layer", "Spec", "Stage", "Stem"]

Activation = Literal["relu", "tanh", "linear"]
Dtype = Literal["float32", "float64"]
GainRule = Literal["1/sqrt(L)", "1/L", "zero"]
Init = Literal["he", "xavier", "lecun", "torch"]
Kind = Literal["dense"]
Norm = Literal["none", "batch", "layer"]
Order = Literal["before-add", "after-add", "pre-activation"]
Shortcut = Literal["none", "identity"]


@dataclass(frozen=True, kw_only=True)
class Gains:
    """The two weights of a junction: `out = shortcut * x + branch * F(x)`.

    Either is a number, `"1/sqrt(L)"` or `"1/L"` (L is the number of blocks of the network: Depth-muP,
    arXiv:2310.02244; CompleteP, arXiv:2505.01618). `branch="zero"` is one learned scalar a block that starts at zero
    (SkipInit, arXiv:2002.10444; ReZero, arXiv:2003.04887).
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

        A zero-initialised scalar counts as 1 here: it is a parameter, and multiplies the branch by itself.
        """
        rules = {"1/sqrt(L)": max(blocks, 1) ** -0.5, "1/L": 1.0 / max(blocks, 1), "zero": 1.0}

        def number(gain: float | str) -> float:
            return rules[gain] if isinstance(gain, str) else gain

        return number(self.shortcut), number(self.branch)

    @property
    def learned(self) -> bool:
        """Whether the branch has a scalar of its own that starts at zero."""
        return self.branch == "zero"

    @property
    def silent(self) -> bool:
        """Whether the branch gives 0 at initialisation."""
        return self.branch in (0.0, "zero")


@dataclass(frozen=True, kw_only=True)
class Stem:
    """The input layer: `features` numbers a sample in, `width` out."""

    features: int
    width: int
    kind: Kind = "dense"
    norm: Norm = "none"
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        _store_ints(self, width="width", features="features")
        choose("stem kind", self.kind, get_args(Kind))
        choose("stem norm", self.norm, get_args(Norm))
        choose("stem activation", self.activation, get_args(Activation))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A run of equal blocks: `blocks` of them, each a branch of `layers` layers of `width` units.

    `shortcut="none"` makes the stage plain: then a block is its branch, times the branch gain.
    """

    blocks: int
    width: int
    kind: Kind = "dense"
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
        choose("stage kind", self.kind, get_args(Kind))
        choose("shortcut", self.shortcut, get_args(Shortcut))
        choose("order", self.order, get_args(Order))
        choose("norm", self.norm, get_args(Norm))
        choose("activation", self.activation, get_args(Activation))
        if self.stride != 1:
            raise InputError(f"stride must be 1 in a dense stage, which has no positions to skip; got {self.stride}.")
        if self.norm == "layer" and self.width == 1:
            raise InputError("norm='layer' over a width of 1 is 0 whatever comes in; use width >= 2 or norm='none'.")
        if not isinstance(self.gains, Gains):
            raise InputError(f"gains must be a Gains, e.g. Gains(branch=0.5); got {quoted(self.gains)}.")
        if self.shortcut != "none" and self.gains.silent and self.gains.shortcut == 0:
            raise InputError(
                f"shortcut_gain=0 with branch_gain={self.gains.branch!r} leaves nothing: the block outputs 0 whatever "
                "comes in. Give one of them another gain."
            )
        if self.shortcut == "none" and self.gains.silent:
            raise InputError(
                f"branch_gain={self.gains.branch!r} needs a shortcut: a plain network with a branch gain of 0 outputs "
                "0 whatever comes in. Use another number, or shortcut='identity'."
            )

    @property
    def plain(self) -> bool:
        """Whether the stage has no shortcuts."""
        return self.shortcut == "none"


@dataclass(frozen=True, kw_only=True)
class Head:
    """The output layer: `features` numbers a sample out."""

    features: int
    kind: Kind = "dense"
    activation: Activation = "linear"

    def __post_init__(self) -> None:
        _store_ints(self, features="outputs")
        choose("head kind", self.kind, get_args(Kind))
        choose("output", self.activation, get_args(Activation))


@dataclass(frozen=True)
class Layer:
    """One weight matrix and what stands around it, as the engines build it.

    `first` says which side norm and activation are on: `"affine"` is `activation(norm(W x + b))`, `"norm"` is
    `W activation(norm(x)) + b` (pre-activation).
    """

    site: str
    fan_in: int
    fan_out: int
    norm: Norm
    activation: Activation
    first: Literal["affine", "norm"] = "affine"

    @property
    def normed(self) -> int:
        """How many features the layer normalises (0 without normalisation)."""
        if self.norm == "none":
            return 0
        return self.fan_out if self.first == "affine" else self.fan_in


@dataclass(frozen=True)
class Block:
    """A branch and how it meets its shortcut; `activation` is what follows the addition."""

    site: str
    layers: tuple[Layer, ...]
    width: int
    shortcut: Shortcut
    shortcut_gain: float
    branch_gain: float
    learned_gain: bool
    activation: Activation

    @property
    def plain(self) -> bool:
        """Whether the block has no shortcut."""
        return self.shortcut == "none"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A network as a value: the stem, the stages in order of depth, the head, and how it is initialised.

    Initialisations give every weight matrix (n_out, n_in) the variance he 2/n_in (He et al. 2015b,
    arXiv:1502.01852), xavier 2/(n_in + n_out), lecun 1/n_in, all Gaussian, or torch 1/(3 n_in), uniform, as
    `torch.nn.Linear` does by default. Biases start at zero, with torch uniform of the same variance.

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
        width = self.stem.width
        for number, stage in enumerate(self.stages, start=1):
            if not stage.plain and stage.width != width:
                raise InputError(
                    f"stage {number} has width {stage.width} but {width} features come in: an identity shortcut adds "
                    f"arrays of one shape. Give it width={width} or shortcut='none'."
                )
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
            width = stage.width
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

    def twin(self) -> Spec:
        """The same network with the shortcuts taken away, or, if it has none, with identity shortcuts added.

        Same parameters, same draw, same gains: `twin()` of a residual network computes what the network computes
        under `gains(shortcut=0)`. Twice gives the spec back.

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
        shortcut: Shortcut = "identity" if plain == {True} else "none"
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

    @cached_property
    def stem_layer(self) -> Layer:
        """The input layer."""
        return Layer("stem", self.stem.features, self.stem.width, self.stem.norm, self.stem.activation)

    @cached_property
    def head_layer(self) -> Layer:
        """The output layer."""
        return Layer("head", self.body_width, self.head.features, "none", self.head.activation)

    @property
    def body_width(self) -> int:
        """How many features the body hands to the head."""
        return self.stages[-1].width if self.stages else self.stem.width

    @cached_property
    def body(self) -> tuple[Block, ...]:
        """The blocks of all stages in order of depth."""
        return tuple(self._blocks())

    def _blocks(self) -> Iterator[Block]:
        total = sum(stage.blocks for stage in self.stages)
        width = self.stem.width
        for number, stage in enumerate(self.stages, start=1):
            shortcut_gain, branch_gain = stage.gains.values(total)
            for index in range(1, stage.blocks + 1):
                site = f"stage{number}.block{index}"
                yield Block(
                    site=site,
                    layers=tuple(_branch(site, stage, width)),
                    width=stage.width,
                    shortcut=stage.shortcut,
                    shortcut_gain=shortcut_gain,
                    branch_gain=branch_gain,
                    learned_gain=stage.gains.learned,
                    activation=stage.activation if stage.order == "after-add" else "linear",
                )
                width = stage.width

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All weight layers in order of depth: the stem, the branches' layers, the head."""
        return (self.stem_layer, *(layer for block in self.body for layer in block.layers), self.head_layer)

    @property
    def depth(self) -> int:
        """Number of weight layers."""
        return len(self.layers)

    @property
    def parameters(self) -> int:
        """Number of trained numbers: weights, biases, the norms' gamma and beta, learned gains."""
        count = sum(layer.fan_in * layer.fan_out + 2 * layer.normed for layer in self.layers)
        if self.bias:
            count += sum(layer.fan_out for layer in self.layers)
        if self.pre_activation and self.stages[-1].norm != "none":
            count += 2 * self.body_width
        return count + sum(block.learned_gain for block in self.body)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one forward pass a sample, in the weight matrices (the paper's "FLOPs", its Table 1)."""
        return sum(layer.fan_in * layer.fan_out for layer in self.layers)

    # ------------------------------------------------------------------------------------------------- as JSON

    def to_json(self) -> str:
        """The spec as one line of JSON with sorted keys; equal specs give equal text."""
        return self._json

    @cached_property
    def _json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

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


def _store_ints(part: object, **parameters: str) -> None:
    """Store every field, called as the user knows it, as an `int`: a NumPy integer has no JSON, and 1.0 is refused."""
    for field_name, parameter in parameters.items():
        object.__setattr__(part, field_name, require_int(parameter, getattr(part, field_name), least=1))


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


def _branch(site: str, stage: Stage, width: int) -> Iterator[Layer]:
    """The layers of one block; `width` features come in."""
    pre = stage.order == "pre-activation"
    for index in range(1, stage.layers + 1):
        bare = stage.order == "after-add" and index == stage.layers  # its activation comes after the addition
        yield Layer(
            site=f"{site}.layer{index}",
            fan_in=width if index == 1 else stage.width,
            fan_out=stage.width,
            norm=stage.norm,
            activation="linear" if bare else stage.activation,
            first="norm" if pre else "affine",
        )
