"""Several ranks give the losses of one, under torchrun and mpiexec, at every ZeRO stage."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import distance, losses, torchrun, train_here, train_ranks
from .processes import Ranks

pytestmark = pytest.mark.slow

MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
needs_mpi = pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec: install climax_hpc[mpi]")


@pytest.fixture
def quick(settings: dict[str, Any]) -> dict[str, Any]:
    """Six steps with many micro-batches and a high rate change the loss by far more than the number of ranks may."""
    settings["data"]["micro_batches_per_step"] = 4
    settings["optimizer"] = {"lr": 2e-2, "end_lr": 1e-3, "warmup_steps": 0}
    return settings


def test_settings_are_sensitive(quick: dict[str, Any], tmp_path: Path) -> None:
    learned = train_here(quick, tmp_path, "--run_folder", str(tmp_path / "learned"))
    idle = train_here(quick, tmp_path, "--run_folder", str(tmp_path / "idle"), "--optimizer.lr", "1e-3")
    assert abs(learned[-1] - idle[-1]) > 1e-3 * idle[-1]
    assert distance(tmp_path / "learned", tmp_path / "idle") > 0.05


def test_two_ranks_of_torchrun_agree_with_one(quick: dict[str, Any], tmp_path: Path) -> None:
    """At every stage, one after the other in the same two processes."""
    alone = train_here(quick, tmp_path, "--run_folder", str(tmp_path / "alone"))
    stages = {tmp_path / f"stage{stage}": quick["train"] | {"zero_stage": stage} for stage in range(4)}
    done = train_ranks(
        torchrun(2), [quick | {"run_folder": str(run), "train": stages[run]} for run in stages], tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for run in stages:
        # Only the order of the sum over micro-batches differs: a few float32 roundings a step, which Adam enlarges in
        # weights whose gradient is close to zero.
        assert losses(run) == pytest.approx(alone, rel=1e-5)
        assert distance(run, tmp_path / "alone") < 1e-3


@pytest.mark.mpi
@needs_mpi
def test_two_ranks_of_mpiexec_agree_with_one(quick: dict[str, Any], tmp_path: Path) -> None:
    assert MPIEXEC
    quick["model"]["dropout"] = 0.1  # dropout depends on the micro-batch, not on the rank
    done = train_ranks([MPIEXEC, "-n", "2", sys.executable], [quick], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    alone = train_here(quick, tmp_path, "--run_folder", str(tmp_path / "alone"))
    assert losses(tmp_path / "run") == pytest.approx(alone, rel=1e-5)


def test_bfloat16_with_float32_masters_is_close_to_float32(quick: dict[str, Any], tmp_path: Path) -> None:
    alone = train_here(quick, tmp_path, "--run_folder", str(tmp_path / "float32"))
    for stage in (1, 2, 3):
        run = tmp_path / f"stage{stage}"
        words = ("--train.precision", "bfloat16", "--train.zero_stage", str(stage), "--run_folder", str(run))
        # bfloat16 has 8 bits: 0.4 % a product, averaged over many.
        assert train_here(quick, tmp_path, *words) == pytest.approx(alone, rel=1e-2), stage
        # An optimiser that does nothing is 0.3 away.
        assert distance(run, tmp_path / "float32") < 0.1, stage


def test_bfloat16_starts_from_the_unrounded_weights(quick: dict[str, Any], tmp_path: Path) -> None:
    train_here(quick, tmp_path, "--run_folder", str(tmp_path / "start"))
    still = quick | {"optimizer": {"lr": 1e-30, "end_lr": 0.0, "warmup_steps": 0}}
    for stage in (1, 3):
        run = tmp_path / f"stage{stage}"
        words = ("--train.precision", "bfloat16", "--train.zero_stage", str(stage), "--run_folder", str(run))
        train_here(still, tmp_path, "--checkpoint", str(tmp_path / "start"), *words, verb="finetune")
        assert distance(run, tmp_path / "start") == 0, stage


def test_rank_count_that_does_not_divide_the_micro_batches(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["data"]["micro_batches_per_step"] = 3
    with Ranks(settings, ranks=2) as ranks:
        statuses, _, errors = ranks.wait()
    assert statuses == [2, 2]
    assert "2 ranks cannot share data.micro_batches_per_step = 3 micro-batches evenly: set data." in errors
    assert not (tmp_path / "run").exists()


def test_no_rank_waits_for_one_that_refuses(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    with Ranks(settings, ranks=2) as ranks:
        statuses, _, errors = ranks.wait(timeout=60)
    assert 0 not in statuses
    assert errors.count("climax-hpc: error: ") == 1
    assert "Traceback" not in errors


@pytest.mark.mpi
@needs_mpi
def test_no_rank_of_mpiexec_waits_for_one_that_refuses(settings: dict[str, Any], tmp_path: Path) -> None:
    assert MPIEXEC
    train_here(settings, tmp_path)
    (tmp_path / "run" / "checkpoints" / "step_00000006" / "model.json").write_text("{}")
    done = train_ranks([MPIEXEC, "-n", "2", sys.executable], [settings], tmp_path, timeout=60)
    assert done.returncode != 0
    assert done.stderr.count("climax-hpc: error: ") == 1
    assert "Traceback" not in done.stderr
