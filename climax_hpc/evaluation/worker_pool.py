"""Threads that score batches of forecasts."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from climax_hpc.distributed import process_group


@contextmanager
def worker_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that each compute on one core: torch's own threads inside them would compete for the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    device = process_group.device()
    pool = ThreadPoolExecutor(threads, "score", initializer=process_group.use_device, initargs=(device,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
