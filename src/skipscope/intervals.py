"""Intervals at 95 %: of a mean over seeds, and of a share. Whoever needs another level changes it here, for all.

Imports NumPy and the errors; SciPy is imported where a quantile of Student's t is needed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skipscope.errors import InputError

__all__ = ["Z95", "mean_interval", "student", "student_half", "wilson_bound"]

Z95 = 1.959963984540054
"""The 0.975 quantile of the standard normal law."""


def student_half(n: int, deviation: float) -> float:
    """Half the 95 % interval of a mean of n numbers with this standard deviation (n - 1 below), by Student's t."""
    from scipy.special import stdtrit  # only whoever wants an interval needs SciPy

    return float(stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n)


def student(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """The mean of two numbers or more, and the ends of its interval by Student's t."""
    mean, half = float(values.mean()), student_half(len(values), float(values.std(ddof=1)))
    return mean, mean - half, mean + half


def mean_interval(values: ArrayLike) -> tuple[float, float | None, float | None]:
    """The mean, and the ends of its 95 % interval by Student's t; of one value there is no interval.

    Raises:
        InputError: there are no values, or one is not finite.
    """
    array = np.asarray(values, np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise InputError(f"values must be finite numbers, one at least; got {array.tolist()}.")
    return (float(array[0]), None, None) if array.size == 1 else student(array.ravel())


def wilson_bound(share: NDArray[Any] | float, n: int, sign: int) -> NDArray[np.float64]:
    """The lower (sign -1) or upper (+1) end of the interval of a share of n (Wilson 1927)."""
    centre = share + Z95**2 / (2 * n)
    spread = Z95 * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    bound: NDArray[np.float64] = np.clip((centre + sign * spread) / (1 + Z95**2 / n), 0.0, 1.0)
    return bound
