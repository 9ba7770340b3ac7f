"""Checkpoints that are whole or absent: written aside, hashed, renamed; verified before anything is loaded.

RUN/checkpoints/step_00001000/
    SHA256SUMS.json     every other file with its sha256, written last
    model.json          ModelConfig, normalisation, step
    weights.safetensors float32 weights for evaluation and fine-tuning (their moving average where there is one)
    deepspeed/          engine state of every rank, for resuming
RUN/checkpoints/latest  name of the newest one
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import load_file, save_file

from climax_hpc import dist
from climax_hpc.arguments import to_dict
from climax_hpc.data.normalisation import Normalisation
from climax_hpc.ema import Ema
from climax_hpc.engine import full_weights
from climax_hpc.errors import UserError
from climax_hpc.files import read_json, sha256, sync, write_json, write_text
from climax_hpc.model.config import ModelConfig
from climax_hpc.trained import Trained

_SUMS, _MODEL, _WEIGHTS, _ENGINE = "SHA256SUMS.json", "model.json", "weights.safetensors", "deepspeed"


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
        content = read_json(path, "the model description of a climax_hpc checkpoint")
        return cls(
            step=content["step"],
            config=ModelConfig(**content["model"]),
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


def save(folder: Path, *, engine: Any, ema: Ema | None, about: About, keep: int) -> None:
    """Write `folder`/step_…, point `latest` at it, drop all but the newest `keep`; called by all ranks together."""
    target = folder / f"step_{about.step:08d}"
    partial = folder / f".{target.name}.partial"
    dist.on_first(lambda: _make_anew(partial))
    engine.save_checkpoint(str(partial), tag=_ENGINE, save_latest=False, client_state={"step": about.step})
    weights = ema.weights() if ema else full_weights(engine)

    def publish() -> None:
        save_file(weights, partial / _WEIGHTS)
        write_json(partial / _MODEL, about.to_dict())
        _seal(partial)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
        sync(folder)
        write_text(folder / "latest", target.name + "\n")
        for old in sorted(folder.glob("step_*"))[:-keep]:
            shutil.rmtree(old)

    torch.distributed.barrier()
    dist.on_first(publish)


def _make_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _seal(folder: Path) -> None:
    """Flush every file to disk and write their hashes."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    for path in files:
        sync(path)
    write_json(folder / _SUMS, {str(p.relative_to(folder)): sha256(p) for p in files})


def find(path: Path) -> Path:
    """The checkpoint folder meant by a run folder, a `checkpoints` folder or a checkpoint folder.

    Raises:
        UserError: there is none.
    """
    for folder in (path, path / "checkpoints"):
        if (folder / _SUMS).is_file():
            return folder
        if (folder / "latest").is_file():
            return folder / (folder / "latest").read_text().strip()
    raise UserError(f"no checkpoint in {path}: give a run folder of `climax-hpc pretrain` or finetune that has one")


def verify(folder: Path) -> None:
    """Compare every file with its recorded sha256.

    Raises:
        UserError: names the first file that is missing or differs.
    """
    sums = read_json(folder / _SUMS, "the hashes of a climax_hpc checkpoint")
    for name, digest in sums.items():
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            state = "differs from its sha256" if path.is_file() else "is missing"
            raise UserError(
                f"checkpoint file {path} {state}: the checkpoint is damaged; use an older one in {folder.parent}"
            )


def load_pretrained(path: str | Path) -> Pretrained:
    """Weights, model config and normalisation of a verified checkpoint."""
    folder = find(Path(path))
    verify(folder)
    return Pretrained(path=folder, about=About.read(folder / _MODEL), weights=load_file(folder / _WEIGHTS))


def resume(folder: Path, *, engine: Any, ema: Ema | None) -> int:
    """Load the newest checkpoint of a run into the engine; returns its step, 0 where the run has none yet.

    Raises:
        UserError: the checkpoint is damaged, or was written by another number of ranks.
    """
    if not (folder / "latest").is_file():
        return 0
    newest = find(folder)
    dist.on_first(lambda: verify(newest))
    try:
        _, client_state = engine.load_checkpoint(str(newest), tag=_ENGINE)
    except Exception as error:
        raise UserError(
            f"cannot resume from {newest} with {torch.distributed.get_world_size()} ranks ({error}): "
            "use the number of ranks that wrote it"
        ) from error
    if ema:
        ema.load(load_file(newest / _WEIGHTS))
    return int(client_state["step"])
