"""Partial dates ("2001", "2001-06", "2001-06-15") as hours in a CF calendar."""

import re

import cftime

from climax_hpc.errors import UserError

TIME_UNITS = "hours since 1850-01-01 00:00:00"
_PARTIAL = re.compile(r"(\d{1,4})(?:-(\d{1,2}))?(?:-(\d{1,2}))?")


def period_hours(period: tuple[str, str], calendar: str) -> tuple[float, float]:
    """Hours [lower, upper) since 1850-01-01 of a period given by its first and last partial date, both inclusive.

    Raises:
        UserError: a date that is none in the calendar, or the last before the first.
    """
    lower, upper = _first_hour(period[0], calendar), _first_hour(period[1], calendar, after=True)
    if upper <= lower:
        raise UserError(f"period {period[0]} … {period[1]} is empty: give the first date first")
    return lower, upper


def _first_hour(date: str, calendar: str, after: bool = False) -> float:
    """First hour of a partial date, or of what follows it."""
    match = _PARTIAL.fullmatch(str(date).strip())
    if not match:
        raise UserError(f"{date!r} is not a date: write YYYY, YYYY-MM or YYYY-MM-DD")
    year, month, day = (int(part) if part else None for part in match.groups())
    assert year is not None
    try:
        first = cftime.datetime(year, month or 1, day or 1, calendar=calendar)
        if not after:
            return float(cftime.date2num(first, TIME_UNITS, calendar=calendar))
        if day:
            return float(cftime.date2num(first, TIME_UNITS, calendar=calendar)) + 24
        following = (year, month + 1) if month and month < 12 else (year + 1, 1)
        return float(cftime.date2num(cftime.datetime(*following, 1, calendar=calendar), TIME_UNITS, calendar=calendar))
    except ValueError as error:
        raise UserError(f"{date!r} is not a date of the {calendar} calendar ({error})") from None
