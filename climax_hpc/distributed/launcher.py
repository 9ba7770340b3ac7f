"""Detects the launcher and the rank of this process; imports no torch, so that packing can use it too."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from climax_hpc.distributed.lost_launcher import launcher_without_variables
from climax_hpc.errors import EXIT_BAD_INPUT, UserError

_ONE_PROCESS = "; for one process, set RANK=0 WORLD_SIZE=1 LOCAL_RANK=0"


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """The environment variables of one launcher; of several names, the first that is set counts."""

    name: str
    rank: str
    size: tuple[str, ...]
    """Number of ranks; empty if the launcher does not tell it."""
    local_rank: tuple[str, ...] = ()
    """Rank on the node."""

    @property
    def variables(self) -> tuple[str, ...]:
        """All names."""
        return (self.rank, *self.size, *self.local_rank)


# Inner launchers first: a torchrun or mpiexec inside a job step has ranks of its own.
LAUNCHERS = (
    Launcher(name="torchrun", rank="RANK", size=("WORLD_SIZE",), local_rank=("LOCAL_RANK",)),
    Launcher(
        name="Open MPI",
        rank="OMPI_COMM_WORLD_RANK",
        size=("OMPI_COMM_WORLD_SIZE",),
        local_rank=("OMPI_COMM_WORLD_LOCAL_RANK",),
    ),
    Launcher(
        name="MVAPICH2",
        rank="MV2_COMM_WORLD_RANK",
        size=("MV2_COMM_WORLD_SIZE",),
        local_rank=("MV2_COMM_WORLD_LOCAL_RANK",),
    ),
    Launcher(
        name="jsrun",
        rank="JSM_NAMESPACE_RANK",
        size=("JSM_NAMESPACE_SIZE",),
        local_rank=("JSM_NAMESPACE_LOCAL_RANK",),
    ),
    Launcher(  # HPE Cray's mpiexec
        name="PALS", rank="PALS_RANKID", size=("PALS_SIZE", "PMI_SIZE"), local_rank=("PALS_LOCAL_RANKID",)
    ),
    Launcher(  # also Intel MPI and Cray MPICH
        name="MPICH", rank="PMI_RANK", size=("PMI_SIZE",), local_rank=("PMI_LOCAL_RANK", "MPI_LOCALRANKID")
    ),
    Launcher(name="Flux", rank="FLUX_TASK_RANK", size=("FLUX_JOB_SIZE",), local_rank=("FLUX_TASK_LOCAL_ID",)),
    Launcher(name="Slurm", rank="SLURM_PROCID", size=("SLURM_STEP_NUM_TASKS",), local_rank=("SLURM_LOCALID",)),
    Launcher(name="PMIx", rank="PMIX_RANK", size=()),
    Launcher(name="aprun", rank="ALPS_APP_PE", size=()),
)


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
    """Ends a rank silently, because another rank reports the error, with that rank's exit status."""

    def __init__(self, status: int = EXIT_BAD_INPUT) -> None:
        super().__init__(status)


def detect(environment: Mapping[str, str] = os.environ) -> World:
    """Read rank and number of ranks from the launcher's environment variables; one process without a launcher.

    Raises:
        UserError: a launcher has started this process, but its rank or the number of ranks cannot be read. Every
            rank would take itself for the only one, and all would write the same folder.
    """
    worlds = [world for launcher in LAUNCHERS if (world := _read(launcher, environment))]
    if worlds:
        return _with_local_rank(worlds, environment)
    for launcher in LAUNCHERS:
        _check_not_in_part(launcher, environment)
    if environment is os.environ and (lost := launcher_without_variables()):
        raise UserError(
            f"this process was started by {lost}, but its rank did not reach it, so it cannot know the other ranks: "
            f"let the container or wrapper pass on the launcher's environment variables{_ONE_PROCESS}"
        )
    return World()


def _read(launcher: Launcher, environment: Mapping[str, str]) -> World | None:
    """Rank and number of ranks (without the rank on the node), if both are set."""
    size_name = next((name for name in launcher.size if environment.get(name)), None)
    if not environment.get(launcher.rank) or size_name is None:
        return None
    rank, size = _number(launcher.rank, environment), _number(size_name, environment)
    if rank >= size:
        raise UserError(
            f"{launcher.rank} = {rank} must be below {size_name} = {size}: start all ranks with one launcher"
            f"{_ONE_PROCESS}"
        )
    return World(rank=rank, size=size, launcher=launcher.name)


def _with_local_rank(worlds: Sequence[World], environment: Mapping[str, str]) -> World:
    """The first world, with the rank on the node from any launcher that agrees with it, as Slurm does with its PMI.

    Without one, ranks count as numbered node by node: `process_group.device_number` takes the rest modulo devices.
    """
    first = worlds[0]
    agreeing = {world.launcher for world in worlds if (world.rank, world.size) == (first.rank, first.size)}
    names = (name for launcher in LAUNCHERS if launcher.name in agreeing for name in launcher.local_rank)
    found = next((name for name in names if environment.get(name)), None)
    return replace(first, local_rank=first.rank if found is None else _number(found, environment))


def _check_not_in_part(launcher: Launcher, environment: Mapping[str, str]) -> None:
    """Refuse a rank without the number of ranks, and a number above 1 without a rank."""
    size_name = next((name for name in launcher.size if environment.get(name)), None)
    rank = _number(launcher.rank, environment) if environment.get(launcher.rank) else None
    size = _number(size_name, environment) if size_name else None
    if launcher.name == "Slurm":
        # A batch script has SLURM_PROCID 0 without a step's size; a user removes SLURM_PROCID to run one process.
        several = bool(rank)
    else:
        several = rank is not None or (size or 0) > 1
    if several:
        known = f"{launcher.rank} = {rank}" if rank is not None else f"{size_name} = {size}"
        lost = launcher.rank if rank is None else " or ".join(launcher.size) or "the number of ranks"
        raise UserError(
            f"{known} ({launcher.name}) is set without {lost}, so the other ranks are unknown: start with srun, "
            f"mpiexec or torchrun, and let containers pass on their environment variables{_ONE_PROCESS}"
        )


def _number(name: str, environment: Mapping[str, str]) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", environment[name]):
        raise UserError(f"{name} = {environment[name]!r}: must be a number; a launcher sets it{_ONE_PROCESS}")
    return int(environment[name])


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
    return reachable(first_host(nodes), environment), 10_000 + (int(job) + 9973 * step + 7919 * restart) % 20_000


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list: `nid[001234-001240,77],login1` -> `nid001234`."""
    first = re.split(r",(?![^\[]*\])", nodes, maxsplit=1)[0]
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)


def reachable(host: str, environment: Mapping[str, str]) -> str:
    """The name under which other nodes reach a host: `CLIMAX_HPC_HOST_SUFFIX` is added to its first part.

    On JSC's machines `jwb0001.juwels` has an InfiniBand address as `jwb0001i.juwels`.
    """
    name, dot, domain = host.partition(".")
    return name + environment.get("CLIMAX_HPC_HOST_SUFFIX", "") + dot + domain


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
