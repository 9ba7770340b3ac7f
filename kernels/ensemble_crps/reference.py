"""Textbook CRPS of an ensemble with missing targets: loops, float64-capable: the specification.

Dimensions: B batch · M members · O output variables · H latitude rows · W longitude columns · p patch edge ·
P = p·p pixels · L = (H/p)·(W/p) patches, row-major.
"""

import torch
from torch import Tensor

from climax_hpc.kernels.lat_weighted_loss.reference import mean_over_valid, unpatchify


def crps_of_cells(members: list[Tensor], truth: Tensor, alpha: float) -> Tensor:
    """alpha · fair CRPS + (1 - alpha) · CRPS in every cell, by its definition; of one member the absolute error."""
    M = len(members)
    error = torch.stack([(x - truth).abs() for x in members]).sum(dim=0) / M
    if M == 1:
        return error
    spread = torch.zeros_like(truth)
    for x in members:
        for other in members:
            spread = spread + (x - other).abs()
    fair = error - spread / (2 * M * (M - 1))
    plain = error - spread / (2 * M**2)
    return alpha * fair + (1 - alpha) * plain


def ensemble_crps_of_fields_reference(
    pred_BMOHW: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    *,
    alpha: float = 0.95,
    variable_weight_O: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss (scalar) and loss_BO = sum(w·m·CRPS) / sum(w·m) over the valid pixels, NaN where a variable has none.

    The scalar is the weighted mean over the variables that have a valid pixel, then the mean over all samples; a
    sample with no valid pixel at all counts as 0.
    """

    def crps(b: int, o: int, valid_HW: Tensor) -> Tensor:
        members = [pred_HW[valid_HW] for pred_HW in pred_BMOHW[b, :, o]]
        return crps_of_cells(members, y_BOHW[b, o][valid_HW], alpha)

    return mean_over_valid(crps, y_BOHW, weight_H.to(pred_BMOHW.dtype), variable_weight_O)


def ensemble_crps_reference(
    h_BMLPO: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    patch: int,
    *,
    alpha: float = 0.95,
    variable_weight_O: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`ensemble_crps_of_fields_reference` of the un-patchified head output."""
    height, width = y_BOHW.shape[-2:]
    pred_BMOHW = torch.stack([unpatchify(h_MLPO, height, width, patch) for h_MLPO in h_BMLPO])
    return ensemble_crps_of_fields_reference(
        pred_BMOHW, y_BOHW, weight_H, alpha=alpha, variable_weight_O=variable_weight_O
    )
