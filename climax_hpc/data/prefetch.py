"""Groups of samples read ahead into a ring of reused buffers by a few threads, then handed to the device as stored.

The consumer keeps all the books: it gives a thread a free buffer and a group, and waits for the buffers in the order of
the groups. So groups come in order whatever thread is faster, nothing is read before there is room for it, and threads
share nothing but queues. No worker processes: what a thread spends its time on, positional reads, runs outside the GIL.
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

from climax_hpc.data.dataset import Source
from climax_hpc.data.sampler import Group, Sample
from climax_hpc.fields.averaging_window import WindowSteps

_ALIGNMENT = 64  # bytes; of every array in a buffer
_THREAD_NAME = "climax-reader"
_PATIENCE = 10.0  # seconds for which the end of reading waits for a thread


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What was read for one group: z-scores as stored, NaN is missing."""

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

    def to(self, device: torch.device) -> "Stored":
        """On the device; on a CPU these same tensors."""

        def moved(field: Tensor | None) -> Any:
            return None if field is None else field.to(device, non_blocking=True)

        return Stored(
            x_BTCHW=moved(self.x_BTCHW),
            y_BCHW=moved(self.y_BCHW),
            x_climatology_BTCHW=moved(self.x_climatology_BTCHW),
            y_climatology_BCHW=moved(self.y_climatology_BCHW),
        )


class Readable(Protocol):
    """What makes up a group, as the reader needs it: `Layout`, or that of a task of its own."""

    @property
    def source(self) -> Source:
        """The source that the groups are named after."""
        ...

    def nbytes(self, samples: int) -> int:
        """Size of a buffer for a group."""
        ...

    def in_buffer(self, buffer: Tensor, samples: int) -> Any:
        """Views of a buffer of bytes, with a method `to(device)`."""
        ...

    def read_into(self, stored: Any, samples: Sequence[Sample]) -> None:
        """Fill the views with these samples; called by threads."""
        ...


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What of a source makes up a group."""

    source: Source
    history_steps: int = 0
    """Input steps before that of the sample."""
    climatology: bool = False
    """Read the climatology of every time too."""
    window: WindowSteps | None = None
    """Targets are means over it, in float32, that start at the lead time; the state at that time where None."""
    rollout_steps: int = 1
    """Targets of a sample: at the lead time and its multiples up to this one."""

    def shapes(self, samples: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of each tensor of `Stored`."""
        dtype = torch.float16 if self.source.dtype.itemsize == 2 else torch.float32
        target = (samples * self.rollout_steps, *self.source.chunk_shape)
        inputs = (samples, 1 + self.history_steps, *self.source.chunk_shape)
        of_target = torch.float32 if self.window else dtype
        fields: list[tuple[tuple[int, ...], torch.dtype]] = [(inputs, dtype), (target, of_target)]
        return fields + ([(inputs, torch.float32), (target, torch.float32)] if self.climatology else [])

    def nbytes(self, samples: int) -> int:
        """Size of a buffer for a group."""
        return sum(_aligned(torch.Size(shape).numel() * dtype.itemsize) for shape, dtype in self.shapes(samples))

    def in_buffer(self, buffer: Tensor, samples: int) -> Stored:
        """Views of a buffer of bytes."""
        views, start = [], 0
        for shape, dtype in self.shapes(samples):
            size = torch.Size(shape).numel() * dtype.itemsize
            views.append(buffer[start : start + size].view(dtype).view(shape))
            start += _aligned(size)
        return Stored(
            x_BTCHW=views[0],
            y_BCHW=views[1],
            x_climatology_BTCHW=views[2] if self.climatology else None,
            y_climatology_BCHW=views[3] if self.climatology else None,
        )

    def read_into(self, stored: Stored, samples: Sequence[Sample]) -> None:
        """Fill the tensors with these samples.

        Raises:
            UserError: a file that is absent, truncated, or does not match its checksums.
        """
        now = [s.time_index + k for s in samples for k in range(-self.history_steps, 1)]
        later = [s.time_index + k * s.lead_steps for s in samples for k in range(1, self.rollout_steps + 1)]
        source = self.source
        source.read_into(now, stored.x_BTCHW.flatten(0, 1).numpy())
        if self.window:
            self.window.means_into(source.read, later, stored.y_BCHW.numpy())
        else:
            source.read_into(later, stored.y_BCHW.numpy())
        if stored.x_climatology_BTCHW is not None and stored.y_climatology_BCHW is not None:
            source.read_climatology_into(now, stored.x_climatology_BTCHW.flatten(0, 1).numpy())
            if self.window:
                self.window.means_into(source.read_climatology, later, stored.y_climatology_BCHW.numpy())
            else:
                source.read_climatology_into(later, stored.y_climatology_BCHW.numpy())

    def read(self, samples: Sequence[Sample]) -> Stored:
        """These samples in new memory; see `read_into`."""
        stored = self.in_buffer(torch.empty(self.nbytes(len(samples)), dtype=torch.uint8), len(samples))
        self.read_into(stored, samples)
        return stored


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class _Buffer:
    """Room for one group of any source, page-locked where a GPU copies from it."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self._bytes = torch.empty(nbytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._views: dict[tuple[str, int], Any] = {}
        self.filled: SimpleQueue[BaseException | None] = SimpleQueue()
        """One entry for each time that a thread was told to fill it: None, or what went wrong."""
        self._copied = torch.cuda.Event() if device.type == "cuda" else None
        self._device = device

    def fill(self, layout: Readable, samples: Sequence[Sample]) -> None:
        """Read a group, once the device has copied the one before."""
        if self._copied is not None:
            self._copied.synchronize()
        layout.read_into(self.views(layout, samples), samples)

    def views(self, layout: Readable, samples: Sequence[Sample]) -> Any:
        """The tensors of a group of this source."""
        key = (layout.source.name, len(samples))
        if key not in self._views:
            self._views[key] = layout.in_buffer(self._bytes, len(samples))
        return self._views[key]

    def on_device(self, layout: Readable, samples: Sequence[Sample]) -> Any:
        """The group on the device, as soon as the device comes to it; on a CPU the buffer itself."""
        stored = self.views(layout, samples).to(self._device)
        if self._copied is not None:
            self._copied.record()
        return stored


class _Threads:
    """Threads that fill buffers until they are told to end; daemons, so that none can hold up the interpreter's end.

    The interpreter's end stops a daemon wherever it next asks for the GIL; within torch that aborts the process
    with it. So they are told to end before.
    """

    def __init__(self, count: int) -> None:
        self._jobs: SimpleQueue[tuple[_Buffer, Readable, Sequence[Sample]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{_THREAD_NAME}-{i}", daemon=True) for i in range(count)
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self.close)

    def fill(self, buffer: _Buffer, layout: Readable, samples: Sequence[Sample]) -> None:
        """Have a thread fill the buffer; `buffer.filled` tells when it has."""
        self._jobs.put((buffer, layout, samples))

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
            buffer, layout, samples = job
            try:
                buffer.fill(layout, samples)
            except BaseException as error:  # whatever it is, the consumer raises it
                buffer.filled.put(error)
            else:
                buffer.filled.put(None)


def read_groups(
    groups: Iterable[tuple[int, Group]],
    layouts: Mapping[str, Readable],
    *,
    group_size: int,
    device: torch.device,
    threads: int = 2,
    prefetch_groups: int = 2,
) -> Generator[tuple[int, Group, Any], None, None]:
    """(step, group, what is stored of it on the device) for every (step, group), in order, read ahead.

    Args:
        groups: what to read; groups have at most `group_size` samples.
        layouts: source name -> what of it makes up a group.
        threads: reads going on at a time, at most `prefetch_groups`.
        prefetch_groups: groups read ahead; memory is that of one more.

    On a CPU the tensors are those of the buffer: they hold until the next group is asked for.

    Raises:
        UserError: when the group comes up whose file is absent, truncated, or does not match its checksums.
    """
    nbytes = max(layout.nbytes(group_size) for layout in layouts.values())
    free = deque(_Buffer(nbytes, device) for _ in range(prefetch_groups + 1))
    ahead: deque[tuple[int, Group, _Buffer]] = deque()
    todo = iter(groups)
    workers = _Threads(min(threads, prefetch_groups))
    try:
        while True:
            while free and (following := next(todo, None)) is not None:
                step, group = following
                buffer = free.popleft()
                workers.fill(buffer, layouts[group.source], group.samples)
                ahead.append((step, group, buffer))
            if not ahead:
                return
            step, group, buffer = ahead.popleft()
            error = buffer.filled.get()
            if error is not None:
                raise error
            yield step, group, buffer.on_device(layouts[group.source], group.samples)
            free.append(buffer)
    finally:
        workers.close()
