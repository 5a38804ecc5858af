"""What readings of study `lesion` say: tables, findings, charts and the report, on readings made up for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from skipscope import charts, lesions
from skipscope.designs import design
from skipscope.errors import InputError
from skipscope.lesions import block_data, damages, deleted_data, findings, intact_data, swapped_data
from skipscope.protocol import sites_of
from skipscope.readings import CELLS, ROWS, SITES, Readings
from skipscope.report import Claims, Figure, Findings, Prose, Section, lesion_section, sections_of

BLOCKS = 4
GUESS = 0.9
INTACT = 0.1
Values = dict[tuple[str, str], list[float]]  # (site, quantity) -> a value a seed


def made(name: str, done: str, values: Values, *, k: int | None = None, draw: int | None = None) -> Readings:
    """One cell as the study writes it."""
    spec = design(name, depth=BLOCKS, width=8, order="after-add", norm="batch")
    cell = f"{name}-{done}-{k}-{draw}"
    told = {
        "cell": cell, "spec": spec.to_json(), "study": "lesion", "design": name, "depth": BLOCKS, "width": 8,
        "batch": 100, "cotangent": "", "gain": "1.0, 1.0", "norm": "batch", "data": "digits", "edit": "",
        "dtype": "float64",
    }  # fmt: skip
    factors = {"order": "after-add", "steps": 10, "rate": 0.1, "done": done, "k": k, "draw": draw}
    cells = pl.DataFrame([{**told, **factors}], schema_overrides={**CELLS, "k": pl.Int64, "draw": pl.Int64})
    used = {site for site, _ in values}
    places = [site for site in sites_of(spec) if site.site in used]
    sites = pl.DataFrame(
        [
            (cell, p.site, p.order, p.depth, p.kind, p.name, p.activation, p.block, p.tied_to, "measured")
            for p in places
        ],
        schema=SITES,
        orient="row",
    )
    rows = [
        (cell, seed, 10, site, 0, quantity, value)
        for (site, quantity), each in values.items()
        for seed, value in enumerate(each)
    ]
    return Readings(pl.DataFrame(rows, schema=ROWS, orient="row"), cells, sites)


def network(
    name: str,
    *,
    one: Callable[[int], float],
    several: Callable[[int], float] = lambda k: 0.0,
    swapped: Callable[[float], float] = lambda tau: 0.0,
    ratio: Callable[[int], float] | None = None,
    seeds: int = 10,
    spread: float = 0.0,
    intact: float = INTACT,
    step: int = 0,
) -> Readings:
    """A network whose damages are those given: of one block, by k, by tau; with noise of some spread over seeds."""
    noise = np.random.default_rng(step).normal(scale=spread, size=seeds)
    sites = [f"stage1.block{block}" for block in range(1, BLOCKS + 1)]

    def errors(damage: float) -> list[float]:
        return [intact + (damage + each) * (GUESS - intact) for each in noise]

    before: Values = {("network", "test_error"): [intact] * seeds, ("network", "guess_error"): [GUESS] * seeds}
    if ratio is not None:
        before |= {(site, "branch_ratio"): [ratio(block)] * seeds for block, site in enumerate(sites, start=1)}
    parts = [
        made(name, "training", {("network", "test_error"): [intact] * (seeds + 1)}),
        made(name, "nothing", before),
        made(name, "one deleted", {(s, "test_error"): errors(one(b)) for b, s in enumerate(sites, start=1)}, k=1),
    ]
    for k in (1, 2, 4):
        parts += [
            made(name, "deleted", {("network", "test_error"): errors(several(k) + lift)}, k=k, draw=draw)
            for draw, lift in enumerate((-0.01, 0.01))
        ]
        tau = 1 - 0.4 * k
        values: Values = {("network", "test_error"): errors(swapped(tau)), ("network", "kendall_tau"): [tau] * seeds}
        parts.append(made(name, "swapped", values, k=k, draw=0))
    return Readings.concat(parts)


def residual(**told: Any) -> Readings:
    given = {"one": lambda block: 0.02 * block, "several": lambda k: 0.1 * k, "swapped": lambda tau: 0.3 * (1 - tau)}
    return network("residual", **{**given, "ratio": lambda block: float(block), **told})


def verdicts(readings: Readings) -> dict[str, str]:
    return {finding.rule: finding.verdict for finding in findings(readings)}


# ----------------------------------------------------------------------------------------------------------- the tables


def test_damage_is_the_share_of_what_was_learnt_that_is_lost():
    found = damages(residual())
    assert set(found["done"]) == {"one deleted", "deleted", "swapped"}
    one = found.filter(done="one deleted", seed=3).sort("block")
    assert one["block"].to_list() == [1, 2, 3, 4]
    assert one["damage"].to_list() == pytest.approx([0.02, 0.04, 0.06, 0.08])
    assert one["error"].to_list() == pytest.approx([INTACT + 0.8 * damage for damage in (0.02, 0.04, 0.06, 0.08)])
    assert found.filter(done="swapped", k=2)["tau"].to_list() == pytest.approx([0.2] * 10)


def test_who_learnt_too_little_has_no_damage():
    for intact, learnt in ((0.44, 10), (0.46, 0)):  # half of guessing is 0.45
        readings = residual(intact=intact)
        assert damages(readings)["damage"].is_null().all() == (learnt == 0)
        assert intact_data(readings)["learnt"].to_list() == [learnt]
        assert (set(verdicts(readings).values()) == {"cannot tell"}) == (learnt == 0)


def test_intact_networks_and_those_whose_training_failed():
    row = intact_data(residual()).row(0, named=True)
    assert (row["design"], row["blocks"], row["plain"], row["begun"], row["n"]) == ("residual", 4, False, 11, 10)
    assert (row["intact"], row["guess"], row["damage"]) == pytest.approx((INTACT, GUESS, 0.05))
    assert row["error"] == pytest.approx(INTACT + 0.8 * 0.05)


def test_intervals_are_those_of_student():
    table = block_data(residual(spread=0.05)).filter(block=2)
    errors = damages(residual(spread=0.05)).filter(done="one deleted", block=2)["error"].to_numpy()
    low, high = stats.t.interval(0.95, 9, loc=errors.mean(), scale=stats.sem(errors))
    assert table.select("low", "high").row(0) == pytest.approx((low, high))
    alone = block_data(residual(seeds=1))
    assert alone["low"].null_count() == alone.height


def test_tables_begin_with_nothing_done_and_count_a_network_by_its_mean_over_draws():
    deleted, swapped = deleted_data(residual()), swapped_data(residual())
    assert deleted["k"].to_list() == swapped["k"].to_list() == [0, 1, 2, 4]
    assert deleted["damage"].to_list() == pytest.approx([0, 0.1, 0.2, 0.4])
    assert deleted["error"].to_list() == pytest.approx([0.1, 0.18, 0.26, 0.42])
    assert deleted["n"].to_list() == [10] * 4
    assert swapped["tau"].to_list() == pytest.approx([1, 0.6, 0.2, -0.6])
    assert swapped["damage"].to_list() == pytest.approx([0, 0.12, 0.24, 0.48])


def test_branches_stand_beside_the_blocks():
    both = residual() + network("twin", one=lambda block: 1.0)
    table = block_data(both)
    assert table.filter(design="residual")["ratio"].to_list() == [1, 2, 3, 4]
    assert table.filter(design="twin")["ratio"].null_count() == 4


def test_readings_without_an_intact_network_are_refused():
    with pytest.raises(InputError, match="no trained network with nothing done to it"):
        damages(residual().select(done="deleted"))
    with pytest.raises(InputError, match="no trained network with nothing done to it"):
        findings(Readings.concat([]))


# --------------------------------------------------------------------------------------------------------- the findings

HARDLY = "one deleted block hardly matters"
DESTROYS = "one deleted block destroys it"
SOFTEN = "shortcuts soften the loss of a block"
SMOOTHLY = "the error grows smoothly with the blocks deleted"
ORDER = "the more the order is disturbed, the larger the error"
LARGER = "blocks with larger branches matter more"


def test_every_claim_holds_where_it_does():
    both = residual(spread=0.01) + network("twin", one=lambda block: 0.95, spread=0.01, step=1)
    assert verdicts(both) == dict.fromkeys((HARDLY, DESTROYS, SOFTEN, SMOOTHLY, ORDER, LARGER), "holds")


def test_every_claim_is_denied_where_the_opposite_does():
    opposite = residual(
        one=lambda block: 1 - 0.05 * block,
        several=lambda k: 0.9,
        swapped=lambda tau: 0.5 + 0.3 * tau,
        spread=0.01,
    )
    both = opposite + network("twin", one=lambda block: 0.2, spread=0.01, step=1)
    assert verdicts(both) == dict.fromkeys((HARDLY, DESTROYS, SOFTEN, SMOOTHLY, ORDER, LARGER), "does not hold")


@pytest.mark.parametrize(
    ("rule", "told", "other"),
    [
        (HARDLY, {"one": lambda block: lesions.HARDLY, "spread": 0.1}, None),
        (DESTROYS, {}, {"one": lambda block: lesions.DESTROYED, "spread": 0.1, "step": 1}),
        (SOFTEN, {"spread": 0.1}, {"one": lambda block: 0.05, "spread": 0.1, "step": 1}),
        (SMOOTHLY, {"several": lambda k: lesions.DESTROYED, "spread": 0.1}, None),
        (SMOOTHLY, {"several": lambda k: 0.01 * k}, None),
        (LARGER, {"ratio": lambda block: 1.0}, None),
    ],
)
def test_what_is_not_decided_is_not_told(rule: str, told: dict[str, Any], other: dict[str, Any] | None):
    readings = residual(**told)
    if other is not None:
        readings += network("twin", **{"one": lambda block: 0.9, **other})
    assert verdicts(readings)[rule] == "cannot tell"


def test_few_networks_decide_nothing():
    few = residual(seeds=lesions.NETWORKS - 1) + network("twin", one=lambda block: 0.9, seeds=lesions.NETWORKS - 1)
    assert set(verdicts(few).values()) == {"cannot tell"}
    assert "7 networks" in findings(few)[0].statement


@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_the_threshold_of_hardly_is_where_it_is_said_to_be(factor: float):
    found = verdicts(residual(one=lambda block: factor * lesions.HARDLY))
    assert found[HARDLY] == ("holds" if factor < 1 else "does not hold")


def test_only_networks_trained_alike_are_paired():
    plain = network("twin", one=lambda block: 0.9)
    other = Readings(plain.rows, plain.cells.with_columns(steps=pl.lit(11, pl.Int64)), plain.sites)
    assert SOFTEN in verdicts(residual() + plain)
    assert SOFTEN not in verdicts(residual() + other)


def test_a_finding_says_what_it_rests_on():
    found = {finding.rule: finding for finding in findings(residual(spread=0.01))}
    for finding in found.values():
        assert finding.threshold
        assert "1605.06431" in finding.source
        assert finding.evidence.height
        assert "\n" not in finding.statement
    assert "(block 1), the most" in found[HARDLY].statement
    assert found[HARDLY].statement.endswith("(block 4).")
    assert "from 2 to 4" in found[SMOOTHLY].statement


def test_a_selection_of_lesions_is_judged_by_what_it_holds():
    only = residual().select(done=["nothing", "swapped"])
    assert set(verdicts(only)) == {ORDER}
    assert block_data(only).is_empty()
    assert deleted_data(only).is_empty()


# ----------------------------------------------------------------------------------------------------------- the charts


def both(**told: Any) -> Readings:
    return residual(spread=0.01, **told) + network("twin", one=lambda block: 0.95, spread=0.01, step=1)


def drawn(chart: Any) -> Any:
    (rows,) = chart.to_dict()["datasets"].values()
    return rows


def test_the_chart_of_blocks_is_the_table():
    table = charts.lesion_blocks_data(both())
    rows = drawn(charts.lesion_blocks(both()))
    assert table["panel"].unique(maintain_order=True).to_list() == ["residual", "twin"]
    assert table.drop("panel").equals(block_data(both()))
    assert [(row["panel"], row["block"]) for row in rows] == list(table.select("panel", "block").iter_rows())
    for name in ("error", "low", "high"):
        assert [row[name] for row in rows] == pytest.approx(table[name].to_list(), rel=1e-5)  # six digits are drawn
    rules = {row["panel"]: (row["intact_rule"], row["guess_rule"]) for row in rows if row["intact_rule"] is not None}
    assert rules == {panel: pytest.approx((INTACT, GUESS)) for panel in ("residual", "twin")}


@pytest.mark.parametrize(
    ("chart", "of", "x"), [("lesion_deleted", deleted_data, "k"), ("lesion_swapped", swapped_data, "tau")]
)
def test_the_charts_of_random_choices_are_their_tables(chart: str, of: Callable[..., pl.DataFrame], x: str):
    table, rows = of(both()), drawn(getattr(charts, chart)(both()))
    assert {(row["panel"], row["label"]) for row in rows} == {("digits", "residual"), ("digits", "twin")}
    for name in (x, "error", "low", "high"):
        assert [row[name] for row in rows] == pytest.approx(table[name].to_list(), rel=1e-5, abs=1e-9)
    assert sum(row["guess_rule"] is not None for row in rows) == 1


def test_what_was_not_measured_is_not_drawn():
    only = both().select(done=["nothing", "swapped"])
    for chart in (charts.lesion_blocks, charts.lesion_deleted):
        with pytest.raises(InputError, match="there is nothing to draw"):
            chart(only)


# ----------------------------------------------------------------------------------------------------------- the report


def text(section: Section) -> str:
    prose = [each for block in section.blocks if isinstance(block, Prose) for each in block.paragraphs]
    claims = [each.measured for block in section.blocks if isinstance(block, Claims) for each in block.claims]
    return " ".join([section.answer, *prose, *claims])


def held(section: Section) -> list[str]:
    (claims,) = [block.claims for block in section.blocks if isinstance(block, Claims)]
    return [claim.holds for claim in claims]


def test_the_section_says_what_the_findings_say():
    (section,) = sections_of(both())
    assert section.anchor == "lesion"
    assert held(section) == ["right"] * 6
    told = text(section)
    assert "from 10.0 % to 14.1 % in the residual networks and from 10.0 % to 86.2 % in the twin" in told
    assert "guessing has 90.0 %" in told
    assert "With shortcuts less of what was learnt is lost than without" in told
    assert "here 2^4 of them" in told
    assert "as in an ensemble" in told
    assert "those that add more are missed more" in told
    assert "With every block deleted, input and output layer alone, the damage is 0.40 in the residual" in told
    (found,) = [block.findings for block in section.blocks if isinstance(block, Findings)]
    assert [each.rule for each in found] == [each.rule for each in findings(both())]
    assert len([block for block in section.blocks if isinstance(block, Figure)]) == 3


def test_the_section_says_the_opposite_when_the_findings_do():
    opposite = residual(one=lambda block: 1 - 0.05 * block, several=lambda k: 0.9, swapped=lambda tau: tau, spread=0.01)
    section = lesion_section(opposite + network("twin", one=lambda block: 0.2, spread=0.01, step=1))
    assert held(section) == ["wrong"] * 6
    told = text(section)
    assert "With shortcuts more of what was learnt is lost than without" in told
    assert "no ensembles whose members can be missed" in told
    assert "as in an ensemble" not in told
    assert "missed more" not in told


def test_the_section_does_not_judge_few_networks():
    section = lesion_section(residual(seeds=3) + network("twin", one=lambda block: 0.9, seeds=3))
    assert set(held(section)) == {"unknown"}
    assert "these networks do not decide" in section.answer


def test_the_section_says_which_networks_are_missing():
    told = text(lesion_section(residual() + network("twin", one=lambda block: 0.9, intact=0.6)))
    assert "Training failed for 1 of 11 in residual." in told
    assert "In twin 10 networks of 10 kept more than 0.5 of the error of guessing" in told


def test_a_section_of_plain_networks_speaks_of_no_ensemble():
    section = lesion_section(network("twin", one=lambda block: 0.9))
    assert "ensemble" not in text(section)
    assert held(section) == ["right"]
