"""The dressed forecast: a deterministic forecast minus errors that it made in another period.

Errors are whole fields of all variables, so that the members have the errors' distribution in every cell, their
correlation in space and between variables, and their mean: the bias is removed too (Roulston and Smith 2003, who dress
with the errors of past forecasts).

Dimensions: B samples · M members · E errors kept · O variables · H, W grid.
"""

from collections.abc import Mapping, Sequence
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample, hash64
from climax_hpc.evaluation.baselines.base import ChannelReader, ForecastModel, starts, valid_times
from climax_hpc.evaluation.ensembles.base import EnsembleModel, Kind, draw, minutes_of
from climax_hpc.evaluation.ensembles.calendar_pool import CalendarPool
from climax_hpc.fields.calendar_days import DayRun

SEASON_DAYS = 45.0
"""Errors of starts within so many days of the calendar day are drawn, where there are enough."""
_BATCH = 8  # forecasts at a time while errors are collected


class DressedForecast(EnsembleModel):
    """Members are the forecast minus drawn errors of the same lead time, of which one set is held in memory."""

    kind: Kind = "dressed"
    may_miss_cells = True

    def __init__(
        self, model: ForecastModel, reader: ChannelReader, past: Mapping[int, Sequence[Sample]],
        source: PackedSource, *, members: int, seed: int, label: str, period: str,
        days: Sequence[DayRun] | None = None,
    ) -> None:  # fmt: skip
        """Dress a model.

        Args:
            model: what is dressed.
            reader: of its variables.
            past: lead steps -> forecasts of another period whose errors are drawn, at least as many as members.
            source: what is forecast.
            members: how many members to make.
            seed: of the draws.
            label: name of the model, for the description.
            period: that of the errors, for the description.
            days: its calendar days.
        """
        self.variables, self.members, self.days = model.variables, members, days
        self.description = (
            f"{label} minus {members} of its errors at the same lead time in {period}, whole fields drawn from up to "
            f"{max(len(samples) for samples in past.values())} starts, within {SEASON_DAYS:g} days of the calendar day "
            "where there are enough"
        )
        self._model, self._reader, self._source, self._seed = model, reader, source, seed
        self._past = past
        self._pools = {lead: CalendarPool(source, starts(some), SEASON_DAYS) for lead, some in past.items()}
        self._held: tuple[int, Tensor] | None = None
        self._lock = Lock()

    def forecast_members(self, samples: Sequence[Sample]) -> Tensor:
        """Members (B, M, O, H, W) in the source's z-scores."""
        forecast_BOHW = self._model.forecast(samples)
        members = []
        for sample, forecast_OHW in zip(samples, forecast_BOHW, strict=True):
            errors_EOHW = self._errors(sample.lead_steps).to(forecast_OHW)
            members.append(forecast_OHW - errors_EOHW[self._drawn(sample)])
        return torch.stack(members)

    def _drawn(self, sample: Sample) -> list[int]:
        """Which of the errors of its lead time a sample gets."""
        past_E = np.array(starts(self._past[sample.lead_steps]))
        near_N = self._pools[sample.lead_steps].nearest(sample.time_index, self.members)
        seed = hash64(self._seed, sample.lead_steps)
        chosen = draw(seed, minutes_of(self._source, sample.time_index), len(near_N), self.members)
        return [int(place) for place in np.searchsorted(past_E, near_N[chosen])]

    def _errors(self, lead_steps: int) -> Tensor:
        """Errors (E, O, H, W) of the past forecasts of one lead time; those of the last one asked for are kept."""
        with self._lock:
            if self._held is None or self._held[0] != lead_steps:
                past, found = self._past[lead_steps], []
                self._held = None
                for first in range(0, len(past), _BATCH):
                    some = past[first : first + _BATCH]
                    forecast_BOHW = self._model.forecast(some)
                    found.append(forecast_BOHW - self._reader.fields(valid_times(some)).to(forecast_BOHW))
                self._held = lead_steps, torch.cat(found)
            return self._held[1]
