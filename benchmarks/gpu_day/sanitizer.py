"""Stage `sanitizer`: every kernel once, at sizes that fill no tile, under NVIDIA's compute-sanitizer (memcheck).

    compute-sanitizer python -m benchmarks.gpu_day.sanitizer

runs the kernels by itself. Dimensions as in `kernels/variable_aggregation/op.py`.
"""

import os
import re
import shutil
import subprocess
import sys

import torch

from benchmarks.gpu_day.record import Record
from benchmarks.gpu_day.schedule import AGGREGATION, LOSS, SUMS
from benchmarks.gpu_day.timing import device
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.kernels.variable_aggregation.op import aggregate_variables
from climax_hpc.kernels.verification_sums.op import verification_sums


def sanitizer(record: Record) -> None:
    """Number of errors that memcheck reports.

    Raises:
        RuntimeError: the tool is missing, or the kernels did not run to their end.
    """
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not os.access(tool, os.X_OK):
        raise RuntimeError("compute-sanitizer is not installed")
    command = [tool, "--tool", "memcheck", sys.executable, "-m", "benchmarks.gpu_day.sanitizer"]
    # Without PyTorch's cache every tensor is an allocation of its own, whose ends the tool knows.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    print(done.stdout[-5000:], done.stderr[-5000:], flush=True)
    found = re.search(r"ERROR SUMMARY: (\d+) error", done.stdout)
    if found is None or done.returncode:
        raise RuntimeError(f"compute-sanitizer ended with status {done.returncode}")
    record.add("memcheck_errors", int(found.group(1)), "1")
    record.check("memcheck", found.group(1) == "0", of=[AGGREGATION, LOSS, SUMS])


def main() -> None:
    """Forward and backward passes in three element types."""
    B, V, p, N, K, rows, columns = 2, 17, 2, 3, 24, 5, 7
    shapes = ((N, V, p * p), (N, V), (N, V, K, p * p), (N, V, K), (N * K,))
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        leaves = [torch.randn(shape, device=device()).requires_grad_() for shape in shapes]
        x_BVHW = torch.randn(B, V, rows * p, columns * p, device=device()).to(dtype).requires_grad_()
        aggregate_variables(x_BVHW, *leaves, p).float().square().sum().backward()
        h_BLPO = torch.randn(B, rows * columns, p * p * V, device=device()).to(dtype).requires_grad_()
        y_BOHW, weight_H = x_BVHW.detach().float(), torch.ones(rows * p, device=device())
        lat_weighted_loss(h_BLPO, y_BOHW, weight_H, p)[0].backward()
        verification_sums(y_BOHW, y_BOHW, y_BOHW, weight_H)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


STAGES = {"sanitizer": sanitizer}

if __name__ == "__main__":
    main()
