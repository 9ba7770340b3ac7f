"""What a checkpoint is, and how it is read: verified before anything is loaded.

RUN/checkpoints/step_00001000/
    SHA256SUMS.json     every other file with its sha256, written last
    model.json          ModelConfig, normalisation, step
    weights.safetensors float32 weights for evaluation and fine-tuning (their moving average where there is one)
    training.json       what a run must remember to go on (state.py)
    deepspeed/          engine state of every rank, for resuming
RUN/checkpoints/latest  name of the newest one
RUN/checkpoints/best    name of the one with the lowest validation loss, where there is validation
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from climax_hpc.checkpoint import safetensors_file
from climax_hpc.checkpoint.metadata import Trained
from climax_hpc.config.parser import to_dict
from climax_hpc.config.renamed_keys import translate
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.errors import UserError
from climax_hpc.model.config import ModelConfig
from climax_hpc.utils.files import read_json, sha256

SUMS, MODEL, WEIGHTS, TRAINING, ENGINE = (
    "SHA256SUMS.json", "model.json", "weights.safetensors", "training.json", "deepspeed",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class About:
    """What is known of a model beside its weights."""

    step: int
    config: ModelConfig
    normalisation: Normalisation
    in_variables: tuple[str, ...]
    """Registry names that it was fed with in training."""
    out_variables: tuple[str, ...]
    """Registry names that it was trained to forecast."""
    trained: Trained | None = None
    """Lead times and grid of the training; None for checkpoints that do not say (converted ones)."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "step": self.step,
            "model": to_dict(self.config),
            "normalisation": self.normalisation.to_dict(),
            "in_variables": list(self.in_variables),
            "out_variables": list(self.out_variables),
            "trained": self.trained.to_dict() if self.trained else None,
        }

    @classmethod
    def read(cls, path: Path) -> "About":
        """From model.json."""
        return cls.from_dict(read_json(path, "the model description of a climax_hpc checkpoint"))

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "About":
        """Inverse of `to_dict`."""
        return cls(
            step=content["step"],
            config=ModelConfig(**translate(content["model"], "model")),
            normalisation=Normalisation.from_dict(content["normalisation"]),
            in_variables=tuple(content["in_variables"]),
            out_variables=tuple(content["out_variables"]),
            trained=Trained.from_dict(content.get("trained")),
        )


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What evaluation and fine-tuning need of a checkpoint."""

    path: Path
    about: About
    weights: dict[str, torch.Tensor]
    transferred: dict[str, Any] | None = None
    """What `transfer.py` took from the file and what it made anew; None where the weights are as they were."""

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of the file that the weights were read from."""
        return sha256(self.path if self.path.is_file() else self.path / WEIGHTS)


def find(path: Path) -> Path:
    """The checkpoint folder meant by a run folder, a `checkpoints` folder or a checkpoint folder.

    Raises:
        UserError: there is none.
    """
    for folder in (path, path / "checkpoints"):
        if (folder / SUMS).is_file():
            return folder
        if (folder / "latest").is_file():
            return folder / (folder / "latest").read_text().strip()
    raise UserError(f"no checkpoint in {path}: give a run folder of `climax-hpc pretrain` or finetune that has one")


def verify(folder: Path, *, part: int = 0, parts: int = 1) -> None:
    """Compare every file with its recorded sha256, or every `parts`-th from number `part` on.

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


def check_task(checkpoint: Pretrained, task: str) -> None:
    """Refuse a checkpoint that was trained for another task; one that does not say was trained to forecast.

    Raises:
        UserError: names the checkpoint and both tasks.
    """
    trained = checkpoint.about.trained.task if checkpoint.about.trained else "forecast"
    if trained != task:
        raise UserError(
            f"checkpoint {checkpoint.path} was trained for task {trained}, not {task}: set task: {trained}, or "
            f"fine-tune it with task: {task} first"
        )


def load_pretrained(path: str | Path) -> Pretrained:
    """Weights, model config and normalisation of a verified checkpoint, or of a file of `climax-hpc convert`."""
    if Path(path).is_file():
        content, weights = safetensors_file.read(Path(path))
        return Pretrained(path=Path(path), about=About.from_dict(content), weights=weights)
    folder = find(Path(path))
    verify(folder)
    return Pretrained(path=folder, about=About.read(folder / MODEL), weights=load_file(folder / WEIGHTS))
