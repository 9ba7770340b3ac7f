"""One stage as a process group of its own, with a deadline and a log."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STUBS = Path(__file__).parent / "stubs"
REHEARSED = {
    "TRITON_INTERPRET": "1", "CLIMAX_HPC_KERNELS": "triton", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
}  # fmt: skip
WITHOUT_TRITON = ("pretrain", "model_engine")
"""Stages that rehearse with the PyTorch form of the kernels: the interpreter would take minutes."""
LOG_BYTES = 400 << 10
"""Of each stage's log; all together stay far below the 16 MiB that a file may have."""


class StageProcess:
    """A stage that has been started; its rows come in FOLDER/NAME.json, its output in FOLDER/NAME.log."""

    def __init__(self, name: str, folder: Path, seconds: float, rehearsal: bool) -> None:
        self.name, self.seconds, self.start = name, seconds, time.monotonic()
        self.log = folder / f"{name}.log"
        command = [sys.executable, "-m", "benchmarks.gpu_day.stage", name, str(folder)] + ["--rehearsal"] * rehearsal
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        if rehearsal:
            environment |= REHEARSED | {"PATH": f"{STUBS}{os.pathsep}{os.environ['PATH']}"}
            environment |= {"CLIMAX_HPC_KERNELS": "torch"} if name in WITHOUT_TRITON else {}
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,
            )  # fmt: skip

    def ended(self) -> bool:
        """Whether it has exited, or its time is up."""
        return self.process.poll() is not None or time.monotonic() - self.start > self.seconds

    def end(self) -> dict[str, Any]:
        """Kill what still runs of it. How it ended: `ok`, `failed` or `timed out`, its seconds, and its last words."""
        status = self.process.poll()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        outcome = "timed out" if status is None else "failed" if status else "ok"
        seconds = round(time.monotonic() - self.start, 1)
        entry = {"stage": self.name, "outcome": outcome, "status": status, "seconds": seconds}
        return entry if outcome == "ok" else entry | {"last_line": self._last_line()}

    def output(self) -> bytes:
        """Its log under a heading; the middle of a long one is left out."""
        content = self.log.read_bytes()
        if len(content) > LOG_BYTES:
            half = LOG_BYTES // 2
            content = content[:half] + b"\n[...]\n" + content[-half:]
        return f"\n===== {self.name}\n".encode() + content

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
