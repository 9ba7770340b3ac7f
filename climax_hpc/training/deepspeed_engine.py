"""The DeepSpeed engine: ZeRO 0-3, float32 or half precision with float32 masters, gradient accumulation."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from climax_hpc.config.training import OptimizerConfig, TrainConfig
from climax_hpc.distributed import process_group
from climax_hpc.training.deepspeed_io import HashingCheckpointEngine, host_copy
from climax_hpc.training.deepspeed_partitions import partition_muon
from climax_hpc.training.deepspeed_step import use_lean_step
from climax_hpc.training.optimizer import build_optimizer
from climax_hpc.training.second_copy import copy_group
from climax_hpc.utils.half_precision import warn_if_emulated

# Attributes of DeepSpeed's optimisers that hold the masters: stage 3; stage 1 with bfloat16; stages 1 and 2 otherwise.
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
        model: on this rank's device; at stage 3 on the host, from where it reaches the device in parts.
        micro_batch_size: samples of one forward pass (DeepSpeed's micro-batch).
        micro_batches_per_rank: forward passes of this rank per optimiser step.
        universal: the engine will load a universal checkpoint.
    """
    deepspeed = import_deepspeed()
    low = train.precision != "float32"
    if torch.distributed.get_rank() == 0:
        warn_if_emulated("train.precision", train.precision, process_group.device())
    parted = train.zero_stage == 3  # whose float32 weights `_partition` leaves where they are, on the host
    start = {name: p.detach() if parted else p.detach().clone() for name, p in model.named_parameters() if low}
    config = deepspeed_config(train, optimizer, micro_batch_size, micro_batches_per_rank, _count(model))
    sharing = copy_group(train)
    if sharing is not None:
        config["zero_optimization"]["zero_hpz_partition_size"] = train.zero_hpz
    built = build_optimizer(model, optimizer)  # takes the shapes, which partitioned parameters do not have
    with contextlib.redirect_stdout(None):  # DeepSpeed prints its memory use
        if parted:
            _partition(model, train, config, sharing)
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=built, config=config | _loading(universal), dist_init_required=False
        )
    partition_muon(engine)
    if low:
        # DeepSpeed rounds the weights before it copies them into the float32 masters.
        set_masters(engine, start)
    if train.precision != "float16":  # its loss scaler reads every step whether a gradient is infinite
        use_lean_step(engine)
    engine.checkpoint_engine = HashingCheckpointEngine()
    engine._get_all_ckpt_names = partial(_model_files, engine)
    engine._get_all_zero_checkpoint_names = partial(_partition_files, engine)
    engine._copy_recovery_script = lambda save_path: None  # weights.safetensors needs no recovery
    return engine


def _model_files(engine: Any, checkpoints_path: str, tag: str) -> list[str]:
    """The file of model states that this rank loads: rank 0's, where there is none of its own.

    DeepSpeed's own lists the folder on every rank. Stage 3 has one file for all ranks (`deepspeed_io`); in checkpoints
    of earlier versions, and where the states of the ranks differ, every rank has its own.
    """
    own, first = (engine._get_ckpt_name(checkpoints_path, tag, pp_placeholder=rank) for rank in (None, "0"))
    return [first if engine.load_universal_checkpoint() or not os.path.isfile(own) else own]


def _partition_files(engine: Any, load_dir: str, tag: str, bf16_mode: bool) -> list[str]:
    """Files of all ranks in a checkpoint, of which a rank loads its own.

    DeepSpeed's own asks on every rank whether the files of all ranks exist: 64 million questions for 8000 ranks. Here
    their names were checked before (`climax_hpc.checkpoint.format`).
    """
    ranks: int = engine.loaded_checkpoint_dp_world_size
    names: list[str] = engine._get_mp_rank_zero_checkpoint_names(
        load_dir=load_dir, tag=tag, mp_rank=engine.checkpoint_mp_rank, dp_world_size=ranks, bf16_mode=bf16_mode
    )
    return names


def _partition(model: nn.Module, train: TrainConfig, config: dict[str, Any], sharing: Any) -> None:
    """Keep this rank's part of every parameter on the device; one after the other, as `deepspeed.zero.Init` does it.

    DeepSpeed's `initialize` would first move the whole model to the device. The values are those of the model: building
    it inside `zero.Init` would draw others, because the network initialises its parts after they were built. `sharing`:
    the group of the second copy.
    """
    from deepspeed.runtime.zero import Init

    low = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[train.precision]
    for parameter in model.parameters():  # what `initialize` does with a whole model
        parameter.data = parameter.data.to(low or parameter.dtype)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(process_group.device())
    Init(module=model, config_dict_or_path=config, dtype=low, zero_param_parallel_group=sharing)


def _loading(universal: bool) -> dict[str, Any]:
    return {"checkpoint": {"load_universal": True}} if universal else {}


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def reduce_bucket(parameters: int) -> int:
    """Number of gradients that DeepSpeed reduces together at ZeRO stages 1 to 3; it buffers them once or twice.

    DeepSpeed's default of 5·10⁸ takes 2 GB for any model. An eighth of the model adds little to the rest, and 2²⁵ (128
    MB in float32) limits it for large ones; whether more would be faster on a given network was not measured.
    """
    return min(2**25, max(1, parameters // 8))


def deepspeed_config(
    train: TrainConfig, optimizer: OptimizerConfig, micro_batch_size: int, micro_batches_per_rank: int, parameters: int
) -> dict[str, Any]:
    """DeepSpeed's config for these settings and a model with so many parameters."""
    return {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": micro_batches_per_rank,
        "gradient_clipping": optimizer.gradient_clipping,
        "zero_optimization": {"stage": train.zero_stage, "reduce_bucket_size": reduce_bucket(parameters)}
        | _reduction(train)
        | _offload(train),
        "communication_data_type": "fp32",
        # The optimiser is torch's AdamW, or Muon; DeepSpeed's own CPU Adam needs a compiler.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": train.precision == "bfloat16", "check_grad_overflow": False},  # the guard checks
        "fp16": {"enabled": train.precision == "float16", "loss_scale": 0},  # 0: dynamic
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 10**9,
    }


def _reduction(train: TrainConfig) -> dict[str, Any]:
    """How gradients are reduced at stage 2; DeepSpeed's defaults suit the other stages."""
    if train.zero_stage != 2:
        return {}
    # With reduce_scatter DeepSpeed divides by the number of ranks before it converts to float32, and all-reduces too.
    return {"overlap_comm": torch.cuda.is_available(), "reduce_scatter": train.precision == "float32"}


def _offload(train: TrainConfig) -> dict[str, Any]:
    """Config sections that move optimiser state, or parameters too, to host memory."""
    sections = {"none": (), "optimizer": ("offload_optimizer",), "all": ("offload_optimizer", "offload_param")}
    return {section: {"device": "cpu", "pin_memory": True} for section in sections[train.offload]}


def import_deepspeed() -> Any:
    """Import DeepSpeed without its compiled shared-memory collective (100 s on first use); log errors only."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # Pydantic, which reads DeepSpeed's settings, looks for plugins in every installed package: some 200 files a rank.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # DeepSpeed calls collectives by deprecated names of torch, which users cannot change.
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    with contextlib.redirect_stdout(None):
        import deepspeed
        from deepspeed.ops import __compatible_ops__

        _import_muon()
    __compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


def _import_muon() -> None:
    """Import DeepSpeed's Muon, as its optimisers of ZeRO 1 to 3 do, but leave its functions uncompiled.

    They are compiled on import, for which torch imports its compiler: a quarter of the start of a rank. Here they are
    never called: `train` takes its own Muon (muon.py).
    """
    from deepspeed.runtime import compiler

    compile_function = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
    finally:
        compiler.compile = compile_function


@contextlib.contextmanager
def torch_functions_restored() -> Iterator[None]:
    """Restore torch's `linear` on exit, which DeepSpeed's stage 3 replaces for the rest of the process.

    The replacement saves memory while parameters are partitioned, but rounds differently; later code must not use it.
    """
    linear = torch.nn.functional.linear
    try:
        yield
    finally:
        torch.nn.functional.linear = linear


def set_learning_rate(engine: Any, rate: float) -> None:
    """Set the rate of every parameter group."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def masters(engine: Any) -> list[torch.Tensor]:
    """The float32 tensors that this rank's optimiser updates: parameters at stage 0, flat partitions above."""
    if engine.zero_optimization_stage() == 0:
        return list(engine.module.parameters())
    return list(next(getattr(engine.optimizer, held) for held in _MASTERS if hasattr(engine.optimizer, held)))


@torch.no_grad()
def set_masters(engine: Any, weights: dict[str, torch.Tensor]) -> None:
    """Set the float32 weights by parameter name; half-precision copies do not change."""
    if engine.zero_optimization_stage() == 0:
        for name, parameter in engine.module.named_parameters():
            parameter.copy_(weights[name])
        return
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    for name, parameter in engine.module.named_parameters():
        if engine.zero_optimization_stage() < 3:
            safe_set_full_fp32_param(parameter, weights[name].to(parameter.device))
        elif parameter.requires_grad:
            part = parameter.ds_tensor.numel()  # parts are equal: the last ones are padded
            whole = nn.functional.pad(weights[name].flatten(), (0, part * ranks - parameter.ds_numel))
            safe_set_local_fp32_param(parameter, whole[part * rank : part * (rank + 1)].to(parameter.device))


def full_weights(engine: Any) -> dict[str, torch.Tensor]:
    """Full float32 weights by parameter name, on the CPU of rank 0; empty elsewhere (a collective under ZeRO).

    They are copies as by `host_copy`: synchronise with a GPU before they are read.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    whole = engine.zero_optimization_stage() == 0
    first = torch.distributed.get_rank() == 0
    weights = {}
    for name, parameter in engine.module.named_parameters():
        full = parameter if whole else safe_get_full_fp32_param(parameter)
        if first:  # one copy in a node's memory, not one for each of its ranks
            weights[name] = host_copy(full.detach().float())
    return weights
