"""Dates in the settings of `climax-hpc simulate`."""

import datetime as dt
import re

from climax_hpc.errors import UserError

TimeSpan = tuple[dt.datetime, dt.datetime]
"""First and last instant."""


def day_of(text: str, key: str) -> dt.datetime:
    """A day of the config at 00 UTC.

    Raises:
        UserError: not a date of the form YYYY-MM-DD; names `key`.
    """
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        raise UserError(f"{key}: {text!r} is not of the form YYYY-MM-DD, for example 2001-01-01")
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{key}: {text!r} is not a date ({error}); use for example 2001-01-01") from error
