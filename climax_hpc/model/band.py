"""Sequence parallelism: ranks that share the patch rows of a sample, and what they exchange.

Dimensions: S ranks of one replica · B batch · L patches · M = L/S patches of this rank · N heads · G = N/S heads of
this rank · K head width.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

_GROUPS: dict[str, Any] = {}
"""Process groups by name: an operator takes the name."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """The contiguous band of rows that this rank owns of every sample, and the ranks that own the others."""

    place: int
    """Place of the band, from the first row: 0, 1, … size - 1."""
    size: int
    """S, number of bands."""
    group: str
    """Name of the process group, as given to `register_group`."""

    def part(self, count: int) -> slice:
        """This rank's part of so many rows, or of patches in row-major order."""
        own = count // self.size
        return slice(own * self.place, own * (self.place + 1))

    def of_whole(self, whole: Tensor, dim: int = 1) -> Tensor:
        """This rank's part of a tensor along a dimension of rows or patches; a view."""
        part = self.part(whole.shape[dim])
        return whole.narrow(dim, part.start, part.stop - part.start)

    def whole_shape(self, shape: torch.Size, dim: int = 1) -> torch.Size:
        """Shape of the whole tensor of which this rank has a part of this shape."""
        return torch.Size(size * (self.size if d == dim else 1) for d, size in enumerate(shape))

    def total(self, share: Tensor) -> Tensor:
        """Sum of a tensor over the ranks of the group, without a gradient."""
        total = share.detach().clone()
        torch.distributed.all_reduce(total, group=_GROUPS[self.group])
        return total

    def all_patches(self, qkv_BM3NK: Tensor) -> Tensor:
        """Queries, keys and values (3, B, G, L, K) of this rank's heads, from those of all heads of its patches."""
        sent_SBM3GK = qkv_BM3NK.unflatten(3, (self.size, -1)).movedim(3, 0).contiguous()
        return exchange(sent_SBM3GK, self.group).permute(3, 1, 4, 0, 2, 5).flatten(3, 4)

    def all_heads(self, o_BGLK: Tensor) -> Tensor:
        """The attention's output (B, M, N·K) of all heads for this rank's patches, from that of its heads."""
        sent_SBGMK = o_BGLK.unflatten(2, (self.size, -1)).movedim(2, 0).contiguous()
        return exchange(sent_SBGMK, self.group).permute(1, 3, 0, 2, 4).flatten(2)


def register_group(name: str, group: Any) -> None:
    """Let bands use a process group by this name."""
    _GROUPS[name] = group


def share(network: nn.Module, band: Band) -> None:
    """Let a network take and give this rank's band of every sample: all modules with an attribute `band` get it."""
    for module in network.modules():
        if hasattr(module, "band"):
            module.band = band


@torch.library.custom_op("climax_hpc::exchange", mutates_args=())
def exchange(sent_S: Tensor, group: str) -> Tensor:
    """Part s of the result (S, …) is what rank s of the group has sent as this rank's part; its own inverse."""
    received_S = torch.empty_like(sent_S)
    torch.distributed.all_to_all_single(received_S, sent_S, group=_GROUPS[group])
    return received_S


@exchange.register_fake
def _(sent_S: Tensor, group: str) -> Tensor:
    return torch.empty_like(sent_S)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.group = inputs[1]


def _gradient(ctx: Any, dreceived_S: Tensor) -> tuple[Tensor, None]:
    return exchange(dreceived_S.contiguous(), ctx.group), None


exchange.register_autograd(_gradient, setup_context=_save)
