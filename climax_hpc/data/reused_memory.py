"""Memory for the fields of batches on a processor, used again as soon as no tensor looks at it.

A large block that is given back to the operating system costs a page fault for every 4 KiB when it is next asked for,
which takes longer than to normalise the fields in it (docs/developing/benchmarks.md).
"""

from collections import deque
from collections.abc import Sequence
from functools import cache
from math import prod
from threading import Lock
from typing import Any
from weakref import finalize

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_KEPT = 4  # blocks that wait for their next use: inputs and targets of two batches
_LEAST = 1 << 16  # cells; the allocator keeps smaller blocks by itself
_ALIGNMENT = 64  # bytes, as in memory of torch: results of matrix products may depend on it


class ReusedMemory:
    """Gives out uninitialised float32 tensors; on a GPU those of torch, which keeps its memory by itself."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: deque[NDArray[Any]] = deque(maxlen=_KEPT)
        self._lock = Lock()

    def empty(self, shape: Sequence[int]) -> Tensor:
        """A tensor of this shape; its memory is free again when the last tensor that shares it ends."""
        cells = prod(shape)
        if self._device.type != "cpu" or cells < _LEAST:
            return torch.empty(tuple(shape), device=self._device)
        block = self._taken(cells)
        lease = block[:cells]  # torch holds it for as long as any tensor, also one saved for a gradient, needs it
        finalize(lease, self._free.append, block).atexit = False
        return torch.from_numpy(lease).view(tuple(shape))

    def _taken(self, cells: int) -> NDArray[Any]:
        """A free block that is large enough, or a new one."""
        with self._lock:
            for _ in range(len(self._free)):
                block = self._free.popleft()
                if block.size >= cells:  # sources differ in their variables: in time all blocks have the largest size
                    return block
                self._free.append(block)
        spare = _ALIGNMENT // 4
        memory = np.empty(cells + spare, np.float32)  # numpy asks for huge pages, torch does not
        first = -memory.ctypes.data % _ALIGNMENT // 4
        return memory[first : first + cells]


@cache
def memory_on(device: torch.device) -> ReusedMemory:
    """The memory for the batches of all sources on a device: there may be a hundred sources."""
    return ReusedMemory(device)
