"""Specs: what is accepted, how the rest is refused, and what a spec says of its network."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipscope import InputError, Spec
from skipscope.errors import choose, require_int, require_number
from skipscope.spec import Gains, Head, Layer, Stage, Stem

DENSE: dict[str, Any] = {"width": 8, "blocks": 3}

NUMBER: Any = 2
NOTHING: Any = None


def refusal(**fields: Any) -> str:
    """What `Spec.dense` answers to these fields."""
    with pytest.raises(InputError) as caught:
        Spec.dense(**DENSE | fields)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    return message


# --------------------------------------------------------------------------------------------------- the wording


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "width must be at least 1; got 0."),
        ({"width": 0, "blocks": 0}, "width must be at least 1; got 0."),
        ({"width": 2.5}, "width must be a whole number of at least 1; got 2.5."),
        ({"width": True}, "width must be a whole number of at least 1; got True."),
        ({"width": "8"}, "width must be a whole number of at least 1; got '8'."),
        ({"blocks": -1}, "blocks must be at least 0; got -1."),
        ({"blocks": 1.0}, "blocks must be a whole number of at least 0; got 1.0."),
        ({"features": 0}, "features must be at least 1; got 0."),
        ({"outputs": 0}, "outputs must be at least 1; got 0."),
        ({"layers": 0}, "layers must be at least 1; got 0."),
        ({"layers": 4}, "layers must be 1, 2 or 3 (weight layers of a branch); got 4."),
        (
            {"shortcut": "identiy"},
            "shortcut must be one of 'none', 'identity'; got 'identiy'. Did you mean 'identity'?",
        ),
        ({"shortcut": True}, "shortcut must be one of 'none', 'identity'; got True."),
        ({"shortcut": "A"}, "shortcut must be one of 'none', 'identity'; got 'A'."),
        (
            {"order": "pre-activated"},
            "order must be one of 'before-add', 'after-add', 'pre-activation'; got 'pre-activated'. "
            "Did you mean 'pre-activation'?",
        ),
        ({"norm": "instance"}, "norm must be one of 'none', 'batch', 'layer'; got 'instance'."),
        ({"norm": None}, "norm must be one of 'none', 'batch', 'layer'; got None. Did you mean 'none'?"),
        ({"activation": "RELU"}, "activation must be one of 'relu', 'tanh', 'linear'; got 'RELU'."),
        ({"output": "softmax"}, "output must be one of 'relu', 'tanh', 'linear'; got 'softmax'."),
        ({"init": "kaiming"}, "init must be one of 'he', 'xavier', 'lecun', 'torch'; got 'kaiming'."),
        (
            {"dtype": "float16"},
            "dtype must be one of 'float32', 'float64'; got 'float16'. Did you mean 'float64'?",
        ),
        ({"bias": 1}, "bias must be True or False; got 1."),
        ({"branch_gain": None}, "branch_gain must be a number; got None."),
        ({"branch_gain": True}, "branch_gain must be a number; got True."),
        ({"branch_gain": float("nan")}, "branch_gain must be a finite number; got nan."),
        ({"shortcut_gain": float("inf")}, "shortcut_gain must be a finite number; got inf."),
        (
            {"branch_gain": "1/l"},
            "branch_gain must be one of '1/sqrt(L)', '1/L', 'zero', 'zero-gamma'; got '1/l'. Did you mean '1/L'?",
        ),
        ({"shortcut_gain": "zero"}, "shortcut_gain must be one of '1/sqrt(L)', '1/L'; got 'zero'."),
        (
            {"norm": "layer", "width": 1},
            "norm='layer' over a width of 1 is 0 whatever comes in; use width >= 2 or norm='none'.",
        ),
        (
            {"norm": "layer", "width": 1, "blocks": 0},
            "norm='layer' over a width of 1 is 0 whatever comes in; use width >= 2 or norm='none'.",
        ),
        (
            {"shortcut": "none", "branch_gain": "zero"},
            "branch_gain='zero' needs a shortcut: a plain network with a branch gain of 0 outputs 0 whatever comes in. "
            "Use another number, or shortcut='identity'.",
        ),
        (
            {"shortcut": "none", "branch_gain": 0},
            "branch_gain=0.0 needs a shortcut: a plain network with a branch gain of 0 outputs 0 whatever comes in. "
            "Use another number, or shortcut='identity'.",
        ),
        (
            {"branch_gain": "zero-gamma", "norm": "batch", "order": "after-add"},
            "branch_gain='zero-gamma' is for convolutional stages; branch_gain='zero' starts a dense branch at 0.",
        ),
        (
            {"norm": "batch", "bias": True},
            "bias=True in stage 1 has no effect: batch normalisation subtracts the batch mean, and has a bias of its "
            "own. Use bias=False.",
        ),
        (
            {"norm": "batch", "bias": True, "blocks": 0},
            "bias=True has no effect on a stem with batch normalisation. Use bias=False.",
        ),
    ],
)
def test_refusals_of_dense(fields: dict[str, Any], message: str):
    assert refusal(**fields) == message


def stage(**fields: Any) -> Stage:
    return Stage(**{"blocks": 1, "width": 4} | fields)


def image_stem(**fields: Any) -> Stem:
    chosen: dict[str, Any] = {"kind": "conv3", "features": 3, "width": 4, "size": 8} | fields
    return Stem(**chosen)


def images(*stages: Stage, **fields: Any) -> Spec:
    return Spec(stem=image_stem(), stages=stages, head=Head(features=5, kind="pooled"), **fields)


def network(*stages: Stage, width: int = 4, **fields: Any) -> Spec:
    return Spec(stem=Stem(features=4, width=width), stages=stages, head=Head(features=4), **fields)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stage(stride=2), "stride must be 1 in a dense stage, which has no positions to skip; got 2."),
        (lambda: stage(stride=1.0), "stride must be a whole number of at least 1; got 1.0."),
        (lambda: stage(blocks=0), "blocks must be at least 1; got 0."),
        (
            lambda: stage(kind="conv"),
            "stage kind must be one of 'dense', 'basic', 'bottleneck', 'bottleneck-v1.5'; got 'conv'.",
        ),
        (
            lambda: Stem(features=4, width=4, kind="conv"),  # type: ignore[arg-type]
            "stem kind must be one of 'dense', 'conv3', 'conv7'; got 'conv'. Did you mean 'conv7'?",
        ),
        (lambda: Stem(features=4, width=4, norm="x"), "stem norm must be one of 'none', 'batch', 'layer'; got 'x'."),  # type: ignore[arg-type]
        (
            lambda: Stem(features=4, width=4, activation="relu6"),  # type: ignore[arg-type]
            "stem activation must be one of 'relu', 'tanh', 'linear'; got 'relu6'. Did you mean 'relu'?",
        ),
        (lambda: Head(features=4, kind="conv"), "head kind must be one of 'dense', 'pooled'; got 'conv'."),  # type: ignore[arg-type]
        (
            lambda: network(stage(), stage(width=6)),
            "stage 2 has width 6 but 4 features come in: an identity shortcut adds arrays of one shape. Give it "
            "width=4 or shortcut='none'.",
        ),
        (
            lambda: network(stage(norm="layer", order="pre-activation", shortcut="none"), width=1),
            "norm='layer' in stage 1, of pre-activation order, is over the 1 feature that comes in, and so 0 whatever "
            "that is; let 2 or more features come in, or use norm='none'.",
        ),
        (
            lambda: network(stage(shortcut="none"), stage()).twin(),
            "a network with both plain and residual stages has no twin: make all stages one or the other.",
        ),
        (
            lambda: network(stage(width=6, shortcut="none")).twin(),
            "stage 1 has width 6 but 4 features come in: an identity shortcut adds arrays of one shape. Give it "
            "width=4 or shortcut='none'.",
        ),
        (
            lambda: Spec.dense(width=4, blocks=0).twin(),
            "a network without blocks has no twin: give it blocks >= 1.",
        ),
        (
            lambda: Spec.dense(width=4, blocks=1, branch_gain="zero").twin(),
            "the twin of a network with branch_gain='zero' outputs 0 whatever comes in: give the branch a gain that is "
            "another number, '1/sqrt(L)' or '1/L'.",
        ),
        (
            lambda: Spec.dense(width=4, blocks=1, branch_gain=0).twin(),
            "the twin of a network with branch_gain=0.0 outputs 0 whatever comes in: give the branch a gain that is "
            "another number, '1/sqrt(L)' or '1/L'.",
        ),
    ],
)
def test_refusals_of_parts_and_twins(make, message: str):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stem(features=4, width=4, size=8), "size must be 0 for a dense stem, which takes no images; got 8."),
        (lambda: Stem(features=4, width=4, size=False), "size must be a whole number of at least 0; got False."),
        (lambda: image_stem(size=0), "size must be at least 1; got 0."),
        (lambda: image_stem(size=2.0), "size must be a whole number of at least 1; got 2.0."),
        (lambda: image_stem(features=0), "channels must be at least 1; got 0."),
        (
            lambda: image_stem(norm="layer"),
            "norm='layer' has no one meaning in the stem (over channels, positions, or both); use 'batch' or 'none'.",
        ),
        (
            lambda: stage(kind="basic", norm="layer"),
            "norm='layer' has no one meaning in a convolutional stage (over channels, positions, or both); use 'batch' "
            "or 'none'.",
        ),
        (lambda: stage(kind="basic", stride=3), "stride must be 1 or 2; got 3."),
        (lambda: stage(kind="bottleneck"), "layers must be 3 in a stage of kind 'bottleneck'; got 2."),
        (
            lambda: stage(kind="basic", shortcut="a"),
            "shortcut must be one of 'none', 'identity', 'A', 'A-both', 'B', 'C'; got 'a'.",
        ),
        (
            lambda: stage(kind="basic", shortcut="none", gains=Gains(branch=0.0)),
            "branch_gain=0.0 needs a shortcut: a plain network with a branch gain of 0 outputs 0 whatever comes in. "
            "Use another number, or shortcut='A'.",
        ),
        (
            lambda: images(stage(kind="basic"), bias=True),
            "bias=True is for dense networks: convolutions have none, and a pooled head always has one.",
        ),
        (
            lambda: images(stage()),
            "stage 1 is of kind 'dense' and the stem of kind 'conv3': make both dense, or both convolutional.",
        ),
        (
            lambda: network(stage(), stage(kind="basic")),
            "stage 2 is of kind 'basic' and the stem of kind 'dense': make both dense, or both convolutional.",
        ),
        (
            lambda: Spec(stem=image_stem(), stages=(), head=Head(features=4)),
            "the head is of kind 'dense' and the stem of kind 'conv3': images need a 'pooled' head, and nothing else "
            "does.",
        ),
        (
            lambda: Spec(stem=Stem(features=4, width=4), stages=(), head=Head(features=4, kind="pooled")),
            "the head is of kind 'pooled' and the stem of kind 'dense': images need a 'pooled' head, and nothing else "
            "does.",
        ),
        (
            lambda: images(stage(kind="basic", width=8)),
            "stage 1 makes 8 channels of 4, at stride 1: an identity shortcut adds arrays of one shape. Use "
            "shortcut='A', 'B' or 'C'.",
        ),
        (
            lambda: images(stage(kind="basic", stride=2)),
            "stage 1 makes 4 channels of 4, at stride 2: an identity shortcut adds arrays of one shape. Use "
            "shortcut='A', 'B' or 'C'.",
        ),
        (
            lambda: images(stage(kind="basic", width=2, shortcut="A")),
            "stage 1 has 2 channels and 4 come in: shortcut='A' adds channels, and takes none away. Use shortcut='B'.",
        ),
        (
            lambda: images(stage(kind="basic", width=5, shortcut="A-both")),
            "stage 1 has 5 channels and 4 come in: shortcut='A-both' adds as many on one side as on the other. Use "
            "shortcut='A'.",
        ),
        *(
            (
                lambda norm=norm, order=order: stage(
                    kind="basic", norm=norm, order=order, gains=Gains(branch="zero-gamma")
                ),
                "branch_gain='zero-gamma' needs norm='batch' and order='after-add', where gamma can leave 0; got "
                f"norm={norm!r} and order={order!r}.",
            )
            for norm, order in [("none", "after-add"), ("batch", "before-add"), ("batch", "pre-activation")]
        ),
    ],
)
def test_refusals_of_images(make, message: str):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "this is not a spec that skipscope wrote: Expecting property name enclosed in double quotes"),
        ("[]", "this is not a spec that skipscope wrote: list indices must be integers or slices, not str; got '[]'."),
        ("{}", "this is not a spec that skipscope wrote: 'stages'; got '{}'."),
        ('{"stages": [1]}', "this is not a spec that skipscope wrote"),
        ('{"stages": [], "stem": {}, "head": {}}', "this is not a spec that skipscope wrote: Stem.__init__() missing"),
    ],
)
def test_refusals_of_json(text: str, message: str):
    with pytest.raises(InputError) as caught:
        Spec.from_json(text)
    assert str(caught.value).startswith(message)


def test_json_of_a_wrong_value_says_which():
    fields = json.loads(Spec.dense(**DENSE).to_json())
    fields["init"] = "zero"

    with pytest.raises(InputError, match=r"^init must be one of"):
        Spec.from_json(json.dumps(fields))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["stem", "stages", "head", "gains", "blocks", "width"]), inner)
        ),
        max_leaves=12,
    )
)
def test_from_json_refuses_whatever_is_not_a_spec(value: object):
    with pytest.raises(InputError):
        Spec.from_json(json.dumps(value))


# -------------------------------------------------------------------------------------------------- errors.py


def test_choose_returns_what_is_known():
    assert choose("norm", "batch", ["none", "batch"]) == "batch"
    with pytest.raises(InputError, match=r"^norm must be one of 'none', 'batch'; got \['batch'\]\."):
        choose("norm", ["batch"], iter(["none", "batch"]))


def test_require_int_returns_an_int():
    assert type(require_int("width", np.int32(7), least=1)) is int


@pytest.mark.parametrize("value", [3, 3.0, np.float32(3), np.int8(3), np.float64(3)])
def test_require_number_returns_a_float(value: Any):
    assert type(require_number("gain", value)) is float
    assert require_number("gain", value) == 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.bool_(True), "gain must be a number; got np.True_."),
        ("1", "gain must be a number; got '1'."),
        (1j, "gain must be a number; got 1j."),
        (-np.inf, "gain must be a finite number; got -inf."),
        (10**400, f"gain must be a finite number; got 1{'0' * 76}...."),
    ],
)
def test_require_number_refuses(value: Any, message: str):
    with pytest.raises(InputError) as caught:
        require_number("gain", value)
    assert str(caught.value) == message


# ---------------------------------------------------------------------------------------------- specs as values


def options(**choices: Any) -> dict[str, st.SearchStrategy[Any]]:
    return {name: st.sampled_from(values) for name, values in choices.items()}


gains = st.floats(-3, 3).filter(bool) | st.sampled_from(["1/sqrt(L)", "1/L"])
stages = st.builds(
    Stage,
    blocks=st.integers(1, 4),
    width=st.integers(2, 5),
    layers=st.integers(1, 3),
    gains=st.builds(Gains, shortcut=gains, branch=gains | st.just("zero")),
    **options(
        shortcut=["identity", "none"],
        order=["before-add", "after-add", "pre-activation"],
        norm=["none", "batch", "layer"],
        activation=["relu", "tanh", "linear"],
    ),
)
stems = st.builds(
    Stem,
    features=st.integers(1, 5),
    width=st.integers(1, 5),
    **options(norm=["none", "batch", "layer"], activation=["relu", "tanh", "linear"]),
)
heads = st.builds(Head, features=st.integers(1, 5), **options(activation=["relu", "tanh", "linear"]))


@st.composite
def accepted(draw: st.DrawFn, /, **fields: Any) -> Any:
    """A spec, or a part of one, that is accepted; hypothesis throws the others away."""
    parts = {
        "stem": stems,
        "stages": st.lists(stages, max_size=3).map(tuple),
        "head": heads,
        "bias": st.booleans(),
        **options(init=["he", "xavier", "lecun", "torch"], dtype=["float32", "float64"]),
    } | fields
    while True:
        try:
            return Spec(**{name: draw(part) for name, part in parts.items()})
        except InputError:
            pass


conv_stages = st.builds(
    lambda layers, kind, **fields: Stage(layers=layers if kind == "basic" else 3, kind=kind, **fields),
    blocks=st.integers(1, 3),
    width=st.integers(1, 6),
    layers=st.integers(1, 3),
    stride=st.integers(1, 2),
    gains=st.builds(Gains, shortcut=gains, branch=gains | st.just("zero")),
    **options(
        kind=["basic", "bottleneck", "bottleneck-v1.5"],
        shortcut=["none", "identity", "A", "A-both", "B", "C"],
        order=["before-add", "after-add", "pre-activation"],
        norm=["none", "batch"],
        activation=["relu", "tanh", "linear"],
    ),
)
of_images = accepted(
    stem=st.builds(
        Stem,
        features=st.integers(1, 3),
        width=st.integers(1, 6),
        size=st.integers(1, 33),
        **options(kind=["conv3", "conv7"], norm=["none", "batch"]),
    ),
    stages=st.lists(conv_stages, max_size=3).map(tuple),
    head=st.builds(Head, features=st.integers(1, 5), kind=st.just("pooled")),
    bias=st.just(False),
)


def test_a_network_is_told_by_the_width_that_its_maker_takes():
    assert Spec.cifar(20, width=5).width == 5
    assert Spec.imagenet(50, width=3, stride="v1.5").width == 3
    assert Spec.dense(width=7, blocks=2).width == 7


@given(of_images)
def test_images_of_every_block_have_the_shape_that_its_shortcut_adds(spec: Spec):
    width, size = spec.stem.width, spec.stem_size
    for block in spec.body:
        assert (block.n_in, block.size) == (width, size)
        assert block.layers[-1].n_out == block.width
        assert block.size_out == len(range(0, size, block.stride))  # of a shortcut that takes every stride-th position
        if block.shortcut == "identity":
            assert (block.width, block.size_out) == (width, size)
        if block.projection is not None:
            made = block.projection.n_in, block.projection.size, block.projection.n_out, block.projection.size_out
            assert made == (width, size, block.width, block.size_out)
        assert (block.projection is not None) == (block.shortcut == "projection")
        width, size = block.width, block.size_out
    assert (spec.body_width, spec.body_size) == (width, size)


@given(accepted() | of_images)
def test_json_round_trip(spec: Spec):
    text = spec.to_json()

    again = Spec.from_json(text)

    assert again == spec
    assert hash(again) == hash(spec)
    assert again.to_json() == text
    assert json.dumps(json.loads(text), sort_keys=True) == text


@given(
    accepted(
        stem=stems.filter(lambda stem: stem.width == 4),
        stages=st.lists(stages, min_size=1, max_size=2).map(
            lambda some: tuple(dataclasses.replace(each, width=4, shortcut="identity") for each in some)
        ),
    )
)
def test_a_twin_of_a_twin_is_the_spec(spec: Spec):
    if any(stage.gains.silent for stage in spec.stages):
        with pytest.raises(InputError, match="the twin of a network with branch_gain='zero' outputs 0"):
            spec.twin()
        return

    twin = spec.twin()

    assert all(stage.plain for stage in twin.stages)
    assert not any(stage.plain for stage in spec.stages)
    assert twin.twin() == spec
    assert (twin.parameters, twin.multiply_adds, twin.depth) == (spec.parameters, spec.multiply_adds, spec.depth)
    assert twin.layers == spec.layers


def test_the_json_of_a_dense_network_is_what_it_was_before_there_were_others():
    text = (
        '{"bias": false, "dtype": "float64", "head": {"activation": "linear", "features": 8, "kind": "dense"}, '
        '"init": "he", "stages": [{"activation": "relu", "blocks": 3, "gains": {"branch": 1.0, "shortcut": 1.0}, '
        '"kind": "dense", "layers": 2, "norm": "none", "order": "before-add", "shortcut": "identity", "stride": 1, '
        '"width": 8}], "stem": {"activation": "relu", "features": 8, "kind": "dense", "norm": "none", "width": 8}}'
    )

    assert Spec.dense(**DENSE).to_json() == text
    assert Spec.from_json(text) == Spec.dense(**DENSE)


def test_equal_values_of_other_types_give_equal_specs_and_json():
    plain = Spec.dense(width=4, blocks=2, features=3, outputs=2, shortcut_gain=0, branch_gain=1, layers=1)

    numpy = Spec.dense(
        width=np.int64(4),  # type: ignore[arg-type]
        blocks=np.int8(2),  # type: ignore[arg-type]
        features=np.uint16(3),  # type: ignore[arg-type]
        outputs=np.int32(2),  # type: ignore[arg-type]
        shortcut_gain=-0.0,
        branch_gain=np.float32(1),  # type: ignore[arg-type]
        layers=np.int64(1),  # type: ignore[arg-type]
    )

    assert numpy == plain
    assert hash(numpy) == hash(plain)
    assert numpy.to_json() == plain.to_json()


def test_stages_may_be_a_list():
    listed = Spec(stem=Stem(features=4, width=4), stages=[stage()], head=Head(features=4))  # type: ignore[arg-type]

    assert listed == network(stage())
    assert hash(listed) == hash(network(stage()))


def test_a_spec_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Spec.dense(**DENSE).bias = True  # type: ignore[misc]


# -------------------------------------------------------------------------------------------- what it contains


def test_gains_by_rule():
    gains = Gains(shortcut="1/L", branch="1/sqrt(L)")

    assert gains.values(16) == (1 / 16, 1 / 4)
    assert gains.values(0) == (1, 1)
    assert Gains(branch="zero").values(7) == Gains(branch="zero-gamma").values(7) == (1, 1)
    assert Gains(branch="zero-gamma").silent
    assert not Gains(branch="zero-gamma").learned


def test_l_counts_the_blocks_of_all_stages():
    rule = Gains(branch="1/L")
    spec = network(stage(blocks=3, gains=rule), stage(blocks=5, gains=rule))

    assert {block.branch_gain for block in spec.body} == {1 / 8}


def test_dense_defaults():
    spec = Spec.dense(width=8, blocks=3)

    assert spec == Spec(
        stem=Stem(features=8, width=8, activation="relu"),
        stages=(Stage(blocks=3, width=8, layers=2, shortcut="identity", order="before-add"),),
        head=Head(features=8, activation="linear"),
    )
    assert Spec.dense(width=8, blocks=3, features=5).head.features == 5
    assert Spec.dense(width=8, blocks=3, features=5, outputs=2).head.features == 2


def test_the_stem_hands_on_its_bare_sum_to_pre_activation_blocks_alone():
    pre = Spec.dense(width=8, blocks=1, order="pre-activation", norm="batch")
    post = Spec.dense(width=8, blocks=1, order="after-add", norm="batch")
    none = Spec.dense(width=8, blocks=0, order="pre-activation", norm="batch")

    assert (pre.stem.norm, pre.stem.activation) == ("none", "linear")
    assert (post.stem.norm, post.stem.activation) == ("batch", "relu")
    assert (none.stem.norm, none.stem.activation) == ("batch", "relu")
    assert (pre.pre_activation, post.pre_activation, none.pre_activation) == (True, False, False)


def test_layers_in_order_of_depth():
    spec = network(stage(blocks=2, layers=2), stage(width=6, layers=1, shortcut="none"))

    assert [layer.site for layer in spec.layers] == [
        "stem",
        "stage1.block1.layer1",
        "stage1.block1.layer2",
        "stage1.block2.layer1",
        "stage1.block2.layer2",
        "stage2.block1.layer1",
        "head",
    ]
    assert [(layer.fan_in, layer.fan_out) for layer in spec.layers] == [(4, 4)] * 5 + [(4, 6), (6, 4)]
    assert spec.depth == 7


def test_activations_by_order():
    def activations(order: Any) -> tuple[list[str], str]:
        block = Spec.dense(width=4, blocks=1, order=order).body[0]
        return [layer.activation for layer in block.layers], block.activation

    assert activations("before-add") == (["relu", "relu"], "linear")
    assert activations("after-add") == (["relu", "linear"], "relu")
    assert activations("pre-activation") == (["relu", "relu"], "linear")


@pytest.mark.parametrize(
    ("fields", "parameters", "multiply_adds"),
    [
        # the notebook's networks, 16 -> 36 -> 16: d plain layers; d blocks
        ({"width": 36, "features": 16, "blocks": 26, "layers": 1, "shortcut": "none"}, 34848, 34848),
        ({"width": 36, "features": 16, "blocks": 28}, 73728, 73728),
        ({"width": 4, "blocks": 2, "bias": True}, 6 * 16 + 6 * 4, 96),
        ({"width": 4, "blocks": 2, "branch_gain": "zero"}, 96 + 2, 96),
        # gamma and beta of stem and four layers; in pre-activation order of four layers and the last norm
        ({"width": 4, "blocks": 2, "norm": "batch"}, 96 + 5 * 8, 96),
        ({"width": 4, "blocks": 2, "norm": "layer", "order": "pre-activation"}, 96 + 5 * 8, 96),
        ({"width": 4, "blocks": 0, "features": 3, "outputs": 2}, 20, 20),
    ],
)
def test_parameters_and_multiply_adds(fields: dict[str, Any], parameters: int, multiply_adds: int):
    spec = Spec.dense(**fields)

    assert (spec.parameters, spec.multiply_adds) == (parameters, multiply_adds)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stage(blocks=1, width=4, gains=NUMBER), "gains must be a Gains, e.g. Gains(branch=0.5); got 2."),
        (lambda: Spec(stem=NOTHING, stages=(), head=Head(features=2)), "stem must be a Stem"),
        (lambda: Spec(stem=Stem(features=2, width=2), stages=(), head=NUMBER), "head must be a Head"),
        (lambda: Spec(stem=Stem(features=2, width=2), stages=(NUMBER,), head=Head(features=2)), "stages must be a"),
        (
            lambda: Spec(stem=Stem(features=2, width=2), stages=NUMBER, head=Head(features=2)),
            "stages must be a list of Stage",
        ),
        (lambda: Spec.from_json(NOTHING), "a spec is read from text, as to_json() writes it; got NoneType."),
        (
            lambda: Spec.dense(width=4, blocks=2, shortcut_gain=0, branch_gain="zero"),
            "shortcut_gain=0 with branch_gain='zero' leaves nothing",
        ),
        (
            lambda: Spec.dense(width=4, blocks=2, shortcut_gain=0.0, branch_gain=0),
            "leaves nothing: the block outputs 0",
        ),
        (
            lambda: Spec.dense(width=4, blocks=2, norm="batch", bias=True, order="pre-activation"),
            "bias=True in stage 1 has no effect",
        ),
    ],
)
def test_parts_that_make_no_sense_are_refused(make: Any, message: str):
    with pytest.raises(InputError) as caught:
        make()

    assert message in str(caught.value)


# ------------------------------------------------------------------------------------------------------- convolutions


def test_the_layers_of_a_convolutional_network():
    spec = images(stage(kind="basic"), stage(kind="basic", width=6, stride=2, shortcut="B", norm="batch"))

    told = [(each.site, each.kind, each.weight_shape, each.stride, each.size, each.size_out) for each in spec.layers]
    assert told == [
        ("stem", "conv", (4, 3, 3, 3), 1, 8, 8),
        ("stage1.block1.layer1", "conv", (4, 4, 3, 3), 1, 8, 8),
        ("stage1.block1.layer2", "conv", (4, 4, 3, 3), 1, 8, 8),
        ("stage2.block1.layer1", "conv", (6, 4, 3, 3), 2, 8, 4),
        ("stage2.block1.layer2", "conv", (6, 6, 3, 3), 1, 4, 4),
        ("head", "affine", (5, 6), 1, 1, 1),
    ]
    (projection,) = spec.projections
    assert (projection.site, projection.weight_shape, projection.norm) == (
        "stage2.block1.shortcut",
        (6, 4, 1, 1),
        "batch",
    )
    assert (projection.stride, projection.padding, projection.size, projection.size_out) == (2, 0, 8, 4)
    assert [each.padding for each in spec.layers] == [1, 1, 1, 1, 1, 0]
    assert [each.bias for each in spec.layers] == [False] * 5 + [True]
    assert (spec.input_shape, spec.depth, spec.stem_size, spec.body_size) == ((3, 8, 8), 6, 8, 4)
    # weights, the norms of stage 2 and its projection, and the head's bias
    assert spec.parameters == 9 * (12 + 16 + 16 + 24 + 36) + 24 + 30 + 2 * 18 + 5
    assert spec.multiply_adds == 64 * 9 * (12 + 16 + 16) + 16 * 9 * (24 + 36) + 16 * 24 + 30


@pytest.mark.parametrize(("kind", "strides"), [("bottleneck", [2, 1, 1]), ("bottleneck-v1.5", [1, 2, 1])])
def test_where_a_bottleneck_has_its_stride(kind: Any, strides: list[int]):
    spec = images(stage(kind=kind, blocks=2, width=3, layers=3, stride=2, shortcut="B"))
    first, second = spec.body

    assert [layer.stride for layer in first.layers] == strides
    assert [layer.stride for layer in second.layers] == [1, 1, 1]
    assert [layer.weight_shape for layer in first.layers] == [(3, 4, 1, 1), (3, 3, 3, 3), (12, 3, 1, 1)]
    assert [layer.size_out for layer in first.layers] == [8 // strides[0], 4, 4]
    assert (first.width, second.n_in, first.stride, second.stride) == (12, 12, 2, 1)


@pytest.mark.parametrize(
    ("shortcut", "joins"),
    [
        ("none", ["none", "none", "none", "none"]),
        ("A", ["identity", "identity", "pad", "identity"]),
        ("A-both", ["identity", "identity", "pad-both", "identity"]),
        ("B", ["identity", "identity", "projection", "identity"]),
        ("C", ["projection", "projection", "projection", "projection"]),
    ],
)
def test_how_a_block_is_passed_by(shortcut: Any, joins: list[str]):
    fields: dict[str, Any] = {"kind": "basic", "blocks": 2, "shortcut": shortcut}
    spec = images(stage(**fields), stage(**fields, width=8, stride=2))

    assert [block.shortcut for block in spec.body] == joins
    assert [block.plain for block in spec.body] == [shortcut == "none"] * 4


def test_a_stride_alone_changes_the_shape():
    (block,) = images(stage(kind="basic", stride=2, shortcut="A")).body

    assert (block.shortcut, block.n_in, block.width, block.size, block.size_out) == ("pad", 4, 4, 8, 4)


def test_a_projection_is_bare_in_pre_activation_order():
    def around(order: Any) -> tuple[str, str]:
        (projection,) = images(stage(kind="basic", shortcut="C", norm="batch", order=order)).projections
        return projection.norm, projection.activation

    assert around("after-add") == around("before-add") == ("batch", "linear")
    assert around("pre-activation") == ("none", "linear")


def test_zero_gamma_is_the_gamma_of_the_last_norm_of_every_branch():
    zero = images(stage(kind="basic", shortcut="C", norm="batch", order="after-add", gains=Gains(branch="zero-gamma")))

    assert {layer.site: layer.gamma for layer in (*zero.layers, *zero.projections)} == {
        "stem": 1.0,
        "stage1.block1.layer1": 1.0,
        "stage1.block1.layer2": 0.0,
        "stage1.block1.shortcut": 1.0,
        "head": 1.0,
    }
    assert zero.parameters == images(stage(kind="basic", shortcut="C", norm="batch", order="after-add")).parameters
    with pytest.raises(InputError, match="the twin of a network with branch_gain='zero-gamma' outputs 0"):
        zero.twin()


@given(st.integers(1, 300), st.sampled_from([1, 3, 7]), st.sampled_from([1, 2]))
def test_the_size_after_a_convolution_is_its_number_of_windows(size: int, kernel: int, stride: int):
    layer = Layer("conv", 1, 1, "none", "linear", kind="conv", kernel=kernel, stride=stride, size=size)

    padded = size + 2 * (kernel // 2)
    assert layer.size_out == sum(start + kernel <= padded for start in range(0, padded, stride))


def test_a_convolutional_twin_adds_option_a():
    spec = images(stage(kind="basic", shortcut="none"), stage(kind="basic", shortcut="none", width=8, stride=2))

    assert [stage.shortcut for stage in spec.twin().stages] == ["A", "A"]
    assert spec.twin().twin() == spec
    assert spec.twin().parameters == spec.parameters
