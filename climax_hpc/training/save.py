"""Writes checkpoints atomically: to a temporary folder, hashed and flushed, then renamed.

All ranks copy what they hold at once; a thread writes it (checkpoint_writer.py). A failure on any rank stops all ranks,
and the last complete checkpoint stays.
"""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import save_file

from climax_hpc.checkpoint.format import ENGINE, MODEL, SUMS, TRAINING, WEIGHTS, checkpoints_in, remove, step_folders
from climax_hpc.checkpoint.metadata import CheckpointMetadata
from climax_hpc.distributed import process_group
from climax_hpc.distributed.launcher import OtherRankFailed
from climax_hpc.errors import UserError
from climax_hpc.training.checkpoint_writer import CheckpointWriter
from climax_hpc.training.deepspeed_engine import full_weights
from climax_hpc.training.ema import Ema
from climax_hpc.training.state import TrainingState
from climax_hpc.utils.atomic import sync, write_atomically
from climax_hpc.utils.files import sha256, write_json, write_text
from climax_hpc.utils.system_errors import reason_of

_OWN = re.compile(r"\.step_\d{8,}\.(partial|universal)")
# DeepSpeed's converter needs this for stages 1 and 2; 0.2 is the version of the layout without tensor parallelism.
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
    writer: CheckpointWriter,
) -> None:
    """Write `folder`/step_…, update `latest` and `best`, delete old ones; all ranks call this together.

    It is complete after `writer.wait()`. The one before is waited for here, so that only one copy is in memory.

    Raises:
        UserError: a file, or one of the checkpoint before, cannot be written; earlier checkpoints stay.
    """
    writer.wait()
    target = folder / f"step_{state.step:08d}"
    partial = folder / f".{target.name}.partial"
    process_group.on_first(lambda: _or_explain(lambda: _make_empty(partial), target, folder))
    engine.checkpoint_engine.reset(postpone=writer.in_background)
    engine.save_checkpoint(str(partial), tag=ENGINE, save_latest=False, client_state=dict(_CLIENT_STATE))
    weights = ema.weights(engine) if ema else full_weights(engine)
    copied = torch.cuda.current_stream().record_event() if torch.cuda.is_available() else None

    def publish(digests: dict[str, str]) -> None:
        write_atomically(partial / WEIGHTS, lambda temporary: save_file(weights, temporary))
        write_json(partial / MODEL, metadata.to_dict())
        write_json(partial / TRAINING, state.to_dict())
        mine = {name: sha256(partial / name) for name in (WEIGHTS, MODEL, TRAINING)}
        write_json(partial / SUMS, dict(sorted((digests | mine).items())))
        _make_way(target)
        os.replace(partial, target)
        sync(folder)
        write_text(folder / "latest", target.name + "\n")
        _prune(folder, state.step, keep=keep, keep_best=keep_best)

    def write() -> None:
        if copied:
            copied.synchronize()
        engine.checkpoint_engine.write_postponed()
        with writer.waiting_for_others():
            digests = _gather_digests(engine, partial, target, writer.group)
        process_group.on_first(lambda: _or_explain(lambda: publish(digests), target, folder), writer.group)

    writer.start(target.name, write)


def _make_empty(folder: Path) -> None:
    """Create an empty folder; remove what interrupted checkpoints left."""
    for left in folder.parent.glob(".step_*"):
        if _OWN.fullmatch(left.name):
            shutil.rmtree(left)
    folder.mkdir(parents=True)


def _make_way(target: Path) -> None:
    """Remove a checkpoint of the same step, written before the run went back."""
    remove(target)
    if target.exists():
        raise UserError(f"{target} holds files that are not of a checkpoint: move them, then start the command again")


def _gather_digests(
    engine: Any, partial: Path, target: Path, group: torch.distributed.ProcessGroup | None
) -> dict[str, str]:
    """Hashes of all ranks' files, by name; all ranks stop if one could not write its own."""
    files = engine.checkpoint_engine
    mine = {str(Path(path).relative_to(partial)): digest for path, digest in files.digests.items()}
    of_ranks = process_group.gathered((mine, files.error is not None), group)
    failed = [rank for rank, (_, error) in enumerate(of_ranks) if error]
    if failed:
        process_group.on_first(lambda: shutil.rmtree(partial, ignore_errors=True), group)
        if torch.distributed.get_rank() == failed[0]:
            raise _explained(files.error, target)
        raise OtherRankFailed
    return {name: digest for digests, _ in of_ranks for name, digest in digests.items()}


def _or_explain(write: Callable[[], None], target: Path, folder: Path) -> None:
    """Run `write`; on an I/O error remove the partial checkpoint and raise a UserError."""
    try:
        write()
    except OSError as error:
        shutil.rmtree(folder / f".{target.name}.partial", ignore_errors=True)
        raise _explained(error, target) from None


def _explained(error: Exception, target: Path) -> UserError:
    reason = reason_of(error) if isinstance(error, OSError) else str(error).splitlines()[0]
    return UserError(
        f"cannot write checkpoint {target} ({reason}): earlier checkpoints are intact; free space or make the folder "
        "writable, then start the same command again to resume from the last one"
    )


def _prune(folder: Path, step: int, *, keep: int, keep_best: int) -> None:
    """Keep the newest and the best checkpoints; those after `step` are from before a rollback and are deleted."""
    states = {path: TrainingState.read(path / TRAINING) for path in checkpoints_in(folder)}
    past = [path for path, state in states.items() if state.step <= step]
    scored = {path: state.validation_loss for path in past if (state := states[path]).validation_loss is not None}
    best = sorted(scored, key=lambda path: (scored[path], path))
    kept = {*past[-keep:], *best[:keep_best]}
    if best:
        write_text(folder / "best", best[0].name + "\n")
    for path in step_folders(folder):
        if path not in kept:
            remove(path)
