"""Sine-cosine embeddings and the interpolation of learned position embeddings to another grid.

Dimensions: L patches, row-major · h, w patch rows and columns · D embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from climax_hpc.errors import UserError
from climax_hpc.model.config import Init

EMBEDDING_SCALE: dict[Init, float] = {"climax": 1.0, "scaled": 0.1}
"""`model.init` -> factor of the sine-cosine embeddings (variable, position, year) of a new network."""


def sincos_1d(positions_L: Tensor, dim: int) -> Tensor:
    """Embedding (L, D): sines, then cosines, at D/2 wavelengths from 2π to 2π·10⁴ (Vaswani et al. 2017, §3.5)."""
    rate_d = 1e4 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angle_Ld = positions_L.to(torch.float64).unsqueeze(1) * rate_d
    return torch.cat([angle_Ld.sin(), angle_Ld.cos()], dim=1).float()


def sincos_2d(rows: int, columns: int, dim: int) -> Tensor:
    """Embedding (L, D) of a grid of patches: first half of D for the column, second for the row (as in ClimaX)."""
    row_hw, column_hw = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.cat([sincos_1d(column_hw.flatten(), dim // 2), sincos_1d(row_hw.flatten(), dim // 2)], dim=1)


def resize_positions(pos_1LD: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position embedding for another grid of patches over the globe: bicubic, periodic in longitude.

    Raises:
        UserError: the embedding has not old[0]·old[1] patches.
    """
    if pos_1LD.shape[1] != old[0] * old[1]:
        raise UserError(
            f"position embedding of {pos_1LD.shape[1]} patches does not match a grid of {old[0]}×{old[1]} patches; "
            "give the grid and patch size of the checkpoint"
        )
    if old == new:
        return pos_1LD
    pos_1Dhw = pos_1LD.detach().float().transpose(1, 2).unflatten(-1, old)
    # Three copies side by side in longitude: the middle one has no edge.
    copies = F.interpolate(pos_1Dhw.repeat(1, 1, 1, 3), size=(new[0], 3 * new[1]), mode="bicubic", align_corners=False)
    return copies[..., new[1] : 2 * new[1]].flatten(2).transpose(1, 2).to(pos_1LD.dtype).contiguous()
