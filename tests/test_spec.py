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
from skipscope.spec import Gains, Head, Stage, Stem

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
            "branch_gain must be one of '1/sqrt(L)', '1/L', 'zero'; got '1/l'. Did you mean '1/L'?",
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


def network(*stages: Stage, width: int = 4, **fields: Any) -> Spec:
    return Spec(stem=Stem(features=4, width=width), stages=stages, head=Head(features=4), **fields)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stage(stride=2), "stride must be 1 in a dense stage, which has no positions to skip; got 2."),
        (lambda: stage(stride=1.0), "stride must be a whole number of at least 1; got 1.0."),
        (lambda: stage(blocks=0), "blocks must be at least 1; got 0."),
        (lambda: stage(kind="conv"), "stage kind must be one of 'dense'; got 'conv'."),
        (lambda: Stem(features=4, width=4, kind="conv"), "stem kind must be one of 'dense'; got 'conv'."),  # type: ignore[arg-type]
        (lambda: Stem(features=4, width=4, norm="x"), "stem norm must be one of 'none', 'batch', 'layer'; got 'x'."),  # type: ignore[arg-type]
        (
            lambda: Stem(features=4, width=4, activation="relu6"),  # type: ignore[arg-type]
            "stem activation must be one of 'relu', 'tanh', 'linear'; got 'relu6'. Did you mean 'relu'?",
        ),
        (lambda: Head(features=4, kind="conv"), "head kind must be one of 'dense'; got 'conv'."),  # type: ignore[arg-type]
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


@given(accepted())
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
    assert Gains(branch="zero").values(7) == (1, 1)


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
