"""`slurm/qsub.sh`: what it gives to qsub, and what the batch scripts do under the variables of PBS."""

import sys
import time
from pathlib import Path

import pytest

from climax_hpc.launch.scripts import scripts

from .pbs import Pbs

QSUB = str(scripts() / "qsub.sh")
# Answers the batch script's questions like climax_hpc, and as a rank shows its arguments and variables.
_PYTHON = """#!/bin/bash
case "$*" in
  *"launch where"*) echo "$FOLDER" ;;
  *"launch begin"*) echo run ;;
  *"launch end"*) cat >/dev/null; case $PBS_JOBID in 1.*) exit "${AFTER:-0}" ;; esac ;;
  *"launch successor"*) cat >/dev/null ;;
  *) env | grep -E '^(MASTER_|PMI_RANK|PMI_SIZE|SLURM_JOB_NUM|SLURM_RESTART|SLURM_NTASKS)'; echo "RAN $*" ;;
esac
"""


@pytest.fixture
def pbs(tmp_path: Path) -> Pbs:
    return Pbs(tmp_path / "pbs")


def ended(pbs: Pbs, job: int, seconds: float = 60) -> int:
    """Exit status of a job, when it has ended."""
    end = time.monotonic() + seconds
    while (status := pbs.status(job)) is None:
        assert time.monotonic() < end, f"job {job} has not ended: {pbs.output(job)}"
        time.sleep(0.1)
    return status


def test_options_and_arguments_arrive_as_given(pbs: Pbs) -> None:
    words = ("-A", "my project", "--nodes=4", "slurm/pretrain.sh", "my config.yaml", '--run_folder=it\'s "here"')
    done = pbs.qsub(*words, CLIMAX_HPC_QSUB_OPTIONS="-q main -l walltime=12:00:00", CLIMAX_HPC_QSUB_NODE="ngpus=4")
    assert (done.returncode, done.stdout) == (0, "1.stand-in\n"), done.stderr
    assert pbs.arguments(1) == [
        "-N", "climax-pretrain", "-j", "oe", "-r", "y", "-q", "main", "-l", "walltime=12:00:00",
        "-A", "my project", "-l", "select=4:ngpus=4", "-V", "--", "/usr/bin/bash", QSUB, "--job",
        "pretrain.sh", "my config.yaml", "--run_folder=it's \"here\"",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "usage: slurm/qsub.sh"),
        (("-A", "x"), "usage: slurm/qsub.sh"),
        (("--nodes=2", "pretrain.sh", "c"), "--nodes needs CLIMAX_HPC_QSUB_NODE"),
    ],
)
def test_bad_calls(pbs: Pbs, words: tuple[str, ...], message: str) -> None:
    done = pbs.qsub(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert pbs.jobs() == 0


def test_without_pbs(pbs: Pbs) -> None:
    (pbs.folder / "qsub").unlink()
    done = pbs.qsub("pretrain.sh", "c")
    assert (done.returncode, "no qsub on this machine" in done.stderr) == (2, True)


def job(tmp_path: Path, *options: str, after: int = 0, **environment: str) -> tuple[Pbs, int]:
    """Run pretrain.sh as a job of two ranks that ends with status 0; `after`: what is to follow."""
    pbs = Pbs(tmp_path / "pbs", runs=True)
    python = tmp_path / "python"
    python.write_text(_PYTHON)
    python.chmod(0o755)
    more = {"CLIMAX_HPC_PYTHON": str(python), "FOLDER": str(scripts()), "AFTER": str(after)}
    done = pbs.qsub(*options, "-l", "select=1:mpiprocs=2", "pretrain.sh", "a config", **more | environment)
    assert done.returncode == 0, done.stderr
    return pbs, ended(pbs, 1)


needs_mpiexec = pytest.mark.skipif(
    not Path(sys.executable).with_name("mpiexec").exists(), reason="no mpiexec beside python: climax_hpc[mpi]"
)


@needs_mpiexec
def test_ranks_of_a_job(tmp_path: Path) -> None:
    pbs, status = job(tmp_path)
    text = pbs.output(1)
    assert status == 0, text
    assert text.count("RAN -m climax_hpc pretrain --config a config") == 2
    for line in ("PMI_RANK=0", "PMI_RANK=1", "MASTER_ADDR=localhost", "MASTER_PORT=10001", "SLURM_RESTART_COUNT=0"):
        assert f"{line}\n" in text
    assert pbs.jobs() == 1


@needs_mpiexec
def test_a_job_that_must_resume_submits_its_successor(tmp_path: Path) -> None:
    pbs, status = job(tmp_path, "-A", "my project", after=75)
    assert status == 75, pbs.output(1)
    successor = pbs.arguments(2)
    assert successor[successor.index("-W") + 1] == "depend=afterany:1.stand-in"
    first = pbs.arguments(1)
    assert [word for word in successor if word not in ("-W", "depend=afterany:1.stand-in")] == first
    assert ended(pbs, 2) == 0, pbs.output(2)
    assert "RAN -m climax_hpc pretrain --config a config" in pbs.output(2)


@needs_mpiexec
def test_a_member_of_an_array_is_followed_by_a_plain_job(tmp_path: Path) -> None:
    pbs, status = job(tmp_path, "-J", "0-5", after=75, PBS_ARRAY_INDEX="3")
    assert status == 75, pbs.output(1)
    assert "-J" not in pbs.arguments(2)
    assert "-W" not in pbs.arguments(2)
    assert ended(pbs, 2) == 0, pbs.output(2)


def test_a_time_limit_within_the_warning_is_refused(tmp_path: Path) -> None:
    pbs, status = job(tmp_path, "-l", "walltime=00:04:00")
    assert status == 2
    assert "the warning comes 300 s before the time limit, which is 00:04:00" in pbs.output(1)
    assert "RAN" not in pbs.output(1)
