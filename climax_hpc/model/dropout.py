"""Dropout and stochastic depth.

Dimensions: B batch · L patches, or those of this rank's band · D embedding.
"""

from typing import Any

import torch
from torch import Tensor, nn

from climax_hpc.model.band import RowBand


class _DropoutFunction(torch.autograd.Function):
    """input · keep · scale; saves `keep` as bytes and works in place, so that neither pass needs a second temporary."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return keep.to(input.dtype).mul_(scale).mul_(input)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), (keep,) = gradients, ctx.saved_tensors
        return keep.to(gradient.dtype).mul_(ctx.scale).mul_(gradient), None, None


class BandDropout(nn.Dropout):
    """`nn.Dropout`; with a band, (…, L, D) or (…, H, W) is a part of a larger tensor.

    All numbers of the larger one are drawn: which elements are set to 0 does not depend on the number of bands, and the
    generators of all ranks of a replica stay alike.
    """

    band: RowBand | None = None
    """The rows of the input; None: all."""

    def forward(self, input: Tensor) -> Tensor:
        """`input` with a fraction `p` of its elements set to 0, the rest divided by 1 - p; unchanged in eval mode."""
        if self.band is None or not self.training or self.p == 0:
            return super().forward(input)
        whole = super().forward(input.new_ones(self.band.whole_shape(input.shape)))
        return _DropoutFunction.apply(input, self.band.of_whole(whole) != 0, 1 / (1 - self.p))


class Dropout(BandDropout):
    """`nn.Dropout`, four times as fast on CPUs, where PyTorch draws a number for each element.

    On CPUs one 64-bit draw serves four elements; the rate is rounded to 1/65536, and the rescaling uses the rounded
    rate. The backward pass keeps one byte per element, as PyTorch does on GPUs, instead of a mask of floats.
    """

    def forward(self, input: Tensor) -> Tensor:
        """As of `nn.Dropout`."""
        if not self.training or self.p == 0:
            return input
        dropped = min(round(self.p * 2**16), 2**16 - 1)
        if dropped == 0 or input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
        shape = input.shape if self.band is None else self.band.whole_shape(input.shape)
        words = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: shape.numel()].view(shape)
        if self.band is not None:
            bits = self.band.of_whole(bits)
        return _DropoutFunction.apply(input, bits >= dropped - 2**15, 2**16 / (2**16 - dropped))


class SumDropout(Dropout):
    """`Dropout` of a sum; compiled, one operation."""

    def forward(self, input: Tensor, *others: Tensor) -> Tensor:
        """The terms are added in this order."""
        for other in others:
            input = input + other
        return super().forward(input)


class DropPath(nn.Module):
    """Drops a residual branch per sample with probability `rate`, rescales the others (Huang et al. 2016).

    A compiled block reads the rate from a tensor, so that blocks of all rates share one graph; a rate of 0 draws there
    too. The tensor holds integers, which half precision does not round.
    """

    dropped: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("dropped", torch.tensor(round(rate * 2**24)), persistent=False)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """The branch (batch first, any shape), or 0, times 1 / (1 - rate); unchanged in eval mode."""
        if not self.training:
            return x_BLD
        shape = (x_BLD.shape[0], *(1 for _ in x_BLD.shape[1:]))
        if torch.compiler.is_compiling():
            chance = 1 - self.dropped / 2**24
            kept_B11 = torch.rand(shape, device=x_BLD.device) < chance
            return x_BLD * (kept_B11 / chance).to(x_BLD.dtype)
        if self.rate == 0:
            return x_BLD
        keep = 1 - self.rate
        return x_BLD * x_BLD.new_empty(shape).bernoulli_(keep).div_(keep)
