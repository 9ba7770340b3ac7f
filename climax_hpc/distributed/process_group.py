"""The process group of all ranks (NCCL/RCCL on GPUs, gloo on CPUs), and collective helpers."""

import atexit
import operator
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed

from climax_hpc.distributed.launcher import OtherRankFailed, World, broadcast, detect, reachable, slurm_rendezvous
from climax_hpc.distributed.tree import combined_on_first
from climax_hpc.errors import UserError
from climax_hpc.utils.folder_lock import locked_folder
from climax_hpc.utils.system_errors import check_open_files

Result = TypeVar("Result")
_TIMEOUT = timedelta(minutes=30)
_PATIENCE = 15.0
"""Seconds to wait for the other ranks before saying so."""


def connect(*, longest_wait: float = 0.0) -> World:
    """Join the process group (once) and choose this rank's device.

    Args:
        longest_wait: wait for another rank [s] that must end in no time-out of a collective; half an hour never does.

    Raises:
        UserError: the launcher does not provide the address of rank 0.
        OSError: the limit of open files is too low.
    """
    world = detect()
    os.environ["LOCAL_RANK"] = str(device_number(world.local_rank))  # DeepSpeed takes the device from it
    if not torch.distributed.is_initialized():
        # Else each rank holds a socket to every other one, for each group, whether or not anything is sent there.
        os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")
        check_open_files()
        _rendezvous(world)
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(device_number(world.local_rank))
            backend = "cpu:gloo,cuda:nccl"
        with _reporting_missing_ranks(world):
            timeout = time_limit(longest_wait)
            torch.distributed.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=timeout)
    return world


def time_limit(longest_wait: float) -> timedelta:
    """Time after which a collective fails; `longest_wait`: as of `connect`."""
    return max(_TIMEOUT, timedelta(seconds=longest_wait))


def device_number(local_rank: int) -> int:
    """Number of this rank's device among those that it sees; launchers may show each rank its own device only."""
    return local_rank % torch.cuda.device_count() if torch.cuda.is_available() else local_rank


@contextmanager
def _reporting_missing_ranks(world: World) -> Iterator[None]:
    """Print one line if the other ranks of the launcher have not joined after some seconds."""
    where = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    line = (
        f"climax-hpc: rank {world.rank} waits for the other ranks of {world.size} ({world.launcher}) at {where}; if "
        "they were never started, as in a shell inside an allocation, start with srun, torchrun or mpiexec, or unset "
        "the launcher's environment variables (for Slurm: SLURM_PROCID) for one process\n"
    )
    timer = threading.Timer(_PATIENCE, lambda: (sys.stderr.write(line), sys.stderr.flush()))
    timer.daemon = True
    if world.size > 1:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def check_single_process(what: str, advice: str = "") -> None:
    """Check that the command runs as one process.

    Raises:
        UserError: names the launcher.
    """
    world = detect()
    if world.size > 1:
        raise UserError(f"{what} runs as one process: start it without {world.launcher}{advice}")


def device() -> torch.device:
    """The device of this rank."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def use_device(device: torch.device) -> None:
    """Make the device that of the calling thread: on a GPU, a new thread would occupy memory of the first one."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over all ranks; the tensor itself does not change."""
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total


@cache
def second_group(longest_wait: float) -> torch.distributed.ProcessGroup:
    """Another group of all ranks, on the CPU, for a thread beside the training loop; the first call is a collective.

    Args:
        longest_wait: as of `connect`.
    """
    return torch.distributed.new_group(backend="gloo", timeout=time_limit(longest_wait))


@cache
def group_of_neighbours(size: int, longest_wait: float, purpose: str) -> torch.distributed.ProcessGroup:
    """This rank's group where all ranks form groups of `size` consecutive ones; the first call is a collective.

    Args:
        size: divides the number of ranks.
        longest_wait: as of `connect`.
        purpose: what the ranks exchange; groups of other purposes do not wait for each other.
    """
    rank, found = torch.distributed.get_rank(), []
    for first in range(0, torch.distributed.get_world_size(), size):
        members = list(range(first, first + size))
        group = torch.distributed.new_group(members, timeout=time_limit(longest_wait))
        found += [group] if rank in members else []
    return found[0]


def on_first(function: Callable[[], Result], group: torch.distributed.ProcessGroup | None = None) -> Result | None:
    """Run a function on rank 0 while the others wait; returns its result there, None elsewhere. Also without a group.

    Raises:
        UserError: and anything else that the function raises, on rank 0; `OtherRankFailed` on the others.
    """
    if not torch.distributed.is_initialized():
        return function()
    failed = torch.zeros(1)
    result, error = None, None
    if torch.distributed.get_rank() == 0:
        try:
            result = function()
        except BaseException as caught:
            error, failed[0] = caught, 1
    torch.distributed.broadcast(failed, src=0, group=group)
    if error is not None:
        raise error
    if failed:
        raise OtherRankFailed
    return result


@contextmanager
def locked_by_first(folder: Path, key: str) -> Iterator[None]:
    """Rank 0 makes an output folder and holds its lock; the others end with it if it cannot.

    Raises:
        UserError: as `locked_folder`, on rank 0; `OtherRankFailed` on the others.
    """
    with ExitStack() as held:
        on_first(lambda: held.enter_context(locked_folder(folder, key)))
        yield


def on_all(function: Callable[[], Result]) -> Result:
    """Run a function on every rank; if it fails anywhere, all ranks stop, and the first that failed reports why.

    The function must not wait for other ranks.

    Raises:
        UserError: and anything else that the function raises, on the first rank that failed.
        OtherRankFailed: on the others.
    """
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    failed = ranks
    error: BaseException | None = None
    try:
        result = function()
    except BaseException as caught:
        error, failed = caught, rank
    first_failed = torch.tensor(combined_on_first(failed, min))
    torch.distributed.broadcast(first_failed, src=0)
    if error is not None and first_failed == rank:
        raise error
    if first_failed < ranks:
        raise OtherRankFailed
    return result


def from_first(function: Callable[[], Result]) -> Result:
    """Run a function on rank 0 and broadcast its result, which must be picklable.

    Raises:
        UserError: and anything else that the function raises, on rank 0; `OtherRankFailed` on the others.
    """
    results = [on_first(function)]
    torch.distributed.broadcast_object_list(results, src=0, device=torch.device("cpu"))
    return results[0]  # type: ignore[return-value]


def gathered(value: Result, group: torch.distributed.ProcessGroup | None = None) -> list[Result]:
    """The value of every rank, by rank; it must be picklable, and all ranks call this together."""
    values = [combined_on_first([value], operator.add, group)]
    torch.distributed.broadcast_object_list(values, src=0, group=group, device=torch.device("cpu"))
    return values[0]


def same_on_all(digest: bytes) -> bool:
    """Whether all ranks, which call this together, have the same bytes; their number must be the same."""
    own = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
    of_first = own.clone()
    torch.distributed.broadcast(of_first, src=0)
    same = torch.tensor(int(torch.equal(own, of_first)))
    torch.distributed.all_reduce(same, op=torch.distributed.ReduceOp.MIN)
    return bool(same)


class _Abandoned:
    """Whether this rank leaves the group without the others, and with which exit status."""

    status: int | None = None


def abandon(status: int) -> None:
    """This rank has failed: at exit it ends with `status` without leaving the group in order, if it is not alone.

    NCCL leaves, and also aborts, only after what is queued on the GPU, which may wait for this rank or a lost one.
    """
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        _Abandoned.status = status


@atexit.register
def disconnect() -> None:
    """Leave the process group, if any; only at exit, because DeepSpeed keeps using the group."""
    if _Abandoned.status is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_Abandoned.status)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _rendezvous(world: World) -> None:
    """Set MASTER_ADDR and MASTER_PORT if the launcher has not."""
    if "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        return
    address = (reachable(socket.gethostname(), os.environ) if world.size > 1 else "127.0.0.1", _free_port())
    if derived := slurm_rendezvous(world, os.environ):
        address = derived
    elif world.size > 1:
        try:
            address = broadcast(world, address)
        except UserError as error:
            raise UserError(f"{error}; or export MASTER_ADDR and MASTER_PORT of rank 0") from None
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address[0], str(address[1])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
