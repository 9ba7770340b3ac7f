"""The absorbed form in plain PyTorch, unfused and unchunked: the whole gathered operand u_NRVQ lies in memory.

Not used by the model: `climax-hpc bench kernels` holds `op.py` against it, to show what chunking and recomputation add.

Dimensions: B batch · V variables · H latitude rows · W longitude columns · p patch edge · P = p·p pixels of a patch ·
Q = P+1 (the pixels and one availability plane, which turns M0 and S0 into one more pixel) · L = (H/p)·(W/p) patches,
row-major · R = B·L · D embedding · N heads · K = D/N head width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def aggregate_variables_unfused(
    x_BVHW: Tensor, S_NVP: Tensor, S0_NV: Tensor, M_NVKP: Tensor, M0_NVK: Tensor, bias_D: Tensor, patch: int
) -> Tensor:
    """o_BLD, as `op.aggregate_variables`."""
    B, V = x_BVHW.shape[:2]
    N, _, K, P = M_NVKP.shape
    with torch.autocast(x_BVHW.device.type, enabled=False):
        x_RVQ, missing_VR1 = _pack(x_BVHW.to(M_NVKP.dtype), patch)
        S_VQN = torch.cat([S_NVP, S0_NV.unsqueeze(-1)], dim=-1).permute(1, 2, 0)
        M_NVQK = torch.cat([M_NVKP, M0_NVK.unsqueeze(-1)], dim=-1).transpose(2, 3)

        score_VRN = torch.bmm(x_RVQ.transpose(0, 1), S_VQN)
        # Not -inf: where every variable is missing the softmax stays finite, and x_RVQ = 0 makes the sum empty.
        score_VRN = score_VRN.masked_fill(missing_VR1, torch.finfo(score_VRN.dtype).min)
        attn_NRV = score_VRN.softmax(dim=0).permute(2, 1, 0).contiguous()
        o_NRK = _WeightedValues.apply(attn_NRV, x_RVQ, M_NVQK.reshape(N, V * (P + 1), K))
        o_RD = o_NRK.transpose(0, 1).reshape(-1, N * K) + bias_D
    return o_RD.view(B, -1, N * K).to(x_BVHW.dtype)


def _pack(x_BVHW: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Patches with missing pixels at 0 and availability (1 or 0) as the last plane, x_RVQ; missing_VR1."""
    B, V, H, W = x_BVHW.shape
    x_BVhpwp = x_BVHW.reshape(B, V, H // patch, patch, W // patch, patch)
    x_RVP = x_BVhpwp.permute(0, 2, 4, 1, 3, 5).reshape(-1, V, patch * patch)
    nan_RVP = x_RVP.isnan()
    missing_RV1 = nan_RVP.all(dim=-1, keepdim=True)
    x_RVQ = torch.cat([x_RVP.masked_fill(nan_RVP, 0), (~missing_RV1).to(x_RVP.dtype)], dim=-1)
    return x_RVQ, missing_RV1.transpose(0, 1)


class _WeightedValues(torch.autograd.Function):
    """o_NRK = (attn ⊗ x) · M per head; by hand because autograd's backward of the outer product costs twice as much."""

    @staticmethod
    def forward(ctx: Any, attn_NRV: Tensor, x_RVQ: Tensor, M_NVQK: Tensor) -> Tensor:
        u_NRVQ = (attn_NRV.unsqueeze(-1) * x_RVQ).flatten(2)
        ctx.save_for_backward(attn_NRV, x_RVQ, M_NVQK, u_NRVQ)
        return torch.bmm(u_NRVQ, M_NVQK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do_NRK: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        attn_NRV, x_RVQ, M_NVQK, u_NRVQ = ctx.saved_tensors
        dM_NVQK = torch.bmm(u_NRVQ.transpose(1, 2), do_NRK)
        du_NRVQ = torch.bmm(do_NRK, M_NVQK.transpose(1, 2)).view(*attn_NRV.shape, -1)
        dx_RVQ = (du_NRVQ * attn_NRV.unsqueeze(-1)).sum(0) if ctx.needs_input_grad[1] else None
        return du_NRVQ.mul_(x_RVQ).sum(-1), dx_RVQ, dM_NVQK
