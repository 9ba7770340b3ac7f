"""Packing under mpiexec: the same bytes as one process; an error or crash on one rank ends all, without a hang."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.packing.output_folder import STATE

from .packed import digests

MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
pytestmark = [
    pytest.mark.mpi, pytest.mark.slow, pytest.mark.skipif(MPIEXEC is None, reason="mpiexec is not installed"),
]  # fmt: skip
Settings = Callable[..., PackConfig]

SCRIPT = """
import os, sys
from climax_hpc.data_prep import pack
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.errors import UserError
real, mode = pack.write_work_unit, sys.argv[3]
def write_work_unit(context, unit, header):
    if mode != "sound" and unit.start == 4 and os.environ["PMI_RANK"] != "0":
        if mode == "killed":
            os.kill(os.getpid(), 9)
        raise RuntimeError("a bug")
    return real(context, unit, header)
pack.write_work_unit = write_work_unit
try:
    settings = dict(grid_spacing_deg=22.5, dtype="float32", steps_per_shard=2)
    pack.pack(PackConfig(input=sys.argv[1], output=sys.argv[2], **settings))
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
"""


def under_mpi(ranks: int, root: Path, output: Path, mode: str = "sound") -> subprocess.CompletedProcess[str]:
    """Pack on several ranks."""
    command = [MPIEXEC, "-n", str(ranks), sys.executable, "-c", SCRIPT, str(root), str(output), mode]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)  # type: ignore[arg-type]


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.exhaustive), 3])
def test_any_number_of_ranks_gives_the_same_bytes(cmip6: Any, settings: Settings, tmp_path: Path, ranks: int) -> None:
    for source in ("A", "B"):
        cmip6("tas", source=source, times=cmip6.six_hourly(20))
        cmip6("ta", source=source, times=cmip6.six_hourly(20), plev_hpa=[850, 500])
    alone = digests(pack(settings(steps_per_shard=2)).parent)
    assert len(alone) == 2 * (10 + 2) + 1
    done = under_mpi(ranks, cmip6.root, tmp_path / "ranks")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("packed 2 sources") == 1
    assert digests(tmp_path / "ranks") == alone


def test_invalid_input_on_one_rank_is_reported_once_and_ends_all(cmip6: Any, tmp_path: Path) -> None:
    cmip6("tas", source="A", times=cmip6.six_hourly(20))
    path: Path = cmip6("tas", source="B", times=cmip6.six_hourly(20), chunks=(1, 12, 24))
    cmip6.damage(path, "tas", 15)
    done = under_mpi(2, cmip6.root, tmp_path / "out")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "tas_6hr" in errors[0]
    assert "download it again" in errors[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["raises", "killed"])
def test_a_crash_on_one_rank_ends_all_and_the_next_run_resumes(
    cmip6: Any, settings: Settings, tmp_path: Path, mode: str
) -> None:
    cmip6("tas", times=cmip6.six_hourly(20))
    output = tmp_path / "again"
    for _ in range(5):  # any free rank takes the work unit; rank 0 does not fail
        done = under_mpi(3, cmip6.root, output, mode)
        if done.returncode:
            break
        shutil.rmtree(output)
    else:
        pytest.skip("rank 0 took the failing unit five times")
    assert (output / STATE).exists()
    assert mode == "killed" or "a bug" in done.stderr
    if mode == "killed":
        pack(settings(steps_per_shard=2, output=str(output)))  # one process goes on
    else:
        assert under_mpi(2, cmip6.root, output).returncode == 0
    assert digests(output) == digests(pack(settings(steps_per_shard=2)).parent)
