"""Zonal spectra: waves with hand-derived power, Parseval, odd widths, gaps, and sums that add up."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from climax_hpc.evaluation.spectra import SpectrumSums, band_rows, zonal_power, zonal_power_on_device

from ..synthetic import make_grid


def test_single_wave() -> None:
    """3 + 2 cos(4λ) has power 9 at wavenumber 0 and 2²/2 at 4; a wave at the end of the range, its full square."""
    lon = 2 * np.pi * np.arange(16) / 16
    power = zonal_power(3 + 2 * np.cos(4 * lon + 0.3))
    expected = np.zeros(9)
    expected[[0, 4]] = 9, 2
    np.testing.assert_allclose(power, expected, atol=1e-12)
    np.testing.assert_allclose(zonal_power(np.cos(8 * lon))[8], 1)


@given(width=st.integers(3, 20), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_powers_add_up_to_the_mean_square(width: int, seed: int) -> None:
    row = np.random.default_rng(seed).standard_normal((2, width))
    np.testing.assert_allclose(zonal_power(row).sum(axis=-1), (row**2).mean(axis=-1))


@pytest.mark.parametrize("width", [7, 12])
def test_powers_of_a_device_are_those_of_the_host(width: int) -> None:
    fields = np.random.default_rng(0).standard_normal((3, 2, 5, width))
    fields[1, 0, 2, 3] = np.nan
    exact = torch.from_numpy(zonal_power(fields))
    torch.testing.assert_close(
        zonal_power_on_device(torch.from_numpy(fields).float()), exact, rtol=1e-5, atol=1e-6, equal_nan=True
    )
    sums = SpectrumSums(["a", "b"], np.linspace(-80, 80, 5), np.arange(1.0, 6.0))
    on_device, on_host = sums._sums_on_device(torch.from_numpy(fields).float()), sums._sums_on_host(fields)
    torch.testing.assert_close(on_device, on_host, rtol=1e-5, atol=1e-6)


def test_mean_over_rows_by_area_and_over_forecasts_in_parts() -> None:
    grid = make_grid((12, 16))
    fields = np.random.default_rng(0).standard_normal((7, 2, 12, 16))
    fields[3, 1, 2, 5] = np.nan
    weight_H = np.cos(np.deg2rad(grid.lat))
    whole, parts = SpectrumSums(["a", "b"], grid.lat, weight_H), SpectrumSums(["a", "b"], grid.lat, weight_H)
    whole.add(torch.from_numpy(fields))
    for first in (0, 2, 5):
        part = SpectrumSums(["a", "b"], grid.lat, weight_H)
        part.add(torch.from_numpy(fields[first : first + (2 if first == 0 else 3 if first == 2 else 2)]))
        parts += part
    rows = [h for h in range(12) if 30 <= abs(grid.lat[h]) <= 60]
    assert band_rows(grid.lat).tolist() == rows
    for o, name in enumerate("ab"):
        total, weight = np.zeros(9), 0.0
        for b in range(7):
            for h in rows:
                if np.isfinite(fields[b, o, h]).all():
                    total += weight_H[h] * zonal_power(fields[b, o, h])
                    weight += weight_H[h]
        np.testing.assert_allclose(whole.spectra()[name], total / weight)
        np.testing.assert_allclose(parts.spectra()[name], whole.spectra()[name])


def test_nothing_taken_in() -> None:
    grid = make_grid((4, 8))
    sums = SpectrumSums(["a"], grid.lat, np.ones(4))
    assert sums.spectra() == {}
    sums.add(torch.full((1, 1, 4, 8), torch.nan))
    assert sums.spectra() == {}


@pytest.mark.parametrize("lat", [np.array([-45.0, 45.0]), np.array([-10.0, 10.0])])
def test_grids_without_rows_in_the_band_take_all(lat: np.ndarray) -> None:
    assert band_rows(lat).tolist() == [0, 1]
