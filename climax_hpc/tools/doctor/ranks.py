"""Checks for multi-process runs: host name, MPI, Slurm, collectives between ranks."""

import json
import os
import shutil
import socket
import sys
from pathlib import Path

from climax_hpc.tools.doctor.check_result import CheckResult, fail, last_line, ok, output_of, warn

# One write: with PYTHONUNBUFFERED, print writes in pieces, and the lines of two ranks mix.
_MPI = """
import sys
from mpi4py import MPI
version = " ".join(MPI.Get_library_version().splitlines()[0].split(",")[0].split())
sys.stdout.write(f"rank {MPI.COMM_WORLD.allreduce(1)} {version}\\n")
"""
_SLOW_BYTES_PER_SECOND = 1e8


def host_name() -> CheckResult:
    """Other ranks connect to rank 0 by its host name, so the name must resolve."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        return fail(
            f"{name} has no address ({error})", "add it to /etc/hosts or DNS, or export MASTER_ADDR and MASTER_PORT"
        )
    return ok(f"{name} is {address}")


def mpi(limit: float) -> CheckResult:
    """Two ranks started by mpiexec see each other through mpi4py."""
    command = shutil.which("mpiexec")
    if command is None:
        return warn(
            "no mpiexec on PATH",
            "packing runs in one process then; activate the environment, load the site's MPI module, or "
            "pip install 'climax_hpc[mpi]'",
        )
    status, text = output_of([command, "-n", "2", sys.executable, "-c", _MPI], limit)
    lines = [line for line in text.splitlines() if line.startswith("rank ")]
    if status != 0 or not lines:
        found = "no result in time" if status is None else last_line(text)
        return fail(f"mpiexec -n 2: {found}", "build mpi4py against this MPI: pip install --no-binary mpi4py mpi4py")
    seen = lines[0].split(maxsplit=2)
    if seen[1] != "2" or len(lines) != 2:
        return fail(
            f"mpiexec starts 2 ranks, mpi4py sees {seen[1]}",
            "mpi4py was built for another MPI: use its mpiexec, or pip install --no-binary mpi4py mpi4py",
        )
    return ok(f"2 ranks, {seen[2]}, {command}")


def slurm(limit: float) -> CheckResult:
    """Slurm's commands are installed, and its controller responds."""
    absent = [name for name in ("sbatch", "srun", "sinfo", "scontrol") if shutil.which(name) is None]
    if len(absent) == 4:
        return warn("no Slurm on this machine", "launch with torchrun or mpiexec, or log in to a node that has sbatch")
    if absent:
        return fail(f"{', '.join(absent)} not on PATH", "install the whole Slurm client, or load its module")
    status, text = output_of(["sinfo", "--noheader", "--Node", "--format=%P %N %t"], limit)
    if "configuration source" in text:
        return warn("Slurm is installed but not configured", "set SLURM_CONF, or launch on a node of the cluster")
    if status != 0:
        found = "no result in time" if status is None else last_line(text)
        return fail(f"sinfo: {found}", "ask the site's support: slurmctld is down, or this host is not configured")
    partitions = [line.split() for line in text.splitlines() if len(line.split()) == 3]
    # A node may be in several partitions.
    usable = {node for _, node, state in partitions if state.rstrip("*") in ("idle", "mix", "alloc", "comp")}
    if not usable:
        return warn("no node is up in any partition", "wait, or see the reasons with `sinfo -R`")
    return ok(f"{len({name for name, _, _ in partitions})} partitions, {len(usable)} nodes up")


def collectives(limit: float) -> CheckResult:
    """Two ranks all-reduce 32 MiB with gloo, and with NCCL or RCCL if there are two GPUs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = str(Path(__file__).with_name("rank_probe.py"))
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment |= {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    status, text = output_of([sys.executable, script], limit, environment)
    if status != 0:
        found = "no result in time" if status is None else last_line(text)
        return fail(
            f"two ranks: {found}",
            "a firewall on the loopback device or a broken torch: try `python -m torch.distributed.run --standalone "
            "--nproc_per_node 2`, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME",
        )
    speeds = json.loads(text.splitlines()[0])
    found = ", ".join(f"{backend} {speed / 1e9:.2f} GB/s" for backend, speed in speeds.items())
    if min(speeds.values()) < _SLOW_BYTES_PER_SECOND:
        return warn(f"all-reduce of 32 MiB between two ranks: {found}", "the machine is busy, or the network is slow")
    return ok(f"all-reduce of 32 MiB between two ranks: {found}")
