"""Times as text: written and read back for every year and calendar, compared as numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from climax_hpc.fields.calendars import iso, iso_to_hours, same_calendar


@given(
    hours=st.integers(min_value=-20_000_000, max_value=100_000_000),
    calendar=st.sampled_from(["standard", "proleptic_gregorian", "noleap", "360_day", "julian", "all_leap"]),
)
def test_times_read_back(hours: int, calendar: str) -> None:
    assert iso_to_hours([iso(3600 * hours, calendar)], calendar).tolist() == [hours]


def test_years_beyond_four_digits_come_after_those_before() -> None:
    hours = np.arange(3) * 24.0 + iso_to_hours(["9999-12-31T00:00:00"], "noleap")
    texts = [iso(round(3600 * hour), "noleap") for hour in hours]
    assert texts == ["9999-12-31T00:00:00", "10000-01-01T00:00:00", "10000-01-02T00:00:00"]
    assert iso_to_hours(texts, "noleap").tolist() == hours.tolist()
    assert sorted(texts) != texts


@pytest.mark.parametrize("text", ["", "2001", "2001-01-01", "01-01-2001T00:00:00", "2001-13-01T00:00:00", "x" * 19])
def test_other_text_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"not|month"):
        iso_to_hours([text], "noleap")


@pytest.mark.parametrize(
    ("some", "other", "same"),
    [
        ("noleap", "noleap", True),
        ("standard", "proleptic_gregorian", True),
        ("standard", "noleap", False),
        ("360_day", "noleap", False),
        ("julian", "standard", False),
    ],
)
def test_same_calendar(some: str, other: str, same: bool) -> None:
    assert same_calendar(some, other) == same_calendar(other, some) == same
