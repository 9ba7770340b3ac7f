"""Writes checkpoints: aside, hashed, flushed, renamed; a failure on any rank stops all, and the last good one stays."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed
from safetensors import SafetensorError
from safetensors.torch import save_file

from climax_hpc.checkpoint.format import ENGINE, MODEL, SUMS, TRAINING, WEIGHTS
from climax_hpc.checkpoint.metadata import CheckpointMetadata
from climax_hpc.distributed import process_group
from climax_hpc.distributed.launcher import OtherRankFailed
from climax_hpc.errors import UserError
from climax_hpc.training.deepspeed_engine import full_weights
from climax_hpc.training.ema import Ema
from climax_hpc.training.state import TrainingState
from climax_hpc.utils.files import sha256, sync, write_json, write_text

# Without it DeepSpeed's converter refuses stages 1 and 2; 0.2 is the version of a layout without tensor parallelism.
_CLIENT_STATE = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}}


def save(
    folder: Path,
    *,
    engine: Any,
    ema: Ema | None,
    metadata: CheckpointMetadata,
    state: TrainingState,
    keep: int,
    keep_best: int,
) -> None:
    """Write `folder`/step_…, point `latest` at it, drop what is not to be kept; called by all ranks together.

    Raises:
        UserError: a file cannot be written; earlier checkpoints are untouched.
    """
    target = folder / f"step_{state.step:08d}"
    partial = folder / f".{target.name}.partial"
    process_group.on_first(lambda: _or_explain(lambda: _make_anew(partial), target, folder))
    engine.checkpoint_engine.reset()
    engine.save_checkpoint(str(partial), tag=ENGINE, save_latest=False, client_state=dict(_CLIENT_STATE))
    weights = ema.weights(engine) if ema else full_weights(engine)
    digests = _gather_digests(engine, partial, target)

    def publish() -> None:
        save_file(weights, partial / WEIGHTS)
        sync(partial / WEIGHTS)
        write_json(partial / MODEL, metadata.to_dict())
        write_json(partial / TRAINING, state.to_dict())
        mine = {name: sha256(partial / name) for name in (WEIGHTS, MODEL, TRAINING)}
        write_json(partial / SUMS, dict(sorted((digests | mine).items())))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
        sync(folder)
        write_text(folder / "latest", target.name + "\n")
        _prune(folder, state.step, keep=keep, keep_best=keep_best)

    process_group.on_first(lambda: _or_explain(publish, target, folder))


def _make_anew(folder: Path) -> None:
    """An empty folder, and none left of a checkpoint that was interrupted."""
    for left in folder.parent.glob(".step_*"):
        shutil.rmtree(left)
    folder.mkdir(parents=True)


def _gather_digests(engine: Any, partial: Path, target: Path) -> dict[str, str]:
    """The hashes of all ranks' files; all stop where a rank could not write its own."""
    files = engine.checkpoint_engine
    mine = {str(Path(path).relative_to(partial)): digest for path, digest in files.digests.items()}
    told: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(told, (mine, files.error is not None))
    failed = [rank for rank, (_, error) in enumerate(told) if error]
    if failed:
        process_group.on_first(lambda: shutil.rmtree(partial, ignore_errors=True))
        if torch.distributed.get_rank() == failed[0]:
            raise _explained(files.error, target)
        raise OtherRankFailed
    return {name: digest for digests, _ in told for name, digest in digests.items()}


def _or_explain(write: Callable[[], None], target: Path, folder: Path) -> None:
    """Run `write`; where the disk refuses, remove what is half-written and say so."""
    try:
        write()
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder / f".{target.name}.partial", ignore_errors=True)
        raise _explained(error, target) from None


def _explained(error: Exception, target: Path) -> UserError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
    return UserError(
        f"cannot write checkpoint {target} ({reason}): earlier checkpoints are intact; free space or make the folder "
        "writable, then start the run again to go on from the last one"
    )


def _prune(folder: Path, step: int, *, keep: int, keep_best: int) -> None:
    """Keep the newest and the best checkpoints; those beyond `step` belong to a history that was given up."""
    states = {path: TrainingState.read(path / TRAINING) for path in sorted(folder.glob("step_*"))}
    past = [path for path, state in states.items() if state.step <= step]
    scored = {path: state.validation_loss for path in past if (state := states[path]).validation_loss is not None}
    best = sorted(scored, key=lambda path: (scored[path], path))
    kept = {*past[-keep:], *best[:keep_best]}
    if best:
        write_text(folder / "best", best[0].name + "\n")
    for path in states.keys() - kept:
        shutil.rmtree(path)
