"""`climax-hpc bench kernels`: correctness first, then time and memory of the kernels and of whole model steps."""

import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from climax_hpc.bench.output import OutputConfig, Table
from climax_hpc.config import require
from climax_hpc.errors import UserError
from climax_hpc.kernels.benchmarking import (
    Inspection,
    Machine,
    Row,
    WrongResult,
    check_same,
    inspect,
    memory_rows,
    seconds_of,
    step,
    time_rows,
    use_processor_time,
)
from climax_hpc.kernels.lat_weighted_loss import bench as loss_bench
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.kernels.variable_aggregation import bench as aggregation_bench
from climax_hpc.model.climax import ClimaX
from climax_hpc.model.config import ModelConfig
from climax_hpc.model.reference import TextbookClimaX

STEPS = {
    "step_32x64": ModelConfig(dropout=0, drop_path=0),
    "step_128x256": ModelConfig(height=128, width=256, patch=4, dropout=0, drop_path=0),
}
CASES = (*aggregation_bench.SIZES, "variable_slope", "loss_128x256", *STEPS)
STEP_TOLERANCE = 1e-3  # gradients behind eight float32 blocks: 1e-5 of the front end, amplified


@dataclass(frozen=True, kw_only=True)
class KernelsConfig(OutputConfig):
    """`climax-hpc bench kernels`: every row compares ours with a baseline; ratio > 1 means that ours is better."""

    cases: list[str] | None = None
    """Cases to run, of front_end_*, step_*, loss_128x256 and variable_slope; all where null."""
    repeats: int = 5
    """Runs of which the median is taken; a form slower than 10 s in all gets fewer, at least one."""
    threads: int | None = None
    """Processor threads; PyTorch's choice where null."""
    processor_time: bool = False
    """Count processor time, not the clock's: for a machine shared with other work, together with threads = 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [case for case in self.cases or () if case not in CASES]
        require(not unknown, f"cases: {', '.join(unknown)} unknown; use some of {', '.join(CASES)}")
        require(self.repeats >= 1, f"repeats = {self.repeats}: must be at least 1")
        require(self.threads is None or self.threads >= 1, f"threads = {self.threads}: must be at least 1")


def bench(config: KernelsConfig) -> list[dict[str, Any]]:
    """Print the table case by case, write the files, return the rows.

    Raises:
        UserError: a form gives another result than the one it is compared with; nothing of that case is shown.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    use_processor_time(config.processor_time)
    machine = Machine.measure()
    clock = "processor time" if config.processor_time else "wall-clock time"
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads, {clock}")
    print(f"copy {machine.bytes_per_second / 1e9:.1f} GB/s, float32 matrix {machine.flop_per_second / 1e9:.0f} GFLOP/s")
    table = Table(config)
    for case in config.cases or CASES:
        try:
            table.add(_rows_of(case, config.repeats, machine))
        except WrongResult as error:
            raise UserError(str(error)) from None
    return table.rows


def _rows_of(case: str, repeats: int, machine: Machine) -> Sequence[Row]:
    if case in aggregation_bench.SIZES:
        return aggregation_bench.rows_of(case, repeats, machine)
    if case == "variable_slope":
        return aggregation_bench.slope_rows(repeats)
    if case == "loss_128x256":
        return loss_bench.rows_of(case, repeats, machine)
    return _step_rows(case, repeats)


def _step_rows(case: str, repeats: int) -> list[Row]:
    """Forward, loss and backward of a whole model, with the op and with the textbook's front end; same trunk."""
    config = STEPS[case]
    torch.manual_seed(0)
    model = ClimaX(config)
    with torch.no_grad():
        model.aggregator.query.normal_()  # at its start value, 0, the query hides the gradient of the key weight
    textbook = TextbookClimaX(config)
    textbook.load_state_dict(model.state_dict())
    batch_BVHW, target_BVHW = torch.randn(2, 2, len(config.variables), config.height, config.width).unbind()
    weight_H, lead_hours_B = torch.rand(config.height) + 0.1, torch.tensor([6.0, 72.0])

    def loss_of(model: ClimaX, autocast: bool = False) -> Callable[[], Tensor]:
        def forward() -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                h_BLPO = model(batch_BVHW, lead_hours_B, config.variables, config.variables, patched=True)
            return lat_weighted_loss(h_BLPO, target_BVHW, weight_H, config.patch)[0]

        return forward

    leaves, textbook_leaves = list(model.parameters()), list(textbook.parameters())
    ours, theirs = inspect(loss_of(model), leaves), inspect(loss_of(textbook), textbook_leaves)
    check_same(case, _without_key_bias(model, ours), _without_key_bias(model, theirs), STEP_TOLERANCE)
    ours.results.clear()
    theirs.results.clear()
    seconds = seconds_of(step(loss_of(model), leaves), repeats)
    baseline = statistics.median(seconds_of(step(loss_of(textbook), textbook_leaves), repeats, theirs))
    rows = time_rows(case, seconds, {"textbook": baseline})
    rows += memory_rows(case, ours, {"textbook": theirs}, batch_BVHW.nbytes)
    bf16_seconds = seconds_of(step(loss_of(model, autocast=True), leaves), repeats)
    return rows + [
        replace(row, case=f"{case}_bf16")
        for row in time_rows(case, bf16_seconds, {"textbook": baseline, "float32": statistics.median(seconds)})
    ]


def _without_key_bias(model: ClimaX, run: Inspection) -> list[Tensor]:
    """Results with the key bias cut out: its gradient is 0, of which the textbook form gives rounding errors."""
    names = ["loss", *(name for name, _ in model.named_parameters())]
    D = model.config.embed_dim
    return [
        torch.cat([t[:D], t[2 * D :]]) if name == "aggregator.in_proj_bias" else t
        for name, t in zip(names, run.results, strict=True)
    ]
