"""Optimiser and learning-rate schedule. Change warm-up, decay or weight decay here."""

import math
from typing import Any

import torch
from torch import nn

from climax_hpc.config.training import OptimizerConfig
from climax_hpc.training.muon import Muon

_NO_DECAY = ("bias", "norm", "embed", "query", "noise")  # parts of names; patch biases, embeddings are matrices too
_CONDITIONS = ("lead", "noise1", "noise2")
"""Names of the modules of a block that take the lead time or the noise."""
_JOINT = "qkv"
"""Name of a linear map that is those of queries, keys and values, one below the other."""


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Rate of optimiser step `step` (from 0) of `steps`: linear warm-up from `end_lr`, then the schedule.

    `cosine` decays to `end_lr`. `constant` stays at `lr`; its last `cooldown_steps` go linearly to 0.
    """
    if step < config.warmup_steps:
        rate = config.end_lr + (config.lr - config.end_lr) * (step + 1) / config.warmup_steps
    elif config.schedule == "constant":
        rate = config.lr
    else:
        progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
        rate = config.end_lr + (config.lr - config.end_lr) * 0.5 * (1 + math.cos(math.pi * progress))
    if config.cooldown_steps and step > steps - config.cooldown_steps:
        rate = min(rate, config.lr * (steps - step) / config.cooldown_steps)
    return rate


def cooldown(done: int, steps: int, config: OptimizerConfig) -> tuple[int, ...]:
    """Where the cool-down that lowered a rate of the first `done` steps begins and ends; empty if none did."""
    begin = steps - config.cooldown_steps
    return (begin, steps) if config.cooldown_steps and done > begin + 1 else ()


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """The optimiser of `kind`; the training loop sets the rate at every step."""
    return muon(model, config) if config.kind == "muon" else adamw(model, config)


def adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """torch's AdamW over `parameter_groups`."""
    groups = parameter_groups(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused())


def muon(model: nn.Module, config: OptimizerConfig) -> Muon:
    """Muon for `trunk_matrices`, AdamW for the others, with the same rate and weight decay."""
    stacks = trunk_matrices(model)
    groups = [{"params": list(stacks), "weight_decay": config.weight_decay, "muon": True}]
    for group in parameter_groups(model, config.weight_decay):
        groups.append(group | {"params": [p for p in group["params"] if p not in stacks], "muon": False})
    used = [group for group in groups if group["params"]]
    return Muon(used, stacks, lr=config.lr, betas=config.betas, fused=fused())


def trunk_matrices(model: nn.Module) -> dict[nn.Parameter, int]:
    """Weights of the trunk that are matrices, with the number of matrices in each: 3 in the joint `qkv`, otherwise 1.

    The trunk is what a network repeats: everything in its `nn.ModuleList`s. Its matrices are the weights of linear maps
    and of convolutions of all channels, except those that take lead time or noise. All networks follow this rule, so it
    does not depend on names in checkpoints; front end, embeddings, norms, head, first and last convolutions stay out.
    """
    found: dict[nn.Parameter, int] = {}
    for repeated in (module for module in model.modules() if isinstance(module, nn.ModuleList)):
        for name, module in repeated.named_modules():
            parts = name.split(".")
            dense = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
            if dense and not set(_CONDITIONS) & set(parts) and module.weight.requires_grad:
                found[module.weight] = 3 if parts[-1] == _JOINT else 1
    return found


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


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two AdamW groups: matrices with decay; norms, biases, embeddings and what takes noise without.

    Decay of the last would be a pull towards no spread. Frozen parameters are left out.
    """
    decay: list[nn.Parameter] = []
    keep: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = parameter.ndim < 2 or any(part in name for part in _NO_DECAY)
        (keep if plain else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]
