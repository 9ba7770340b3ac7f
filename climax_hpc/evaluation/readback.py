"""Numbers that the host wants of a device, copied in one transfer, so that it waits once for all of them."""

from collections.abc import Callable

import torch
from torch import Tensor

from climax_hpc.evaluation.metrics import Array


class Readback:
    """Collects float64 tensors of one device, and what the host does with each."""

    def __init__(self) -> None:
        self._wanted: list[tuple[Tensor, Callable[[Array], None]]] = []

    def want(self, tensor: Tensor, use: Callable[[Array], None]) -> None:
        """Read this tensor with the others; `use` receives its values."""
        self._wanted.append((tensor, use))

    def run(self) -> None:
        """Copy everything, then use it in the order in which it was wanted."""
        wanted, self._wanted = self._wanted, []
        if not wanted:
            return
        values = torch.cat([tensor.reshape(-1) for tensor, _ in wanted]).cpu()
        parts = values.split([tensor.numel() for tensor, _ in wanted])
        for (tensor, use), part in zip(wanted, parts, strict=True):
            use(part.reshape(tensor.shape).numpy())
