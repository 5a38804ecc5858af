"""The takeaways: every verdict follows from the findings, and the answer from the verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from skipscope import InputError, Readings, Spec, studies, takeaways
from skipscope.diagnosis import Finding, Verdict
from skipscope.takeaways import EXACT, answer
from skipscope.takeaways import takeaways as judge
from skipscope.training import Recipe

STUDIES = ("sweep", "flow", "highway", "degradation", "identity", "representation")

PLAIN, RESIDUAL = "plain-", "residual-"
"""How the cells of the networks without and with shortcuts are called."""

TIMES = "One draw shows that a residual network maintains gradient flow N times better"
VANISHES = "In a deep plain network the gradient vanishes"
PLUS = "dL/dx = dL/dy (dF/dx + I): the gradient has a second path"
KEEPS = "With shortcuts the gradient neither vanishes nor explodes"
FREE = "Shortcuts add no parameters"
WORSE = "More plain layers train worse: a higher training error, so it is not overfitting"
DEEPER = "With shortcuts more layers train no worse"
BETTER = "At equal depth shortcuts make a network train better"
BLAME = "Vanishing gradients are why deep plain networks train badly"
EASIER = "The identity is easier to represent with shortcuts"
ZERO = "The identity is easier because the branch need only be 0"
LEARNS = "Training makes classes easier to tell apart at the end of the body"
GROWS = "Deeper layers make classes easier to tell apart than the first layer does"
IMAGENET = "152 layers can be trained; an ensemble of residual networks makes 3.57 % top-5 errors on ImageNet"
HISTORY = "DenseNet and ResNeXt build on it"

ORDER = (
    TIMES, VANISHES, PLUS, KEEPS, FREE, WORSE, DEEPER, BETTER, BLAME, EASIER, ZERO, LEARNS, GROWS, IMAGENET, HISTORY
)  # fmt: skip


def called(readings: Readings, study: str) -> Readings:
    """The readings as if they were of that study."""
    name = pl.concat_str("cell", pl.lit(f"-{study}"))
    return Readings(
        readings.rows.with_columns(cell=name),
        readings.cells.with_columns(cell=name, study=pl.lit(study)),
        readings.sites.with_columns(cell=name),
        readings.meta,
    )


@pytest.fixture(scope="module")
def flow() -> Readings:
    return studies.flow(depth=4, width=4, designs=["plain", "residual"], seeds=range(2))


@pytest.fixture(scope="module")
def highway() -> Readings:
    return studies.highway(depth=4, width=6, seeds=range(3))


@pytest.fixture(scope="module")
def labelled(flow: Readings, highway: Readings) -> Readings:
    """Cells of every study, a plain and a residual network each: what was found in them is up to the test."""
    return Readings.concat([highway, *(called(flow, study) for study in STUDIES if study != "highway")])


@pytest.fixture
def verdicts(labelled: Readings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Finding]]:
    """The takeaways, where a study found what is given: (rule, beginning of the cell's name, verdict), ..."""

    def of(study: str, *given: tuple[str, str, Verdict]) -> dict[str, Finding]:
        cells = labelled.cells.filter(study=study)["cell"]
        found = [
            finding(rule, next(cell for cell in cells if cell.startswith(start)), verdict, f"subject {i}")
            for i, (rule, start, verdict) in enumerate(given)
        ]
        for name in takeaways._FINDERS:
            monkeypatch.setitem(takeaways._FINDERS, name, lambda _: [])
        monkeypatch.setitem(takeaways._FINDERS, study, lambda _: found)
        return {each.rule: each for each in judge(labelled)}

    return of


def finding(rule: str, cell: str, verdict: Verdict, subject: str) -> Finding:
    statement = f"{subject} was found {verdict}."
    return Finding(rule, cell, subject, verdict, statement, pl.DataFrame(), "a threshold", "a source")


# ------------------------------------------------------------------------------------------ one takeaway at a time

CONCLUSION = "the notebook's conclusion"
DEGRADES, HELPS, TRAINING = "degradation", "shortcuts", "gradient while training"
IDENTITY, NEAR = "represents x -> x better than the plain stack", "trained branches are near 0"
ABLE, DEPTH = "training makes classes more separable", "accuracy grows over depth, from the first layer"

JUDGED: list[tuple[str, str, str, str, tuple[Verdict, ...], tuple[Verdict, ...]]] = [
    # takeaway, study, rule, cell; which verdicts bear it out, which deny it
    (TIMES, "sweep", CONCLUSION, PLAIN, ("draws agree",), ("draws disagree", "contradicted")),
    (VANISHES, "flow", "gradient", PLAIN, ("vanishing",), ("healthy", "spread out", "exploding")),
    (KEEPS, "flow", "gradient", RESIDUAL, ("healthy",), ("vanishing", "spread out", "exploding", "dead")),
    (WORSE, "degradation", DEGRADES, PLAIN, ("degrades",), ("does not degrade",)),
    (DEEPER, "degradation", DEGRADES, RESIDUAL, ("does not degrade",), ("degrades",)),
    (BETTER, "degradation", HELPS, RESIDUAL, ("trains better",), ("trains no better", "trains worse")),
    (EASIER, "identity", IDENTITY, RESIDUAL, ("holds",), ("does not hold",)),
    (ZERO, "identity", NEAR, RESIDUAL, ("holds",), ("does not hold",)),
    (LEARNS, "representation", ABLE, RESIDUAL, ("holds",), ("does not hold",)),
    (GROWS, "representation", DEPTH, RESIDUAL, ("holds",), ("does not hold",)),
]


@pytest.mark.parametrize(("claim", "study", "rule", "cell", "yes", "no"), JUDGED, ids=[each[0] for each in JUDGED])
def test_a_takeaway_follows_from_its_findings(
    verdicts: Callable[..., dict[str, Finding]],
    claim: str,
    study: str,
    rule: str,
    cell: str,
    yes: tuple[Verdict, ...],
    no: tuple[Verdict, ...],
):
    for verdict in yes:
        assert verdicts(study, (rule, cell, verdict))[claim].verdict == "holds"
    for verdict in no:
        assert verdicts(study, (rule, cell, verdict))[claim].verdict == "does not hold"
        assert verdicts(study, (rule, cell, yes[0]), (rule, cell, verdict))[claim].verdict == "holds only if"
        # What cannot be told neither bears a takeaway out nor denies it.
        assert verdicts(study, (rule, cell, "cannot tell"), (rule, cell, verdict))[claim].verdict == "does not hold"
    assert verdicts(study, (rule, cell, "cannot tell"))[claim].verdict == "cannot tell"
    assert verdicts(study, ("another rule", cell, yes[0]))[claim].verdict == "cannot tell"


def test_what_depends_says_on_what(verdicts: Callable[..., dict[str, Finding]]):
    given = [(DEGRADES, PLAIN, "degrades"), (DEGRADES, PLAIN, "degrades"), (DEGRADES, PLAIN, "does not degrade")]

    found = verdicts("degradation", *given)[WORSE]

    assert found.verdict == "holds only if"
    assert found.statement == (
        "It holds for subject 0; subject 1. It does not for subject 2. subject 0 was found degrades. "
        "subject 2 was found does not degrade."
    )
    assert found.evidence.select("rule", "subject", "verdict").rows() == [
        (DEGRADES, f"subject {i}", verdict) for i, (_, _, verdict) in enumerate(given)
    ]


def test_what_always_holds_names_the_others(verdicts: Callable[..., dict[str, Finding]]):
    one = verdicts("degradation", (DEGRADES, PLAIN, "degrades"))[WORSE]
    several = verdicts("degradation", *[(DEGRADES, PLAIN, "degrades")] * 3)[WORSE]

    assert one.statement == "subject 0 was found degrades."
    assert several.statement == "subject 0 was found degrades. Likewise subject 1; subject 2."


def test_what_cannot_be_told_is_named_beside_what_can(verdicts: Callable[..., dict[str, Finding]]):
    found = verdicts("degradation", (DEGRADES, PLAIN, "degrades"), (DEGRADES, PLAIN, "cannot tell"))[WORSE]
    assert found.verdict == "holds"
    assert found.statement == "subject 0 was found degrades. It cannot be told for subject 1."
    assert found.evidence["side"].to_list() == ["for", "open"]


def test_the_answer_says_where_it_depends(verdicts: Callable[..., dict[str, Finding]]):
    given = (DEGRADES, RESIDUAL, "does not degrade"), (DEGRADES, RESIDUAL, "degrades")
    assert "(no worse: subject 0)" in answer([verdicts("degradation", *given)[DEEPER]])


def test_plain_and_residual_networks_are_told_apart(verdicts: Callable[..., dict[str, Finding]]):
    gradient = verdicts("flow", ("gradient", PLAIN, "healthy"), ("gradient", RESIDUAL, "exploding"))
    assert (gradient[VANISHES].verdict, gradient[KEEPS].verdict) == ("does not hold", "does not hold")
    assert gradient[VANISHES].statement == "subject 0 was found healthy."
    assert gradient[KEEPS].statement == "subject 1 was found exploding."
    trained = verdicts("degradation", (DEGRADES, PLAIN, "degrades"), (DEGRADES, RESIDUAL, "does not degrade"))
    assert (trained[WORSE].verdict, trained[DEEPER].verdict) == ("holds", "holds")


@pytest.mark.parametrize(
    ("gradient", "verdict"),
    [
        ("vanishing", "holds"),
        ("dead", "holds"),
        ("healthy", "does not hold"),
        ("exploding", "does not hold"),
        ("cannot tell", "cannot tell"),
    ],
)
def test_vanishing_is_blamed_only_where_networks_degrade(
    verdicts: Callable[..., dict[str, Finding]], gradient: Verdict, verdict: str
):
    worse = verdicts("degradation", (DEGRADES, PLAIN, "degrades"), (TRAINING, PLAIN, gradient))
    assert worse[BLAME].verdict == verdict
    fine = verdicts("degradation", (DEGRADES, PLAIN, "does not degrade"), (TRAINING, PLAIN, gradient))
    assert fine[BLAME].verdict == "cannot tell"
    assert "nothing to explain" in fine[BLAME].statement
    shortcuts = verdicts("degradation", (DEGRADES, RESIDUAL, "degrades"), (TRAINING, RESIDUAL, gradient))
    assert shortcuts[BLAME].verdict == "cannot tell"


# ------------------------------------------------------------------------------------------------ by the readings


def one(readings: Readings, claim: str) -> Finding:
    (found,) = (each for each in judge(readings) if each.rule == claim)
    return found


def with_share(readings: Readings, factor: float) -> Readings:
    """The readings with the shortcut's share at one junction of one draw multiplied."""
    first = pl.col("quantity") == "shortcut_share"
    here = first & (first.cum_sum() == 1)
    value = pl.when(here).then(pl.col("value") * factor).otherwise(pl.col("value"))
    return Readings(readings.rows.with_columns(value=value), readings.cells, readings.sites, readings.meta)


def test_shares_sum_to_one(highway: Readings):
    found = one(highway, PLUS)
    junctions = highway.rows.filter(quantity="shortcut_share").height
    assert found.verdict == "holds"
    assert f"At {junctions:,} junctions" in found.statement
    assert "sum to the whole" in found.statement
    assert found.evidence["furthest from 1"].item() < 1e-12


def test_shares_that_do_not_sum_to_one_are_seen(highway: Readings):
    share = highway.rows.filter(quantity="shortcut_share")["value"][0]
    found = one(with_share(highway, 1.5), PLUS)
    assert found.verdict == "does not hold"
    assert "sum to the whole" not in found.statement
    assert found.evidence["furthest from 1"].item() == pytest.approx(abs(share) / 2, rel=1e-6)
    assert one(with_share(highway, 1 + EXACT / 10), PLUS).verdict == "holds"  # rounding is allowed


def test_one_share_alone_is_not_summed(highway: Readings):
    found = one(highway.select(quantity="shortcut_share"), PLUS)
    assert (found.verdict, found.statement) == ("cannot tell", "No junction has both shares.")


def test_parameters_are_counted_by_the_specs(flow: Readings):
    found = one(flow, FREE)
    (spec,) = (spec for spec in map(Spec.from_json, flow.cells["spec"]) if not spec.stages[0].plain)
    assert found.verdict == "holds"
    assert found.evidence.rows() == [(spec.depth, 4, spec.parameters, spec.twin().parameters)]
    plain = one(flow.select(design="plain"), FREE)
    assert (plain.verdict, plain.statement) == (
        "cannot tell",
        "No residual network among these readings has a plain twin.",
    )


def test_parameters_that_differ_are_seen(flow: Readings, monkeypatch: pytest.MonkeyPatch):
    twin = Spec.twin
    monkeypatch.setattr(Spec, "twin", lambda spec: replace(twin(spec), head=replace(spec.head, features=99)))
    found = one(flow, FREE)
    assert found.verdict == "does not hold"
    assert found.statement.startswith("Of 1 residual networks measured, 1 have other numbers of parameters")


def test_a_branch_that_is_silent_has_no_twin():
    readings = studies.flow(depth=4, width=4, designs=["residual"], branch_gain="zero", seeds=range(2))
    assert one(readings, FREE).verdict == "cannot tell"


# ---------------------------------------------------------------------------------------------------- all of them


def test_every_takeaway_is_judged_in_order(labelled: Readings, flow: Readings):
    for readings in (labelled, flow):
        assert tuple(found.rule for found in judge(readings)) == ORDER


def test_what_needs_a_study_says_so(flow: Readings):
    found = {each.rule: each for each in judge(flow)}
    needed = {TIMES: "sweep", PLUS: "highway"}
    needed |= dict.fromkeys((WORSE, DEEPER, BETTER, BLAME), "degradation")
    needed |= dict.fromkeys((EASIER, ZERO), "identity") | dict.fromkeys((LEARNS, GROWS), "representation")
    for claim, study in needed.items():
        said = f"This needs the study {study}, of which there are no readings here."
        assert (found[claim].verdict, found[claim].statement) == ("cannot tell", said)
        assert found[claim].evidence.is_empty()
    for claim in (VANISHES, KEEPS, FREE):
        assert "This needs" not in found[claim].statement


def test_what_was_not_measured_here_is_quoted(flow: Readings):
    found = {each.rule: each for each in judge(flow)}
    assert [claim for claim in ORDER if found[claim].verdict == "quoted"] == [IMAGENET, HISTORY]
    assert "six models" in found[IMAGENET].statement
    assert all(found[claim].evidence.is_empty() for claim in (IMAGENET, HISTORY))


def test_every_takeaway_has_threshold_and_source(labelled: Readings):
    for found in judge(labelled):
        assert found.threshold
        assert "notebook" in found.source or "arXiv:" in found.source


def test_no_readings_are_refused(flow: Readings):
    with pytest.raises(InputError, match="nothing to judge the takeaways by"):
        judge(Readings(flow.rows.clear(), flow.cells, flow.sites, flow.meta))


def test_a_part_of_a_study_can_be_judged(highway: Readings, flow: Readings):
    """What its findings are about may have been left out."""
    part = highway + flow.select(quantity="activation_rms", site="stem")
    found = {each.rule: each for each in judge(part)}
    assert found[VANISHES].statement == "No finding in these readings is about it."
    assert found[PLUS].verdict == "holds"


@pytest.fixture(scope="module")
def measured() -> Readings:
    """All studies that takeaways ask, as small as they can be."""
    recipe, seeds = Recipe(steps=5), range(2)
    few: dict[str, Any] = {"width": 6, "seeds": seeds, "recipe": recipe}
    return Readings.concat(
        [
            studies.sweep(depths=(4, 8), width=4, seeds=range(4)),
            studies.flow(depth=4, width=4, seeds=range(20)),
            studies.highway(depth=4, width=6, seeds=seeds),
            studies.degradation(depths=(4, 6), designs=("plain", "matched"), norms=("none",), tuning=1, **few),
            studies.identity(
                scales=(1,), depths=(4,), designs=("plain", "residual"), rates=(0.1,), steps=5, batch=8, seeds=seeds
            ),
            studies.representation(depth=2, data="patterns", **few),
        ]
    )


def test_every_takeaway_finds_its_findings(measured: Readings):
    """A rule that is renamed where it is made would leave its takeaway without a finding."""
    found = {each.rule: each for each in judge(measured)}
    for claim in set(ORDER) - {PLUS, FREE, BLAME, IMAGENET, HISTORY}:
        assert not found[claim].evidence.is_empty(), claim
        assert "No finding" not in found[claim].statement
    gradients = takeaways._FINDERS["degradation"](measured.select(study="degradation"))
    assert {each.rule for each in gradients} >= {DEGRADES, HELPS, TRAINING}  # what BLAME rests on


def test_what_is_said_does_not_depend_on_the_order_of_cells(measured: Readings, tmp_path: Path):
    """A file is sorted by cell, and its report says what that of the readings in memory says."""
    measured.save(tmp_path / "readings.parquet")
    loaded = Readings.load(tmp_path / "readings.parquet")

    assert measured.cells["cell"].to_list() != loaded.cells["cell"].to_list()
    for mine, theirs in zip(judge(measured), judge(loaded), strict=True):
        assert (mine.verdict, mine.statement) == (theirs.verdict, theirs.statement)


def test_real_readings_are_judged(measured: Readings):
    found = {each.rule: each.verdict for each in judge(measured)}
    # At depth 4 nothing has had room to vanish or to explode by a factor of 10; a few blocks of width 4 spread draws.
    assert found[VANISHES] in ("does not hold", "cannot tell")
    assert found[PLUS] == found[FREE] == "holds"
    assert found[WORSE] == found[DEEPER] == "cannot tell"  # two pairs are too few


# ------------------------------------------------------------------------------------------------------ the answer


def said(**given: str) -> list[Finding]:
    """Findings on takeaways by the names that they have here, in no order of theirs."""
    return [finding(globals()[name], "", verdict, "it") for name, verdict in given.items()]  # type: ignore[arg-type]


def test_the_answer_is_one_paragraph_in_its_own_order():
    first, *rest = [
        said(PLUS="holds"),
        said(VANISHES="does not hold"),
        said(KEEPS="does not hold"),
        said(TIMES="does not hold"),
        said(WORSE="holds"),
        said(DEEPER="holds"),
        said(BETTER="holds"),
        said(BLAME="does not hold"),
        said(EASIER="holds"),
        said(FREE="holds"),
    ]
    # Whatever is found, the scope of it is said last.
    scope = answer(said(FREE="holds")).partition("All this costs not one parameter. ")[2]
    sentences = [answer(each).removesuffix(f" {scope}") for each in (first, *rest)]

    assert "small fully connected networks" in scope
    assert len(set(sentences)) == 10
    whole = answer([each for found in reversed([first, *rest]) for each in found])
    assert whole == " ".join([*sentences, scope])
    assert sentences[0].startswith("A skip connection gives signal and gradient a second path")
    assert sentences[-1] == "All this costs not one parameter."


@pytest.mark.parametrize(
    "claim",
    [name for name in ("VANISHES", "KEEPS", "WORSE", "DEEPER", "BETTER", "BLAME", "EASIER")],
)
def test_the_answer_turns_with_the_verdict(claim: str):
    sentences = {verdict: answer(said(**{claim: verdict})) for verdict in ("holds", "does not hold", "holds only if")}
    assert len(set(sentences.values())) == 3
    for verdict, sentence in sentences.items():
        assert "do not tell" not in sentence, verdict


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"VANISHES": "holds"}, "the gradient of the deep plain networks measured here vanishes"),
        ({"VANISHES": "does not hold"}, "does not vanish in the mean"),
        ({"KEEPS": "holds"}, "With it, the gradient keeps its size."),
        ({"KEEPS": "does not hold"}, "With it the gradient need not keep its size"),
        ({"WORSE": "does not hold", "DEEPER": "does not hold"}, "no higher training loss. With shortcuts they train"),
        ({"BETTER": "does not hold"}, "At equal depth the network with shortcuts trains no better."),
        ({"BLAME": "holds"}, "Where networks degrade, their gradient had vanished."),
        ({"EASIER": "does not hold"}, "no better than a plain one"),
    ],
)
def test_what_the_answer_says(given: dict[str, str], expected: str):
    assert expected in answer(said(**given))


def test_without_verdicts_the_answer_says_that_it_cannot_tell():
    unknown = "These readings do not tell what skip connections do: no takeaway could be judged."
    assert answer([]) == unknown
    assert answer(said(VANISHES="cannot tell", WORSE="cannot tell", IMAGENET="quoted")) == unknown
    assert answer(said(VANISHES="cannot tell", FREE="holds")).startswith("All this costs not one parameter. That is")
