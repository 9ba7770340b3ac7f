"""Networks of climate projection: years of forcings -> climate of the last year (ClimaX, §4.3; arXiv 2301.10343).

Every year is encoded separately, averaged over space, and gets an embedding of its position in time; one learned query
attends over the years, and one linear layer predicts every cell of every projected variable. The lead time has no
meaning here: it is 0 h, so that only the bias of the lead-time embedding has an effect. ResNet and U-Net replace
ClimaX's encoder under the same aggregation and head (as the convolutions of Watson-Parris et al. 2022 under an LSTM);
the linear regression takes the spatial means of all years at once.

Dimensions: B batch · T years, oldest first · V input variables · A model variables · O output variables · H, W grid ·
L patches · D embedding · N heads · K = D/N.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from climax_hpc.errors import UserError
from climax_hpc.model.base import LEAD_UNIT_HOURS, BaseNetwork
from climax_hpc.model.climax import Encoder
from climax_hpc.model.config import ModelConfig
from climax_hpc.model.head import OutputLinear
from climax_hpc.model.indices import index_tensor
from climax_hpc.model.positions import EMBEDDING_SCALE, sincos_1d
from climax_hpc.model.resnet import ResNet
from climax_hpc.model.spherical_conv import FieldNetwork, patchify
from climax_hpc.model.unet import UNet


class TimeAggregator(nn.Module):
    """One learned query attends over the years (cross-attention with biases); initially it is their mean."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(dim))
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, f_BTD: Tensor) -> Tensor:
        """Features (B, D) of all years combined."""
        q_1N1K = self.q(self.query).view(1, self.heads, 1, -1)
        k_BNTK, v_BNTK = self.kv(f_BTD).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        o_BN1K = F.scaled_dot_product_attention(q_1N1K.expand(len(f_BTD), -1, -1, -1), k_BNTK, v_BNTK)
        return self.proj(o_BN1K.flatten(1))


class _Projection(BaseNetwork):
    """Base of the projection networks: `forward`, and the indices of the projected variables."""

    projection_head: OutputLinear

    def features(self, x_BTVHW: Tensor, lead_hours_B: Tensor, in_variables: Sequence[str]) -> Tensor:
        """Input of the last layer (B, features)."""
        raise NotImplementedError

    def projected_ids(self, names: Sequence[str]) -> list[int]:
        """Indices of these variables among those projected.

        Raises:
            UserError: a variable that the model does not project.
        """
        known = self.config.projected
        for name in names:
            if name not in known:
                raise UserError(f"the model projects {', '.join(known)}, not {name!r}: choose from those")
        return [known.index(name) for name in names]

    def forward(
        self,
        x_BTVHW: Tensor,
        lead_hours_B: Tensor,
        in_variables: Sequence[str],
        out_variables: Sequence[str],
        *,
        patched: bool = False,
    ) -> Tensor:
        """Fields y_BOHW of the last year, or with `patched` the same as (B, L, P·O), the input of `lat_weighted_loss`.

        Raises:
            UserError: a variable that the model does not have, or one given twice.
            ValueError: another number of years, another grid, or another number of channels than names.
        """
        if x_BTVHW.shape[1] != self.config.years:
            raise ValueError(f"input has {x_BTVHW.shape[1]} years, the model takes {self.config.years}")
        self.check_image(x_BTVHW.flatten(0, 1), in_variables)
        out_ids = self.projected_ids(out_variables)
        h_BQ = self.projection_head(self.features(x_BTVHW, lead_hours_B, in_variables), out_ids)
        y_BHWO = h_BQ.unflatten(-1, (self.config.height, self.config.width, len(out_ids)))
        y_BOHW = y_BHWO.permute(0, 3, 1, 2)
        return patchify(y_BOHW, self.config.patch) if patched else y_BOHW


def _head(config: ModelConfig, dim: int) -> OutputLinear:
    return OutputLinear(dim, config.height * config.width, len(config.projected))


def _year_codes(config: ModelConfig) -> nn.Parameter:
    return nn.Parameter(sincos_1d(torch.arange(config.years), config.embed_dim) * EMBEDDING_SCALE[config.init])


class ProjectionClimaX(_Projection, Encoder):
    """ClimaX's encoder for every year, then aggregation over time and a linear head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.time_aggregator = TimeAggregator(config.embed_dim, config.heads)
        self.projection_head = _head(config, config.embed_dim)
        self.reset_parameters()
        self.time_embed = _year_codes(config)

    def features(self, x_BTVHW: Tensor, lead_hours_B: Tensor, in_variables: Sequence[str]) -> Tensor:
        """(B, D)."""
        batch, years = x_BTVHW.shape[:2]
        code_nD = self.time_embed.repeat(batch, 1)
        leads_n = lead_hours_B.repeat_interleave(years)
        z_nLD = self.encode(x_BTVHW.flatten(0, 1), leads_n, in_variables, code_nD)
        return self.time_aggregator(z_nLD.mean(1).unflatten(0, (batch, years)))

    def freeze(self) -> None:
        """Freeze all but norms, embeddings, aggregations and the head (ClimaX_frozen in the paper).

        The lead-time embedding of `conv` blocks is in each of them.
        """
        for name, parameter in self.blocks.named_parameters():
            parameter.requires_grad_("norm" in name or ".lead." in name)


class FieldProjection(_Projection):
    """A ResNet or U-Net for every year, then aggregation over time and a linear head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        kinds: dict[str, type[FieldNetwork]] = {"resnet": ResNet, "unet": UNet}
        self.encoder = kinds[config.kind](config)
        self.encoder.last = nn.Identity()  # features instead of fields
        self.time_embed = _year_codes(config)
        self.time_aggregator = TimeAggregator(config.embed_dim, config.heads)
        self.projection_head = _head(config, config.embed_dim)
        nn.init.trunc_normal_(self.projection_head.weight, std=0.02)
        nn.init.zeros_(self.projection_head.bias)

    def features(self, x_BTVHW: Tensor, lead_hours_B: Tensor, in_variables: Sequence[str]) -> Tensor:
        """(B, D)."""
        x_nAHW = self.encoder.filled(x_BTVHW.flatten(0, 1), self.variable_ids(in_variables))
        lead_n = (lead_hours_B.float() / LEAD_UNIT_HOURS).to(x_nAHW.dtype).repeat_interleave(self.config.years)
        f_nD = self.encoder.fields(x_nAHW, lead_n).mean((-2, -1))
        return self.time_aggregator(f_nD.unflatten(0, (-1, self.config.years)) + self.time_embed)


class LinearProjection(_Projection):
    """Every cell is a linear function of the spatial means of all variables in all years."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.projection_head = _head(config, config.years * len(config.variables))
        nn.init.zeros_(self.projection_head.weight)  # least squares is convex, so it may start at the mean
        nn.init.zeros_(self.projection_head.bias)

    def features(self, x_BTVHW: Tensor, lead_hours_B: Tensor, in_variables: Sequence[str]) -> Tensor:
        """(B, T·A)."""
        dtype = self.projection_head.weight.dtype
        f_BTA = x_BTVHW.new_zeros((*x_BTVHW.shape[:2], len(self.index)), dtype=dtype)
        in_ids = index_tensor(self.variable_ids(in_variables), f_BTA.device)
        return f_BTA.index_copy_(2, in_ids, x_BTVHW.nan_to_num(0.0).to(dtype).mean((-2, -1))).flatten(1)
