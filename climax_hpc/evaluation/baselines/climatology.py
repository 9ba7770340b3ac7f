"""Climatology: the training period's mean for the day of year and hour."""

from collections.abc import Sequence

from torch import Tensor

from climax_hpc.data.dataset import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.evaluation.baselines.base import ChannelReader, valid_times
from climax_hpc.fields.averaging_window import WindowSteps


class Climatology:
    """Forecasts the climatology of the valid time, whatever the state at the start."""

    def __init__(self, source: PackedSource, variables: Sequence[str], window: WindowSteps | None = None) -> None:
        self.variables = tuple(variables)
        self._reader = ChannelReader(source, variables, window)

    def forecast(self, samples: Sequence[Sample]) -> Tensor:
        """Forecasts (B, O, H, W) in the source's z-scores."""
        return self._reader.climatology(valid_times(samples))
