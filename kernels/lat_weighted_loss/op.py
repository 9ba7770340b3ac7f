"""Latitude-weighted, masked MSE, MAE or Huber loss straight from the head output, or from fields.

Dimensions: B batch · O output variables · H latitude rows · W longitude columns · p patch edge · P = p·p pixels ·
L = (H/p)·(W/p) patches, row-major. README.md gives the formula.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

Kind = Literal["mse", "mae", "huber"]


def lat_weighted_loss(
    h_BLPO: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    patch: int,
    *,
    kind: Kind = "mse",
    variable_weight_O: Tensor | None = None,
    huber_delta: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Loss (scalar) and detached loss_BO of the head output (B, L, P·O) against fields; NaN targets are missing.

    loss_BO = sum(w·m·e) / sum(w·m) over the pixels of a field, NaN where it has no valid pixel (such a field is left
    out of the scalar); the scalar is the weighted mean over variables, then the mean over samples. `h_BLPO` is ordered
    patch rows, patch columns, variable fastest. At least float32; float64 if an input is.

    Raises:
        ValueError: unknown kind, fields not made of whole patches, or a head output of another size.
    """
    B, num_out, H, W = y_BOHW.shape
    if H % patch or W % patch:
        raise ValueError(f"fields of {H} rows and {W} columns are not made of whole {patch}×{patch} patches")
    expected = (B, (H // patch) * (W // patch), patch * patch * num_out)
    if tuple(h_BLPO.shape) != expected:
        raise ValueError(f"head output has shape {tuple(h_BLPO.shape)}, the targets ask for {expected}")
    pred = h_BLPO.reshape(B, H // patch, W // patch, patch, patch, num_out).permute(0, 5, 1, 3, 2, 4)
    return _loss(pred, y_BOHW, weight_H, patch, kind, variable_weight_O, huber_delta)


def lat_weighted_error(
    pred_BOHW: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    *,
    kind: Kind = "mse",
    variable_weight_O: Tensor | None = None,
    huber_delta: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The same loss of predicted fields.

    Raises:
        ValueError: unknown kind, or predictions and targets of different shapes.
    """
    if pred_BOHW.shape != y_BOHW.shape:
        raise ValueError(f"predictions {tuple(pred_BOHW.shape)} and targets {tuple(y_BOHW.shape)} differ in shape")
    pred = pred_BOHW[:, :, :, None, :, None]
    return _loss(pred, y_BOHW, weight_H, 1, kind, variable_weight_O, huber_delta)


def _loss(
    pred_BOhpwp: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    patch: int,
    kind: Kind,
    variable_weight_O: Tensor | None,
    huber_delta: float,
) -> tuple[Tensor, Tensor]:
    B, num_out, H, W = y_BOHW.shape
    if weight_H.shape != (H,):
        raise ValueError(f"latitude weights have shape {tuple(weight_H.shape)}, the targets have {H} rows")
    inputs = (pred_BOhpwp, y_BOHW)
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in inputs) else torch.float32
    with torch.autocast(y_BOHW.device.type, enabled=False):
        y_BOhpwp = y_BOHW.to(dtype).reshape(B, num_out, H // patch, patch, W // patch, patch)
        weight_hp = weight_H.to(dtype).view(H // patch, patch)
        missing = y_BOhpwp.isnan()
        # The difference is zeroed before it is squared: 0·NaN would put NaN into the gradient.
        error = _pointwise((pred_BOhpwp.to(dtype) - y_BOhpwp).masked_fill(missing, 0), kind, huber_delta)
        numerator_BO = (error.sum(dim=(4, 5)) * weight_hp).sum(dim=(2, 3))
        denominator_BO = ((~missing).sum(dim=(4, 5)) * weight_hp).sum(dim=(2, 3))
        present_BO = denominator_BO > 0
        loss_BO = numerator_BO / denominator_BO.masked_fill(~present_BO, 1)
        share_BO = present_BO.to(dtype)
        if variable_weight_O is not None:
            share_BO = share_BO * variable_weight_O.to(dtype)
        share_B = share_BO.sum(dim=1)
        sample_B = (share_BO * loss_BO).sum(dim=1) / share_B.masked_fill(share_B == 0, 1)
        return sample_B.mean(), loss_BO.detach().masked_fill(~present_BO, torch.nan)


def _pointwise(diff: Tensor, kind: Kind, huber_delta: float) -> Tensor:
    if kind == "mse":
        return diff.square()
    if kind == "mae":
        return diff.abs()
    if kind == "huber":
        return torch.nn.functional.huber_loss(diff, torch.zeros_like(diff), reduction="none", delta=huber_delta)
    raise ValueError(f"loss kind {kind!r}: use one of {', '.join(get_args(Kind))}")
