"""Trains in real processes for tests that send real signals: ranks by environment variables, without a launcher."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

_RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class Ranks:
    """Ranks that pretrain, one process each; killed when the block ends."""

    def __init__(self, *settings: dict[str, Any], ranks: int = 1, preamble: str = "") -> None:
        """Args: several `settings` are trained one after the other; `preamble` is Python that injects a fault."""
        runs = [["pretrain", "--config", _write_config(each)] for each in settings]
        code = f"{preamble}\nfrom climax_hpc.cli import main\nfor words in {runs!r}:\n    main(words)"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
        common = {k: v for k, v in os.environ.items() if k not in _RANK_VARIABLES} | {"OMP_NUM_THREADS": "1"}
        self.processes = []
        for rank in range(ranks):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)} | address
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", code],
                    env=common | own,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def wait(self, timeout: float = 300) -> tuple[list[int], str, str]:
        """Exit statuses, standard outputs and standard errors of all ranks."""
        output, errors, end = "", "", time.monotonic() + timeout
        for process in self.processes:
            out, err = process.communicate(timeout=max(0.1, end - time.monotonic()))
            output, errors = output + out, errors + err
        return [process.returncode for process in self.processes], output, errors

    def wait_until(self, happened: Callable[[], bool], timeout: float = 300) -> None:
        """Wait until `happened` is true; fails if a rank ends first."""
        end = time.monotonic() + timeout
        while not happened():
            ended = [process for process in self.processes if process.poll() is not None]
            assert not ended, f"rank ended with {ended[0].returncode}: {ended[0].communicate()[1][-2000:]}"
            assert time.monotonic() < end, "timed out"
            time.sleep(0.002)


def _write_config(settings: dict[str, Any]) -> str:
    path = Path(f"{settings['run_folder']}.yaml")
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def logged_steps(run_folder: Path) -> int:
    """Lines of metrics.jsonl."""
    path = run_folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def state(run_folder: Path) -> dict[str, Any]:
    """state.json."""
    content = json.loads((run_folder / "state.json").read_text())
    assert isinstance(content, dict)
    return content
