"""Blocks of `model.blocks: conv`: a pyramid of residual convolutions on the sphere (docs/concepts/blocks.md).

Dimensions: B batch · L patches, row-major · D embedding, also the channels · h, w rows and columns of patches on a grid
of the pyramid.
"""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from climax_hpc.model.blocks import drop_path_rates
from climax_hpc.model.config import ModelConfig
from climax_hpc.model.dropout import Dropout, DropPath
from climax_hpc.model.spherical_conv import LeadShift, ResidualBlock


class ConvBlock(ResidualBlock):
    """A residual block of equal widths with stochastic depth."""

    def __init__(self, config: ModelConfig, drop_path: float) -> None:
        super().__init__(config.embed_dim, config.embed_dim, config.dropout, config.edges, config.noise_dim)
        self.dropout = Dropout(config.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BDhw: Tensor, lead_B: Tensor, noise_BZ: Tensor | None = None) -> Tensor:
        """Features (B, D, h, w) after this block; same shape."""
        return x_BDhw + self.drop_path(self.branch(x_BDhw, lead_B, noise_BZ))


class ConvPyramid(nn.Module):
    """`depth` residual blocks on each of `levels` grids, from the finest down to the coarsest and up again.

    Each grid has half the rows and columns of the one before it. Down, features are averaged over 2 × 2 patches; up,
    the coarser grid's pass a 1 × 1 convolution and are added to those that the finer one had on the way down (as in
    Lin et al. 2017, arXiv 1612.03144). Weights depend neither on the place nor on the size of the grid.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.depth, self.levels = config.depth, config.levels
        self.recompute = config.activation_checkpointing
        rates = drop_path_rates(config.drop_path, config.depth * (2 * config.levels - 1))
        self.residual = nn.ModuleList(ConvBlock(config, rate) for rate in rates)
        self.lift = nn.ModuleList(nn.Conv2d(config.embed_dim, config.embed_dim, 1) for _ in range(config.levels - 1))

    def __iter__(self) -> Iterator[nn.Module]:
        """Residual blocks in the order in which they run."""
        return iter(self.residual)

    def forward(self, x_BDhw: Tensor, lead_B: Tensor, noise_BZ: Tensor | None = None) -> Tensor:
        """Features (B, D, h, w) of the finest grid; `lead_B` in hundreds of hours.

        With members, B is that of all members of all samples.
        """
        blocks, finer = iter(self.residual), []
        for level in range(self.levels):
            if level:
                finer.append(x_BDhw)
                x_BDhw = F.avg_pool2d(x_BDhw, 2)
            x_BDhw = self._grid(blocks, x_BDhw, lead_B, noise_BZ)
        for lift in self.lift:
            x_BDhw = finer.pop() + lift(x_BDhw).repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
            x_BDhw = self._grid(blocks, x_BDhw, lead_B, noise_BZ)
        return x_BDhw

    def _grid(self, blocks: Iterator[nn.Module], x_BDhw: Tensor, lead_B: Tensor, noise_BZ: Tensor | None) -> Tensor:
        for _ in range(self.depth):
            block = next(blocks)
            if self.recompute and self.training:
                x_BDhw = checkpoint(block, x_BDhw, lead_B, noise_BZ, use_reentrant=False)
            else:
                x_BDhw = block(x_BDhw, lead_B, noise_BZ)
        return x_BDhw

    def reset_parameters(self) -> None:
        """Initial values: PyTorch's, with scale and shift of lead time and noise 0 (none depends on `init`)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.GroupNorm):
                module.reset_parameters()
        for module in self.modules():
            if isinstance(module, LeadShift):
                module.reset_parameters()
