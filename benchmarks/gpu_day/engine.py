"""Stage `model_engine`: the 108 M model in the product's own engine, bfloat16 at ZeRO stage 1, against `plan`."""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_day.model import REPEATS, TINY, step_rows, steps_seconds
from benchmarks.gpu_day.record import Record
from benchmarks.gpu_day.schedule import AGGREGATION, LOSS
from climax_hpc.config.training import OptimizerConfig, TrainConfig
from climax_hpc.distributed import process_group
from climax_hpc.fields.variables import lookup
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.model.climax import ClimaXNetwork
from climax_hpc.model.config import ModelConfig
from climax_hpc.tools.plan.memory import plan_memory
from climax_hpc.tools.plan.shape import Shape
from climax_hpc.training.deepspeed_engine import build_engine

MICRO_BATCH = 64
PLAN_TOLERANCE = 0.1


def model_engine(record: Record) -> None:
    """Samples/s and memory of training steps, eager, then with compiled blocks."""
    process_group.connect()
    config, B = (TINY, 2) if record.rehearsal else (ModelConfig(), MICRO_BATCH)
    train, optimizer = TrainConfig(precision="bfloat16", zero_stage=1), OptimizerConfig()
    outputs = [name for name in config.variables if not lookup(name).static]
    shape = Shape(model=config, B=B, V=len(config.variables), O=len(outputs), micro_batches_per_rank=1, ranks=1)
    on = process_group.device()
    torch.manual_seed(0)
    engine = build_engine(
        ClimaXNetwork(config).to(on).train(), train=train, optimizer=optimizer, micro_batch_size=B,
        micro_batches_per_rank=1,
    )  # fmt: skip
    step = training_step(engine, config, outputs, B)
    for form in ("eager", "compiled"):
        if form == "compiled":
            for block in engine.module.blocks:
                block.compile(backend="eager" if record.rehearsal else "inductor")
        time = steps_seconds(step, REPEATS)
        peak = peak_bytes(step)  # after AdamW has its moments, and without what compiling takes
        step_rows(record, "engine_108m_32x64", form, shape, time, [AGGREGATION, LOSS])
        if peak is not None and form == "eager":
            plan = plan_memory(shape, train, optimizer, anomaly=False, cuda=True).total
            name = f"engine_108m_32x64/b{B}"
            record.add(f"{name}/planned_memory", plan, "B")
            record.add(f"{name}/memory_by_plan", peak / plan, "1", of=[AGGREGATION, LOSS])
            record.check(f"plan/{name}", abs(peak / plan - 1) <= PLAN_TOLERANCE, tolerance=PLAN_TOLERANCE)


def training_step(engine: Any, config: ModelConfig, outputs: list[str], B: int) -> Callable[[], Tensor]:
    """Forward, loss, backward and optimiser on one random batch."""
    on = process_group.device()
    x_BVHW = torch.randn(B, len(config.variables), config.height, config.width, device=on)
    y_BOHW = torch.randn(B, len(outputs), config.height, config.width, device=on)
    weight_H, lead_hours_B = torch.ones(config.height, device=on), torch.full((B,), 24.0, device=on)

    def step() -> Tensor:
        h_BLPO = engine(x_BVHW, lead_hours_B, config.variables, outputs, patched=True)
        loss = lat_weighted_loss(h_BLPO, y_BOHW, weight_H, config.patch)[0]
        engine.backward(loss)
        engine.step()
        return loss.detach()

    return step


def peak_bytes(step: Callable[[], object]) -> int | None:
    """Most bytes of one step on the GPU; None on a CPU, which keeps no such count."""
    if not torch.cuda.is_available():
        return None
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated())


STAGES = {"model_engine": model_engine}
