"""What readings of study `train` say, on readings whose answer is known; its chart and its section."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from skipscope import InputError, Readings, Spec, charts, convergence, report, studies
from skipscope.convergence import LEAST
from skipscope.data import load_images
from skipscope.outcomes import MARGIN, OUTCOMES
from skipscope.report import Claims


@pytest.fixture(scope="module")
def measured() -> Readings:
    """Plain and residual networks of two depths, a few steps."""
    names = ["cifar-14", "cifar-8-plain", "cifar-8", "cifar-14-plain"]
    return studies.train(names, width=4, steps=4, batch=16, record=2, seeds=range(4))


def with_losses(readings: Readings, losses: dict[tuple[str, int], Any], quantity: str = "train_loss") -> Readings:
    """Other losses after the last step, by design and depth: one for every seed."""
    cells = {(row["design"], row["depth"]): row["cell"] for row in readings.cells.iter_rows(named=True)}
    rows = readings.rows
    for network, values in losses.items():
        for seed, value in enumerate(values):
            here = (pl.col("cell") == cells[network]) & (pl.col("seed") == seed) & (pl.col("step") == 4)
            chosen = here & (pl.col("quantity") == quantity)
            rows = rows.with_columns(value=pl.when(chosen).then(pl.lit(float(value))).otherwise("value"))
    return Readings(rows, readings.cells, readings.sites, readings.meta)


def verdicts(readings: Readings) -> dict[tuple[str, str], str]:
    return {(each.rule, each.subject.partition(",")[0]): each.verdict for each in convergence.findings(readings)}


BASE = {("cifar", 8): [1.0, 1.1, 0.9, 1.0]}


@pytest.mark.parametrize(
    ("added", "verdict"),
    [
        ([0.30, 0.31, 0.29, 0.30], "degrades"),
        ([0.0, 0.01, -0.01, 0.0], "does not degrade"),
        ([-0.3, -0.3, -0.31, -0.3], "does not degrade"),
        ([0.04, 0.06, 0.05, 0.05], "cannot tell"),  # around the margin
        ([0.3, -0.3, 0.3, -0.3], "cannot tell"),
        ([math.nan, 0.30, 0.31, 0.29], "degrades"),  # as guessing, ln 10, it is 1.3 above
    ],
)
def test_degradation_is_judged_by_paired_losses(measured: Readings, added: list[float], verdict: str):
    deeper = [base + more for base, more in zip(BASE["cifar", 8], added, strict=True)]
    readings = with_losses(measured, {**BASE, ("cifar", 14): deeper})
    if math.isnan(added[0]):  # one huge difference among small ones leaves no verdict
        verdict = "cannot tell"

    assert verdicts(readings)["degradation", "cifar"] == verdict
    row = convergence.paired(readings).row(
        by_predicate=(pl.col("design") == "cifar")
        & (pl.col("compared") == "depth")
        & (pl.col("quantity") == "train_loss"),
        named=True,
    )
    differences = [
        min(d, math.log(10)) - b if d == d else math.log(10) - b for d, b in zip(deeper, BASE["cifar", 8], strict=True)
    ]
    half = 3.182446 * np.std(differences, ddof=1) / 2  # t of 3 degrees of freedom at 97.5 %
    assert row["n"] == 4
    np.testing.assert_allclose(
        [row["mean"], row["low"], row["high"]],
        [np.mean(differences), np.mean(differences) - half, np.mean(differences) + half],
        rtol=1e-6,
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("change", "verdict"),
    [(-0.3, "trains better"), (0.0, "trains no better"), (0.3, "trains worse")],
)
def test_shortcuts_are_judged_at_the_most_layers_that_both_have(measured: Readings, change: float, verdict: str):
    plain = [1.0, 1.2, 0.8, 1.1]
    noise = [0.01, -0.01, 0.0, 0.005]
    deep = {("cifar-plain", 14): plain, ("cifar", 14): [p + change + n for p, n in zip(plain, noise, strict=True)]}
    assert verdicts(with_losses(measured, deep))["shortcuts", "cifar"] == verdict


def test_fewer_than_three_pairs_give_no_verdict(measured: Readings):
    assert LEAST == 3
    losses = {("cifar", 8): [0.1] * 4, ("cifar", 14): [1.0, 1.01, 0.99, 1.0]}
    readings = with_losses(measured, losses)
    for seeds, verdict in ((2, "cannot tell"), (3, "degrades")):
        few = Readings(readings.rows.filter(pl.col("seed") < seeds), readings.cells, readings.sites, readings.meta)
        (finding,) = [each for each in convergence.findings(few) if each.subject.startswith("cifar, 14 layers") and
                      each.rule == "degradation"]  # fmt: skip
        assert finding.verdict == verdict
        assert ("train more seeds" in finding.statement) == (seeds == 2)
        assert f"{MARGIN:g} nats" in finding.threshold


def test_networks_of_another_engine_or_rate_are_not_compared(measured: Readings):
    for column, value in (("engine", "torch, cpu"), ("rate", 0.01), ("data", "other digits")):
        other = pl.when(pl.col("depth") == 14).then(pl.lit(value)).otherwise(column).alias(column)
        apart = Readings(measured.rows, measured.cells.with_columns(other), measured.sites, measured.meta)
        assert set(convergence.paired(apart)["compared"]) == {"shortcuts"}


def test_curves_are_medians_with_least_and_most(measured: Readings):
    table = convergence.curves(measured)
    assert table.select("design", "layers").unique(maintain_order=True).rows() == [
        ("cifar-plain", 8), ("cifar-plain", 14), ("cifar", 8), ("cifar", 14)
    ]  # fmt: skip
    assert sorted(table["step"].unique()) == [2, 4]
    for row in table.iter_rows(named=True):
        found = measured.rows.filter(cell=row["cell"], step=row["step"], quantity=row["quantity"])["value"]
        values = np.minimum(found, math.log(10)) if row["quantity"].endswith("_loss") else found.to_numpy()
        assert [row["median"], row["least"], row["most"]] == [np.median(values), values.min(), values.max()]
        assert (row["n"], row["width"]) == (4, 4)


def test_networks_that_stopped_count_as_guessing(measured: Readings):
    lost = {("cifar", 14): [math.nan] * 4}
    readings = with_losses(with_losses(measured, lost), lost, "train_error")
    final = convergence.final(readings).filter(design="cifar", layers=14)
    told = dict(final.select("quantity", "median").iter_rows())
    assert final["stopped"].to_list() == [4] * 4
    assert (told["train_loss"], told["train_error"]) == (math.log(10), 0.9)
    said = [each.statement for each in convergence.findings(readings) if "cifar, 14" in each.subject]
    assert any(
        "4 of 4 networks of 14 layers (cifar) stopped being a number; they count as guessing" in each for each in said
    )


def test_the_chart_draws_the_table(measured: Readings):
    table = charts.training_curves_data(measured)
    chart: dict[str, Any] = charts.training_curves(measured).to_dict()
    drawn = pl.DataFrame(next(iter(chart["datasets"].values())))

    assert drawn.height == table.height == 4 * 2 * 2
    assert set(drawn["panel"]) == {"cifar", "cifar-plain"}
    assert set(drawn["part"]) == {"training", "test"}
    both = drawn.join(table, on=["panel", "label", "part", "step"])
    np.testing.assert_allclose(both["mean"], both["mean_right"], rtol=1e-5)  # six digits are drawn
    assert "median of 4 seeds" in chart["title"]["subtitle"][0]


def test_where_images_were_held_out_loss_and_error_on_them_stand_beside_the_others(measured: Readings):
    held = load_images("digits", seed=0, validation=147)
    readings = studies.train(["cifar-8", "cifar-14"], width=4, steps=4, batch=16, record=2, seeds=range(3), data=held)
    for tabled in (convergence.curves, convergence.final, convergence.paired):
        assert tabled(readings)["quantity"].unique(maintain_order=True).to_list() == list(convergence.TITLES)
        assert tabled(measured)["quantity"].unique(maintain_order=True).to_list() == list(OUTCOMES)

    assert set(charts.training_curves_data(readings)["part"]) == {"training", "validation", "test"}
    chart: dict[str, Any] = charts.training_curves(readings).to_dict()
    assert "dotted: validation" in chart["title"]["subtitle"][0]
    filters = [one["filter"] for layer in chart["spec"]["layer"] for one in layer.get("transform", [])]
    assert "datum.part === 'validation'" in filters

    (section,) = report.sections_of(readings)
    assert "(validation error, test error)" in section.answer
    assert "The validation part is of the training images" in report.render([section], title="t", command="c")


def test_the_section_says_what_the_findings_say(measured: Readings):
    (section,) = report.sections_of(measured)
    page = report.render([section], title="t", command="c")
    assert section.anchor == "train"
    for finding in convergence.findings(measured):
        assert finding.subject in section.answer
        assert finding.threshold.split(":")[0] in page


def test_whether_a_network_has_shortcuts_its_spec_says_and_not_its_name():
    fields: dict[str, Any] = {"width": 2, "size": 8, "channels": 1}
    cases: list[tuple[str, Any, str]] = [("bare", "none", "Plain"), ("cifar-plain", "A", "Residual")]
    for name, shortcut, said in cases:
        specs = {f"{name}-{depth}": Spec.cifar(depth, shortcut=shortcut, **fields) for depth in (8, 14)}
        (section,) = report.sections_of(studies.train(specs, steps=2, batch=8, seeds=range(3)))
        (claims,) = [block.claims for block in section.blocks if isinstance(block, Claims)]
        assert [claim.claim.split()[0] for claim in claims] == [said]


def test_one_network_alone_is_shown_without_a_verdict():
    alone = studies.train("cifar-8", width=4, steps=2, batch=16, record=1)
    assert convergence.findings(alone) == []
    (section,) = report.sections_of(alone)
    assert section.anchor == "train"


def test_other_readings_are_refused(measured: Readings):
    with pytest.raises(InputError, match=r"these readings are not of study train: skipscope\.studies\.train gives"):
        convergence.curves(studies.flow(depth=4, width=4, seeds=range(2)))
