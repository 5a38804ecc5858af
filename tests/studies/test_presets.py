"""The demo's sizes: every study accepts its settings, and takes its share of the seeds."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from skipscope import report, studies
from skipscope.studies.degradation import DEGRADATION_RATES
from skipscope.studies.presets import PRESETS, Part

PARTS = [pytest.param(part, id=f"{name}, {part.about}") for name, parts in PRESETS.items() for part in parts]
HOW: dict[str, Any] = {"dtype": "float64", "jobs": 1, "progress": None}
"""What the command line gives to every study."""


@pytest.mark.parametrize("part", PARTS)
def test_every_study_takes_its_settings(part: Part):
    inspect.signature(part.study).bind(seeds=range(2), **{**HOW, **part.settings})
    assert "seeds" not in part.settings  # they are the part's own
    assert part.seeds >= 2


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_all_that_is_reported_and_judged(name: str):
    measured = [part.study.__name__ for part in PRESETS[name]]

    apart = {"twin", "propagation", "responses", "train"}  # of a model of one's own, or of networks of images
    assert sorted(measured) == sorted(set(report.SECTIONS) - apart)
    for study in measured:
        assert getattr(studies, study) in [part.study for part in PRESETS[name]]


def test_full_is_the_demo_at_full_size():
    demo, full = PRESETS["demo"], PRESETS["full"]
    assert [(part.about, part.study) for part in demo] == [(part.about, part.study) for part in full]
    for small, large in zip(demo, full, strict=True):  # a demo that does less of each seed may take more of them
        assert small.seeds <= large.seeds or set(small.settings) - {"dtype"}
    longer = {"degradation": {"rates", "recipe", "tuning"}, "identity": {"rates"}}
    for part in full:  # the studies' own sizes, but for longer training, and over more rates
        assert set(part.settings) <= {"dtype"} | longer.get(part.study.__name__, set())


def test_the_full_preset_trains_for_longer_than_the_study_and_over_more_rates():
    (part,) = (part for part in PRESETS["full"] if part.study.__name__ == "degradation")
    assert part.settings["recipe"].steps == 1500
    assert set(DEGRADATION_RATES) < set(part.settings["rates"])


@pytest.mark.parametrize("name", PRESETS)
def test_what_trains_on_data_does_so_in_single_precision(name: str):
    trained = {part.study.__name__ for part in PRESETS[name] if part.settings.get("dtype") == "float32"}
    assert trained == {"representation", "degradation", "lesion"}


def asked(part: Part, **given: Any) -> dict[str, Any]:
    """With which arguments a part runs its study."""
    calls: list[dict[str, Any]] = []

    def study(**fields: Any) -> Any:
        calls.append(fields)

    Part(part.about, study, part.seeds, part.settings).run(**given)
    (call,) = calls
    return call


@pytest.mark.parametrize(
    ("own", "seeds", "expected"),
    [
        (200, range(200), range(200)),
        (2000, range(200), range(2000)),
        (200, range(20), range(20)),
        (2000, range(20), range(200)),
        (8, range(200), range(8)),
        (8, range(400), range(16)),
        (8, range(20), range(2)),  # fewer would have no spread
        (8, range(1), range(2)),
        (8, range(100, 300), range(100, 108)),
        (2000, range(7, 27), range(7, 207)),
    ],
)
def test_seeds_are_a_share_of_the_parts_own(own: int, seeds: range, expected: range):
    part = Part("something", studies.flow, own)
    assert asked(part, seeds=seeds, whole=200) == {"seeds": expected}


def test_settings_go_before_what_the_command_line_says():
    part = Part("something", studies.flow, 4, {"dtype": "float32", "depth": 7})
    call = asked(part, seeds=range(200), whole=200, **HOW)
    assert call == {"seeds": range(4), "dtype": "float32", "depth": 7, "jobs": 1, "progress": None}
