"""What readings of study `degradation` say: intervals, tables and all verdicts, where the answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from skipscope import InputError, Readings, charts, report, studies
from skipscope.degradation import PAIRS, curves, final, findings, gradients, paired, rates
from skipscope.designs import design
from skipscope.diagnosis import FACTOR, Finding
from skipscope.intervals import mean_interval
from skipscope.outcomes import MARGIN
from skipscope.readings import ROWS, SITES
from skipscope.report import Claims, Findings, Prose, Table

Array = NDArray[np.float64]
STEPS = (0, 10, 20)
LN10 = math.log(10)


def network(
    name: str,
    depth: int,
    *,
    losses: Iterable[float | None],
    growth: float | Callable[[int, int], float] = 1.0,
    norm: str = "batch",
    rate: float = 0.1,
    tuning: bool = False,
    first: int = 0,
) -> Readings:
    """Readings as the study makes them: of seed i the i-th loss after the last step; None for one that stopped."""
    spec = design(name, depth=depth, width=8, features=64, outputs=10, output="linear", order="after-add", norm=norm)
    cell = f"{name}-{depth}-{norm}-{rate}-{tuning}"
    rows = []
    for seed, loss in enumerate(losses, start=first):
        for step in STEPS:
            if loss is None and step == STEPS[-1]:
                continue
            known = LN10 if loss is None or step < STEPS[-1] else loss
            values = {
                "train_loss": known,
                "test_loss": known + 0.1,
                "train_error": known / 4,
                "test_error": known / 3,
                "gradient_norm": 2.0,
                "backward_growth": growth(seed, step) if callable(growth) else growth,
            }
            rows += [(cell, seed, step, "network", 0, quantity, value) for quantity, value in values.items()]
    place = {"order": 9, "depth": spec.depth, "kind": "network", "name": "network", "activation": "", "block": 0}
    told = {"study": "degradation", "design": name, "depth": depth, "width": 8, "norm": norm, "data": "digits, seed 0"}
    how = {"batch": 64, "cotangent": "", "gain": "1.0, 1.0", "edit": "", "dtype": "float64"}
    run = {"rate": rate, "steps": STEPS[-1], "recipe": "constant rate", "tuning": tuning}
    return Readings(
        rows=pl.DataFrame(rows, schema=ROWS, orient="row"),
        cells=pl.DataFrame([{"cell": cell, "spec": spec.to_json(), **told, **how, **run}]),
        sites=pl.DataFrame(
            [{"cell": cell, "site": "network", **place, "tied_to": "", "status": "measured"}], schema=SITES
        ),
    )


def losses(mean: float, half: float = 0.01, n: int = PAIRS) -> list[float]:
    """n losses around a mean, half of them above by `half` and half below."""
    return [mean + half * (-1) ** i for i in range(n)]


def found(*parts: Readings) -> dict[tuple[str, str], Finding]:
    """The findings by design and rule."""
    readings = Readings.concat(parts)
    designs = dict(readings.cells.select("cell", "design").iter_rows())
    return {(designs[finding.cell], finding.rule): finding for finding in findings(readings)}


# --------------------------------------------------------------------------------------------------------- intervals


def test_the_interval_is_students(rng: np.random.Generator):
    from scipy import stats

    values = rng.normal(size=9)
    mean, low, high = mean_interval(values)
    expected = stats.t.interval(0.95, 8, loc=values.mean(), scale=stats.sem(values))
    assert mean == pytest.approx(values.mean(), rel=1e-13)
    assert (low, high) == pytest.approx(expected, rel=1e-12)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Of 20,000 draws of 8 pairs 95 % are to cover, with a standard error of sqrt(0.95 x 0.05/20,000) = 0.0015.

    Four of them are 0.006. An interval 5 % too narrow covers 94.1 % (Student's t of 7 degrees at 0.95 x 2.365).
    """
    rng = np.random.default_rng(7)
    shallow = rng.normal(0.3, 0.2, size=(20_000, PAIRS))
    deep = shallow + rng.normal(0.1, 0.05, size=shallow.shape)  # alike seed by seed, as pairs are
    ends = np.array([mean_interval(row)[1:] for row in deep - shallow], np.float64)
    covered = ((ends[:, 0] < 0.1) & (ends[:, 1] > 0.1)).mean()
    assert abs(covered - 0.95) < 0.006


def test_at_the_margin_one_in_forty_is_called_degrading():
    """A true difference of the margin itself is called `degrades` when the whole interval is above: 2.5 % of times.

    20,000 draws: standard error sqrt(0.025 x 0.975/20,000) = 0.0011, of which 4 are 0.0044. An interval 5 % too narrow
    would call 2.97 % so.
    """
    rng = np.random.default_rng(11)
    differences = MARGIN + rng.normal(0, 0.03, size=(20_000, PAIRS))
    lows = np.array([mean_interval(row)[1] for row in differences], np.float64)
    assert abs((lows > MARGIN).mean() - 0.025) < 0.0044


def test_pairs_are_what_narrows_the_interval(rng: np.random.Generator):
    """Seeds differ by 0.3, pairs by 0.001: unpaired, no difference could be told."""
    seeds = 0.5 + 0.3 * rng.random(PAIRS)
    deep = seeds + 0.06 + 0.001 * rng.normal(size=PAIRS)
    both = found(network("plain", 6, losses=seeds), network("plain", 20, losses=deep))
    assert both["plain", "degradation"].verdict == "degrades"
    shuffled = found(network("plain", 6, losses=seeds), network("plain", 20, losses=np.roll(deep, 3)))
    assert shuffled["plain", "degradation"].verdict == "cannot tell"


def test_what_has_no_interval():
    assert mean_interval([2.0]) == (2.0, None, None)
    assert mean_interval([1.0, 1.0, 1.0]) == (1.0, 1.0, 1.0)
    for values in ([], [1.0, math.inf], [math.nan]):
        with pytest.raises(InputError, match="values must be finite numbers, one at least"):
            mean_interval(values)


# ---------------------------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("difference", "half", "verdict"),
    [
        (2.0, 0.01, "degrades"),
        (MARGIN + 0.02, 0.01, "degrades"),
        (MARGIN - 0.02, 0.01, "does not degrade"),  # larger than 0 without doubt, and smaller than counts
        (-0.2, 0.01, "does not degrade"),
        (MARGIN, 0.01, "cannot tell"),
        (0.0, 0.2, "cannot tell"),  # not significant is not "does not"
        (0.5, 0.8, "cannot tell"),
    ],
)
def test_degradation(difference: float, half: float, verdict: str):
    shallow = [0.2] * PAIRS
    deep = [0.2 + each for each in losses(difference, half)]
    finding = found(network("plain", 6, losses=shallow), network("plain", 20, losses=deep))["plain", "degradation"]
    assert finding.verdict == verdict
    assert "From 6 to 20 weight layers of the plain design, with batch norm" in finding.statement
    assert finding.evidence.columns == ["seed", "plain, 20 layers", "plain, 6 layers"]
    assert f"{MARGIN:g}" in finding.threshold
    # Who reads an interval above 0 beside "does not degrade" is told what it was held against.
    told = "That is less than the 0.05 nats from which networks are said to train worse." in finding.statement
    assert told == (verdict == "does not degrade" and difference > half)


def test_fewer_pairs_than_a_verdict_needs():
    n = PAIRS - 1
    shallow = network("plain", 6, losses=losses(0.1, n=n))
    finding = found(shallow, network("plain", 20, losses=losses(2.0, n=n)))
    assert finding["plain", "degradation"].verdict == "cannot tell"
    assert f"A verdict needs {PAIRS} pairs" in finding["plain", "degradation"].statement
    assert finding["plain", "gradient while training"].verdict == "cannot tell"


def test_one_depth_alone_is_no_question():
    assert found(network("plain", 6, losses=losses(0.1))) == {}


@pytest.mark.parametrize(
    ("difference", "half", "verdict"),
    [
        (-0.5, 0.01, "trains better"),
        (0.5, 0.01, "trains worse"),
        (0.0, 0.01, "trains no better"),
        (-MARGIN, 0.02, "cannot tell"),
    ],
)
def test_shortcuts(difference: float, half: float, verdict: str):
    plain = [network("plain", depth, losses=[0.8] * PAIRS) for depth in (6, 20)]
    same = network("matched", 6, losses=[0.8] * PAIRS)
    other = network("matched", 20, losses=[0.8 + each for each in losses(difference, half)])
    finding = found(*plain, same, other)["matched", "shortcuts"]
    assert finding.verdict == verdict
    assert "At 20 weight layers" in finding.statement


def test_only_networks_of_the_same_layers_and_norm_are_set_against_each_other():
    """A residual network of 3 blocks has 8 layers; its twin has them, the plain network of depth 3 does not."""
    parts = [network(name, 3, losses=losses(0.1)) for name in ("plain", "residual", "twin")]
    parts += [network("plain", 8, losses=losses(0.1)), network("plain", 8, losses=losses(0.1), norm="none")]
    table = paired(Readings.concat(parts)).filter(quantity="train_loss", compared="shortcuts")
    assert sorted(table.select("design", "against", "norm", "layers", "against_layers").rows()) == [
        ("residual", "plain", "batch", 8, 8),
        ("residual", "twin", "batch", 8, 8),
    ]


def test_a_network_that_stopped_counts_as_guessing():
    deep = network("plain", 20, losses=[0.1] * 5 + [None] * 3)
    readings = network("plain", 6, losses=[0.1] * PAIRS) + deep
    table = final(readings).filter(layers=20)
    assert set(table["stopped"]) == {3}
    by_quantity = dict(table.select("quantity", "mean").iter_rows())
    assert by_quantity["train_loss"] == pytest.approx((5 * 0.1 + 3 * LN10) / 8)
    assert by_quantity["train_error"] == pytest.approx((5 * 0.1 / 4 + 3 * 0.9) / 8)
    assert curves(readings, "train_loss").filter(layers=20, step=20)["mean"][0] == by_quantity["train_loss"]
    (finding,) = (each for each in findings(readings) if each.rule == "degradation")
    assert "3 of 8 networks of 20 layers (plain) stopped being a number" in finding.statement


def test_where_all_stop_it_degrades():
    all_stopped = network("plain", 20, losses=[None] * PAIRS)
    assert found(network("plain", 6, losses=losses(0.1)), all_stopped)["plain", "degradation"].verdict == "degrades"


def test_a_huge_loss_counts_no_more_than_guessing():
    table = final(network("plain", 6, losses=[1e9, 1e30, math.inf, math.nan] + [0.0] * 4))
    assert table.filter(quantity="train_loss")["mean"][0] == pytest.approx(LN10 / 2)


# ---------------------------------------------------------------------------------------------------------- gradients


def of_factor(factor: float) -> float:
    """The growth a block, on the squared norm, of a plain network of 20 layers, which has 18 blocks."""
    return float(factor ** (2 / 18))


@pytest.mark.parametrize(
    ("factor", "verdict", "said"),
    [
        (0.5 / FACTOR, "vanishing", "A vanishing gradient may explain"),
        (2 * FACTOR, "exploding", "does not explain it: it grows"),
        (1.3, "healthy", "a vanishing gradient does not explain it"),
        (0.0, "dead", "no gradient arrives may explain"),
    ],
)
def test_what_the_gradient_did(factor: float, verdict: str, said: str):
    shallow = network("plain", 6, losses=losses(0.1))
    deep = network("plain", 20, losses=losses(2.0), growth=of_factor(factor))
    finding = found(shallow, deep)["plain", "gradient while training"]
    assert finding.verdict == verdict
    assert said in finding.statement
    same = found(shallow, network("plain", 20, losses=losses(0.1), growth=of_factor(factor)))
    assert same["plain", "gradient while training"].verdict == verdict
    assert "explain" not in same["plain", "gradient while training"].statement


def test_a_gradient_that_may_explode_or_not_does_not_vanish():
    growth = lambda seed, step: of_factor(FACTOR / 3 if seed % 2 else 3 * FACTOR)  # noqa: E731 - about the threshold
    deep = network("plain", 20, losses=losses(2.0), growth=growth)
    finding = found(network("plain", 6, losses=losses(0.1)), deep)["plain", "gradient while training"]
    assert finding.verdict == "does not vanish"
    assert "does not explain it" in finding.statement


def test_draws_that_differ_do_not_tell():
    growth = lambda seed, step: of_factor(1e-4 if seed % 2 else 10.0)  # noqa: E731 - on both sides of a tenth
    deep = network("plain", 20, losses=losses(2.0), growth=growth)
    finding = found(network("plain", 6, losses=losses(0.1)), deep)["plain", "gradient while training"]
    assert finding.verdict == "cannot tell"


def test_the_factor_is_the_median_over_steps_and_the_geometric_mean_over_seeds():
    def growth(seed: int, step: int) -> float:
        return of_factor({0: 100.0, 10: 2.0 if seed % 2 else 8.0, 20: 0.5}[step])

    row = gradients(network("plain", 20, losses=losses(1.0), growth=growth)).row(0, named=True)
    assert row["factor"] == pytest.approx(4.0)  # the geometric mean of 2 and 8
    assert (row["began"], row["least"], row["most"]) == pytest.approx((100.0, 0.5, 100.0))
    assert row["norm_of_all"] == pytest.approx(2.0)
    assert (row["n"], row["dead"]) == (8, 0)


def test_a_gradient_that_does_not_arrive_has_no_geometric_mean():
    growth = lambda seed, step: 0.0 if seed < 3 and step else 1.0  # noqa: E731
    readings = network("plain", 20, losses=losses(1.0), growth=growth)
    row = gradients(readings).row(0, named=True)
    assert (row["n"], row["dead"], row["factor"]) == (5, 3, pytest.approx(1.0))
    assert curves(readings, "factor")["n"].to_list() == [8, 5, 5]


# -------------------------------------------------------------------------------------------------------------- rates


def tuned(best: float) -> Readings:
    """Two depths with their tuning; the deep one was tried at three rates, of which `best` was chosen."""
    tried = [
        network("plain", 20, losses=[0.1 if rate == best else 0.9] * 3, rate=rate, tuning=True, first=PAIRS)
        for rate in (0.01, 0.1, 1.0)
    ]
    measured = [network("plain", 6, losses=losses(0.1), rate=best), network("plain", 20, losses=losses(2.0), rate=best)]
    return Readings.concat([*tried, *measured])


def test_how_the_rates_were_chosen():
    table = rates(tuned(0.1))
    assert table.filter("chosen").select("rate", "n").rows() == [(0.1, 3)]
    assert table.filter("chosen")["train_loss"].to_list() == pytest.approx([0.1])
    assert table.height == 3
    assert set(final(tuned(0.1))["n"]) == {PAIRS}  # the seeds that chose are not measured


@pytest.mark.parametrize(
    ("best", "said"), [(0.01, "is the smallest that was tried"), (1.0, "is the largest that was tried"), (0.1, "")]
)
def test_a_rate_at_the_end_of_the_grid_is_said(best: float, said: str):
    finding = next(each for each in findings(tuned(best)) if each.rule == "degradation")
    assert (said in finding.statement) if said else ("that was tried" not in finding.statement)


def test_one_rate_for_all_is_said():
    finding = found(network("plain", 6, losses=losses(0.1)), network("plain", 20, losses=losses(2.0)))
    assert "No other learning rate than 0.1 was tried." in finding["plain", "degradation"].statement


# ------------------------------------------------------------------------------------------------- bad input, pictures


def test_readings_of_another_study_are_refused():
    other = studies.flow(depth=4, width=4, seeds=range(2))
    for asked in (final, paired, gradients, findings, rates, charts.learning_curves, charts.error_by_depth):
        with pytest.raises(InputError, match="not of study degradation"):
            asked(other)
    with pytest.raises(InputError, match="quantity must be one of"):
        curves(other, "beauty")
    with pytest.raises(InputError, match="quantity must be one of"):
        charts.gradient_curves_data(other, "train_loss")


@pytest.fixture(scope="module")
def readings() -> Readings:
    parts = [network("matched", depth, losses=losses(0.2), growth=1.1) for depth in (6, 20)]
    parts += [network("plain", depth, losses=losses(depth / 10), growth=1.2) for depth in (6, 20)]
    return Readings.concat(parts)


def test_the_curves_are_drawn_as_computed(readings: Readings):
    table = charts.learning_curves_data(readings)
    assert set(table["panel"]) == {"plain, batch norm", "matched, batch norm"}
    for part, quantity in (("training", "train_error"), ("test", "test_error")):
        expected = curves(readings, quantity)
        assert table.filter(part=part).select(expected.columns).equals(expected)
    chart = charts.learning_curves(readings)
    (drawn,) = chart.to_dict()["datasets"].values()
    assert len(drawn) == table.height
    assert [row["mean"] for row in drawn] == pytest.approx(table["mean"].to_list(), rel=1e-5)
    ends = [(row["panel"], row["end"]) for row in drawn if row["end"]]
    assert ends == [  # the residual networks end at one height, and have one label together
        ("plain, batch norm", "6"),
        ("plain, batch norm", "20"),
        ("matched, batch norm", "6, 20"),
    ]
    assert chart.to_dict()["facet"]["sort"] == ["plain, batch norm", "matched, batch norm"]
    assert "plain, batch norm, 20 layers: 58 %, after 20 steps 50 %" in chart.to_dict()["description"]


def test_of_one_recorded_step_there_are_dots_in_place_of_lines(readings: Readings):
    last = readings.rows.filter(pl.col("step") == pl.col("step").max())
    alone = Readings(last, readings.cells, readings.sites, readings.meta)
    for found, dots in ((readings, False), (alone, {"size": 30})):
        marks = [layer["mark"] for layer in charts.learning_curves(found).to_dict()["spec"]["layer"]]
        assert [mark["point"] for mark in marks if mark["type"] == "line"] == [dots] * 2


def test_error_is_drawn_against_weight_layers(readings: Readings):
    table = charts.error_by_depth_data(readings)
    assert table["panel"].unique(maintain_order=True).to_list() == [
        "training error, batch norm",
        "test error, batch norm",
    ]
    assert sorted(set(table["layers"])) == [6, 20]
    (drawn,) = charts.error_by_depth(readings).to_dict()["datasets"].values()
    assert [row["mean"] for row in drawn] == pytest.approx(table["mean"].to_list(), rel=1e-5)


@pytest.mark.parametrize("quantity", ["gradient_norm", "factor"])
def test_gradients_are_drawn_as_computed(readings: Readings, quantity: str):
    table = charts.gradient_curves_data(readings, quantity)
    assert table["mean"].equals(curves(readings, quantity)["mean"])
    (drawn,) = charts.gradient_curves(readings, quantity).to_dict()["datasets"].values()
    assert [row["mean"] for row in drawn] == pytest.approx(table["mean"].to_list(), rel=1e-5)


def test_the_order_of_the_file_does_not_matter(readings: Readings):
    backwards = Readings(readings.rows.reverse(), readings.cells.reverse(), readings.sites, readings.meta)
    assert final(backwards).equals(final(readings))
    assert paired(backwards).equals(paired(readings))


# ---------------------------------------------------------------------------------------------------------- the report


def claims(readings: Readings) -> dict[str, str]:
    (section,) = report.sections_of(readings)
    return {claim.claim: claim.holds for block in section.blocks if isinstance(block, Claims) for claim in block.claims}


def test_the_section_says_what_the_readings_say(readings: Readings):
    (section,) = report.sections_of(readings)
    assert (section.title, section.anchor) == ("Degradation", "degradation")
    assert section.answer == (
        "With batch normalisation, plain networks train worse the deeper they are (training loss +1.4 nats); residual "
        "(matched) networks do not, or by less than 0.05 nats (training loss 0 nats). Where training is worse, the "
        "gradient did not vanish in plain networks."
    )
    assert claims(readings) == {
        "Plain networks train worse the deeper they are, with batch normalisation.": "right",
        "Residual networks train no worse the deeper they are, with batch normalisation.": "right",
        "Deep networks train better with shortcuts, with batch normalisation.": "right",
        "It is the gradient that vanishes, with batch normalisation.": "wrong",
    }
    assert any(isinstance(block, Findings) for block in section.blocks)
    assert any(isinstance(block, Table) and "pair by pair" in block.caption for block in section.blocks)
    assert report.render([section], title="t", command="c")


def test_the_section_says_the_opposite_when_the_readings_do():
    parts = [network("plain", depth, losses=losses(0.2), norm="none") for depth in (6, 20)]
    parts += [network("matched", depth, losses=losses(depth / 10), growth=0.01, norm="none") for depth in (6, 20)]
    readings = Readings.concat(parts)
    (section,) = report.sections_of(readings)
    assert section.answer == (
        "Without normalisation, residual (matched) networks train worse the deeper they are (training loss +1.4 nats); "
        "plain networks do not, or by less than 0.05 nats (training loss 0 nats). Where training is worse, the "
        "gradient vanished in residual (matched) networks."
    )
    assert claims(readings) == {
        "Plain networks train worse the deeper they are, without normalisation.": "wrong",
        "Residual networks train no worse the deeper they are, without normalisation.": "wrong",
        "Deep networks train better with shortcuts, without normalisation.": "wrong",
    }


def test_the_section_on_one_depth_has_nothing_to_compare():
    (section,) = report.sections_of(network("plain", 6, losses=losses(0.2)))
    assert section.answer == "There is one depth alone, so nothing to compare."
    assert report.render([section], title="t", command="c")
    assert any(isinstance(block, Prose) for block in section.blocks)
