"""Measured memory of real training steps: PyTorch's own count of every allocation, from the model on.

    python -m climax_hpc.plan.measure '[{"model": {…}, "train": {…}, "group_size": 2}, …]'

prints {"peak_bytes": […]}: the most that was held at a time during the second step (the first one makes AdamW's
moments), on rank 0. Runs under torchrun too. Dimensions as in `shape.py`.
"""

import gc
import json
import sys
from typing import Any

import torch

from climax_hpc import dist
from climax_hpc.config import OptimConfig, TrainConfig
from climax_hpc.engine import build_engine
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.model.climax import ClimaX
from climax_hpc.model.config import ModelConfig
from climax_hpc.variables import lookup


def measure(model: dict[str, Any], train: dict[str, Any], group_size: int, groups_per_rank: int = 1) -> int:
    """Peak bytes of the second step of a training with random data, CPU only."""
    config = ModelConfig(**model)
    outputs = [v for v in config.variables if not lookup(v).static]
    gc.collect()  # what an earlier measurement left must not be freed, and so counted, in this one
    with torch.profiler.profile(profile_memory=True) as profile:
        engine = build_engine(
            ClimaX(config).train(),
            train=TrainConfig(**train),
            optim=OptimConfig(),
            group_size=group_size,
            groups_per_rank=groups_per_rank,
        )
        x_BVHW = torch.randn(group_size, len(config.variables), config.height, config.width)
        y_BOHW = torch.randn(group_size, len(outputs), config.height, config.width)
        weight_H, lead_hours_B = torch.ones(config.height), torch.full((group_size,), 6.0)
        for step in range(2):
            with torch.profiler.record_function(f"step {step}"):
                for _ in range(groups_per_rank):
                    h_BLPO = engine(x_BVHW, lead_hours_B, config.variables, outputs, patched=True)
                    loss = lat_weighted_loss(h_BLPO, y_BOHW, weight_H, config.patch)[0]
                    engine.backward(loss)
                    engine.step()
                    del h_BLPO, loss
    engine.destroy()
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    start = next(event.start_ns() for event in events if event.name() == "step 1")
    held = peak = 0
    for time, nbytes in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        held += nbytes
        if time >= start:
            peak = max(peak, held)
    return peak


def main() -> None:
    """Measurements, asked for as JSON."""
    world = dist.connect()
    torch.set_num_threads(1)
    peaks = [measure(**request) for request in json.loads(sys.argv[1])]
    if world.is_first:
        print(json.dumps({"peak_bytes": peaks}))


if __name__ == "__main__":
    main()
