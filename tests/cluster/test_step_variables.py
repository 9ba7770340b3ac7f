"""Steps whose environment variables reach the ranks, or get lost on the way as in a container, on a real Slurm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..launch.test_sites import SLURM, hours, keys_of
from .conftest import Cluster

pytestmark = pytest.mark.slow

_SHOW = [sys.executable, "-c", "from climax_hpc.distributed.launcher import detect; print(detect())"]
_ANYWHERE = ("SBATCH_TIMELIMIT", "SBATCH_EXCLUSIVE", "SBATCH_MEM_PER_NODE")
_ALONE = "World(rank=0, size=1, local_rank=0, launcher='none')"


def step(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Output of a step of two tasks, one on each node."""
    command = ["srun", "--quiet", "--nodes=2", "--ntasks=2", "--time=2", "--kill-on-bad-exit=0", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_ranks_of_a_step(cluster: Cluster) -> None:
    shown = step(*_SHOW).stdout
    for rank in range(2):
        assert f"World(rank={rank}, size=2, local_rank=0, launcher='Slurm')" in shown


@pytest.mark.parametrize("verb", ["pack", "pretrain"])
def test_tasks_without_their_variables_are_refused_and_write_nothing(
    cluster: Cluster, verb: str, tmp_path: Path
) -> None:
    """`env -i` stands for a container that does not pass on SLURM_*."""
    run = tmp_path / "run"
    words = {
        "pack": ["--config", "demo_pack", f"--output={run}"],
        "pretrain": ["--config", cluster.config, f"--run_folder={run}"],
    }
    done = step("env", "-i", "HOME=/root", sys.executable, "-m", "climax_hpc", verb, *words[verb])
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "climax-hpc: error: " in line]
    assert len(lines) == 2, done.stderr
    assert all("started by Slurm (step " in line and "its rank did not reach it" in line for line in lines)
    assert "Traceback" not in done.stderr
    assert not run.exists()


def test_one_process_in_a_step(cluster: Cluster) -> None:
    """Stated as RANK and WORLD_SIZE, or by removing SLURM_PROCID in the shell of a step."""
    stated = step("--ntasks=1", "--nodes=1", "env", "-i", "RANK=0", "WORLD_SIZE=1", *_SHOW)
    assert "rank=0, size=1" in stated.stdout, stated.stderr
    removed = step("--ntasks=1", "--nodes=1", "env", "-u", "SLURM_PROCID", *_SHOW)
    assert _ALONE in removed.stdout, removed.stderr


def test_a_batch_script_is_one_process(cluster: Cluster, tmp_path: Path) -> None:
    script, out = tmp_path / "job.sh", tmp_path / "out"
    script.write_text(f"#!/bin/bash\n{sys.executable} -c '{_SHOW[-1]}'\nenv -i {sys.executable} -c '{_SHOW[-1]}'\n")
    command = ["sbatch", "--wait", "--nodes=2", "--ntasks=4", "--time=2", f"--output={out}", str(script)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert out.read_text().splitlines() == [_ALONE, _ALONE]


@pytest.mark.parametrize("site", SLURM)
def test_slurm_takes_the_options_of_site_files(cluster: Cluster, site: str) -> None:
    """Those that do not name something of the site: time limit, memory, whole nodes."""
    options = {key: value for key, value in keys_of(site).items() if key in _ANYWHERE}
    command = ["sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true"]
    job = subprocess.run(command, env=os.environ | options, capture_output=True, text=True, check=True).stdout.strip()
    limit, shared = cluster.field(job, "TimeLimit"), cluster.field(job, "OverSubscribe")
    subprocess.run(["scancel", job], check=True)
    assert hours(limit) == hours(options["SBATCH_TIMELIMIT"])
    assert (shared == "NO") == ("SBATCH_EXCLUSIVE" in options)


def test_the_doctor_over_two_nodes(cluster: Cluster, tmp_path: Path) -> None:
    done = step(sys.executable, "-m", "climax_hpc", "doctor", "--folder", tmp_path, "--time_limit", "120")
    lines = done.stdout.splitlines()
    assert sum("check" in line and "found" in line for line in lines) == 1, done.stdout
    found = {line[:12].strip(): line[13:] for line in lines if not line.startswith(" ")}
    assert "2 ranks of Slurm on 2 nodes, 32 MiB summed: gloo" in found["all ranks"]
    assert found["all nodes"] == f"ok   {tmp_path}: files and locks are seen on 2 nodes"
    assert "partitions, 2 nodes up" in found["slurm"]
    assert {"open files", "file locks", "file system"} <= found.keys()
    assert done.returncode == 0, done.stdout
