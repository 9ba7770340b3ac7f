"""Memory by name that serves every chunk of one call."""

import torch
from torch import Tensor


class Scratch:
    """Buffers on the device of `like`, each allocated once, at the largest size that was asked for."""

    def __init__(self, like: Tensor, dtype: torch.dtype) -> None:
        self._like, self._dtype = like, dtype
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Memory of this name; its content is whatever the last use left."""
        numel = torch.Size(shape).numel()
        flat = self._buffers.get(name)
        if flat is None or flat.numel() < numel:
            flat = self._buffers[name] = self._like.new_empty(numel, dtype=self._dtype)
        return flat[:numel].view(shape)
