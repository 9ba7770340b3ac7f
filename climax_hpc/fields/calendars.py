"""CF time axes as whole seconds since 1850 in the calendar of the file; dates and step numbers from them."""

import re
from collections.abc import Sequence

import cftime
import numpy as np
from numpy.typing import ArrayLike, NDArray

from climax_hpc.errors import UserError
from climax_hpc.fields.periods import TIME_UNITS, period_hours

Seconds = NDArray[np.int64]
_SECONDS_UNITS = "seconds since 1850-01-01 00:00:00"
_ISO = re.compile(r"(-?\d{3,6})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)")
_REFERENCE = re.compile(r"since\s+[-+]?\d+-\d+-\d+")
_ALIASES = {"gregorian": "standard", "365_day": "noleap", "366_day": "all_leap", "none": "standard", "": "standard"}
# From this second on, the standard and the proleptic Gregorian calendar are the same.
GREGORIAN_REFORM = int(cftime.date2num(cftime.datetime(1582, 10, 15, calendar="standard"), _SECONDS_UNITS, "standard"))
STEP_HOURS: dict[str, float] = {
    "1hr": 1.0, "3hr": 3.0, "6hr": 6.0, "12hr": 12.0, "day": 24.0, "mon": 0.0, "yr": 0.0,
}  # fmt: skip
"""Frequencies that are packed -> time step [h]; 0 where its length varies."""
_DAYS = {"mon": (27, 32), "yr": (359, 367)}
_FEWEST = 0.25  # a frequency is that of a series if this share of its steps, or more, have its length
DAYS_IN_YEAR = {"noleap": 365, "360_day": 360}  # other calendars have leap years, so day 366 occurs


def same_calendar(some: str, other: str) -> bool:
    """True if days since 1850 and days of the year are the same dates in both."""
    gregorian = {"standard", "proleptic_gregorian"}  # equal from the reform of 1582 on
    return some == other or {some, other} == gregorian


def decode_times(values: NDArray[np.float64], units: str, calendar: str, file: str) -> tuple[Seconds, str]:
    """Times (T,) as seconds since 1850, rounded to the minute, and the standard name of the calendar.

    Raises:
        UserError: `units` or `calendar` are not of CF.
    """
    name = _ALIASES.get(calendar.lower(), calendar.lower())
    try:
        dates = np.atleast_1d(cftime.num2date(values, units, name, only_use_cftime_datetimes=True))
        seconds = cftime.date2num(dates, _SECONDS_UNITS, name)
    except (ValueError, OverflowError, TypeError) as error:
        reason = str(error) if _REFERENCE.search(units) else "no reference date: expected UNIT since YYYY-MM-DD"
        raise UserError(
            f"{file}: cannot read the time axis in {units!r} of calendar {calendar!r} ({reason}); fix its `units` and "
            "`calendar`"
        ) from error
    return np.round(np.asarray(seconds, np.float64) / 60).astype(np.int64) * 60, name


def at_multiples(hours: NDArray[np.float64], every_hours: float) -> NDArray[np.bool_]:
    """True for those of the hours since 1850-01-01 00:00 that are multiples of `every_hours`, up to rounding."""
    return np.remainder(hours + 1e-6, every_hours) < 1e-3


def to_seconds(hours: ArrayLike) -> Seconds:
    """Whole seconds of hours, as those since 1850 in shards."""
    return np.round(3600 * np.asarray(hours, np.float64)).astype(np.int64)


def to_dates(seconds: Seconds, calendar: str) -> NDArray[np.object_]:
    """cftime dates (T,) of seconds since 1850."""
    dates = cftime.num2date(np.asarray(seconds), _SECONDS_UNITS, calendar, only_use_cftime_datetimes=True)
    return np.atleast_1d(dates)


def iso(second: int, calendar: str) -> str:
    """`YYYY-MM-DDTHH:MM:SS`; the year has more digits from 10000 on, and a minus sign before 0."""
    d = to_dates(np.array([second]), calendar)[0]
    return f"{d.year:04d}-{d.month:02d}-{d.day:02d}T{d.hour:02d}:{d.minute:02d}:{d.second:02d}"


def iso_to_hours(texts: Sequence[str], calendar: str) -> NDArray[np.float64]:
    """Hours (T,) since 1850-01-01 of times that `iso` wrote. Compare times by them: as text, 10000 comes before 9999.

    Raises:
        ValueError: not such a time, or a date or calendar that does not exist.
    """
    dates = [cftime.datetime(*_parts(text), calendar=calendar) for text in texts]
    return np.asarray(cftime.date2num(dates, TIME_UNITS, calendar), np.float64)


def _parts(text: str) -> list[int]:
    match = _ISO.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not YYYY-MM-DDTHH:MM:SS")
    return [int(part) for part in match.groups()]


def stamp(second: int, calendar: str) -> str:
    """`YYYYMMDDHH`, for file names."""
    d = to_dates(np.array([second]), calendar)[0]
    return f"{d.year:04d}{d.month:02d}{d.day:02d}{d.hour:02d}"


def step_index(seconds: Seconds, calendar: str, frequency: str) -> NDArray[np.int64]:
    """Number (T,) of each time step; consecutive steps differ by one, also for months and years of different length."""
    if frequency == "yr":
        return np.array([d.year for d in to_dates(seconds, calendar)], np.int64)
    if frequency == "mon":
        return np.array([12 * d.year + d.month - 1 for d in to_dates(seconds, calendar)], np.int64)
    return np.floor_divide(seconds, round(3600 * STEP_HOURS[frequency]))


def mid_years(years: NDArray[np.float64], calendar: str) -> Seconds:
    """Noon of 2 July (T,) of each year, as seconds since 1850, for time axes that hold years."""
    dates = [cftime.datetime(int(year), 7, 2, 12, calendar=calendar) for year in years]
    return np.asarray(cftime.date2num(dates, _SECONDS_UNITS, calendar), np.int64)


def frequency_of(seconds: Seconds, calendar: str) -> str | None:
    """Frequency of a time axis (T,) from its usual step; None where it is not one that is packed."""
    return frequency_of_steps(np.diff(seconds))


def frequency_of_steps(lengths: Seconds) -> str | None:
    """The most common frequency of steps of these lengths [s], the shorter one of two; None if it is not packed."""
    bounds = {name: (hours / 24, hours / 24) for name, hours in STEP_HOURS.items() if hours} | _DAYS
    days = np.asarray(lengths) / 86400
    counts = {name: int(((days >= low) & (days <= high)).sum()) for name, (low, high) in bounds.items()}
    usual = max(counts, key=counts.__getitem__)
    return usual if counts[usual] and counts[usual] >= _FEWEST * len(days) else None


def length_text(seconds: int) -> str:
    """A length of time in hours, or in days from two days on."""
    hours = seconds / 3600
    return f"{hours:g} h" if hours < 48 else f"{hours / 24:g} days"


def within(seconds: Seconds, calendar: str, period: tuple[str, str] | None) -> NDArray[np.bool_]:
    """True (T,) inside a period of two partial dates, both included; None: all True.

    Raises:
        UserError: a date that does not exist in the calendar.
    """
    if period is None:
        return np.ones(len(seconds), bool)
    lower, upper = period_hours(period, calendar)
    return (seconds >= 3600 * lower) & (seconds < 3600 * upper)
