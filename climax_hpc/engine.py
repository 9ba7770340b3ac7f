"""The DeepSpeed engine: ZeRO 0-3, float32 or bfloat16 with float32 masters, accumulation over groups."""

import contextlib
import logging
import os
from typing import Any

import torch
from torch import nn

from climax_hpc.config import OptimConfig, TrainConfig
from climax_hpc.optim import adamw


def build_engine(
    model: nn.Module, *, train: TrainConfig, optim: OptimConfig, group_size: int, groups_per_rank: int
) -> Any:
    """A DeepSpeed engine whose optimiser steps once per `groups_per_rank` backward passes.

    Args:
        model: on this rank's device; ZeRO-3 partitions it here.
        group_size: samples of one forward pass (DeepSpeed's micro-batch).
        groups_per_rank: forward passes of this rank per optimiser step.
    """
    deepspeed = import_deepspeed()
    low = train.precision == "bfloat16"
    start = {name: p.detach().clone() for name, p in model.named_parameters()} if low else {}
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=adamw(model, optim),
        config=deepspeed_config(train, optim, group_size, groups_per_rank),
        dist_init_required=False,
    )
    for name, parameter in engine.module.named_parameters() if low else ():
        # DeepSpeed rounds the weights before it copies them into the float32 masters.
        deepspeed.utils.safe_set_full_fp32_param(parameter, start[name])
    return engine


def deepspeed_config(train: TrainConfig, optim: OptimConfig, group_size: int, groups_per_rank: int) -> dict[str, Any]:
    """Our settings in DeepSpeed's words."""
    return {
        "train_micro_batch_size_per_gpu": group_size,
        "gradient_accumulation_steps": groups_per_rank,
        "gradient_clipping": optim.gradient_clipping,
        "zero_optimization": {"stage": train.zero_stage},
        # torch's AdamW is what we pass; DeepSpeed's own CPU Adam needs a compiler.
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": train.precision == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 10**9,
    }


def import_deepspeed() -> Any:
    """DeepSpeed, told not to compile its shared-memory collective (100 s on first use) and to log warnings only."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with contextlib.redirect_stdout(None):
        import deepspeed
        from deepspeed.ops import __compatible_ops__
    __compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


def set_learning_rate(engine: Any, rate: float) -> None:
    """Give every parameter group the same rate."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def full_weights(engine: Any) -> dict[str, torch.Tensor]:
    """The float32 weights by parameter name, whole, on the CPU of every rank (a collective under ZeRO)."""
    if engine.zero_optimization_stage() == 0:
        return {name: p.detach().float().cpu().clone() for name, p in engine.module.named_parameters()}
    from deepspeed.utils import safe_get_full_fp32_param

    weights = {}
    for name, parameter in engine.module.named_parameters():
        full = safe_get_full_fp32_param(parameter)
        weights[name] = full.detach().float().cpu().clone()
    return weights
