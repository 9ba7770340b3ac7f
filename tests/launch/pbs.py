"""A stand-in for PBS in a folder: `qsub` runs jobs one after the other on this machine, `qstat -f` describes them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from climax_hpc.launch.scripts import scripts

_QSUB = r"""#!/bin/bash
# Arguments are kept in N.args; a job runs after the job that it depends on, with output in N.out, status in N.status.
for ((n = 1; ; n++)); do (set -C; : >"$PBS/$n.args") 2>/dev/null && break; done
printf '%s\0' "$@" >"$PBS/$n.args"
echo "$n.stand-in"
after='' walltime=1:00:00 mpiprocs=1
while [ "$1" != -- ]; do
  case $1 in
    -W) after=${2##*:} && after=${after%%.*} ;;
    -l) case $2 in walltime=*) walltime=${2#*=} ;; *mpiprocs=*) mpiprocs=${2#*mpiprocs=} ;; esac ;;
  esac
  shift
done
shift
echo "$walltime" >"$PBS/$n.walltime"
for ((i = 0; i < ${mpiprocs%%:*}; i++)); do echo localhost; done >"$PBS/$n.nodes"
[ -n "${PBS_RUN:-}" ] || exit 0
(
  while [ -n "$after" ] && [ -d "$PBS" ] && [ ! -e "$PBS/$after.status" ]; do sleep 0.1; done
  export PBS_JOBID=$n.stand-in PBS_NODEFILE=$PBS/$n.nodes PBS_O_WORKDIR=$PWD PBS_QUEUE=main
  env --default-signal "$@" >"$PBS/$n.out" 2>&1 & # the job that submits a successor ignores signals
  echo $! >"$PBS/$n.pid"
  wait $!
  echo $? >"$PBS/$n.status"
) >/dev/null 2>&1 </dev/null &
"""
_QSTAT = r"""#!/bin/bash
n=${2%%.*}
echo "Job Id: $2"
echo "    job_state = R"
echo "    Resource_List.walltime = $(cat "$PBS/$n.walltime")"
echo "    run_count = 1"
"""


class Pbs:
    """The stand-in; its files are in `folder`."""

    def __init__(self, folder: Path, *, runs: bool = False) -> None:
        """Args: `runs`: whether jobs are run, or only recorded."""
        self.folder = folder
        folder.mkdir()
        for name, text in (("qsub", _QSUB), ("qstat", _QSTAT)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "CLIMAX_HPC_", "PBS_"))}
        path = f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = kept | {"PATH": path, "PBS": str(folder), "CLIMAX_HPC_PYTHON": sys.executable}
        if runs:
            self.environment["PBS_RUN"] = "1"

    def qsub(self, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Call the project's `slurm/qsub.sh`."""
        return subprocess.run(
            ["bash", str(scripts() / "qsub.sh"), *map(str, words)],
            env=self.environment | environment, capture_output=True, text=True, cwd=self.folder,
        )  # fmt: skip

    def arguments(self, job: int) -> list[str]:
        """What qsub was called with."""
        return (self.folder / f"{job}.args").read_bytes().decode().split("\0")[:-1]

    def jobs(self) -> int:
        """Number of jobs submitted so far."""
        return len(list(self.folder.glob("*.args")))

    def status(self, job: int) -> int | None:
        """Exit status of a job; None while it has not ended."""
        path = self.folder / f"{job}.status"
        text = path.read_text().strip() if path.is_file() else ""
        return int(text) if text else None

    def output(self, job: int) -> str:
        """What a job has printed."""
        path = self.folder / f"{job}.out"
        return path.read_text(errors="replace") if path.is_file() else ""

    def end(self, job: int) -> None:
        """Send SIGTERM to all processes of a job, as qdel does."""
        os.kill(int((self.folder / f"{job}.pid").read_text()), signal.SIGTERM)
