"""Which entry of a climatology belongs to a time step: that of its day of the year and hour, or of its month."""

import cftime
import numpy as np
from numpy.typing import NDArray

from climax_hpc.fields.calendars import Seconds, to_dates

Index = NDArray[np.int64]
_MID_MONTH = (15, 46, 74, 105, 135, 166, 196, 227, 258, 288, 319, 349)  # day of year of the 15th, no leap day


def climatology_index(seconds: Seconds, calendar: str, step_hours: float) -> tuple[Index, Index]:
    """Day of year and hour (T,) of each step; of monthly data the 15th in a year of 365 days, hour 0."""
    entries = np.array([entry_of(date, step_hours, date.hour) for date in to_dates(seconds, calendar)], np.int64)
    day, hour = entries.reshape(-1, 2).T
    return day, hour


def entry_of(date: cftime.datetime, step_hours: float, daily_hour: int) -> tuple[int, int]:
    """Day of year and hour of the entry for a date; `daily_hour` is the hour of all entries of daily data."""
    if step_hours == 0:
        return _MID_MONTH[date.month - 1], 0
    return int(date.dayofyr), daily_hour if step_hours >= 24 else int(date.hour)
