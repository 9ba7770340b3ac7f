"""Persistence: nothing changes."""

from collections.abc import Sequence

from torch import Tensor

from climax_hpc.baselines.base import ChannelReader, starts
from climax_hpc.data.order import Sample
from climax_hpc.data.shards import Source


class Persistence:
    """Forecasts the state at the start; NaN where that is missing."""

    def __init__(self, source: Source, variables: Sequence[str]) -> None:
        self.variables = tuple(variables)
        self._reader = ChannelReader(source, variables)

    def forecast(self, samples: Sequence[Sample]) -> Tensor:
        """Forecasts (B, O, H, W) in the source's z-scores."""
        return self._reader.fields(starts(samples))
