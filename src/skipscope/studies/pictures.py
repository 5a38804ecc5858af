"""The pictures of study `representation`: samples of every class, and where a network puts them at some depths.

A reading is one number of a network at a site, and these are none: the pixels of samples, and the places of samples on
principal components. So no file of readings holds them, and a report of such a file says that it takes the run to have
them. But readings say what was run: the spec, the data and its seed, the recipe. And a seed is trained to the same
weights whenever it is trained. So the pictures are made from readings, by training one seed of every design again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skipscope import data as datasets
from skipscope.data import Dataset
from skipscope.engines.numpy_engine import NumpyNetwork, build
from skipscope.engines.spread import one_thread
from skipscope.errors import InputError, require_int, require_type
from skipscope.readings import Readings
from skipscope.separability import Pictures, settings_of
from skipscope.spec import Spec
from skipscope.studies.representation import linear_accuracies, principal, untrained, walk
from skipscope.training import Recipe, train

__all__ = ["pictures"]

Array = NDArray[np.float64]

_SAMPLES = 2  # of a class
_POINTS = 200  # of the test part: more would hide each other


def pictures(readings: Readings, *, seed: int | None = None) -> tuple[Pictures, ...]:
    """Samples of every class, and where test samples stand on two principal components, at three depths of a network.

    A reading is one number of a network at a site: these are none, and are in no file of readings. But readings know
    the network, the data and the recipe, and a seed is trained to the same weights whenever it is: so this trains one
    seed of every design again, which takes as long as that seed did.

    Args:
        readings: of study `representation`.
        seed: of the networks; the first of the readings if not given.

    Returns:
        One a setting, see `skipscope.separability.settings_of`.

    Raises:
        InputError: the readings hold no trained networks of this study, or not this seed.
    """
    require_type("readings", readings, Readings, "studies.representation() gives some")
    own = readings.cells.filter(pl.col("study") == "representation")
    if "state" not in own.columns or own.filter(pl.col("state") == "trained").is_empty():
        raise InputError("these readings hold no trained networks of study `representation`: there is nothing to draw.")
    trained = own.filter(pl.col("state") == "trained")
    known = sorted(readings.rows.filter(pl.col("cell").is_in(trained["cell"].implode()))["seed"].unique().to_list())
    chosen = known[0] if seed is None else require_int("seed", seed, least=0)
    if chosen not in known:
        raise InputError(f"seed={chosen} is not in these readings: they are of {known[0]} to {known[-1]}.")
    settings = settings_of(readings)
    cells: dict[str, list[dict[str, Any]]] = {}
    for cell in trained.iter_rows(named=True):
        cells.setdefault(settings[cell["cell"]], []).append(cell)
    with one_thread():
        return tuple(_pictures(setting, listed_cells, chosen) for setting, listed_cells in cells.items())


def _pictures(setting: str, cells: Sequence[Mapping[str, Any]], seed: int) -> Pictures:
    data = datasets.load(cells[0]["data"], seed=cells[0]["data_seed"])
    rows: list[dict[str, Any]] = []
    for cell in cells:
        spec = Spec.from_json(cell["spec"])
        recipe = Recipe(**{field.name: cell[field.name] for field in dataclasses.fields(Recipe)})
        trained = train(build(spec, seed=[seed]), data, recipe, record=()).network
        states = {"untrained": untrained(spec, (seed,), data), "trained": trained}
        for state, network in states.items():
            if network is not None:
                told = {"design": cell["design"], "state": state}
                rows += [{**told, **row} for row in _placed(network, data)]
    return Pictures(cells[0]["data"], setting, seed, _inked(data), pl.DataFrame(rows))


def _placed(network: NumpyNetwork, data: Dataset) -> list[dict[str, Any]]:
    """Test samples on the principal components of the training part: first layer, middle and end of the body."""
    blocks = [site for site in network.sites if site.block]
    stem = next(site for site in network.sites if site.site == "stem")
    sites = {site.site: site for site in (stem, *blocks[len(blocks) // 2 - 1 : len(blocks) // 2], *blocks[-1:])}
    rows: list[dict[str, Any]] = []
    classes = data.train.targets, data.test.targets

    def place(site: str, train: Array, test: Array) -> None:
        if site not in sites:
            return
        shares, directions = principal(train)
        if np.isnan(shares).any():
            return
        points = _fitted((test[:_POINTS] - train.mean(axis=0)) @ directions[:2].T)
        told = {
            "site": site,
            "layers": sites[site].depth,
            "accuracy": linear_accuracies(train, test, classes)[1],
            "share": float(shares[:2].sum()),
        }
        for sample, (first, second) in enumerate(points):
            label = data.class_names[int(data.test.targets[sample])]
            rows.append({**told, "class": label, "sample": sample, "first": float(first), "second": float(second)})

    with np.errstate(all="ignore"):
        walk(network, data, place)
    return rows


def _fitted(points: Array) -> Array:
    """Points (b, 2) shifted, and by one factor scaled, into the square from -1 to 1."""
    low, high = points.min(axis=0), points.max(axis=0)
    half = float((high - low).max()) / 2
    fitted: Array = (points - (low + high) / 2) / (half if half > 0 else 1.0)
    return fitted


def _inked(data: Dataset) -> pl.DataFrame:
    """The first samples of every class, pixel by pixel; no rows where samples are no pictures."""
    schema = {"class": pl.String, "sample": pl.Int64, "row": pl.Int64, "column": pl.Int64, "ink": pl.Float64}
    if data.shape is None or len(data.shape) != 2:
        return pl.DataFrame(schema=schema)
    chosen = [(label, i) for label in range(len(data.class_names)) for i in _first(data.train.targets == label)]
    drawn = data.pictures(data.train.inputs[[i for _, i in chosen]])
    ink = (drawn - drawn.min()) / max(float(np.ptp(drawn)), np.finfo(float).tiny)
    rows = [
        (data.class_names[label], sample % _SAMPLES, row, column, float(ink[sample, row, column]))
        for sample, (label, _) in enumerate(chosen)
        for row, column in np.ndindex(*data.shape)
    ]
    return pl.DataFrame(rows, schema=schema, orient="row")


def _first(here: NDArray[np.bool_]) -> list[int]:
    found: list[int] = np.flatnonzero(here)[:_SAMPLES].tolist()
    return found
