"""Scores the divergence of every forecast from the truth's own distribution, at the starts of its ensemble."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from climax_hpc.config.inference import EvaluateConfig
from climax_hpc.data.device_copy import to_device
from climax_hpc.data.sampler import Sample
from climax_hpc.distributed import process_group
from climax_hpc.errors import UserError
from climax_hpc.evaluation.baselines.base import ForecastModel
from climax_hpc.evaluation.divergence import DIVERGENCE, DivergenceSums
from climax_hpc.evaluation.divergence_table import DIVERGENCE_KEY, DivergenceTable, numbered
from climax_hpc.evaluation.ensembles.base import EnsembleModel
from climax_hpc.evaluation.readback import Readback
from climax_hpc.evaluation.scoring import ForecastScoring, scoring_dtype
from climax_hpc.evaluation.task_evaluation import bootstrap_of
from climax_hpc.evaluation.true_ensemble import KEY, TrueEnsemble, choose_members, samples_with_truth
from climax_hpc.fields.variables import lookup

_SHOWN = ("crps_difference", "spread_ratio", "spread_skill")  # in the table on the terminal


class DivergenceScoring:
    """The true ensemble of an evaluation, and what is scored against it."""

    def __init__(
        self, config: EvaluateConfig, scoring: ForecastScoring, pairs: Mapping[float, Sequence[Sample]]
    ) -> None:
        """`pairs`: lead time [h] -> forecasts; only those that start where the true members do are scored.

        Raises:
            UserError: models of a region or of means; no such members, other grids, or no forecast starts with them.
        """
        if scoring.domain is not None or scoring.window is not None:
            raise UserError(f"{KEY}: is for models of states on the whole globe; leave it out")
        self._config, self._scoring = config, scoring
        self._members = choose_members(config.truth_dataset or config.dataset, config.truth_members)
        self._truth = TrueEnsemble(self._members, scoring.source, scoring.variables)
        self._samples = samples_with_truth(pairs, scoring.source, self._truth, _note)

    def score(self, forecasters: Mapping[str, ForecastModel]) -> dict[str, Any]:
        """Score forecasters by label; what evaluation.json holds of it.

        One with a method `forecast_members`, samples -> (B, M, O, H, W), is an ensemble; another is a single forecast.
        """
        source, config = self._scoring.source, self._config
        spacing = _spacing(next(iter(self._samples.values()))) * source.step_hours
        table = DivergenceTable(bootstrap_of(config, spacing), config.reference)
        at_once = max(1, config.batch_size // max(_members(model) for model in forecasters.values()))
        for lead, samples in self._samples.items():
            sums = {
                label: DivergenceSums(model.variables, source.grid.lat, self._scoring.weight_H)
                for label, model in forecasters.items()
            }
            for first in range(0, len(samples), at_once):
                self._add(forecasters, sums, samples[first : first + at_once], lead)
            table.add(lead, numbered([sample.time_index for sample in samples]), sums)
        names = [member.name for member in self._members]
        return table.details(len(names), {"sources": names, "spacing_hours": spacing, "left_out": self._truth.left_out})

    def _add(
        self,
        forecasters: Mapping[str, ForecastModel],
        sums: Mapping[str, DivergenceSums],
        samples: Sequence[Sample],
        lead: float,
    ) -> None:
        scoring, readback = self._scoring, Readback()
        starts = [(float(scoring.source.hours[sample.time_index]), lead) for sample in samples]
        truth_BTOHW = self._on_device(self._truth.fields(starts))
        for label, model in forecasters.items():
            forecast_BMOHW = self._physical(model, samples)
            places = [scoring.variables.index(name) for name in model.variables]
            true = truth_BTOHW if places == list(range(truth_BTOHW.shape[2])) else truth_BTOHW[:, :, places]
            sums[label].add(forecast_BMOHW, true, torch.isfinite(true[:, 0]), readback)
        readback.run()

    def _physical(self, model: ForecastModel, samples: Sequence[Sample]) -> Tensor:
        """Members (B, M, O, H, W) of a forecast in physical units minus the source's mean."""
        many = getattr(model, "forecast_members", None)
        z_BMOHW = many(samples) if many is not None else model.forecast(samples)[:, None]
        source = self._scoring.source
        std_O = source.std_C[[source.channels.index(name) for name in model.variables]]
        return self._on_device(z_BMOHW) * self._on_device(torch.from_numpy(std_O))[:, None, None]

    def _on_device(self, values: Tensor) -> Tensor:
        device = self._scoring.device
        return (values if values.device == device else to_device(values, device)).to(scoring_dtype(device))


def _members(model: ForecastModel) -> int:
    """Forecasts that a model makes of each sample."""
    return model.members if isinstance(model, EnsembleModel) else 1


def _note(text: str) -> None:
    if process_group.detect().is_first:
        print(f"evaluate: {text}", flush=True)


def _spacing(samples: Sequence[Sample]) -> int:
    """Steps between the starts that lie closest."""
    return int(np.diff([sample.time_index for sample in samples]).min()) if len(samples) > 1 else 1


def divergence_text(content: Mapping[str, Any], variables: Sequence[str]) -> str:
    """A table of the divergence of the variables that were scored, as the terminal shows it; empty without one."""
    found = content.get(DIVERGENCE_KEY)
    if found is None:
        return ""
    lines = [f"Against {found['members']} members of the truth, {max(found['starts'].values())} starts:"]
    for variable in [name for name in variables if name in content["variables"]] or list(content["variables"])[:1]:
        for name in _SHOWN:
            metric = DIVERGENCE[name]
            lines.append(f"{lookup(variable).short_name} {metric.title} [{metric.units(variable)}]")
            for label, table in found["scores"].items():
                values = [one[name] for one in table.get(variable, {}).values()]
                lines.append(f"  {label:<24}" + "".join("       –" if v is None else f"{v:8.3g}" for v in values))
    return "\n".join(lines)
