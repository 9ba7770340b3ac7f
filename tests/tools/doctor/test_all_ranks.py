"""The doctor under a launcher: sums over all ranks, and a folder that all nodes see, with real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from climax_hpc.distributed.launcher import World
from climax_hpc.tools.doctor import all_ranks
from climax_hpc.tools.doctor.all_reduce import Speed

MPIEXEC = Path(sys.executable).with_name("mpiexec")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.mpi,
    pytest.mark.skipif(not MPIEXEC.exists(), reason="no mpiexec beside python: climax_hpc[mpi]"),
]
_CHECKS = """
import sys
from pathlib import Path
from climax_hpc.distributed.launcher import detect
from climax_hpc.tools.doctor import all_ranks
world = detect()
results = [all_ranks.collectives(world), *(all_ranks.shared_folder(Path(folder)) for folder in sys.argv[1:])]
for result in results:
    if world.is_first:
        print(result.status, result.found, "->", result.fix)
"""
# A process whose /mnt is its own, in its own namespaces and with its own host name: another node.
_ELSEWHERE = 'hostname elsewhere && mount -t tmpfs tmpfs "$1" && shift && exec "$@"'


def checks(*folders: Path, elsewhere: bool = False) -> list[str]:
    """What rank 0 finds; `elsewhere`: rank 1 is on another node, which has another folder in place of the first."""
    python = [sys.executable, "-c", _CHECKS, *map(str, folders)]
    apart = ["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", _ELSEWHERE, "-", str(folders[0])]
    command = [str(MPIEXEC), "-n", "1", *python, ":", "-n", "1", *(apart if elsewhere else []), *python]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_ranks_of_one_node(tmp_path: Path) -> None:
    ranks, folder, absent = checks(tmp_path, tmp_path / "absent")
    assert "2 ranks of MPICH on 1 node, 32 MiB summed: gloo" in ranks
    assert ranks.split()[0] in ("ok", "warn")  # a busy machine is slow
    assert folder == f"ok {tmp_path}: files and locks are seen on 1 node -> "
    assert absent.startswith(f"fail {tmp_path / 'absent'}: No such file or directory")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="a node of its own needs root")
def test_a_folder_that_another_node_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks, folder = checks(tmp_path, elsewhere=True)
    assert "2 ranks of MPICH on 2 nodes" in ranks
    assert folder.startswith(f"fail {tmp_path} on elsewhere: No such file or directory -> choose a folder")


def test_locks_that_do_not_reach_other_nodes(tmp_path: Path) -> None:
    result = all_ranks._shared_result(tmp_path, [("a", ""), ("b", "not locked"), ("c", "not locked")])
    assert result.status == "warn"
    assert "a lock of the first node is not seen on b, c" in result.found
    assert "mount option flock" in result.fix


def test_ranks_that_share_a_gpu_and_slow_networks() -> None:
    world, fast = World(size=2, launcher="Slurm"), {"nccl": Speed(seconds=1e-3, latency=1e-5)}
    assert all_ranks._result(world, [("a", "0"), ("a", "1")], fast).status == "ok"
    assert all_ranks._result(world, [("a", "0"), ("b", "0")], fast).status == "ok"
    assert "ranks on a have the same GPU" in all_ranks._result(world, [("a", "0"), ("a", "0")], fast).found
    slow = all_ranks._result(world, [("a", ""), ("a", "")], {"gloo": Speed(seconds=1.0, latency=1e-2)})
    assert (slow.status, "0.03 GB/s" in slow.found) == ("warn", True)
