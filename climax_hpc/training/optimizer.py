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
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused())


def fused() -> bool:
    """True if AdamW updates all parameters of a group in one kernel: on GPUs. Its rounding differs a little."""
    return torch.cuda.is_available()


def choose_form(optimizer: torch.optim.Optimizer) -> None:
    """Use this device's form of AdamW after a checkpoint was loaded, which restores the form that wrote it.

    The fused form counts its steps on the device of the parameters, the other one on the CPU.
    """
    for group in optimizer.param_groups:
        group["fused"] = fused()
        for parameter in group["params"]:
            moments = optimizer.state.get(parameter, {})
            if torch.is_tensor(moments.get("step")):
                moments["step"] = moments["step"].to(parameter.device if fused() else "cpu")


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
