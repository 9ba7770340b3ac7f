"""ClimaX: variable aggregation, position and lead-time embedding, ViT blocks, head (arXiv 2301.10343).

With `model.blocks: conv`, convolutions take the place of embeddings and ViT blocks (not in ClimaX).
Dimensions: B batch · V input variables · O output variables · H, W grid, or the rows of this rank's band · p patch edge
· P = p·p · L = (H/p)·(W/p) patches, row-major · D embedding · M members · Z noise.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from climax_hpc.model.aggregator import VariableAggregator
from climax_hpc.model.base import LEAD_UNIT_HOURS, BaseNetwork
from climax_hpc.model.blocks import Block, drop_path_rates
from climax_hpc.model.config import ModelConfig
from climax_hpc.model.conv_blocks import ConvPyramid
from climax_hpc.model.dropout import SumDropout
from climax_hpc.model.head import Head
from climax_hpc.model.input_skip import InputSkip
from climax_hpc.model.noise import NoiseScale, NoiseShift, of_members
from climax_hpc.model.positions import EMBEDDING_SCALE, sincos_2d
from climax_hpc.model.spherical_conv import group_norm, patchify


class Encoder(BaseNetwork):
    """ClimaX without its head: fields at one time -> one token per patch, for each member where there are some."""

    aggregator_type: type[VariableAggregator] = VariableAggregator

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        D = config.embed_dim
        self.aggregator = self.aggregator_type(len(config.variables), config.patch, D, config.heads, config.init)
        self.blocks: nn.ModuleList | ConvPyramid
        self.norm: nn.Module
        self.noise = NoiseScale(config.noise_dim) if config.noise_dim else None
        if config.blocks == "conv":
            self.blocks, self.norm = ConvPyramid(config), group_norm(D)
            return
        self.pos_embed = nn.Parameter(torch.empty(1, config.patches[0] * config.patches[1], D))
        self.lead_time_embed = nn.Linear(1, D)
        self.pos_drop = SumDropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(D, config.heads, config.mlp_ratio, config.dropout, rate, config.noise_dim)
            for rate in drop_path_rates(config.drop_path, config.depth)
        )
        self.norm = nn.LayerNorm(D)

    def reset_parameters(self) -> None:
        """Initial values: linear weights truncated normal 0.02, biases 0, positions 2-D sin-cos, by `model.init`."""
        self.aggregator.reset_parameters()
        if not isinstance(self.blocks, ConvPyramid):
            with torch.no_grad():
                table_LD = sincos_2d(*self.config.patches, self.config.embed_dim)
                self.pos_embed.copy_(table_LD * EMBEDDING_SCALE[self.config.init])
        for module in self.modules():
            if isinstance(module, nn.LayerNorm | nn.GroupNorm | NoiseShift):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        if self.noise is not None:
            self.noise.reset_parameters()
        if isinstance(self.blocks, ConvPyramid):
            self.blocks.reset_parameters()

    def encode(
        self,
        x_BVHW: Tensor,
        lead_hours_B: Tensor,
        in_variables: Sequence[str],
        added_BD: Tensor | None = None,
        noise_BMZ: Tensor | None = None,
    ) -> Tensor:
        """Tokens (B·M, L, D) after the last norm; `added_BD` is added to the embedding of every patch.

        Aggregation and embedding are computed once for all members of a sample.

        Raises:
            UserError: a variable that the model does not have, or one given twice.
            ValueError: another grid, or another number of channels than names, or noise of another size.
        """
        in_ids = self.variable_ids(in_variables)
        self.check_image(x_BVHW, in_variables)
        lead_B = (lead_hours_B.float() / LEAD_UNIT_HOURS).to(self.aggregator.query.dtype)
        lead_n, noise_nZ = self._of_members(lead_B, noise_BMZ)
        members = len(lead_n) // len(lead_B)
        if isinstance(self.blocks, ConvPyramid):
            z_BLD = self.aggregator(x_BVHW, in_ids)
            z_BLD = z_BLD if added_BD is None else z_BLD + added_BD.unsqueeze(1)
            return self._convolve(of_members(z_BLD, members), lead_n, noise_nZ)
        lead_B1 = lead_B.unsqueeze(-1)
        added = [self.lead_time_embed(lead_B1)] + ([] if added_BD is None else [added_BD])
        positions = self.pos_embed if self.band is None else self.band.of_whole(self.pos_embed)
        z_BLD = self.pos_drop(self.aggregator(x_BVHW, in_ids), positions, *(t_BD.unsqueeze(1) for t_BD in added))
        z_nLD = of_members(z_BLD, members)
        for block in self.blocks:
            if self.config.activation_checkpointing and self.training:
                z_nLD = checkpoint(block, z_nLD, noise_nZ, use_reentrant=False)
            else:
                z_nLD = block(z_nLD, noise_nZ)
        return self.norm(z_nLD)

    def _of_members(self, lead_B: Tensor, noise_BMZ: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Lead time and noise of every member, the noise scaled by the lead time.

        Raises:
            ValueError: noise of another size than the network's.
        """
        dim = self.config.noise_dim
        if noise_BMZ is not None and (noise_BMZ.ndim != 3 or noise_BMZ.shape[::2] != (len(lead_B), dim) or not dim):
            raise ValueError(
                f"noise has shape {tuple(noise_BMZ.shape)}, but the network with model.noise_dim = {dim} needs "
                f"({len(lead_B)}, members, {dim})"
            )
        if self.noise is None:
            return lead_B, None
        if noise_BMZ is None:
            noise_BMZ = lead_B.new_zeros(len(lead_B), 1, dim)
        lead_n = of_members(lead_B, noise_BMZ.shape[1])
        return lead_n, self.noise(noise_BMZ.flatten(0, 1).to(lead_B.dtype), lead_n)

    def _convolve(self, z_nLD: Tensor, lead_n: Tensor, noise_nZ: Tensor | None) -> Tensor:
        """Tokens after the pyramid and the last norm."""
        x_nDhw = self.blocks(z_nLD.transpose(1, 2).unflatten(-1, (-1, self.config.patches[1])), lead_n, noise_nZ)
        return F.silu(self.norm(x_nDhw)).flatten(2).transpose(1, 2)


class ClimaXNetwork(Encoder):
    """Maps fields at one time to the network's output for a later time, both normalised."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.head = Head(config.embed_dim, config.decoder_depth, config.patch, len(config.variables))
        self.input_skip = InputSkip(config.variables, config.edges) if config.input_skip else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial values as in `Encoder`, but the head's hidden layers by `model.init`."""
        super().reset_parameters()
        if self.config.init == "scaled":
            self.head.scale_hidden()

    def forward(
        self,
        x_BVHW: Tensor,
        lead_hours_B: Tensor,
        in_variables: Sequence[str],
        out_variables: Sequence[str],
        *,
        patched: bool = False,
        noise_BMZ: Tensor | None = None,
    ) -> Tensor:
        """Network output y_BOHW, or with `patched` the head's h (B, L, P·O), the input of `lat_weighted_loss`.

        Channel v of `x_BVHW` is `in_variables[v]`, NaN where missing; `lead_hours_B` in hours. With `noise_BMZ`
        (model.noise_dim = Z) the output has B·M samples, the members of each adjacent; without it a network with noise
        gives the member whose noise is 0.

        Raises:
            UserError: a variable that the model does not have, or one given twice.
            ValueError: another grid, or another number of channels than names, or noise of another size.
        """
        out_ids = self.variable_ids(out_variables)
        h_nLPO = self.head(self.encode(x_BVHW, lead_hours_B, in_variables, noise_BMZ=noise_BMZ), out_ids)
        if self.input_skip is not None:
            lead_B = lead_hours_B.float() / LEAD_UNIT_HOURS
            y_BOHW = self.input_skip(x_BVHW, lead_B, self.variable_ids(in_variables), out_ids)
            h_BLPO = patchify(y_BOHW, self.config.patch)
            h_nLPO = h_nLPO + of_members(h_BLPO, len(h_nLPO) // len(h_BLPO))
        return h_nLPO if patched else self.unpatchify(h_nLPO)

    def unpatchify(self, h_BLPO: Tensor) -> Tensor:
        """Fields y_BOHW from the head's output."""
        p, columns = self.config.patch, self.config.patches[1]
        rows = h_BLPO.shape[1] // columns
        h_BhwppO = h_BLPO.reshape(h_BLPO.shape[0], rows, columns, p, p, -1)
        return h_BhwppO.permute(0, 5, 1, 3, 2, 4).reshape(h_BLPO.shape[0], -1, rows * p, columns * p)
