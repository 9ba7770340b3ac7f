"""Submits jobs to Slurm, to this machine or to a debugger through submitit, and waits for them without sacct.

submitit stores jobs and their results as pickles in the folder. Anyone who can write there can run code as you, so the
folder is accessible only to you, and a folder of another user is refused.
"""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from climax_hpc.distributed.signals import WARNING_SIGNAL
from climax_hpc.errors import UserError
from climax_hpc.launch.arrays import array_size, split
from climax_hpc.launch.config import Resources
from climax_hpc.launch.scripts import scripts
from climax_hpc.utils.files import make_folder

if TYPE_CHECKING:
    import submitit

# requeue.py stops a run that makes no progress; submitit's own limit on time-outs must not end a run of several weeks.
_MAX_TIMEOUTS = 100_000
_SIGNAL = WARNING_SIGNAL.name.removeprefix("SIG")  # as Slurm and submitit write it
_NO_ROOM = r"Max\w*Submit\w*Limit|job submit limit"  # Slurm's limits on the jobs of a user, in states of any kind
_SECONDS_BETWEEN_ATTEMPTS = 60.0
_UNSENT = "[0-9a-f]" * 32 + ".pkl"  # submitit's name of a job before it has a number
_ONE_TASK = ("evaluate", "report")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended."""

    ok: bool
    message: str = ""
    """Last line of the error; empty on success."""


def for_stage(where: Resources, stage: str) -> Resources:
    """The resources of a stage; stages that run as a single process get one node and one task."""
    return replace(where, nodes=1, tasks_per_node=1) if stage in _ONE_TASK else where


def make_executor(folder: Path, where: Resources, name: str, *, after: str = "") -> Any:
    """A submitit executor that keeps its logs and pickles in `folder`.

    Args:
        after: Slurm dependency such as `afterok:12`; Slurm cancels a job whose dependency can never be met.

    Raises:
        UserError: this machine has no Slurm, or the folder belongs to another user.
    """
    # submitit reads this on import: the signal before the time limit, USR2 by default.
    os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", _SIGNAL)
    import submitit

    if where.executor == "slurm" and not shutil.which("sbatch"):
        raise UserError(
            "where.executor: no sbatch on this machine; log in to the cluster, or set where.executor to local"
        )
    make_folder(folder, "folder")
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"folder: {folder} belongs to another user, who could run code as you; use your own folder")
    folder.chmod(0o700)
    if where.executor == "debug":
        return submitit.DebugExecutor(folder)
    if where.executor == "local":
        local = submitit.LocalExecutor(folder)
        local.update_parameters(
            timeout_min=where.minutes,
            signal_delay_s=where.signal_seconds,
            tasks_per_node=where.tasks_per_node,
            gpus_per_node=where.gpus_per_node or 0,
        )
        return local
    # Expanded by the batch script: the array holds the site's container command, if any.
    python = '${CLIMAX_HPC_WRAP[@]+"${CLIMAX_HPC_WRAP[@]}"} ' + shlex.quote(_python())
    slurm = submitit.SlurmExecutor(folder, max_num_timeout=_MAX_TIMEOUTS, python=python)
    slurm.update_parameters(**_slurm_parameters(where, name, after))
    return slurm


def _slurm_parameters(where: Resources, name: str, after: str) -> dict[str, Any]:
    optional = {
        "gpus_per_node": where.gpus_per_node,
        "cpus_per_task": where.cpus_per_task,
        "mem": f"{where.mem_gb:g}GB" if where.mem_gb else None,
        "partition": where.partition,
        "account": where.account,
    }
    more: dict[str, Any] = {"requeue": True, "signal": f"{_SIGNAL}@{where.signal_seconds}"} | where.options
    if after:
        more |= {"dependency": after, "kill-on-invalid-dep": "yes"}
    return {key: value for key, value in optional.items() if value is not None} | {
        "job_name": name,
        "time": where.minutes,
        "nodes": where.nodes,
        "ntasks_per_node": where.tasks_per_node,
        "array_parallelism": where.parallel,
        "additional_parameters": more,
        "setup": [
            "set -euo pipefail",
            f"export CLIMAX_HPC_SLURM={shlex.quote(str(scripts()))} CLIMAX_HPC_PYTHON={shlex.quote(_python())}",
            f"CLIMAX_HPC_SITE={shlex.quote(where.site or os.environ.get('CLIMAX_HPC_SITE', 'generic'))}",
            '. "$CLIMAX_HPC_SLURM/environment.sh"',
        ],
    }


def _python() -> str:
    return os.environ.get("CLIMAX_HPC_PYTHON") or sys.executable


def submit_all(
    executor: Any, where: Resources, calls: Sequence[Any], *, may_wait: bool = False
) -> list["submitit.Job[Any]"]:
    """Submit callables: as arrays on Slurm; on `local` at most `where.parallel` at a time.

    Args:
        may_wait: where the site limits the number of queued jobs, wait for earlier arrays to end.

    Raises:
        UserError: sbatch refused an array; those before it are cancelled.
    """
    jobs: list[submitit.Job[Any]] = []
    if where.executor == "slurm":
        with all_or_none(jobs, executor.folder):
            for part in split(calls, array_size(where)):
                while (array := _submit_array(executor, part, may_wait=may_wait and bool(jobs))) is None:
                    time.sleep(_SECONDS_BETWEEN_ATTEMPTS)
                jobs += array
        return jobs
    for call in calls:
        while where.executor == "local" and sum(not job.done() for job in jobs) >= where.parallel:
            time.sleep(0.2)
        with all_or_none([], executor.folder, pattern=_UNSENT):
            jobs.append(executor.submit(call))
    return jobs


@contextmanager
def all_or_none(jobs: list["submitit.Job[Any]"], *folders: Path, pattern: str = "*") -> Iterator[None]:
    """If the block fails, cancel the jobs that it has added to the list, and remove its new files in the folders.

    `pattern`: of the names of those files; other jobs may be writing in the folders.

    Raises:
        UserError: as the block, and says which jobs were cancelled.
    """
    before = {path for folder in folders for path in folder.glob(pattern)}
    try:
        yield
    except BaseException as error:
        numbers = list(dict.fromkeys(job.job_id.split("_")[0] for job in jobs))
        if numbers:
            subprocess.run(["scancel", *numbers], capture_output=True)
        for path in {path for folder in folders for path in folder.glob(pattern) if path.is_file()} - before:
            path.unlink(missing_ok=True)
        if numbers and isinstance(error, UserError):
            raise UserError(f"{error}; cancelled job {', '.join(numbers)}, submitted before it") from None
        raise


def _submit_array(executor: Any, calls: Sequence[Any], *, may_wait: bool) -> list["submitit.Job[Any]"] | None:
    """Submit one array; None if it must wait for others.

    Raises:
        UserError: sbatch refused it; with its message.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    said = io.StringIO()
    try:
        with redirect_stderr(said), all_or_none([], executor.folder), executor.batch():
            jobs = [executor.submit(call) for call in calls]
    except (FailedJobError, FailedSubmissionError) as error:
        lines = [line.removeprefix("sbatch: error: ") for line in str(error).splitlines() if line.strip()]
        reason = "; ".join(lines).replace("Batch job submission failed: ", "") or "it does not say why"
        if not may_wait or not re.search(_NO_ROOM, reason):
            raise UserError(f"where: sbatch refused the job: {reason}") from None
        print(
            f"climax-hpc: {len(calls)} members wait for room in the queue ({reason}); keep this command running",
            flush=True,
        )
        return None
    print(said.getvalue(), end="", file=sys.stderr, flush=True)  # warnings of sbatch
    return jobs


def wait(jobs: Sequence["submitit.Job[Any]"], where: Resources, *, seconds_between: float = 5.0) -> list[Outcome]:
    """Wait for jobs; the outcome of each. A failed job is an outcome, not an exception.

    Polls squeue, which works without accounting: a job that has left the queue without a result counts as lost.
    """
    if where.executor == "debug":
        return [_outcome_in_process(job) for job in jobs]
    missed = dict.fromkeys((job.job_id for job in jobs), 0)
    while waiting := [job for job in jobs if not _ended(job, where, missed)]:
        if where.executor == "slurm":
            queued = _queued({job.job_id.split("_")[0] for job in waiting})
            for job in waiting:
                # Missing twice in a row: on a shared disk the result may appear after the job has left the queue.
                missed[job.job_id] = 0 if queued is None or job.job_id in queued else missed[job.job_id] + 1
        time.sleep(seconds_between if where.executor == "slurm" else 0.2)
    return [_outcome(job) for job in jobs]


def _ended(job: "submitit.Job[Any]", where: Resources, missed: dict[str, int]) -> bool:
    if job.task(0).paths.result_pickle.exists():
        return True
    return missed[job.job_id] >= 2 if where.executor == "slurm" else job.done()


def _queued(jobs: set[str]) -> set[str] | None:
    """Those of these jobs that are pending or running, array members listed separately; None if squeue fails."""
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return {line for line in done.stdout.split() if line.split("_")[0] in jobs} if done.returncode == 0 else None


def _outcome(job: "submitit.Job[Any]") -> Outcome:
    """The outcome of the first task; the other tasks end with it and may leave no result."""
    from submitit.core.utils import pickle_load

    paths = job.task(0).paths
    if not paths.result_pickle.exists():
        return Outcome(ok=False, message=f"ended without a result: see {paths.stderr}")
    kind, result = pickle_load(paths.result_pickle)
    return Outcome(ok=kind == "success", message="" if kind == "success" else _last_line(str(result)))


def _outcome_in_process(job: "submitit.Job[Any]") -> Outcome:
    error = job.exception()
    return Outcome(ok=error is None, message="" if error is None else f"{type(error).__name__}: {error}")


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
