"""Where networks stopped, from readings alone: of a table made by hand, and of networks that were made to stop."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from skipscope import InputError, studies
from skipscope.readings import CELLS, ROWS, SITES, Readings
from skipscope.stops import stops, stops_by_site
from skipscope.training import Recipe

SITE = ("layer", "a layer", "relu", 0, "", "measured")


def readings(*found: tuple[str, int, str, float]) -> Readings:
    """Of the cells a and b, which have two sites each; what is given is cell, seed, site and steps."""
    cells = [(cell, "{}", "degradation", cell, depth, 8, 16, "", "1", "none", "digits", "", "float64", rate)
             for cell, depth, rate in (("b", 4, 0.1), ("a", 9, 3.0))]  # fmt: skip
    sites = [(cell, site, order, order + 1, *SITE) for cell in "ab" for order, site in enumerate(("stem", "head"))]
    rows = [(cell, seed, 20, site, 0, "stopped", value) for cell, seed, site, value in found]
    rows += [("a", seed, 0, "stem", 0, "train_loss", 1.0) for seed in range(5)]
    return Readings(
        pl.DataFrame(rows, schema=ROWS, orient="row"),
        pl.DataFrame(cells, schema=CELLS | {"rate": pl.Float64}, orient="row"),
        pl.DataFrame(sites, schema=SITES, orient="row"),
    )


def test_every_network_that_stopped_has_a_row():
    found = stops(readings(("a", 3, "head", 2.0), ("a", 1, "stem", 7.0), ("b", 4, "head", 5.0)))

    assert found.columns == ["cell", "study", "design", "norm", "depth", "rate", "seed", "steps", "site", "layers"]
    assert found.rows() == [
        ("b", "degradation", "b", "none", 4, 0.1, 4, 5, "head", 2),
        ("a", "degradation", "a", "none", 9, 3.0, 1, 7, "stem", 1),
        ("a", "degradation", "a", "none", 9, 3.0, 3, 2, "head", 2),
    ]


def test_they_are_counted_by_site():
    found = [("a", 3, "head", 2.0), ("a", 1, "stem", 7.0), ("b", 4, "head", 5.0), ("a", 4, "head", 9.0)]

    assert stops_by_site(readings(*found)).rows(named=True) == [
        {"design": "b", "norm": "none", "depth": 4, "rate": 0.1, "site": "head", "n": 1, "fewest": 5, "most": 5},
        {"design": "a", "norm": "none", "depth": 9, "rate": 3.0, "site": "head", "n": 2, "fewest": 2, "most": 9},
        {"design": "a", "norm": "none", "depth": 9, "rate": 3.0, "site": "stem", "n": 1, "fewest": 7, "most": 7},
    ]


def test_none_stopped_and_a_study_without_rates():
    for table in (stops, stops_by_site):
        assert table(readings()).is_empty()
        assert table(studies.flow(depth=4, width=4, seeds=range(2))).is_empty()
        assert table(Readings.concat([])).is_empty()


@pytest.mark.parametrize("table", [stops, stops_by_site])
def test_what_are_no_readings_is_refused(table: Any):
    with pytest.raises(InputError, match=r"readings must be a Readings: .* give them; got DataFrame"):
        table(pl.DataFrame())


@pytest.mark.parametrize("study", ["degradation", "representation", "lesion", "identity"])
def test_every_study_that_trains_tells_it(study: str):
    recipe = Recipe(steps=4, batch=16, rate=1e6)
    told: dict[str, dict[str, Any]] = {
        "degradation": {"depths": 6, "designs": "plain", "norms": "none", "rates": 1e6, "recipe": recipe},
        "representation": {"depth": 3, "designs": "twin", "norm": "none", "recipe": recipe},
        "lesion": {"depth": 3, "designs": "twin", "norm": "none", "recipe": recipe},
        "identity": {"depths": 6, "scales": (), "designs": "plain", "rates": 1e12, "steps": 4},
    }
    small: dict[str, Any] = {"width": 8, "data": "patterns"} if study != "identity" else {"width": 32}
    measured = getattr(studies, study)(**told[study], **small, seeds=range(2), dtype="float32")

    found = stops(measured)
    assert found["seed"].to_list() == [0, 1]
    assert set(found["study"]) == {study}
    assert all(0 < steps <= 4 for steps in found["steps"])
    assert set(found["site"]) <= set(measured.sites["site"])
