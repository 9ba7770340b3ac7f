"""An ensemble of checkpoints, for example of runs with several seeds: one member each, of networks with noise several.

Dimensions: B samples · M members · O variables · H, W grid.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from climax_hpc.data.sampler import Sample
from climax_hpc.errors import UserError
from climax_hpc.evaluation.baselines.base import ForecastModel
from climax_hpc.evaluation.ensembles.base import EnsembleModel, Kind


class CheckpointEnsemble(EnsembleModel):
    """The members of all checkpoints one after the other, of the variables that all of them forecast."""

    kind: Kind = "checkpoints"

    def __init__(self, models: Mapping[str, ForecastModel], label: str) -> None:
        """`models`: path -> forecaster; `label`: name of the ensemble, for messages.

        Raises:
            UserError: they have no variable in common.
        """
        self._models = list(models.values())
        self.members = sum(len(getattr(model, "members", (0,))) for model in self._models)
        first, *others = self._models
        self.variables = tuple(v for v in first.variables if all(v in other.variables for other in others))
        if not self.variables:
            raise UserError(f"ensembles.checkpoints.{label}: the checkpoints have no variable in common")
        self._places = [[model.variables.index(v) for v in self.variables] for model in self._models]
        many = "one member of each" if self.members == len(models) else f"{self.members} members"
        self.description = f"{many} of {len(models)} checkpoints: {', '.join(models)}"

    def forecast_members(self, samples: Sequence[Sample]) -> Tensor:
        """Members (B, M, O, H, W) in the source's z-scores."""
        return torch.cat(
            [_members(model, samples)[:, :, places] for model, places in zip(self._models, self._places, strict=True)],
            dim=1,
        )


def _members(model: ForecastModel, samples: Sequence[Sample]) -> Tensor:
    """Members (B, M, O, H, W) of one checkpoint."""
    many = getattr(model, "forecast_members", None)
    found: Tensor = model.forecast(samples)[:, None] if many is None else many(samples)
    return found
