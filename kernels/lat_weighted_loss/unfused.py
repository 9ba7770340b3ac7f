"""The loss in whole-tensor PyTorch: the baseline of `climax-hpc bench kernels`.

Dimensions: B batch · O output variables · H latitude rows · W longitude columns · p patch edge · P = p·p pixels ·
L = (H/p)·(W/p) patches, row-major.
"""

import torch
from torch import Tensor

from climax_hpc.kernels.lat_weighted_loss.op import loss_of_sums
from climax_hpc.kernels.patch_runs import sum_dtype


def lat_weighted_loss_unfused(
    h_BLPO: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    patch: int,
    *,
    kind: str = "mse",
    variable_weight_O: Tensor | None = None,
    huber_delta: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Loss and loss_BO, as `op.lat_weighted_loss`."""
    B, num_out, H, W = y_BOHW.shape
    pred_BOhpwp = h_BLPO.reshape(B, H // patch, W // patch, patch, patch, num_out).permute(0, 5, 1, 3, 2, 4)
    dtype = sum_dtype(h_BLPO, y_BOHW)
    with torch.autocast(y_BOHW.device.type, enabled=False):
        y_BOhpwp = y_BOHW.to(dtype).reshape(B, num_out, H // patch, patch, W // patch, patch)
        weight_hp = weight_H.to(dtype).view(H // patch, patch)
        missing = y_BOhpwp.isnan()
        # The difference is zeroed before it is squared: 0·NaN would put NaN into the gradient.
        error = _pointwise((pred_BOhpwp.to(dtype) - y_BOhpwp).masked_fill(missing, 0), kind, huber_delta)
        numerator_BO = (error.sum(dim=(4, 5)) * weight_hp).sum(dim=(2, 3))
        denominator_BO = ((~missing).sum(dim=(4, 5)) * weight_hp).sum(dim=(2, 3))
        return loss_of_sums(numerator_BO, denominator_BO, variable_weight_O)


def _pointwise(diff: Tensor, kind: str, huber_delta: float) -> Tensor:
    if kind == "mse":
        return diff.square()
    if kind == "mae":
        return diff.abs()
    return torch.nn.functional.huber_loss(diff, torch.zeros_like(diff), reduction="none", delta=huber_delta)
