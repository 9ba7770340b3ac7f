"""The Slurm cluster of the session, small training runs on it, and signals to their processes."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.distributed.signals import WARNING_SIGNAL
from climax_hpc.launch.scripts import scripts

from ..launch.small import write_settings
from .lab import Lab, unavailable

PATIENCE = 300.0  # [s]; a quiet machine needs a tenth of it
STEPS, INTERRUPT_AT = 120, 30


def wait_for(condition: Callable[[], Any], what: str, seconds: float = PATIENCE, pause: float = 0.1) -> Any:
    """The first true value of a condition; fails with the state of the queue after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            show = shutil.which("squeue")
            queue = subprocess.run([show, "--long"], capture_output=True, text=True).stdout if show else ""
            pytest.fail(f"waited {seconds:.0f} s for {what}\n{queue}")
        time.sleep(pause)
    return value


class Cluster:
    """The cluster, as a user sees it from a login node."""

    def __init__(self, lab: Lab, folder: Path, config: Path) -> None:
        self.lab, self.folder, self.config = lab, folder, config

    def sbatch(self, script: str, *arguments: str | Path, options: tuple[str, ...] = (), **environment: str) -> str:
        """Submit one of the project's batch scripts from the test folder; the job's id."""
        command = ["sbatch", "--parsable", *options, str(scripts() / script), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.folder, env=os.environ | environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def pretrain(self, run: Path, *more: str, options: tuple[str, ...] = (), **environment: str) -> str:
        """Submit a pretraining over both nodes, one rank each."""
        both = ("--nodes=2", "--ntasks-per-node=1", "--time=60", *options)
        return self.sbatch("pretrain.sh", self.config, f"--run_folder={run}", *more, options=both, **environment)

    def field(self, job: str, name: str) -> str:
        """A field of `scontrol show job`; empty if Slurm no longer knows the job."""
        done = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True)
        return next((w.partition("=")[2] for w in done.stdout.split() if w.startswith(f"{name}=")), "")

    def is_over(self, job: str) -> bool:
        """True if no task of the job is queued or running."""
        done = subprocess.run(["squeue", "-h", "-o", "%F"], capture_output=True, text=True, check=True)
        return job not in done.stdout.split()

    def set_time_limit(self, job: str, minutes: int) -> None:
        """Change the time limit of a job, as an operator can."""
        subprocess.run(["scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}"], check=True)

    def log(self, job: str) -> str:
        """Output of a job of the batch scripts."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob(f"climax-*-{job}*.out")))

    def ranks(self, job: str) -> dict[int, int]:
        """Rank -> process id of a training job."""
        found = {}
        for entry in os.listdir("/proc"):
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0") if entry.isdigit() else []
                if b"climax_hpc" not in words or b"pretrain" not in words:
                    continue
                pairs = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            values = dict(pair.split(b"=", 1) for pair in pairs if b"=" in pair)
            if values.get(b"SLURM_JOB_ID") == job.encode() and b"python" in os.path.basename(words[0]):
                found[int(values[b"SLURM_PROCID"])] = int(entry)
        return found

    def freeze(self, runs: dict[str, Path]) -> dict[str, dict[int, int]]:
        """Stop the ranks of every run (job -> folder) once it has made some steps; job -> rank -> process id."""
        frozen: dict[str, dict[int, int]] = {}

        def all_frozen() -> bool:
            for job, run in runs.items():
                if job not in frozen and len(losses(run)) >= INTERRUPT_AT:
                    frozen[job] = self.ranks(job)
                    for process in frozen[job].values():
                        os.kill(process, signal.SIGSTOP)
            return len(frozen) == len(runs)

        wait_for(all_frozen, f"{INTERRUPT_AT} steps of {', '.join(run.name for run in runs.values())}")
        assert all(sorted(ranks) == [0, 1] for ranks in frozen.values()), f"job -> rank -> process: {frozen}"
        return frozen


def python_that(cluster: Cluster, name: str, instead: str, subcommand: str = "pretrain") -> str:
    """A Python that replaces a subcommand by shell commands; other calls of the job use the real one."""
    path = cluster.folder / name
    real = shlex.quote(sys.executable)
    path.write_text(f'#!/bin/sh\ncase "$*" in "-m climax_hpc {subcommand}"*) {instead};; esac\nexec {real} "$@"\n')
    path.chmod(0o755)
    return str(path)


def thaw(process: int) -> None:
    """Continue a stopped process; Slurm may already have continued and ended it."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)


def logged_steps(run: Path) -> list[dict[str, Any]]:
    """The logged steps so far; ignores a line that is still being written."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return [row for row in rows if "loss" in row]


def losses(run: Path) -> list[float]:
    """Losses of the steps so far."""
    return [row["loss"] for row in logged_steps(run)]


def step_times(run: Path) -> list[float]:
    """When each of the steps so far was logged [s since 1970]."""
    return [row["time"] for row in logged_steps(run)]


def attempts(run: Path) -> list[dict[str, Any]]:
    """The attempts of the newest chain of a run."""
    return list(json.loads(run.with_name(f"{run.name}.attempts.json").read_text())["attempts"])


def was_warned(process: int) -> bool:
    """True if the warning is pending for a stopped process, or was delivered (Slurm may continue the tasks first)."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except FileNotFoundError:
        return True
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    pending = int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)
    return bool(pending >> (WARNING_SIGNAL - 1) & 1) or not fields["State"].startswith("T")


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Two Slurm nodes, found by the commands of this process and of its children."""
    if reason := unavailable():
        pytest.skip(reason)
    before = dict(os.environ)
    with Lab() as lab:
        os.environ.update(lab.environment, OMP_NUM_THREADS="1")
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for name in [n for n in os.environ if n.startswith(("CLIMAX_HPC_", "SBATCH_", "SLURM_")) and n != "SLURM_CONF"]:
            del os.environ[name]
        yield lab
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def cluster(lab: Lab, make_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The cluster, with a small data set and a pretraining config: ZeRO stage 2, dropout, two micro-batches a step."""
    folder = tmp_path_factory.mktemp('it\'s a "cluster"')
    config = write_settings(folder / "my config.yaml", make_dataset(), "not given", steps=STEPS)
    return Cluster(lab, folder, config)


@pytest.fixture(scope="session")
def reference(cluster: Cluster) -> Path:
    """An uninterrupted run on both nodes, whose losses all others must reproduce."""
    run = cluster.folder / "reference"
    job = cluster.pretrain(run)
    wait_for(lambda: cluster.is_over(job), "the reference run")
    assert len(losses(run)) == STEPS, cluster.log(job)
    return run
