"""Textbook CRPS of an ensemble with missing targets: loops, float64-capable: the specification.

Dimensions: B batch · M members · O output variables · H latitude rows · W longitude columns · p patch edge ·
P = p·p pixels · L = (H/p)·(W/p) patches, row-major.
"""

import torch
from torch import Tensor

from climax_hpc.kernels.lat_weighted_loss.reference import unpatchify


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
    B, num_out, H, W = y_BOHW.shape
    weight_HW = weight_H.to(pred_BMOHW.dtype)[:, None].expand(H, W)
    loss_BO = pred_BMOHW.new_full((B, num_out), torch.nan)
    sample_losses = []
    for b in range(B):
        numerator, denominator = pred_BMOHW.new_zeros(()), 0.0
        for o in range(num_out):
            valid_HW = ~y_BOHW[b, o].isnan()
            if not valid_HW.any():
                continue
            members = [pred_HW[valid_HW] for pred_HW in pred_BMOHW[b, :, o]]
            crps = crps_of_cells(members, y_BOHW[b, o][valid_HW], alpha)
            mean = (weight_HW[valid_HW] * crps).sum() / weight_HW[valid_HW].sum()
            share = 1.0 if variable_weight_O is None else float(variable_weight_O[o])
            loss_BO[b, o] = mean.detach()
            numerator, denominator = numerator + share * mean, denominator + share
        sample_losses.append(numerator / denominator if denominator else numerator)
    return torch.stack(sample_losses).mean(), loss_BO


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
