"""Pretraining in one process: the loss falls, a resumed run gives the same bits, the run folder is complete."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from climax_hpc.checkpoint.format import load_checkpoint

from .conftest import train_here


def test_loss_falls(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["train"] |= {"steps": 60, "ema_decay": 0.9}
    settings["data"] |= {"random_roll": True, "random_flip": True, "max_lead_hours": 6}
    settings["model"]["output_mode"] = "full"
    values = train_here(settings, tmp_path)
    assert sum(values[-10:]) < 0.9 * sum(values[:10])


def test_run_folder_is_complete(settings: dict[str, Any], tmp_path: Path) -> None:
    train_here(settings, tmp_path)
    run = tmp_path / "run"
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written["model"]["embed_dim"] == 16
    assert written["optimizer"]["betas"] == [0.9, 0.95]
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["packages"]["torch"] == torch.__version__
    assert len(provenance["manifest_sha256"]) == 64
    assert list((run / "tensorboard").iterdir())
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["latest", "step_00000003", "step_00000006"]
    pretrained = load_checkpoint(run)
    assert pretrained.metadata.step == 6
    assert pretrained.metadata.config.variables == tuple(settings["model"]["variables"])


@pytest.mark.parametrize(
    ("stage", "precision", "ema_decay"),
    [
        pytest.param(0, "float32", 0.0, marks=pytest.mark.exhaustive),
        (0, "float32", 0.9),
        (1, "float32", 0.9),
        (2, "bfloat16", 0.0),
        (3, "bfloat16", 0.0),
    ],
)
def test_resume_gives_the_same_bits(
    settings: dict[str, Any], tmp_path: Path, stage: int, precision: str, ema_decay: float
) -> None:
    settings["model"]["dropout"] = 0.1
    settings["train"] |= {"zero_stage": stage, "precision": precision, "ema_decay": ema_decay}
    whole = train_here(settings, tmp_path)
    checkpoints = tmp_path / "run" / "checkpoints"
    final = load_file(checkpoints / "step_00000006" / "weights.safetensors")

    shutil.rmtree(checkpoints / "step_00000006")
    (checkpoints / "latest").write_text("step_00000003\n")
    assert train_here(settings, tmp_path) == whole
    again = load_file(checkpoints / "step_00000006" / "weights.safetensors")
    assert all(torch.equal(again[name], final[name]) for name in final)


def test_finished_run_is_not_changed(settings: dict[str, Any], tmp_path: Path) -> None:
    whole = train_here(settings, tmp_path)
    assert train_here(settings, tmp_path) == whole


def test_finetuning_starts_from_the_checkpoint(settings: dict[str, Any], tmp_path: Path) -> None:
    train_here(settings, tmp_path)
    # A rate too small to change a float32: what comes out is what went in.
    tuned = settings | {"optimizer": {"lr": 1e-30, "end_lr": 0.0, "warmup_steps": 0}}
    tuned["data"] = settings["data"] | {"sources": ["A"]}
    folder = str(tmp_path / "tuned")
    train_here(tuned, tmp_path, "--run_folder", folder, "--checkpoint", settings["run_folder"], verb="finetune")
    before, after = load_checkpoint(settings["run_folder"]), load_checkpoint(folder)
    assert all(torch.equal(before.weights[name], after.weights[name]) for name in before.weights)
    assert after.metadata.normalisation == before.metadata.normalisation


def test_finetuning_without_checkpoint_starts_at_random(settings: dict[str, Any], tmp_path: Path) -> None:
    pretrained = train_here(settings, tmp_path)
    scratch = train_here(settings, tmp_path, "--run_folder", str(tmp_path / "scratch"), verb="finetune")
    assert scratch == pretrained


@pytest.mark.parametrize("stage", [0, 3])
def test_activation_checkpointing_gives_the_same_bits(settings: dict[str, Any], tmp_path: Path, stage: int) -> None:
    settings["model"] |= {"dropout": 0.1, "drop_path": 0.3}
    settings["train"]["zero_stage"] = stage
    plain = train_here(settings, tmp_path)
    words = ("--run_folder", str(tmp_path / "recomputed"), "--model.activation_checkpointing", "true")
    assert train_here(settings, tmp_path, *words) == plain
    assert torch.nn.functional.linear is torch._C._nn.linear  # DeepSpeed's stage 3 exchanges it


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("stage", "precision", "tolerance"), [(0, "float32", 1e-5), (2, "float32", 1e-5), (1, "bfloat16", 2e-2)]
)
def test_compiled_blocks_give_the_same_losses(
    settings: dict[str, Any], tmp_path: Path, stage: int, precision: str, tolerance: float
) -> None:
    settings["train"] |= {"zero_stage": stage, "precision": precision}
    settings["model"]["activation_checkpointing"] = stage == 1
    plain = train_here(settings, tmp_path)
    words = ("--run_folder", str(tmp_path / "compiled"), "--train.compile", "true")
    # Fused operations round differently.
    assert train_here(settings, tmp_path, *words) == pytest.approx(plain, rel=tolerance)
    weights = [load_checkpoint(tmp_path / name).weights for name in ("run", "compiled")]
    assert weights[0].keys() == weights[1].keys()
