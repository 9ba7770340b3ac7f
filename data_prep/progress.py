"""Progress of long work: a tqdm bar on a terminal, plain lines with rate and time left in a batch log."""

import sys
import time
from typing import Any

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts finished tasks; silent on ranks other than 0."""

    def __init__(self, title: str, count: int, shown: bool) -> None:
        self._title, self._count, self._finished = title, count, 0
        self._shown = shown and count > 0
        self._start = self._last = time.monotonic()
        terminal = self._shown and sys.stderr.isatty()
        self._bar = tqdm(total=count, desc=title, unit="task") if terminal else None

    def __call__(self, task: int, result: Any) -> None:
        """One task is finished."""
        self._finished += 1
        if self._bar is not None:
            self._bar.update()
            if self._finished == self._count:
                self._bar.close()
        elif self._shown:
            self._line()

    def _line(self) -> None:
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES and self._finished < self._count:
            return
        self._last = now
        elapsed = now - self._start
        left = elapsed / self._finished * (self._count - self._finished)
        print(f"{self._title}: {self._finished}/{self._count}, {elapsed:.0f} s, {left:.0f} s left", flush=True)
