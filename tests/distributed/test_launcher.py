"""Rank and number of ranks from the environment of each launcher; what cannot be read is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from climax_hpc.distributed import lost_launcher
from climax_hpc.distributed.launcher import LAUNCHERS, World, detect
from climax_hpc.errors import UserError

_SHOW = "from climax_hpc.distributed.launcher import detect; print(detect())"
_SLURM = {"SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "1"}
_NAMES = {name for launcher in LAUNCHERS for name in launcher.variables}
_CLEAN = {k: v for k, v in os.environ.items() if k not in _NAMES and not k.startswith("SLURM_")}


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=_CLEAN | environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("environment", "world"),
    [
        ({}, World()),
        (
            {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"},
            World(rank=3, size=8, local_rank=1, launcher="torchrun"),
        ),
        (
            {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
            World(rank=5, size=8, local_rank=1, launcher="Open MPI"),
        ),
        (
            {"MV2_COMM_WORLD_RANK": "5", "MV2_COMM_WORLD_SIZE": "8", "MV2_COMM_WORLD_LOCAL_RANK": "2"},
            World(rank=5, size=8, local_rank=2, launcher="MVAPICH2"),
        ),
        (
            {"JSM_NAMESPACE_RANK": "7", "JSM_NAMESPACE_SIZE": "12", "JSM_NAMESPACE_LOCAL_RANK": "1"},
            World(rank=7, size=12, local_rank=1, launcher="jsrun"),
        ),
        # HPE's PALS gives the number of ranks through its PMI.
        (
            {"PALS_RANKID": "5", "PALS_LOCAL_RANKID": "1", "PMI_RANK": "5", "PMI_SIZE": "8"},
            World(rank=5, size=8, local_rank=1, launcher="PALS"),
        ),
        (
            {"PMI_RANK": "5", "PMI_SIZE": "8", "PMI_LOCAL_RANK": "1"},
            World(rank=5, size=8, local_rank=1, launcher="MPICH"),
        ),
        (
            {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1"},
            World(rank=5, size=8, local_rank=1, launcher="MPICH"),
        ),
        (
            {"FLUX_TASK_RANK": "5", "FLUX_JOB_SIZE": "8", "FLUX_TASK_LOCAL_ID": "1"},
            World(rank=5, size=8, local_rank=1, launcher="Flux"),
        ),
        # Flux and Slurm also set the variables of their PMI: the rank on the node comes from theirs.
        (
            {"FLUX_TASK_RANK": "5", "FLUX_JOB_SIZE": "8", "FLUX_TASK_LOCAL_ID": "1", "PMI_RANK": "5", "PMI_SIZE": "8"},
            World(rank=5, size=8, local_rank=1, launcher="MPICH"),
        ),
        (_SLURM | {"PMI_RANK": "9", "PMI_SIZE": "16"}, World(rank=9, size=16, local_rank=1, launcher="MPICH")),
        (_SLURM | {"PMIX_RANK": "9"}, World(rank=9, size=16, local_rank=1, launcher="Slurm")),
        # mpiexec inside a job step: Slurm's rank is that of mpiexec's proxy.
        (_SLURM | {"PMI_RANK": "3", "PMI_SIZE": "4"}, World(rank=3, size=4, local_rank=3, launcher="MPICH")),
        (_SLURM, World(rank=9, size=16, local_rank=1, launcher="Slurm")),
        # A batch script without srun is one process, though Slurm sets its variables there too.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_LOCALID": "0"}, World()),
        # A user who removed the rank in a step's shell.
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0"}, World()),
        ({"PMI_RANK": "", "PMI_SIZE": ""}, World()),
    ],
)
def test_detect(environment: dict[str, str], world: World) -> None:
    assert detect(environment) == world


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PMIX_RANK": "0"}, "PMIX_RANK = 0 (PMIx) is set without the number of ranks"),
        ({"ALPS_APP_PE": "2"}, "ALPS_APP_PE = 2 (aprun) is set without the number of ranks"),
        ({"PALS_RANKID": "0", "PALS_LOCAL_RANKID": "0"}, "PALS_RANKID = 0 (PALS) is set without PALS_SIZE or PMI_SIZE"),
        ({"JSM_NAMESPACE_RANK": "0"}, "JSM_NAMESPACE_RANK = 0 (jsrun) is set without JSM_NAMESPACE_SIZE"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE = 4 (Open MPI) is set without OMPI_COMM_WORLD_RANK"),
        ({"SLURM_PROCID": "3"}, "SLURM_PROCID = 3 (Slurm) is set without SLURM_STEP_NUM_TASKS"),
        ({"RANK": "two", "WORLD_SIZE": "4"}, "RANK = 'two': must be a number"),
        ({"RANK": "-1", "WORLD_SIZE": "4"}, "RANK = '-1': must be a number"),
        ({"PMI_RANK": "4", "PMI_SIZE": "4"}, "PMI_RANK = 4 must be below PMI_SIZE = 4"),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "²"}, "LOCAL_RANK = '²': must be a number"),
    ],
)
def test_ranks_that_cannot_be_read_are_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as refused:
        detect(environment)
    assert message in str(refused.value)
    assert str(refused.value).endswith("for one process, set RANK=0 WORLD_SIZE=1 LOCAL_RANK=0")


def test_ranks_of_a_real_mpiexec() -> None:
    """Read where the variables arrive; refused on every rank where they do not, as in a container."""
    mpiexec = Path(sys.executable).with_name("mpiexec")
    if not mpiexec.exists():
        pytest.skip("no mpiexec beside python: climax_hpc[mpi]")
    read = run([str(mpiexec), "-n", "2", sys.executable, "-c", _SHOW])
    for rank in range(2):
        assert f"World(rank={rank}, size=2, local_rank={rank}, launcher='MPICH')" in read.stdout
    lost = run([str(mpiexec), "-n", "2", "env", "-i", sys.executable, "-c", _SHOW])
    assert lost.stdout == ""
    assert lost.stderr.count("started by mpiexec (MPICH), but its rank did not reach it") == 2, lost.stderr


def test_a_single_process_says_so_where_the_launcher_is_lost(tmp_path: Path) -> None:
    daemon = tmp_path / "prted"
    daemon.write_text('#!/bin/bash\n"$@"\nexit $?\n')
    daemon.chmod(0o755)
    show = [str(daemon), sys.executable, "-c", _SHOW]
    assert "started by mpirun (Open MPI)" in run(show).stderr
    assert "World(rank=0, size=1" in run(show, RANK="0", WORLD_SIZE="1").stdout
    broker = daemon.with_name("flux-broker-0")  # a batch script of Flux is one process
    broker.write_bytes(daemon.read_bytes())
    broker.chmod(0o755)
    assert "World(rank=0, size=1" in run([str(daemon), str(broker), *show[1:]]).stdout


@pytest.mark.parametrize(
    ("group", "found"),
    [
        ("0::/system.slice/slurmstepd.scope/job_12/step_0/user/task_1\n", "Slurm (step 12.0)"),
        ("9:memory:/slurm/uid_1000/job_12/step_3/task_0\n1:name=systemd:/\n", "Slurm (step 12.3)"),
        ("0::/system.slice/slurmstepd.scope/job_12/step_batch/user/task_0\n", None),
        ("0::/system.slice/slurmstepd.scope/job_12/step_interactive/user/task_0\n", None),
        ("0::/user.slice\n", None),
    ],
)
def test_control_groups(group: str, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may hide the parent processes, but not the control group of a Slurm step."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(group)
    monkeypatch.setattr(lost_launcher, "_PROC", tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert lost_launcher.launcher_without_variables.__wrapped__() == found
    monkeypatch.setenv("SLURM_JOB_ID", "12")  # SLURM_PROCID was removed on purpose
    assert lost_launcher.launcher_without_variables.__wrapped__() is None
