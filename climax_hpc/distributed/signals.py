"""Stop signals: a batch system warns a job with SIGUSR1 or SIGTERM before it takes the nodes away."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

EX_TEMPFAIL = 75
"""Exit status of a run that was stopped by a signal after a checkpoint (sysexits.h): start it again to go on."""

_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class Stopped(SystemExit):
    """Ends a rank after the checkpoint that a stop signal asked for; exit status 75."""

    def __init__(self) -> None:
        super().__init__(EX_TEMPFAIL)


class StopSignals:
    """Remembers a stop signal instead of dying of it; the training loop asks at every step.

    Outside the main thread, where Python takes no signals, it does nothing.
    """

    def __init__(self) -> None:
        self._before: dict[signal.Signals, object] = {}
        self.received: signal.Signals | None = None
        """The first one that came."""

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)


@contextmanager
def terminated_as_exit() -> Iterator[None]:
    """SIGTERM (a batch system's time limit) raises SystemExit here, so that temporary folders and children go too."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
