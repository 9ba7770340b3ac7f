"""Micro-batches read ahead into a ring of reused buffers by a few threads, then copied to the device as stored.

The consumer does the bookkeeping: it gives a thread a free buffer and a micro-batch, and waits for the buffers in the
order of the micro-batches. So micro-batches arrive in order whichever thread is faster, nothing is read before there is
room for it, and threads share only queues. No worker processes: threads spend their time in positional reads, which
release the GIL.
Dimensions: B samples · T input times, oldest first · C channels · H, W grid.
"""

import atexit
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import torch
from torch import Tensor

from climax_hpc.data.dataset import PackedSource
from climax_hpc.data.sampler import MicroBatch, Sample
from climax_hpc.fields.averaging_window import WindowSteps

_ALIGNMENT = 64  # bytes; of every array in a buffer
_THREAD_NAME = "climax-reader"
_PATIENCE = 10.0  # seconds for which the end of reading waits for a thread


@dataclass(frozen=True, kw_only=True)
class RawBatch:
    """What was read for one micro-batch: z-scores as stored, NaN is missing."""

    x_BTCHW: Tensor
    """Inputs, the oldest time first; the last is that of the sample."""
    y_BCHW: Tensor
    """Targets; in a roll-out all of the first sample, one after another, then those of the next."""
    x_climatology_BTCHW: Tensor | None = None
    y_climatology_BCHW: Tensor | None = None

    def tensors(self) -> Iterator[Tensor]:
        """Those that are there."""
        fields = (self.x_BTCHW, self.y_BCHW, self.x_climatology_BTCHW, self.y_climatology_BCHW)
        return (field for field in fields if field is not None)

    def to(self, device: torch.device) -> "RawBatch":
        """On the device; on a CPU these same tensors."""

        def moved(field: Tensor | None) -> Any:
            return None if field is None else field.to(device, non_blocking=True)

        return RawBatch(
            x_BTCHW=moved(self.x_BTCHW),
            y_BCHW=moved(self.y_BCHW),
            x_climatology_BTCHW=moved(self.x_climatology_BTCHW),
            y_climatology_BCHW=moved(self.y_climatology_BCHW),
        )


class BatchSpec(Protocol):
    """What makes up a micro-batch, as the reader needs it: `SourceBatchSpec`, or that of a task of its own."""

    @property
    def source(self) -> PackedSource:
        """The source that the micro-batches are named after."""
        ...

    def nbytes(self, samples: int) -> int:
        """Size of a buffer for a micro-batch."""
        ...

    def in_buffer(self, buffer: Tensor, samples: int) -> Any:
        """Views of a buffer of bytes, with a method `to(device)`."""
        ...

    def read_into(self, raw: Any, samples: Sequence[Sample]) -> None:
        """Fill the views with these samples; called by threads."""
        ...


@dataclass(frozen=True, kw_only=True)
class SourceBatchSpec:
    """What of a source makes up a micro-batch."""

    source: PackedSource
    history_steps: int = 0
    """Input steps before that of the sample."""
    climatology: bool = False
    """Read the climatology of every time too."""
    window: WindowSteps | None = None
    """Targets are means over it, in float32, that start at the lead time; the state at that time where None."""
    rollout_steps: int = 1
    """Targets of a sample: at the lead time and its multiples up to this one."""

    def shapes(self, samples: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of each tensor of `RawBatch`."""
        dtype = torch.float16 if self.source.dtype.itemsize == 2 else torch.float32
        target = (samples * self.rollout_steps, *self.source.chunk_shape)
        inputs = (samples, 1 + self.history_steps, *self.source.chunk_shape)
        of_target = torch.float32 if self.window else dtype
        fields: list[tuple[tuple[int, ...], torch.dtype]] = [(inputs, dtype), (target, of_target)]
        return fields + ([(inputs, torch.float32), (target, torch.float32)] if self.climatology else [])

    def nbytes(self, samples: int) -> int:
        """Size of a buffer for a micro-batch."""
        return sum(_aligned(torch.Size(shape).numel() * dtype.itemsize) for shape, dtype in self.shapes(samples))

    def in_buffer(self, buffer: Tensor, samples: int) -> RawBatch:
        """Views of a buffer of bytes."""
        views, start = [], 0
        for shape, dtype in self.shapes(samples):
            size = torch.Size(shape).numel() * dtype.itemsize
            views.append(buffer[start : start + size].view(dtype).view(shape))
            start += _aligned(size)
        return RawBatch(
            x_BTCHW=views[0],
            y_BCHW=views[1],
            x_climatology_BTCHW=views[2] if self.climatology else None,
            y_climatology_BCHW=views[3] if self.climatology else None,
        )

    def read_into(self, raw: RawBatch, samples: Sequence[Sample]) -> None:
        """Fill the tensors with these samples.

        Raises:
            UserError: a file that is absent, truncated, or does not match its checksums.
        """
        now = [s.time_index + k for s in samples for k in range(-self.history_steps, 1)]
        later = [s.time_index + k * s.lead_steps for s in samples for k in range(1, self.rollout_steps + 1)]
        source = self.source
        source.read_into(now, raw.x_BTCHW.flatten(0, 1).numpy())
        if self.window:
            self.window.means_into(source.read, later, raw.y_BCHW.numpy())
        else:
            source.read_into(later, raw.y_BCHW.numpy())
        if raw.x_climatology_BTCHW is not None and raw.y_climatology_BCHW is not None:
            source.read_climatology_into(now, raw.x_climatology_BTCHW.flatten(0, 1).numpy())
            if self.window:
                self.window.means_into(source.read_climatology, later, raw.y_climatology_BCHW.numpy())
            else:
                source.read_climatology_into(later, raw.y_climatology_BCHW.numpy())

    def read(self, samples: Sequence[Sample]) -> RawBatch:
        """These samples in new memory; see `read_into`."""
        raw = self.in_buffer(torch.empty(self.nbytes(len(samples)), dtype=torch.uint8), len(samples))
        self.read_into(raw, samples)
        return raw


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class _Buffer:
    """Room for one micro-batch of any source, page-locked where a GPU copies from it."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self._bytes = torch.empty(nbytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._views: dict[tuple[str, int], Any] = {}
        self.filled: SimpleQueue[BaseException | None] = SimpleQueue()
        """One entry for each time that a thread was told to fill it: None, or what went wrong."""
        self._copied = torch.cuda.Event() if device.type == "cuda" else None
        self._device = device

    def fill(self, spec: BatchSpec, samples: Sequence[Sample]) -> None:
        """Read a micro-batch, once the device has copied the one before."""
        if self._copied is not None:
            self._copied.synchronize()
        spec.read_into(self.views(spec, samples), samples)

    def views(self, spec: BatchSpec, samples: Sequence[Sample]) -> Any:
        """The tensors of a micro-batch of this source."""
        key = (spec.source.name, len(samples))
        if key not in self._views:
            self._views[key] = spec.in_buffer(self._bytes, len(samples))
        return self._views[key]

    def on_device(self, spec: BatchSpec, samples: Sequence[Sample]) -> Any:
        """The micro-batch on the device, as soon as the device comes to it; on a CPU the buffer itself."""
        raw = self.views(spec, samples).to(self._device)
        if self._copied is not None:
            self._copied.record()
        return raw


class _Threads:
    """Threads that fill buffers until they are told to end; daemons, so that none can hold up the interpreter's end.

    The interpreter's end stops a daemon wherever it next asks for the GIL; within torch that aborts the process
    with it. So they are told to end before.
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
        """Have a thread fill the buffer; `buffer.filled` tells when it has."""
        self._jobs.put((buffer, spec, samples))

    def close(self) -> None:
        """Drop what is not begun, let every thread finish its read, and wait; one that hangs is left behind."""
        atexit.unregister(self.close)
        with suppress(Empty):
            while True:
                self._jobs.get_nowait()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(_PATIENCE)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            buffer, spec, samples = job
            try:
                buffer.fill(spec, samples)
            except BaseException as error:  # whatever it is, the consumer raises it
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
) -> Generator[tuple[int, MicroBatch, Any], None, None]:
    """(step, micro-batch, what is stored of it on the device) for every (step, micro-batch), in order, read ahead.

    Args:
        micro_batches: what to read, each with its step; at most `micro_batch_size` samples each.
        specs: source name -> what of it makes up a micro-batch.
        threads: reads going on at a time, at most `prefetch_micro_batches`.
        prefetch_micro_batches: micro-batches read ahead; memory is that of one more.

    On a CPU the tensors are those of the buffer: they hold until the next micro-batch is asked for.

    Raises:
        UserError: when the micro-batch comes up whose file is absent, truncated, or does not match its checksums.
    """
    nbytes = max(spec.nbytes(micro_batch_size) for spec in specs.values())
    free = deque(_Buffer(nbytes, device) for _ in range(prefetch_micro_batches + 1))
    ahead: deque[tuple[int, MicroBatch, _Buffer]] = deque()
    todo = iter(micro_batches)
    workers = _Threads(min(threads, prefetch_micro_batches))
    try:
        while True:
            while free and (following := next(todo, None)) is not None:
                step, micro_batch = following
                buffer = free.popleft()
                workers.fill(buffer, specs[micro_batch.source], micro_batch.samples)
                ahead.append((step, micro_batch, buffer))
            if not ahead:
                return
            step, micro_batch, buffer = ahead.popleft()
            error = buffer.filled.get()
            if error is not None:
                raise error
            yield step, micro_batch, buffer.on_device(specs[micro_batch.source], micro_batch.samples)
            free.append(buffer)
    finally:
        workers.close()
