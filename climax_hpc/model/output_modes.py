"""Output modes, from network output to forecast: `full` fields, or `anomaly` with damped persistence added.

full (ClimaX): forecast = network, in z-scores.
anomaly (not in ClimaX): forecast anomaly = r_c(lead)·(input anomaly) + s_c(lead)·network; r is the damping of channel c
and s the standard deviation that damping leaves unexplained, fitted on the training years. The loss is in units of s:
comparing the network with `network_target` gives the loss of the forecast divided by s².
Dimensions: B batch · O output variables · C channels of a table · T lead times of a table · H, W grid.
"""

import torch
from torch import Tensor

ANOMALY_NOTE = (
    "Models in anomaly output mode forecast climatology + r(lead)·(input anomaly) + s(lead)·network; "
    "this is an addition to ClimaX, whose network forecasts full fields."
)


def at_lead(table_CT: Tensor, lead_hours_T: Tensor, lead_hours_B: Tensor) -> Tensor:
    """Table values (B, C) at each sample's lead time: linear between the table's ascending leads, constant beyond."""
    if lead_hours_T.numel() == 1:
        return table_CT.T.expand(lead_hours_B.shape[0], -1)
    leads_T = lead_hours_T.to(table_CT.dtype)
    lead_B = lead_hours_B.to(table_CT.dtype).clamp(leads_T[0], leads_T[-1])
    upper_B = torch.searchsorted(leads_T, lead_B).clamp(1, leads_T.numel() - 1)
    lower_B = upper_B - 1
    share_B = (lead_B - leads_T[lower_B]) / (leads_T[upper_B] - leads_T[lower_B])
    return torch.lerp(table_CT.T[lower_B], table_CT.T[upper_B], share_B.unsqueeze(1))


def network_target(y_anom_BOHW: Tensor, x_anom_BOHW: Tensor, r_BO: Tensor, s_BO: Tensor) -> Tensor:
    """Target of the network: (target anomaly - r·input anomaly) / s, NaN where the target is missing.

    A missing input anomaly counts as 0. Both anomalies are of the output variables, in z-scores.
    """
    return (y_anom_BOHW - _skip(x_anom_BOHW, r_BO)) / s_BO[..., None, None]


def forecast_from_network(net_BOHW: Tensor, x_anom_BOHW: Tensor, r_BO: Tensor | None, s_BO: Tensor | None) -> Tensor:
    """Forecast in z-scores: r·(input anomaly) + s·network, or the network's output where there is no r and s (`full`).

    A missing input anomaly counts as 0.
    """
    if r_BO is None or s_BO is None:
        return net_BOHW
    return _skip(x_anom_BOHW, r_BO) + s_BO[..., None, None] * net_BOHW


def _skip(x_anom_BOHW: Tensor, r_BO: Tensor) -> Tensor:
    return r_BO[..., None, None] * x_anom_BOHW.masked_fill(x_anom_BOHW.isnan(), 0)
