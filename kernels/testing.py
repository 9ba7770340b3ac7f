"""What tests and benchmarks of kernels share."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from climax_hpc.kernels.dispatch import interpreting


def relative_error(ours: Tensor, truth: Tensor) -> float:
    """|ours - truth| / |truth| in the 2-norm, computed in float64; |ours| where the truth is 0; inf where NaN."""
    ours64, truth64 = ours.detach().double(), truth.detach().double()
    error = (ours64 - truth64).norm() / (truth64.norm() if truth64.any() else 1)
    return float("inf") if error.isnan() else float(error)


def triton_device() -> str:
    """Where tests run Triton kernels: the CPU under the interpreter, else the GPU."""
    return "cpu" if interpreting() else "cuda"


def scatter_missing(x_BVHW: Tensor, patch: int) -> Tensor:
    """A copy with every kind of gap: single pixels, a whole patch, a whole variable, a location with nothing."""
    x_BVHW = x_BVHW.clone()
    pixels = torch.rand(x_BVHW.shape, generator=torch.Generator().manual_seed(1)) < 0.2
    x_BVHW[pixels] = torch.nan
    x_BVHW[0, 0, :patch, -patch:] = torch.nan
    x_BVHW[-1, -1] = torch.nan
    x_BVHW[0, :, -patch:, :patch] = torch.nan
    return x_BVHW


def saved_bytes(forward: Callable[[], Tensor], besides: Sequence[Tensor]) -> tuple[Tensor, int]:
    """Output of `forward`, and the bytes of the distinct storages that it saves for backward, `besides` not counted."""
    own = {t.untyped_storage().data_ptr() for t in besides}
    kept: list[Tensor] = []  # keeping them alive keeps two storages from having one address in turn

    def record(t: Tensor) -> Tensor:
        kept.append(t.detach())
        return t

    with torch.autograd.graph.saved_tensors_hooks(record, lambda t: t):
        output = forward()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return output, sum(size for pointer, size in storages.items() if pointer not in own)
