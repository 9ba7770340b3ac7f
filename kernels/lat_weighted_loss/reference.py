"""Textbook latitude-weighted loss with missing targets: loops, float64-capable: the specification.

Dimensions: B batch · O output variables · H latitude rows · W longitude columns · p patch edge · P = p·p pixels ·
L = (H/p)·(W/p) patches, row-major.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def unpatchify(h_BLPO: Tensor, height: int, width: int, patch: int) -> Tensor:
    """Fields y_BOHW from the head output (B, L, P·O): axis rows, columns of the patch, variable fastest."""
    B = h_BLPO.shape[0]
    h_BhwppO = h_BLPO.reshape(B, height // patch, width // patch, patch, patch, -1)
    return torch.einsum("bhwpqo->bohpwq", h_BhwppO).reshape(B, -1, height, width)


def pointwise(diff: Tensor, kind: str, huber_delta: float) -> Tensor:
    """Squared, absolute or Huber error of a difference."""
    if kind == "mse":
        return diff**2
    if kind == "mae":
        return diff.abs()
    inside = diff.abs() <= huber_delta
    return torch.where(inside, 0.5 * diff**2, huber_delta * (diff.abs() - 0.5 * huber_delta))


def lat_weighted_error_reference(
    pred_BOHW: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    *,
    kind: str = "mse",
    variable_weight_O: Tensor | None = None,
    huber_delta: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Loss (scalar) and loss_BO = sum(w·m·e) / sum(w·m) over the valid pixels, NaN where a variable has none.

    The scalar is the weighted mean over the variables that have a valid pixel, then the mean over all samples; a
    sample with no valid pixel at all counts as 0.
    """

    def error(b: int, o: int, valid_HW: Tensor) -> Tensor:
        return pointwise(pred_BOHW[b, o][valid_HW] - y_BOHW[b, o][valid_HW], kind, huber_delta)

    return mean_over_valid(error, y_BOHW, weight_H.to(pred_BOHW.dtype), variable_weight_O)


def mean_over_valid(
    error_of: Callable[[int, int, Tensor], Tensor], y_BOHW: Tensor, weight_H: Tensor, variable_weight_O: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scalar and loss_BO of the errors in the valid pixels of a sample and variable, in the type of the weights."""
    B, num_out, H, W = y_BOHW.shape
    weight_HW = weight_H[:, None].expand(H, W)
    loss_BO = weight_H.new_full((B, num_out), torch.nan)
    sample_losses = []
    for b in range(B):
        numerator, denominator = weight_H.new_zeros(()), 0.0
        for o in range(num_out):
            valid_HW = ~y_BOHW[b, o].isnan()
            if not valid_HW.any():
                continue
            error = error_of(b, o, valid_HW)
            mean = (weight_HW[valid_HW] * error).sum() / weight_HW[valid_HW].sum()
            share = 1.0 if variable_weight_O is None else float(variable_weight_O[o])
            loss_BO[b, o] = mean.detach()
            numerator, denominator = numerator + share * mean, denominator + share
        sample_losses.append(numerator / denominator if denominator else numerator)
    return torch.stack(sample_losses).mean(), loss_BO


def lat_weighted_loss_reference(
    h_BLPO: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    patch: int,
    *,
    kind: str = "mse",
    variable_weight_O: Tensor | None = None,
    huber_delta: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """`lat_weighted_error_reference` of the un-patchified head output."""
    pred_BOHW = unpatchify(h_BLPO, y_BOHW.shape[-2], y_BOHW.shape[-1], patch)
    return lat_weighted_error_reference(
        pred_BOHW, y_BOHW, weight_H, kind=kind, variable_weight_O=variable_weight_O, huber_delta=huber_delta
    )
