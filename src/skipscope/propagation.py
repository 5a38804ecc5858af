"""What study `propagation` says: factors over the body with intervals and law, and findings on the paper's section 4.1.

The paper says of its plain networks: vanishing gradients are unlikely to be the reason of their difficulty, since with
batch normalisation forward signals have non-zero variances, and backward gradients healthy norms. That is two claims,
and two questions to each plain network with batch normalisation: does anything vanish; are the gradients' norms healthy
(do they stay within a factor, either way)? The answers are those of `skipscope.diagnosis`, at initialisation.

Right of the waist: imports readings, summary, diagnosis, and what both halves share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import polars as pl

from skipscope.diagnosis import FACTOR, SEEDS, Finding, Verdict, diagnose
from skipscope.errors import InputError
from skipscope.readings import Readings, require_readings
from skipscope.spec import Spec
from skipscope.summary import Summary, summarise
from skipscope.words import counted, number

__all__ = ["CLAIMS", "ends", "findings"]

CLAIMS = {
    "vanishing": "section 4.1: nothing vanishes",
    "healthy": "section 4.1: healthy gradients",
}
"""The rules about the paper's two claims."""

_OF = {"forward_growth": "signal", "backward_growth": "gradient"}
_GAINS = {"signal": "forward_gain", "gradient": "backward_gain"}
_QUANTILES = ("q05", "q25", "q50", "q75", "q95", "median_low", "median_high")


def ends(readings: Readings) -> pl.DataFrame:
    """By which factor the norms of signal and gradient change over the body, from its one end to the other.

    Of the signal from what the first block is given to what the last hands on, of the gradient the other way.

    Returns:
        A row for every network and direction. Columns `cell`, `design`, `norm`, `depth` (weight layers), `width` (of
        the first stage), `batch`, `layers` (of the body), `of` (`signal` or `gradient`), `n` seeds with a finite value,
        `nonfinite`; the quantiles `q05` to `q95` and the interval of the median `median_low`, `median_high`; `law`, in
        root mean square, where one holds; and `layer`, the median factor a weight layer in the square, with
        `law_layer`.

    Raises:
        InputError: the readings hold no growth over a body.
    """
    require_readings(readings)
    return _ends(summarise(readings))


def _ends(summary: Summary) -> pl.DataFrame:
    rows = summary.table.filter(pl.col("quantity").is_in(list(_OF)), pl.col("site") == "network", pl.col("step") == 0)
    if rows.is_empty():
        raise InputError("these readings hold no growth over a body: measure it with studies.propagation.")
    cells = {row["cell"]: row for row in summary.readings.cells.iter_rows(named=True)}
    found = [_end(summary, cells[row["cell"]], row) for row in rows.iter_rows(named=True) if cells[row["cell"]]["spec"]]
    text = dict.fromkeys(("cell", "design", "norm", "of"), pl.String)
    counts = dict.fromkeys(("depth", "width", "batch", "layers", "n", "nonfinite"), pl.Int64)
    numbers = dict.fromkeys((*_QUANTILES, "law", "layer", "law_layer"), pl.Float64)
    table = pl.DataFrame(found, schema={**text, **counts, **numbers}, orient="row")
    places = {cell: place for place, cell in enumerate(cells)}
    return table.sort(pl.col("cell").replace_strict(places), pl.col("of").replace_strict(_PLACE))


_PLACE = {"signal": 0, "gradient": 1}


def _end(summary: Summary, cell: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    spec = Spec.from_json(cell["spec"])
    layers = sum(len(block.layers) for block in spec.body)
    known = {name: cell[name] for name in ("cell", "design", "norm", "depth", "width", "batch")}
    of = _OF[row["quantity"]]
    over = {name: _over(row[name], len(spec.body)) for name in _QUANTILES}
    law = _law(summary, cell["cell"], spec, of)
    return {
        **known,
        "layers": layers,
        "of": of,
        "n": row["n"],
        "nonfinite": row["nonfinite"],
        **over,
        "law": law,
        "layer": _a_layer(over["q50"], layers),
        "law_layer": _a_layer(law, layers),
    }


def _over(growth: float | None, blocks: int) -> float | None:
    """The factor on the norm over the body, from the growth a block of its square."""
    if growth is None:
        return None
    return 0.0 if growth == 0 else math.exp(max(-700.0, min(700.0, math.log(growth) * blocks / 2)))


def _a_layer(factor: float | None, layers: int) -> float | None:
    return None if not factor else math.exp(2 * math.log(factor) / layers)


def _law(summary: Summary, cell: str, spec: Spec, of: str) -> float | None:
    """The law's factor on the root mean square: from one end of the body to the other."""
    gains = summary.table.filter(pl.col("cell") == cell, pl.col("quantity") == _GAINS[of])
    known = dict(gains.select("site", "law_rms").iter_rows())
    first: float | None = known.get("stem")
    last: float | None = known.get(spec.body[-1].site if spec.body else "")
    if first is None or last is None:
        return None
    return last / first if of == "signal" else first / last


# ------------------------------------------------------------------------------------------------------- the findings


def findings(readings: Readings) -> list[Finding]:
    """What `skipscope.diagnosis` says of every network, and what that says to the paper's section 4.1.

    Of section 4.1 the verdict is `holds`, `does not hold` or `cannot tell`, at initialisation.

    Raises:
        InputError: the readings hold nothing that can be diagnosed.
    """
    require_readings(readings)
    judged = diagnose(readings)
    return [*_claimed(readings, judged), *judged]


def _claimed(readings: Readings, judged: list[Finding]) -> list[Finding]:
    """The paper's claims about every plain network with batch normalisation."""
    found: list[Finding] = []
    factors = _factors(readings)
    for row in readings.cells.iter_rows(named=True):
        if not row["spec"]:
            continue
        spec = Spec.from_json(row["spec"])
        if not all(stage.plain and stage.norm == "batch" for stage in spec.stages):
            continue
        by_rule = {each.rule: each for each in judged if each.cell == row["cell"]}
        if {"signal", "gradient"} <= by_rule.keys():
            of_signal, of_gradient = (
                _judged(by_rule[of]) or factors.get((row["cell"], of), _Factor()) for of in ("signal", "gradient")
            )
            found.append(_nothing_vanishes(by_rule["signal"], by_rule["gradient"], of_signal, of_gradient))
            found.append(_healthy(by_rule["gradient"], spec, of_gradient))
    return found


@dataclass(frozen=True)
class _Factor:
    """By which the norm changes over the body in the median of `n` draws; None where nothing is known."""

    n: int = 0
    median: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def told(self) -> str:
        if self.median is None:
            return "no finite number"
        told = "" if self.low is None or self.high is None else f"{number(self.low)} to {number(self.high)}"
        few = f"of {counted(self.n, 'draw')}, and a verdict on the design needs {SEEDS}" if self.n < SEEDS else ""
        around = ", ".join(each for each in (f"95 % interval {told}" if told else "", few) if each)
        return f"{number(self.median)} ({around})" if around else number(self.median)


def _judged(finding: Finding) -> _Factor | None:
    """What a finding of the diagnosis rests on, where it rests on draws enough for a verdict on the design."""
    row = finding.evidence.row(0, named=True) if finding.evidence.height else {}
    if "median" not in row:
        return None
    return _Factor(row["seeds"], row["median"], row["median_low"], row["median_high"])


def _factors(readings: Readings) -> dict[tuple[str, str], _Factor]:
    """By cell and direction, of however many draws there are."""
    return {
        (row["cell"], row["of"]): _Factor(row["n"], row["q50"], row["median_low"], row["median_high"])
        for row in ends(readings).iter_rows(named=True)
    }


_SOURCE = "He et al. 2015, arXiv:1512.03385, section 4.1; it gives no numbers. " + (
    f"Threshold: a factor of {FACTOR:g} in norm over the whole body, a convention of this instrument"
)
_NOTHING = (
    "does not hold: the signal or the gradient vanishes (even its root mean square over draws falls below "
    f"1/{FACTOR:g} over the body, with its 95 % interval) or does not arrive; holds: neither, and both can be judged"
)
_HEALTHY = (
    f"holds: the interval of the median draw's factor is within 1/{FACTOR:g} to {FACTOR:g}; does not hold: the "
    f"gradient explodes, vanishes, spreads out between draws or does not arrive; a verdict needs {SEEDS} seeds"
)
_INITIAL = "That is at initialisation, and says nothing of training."


def _nothing_vanishes(signal: Finding, gradient: Finding, of_signal: _Factor, of_gradient: _Factor) -> Finding:
    verdicts = {signal.verdict, gradient.verdict}
    verdict: Verdict = "holds"
    if verdicts & {"vanishing", "dead"}:
        verdict = "does not hold"
    elif "cannot tell" in verdicts:
        verdict = "cannot tell"
    told = {
        "holds": "Neither signal nor gradient vanishes in",
        "does not hold": "Signal or gradient vanishes in",
        "cannot tell": "Whether signal or gradient vanishes cannot be told of",
    }[verdict]
    said = (
        f"{told} {signal.subject}: over its body the norm of the signal changes by a factor of {of_signal.told}, that "
        f"of the gradient, on its way back, by {of_gradient.told}. {_INITIAL}"
    )
    evidence = pl.concat([signal.evidence, gradient.evidence], how="diagonal_relaxed")
    return _finding("vanishing", gradient, verdict, said, evidence, _NOTHING)


def _healthy(gradient: Finding, spec: Spec, factor: _Factor) -> Finding:
    verdict: Verdict = "does not hold"
    if gradient.verdict in ("healthy", "cannot tell"):
        verdict = "holds" if gradient.verdict == "healthy" else "cannot tell"
    layers = sum(len(block.layers) for block in spec.body)
    a_layer = _a_layer(factor.median, layers)
    rate = "" if a_layer is None else f" ({number(a_layer**0.5)} a layer)"
    said = (
        f"On its way back through {layers} layers of {gradient.subject} the norm of the gradient changes by a factor "
        f"of {factor.told}{rate}. {_DOES[gradient.verdict]} {_INITIAL}"
    )
    return _finding("healthy", gradient, verdict, said, gradient.evidence, _HEALTHY)


_DOES: dict[str, str] = {
    "exploding": "It explodes, from the last layer to the first.",
    "vanishing": "It vanishes.",
    "dead": "It does not arrive.",
    "spread out": "Draws differ too much to call that healthy.",
    "healthy": f"It stays within a factor of {FACTOR:g}.",
    "cannot tell": "That is not enough for a verdict.",
}


def _finding(
    claim: str, about: Finding, verdict: Verdict, said: str, evidence: pl.DataFrame, threshold: str
) -> Finding:
    return Finding(
        rule=CLAIMS[claim],
        cell=about.cell,
        subject=about.subject,
        verdict=verdict,
        statement=said,
        evidence=evidence,
        threshold=threshold,
        source=_SOURCE,
    )
