"""Exponential moving average of the weights: smoother weights for evaluation, at the cost of one copy.

It follows the float32 weights that the optimiser steps, wherever they are: the parameters themselves at ZeRO stage 0,
this rank's part of the masters at stages 1 to 3. So no rank ever holds more of the average than of the masters.
"""

from typing import Any

import torch

from climax_hpc.training.deepspeed_engine import full_weights, masters, set_masters


class Ema:
    """average += (1 - decay_t) · (weights - average) in float32.

    Early on decay_t = min(decay, (1 + t) / (10 + t)), so that the random start is soon forgotten.
    """

    def __init__(self, engine: Any, decay: float) -> None:
        self._decay = decay
        self._average = [master.detach().clone() for master in masters(engine)]

    @torch.no_grad()
    def update(self, engine: Any, step: int) -> None:
        """Fold in the weights after optimiser step `step` (from 0)."""
        rate = 1 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._average, [master.detach() for master in masters(engine)], rate)

    @torch.no_grad()
    def weights(self, engine: Any) -> dict[str, torch.Tensor]:
        """The average by parameter name, whole, on the CPU of rank 0; empty elsewhere (a collective under ZeRO)."""
        with _Borrowed(engine) as borrowed:
            torch._foreach_copy_(borrowed, self._average)
            return full_weights(engine)

    @torch.no_grad()
    def load(self, engine: Any, weights: dict[str, torch.Tensor]) -> None:
        """Continue from saved averages (a collective under ZeRO)."""
        with _Borrowed(engine) as borrowed:
            set_masters(engine, weights)
            torch._foreach_copy_(self._average, borrowed)


class _Borrowed:
    """Lends the masters' memory, because only DeepSpeed knows which part of which parameter lies where in it."""

    def __init__(self, engine: Any) -> None:
        self._masters = [master.detach() for master in masters(engine)]
        self._saved = [master.clone() for master in self._masters]

    def __enter__(self) -> list[torch.Tensor]:
        return self._masters

    def __exit__(self, *error: object) -> None:
        torch._foreach_copy_(self._masters, self._saved)
