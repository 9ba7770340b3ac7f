"""The interval that a time stamp stands for: the middle of its CF bounds, wherever the file puts the stamp.

Models stamp a mean at the start, the middle or the end of its interval. With bounds the stamp is not believed: every
step of a mean gets the middle of its interval, so that alignment, months, years and climatologies see the same time.
"""

from typing import Any

import numpy as np

from climax_hpc.data_prep.sources.coordinates import bounds_of
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import Seconds, decode_times, iso

_STATISTICS = ("mean", "sum", "minimum", "maximum")


def is_instantaneous(cell_methods: str) -> bool:
    """True if the CF cell methods say that values hold at a point of time."""
    return "time: point" in cell_methods and not any(f"time: {kind}" in cell_methods for kind in _STATISTICS)


def middle_of_intervals(
    dataset: Any, axis: Any, stamps: Seconds, units: str, calendar: str, file: str, cell_methods: str
) -> Seconds:
    """Times (T,) in the middle of the intervals of a time axis; the stamps where it has none, or values are points.

    Raises:
        UserError: an interval is empty, does not contain its stamp, or overlaps the next one.
    """
    bounds = bounds_of(dataset, axis)
    if bounds is None or is_instantaneous(cell_methods):
        return stamps
    seconds_T2, _ = decode_times(bounds.ravel(), units, calendar, file)
    lower, upper = np.sort(seconds_T2.reshape(-1, 2), axis=1).T
    if (lower == upper).all():
        return stamps  # CESM writes bounds of length 0 for instantaneous fields
    outside = (stamps < lower) | (stamps > upper) | (lower == upper)
    if outside.any():
        t = int(np.argmax(outside))
        raise UserError(
            f"{file}: time step {t} is stamped {iso(stamps[t], calendar)}, but its bounds are "
            f"{iso(lower[t], calendar)} to {iso(upper[t], calendar)}; correct the time axis or its bounds"
        )
    overlaps = lower[1:] < upper[:-1]
    if overlaps.any():
        t = int(np.argmax(overlaps))
        raise UserError(
            f"{file}: the intervals of time steps {t} and {t + 1} overlap (to {iso(upper[t], calendar)}, from "
            f"{iso(lower[t + 1], calendar)}); correct the bounds of the time axis"
        )
    return (lower + upper) // 2
