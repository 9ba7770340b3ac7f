"""The files of a checkpoint, and how to read one: every hash is verified before anything is loaded.

RUN/checkpoints/step_00001000/
    SHA256SUMS.json     sha256 of every other file, written last
    model.json          model config, normalisation, variables, step (metadata.py)
    weights.safetensors float32 weights for evaluation and fine-tuning (their moving average with train.ema_decay)
    training.json       training state needed to resume (training/state.py)
    deepspeed/          engine state of every rank, for resuming
RUN/checkpoints/latest  name of the newest checkpoint
RUN/checkpoints/best    name of the one with the lowest validation loss, if the run validates
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from climax_hpc.checkpoint import safetensors_file
from climax_hpc.checkpoint.metadata import CheckpointMetadata
from climax_hpc.errors import UserError
from climax_hpc.utils.files import read_json, sha256

SUMS, MODEL, WEIGHTS, TRAINING, ENGINE = (
    "SHA256SUMS.json", "model.json", "weights.safetensors", "training.json", "deepspeed",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint in memory, as evaluation, prediction and fine-tuning use it."""

    path: Path
    """Folder of the checkpoint, or file of `climax-hpc convert`."""
    metadata: CheckpointMetadata
    weights: dict[str, torch.Tensor]
    """State dict in float32, on the CPU."""
    transferred: dict[str, Any] | None = None
    """Report of `transfer.py` where the weights were transferred to another model config."""

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of the file that holds the weights."""
        return sha256(self.path if self.path.is_file() else self.path / WEIGHTS)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Args:
        path: run folder (its newest checkpoint), checkpoint folder, or file of `climax-hpc convert`.

    Raises:
        UserError: no checkpoint there, or a damaged one.
    """
    if Path(path).is_file():
        content, weights = safetensors_file.read(Path(path))
        return Checkpoint(path=Path(path), metadata=CheckpointMetadata.from_dict(content), weights=weights)
    folder = find(Path(path))
    verify(folder)
    metadata = CheckpointMetadata.read(folder / MODEL)
    return Checkpoint(path=folder, metadata=metadata, weights=load_file(folder / WEIGHTS))


def find(path: Path) -> Path:
    """The checkpoint folder for a run folder, a `checkpoints` folder or a checkpoint folder.

    Raises:
        UserError: no checkpoint there.
    """
    for folder in (path, path / "checkpoints"):
        if (folder / SUMS).is_file():
            return folder
        if (folder / "latest").is_file():
            return folder / (folder / "latest").read_text().strip()
    raise UserError(f"no checkpoint in {path}: give the run folder of a `climax-hpc pretrain` or finetune that has one")


def verify(folder: Path, *, part: int = 0, parts: int = 1) -> None:
    """Compare files with their recorded sha256: all of them, or every `parts`-th starting with number `part`.

    Raises:
        UserError: names the first file that is missing or differs.
    """
    sums = read_json(folder / SUMS, "the hashes of a climax_hpc checkpoint")
    for name, digest in list(sums.items())[part::parts]:
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            state = "differs from its sha256" if path.is_file() else "is missing"
            raise UserError(
                f"checkpoint file {path} {state}: the checkpoint is damaged; use an older one in {folder.parent}"
            )


def check_task(checkpoint: Checkpoint, task: str) -> None:
    """Check that a checkpoint was trained for a task; those without training metadata count as forecasts.

    Raises:
        UserError: names the checkpoint and both tasks.
    """
    trained = checkpoint.metadata.training.task if checkpoint.metadata.training else "forecast"
    if trained != task:
        raise UserError(
            f"checkpoint {checkpoint.path} was trained for task {trained}, not {task}: set task: {trained}, or "
            f"fine-tune it with task: {task} first"
        )
