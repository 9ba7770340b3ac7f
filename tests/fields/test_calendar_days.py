"""Calendar days that times cover, and times outside of them: over New Year, in several years, in other calendars."""

import cftime
import numpy as np
import pytest
from numpy.typing import NDArray

from climax_hpc.fields.calendar_days import DayRun, days_of, days_text, outside_days
from climax_hpc.fields.periods import period_hours

WINTER = [("12-01", "02-28")]


def every_day(period: tuple[str, str], calendar: str = "standard", step: int = 24) -> NDArray[np.int64]:
    """Seconds since 1850 of the times of a period."""
    return 3600 * np.arange(*map(int, period_hours(period, calendar)), step)


@pytest.mark.parametrize(
    ("period", "calendar", "expected"),
    [
        (("2003-01-01", "2003-01-30"), "noleap", [("01-01", "01-30")]),
        (("2003-12", "2004-02"), "noleap", WINTER),
        (("2003-12", "2004-02"), "standard", [("12-01", "02-29")]),
        (("2003", "2003"), "noleap", [("01-01", "12-31")]),
        (("2003", "2003"), "standard", [("01-01", "12-31")]),
        (("2003", "2003"), "360_day", [("01-01", "12-31")]),
        (("2001-07-15", "2002-07-14"), "standard", [("01-01", "12-31")]),
        (("2001", "2004"), "standard", [("01-01", "12-31")]),
        (("2003-02-20", "2003-03-10"), "360_day", [("02-20", "03-10")]),
        (("2003-06-05", "2003-06-05"), "standard", [("06-05", "06-05")]),
    ],
)
def test_runs_of_days(period: tuple[str, str], calendar: str, expected: list[DayRun]) -> None:
    assert days_of(every_day(period, calendar, step=6), calendar) == expected


def test_days_of_several_years_are_put_together() -> None:
    some = [every_day((f"{year}-{month}-01", f"{year}-{month}-10")) for year in (2001, 2005) for month in ("06", "12")]
    found = days_of(np.concatenate(some), "standard")
    assert found == [("06-01", "06-10"), ("12-01", "12-10")]
    assert days_text(found) == "06-01 … 06-10, 12-01 … 12-10"
    assert days_text([*found, ("12-24", "12-24")], most=2) == "06-01 … 06-10, 12-01 … 12-10 and 1 more"
    joined = days_of(
        np.concatenate([every_day(("2001-12-20", "2001-12-31")), every_day(("2007-01", "2007-01"))]), "standard"
    )
    assert joined == [("12-20", "01-31")]


@pytest.mark.parametrize(
    ("date", "is_outside"),
    [
        ((2050, 1, 15, 18), False), ((1999, 12, 1, 0), False), ((1999, 11, 30, 23), True), ((2004, 2, 28, 18), False),
        ((2004, 2, 29, 18), False), ((2004, 3, 1, 0), True), ((2004, 7, 1, 0), True),
    ],
)  # fmt: skip
def test_times_outside_of_a_winter(date: tuple[int, ...], is_outside: bool) -> None:
    hours = cftime.date2num(cftime.datetime(*date), "hours since 1850-01-01", "standard")
    assert outside_days(WINTER, np.array([3600 * hours]), "standard").tolist() == [is_outside]


@pytest.mark.parametrize("other", ["standard", "noleap", "360_day", "all_leap"])
@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day"])
def test_a_year_covers_every_day_of_other_calendars(calendar: str, other: str) -> None:
    runs = days_of(every_day(("2003", "2003"), calendar), calendar)
    assert not outside_days(runs, every_day(("2004", "2005"), other), other).any()
    winter = days_of(every_day(("2003-12", "2004-02"), calendar), calendar)
    found = outside_days(winter, every_day(("2004", "2004"), other), other)
    assert found.sum() == len(every_day(("2004-03", "2004-11"), other))


def test_no_days_and_no_times() -> None:
    assert days_of(np.array([], np.int64), "standard") == []
    assert outside_days([], every_day(("2004-01", "2004-01")), "standard").all()
    for text in ("13-01", "1-1", "02-30", "soon"):
        with pytest.raises(ValueError, match="is no day of the year: expected MM-DD"):
            outside_days([("01-01", text)], every_day(("2004-01", "2004-01")), "standard")
