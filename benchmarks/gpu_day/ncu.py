"""Stage `ncu`: hardware counters of the two slowest kernels of the front end, by NVIDIA's Nsight Compute.

    ncu … python -m benchmarks.gpu_day.ncu

runs the kernels by itself, twice.
"""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator

import torch

from benchmarks.gpu_day.front_end import SIZES, TINY
from benchmarks.gpu_day.record import Record
from benchmarks.gpu_day.schedule import AGGREGATION
from benchmarks.gpu_day.timing import device
from climax_hpc.kernels.benchmarking import Stopwatch
from climax_hpc.kernels.variable_aggregation import kernels
from climax_hpc.kernels.variable_aggregation.bench import FrontEnd

GRID = "128x256"
SECTIONS = ("SpeedOfLight", "ComputeWorkloadAnalysis", "LaunchStats", "Occupancy", "SchedulerStats", "WarpStateStats")


def ncu(record: Record) -> None:
    """Every number of these sections, one row each; the page itself goes to ncu.csv.

    Raises:
        RuntimeError: the tool is missing or reads nothing.
    """
    tool = shutil.which("ncu") or "/usr/local/cuda/bin/ncu"
    if not os.access(tool, os.X_OK):
        raise RuntimeError("ncu is not installed")
    environment = os.environ | ({"GPU_DAY_TINY": "1"} if record.rehearsal else {})
    for kernel in slowest(record):
        options = ["--clock-control", "none", "--csv", "--page", "details", "--print-units", "base"]
        options += ["--launch-skip", "1", "--launch-count", "1", "--kernel-name", kernel]
        options += [word for section in SECTIONS for word in ("--section", section)]
        command = [tool, *options, sys.executable, "-m", "benchmarks.gpu_day.ncu"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        print(done.stdout[-5000:], done.stderr[-5000:], flush=True)
        with (record.folder / "ncu.csv").open("a") as file:
            file.write(done.stdout)
        found = list(metrics(done.stdout.splitlines()))
        if done.returncode or not found:
            raise RuntimeError(f"ncu ended with status {done.returncode} and {len(found)} numbers of {kernel}")
        for name, value, unit in found:
            record.add(f"ncu/{kernel}/{name}", value, unit, of=[AGGREGATION])


def slowest(record: Record) -> list[str]:
    """Names of the two kernels that took longest in the stage `profile`; without it, the first two."""
    ours = [name for name in vars(kernels) if name.endswith("_kernel")]
    start = f"kernel/front_end_{GRID}"
    rows = [row for row in record.read("profile") if row["name"].startswith(start)]
    times = {row["name"].split("/")[-1]: row["value"] for row in rows}
    return sorted(ours, key=lambda name: -times.get(name, 0.0))[:2]


def metrics(lines: Iterable[str]) -> Iterator[tuple[str, float, str]]:
    """Name, value and unit of every number on a page of details in CSV; other lines are the program's own."""
    rows = csv.reader(line for line in lines if line.startswith('"'))
    head = next(rows, [])
    for cells in rows:
        row = dict(zip(head, cells, strict=False))
        try:
            yield row["Metric Name"], float(row["Metric Value"].replace(",", "")), row["Metric Unit"] or "1"
        except (KeyError, ValueError):  # the text of a rule
            continue


def main() -> None:
    """The front end, forward and backward, twice."""
    size = (TINY if "GPU_DAY_TINY" in os.environ else SIZES)[GRID]
    bench = FrontEnd(size, Stopwatch(device=str(device())), torch.bfloat16)
    step = bench.step(bench.ours)
    for _ in range(2):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


STAGES = {"ncu": ncu}

if __name__ == "__main__":
    main()
