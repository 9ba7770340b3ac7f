"""One rank of test_gradient_reduction.py: prints {stage: relative error of the reduced gradients against float64}."""

import json
import os
import sys

import torch
from deepspeed.utils import safe_get_full_grad

from climax_hpc.config.training import OptimizerConfig, TrainConfig
from climax_hpc.distributed import process_group
from climax_hpc.training.deepspeed_engine import build_engine


def error(stage: int) -> float:
    """Relative error of the mean over ranks that the optimiser gets, in bfloat16 with odd sizes."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 33), torch.nn.GELU(), torch.nn.Linear(33, 5))
    train = TrainConfig(precision="bfloat16", zero_stage=stage)
    engine = build_engine(model, train=train, optimizer=OptimizerConfig(), micro_batch_size=2, micro_batches_per_rank=1)
    means = {}
    for name, parameter in engine.module.named_parameters():
        parameter.register_hook(lambda gradient, name=name: means.__setitem__(name, gradient.double()))
    torch.manual_seed(torch.distributed.get_rank())
    engine.backward(engine(torch.randn(16, 7, dtype=torch.bfloat16)).float().square().mean())
    wrong = size = 0.0
    for name, parameter in engine.module.named_parameters():
        torch.distributed.all_reduce(means[name])
        mean = means[name].flatten() / torch.distributed.get_world_size()
        wrong += float((safe_get_full_grad(parameter).double().flatten() - mean).square().sum())
        size += float(mean.square().sum())
    return float((wrong / size) ** 0.5)


if __name__ == "__main__":
    world = process_group.connect()
    errors = {stage: error(stage) for stage in (1, 2, 3)}
    if world.is_first:
        print(json.dumps(errors))
    # DeepSpeed's engines hold gloo's threads, whose teardown at exit now and then aborts a rank that is done.
    process_group.disconnect()
    sys.stdout.flush()
    os._exit(0)
