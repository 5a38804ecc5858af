"""The designs: how many layers and parameters each has at a depth, and which of them share a draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skipscope import InputError, Spec, build, design
from skipscope.designs import DESIGNS

UNKNOWN: Any = "resnet"


@pytest.mark.parametrize(("name", "layers"), [("plain", "d"), ("residual", "2d+2"), ("twin", "2d+2"), ("matched", "d")])
@pytest.mark.parametrize("depth", [4, 10, 28])
def test_layers_and_parameters_are_as_the_design_says(name: str, layers: str, depth: int):
    spec = design(name, depth=depth, width=36, features=16)

    count = depth if layers == "d" else 2 * depth + 2
    assert spec.depth == count
    assert spec.parameters == 16 * 36 + (count - 2) * 36 * 36 + 36 * 16
    assert sum(weight[0].size for weight in build(spec, seed=0).parameters.values()) == spec.parameters


def test_the_names_are_those_of_the_charts():
    assert list(DESIGNS) == ["plain", "residual", "twin", "matched"]
    assert all(each.about for each in DESIGNS.values())


def test_which_have_shortcuts():
    plain = {name: design(name, depth=6, width=8).body[0].plain for name in DESIGNS}

    assert plain == {"plain": True, "residual": False, "twin": True, "matched": False}


def test_the_twin_is_the_residual_network_without_shortcuts():
    assert design("twin", depth=6, width=8) == design("residual", depth=6, width=8).twin()


def test_matched_networks_have_the_parameters_of_plain_ones():
    plain, matched = (design(name, depth=12, width=8, bias=True) for name in ("plain", "matched"))

    assert plain.depth == matched.depth
    assert plain.parameters == matched.parameters
    assert plain.multiply_adds == matched.multiply_adds


@pytest.mark.parametrize(("name", "least"), [("plain", 2), ("residual", 1), ("twin", 1), ("matched", 4)])
def test_the_shallowest_of_each(name: str, least: int):
    assert design(name, depth=least, width=8).depth >= 2
    with pytest.raises(InputError, match=f"depth must be at least {least}; got {least - 1}"):
        design(name, depth=least - 1, width=8)


def test_designs_share_their_draw():
    weights = {name: build(design(name, depth=6, width=8), seed=3).parameters for name in DESIGNS}

    for name, drawn in weights.items():
        assert np.array_equal(drawn["stem.weight"], weights["plain"]["stem.weight"]), name
        assert np.array_equal(drawn["head.weight"], weights["plain"]["head.weight"]), name
    assert weights["twin"].keys() == weights["residual"].keys()
    assert all(np.array_equal(weight, weights["residual"][name]) for name, weight in weights["twin"].items())
    first = weights["plain"]["stage1.block1.layer1.weight"], weights["plain"]["stage1.block2.layer1.weight"]
    for name in ("residual", "matched"):
        block = (weights[name][f"stage1.block1.layer{index}.weight"] for index in (1, 2))
        assert all(np.array_equal(a, b) for a, b in zip(block, first, strict=True)), name


def test_fields_go_to_the_spec():
    spec = design("residual", depth=3, width=8, features=5, outputs=2, order="after-add", norm="layer", dtype="float32")

    assert spec == Spec.dense(
        width=8, blocks=3, features=5, outputs=2, order="after-add", norm="layer", dtype="float32"
    )


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        (UNKNOWN, {}, "design must be one of 'plain', 'residual', 'twin', 'matched'; got 'resnet'"),
        ("residul", {}, "Did you mean 'residual'?"),
        ("matched", {"depth": 7}, "depth must be even for the matched design"),
        ("plain", {"depth": 2.0}, "depth must be a whole number"),
        ("plain", {"width": 0}, "width must be at least 1; got 0"),
        ("plain", {"blocks": 3}, "blocks=3 cannot be chosen, as the design 'plain' says it"),
        ("residual", {"layers": 3}, "layers=3 cannot be chosen"),
        ("residual", {"shortcut": "none"}, "shortcut='none' cannot be chosen"),
        ("residual", {"ordr": "after-add"}, "Did you mean 'order'?"),
        ("residual", {"order": "after"}, "order must be one of"),
        ("twin", {"branch_gain": 0}, "needs a shortcut"),
    ],
)
def test_what_makes_no_network_is_refused(name: str, arguments: dict[str, Any], words: str):
    with pytest.raises(InputError) as caught:
        design(name, **{"depth": 6, "width": 8, **arguments})

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
