"""Convolutions on the sphere: periodic in longitude, padded across the poles; and the base of convolutional networks.

Dimensions: B batch · V input variables · A model variables · O output variables · C channels · H, W grid, or the rows
of this rank's band · p patch edge · L = (H/p)·(W/p).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from climax_hpc.fields.variables import lookup
from climax_hpc.model.band import RowBand
from climax_hpc.model.band_norm import BandGroupNorm
from climax_hpc.model.base import LEAD_UNIT_HOURS, BaseNetwork
from climax_hpc.model.config import Edges, ModelConfig
from climax_hpc.model.dropout import BandDropout
from climax_hpc.model.indices import index_tensor
from climax_hpc.model.noise import NoiseShift

POLES: dict[Edges, tuple[bool, bool]] = {
    "globe": (True, True), "first_pole": (True, False), "last_pole": (False, True), "band": (False, False),
    "window": (False, False),
}  # fmt: skip
"""Whether a pole follows the first row, and the last."""


def pad_spherical(
    x_BCHW: Tensor, width: int, sign_C: Tensor | None = None, edges: Edges = "globe", band: RowBand | None = None
) -> Tensor:
    """Fields with `width` more cells on every side (B, C, H + 2·width, W + 2·width).

    East and west wrap, except in a `window`. Beyond a pole follows the row on its other side, 180° of longitude away;
    `sign_C` multiplies those rows: -1 for components of horizontal vectors, whose directions reverse there. Beyond
    other edges of a region its outermost cells are repeated. Beyond a `band` are the rows of its neighbours.
    """
    rows = [x_BCHW[..., :width, :], x_BCHW[..., -width:, :]]
    halo = (None, None) if band is None else band.halo(x_BCHW, width)
    for side, pole in enumerate(POLES[edges]):
        if (neighbour := halo[side]) is not None:
            rows[side] = neighbour
        elif pole:
            rows[side] = rows[side].flip(-2).roll(x_BCHW.shape[-1] // 2, -1)
            if sign_C is not None:
                rows[side] = rows[side] * sign_C[:, None, None].to(x_BCHW.dtype)
        else:
            rows[side] = x_BCHW[..., -side, None, :].expand(*x_BCHW.shape[:-2], width, -1)
    x_BCHW = torch.cat([rows[0], x_BCHW, rows[1]], dim=-2)
    columns = [x_BCHW[..., -width:], x_BCHW[..., :width]]
    if edges == "window":
        columns = [x_BCHW[..., place, None].expand(*x_BCHW.shape[:-1], width) for place in (0, -1)]
    return torch.cat([columns[0], x_BCHW, columns[1]], dim=-1)


class SphericalConv(nn.Conv2d):
    """A convolution of odd kernel size on the sphere: output on the same cells."""

    band: RowBand | None = None
    """The rows of the input; None: all."""

    def __init__(self, inputs: int, outputs: int, kernel: int, edges: Edges = "globe") -> None:
        super().__init__(inputs, outputs, kernel)
        self._width, self._edges = kernel // 2, edges

    def forward(self, x_BCHW: Tensor, sign_C: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        if self._width:
            x_BCHW = pad_spherical(x_BCHW, self._width, sign_C, self._edges, self.band)
        return super().forward(x_BCHW)


class FieldNetwork(BaseNetwork):
    """Base of networks that map all variables at once; same `forward` as `ClimaXNetwork`.

    Missing variables and cells are set to 0: the mean, or no anomaly.
    """

    sign_A: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        sign_A = [-1.0 if lookup(name).is_vector_component else 1.0 for name in config.variables]
        self.register_buffer("sign_A", torch.tensor(sign_A), persistent=False)

    def fields(self, x_BAHW: Tensor, lead_B: Tensor) -> Tensor:
        """All variables (B, A, H, W) `lead_B` (in hundreds of hours) later."""
        raise NotImplementedError

    def filled(self, x_BVHW: Tensor, in_ids: Sequence[int]) -> Tensor:
        """Fields x_BAHW of all variables of the model, in the network's dtype; 0 where missing."""
        dtype = next(self.parameters()).dtype
        x_BAHW = x_BVHW.new_zeros((len(x_BVHW), len(self.index), *x_BVHW.shape[2:]), dtype=dtype)
        return x_BAHW.index_copy_(1, index_tensor(in_ids, x_BAHW.device), x_BVHW.nan_to_num(0.0).to(dtype))

    def forward(
        self,
        x_BVHW: Tensor,
        lead_hours_B: Tensor,
        in_variables: Sequence[str],
        out_variables: Sequence[str],
        *,
        patched: bool = False,
    ) -> Tensor:
        """Network output y_BOHW, or with `patched` the same as (B, L, P·O), the input of `lat_weighted_loss`.

        Raises:
            UserError: a variable that the model does not have, or one given twice.
            ValueError: another grid, or another number of channels than names.
        """
        in_ids, out_ids = self.variable_ids(in_variables), self.variable_ids(out_variables)
        self.check_image(x_BVHW, in_variables)
        x_BAHW = self.filled(x_BVHW, in_ids)
        y_BAHW = self.fields(x_BAHW, (lead_hours_B.float() / LEAD_UNIT_HOURS).to(x_BAHW.dtype))
        y_BOHW = y_BAHW.index_select(1, index_tensor(out_ids, y_BAHW.device))
        return patchify(y_BOHW, self.config.patch) if patched else y_BOHW


def patchify(y_BOHW: Tensor, patch: int) -> Tensor:
    """Fields as (B, L, P·O), variable fastest: the inverse of `ClimaXNetwork.unpatchify`."""
    batch, variables, rows, columns = y_BOHW.shape
    y_BOhpwq = y_BOHW.reshape(batch, variables, rows // patch, patch, columns // patch, patch)
    return y_BOhpwq.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * variables)


class LeadShift(nn.Module):
    """Scale and shift per channel, depending on the lead time (FiLM) and on the noise; initially the identity."""

    def __init__(self, channels: int, noise_dim: int = 0) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(1, channels), nn.Linear(channels, 2 * channels)
        self.noise = NoiseShift(noise_dim, channels) if noise_dim else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The identity, whatever the lead time and the noise."""
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        if self.noise is not None:
            self.noise.reset_parameters()

    def forward(self, x_BCHW: Tensor, lead_B: Tensor, noise_BZ: Tensor | None = None) -> Tensor:
        """(1 + scale(lead, noise)) · x + shift(lead, noise)."""
        both_BC = self.out(nn.functional.silu(self.hidden(lead_B[:, None])))
        if self.noise is not None and noise_BZ is not None:
            both_BC = both_BC + self.noise(noise_BZ)
        scale_BC, shift_BC = both_BC.chunk(2, dim=1)
        return x_BCHW * (1 + scale_BC[..., None, None]) + shift_BC[..., None, None]


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions, each after a normalisation; lead time and noise enter between them."""

    def __init__(self, inputs: int, outputs: int, dropout: float, edges: Edges = "globe", noise_dim: int = 0) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), SphericalConv(inputs, outputs, 3, edges)
        self.norm2, self.conv2 = group_norm(outputs), SphericalConv(outputs, outputs, 3, edges)
        self.lead, self.dropout = LeadShift(outputs, noise_dim), BandDropout(dropout)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x_BCHW: Tensor, lead_B: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        return self.skip(x_BCHW) + self.branch(x_BCHW, lead_B)

    def branch(self, x_BCHW: Tensor, lead_B: Tensor, noise_BZ: Tensor | None = None) -> Tensor:
        """What is added to the input (B, C', H, W)."""
        h_BCHW = self.conv1(nn.functional.silu(self.norm1(x_BCHW)))
        h_BCHW = self.dropout(nn.functional.silu(self.lead(self.norm2(h_BCHW), lead_B, noise_BZ)))
        return self.conv2(h_BCHW)


def group_norm(channels: int) -> BandGroupNorm:
    """Normalisation within a sample, independent of ranks and batch sizes; up to 8 groups."""
    return BandGroupNorm(next(groups for groups in (8, 4, 2, 1) if channels % groups == 0), channels)


def last_conv(channels: int, variables: int) -> nn.Conv2d:
    """1 × 1 convolution to all variables, initially near 0, as the head of ClimaX."""
    conv = nn.Conv2d(channels, variables, 1)
    nn.init.trunc_normal_(conv.weight, std=0.02)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv
