"""The protocol: the sites of a network, in order, and that the NumPy engine speaks it."""

from __future__ import annotations

from typing import Any

import pytest

from skipscope import Spec, build
from skipscope.protocol import Network, Site, ignore, sites_of
from skipscope.spec import Head, Stage, Stem
from skipscope.testing import specs


def test_sites_of_a_residual_network():
    assert sites_of(Spec.dense(width=8, blocks=2, features=3)) == (
        Site("input", 0, 0, "input", "input of 3 features"),
        Site("stem", 1, 1, "layer", "affine 3 to 8, relu", "relu", ends="entry", outer="first"),
        Site("stage1.block1.layer1", 2, 2, "layer", "affine 8 to 8, relu", "relu"),
        Site("stage1.block1.layer2", 3, 3, "layer", "affine 8 to 8, relu", "relu"),
        Site("stage1.block1", 4, 3, "junction", "identity shortcut + branch", block=1),
        Site("stage1.block2.layer1", 5, 4, "layer", "affine 8 to 8, relu", "relu"),
        Site("stage1.block2.layer2", 6, 5, "layer", "affine 8 to 8, relu", "relu"),
        Site("stage1.block2", 7, 5, "junction", "identity shortcut + branch", block=2, ends="exit"),
        Site("head", 8, 6, "layer", "affine 8 to 3", outer="last"),
        Site("network", 9, 6, "network", "the network as a whole"),
    )


def test_sites_of_a_plain_network():
    spec = Spec.dense(width=8, blocks=1, layers=1, shortcut="none", order="after-add", norm="batch", output="relu")

    assert sites_of(spec)[1:] == (
        Site("stem", 1, 1, "layer", "affine 8 to 8, batch norm, relu", "relu", ends="entry", outer="first"),
        Site("stage1.block1.layer1", 2, 2, "layer", "affine 8 to 8, batch norm"),
        Site("stage1.block1", 3, 2, "block", "plain block", "relu", block=1, ends="exit"),
        Site("head", 4, 3, "layer", "affine 8 to 8, relu", "relu", outer="last"),
        Site("network", 5, 3, "network", "the network as a whole"),
    )


@pytest.mark.parametrize(
    ("norm", "layer", "final"),
    [
        ("none", "tanh, affine 8 to 8", "last activation"),
        ("layer", "layer norm, tanh, affine 8 to 8", "last layer norm and activation"),
    ],
)
def test_sites_of_a_pre_activation_network(norm: Any, layer: str, final: str):
    spec = Spec.dense(width=8, blocks=1, layers=1, order="pre-activation", norm=norm, activation="tanh")

    assert sites_of(spec)[1:] == (
        Site("stem", 1, 1, "layer", "affine 8 to 8", ends="entry", outer="first"),
        Site("stage1.block1.layer1", 2, 2, "layer", layer, "tanh"),
        Site("stage1.block1", 3, 2, "junction", "identity shortcut + branch", block=1, ends="exit"),
        Site("final", 4, 2, "layer", final, "tanh"),
        Site("head", 5, 3, "layer", "affine 8 to 8", outer="last"),
        Site("network", 6, 3, "network", "the network as a whole"),
    )


def test_sites_without_blocks():
    sites = sites_of(Spec.dense(width=8, blocks=0))

    assert [site.site for site in sites] == ["input", "stem", "head", "network"]
    assert not any(site.ends or site.block for site in sites)


def test_blocks_are_numbered_through_all_stages():
    stages = (Stage(blocks=2, width=4, layers=1), Stage(blocks=1, width=6, layers=1, shortcut="none"))
    sites = sites_of(Spec(stem=Stem(features=4, width=4), stages=stages, head=Head(features=4)))

    blocks = {site.site: (site.kind, site.block, site.ends) for site in sites if site.block}
    assert blocks == {
        "stage1.block1": ("junction", 1, ""),
        "stage1.block2": ("junction", 2, ""),
        "stage2.block1": ("block", 3, "exit"),
    }


def test_sites_of_a_convolutional_network():
    stages = (
        Stage(blocks=1, width=4, kind="basic", layers=1, shortcut="A", order="after-add"),
        Stage(blocks=1, width=2, kind="bottleneck", layers=3, stride=2, shortcut="B", order="after-add", norm="batch"),
    )
    stem = Stem(kind="conv7", features=3, width=4, size=32, norm="batch")

    assert sites_of(Spec(stem=stem, stages=stages, head=Head(features=5, kind="pooled"))) == (
        Site("input", 0, 0, "input", "images of 3 channels, 32x32"),
        Site("stem", 1, 1, "layer", "conv 7x7, 3 to 4, stride 2, batch norm, relu", "relu", outer="first"),
        Site("stem.pool", 2, 1, "module", "max pooling 3x3, stride 2", ends="entry"),
        Site("stage1.block1.layer1", 3, 2, "layer", "conv 3x3, 4 to 4"),
        Site("stage1.block1", 4, 2, "junction", "identity shortcut + branch", "relu", block=1),
        Site("stage2.block1.layer1", 5, 3, "layer", "conv 1x1, 4 to 2, stride 2, batch norm, relu", "relu"),
        Site("stage2.block1.layer2", 6, 4, "layer", "conv 3x3, 2 to 2, batch norm, relu", "relu"),
        Site("stage2.block1.layer3", 7, 5, "layer", "conv 1x1, 2 to 8, batch norm"),
        Site("stage2.block1.shortcut", 8, 5, "layer", "conv 1x1, 4 to 8, stride 2, batch norm"),
        Site("stage2.block1", 9, 5, "junction", "projection shortcut + branch", "relu", block=2, ends="exit"),
        Site("head.pool", 10, 5, "module", "mean over 4x4 positions"),
        Site("head", 11, 6, "layer", "affine 8 to 5", outer="last"),
        Site("network", 12, 6, "network", "the network as a whole"),
    )


@pytest.mark.parametrize(("shortcut", "name"), [("A", "zero-padded"), ("A-both", "zero-padded (both sides)")])
def test_sites_of_a_pre_activation_convolutional_network(shortcut: Any, name: str):
    sites = sites_of(Spec.cifar(8, shortcut=shortcut, order="pre-activation"))

    assert [(site.site, site.name) for site in sites[-4:]] == [
        ("final", "last batch norm and activation"),
        ("head.pool", "mean over 8x8 positions"),
        ("head", "affine 64 to 10"),
        ("network", "the network as a whole"),
    ]
    assert {site.site: site.name for site in sites if site.kind == "junction"} == {
        "stage1.block1": "identity shortcut + branch",
        "stage2.block1": f"{name} shortcut + branch",
        "stage3.block1": f"{name} shortcut + branch",
    }
    assert sites[1] == Site("stem", 1, 1, "layer", "conv 3x3, 3 to 16", ends="entry", outer="first")


@pytest.mark.parametrize("spec", [Spec.cifar(110), Spec.imagenet(50), Spec.imagenet(34, shortcut="C")])
def test_layers_of_the_papers_networks_count_in_depth_and_projections_do_not(spec: Spec):
    sites = sites_of(spec)
    own = {layer.site for layer in spec.projections}

    layers = [site for site in sites if site.kind == "layer" and site.site not in own]
    assert [site.site for site in layers] == [layer.site for layer in spec.layers]
    assert [site.depth for site in layers] == list(range(1, spec.depth + 1))
    assert own <= {site.site for site in sites}
    assert [site.depth for site in sites] == sorted(site.depth for site in sites)


def test_every_spec_has_sites_in_order_of_execution():
    for spec in specs(together=3):
        sites = sites_of(spec)
        assert [site.order for site in sites] == list(range(len(sites)))
        assert len({site.site for site in sites}) == len(sites)
        assert [site.depth for site in sites] == sorted(site.depth for site in sites)
        assert sites[-1].depth == spec.depth
        # Every weight layer is a site, and counts once in depth.
        layers = {site.site: site for site in sites if site.kind == "layer" and site.site != "final"}
        assert list(layers) == [layer.site for layer in spec.layers]
        assert [site.depth for site in layers.values()] == list(range(1, spec.depth + 1))
        assert [site.block for site in sites if site.block] == list(range(1, len(spec.body) + 1))


def test_a_twin_has_the_same_sites_but_for_the_junctions():
    spec = Spec.dense(width=8, blocks=3)

    for mine, theirs in zip(sites_of(spec), sites_of(spec.twin()), strict=True):
        assert (mine.site, mine.depth, mine.ends) == (theirs.site, theirs.depth, theirs.ends)
        assert theirs.kind == ("block" if mine.kind == "junction" else mine.kind)


def test_the_numpy_engine_is_a_network():
    network: Network = build(Spec.dense(width=4, blocks=1), seed=1)  # mypy checks it

    assert network.sites == sites_of(Spec.dense(width=4, blocks=1))
    assert network.run([[1.0, 2.0, 3.0, 4.0]], observe=ignore).loss is None
