"""What tests and benchmarks of kernels share."""

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
