"""Starts the processes that the benchmarks measure: other programs, and ranks of a module."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from climax_hpc.errors import UserError


def run_step_ranks(ranks: int, request: dict[str, Any], limit: float) -> dict[str, Any]:
    """Run the module `step_ranks` on that many ranks; returns what rank 0 prints."""
    return run_ranks(ranks, "climax_hpc.tools.bench.step_ranks", [json.dumps(request)], limit)


def run_ranks(
    ranks: int, module: str, arguments: Sequence[str], limit: float, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a module on that many ranks of one thread each; returns the JSON that rank 0 prints last.

    Raises:
        UserError: it fails, or takes longer than `limit` [s].
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    common |= environment or {}
    command = [sys.executable, "-m", module, *arguments]
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
