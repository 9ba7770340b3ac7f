"""Micro-batches read ahead into a ring of reused buffers by a few threads, and copied to the device as stored.

The consumer does the bookkeeping: it gives a thread a free buffer and a micro-batch, and waits for the buffers in the
order of the micro-batches. So micro-batches arrive in order whichever thread is faster, nothing is read before there is
room for it, and threads share only queues. No worker processes: threads spend their time in positional reads, which
release the GIL. On a GPU each buffer has its copy there, which the thread starts; neither host nor device waits for it.
"""

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import torch

from climax_hpc.data.device_copy import DeviceBuffer
from climax_hpc.data.raw_batch import BatchSpec
from climax_hpc.data.sampler import MicroBatch, Sample
from climax_hpc.distributed import process_group

_THREAD_NAME = "climax-reader"
_JOIN_SECONDS = 10.0  # how long the end of reading waits for each thread


class _Buffer:
    """Memory for one micro-batch of any source, on the host and on the device."""

    def __init__(self, nbytes: int, device: torch.device, stream: torch.cuda.Stream | None) -> None:
        """`stream`: copies to a GPU; None on a CPU."""
        self._gpu = None if stream is None else DeviceBuffer(nbytes, device, stream)
        self._host = torch.empty(nbytes, dtype=torch.uint8) if self._gpu is None else self._gpu.host
        self._there = self._host if self._gpu is None else self._gpu.there
        self._views: dict[tuple[str, int, int], tuple[Any, Any]] = {}
        self.filled: SimpleQueue[BaseException | None] = SimpleQueue()
        """One entry for each fill by a thread: None, or the error."""
        self._device = device

    def fill(self, spec: BatchSpec, samples: Sequence[Sample]) -> None:
        """Read a micro-batch, once the device has copied the one before it, and start its copy; called by threads."""
        process_group.use_device(self._device)
        if self._gpu is not None:
            self._gpu.wait_for_copy()
        spec.read_into(self._views_of(spec, samples)[0], samples)
        if self._gpu is not None:
            self._gpu.start_copy(spec.nbytes(len(samples)))

    def take(self, spec: BatchSpec, samples: Sequence[Sample]) -> Any:
        """The micro-batch on the device, valid until `give_back`."""
        if self._gpu is not None:
            self._gpu.hand_over()
        return self._views_of(spec, samples)[1]

    def give_back(self) -> None:
        """Let a thread fill the buffer again; the device may still have to do what it was asked before."""
        if self._gpu is not None:
            self._gpu.take_back()

    def _views_of(self, spec: BatchSpec, samples: Sequence[Sample]) -> tuple[Any, Any]:
        """The tensors of a micro-batch of this source on the host and on the device."""
        key = (spec.source.name, len(samples), spec.nbytes(len(samples)))  # the last tells lengths of roll-outs apart
        if key not in self._views:
            here = spec.in_buffer(self._host, len(samples))
            self._views[key] = here, here if self._gpu is None else spec.in_buffer(self._there, len(samples))
        return self._views[key]


class _Threads:
    """Threads that fill buffers until `close`; daemons, so that a hanging read cannot block the interpreter's exit.

    At exit the interpreter stops a daemon wherever it next asks for the GIL, which inside torch aborts the process. So
    `close` is also registered to run before that.
    """

    def __init__(self, count: int) -> None:
        self._jobs: SimpleQueue[tuple[_Buffer, BatchSpec, Sequence[Sample]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{_THREAD_NAME}-{i}", daemon=True) for i in range(count)
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self.close)

    def fill(self, buffer: _Buffer, spec: BatchSpec, samples: Sequence[Sample]) -> None:
        """Let a thread fill the buffer; `buffer.filled` has an entry when it is done."""
        self._jobs.put((buffer, spec, samples))

    def close(self) -> None:
        """Drop what has not begun, let every thread finish its read, and wait; a thread that hangs is left behind."""
        atexit.unregister(self.close)
        with suppress(Empty):
            while True:
                self._jobs.get_nowait()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            buffer, spec, samples = job
            try:
                buffer.fill(spec, samples)
            except BaseException as error:  # the consumer raises it
                buffer.filled.put(error)
            else:
                buffer.filled.put(None)


def read_micro_batches(
    micro_batches: Iterable[tuple[int, MicroBatch]],
    specs: Mapping[str, BatchSpec],
    *,
    micro_batch_size: int,
    device: torch.device,
    threads: int = 2,
    prefetch_micro_batches: int = 2,
    waited: Callable[[float], None] = lambda seconds: None,
) -> Generator[tuple[int, MicroBatch, Any], None, None]:
    """(step, micro-batch, tensors as stored, on the device) for every (step, micro-batch), in order, read ahead.

    Args:
        micro_batches: what to read, at most `micro_batch_size` samples each.
        specs: source name -> what is read of it for a micro-batch, at most.
        threads: concurrent reads, at most `prefetch_micro_batches`.
        prefetch_micro_batches: micro-batches read ahead; buffers for one more are held in memory.
        waited: called for every micro-batch with the time that the consumer waited until it was read [s].

    The tensors are those of a buffer, valid until the next micro-batch is requested.

    Raises:
        UserError: at the micro-batch whose file is absent, truncated, or does not match its checksums.
    """
    nbytes = max(spec.nbytes(micro_batch_size) for spec in specs.values())
    stream = _copy_stream(device)
    free = deque(_Buffer(nbytes, device, stream) for _ in range(prefetch_micro_batches + 1))
    ahead: deque[tuple[int, MicroBatch, BatchSpec, _Buffer]] = deque()
    todo = iter(micro_batches)
    workers = _Threads(min(threads, prefetch_micro_batches))
    try:
        while True:
            while free and (following := next(todo, None)) is not None:
                step, micro_batch = following
                buffer, spec = free.popleft(), specs[micro_batch.source].of(micro_batch)
                workers.fill(buffer, spec, micro_batch.samples)
                ahead.append((step, micro_batch, spec, buffer))
            if not ahead:
                return
            step, micro_batch, spec, buffer = ahead.popleft()
            asked = time.perf_counter()
            error = buffer.filled.get()
            waited(time.perf_counter() - asked)
            if error is not None:
                raise error
            yield step, micro_batch, buffer.take(spec, micro_batch.samples)
            buffer.give_back()
            free.append(buffer)
    finally:
        workers.close()
        if stream is not None:  # whoever gets the memory of the buffers next must not be overwritten by their copies
            torch.cuda.current_stream(device).wait_stream(stream)


def read_now(spec: BatchSpec, samples: Sequence[Sample], device: torch.device) -> Any:
    """The tensors of these samples as stored, on the device, read by the calling thread into new memory.

    Raises:
        UserError: a file that is absent, truncated, or does not match its checksums.
    """
    buffer = _Buffer(spec.nbytes(len(samples)), device, _copy_stream(device))
    buffer.fill(spec, samples)
    return buffer.take(spec, samples)


def _copy_stream(device: torch.device) -> torch.cuda.Stream | None:
    return torch.cuda.Stream(device) if device.type == "cuda" else None
