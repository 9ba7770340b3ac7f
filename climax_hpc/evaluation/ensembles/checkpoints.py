"""An ensemble of checkpoints, for example of runs with several seeds: one member each.

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
    """Each member is the forecast of one checkpoint, of the variables that all of them forecast."""

    kind: Kind = "checkpoints"

    def __init__(self, models: Mapping[str, ForecastModel], label: str) -> None:
        """`models`: path -> forecaster; `label`: name of the ensemble, for messages.

        Raises:
            UserError: they have no variable in common.
        """
        self._models, self.members = list(models.values()), len(models)
        first, *others = self._models
        self.variables = tuple(v for v in first.variables if all(v in other.variables for other in others))
        if not self.variables:
            raise UserError(f"ensembles.checkpoints.{label}: the checkpoints have no variable in common")
        self._places = [[model.variables.index(v) for v in self.variables] for model in self._models]
        self.description = f"one member of each of {len(models)} checkpoints: {', '.join(models)}"

    def forecast_members(self, samples: Sequence[Sample]) -> Tensor:
        """Members (B, M, O, H, W) in the source's z-scores."""
        forecasts = [
            model.forecast(samples)[:, places] for model, places in zip(self._models, self._places, strict=True)
        ]
        return torch.stack(forecasts, dim=1)
