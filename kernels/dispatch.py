"""Which form of an operation runs: Triton kernels on CUDA and ROCm devices, PyTorch on the CPU.

`CLIMAX_HPC_KERNELS` forces one of `triton`, `torch`; `auto` (or unset) chooses by device. Under `TRITON_INTERPRET=1`
`triton` takes CPU tensors too, for tests.
"""

import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from climax_hpc.errors import UserError

VARIABLE = "CLIMAX_HPC_KERNELS"
CHOICES = ("triton", "torch", "auto")
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def use_triton(x: Tensor) -> bool:
    """Whether the Triton form takes this tensor: under `auto`, on a CUDA or ROCm device and not in float64.

    Raises:
        UserError: `CLIMAX_HPC_KERNELS` has another value than triton, torch or auto; or Triton is asked for, or is the
            rule on this device, where it cannot run: nothing is replaced silently.
    """
    choice = forced_form()
    # PyTorch calls ROCm devices "cuda" too. float64 is the precision of references: the PyTorch form serves it.
    if choice == "torch" or (choice == "auto" and (x.device.type != "cuda" or x.dtype == torch.float64)):
        return False
    obstacle = triton_obstacle(x)
    if obstacle:
        raise UserError(f"the Triton kernels cannot run: {obstacle}; or set {VARIABLE}=torch for the PyTorch form")
    return True


def forced_form() -> str:
    """The value of `CLIMAX_HPC_KERNELS`; training asks for it before anything is written.

    Raises:
        UserError: it is not triton, torch or auto.
    """
    choice = os.environ.get(VARIABLE) or "auto"
    if choice not in CHOICES:
        raise UserError(f"environment variable {VARIABLE}={choice!r}: use one of {', '.join(CHOICES)}")
    return choice


def triton_obstacle(x: Tensor) -> str | None:
    """Why Triton cannot run on this tensor, and how to fix it; None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (torch for CUDA or ROCm brings it; with torch for CPUs, pip install triton)"
    if x.device.type != "cuda" and not (x.device.type == "cpu" and interpreting()):
        return f"the tensor is on {x.device.type!r}, they need a CUDA or ROCm device (or TRITON_INTERPRET=1, for tests)"
    if x.dtype not in TRITON_DTYPES:
        return f"they take float32, bfloat16 and float16, not {str(x.dtype).removeprefix('torch.')}"
    return None


def check_triton_dtype(name: str, tensor: Tensor) -> None:
    """Check the type of one argument of a launcher.

    Raises:
        ValueError: the Triton kernels do not take it.
    """
    if tensor.dtype not in TRITON_DTYPES:
        raise ValueError(f"{name} in {tensor.dtype}: the Triton kernel takes float32, bfloat16 and float16")


def device_of(x: Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's GPU the current one, where Triton launches; nothing for CPU tensors in the interpreter."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter; it reads the variable when the kernels are imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")
