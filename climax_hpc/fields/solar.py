"""Where the sun stands at a time of any CF calendar: declination, hour angle, distance.

Low-precision formulas of the Astronomical Almanac (Michalsky 1988, doi:10.1016/0038-092X(88)90045-X): 0.01° in 1950 to
2050, 0.02° in 1850 to 2150; the irradiance to 0.03 %.
Dimensions: N times.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from climax_hpc.errors import UserError

Array = NDArray[np.float64]
SOLAR_CONSTANT = 1361.0
"""Irradiance at 1 AU [W m-2]: nominal total solar irradiance, IAU 2015 resolution B3."""
_GREGORIAN = ("standard", "proleptic_gregorian")
_J2000_DAYS = 54786.5  # from 1850-01-01 00:00 to 2000-01-01 12:00
_YEAR_DAYS = {"noleap": 365.0, "all_leap": 366.0, "360_day": 360.0, "julian": 365.25}
# Mean longitude of the sun at the start of 1 January, mean of 2000 to 2003: a whole cycle of leap years.
_NEW_YEAR_DEG = 280.348
_JULIAN_LATE_DAYS = 0.125  # 1850 starts this much later than the mean year of its cycle of leap years: 1848 was one
_PERIHELION_DEG = 282.932  # longitude at which the mean sun is nearest, in 2000
_OBLIQUITY_DEG = 23.439  # in 2000


@dataclass(frozen=True, kw_only=True)
class SunPosition:
    """The sun at N times; it stands at hour angle `greenwich_N` + longitude."""

    sin_declination_N: Array
    cos_declination_N: Array
    greenwich_N: Array
    """Hour angle on the meridian of Greenwich, -π … π, 0 at noon [rad]."""
    irradiance_N: Array
    """On a surface that faces the sun, outside the atmosphere [W m-2]."""


def sun_at(hours_N: Array, calendar: str) -> SunPosition:
    """The sun at these times, hours since 1850-01-01 00:00 in the calendar.

    In the standard and the proleptic Gregorian calendar it is that of the sky. Calendars with a mean year of another
    length get a sun of that year: its position depends on the share of the year that has passed, the orbit is that of
    2000, and the equinoxes keep their dates. So a year of `360_day` has four whole seasons, as in the models that
    write it.

    Raises:
        UserError: unknown calendar.
    """
    hours_N = np.asarray(hours_N, np.float64)
    longitude_N, anomaly_N, obliquity_N = (np.deg2rad(angle) for angle in _mean_sun(hours_N / 24, calendar))
    centre_N = np.deg2rad(1.915) * np.sin(anomaly_N) + np.deg2rad(0.020) * np.sin(2 * anomaly_N)
    ecliptic_N = longitude_N + centre_N
    right_ascension_N = np.arctan2(np.cos(obliquity_N) * np.sin(ecliptic_N), np.cos(ecliptic_N))
    sin_declination_N = np.sin(obliquity_N) * np.sin(ecliptic_N)
    distance_N = 1.00014 - 0.01671 * np.cos(anomaly_N) - 0.00014 * np.cos(2 * anomaly_N)  # [AU]
    clock_N = 2 * np.pi * np.remainder(hours_N, 24) / 24 - np.pi
    return SunPosition(
        sin_declination_N=sin_declination_N,
        cos_declination_N=np.sqrt(1 - sin_declination_N**2),
        greenwich_N=_wrapped(clock_N + longitude_N - right_ascension_N),  # the equation of time is the difference
        irradiance_N=SOLAR_CONSTANT / distance_N**2,
    )


def _mean_sun(days_N: Array, calendar: str) -> tuple[Array, Array, Array]:
    """Mean longitude, mean anomaly and obliquity [degrees] from days since 1850-01-01 00:00."""
    if calendar in _GREGORIAN:
        since_N = days_N - _J2000_DAYS
        return 280.460 + 0.9856474 * since_N, 357.528 + 0.9856003 * since_N, 23.439 - 4e-7 * since_N
    if calendar not in _YEAR_DAYS:
        known = ", ".join((*_GREGORIAN, *_YEAR_DAYS))
        raise UserError(f"solar inputs: the length of the year of calendar {calendar!r} is unknown; use {known}")
    late = _JULIAN_LATE_DAYS if calendar == "julian" else 0.0
    longitude_N = _NEW_YEAR_DEG + 360 * (days_N + late) / _YEAR_DAYS[calendar]
    return longitude_N, longitude_N - _PERIHELION_DEG, np.full_like(longitude_N, _OBLIQUITY_DEG)


def _wrapped(angle_N: Array) -> Array:
    return np.remainder(angle_N + np.pi, 2 * np.pi) - np.pi
