"""A deterministic model started from perturbed states: what an ensemble gains that knows errors of the start alone.

A perturbation is a scaled difference of two states of the training period near the calendar day, at the same hour, in
the model's normalisation (random field perturbations, Magnusson et al. 2009): it has the balance between variables and
the structure in space of the weather itself. Perturbations come in pairs of opposite sign.

Dimensions: B samples · M members · V input variables · O variables · H, W grid.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Protocol

import torch
from torch import Tensor

from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample, hash64
from climax_hpc.errors import UserError
from climax_hpc.evaluation.ensembles.base import EnsembleModel, Kind, draw, minutes_of
from climax_hpc.evaluation.ensembles.calendar_pool import CalendarPool
from climax_hpc.fields.variables import lookup


class PerturbableModel(Protocol):
    """A forecaster whose input can be changed, such as `climax_hpc.inference.forecaster.Forecaster`."""

    inputs: tuple[str, ...]
    variables: tuple[str, ...]

    def input_fields(self, samples: Sequence[Sample]) -> Tensor:
        """Input (B, V, H, W), normalised, variables as `inputs`."""
        ...

    def forecast(self, samples: Sequence[Sample], perturbation_BVHW: Tensor | None = None) -> Tensor:
        """Forecasts (B, O, H, W) in the source's z-scores, the perturbation added to the input."""
        ...


class PerturbedForecast(EnsembleModel):
    """Members 2k and 2k + 1 start from the state plus and minus perturbation k; an odd last one is unperturbed."""

    kind: Kind = "perturbed"

    def __init__(
        self, model: PerturbableModel, pool: CalendarPool, source: PackedSource, *,
        members: int, seed: int, scale: float, lead_steps: int, label: str,
    ) -> None:  # fmt: skip
        """Perturb a model.

        Args:
            model: what is perturbed.
            pool: starts of the training period with a forecast of `lead_steps`.
            source: what is forecast.
            members: how many members to make.
            seed: of the draws.
            scale: standard deviation of a perturbation, over that of the states about their climatology.
            lead_steps: any lead time that every start of the pool has.
            label: name of the model, for the description.
        """
        self.variables, self.members = model.variables, members
        self.description = (
            f"{label} from {members} perturbed starts: differences of two states of the training period, scaled to "
            f"{scale:g} of their spread, with both signs"
        )
        self._model, self._pool, self._source = model, pool, source
        self._seed, self._scale, self._lead_steps = seed, scale, lead_steps
        self._changes = torch.tensor([float(lookup(name).has_anomalies) for name in model.inputs])

    def check(self, samples: Sequence[Sample]) -> None:
        """Refuse starts with too few states of the training period near their calendar day.

        Raises:
            UserError: names the date and what to change.
        """
        of_day = {self._pool.calendar_of(sample.time_index): sample.time_index for sample in samples}
        for time in of_day.values():
            found = len(self._pool.near(time))
            if found < 2 * (self.members // 2):
                raise UserError(
                    f"ensembles.baselines: {self.members} perturbed starts need {2 * (self.members // 2)} states of "
                    f"train_period near {self._source.date(time)}, there are {found}: widen ensembles.window_days or "
                    "train_period, or lower ensembles.baseline_members"
                )

    def forecast_members(self, samples: Sequence[Sample]) -> Tensor:
        """Members (B, M, O, H, W) in the source's z-scores; one member of all samples is made at a time."""
        members = []
        for pair in range(self.members // 2):
            perturbation_BVHW = self._perturbation(samples, pair)
            members += [self._model.forecast(samples, sign * perturbation_BVHW) for sign in (1.0, -1.0)]
        if self.members % 2:
            members.append(self._model.forecast(samples))
        return torch.stack(members, dim=1)

    def _perturbation(self, samples: Sequence[Sample], pair: int) -> Tensor:
        """Perturbation (B, V, H, W); 0 of static and solar inputs, and where a state is missing."""
        chosen = [self._states(sample, pair) for sample in samples]
        one_BVHW, other_BVHW = (
            self._model.input_fields([Sample(time_index=states[i], lead_steps=self._lead_steps) for states in chosen])
            for i in (0, 1)
        )
        scale_V11 = (self._scale / sqrt(2) * self._changes).to(one_BVHW)[:, None, None]
        return ((one_BVHW - other_BVHW) * scale_V11).nan_to_num(0.0)

    def _states(self, sample: Sample, pair: int) -> tuple[int, int]:
        """Time indices of the two states of one pair of a start: the same for all lead times."""
        near_N = self._pool.near(sample.time_index)
        seed = hash64(self._seed, 1)
        drawn = draw(seed, minutes_of(self._source, sample.time_index), len(near_N), 2 * pair + 2)
        return int(near_N[drawn[-2]]), int(near_N[drawn[-1]])
