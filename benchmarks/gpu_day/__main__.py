"""All stages in turn, each a process with a deadline: `python -m benchmarks.gpu_day OUT SECONDS [--rehearsal]`.

OUT receives gpu_day.json (header, rows, stages), gpu_day.md (the table), gpu_day.log and profile.txt. A stage that
fails or runs past its deadline is recorded, and the others follow. Without a GPU only the rehearsal runs: tiny sizes in
Triton's interpreter.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_day.table import PREDICTIONS, markdown

DEADLINES = {
    "environment": 40, "ceilings": 40, "tests": 120, "front_end_128x256_bf16": 75, "front_end_32x64_bf16": 60,
    "loss": 50, "evaluation": 30, "model_eager": 60, "profile": 60, "model_compiled": 90, "pretrain": 110,
    "sanitizer": 60, "model_textbook": 40, "front_end_32x64_float32": 45, "compiled_textbook_32x64": 90,
    "compiled_textbook_128x256": 90,
}  # fmt: skip
"""Stages in order of their weight, and most seconds of each."""


def run_stage(name: str, folder: Path, seconds: float, rehearsal: bool, log: Path) -> dict[str, Any]:
    """How one stage ended: `ok`, `failed` or `timed out`, and its seconds."""
    command = [sys.executable, "-m", "benchmarks.gpu_day.stage", name, str(folder)] + ["--rehearsal"] * rehearsal
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    if rehearsal:
        environment |= {"TRITON_INTERPRET": "1", "CLIMAX_HPC_KERNELS": "triton", "CUDA_VISIBLE_DEVICES": ""}
    if rehearsal and name == "pretrain":
        environment |= {"CLIMAX_HPC_KERNELS": "torch"}
    start = time.monotonic()
    with log.open("a") as file:
        print(f"\n===== {name}", file=file, flush=True)
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end_group(process)
    outcome = "timed out" if status is None else "failed" if status else "ok"
    return {"stage": name, "outcome": outcome, "status": status, "seconds": round(time.monotonic() - start, 1)}


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def gather(folder: Path, stages: list[dict[str, Any]]) -> dict[str, Any]:
    """Header of the environment stage and the rows of all stages, one flat list."""
    result: dict[str, Any] = {"schema": "climax_hpc/benchmark", "stages": stages, "rows": []}
    for entry in stages:
        path = folder / f"{entry['stage']}.json"
        if path.is_file():
            found = json.loads(path.read_text())
            result |= found["header"]
            result["rows"] += found["rows"]
    return result


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 where a stage failed or a kernel is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_day", description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--rehearsal", action="store_true", help="tiny sizes on the CPU, in Triton's interpreter")
    parser.add_argument("--stages", nargs="+", choices=DEADLINES, default=list(DEADLINES))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + options.seconds
    predictions = json.loads(PREDICTIONS.read_text())
    stages: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="gpu-day-") as temporary:
        folder = Path(temporary)
        for name in options.stages:
            left = end - time.monotonic() - 5
            if left < 10:
                stages.append({"stage": name, "outcome": "left out", "seconds": 0})
                continue
            deadline = min(left, DEADLINES[name])
            stages.append(run_stage(name, folder, deadline, options.rehearsal, options.out / "gpu_day.log"))
            print(stages[-1], flush=True)
            result = gather(folder, stages)
            (options.out / "gpu_day.json").write_text(json.dumps(result, indent=1))
            (options.out / "gpu_day.md").write_text(markdown(result, predictions))
            if (folder / "profile.txt").is_file():
                (options.out / "profile.txt").write_bytes((folder / "profile.txt").read_bytes())
    print((options.out / "gpu_day.md").read_text())
    wrong = any(row["name"].startswith(("correct/", "same_bits/")) and not row["value"] for row in result["rows"])
    return int(wrong or any(entry["outcome"] != "ok" for entry in stages))


if __name__ == "__main__":
    sys.exit(main())
