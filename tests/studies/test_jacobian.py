"""The study `jacobian`: readings against NumPy's own SVD, laws of the mean square, and the data of its chart."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from skipscope import InputError, Readings, Spec, build, draws
from skipscope.engines.jacobian import linearise
from skipscope.spectra import expected_mean_square, spectrum_data
from skipscope.studies.jacobian import (
    JACOBIAN_DESIGNS,
    JACOBIAN_QUANTITIES,
    JacobianCell,
    Part,
    jacobian,
    measure,
    of_network,
)
from skipscope.studies.named import named_design
from skipscope.summary import summarise

Array = NDArray[Any]
SEEDS = range(6)


@pytest.fixture(scope="module")
def readings() -> Readings:
    return jacobian(depths=(3, 6), width=8, seeds=SEEDS, batch=6)


def values(readings: Readings, quantity: str, **filters: Any) -> Array:
    rows = readings.select(quantity=quantity, **filters).rows.sort("site", "seed")
    return rows["value"].to_numpy()


def exact(name: str, depth: int, site: str, batch: int = 1) -> Array:
    """The matrices column by column through the jvp, where the study goes row by row through the backward."""
    network = build(named_design(name, depth=depth, width=8), seed=SEEDS)
    linear = linearise(network, draws.normals(SEEDS, "input", (batch, 8)))
    part = linear if site == "network" else linear.at(site)
    return np.stack([part.jvp(row[None])[:, 0] for row in np.eye(part.inputs)], axis=-1)


@pytest.mark.parametrize(("name", "batch"), [("plain", 1), ("residual", 1), ("residual, batch norm", 6)])
@pytest.mark.parametrize("part", ["network", "body"])
def test_readings_are_the_singular_values(readings: Readings, name: str, batch: int, part: str):
    J = exact(name, 6, part, batch)
    expected = np.linalg.svd(J, compute_uv=False)
    here: dict[str, Any] = {"design": name, "depth": 6, "part": part, "site": "network"}
    size = expected[:, :1] * 1e-13  # LAPACK's error is absolute, in units of the largest
    found = {each: values(readings, f"jacobian_sigma_{each}", **here) for each in ("max", "median", "min")}
    assert (np.abs(found["max"] - expected[:, 0])[:, None] < size).all()
    assert (np.abs(found["median"] - np.median(expected, axis=1))[:, None] < size).all()
    assert (np.abs(found["min"] - expected[:, -1])[:, None] < size).all()
    np.testing.assert_allclose(values(readings, "jacobian_mean_square", **here), (J**2).sum(axis=(1, 2)) / 8)
    np.testing.assert_array_equal(values(readings, "jacobian_rank", **here), np.linalg.matrix_rank(J))
    apart = J - np.eye(8)
    np.testing.assert_allclose(
        values(readings, "jacobian_minus_identity", **here), np.linalg.norm(apart, axis=(1, 2)) / 8**0.5
    )
    np.testing.assert_allclose(
        values(readings, "jacobian_minus_identity_spectral", **here), np.linalg.norm(apart, 2, axis=(1, 2))
    )
    u = draws.normals(SEEDS, "cotangent", (1, 8))[:, 0, :, None]
    gain = np.linalg.norm(J @ u, axis=(1, 2)) / np.linalg.norm(u, axis=(1, 2))
    np.testing.assert_allclose(values(readings, "jacobian_gain", **here), gain)


def test_blocks_are_measured_where_the_network_puts_them(readings: Readings):
    for block in ("stage1.block1", "stage1.block5"):
        J = exact("residual", 6, block)
        here: dict[str, Any] = {"design": "residual", "depth": 6, "site": block}
        expected = np.linalg.norm(J - np.eye(8), axis=(1, 2)) / 8**0.5
        np.testing.assert_allclose(values(readings, "block_jacobian_minus_identity", **here), expected)
        largest = np.linalg.norm(J, 2, axis=(1, 2))
        np.testing.assert_allclose(values(readings, "block_jacobian_sigma_max", **here), largest)


def test_a_condition_is_undefined_where_a_direction_is_lost(readings: Readings):
    condition = readings.rows.filter(pl.col("quantity") == "jacobian_condition")
    rows = condition.join(readings.cells, on="cell").join(
        readings.rows.filter(pl.col("quantity") == "jacobian_sigma_min"), on=["cell", "seed"], suffix="_min"
    )
    assert not rows.is_empty()
    assert rows["value_min"].min() > 0  # type: ignore[operator]
    # Behind a ReLU layer some direction is always lost; in the body of the residual design with 1/L none is.
    assert "plain" not in rows["design"]
    assert rows.filter(design="residual, 1/L", part="body").height == 2 * len(SEEDS)


def test_the_table_has_every_design_part_and_quantity(readings: Readings):
    cells = readings.cells
    assert set(cells["design"]) == set(JACOBIAN_DESIGNS)
    expected = {(depth, part) for depth in (3, 6) for part in ("network", "body")}
    assert set(cells.select("depth", "part").rows()) == expected
    assert set(cells.filter(pl.col("design").str.contains("batch norm"))["batch"]) == {6}
    assert set(cells.filter(~pl.col("design").str.contains("batch norm"))["batch"]) == {1}
    assert set(cells["study"]) == {"jacobian"}
    assert set(readings.rows["quantity"]) == set(JACOBIAN_QUANTITIES)
    assert readings.rows["value"].is_finite().all()


def test_chunks_and_workers_change_no_bit():
    arguments: dict[str, Any] = {"depths": (3,), "width": 5, "seeds": SEEDS, "batch": 4}
    arguments["designs"] = ("residual", "plain, batch norm")
    seen: list[tuple[int, int]] = []
    whole = jacobian(**arguments, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(6, 24), (12, 24), (18, 24), (24, 24)]
    assert jacobian(**arguments, chunk=4).equals(whole)
    assert jacobian(**arguments, chunk=3, jobs=2).equals(whole)


def test_above_the_exact_width_what_is_known_is_the_largest(monkeypatch: pytest.MonkeyPatch):
    arguments: dict[str, Any] = {"depths": (4,), "width": 8, "designs": ("residual",), "seeds": SEEDS}
    exact_ones = jacobian(**arguments)
    # By its name in sys.modules: the package's attribute of that name is the function.
    monkeypatch.setattr(importlib.import_module("skipscope.studies.jacobian"), "EXACT_WIDTH", 7)
    found = jacobian(**arguments)
    known = {"jacobian_sigma_max", "jacobian_gain"}
    assert set(found.rows["quantity"]) == known | {f"block_{name}" for name in known}
    for name in sorted(known):
        np.testing.assert_allclose(values(found, name), values(exact_ones, name), rtol=1e-6)


def test_an_overflow_is_read_as_nan():
    spec = Spec.dense(width=4, blocks=2)
    network = build(spec, seed=(0, 1))
    network.parameters["head.weight"][0] = np.inf
    found = of_network(network, np.ones((1, 4)), blocks=False)
    largest = found.select(quantity="jacobian_sigma_max").rows.sort("seed")["value"]
    assert largest.is_nan().to_list() == [True, False]


def test_a_network_that_is_not_square_has_no_distance_from_the_identity():
    arguments: dict[str, Any] = {"designs": "residual", "parts": "network", "features": 4, "outputs": 3}
    found = jacobian(depths=(3,), width=6, seeds=SEEDS, **arguments)
    overall = set(found.select(site="network").rows["quantity"])
    assert not any("identity" in name for name in overall)
    assert "block_jacobian_minus_identity" in set(found.rows["quantity"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"designs": ("plian",)}, "design must be one of .* Did you mean 'plain'"),
        ({"designs": ()}, "designs is empty"),
        ({"parts": ("tail",)}, "part must be one of 'network', 'body'"),
        ({"order": "after-add"}, "order='after-add' cannot be chosen, as the design"),
        ({"depths": (2,), "designs": "plain"}, "part='body' needs a network with blocks"),
        ({"batch": 1, "designs": "plain, batch norm"}, "batch must be at least 2"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"jobs": 0}, "jobs must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        jacobian(**{"width": 4, "depths": (3,), "seeds": 0, **arguments})


# ---------------------------------------------------------------------------------------------------------- the laws

SHAPE: dict[str, Any] = {"width": 12, "features": 8, "outputs": 5}


def mean_squares(spec: Spec, part: Part, networks: int) -> tuple[float, float]:
    """The mean over networks, and its standard error."""
    found = []
    for start in range(0, networks, 1000):
        cell = JacobianCell(spec, {}, part)
        readings = measure(cell, tuple(range(start, min(start + 1000, networks))))
        found.append(values(readings, "jacobian_mean_square"))
    joined = np.concatenate(found)
    return float(joined.mean()), float(joined.std() / networks**0.5)


@pytest.mark.parametrize("part", ["network", "body"])
@pytest.mark.parametrize(
    "fields",
    [
        {"blocks": 2, "layers": 1, "shortcut": "none", **SHAPE},
        {"blocks": 1, "shortcut": "none", "order": "after-add", "init": "xavier", "output": "relu", **SHAPE},
        {"blocks": 1, "shortcut": "none", "order": "pre-activation", "branch_gain": 2.0, **SHAPE},
    ],
)
def test_the_mean_square_of_a_plain_network_is_a_product(fields: dict[str, Any], part: Part):
    spec = Spec.dense(**fields)
    law = expected_mean_square(spec, part)
    assert law is not None
    mean, error = mean_squares(spec, part, 20_000 if part == "network" else 5000)  # few outputs spread widely
    assert 0.05 * law > 5 * error
    assert abs(mean - law) < 3 * error


@pytest.mark.parametrize(("gain", "law"), [(1.0, 2.0**4), ("1/sqrt(L)", 1.25**4), (0.5, 1.25**4)])
def test_the_mean_square_of_a_pre_activation_body_grows_as_squares_add(gain: Any, law: float):
    spec = Spec.dense(width=48, blocks=4, order="pre-activation", branch_gain=gain)
    assert expected_mean_square(spec, "body") == pytest.approx(law)
    mean, error = mean_squares(spec, "body", 1100)
    assert 0.05 * law > 5 * error
    # The gates in front of a branch know of the block before: measured about 1/n too much at a gain of 1, less below.
    assert -3 * error < mean - law < 3 * error + law / 48


@pytest.mark.parametrize(
    "fields",
    [{}, {"norm": "layer"}, {"order": "after-add"}, {"activation": "tanh"}, {"bias": True}, {"output": "tanh"}],
)
def test_the_mean_square_has_no_law_elsewhere(fields: dict[str, Any]):
    assert expected_mean_square(Spec.dense(width=4, blocks=2, **fields)) is None


# --------------------------------------------------------------------------------------------------------- the chart


def test_spectrum_data_is_the_summarys_with_the_law_beside_it(readings: Readings):
    data = spectrum_data(summarise(readings))
    assert data.height == len(JACOBIAN_DESIGNS) * 2 * 2 * 4
    here = data.filter(design="plain", part="body", depth=6)
    found = values(readings, "jacobian_mean_square", design="plain", part="body", depth=6)
    rms = here.row(by_predicate=pl.col("curve") == "rms", named=True)
    assert rms["q50"] == pytest.approx(np.median(found) ** 0.5, rel=0.2)  # of 6 squares, the root of an average of two
    assert rms["median_low"] == pytest.approx(found.min() ** 0.5)
    assert rms["law"] == 1
    assert here.filter(pl.col("curve") != "rms")["law"].null_count() == 3
    least = here.row(by_predicate=pl.col("curve") == "sigma_min", named=True)
    assert (least["zeros"], least["q50"]) == (6, 0)
    assert data.filter(design="residual, layer norm")["law"].null_count() == 16


def test_spectrum_data_of_other_readings_is_refused():
    network = build(Spec.dense(width=4, blocks=2), seed=SEEDS)
    from skipscope import probe

    with pytest.raises(InputError, match="holds no quantity of the study jacobian"):
        spectrum_data(summarise(probe(network, 1)))
