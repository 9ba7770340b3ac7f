"""The slots of a climatology: day of the year and hour of each time step, or the month."""

import numpy as np
from numpy.typing import NDArray

from climax_hpc.fields.calendars import Seconds, to_dates

Index = NDArray[np.int64]
_MID_MONTH = (15, 46, 74, 105, 135, 166, 196, 227, 258, 288, 319, 349)  # day of year of the 15th, without leap day


def slots_of(seconds: Seconds, calendar: str, step_hours: float) -> tuple[Index, Index]:
    """Day of year and hour (T,) of each step; for months the 15th of the month in a year of 365 days, hour 0."""
    dates = to_dates(seconds, calendar)
    if step_hours == 0:
        return np.array([_MID_MONTH[d.month - 1] for d in dates], np.int64), np.zeros(len(dates), np.int64)
    return np.array([d.dayofyr for d in dates], np.int64), np.array([d.hour for d in dates], np.int64)
