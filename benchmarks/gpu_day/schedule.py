"""The stages in order of their weight: most seconds of each, and the kernels that it must find right."""

from typing import NamedTuple

AGGREGATION, LOSS, SUMS = "variable_aggregation", "lat_weighted_loss", "verification_sums"


class Slot(NamedTuple):
    """Place of one stage in the day."""

    seconds: float
    """Its process group is killed after so long."""
    checks: tuple[str, ...] = ()
    """Kernels that count as wrong where this stage crashes or hangs."""
    alone: bool = True
    """Whether it measures times: then nothing else runs beside it. Most of what the others do is to compile."""


STAGES = {
    "environment": Slot(40), "ceilings": Slot(40),
    **{
        f"correct_aggregation_{dtype}_{part}": Slot(100, (AGGREGATION,), alone=False)
        for dtype in ("bfloat16", "float16", "float32") for part in (0, 1)
    },
    "correct_loss": Slot(80, (LOSS,), alone=False), "correct_sums": Slot(60, (SUMS,), alone=False),
    "compile_textbook_32x64": Slot(100, alone=False), "compile_textbook_128x256": Slot(100, alone=False),
    "compile_model": Slot(100, alone=False),
    "sanitizer": Slot(100, alone=False), "tests": Slot(120, alone=False),
    "front_end_128x256_bf16": Slot(75), "front_end_32x64_bf16": Slot(60), "loss": Slot(60), "evaluation": Slot(40),
    "model_eager": Slot(60), "model_compiled": Slot(90), "model_engine": Slot(90), "pretrain": Slot(110),
    "attention": Slot(40), "profile": Slot(60), "ncu": Slot(60), "tiles_128x256": Slot(90),
    "model_textbook": Slot(40), "front_end_32x64_float32": Slot(45), "tiles_32x64": Slot(60),
    "compiled_textbook_32x64": Slot(90), "compiled_textbook_128x256": Slot(90),
}  # fmt: skip
"""The day itself."""

PLANTED = {
    "planted_crash": Slot(60, ("crashing",)), "planted_hang": Slot(12, ("hanging",)), "planted_wrong": Slot(60),
}  # fmt: skip
"""What a rehearsal adds: each way for a stage to go wrong (`planted.py`)."""
