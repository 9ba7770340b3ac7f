"""Script of `test_aot.py`: the launchers' own calls, compiled for sm_90 without a device and without running.

The launchers are called with CPU tensors; each kernel is replaced by its `warmup`, which specialises and compiles for
the arguments as a launch would: types taken from tensors, sizes of 1 and multiples of 16 made known to the compiler.
"""

from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from climax_hpc.kernels.ensemble_crps import kernels as crps_kernels
from climax_hpc.kernels.ensemble_crps import launch_triton as crps
from climax_hpc.kernels.lat_weighted_loss import kernels as loss_kernels
from climax_hpc.kernels.lat_weighted_loss import launch_triton as loss
from climax_hpc.kernels.variable_aggregation import kernels as aggregation_kernels
from climax_hpc.kernels.variable_aggregation import launch_triton as aggregation
from climax_hpc.kernels.variable_aggregation import tiles
from climax_hpc.kernels.verification_sums import kernels as verification_kernels
from climax_hpc.kernels.verification_sums import launch_triton as verification


class NoDevice:
    """What the compiler asks a driver."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiled:
    """kernel[grid](…) compiles and prints the kernel's name."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def call(*arguments: Any, **options: Any) -> None:
            self.kernel.warmup(*arguments, grid=grid, **options)
            print(self.kernel.__name__)

        return call


def forward_and_backward(B: int, V: int, rows: int, p: int, N: int, K: int, dtype: torch.dtype) -> None:
    P, L = p * p, rows * rows
    x_BVHW = torch.zeros(B, V, rows * p, rows * p, dtype=dtype)
    maps = [torch.zeros(shape) for shape in ((N, V, P), (N, V), (N, V, K, P), (N, V, K), (N * K,))]
    o_BLD, lse_BLN = aggregation.aggregate_variables_triton_forward(x_BVHW, *maps, p)
    aggregation.aggregate_variables_triton_backward(o_BLD, x_BVHW, *maps, o_BLD, lse_BLN, p, True)
    h_BLPO, weight_H, of_field_BO = torch.zeros(B, L, P * V, dtype=dtype), torch.ones(rows * p), torch.ones(B, V)
    target = (x_BVHW.float(), weight_H, p)
    loss.lat_weighted_loss_triton_forward(h_BLPO, *target, "mse", 1.0)
    loss.lat_weighted_loss_triton_forward(h_BLPO, *target, "mae", 1.0, of_field_BO)
    loss.lat_weighted_loss_triton_backward(of_field_BO, h_BLPO, *target, "huber", 1.0)
    of_fields = x_BVHW.flatten(2).transpose(1, 2)
    loss.lat_weighted_loss_triton_backward(of_field_BO, of_fields, x_BVHW.float(), weight_H, 1, "mse", 1.0)
    for members in (1, 9):
        h_BMLPO = h_BLPO[:, None].repeat(1, members, 1, 1)
        sums = crps.ensemble_crps_triton_forward(h_BMLPO, x_BVHW.float(), weight_H, p, 0.95, True)
        crps.ensemble_crps_triton_backward(of_field_BO, sums[2], weight_H, p, 0.95, dtype)
    verification.verification_sums_triton(x_BVHW, x_BVHW, x_BVHW, weight_H)
    verification.verification_sums_triton(x_BVHW, x_BVHW, None, weight_H)


driver.set_active(NoDevice())
for module in (aggregation_kernels, crps_kernels, loss_kernels, verification_kernels):
    for name in [name for name in vars(module) if name.endswith("_kernel")]:
        setattr(module, name, Compiled(getattr(module, name)))
tiles.MAX_CHUNK_ROWS = 128
forward_and_backward(1, 1, 1, 1, 1, 16, torch.float32)
forward_and_backward(2, 20, 12, 4, 2, 24, torch.bfloat16)
