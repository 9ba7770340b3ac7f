"""How long a run took to start, by part: one line per start in RUN/starts.jsonl, written before its first step.

began      start of the first rank's process [s since 1970]
step       optimiser steps done before
parts      part -> seconds, in this order; from `began` to the first batch without a gap:
  imports    the interpreter, modules, settings, and the checkpoint that a fine-tuning starts from
  ranks      until all ranks have met
  data       run folder, newest checkpoint (verified), headers of shards, normalisation
  engine     network, DeepSpeed engine, its state from the checkpoint
"""

import json
import time
from contextlib import suppress
from pathlib import Path

from climax_hpc.utils.process_age import process_age

FILE_NAME = "starts.jsonl"


class StartUp:
    """Measures the parts of one start on this rank."""

    def __init__(self) -> None:
        self._began = self._passed_at = time.time() - process_age()
        self._parts: dict[str, float] = {}

    def passed(self, part: str) -> None:
        """A part has ended, and the next one begins."""
        now = time.time()
        self._parts[part] = round(now - self._passed_at, 3)
        self._passed_at = now

    def write(self, run_folder: Path, step: int) -> None:
        """Add a line to the run's record."""
        line = {"began": round(self._began, 3), "step": step, "parts": self._parts}
        # Informative only: a full disk is reported by the metrics and checkpoints that follow.
        with suppress(OSError), (run_folder / FILE_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
