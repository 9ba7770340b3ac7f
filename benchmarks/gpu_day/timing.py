"""Seconds of a run: on a GPU by its own clock with the cache emptied before each run, on a CPU for rehearsals."""

import time
from collections.abc import Callable

import torch

from climax_hpc.kernels.benchmarking import Timing, gpu_time

Run = Callable[[], object]


def seconds(run: Run) -> Timing:
    """Median, 20th and 80th percentile of one run, launches from Python included."""
    return gpu_time(run) if torch.cuda.is_available() else _processor_time(run)


def device_seconds(run: Run) -> Timing:
    """The same of a captured CUDA graph: what the device takes when launches cost next to nothing."""
    if not torch.cuda.is_available():
        return _processor_time(run)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return gpu_time(graph.replay)


def _processor_time(run: Run, repeats: int = 3) -> Timing:
    measured = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        measured.append(time.perf_counter() - start)
    return Timing.of(measured)


def poison(device: torch.device, nbytes: float = 8e9) -> None:
    """Fill memory that PyTorch will hand out again with NaN: what a kernel forgets to write shows."""
    if device.type == "cuda":
        blocks = [torch.full((2**26,), torch.nan, device=device) for _ in range(int(nbytes / 2**28))]
        blocks += [torch.full((2**16,), torch.nan, device=device) for _ in range(64)]
        del blocks


def device() -> torch.device:
    """The GPU, or the CPU in a rehearsal."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
