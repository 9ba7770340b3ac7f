"""What evaluation asks of anything that forecasts, and how baselines read their fields."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.data.dataset import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.fields.averaging_window import WindowSteps


class ForecastModel(Protocol):
    """A forecaster of one source: baselines, and `climax_hpc.inference.forecaster.Forecaster`."""

    variables: tuple[str, ...]
    """Registry names of the outputs."""

    def forecast(self, samples: Sequence[Sample]) -> Tensor:
        """Forecasts (B, O, H, W) for (time, lead) samples, in the source's z-scores; NaN where there is none."""
        ...


class ChannelReader:
    """Reads some channels of a source as float32 tensors (B, O, H, W), z-scores; with a window, means over it."""

    def __init__(self, source: PackedSource, variables: Sequence[str], window: WindowSteps | None = None) -> None:
        self._source, self._window = source, window
        self._channels = [source.channels.index(name) for name in variables]

    def fields(self, time_indices: Sequence[int]) -> Tensor:
        """The states of these time indices; with a window, those that it starts at."""
        return self._stack(self._source.read, time_indices)

    def climatology(self, time_indices: Sequence[int]) -> Tensor:
        """The climatology of the days of year and hours of these time indices."""
        return self._stack(self._source.read_climatology, time_indices)

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
