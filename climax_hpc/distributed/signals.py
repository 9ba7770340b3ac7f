"""Stop signals and exit statuses: the one place that launch, cli and the Slurm scripts take them from.

A batch system warns a job with a signal before it takes the nodes away. Training then writes a checkpoint at the next
step and exits with EXIT_REQUEUE; the launcher starts the same command again, which resumes from that checkpoint.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

WARNING_SIGNAL = signal.SIGUSR1
"""Sent some minutes before the time limit: `#SBATCH --signal=B:USR1@300`, slurm/job.sh, launch/job.py."""
STOP_SIGNALS = (WARNING_SIGNAL, signal.SIGTERM)
"""Both stop a training run after a checkpoint; batch systems send SIGTERM on preemption and on cancelling."""

EXIT_REQUEUE = 75
"""Exit status after a stop signal and a checkpoint (EX_TEMPFAIL of sysexits.h): start the same command again."""
EXIT_RANK_LOST = 76
"""Exit status after a rank hung or was lost (EX_PROTOCOL of sysexits.h): the newest checkpoint is intact."""
EXIT_RESTART = 77
"""Answer of `climax_hpc.launch end` to a batch script: start the ranks again inside this job; no rank ends with it."""


class Stopped(SystemExit):
    """Ends a rank after the checkpoint that a stop signal asked for, with EXIT_REQUEUE."""

    def __init__(self) -> None:
        super().__init__(EXIT_REQUEUE)


class StopSignals:
    """Records a stop signal instead of ending the process; the training loop checks at every step.

    Does nothing outside the main thread, the only one in which Python handles signals.
    """

    def __init__(self) -> None:
        self._before: dict[signal.Signals, object] = {}
        self.received: signal.Signals | None = None
        """The first signal received."""

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
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
    """Within the block, SIGTERM raises SystemExit, so that temporary folders and child processes are cleaned up."""

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
