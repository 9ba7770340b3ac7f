"""One rank of test_partition.py: prints what the ranks hold when DeepSpeed takes over, and the weights after that."""

import json
import os
import sys
from typing import Any

import deepspeed
import torch

from climax_hpc.config.training import OptimizerConfig, TrainConfig
from climax_hpc.distributed import process_group
from climax_hpc.training.deepspeed_engine import build_engine, full_weights


def start(precision: str) -> dict[str, Any]:
    """Numbers of whole and partitioned parameters as `deepspeed.initialize` gets them, and the weights that follow."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 33), torch.nn.GELU(), torch.nn.Linear(33, 5))
    model.register_buffer("scale", torch.ones(3))
    drawn = {name: p.detach().clone() for name, p in model.named_parameters()}
    found: dict[str, Any] = {}
    initialize = deepspeed.initialize

    def watched(**settings: Any) -> Any:
        parameters = list(settings["model"].parameters())
        found["whole"] = sum(p.numel() for p in parameters)
        found["part"] = sum(p.ds_tensor.numel() for p in parameters)
        found["on_device"] = [n for n, b in settings["model"].named_buffers() if b.device == process_group.device()]
        groups = settings["optimizer"].param_groups
        found["decay"] = [sum(p.ds_numel for p in group["params"]) for group in groups]
        return initialize(**settings)

    deepspeed.initialize = watched
    try:
        engine = build_engine(
            model,
            train=TrainConfig(precision=precision, zero_stage=3),
            optimizer=OptimizerConfig(),
            micro_batch_size=2,
            micro_batches_per_rank=1,
        )
    finally:
        deepspeed.initialize = initialize
    weights = full_weights(engine)
    errors = [float((weights[name] - drawn[name]).abs().max()) for name in weights]  # empty but on rank 0
    return found | {"largest_error": max(errors, default=None)}


if __name__ == "__main__":
    world = process_group.connect()
    results = {precision: start(precision) for precision in ("float32", "bfloat16")}
    if world.is_first:
        print(json.dumps(results))
    process_group.disconnect()
    sys.stdout.flush()
    os._exit(0)  # as in reduce_gradients.py
