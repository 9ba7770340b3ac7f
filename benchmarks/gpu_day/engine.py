"""Stage `model_engine`: the 108 M model in the product's own engine, bfloat16 at ZeRO stage 1, against `plan`."""

import torch

from benchmarks.gpu_day.model import REPEATS, compile_blocks, step_rows, steps_seconds
from benchmarks.gpu_day.record import Record
from benchmarks.gpu_day.schedule import AGGREGATION, LOSS
from climax_hpc.config.training import OptimizerConfig, TrainConfig
from climax_hpc.distributed import process_group
from climax_hpc.fields.variables import CLIMAX_48, lookup
from climax_hpc.model.config import ModelConfig
from climax_hpc.tools.plan.measure import engine_step, peak_of
from climax_hpc.tools.plan.memory import plan_memory
from climax_hpc.training.deepspeed_engine import torch_functions_restored
from climax_hpc.training.shape import Shape

# Large enough that the plan, which leaves out what is small, holds.
SMALL = ModelConfig(
    variables=tuple(v.name for v in CLIMAX_48[:12]), height=16, width=32, embed_dim=128, depth=3, heads=4
)
PLAN_TOLERANCE = 0.1


def model_engine(record: Record) -> None:
    """Samples/s and memory of training steps, eager, then with compiled blocks."""
    process_group.connect()
    config, B = (SMALL, 8) if record.rehearsal else (ModelConfig(), 64)
    train = TrainConfig(precision="bfloat16", zero_stage=1, compile=False)
    outputs = [name for name in config.variables if lookup(name).can_be_forecast]
    shape = Shape(model=config, B=B, V=len(config.variables), O=len(outputs), micro_batches_per_rank=1, ranks=1)
    with torch_functions_restored():
        step, engine, peak = peak_of(lambda: engine_step(config, train, B, 1))
        plan = plan_memory(shape, train, OptimizerConfig(), anomaly=False, cuda=torch.cuda.is_available()).total
        of, name = [AGGREGATION, LOSS], f"engine_108m_32x64/b{B}"
        record.add(f"{name}/planned_memory", plan, "B")
        record.add(f"{name}/memory_by_plan", peak / plan, "1", of=of)
        record.check(f"plan/{name}", abs(peak / plan - 1) <= PLAN_TOLERANCE, tolerance=PLAN_TOLERANCE)
        step_rows(record, "engine_108m_32x64", "eager", shape, steps_seconds(step, REPEATS), of, peak)
        compile_blocks(record, engine.module)
        step_rows(record, "engine_108m_32x64", "compiled", shape, steps_seconds(step, REPEATS), of)


STAGES = {"model_engine": model_engine}
