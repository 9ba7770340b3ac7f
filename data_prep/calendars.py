"""CF time axes as whole seconds since 1850 in the file's own calendar; months, days and hours of them."""

import cftime
import numpy as np
from numpy.typing import NDArray

from climax_hpc.errors import UserError
from climax_hpc.periods import period_hours

Seconds = NDArray[np.int64]
_SECONDS_UNITS = "seconds since 1850-01-01 00:00:00"
_ALIASES = {"gregorian": "standard", "365_day": "noleap", "366_day": "all_leap", "none": "standard", "": "standard"}
# After the reform the proleptic Gregorian and the standard calendar are one and the same.
GREGORIAN_REFORM = int(cftime.date2num(cftime.datetime(1582, 10, 15, calendar="standard"), _SECONDS_UNITS, "standard"))
DAYS_IN_YEAR = {"noleap": 365, "360_day": 360}  # the others have leap years: 366 days of the year occur


def decode_times(values: NDArray[np.float64], units: str, calendar: str, file: str) -> tuple[Seconds, str]:
    """Time stamps (T,) as seconds since 1850, rounded to the minute, and the calendar under one name.

    Raises:
        UserError: units or calendar that CF does not know.
    """
    name = _ALIASES.get(calendar.lower(), calendar.lower())
    try:
        dates = np.atleast_1d(cftime.num2date(values, units, name, only_use_cftime_datetimes=True))
        seconds = cftime.date2num(dates, _SECONDS_UNITS, name)
    except (ValueError, OverflowError, TypeError) as error:
        raise UserError(f"{file}: cannot read its time axis ({error}); mend its `units` and `calendar`") from error
    return np.round(np.asarray(seconds, np.float64) / 60).astype(np.int64) * 60, name


def to_dates(seconds: Seconds, calendar: str) -> NDArray[np.object_]:
    """cftime dates (T,) of seconds since 1850."""
    dates = cftime.num2date(np.asarray(seconds), _SECONDS_UNITS, calendar, only_use_cftime_datetimes=True)
    return np.atleast_1d(dates)


def iso(second: int, calendar: str) -> str:
    """`YYYY-MM-DDTHH:MM:SS`."""
    d = to_dates(np.array([second]), calendar)[0]
    return f"{d.year:04d}-{d.month:02d}-{d.day:02d}T{d.hour:02d}:{d.minute:02d}:{d.second:02d}"


def stamp(second: int, calendar: str) -> str:
    """`YYYYMMDDHH`, for file names."""
    d = to_dates(np.array([second]), calendar)[0]
    return f"{d.year:04d}{d.month:02d}{d.day:02d}{d.hour:02d}"


def step_index(seconds: Seconds, calendar: str, step_hours: float) -> NDArray[np.int64]:
    """Number of the time step (T,): consecutive steps differ by one, whatever the length of a month (step_hours 0)."""
    if step_hours == 0:
        return np.array([12 * d.year + d.month - 1 for d in to_dates(seconds, calendar)], np.int64)
    return np.floor_divide(seconds, round(3600 * step_hours))


def within(seconds: Seconds, calendar: str, period: tuple[str, str] | None) -> NDArray[np.bool_]:
    """True (T,) inside a period of two partial dates, both included; all True for None.

    Raises:
        UserError: a date that the calendar does not have.
    """
    if period is None:
        return np.ones(len(seconds), bool)
    lower, upper = period_hours(period, calendar)
    return (seconds >= 3600 * lower) & (seconds < 3600 * upper)
