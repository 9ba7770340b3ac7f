"""Resuming with another number of ranks or from an older checkpoint; damaged and partial checkpoints; full disks."""

import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from climax_hpc.checkpoint.format import find, load_checkpoint, verify
from climax_hpc.errors import UserError
from climax_hpc.model.climax import ClimaXNetwork
from climax_hpc.model.config import ModelConfig
from climax_hpc.training.state import TrainingState

from .conftest import cut, distance, losses, train_here
from .processes import Ranks, state

pytestmark = pytest.mark.slow

CASES = [(0, "float32", 0.9), (1, "bfloat16", 0.9), (2, "float32", 0.0), (3, "float32", 0.9)]


@pytest.mark.parametrize(
    ("kind", "cases"),
    [
        ("adamw", CASES),
        ("muon", [CASES[1], CASES[3]]),
        pytest.param("muon", [CASES[0], CASES[2]], marks=pytest.mark.exhaustive),
    ],
    ids=["adamw", "muon", "muon at the other stages"],
)
def test_one_two_one_ranks(
    settings: dict[str, Any], tmp_path: Path, kind: str, cases: list[tuple[int, str, float]]
) -> None:
    """Steps 1 to 4 on one rank, 5 to 8 on two, 9 to 12 on one, at every stage, against one rank throughout."""
    settings["train"] |= {"checkpoint_every": 4, "steps": 12, "keep_checkpoints": 3}
    settings["optimizer"] = {"lr": 1e-2, "end_lr": 1e-3, "warmup_steps": 2, "weight_decay": 0.1, "kind": kind}
    runs: dict[Path, dict[str, Any]] = {}
    for stage, precision, ema_decay in cases:
        whole, mixed = tmp_path / f"whole{stage}", tmp_path / f"mixed {stage} (a+b)"  # no regular expression
        train = settings["train"] | {"zero_stage": stage, "precision": precision, "ema_decay": ema_decay}
        train_here(settings | {"run_folder": str(whole), "train": train}, tmp_path)
        shutil.copytree(whole, mixed)
        cut(mixed, 4)
        runs[whole] = settings | {"run_folder": str(mixed), "train": train}
    with Ranks(*runs.values(), ranks=2) as ranks:
        statuses, _, errors = ranks.wait(timeout=900)
    assert statuses == [0, 0], errors
    for whole, run in runs.items():
        mixed = Path(run["run_folder"])
        assert TrainingState.read(find(mixed) / "training.json").ranks == 2
        on_two = losses(mixed)
        cut(mixed, 8)
        on_one = train_here(run, tmp_path)
        assert on_two == pytest.approx(losses(whole), rel=1e-3)
        assert on_one == pytest.approx(losses(whole), rel=1e-3)
        assert on_one[:8] == on_two[:8]
        assert distance(mixed, whole) < (1e-2 if run["train"]["precision"] == "bfloat16" else 1e-3)
        assert not list((mixed / "checkpoints").glob(".*"))


@pytest.mark.parametrize(
    ("stage", "precision"),
    [
        (0, "float32"),
        pytest.param(1, "bfloat16", marks=pytest.mark.exhaustive),  # the optimiser of stage 2
        (2, "bfloat16"),
        (3, "bfloat16"),
    ],
)
def test_moving_average_follows_the_masters(
    settings: dict[str, Any], tmp_path: Path, stage: int, precision: str
) -> None:
    train = {"steps": 4, "checkpoint_every": 1, "keep_checkpoints": 4, "zero_stage": stage, "precision": precision}
    settings["train"] |= train
    settings["optimizer"] = {"lr": 5e-2, "end_lr": 5e-2, "warmup_steps": 0}
    train_here(settings, tmp_path, "--run_folder", str(tmp_path / "raw"))
    train_here(settings | {"train": settings["train"] | {"ema_decay": 0.15}}, tmp_path)
    torch.manual_seed(0)
    expected = dict(ClimaXNetwork(ModelConfig(**settings["model"])).state_dict())
    for step in range(4):
        weights = load_checkpoint(tmp_path / "raw" / "checkpoints" / f"step_{step + 1:08d}").weights
        rate = 1 - min(0.15, (1 + step) / (10 + step))
        expected = {name: torch.lerp(expected[name], weights[name], rate) for name in weights}
    average = load_checkpoint(tmp_path / "run").weights
    for name, value in expected.items():
        torch.testing.assert_close(average[name], value, rtol=1e-6, atol=1e-7)
    assert distance(tmp_path / "run", tmp_path / "raw") > 1e-3


def test_damaged_checkpoint_names_the_one_to_use(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["train"] |= {"checkpoint_every": 2, "keep_checkpoints": 3}
    whole = train_here(settings, tmp_path)
    checkpoints = tmp_path / "run" / "checkpoints"
    for name in ("step_00000006", "step_00000004"):
        damaged = checkpoints / name / "weights.safetensors"
        content = bytearray(damaged.read_bytes())
        content[-1] ^= 1
        damaged.write_bytes(content)
    with pytest.raises(
        UserError, match=r"is damaged.*step_00000002 is intact: resume from it with --resume_from step_00000002"
    ):
        train_here(settings, tmp_path)
    assert train_here(settings, tmp_path, "--resume_from", "step_00000002") == whole
    verify(find(tmp_path / "run"))
    assert len(list(checkpoints.glob("step_*"))) == 3
    for folder in checkpoints.glob("step_*"):
        verify(folder)
    with pytest.raises(UserError, match=r"no checkpoint 'step_2'; .*it has step_00000002, .*, step_00000006"):
        train_here(settings, tmp_path, "--resume_from", "step_2")


def test_a_repeated_command_goes_back_once(settings: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    settings["train"] |= {"checkpoint_every": 2, "keep_checkpoints": 3}
    whole = train_here(settings, tmp_path)
    back = ("--resume_from", "step_00000002")
    assert train_here(settings, tmp_path, *back) == whole
    capsys.readouterr()
    train_here(settings, tmp_path, *back)
    out = capsys.readouterr().out
    assert "went back to step_00000002 before and resumes from step_00000006 now" in out
    assert "already finished after step 6" in out
    damaged = tmp_path / "run" / "checkpoints" / "step_00000006" / "weights.safetensors"
    whole_file = damaged.read_bytes()
    damaged.write_bytes(whole_file[:-1])
    (damaged.parent.parent / "step_00000004" / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"--resume_from step_00000002, after deleting .*/checkpoints/resumed_from"):
        train_here(settings, tmp_path, *back)
    damaged.write_bytes(whole_file)
    train_here(settings, tmp_path)  # a start without the key allows it again
    assert train_here(settings, tmp_path, *back) == whole
    assert "already finished" not in capsys.readouterr().out.splitlines()[-1]


def test_a_run_without_latest_resumes_from_its_newest_checkpoint(
    settings: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    settings["train"] |= {"checkpoint_every": 2, "keep_checkpoints": 3}
    whole = train_here(settings, tmp_path)
    (tmp_path / "run" / "checkpoints" / "latest").unlink()
    assert train_here(settings, tmp_path) == whole
    out = capsys.readouterr().out
    assert "latest is absent: the run resumes from step_00000006" in out
    assert "already finished after step 6" in out


@pytest.mark.parametrize("name", ["sweep [lr=1e-3]", "run*", "what?"])
def test_a_run_folder_with_wild_cards_is_refused(settings: dict[str, Any], tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"contains .*, which DeepSpeed takes for wild cards"):
        train_here(settings | {"run_folder": str(tmp_path / name)}, tmp_path)
    assert not (tmp_path / name).exists()


def test_no_intact_checkpoint_left(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["train"]["keep_checkpoints"] = 1
    train_here(settings, tmp_path)
    (tmp_path / "run" / "checkpoints" / "step_00000006" / "training.json").unlink()
    with pytest.raises(
        UserError, match=r"training.json is missing.*no older checkpoint is intact: restart with another"
    ):
        train_here(settings, tmp_path)


def test_old_and_half_written_checkpoints_are_removed(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["train"] |= {"steps": 4, "checkpoint_every": 1, "keep_checkpoints": 2}
    left = tmp_path / "run" / "checkpoints" / ".step_00000009.partial"
    train_here(settings | {"train": settings["train"] | {"steps": 4}}, tmp_path)
    cut(tmp_path / "run", 3)
    left.mkdir()
    (left / "junk").touch()
    train_here(settings, tmp_path)
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["latest", "step_00000003", "step_00000004"]


def test_disk_full_leaves_the_last_checkpoint(settings: dict[str, Any], tmp_path: Path) -> None:
    """A file-size limit that the checkpoint of step 6 exceeds, as on a full disk."""
    settings["train"]["steps"] = 8
    train_here(
        settings | {"train": settings["train"] | {"steps": 3}}, tmp_path, "--run_folder", str(tmp_path / "sized")
    )
    sizes = [path.stat().st_size for path in find(tmp_path / "sized").rglob("*") if path.is_file()]
    limit = max(sizes) - 1000
    fills_up = (
        "import climax_hpc.training.setup as s, resource\n"
        "write = s.save\n"
        "def full(*arguments, **options):\n"
        f"    limit = {limit} if options['state'].step == 6 else resource.RLIM_INFINITY\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    return write(*arguments, **options)\n"
        "s.save = full"
    )
    with Ranks(settings, preamble=fills_up) as ranks:
        statuses, _, errors = ranks.wait()
    assert statuses == [2], errors
    assert errors.startswith("climax-hpc: error: cannot write checkpoint ")
    assert "step_00000006 (" in errors
    assert "earlier checkpoints are intact; free space" in errors
    assert len(errors.strip().splitlines()) == 1
    run = tmp_path / "run"
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["latest", "step_00000003"]
    verify(find(run))
    assert state(run)["state"] == "failed"
    assert len(train_here(settings, tmp_path)) == 8  # with space again the run resumes
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY


def test_run_folder_that_cannot_be_written(settings: dict[str, Any], tmp_path: Path) -> None:
    """Root may write anywhere, so a file takes the place of a folder."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"run_folder: .*file is a file, so it cannot hold .*/run; choose another"):
        train_here(settings, tmp_path, "--run_folder", str(tmp_path / "file" / "run"))
