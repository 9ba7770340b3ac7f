"""What a submitit job runs: one verb as a child process per task, signals passed on, requeued as the batch scripts do.

Only this small object is pickled. submitit's own handlers stay in force until the child runs; then a signal goes to the
child, which writes its checkpoint together with all other ranks and ends with status 75.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from climax_hpc.errors import ERROR_PREFIX
from climax_hpc.launch import requeue

_RUNNING = ("RUNNING", "SIGNALING")  # Slurm's words for a running job, the second while it delivers --signal
_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class SubcommandFailed(RuntimeError):
    """The verb ended without success, and trying again is of no use."""


@dataclass(frozen=True, kw_only=True)
class SubcommandJob:
    """A verb with its arguments."""

    verb: str
    arguments: tuple[str, ...]
    folder: str
    """The folder that it writes to, absolute."""

    def __call__(self) -> str:
        """Run the verb to its end and return its folder.

        Raises:
            VerbFailed: bad input, or no progress in two attempts in a row.
        """
        task = _Task.of_environment()
        if task.rank == 0:
            requeue.begin(Path(self.folder), task.job)
        status, error = _run(
            [sys.executable, "-m", "climax_hpc", self.verb, *self.arguments], os.environ | task.environment
        )
        if task.rank != 0:
            if status:
                sys.exit(status)
            return self.folder
        goes_on, line = requeue.end(Path(self.folder), task.job, status, error)
        print(f"climax-hpc: {line}", flush=True)
        if goes_on:
            return self._again(task)
        if status:
            raise SubcommandFailed(line)
        return self.folder

    def checkpoint(self) -> object:
        """submitit's protocol, for a signal that comes before the child runs: the same job again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _again(self, task: "_Task") -> str:
        if task.executor == "debug":
            return self()
        from submitit import JobEnvironment

        if task.executor == "slurm" and _slurm_state(task.job) not in _RUNNING:
            print("climax-hpc: Slurm no longer has the job as running: nothing is requeued from here", flush=True)
        else:
            JobEnvironment()._requeue(0)
        sys.exit(requeue.EXIT_REQUEUE)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """This process among those of its job."""

    executor: str
    job: str
    rank: int
    environment: dict[str, str]
    """What the child needs to find the other ranks, beside what the launcher set."""

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
    """Run a command and pass stop signals on to it.

    Returns:
        Its exit status (128 + number where a signal ended it) and its last error line, if it printed one.
    """
    # close_fds=False: MPI libraries find Slurm's PMI through an inherited descriptor.
    child = subprocess.Popen(
        command, env=environment, close_fds=False, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    assert child.stderr

    def pass_on(number: int, frame: FrameType | None) -> None:
        child.send_signal(signal.SIGUSR1)

    before = {number: signal.signal(number, pass_on) for number in _SIGNALS}
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


def _slurm_state(job: str) -> str:
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%T"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()
