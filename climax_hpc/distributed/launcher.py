"""Detects the launcher and the rank of this process; imports no torch, so that packing can use it too."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from climax_hpc.errors import UserError

# Launcher -> environment variables of (rank, number of ranks, rank on the node).
LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "MPICH": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    # Only inside a job step (srun): a batch script has SLURM_PROCID too, but is one process.
    "Slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
}


@dataclass(frozen=True, kw_only=True)
class World:
    """Rank of this process, and number of ranks."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    launcher: str = "none"

    @property
    def is_first(self) -> bool:
        """True on the rank that writes logs and run files."""
        return self.rank == 0


class OtherRankFailed(SystemExit):
    """Ends a rank silently, because another rank reports the error; exit status 2."""

    def __init__(self) -> None:
        super().__init__(2)


def detect(environment: Mapping[str, str] = os.environ) -> World:
    """Read rank and number of ranks from the launcher's environment variables; one process without a launcher."""
    for launcher, (rank, size, local_rank) in LAUNCHERS.items():
        if environment.get(rank, "").isdigit() and environment.get(size, "").isdigit():
            return World(
                rank=int(environment[rank]),
                size=int(environment[size]),
                local_rank=int(environment.get(local_rank, environment[rank])),
                launcher=launcher,
            )
    return World()


def slurm_rendezvous(world: World, environment: Mapping[str, str]) -> tuple[str, int] | None:
    """Host and port of rank 0, which every rank of a Slurm job step derives by itself; None outside of one.

    The host is the first of the step's node list (task 0 runs there, unless the distribution is `arbitrary`). The port
    depends on the numbers of job, step and restart, so that a restart does not try a busy port again, and is below the
    ephemeral ports. Steps with PMI count too, but not the processes that mpiexec starts inside a step.
    """
    numbers = tuple(environment.get(name, "") for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
    nodes, job = environment.get("SLURM_STEP_NODELIST", ""), environment.get("SLURM_JOB_ID", "")
    if not (nodes and job.isdigit() and numbers == (str(world.rank), str(world.size))):
        return None
    step, restart = (int(environment.get(name, "0")) for name in ("SLURM_STEP_ID", "SLURM_RESTART_COUNT"))
    return first_host(nodes), 10_000 + (int(job) + 9973 * step + 7919 * restart) % 20_000


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list: `nid[001234-001240,77],login1` -> `nid001234`."""
    first = re.split(r",(?![^\[]*\])", nodes, maxsplit=1)[0]
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)


def mpi_communicator(world: World) -> Any:
    """mpi4py's COMM_WORLD over all ranks of the launcher.

    Raises:
        UserError: mpi4py is not installed, or built for another MPI than the launcher's.
    """
    try:
        from mpi4py import MPI
    except ImportError:
        raise UserError(
            f"{world.size} ranks were started by {world.launcher} but mpi4py is not installed: "
            "pip install 'climax_hpc[mpi]'"
        ) from None
    seen = MPI.COMM_WORLD.Get_size()
    if seen != world.size:
        raise UserError(
            f"{world.launcher} started {world.size} ranks but mpi4py sees {seen}: it is built for another MPI; use "
            "that MPI's mpiexec, or build mpi4py for this one"
        )
    return MPI.COMM_WORLD


def join_mpi() -> None:
    """Initialise MPI if there are several ranks, before the process has used much memory.

    MPICH 5.0.2 publishes a buffer whose unused part is uninitialised memory, in run-length-encoded hexadecimal. With
    used memory that becomes too long for Slurm's PMI (mpi/pmi2: "value not properly terminated"), and ranks wait
    forever; pmodels/mpich#6924 is related.

    Raises:
        UserError: as `mpi_communicator`.
    """
    world = detect()
    if world.size > 1:
        mpi_communicator(world)


def broadcast(world: World, value: Any) -> Any:
    """Rank 0's value on all ranks, by MPI, which is finalised at once so that ranks do not wait for each other later.

    Raises:
        UserError: as `mpi_communicator`.
    """
    value = mpi_communicator(world).bcast(value)
    from mpi4py import MPI

    MPI.Finalize()
    return value
