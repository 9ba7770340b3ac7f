"""Starts the processes that `climax-hpc bench step` measures: other programs, and ranks of `step_ranks`."""

import json
import os
import socket
import subprocess
import sys
from typing import Any

from climax_hpc.errors import UserError


def run_ranks(ranks: int, request: dict[str, Any], limit: float) -> dict[str, Any]:
    """Run `step_ranks` on that many ranks of one thread each; returns the output of rank 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "climax_hpc.tools.bench.step_ranks", json.dumps(request)]
    others = [
        subprocess.Popen(
            command, env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for rank in range(1, ranks)
    ]  # fmt: skip
    try:
        text = output_of(command, os.environ | common | {"RANK": "0", "LOCAL_RANK": "0"}, limit)
        for process in others:
            process.wait(timeout=60)
    finally:
        for process in others:
            process.kill()
    return dict(json.loads(text.strip().splitlines()[-1]))


def output_of(command: list[str], environment: Any, limit: float) -> str:
    """Standard output of a command.

    Raises:
        UserError: it fails, or takes longer than `limit` [s].
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=dict(environment))
    except subprocess.TimeoutExpired:
        raise UserError(f"{' '.join(command[1:3])} took longer than {limit:.0f} s; raise --time_limit") from None
    if done.returncode:
        raise UserError(f"{' '.join(command[1:3])} failed: {done.stderr.strip()[-500:]}")
    return done.stdout
