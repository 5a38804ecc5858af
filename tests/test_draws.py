"""Draws: what is random is a function of the seed, in an order that makes networks share their numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from skipscope import InputError, Spec, draws
from skipscope.spec import Head, Init, Stage, Stem

SEEDS = (5, 0, 2**40)


def test_streams_of_a_seed_are_independent_generators():
    streams: tuple[draws.Stream, ...] = ("weights", "input", "cotangent", "biases", "resample", "data", "order")
    first = {name: draws.stream(1, name).standard_normal(50_000) for name in streams}

    # The correlation of two independent series of N numbers has the standard deviation 1/sqrt(N) = 0.0045; 21 pairs.
    correlations = np.corrcoef(list(first.values()))[np.triu_indices(len(streams), 1)]
    assert abs(correlations).max() < 4 * 50_000**-0.5


def test_normals_are_drawn_by_each_seed_alone():
    together = draws.normals(SEEDS, "input", (3, 4))

    assert together.shape == (3, 3, 4)
    assert together.dtype == np.float64
    for row, seed in zip(together, SEEDS, strict=True):
        assert np.array_equal(row, draws.normals([seed], "input", (3, 4))[0])
        assert np.array_equal(row, draws.stream(seed, "input").standard_normal((3, 4)))


def test_a_smaller_batch_is_the_beginning_of_a_larger_one():
    large, small = (draws.normals(SEEDS, "input", (samples, 4)) for samples in (9, 2))

    assert np.array_equal(large[:, :2], small)


def test_the_stated_order_is_input_layer_output_layer_body():
    spec = Spec.dense(width=4, blocks=2, features=3, outputs=2, init="lecun")
    drawn = draws.weights(spec, SEEDS)
    stream = draws.normals(SEEDS, "weights", (12 + 8 + 4 * 16,))

    sites = ["stem", "head", *(f"stage1.block{block}.layer{layer}" for block in (1, 2) for layer in (1, 2))]
    shapes = [(4, 3), (2, 4), *[(4, 4)] * 4]
    start = 0
    for site, (rows, columns) in zip(sites, shapes, strict=True):
        normals = stream[:, start : start + rows * columns].reshape(len(SEEDS), rows, columns)
        assert np.array_equal(drawn[site], normals * columns**-0.5)
        start += rows * columns
    assert start == stream.shape[1]
    assert list(drawn) == [layer.site for layer in spec.layers]


@pytest.mark.parametrize("init", ["he", "xavier", "lecun", "torch"])
def test_a_shallow_network_is_the_beginning_of_a_deep_one(init: Init):
    fields: dict[str, Any] = {"width": 5, "features": 3, "init": init, "bias": True}
    shallow, deep = (Spec.dense(blocks=blocks, **fields) for blocks in (2, 7))

    for draw in (draws.weights, draws.biases):
        few, many = draw(shallow, SEEDS), draw(deep, SEEDS)
        assert len(few) == 6
        for site, array in few.items():
            assert np.array_equal(array, many[site]), site


@pytest.mark.parametrize("order", ["before-add", "after-add", "pre-activation"])
@pytest.mark.parametrize("norm", ["none", "layer"])
def test_order_norm_and_shortcut_do_not_change_the_draw(order: Any, norm: Any):
    reference = draws.weights(Spec.dense(width=5, blocks=2), SEEDS)
    for shortcut in ("identity", "none"):
        spec = Spec.dense(width=5, blocks=2, order=order, norm=norm, shortcut=shortcut)
        drawn = draws.weights(spec, SEEDS)
        assert all(np.array_equal(drawn[site], reference[site]) for site in reference)


@pytest.mark.parametrize("init", ["he", "xavier", "lecun", "torch"])
def test_both_precisions_use_the_same_normals(init: Init):
    double, single = (
        Spec.dense(width=5, blocks=2, init=init, bias=True, dtype=dtype) for dtype in ("float64", "float32")
    )
    for draw in (draws.weights, draws.biases):
        wide, narrow = draw(double, SEEDS), draw(single, SEEDS)
        for site, array in wide.items():
            assert (str(array.dtype), str(narrow[site].dtype)) == ("float64", "float32")
            assert np.array_equal(array.astype(np.float32), narrow[site])


@pytest.mark.parametrize("spec", [Spec.dense(width=5, blocks=2, features=3), Spec.cifar(8, width=2, shortcut="B")])
def test_a_network_in_an_ensemble_is_contiguous(spec: Spec):
    assert all(array[1].flags.c_contiguous for array in draws.weights(spec, SEEDS).values())


# ---------------------------------------------------------------------------------------------------- convolutions


def convolutional(**fields: Any) -> Spec:
    """8 layers, of 2, 4 and 8 channels."""
    chosen: dict[str, Any] = {"width": 2, "dtype": "float64"} | fields
    return Spec.cifar(8, **chosen)


def test_projections_are_drawn_after_the_body():
    spec = convolutional(shortcut="B", init="lecun", classes=5)
    drawn = draws.weights(spec, SEEDS)

    body = [f"stage{stage}.block1.layer{layer}" for stage in (1, 2, 3) for layer in (1, 2)]
    order = ["stem", "head", *body, "stage2.block1.shortcut", "stage3.block1.shortcut"]
    known = {layer.site: layer for layer in (*spec.layers, *spec.projections)}
    stream = draws.normals(SEEDS, "weights", (sum(layer.weights for layer in known.values()),))
    start = 0
    for site in order:
        layer = known[site]
        normals = stream[:, start : start + layer.weights].reshape(len(SEEDS), *layer.weight_shape)
        assert np.array_equal(drawn[site], normals * (layer.n_in * layer.kernel**2) ** -0.5), site
        start += layer.weights
    assert start == stream.shape[1]
    assert drawn["stage2.block1.layer1"].shape == (3, 4, 2, 3, 3)
    assert drawn["stage2.block1.shortcut"].shape == (3, 4, 2, 1, 1)
    assert drawn["head"].shape == (3, 5, 8)
    assert list(drawn) == [layer.site for layer in (*spec.layers, *spec.projections)]


@pytest.mark.parametrize("shortcut", ["none", "A-both", "B", "C"])
def test_every_shortcut_option_has_the_same_draw(shortcut: Any):
    reference = draws.weights(convolutional(), SEEDS)
    drawn = draws.weights(convolutional(shortcut=shortcut), SEEDS)

    assert all(np.array_equal(drawn[site], array) for site, array in reference.items())
    assert draws.begins(convolutional(), convolutional(shortcut=shortcut))


def test_a_shallow_network_of_several_widths_is_not_the_beginning_of_a_deep_one():
    shallow, deep = Spec.cifar(8, width=2), Spec.cifar(14, width=2)

    assert not draws.begins(shallow, deep)
    assert draws.begins(shallow, shallow)


@pytest.mark.parametrize(("init", "variance"), [("he", 2 / 72), ("xavier", 2 / (72 + 36)), ("lecun", 1 / 72)])
def test_initialisations_of_convolutions(init: Init, variance: float):
    stem = Stem(kind="conv3", features=8, width=4, size=4)
    spec = Spec(stem=stem, stages=(), head=Head(features=3, kind="pooled"), init=init)
    weights = draws.weights(spec, range(1000))["stem"]

    # 288,000 entries: the mean square has the relative standard deviation sqrt(2/N) = 0.26 %; 4 of them.
    assert np.mean(weights**2) == pytest.approx(variance, rel=4 * (2 / weights.size) ** 0.5)


def test_torch_initialisation_of_a_convolution_is_that_of_torch():
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = torch.nn.Conv2d(8, 60, 3).weight
    stem = Stem(kind="conv3", features=8, width=60, size=4)
    spec = Spec(stem=stem, stages=(), head=Head(features=3, kind="pooled"), init="torch")
    ours = draws.weights(spec, range(10))["stem"]

    assert tuple(theirs.shape) == ours.shape[1:]
    assert max(theirs.abs().max().item(), abs(ours).max()) <= 72**-0.5
    # 4320 and 43,200 entries of a uniform law: relative standard deviations 2/sqrt(5 N) = 1.4 % and 0.4 %; 4 of them.
    assert theirs.square().mean().item() == pytest.approx(1 / (3 * 72), rel=4 * 0.014)
    assert np.mean(ours**2) == pytest.approx(1 / (3 * 72), rel=4 * 0.0043)


def test_the_head_of_a_convolutional_network_alone_has_a_bias():
    zero = draws.biases(convolutional(dtype="float32"), SEEDS)
    uniform = draws.biases(convolutional(init="torch"), range(500))

    assert {site: (array.shape, str(array.dtype)) for site, array in zero.items()} == {"head": ((3, 10), "float32")}
    assert not zero["head"].any()
    assert set(uniform) == {"head"}
    # 5000 entries of Var 1/(3 fan-in), fan-in 8: relative standard deviation 2/sqrt(5 N) = 1.3 %; 4 of them.
    assert np.mean(uniform["head"] ** 2) == pytest.approx(1 / 24, rel=4 * 0.013)


# ------------------------------------------------------------------------------------------------- initialisation

# A matrix of 60 x 90 and seeds 0..99: 540,000 entries. The sum of squares of normals over their variance is chi2 with
# so many degrees of freedom, so the mean square has the relative standard deviation sqrt(2/N) = 0.19 %.
ENTRIES = 100 * 60 * 90
WIDE = {"stem": Stem(features=90, width=60), "stages": (), "head": Head(features=30)}


@pytest.mark.parametrize(("init", "variance"), [("he", 2 / 90), ("xavier", 2 / 150), ("lecun", 1 / 90)])
def test_gaussian_initialisations(init: Init, variance: float):
    weights = draws.weights(Spec(init=init, **WIDE), range(100))["stem"]  # type: ignore[arg-type]

    lowest, highest = (stats.chi2.ppf(level, ENTRIES) / ENTRIES for level in (0.001, 0.999))
    assert lowest < np.mean(weights**2) / variance < highest
    # The law of the entries: the largest distance of the distribution functions, at the level 0.001.
    assert stats.kstest(weights.ravel() / variance**0.5, "norm").pvalue > 0.001


def test_torch_initialisation_is_uniform():
    weights = draws.weights(Spec(init="torch", **WIDE), range(100))["stem"]  # type: ignore[arg-type]
    bound = 90**-0.5

    assert abs(weights).max() <= bound
    assert abs(weights).max() > 0.9999 * bound  # 540,000 entries stay away from the outer 1e-4 with probability e^-54
    assert stats.kstest(weights.ravel(), "uniform", (-bound, 2 * bound)).pvalue > 0.001
    # Var w^2 = (4/45) bound^4, so the mean square has the relative standard deviation 2/sqrt(5 N) = 0.12 %; 3 of them.
    assert abs(np.mean(weights**2) * 3 * 90 - 1) < 3 * 2 / (5 * ENTRIES) ** 0.5


def test_torch_initialisation_is_that_of_torch():
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = torch.nn.Linear(90, 60)

    assert layer.weight.abs().max().item() <= 90**-0.5
    assert layer.bias.abs().max().item() <= 90**-0.5
    variance = draws.weight_variance(Spec(init="torch", **WIDE), Spec(init="torch", **WIDE).stem_layer)  # type: ignore[arg-type]
    # 5400 entries of a uniform law: relative standard deviation 2/sqrt(5 N) = 1.2 %; 4 of them.
    assert layer.weight.square().mean().item() == pytest.approx(variance, rel=4 * 0.012)


def test_torch_initialisation_maps_the_normals_by_their_distribution_function():
    normal, uniform = (
        draws.weights(Spec.dense(width=6, blocks=1, init=init), SEEDS)["stage1.block1.layer2"]
        for init in ("lecun", "torch")
    )

    # lecun is normal / sqrt(6), torch (2 Phi(normal) - 1) / sqrt(6).
    assert uniform == pytest.approx((2 * special.ndtr(normal * 6**0.5) - 1) / 6**0.5, abs=1e-15)


@pytest.mark.parametrize("init", ["he", "xavier", "lecun", "torch"])
def test_weight_variance_is_that_of_every_layer(init: Init):
    stages = (Stage(blocks=1, width=40, layers=2, shortcut="none"),)
    spec = Spec(stem=Stem(features=50, width=30), stages=stages, head=Head(features=20), init=init)
    drawn = draws.weights(spec, range(200))

    for layer in spec.layers:
        squares = drawn[layer.site] ** 2 / draws.weight_variance(spec, layer)
        # At least 160,000 entries; the relative standard deviation is at most sqrt(2/N) = 0.35 %; 4 of them.
        assert squares.mean() == pytest.approx(1, abs=4 * (2 / squares.size) ** 0.5)


def test_biases_are_zero_or_none_or_uniform():
    assert draws.biases(Spec.dense(width=4, blocks=1), SEEDS) == {}

    zero = draws.biases(Spec.dense(width=4, blocks=1, bias=True, dtype="float32"), SEEDS)
    assert all(array.shape == (3, 4) and array.dtype == np.float32 and not array.any() for array in zero.values())

    spec = Spec.dense(width=4, blocks=1, features=9, outputs=2, bias=True, init="torch")
    uniform = draws.biases(spec, range(500))
    assert {site: array.shape for site, array in uniform.items()} == {
        "stem": (500, 4),
        "stage1.block1.layer1": (500, 4),
        "stage1.block1.layer2": (500, 4),
        "head": (500, 2),
    }
    assert 0.32 < abs(uniform["stem"]).max() <= 1 / 3  # fan-in 9
    assert 0.48 < abs(uniform["head"]).max() <= 1 / 2  # fan-in 4
    # 2000 entries of Var 1/27: relative standard deviation 2/sqrt(5 N) = 2 %; 4 of them.
    assert np.mean(uniform["stem"] ** 2) == pytest.approx(1 / 27, rel=0.08)


def test_biases_leave_the_weights_alone():
    with_bias, without = (Spec.dense(width=4, blocks=1, init="torch", bias=bias) for bias in (True, False))

    a, b = draws.weights(with_bias, SEEDS), draws.weights(without, SEEDS)
    assert all(np.array_equal(a[site], b[site]) for site in b)


# ----------------------------------------------------------------------------------------------------------- seeds


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        (7, (7,)),
        (np.int64(7), (7,)),
        (range(3), (0, 1, 2)),
        ([3, 1], (3, 1)),
        (np.array([3, 1]), (3, 1)),
        ((seed for seed in (4, 2)), (4, 2)),
        (2**63 - 1, (2**63 - 1,)),
    ],
)
def test_require_seeds(seeds: Any, expected: tuple[int, ...]):
    found = draws.require_seeds(seeds)

    assert found == expected
    assert all(type(seed) is int for seed in found)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        (True, "seed must be a whole number of at least 0, or a list of such; got True."),
        ("12", "seed must be a whole number of at least 0, or a list of such; got '12'."),
        (None, "seed must be a whole number of at least 0, or a list of such; got None."),
        (1.0, "seed must be a whole number of at least 0, or a list of such; got 1.0."),
        (np.array(1.0), "seed must be a whole number of at least 0; got array(1.)."),
        (-1, "seed must be at least 0; got -1."),
        ([1, 2.0], "seed must be a whole number of at least 0; got 2.0."),
        ([0, False], "seed must be a whole number of at least 0; got False."),
        ([], "seeds is empty: give at least one seed, e.g. seeds=range(200)."),
        ([1, 2, 1], "seeds must differ from each other; got 1 twice."),
        (2**63, f"seed must be below 2^63, for readings keep it in 64 bits; got {2**63}."),
    ],
)
def test_refused_seeds(seeds: Any, message: str):
    with pytest.raises(InputError) as caught:
        draws.require_seeds(seeds)
    assert str(caught.value) == message


def test_a_single_number_may_be_an_array():
    assert draws.require_seeds(np.array(3)) == (3,)
