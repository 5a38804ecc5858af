"""The findings about path lengths: whether they follow the binomial law, in a typical draw and in all of them."""

from __future__ import annotations

from typing import Any

import polars as pl

from skipscope.diagnosis import SEEDS, Finding, Verdict
from skipscope.paths.lengths import misfit_data, with_weights
from skipscope.readings import Readings, require_readings
from skipscope.words import number

__all__ = ["DISTANCE", "DISTANCE_OF_ONE", "SHIFT", "judge"]

SHIFT = 0.25
"""By how many of the law's standard deviations the mean length may differ from the law's: two normal curves that
far apart have a total-variation distance of 0.1."""

DISTANCE = 0.1
"""The total-variation distance of the pooled distribution above which the law is not said to hold."""

DISTANCE_OF_ONE = 0.25
"""The total-variation distance of a single draw above which the law does not describe that draw."""

_DISTANCE = "the distance is half the summed absolute difference, total variation where no weight is negative"

_THRESHOLDS = {
    "typical": (
        f"law holds: of the median draw the mean length is within {SHIFT:g} of the law's standard deviations of the "
        f"law's mean and the distance to the law at most {DISTANCE_OF_ONE:g}, both with their whole 95 % interval; "
        f"does not hold: one of them is beyond, with its whole interval; a verdict needs {SEEDS} draws, and that the "
        f"law holds also that its conditions are met; {_DISTANCE}"
    ),
    "pooled": (
        f"law holds: the 95 % interval of the mean length is within {SHIFT:g} of the law's standard deviations of the "
        f"law's mean, and the distance to the law at most {DISTANCE:g}; does not hold: the whole interval is beyond; a "
        f"verdict needs draws worth {SEEDS} by energy, and that the law holds also that its conditions are met; "
        f"{_DISTANCE}"
    ),
}
_RULES = {"typical": "path lengths of a typical draw", "pooled": "path lengths by energy, all draws"}
_SOURCE = (
    "the law: skipscope.paths; the count of paths: Veit et al. 2016, arXiv:1605.06431; interval of a median: "
    "by ranks; of a pooled mean: delta method over draws; thresholds: a convention of this instrument"
)


def judge(readings: Readings) -> list[Finding]:
    """Whether the path lengths follow the binomial law: for every cell of a typical draw, and of all draws pooled.

    The verdict is `law holds`, `law does not hold` or `cannot tell`.

    Raises:
        InputError: there are no such readings.
    """
    require_readings(readings)
    table = misfit_data(readings)
    known = set(table["cell"])
    lost = [_lost(row) for row in with_weights(readings) if row["cell"] not in known]
    return [_finding(row, table[index]) for index, row in enumerate(table.iter_rows(named=True))] + lost


def _finding(row: dict[str, Any], evidence: pl.DataFrame) -> Finding:
    verdict, said = _verdict(row)
    return Finding(
        rule=_RULES[row["estimate"]],
        cell=row["cell"],
        subject=_subject(row),
        verdict=verdict,
        statement=said,
        evidence=evidence,
        threshold=_THRESHOLDS[row["estimate"]],
        source=_SOURCE,
    )


def _lost(factors: dict[str, Any]) -> Finding:
    return Finding(
        rule=_RULES["pooled"],
        cell=factors["cell"],
        subject=_subject(factors),
        verdict="cannot tell",
        statement=f"In every draw of {_subject(factors)} a path's gradient overflows: its lengths have no weights.",
        evidence=pl.DataFrame(),
        threshold=_THRESHOLDS["pooled"],
        source=_SOURCE,
    )


def _subject(row: dict[str, Any]) -> str:
    order = f", {row['order']} order" if row.get("order") else ""
    norm = f", {row['norm']} norm" if row["norm"] not in ("", "none") else ""
    gain = f", gains {str(row['gain']).replace('.0', '')}" if row["gain"] else ""
    return f"the {row['design'] or 'network'} design at depth {row['depth']}, width {row['width']}{order}{norm}{gain}"


def _verdict(row: dict[str, Any]) -> tuple[Verdict, str]:
    whose = "In a typical draw" if row["estimate"] == "typical" else "In the energy of all draws together"
    interval = "" if row["low"] is None else f" (95 % interval {number(row['low'])} to {number(row['high'])})"
    said = (
        f"{whose} of {_subject(row)}, the gradient came through {number(row['mean'])} of {row['junctions']} branches "
        f"in the mean{interval}"
    )
    if row["law_mean"] is None:
        return "cannot tell", (
            f"{said}. There is no binomial law for it: {_lower(row['refusal'])} With the shares measured at its "
            f"junctions and independent choices the mean would be {number(row['independent_mean'])}."
        )
    said += (
        f"; the binomial law says {number(row['law_mean'])} with a standard deviation of {number(row['law_sd'])}. The "
        f"distance of the two is {number(row['distance'], 2)}{_beyond_one(row['distance'])}."
    )
    if row["low"] is None or min(row["n"], row["effective"]) < SEEDS:
        draws = "1 draw" if row["n"] == 1 else f"{row['n']} draws"
        worth = f", which by energy are worth {number(row['effective'], 2)}" if row["estimate"] == "pooled" else ""
        return "cannot tell", f"{said} It rests on {draws}{worth}; a verdict needs {SEEDS}."
    verdict = _compared_typical(row) if row["estimate"] == "typical" else _compared_pooled(row)
    if row["refusal"] and verdict == "law holds":  # that numbers come close does not make a law of them
        verdict = "cannot tell"
    return verdict, f"{said} {_why(row, verdict)}".rstrip()


def _beyond_one(distance: float) -> str:
    return ", above 1 since some weights are negative" if distance > 1 else ""


def _why(row: dict[str, Any], verdict: Verdict) -> str:
    """Why the law fails; or that it should, where these draws do not show it."""
    if row["refusal"]:
        shown = "" if verdict == "law does not hold" else ", though these draws do not show it beyond the threshold"
        return f"The law is not expected to hold{shown}: {_lower(row['refusal'])}"
    if verdict != "law does not hold":
        return ""
    if row["estimate"] == "typical":
        return "The law is an average by energy over draws; at a finite width the paths of one draw interfere."
    return ""


def _compared_typical(row: dict[str, Any]) -> Verdict:
    shifted, near = _shifted(row)
    if shifted or row["distance_low"] > DISTANCE_OF_ONE:
        return "law does not hold"
    return "law holds" if near and row["distance_high"] <= DISTANCE_OF_ONE else "cannot tell"


def _compared_pooled(row: dict[str, Any]) -> Verdict:
    shifted, near = _shifted(row)
    if shifted:
        return "law does not hold"
    return "law holds" if near and row["distance"] <= DISTANCE else "cannot tell"


def _shifted(row: dict[str, Any]) -> tuple[bool, bool]:
    """Whether the interval of the mean length is wholly further than `SHIFT` from the law's; whether wholly nearer."""
    room = SHIFT * row["law_sd"] + _ROUNDING * max(row["junctions"], 1)
    low, high = row["low"] - row["law_mean"], row["high"] - row["law_mean"]
    return low > room or high < -room, -room <= low and high <= room


_ROUNDING = 1e-9  # a law without spread, where there is a single path, is met to rounding


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
