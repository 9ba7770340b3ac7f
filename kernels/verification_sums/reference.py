"""Textbook sums of an evaluation with missing cells: loops, float64-capable: the specification.

Dimensions: B forecasts · O variables · F = B·O fields · H latitude rows · W longitude columns · S sums of a field.
"""

import torch
from torch import Tensor

NAMES = ("area", "error", "magnitude", "square", "forecast_square", "truth_square", "product")
"""The sums of one field, in the order of the S axis."""
WITHOUT_CLIMATOLOGY = 4
"""How many of them, the first ones, need no climatology."""


def number_of_sums(climatology_BOHW: Tensor | None) -> int:
    """S: all of NAMES, or those that need no climatology."""
    return WITHOUT_CLIMATOLOGY if climatology_BOHW is None else len(NAMES)


def verification_sums_reference(
    forecast_BOHW: Tensor, truth_BOHW: Tensor, climatology_BOHW: Tensor, weight_H: Tensor
) -> Tensor:
    """sums_SBO over the cells where truth and climatology are not missing, S in the order of NAMES."""
    B, num_out, H, W = truth_BOHW.shape
    weight_HW = weight_H[:, None].expand(H, W)
    sums_SBO = truth_BOHW.new_zeros(7, B, num_out)
    for b in range(B):
        for o in range(num_out):
            valid_HW = ~(truth_BOHW[b, o].isnan() | climatology_BOHW[b, o].isnan())
            weight = weight_HW[valid_HW]
            forecast, truth, climatology = (t[b, o][valid_HW] for t in (forecast_BOHW, truth_BOHW, climatology_BOHW))
            error, anomaly, truth_anomaly = forecast - truth, forecast - climatology, truth - climatology
            terms = [
                torch.ones_like(error), error, error.abs(), error**2,
                anomaly**2, truth_anomaly**2, anomaly * truth_anomaly,
            ]  # fmt: skip
            sums_SBO[:, b, o] = torch.stack([(weight * term).sum() for term in terms])
    return sums_SBO
