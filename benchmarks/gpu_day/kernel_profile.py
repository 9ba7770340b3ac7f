"""Stage `profile`: seconds of each kernel, of the operators and of a training step, by PyTorch's profiler."""

import re
from collections.abc import Callable

import torch

from benchmarks.gpu_day.front_end import SIZES, TINY
from benchmarks.gpu_day.model import Training, build
from benchmarks.gpu_day.record import Record
from benchmarks.gpu_day.schedule import AGGREGATION
from benchmarks.gpu_day.timing import device
from climax_hpc.kernels.benchmarking import Stopwatch
from climax_hpc.kernels.variable_aggregation.bench import FrontEnd
from climax_hpc.model.climax import ClimaXNetwork

REPEATS = 5 if torch.cuda.is_available() else 1
SHOWN = 25


def profile(record: Record) -> None:
    """Kernel rows of both front ends and of a step at micro-batch 64; the tables go to profile.txt."""
    for grid, size in (TINY if record.rehearsal else SIZES).items():
        bench = FrontEnd(size, Stopwatch(device=str(device())), torch.bfloat16)
        traced(record, f"front_end_{grid}_b{size.B}", bench.step(bench.ours), everything=True)
        del bench
    B = 2 if record.rehearsal else 64
    training = Training(build(ClimaXNetwork, record.rehearsal), B)
    traced(record, f"model_108m_32x64_b{B}", training.step, everything=False)


def traced(record: Record, label: str, run: Callable[[], object], everything: bool) -> None:
    """One row per kernel: seconds of one run, and how many launches that are."""
    for _ in range(3 if torch.cuda.is_available() else 0):
        run()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as found:
        for _ in range(REPEATS):
            run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    averages = found.key_averages()
    key = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    with (record.folder / "profile.txt").open("a") as file:
        print(label, averages.table(sort_by=key, row_limit=SHOWN, max_name_column_width=70), sep="\n", file=file)
    kernels: dict[str, tuple[float, int]] = {}
    for event in averages:
        if str(event.device_type).endswith("CUDA") and event.self_device_time_total > 0:
            name = short_name(event.key)
            time, launches = kernels.get(name, (0.0, 0))
            kernels[name] = (time + event.self_device_time_total, launches + event.count)
    total = sum(time for time, _ in kernels.values())
    slowest = sorted(kernels.items(), key=lambda item: -item[1][0])
    for name, (time, launches) in slowest if everything else slowest[:SHOWN]:
        record.add(
            f"kernel/{label}/{name}", time / REPEATS / 1e6, "s", launches=launches / REPEATS,
            share=round(time / total, 4), of=[AGGREGATION],
        )  # fmt: skip
    record.add(f"kernel/{label}/all", total / REPEATS / 1e6, "s", of=[AGGREGATION])


def short_name(kernel: str) -> str:
    """A kernel without its template arguments, which fill hundreds of characters."""
    return re.split(r"[<(]", kernel.replace("(anonymous namespace)::", "").removeprefix("void "))[0][:80]


STAGES = {"profile": profile}
