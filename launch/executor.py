"""Resources -> submitit: one way to submit to Slurm, to this machine and to a debugger, and to wait without sacct.

submitit writes pickles of the jobs and of their results into the folder. They are trusted local files: whoever can
write there can run code as you, so the folder is made for you alone and one of somebody else is refused.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from climax_hpc.errors import UserError
from climax_hpc.launch.config import Resources
from climax_hpc.launch.scripts import scripts
from climax_hpc.utils.files import make_folder

if TYPE_CHECKING:
    import submitit

# Time-outs are counted by requeue.py, which asks for progress; submitit's own count must not end a run of weeks.
_MOST_TIMEOUTS = 100_000
_ONE_TASK = ("evaluate", "report")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job."""

    ok: bool
    message: str = ""
    """The last line of the error; empty where there was none."""


def for_stage(where: Resources, verb: str) -> Resources:
    """The resources of a verb: those that run as one process get one node and one task."""
    return replace(where, nodes=1, tasks_per_node=1) if verb in _ONE_TASK else where


def make_executor(folder: Path, where: Resources, name: str, *, after: str = "") -> Any:
    """A submitit executor whose logs and pickles lie in `folder`.

    Args:
        after: Slurm dependency such as `afterok:12`; a job whose dependency can never be met is cancelled.

    Raises:
        UserError: no Slurm here, or the folder belongs to somebody else.
    """
    # submitit reads this when it is imported: the signal that a job gets before its time limit, ours instead of USR2.
    os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    import submitit

    if where.executor == "slurm" and not shutil.which("sbatch"):
        raise UserError("no sbatch on this machine: log in to the cluster, or set where.executor to local")
    make_folder(folder, "folder")
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"folder: {folder} belongs to another user, who could run code as you: choose one of your own")
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
    # Quoted for the batch script; the array holds the site's container command, if it has one.
    python = '${CLIMAX_HPC_WRAP[@]+"${CLIMAX_HPC_WRAP[@]}"} ' + shlex.quote(_python())
    slurm = submitit.SlurmExecutor(folder, max_num_timeout=_MOST_TIMEOUTS, python=python)
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
    more: dict[str, Any] = {"requeue": True, "signal": f"USR1@{where.signal_seconds}"} | where.options
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


def submit_all(executor: Any, where: Resources, calls: Sequence[Any]) -> list["submitit.Job[Any]"]:
    """Submit callables: an array on Slurm; on `local` no more than `where.parallel` at a time."""
    jobs: list[submitit.Job[Any]] = []
    if where.executor == "slurm":
        with executor.batch():
            jobs = [executor.submit(call) for call in calls]
        return jobs
    for call in calls:
        while where.executor == "local" and sum(not job.done() for job in jobs) >= where.parallel:
            time.sleep(0.2)
        jobs.append(executor.submit(call))
    return jobs


def wait(jobs: Sequence["submitit.Job[Any]"], where: Resources, *, seconds_between: float = 5.0) -> list[Outcome]:
    """Wait for jobs to end, and say how; never raises for a failed job.

    Slurm is asked by squeue, which needs no accounting: a job that left the queue without a result was lost.
    """
    if where.executor == "debug":
        return [_outcome_in_process(job) for job in jobs]
    missed = dict.fromkeys((job.job_id for job in jobs), 0)
    while waiting := [job for job in jobs if not _ended(job, where, missed)]:
        if where.executor == "slurm":
            queued = _queued({job.job_id.split("_")[0] for job in waiting})
            for job in waiting:
                # Twice in a row: a result may reach a shared disk later than the job leaves the queue.
                missed[job.job_id] = 0 if queued is None or job.job_id in queued else missed[job.job_id] + 1
        time.sleep(seconds_between if where.executor == "slurm" else 0.2)
    return [_outcome(job) for job in jobs]


def _ended(job: "submitit.Job[Any]", where: Resources, missed: dict[str, int]) -> bool:
    if job.task(0).paths.result_pickle.exists():
        return True
    return missed[job.job_id] >= 2 if where.executor == "slurm" else job.done()


def _queued(jobs: set[str]) -> set[str] | None:
    """Which of these are pending or running (array members each by itself); None where squeue did not answer."""
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return {line for line in done.stdout.split() if line.split("_")[0] in jobs} if done.returncode == 0 else None


def _outcome(job: "submitit.Job[Any]") -> Outcome:
    """Of the first task: the others end with it, and leave no result where they stop."""
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
