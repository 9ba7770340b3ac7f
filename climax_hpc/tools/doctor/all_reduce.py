"""Times and checks sums over all ranks of a process group."""

import time
from dataclasses import dataclass

import torch
import torch.distributed

NUMEL = 1 << 23
"""float32 values of the large sum: 32 MiB."""
_LARGE, _SMALL = 5, 20


class WrongSumError(Exception):
    """The ranks got another sum than the right one."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The best of some sums."""

    seconds: float
    """Of a sum of 32 MiB."""
    latency: float
    """Of a sum of one value [s]."""

    @property
    def bytes_per_second(self) -> float:
        """32 MiB by the time of their sum."""
        return 4 * NUMEL / self.seconds

    def __str__(self) -> str:
        times = f"{self.seconds * 1e3:.3g} ms, {self.latency * 1e6:.0f} µs for 4 B"
        return f"{self.bytes_per_second / 1e9:.2f} GB/s ({times})"


def measure(device: torch.device) -> Speed:
    """Sum over all ranks, on a device; every rank calls it.

    Raises:
        WrongSumError: the sum is wrong.
    """
    _best(device, 1, 1)  # connects the ranks
    return Speed(seconds=_best(device, NUMEL, _LARGE), latency=_best(device, 1, _SMALL))


def _best(device: torch.device, numel: int, repetitions: int) -> float:
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    expected, best = float(sum(map(_share, range(ranks)))), float("inf")
    for _ in range(repetitions):
        x = torch.full((numel,), float(_share(rank)), device=device)
        torch.distributed.barrier()
        start = time.perf_counter()
        torch.distributed.all_reduce(x)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
        if not bool((x == expected).all()):
            raise WrongSumError(f"sums over {ranks} ranks give {x[0].item()}, expected {expected}")
    return best


def _share(rank: int) -> int:
    """A rank's part of the sum, which stays exact in float32 for millions of ranks."""
    return rank % 7 + 1
