"""Solar inputs in float64 against vectors and known facts: noon, polar night, the mean over the globe; valid times."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from climax_hpc.data.normalisation import Normalisation
from climax_hpc.data.solar_inputs import SolarInputs, with_solar
from climax_hpc.fields.grid import Grid, latitude_weights, uniform_grid
from climax_hpc.fields.solar import SOLAR_CONSTANT, sun_at
from climax_hpc.fields.variables import SOLAR

INSOLATION, INSOLATION_LATER, COSINE, COSINE_LATER = SOLAR
CPU, GRID = torch.device("cpu"), uniform_grid(7, 13)
EMPTY = Normalisation(mode="full", mean={}, std={}, anomaly_std={}, lead_hours=[], r={}, s={})
PLAIN = replace(EMPTY, mean=dict.fromkeys(SOLAR, 0.0), std=dict.fromkeys(SOLAR, 1.0))
JUNE, DECEMBER = (24 * (365 * 151 + day) for day in (171, 354))  # of 2001, noleap [h]
HOURS = np.array([JUNE + 0.0, JUNE + 12, DECEMBER + 5, 24 * 365 * 151 + 777.5])
LEADS = np.array([6.0, 24.0, 1.5, 720.0])


def physical(names: tuple[str, ...], grid: Grid = GRID, hours: NDArray[np.float64] = HOURS) -> NDArray[np.float64]:
    made = SolarInputs(names, grid, "noleap", PLAIN, CPU, dtype=torch.float64)
    return np.asarray(made(hours, LEADS[: len(hours)] if len(hours) <= 4 else np.zeros(len(hours))))


def test_fields_are_the_products_of_vectors() -> None:
    """Cosine: the normal of the cell times the direction of the sun, both in axes that turn with the earth."""
    sun = sun_at(HOURS, "noleap")
    lat_H1, lon_W = np.deg2rad(GRID.lat)[:, None], np.deg2rad(GRID.lon)
    normal_3HW = np.stack([np.cos(lat_H1) * np.cos(lon_W), np.cos(lat_H1) * np.sin(lon_W), np.sin(lat_H1) + 0 * lon_W])
    below_N = -sun.greenwich_N  # longitude over which the sun stands
    c, s = sun.cos_declination_N, sun.sin_declination_N
    sun_3N = np.stack([c * np.cos(below_N), c * np.sin(below_N), s])
    cosine_NHW = np.einsum("khw,kn->nhw", normal_3HW, sun_3N)
    found = physical((COSINE, INSOLATION))
    np.testing.assert_allclose(found[:, 0], cosine_NHW, rtol=0, atol=1e-14)
    expected = np.maximum(cosine_NHW, 0) * sun.irradiance_N[:, None, None]
    np.testing.assert_allclose(found[:, 1], expected, rtol=1e-12, atol=1e-10)
    assert (cosine_NHW < -0.5).any()
    single = SolarInputs((COSINE, INSOLATION), GRID, "noleap", with_solar(EMPTY, tuple(SOLAR)), CPU)(HOURS, LEADS)
    scaled = np.stack([cosine_NHW * 3**0.5, (expected / SOLAR_CONSTANT - 0.25) / (5 / 48) ** 0.5], axis=1)
    np.testing.assert_allclose(single.numpy(), scaled, rtol=0, atol=3e-6)  # float32: angles to 2e-7, divided by 0.32


def test_the_sun_stands_highest_where_it_is_noon() -> None:
    grid = uniform_grid(180, 360)
    found = physical((COSINE,), grid, np.array([JUNE + 0.0, JUNE + 6.0, JUNE + 12.0, DECEMBER + 18.0]))[:, 0]
    for field_HW, lon, lat in zip(found, (180, 90, 0, 270), (23.5, 23.5, 23.5, -23.5), strict=True):
        row, column = np.unravel_index(field_HW.argmax(), field_HW.shape)
        assert abs((grid.lon[column] - lon + 180) % 360 - 180) <= 1  # the equation of time is below 2 min then
        assert grid.lat[row] == lat
        assert field_HW.max() > 0.9999


def test_polar_day_and_night() -> None:
    grid = uniform_grid(36, 24)
    day = np.arange(24.0)
    for start, dark, bright in ((JUNE, slice(0, 4), slice(-4, None)), (DECEMBER, slice(-4, None), slice(0, 4))):
        insolation = physical((INSOLATION,), grid, start + day)[:, 0]
        assert insolation[:, dark].max() == 0
        assert insolation[:, bright].min() > 0
    equinox = physical((INSOLATION,), grid, 24 * (365 * 151 + 78.87) + day - 11.5)[:, 0].mean(axis=(0, 2))
    np.testing.assert_allclose(equinox, equinox[::-1], rtol=0.02)  # the same in both hemispheres


def test_the_mean_over_the_globe_is_a_quarter_of_the_irradiance() -> None:
    grid = uniform_grid(90, 180)
    hours = 24 * 365 * 151 + np.arange(0.0, 24 * 365, 191.0)
    field = physical((INSOLATION, COSINE), grid, hours)
    weight_H = latitude_weights(grid)
    mean_N2 = (field * weight_H[:, None]).mean(axis=(2, 3))
    np.testing.assert_allclose(mean_N2[:, 0], sun_at(hours, "noleap").irradiance_N / 4, rtol=1e-3)
    np.testing.assert_allclose(mean_N2[:, 1], 0, atol=1e-12)
    # Over a year: S0 / 4 / sqrt(1 - e²), with e = 0.0167.
    assert mean_N2[:, 0].mean() == pytest.approx(SOLAR_CONSTANT / 4 / np.sqrt(1 - 0.0167**2), rel=5e-4)
    norm = with_solar(EMPTY, (INSOLATION, COSINE))
    for i, name in enumerate((INSOLATION, COSINE)):
        z_NHW = (field[:, i] - norm.mean[name]) / norm.std[name]
        mean = (z_NHW * weight_H[:, None]).mean(axis=(1, 2))
        assert np.abs(mean).max() < 0.03  # the distance of the sun changes the irradiance by 3.3 %
        spread = np.sqrt((z_NHW**2 * weight_H[:, None]).mean(axis=(1, 2)) - mean**2)
        np.testing.assert_allclose(spread, 1, atol=0.04)


def test_fields_at_the_valid_time_are_those_of_the_later_time() -> None:
    made = physical(tuple(SOLAR))
    later = physical((COSINE, INSOLATION), hours=HOURS + LEADS)
    assert np.array_equal(made[:, [2, 0]], physical((COSINE, INSOLATION)))
    assert np.array_equal(made[:, [3, 1]], later)
    assert not np.allclose(made[0, 2], made[0, 3], atol=0.1)
    assert physical(()).shape == (4, 0, 7, 13)


def test_padding_is_missing_and_nothing_else() -> None:
    padding_HW = np.zeros(GRID.shape, bool)
    padding_HW[-1], padding_HW[:, 3] = True, True
    made = SolarInputs((INSOLATION,), GRID, "360_day", PLAIN, CPU, padding_HW=padding_HW)(HOURS, LEADS)
    assert torch.equal(made.isnan(), torch.from_numpy(padding_HW).expand_as(made))


def test_the_normalisation_keeps_what_it_has() -> None:
    norm = with_solar(with_solar(PLAIN, ()), (COSINE,))
    assert norm.mean == PLAIN.mean
    assert norm.std == PLAIN.std | {COSINE: 3**-0.5}
