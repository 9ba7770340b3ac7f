"""Persistence: nothing changes."""

from collections.abc import Sequence

from torch import Tensor

from climax_hpc.data.sampler import Sample
from climax_hpc.evaluation.baselines.base import Baseline, BaselineData, ChannelReader, starts


class Persistence:
    """Forecasts the state at the start; with a window, the latest mean: over the window that ends with the start.

    NaN where that is missing.
    """

    def __init__(self, data: BaselineData) -> None:
        window = data.window_steps
        self.variables, self._reader = data.variables, ChannelReader(data.source, data.variables, window)
        self._back = window.tail if window else 0

    def forecast(self, samples: Sequence[Sample]) -> Tensor:
        """Forecasts (B, O, H, W) in the source's z-scores."""
        return self._reader.fields([start - self._back for start in starts(samples)])


BASELINE = Baseline(
    label="persistence",
    description="the state at the start of the forecast, unchanged",
    description_of_means="the latest mean: over the window that ends with the start of the forecast",
    place=1,
    build=Persistence,
)
