"""Exponential moving average of the weights: smoother weights for evaluation, at the cost of one copy."""

import torch
from torch import nn


class Ema:
    """Float32 average of all parameters: average += (1 - decay_t) · (weights - average).

    Early on decay_t = min(decay, (1 + t) / (10 + t)), so that the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._average = {name: p.detach().float().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Fold in the weights after optimiser step `step` (from 0)."""
        rate = 1 - min(self._decay, (1 + step) / (10 + step))
        averages = list(self._average.values())
        weights = [p.detach().to(torch.float32) for p in model.parameters()]
        torch._foreach_lerp_(averages, weights, rate)

    def weights(self) -> dict[str, torch.Tensor]:
        """The average by parameter name, on the CPU."""
        return {name: average.cpu().clone() for name, average in self._average.items()}

    def load(self, weights: dict[str, torch.Tensor]) -> None:
        """Continue from saved averages."""
        for name, average in self._average.items():
            average.copy_(weights[name])
