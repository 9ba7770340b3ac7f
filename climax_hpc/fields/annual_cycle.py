"""An annual cycle over some calendar days: a constant, a cosine and a sine, made orthonormal over these days.

Over a winter they are nearly a constant, a line and a parabola. Coefficients of orthonormal functions do not depend on
each other, and the first is a mean.

Dimensions: N times · D = 366 days of a leap year · K functions.
"""

import numpy as np
from numpy.typing import NDArray

from climax_hpc.fields.calendar_days import DAYS

Array = NDArray[np.float64]
_LEAST = 1e-4
"""Of its own size, what a function must have besides those before it."""


def annual_cycle(days_N: NDArray[np.int64]) -> Array:
    """The functions (D, K) on every day; the mean of their products over `days_N` is 1, of different ones 0.

    A day that lies outside of `days_N` has the values of the nearest one in the circle of the year, so that nothing is
    extrapolated. K is less than 3 where so few days cannot tell the functions apart.

    Args:
        days_N: days of a leap year from 0 (`calendar_days.day_numbers`), at least one; each counts as often as it is
            there.
    """
    angle_D = 2 * np.pi * np.arange(DAYS) / DAYS
    made: list[Array] = []
    for values_D in (np.ones(DAYS), np.cos(angle_D), np.sin(angle_D)):
        left_D = values_D
        for other_D in [*made, *made]:  # twice: the first pass leaves rounding errors
            left_D = left_D - np.mean(left_D[days_N] * other_D[days_N]) * other_D
        size = np.sqrt(np.mean(left_D[days_N] ** 2))
        if size > _LEAST:
            made.append(left_D / size)
    known_U = np.unique(days_N)
    apart_DU = np.abs(np.arange(DAYS)[:, None] - known_U)
    nearest_D = known_U[np.minimum(apart_DU, DAYS - apart_DU).argmin(axis=1)]
    found: Array = np.stack(made, axis=1)[nearest_D]
    return found
