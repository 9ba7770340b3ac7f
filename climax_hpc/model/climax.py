"""ClimaX: variable aggregation, position and lead-time embedding, ViT blocks, head (arXiv 2301.10343).

With `model.blocks: conv`, convolutions take the place of embeddings and ViT blocks (not in ClimaX).
Dimensions: B batch · V input variables · O output variables · H, W grid, or the rows of this rank's band · p patch edge
· P = p·p · L = (H/p)·(W/p) patches, row-major · D embedding.
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
from climax_hpc.model.positions import EMBEDDING_SCALE, sincos_2d
from climax_hpc.model.spherical_conv import group_norm, patchify


class Encoder(BaseNetwork):
    """ClimaX without its head: fields at one time -> one token per patch."""

    aggregator_type: type[VariableAggregator] = VariableAggregator

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        D = config.embed_dim
        self.aggregator = self.aggregator_type(len(config.variables), config.patch, D, config.heads, config.init)
        self.blocks: nn.ModuleList | ConvPyramid
        self.norm: nn.Module
        if config.blocks == "conv":
            self.blocks, self.norm = ConvPyramid(config), group_norm(D)
            return
        self.pos_embed = nn.Parameter(torch.empty(1, config.patches[0] * config.patches[1], D))
        self.lead_time_embed = nn.Linear(1, D)
        self.pos_drop = SumDropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(D, config.heads, config.mlp_ratio, config.dropout, rate)
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
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
                module.reset_parameters()
        if isinstance(self.blocks, ConvPyramid):
            self.blocks.reset_parameters()

    def encode(
        self, x_BVHW: Tensor, lead_hours_B: Tensor, in_variables: Sequence[str], added_BD: Tensor | None = None
    ) -> Tensor:
        """Tokens z_BLD after the last norm; `added_BD` is added to the embedding of every patch.

        Raises:
            UserError: a variable that the model does not have, or one given twice.
            ValueError: another grid, or another number of channels than names.
        """
        in_ids = self.variable_ids(in_variables)
        self.check_image(x_BVHW, in_variables)
        if isinstance(self.blocks, ConvPyramid):
            return self._convolve(self.aggregator(x_BVHW, in_ids), lead_hours_B, added_BD)
        lead_B1 = (lead_hours_B.float() / LEAD_UNIT_HOURS).to(self.pos_embed.dtype).unsqueeze(-1)
        added = [self.lead_time_embed(lead_B1)] + ([] if added_BD is None else [added_BD])
        positions = self.pos_embed if self.band is None else self.band.of_whole(self.pos_embed)
        z_BLD = self.pos_drop(self.aggregator(x_BVHW, in_ids), positions, *(t_BD.unsqueeze(1) for t_BD in added))
        for block in self.blocks:
            if self.config.activation_checkpointing and self.training:
                z_BLD = checkpoint(block, z_BLD, use_reentrant=False)
            else:
                z_BLD = block(z_BLD)
        return self.norm(z_BLD)

    def _convolve(self, z_BLD: Tensor, lead_hours_B: Tensor, added_BD: Tensor | None) -> Tensor:
        """Tokens after the pyramid and the last norm."""
        if added_BD is not None:
            z_BLD = z_BLD + added_BD.unsqueeze(1)
        lead_B = (lead_hours_B.float() / LEAD_UNIT_HOURS).to(self.aggregator.query.dtype)
        x_BDhw = self.blocks(z_BLD.transpose(1, 2).unflatten(-1, (-1, self.config.patches[1])), lead_B)
        return F.silu(self.norm(x_BDhw)).flatten(2).transpose(1, 2)


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
    ) -> Tensor:
        """Network output y_BOHW, or with `patched` the head's h (B, L, P·O), the input of `lat_weighted_loss`.

        Channel v of `x_BVHW` is `in_variables[v]`, NaN where missing; `lead_hours_B` in hours.

        Raises:
            UserError: a variable that the model does not have, or one given twice.
            ValueError: another grid, or another number of channels than names.
        """
        out_ids = self.variable_ids(out_variables)
        h_BLPO = self.head(self.encode(x_BVHW, lead_hours_B, in_variables), out_ids)
        if self.input_skip is not None:
            lead_B = lead_hours_B.float() / LEAD_UNIT_HOURS
            y_BOHW = self.input_skip(x_BVHW, lead_B, self.variable_ids(in_variables), out_ids)
            h_BLPO = h_BLPO + patchify(y_BOHW, self.config.patch)
        return h_BLPO if patched else self.unpatchify(h_BLPO)

    def unpatchify(self, h_BLPO: Tensor) -> Tensor:
        """Fields y_BOHW from the head's output."""
        p, columns = self.config.patch, self.config.patches[1]
        rows = h_BLPO.shape[1] // columns
        h_BhwppO = h_BLPO.reshape(h_BLPO.shape[0], rows, columns, p, p, -1)
        return h_BhwppO.permute(0, 5, 1, 3, 2, 4).reshape(h_BLPO.shape[0], -1, rows * p, columns * p)
