"""Which entry of a climatology belongs to a time step: that of its day of the year and hour, or of its month."""

import numpy as np
from numpy.typing import NDArray

from climax_hpc.fields.calendars import Seconds, to_dates

Index = NDArray[np.int64]
_MID_MONTH = (15, 46, 74, 105, 135, 166, 196, 227, 258, 288, 319, 349)  # day of year of the 15th, no leap day


def climatology_index(seconds: Seconds, calendar: str, step_hours: float) -> tuple[Index, Index]:
    """Day of year and hour (T,) of each step; of monthly data the 15th in a year of 365 days, hour 0."""
    dates = to_dates(seconds, calendar)
    if step_hours == 0:
        return np.array([_MID_MONTH[d.month - 1] for d in dates], np.int64), np.zeros(len(dates), np.int64)
    return np.array([d.dayofyr for d in dates], np.int64), np.array([d.hour for d in dates], np.int64)
