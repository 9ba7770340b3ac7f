"""Sequence parallelism: ranks that share the patch rows of a sample, and what they exchange.

Dimensions: S ranks of one replica · B batch · L patches · M = L/S patches of this rank · N heads · G = N/S heads of
this rank · K head width · C channels · H, W rows of this rank and columns · w width of a halo.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

_GROUPS: dict[str, Any] = {}
"""Process groups by name: an operator takes the name."""


@dataclass(frozen=True, kw_only=True)
class RowBand:
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

    def of_whole(self, whole: Tensor, dim: int = -2) -> Tensor:
        """This rank's part of a tensor along a dimension of rows or patches; a view."""
        part = self.part(whole.shape[dim])
        return whole.narrow(dim, part.start, part.stop - part.start)

    def whole_shape(self, shape: torch.Size) -> torch.Size:
        """Shape (…, L, D) or (…, H, W) of the whole tensor of which this rank has a part of this shape."""
        return torch.Size((*shape[:-2], shape[-2] * self.size, shape[-1]))

    def total(self, share: Tensor) -> Tensor:
        """Sum of a tensor over the ranks of the group, without a gradient."""
        total = share.detach().clone()
        torch.distributed.all_reduce(total, group=_GROUPS[self.group])
        return total

    def of_all(self, own: Tensor) -> Tensor:
        """The tensors (S, …) of all ranks, which have the same shape."""
        return exchange(own.expand(self.size, *own.shape).contiguous(), self.group)

    def whole(self, own_BCHW: Tensor) -> Tensor:
        """Whole fields (B, C, S·H, W), on every rank, from the rows of all; without a gradient."""
        return self.of_all(own_BCHW.detach()).permute(1, 2, 0, 3, 4).flatten(2, 3)

    def halo(self, x_BCHW: Tensor, width: int) -> tuple[Tensor | None, Tensor | None]:
        """The w rows (B, C, w, W) before this band and those after it; None where it is the first or the last."""
        edges_2BCwW = torch.stack([x_BCHW[..., :width, :], x_BCHW[..., -width:, :]])
        before, after = exchange_edges(edges_2BCwW, self.place, self.size, self.group).unbind(0)
        return (before if self.place else None), (after if self.place < self.size - 1 else None)

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


def share(network: nn.Module, band: RowBand) -> None:
    """Let a network take and give this rank's band of every sample: all modules with an attribute `band` get it."""
    for module in network.modules():
        if hasattr(module, "band"):
            setattr(module, "band", band)  # noqa: B010 - type checkers take the attributes of modules for tensors


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


@torch.library.custom_op("climax_hpc::exchange_edges", mutates_args=())
def exchange_edges(edges_2: Tensor, place: int, size: int, group: str) -> Tensor:
    """Last rows of the band before this one and first rows of that after it, given the first and last rows of each.

    0 before the first and after the last band. The gradient is the same exchange: each rank sends back what it got.
    """
    neighbours = [rank for rank in (place - 1, place + 1) if 0 <= rank < size]
    sides = slice(0 if place else 1, 2 if place < size - 1 else 1)
    rows = [int(rank in neighbours) for rank in range(size)]
    received_2 = torch.zeros_like(edges_2)
    torch.distributed.all_to_all_single(received_2[sides], edges_2[sides], rows, rows, group=_GROUPS[group])
    return received_2


@exchange_edges.register_fake
def _(edges_2: Tensor, place: int, size: int, group: str) -> Tensor:
    return torch.empty_like(edges_2)


def _save_edges(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.options = inputs[1:]


def _gradient_of_edges(ctx: Any, dreceived_2: Tensor) -> tuple[Tensor, None, None, None]:
    return exchange_edges(dreceived_2.contiguous(), *ctx.options), None, None, None


exchange_edges.register_autograd(_gradient_of_edges, setup_context=_save_edges)
