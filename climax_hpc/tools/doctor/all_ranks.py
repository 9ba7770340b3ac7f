"""Checks that all ranks of a launcher make together: sums over all nodes, and a folder that all nodes see and lock."""

import fcntl
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
import torch.distributed

from climax_hpc.distributed import process_group
from climax_hpc.distributed.launcher import World
from climax_hpc.errors import UserError
from climax_hpc.tools.doctor.all_reduce import Speed, WrongSumError, measure
from climax_hpc.tools.doctor.check_result import CheckResult, fail, ok, warn

_SLOW_BYTES_PER_SECOND = 1e8
_SECONDS_TO_SEE = 5.0
"""Network file systems show a new file to other nodes after some seconds."""
_INTERFACES = "set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the interface of the fast network"


def collectives(world: World) -> CheckResult:
    """Join all ranks, and sum 32 MiB over them on the CPU, and on the GPUs where there are any."""
    try:
        process_group.connect()
        devices = {"gloo": torch.device("cpu")}
        if torch.cuda.is_available():
            devices["nccl"] = process_group.device()
        speeds = {name: measure(device) for name, device in devices.items()}
    except (UserError, WrongSumError, RuntimeError) as error:
        return fail(f"{world.size} ranks of {world.launcher}: {error}", _INTERFACES)
    places = process_group.gathered((socket.gethostname(), _device_name()))
    return _result(world, places, speeds)


def have_met() -> bool:
    """True once `collectives` has joined the ranks."""
    return torch.distributed.is_initialized()


def _result(world: World, places: list[tuple[str, str]], speeds: dict[str, Speed]) -> CheckResult:
    nodes = len({host for host, _ in places})
    sums = ", ".join(f"{name} {speed}" for name, speed in speeds.items())
    found = f"{world.size} ranks of {world.launcher} on {_nodes(nodes)}, 32 MiB summed: {sums}"
    shared = [place for place, count in Counter(places).items() if count > 1 and place[1]]
    if shared:
        return warn(
            f"{found}; several ranks on {shared[0][0]} have the same GPU",
            "start one rank per GPU; if each rank sees one device only, check the launcher's binding of GPUs",
        )
    if min(speed.bytes_per_second for speed in speeds.values()) < _SLOW_BYTES_PER_SECOND:
        return warn(found, f"slow: {_INTERFACES}")
    return ok(found)


def _device_name() -> str:
    """What tells this rank's GPU from all others of its node; empty without a GPU."""
    if not torch.cuda.is_available():
        return ""
    number = torch.cuda.current_device()
    return str(getattr(torch.cuda.get_device_properties(number), "uuid", number))


def shared_folder(folder: Path) -> CheckResult:
    """Rank 0 writes and locks a file; every rank reads it and finds it locked. Needs `collectives` before."""
    first = torch.distributed.get_rank() == 0
    token, inside, error = secrets.token_hex(8), "", ""
    if first:
        try:
            inside = tempfile.mkdtemp(prefix=".climax-hpc-doctor-", dir=folder)
            descriptor = os.open(Path(inside, "file"), os.O_RDWR | os.O_CREAT)
            os.write(descriptor, token.encode())
            os.fsync(descriptor)
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as caught:
            error = f"{caught.strerror}"
    token, inside, error = process_group.from_first(lambda: (token, inside, error))
    seen = process_group.gathered((socket.gethostname(), "" if first or error else _look(Path(inside, "file"), token)))
    if first and inside:
        shutil.rmtree(inside, ignore_errors=True)
    if error:
        return fail(f"{folder}: {error}", "choose a writable folder on a file system that all nodes share")
    return _shared_result(folder, seen)


def _shared_result(folder: Path, seen: list[tuple[str, str]]) -> CheckResult:
    problems = {problem: sorted({host for host, p in seen if p == problem}) for _, problem in seen if problem}
    nodes = len({host for host, _ in seen})
    for problem, hosts in problems.items():
        where = f"{', '.join(hosts[:4])}{' …' if len(hosts) > 4 else ''}"
        if problem == "not locked":
            return warn(
                f"{folder}: a lock of the first node is not seen on {where}",
                "two commands with one output are not noticed across nodes: start one at a time; Lustre has such "
                "locks with the mount option flock",
            )
        return fail(f"{folder} on {where}: {problem}", "choose a folder on a file system that all nodes share")
    return ok(f"{folder.resolve()}: files and locks are seen on {_nodes(nodes)}")


def _look(file: Path, token: str) -> str:
    """What is wrong with the file as this rank sees it; empty if nothing."""
    end = time.monotonic() + _SECONDS_TO_SEE
    while True:
        try:
            with file.open("r+b") as opened:
                if opened.read().decode() == token:
                    fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return "not locked"
            problem = "another content"
        except (BlockingIOError, PermissionError):
            return ""
        except OSError as error:
            problem = str(error.strerror)
        if time.monotonic() > end:
            return problem
        time.sleep(0.2)


def _nodes(count: int) -> str:
    return f"{count} node{'' if count == 1 else 's'}"
