"""Percentiles of the climatology in every cell, by calendar day and hour, from states of the training period.

Days are taken together in bins, so that a test period needs few of them, and of each bin at most so many states are
read that all of them fit in memory.

Dimensions: B forecasts · N times of a bin · Q percentiles · O variables · H, W grid · K = H·W cells.
"""

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data.sampler import Sample
from climax_hpc.errors import UserError
from climax_hpc.evaluation.baselines.base import ChannelReader, valid_times
from climax_hpc.evaluation.ensembles.calendar_pool import CalendarPool

BIN_DAYS = 5
"""Days of the year that have the same thresholds."""
MOST_STATES = 128
"""States of the training period that the percentiles of a bin are taken from, evenly spaced."""
_FEWEST_STATES = 2
_BINS_HELD = 16

Float32 = NDArray[np.float32]


class ClimatologyPercentiles:
    """Percentiles by calendar day; the last few bins are kept."""

    def __init__(self, reader: ChannelReader, pool: CalendarPool, percentiles: Sequence[float]) -> None:
        """`pool`: times of the training period; `reader`: of the variables scored."""
        self.percentiles = tuple(percentiles)
        self._reader, self._pool, self._lock = reader, pool, Lock()
        self._held: OrderedDict[tuple[int, int], Float32] = OrderedDict()

    def of(self, samples: Sequence[Sample]) -> Float32:
        """Thresholds (Q, B, O, H, W) of the valid times in the source's z-scores; NaN where the climatology is."""
        return np.stack([self._of_bin(*self._pool.calendar_of(time)) for time in valid_times(samples)], axis=1)

    def check(self, samples: Sequence[Sample]) -> None:
        """Refuse valid times without states of the training period near their calendar day.

        Raises:
            UserError: names the day and what to change.
        """
        for day, hour in {self._pool.calendar_of(time) for time in valid_times(samples)}:
            if len(self._pool.of_day(_middle(day), hour)) < _FEWEST_STATES:
                raise UserError(
                    f"ensembles.percentiles: train_period has no two times near day {day} of the year at {hour:02d} h, "
                    "which thresholds are percentiles of: widen ensembles.window_days or train_period, or set "
                    "ensembles.percentiles to []"
                )

    def _of_bin(self, day: int, hour: int) -> Float32:
        key = (_middle(day), hour)
        with self._lock:
            if key not in self._held:
                fields_NOHW = self._reader.fields(_evenly(self._pool.of_day(*key).tolist())).numpy()
                self._held[key] = percentiles_of(fields_NOHW, self.percentiles)
                if len(self._held) > _BINS_HELD:
                    self._held.popitem(last=False)
            return self._held[key]


def _evenly(times: Sequence[int]) -> list[int]:
    """At most `MOST_STATES` of them, evenly spaced."""
    places = np.linspace(0, len(times) - 1, min(len(times), MOST_STATES)).round()
    return [times[int(place)] for place in places]


def _middle(day: int) -> int:
    """Middle day of the bin of a day of the year."""
    return (day - 1) // BIN_DAYS * BIN_DAYS + BIN_DAYS // 2 + 1


def percentiles_of(fields_NOHW: Float32, percentiles: Sequence[float]) -> Float32:
    """Percentiles (Q, O, H, W) in every cell, linear between values; missing values are left out."""
    levels_Q = np.asarray(percentiles) / 100
    found_QOHW = np.full((len(levels_Q), *fields_NOHW.shape[1:]), np.nan, np.float32)
    for place in range(fields_NOHW.shape[1]):
        values_NHW, of_variable_QHW = fields_NOHW[:, place], found_QOHW[:, place]
        missing_NHW = np.isnan(values_NHW)
        whole_HW, some_HW = ~missing_NHW.any(axis=0), missing_NHW.any(axis=0) & ~missing_NHW.all(axis=0)
        of_variable_QHW[:, whole_HW] = np.quantile(values_NHW[:, whole_HW], levels_Q, axis=0)
        if some_HW.any():
            of_variable_QHW[:, some_HW] = np.nanquantile(values_NHW[:, some_HW], levels_Q, axis=0)
    return found_QOHW
