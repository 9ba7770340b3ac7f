"""Finds the launcher of a process whose environment variables were lost on the way, as in many containers.

Traces of it remain: the control group of a Slurm step, and the launcher's daemon among the parents of the process.
"""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PROC = Path("/proc")
# Names of processes that start ranks, as in /proc/PID/comm (15 characters).
_DAEMONS = {
    "hydra_pmi_proxy": "mpiexec (MPICH)",
    "pmi_proxy": "mpiexec (MPICH)",
    "orted": "mpirun (Open MPI)",
    "orterun": "mpirun (Open MPI)",
    "mpirun": "mpirun",
    "mpiexec": "mpiexec",
    "prted": "mpirun (Open MPI)",
    "prterun": "mpirun (Open MPI)",
    "mpispawn": "mpirun_rsh (MVAPICH2)",
    "palsd": "mpiexec (PALS)",
    "flux-shell": "flux run",
    "jsmd": "jsrun",
    "apinit": "aprun",
}
_INSTANCE = "flux-broker"  # a batch script of Flux runs below it, and is one process
# Only numbered steps (srun): those named batch, extern and interactive are single processes.
_STEP_DAEMON = re.compile(r"slurmstepd: \[(\d+)\.(\d+)[^a-z]*\]")
_STEP_GROUP = re.compile(r"/job_(\d+)/step_(\d+)(?:/|$)", re.MULTILINE)


@cache
def launcher_without_variables() -> str | None:
    """The launcher that started this process, in words; None if there is no trace of one.

    A process that has SLURM_JOB_ID but no rank is one whose user removed the rank, to run it alone in a step's shell.
    """
    found = next(_traces(), None)
    if found and found.startswith("Slurm") and os.environ.get("SLURM_JOB_ID") and not os.environ.get("SLURM_PROCID"):
        return None
    return found


def _traces() -> Iterator[str]:
    if group := _STEP_GROUP.search(_text(_PROC / "self" / "cgroup")):
        yield f"Slurm (step {group[1]}.{group[2]})"
    process = os.getppid()
    while process > 1:
        name = _text(_PROC / str(process) / "comm").strip()
        if step := _STEP_DAEMON.match(_text(_PROC / str(process) / "cmdline")):
            yield f"Slurm (step {step[1]}.{step[2]})"
        elif name in _DAEMONS:
            yield _DAEMONS[name]
        elif name.startswith(_INSTANCE):
            return
        status = re.search(r"^PPid:\s+(\d+)$", _text(_PROC / str(process) / "status"), re.MULTILINE)
        process = int(status[1]) if status else 0


def _text(path: Path) -> str:
    """Text of a file in /proc; empty if it cannot be read (another user's process, another system)."""
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""
