"""Tokenise and aggregate variables without tokens: maps from the parameters, then scores, softmax and one product.

Dimensions: B batch · V variables · H latitude rows · W longitude columns · p patch edge · P = p·p pixels of a patch ·
Q = P+1 (the pixels and one availability plane, which turns M0 and S0 into one more pixel) · L = (H/p)·(W/p) patches,
row-major · R = B·L · D embedding · N heads · K = D/N head width. README.md derives the algebra.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class Maps(NamedTuple):
    """All that the image is multiplied by; small, rebuilt from the parameters once per step."""

    S_NVP: Tensor
    """Score per unit of pixel."""
    S0_NV: Tensor
    """Score of the patch bias and the variable embedding."""
    M_NVKP: Tensor
    """Value per unit of pixel."""
    M0_NVK: Tensor
    """Value of the patch bias and the variable embedding."""
    bias_D: Tensor
    """Value bias; the whole output where every variable is missing."""


def build_maps(
    weight_VDpp: Tensor,
    bias_VD: Tensor,
    embed_VD: Tensor,
    query_D: Tensor,
    in_weight: Tensor,
    in_bias: Tensor,
    num_heads: int,
) -> Maps:
    """Maps of the variables whose rows are given, in float32 (float64 if a parameter is), autocast or not.

    `in_weight` (3D, D) and `in_bias` (3D) stack query, key and value projections. The key bias adds the same to every
    variable's score and cancels in the softmax: it takes no part.
    """
    parameters = (weight_VDpp, bias_VD, embed_VD, query_D, in_weight, in_bias)
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in parameters) else torch.float32
    with torch.autocast(in_weight.device.type, enabled=False):
        weight_VDpp, bias_VD, embed_VD, query_D, in_weight, in_bias = (t.to(dtype) for t in parameters)
        V, D = bias_VD.shape
        N, K = num_heads, D // num_heads
        weight_q, weight_k, weight_v = in_weight.chunk(3)
        bias_q, _, bias_v = in_bias.chunk(3)

        token_VDQ = torch.cat([weight_VDpp.flatten(2), (bias_VD + embed_VD).unsqueeze(-1)], dim=-1)
        token_DVQ = token_VDQ.transpose(0, 1).reshape(D, -1)
        q_N1K = (F.linear(query_D, weight_q, bias_q) / K**0.5).view(N, 1, K)
        score_row_ND = (q_N1K @ weight_k.view(N, K, D)).squeeze(1)
        S_NVQ = (score_row_ND @ token_DVQ).view(N, V, -1)
        M_NVKQ = (weight_v @ token_DVQ).view(N, K, V, -1).transpose(1, 2)
        return Maps(S_NVQ[..., :-1], S_NVQ[..., -1], M_NVKQ[..., :-1], M_NVKQ[..., -1], bias_v)


def aggregate_variables(
    x_BVHW: Tensor, S_NVP: Tensor, S0_NV: Tensor, M_NVKP: Tensor, M0_NVK: Tensor, bias_D: Tensor, patch: int
) -> Tensor:
    """Heads' outputs o_BLD (dtype of x, computed in that of the maps), before the output projection.

    NaN pixels are missing: a patch of a variable with no valid pixel has weight exactly 0, a partly missing one enters
    with 0 there, a location with nothing yields `bias_D`. No NaN reaches the output or a gradient.

    Raises:
        ValueError: H or W is no multiple of `patch`, or the maps are of another number of variables or patch size.
    """
    _check_shapes(x_BVHW, M_NVKP, patch)
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


def _check_shapes(x_BVHW: Tensor, M_NVKP: Tensor, patch: int) -> None:
    V, H, W = x_BVHW.shape[1:]
    if H % patch or W % patch:
        raise ValueError(f"image of {H} rows and {W} columns is not made of whole {patch}×{patch} patches; pad or crop")
    if M_NVKP.shape[1] != V or M_NVKP.shape[3] != patch * patch:
        raise ValueError(
            f"maps of {M_NVKP.shape[1]} variables and {M_NVKP.shape[3]} pixels do not fit {V} variables of "
            f"{patch}×{patch} patches; build the maps from the rows of the variables in the image"
        )


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
