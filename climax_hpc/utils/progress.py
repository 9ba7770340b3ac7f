"""Progress of long work on all ranks: a tqdm bar on a terminal, lines with rate and remaining time in a log file."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts finished tasks of all ranks, weighted by their amount of work; silent unless `shown`."""

    def __init__(self, title: str, amounts: Sequence[float], unit: str, shown: bool) -> None:
        """`amounts`: the work in each task, in `unit`, for example time steps or MB."""
        self._title, self._amounts, self._unit = title, amounts, unit
        self._total = sum(amounts)
        self._tasks = 0
        self._finished = 0.0
        self._shown = shown and len(amounts) > 0
        self._start = self._last = time.monotonic()
        terminal = self._shown and sys.stderr.isatty()
        self._bar = tqdm(total=self._total, desc=title, unit=f" {unit}", unit_scale=True) if terminal else None

    def __call__(self, task: int, result: Any) -> None:
        """Count a finished task."""
        self._tasks += 1
        self._finished += self._amounts[task]
        if self._bar is not None:
            self._bar.update(self._amounts[task])
            if self._tasks == len(self._amounts):
                self._bar.close()
        elif self._shown:
            now = time.monotonic()
            if now - self._last >= _SECONDS_BETWEEN_LINES or self._tasks == len(self._amounts):
                self._last = now
                print(self._line(now - self._start), flush=True)

    def close(self) -> None:
        """Close the bar, also after a failure."""
        if self._bar is not None:
            self._bar.close()

    def _line(self, elapsed: float) -> str:
        rate = self._finished / max(elapsed, 1e-9)
        left = (self._total - self._finished) / rate if rate else float("inf")
        return (
            f"{self._title}: {self._tasks}/{len(self._amounts)}, {self._finished:.0f} of {self._total:.0f} "
            f"{self._unit}, {elapsed:.0f} s, {rate:.3g} {self._unit}/s, {left:.0f} s left"
        )
