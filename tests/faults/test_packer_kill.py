"""kill -9 of the packer at random times: the next run writes the bytes of an uninterrupted one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from climax_hpc.data_prep.verify import verify
from climax_hpc.utils.folder_lock import LOCK

from ..data_prep.conftest import six_hourly, write_cmip6
from ..data_prep.packed import digests

MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
SETTINGS = "dict(grid_spacing_deg=22.5, steps_per_shard=4, train_period=['1850-01-01', '1850-01-08'])"
# Imports everything, then packs in forked children, so that kills hit the packing and not the start of Python.
KILLER = f"""
import os, random, shutil, signal, sys, time
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.sources.conversions import conversion
conversion("tas", "degC", "")

def packing(output):
    child = os.fork()
    if not child:
        sys.stdout = open(os.devnull, "w")
        pack(PackConfig(input=sys.argv[1], output=output, **{SETTINGS}))
        os._exit(0)
    return child

start = time.monotonic()
assert os.waitpid(packing(sys.argv[2]), 0)[1] == 0
whole = time.monotonic() - start
chance = random.Random(int(sys.argv[3]))
for output in sys.argv[4:]:
    for _ in range(50):
        child = packing(output)
        time.sleep(chance.uniform(0, whole))
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == signal.SIGKILL:
            break
        shutil.rmtree(output)  # it had finished before the kill
    else:
        sys.exit("fifty packs finished before their kill")
"""
RUN = f"""
import sys
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
for output in sys.argv[2:]:
    pack(PackConfig(input=sys.argv[1], output=output, **{SETTINGS}))
"""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two sources of 40 six-hourly steps, tas and psl, on a 15° grid."""
    for source in ("A", "B"):
        for variable_id in ("tas", "psl"):
            write_cmip6(tmp_path / "in", variable_id, source=source, times=six_hourly(40))
    return tmp_path / "in"


def run(script: str, *arguments: object) -> None:
    """Run a Python script that must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


def check_whole_files(output: Path, undisturbed: dict[str, str]) -> None:
    """Every file under its final name after a kill has the bytes of an uninterrupted run."""
    for name, digest in digests(output).items() if output.exists() else ():
        if name in undisturbed:
            assert digest == undisturbed[name]
        else:
            own = name.endswith(".tmp") or name in ("pack_state.json", LOCK) or name.startswith(".first_pass/")
            assert own, name


def spoil(output: Path, rng: np.random.Generator) -> None:
    """Flip a bit in one finished shard and in every record of the first pass."""
    shards = sorted(output.glob("*/*.h5"))
    for path in [*shards[:1], *(p for p in (output / ".first_pass").rglob("*") if p.is_file())]:
        content = bytearray(path.read_bytes())
        if content:
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
            path.write_bytes(bytes(content))


def kill_and_go_on(raw: Path, root: Path, kills: int, seed: int) -> None:
    outputs = [root / f"killed{i}" for i in range(kills)]
    run(KILLER, raw, root / "undisturbed", seed, *outputs)
    undisturbed = digests(root / "undisturbed")
    assert len(undisturbed) == 2 * (10 + 1 + 1) + 1  # shards, climatology and static fields; the manifest
    rng = np.random.default_rng(seed)
    for i, output in enumerate(outputs):
        check_whole_files(output, undisturbed)
        if i % 2:
            spoil(output, rng)
    run(RUN, raw, *outputs)
    for output in outputs:
        assert digests(output) == undisturbed
        verify(output)


def test_three_kills_at_random_times(raw: Path, tmp_path: Path) -> None:
    kill_and_go_on(raw, tmp_path, kills=3, seed=1)


@pytest.mark.faults
@pytest.mark.parametrize("seed", [2, 3])
def test_twenty_kills_at_random_times(raw: Path, tmp_path: Path, seed: int) -> None:
    kill_and_go_on(raw, tmp_path, kills=20, seed=seed)


@pytest.mark.faults
@pytest.mark.mpi
@pytest.mark.skipif(MPIEXEC is None, reason="mpiexec is not installed")
def test_kills_of_all_ranks_in_a_row(raw: Path, tmp_path: Path) -> None:
    run(RUN, raw, tmp_path / "undisturbed")
    undisturbed, output = digests(tmp_path / "undisturbed"), tmp_path / "out"
    rng = np.random.default_rng(0)
    command = [MPIEXEC, "-n", "3", sys.executable, "-c", RUN, str(raw), str(output)]
    for _ in range(8):
        job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)  # type: ignore[arg-type]
        deadline = time.monotonic() + 60
        while not (output / "pack_state.json").exists() and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.5))
        killed = job.poll() is None
        if killed:
            os.killpg(job.pid, signal.SIGKILL)
        job.wait(60)
        check_whole_files(output, undisturbed)
        if not killed:
            break
    if not (output / "manifest.json").exists() or (output / "pack_state.json").exists():
        assert subprocess.run(command, timeout=120, capture_output=True).returncode == 0  # type: ignore[arg-type]
    assert digests(output) == undisturbed
