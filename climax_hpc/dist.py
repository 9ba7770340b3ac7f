"""Ranks from torchrun, MPI, Slurm or none, and the process group over them (NCCL/RCCL on GPUs, gloo on CPUs)."""

import atexit
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed

from climax_hpc.errors import UserError

_TIMEOUT = timedelta(minutes=30)
# Launcher -> environment variables of (rank, number of ranks, rank on the node).
_LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "MPICH": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    "Slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
}


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among all."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    launcher: str = "none"

    @property
    def is_first(self) -> bool:
        """True on the rank that writes logs and run files."""
        return self.rank == 0


def detect(environment: Mapping[str, str] = os.environ) -> World:
    """The world that the launcher's environment variables describe; one process where there is none."""
    for launcher, (rank, size, local_rank) in _LAUNCHERS.items():
        # A batch script has SLURM_PROCID too; only inside a job step (srun) do ranks exist.
        if launcher == "Slurm" and "SLURM_STEP_ID" not in environment:
            continue
        if rank in environment and size in environment:
            return World(
                rank=int(environment[rank]),
                size=int(environment[size]),
                local_rank=int(environment.get(local_rank, environment[rank])),
                launcher=launcher,
            )
    return World()


def connect() -> World:
    """Join the process group (once) and choose this rank's device.

    Raises:
        UserError: the launcher does not say where rank 0 listens.
    """
    world = detect()
    if not torch.distributed.is_initialized():
        _rendezvous(world)
        os.environ.update(RANK=str(world.rank), WORLD_SIZE=str(world.size), LOCAL_RANK=str(world.local_rank))
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(world.local_rank % torch.cuda.device_count())
            backend = "cpu:gloo,cuda:nccl"
        torch.distributed.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=_TIMEOUT)
    return world


def device() -> torch.device:
    """The device of this rank."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """Mean of a tensor over all ranks (the tensor itself is left alone)."""
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


@atexit.register
def disconnect() -> None:
    """Leave the process group, if any; at exit only, because DeepSpeed keeps hold of the group for good."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _rendezvous(world: World) -> None:
    """Set MASTER_ADDR and MASTER_PORT where the launcher has not."""
    if "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        return
    address = (socket.gethostname() if world.size > 1 else "127.0.0.1", _free_port())
    if world.size > 1:
        try:
            from mpi4py import MPI
        except ImportError:
            raise UserError(
                f"{world.size} ranks under {world.launcher}, but MASTER_ADDR and MASTER_PORT are not set: "
                "export them, use torchrun, or install mpi4py (pip install 'climax_hpc[mpi]')"
            ) from None
        address = MPI.COMM_WORLD.bcast(address)
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address[0], str(address[1])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
