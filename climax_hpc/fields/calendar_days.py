"""Calendar days, whatever the year: those that times cover, and the times that lie outside of them.

A run of days is its first and its last one as MM-DD, both included; 12-01 … 02-28 goes over New Year.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from climax_hpc.fields.calendars import Seconds, to_dates

DayRun = tuple[str, str]
_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)  # of a leap year
_FIRST = (0, *np.cumsum(_MONTHS).tolist())
_TEXTS = [f"{month:02d}-{day + 1:02d}" for month, days in enumerate(_MONTHS, 1) for day in range(days)]
_MAY_LACK = [n for n, text in enumerate(_TEXTS) if text == "02-29" or text.endswith("-31")]
"""Days that some years and calendars do not have; they count as the day before."""
_DAY_SECONDS = 86400
DAYS = len(_TEXTS)
"""Days of a leap year."""


def days_of(seconds_T: Seconds, calendar: str) -> list[DayRun]:
    """The calendar days of times in seconds since 1850, as runs in the order of the year.

    A day that some years do not have is part of a run where the days before and after it are.
    """
    covered = np.zeros(len(_TEXTS), bool)
    covered[day_numbers(seconds_T, calendar)] = True
    for n in _MAY_LACK:
        covered[n] |= covered[n - 1] & covered[(n + 1) % len(covered)]
    if covered.all():
        return [(_TEXTS[0], _TEXTS[-1])]
    firsts = np.flatnonzero(covered & ~np.roll(covered, 1))
    lasts = np.flatnonzero(covered & ~np.roll(covered, -1))
    if covered[0] and covered[-1]:  # the last run began before New Year
        lasts = np.roll(lasts, -1)
    return [(_TEXTS[first], _TEXTS[last]) for first, last in zip(firsts, lasts, strict=True)]


def outside_days(runs: Sequence[DayRun], seconds_T: Seconds, calendar: str) -> NDArray[np.bool_]:
    """True (T,) for times, in seconds since 1850, on none of these calendar days.

    Raises:
        ValueError: a text that is no day of the year.
    """
    covered = np.zeros(len(_TEXTS), bool)
    for first, last in runs:
        start, end = _number(first), _number(last)
        covered[np.arange(start, end + 1 + (len(covered) if end < start else 0)) % len(covered)] = True
    for n in _MAY_LACK:
        covered[n] |= covered[n - 1]
    found: NDArray[np.bool_] = ~covered[day_numbers(seconds_T, calendar)]
    return found


def check_days(runs: Sequence[DayRun]) -> None:
    """Refuse runs that are not of days.

    Raises:
        ValueError: names the text that is no day of the year.
    """
    for run in runs:
        for text in run:
            _number(text)


def days_text(runs: Sequence[DayRun], most: int = 3) -> str:
    """Runs of days in words; the first `most` of them."""
    words = [first if first == last else f"{first} … {last}" for first, last in runs[:most]]
    return ", ".join(words) + (f" and {len(runs) - most} more" if len(runs) > most else "")


def day_numbers(seconds_T: Seconds, calendar: str) -> NDArray[np.int64]:
    """Day of a leap year (T,), from 0, of seconds since 1850; 30 February of the 360_day calendar is 29 February."""
    days_T, place_T = np.unique(seconds_T // _DAY_SECONDS, return_inverse=True)
    if not len(days_T):
        return place_T.astype(np.int64)
    dates = to_dates(days_T * _DAY_SECONDS, calendar)
    return np.array([_FIRST[d.month - 1] + min(d.day, _MONTHS[d.month - 1]) - 1 for d in dates], np.int64)[place_T]


def _number(text: str) -> int:
    if text not in _TEXTS:
        raise ValueError(f"{text!r} is no day of the year: expected MM-DD")
    return _TEXTS.index(text)
