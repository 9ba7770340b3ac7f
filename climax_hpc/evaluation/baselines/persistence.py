"""Persistence: nothing changes."""

from collections.abc import Sequence

from torch import Tensor

from climax_hpc.data.dataset import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.evaluation.baselines.base import ChannelReader, starts
from climax_hpc.fields.averaging_window import WindowSteps


class Persistence:
    """Forecasts the state at the start; with a window, the latest mean: over the window that ends with the start.

    NaN where that is missing.
    """

    def __init__(self, source: PackedSource, variables: Sequence[str], window: WindowSteps | None = None) -> None:
        self.variables = tuple(variables)
        self._reader = ChannelReader(source, variables, window)
        self._back = window.tail if window else 0

    def forecast(self, samples: Sequence[Sample]) -> Tensor:
        """Forecasts (B, O, H, W) in the source's z-scores."""
        return self._reader.fields([start - self._back for start in starts(samples)])
