"""Climatology: the training period's mean for the day of year and hour."""

from collections.abc import Sequence

from torch import Tensor

from climax_hpc.data.sampler import Sample
from climax_hpc.evaluation.baselines.base import Baseline, BaselineData, ChannelReader, valid_times


class Climatology:
    """Forecasts the climatology of the valid time, independent of the state at the start."""

    def __init__(self, data: BaselineData) -> None:
        self.variables, self._reader = data.variables, ChannelReader(data.source, data.variables, data.window_steps)

    def forecast(self, samples: Sequence[Sample]) -> Tensor:
        """Forecasts (B, O, H, W) in the source's z-scores."""
        return self._reader.climatology(valid_times(samples))


BASELINE = Baseline(
    label="climatology",
    description="the mean of the training period for the day of year and hour of the valid time",
    description_of_means="the training period's climatology, averaged over the window",
    place=2,
    build=Climatology,
)
