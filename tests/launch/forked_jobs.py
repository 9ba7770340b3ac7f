"""Jobs of submitit's local executor, forked from a process that has done the imports."""

import os
from pathlib import Path
from typing import Any

import pytest
from submitit.local import local

from ..training.processes import Rank

_JOB = """
import os, sys
from submitit.core import submission, utils
job = str(os.getpid())
paths = utils.JobPaths({folder!r}, job, 0)
for number, path in ((1, paths.stdout), (2, paths.stderr)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
os.environ["SUBMITIT_LOCAL_JOB_ID"] = job
sys.argv = ["submitit", {folder!r}]
submission.submitit_main()
"""
_SETTINGS = {
    "SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_NTASKS": "1", "SUBMITIT_LOCAL_NODEID": "0",
    "SUBMITIT_LOCAL_JOB_NUM_NODES": "1", "SUBMITIT_LOCAL_GLOBALID": "0", "SUBMITIT_LOCAL_LOCALID": "0",
}  # fmt: skip


class _Job(Rank):
    """What submitit needs of its controller."""

    def poll(self) -> int | None:
        """Exit status; None while it runs."""
        return self.returncode


def fork_all_but_the_first(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> list[str]:
    """Start the first job as submitit does, and fork the others; returns how each was started, as they come."""
    as_submitit_does, started = local.start_controller, []

    def start(folder: Path, command: str, **settings: Any) -> Any:
        started.append("forked" if started else "process")
        if started == ["process"]:
            return as_submitit_does(folder, command, **settings)
        return _Job(_JOB.format(folder=str(folder)), dict(os.environ) | _SETTINGS, scratch)

    monkeypatch.setattr(local, "start_controller", start)
    return started
