"""Index tensors on the device, made once: a list as an index would wait for a copy to the GPU in every step."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def index_tensor(ids: Sequence[int], device: torch.device) -> Tensor:
    """These indices (len(ids),) as int64 on the device; the same tensor for the same indices, so never change it.

    Compiled code holds it as a constant.
    """
    return _made(tuple(ids), device)


# torch.compiler.assume_constant_result, without its import of the compiler: a second at the start of every command.
index_tensor._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=256)
def _made(ids: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # training may ask for the indices of a forecast, and its backward keeps them
        return torch.tensor(ids, dtype=torch.int64, device=device)
