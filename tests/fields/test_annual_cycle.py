"""The annual cycle over some days of the year: orthonormal there, the nearest day's values elsewhere."""

import numpy as np
import pytest
from numpy.typing import NDArray

from climax_hpc.fields.annual_cycle import annual_cycle

WINTER = np.r_[289:366, 0:74]  # 16 October to 14 March


@pytest.mark.parametrize(
    "days_N",
    [np.arange(366), WINTER, np.repeat(WINTER, 2), np.arange(100, 130), np.array([3, 3, 80, 200, 201])],
)
def test_the_functions_are_orthonormal_over_the_days(days_N: NDArray[np.int64]) -> None:
    found_NK = annual_cycle(days_N)[days_N]
    np.testing.assert_allclose(found_NK.T @ found_NK / len(days_N), np.eye(3), atol=1e-9)
    np.testing.assert_allclose(found_NK[:, 0], 1, rtol=1e-12)


def test_over_a_whole_year_they_are_a_constant_and_the_first_harmonic() -> None:
    angle_D = 2 * np.pi * np.arange(366) / 366
    expected = np.stack([np.ones(366), np.sqrt(2) * np.cos(angle_D), np.sqrt(2) * np.sin(angle_D)], axis=1)
    np.testing.assert_allclose(annual_cycle(np.arange(366)), expected, atol=1e-9)


def test_over_a_winter_any_annual_cycle_is_a_sum_of_them() -> None:
    cycle_N = 3 + 2 * np.cos(2 * np.pi * (WINTER - 20) / 366)
    found_NK = annual_cycle(WINTER)[WINTER]
    np.testing.assert_allclose(found_NK @ (found_NK.T @ cycle_N / len(WINTER)), cycle_N, rtol=1e-9)


def test_nothing_is_extrapolated() -> None:
    found = annual_cycle(WINTER)
    np.testing.assert_array_equal(found[75:180], np.broadcast_to(found[73], (105, 3)))  # nearer to 14 March
    np.testing.assert_array_equal(found[183:289], np.broadcast_to(found[289], (106, 3)))  # nearer to 16 October
    assert np.abs(found).max() < 3


@pytest.mark.parametrize(("days", "functions"), [([40], 1), ([40, 40, 40], 1), ([40, 90], 2), ([40, 90, 140], 3)])
def test_few_days_tell_fewer_functions_apart(days: list[int], functions: int) -> None:
    assert annual_cycle(np.array(days)).shape == (366, functions)
