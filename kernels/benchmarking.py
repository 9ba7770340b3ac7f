"""What the benchmarks of kernels share: time, peak and saved memory, the machine's own limits, and rows of results."""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from climax_hpc.kernels.testing import relative_error

LIMIT = 10.0  # seconds for the timed runs of one form
_clock = [time.perf_counter]


def use_processor_time(yes: bool) -> None:
    """Let `seconds_of` count the processor time of this process, all threads, in place of the clock's."""
    _clock[0] = time.process_time if yes else time.perf_counter


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


def inspect(forward: Callable[[], Tensor], leaves: Sequence[Tensor], probe: Tensor | None = None) -> Inspection:
    """Run once under PyTorch's memory profiler; `leaves` are the tensors whose gradients are taken."""
    saved: dict[int, int] = {}
    own = {t.untyped_storage().data_ptr() for t in leaves}

    def record(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return t

    with _quiet_stderr(), torch.profiler.profile(profile_memory=True) as profile:
        start = _clock[0]()
        with torch.autograd.graph.saved_tensors_hooks(record, lambda t: t):
            output = forward()
        gradients = torch.autograd.grad(output, leaves, probe)
        seconds = _clock[0]() - start
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]"
    )
    held = peak = 0
    for _, nbytes in changes:
        held += nbytes
        peak = max(peak, held)
    return Inspection(
        results=[output.detach(), *gradients], saved_bytes=sum(saved.values()), peak_bytes=peak, seconds=seconds
    )


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


def step(forward: Callable[[], Tensor], leaves: Sequence[Tensor], probe: Tensor | None = None) -> Callable[[], object]:
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


def seconds_of(run: Callable[[], object], repeats: int, first: Inspection | None = None) -> list[float]:
    """Seconds of up to `repeats` runs, fewer (at least one) once LIMIT seconds have been spent.

    A `first` run that took longer than that is not repeated: memory that is touched for the first time, and the
    profiler, count for nothing there.
    """
    if first is not None and first.seconds > LIMIT:
        return [first.seconds]
    seconds: list[float] = []
    while len(seconds) < repeats and (not seconds or sum(seconds) < LIMIT):
        start = _clock[0]()
        run()
        seconds.append(_clock[0]() - start)
    return seconds


def time_rows(case: str, ours: Sequence[float], baselines: dict[str, float]) -> list[Row]:
    """Rows of the median of our runs against each baseline [s]."""
    ordered = sorted(ours)
    p20, p80 = (ordered[round(share * (len(ordered) - 1))] for share in (0.2, 0.8))
    return [
        Row(
            case=case, metric="time", against=against, ours=statistics.median(ours), baseline=baseline, unit="s",
            ours_p20=p20, ours_p80=p80,
        )
        for against, baseline in baselines.items()
    ]  # fmt: skip


def memory_rows(case: str, ours: Inspection, baselines: dict[str, Inspection], input_bytes: int) -> list[Row]:
    """Rows of saved and peak bytes against the other forms and against the size of the input."""
    rows = []
    for metric in ("saved_bytes", "peak_bytes"):
        sizes = {against: getattr(theirs, metric) for against, theirs in baselines.items()} | {"input": input_bytes}
        mine = max(1, getattr(ours, metric))
        rows += [
            Row(case=case, metric=metric, against=against, ours=mine, baseline=size, unit="B")
            for against, size in sizes.items()
        ]
    return rows


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the machine reaches in a plain copy and a plain float32 matrix product, measured in this run."""

    bytes_per_second: float
    flop_per_second: float

    @classmethod
    def measure(cls) -> "Machine":
        """Best of five of each: a limit, not a typical value."""
        source = torch.ones(1 << 26)
        target = torch.empty_like(source)
        copy = min(seconds_of(lambda: target.copy_(source), 5))
        a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
        product = min(seconds_of(lambda: a @ b, 5))
        return cls(bytes_per_second=2 * source.nbytes / copy, flop_per_second=2 * 2048**3 / product)

    def floor(self, flop: float, nbytes: float) -> float:
        """Seconds that this work takes at best."""
        return max(flop / self.flop_per_second, nbytes / self.bytes_per_second)
