"""Moments against NumPy and exact arithmetic, from subnormal to overflowing numbers, whole and in chunks."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from skipscope import moments as module
from skipscope.moments import Field, Moments, dot, moments

FIELDS: tuple[Field, ...] = ("sum", "positive", "nonfinite", "units", "samples")
TINY, HUGE = 5e-324, np.finfo(np.float64).max
Array = NDArray[np.float64]

shapes = arrays.array_shapes(min_dims=3, max_dims=4, max_side=5)
ordinary = st.floats(-1e50, 1e50).map(lambda x: 0.0 if abs(x) < 1e-50 else x)  # sums of squares within 2**+-400
magnitudes = st.sampled_from([TINY, 1e-310, 1e-200, 1e-100, 1.0, 3.0, 1e150, 1e300, HUGE])
finite = st.builds(lambda size, sign: size * sign, magnitudes, st.sampled_from([-1.0, 0.0, 1.0])) | st.floats(
    allow_nan=False, allow_infinity=False
)
anything = finite | st.sampled_from([math.nan, math.inf, -math.inf])


def batches(elements: st.SearchStrategy[float]) -> st.SearchStrategy[Array]:
    return arrays.arrays(np.float64, shapes, elements=elements)


def pairs(elements: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[Array, Array]]:
    def two(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[Array, Array]]:
        one = arrays.arrays(np.float64, shape, elements=elements)
        return st.tuples(one, one)

    return shapes.flatmap(two)


def exact_norm(x: Array) -> float:
    """The Euclidean norm in exact arithmetic, rounded once; inf where no float is as large."""
    squares = sum((Fraction(float(value)) ** 2 for value in x.ravel()), start=Fraction(0))
    if not squares:
        return 0.0
    shift = (squares.numerator.bit_length() - squares.denominator.bit_length()) // 2 - 60
    root = Fraction(math.isqrt(int(squares * Fraction(4) ** -shift))) * Fraction(2) ** shift
    try:
        return float(root)
    except OverflowError:
        return math.inf


# ------------------------------------------------------------------------------------------------------ one array


@given(batches(ordinary))
def test_ordinary_numbers_are_plain_sums(x: Array):
    m = moments(x, FIELDS)
    flat = x.reshape(len(x), -1)

    assert (m.scale == 1).all()
    assert np.array_equal(m.sumsq, np.vecdot(flat, flat))
    assert np.array_equal(np.asarray(m.sum), flat.sum(axis=1))
    assert np.array_equal(np.asarray(m.positive), (flat > 0).sum(axis=1))
    assert np.array_equal(np.asarray(m.nonfinite), np.zeros(len(x)))
    assert np.array_equal(np.asarray(m.units), (x > 0).reshape(len(x), -1, x.shape[-1]).any(axis=1))
    assert m.samples == pytest.approx((x**2).reshape(*x.shape[:2], -1).sum(axis=2), rel=1e-14)
    assert m.count == flat.shape[1]
    assert m.rows == x.shape[1]
    assert m.norm == pytest.approx(np.linalg.norm(flat, axis=1), rel=1e-14)
    assert m.rms == pytest.approx(np.linalg.norm(flat, axis=1) / m.count**0.5, rel=1e-14)
    assert m.mean == pytest.approx(flat.mean(axis=1), rel=1e-14, abs=1e-300)
    # By the sum of squares less the squared mean, so with the rounding of the mean square.
    assert (abs(m.variance - flat.var(axis=1)) <= 1e-14 * (flat**2).mean(axis=1)).all()
    assert (m.variance >= 0).all()


@given(batches(finite))
def test_what_is_representable_is_never_0_or_inf(x: Array):
    with np.errstate(over="ignore"):
        m = moments(x, ("sum", "samples", "nonfinite"))
        norm, rms = m.norm, m.rms

    for seed in range(len(x)):
        exact = exact_norm(x[seed])
        if exact < HUGE:
            # Rounding of up to 125 squares; below the normal numbers a float has fewer digits.
            assert norm[seed] == pytest.approx(exact, rel=1e-13, abs=TINY)
            assert rms[seed] == pytest.approx(exact / m.count**0.5, rel=1e-13, abs=TINY)
        assert np.isfinite(rms[seed])  # at most the largest number
    assert not np.asarray(m.nonfinite).any()
    assert np.isfinite(m.sumsq).all()
    assert np.isfinite(np.asarray(m.sum)).all()
    assert set(np.frexp(m.scale)[0]) == {0.5}  # powers of two


@given(batches(anything))
def test_nan_and_inf_are_seen(x: Array):
    m = moments(x, FIELDS)

    bad = ~np.isfinite(x).reshape(len(x), -1)
    assert np.array_equal(np.asarray(m.nonfinite), bad.sum(axis=1))
    assert np.array_equal(np.asarray(m.positive), (x > 0).reshape(len(x), -1).sum(axis=1))
    assert np.array_equal(np.isfinite(m.sumsq), ~bad.any(axis=1))
    assert np.array_equal(np.isnan(m.sumsq), np.isnan(x).reshape(len(x), -1).any(axis=1))


def test_networks_do_not_share_a_scale():
    x = np.array([[1.0, 2.0], [1e200, 2e200], [1e-200, 2e-200], [0.0, 0.0], [math.inf, 1.0], [math.nan, 1.0]])

    m = moments(x)

    assert m.norm[:4] == pytest.approx([5**0.5, 5**0.5 * 1e200, 5**0.5 * 1e-200, 0], rel=1e-15)
    assert m.scale[[0, 3, 4, 5]].tolist() == [1, 1, 1, 1]
    assert m.norm[4] == math.inf
    assert math.isnan(m.norm[5])


@given(batches(anything))
def test_a_network_has_the_same_moments_alone(x: Array):
    whole = moments(x, FIELDS)

    for seed in range(len(x)):
        alone = moments(x[seed : seed + 1], FIELDS)
        for name in ("scale", "sumsq", *FIELDS):
            assert getattr(alone, name).tobytes() == getattr(whole, name)[seed : seed + 1].tobytes(), name


@pytest.mark.parametrize("samples", [3, 64, 1000])
def test_many_networks_have_the_same_moments_alone(samples: int, rng: np.random.Generator):
    x = rng.standard_normal((7, samples, 17))
    whole = moments(x, FIELDS)

    for seed in range(7):
        alone = moments(x[seed : seed + 1].copy(), FIELDS)
        for name in ("sumsq", *FIELDS):
            assert getattr(alone, name).tobytes() == getattr(whole, name)[seed : seed + 1].tobytes(), name


def test_single_precision_is_added_up_in_double():
    x = np.full((1, 1000), 1e30, np.float32)  # its square is no float32

    m = moments(x, ["sum"])

    assert m.sumsq.dtype == np.float64
    assert m.norm == pytest.approx(float(np.float32(1e30)) * 1000**0.5, rel=1e-14)


def test_closed_form():
    m = moments(np.array([[[1.0, -2.0], [0.0, 3.0]]]), FIELDS)

    assert (m.count, m.rows) == (4, 2)
    assert (m.sumsq[0], m.sum[0], m.positive[0], m.nonfinite[0]) == (14, 2, 2, 0)  # type: ignore[index]
    assert m.units.tolist() == [[True, True]]  # type: ignore[union-attr]
    assert m.samples.tolist() == [[5, 9]]  # type: ignore[union-attr]
    assert (m.norm[0], m.rms[0], m.mean[0], m.variance[0]) == (14**0.5, 3.5**0.5, 0.5, 3.25)


def test_fields_are_taken_where_they_are_asked_for():
    m = moments(np.ones((2, 3)), ["sum"])

    assert m.sum is not None
    assert (m.positive, m.nonfinite, m.units, m.samples) == (None, None, None, None)
    with pytest.raises(AssertionError, match="moments were taken without 'sum'"):
        _ = moments(np.ones((2, 3))).mean


def test_shapes_without_a_batch():
    assert moments(np.array([2.0, -3.0])).norm.tolist() == [2, 3]  # a learned gain, of shape (s,)
    assert moments(np.zeros((3, 0))).norm.tolist() == [0, 0, 0]


def test_x_is_not_changed(rng: np.random.Generator):
    x = rng.standard_normal((2, 3, 4)) * 1e200
    x.flags.writeable = False  # writing to it raises

    moments(x, FIELDS)


@pytest.mark.parametrize("x", [np.full((2, 3), HUGE), np.array([[math.inf, -math.inf]]), np.full((2, 3), math.nan)])
def test_overflow_does_not_warn(x: Array):
    m = moments(x, FIELDS)  # warnings are errors

    dot(x, x, m, m)
    m + m
    dot(x, x, m, m) + dot(x, x, m, m)


# --------------------------------------------------------------------------------------------------------- chunks


@given(pairs(ordinary))
def test_chunks_add_up_to_the_whole(both: tuple[Array, Array]):
    x = np.concatenate(both, axis=1)
    whole, sum_of_parts = moments(x, FIELDS), moments(both[0], FIELDS) + moments(both[1], FIELDS)

    # The same terms are added up in another order: up to 1000 of them, each sum rounded to 1.1e-16.
    assert sum_of_parts.sumsq == pytest.approx(whole.sumsq, rel=2e-13)
    of_sizes = moments(abs(x), ["sum"]).sum
    assert (abs(sum_of_parts.sum - whole.sum) <= 2e-13 * of_sizes).all()  # type: ignore[operator]
    assert sum_of_parts.samples == pytest.approx(np.asarray(whole.samples), rel=2e-13)
    for name in ("scale", "positive", "nonfinite", "units"):
        assert np.array_equal(getattr(sum_of_parts, name), getattr(whole, name)), name
    assert sum_of_parts.count == whole.count
    assert sum_of_parts.rows == whole.rows


@given(pairs(finite))
def test_extreme_chunks_add_up_to_the_whole(both: tuple[Array, Array]):
    x = np.concatenate(both, axis=1)
    with np.errstate(over="ignore"):
        whole, parts = moments(x).norm, (moments(both[0]) + moments(both[1])).norm

    assert parts == pytest.approx(whole, rel=1e-12, abs=TINY)


@given(pairs(anything))
def test_nonfinite_chunks_make_a_nonfinite_whole(both: tuple[Array, Array]):
    x = np.concatenate(both, axis=1)
    parts = moments(both[0], FIELDS) + moments(both[1], FIELDS)

    assert np.array_equal(np.asarray(parts.nonfinite), (~np.isfinite(x)).reshape(len(x), -1).sum(axis=1))
    assert np.array_equal(np.isnan(parts.sumsq), np.isnan(x).reshape(len(x), -1).any(axis=1))
    assert np.array_equal(np.isfinite(parts.sumsq), np.isfinite(x).reshape(len(x), -1).all(axis=1))


@pytest.mark.parametrize("size", [1e-200, 1e-320, 1e200])
def test_a_chunk_of_zeros_does_not_hide_a_tiny_one(size: float):
    zero, tiny = np.zeros((1, 2, 3)), np.full((1, 2, 3), size)
    a, b = moments(zero, FIELDS), moments(tiny, FIELDS)

    for whole in (a + b, b + a):
        assert whole.norm[0] == pytest.approx(size * 6**0.5, rel=1e-3 if size < 1e-308 else 1e-15)
        assert whole.mean[0] == pytest.approx(size / 2, rel=1e-3 if size < 1e-308 else 1e-15)
    none, some = dot(zero, tiny, a, b), dot(tiny, tiny, b, b)
    for product in (none + some, some + none):
        assert (product.value, product.scale_x, product.scale_y) == (some.value, b.scale, b.scale)


def test_an_infinite_sample_stays_infinite_beside_a_huge_chunk():
    infinite, huge = moments(np.full((1, 1, 2), math.inf), FIELDS), moments(np.full((1, 1, 2), 1e308), FIELDS)

    assert np.isinf((infinite + huge).samples[0]).tolist() == [True, False]  # type: ignore[index]
    assert np.isinf((infinite + huge).sumsq[0])


def test_moments_taken_with_other_fields_add_up_in_what_both_have():
    joined = moments(np.ones((1, 2)), ("sum", "positive")) + moments(np.ones((1, 2)), ["sum"])

    assert joined.sum.tolist() == [4]  # type: ignore[union-attr]
    assert joined.positive is None


# ------------------------------------------------------------------------------------------------------------ dot


def inner(x: Array, y: Array) -> tuple[Any, Moments, Moments]:
    mx, my = moments(x), moments(y)
    return dot(x, y, mx, my), mx, my


@given(pairs(ordinary))
def test_dot_of_ordinary_numbers_is_the_plain_sum(both: tuple[Array, Array]):
    product, _, _ = inner(*both)
    x, y = (array.reshape(len(array), -1) for array in both)

    assert (product.scale_x == 1).all()
    assert (product.scale_y == 1).all()
    assert np.array_equal(product.value, np.vecdot(x, y))


@given(pairs(finite))
def test_dot_is_never_lost_to_overflow(both: tuple[Array, Array]):
    product, mx, my = inner(*both)

    for seed in range(len(both[0])):
        terms = [
            Fraction(float(a)) * Fraction(float(b))
            for a, b in zip(both[0][seed].ravel(), both[1][seed].ravel(), strict=True)
        ]
        value, unit_x, unit_y = (float(each[seed]) for each in (product.value, product.scale_x, product.scale_y))
        found = Fraction(value) * Fraction(unit_x) * Fraction(unit_y)
        # To the rounding of the norms' product, in exact arithmetic: none of these need be a float.
        norms = Fraction(float(mx.sumsq[seed]) ** 0.5) * Fraction(float(my.sumsq[seed]) ** 0.5)
        assert abs(found - sum(terms)) <= Fraction(1e-13) * norms * Fraction(unit_x) * Fraction(unit_y)


@given(pairs(finite))
def test_cauchy_schwarz_holds(both: tuple[Array, Array]):
    product, mx, my = inner(*both)

    assert (abs(product.value) <= (mx.sumsq * my.sumsq) ** 0.5 * (1 + 1e-13)).all()


@given(pairs(ordinary))
def test_dots_of_chunks_add_up(both: tuple[Array, Array]):
    x, y = both
    whole, _, _ = inner(np.concatenate([x, y], axis=1), np.concatenate([y, y], axis=1))
    parts = inner(x, y)[0] + inner(y, y)[0]

    terms = abs(np.concatenate([x * y, y * y], axis=1)).reshape(len(x), -1).sum(axis=1)
    assert (abs(parts.value - whole.value) <= 2e-13 * terms).all()


@pytest.mark.parametrize(("first", "second"), [(1e200, 1e-200), (1e-200, 1e-300), (1e300, 1.0)])
def test_dots_of_chunks_of_other_sizes_add_up(first: float, second: float):
    a, b = np.full((1, 3), first), np.full((1, 3), second)
    product = inner(a, a)[0] + inner(b, b)[0]
    whole, _, _ = inner(np.concatenate([a, b], axis=1), np.concatenate([a, b], axis=1))

    assert float(product.scale_x[0]) == float(whole.scale_x[0])
    assert product.value == pytest.approx(whole.value, rel=1e-14)


def test_shares_of_a_sum_of_tiny_parts_add_up_to_one():
    shortcut, branch = np.full((1, 3), 1e-200), np.array([[1e-200, -3e-200, 0.0]])
    total = shortcut + branch
    m = moments(total)

    shares = [inner(part, total)[0] for part in (shortcut, branch)]

    ratios = [share.value * (share.scale_x / m.scale) * (share.scale_y / m.scale) / m.sumsq for share in shares]
    assert ratios[0] + ratios[1] == pytest.approx(1, abs=1e-15)


# ---------------------------------------------------------------------------------------------------------- torch


@given(batches(anything), st.sampled_from(["float32", "float64"]))
def test_torch_tensors_have_the_same_moments(x: Array, dtype: str):
    with np.errstate(over="ignore"):
        x = x.astype(dtype)
    tensor = torch.from_numpy(x)

    mine, theirs = moments(x, FIELDS), moments(tensor, FIELDS)

    assert (mine.count, mine.rows) == (theirs.count, theirs.rows)
    for name in ("scale", "positive", "nonfinite", "units"):
        assert np.array_equal(getattr(mine, name), getattr(theirs, name).numpy()), name
    for name in ("sumsq", "samples"):  # added up in another order
        np.testing.assert_allclose(getattr(theirs, name).numpy(), getattr(mine, name), rtol=1e-14)
    with np.errstate(all="ignore"):
        of_sizes = abs(x.astype(float) / mine.scale.reshape(-1, *[1] * (x.ndim - 1))).reshape(len(x), -1).sum(axis=1)
        off = abs(np.asarray(theirs.sum) - np.asarray(mine.sum))
    assert ((off <= 1e-14 * of_sizes) | ~np.isfinite(of_sizes)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_tensors_add_up_and_multiply(dtype: torch.dtype):
    x = torch.linspace(-1, 2, 24, dtype=dtype).reshape(2, 3, 4)
    y = torch.cos(x)
    a, b = x.numpy(), y.numpy()

    joined, expected = moments(x, FIELDS) + moments(y, FIELDS), moments(a, FIELDS) + moments(b, FIELDS)
    product = dot(x, y, moments(x), moments(y)) + dot(y, y, moments(y), moments(y))

    for name in ("norm", "rms", "mean", "variance", "samples", "units"):
        np.testing.assert_allclose(getattr(joined, name).numpy(), getattr(expected, name), rtol=1e-13)
    assert product.value.dtype == torch.float64
    np.testing.assert_allclose(
        product.value.numpy(), [(a[s] * 1.0 * b[s] + b[s] * b[s]).sum(dtype=float) for s in range(2)], rtol=1e-6
    )


def test_every_scale_is_a_power_of_two():
    for exponent in (*range(-1074, -200, 7), *range(210, 1024, 7)):
        scale = moments(np.array([[math.ldexp(1.0, exponent), 0.0]])).scale[0]
        assert math.frexp(scale)[0] == 0.5
        assert scale == 2.0 ** min(max(exponent, -1000), 1000)


def test_the_safe_range_is_safe():
    # The largest and the smallest sums of squares that are not scaled come from numbers whose squares are normal.
    assert module._SAFE * 2.0**200 < HUGE
    assert np.finfo(np.float64).smallest_normal < 1 / module._SAFE / 2.0**200
