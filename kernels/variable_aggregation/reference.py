"""Textbook tokenisation and aggregation of variables, as in ClimaX: the specification that `op.py` is tested against.

Dimensions: B batch · V variables · H latitude rows · W longitude columns · p patch edge · P = p·p pixels of a patch ·
L = (H/p)·(W/p) patches, row-major · D embedding · N heads · K = D/N head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def tokenise(x_BVHW: Tensor, weight_VDpp: Tensor, bias_VD: Tensor, embed_VD: Tensor) -> tuple[Tensor, Tensor]:
    """One token per variable and patch, t_BVLD, and whether the patch holds any valid pixel, avail_BVL.

    A NaN pixel is missing and enters the token as 0, the mean in normalised units.
    """
    patch = weight_VDpp.shape[-1]
    valid_BVHW = ~x_BVHW.isnan()
    filled_BVHW = x_BVHW.masked_fill(~valid_BVHW, 0)
    tokens, available = [], []
    for v in range(x_BVHW.shape[1]):
        token_BDhw = F.conv2d(filled_BVHW[:, v : v + 1], weight_VDpp[v].unsqueeze(1), bias_VD[v], stride=patch)
        tokens.append(token_BDhw.flatten(2).transpose(1, 2) + embed_VD[v])
        share_B1hw = F.avg_pool2d(valid_BVHW[:, v : v + 1].to(x_BVHW.dtype), patch)
        available.append(share_B1hw.flatten(1) > 0)
    return torch.stack(tokens, dim=1), torch.stack(available, dim=1)


def cross_attend(
    t_BVLD: Tensor, avail_BVL: Tensor, query_D: Tensor, in_weight: Tensor, in_bias: Tensor, num_heads: int
) -> Tensor:
    """Heads' outputs o_BLD of one learned query attending over the available variables of each patch.

    `in_weight` (3D, D) and `in_bias` (3D) stack query, key and value projections, as `nn.MultiheadAttention` does.
    A location with no available variable yields the value bias.
    """
    B, V, L, D = t_BVLD.shape
    weight_q, weight_k, weight_v = in_weight.chunk(3)
    bias_q, bias_k, bias_v = in_bias.chunk(3)
    t_RVD = t_BVLD.transpose(1, 2).reshape(B * L, V, D)
    avail_R1V1 = avail_BVL.transpose(1, 2).reshape(B * L, 1, V, 1)

    q_N1K = F.linear(query_D, weight_q, bias_q).view(num_heads, 1, -1)
    k_RNVK = F.linear(t_RVD, weight_k, bias_k).unflatten(-1, (num_heads, -1)).transpose(1, 2)
    v_RNVK = F.linear(t_RVD, weight_v).unflatten(-1, (num_heads, -1)).transpose(1, 2)
    score_RNV1 = (k_RNVK * q_N1K).sum(-1, keepdim=True) / (D // num_heads) ** 0.5

    # Out-of-softmax is a weight of exactly 0; the zero of a location with nothing stands for an empty sum.
    nothing_R111 = ~avail_R1V1.any(dim=2, keepdim=True)
    masked_RNV1 = score_RNV1.masked_fill(~(avail_R1V1 | nothing_R111), -torch.inf)
    attn_RNV1 = masked_RNV1.softmax(dim=2).masked_fill(nothing_R111, 0)
    o_RNK = (attn_RNV1 * v_RNVK).sum(dim=2) + bias_v.view(num_heads, -1)
    return o_RNK.reshape(B, L, D)


def tokenise_and_aggregate(
    x_BVHW: Tensor,
    weight_VDpp: Tensor,
    bias_VD: Tensor,
    embed_VD: Tensor,
    query_D: Tensor,
    in_weight: Tensor,
    in_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    num_heads: int,
) -> Tensor:
    """Aggregated tokens z_BLD of the images (ClimaX, arXiv 2301.10343, §3.2), every token materialised."""
    t_BVLD, avail_BVL = tokenise(x_BVHW, weight_VDpp, bias_VD, embed_VD)
    o_BLD = cross_attend(t_BVLD, avail_BVL, query_D, in_weight, in_bias, num_heads)
    return F.linear(o_BLD, out_weight, out_bias)
