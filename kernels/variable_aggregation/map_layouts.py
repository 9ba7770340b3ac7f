"""Lays out score maps and value maps as operands of the matrix products of `kernels.py`.

Dimensions: V variables, a multiple of 16 · P pixels of a patch · N heads · K head width · Q = P+1 · J = padded K ·
C blocks of 16 variables · Y blocks of X heads · T steps of E neighbouring variables · G groups of planes · F = rows of
one product: planes · E.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def score_maps(
    S_NVP: Tensor, S0_NV: Tensor, dtype: torch.dtype, E: int, X: int, planes: int, terms: int
) -> tuple[Tensor, Tensor]:
    """Maps [Y, T, G, terms, F, X·E] in `dtype`, and constants [Y, T, X·E] in float32; heads padded with 0.

    E variables share the rows of a product: the map of one is 0 where the pixels of another stand. With two terms a
    map is a high and a low part: their sum has twice the digits of `dtype`.
    """
    spare = -S_NVP.shape[0] % X
    S_YXTEP = F.pad(S_NVP.float(), (0, 0, 0, 0, 0, spare)).unflatten(1, (-1, E)).unflatten(0, (-1, X))
    S_YTPEXE = torch.diag_embed(S_YXTEP.permute(0, 2, 4, 1, 3), dim1=-3, dim2=-1)
    S_YTGFX = S_YTPEXE.flatten(-2).unflatten(2, (-1, planes)).flatten(3, 4)
    high = S_YTGFX.to(dtype)
    parts = [high, (S_YTGFX - high).to(dtype)][:terms]
    S0_YXTE = F.pad(S0_NV.float(), (0, 0, 0, spare)).unflatten(1, (-1, E)).unflatten(0, (-1, X))
    return torch.stack(parts, dim=3), S0_YXTE.transpose(1, 2).contiguous()


def value_maps(M_NVKP: Tensor, M0_NVK: Tensor, dtype: torch.dtype, lanes: int, J: int) -> Tensor:
    """M [C, N, Q, lanes, J] in `dtype`, the constants as the last plane; head width padded with 0."""
    M_NVKQ = torch.cat([M_NVKP, M0_NVK.unsqueeze(-1)], dim=-1).to(dtype)
    M_NVJQ = F.pad(M_NVKQ, (0, 0, 0, J - M_NVKP.shape[2]))
    return M_NVJQ.unflatten(1, (-1, lanes)).permute(1, 0, 4, 2, 3).contiguous()
