"""Errors of torch, NumPy and CUDA libraries for lack of memory: one line that says where, how much, and what helps."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from climax_hpc.errors import NotEnoughMemory
from climax_hpc.utils.memory_errors import explain_memory_error, memory_errors_explained

# As torch 2.11 writes it.
CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 1 has a total capacity of 79.18 GiB of which 14.56 MiB is "
    "free. Including non-PyTorch memory, this process has 79.16 GiB memory in use. Of the allocated memory 78.0 GiB is "
    "allocated by PyTorch, and 12.00 MiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is "
    "large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            torch.OutOfMemoryError(CUDA),
            "not enough memory on GPU 1 (20.00 MiB more were asked for, 14.56 MiB of 79.18 GiB are free)",
        ),
        (
            torch.OutOfMemoryError(CUDA.replace("CUDA", "HIP", 1).replace("20.00 MiB", "512 bytes")),
            "not enough memory on GPU 1 (512 bytes more were asked for, 14.56 MiB of 79.18 GiB are free)",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "not enough memory on the GPU (CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`)",
        ),
        (
            torch.distributed.DistBackendError("NCCL error …:\nCuda failure 2 'out of memory'"),
            "not enough memory on the GPU (NCCL error …: Cuda failure 2 'out of memory')",
        ),
        (MemoryError(), "not enough memory"),
    ],
    ids=["CUDA", "ROCm", "cuBLAS", "NCCL", "Python"],
)
def test_what_ran_out(error: Exception, line: str) -> None:
    assert explain_memory_error(error) == line
    with pytest.raises(NotEnoughMemory, match=f"^{re.escape(line)}: use less$"), memory_errors_explained("use less"):
        raise error


@pytest.mark.parametrize("allocate", [lambda n: torch.empty(n, dtype=torch.uint8), lambda n: np.empty(n, np.uint8)])
def test_host_memory_of_torch_and_numpy(allocate: Callable[[int], Any]) -> None:
    line = r"^not enough memory \(1\.00 PiB more were asked for\): ask for more, or do less at once$"
    with pytest.raises(NotEnoughMemory, match=line), memory_errors_explained():
        allocate(1 << 50)


def test_the_name_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: ["A100", "NVIDIA H100 80GB HBM3"][number])
    assert "not enough memory on GPU 1, NVIDIA H100 80GB HBM3 (20.00 MiB" in explain_memory_error(RuntimeError(CUDA))


@pytest.mark.parametrize("error", [RuntimeError("shape"), ValueError("out of memory"), NotEnoughMemory("said")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, memory_errors_explained("use less"):
        raise error
    assert raised.value is error
