"""CUDA without a GPU: memory is the host's, and work in streams is done as late as waiting for it allows.

So a buffer that is filled before its copy, a tensor that is used before it is copied and memory that is overwritten
while it is used show as wrong values. Streams and events are those of CUDA: work of a stream is done in order; an event
is passed once all work recorded before it is done.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda", 3)


class FakeStream:
    """Work that is not done yet, in order."""

    def __init__(self, device: torch.device) -> None:
        assert device == DEVICE
        self.todo: deque[Callable[[], object]] = deque()

    def run_until(self, passed: Callable[[], bool]) -> None:
        """Do work until the condition holds."""
        while not passed():
            self.todo.popleft()()

    def wait_event(self, event: "FakeEvent") -> None:
        """Later work waits for what was recorded last."""
        recorded = event.recorded
        self.todo.append(lambda: event.run_until(recorded))

    def wait_stream(self, other: "FakeStream") -> None:
        """Later work waits for all work of the other stream so far."""
        event = FakeEvent()
        event.record(other)
        self.wait_event(event)


class FakeEvent:
    """A place in the work of a stream."""

    def __init__(self) -> None:
        self.recorded = self.passed = 0
        self._stream: FakeStream | None = None

    def record(self, stream: FakeStream) -> None:
        """The place after all work of the stream so far."""
        self.recorded += 1
        number, self._stream = self.recorded, stream
        stream.todo.append(lambda: setattr(self, "passed", number))

    def run_until(self, number: int) -> None:
        """Do the work before the place that was recorded as this number."""
        if self._stream is not None:
            self._stream.run_until(lambda: self.passed >= number)

    def synchronize(self) -> None:
        """Wait for the place that was recorded last."""
        with _LOCK:
            self.run_until(self.recorded)


_LOCK = threading.RLock()


class FakeCuda:
    """Replaces what the readers use of `torch.cuda`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.devices: dict[str, torch.device] = {}
        """Device that each thread has chosen, by its name."""
        self.default, self.others = FakeStream(DEVICE), list[FakeStream]()
        self._current = threading.local()
        self._copy = Tensor.copy_
        empty = torch.empty

        def empty_here(*size: Any, device: Any = None, pin_memory: bool = False, **options: Any) -> Tensor:
            return empty(*size, **options)

        monkeypatch.setattr(torch, "empty", empty_here)
        monkeypatch.setattr(Tensor, "copy_", lambda there, here, non_blocking=False: self._copied(there, here))
        for name, replacement in {
            "Stream": self._new_stream, "Event": FakeEvent, "stream": self._stream, "set_device": self._set_device,
            "current_stream": self.current_stream,
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, replacement)

    def finish(self) -> None:
        """Do all work of the default stream."""
        self.default.run_until(lambda: not self.default.todo)

    def _new_stream(self, device: torch.device) -> FakeStream:
        self.others.append(FakeStream(device))
        return self.others[-1]

    def current_stream(self, device: torch.device) -> FakeStream:
        """The stream of this thread."""
        assert device == DEVICE
        return getattr(self._current, "stream", self.default)

    def _set_device(self, device: torch.device) -> None:
        self.devices[threading.current_thread().name] = device

    @contextmanager
    def _stream(self, stream: FakeStream) -> Iterator[None]:
        with _LOCK:
            before, self._current.stream = self.current_stream(DEVICE), stream
            yield
            self._current.stream = before

    def _copied(self, there: Tensor, here: Tensor) -> Tensor:
        self.current_stream(DEVICE).todo.append(lambda: self._copy(there, here))
        return there
