"""The paper's networks: parameters, multiply-adds and shapes, and what departs from the paper is explicit.

Parameters were counted in public checkpoints (CIFAR 20 to 56; torchvision's ImageNet networks), and the multiply-adds
are the paper's "FLOPs" (its Table 1) to the digits that it prints.
"""

from __future__ import annotations

from typing import Any

import pytest

from skipscope import InputError, Spec, theory
from skipscope.designs import NETWORKS, spec_named
from skipscope.spec import CIFAR_DEPTHS, IMAGENET_BLOCKS, Gains

CIFAR = [  # depth, parameters with option A and B, millions of multiply-adds with option A
    (20, 269_722, 272_474, 40.55),
    (32, 464_154, 466_906, 68.86),
    (44, 658_586, 661_338, 97.17),
    (56, 853_018, 855_770, 125.49),
    (110, 1_727_962, 1_730_714, 252.89),
    (1202, 19_421_274, 19_424_026, 2829.24),
]
IMAGENET = [  # depth, parameters with option B, thousand millions of multiply-adds of v1 and v1.5; the paper's
    (18, 11_689_512, 1.814, 1.814, 1.8),
    (34, 21_797_672, 3.664, 3.664, 3.6),
    (50, 25_557_032, 3.858, 4.089, 3.8),
    (101, 44_549_160, 7.570, 7.801, 7.6),
    (152, 60_192_808, 11.282, 11.514, 11.3),
]
BASIC = [(18, 11_515_688, 1.795), (34, 21_623_848, 3.644)]  # option A, and plain


# ------------------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize(("depth", "with_a", "with_b", "millions"), CIFAR)
def test_counts_of_cifar(depth: int, with_a: int, with_b: int, millions: float):
    residual, plain = Spec.cifar(depth), Spec.cifar(depth, shortcut="none")

    assert residual.depth == plain.depth == Spec.cifar(depth, shortcut="B").depth == depth
    assert residual.parameters == plain.parameters == Spec.cifar(depth, shortcut="A-both").parameters == with_a
    assert Spec.cifar(depth, shortcut="B").parameters == with_b
    assert round(residual.multiply_adds / 1e6, 2) == round(plain.multiply_adds / 1e6, 2) == millions


def test_depths_of_cifar_are_those_of_the_table():
    assert tuple(depth for depth, *_ in CIFAR) == CIFAR_DEPTHS


@pytest.mark.parametrize(("depth", "parameters", "v1", "v15", "papers"), IMAGENET)
def test_counts_of_imagenet(depth: int, parameters: int, v1: float, v15: float, papers: float):
    papers_own, torchvisions = (Spec.imagenet(depth, shortcut="B", stride=stride) for stride in ("v1", "v1.5"))

    assert papers_own.depth == torchvisions.depth == depth
    assert papers_own.parameters == torchvisions.parameters == parameters
    assert round(papers_own.multiply_adds / 1e9, 3) == v1
    assert round(torchvisions.multiply_adds / 1e9, 3) == v15
    # The paper prints one digit, in part rounded and in part cut off; the other place of the stride is 0.2 away.
    assert papers_own.multiply_adds / 1e9 == pytest.approx(papers, abs=0.065)
    assert depth < 50 or torchvisions.multiply_adds / 1e9 > papers + 0.2


@pytest.mark.parametrize(("depth", "parameters", "multiply_adds"), BASIC)
def test_counts_of_plain_and_option_a_at_18_and_34(depth: int, parameters: int, multiply_adds: float):
    for spec in (Spec.imagenet(depth), Spec.imagenet(depth, shortcut="none")):
        assert spec.parameters == parameters
        assert round(spec.multiply_adds / 1e9, 3) == multiply_adds


def test_counts_of_option_c():
    spec = Spec.imagenet(34, shortcut="C")

    assert spec.parameters == 22_716_840
    assert (len(spec.projections), len(Spec.imagenet(34, shortcut="B").projections)) == (16, 3)  # "thirteen" more
    assert spec.depth == 34


# ---------------------------------------------------------------------------------------------------- what they are


def test_cifar_by_default_is_the_papers():
    spec = Spec.cifar(20)

    assert (spec.input_shape, spec.head.features, spec.init, spec.dtype) == ((3, 32, 32), 10, "he", "float32")
    told = [(each.blocks, each.width, each.stride, each.kind, each.layers) for each in spec.stages]
    assert told == [(3, 16, 1, "basic", 2), (3, 32, 2, "basic", 2), (3, 64, 2, "basic", 2)]
    assert {(each.shortcut, each.order, each.norm, each.activation) for each in spec.stages} == {
        ("A", "after-add", "batch", "relu")
    }
    assert {each.gains for each in spec.stages} == {Gains()}
    assert (spec.stem.kind, spec.stem.norm, spec.stem.activation, spec.stem_size) == ("conv3", "batch", "relu", 32)
    assert [block.size_out for block in spec.body] == [32] * 3 + [16] * 3 + [8] * 3
    assert (spec.head.kind, spec.head.activation, spec.head_layer.weight_shape) == ("pooled", "linear", (10, 64))


def test_imagenet_by_default_is_the_papers():
    specs = {depth: Spec.imagenet(depth) for depth in IMAGENET_BLOCKS}

    assert {depth: spec.stages[0].shortcut for depth, spec in specs.items()} == {
        18: "A", 34: "A", 50: "B", 101: "B", 152: "B",
    }  # fmt: skip
    assert {depth: spec.stages[0].kind for depth, spec in specs.items()} == {
        18: "basic", 34: "basic", 50: "bottleneck", 101: "bottleneck", 152: "bottleneck",
    }  # fmt: skip
    spec = specs[50]
    assert (spec.input_shape, spec.head.features) == ((3, 224, 224), 1000)
    assert [(each.width, each.outputs, each.stride) for each in spec.stages] == [
        (64, 256, 1),
        (128, 512, 2),
        (256, 1024, 2),
        (512, 2048, 2),
    ]
    assert (spec.stem_layer.weight_shape, spec.stem_layer.stride, spec.stem_layer.size_out) == ((64, 3, 7, 7), 2, 112)
    assert (spec.stem_size, spec.body_size, spec.body_width) == (56, 7, 2048)
    assert [block.size_out for block in spec.body] == [56] * 3 + [28] * 4 + [14] * 6 + [7] * 3


@pytest.mark.parametrize("name", NETWORKS)
def test_the_twin_is_the_plain_network(name: str):
    spec = spec_named(name)
    if spec.stages[0].plain:
        return
    make = Spec.cifar if name.startswith("cifar") else Spec.imagenet

    twin = spec.twin()

    assert twin == make(spec.depth, shortcut="none")
    lost = sum(layer.parameters for layer in spec.projections)  # the parameters of options B and C
    assert twin.parameters == spec.parameters - lost
    assert (lost == 0) == (spec.stages[0].shortcut == "A")
    assert twin.layers == spec.layers
    if spec.stages[0].shortcut == "A":
        assert twin.twin() == spec


def test_every_choice_reaches_the_network():
    chosen: dict[str, Any] = {
        "order": "pre-activation", "norm": "none", "size": 17, "channels": 1, "width": 8, "classes": 4,
        "shortcut_gain": 0.5, "branch_gain": "1/L", "init": "lecun", "dtype": "float64",
    }  # fmt: skip
    for spec, widths in (
        (Spec.cifar(20, shortcut="B", **chosen), (8, 16, 32)),
        (Spec.imagenet(50, shortcut="C", **chosen), (8, 16, 32, 64)),
    ):
        assert (spec.input_shape, spec.head.features) == ((1, 17, 17), 4)
        assert (spec.init, spec.dtype) == ("lecun", "float64")
        # In pre-activation order the stem hands on its bare sum.
        assert (spec.stem.width, spec.stem.norm, spec.stem.activation) == (8, "none", "linear")
        assert tuple(stage.width for stage in spec.stages) == widths
        assert {(stage.order, stage.norm) for stage in spec.stages} == {("pre-activation", "none")}
        assert {stage.gains for stage in spec.stages} == {Gains(shortcut=0.5, branch="1/L")}
    assert Spec.imagenet(50, shortcut="C").stages[0].shortcut == "C"
    assert Spec.imagenet(50, stride="v1.5").stages[0].kind == "bottleneck-v1.5"


def test_of_basic_blocks_both_places_of_the_stride_are_the_same():
    assert Spec.imagenet(34, stride="v1.5") == Spec.imagenet(34)


def test_pre_activation_has_the_parameters_of_its_last_norm_in_place_of_the_stems():
    before, after = Spec.cifar(20, order="pre-activation"), Spec.cifar(20)

    # The first norm of every block is over what comes in: that of two blocks is over half of what it was. The stem has
    # none (16), and there is one over 64 before the head.
    assert before.parameters - after.parameters == 2 * (-16 - 16 - 32 + 64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Spec.cifar(21), "depth must be 6n + 2, as 20, 32, 44, 56, 110; got 21. Use 20 or 26."),
        (lambda: Spec.cifar(2), "depth must be 6n + 2, as 20, 32, 44, 56, 110; got 2. Use 8."),
        (lambda: Spec.cifar(8 - 1), "depth must be 6n + 2, as 20, 32, 44, 56, 110; got 7. Use 8."),
        (lambda: Spec.cifar(0), "depth must be at least 1; got 0."),
        (lambda: Spec.cifar(20.0), "depth must be a whole number of at least 1; got 20.0."),  # type: ignore[arg-type]
        (
            lambda: Spec.cifar(20, shortcut="identity"),
            "shortcut must be one of 'none', 'A', 'A-both', 'B', 'C'; got 'identity'.",
        ),
        (lambda: Spec.cifar(20, width=0), "width must be at least 1; got 0."),
        (lambda: Spec.cifar(20, size=0), "size must be at least 1; got 0."),
        (lambda: Spec.cifar(20, channels=0), "channels must be at least 1; got 0."),
        (lambda: Spec.cifar(20, classes=0), "classes must be at least 1; got 0."),
        (lambda: Spec.imagenet(20), "depth must be one of 18, 34, 50, 101, 152; got 20."),
        (lambda: Spec.imagenet(50, stride="v2"), "stride must be one of 'v1', 'v1.5'; got 'v2'."),  # type: ignore[arg-type]
    ],
)
def test_refusals(make, message: str):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize("spec", [Spec.cifar(20), Spec.cifar(20, shortcut="none", norm="none"), Spec.imagenet(50)])
def test_laws_of_dense_networks_say_nothing_of_convolutions(spec: Spec):
    of_dense = [each for each in theory.laws(spec) if "convolutions" not in each.law]
    assert len(of_dense) == len(theory.laws(spec)) - 2  # forward and backward
    assert {each.refusals for each in of_dense} == {("The network is convolutional: the law is about dense layers.",)}
    assert not any(each.holds for each in of_dense)


# ------------------------------------------------------------------------------------------------------------ by name


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("cifar-20", Spec.cifar(20)),
        ("cifar-164", Spec.cifar(164)),
        ("cifar-56-plain", Spec.cifar(56, shortcut="none")),
        ("cifar-20-A-both", Spec.cifar(20, shortcut="A-both")),
        ("imagenet-18", Spec.imagenet(18)),
        ("imagenet-34-C", Spec.imagenet(34, shortcut="C")),
        ("imagenet-50-v1.5", Spec.imagenet(50, stride="v1.5")),
        ("imagenet-101-plain-v1.5", Spec.imagenet(101, shortcut="none", stride="v1.5")),
    ],
)
def test_names(name: str, spec: Spec):
    assert spec_named(name) == spec


def test_every_listed_network_has_a_name_of_its_own():
    specs = [spec_named(name) for name in NETWORKS]

    assert len(set(specs)) == len(NETWORKS)
    assert {spec.depth for spec in specs} == {*CIFAR_DEPTHS, *IMAGENET_BLOCKS}


def test_fields_go_to_the_network():
    assert spec_named("cifar-20", width=4, size=8) == Spec.cifar(20, width=4, size=8)
    assert spec_named("imagenet-50", shortcut="C") == Spec.imagenet(50, shortcut="C")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "cifar20"}, "imagenet-50-v1.5; got 'cifar20'. Did you mean 'cifar-20'?"),
        ({"name": "imagenet-34-D"}, "got 'imagenet-34-D'. Did you mean 'imagenet-34-C'?"),
        ({"name": "cifar-20-v1.5"}, "got 'cifar-20-v1.5'."),
        ({"name": "resnet"}, "spec must be the name of a network, as cifar-20, cifar-56-plain, imagenet-34-B or"),
        ({"name": 20}, "spec must be a str: the name of a network, as cifar-20; got int."),
        ({"name": "cifar-20", "widht": 4}, "Did you mean 'width'?"),
        ({"name": "cifar-20", "depth": 32}, "depth=32 cannot be chosen, as the name 'cifar-20' says it"),
        ({"name": "cifar-20-B", "shortcut": "A"}, "shortcut='A' cannot be chosen, as the name 'cifar-20-B' says it"),
        ({"name": "imagenet-50-v1.5", "stride": "v1"}, "stride='v1' cannot be chosen"),
    ],
)
def test_what_names_no_network_is_refused(arguments: dict[str, Any], words: str):
    with pytest.raises(InputError) as caught:
        spec_named(**arguments)

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
