"""Exponential moving average of the weights: smoother weights for evaluation, at the cost of one copy.

It follows the float32 master weights that the optimiser updates: the parameters themselves at ZeRO stage 0, this
rank's partition of the masters at stages 1 to 3. So no rank ever holds more of the average than of the masters.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from climax_hpc.training.deepspeed_engine import full_weights, masters, set_masters


class Ema:
    """average += (1 - decay_t) · (weights - average) in float32.

    decay_t = min(decay, (1 + t) / (10 + t)) in step t, so that the random start is soon forgotten.
    """

    def __init__(self, engine: Any, decay: float) -> None:
        self._decay = decay
        self._average = [master.detach().clone() for master in masters(engine)]

    @torch.no_grad()
    def update(self, engine: Any, step: int) -> None:
        """Include the weights after optimiser step `step` (from 0)."""
        rate = 1 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._average, [master.detach() for master in masters(engine)], rate)

    @torch.no_grad()
    def weights(self, engine: Any) -> dict[str, torch.Tensor]:
        """Full average by parameter name, on the CPU of rank 0; empty elsewhere (a collective under ZeRO)."""
        with _masters_restored(engine) as tensors:
            torch._foreach_copy_(tensors, self._average)
            return full_weights(engine)

    @torch.no_grad()
    def load(self, engine: Any, weights: dict[str, torch.Tensor]) -> None:
        """Continue from a saved average (a collective under ZeRO)."""
        with _masters_restored(engine) as tensors:
            set_masters(engine, weights)
            torch._foreach_copy_(self._average, tensors)


@contextmanager
def _masters_restored(engine: Any) -> Iterator[list[torch.Tensor]]:
    """Lets the block overwrite the master weights, and restores them afterwards.

    Only DeepSpeed knows which part of which parameter each of them holds, so the average passes through their memory.
    """
    tensors = [master.detach() for master in masters(engine)]
    saved = [master.clone() for master in tensors]
    try:
        yield tensors
    finally:
        torch._foreach_copy_(tensors, saved)
