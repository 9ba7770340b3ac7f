"""Real training steps of two ranks, whose peak of memory is measured."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def measured_peaks(requests: Sequence[dict[str, Any]], folder: Path, timeout: float) -> list[int]:
    """Most bytes of a step of each request, as `climax_hpc.tools.plan.measure` prints them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, "-m", "climax_hpc.tools.plan.measure", json.dumps(requests)],
        capture_output=True, text=True, timeout=timeout, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    peaks: list[int] = json.loads(done.stdout.strip().splitlines()[-1])["peak_bytes"]
    return peaks
