"""The files of a checkpoint, and how to read one: names and hashes are verified before anything is loaded.

RUN/checkpoints/step_00001000/
    SHA256SUMS.json     sha256 of every other file, written last
    model.json          model config, normalisation, variables, step (metadata.py)
    weights.safetensors float32 weights for evaluation and fine-tuning (their moving average with train.ema_decay)
    training.json       training state needed to resume (training/state.py)
    deepspeed/          engine state of every rank, for resuming
RUN/checkpoints/latest  name of the newest checkpoint
RUN/checkpoints/best    name of the one with the lowest validation loss, if the run validates
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from climax_hpc.checkpoint import safetensors_file
from climax_hpc.checkpoint.metadata import CheckpointMetadata
from climax_hpc.checkpoint.packaged import advice, located
from climax_hpc.errors import UserError
from climax_hpc.utils.files import read_json, remove_empty, sha256

SUMS, MODEL, WEIGHTS, TRAINING, ENGINE = (
    "SHA256SUMS.json", "model.json", "weights.safetensors", "training.json", "deepspeed",
)  # fmt: skip
_STEP = re.compile(r"step_\d{8,}")
_LONGEST_NAME = 40
_MOST_SHOWN = 6  # names of checkpoints in a message
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ENGINE_FILE = re.compile(rf"{ENGINE}/(bf16_)?(?:zero_pp_rank_(\d+)_)?mp_rank_00_(model|optim)_states\.pt")


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

    def load_into(self, model: torch.nn.Module) -> None:
        """Load the weights into a model that was built from the metadata.

        Raises:
            UserError: the weights are those of another model.
        """
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"checkpoint {self.path}: its weights do not fit its {MODEL} ({reason}), so one of them was "
                "changed; use another checkpoint"
            ) from None


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Args:
        path: run folder (its newest checkpoint), checkpoint folder, file of `climax-hpc convert`, or name of weights
            in the package.

    Raises:
        UserError: no checkpoint there, or a damaged one.
    """
    path = located(path)
    if path.is_file():
        content, weights = safetensors_file.read(path)
        return Checkpoint(path=path, metadata=CheckpointMetadata.from_dict(content, str(path)), weights=weights)
    folder = find(path)
    sums = checked_sums(folder)
    check_files(folder, {name: sums[name] for name in (MODEL, WEIGHTS)})  # the states of ranks are not loaded here
    metadata = CheckpointMetadata.read(folder / MODEL)
    return Checkpoint(path=folder, metadata=metadata, weights=load_file(folder / WEIGHTS))


def find(path: Path) -> Path:
    """The checkpoint folder for a run folder, a `checkpoints` folder or a checkpoint folder.

    Raises:
        UserError: no checkpoint there, or `latest` names something else.
    """
    for folder in (path, path / "checkpoints"):
        if (folder / SUMS).is_file():
            return folder
        if (folder / "latest").is_file():
            return folder / _newest(folder / "latest")
    if _STEP.fullmatch(path.name):
        raise _removed(path)
    for folder in (path, path / "checkpoints"):
        if there := checkpoints_in(folder):
            raise _unnamed(folder, there)
    raise UserError(
        f"no checkpoint in {path}: give the run folder of a `climax-hpc pretrain` or finetune that has one{advice()}"
    )


def step_folders(checkpoints: Path) -> list[Path]:
    """The folders that have the name of a checkpoint, oldest first."""
    return sorted(path for path in checkpoints.glob("step_*") if _STEP.fullmatch(path.name))


def checkpoints_in(checkpoints: Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    return [path for path in step_folders(checkpoints) if (path / SUMS).is_file()]


def remove(folder: Path) -> None:
    """Remove a checkpoint, its list first; files that are not of the format stay, and so does their folder."""
    (folder / SUMS).unlink(missing_ok=True)
    for path in (*folder.glob("*"), *folder.glob(f"{ENGINE}/*")):
        if _is_of_the_format(path.relative_to(folder).as_posix()):
            path.unlink()
    remove_empty([folder / ENGINE, folder])


def _is_of_the_format(name: str) -> bool:
    return name in (MODEL, WEIGHTS, TRAINING) or _ENGINE_FILE.fullmatch(name) is not None


def _newest(latest: Path) -> str:
    """The name in a file `latest`, which must be that of a checkpoint beside it."""
    name = latest.read_text(encoding="utf-8", errors="replace").strip()[:_LONGEST_NAME]
    if not _STEP.fullmatch(name):
        raise UserError(
            f"{latest}: {name!r} is not a checkpoint such as step_00001000; write the newest one's name there"
        )
    return name


def verify(folder: Path) -> None:
    """Check that a checkpoint holds exactly the files of the format, with their recorded sha256.

    Raises:
        UserError: names the first file that is missing, not listed, no plain file, or different.
    """
    sums = checked_sums(folder)
    check_files(folder, sums)


def checked_sums(folder: Path) -> dict[str, str]:
    """Name -> recorded sha256 of every file of a checkpoint, which holds exactly these; the files are not read.

    Raises:
        UserError: names the first file that is missing, not listed, or no plain file.
    """
    if not (folder / SUMS).is_file():
        raise _removed(folder)
    sums = _read_sums(folder)
    _check_names(folder, sums)
    return sums


def check_files(folder: Path, sums: Mapping[str, str]) -> None:
    """Compare the files of these names with their sha256.

    Raises:
        UserError: names the first file that is missing or different.
    """
    for name, digest in sums.items():
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            raise _damaged(path, "differs from its sha256" if path.is_file() else "is missing")


def share_of(sums: Mapping[str, str], rank: int, ranks: int) -> dict[str, str]:
    """The files that one of several ranks checks: its own engine files, which it loads next, and some of the others."""
    owners = ((int(found[2]) if (found := _ENGINE_FILE.fullmatch(name)) and found[2] else -1) for name in sums)
    return {
        name: sums[name]
        for position, (name, owner) in enumerate(zip(sums, owners, strict=True))
        if (position if owner < 0 else owner) % ranks == rank
    }


def _read_sums(folder: Path) -> dict[str, str]:
    """Name -> sha256; names are those of the format, so none leads out of the folder."""
    sums = read_json(folder / SUMS, "the hashes of a climax_hpc checkpoint")
    if not isinstance(sums, dict) or not all(isinstance(d, str) and _DIGEST.fullmatch(d) for d in sums.values()):
        raise _foreign(folder, f"{SUMS} does not hold names with their sha256")
    for name in sums:
        if not _is_of_the_format(name):
            raise _foreign(folder, f"{SUMS} lists {name!r}, which is not a file of a checkpoint")
    return sums


def _check_names(folder: Path, sums: dict[str, str]) -> None:
    """Refuse files that are not listed, and lists that are not complete: DeepSpeed finds its files by wild cards."""
    found = set(_names(folder)) - {SUMS}
    if unlisted := sorted(found - sums.keys()):
        raise _foreign(folder, f"{SUMS} does not list {unlisted[0]!r}")
    if missing := sorted(sums.keys() - found):
        raise _damaged(folder / missing[0], "is missing")
    engine = {name for name in sums if _ENGINE_FILE.fullmatch(name)}
    required = {MODEL, WEIGHTS} | ({TRAINING} if engine else set())
    if unlisted := sorted(required - sums.keys()):
        raise _foreign(folder, f"{SUMS} does not list {unlisted[0]!r}")
    if TRAINING in sums and engine not in _engine_files(_ranks(folder), engine):
        raise _foreign(folder, f"{ENGINE}/ does not hold exactly the files of the ranks that wrote it")


def _names(folder: Path) -> Iterator[str]:
    """Names of the files in a checkpoint; refuses links, other folders, and what is no plain file."""
    for inside in ("", f"{ENGINE}/"):
        if not (folder / inside).is_dir():
            continue
        for entry in os.scandir(folder / inside):
            if entry.is_file(follow_symlinks=False):
                yield inside + entry.name
            elif inside or entry.name != ENGINE or not entry.is_dir(follow_symlinks=False):
                raise _foreign(folder, f"{inside + entry.name!r} is not a plain file")


def _ranks(folder: Path) -> int:
    """Number of ranks that wrote a checkpoint."""
    content = read_json(folder / TRAINING, "the training state of a climax_hpc checkpoint")
    ranks = content.get("ranks", 1) if isinstance(content, dict) else None
    if type(ranks) is not int or ranks < 1:
        raise _foreign(folder, f"{TRAINING} does not hold the number of ranks")
    return ranks


def _engine_files(ranks: int, found: set[str]) -> Iterator[set[str]]:
    """The sets of files that the ranks may have written; none is larger than twice what was `found`."""
    whole = {f"{ENGINE}/mp_rank_00_model_states.pt"}
    yield whole  # stage 0
    if ranks > len(found):
        return
    for kind in ("", "bf16_"):
        states = {f"{ENGINE}/{kind}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(ranks)}
        yield states | whole  # stages 1 and 2
        parted = [f"{ENGINE}/zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in range(ranks)]
        yield states | {parted[0]}  # stage 3
        yield states | set(parted)  # stage 3 of earlier versions, or where the model states of the ranks differ


def _damaged(path: Path, state: str) -> UserError:
    folder = path.parents[0 if path.parent.name != ENGINE else 1]
    if not (folder / SUMS).is_file():
        return _removed(folder)
    return UserError(f"checkpoint file {path} {state}: the checkpoint is damaged; use an older one in {folder.parent}")


def _removed(folder: Path) -> UserError:
    there = ", ".join(path.name for path in checkpoints_in(folder.parent)) or "none"
    return UserError(
        f"checkpoint {folder} does not exist: it was deleted, or its training has newer ones and keeps only some "
        f"(train.keep_checkpoints); there are now: {there}"
    )


def _unnamed(folder: Path, there: list[Path]) -> UserError:
    """Of complete checkpoints without `latest`: which is meant is for the user to say."""
    names = [path.name for path in there]
    some = ", ".join(names if len(names) <= _MOST_SHOWN else [names[0], "…", *names[1 - _MOST_SHOWN :]])
    return UserError(
        f"{folder / 'latest'} is absent, so none of the complete checkpoints there ({some}) is chosen: give the "
        f"folder of one, such as {there[-1]}, or write its name into {folder / 'latest'}"
    )


def _foreign(folder: Path, reason: str) -> UserError:
    return UserError(
        f"checkpoint {folder}: {reason}: it was damaged, or changed by something else than climax_hpc, and nothing of "
        f"it is loaded; use an older one in {folder.parent}"
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
