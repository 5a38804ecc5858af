"""The takeaways of the original notebook (its part N10), each judged by what the other studies found.

A takeaway is a sentence about networks in general; a finding is about one design in one setting. So a takeaway *holds*
where every finding that can say something bears it out, *does not hold* where every one denies it, and *holds only if*
where it depends: then it says on what. What only ImageNet can show is quoted as the paper's and marked so. This module
reads readings alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from skipscope import degradation, diagnosis, identity, separability, trends
from skipscope.diagnosis import Finding, Verdict
from skipscope.errors import InputError
from skipscope.readings import Readings, require_readings
from skipscope.spec import Spec
from skipscope.words import number

__all__ = ["answer", "study_of", "takeaways"]

EXACT = 1e-9
"""How far the shares of shortcut and branch may sum from 1: rounding."""

Judged = tuple[Verdict, str, pl.DataFrame]  # verdict, statement, evidence


_FINDERS: dict[str, Callable[[Readings], list[Finding]]] = {
    "flow": diagnosis.diagnose,
    "sweep": trends.findings,
    "degradation": degradation.findings,
    "identity": identity.findings,
    "representation": separability.findings,
}


class _Evidence:
    """Readings by study, and what each study finds in them."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings
        self._found: dict[str, list[Finding]] = {}

    def of(self, study: str) -> Readings | None:
        """The readings of one study, if there are any."""
        mine = self._readings.cells.filter(pl.col("study") == study)["cell"]
        return self._readings.select(cell=mine.to_list()) if len(mine) else None

    def found(self, study: str, rule: str) -> list[Finding]:
        """The findings of a study by one rule, in an order that does not change when readings are saved and loaded."""
        if study not in self._found:
            readings = self.of(study)
            self._found[study] = [] if readings is None else _findings(study, readings)
        return sorted((found for found in self._found[study] if found.rule == rule), key=lambda found: found.cell)

    def plain(self, finding: Finding) -> bool:
        """Whether a finding is about networks without shortcuts."""
        return all(stage.plain for stage in self.spec(finding.cell).stages)

    def spec(self, cell: str) -> Spec:
        """The networks of a cell."""
        return Spec.from_json(self._readings.cells.filter(pl.col("cell") == cell)["spec"].item())

    @cached_property
    def specs(self) -> list[Spec]:
        """All networks that were measured."""
        return [Spec.from_json(text) for text in self._readings.cells["spec"].unique(maintain_order=True) if text]


def _findings(study: str, readings: Readings) -> list[Finding]:
    try:
        return _FINDERS[study](readings)
    except InputError:  # a selection of a study, which lacks what its findings are about
        return []


@dataclass(frozen=True)
class _Takeaway:
    """One sentence of the notebook.

    Attributes:
        claim: the sentence.
        study: whose readings it needs; "" where none can tell.
        ask: judges it.
        threshold: what would have to change for another verdict.
        source: where the sentence is from.
    """

    claim: str
    study: str
    ask: Callable[[_Evidence], Judged]
    threshold: str
    source: str


def takeaways(readings: Readings) -> list[Finding]:
    """What the readings of several studies say to each of the notebook's takeaways.

    The verdicts are `holds`, `does not hold`, `holds only if`, `quoted` (from the paper) and `cannot tell`, also where
    the study that a takeaway needs is not among the readings.

    Raises:
        InputError: there are no readings.
    """
    require_readings(readings)
    if not len(readings):
        raise InputError("there is nothing to judge the takeaways by: these readings are empty.")
    evidence = _Evidence(readings)
    return [_judged(takeaway, evidence) for takeaway in _TAKEAWAYS]


def _judged(takeaway: _Takeaway, evidence: _Evidence) -> Finding:
    if takeaway.study and evidence.of(takeaway.study) is None:
        said = f"This needs the study {takeaway.study}, of which there are no readings here."
        verdict, statement, rows = _unknown(said)
    else:
        verdict, statement, rows = takeaway.ask(evidence)
    return Finding(
        rule=takeaway.claim,
        cell="",
        subject="the notebook's takeaway",
        verdict=verdict,
        statement=statement,
        evidence=rows,
        threshold=takeaway.threshold,
        source=takeaway.source,
    )


def answer(found: Iterable[Finding]) -> str:
    """What skip connections do, in one paragraph, from the verdicts on the takeaways."""
    by_claim = {finding.rule: finding for finding in found}
    said = [
        sentence.replace("{where}", _where(by_claim[claim]))
        for claim, sentences in _SAID.items()
        if claim in by_claim and (sentence := sentences.get(by_claim[claim].verdict))
    ]
    if not said:
        return "These readings do not tell what skip connections do: no takeaway could be judged."
    return " ".join([*said, _SCOPE])


def _where(finding: Finding) -> str:
    """The subjects that bear a takeaway out."""
    rows = finding.evidence.filter(side="for") if "side" in finding.evidence.columns else finding.evidence.clear()
    return "; ".join(dict.fromkeys(rows["subject"])) if rows.height else "some of them"


def study_of(claim: str) -> str:
    """The study that a takeaway rests on; "" where there is none."""
    return next((takeaway.study for takeaway in _TAKEAWAYS if takeaway.claim == claim), "")


# ---------------------------------------------------------------------------------------------------- how to judge


_NO_ROWS = pl.DataFrame(schema={"rule": pl.String, "subject": pl.String, "verdict": pl.String})


def _unknown(said: str) -> Judged:
    return "cannot tell", said, _NO_ROWS


def _combined(found: Sequence[Finding], *, yes: Collection[str], no: Collection[str]) -> Judged:
    """One verdict from several findings, and what each of them said."""
    if not found:
        return _unknown("No finding in these readings is about it.")
    bear, deny = ([finding for finding in found if finding.verdict in words] for words in (yes, no))
    open_ = [finding for finding in found if finding not in bear and finding not in deny]
    sides = (("for", bear), ("against", deny), ("open", open_))
    rows = pl.DataFrame(
        [(each.rule, each.subject, each.verdict, side, each.statement) for side, group in sides for each in group],
        schema=["rule", "subject", "verdict", "side", "statement"],
        orient="row",
    )
    if not bear and not deny:
        return "cannot tell", " ".join(finding.statement for finding in found[:2]), rows
    more = f" It cannot be told for {_subjects(open_)}." if open_ else ""
    if bear and deny:
        said = f"It holds for {_subjects(bear)}. It does not for {_subjects(deny)}."
        return "holds only if", f"{said} {bear[0].statement} {deny[0].statement}{more}", rows
    decided = bear or deny
    likewise = f" Likewise {_subjects(decided[1:])}." if len(decided) > 1 else ""
    return "holds" if bear else "does not hold", f"{decided[0].statement}{likewise}{more}", rows


def _subjects(found: Sequence[Finding]) -> str:
    """In a sentence; subjects hold commas themselves."""
    return "; ".join(dict.fromkeys(finding.subject for finding in found))


def _better(evidence: _Evidence) -> Judged:
    found = evidence.found("sweep", "the notebook's conclusion")
    return _combined(found, yes={"draws agree"}, no={"draws disagree", "contradicted"})


def _vanishing(evidence: _Evidence) -> Judged:
    plain = [finding for finding in evidence.found("flow", "gradient") if evidence.plain(finding)]
    verdict, said, rows = _combined(plain, yes={"vanishing"}, no={"healthy", "spread out", "exploding"})
    if any(finding.verdict == "spread out" for finding in plain):
        said += (
            " Draws spread out: the typical one is smaller than the mean, which a few large ones hold up, so that it "
            "shrinks slowly where the mean does not."
        )
    return verdict, said, rows


def _preserved(evidence: _Evidence) -> Judged:
    residual = [finding for finding in evidence.found("flow", "gradient") if not evidence.plain(finding)]
    return _combined(residual, yes={"healthy"}, no={"vanishing", "spread out", "exploding", "dead"})


def _summed(evidence: _Evidence) -> Judged:
    readings = evidence.of("highway")
    assert readings is not None
    shares = readings.rows.filter(pl.col("quantity").is_in(["shortcut_share", "branch_share"]))
    sums = shares.group_by("cell", "seed", "site").agg(sum=pl.col("value").sum(), parts=pl.len())
    whole = sums.filter((pl.col("parts") == 2) & pl.col("sum").is_finite())
    if whole.is_empty():
        return _unknown("No junction has both shares.")
    off = float((whole["sum"] - 1).abs().max())  # type: ignore[arg-type]  # not of an empty column
    rows = pl.DataFrame({"junctions": [whole.height], "furthest from 1": [off], "allowed": [EXACT]})
    parts = (
        f"At {whole.height:,} junctions (of all draws) the part of the gradient that came through the shortcut and the "
        "part that came through the branch"
    )
    if off > EXACT:
        return "does not hold", f"{parts} miss the whole by up to {number(off, 2)} of it.", rows
    said = (
        f"{parts} sum to the whole, to {number(off, 2)} of it. It is an identity, and says nothing yet about how large "
        "either part is."
    )
    return "holds", said, rows


def _parameters(evidence: _Evidence) -> Judged:
    residual = [spec for spec in evidence.specs if spec.stages and not any(stage.plain for stage in spec.stages)]
    pairs = [(spec, spec.twin()) for spec in residual if not any(stage.gains.silent for stage in spec.stages)]
    if not pairs:
        return _unknown("No residual network among these readings has a plain twin.")
    differ = [spec for spec, twin in pairs if spec.parameters != twin.parameters]
    rows = pl.DataFrame(
        [(spec.depth, spec.width, spec.parameters, twin.parameters) for spec, twin in pairs],
        schema=["weight layers", "width", "parameters", "parameters of its twin"],
        orient="row",
    )
    if differ:
        said = f"Of {len(pairs)} residual networks measured, {len(differ)} have other numbers of parameters than"
        return "does not hold", f"{said} the networks that are left when their shortcuts are taken away.", rows
    said = (
        f"Each of the {len(pairs)} residual networks measured has as many parameters as the network that is left when "
        "its shortcuts are taken away. The notebook compares otherwise: it sets d plain layers against d blocks of two "
        "layers, about twice the parameters."
    )
    return "holds", said, rows


def _degrades(evidence: _Evidence) -> Judged:
    plain = [finding for finding in evidence.found("degradation", "degradation") if evidence.plain(finding)]
    return _combined(plain, yes={"degrades"}, no={"does not degrade"})


def _spared(evidence: _Evidence) -> Judged:
    residual = [finding for finding in evidence.found("degradation", "degradation") if not evidence.plain(finding)]
    return _combined(residual, yes={"does not degrade"}, no={"degrades"})


def _helped(evidence: _Evidence) -> Judged:
    found = evidence.found("degradation", "shortcuts")
    return _combined(found, yes={"trains better"}, no={"trains no better", "trains worse"})


def _blamed(evidence: _Evidence) -> Judged:
    worse = {finding.cell for finding in evidence.found("degradation", "degradation") if finding.verdict == "degrades"}
    found = [
        finding
        for finding in evidence.found("degradation", "gradient while training")
        if finding.cell in worse and evidence.plain(finding)
    ]
    if not found:
        return _unknown("No plain network among these readings degrades, so there is nothing to explain.")
    return _combined(found, yes={"vanishing", "dead"}, no={"healthy", "exploding", "does not vanish"})


def _identity_easier(evidence: _Evidence) -> Judged:
    found = evidence.found("identity", "represents x -> x better than the plain stack")
    return _combined(found, yes={"holds"}, no={"does not hold"})


def _branches_small(evidence: _Evidence) -> Judged:
    return _combined(evidence.found("identity", "trained branches are near 0"), yes={"holds"}, no={"does not hold"})


def _learned(evidence: _Evidence) -> Judged:
    found = evidence.found("representation", "accuracy grows over depth, from the first layer")
    return _combined(found, yes={"holds"}, no={"does not hold"})


def _trained(evidence: _Evidence) -> Judged:
    found = evidence.found("representation", "training makes classes more separable")
    return _combined(found, yes={"holds"}, no={"does not hold"})


def _quoted(said: str) -> Callable[[_Evidence], Judged]:
    def ask(evidence: _Evidence) -> Judged:
        return "quoted", said, _NO_ROWS

    return ask


# ---------------------------------------------------------------------------------------------------- the sentences

_EVERY = "holds: every finding that can tell bears it out; does not hold: every one denies it; else it depends"
_NOTEBOOK = "the original notebook"
_PAPER = "He et al. 2015, arXiv:1512.03385"

_VANISHES = "In a deep plain network the gradient vanishes"
_PLUS = "dL/dx = dL/dy (dF/dx + I): the gradient has a second path"
_KEEPS = "With shortcuts the gradient neither vanishes nor explodes"
_TIMES = "One draw shows that a residual network maintains gradient flow N times better"
_FREE = "Shortcuts add no parameters"
_WORSE = "More plain layers train worse: a higher training error, so it is not overfitting"
_DEEPER = "With shortcuts more layers train no worse"
_BETTER = "At equal depth shortcuts make a network train better"
_BLAME = "Vanishing gradients are why deep plain networks train badly"
_EASIER = "The identity is easier to represent with shortcuts"
_ZERO = "The identity is easier because the branch need only be 0"
_LEARNS = "Training makes classes easier to tell apart at the end of the body"
_GROWS = "Deeper layers make classes easier to tell apart than the first layer does"

_TAKEAWAYS = (
    _Takeaway(_TIMES, "sweep", _better, _EVERY, f"{_NOTEBOOK}, from one draw"),
    _Takeaway(_VANISHES, "flow", _vanishing, _EVERY, _NOTEBOOK),
    _Takeaway(
        _PLUS, "highway", _summed, f"the parts sum to the whole to {EXACT:g}", "He et al. 2016, arXiv:1603.05027"
    ),
    _Takeaway(_KEEPS, "flow", _preserved, _EVERY, _NOTEBOOK),
    _Takeaway(_FREE, "", _parameters, "equal counts, exactly", f"{_PAPER}, section 3.2"),
    _Takeaway(_WORSE, "degradation", _degrades, _EVERY, f"{_PAPER}, Fig. 1"),
    _Takeaway(_DEEPER, "degradation", _spared, _EVERY, f"{_PAPER}, Fig. 4 and 6"),
    _Takeaway(_BETTER, "degradation", _helped, _EVERY, f"{_PAPER}, table 2"),
    _Takeaway(_BLAME, "degradation", _blamed, _EVERY, f"{_NOTEBOOK}; the paper calls it unlikely (section 4.1)"),
    _Takeaway(_EASIER, "identity", _identity_easier, _EVERY, f"{_PAPER}, section 3.1"),
    _Takeaway(_ZERO, "identity", _branches_small, _EVERY, f"{_PAPER}, section 3.1"),
    _Takeaway(_LEARNS, "representation", _trained, _EVERY, f"{_NOTEBOOK}, which trains nothing"),
    _Takeaway(_GROWS, "representation", _learned, _EVERY, _NOTEBOOK),
    _Takeaway(
        "152 layers can be trained; an ensemble of residual networks makes 3.57 % top-5 errors on ImageNet",
        "",
        _quoted("The paper's own, on ImageNet (its table 5): an ensemble of six models, two of them of 152 layers."),
        "not measured here",
        f"{_PAPER}, table 5",
    ),
    _Takeaway(
        "DenseNet and ResNeXt build on it",
        "",
        _quoted(
            "History: Huang et al. 2017 (arXiv:1608.06993), Xie et al. 2017 (arXiv:1611.05431). Nothing to measure."
        ),
        "not measured here",
        _NOTEBOOK,
    ),
)

_SCOPE = (
    "That is what small fully connected networks show, on small data and after a fixed number of steps; what takes "
    "ImageNet is quoted from the paper."
)

_SAID: dict[str, dict[str, str]] = {
    _PLUS: {
        "holds": "A skip connection gives signal and gradient a second path around a block, and what comes back "
        "through both simply adds up.",
    },
    _VANISHES: {
        "holds": "Without it, the gradient of the deep plain networks measured here vanishes.",
        "does not hold": "Without it, at a sound initialisation, the gradient of a deep plain network does not vanish "
        "in the mean: draws spread out.",
        "holds only if": "Whether the gradient of a plain network vanishes depends on its design.",
    },
    _KEEPS: {
        "holds": "With it, the gradient keeps its size.",
        "does not hold": "With it the gradient need not keep its size either: in the notebook's block it grows from "
        "block to block, as the signal does.",
        "holds only if": "With it the gradient keeps its size in some designs and not in others.",
    },
    _TIMES: {
        "does not hold": "How many times better one draw looks than another says little, since draws contradict each "
        "other.",
        "holds only if": "How many times better one draw looks depends on the depth.",
    },
    _WORSE: {
        "holds": "In training, deeper plain networks here come to a higher training loss: degradation.",
        "does not hold": "In training, the deeper plain networks here come to no higher training loss.",
        "holds only if": "In training, whether deeper plain networks come to a higher training loss depends on the "
        "setting.",
    },
    _DEEPER: {
        "holds": "With shortcuts deeper networks train no worse, within a small margin.",
        "does not hold": "With shortcuts they train worse with depth, too.",
        "holds only if": "With shortcuts deeper networks train no worse in some settings and worse in others (no "
        "worse: {where}).",
    },
    _BETTER: {
        "holds": "At equal depth the network with shortcuts trains better.",
        "holds only if": "At equal depth the network with shortcuts trains better in some settings.",
        "does not hold": "At equal depth the network with shortcuts trains no better.",
    },
    _BLAME: {
        "does not hold": "Vanishing gradients do not explain it: where plain networks degrade, their gradient has not "
        "vanished.",
        "holds": "Where networks degrade, their gradient had vanished.",
        "holds only if": "Vanishing gradients explain it in some of the settings only.",
    },
    _EASIER: {
        "holds": "A residual stack represents the identity better than a plain one.",
        "does not hold": "A residual stack represents the identity no better than a plain one.",
        "holds only if": "Whether a residual stack represents the identity better than a plain one depends on its "
        "design and depth.",
    },
    _FREE: {"holds": "All this costs not one parameter."},
}
