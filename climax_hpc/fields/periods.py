"""Partial dates ("2001", "2001-06", "2001-06-15") as hours in a CF calendar."""

import re
import warnings

import cftime

from climax_hpc.errors import UserError

TIME_UNITS = "hours since 1850-01-01 00:00:00"
_PARTIAL = re.compile(r"(-?\d{1,6})(?:-(\d{1,2}))?(?:-(\d{1,2}))?")
# cftime warns of years before 1 in the calendars that CF does not define there; they are read all the same.
warnings.filterwarnings("ignore", ".*year zero convention is not supported by CF")


def period_hours(period: tuple[str, str], calendar: str) -> tuple[float, float]:
    """Hours [lower, upper) since 1850-01-01 of a period from its first to its last partial date, both included.

    A last date beyond the end of its month is the end of the month: 2001-12-31 is 2001-12-30 in a 360_day calendar.

    Raises:
        UserError: a date that does not exist in the calendar, or the last before the first.
    """
    lower, upper = _first_hour(period[0], calendar), _hour_after(period[1], calendar)
    if upper <= lower:
        raise UserError(f"period {period[0]} … {period[1]} is empty: the first date must come first")
    return lower, upper


def check_period(key: str, period: tuple[str, str] | None) -> None:
    """Refuse dates in a config that no calendar has, and a last date before the first; None is any time.

    Raises:
        UserError: names the key and the date.
    """
    if period is None:
        return
    try:
        (first_year, *first), (last_year, *last) = (_parts(date) for date in period)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    begins = first_year, *(part or 1 for part in first)
    ends = last_year, *(part or 31 for part in last)
    if ends < begins:
        raise UserError(f"{key}: {period[0]} … {period[1]} is empty: the first date must come first")


def _first_hour(date: str, calendar: str) -> float:
    """First hour of a partial date."""
    year, month, day = _parts(date)
    hour = _hour(year, month or 1, day or 1, calendar)
    if hour is None:
        whole = "" if _hour(year, month or 1, 1, calendar) is None else f": write '{year:04d}-{month:02d}'"
        raise UserError(f"{date!r} is not a date of the {calendar} calendar{whole}")
    return hour


def _hour_after(date: str, calendar: str) -> float:
    """First hour after a partial date."""
    year, month, day = _parts(date)
    following = (year, month + 1) if month and month < 12 else (year + 1, 1)
    first, after = _hour(year, month or 1, 1, calendar), _hour(*following, 1, calendar)
    if first is None or after is None:
        raise UserError(f"{date!r} is not a date of the {calendar} calendar")
    last_day = _hour(year, month, day, calendar) if month and day else None
    return after if last_day is None else last_day + 24


def _parts(date: str) -> tuple[int, int | None, int | None]:
    match = _PARTIAL.fullmatch(str(date).strip())
    year, month, day = (int(part) if part else None for part in match.groups()) if match else (None, None, None)
    if year is None or month not in (None, *range(1, 13)) or day not in (None, *range(1, 32)):
        raise UserError(f"{date!r} is not a date: write YYYY, YYYY-MM or YYYY-MM-DD")
    return year, month, day


def _hour(year: int, month: int, day: int, calendar: str) -> float | None:
    """First hour of a day; None where the calendar does not have it."""
    try:
        return float(cftime.date2num(cftime.datetime(year, month, day, calendar=calendar), TIME_UNITS, calendar))
    except ValueError:
        return None
