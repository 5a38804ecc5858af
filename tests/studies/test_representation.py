"""The study `representation`: the linear classifier and the components on known answers, and a small run whole."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from skipscope import InputError, Readings, build, data
from skipscope.spec import Spec
from skipscope.studies import REPRESENTATION_QUANTITIES, pictures, representation
from skipscope.studies.representation import (
    REPRESENTATION_DEMO,
    Seen,
    linear_accuracies,
    principal,
    untrained,
    walk,
)
from skipscope.training import Recipe

Array = NDArray[np.float64]
SMALL: dict[str, Any] = {"data": "patterns", "depth": 2, "width": 12, "recipe": Recipe(steps=40), "seeds": range(2)}


@pytest.fixture(scope="module")
def readings() -> Readings:
    return representation(**SMALL)


def values(readings: Readings, quantity: str, **filters: Any) -> Array:
    rows = readings.select(quantity=quantity, **filters).rows.sort("seed", "site")
    return rows["value"].to_numpy()


# ----------------------------------------------------------------------------------------------- the linear classifier


def two_classes(rng: np.random.Generator, samples: int, distance: float, n: int = 6) -> tuple[Array, NDArray[Any]]:
    """Gaussians of one covariance, whose means are so many standard deviations apart in the best direction."""
    classes = np.arange(samples) % 2
    stretch = np.linspace(0.5, 30.0, n)  # features of unlike sizes
    x = rng.standard_normal((samples, n))
    x[:, 0] += distance * classes
    return x * stretch + 5.0, classes


@pytest.mark.parametrize("distance", [0.0, 1.0, 2.5])
def test_two_gaussians_are_told_apart_as_often_as_they_can_be(rng: np.random.Generator, distance: float):
    samples = 40_000
    train, classes = two_classes(rng, samples, distance)
    test, known = two_classes(rng, samples, distance)
    expected = NormalDist().cdf(distance / 2)  # no classifier does better
    # The share of 40,000 samples has a standard error of 0.0025 at most; what fitting and shrinking lose is less. Of
    # Phi(1.25) = 0.894 five percent would be 0.045.
    for accuracy in linear_accuracies(train, test, (classes, known)):
        assert accuracy == pytest.approx(expected, abs=3 * 0.0025)


def test_what_a_plane_separates_is_read_and_what_none_does_is_not(rng: np.random.Generator):
    corners = rng.integers(0, 2, (4_000, 2))
    x = corners + 0.05 * rng.standard_normal(corners.shape)
    x = np.concatenate([x, np.zeros((4_000, 3))], axis=1)  # units that are dead
    parts = slice(0, 2_000), slice(2_000, 4_000)
    side, odd = corners[:, 0], corners.sum(axis=1) % 2
    assert linear_accuracies(x[parts[0]], x[parts[1]], (side[parts[0]], side[parts[1]])) == (1.0, 1.0)
    # Exclusive or: any plane has three corners of four right at best, and the one of equal covariances has half. Three
    # standard errors of a half over 2,000 samples are 0.034; what splits the corners unevenly may give another 0.25.
    assert linear_accuracies(x[parts[0]], x[parts[1]], (odd[parts[0]], odd[parts[1]]))[1] < 0.79


def test_scale_and_place_of_features_change_nothing(rng: np.random.Generator):
    train, classes = two_classes(rng, 400, 1.0)
    test, known = two_classes(rng, 300, 1.0)
    expected = linear_accuracies(train, test, (classes, known))
    factor = 2.0 ** np.array([600.0, -600.0, 3.0, 0.0, -2.0, 10.0])
    assert linear_accuracies(train * factor, test * factor, (classes, known)) == expected
    twice = np.repeat(train, 2, axis=1), np.repeat(test, 2, axis=1)  # units that are all alike
    assert linear_accuracies(*twice, (classes, known)) == pytest.approx(expected, abs=0.02)


def test_where_nothing_varies_the_most_frequent_class_is_named():
    classes = np.array([0, 1, 1, 2, 1, 0, 2, 1])
    constant = np.full((8, 3), 7.0)
    assert linear_accuracies(constant, constant, (classes, classes)) == (0.5, 0.5)


def test_what_overflowed_is_not_a_number(rng: np.random.Generator):
    train, classes = two_classes(rng, 30, 1.0)
    bad = train.copy()
    bad[3, 2] = np.inf
    assert all(math.isnan(each) for each in linear_accuracies(bad, train, (classes, classes)))
    assert np.isnan(principal(bad)[0]).all()
    seen = [Seen(linear_accuracies(bad, train, (classes, classes)), principal(bad)[0])]
    dimension = REPRESENTATION_QUANTITIES["effective_dimension"].formula(seen)
    assert not np.ma.getmaskarray(dimension).any()
    assert np.isnan(dimension).all()


# -------------------------------------------------------------------------------------------------------- components


def test_components_are_those_of_a_singular_value_decomposition(rng: np.random.Generator):
    x = rng.standard_normal((200, 7)) @ rng.standard_normal((7, 7)) + 3.0
    shares, directions = principal(x * 1e200)  # whose squares would overflow
    _, singular, rows = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(shares, singular**2 / (singular**2).sum(), rtol=1e-10)
    np.testing.assert_allclose(np.abs((directions * rows).sum(axis=1)), 1, rtol=1e-10)
    assert (directions[np.arange(7), np.abs(directions).argmax(axis=1)] > 0).all()


def test_the_effective_dimension_counts_directions(rng: np.random.Generator):
    basis = np.linalg.qr(rng.standard_normal((9, 9)))[0][:4]
    equal = np.concatenate([np.eye(4), -np.eye(4)]) @ basis  # four directions of one variance among nine features
    line = np.outer(np.linspace(-1, 1, 8), basis[0])
    dimension = REPRESENTATION_QUANTITIES["effective_dimension"].formula
    share = REPRESENTATION_QUANTITIES["component_share_1"].formula
    found = [Seen((1.0, 1.0), principal(each)[0]) for each in (equal, line)]
    np.testing.assert_allclose(dimension(found), [4, 1])
    np.testing.assert_allclose(share(found), [0.25, 1])
    np.testing.assert_allclose(REPRESENTATION_QUANTITIES["component_share_2"].formula(found), [0.25, 0], atol=1e-12)


def test_where_nothing_varies_nothing_is_shared():
    seen = [Seen((0.5, 0.5), principal(np.full((5, 3), value))[0]) for value in (0.0, 2.0)]
    for name in ("effective_dimension", "component_share_1", "component_share_2"):
        assert np.ma.getmaskarray(REPRESENTATION_QUANTITIES[name].formula(seen)).all()


# --------------------------------------------------------------------------------------------------------- the study


def test_readings_have_every_site_state_and_quantity(readings: Readings):
    assert set(readings.cells["state"]) == {"untrained", "trained", "in training"}
    assert set(readings.cells["study"]) == {"representation"}
    for state in ("untrained", "trained"):
        part = readings.select(design="residual", state=state)
        assert part.sites.sort("order")["site"].to_list() == [
            "input",
            "stem",
            "stage1.block1",
            "stage1.block2",
            "head",
        ]
        assert set(part.rows["quantity"]) == set(REPRESENTATION_QUANTITIES)
        assert part.rows.height == 2 * 5 * len(REPRESENTATION_QUANTITIES)
    assert readings.cells["chance"].unique().to_list() == [pytest.approx(1 / 3)]


def test_training_is_seen_and_the_input_stays_what_it_is(readings: Readings):
    for design in ("twin", "residual"):
        last: dict[str, Any] = {"design": design, "site": "stage1.block2", "quantity": "linear_accuracy"}
        trained, before = (values(readings, state=state, **last) for state in ("trained", "untrained"))
        assert (trained > before).all()
    at_input = values(readings, "linear_accuracy", site="input", state=["trained", "untrained"])
    assert len(set(at_input)) == 1
    # No linear classifier of the patterns does better than guess by much: the lines of all classes have one sum.
    assert at_input[0] < 0.6


def test_a_reading_is_what_the_activations_give(readings: Readings):
    cell = readings.select(design="twin", state="untrained").cells.row(0, named=True)
    spec, known = Spec.from_json(cell["spec"]), data.load("patterns", seed=0)
    found: dict[str, tuple[float, float]] = {}
    network = untrained(spec, (1,), known)
    walk(network, known, lambda site, train, test: found.update(
        {site: linear_accuracies(train, test, (known.train.targets, known.test.targets))}
    ))  # fmt: skip
    measured = readings.select(cell=cell["cell"], quantity="linear_accuracy", seed=1).rows
    assert dict(measured.select("site", "value").iter_rows()) == {site: pair[1] for site, pair in found.items()}


def test_untrained_averages_are_those_of_the_training_part():
    known = data.load("patterns", seed=0)
    spec = Spec.dense(features=64, outputs=3, width=6, blocks=2, order="pre-activation", norm="batch")
    network = untrained(spec, (0, 4), known)
    with network.inference():
        fixed = network.run(known.train.inputs).output
    # By the averages of the whole part, or by its own as one batch: up to b/(b - 1) below the variance, b = 600.
    np.testing.assert_allclose(fixed, build(spec, seed=(0, 4)).run(known.train.inputs).output, rtol=0.01, atol=0.02)
    assert np.abs(network.running["final.running_mean"]).min() > 0


def test_chunks_and_workers_change_no_bit(readings: Readings):
    assert representation(**SMALL, chunk=1).equals(readings)
    assert representation(**SMALL, jobs=2, chunk=1).equals(readings)


def test_a_network_that_is_lost_has_no_trained_readings():
    hot = Recipe(steps=60, rate=1e4)
    found = representation(**{**SMALL, "recipe": hot, "norm": "none", "order": "before-add", "designs": "residual"})
    assert "trained" not in set(found.cells["state"])
    assert found.select(state="untrained").rows["seed"].n_unique() == 2
    with pytest.raises(InputError, match="no trained networks"):
        pictures(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": "teacher"}, "data 'teacher' has no classes.*use 'digits'"),
        ({"data": "digit"}, "Did you mean 'digits'"),
        ({"designs": "residul"}, "Did you mean 'residual'"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"recipe": 300}, "recipe must be a Recipe"),
        ({"data_seed": -1}, "data_seed must be at least 0"),
        ({"width": 0}, "width must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        representation(**{**SMALL, **arguments})


def test_the_demo_is_a_call_of_the_study():
    small = {**REPRESENTATION_DEMO, "depth": 1, "recipe": Recipe(steps=2), "seeds": range(1), "width": 4}
    assert set(representation(**small).cells["data"]) == {"digits"}


# ------------------------------------------------------------------------------------------------------ the pictures


def test_pictures_are_of_the_very_networks_that_were_measured(readings: Readings):
    (found,) = pictures(readings, seed=1)
    assert (found.data, found.seed, found.setting) == ("patterns", 1, "patterns, depth 2")
    rows = found.components.group_by("design", "state", "site").agg(pl.col("accuracy", "share").first())
    assert rows.height == 2 * 2 * 3  # first layer, first block, last block
    for row in rows.iter_rows(named=True):
        here: dict[str, Any] = {name: row[name] for name in ("design", "state", "site")} | {"seed": 1}
        assert values(readings, "linear_accuracy", **here) == [row["accuracy"]]
        shares = [values(readings, f"component_share_{i}", **here)[0] for i in (1, 2)]
        assert row["share"] == pytest.approx(sum(shares), rel=1e-12)


def test_places_fill_the_square(readings: Readings):
    (found,) = pictures(readings)
    assert found.seed == 0
    for _, part in found.components.group_by("design", "state", "site"):
        extent = part.select(pl.col("first", "second").abs().max()).row(0)
        assert max(extent) == pytest.approx(1)
        assert part.height == 200


def test_samples_are_the_first_of_every_class(readings: Readings):
    (found,) = pictures(readings)
    known = data.load("patterns", seed=0)
    assert found.samples.height == 3 * 2 * 64
    drawn = known.pictures(known.train.inputs[[0, 3, 1, 4, 2, 5]])  # sample i is of class i % 3
    ink = found.samples["ink"].to_numpy().reshape(6, 8, 8)
    np.testing.assert_allclose(ink * np.ptp(drawn) + drawn.min(), drawn, atol=1e-12)
    assert found.samples["class"].unique(maintain_order=True).to_list() == ["horizontal", "vertical", "diagonal"]


def test_pictures_of_other_readings_or_seeds_are_refused(readings: Readings):
    with pytest.raises(InputError, match=r"seed=7 is not in these readings: they are of 0 to 1"):
        pictures(readings, seed=7)
    with pytest.raises(InputError, match="no trained networks"):
        pictures(readings.select(state="untrained"))
