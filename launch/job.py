"""The job that submitit runs: a subcommand as a child process in every task, with signals forwarded to it.

Only this small object is pickled. submitit's signal handlers are active until the child runs; after that a signal goes
to the child, which writes a checkpoint together with all other ranks and exits with EXIT_REQUEUE. The job is then
requeued by the same rules as in the batch scripts.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from climax_hpc.distributed.signals import EXIT_REQUEUE, STOP_SIGNALS, WARNING_SIGNAL
from climax_hpc.errors import ERROR_PREFIX, EXIT_BAD_INPUT
from climax_hpc.launch import requeue, slurm_job


class SubcommandFailed(RuntimeError):
    """The subcommand failed, and another attempt would not help."""


@dataclass(frozen=True, kw_only=True)
class SubcommandJob:
    """A subcommand with its arguments."""

    subcommand: str
    arguments: tuple[str, ...]
    folder: str
    """Absolute path of the folder that it writes to."""

    def __call__(self) -> str:
        """Run the subcommand to its end and return its folder.

        Raises:
            SubcommandFailed: bad input, or two attempts in a row without progress.
        """
        task = _Task.of_environment()
        if task.rank == 0:
            restarted = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
            requeue.begin(Path(self.folder), task.job, restarted=restarted)
        status, error = _run(
            [sys.executable, "-m", "climax_hpc", self.subcommand, *self.arguments], os.environ | task.environment
        )
        if task.rank != 0:
            if status:
                sys.exit(status)
            return self.folder
        slurm = _slurm_fields(task.job) if task.executor == "slurm" else None
        resumes, line = requeue.end(Path(self.folder), task.job, status, error, slurm=slurm)
        print(f"climax-hpc: {line}", flush=True)
        if resumes:
            return self._resume(task)
        if status == 0:
            return self.folder
        if status != EXIT_BAD_INPUT and slurm and not slurm_job.is_running(slurm):
            sys.exit(EXIT_REQUEUE)  # a result would end the wait for a run that Slurm starts again
        raise SubcommandFailed(line)

    def checkpoint(self) -> object:
        """Called by submitit on a signal that arrives before the child runs: submit the same job again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _resume(self, task: "_Task") -> str:
        if task.executor == "debug":
            return self()
        from submitit import JobEnvironment

        JobEnvironment()._requeue(0)
        sys.exit(EXIT_REQUEUE)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """The place of this process in its job."""

    executor: str
    job: str
    rank: int
    environment: dict[str, str]
    """Variables that the child needs to find the other ranks, in addition to those of the launcher."""

    @classmethod
    def of_environment(cls) -> "_Task":
        executor = os.environ.get("SUBMITIT_EXECUTOR", "debug")
        if executor == "slurm":
            return cls(
                executor=executor, job=os.environ["SLURM_JOB_ID"], rank=int(os.environ["SLURM_PROCID"]), environment={}
            )
        if executor == "local":
            job = os.environ["SUBMITIT_LOCAL_JOB_ID"]
            rank, ranks = (os.environ[f"SUBMITIT_LOCAL_{name}"] for name in ("GLOBALID", "NTASKS"))
            here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1"}
            here["MASTER_PORT"] = str(10_000 + int(job) % 20_000)
            return cls(executor=executor, job=job, rank=int(rank), environment=here)
        return cls(executor="debug", job=f"debug {os.getpid()}", rank=0, environment={})


def _run(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a command and forward stop signals to it.

    Returns:
        Exit status (128 + number if a signal ended the command) and the last error line that it printed.
    """
    # close_fds=False: MPI libraries find Slurm's PMI through an inherited file descriptor.
    child = subprocess.Popen(
        command, env=environment, close_fds=False, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    assert child.stderr

    def forward(number: int, frame: FrameType | None) -> None:
        child.send_signal(WARNING_SIGNAL)

    before = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
    error = ""
    try:
        for line in child.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            if line.startswith(ERROR_PREFIX):
                error = line.removeprefix(ERROR_PREFIX).strip()
        status = child.wait()
    finally:
        if child.poll() is None:
            child.kill()
        for number, handler in before.items():
            signal.signal(number, handler)
    return (status if status >= 0 else 128 - status), error


def _slurm_fields(job: str) -> dict[str, str]:
    command = ["scontrol", "show", "job", job]
    return slurm_job.fields_of(subprocess.run(command, capture_output=True, text=True, timeout=60).stdout)
