"""The times of a period near a calendar day, at the same hour: what a climatological distribution is made of."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data.packed_source import PackedSource
from climax_hpc.fields.averaging_window import WindowSteps
from climax_hpc.fields.calendars import DAYS_IN_YEAR, to_seconds
from climax_hpc.shards.climatology_index import climatology_index

Index = NDArray[np.int64]


def times_of(source: PackedSource, period: tuple[str, str], window: WindowSteps | None = None) -> Index:
    """Time indices of a period; with an averaging window, of the starts of those that lie in one segment of it.

    Raises:
        UserError: no time step lies in the period.
    """
    tail = window.tail if window else 0
    spans = source.within(period)
    return np.concatenate([np.arange(span.first, span.first + span.steps - tail) for span in spans]).astype(np.int64)


class CalendarPool:
    """Times of a source to choose from by calendar day and hour."""

    def __init__(self, source: PackedSource, times_N: Sequence[int] | Index, window_days: float) -> None:
        """`times_N`: time indices; `window_days`: how far from the calendar day they may lie, on either side."""
        self._source, self._window_days = source, window_days
        self._times_N = np.asarray(times_N, np.int64)
        self._day_N, self._hour_N = self._calendar(self._times_N)
        self._year = DAYS_IN_YEAR.get(source.calendar, 366)

    def near(self, time_index: int) -> Index:
        """Those at the hour of a time index, within the window of its calendar day, ascending; never itself."""
        found = self.of_day(*self.calendar_of(time_index))
        return found[found != time_index]

    def nearest(self, time_index: int, least: int) -> Index:
        """As `near`; the whole year at that hour, then all times, where those before are fewer than `least`."""
        _, hour = self.calendar_of(time_index)
        for found in (self.near(time_index), self._times_N[self._hour_N == hour]):
            if len(found) >= least:
                return found[found != time_index]
        return self._times_N[self._times_N != time_index]

    def of_day(self, day: int, hour: int) -> Index:
        """Those at an hour within the window of a day of the year, ascending."""
        apart_N = np.abs(self._day_N - day)
        inside_N = np.minimum(apart_N, self._year - apart_N) <= self._window_days
        return self._times_N[inside_N & (self._hour_N == hour)]

    def calendar_of(self, time_index: int) -> tuple[int, int]:
        """Day of the year and hour of a time index."""
        day, hour = self._calendar(np.array([time_index], np.int64))
        return int(day[0]), int(hour[0])

    def _calendar(self, times_N: Index) -> tuple[Index, Index]:
        seconds_N = to_seconds(self._source.hours[times_N])
        return climatology_index(seconds_N, self._source.calendar, self._source.step_hours)
