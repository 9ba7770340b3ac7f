"""ResNet baseline: residual convolutions on the sphere at full resolution (Rasp & Thuerey 2021, arXiv 2008.08626).

`embed_dim` channels (128 in ClimaX's comparison), `depth` blocks of two convolutions (28 there). Unlike theirs, one
network serves all lead times, and normalisation is per sample.
"""

from torch import Tensor, nn

from climax_hpc.model.config import ModelConfig
from climax_hpc.model.spherical_conv import FieldNetwork, ResidualBlock, SphericalConv, group_norm, last_conv

_FIRST_KERNEL = 7


class ResNet(FieldNetwork):
    """7 × 7 convolution, `depth` residual blocks, 1 × 1 convolution to all variables."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        channels, variables = config.embed_dim, len(config.variables)
        self.first = SphericalConv(variables, channels, _FIRST_KERNEL)
        self.blocks = nn.ModuleList(ResidualBlock(channels, channels, config.dropout) for _ in range(config.depth))
        self.norm, self.last = group_norm(channels), last_conv(channels, variables)

    def fields(self, x_BAHW: Tensor, lead_B: Tensor) -> Tensor:
        """All variables (B, A, H, W) at the lead time."""
        h_BCHW = self.first(x_BAHW, self.sign_A)
        for block in self.blocks:
            h_BCHW = block(h_BCHW, lead_B)
        return self.last(nn.functional.silu(self.norm(h_BCHW)))
