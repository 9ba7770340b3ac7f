"""Checkpoint files: finding, verifying, stored keys of the metadata, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from climax_hpc.checkpoint.format import check_task, find, load_checkpoint, verify
from climax_hpc.checkpoint.metadata import CheckpointMetadata, TrainingMetadata, common_window
from climax_hpc.errors import UserError

from ..synthetic import write_checkpoint

TRAINING = TrainingMetadata(
    min_lead_hours=6, max_lead_hours=72, lead_step_hours=6,
    grid={"lat": [0.0], "lon": [0.0], "lat_bnds": [[-1.0, 1.0]], "lon_bnds": [[-1.0, 1.0]]},
)  # fmt: skip


@pytest.fixture
def checkpoint(make_dataset: Callable[..., Path], tmp_path: Path) -> Path:
    """Folder of a small checkpoint in tmp_path/run/checkpoints."""
    return write_checkpoint(tmp_path / "run" / "checkpoints", make_dataset(), mode="anomaly")


def test_found_by_run_folder_checkpoints_folder_or_its_own(checkpoint: Path) -> None:
    assert {find(path) for path in (checkpoint, checkpoint.parent, checkpoint.parent.parent)} == {checkpoint}
    with pytest.raises(UserError, match=r"no checkpoint in .*: give the run folder of a `climax-hpc pretrain`"):
        find(checkpoint / "deepspeed")


def test_stored_keys_are_those_of_the_format(checkpoint: Path) -> None:
    """Checkpoints of earlier versions have these keys."""
    metadata = replace(load_checkpoint(checkpoint).metadata, training=TRAINING)
    content = json.loads(json.dumps(metadata.to_dict()))
    assert list(content) == ["step", "model", "normalisation", "in_variables", "out_variables", "trained"]
    assert list(content["trained"]) == [
        "min_lead_hours", "max_lead_hours", "lead_step_hours", "grid", "region", "window_hours", "window_step_hours",
        "task",
    ]  # fmt: skip
    assert CheckpointMetadata.from_dict(content) == metadata


@pytest.mark.parametrize(("damage", "message"), [("missing", "is missing"), ("changed", "differs from its sha256")])
def test_damaged_files_are_refused(checkpoint: Path, damage: str, message: str) -> None:
    verify(checkpoint)
    weights = checkpoint / "weights.safetensors"
    if damage == "missing":
        weights.unlink()
    else:
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    with pytest.raises(UserError, match=f"weights.safetensors {message}: the checkpoint is damaged; use an older one"):
        load_checkpoint(checkpoint)


def test_parts_of_the_verification_cover_all_files(checkpoint: Path) -> None:
    (checkpoint / "model.json").write_text("{}")
    refused = 0
    for part in range(3):
        try:
            verify(checkpoint, part=part, parts=3)
        except UserError:
            refused += 1
    assert refused == 1


def test_another_task_is_refused(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    check_task(loaded, "forecast")  # no training metadata: a forecast
    with pytest.raises(UserError, match="was trained for task forecast, not downscaling: set task: forecast"):
        check_task(loaded, "downscaling")


def test_models_with_different_windows_are_refused() -> None:
    weekly = replace(TRAINING, window_hours=168, window_step_hours=6)
    assert common_window({"a": TRAINING, "b": None}) is None
    assert common_window({"a": weekly, "b": weekly}) == weekly.window
    with pytest.raises(UserError, match="'a' forecasts means over 168 h, 'b' forecasts instantaneous states"):
        common_window({"a": weekly, "b": TRAINING})


def test_weights_are_float32_on_the_cpu(checkpoint: Path) -> None:
    weights = load_checkpoint(checkpoint).weights
    assert {(tensor.dtype, tensor.device.type) for tensor in weights.values()} == {(torch.float32, "cpu")}
