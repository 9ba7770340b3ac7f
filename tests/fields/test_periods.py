"""Partial dates in CF calendars, by hand-counted hours."""

import subprocess
import sys

import pytest

from climax_hpc.errors import UserError
from climax_hpc.fields.periods import check_period, period_hours

DAY = 24.0


@pytest.mark.parametrize(
    ("period", "calendar", "expected"),
    [
        (("1850", "1850"), "noleap", (0.0, 365 * DAY)),
        (("1850", "1850"), "360_day", (0.0, 360 * DAY)),
        (("1852", "1852"), "standard", (730 * DAY, (730 + 366) * DAY)),
        (("1850-02", "1850-02"), "noleap", (31 * DAY, 59 * DAY)),
        (("1850-12", "1850-12"), "noleap", (334 * DAY, 365 * DAY)),
        (("1850-01-01", "1850-01-30"), "standard", (0.0, 30 * DAY)),
        (("1850", "1850-03"), "360_day", (0.0, 90 * DAY)),
        (("1850", "1850-12-31"), "360_day", (0.0, 360 * DAY)),
        (("1850-01-31", "1850-02-29"), "noleap", (30 * DAY, 59 * DAY)),
        (("1850", "1852-02-29"), "standard", (0.0, (730 + 60) * DAY)),
        (("1850", "1850-02-29"), "all_leap", (0.0, 60 * DAY)),
        (("1850", "1850-02-30"), "360_day", (0.0, 60 * DAY)),
    ],
)
def test_hours(period: tuple[str, str], calendar: str, expected: tuple[float, float]) -> None:
    assert period_hours(period, calendar) == expected


@pytest.mark.parametrize(
    ("period", "message"),
    [
        (("2004", "2001"), "empty"),
        (("soon", "2001"), "write YYYY"),
        (("2001-13", "2002"), "not a date"),
        (("2001-02-30", "2002"), "'2001-02-30' is not a date of the noleap calendar: write '2001-02'$"),
        (("2001", "2001-12-32"), "'2001-12-32' is not a date: write YYYY"),
        (("2001", "2001-13-31"), "'2001-13-31' is not a date: write YYYY"),
        (("2001-00", "2002"), "'2001-00' is not a date: write YYYY"),
    ],
)
def test_bad_dates_are_refused(period: tuple[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        period_hours(period, "noleap")


@pytest.mark.parametrize(
    ("period", "message"),
    [
        (("2004", "2001"), r"data.period: 2004 … 2001 is empty: the first date must come first$"),
        (("2001-06-02", "2001-06-01"), "data.period: .* is empty"),
        (("2001-06", "2001-05-31"), "data.period: .* is empty"),
        (("2001", "2001-13"), r"data.period: '2001-13' is not a date: write YYYY"),
    ],
)
def test_bad_periods_of_a_config_are_refused_with_their_key(period: tuple[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_period("data.period", period)


@pytest.mark.parametrize(
    "period", [None, ("2001", "2001"), ("2001-06", "2001"), ("2001-06-01", "2001-06"), ("2001-02-30", "2001-02-30")]
)
def test_periods_of_some_calendar_pass(period: tuple[str, str] | None) -> None:
    check_period("data.period", period)


def test_a_first_day_that_the_calendar_lacks_is_refused() -> None:
    with pytest.raises(UserError, match=r"'2001-12-31' is not a date of the 360_day calendar: write '2001-12'$"):
        period_hours(("2001-12-31", "2002"), "360_day")


def test_years_before_one_print_nothing() -> None:
    code = "from climax_hpc.fields.periods import period_hours; print(period_hours(('-0005', '0003'), 'standard')[1])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("-16181760.0\n", "")
