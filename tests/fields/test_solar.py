"""The sun's position: almanac values, the dates of the seasons in every calendar, no drift; unknown calendars."""

from typing import Any

import cftime
import numpy as np
import pytest

from climax_hpc.errors import UserError
from climax_hpc.fields.periods import TIME_UNITS
from climax_hpc.fields.solar import SOLAR_CONSTANT, SunPosition, sun_at

CALENDARS = ("standard", "proleptic_gregorian", "noleap", "all_leap", "360_day", "julian")


def hours(calendar: str, *date: int) -> float:
    return float(cftime.date2num(cftime.datetime(*date, calendar=calendar), TIME_UNITS, calendar))


def declination_deg(sun: SunPosition) -> Any:
    return np.rad2deg(np.arctan2(sun.sin_declination_N, sun.cos_declination_N))


def distance(sun: SunPosition) -> Any:
    return np.sqrt(SOLAR_CONSTANT / sun.irradiance_N)


def test_an_almanac_day() -> None:
    """Meeus, Astronomical Algorithms, examples 25.a and 28.a: 1992-10-13 00:00 TD."""
    sun = sun_at(np.array([hours("standard", 1992, 10, 13)]), "standard")
    assert declination_deg(sun)[0] == pytest.approx(-7.78507, abs=0.01)
    assert distance(sun)[0] == pytest.approx(0.99766, abs=1e-4)
    minutes = 4 * (np.rad2deg(sun.greenwich_N[0]) + 180)  # the equation of time: at 0 h the mean sun stands at -180°
    assert minutes == pytest.approx(13 + 42.6 / 60, abs=0.04)


@pytest.mark.parametrize(
    ("date", "expected"),  # times of equinoxes and solstices (UT) from the tables of the US Naval Observatory
    [
        ((1900, 3, 21, 1, 39), 0), ((2000, 3, 20, 7, 35), 0), ((2020, 9, 22, 13, 31), 0), ((2100, 3, 20, 13, 4), 0),
        ((2000, 6, 21, 1, 48), 23.439), ((2020, 12, 21, 10, 2), -23.436),
    ],
)  # fmt: skip
@pytest.mark.parametrize("calendar", ["standard", "proleptic_gregorian"])
def test_equinoxes_and_solstices_of_the_sky(calendar: str, date: tuple[int, ...], expected: float) -> None:
    """0.02° of declination are 1.2 h at an equinox."""
    assert declination_deg(sun_at(np.array([hours(calendar, *date)]), calendar))[0] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("calendar", CALENDARS)
@pytest.mark.parametrize("year", [1950, 2000, 2050])
def test_against_fourier_series_of_the_share_of_the_year(calendar: str, year: int) -> None:
    """Spencer 1971, series in the day of the year. A leap year begins up to 0.75 days off: 0.3° of declination."""
    first, after = hours(calendar, year, 1, 1), hours(calendar, year + 1, 1, 1)
    hours_N = np.arange(first, after, 7.0)
    a = 2 * np.pi * (hours_N - first) / (after - first)
    sun = sun_at(hours_N, calendar)
    declination = (
        0.006918 - 0.399912 * np.cos(a) + 0.070257 * np.sin(a) - 0.006758 * np.cos(2 * a) + 0.000907 * np.sin(2 * a)
        - 0.002697 * np.cos(3 * a) + 0.00148 * np.sin(3 * a)
    )  # fmt: skip
    inverse_square = (
        1.000110 + 0.034221 * np.cos(a) + 0.001280 * np.sin(a) + 0.000719 * np.cos(2 * a) + 0.000077 * np.sin(2 * a)
    )
    of_time = (
        0.000075 + 0.001868 * np.cos(a) - 0.032077 * np.sin(a) - 0.014615 * np.cos(2 * a) - 0.040849 * np.sin(2 * a)
    )
    np.testing.assert_allclose(declination_deg(sun), np.rad2deg(declination), rtol=0, atol=0.35)
    np.testing.assert_allclose(sun.irradiance_N / SOLAR_CONSTANT, inverse_square, rtol=0, atol=1.5e-3)
    clock_N = (hours_N % 24 - 12) * np.pi / 12
    off_N = np.angle(np.exp(1j * (sun.greenwich_N - clock_N)))
    np.testing.assert_allclose(off_N, of_time, rtol=0, atol=0.004)  # 1 min
    np.testing.assert_allclose(sun.sin_declination_N**2 + sun.cos_declination_N**2, 1, rtol=1e-12)


@pytest.mark.parametrize(("calendar", "within_deg"), [(c, 0.002) for c in CALENDARS[2:5]] + [("julian", 0.2)])
@pytest.mark.parametrize("year", [-3000, 1, 1849, 9999])
def test_seasons_do_not_drift_where_the_year_has_another_length(calendar: str, within_deg: float, year: int) -> None:
    """Spring equinox of the mean year. A year of `julian` may begin 0.4 days off it: 0.16° of declination."""
    share = {"360_day": (3, 18, 18, 20), "all_leap": (3, 20, 1, 54)}.get(calendar, (3, 20, 20, 9))
    found = declination_deg(sun_at(np.array([hours(calendar, year, *share)]), calendar))[0]
    assert found == pytest.approx(0, abs=within_deg + 0.02)


def test_times_have_the_hour_of_the_day_of_their_calendar() -> None:
    for calendar in CALENDARS:
        noon = hours(calendar, 2001, 4, 15, 12)  # the equation of time is 0 then
        sun = sun_at(noon + np.array([0.0, 6.0, -6.0, 240.0]), calendar)
        np.testing.assert_allclose(np.rad2deg(sun.greenwich_N[:3]), [0, 90, -90], atol=0.5)
        assert np.abs(sun.greenwich_N).max() <= np.pi


def test_an_unknown_calendar_is_refused() -> None:
    with pytest.raises(UserError, match="length of the year of calendar 'martian' is unknown; use standard, prolep"):
        sun_at(np.zeros(1), "martian")
