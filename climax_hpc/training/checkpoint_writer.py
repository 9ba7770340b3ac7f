"""Writes a checkpoint in a thread while training goes on: one at a time, and its failure waits for the training loop.

The threads of all ranks agree through a process group of their own, so they never wait for the training loop of another
rank, and a rank that ends with an error still completes the checkpoint that was begun.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from climax_hpc.distributed import process_group
from climax_hpc.distributed.hang_detection import longest_wait

_SECONDS_AFTER_FAILURE = 60.0
"""For which a rank that fails waits for the others' parts of a checkpoint, where hangs are not looked for."""
_SECONDS_BETWEEN_LOOKS = 0.1


class CheckpointWriter:
    """Runs the function that writes a checkpoint; construction is a collective. Leaving the block waits for it."""

    def __init__(self, *, in_background: bool, patience: float = 0.0) -> None:
        """Args: `patience` is how long training goes on beside one write [s]; 0: without limit."""
        self.in_background, self._patience = in_background, patience
        self.group = process_group.second_group(patience + longest_wait(patience)) if in_background else None
        """Process group for what the function sends; None: the one of the training loop."""
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._name, self._begun = "", 0.0
        self.part_written = False
        """True once this rank has written its part of a checkpoint, until all have; the heartbeat reports it."""

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None and not self._patience:  # no heartbeat would end the wait for a rank that hangs
            self._wait_for_others(_SECONDS_AFTER_FAILURE)
        else:
            self._join()

    def start(self, name: str, write: Callable[[], None]) -> None:
        """Write checkpoint `name`: in a thread, or before this returns. All ranks call this together, after `wait`."""
        assert self._thread is None, "one checkpoint at a time"
        if not self.in_background:
            write()
            return
        self._name, self._begun = name, time.monotonic()
        self._thread = threading.Thread(target=self._run, args=(write,), name="checkpoint", daemon=True)
        self._thread.start()

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:  # raised by `wait`, where the training loop expects it
            self._error = error

    @contextmanager
    def waiting_for_others(self) -> Iterator[None]:
        """For the function that writes: this rank has written its part, and waits within the block for the others."""
        self.part_written = True
        try:
            yield
        finally:
            self.part_written = False

    @property
    def writing(self) -> str:
        """Name of the checkpoint that is being written; empty if there is none."""
        return self._name if self._thread and self._thread.is_alive() else ""

    @property
    def failed(self) -> bool:
        """True once a write has failed, perhaps not yet on all ranks: they stop together, then `wait` raises."""
        return self._error is not None

    def wait_if_late(self) -> None:
        """Wait for a write that has taken longer than `patience`, so that the heartbeat sees one that hangs."""
        if self._patience and self.writing and time.monotonic() - self._begun > self._patience:
            self._join()

    def wait(self) -> None:
        """Wait until the checkpoint is complete.

        Raises:
            UserError: it cannot be written, on the first rank that failed; `OtherRankFailed` on the others.
        """
        self._join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _wait_for_others(self, seconds: float) -> None:
        """Wait until this rank's part is written, and then for those of the others, but not longer than this."""
        since = time.monotonic()
        while self._thread and self._thread.is_alive() and time.monotonic() - since < seconds:
            self._thread.join(_SECONDS_BETWEEN_LOOKS)
            if not self.part_written:
                since = time.monotonic()

    def _join(self) -> None:
        if self._thread:
            self._thread.join()
            self._thread = None
