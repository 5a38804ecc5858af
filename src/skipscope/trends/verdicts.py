"""The findings of a sweep: a trend or a fit that is past its threshold, and draws that disagree.

A rule each for trends of signal and gradient, for the law, and for the notebook's conclusion.
"""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from skipscope.diagnosis import FACTOR, SEEDS, Finding, Verdict
from skipscope.readings import Readings, require_readings
from skipscope.summary import z_limit
from skipscope.trends.dissent import DISSENT, contradictions
from skipscope.trends.fits import RATES, RATIO, rates
from skipscope.words import number, percent

__all__ = ["findings"]

_TREND = (
    f"over the blocks between the shallowest and the deepest network; exploding: the typical draw's norm grows by more "
    f"than {FACTOR:g}; vanishing: the root mean square over draws falls below 1/{FACTOR:g}; each with its whole 95 % "
    f"interval; spread out: neither, and the 5 and 95 % quantiles of draws' fitted trends differ by more than "
    f"{FACTOR:g}; healthy: both stay within {FACTOR:g} either way; a verdict needs {SEEDS} seeds"
)
_TREND_SOURCE = (
    f"a factor of {FACTOR:g} in norm: a convention of this instrument; slopes fitted a seed, Student's t over seeds; "
    "mean and spread told apart: Hanin & Nica 2018, arXiv:1812.05994"
)
_FIT = (
    f"law does not hold: the mean rate over seeds is further from the law's than chance explains where so many are "
    f"looked at, in units of its standard error (see skipscope.summary.z_limit); a verdict needs {SEEDS} seeds"
)
_AGREE = (
    f"draws disagree: at some depth more than {percent(DISSENT)} of draws contradict the notebook, with the whole 95 % "
    f"interval; contradicted: more than half do, at every depth; draws agree: fewer than {percent(DISSENT)}, at every "
    "depth"
)
_AGREE_SOURCE = "the original notebook's conclusion from one draw; interval of a share: Wilson 1927"


def findings(readings: Readings) -> list[Finding]:
    """What a sweep shows: trends of signal and gradient, whether the law holds, whether draws agree with the notebook.

    The verdicts are those of `skipscope.diagnosis` for trends; `law holds`, `law does not hold`; `draws agree`, `draws
    disagree`, `contradicted`; and `cannot tell`.

    Raises:
        InputError: there is no quantity of a whole network.
    """
    require_readings(readings)
    found: list[Finding] = []
    table = rates(readings).filter(pl.col("quantity") != RATIO)
    looks = max(1, table["z"].count())
    for row in table.iter_rows(named=True):
        found.append(_trend(row))
        if row["law_rate"] is not None:
            found.append(_fit(row, looks))
    shares = contradictions(readings)
    pairs = shares.select("design", "against", "width", "cotangent").unique(maintain_order=True)
    found += [_agreement(shares.filter(**pair)) for pair in pairs.iter_rows(named=True)]
    return found


def _trend(row: dict[str, Any]) -> Finding:
    what = RATES[row["quantity"]][0]
    verdict: Verdict = _trend_verdict(row) if row["n"] >= SEEDS else "cannot tell"
    if row["rate"] is None:
        said = f"Of {row['subject']}, {row['n']} draws have a finite {what} at every depth: too few for a trend."
    else:
        said = (
            f"A block of {row['subject']} changes the norm of the {what} by a factor of {_factor(row, 'rate')} in the "
            f"typical draw, and by {_factor(row, 'mean_rate')} in root mean square if draws are log-normal; over "
            f"{row['span']} blocks that is {_factor(row, 'rate', row['span'])} and "
            f"{_factor(row, 'mean_rate', row['span'])} ({row['n']} seeds, {row['depths']} depths)."
        )
        if row["law_mean_rate"] is not None:
            said += f" The law in root mean square is {number(_exp(row['law_mean_rate'] / 2))} a block."
    if row["left_out"]:
        said += f" Left out for being dead or overflowing at some depth: {row['left_out']} more."
    return _finding(row, f"trend of the {what}", verdict, said, _TREND, _TREND_SOURCE)


def _trend_verdict(row: dict[str, Any]) -> Verdict:
    """By what the norm does over the span; the rates are of ln of its square."""
    limit = 2 * math.log(FACTOR) / row["span"]
    if row["rate_low"] > limit:
        return "exploding"
    if row["mean_rate_high"] < -limit:
        return "vanishing"
    if 2 * 1.6448536269514722 * row["rate_sd"] > limit:  # between the quantiles at 5 and 95 % of a normal law
        return "spread out"
    within = (
        min(row["rate_low"], row["mean_rate_low"]) > -limit and max(row["rate_high"], row["mean_rate_high"]) < limit
    )
    return "healthy" if within else "cannot tell"


def _factor(row: dict[str, Any], name: str, blocks: int = 1) -> str:
    """exp(rate / 2) over so many blocks, with its interval, in words."""
    middle, low, high = (_exp(row[f"{name}{end}"] * blocks / 2) for end in ("", "_low", "_high"))
    return f"{number(middle)} ({number(low)} to {number(high)})"


def _exp(x: float) -> float:
    """Held within the range of floats."""
    return math.exp(max(-700.0, min(700.0, x)))


def _fit(row: dict[str, Any], looks: int) -> Finding:
    what = RATES[row["quantity"]][0]
    if row["z"] is None or row["n"] < SEEDS:
        verdict: Verdict = "cannot tell"
        said = f"{row['n']} draws of {row['subject']} are too few to compare with a law: measure {SEEDS} at least."
    else:
        error, limit = row["rate_sd"] / math.sqrt(row["n"]), z_limit(looks, row["n"])
        verdict = "law holds" if abs(row["z"]) <= limit else "law does not hold"
        said = (
            f"A block of {row['subject']} changes ln of the squared norm of the {what} by {number(row['rate'])} ± "
            f'{number(error, 2)} in the mean over {row["n"]} seeds; the law "{row["law"]}" says '
            f"{number(row['law_rate'])}: z = {number(row['z'], 2)}, the limit for {_looks(looks)} being "
            f"{number(limit, 2)}."
        )
        if row["law_bias"]:
            said += f" What that law leaves out: {row['law_bias']}"
        if verdict == "law holds" and row["law_rate"]:
            said += f" An error of {percent(limit * error / abs(row['law_rate']))} would have shown."
    return _finding(row, f"law of the {what}", verdict, said, _FIT, "docs, What theory predicts")


def _looks(count: int) -> str:
    return "one look" if count == 1 else f"{count} looks"


def _finding(row: dict[str, Any], rule: str, verdict: Verdict, said: str, threshold: str, source: str) -> Finding:
    return Finding(
        rule=rule,
        cell=row["cell"],
        subject=row["subject"],
        verdict=verdict,
        statement=said,
        evidence=pl.DataFrame([row]),
        threshold=threshold,
        source=source,
    )


def _agreement(shares: pl.DataFrame) -> Finding:
    deepest = shares.row(-1, named=True)
    sent = ", output gradient of ones" if deepest["cotangent"] == "ones" else ""
    subject = f"{deepest['against']} against {deepest['design']}, width {deepest['width']}{sent}"
    known = shares.filter(pl.col("n") > 0)
    verdict: Verdict = "cannot tell" if known.height < shares.height else _agreement_verdict(known)
    if known.is_empty():
        said = f"No draw of {subject} has both ratios."
    else:
        low, high = known.sort("contradicts").row(0, named=True), known.sort("contradicts").row(-1, named=True)
        among = f"by {_share(high)} of draws"
        if known.height > 1:
            among = f"by {_share(low)} of draws at depth {low['depth']}, up to {_share(high)} at depth {high['depth']}"
        medians = sorted(known["N"].to_list())
        said = (
            f'Of {subject}: that shortcuts "maintain gradient flow N times better" is contradicted {among}; the '
            "median N "
            f"is between {number(medians[0])} and {number(medians[-1])}."
        )
    return Finding(
        rule="the notebook's conclusion",
        cell=deepest["cell"],
        subject=subject,
        verdict=verdict,
        statement=said,
        evidence=shares,
        threshold=_AGREE,
        source=_AGREE_SOURCE,
    )


def _agreement_verdict(shares: pl.DataFrame) -> Verdict:
    if (shares["low"] > 0.5).all():
        return "contradicted"
    if (shares["low"] > DISSENT).any():
        return "draws disagree"
    return "draws agree" if (shares["high"] < DISSENT).all() else "cannot tell"


def _share(row: dict[str, Any]) -> str:
    return f"{percent(row['contradicts'])} (95 % interval {percent(row['low'])} to {percent(row['high'])})"
