"""Group norm of samples that several ranks share: one mean and variance per sample and group, over all their rows.

Dimensions: S ranks of one replica · B batch · C channels · G groups · E = C/G·H·W elements of a group on this rank ·
H, W rows of this rank and columns.
"""

from typing import Any

import torch
from torch import Tensor, nn

from climax_hpc.model.band import RowBand


class BandGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm`; with a band, over the rows of all ranks."""

    band: RowBand | None = None
    """The rows of the input; None: all."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Same shape."""
        if self.band is None:
            return super().forward(x_BCHW)
        normal_BCHW = _Normalised.apply(x_BCHW, self.num_groups, self.eps, self.band)
        return normal_BCHW * self.weight[:, None, None] + self.bias[:, None, None]


class _Normalised(torch.autograd.Function):
    """(x - mean) / √(variance + eps) over the groups; both passes exchange two numbers per sample and group."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, groups: int, eps: float, band: RowBand) -> Tensor:
        x_BGE = x_BCHW.float().reshape(len(x_BCHW), groups, -1)
        # Parts are combined by their own means, which cancels nothing (Chan et al. 1983).
        var_BG, mean_BG = torch.var_mean(x_BGE, dim=-1, correction=0)
        mean_SBG, var_SBG = band.of_all(torch.stack([mean_BG, var_BG])).unbind(1)
        mean_BG = mean_SBG.mean(0)
        var_BG = (var_SBG + (mean_SBG - mean_BG).square()).mean(0)
        scale_BG1 = (var_BG + eps).rsqrt()[..., None]
        normal_BCHW = ((x_BGE - mean_BG[..., None]) * scale_BG1).view(x_BCHW.shape).to(x_BCHW.dtype)
        ctx.save_for_backward(normal_BCHW, scale_BG1)
        ctx.band = band
        return normal_BCHW

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        normal_BCHW, scale_BG1 = ctx.saved_tensors
        d_BGE, n_BGE = (t.float().reshape(*scale_BG1.shape[:2], -1) for t in (gradients[0], normal_BCHW))
        means_2BG1 = torch.stack([d_BGE.mean(-1, keepdim=True), (d_BGE * n_BGE).mean(-1, keepdim=True)])
        shift_BG1, slope_BG1 = ctx.band.of_all(means_2BG1).mean(0)
        dx_BGE = (d_BGE - shift_BG1 - n_BGE * slope_BG1) * scale_BG1
        return dx_BGE.view(normal_BCHW.shape).to(normal_BCHW.dtype), None, None, None
