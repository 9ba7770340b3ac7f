"""`climax-hpc bench kernels`: checks correctness, then measures time and memory of kernels and whole model steps."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from climax_hpc.config.paths import ConfigPath
from climax_hpc.config.training import require
from climax_hpc.errors import UserError
from climax_hpc.kernels.benchmarking import Machine, Row, Stopwatch, WrongResult
from climax_hpc.kernels.ensemble_crps import bench as crps_bench
from climax_hpc.kernels.lat_weighted_loss import bench as loss_bench
from climax_hpc.kernels.variable_aggregation import bench as aggregation_bench
from climax_hpc.kernels.variable_aggregation.bench import GRIDS, Size
from climax_hpc.kernels.verification_sums import bench as verification_bench
from climax_hpc.tools.bench.model_steps import STEPS, step_rows
from climax_hpc.tools.bench.output import OutputConfig, ResultTable
from climax_hpc.tools.bench.plots import draw_plots
from climax_hpc.utils.bounds import bounded
from climax_hpc.utils.files import make_folder, read_json

CASES = (
    "front_end_32x64", "front_end_128x256", "variable_slope", "loss_128x256", "ensemble_crps_128x256",
    "evaluation_128x256", "step_32x64", "front_end_720x1440", "step_128x256",
)  # fmt: skip
LONGEST = "step_128x256"
Measure = Callable[[Stopwatch, Machine], list[Row]]


@dataclass(frozen=True, kw_only=True)
class KernelsConfig(OutputConfig):
    """`climax-hpc bench kernels`: every row compares ours with a baseline; ratio > 1: ours is better."""

    plots: ConfigPath | None = None
    """Folder for figures (PNG): speed-up, memory, time against the number of variables; null: none."""
    cases: list[str] | None = None
    """Cases to run: front_end_*, step_*, loss_128x256, ensemble_crps_128x256, evaluation_128x256, variable_slope; null:
    all, or none if any of variables, grids and batches is given."""
    variables: list[int] | None = bounded(None, 1000)
    """Numbers of variables of additional front ends: one for each of these × grids × batches; null: 48."""
    grids: list[float] | None = None
    """Grid spacings of additional front ends [degree]: 5.625, 1.40625, 0.25; null: the first two."""
    batches: list[int] | None = bounded(None, 4096)
    """Batch sizes of additional front ends; null: 2."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the image and of the products in the front ends; whole steps are measured in both."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto: a GPU if there is one."""
    repeats: int = bounded(3, 10_000)
    """Number of runs, of which the median is reported; a form that takes more than 5 s in total gets fewer."""
    budget_seconds: float = 300.0
    """No case is started after this time [s]; skipped cases are printed."""
    threads: int | None = bounded(1, 4096)
    """CPU threads; 1, as for a rank that shares the cores with others; null: PyTorch's default."""
    side_by_side: bool = True
    """Run step_128x256, which takes as long as all other cases together, in a second process; only on a CPU with enough
    cores, and not with `processor_time`."""
    processor_time: bool = False
    """Measure CPU time instead of wall time: on a busy machine, together with threads = 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [case for case in self.cases or () if case not in CASES]
        require(not unknown, f"cases: {', '.join(unknown)} unknown; use some of {', '.join(CASES)}")
        strange = [grid for grid in self.grids or () if grid not in GRIDS]
        require(not strange, f"grids: {strange} unknown; use some of {list(GRIDS)}")
        for key, least in (("variables", 2), ("batches", 1)):  # a single variable has nothing to aggregate
            small = [number for number in getattr(self, key) or () if number < least]
            require(not small, f"{key}: {small} must be at least {least}")
        require(self.repeats >= 1, f"repeats = {self.repeats}: must be at least 1")
        require(self.budget_seconds > 0, f"budget_seconds = {self.budget_seconds:g}: must be positive")
        require(self.threads is None or self.threads >= 1, f"threads = {self.threads}: must be at least 1")
        no_gpu = self.device == "cuda" and not torch.cuda.is_available()
        require(not no_gpu, "device: PyTorch finds no GPU; use device = cpu")

    @property
    def on(self) -> str:
        """The resolved device."""
        gpu = self.device != "cpu" and torch.cuda.is_available()
        return "cuda" if gpu else "cpu"


def bench(config: KernelsConfig) -> list[dict[str, Any]]:
    """Print the table case by case, write the files, return the rows.

    Raises:
        UserError: ours and a baseline give different results; no row of that case is shown.
    """
    if config.plots:
        make_folder(Path(config.plots), "plots")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    watch = Stopwatch(
        device=config.on,
        repeats=config.repeats,
        processor_time=config.processor_time,
        budget=config.budget_seconds,
    )
    machine = Machine.measure(watch, getattr(torch, config.dtype))
    print(f"{machine.name}, torch {torch.__version__}")
    gigabytes, gigaflop = machine.bytes_per_second / 1e9, machine.flop_per_second / 1e9
    print(f"copy {gigabytes:.1f} GB/s, {config.dtype} matrix {gigaflop:.0f} GFLOP/s")
    table = ResultTable(config)
    skipped = []
    with SecondProcess(config) as second:
        for case, measure in chosen(config):
            if case == second.case:
                continue
            if watch.seconds_left <= 0:
                skipped.append(case)
                continue
            try:
                table.add(measure(watch, machine))
            except WrongResult as error:
                raise UserError(str(error)) from None
        table.add_measured(second.rows())
    if skipped:
        print(f"skipped after budget_seconds = {config.budget_seconds:g} s: {', '.join(skipped)}")
    if config.plots:
        draw_plots(table.rows, Path(config.plots))
    return table.rows


class SecondProcess:
    """The longest case in a second process, if there is a core for it; the process ends with the block."""

    def __init__(self, config: KernelsConfig) -> None:
        cases = [case for case, _ in chosen(config)]
        cores = len(os.sched_getaffinity(0)) // torch.get_num_threads()
        fits = config.side_by_side and config.on == "cpu" and not config.processor_time and cores > 1
        self.case = LONGEST if fits and LONGEST in cases and len(cases) > 1 else None
        self._config = config

    def __enter__(self) -> "SecondProcess":
        self._stack = ExitStack()
        if self.case is not None:
            self._output = Path(self._stack.enter_context(TemporaryDirectory(prefix="climax-bench-"))) / "rows.json"
            keys = {"cases": f"[{self.case}]", "json": self._output, "device": "cpu"}
            keys |= {key: getattr(self._config, key) for key in ("dtype", "repeats", "threads", "budget_seconds")}
            command = [sys.executable, "-m", "climax_hpc", "bench", "kernels"]
            command += [text for key, value in keys.items() for text in (f"--{key}", str(value or "null"))]
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            self._stack.callback(self._process.wait)
            self._stack.callback(self._process.kill)
        return self

    def rows(self) -> list[dict[str, Any]]:
        """Wait for the rows of the case; empty if it does not run in a second process.

        Raises:
            UserError: the error of the process.
        """
        if self.case is None:
            return []
        _, output = self._process.communicate()
        if self._process.returncode:
            raise UserError(
                (output.strip().splitlines() or [f"the process of {self.case} ended without a message"])[-1]
            )
        found: list[dict[str, Any]] = read_json(self._output, f"rows of {self.case}")
        return found

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def chosen(config: KernelsConfig) -> Iterator[tuple[str, Measure]]:
    """Name and measurement of every selected case."""
    dtype = getattr(torch, config.dtype)
    free = config.variables or config.grids or config.batches
    for case in config.cases or (() if free else CASES):
        yield case, _fixed(case, dtype)
    if free:
        grids = config.grids or [5.625, 1.40625]
        for grid, V, B in product(grids, config.variables or [48], config.batches or [2]):
            H, W, p = GRIDS[grid]
            case = f"front_end_{H}x{W}_v{V}_b{B}"
            yield case, _front_end(case, Size(B=B, V=V, H=H, W=W, p=p), dtype)


def _fixed(case: str, dtype: torch.dtype) -> Measure:
    if case in aggregation_bench.SIZES:
        return _front_end(case, aggregation_bench.SIZES[case], dtype)
    if case == "variable_slope":
        return aggregation_bench.slope_rows
    if case in STEPS:
        return partial(step_rows, case)
    rows_of = {"loss": loss_bench.loss_rows, "ensemble": crps_bench.crps_rows}
    return partial(rows_of.get(case.partition("_")[0], verification_bench.evaluation_rows), case)


def _front_end(case: str, size: Size, dtype: torch.dtype) -> Measure:
    return partial(aggregation_bench.rows_of, case, size, dtype=dtype)
