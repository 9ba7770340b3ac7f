"""The sums of an evaluation in whole-tensor PyTorch: the baseline of `climax-hpc bench kernels`.

Dimensions: B forecasts · O variables · F = B·O fields · H latitude rows · W longitude columns · S sums of a field.
"""

import torch
from torch import Tensor


def verification_sums_unfused(
    forecast_BOHW: Tensor, truth_BOHW: Tensor, climatology_BOHW: Tensor, weight_H: Tensor
) -> Tensor:
    """sums_SBO, as `op.verification_sums`."""
    missing = truth_BOHW.isnan() | climatology_BOHW.isnan()
    pairs = ((forecast_BOHW, truth_BOHW), (forecast_BOHW, climatology_BOHW), (truth_BOHW, climatology_BOHW))
    error, anomaly, truth_anomaly = ((a - b).masked_fill(missing, 0) for a, b in pairs)
    terms = [
        (~missing).to(error.dtype), error, error.abs(), error.square(),
        anomaly.square(), truth_anomaly.square(), anomaly * truth_anomaly,
    ]  # fmt: skip
    return torch.stack([(term.sum(dim=-1) * weight_H).sum(dim=-1) for term in terms])
