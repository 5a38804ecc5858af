"""Numbers as people write them, for every sentence that is generated. Imports nothing of the package."""

from __future__ import annotations

import math

__all__ = ["counted", "number", "percent", "tenths"]

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def counted(count: int, one: str, many: str = "") -> str:
    """How many there are of a thing: 1 block, 2 blocks; `many` is its plural, where that is no s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def number(value: float | None, digits: int = 3) -> str:
    """`value` to `digits` significant digits: 0.0123, 12.3, 12,300 or 1.23 × 10⁶; None is no finite number."""
    if value is None:
        return "no finite number"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinity" if value > 0 else "−infinity"
    if value == 0:
        return "0"
    sign = "−" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value):.{digits - 1}e}".partition("e")
    power = int(exponent)
    if -4 < power < 5:
        return f"{sign}{float(f'{mantissa}e{power}'):,.{max(0, digits - 1 - power)}f}"
    return f"{sign}{mantissa} × 10{str(power).translate(_SUPERSCRIPT)}"


def percent(share: float) -> str:
    """A share as a percentage: 0.123 is 12 %; what is not 0 or all is never written so."""
    whole = round(100 * share)
    if (whole == 0 and share > 0) or (whole == 100 and share < 1):
        return "less than 1 %" if whole == 0 else "more than 99 %"
    return f"{whole} %"


def tenths(share: float) -> str:
    """A share as a percentage to a tenth: 0.0403 is 4.0 %."""
    return f"{round(100 * share, 1) + 0.0:.1f} %".replace("-", "−")
