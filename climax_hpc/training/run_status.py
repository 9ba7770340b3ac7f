"""RUN/state.json: status of a training run, for `climax-hpc status` and for people; replaced atomically, never locked.

state          starting (again), running, stopped (by a signal, after a checkpoint), finished or failed
step, steps    optimiser steps done and planned
loss           mean training loss of the last log interval; null before the first
samples_per_s  over the last log interval; null before the first
eta_s          seconds left at that speed; null before the first
telemetry      over the last log interval, see telemetry.py; null before the first
updated        ISO 8601 time (UTC) of this file; if it is much older than a log interval, a `running` run is dead
restarts       how often the run was started again
host, job_id   of the first rank; job_id is Slurm's, null elsewhere
message        why it stopped or failed; empty otherwise
"""

import os
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from climax_hpc.errors import UserError
from climax_hpc.training.telemetry import Telemetry
from climax_hpc.utils.files import read_json, write_json
from climax_hpc.utils.typed_json import Count, Number, typed

FILE_NAME = "state.json"
_SECONDS_BETWEEN_WRITES = 5.0  # every write is flushed to disk


@dataclass(frozen=True, kw_only=True)
class _StoredState:
    """The content of state.json."""

    state: str
    step: Count
    steps: Count
    loss: float | None
    samples_per_s: Number | None
    eta_s: Number | None
    updated: str
    restarts: Count
    host: str | None
    job_id: str | None
    message: str = ""
    telemetry: Telemetry | None = None

    def __post_init__(self) -> None:
        if not 1970 <= datetime.fromisoformat(self.updated).year < 9999:
            raise ValueError(f"updated is {self.updated}")


def read_state(path: Path) -> dict[str, Any]:
    """The content of a state.json.

    Raises:
        UserError: absent, not JSON, or a key is missing, unknown, or has a value that it cannot have.
    """
    content: dict[str, Any] = read_json(path, "the state of a climax_hpc run")
    typed(content, _StoredState, str(path), "remove it, the run writes it again")
    return content


class RunStatus:
    """Writes state.json of one run."""

    def __init__(self, run_folder: Path, *, step: int, steps: int, state: str = "running") -> None:
        self._path, self._written_at = run_folder / FILE_NAME, 0.0
        self._content: dict[str, Any] = {
            "state": state,
            "step": step,
            "steps": steps,
            "loss": None,
            "samples_per_s": None,
            "eta_s": None,
            "telemetry": None,
            "updated": "",
            "restarts": self._earlier_starts(),
            "host": socket.gethostname(),
            "job_id": os.environ.get("SLURM_JOB_ID"),
            "message": "",
        }
        self._write()

    def _earlier_starts(self) -> int:
        if not self._path.exists():
            return 0
        try:
            return int(read_state(self._path)["restarts"]) + 1
        except UserError:
            return 0  # informative only: no reason to refuse the run

    def begin(self, *, step: int) -> None:
        """The first step follows; `step` steps are done."""
        self._content |= {"state": "running", "step": step}
        self._write()

    def running(self, *, step: int, loss: float, samples_per_s: float, eta_s: float, telemetry: Telemetry) -> None:
        """Update progress; writes the file every few seconds at most."""
        self._content |= {"step": step, "loss": loss, "samples_per_s": samples_per_s, "eta_s": eta_s}
        self._content["telemetry"] = telemetry.to_dict()
        if time.monotonic() - self._written_at > _SECONDS_BETWEEN_WRITES:
            self._write()

    def end(self, state: str, *, step: int, message: str = "") -> None:
        """Write the final status: stopped, finished or failed."""
        self._content |= {"state": state, "step": step, "message": message}
        if state == "finished":
            self._content["eta_s"] = 0.0
        self._write()

    def _write(self) -> None:
        self._content["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(self._path, self._content)
        self._written_at = time.monotonic()
