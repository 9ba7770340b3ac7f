"""Damped persistence: the anomaly fades towards climatology at the rate seen in the training period."""

from collections.abc import Sequence

import torch
from torch import Tensor

from climax_hpc.data.normalisation_fit import fit_normalisation
from climax_hpc.data.packed_source import PackedSource
from climax_hpc.data.sampler import Sample
from climax_hpc.errors import UserError
from climax_hpc.evaluation.baselines.base import Baseline, BaselineData, ChannelReader, starts, valid_times
from climax_hpc.fields.averaging_window import WindowSteps
from climax_hpc.model.output_modes import at_lead


class DampedPersistence:
    """Forecast = climatology + r_c(lead)·(anomaly at the start): r is the factor with the least mean square error.

    With a window, the forecast, its climatology and r are of means over it; the anomaly is still that at the start.

    Dimensions: B samples · O variables · T lead times of the table · H, W grid.
    """

    def __init__(self, data: BaselineData) -> None:
        """Fit r by least squares on the training period for leads up to the longest of `data.lead_hours`.

        Raises:
            UserError: no climatology, no such period, a lead longer than its longest segment without a gap, or a
                variable without anomalies.
        """
        source, variables, steps = data.source, data.variables, data.window_steps
        _check_leads(source, data.train_period, data.lead_hours, steps)
        self.variables = variables
        self._reader, self._step_hours = ChannelReader(source, variables), source.step_hours
        self._later = ChannelReader(source, variables, steps)
        fit = fit_normalisation(
            [source],
            mode="anomaly",
            period=data.train_period,
            min_lead_hours=min(data.lead_hours),
            max_lead_hours=max(data.lead_hours),
            window=data.window,
        )
        self._leads_T = torch.tensor(fit.lead_hours, dtype=torch.float32)
        self._r_OT = torch.tensor([fit.r[name] for name in variables], dtype=torch.float32)

    def forecast(self, samples: Sequence[Sample]) -> Tensor:
        """Forecasts (B, O, H, W) in the source's z-scores; a missing anomaly counts as 0."""
        now, later = starts(samples), valid_times(samples)
        anomaly_BOHW = (self._reader.fields(now) - self._reader.climatology(now)).nan_to_num(0.0)
        lead_hours_B = torch.tensor([s.lead_steps * self._step_hours for s in samples])
        r_BO = at_lead(self._r_OT, self._leads_T, lead_hours_B)
        return self._later.climatology(later) + r_BO[..., None, None] * anomaly_BOHW


def _check_leads(
    source: PackedSource, train_period: tuple[str, str], lead_hours: Sequence[float], window: WindowSteps | None
) -> None:
    """Refuse leads that no pair of the training period has, because r is not defined beyond its table."""
    times = source.times(train_period, min(lead_hours), max(lead_hours))
    longest = max(steps for _, steps in times.segments) - 1 - (window.tail if window else 0)
    if times.max_lead_steps > longest:
        raise UserError(
            f"train_period: damped persistence at {max(lead_hours):g} h cannot be fitted on "
            f"{' … '.join(train_period)}: its longest segment without a gap allows {longest * source.step_hours:g} h; "
            "widen train_period, or shorten lead_hours and map_lead_hours"
        )


BASELINE = Baseline(
    label="damped persistence",
    description="climatology + r(variable, lead) · (anomaly at the start), r fitted on the training period",
    description_of_means="climatology of the window + r(variable, lead) · (anomaly at the start), r fitted for means "
    "over the window on the training period",
    place=3,
    build=DampedPersistence,
)
