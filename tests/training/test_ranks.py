"""Several ranks train on the same global batches as one, under torchrun and mpiexec, at every ZeRO stage."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import losses, torchrun, train_here, train_ranks

MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_of_torchrun_agree_with_one(settings: dict[str, Any], tmp_path: Path, stage: int) -> None:
    settings["train"]["zero_stage"] = stage
    done = train_ranks(torchrun(2), settings, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    settings["train"]["zero_stage"] = 0
    alone = train_here(settings, tmp_path, "--run_folder", str(tmp_path / "alone"))
    # Only the order of the sum over groups differs: a few float32 roundings a step.
    assert losses(tmp_path / "run") == pytest.approx(alone, rel=1e-5)


@pytest.mark.mpi
@pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec: install climax_hpc[mpi]")
def test_two_ranks_of_mpiexec_agree_with_one(settings: dict[str, Any], tmp_path: Path) -> None:
    assert MPIEXEC
    settings["model"]["dropout"] = 0.1  # dropout depends on the group, not on the rank
    done = train_ranks([MPIEXEC, "-n", "2", sys.executable], settings, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    alone = train_here(settings, tmp_path, "--run_folder", str(tmp_path / "alone"))
    assert losses(tmp_path / "run") == pytest.approx(alone, rel=1e-5)


def test_bfloat16_with_float32_masters_learns_alike(settings: dict[str, Any], tmp_path: Path) -> None:
    alone = train_here(settings, tmp_path, "--run_folder", str(tmp_path / "float32"))
    low = train_here(settings, tmp_path, "--train.precision", "bfloat16", "--train.zero_stage", "1")
    # bfloat16 has 8 bits: 0.4 % a product, averaged over many.
    assert low == pytest.approx(alone, rel=2e-2)


def test_rank_count_that_does_not_divide_the_groups(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["data"]["groups_per_step"] = 3
    done = train_ranks(torchrun(2), settings, tmp_path)
    assert done.returncode != 0
    assert "2 ranks cannot share 3 groups evenly: set data.groups_per_step to a multiple of 2" in done.stderr
    assert not (tmp_path / "run").exists()
