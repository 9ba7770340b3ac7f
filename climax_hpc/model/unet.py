"""U-Net baseline on the sphere (Ronneberger et al. 2015, with residual blocks).

`embed_dim` channels at full resolution (64 in ClimaX's comparison), times 1, 2, 2, 4 at its four resolutions, `depth`
blocks at each of them (2 there).
"""

import torch
from torch import Tensor, nn

from climax_hpc.model.config import UNET_LEVELS, ModelConfig
from climax_hpc.model.spherical_conv import FieldNetwork, ResidualBlock, SphericalConv, group_norm, last_conv

_MULTIPLES = (1, 2, 2, 4)
assert len(_MULTIPLES) == UNET_LEVELS


class UNet(FieldNetwork):
    """Blocks down to an eighth of the resolution and back, with skip connections at each resolution."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        widths = [config.embed_dim * m for m in _MULTIPLES]
        variables, depth = len(config.variables), config.depth
        self.first = SphericalConv(variables, widths[0], 3)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for above, here in zip([widths[0], *widths], widths, strict=False):
            self.down.append(_blocks(above, here, depth, config.dropout))
        for here, below in zip(reversed(widths[:-1]), reversed(widths[1:]), strict=True):
            self.up.append(_blocks(below + here, here, depth, config.dropout))
        self.norm, self.last = group_norm(widths[0]), last_conv(widths[0], variables)

    def fields(self, x_BAHW: Tensor, lead_B: Tensor) -> Tensor:
        """All variables (B, A, H, W) at the lead time."""
        h_BCHW = self.first(x_BAHW, self.sign_A)
        across = []
        for level, blocks in enumerate(self.down):
            if level:
                h_BCHW = nn.functional.avg_pool2d(h_BCHW, 2)
            h_BCHW = _run(blocks, h_BCHW, lead_B)
            across.append(h_BCHW)
        for blocks, there in zip(self.up, reversed(across[:-1]), strict=True):
            finer = h_BCHW.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
            h_BCHW = _run(blocks, torch.cat([finer, there], dim=1), lead_B)
        return self.last(nn.functional.silu(self.norm(h_BCHW)))


def _blocks(inputs: int, outputs: int, depth: int, dropout: float) -> nn.ModuleList:
    return nn.ModuleList(ResidualBlock(inputs if i == 0 else outputs, outputs, dropout) for i in range(depth))


def _run(blocks: nn.Module, h_BCHW: Tensor, lead_B: Tensor) -> Tensor:
    for block in blocks.children():
        h_BCHW = block(h_BCHW, lead_B)
    return h_BCHW
