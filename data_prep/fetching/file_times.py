"""The time range in the name of a CMIP file, compared with a period of partial dates."""

import re
from collections.abc import Sequence

from climax_hpc.errors import UserError
from climax_hpc.fields.periods import check_period

_RANGE = re.compile(r"_(\d{4,14})-(\d{4,14})(?:-\w+)?\.nc")


def check_file_period(period: Sequence[str]) -> None:
    """Refuse a period that no file name can be compared with.

    Raises:
        UserError: not two dates, no dates, or the last before the first.
    """
    if len(period) != 2:
        raise UserError(f'period: {list(period)} is not [first, last]; write ["1979", "2014"]')
    first, last = (str(date) for date in period)
    check_period("period", (first, last))
    for date in (first, last):
        if not re.fullmatch(r"\d{1,4}(-.*)?", date.strip()):
            raise UserError(f"period: {date!r} is not a year from 0 to 9999, as file names have")
    if not _begins_by(_digits(first), _digits(last)):
        raise UserError(f"period: {first} … {last} is empty: the first date must come first")


def time_range(name: str) -> tuple[str, str] | None:
    """First and last time in a file name, as its digits; None for static fields and other names."""
    found = _RANGE.search(name)
    return (found[1], found[2]) if found else None


def in_period(name: str, period: Sequence[str] | None) -> bool:
    """True if the file may hold times of the period, which includes both dates; without a range in its name, too."""
    found = time_range(name)
    if period is None or found is None:
        return True
    first, last = (_digits(str(date)) for date in period)
    return _begins_by(found[0], last) and _begins_by(first, found[1])


def _begins_by(first: str, last: str) -> bool:
    """True if the time `first` is not after the end of the year, month or day `last`; both are digits."""
    length = min(len(first), len(last))
    return first[:length] <= last[:length]


def _digits(date: str) -> str:
    year, *rest = date.strip().split("-")
    return f"{int(year):04d}" + "".join(f"{int(part):02d}" for part in rest)
