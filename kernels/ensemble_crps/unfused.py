"""The CRPS in whole-tensor PyTorch, by sorting and by a broadcast difference: baselines of `climax-hpc bench kernels`.

Dimensions: B batch · M members · O output variables · H latitude rows · W longitude columns · p patch edge.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from climax_hpc.kernels.ensemble_crps.members import pair_weight
from climax_hpc.kernels.lat_weighted_loss.op import loss_of_sums
from climax_hpc.kernels.patch_runs import sum_dtype


def ensemble_crps_unfused(
    h_BMLPO: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    patch: int,
    *,
    alpha: float = 0.95,
    variable_weight_O: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss and loss_BO, as `op.ensemble_crps`; the sum over pairs from the sorted members, O(M log M) per cell.

    Members that are equal get gradients of 1 rank apart, in the order of the sort, where the op gives them the mean.
    """
    return _masked_mean(h_BMLPO, y_BOHW, weight_H, patch, alpha, variable_weight_O, _half_sum_of_sorted)


def ensemble_crps_broadcast(
    h_BMLPO: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    patch: int,
    *,
    alpha: float = 0.95,
    variable_weight_O: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss and loss_BO, as `op.ensemble_crps`, with a tensor of M × M differences per cell: what one writes first."""
    return _masked_mean(h_BMLPO, y_BOHW, weight_H, patch, alpha, variable_weight_O, _half_sum_of_differences)


def _masked_mean(
    h_BMLPO: Tensor,
    y_BOHW: Tensor,
    weight_H: Tensor,
    patch: int,
    alpha: float,
    variable_weight_O: Tensor | None,
    half_sum: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    B, num_out, H, W = y_BOHW.shape
    M = h_BMLPO.shape[1]
    h_BMhwppO = h_BMLPO.reshape(B, M, H // patch, W // patch, patch, patch, num_out)
    dtype = sum_dtype(h_BMLPO, y_BOHW)
    with torch.autocast(y_BOHW.device.type, enabled=False):
        pred_BMOHW = h_BMhwppO.permute(0, 1, 6, 2, 4, 3, 5).reshape(B, M, num_out, H, W).to(dtype)
        missing = y_BOHW.isnan()
        # The difference is zeroed before its absolute value is taken: 0·NaN would put NaN into the gradient.
        diff_BMOHW = (pred_BMOHW - y_BOHW[:, None].to(dtype)).masked_fill(missing[:, None], 0)
        crps_BOHW = diff_BMOHW.abs().mean(dim=1) - pair_weight(M, alpha) * half_sum(diff_BMOHW)
        weight_H1 = weight_H.to(dtype)[:, None]
        numerator_BO = (crps_BOHW * weight_H1).sum(dim=(2, 3))
        denominator_BO = (~missing * weight_H1).sum(dim=(2, 3))
        return loss_of_sums(numerator_BO, denominator_BO, variable_weight_O)


def _half_sum_of_sorted(x_BMOHW: Tensor) -> Tensor:
    """Half of the sum of |x_i - x_j| over all i and j: sum of (2k - M - 1) x_(k), k = 1 the smallest."""
    M = x_BMOHW.shape[1]
    rank_M = torch.arange(1 - M, M, 2, dtype=x_BMOHW.dtype, device=x_BMOHW.device)
    return torch.einsum("bmohw,m->bohw", x_BMOHW.sort(dim=1).values, rank_M)


def _half_sum_of_differences(x_BMOHW: Tensor) -> Tensor:
    return (x_BMOHW[:, :, None] - x_BMOHW[:, None]).abs().sum(dim=(1, 2)) / 2
