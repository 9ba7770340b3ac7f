"""The climatological ensemble: states of other years near the calendar day of the valid time.

Dimensions: B samples · M members · O variables · H, W grid.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.errors import UserError
from climax_hpc.evaluation.baselines.base import ChannelReader, valid_times
from climax_hpc.evaluation.ensembles.base import EnsembleModel, Kind, draw, minutes_of
from climax_hpc.evaluation.ensembles.calendar_pool import CalendarPool


class ClimatologicalEnsemble(EnsembleModel):
    """Members are states of the training period, drawn for each valid time, without regard to the start."""

    kind: Kind = "climatology"
    may_miss_cells = True

    def __init__(
        self, reader: ChannelReader, variables: Sequence[str], pool: CalendarPool, source: PackedSource, *,
        members: int, seed: int, window_days: float,
    ) -> None:  # fmt: skip
        """`reader`: of these variables; `pool`: times of the training period."""
        self.variables, self.members = tuple(variables), members
        self.description = (
            f"{members} states of the training period at the hour of the valid time, within {window_days:g} days of "
            "its calendar day"
        )
        self._reader, self._pool, self._source, self._seed = reader, pool, source, seed

    def check(self, samples: Sequence[Sample]) -> None:
        """Refuse valid times that have too few others near their calendar day.

        Raises:
            UserError: names the date and what to change.
        """
        fewest = {self._pool.calendar_of(time): time for time in valid_times(samples)}
        for time in fewest.values():
            found = len(self._pool.near(time))
            if found < self.members:
                raise UserError(
                    f"ensembles.baselines: the climatological ensemble of {self.members} members has only {found} "
                    f"times of train_period near {self._source.date(time)}: widen ensembles.window_days or "
                    "train_period, or lower ensembles.baseline_members"
                )

    def forecast_members(self, samples: Sequence[Sample]) -> Tensor:
        """Members (B, M, O, H, W) in the source's z-scores."""
        return torch.stack([self._reader.fields(self._times(time)) for time in valid_times(samples)])

    def _times(self, time_index: int) -> list[int]:
        near_N = self._pool.near(time_index)
        chosen = draw(self._seed, minutes_of(self._source, time_index), len(near_N), self.members)
        return [int(time) for time in near_N[np.asarray(chosen)]]
