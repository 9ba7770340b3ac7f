"""The DeepSpeed engine: ZeRO 0-3, float32 or half precision with float32 masters, accumulation over micro-batches."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from climax_hpc.config.training import OptimizerConfig, TrainConfig
from climax_hpc.training.deepspeed_io import HashingCheckpointEngine
from climax_hpc.training.optimizer import adamw

# Where DeepSpeed's optimisers keep their masters: stage 3; stage 1 with bfloat16; stages 1 and 2 otherwise.
_MASTERS = ("fp32_partitioned_groups_flat", "fp32_groups_flat_partition", "single_partition_of_fp32_groups")


def build_engine(
    model: nn.Module,
    *,
    train: TrainConfig,
    optimizer: OptimizerConfig,
    micro_batch_size: int,
    micro_batches_per_rank: int,
    universal: bool = False,
) -> Any:
    """A DeepSpeed engine whose optimiser steps once per `micro_batches_per_rank` backward passes.

    Args:
        model: on this rank's device; ZeRO-3 partitions it here.
        micro_batch_size: samples of one forward pass (DeepSpeed's micro-batch).
        micro_batches_per_rank: forward passes of this rank per optimiser step.
        universal: it will load a universal checkpoint.
    """
    deepspeed = import_deepspeed()
    low = train.precision != "float32"
    start = {name: p.detach().clone() for name, p in model.named_parameters()} if low else {}
    with contextlib.redirect_stdout(None):  # it prints its memory use
        engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=adamw(model, optimizer),
            config=deepspeed_config(train, optimizer, micro_batch_size, micro_batches_per_rank, _count(model))
            | _loading(universal),
            dist_init_required=False,
        )
    if low:
        # DeepSpeed rounds the weights before it copies them into the float32 masters.
        set_masters(engine, start)
    engine.checkpoint_engine = HashingCheckpointEngine()
    engine._copy_recovery_script = lambda save_path: None  # our weights.safetensors needs no recovery
    return engine


def _loading(universal: bool) -> dict[str, Any]:
    return {"checkpoint": {"load_universal": True}} if universal else {}


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def reduce_bucket(parameters: int) -> int:
    """Gradients that DeepSpeed reduces together at ZeRO stages 1 to 3; it holds memory for all of them, once or twice.

    Its default of 5·10⁸ would take 2 GB whatever the model. An eighth of the model costs little beside the rest, and
    2²⁵ (128 MB in float32) bounds it for large ones; whether more would be faster on a given network was not measured.
    """
    return min(2**25, max(1, parameters // 8))


def deepspeed_config(
    train: TrainConfig, optimizer: OptimizerConfig, micro_batch_size: int, micro_batches_per_rank: int, parameters: int
) -> dict[str, Any]:
    """Our settings in DeepSpeed's words, for a model of so many parameters."""
    return {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": micro_batches_per_rank,
        "gradient_clipping": optimizer.gradient_clipping,
        "zero_optimization": {"stage": train.zero_stage, "reduce_bucket_size": reduce_bucket(parameters)}
        | _offload(train),
        # torch's AdamW is what we pass; DeepSpeed's own CPU Adam needs a compiler.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": train.precision == "bfloat16"},
        "fp16": {"enabled": train.precision == "float16", "loss_scale": 0},  # 0: dynamic
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 10**9,
    }


def _offload(train: TrainConfig) -> dict[str, Any]:
    """Sections that move optimiser state, or parameters too, to the host's memory."""
    sections = {"none": (), "optimizer": ("offload_optimizer",), "all": ("offload_optimizer", "offload_param")}
    return {section: {"device": "cpu", "pin_memory": True} for section in sections[train.offload]}


def import_deepspeed() -> Any:
    """DeepSpeed, told not to compile its shared-memory collective (100 s on first use) and to log warnings only."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # DeepSpeed calls collectives by names that torch is about to retire: nothing that a user could mend.
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    with contextlib.redirect_stdout(None):
        import deepspeed
        from deepspeed.ops import __compatible_ops__
    __compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


@contextlib.contextmanager
def torch_as_before() -> Iterator[None]:
    """Give torch its `linear` back on leaving, which DeepSpeed's stage 3 exchanges for the rest of the process.

    Its own keeps less memory while parameters are partitioned; whatever runs later must not be rounded by it.
    """
    linear = torch.nn.functional.linear
    try:
        yield
    finally:
        torch.nn.functional.linear = linear


def set_learning_rate(engine: Any, rate: float) -> None:
    """Give every parameter group the same rate."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def masters(engine: Any) -> list[torch.Tensor]:
    """The float32 tensors that the optimiser steps on this rank: parameters at stage 0, flat parts of them above."""
    if engine.zero_optimization_stage() == 0:
        return list(engine.module.parameters())
    return list(next(getattr(engine.optimizer, held) for held in _MASTERS if hasattr(engine.optimizer, held)))


@torch.no_grad()
def set_masters(engine: Any, weights: dict[str, torch.Tensor]) -> None:
    """Set the float32 weights by parameter name; half-precision copies stay as they are."""
    if engine.zero_optimization_stage() == 0:
        for name, parameter in engine.module.named_parameters():
            parameter.copy_(weights[name])
        return
    from deepspeed.utils import safe_set_full_fp32_param

    for name, parameter in engine.module.named_parameters():
        safe_set_full_fp32_param(parameter, weights[name].to(parameter.device))


def full_weights(engine: Any) -> dict[str, torch.Tensor]:
    """The float32 weights by parameter name, whole, on the CPU of rank 0; empty elsewhere (a collective under ZeRO)."""
    from deepspeed.utils import safe_get_full_fp32_param

    whole = engine.zero_optimization_stage() == 0
    first = torch.distributed.get_rank() == 0
    weights = {}
    for name, parameter in engine.module.named_parameters():
        full = parameter if whole else safe_get_full_fp32_param(parameter)
        if first:  # a node's memory holds them once, not once for each of its ranks
            weights[name] = full.detach().float().cpu().clone()
    return weights
