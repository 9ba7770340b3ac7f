"""Arithmetic of trained networks: exact float32, TensorFloat-32 on matrix units, or bfloat16."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from climax_hpc.checkpoint.format import Checkpoint
from climax_hpc.config.inference import Precision
from climax_hpc.errors import UserError
from climax_hpc.model import build_network
from climax_hpc.utils.half_precision import warn_if_emulated

_AMPERE = (8, 0)
"""Compute capability of the first GPUs with TensorFloat-32."""


def load_network(checkpoint: Checkpoint, device: torch.device, precision: Precision) -> nn.Module:
    """The network of a checkpoint, ready for inference; in bfloat16 its weights are rounded, as in training with it.

    Its input is float32 in any precision. TensorFloat-32 is a switch of the process: see `tf32`.
    """
    warn_if_emulated("precision", precision, device)
    network = build_network(checkpoint.metadata.config)
    checkpoint.load_into(network)
    return network.to(device, torch.bfloat16 if precision == "bfloat16" else torch.float32).eval()


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether products of float32 round their factors to 10 bits within the block, on NVIDIA GPUs from Ampere on.

    PyTorch's default rounds in convolutions, but not in matrix products: `float32` is exact in both.

    Raises:
        UserError: allowed, but the device of this process has no such products; forecasts would be labelled wrongly.
    """
    if allowed and not _has_tf32():
        raise UserError("precision: tf32 needs an NVIDIA GPU from Ampere on, and here is none: use float32 or bfloat16")
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def _has_tf32() -> bool:
    if not torch.cuda.is_available() or torch.version.hip:
        return False
    return torch.cuda.get_device_capability() >= _AMPERE
