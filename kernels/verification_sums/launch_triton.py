"""Runs the Triton kernel of the sums of an evaluation: tiles, partial sums.

Dimensions: B forecasts · O variables · F = B·O fields · H latitude rows · W longitude columns · S sums of a field ·
Z parts of a field.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from climax_hpc.kernels.dispatch import check_triton_dtype, device_of
from climax_hpc.kernels.verification_sums import kernels
from climax_hpc.kernels.verification_sums.reference import number_of_sums

WARPS = 4
CELLS, TILES = 1024, 4
"""Cells that a program takes at a time, 8 for each thread, and how many times."""


def constants(climatology: bool) -> dict[str, Any]:
    """Compile-time arguments and launch options."""
    return {"BLOCK": CELLS, "TILES": TILES, "CLIMATOLOGY": climatology, "num_warps": WARPS, "num_stages": 1}


def verification_sums_triton(
    forecast_BOHW: Tensor, truth_BOHW: Tensor, climatology_BOHW: Tensor | None, weight_H: Tensor
) -> Tensor:
    """sums_SBO in the order of NAMES: float32 within a part of 4096 cells, float64 over the parts.

    Raises:
        ValueError: a data type that the kernel does not take.
    """
    forecast, truth = (_dense(t) for t in (forecast_BOHW, truth_BOHW))
    climatology = forecast if climatology_BOHW is None else _dense(climatology_BOHW)
    B, num_out, H, W = truth.shape
    parts = triton.cdiv(H * W, CELLS * TILES)
    count = number_of_sums(climatology_BOHW)
    sums_SFZ = truth.new_empty(count, B * num_out, parts, dtype=torch.float32)
    with device_of(truth):
        kernels.verification_kernel[(B * num_out, parts)](
            forecast, truth, climatology, weight_H.float().contiguous(), sums_SFZ, B * num_out, parts, W, H * W,
            **constants(climatology_BOHW is not None),
        )  # fmt: skip
    return sums_SFZ.sum(dim=-1, dtype=torch.float64).view(count, B, num_out)


def _dense(field_BOHW: Tensor) -> Tensor:
    check_triton_dtype("a field", field_BOHW)
    return field_BOHW.contiguous()
