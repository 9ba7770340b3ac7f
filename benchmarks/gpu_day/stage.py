"""One stage in a process of its own: `python -m benchmarks.gpu_day.stage NAME FOLDER [--rehearsal]`."""

import argparse
from contextlib import nullcontext
from pathlib import Path

import torch

from benchmarks.gpu_day import (
    attention,
    correct,
    engine,
    front_end,
    kernel_profile,
    kernel_tests,
    loss,
    machine,
    model,
    ncu,
    planted,
    pretrain,
    sanitizer,
    tiles,
)
from benchmarks.gpu_day.record import Record
from climax_hpc.kernels.dispatch import interpreting
from climax_hpc.kernels.testing import bfloat16_in_the_interpreter

STAGES = (
    {"environment": machine.environment, "ceilings": machine.ceilings, "tests": kernel_tests.tests}
    | correct.STAGES | front_end.STAGES | loss.STAGES | model.STAGES | engine.STAGES | kernel_profile.STAGES
    | pretrain.STAGES | sanitizer.STAGES | attention.STAGES | ncu.STAGES | tiles.STAGES | planted.STAGES
)  # fmt: skip


def main() -> None:
    """Run the stage; its rows are in FOLDER/NAME.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_day.stage", description=__doc__)
    parser.add_argument("name", choices=sorted(STAGES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rehearsal", action="store_true", help="tiny sizes on the CPU")
    options = parser.parse_args()
    if not options.rehearsal and not torch.cuda.is_available():
        raise SystemExit("no GPU is visible to PyTorch; without one only a rehearsal runs: add --rehearsal")
    record = Record(options.folder, options.name, options.rehearsal)
    record.save()
    with bfloat16_in_the_interpreter() if interpreting() else nullcontext():
        STAGES[options.name](record)


if __name__ == "__main__":
    main()
