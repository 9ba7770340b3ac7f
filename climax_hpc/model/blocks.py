"""Pre-norm transformer blocks of a vision transformer.

Dimensions: B batch · L patches, or those of this rank's band · D embedding · N heads · K = D/N head width · Z noise.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from climax_hpc.model.band import RowBand
from climax_hpc.model.dropout import Dropout, DropPath
from climax_hpc.model.noise import NoiseShift


class Attention(nn.Module):
    """Multi-head self-attention with biases; dropout only on the projection, as in ClimaX."""

    band: RowBand | None = None
    """This rank's patches; None: all."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.drop = Dropout(dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Every patch attends to all patches; same shape."""
        qkv_BL3NK = self.qkv(x_BLD).view(*x_BLD.shape[:2], 3, self.heads, -1)
        if self.band is not None:
            q_BNLK, k_BNLK, v_BNLK = self.band.all_patches(qkv_BL3NK).unbind(0)
            o_BNLK = F.scaled_dot_product_attention(q_BNLK, k_BNLK, v_BNLK)
            return self.drop(self.proj(self.band.all_heads(o_BNLK)))
        q_BNLK, k_BNLK, v_BNLK = qkv_BL3NK.permute(2, 0, 3, 1, 4).unbind(0)
        o_BNLK = F.scaled_dot_product_attention(q_BNLK, k_BNLK, v_BNLK)
        return self.drop(self.proj(o_BNLK.transpose(1, 2).flatten(2)))


class Mlp(nn.Module):
    """Linear, GELU, Linear with dropout after each."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = Dropout(dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Applied to every patch separately; same shape."""
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x_BLD)))))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (Dosovitskiy et al. 2021).

    With `noise_dim`, the noise scales and shifts what each of the two norms gives.
    """

    def __init__(
        self, dim: int, heads: int, mlp_ratio: float, dropout: float, drop_path: float, noise_dim: int = 0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout)
        self.drop_path = DropPath(drop_path)
        self.noise1, self.noise2 = (NoiseShift(noise_dim, dim) if noise_dim else None for _ in range(2))

    def forward(self, x_BLD: Tensor, noise_BZ: Tensor | None = None) -> Tensor:
        """Tokens after this block; same shape."""
        x_BLD = x_BLD + self.drop_path(self.attn(_shifted(self.norm1(x_BLD), self.noise1, noise_BZ)))
        return x_BLD + self.drop_path(self.mlp(_shifted(self.norm2(x_BLD), self.noise2, noise_BZ)))


def _shifted(x_BLD: Tensor, noise: NoiseShift | None, noise_BZ: Tensor | None) -> Tensor:
    return x_BLD if noise is None or noise_BZ is None else noise.of_tokens(x_BLD, noise_BZ)


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Rates of the blocks, linear from 0 at the first to `last`."""
    return [last * j / max(depth - 1, 1) for j in range(depth)]
