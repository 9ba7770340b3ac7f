"""Rank and number of ranks from the environment of each launcher."""

import pytest

from climax_hpc.distributed.launcher import World, detect


@pytest.mark.parametrize(
    ("environment", "world"),
    [
        ({}, World()),
        (
            {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"},
            World(rank=3, size=8, local_rank=1, launcher="torchrun"),
        ),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, World(rank=1, size=2, local_rank=1, launcher="MPICH")),
        (
            {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
            World(rank=5, size=8, local_rank=1, launcher="Open MPI"),
        ),
        (
            {"SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "1"},
            World(rank=9, size=16, local_rank=1, launcher="Slurm"),
        ),
        # A batch script without srun is one process, though Slurm sets its variables there too.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_LOCALID": "0"}, World()),
    ],
)
def test_detect(environment: dict[str, str], world: World) -> None:
    assert detect(environment) == world
