"""Blocks in another order, or left out: the same bits as a network that is built so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from skipscope.engines.numpy_engine import NumpyNetwork, build
from skipscope.errors import InputError
from skipscope.losses import MeanSquaredError
from skipscope.spec import Head, Spec, Stage, Stem

SEEDS = (3, 11)
PLAIN: dict[str, Any] = {"shortcut": "none"}
KINDS: list[dict[str, Any]] = [
    {},
    PLAIN,
    {"order": "after-add", "norm": "batch"},
    {**PLAIN, "order": "after-add", "norm": "batch"},
    {"order": "pre-activation", "norm": "batch"},
    {"order": "pre-activation", "norm": "layer"},
    {**PLAIN, "layers": 1, "bias": True, "init": "torch"},
]


def sites(*numbers: int) -> list[str]:
    return [f"stage1.block{number}" for number in numbers]


def made(blocks: int = 4, **fields: Any) -> NumpyNetwork:
    """A network whose running averages are no longer 0 and 1."""
    network = build(Spec.dense(width=6, blocks=blocks, features=5, outputs=3, **fields), seed=SEEDS)
    for place, array in enumerate(network.running.values()):
        array += 0.1 * np.random.default_rng(place).random(array.shape)
    return network


def rebuilt(network: NumpyNetwork, order: Sequence[str]) -> NumpyNetwork:
    """The network whose first block has the weights of the first in `order`, and so on."""
    spec = network.spec
    shallow = replace(spec, stages=(replace(spec.stages[0], blocks=len(order)),))
    of = dict(zip((block.site for block in shallow.body), order, strict=True))

    def source(name: str) -> str:
        site = ".".join(name.split(".")[:2])
        return name.replace(site, of[site], 1) if site in of else name

    fresh = build(shallow, seed=SEEDS)
    parameters = {name: network.parameters[source(name)].copy() for name in fresh.parameters}
    again = NumpyNetwork(shallow, SEEDS, parameters)
    for name, array in again.running.items():
        array[...] = network.running[source(name)]
    return again


def batch() -> tuple[Any, Any]:
    rng = np.random.default_rng(5)
    return rng.standard_normal((7, 5)), rng.standard_normal((7, 3))


@pytest.mark.parametrize("fields", KINDS, ids=str)
@pytest.mark.parametrize("order", [sites(1, 3, 4), sites(2), sites(4, 2, 3, 1), sites(3, 1)], ids=len)
def test_is_the_network_of_those_blocks_bit_for_bit(fields: dict[str, Any], order: list[str]):
    network = made(**fields)
    expected = rebuilt(network, order)
    x, y = batch()

    with network.rearranged(order):
        run = network.run((x, y), MeanSquaredError())
        with network.inference():
            inferred = network.run(x).output
    again = expected.run((x, y), MeanSquaredError())

    assert np.array_equal(run.output, again.output)
    assert run.loss is not None
    assert again.loss is not None
    assert np.array_equal(run.loss, again.loss)
    with expected.inference():
        assert np.array_equal(inferred, expected.run(x).output)


@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_all_blocks_as_they_are_change_nothing_and_neither_does_having_been_rearranged(fields: dict[str, Any]):
    network = made(**fields)
    x, _ = batch()
    before = network.run(x).output
    with network.rearranged(sites(1, 2, 3, 4)):
        assert network.edit == ""
        assert np.array_equal(network.run(x).output, before)
    with network.rearranged(sites(4, 1)):
        assert not np.array_equal(network.run(x).output, before)
    assert np.array_equal(network.run(x).output, before)
    assert network.edit == ""


@pytest.mark.parametrize("fields", [each for each in KINDS if "shortcut" not in each], ids=str)
def test_a_residual_block_left_out_is_one_without_its_branch(fields: dict[str, Any]):
    network = made(**fields)
    x, _ = batch()
    with network.rearranged(sites(1, 3, 4)), network.inference():
        left_out = network.run(x).output
    with network.gains(branch=0, at="stage1.block2"), network.inference():
        assert np.array_equal(network.run(x).output, left_out)


def test_inference_reaches_every_block_whichever_context_is_outside():
    network = made(order="pre-activation", norm="batch")
    x, _ = batch()
    with network.inference():
        intact = network.run(x).output
        with network.rearranged(sites(2, 1, 4)):
            inside = network.run(x).output
        assert np.array_equal(network.run(x).output, intact)
    with network.rearranged(sites(2, 1, 4)), network.inference():
        assert np.array_equal(network.run(x).output, inside)
    batchwise = network.run(x).output
    assert not np.array_equal(batchwise, intact)
    assert np.array_equal(batchwise, rebuilt(network, sites(1, 2, 3, 4)).run(x).output)


def test_of_two_contexts_the_inner_holds():
    network = made()
    x, _ = batch()
    with network.rearranged(sites(1, 2)):
        outer = network.run(x).output
        with network.rearranged(sites(4)):
            assert np.array_equal(network.run(x).output, rebuilt(network, sites(4)).run(x).output)
        assert np.array_equal(network.run(x).output, outer)


def test_it_ends_when_something_is_raised():
    network = made()
    x, _ = batch()
    before = network.run(x).output
    with pytest.raises(InputError, match="batch is empty"), network.rearranged([]):
        network.run(x[:0])
    assert network.edit == ""
    assert np.array_equal(network.run(x).output, before)


def test_edit_says_what_was_done():
    network = made()
    with network.rearranged(sites(3, 1)):
        assert network.edit == "left out: stage1.block2, stage1.block4; order: stage1.block3, stage1.block1"
    with network.rearranged(sites(1, 3, 4)), network.gains(branch=0.5, at="stage1.block3"):
        assert network.edit == "stage1.block3: shortcut x 1, branch x 0.5; left out: stage1.block2"


def test_what_makes_no_sense_is_refused_in_one_line():
    network = made()
    for order, words in [
        (["stage1.block9"], "stage1.block9"),
        (sites(1, 2, 1), "order: 'stage1.block1' comes twice"),
    ]:
        with pytest.raises(InputError, match=words), network.rearranged(order):
            pass


def test_a_block_that_changes_the_width_cannot_be_left_out():
    stages = tuple(Stage(blocks=2, width=width, shortcut="none") for width in (4, 8))
    network = build(Spec(stem=Stem(features=5, width=4), stages=stages, head=Head(features=3)), seed=0)
    x, _ = batch()
    with network.rearranged(["stage1.block2", "stage2.block1"]):
        assert network.run(x).output.shape == (1, 7, 3)
    with (
        pytest.raises(InputError, match=r"order: 'stage2.block2' takes 8 features, and 4 would come in"),
        network.rearranged(["stage1.block1", "stage2.block2"]),
    ):
        pass
    with pytest.raises(InputError, match="order: 'head' takes 8 features"), network.rearranged(["stage1.block1"]):
        pass
