"""Weights for another patch edge p: a uniform field keeps its token, and a uniform forecast its value.

Dimensions: A variables of the model · D embedding · P = p·p pixels of a patch.
"""

import torch.nn.functional as F
from torch import Tensor


def resize_patch_weight(weight_ADpp: Tensor, patch: int) -> Tensor:
    """Patch weights (A, D, patch, patch) of the same sum over the pixels."""
    scale = (weight_ADpp.shape[-1] / patch) ** 2
    return F.interpolate(weight_ADpp.float(), size=(patch, patch), mode="area").mul_(scale).to(weight_ADpp.dtype)


def resize_last_layer(rows: Tensor, old: int, new: int) -> Tensor:
    """Weight (P·A, D) or bias (P·A,) of the head's last layer (variable fastest), from patch edge `old` to `new`."""
    pixels_1Rpp = rows.float().unflatten(0, (old, old, -1)).flatten(2).permute(2, 0, 1).unsqueeze(0)
    resized_Rpp = F.interpolate(pixels_1Rpp, size=(new, new), mode="area").squeeze(0)
    return resized_Rpp.permute(1, 2, 0).reshape(-1, *rows.shape[1:]).to(rows.dtype)
