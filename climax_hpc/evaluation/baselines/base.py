"""The interfaces of forecast models and baselines, and the reader of the fields of baselines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.fields.averaging_window import Window, WindowSteps
from climax_hpc.fields.calendar_days import day_numbers
from climax_hpc.fields.calendars import to_seconds


class ForecastModel(Protocol):
    """A forecaster of one source: baselines, and `climax_hpc.inference.forecaster.Forecaster`."""

    variables: tuple[str, ...]
    """Registry names of the outputs."""

    def forecast(self, samples: Sequence[Sample]) -> Tensor:
        """Forecasts (B, O, H, W) for (time, lead) samples, in the source's z-scores; NaN where there is none."""
        ...


@dataclass(frozen=True, kw_only=True)
class BaselineData:
    """What a baseline is built from."""

    source: PackedSource
    variables: tuple[str, ...]
    train_period: tuple[str, str]
    lead_hours: tuple[float, ...]
    """Lead times that it will be asked for [h]."""
    window: Window | None = None
    """Averaging window of the forecasts; None where states are forecast."""

    @property
    def window_steps(self) -> WindowSteps | None:
        """The window in steps of the source."""
        return self.window.over(self.source.step_hours, self.source.name) if self.window else None


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A baseline as its module registers it, in a constant of the name `BASELINE`."""

    label: str
    """Name in evaluation.json and the report."""
    description: str
    """What it forecasts, as the report says it."""
    description_of_means: str
    """The same for models that forecast means over a window."""
    place: int
    """Position in tables, ascending."""
    build: Callable[[BaselineData], ForecastModel]


class ChannelReader:
    """Reads some channels of a source as float32 tensors (B, O, H, W), z-scores; with a window, means over it."""

    def __init__(self, source: PackedSource, variables: Sequence[str], window: WindowSteps | None = None) -> None:
        self._source, self._window = source, window
        self._channels = [source.channels.index(name) for name in variables]

    def fields(self, time_indices: Sequence[int]) -> Tensor:
        """The states at these time indices; with a window, the means over the windows that start there."""
        return self._stack(self._source.read, time_indices)

    def climatology(self, time_indices: Sequence[int]) -> Tensor:
        """The climatology of the days of year and hours of these time indices."""
        return self._stack(self._source.read_climatology, time_indices)

    def hours(self, time_indices: Sequence[int]) -> list[float]:
        """Hours since 1850 of these time indices."""
        found: list[float] = self._source.hours[list(time_indices)].tolist()
        return found

    def days(self, time_indices: Sequence[int]) -> list[int]:
        """Days of a leap year, from 0, of these time indices."""
        found: list[int] = day_numbers(to_seconds(self.hours(time_indices)), self._source.calendar).tolist()
        return found

    def _stack(self, read: Callable[[int], NDArray[Any]], time_indices: Sequence[int]) -> Tensor:
        window = self._window
        fields = [(window.mean(read, t) if window else read(t))[self._channels] for t in time_indices]
        return torch.from_numpy(np.stack(fields).astype(np.float32))


def starts(samples: Sequence[Sample]) -> list[int]:
    """Time index at the start of every sample."""
    return [s.time_index for s in samples]


def valid_times(samples: Sequence[Sample]) -> list[int]:
    """Time index that every sample's forecast is for."""
    return [s.time_index + s.lead_steps for s in samples]
