"""Optimiser and learning-rate schedule. Change warm-up, decay or weight decay here."""

import math

import torch
from torch import nn

from climax_hpc.config.training import OptimizerConfig

_NO_DECAY = ("bias", "norm", "embed", "query")  # parts of names; patch biases and embeddings are matrices too


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Rate of optimiser step `step` (from 0) of `steps`: linear warm-up from `end_lr`, cosine decay back to it."""
    if step < config.warmup_steps:
        return config.end_lr + (config.lr - config.end_lr) * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.end_lr + (config.lr - config.end_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """torch's AdamW over `parameter_groups`; the training loop sets the rate at every step."""
    groups = parameter_groups(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two AdamW groups: matrices with decay; norms, biases and embeddings without. Frozen parameters are left out."""
    decay: list[nn.Parameter] = []
    keep: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = parameter.ndim < 2 or any(part in name for part in _NO_DECAY)
        (keep if plain else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]
