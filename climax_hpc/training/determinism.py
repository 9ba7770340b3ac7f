"""Same bits from the same run on a GPU: PyTorch's deterministic algorithms, switched on before the GPU is used."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from climax_hpc.errors import UserError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_WORKSPACES = (":4096:8", ":16:8")
"""Values with which cuBLAS gives the same bits on several streams (NVIDIA's documentation); the first is the faster."""


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Within the block every operation gives the same bits again, if `wanted`; an operation that cannot is an error.

    It changes the attention's backward pass, convolutions, gradients of selected rows, cuBLAS's work space, and what
    torch.compile tunes. This project's own kernels are deterministic anyway: no sum has two writers.

    Raises:
        UserError: cuBLAS's work space is set to a value that does not give the same bits.
    """
    if not wanted:
        yield
        return
    given = os.environ.get(WORKSPACE)
    workspace = os.environ.setdefault(WORKSPACE, _WORKSPACES[0])  # read when the GPU is first used
    if workspace not in _WORKSPACES:
        raise UserError(
            f"train.deterministic: environment variable {WORKSPACE}={workspace!r}: use one of "
            f"{', '.join(_WORKSPACES)}, or unset it"
        )
    cudnn = torch.backends.cudnn
    memory: Any = torch.utils.deterministic  # its one attribute is hidden from type checkers
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    memory.fill_uninitialized_memory = False  # finds reads of unwritten memory, at the price of writing all of it
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        _, cudnn.deterministic, cudnn.benchmark = before
        memory.fill_uninitialized_memory = filled
        if given is None:
            os.environ.pop(WORKSPACE, None)
