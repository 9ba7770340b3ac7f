"""Seconds of a run: on a GPU by its own clock with the cache emptied before each run, on a CPU for rehearsals.

Several runs are the same work on equal inputs of their own, taken in turn: together they exceed the cache, so that none
finds its inputs there.
"""

import math
import time
from collections.abc import Callable
from itertools import cycle

import torch

from climax_hpc.kernels.benchmarking import Timing, gpu_time

Run = Callable[[], object]


def seconds(*runs: Run) -> Timing:
    """Median, 20th and 80th percentile of one run, launches from Python included."""
    turns = cycle(runs)
    return gpu_time(lambda: next(turns)()) if torch.cuda.is_available() else _processor_time(turns)


def device_seconds(*runs: Run) -> Timing:
    """The same of captured CUDA graphs: what the device takes when launches cost next to nothing."""
    if not torch.cuda.is_available():
        return _processor_time(cycle(runs))
    side, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for run in runs * 3:
            run()
    torch.cuda.current_stream().wait_stream(side)
    graphs = []
    for run in runs:  # one pool: they are replayed one after another, in this order
        graphs.append(torch.cuda.CUDAGraph())
        with torch.cuda.graph(graphs[-1], pool=pool):
            run()
    turns = cycle(graphs)
    return gpu_time(lambda: next(turns).replay())


def _processor_time(turns: "cycle[Run]", repeats: int = 2) -> Timing:
    measured = []
    for _ in range(repeats):
        start = time.perf_counter()
        next(turns)()
        measured.append(time.perf_counter() - start)
    return Timing.of(measured)


def copies(nbytes: int) -> int:
    """How many inputs of so many bytes exceed the second-level cache twice; at least two, at most eight."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size if torch.cuda.is_available() else 0
    return min(8, max(2, 1 + math.ceil(2 * cache / nbytes)))


def poison(device: torch.device, nbytes: float = 8e9) -> None:
    """Fill memory that PyTorch will hand out again with NaN: what a kernel forgets to write shows."""
    if device.type == "cuda":
        blocks = [torch.full((2**26,), torch.nan, device=device) for _ in range(int(nbytes / 2**28))]
        blocks += [torch.full((2**16,), torch.nan, device=device) for _ in range(64)]
        del blocks


def device() -> torch.device:
    """The GPU, or the CPU in a rehearsal."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
