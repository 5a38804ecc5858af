"""Numbers in sentences: what they say is what was measured, to the digits that are written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipscope.words import number, percent, tenths

UNICODE = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹−", "-0123456789-")


def read(text: str) -> float:
    """The number that `number` wrote."""
    mantissa, _, power = text.partition(" × 10")
    return float(mantissa.translate(UNICODE).replace(",", "") + "e" + (power.translate(UNICODE) or "0"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (1, "1.00"),
        (-1, "−1.00"),
        (0.0123456, "0.0123"),
        (0.000123456, "1.23 × 10⁻⁴"),
        (0.00123456, "0.00123"),
        (12.3456, "12.3"),
        (999.9, "1,000"),  # rounding carries into the next power
        (12345.6, "12,300"),
        (99999, "1.00 × 10⁵"),
        (1.23e6, "1.23 × 10⁶"),
        (3e-300, "3.00 × 10⁻³⁰⁰"),
        (math.inf, "infinity"),
        (-math.inf, "−infinity"),
        (math.nan, "not a number"),
    ],
)
def test_number(value: float, text: str):
    assert number(value) == text


def test_number_takes_the_digits_it_is_told():
    assert number(4.6875, 2) == "4.7"
    assert number(12345.6, 5) == "12,346"
    assert number(0.5, 1) == "0.5"


@given(st.floats(-1e308, 1e308), st.integers(1, 10))
def test_number_says_the_value_to_its_digits(value: float, digits: int):
    # Half a unit of the last digit, relative to a mantissa of at least 1; subnormal numbers have fewer digits.
    assert read(number(value, digits)) == pytest.approx(value, rel=0.5001 * 10 ** (1 - digits), abs=1e-323)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (0.5, "50 %"),
        (0.123, "12 %"),
        (0.004, "less than 1 %"),
        (1e-300, "less than 1 %"),
        (0.996, "more than 99 %"),
        (1 - 1e-16, "more than 99 %"),
        (0.99, "99 %"),
        (0.01, "1 %"),
    ],
)
def test_percent(share: float, text: str):
    assert percent(share) == text


@given(st.floats(0, 1))
def test_only_none_is_0_percent_and_only_all_is_100(share: float):
    assert (percent(share) == "0 %") == (share == 0)
    assert (percent(share) == "100 %") == (share == 1)


def test_number_of_nothing():
    assert number(None) == "no finite number"


def test_a_share_to_a_tenth_of_a_percent():
    assert [tenths(share) for share in (0.0, -0.0001, 0.0403, 1.0)] == ["0.0 %", "0.0 %", "4.0 %", "100.0 %"]
    assert tenths(-0.012) == "−1.2 %"
