"""What the benchmarks of kernels share: times, peak and saved memory, the machine's own limits, and rows of results."""

import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from climax_hpc.kernels.testing import relative_error, saved_bytes

Run = Callable[[], object]
# Sizes of the plain copy [float32 numbers] and of the plain matrix product [edge] that show the machine's own limits.
GPU_COPY, GPU_MATRIX = 1 << 29, 8192
PROCESSOR_COPY, PROCESSOR_MATRIX = 1 << 26, 2048


class WrongResult(RuntimeError):
    """The forms that were to be timed disagree; no speed is shown."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured comparison; ratio > 1 means that ours is better."""

    case: str
    metric: str
    against: str
    ours: float
    baseline: float
    unit: str
    ours_p20: float | None = None
    ours_p80: float | None = None
    device: str | None = None
    """Name of the processor or GPU."""
    copy_share: float | None = None
    """Part of the measured copy bandwidth that ours reaches, counting the traffic it cannot avoid."""
    matrix_share: float | None = None
    """Part of the measured matrix rate that ours reaches, counting the arithmetic of the algebra."""
    more_is_better: bool = False
    """True of rates: then the ratio is ours / baseline."""

    def to_dict(self) -> dict[str, Any]:
        """The row as it stands in the JSON file."""
        row = asdict(self)
        rate = row.pop("more_is_better")
        row["ratio"] = self.ours / self.baseline if rate else self.baseline / self.ours
        return {key: value for key, value in row.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """One forward and backward pass: what it gave and what memory it took."""

    results: list[Tensor]
    """The output and every gradient."""
    saved_bytes: int
    """Distinct storages saved for backward, leaves excluded."""
    peak_bytes: int
    """Most memory held at a time beyond what was held before."""
    seconds: float
    """Time of this run, the profiler's small cost included."""


class Timing(NamedTuple):
    """Seconds of one run: median, and the range that holds the middle three fifths."""

    median: float
    p20: float
    p80: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timing":
        """Quantiles of measured times."""
        ordered = sorted(seconds)
        p20, p80 = (ordered[round(share * (len(ordered) - 1))] for share in (0.2, 0.8))
        return cls(statistics.median(ordered), p20, p80)


class Stopwatch:
    """How times are taken in one bench: on which device, by which clock, how often, and until when."""

    def __init__(self, *, device: str = "cpu", repeats: int = 5, processor_time: bool = False, budget: float = 300):
        self.device, self.repeats = torch.device(device), repeats
        if self.device.type == "cuda":
            # By PyTorch's default cuDNN rounds the textbook's float32 convolutions to 11 bits, and nothing else does.
            torch.backends.cudnn.allow_tf32 = False
        self.processor_time = processor_time
        self._clock = time.process_time if processor_time else time.perf_counter
        self._deadline = time.perf_counter() + budget

    @property
    def seconds_left(self) -> float:
        """Of the budget, by the clock on the wall."""
        return self._deadline - time.perf_counter()

    def now(self) -> float:
        """The clock, once the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self._clock()

    def seconds(self, run: Run) -> float:
        """Time of one run."""
        start = self.now()
        run()
        return self.now() - start

    def times(self, runs: Mapping[str, Run], known: Mapping[str, float] | None = None) -> dict[str, Timing]:
        """Time of each run. On a processor they take turns, so that a disturbance meets all of them.

        A form gets fewer than `repeats` turns once it has taken five seconds or a twentieth of what is left of the
        budget. One whose time is `known` [s] to be longer than that is not run again: beside so much work the first
        touch of memory counts for nothing.
        """
        if self.device.type == "cuda":
            return {name: gpu_time(run) for name, run in runs.items()}
        limit = min(5.0, max(0.0, self.seconds_left) / 20)
        seconds: dict[str, list[float]] = {
            name: [known[name]] if known and known.get(name, 0) > limit else [] for name in runs
        }
        turns = {name: run for name, run in runs.items() if not seconds[name]}
        for turn in range(self.repeats):
            for name, run in turns.items():
                if turn == 0 or sum(seconds[name]) < limit:
                    seconds[name].append(self.seconds(run))
        return {name: Timing.of(measured) for name, measured in seconds.items()}


def gpu_time(run: Run) -> Timing:
    """Time on the GPU by its own clock, second-level cache emptied before each run (Triton's `do_bench`)."""
    from triton.testing import do_bench

    median, p20, p80 = do_bench(run, quantiles=[0.5, 0.2, 0.8])
    return Timing(median / 1e3, p20 / 1e3, p80 / 1e3)


def inspect(
    forward: Callable[[], Tensor], leaves: Sequence[Tensor], probe: Tensor | None = None, *, watch: Stopwatch
) -> Inspection:
    """Run once with every allocation counted; `leaves` are the tensors whose gradients are taken."""
    with _allocations(watch.device) as peak:
        start = watch.now()
        output, saved = saved_bytes(forward, leaves)
        gradients = torch.autograd.grad(output, leaves, probe)
        seconds = watch.now() - start
    return Inspection(results=[output.detach(), *gradients], saved_bytes=saved, peak_bytes=peak[0], seconds=seconds)


@contextmanager
def _allocations(device: torch.device) -> Iterator[list[int]]:
    """Fills the list, at the end, with the most bytes held at a time beyond those held before."""
    peak: list[int] = []
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.append(torch.cuda.max_memory_allocated(device) - before)
        return
    gc.collect()  # freed within the block, garbage of before would count as memory that the block gave back
    with _quiet_stderr(), torch.profiler.profile(profile_memory=True) as profile:
        yield peak
    events = profile.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = most = 0
    for _, nbytes in changes:
        held += nbytes
        most = max(most, held)
    peak.append(most)


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """PyTorch 2.13's profiler writes two lines to file descriptor 2 each time, whatever its log level."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def step(forward: Callable[[], Tensor], leaves: Sequence[Tensor], probe: Tensor | None = None) -> Run:
    """One forward and backward pass, to be timed."""
    return lambda: torch.autograd.grad(forward(), leaves, probe)


def check_same(case: str, ours: Sequence[Tensor], theirs: Sequence[Tensor], tolerance: float) -> float:
    """Worst norm-wise difference of two lists of results.

    Raises:
        WrongResult: the difference is not below the tolerance.
    """
    worst = max(relative_error(a, b) for a, b in zip(ours, theirs, strict=True))
    if not worst < tolerance:
        raise WrongResult(f"{case}: the two forms differ by {worst:.1e}, more than {tolerance:.0e}; no speed is shown")
    return worst


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The device, and what it reaches in a plain copy and a plain matrix product, measured in this run."""

    name: str
    bytes_per_second: float
    flop_per_second: float

    @classmethod
    def measure(cls, watch: Stopwatch, dtype: torch.dtype = torch.float32) -> "Machine":
        """Best of five of each: a limit, not a typical value."""
        gpu = watch.device.type == "cuda"
        source = torch.ones(GPU_COPY if gpu else PROCESSOR_COPY, device=watch.device)
        target = torch.empty_like(source)
        n = GPU_MATRIX if gpu else PROCESSOR_MATRIX
        a, b = (torch.randn(n, n, device=watch.device, dtype=dtype) for _ in range(2))
        copy, product = (
            gpu_time(run).p20 if gpu else min(watch.seconds(run) for _ in range(5))
            for run in (partial(target.copy_, source), partial(torch.mm, a, b))
        )
        return cls(
            name=device_name(watch.device) + ", processor time" * watch.processor_time,
            bytes_per_second=2 * source.nbytes / copy,
            flop_per_second=2 * n**3 / product,
        )

    def floor(self, flop: float, nbytes: float) -> float:
        """Seconds that this work takes at best."""
        return max(flop / self.flop_per_second, nbytes / self.bytes_per_second)

    def time_rows(
        self, case: str, ours: Timing, baselines: Mapping[str, float], *, flop: float = 0, nbytes: float = 0
    ) -> list[Row]:
        """Rows of our time against each baseline [s], and against the roofline where the work is given."""
        copy_share = nbytes / ours.median / self.bytes_per_second if nbytes else None
        matrix_share = flop / ours.median / self.flop_per_second if flop else None
        floor = {"roofline": self.floor(flop, nbytes)} if flop or nbytes else {}
        return [
            Row(
                case=case, metric="time", against=against, ours=ours.median, baseline=baseline, unit="s",
                ours_p20=ours.p20, ours_p80=ours.p80, device=self.name,
                copy_share=copy_share, matrix_share=matrix_share,
            )
            for against, baseline in {**baselines, **floor}.items()
        ]  # fmt: skip

    def memory_rows(
        self, case: str, ours: Inspection, baselines: Mapping[str, Inspection], input_bytes: int
    ) -> list[Row]:
        """Rows of saved and peak bytes against the other forms and against the size of the input."""
        rows = []
        for metric in ("saved_bytes", "peak_bytes"):
            sizes = {against: getattr(theirs, metric) for against, theirs in baselines.items()} | {"input": input_bytes}
            mine = max(1, getattr(ours, metric))
            rows += [
                Row(case=case, metric=metric, against=against, ours=mine, baseline=size, unit="B", device=self.name)
                for against, size in sizes.items()
            ]
        return rows


def interleaved(
    forms: Mapping[str, Run], repeats: int, *, before: Run = lambda: None, uncounted: int = 0
) -> dict[str, list[float]]:
    """Seconds of `repeats` runs of every form, taken in turns, so that a slow moment of the machine meets all of them.

    `before` is called ahead of every run, untimed; `uncounted` rounds come first and fill caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(uncounted + repeats):
        for name, run in forms.items():
            before()
            start = time.perf_counter()
            run()
            if turn >= uncounted:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def time_rows(case: str, seconds: Mapping[str, Sequence[float]]) -> list[Row]:
    """Rows of the times [s] of `ours` against the median of each other form, where no roofline is meant."""
    ours = Timing.of(seconds["ours"])
    return [
        Row(
            case=case, metric="time", against=against, ours=ours.median, baseline=statistics.median(theirs), unit="s",
            ours_p20=ours.p20, ours_p80=ours.p80,
        )
        for against, theirs in seconds.items()
        if against != "ours"
    ]  # fmt: skip


def device_name(device: torch.device) -> str:
    """Model of the GPU, or of the processor with the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    return f"{models[0] if models else platform.machine()}, {threads} thread{'s' * (threads > 1)}"
