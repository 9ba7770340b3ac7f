"""What every ensemble that is scored provides, and draws that do not depend on ranks, batches or the number of members.

Dimensions: B samples · M members · O variables · H, W grid.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample, hash64
from climax_hpc.fields.calendar_days import DayRun

Kind = Literal["network", "checkpoints", "climatology", "dressed", "perturbed", "calibrated"]


class EnsembleModel(ABC):
    """A forecaster (`baselines.base.ForecastModel`) with several members; its forecast is their mean."""

    kind: Kind
    """How the members come about."""
    description: str
    """What they are, as the report says it."""
    variables: tuple[str, ...]
    """Registry names of the outputs."""
    members: int
    """How many there are."""
    may_miss_cells = False
    """Whether members lack a value where past states or errors do; those cells are then scored for no forecast."""
    days: Sequence[DayRun] | None = None
    """Calendar days of the past forecasts that its bias and spread are from; None: of none."""

    @abstractmethod
    def forecast_members(self, samples: Sequence[Sample]) -> Tensor:
        """Members (B, M, O, H, W) for (time, lead) samples, in the source's z-scores; NaN where there is none."""

    def members_beside(self, others: Mapping[str, Tensor], samples: Sequence[Sample]) -> Tensor:
        """As `forecast_members`; `others`: label -> members of ensembles that have forecast these samples already."""
        return self.forecast_members(samples)

    def forecast(self, samples: Sequence[Sample]) -> Tensor:
        """Mean (B, O, H, W) of the members."""
        return mean_of(self.forecast_members(samples))


class MemberForecaster(Protocol):
    """A network that makes several members, such as `climax_hpc.inference.forecaster.Forecaster` with noise."""

    variables: tuple[str, ...]

    def forecast_members(self, samples: Sequence[Sample]) -> Tensor:
        """Members (B, M, O, H, W) in the source's z-scores."""
        ...


class NetworkEnsemble(EnsembleModel):
    """The members of one network with noise."""

    kind: Kind = "network"

    def __init__(self, network: MemberForecaster, members: int) -> None:
        self._network, self.members, self.variables = network, members, network.variables
        self.description = f"{members} members of the network, each with noise of its own"

    def forecast_members(self, samples: Sequence[Sample]) -> Tensor:
        """Members (B, M, O, H, W) in the source's z-scores."""
        return self._network.forecast_members(samples)


def mean_of(members_BMOHW: Tensor) -> Tensor:
    """Mean (B, O, H, W) of members, in float64."""
    return members_BMOHW.mean(dim=1, dtype=torch.float64)


def minutes_of(source: PackedSource, time_index: int) -> int:
    """Time of a step in minutes since 1850: names it whatever the data set holds before it."""
    return round(60 * float(source.hours[time_index]))


def draw(seed: int, minutes: int, size: int, count: int) -> NDArray[np.intp]:
    """`count` different ones of range(size), at most all, keyed by a seed and a time; a longer draw begins the same."""
    generator = np.random.Generator(np.random.Philox(key=hash64(seed, minutes)))
    return generator.permutation(size)[:count]
