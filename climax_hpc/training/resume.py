"""Resumes a run from its newest verified checkpoint, converted first if another number of ranks wrote it."""

import argparse
import contextlib
import io
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed
from safetensors.torch import load_file

from climax_hpc.checkpoint.format import (
    ENGINE,
    TRAINING,
    WEIGHTS,
    check_files,
    checked_sums,
    checkpoints_in,
    find,
    share_of,
    verify,
)
from climax_hpc.config.parser import nearest
from climax_hpc.config.training import OptimizerConfig
from climax_hpc.distributed import process_group
from climax_hpc.errors import UserError
from climax_hpc.training.deepspeed_io import loading_no_code
from climax_hpc.training.ema import Ema
from climax_hpc.training.muon import Muon
from climax_hpc.training.optimizer import choose_form, cooldown
from climax_hpc.training.state import TrainingState
from climax_hpc.utils.files import write_text

Result = TypeVar("Result")
_PLAIN = re.compile(r"[\w/.-]+")
_APPLIED = "resumed_from"
"""File that names the `resume_from` of this run that was applied, so that a requeued job does not repeat it."""


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """What a run starts from: a verified checkpoint, or step 0."""

    folder: Path | None
    """Folder of the checkpoint; None at step 0."""
    state: TrainingState
    universal: bool
    """True if the checkpoint must be converted, because another number of ranks partitioned it."""


def find_resume_point(checkpoints: Path, *, resume_from: str | None, zero_stage: int) -> ResumePoint:
    """The checkpoint that this run resumes from, verified by all ranks together.

    Rank 0 reads the lists; every rank hashes its own files.

    Raises:
        UserError: it is damaged (the message names the newest intact one before it), or `resume_from` does not exist.
    """
    name = process_group.from_first(lambda: _choose(checkpoints, resume_from))
    if name is None:
        return ResumePoint(folder=None, state=TrainingState(), universal=False)
    folder, ranks = checkpoints / name, torch.distributed.get_world_size()
    sums = process_group.from_first(lambda: _or_advise(folder, lambda: checked_sums(folder)))
    own = share_of(sums, torch.distributed.get_rank(), ranks)
    process_group.on_all(lambda: _or_advise(folder, lambda: check_files(folder, own)))
    state = process_group.from_first(lambda: TrainingState.read(folder / TRAINING))
    return ResumePoint(folder=folder, state=state, universal=zero_stage > 0 and state.ranks != ranks)


def forget_resume_from(checkpoints: Path) -> None:
    """Allow the same `resume_from` again, after a start without it."""
    if (checkpoints / _APPLIED).is_file():
        (checkpoints / _APPLIED).unlink()


def _is_applied(checkpoints: Path, resume_from: str) -> bool:
    """True if the run went back to this checkpoint before."""
    applied = checkpoints / _APPLIED
    return applied.is_file() and applied.read_text(encoding="utf-8", errors="replace").strip() == resume_from


def _choose(checkpoints: Path, resume_from: str | None) -> str | None:
    there = [path.name for path in checkpoints_in(checkpoints)]
    if resume_from is None:
        if (checkpoints / "latest").is_file():
            return find(checkpoints).name
        if there:  # killed before its first `latest`, or deleted by hand: the steps are not done again
            print(f"{checkpoints / 'latest'} is absent: the run resumes from {there[-1]}", flush=True)
        return there[-1] if there else None
    if resume_from not in there:
        raise UserError(
            f"resume_from: {checkpoints} has no checkpoint {resume_from!r}{nearest(resume_from, there)}; it has "
            f"{', '.join(there) or 'none'}"
        )
    if _is_applied(checkpoints, resume_from):
        newest = find(checkpoints).name
        print(
            f"resume_from: the run went back to {resume_from} before and resumes from {newest} now; to go back again, "
            f"delete {checkpoints / _APPLIED}",
            flush=True,
        )
        return newest
    # Makes this the newest one: later checkpoints are deleted when the next one is written. The record comes last, so
    # that a command which was killed in between is applied again.
    write_text(checkpoints / "latest", resume_from + "\n")
    write_text(checkpoints / _APPLIED, resume_from + "\n")
    return resume_from


def _or_advise(folder: Path, check: Callable[[], Result]) -> Result:
    """The result of a check; its error says which older checkpoint is intact."""
    try:
        return check()
    except UserError as error:
        raise UserError(f"{error}; {_advice(folder)}") from None


def _advice(damaged: Path) -> str:
    """How to resume from the newest intact checkpoint before a damaged one."""
    for older in reversed(checkpoints_in(damaged.parent)):
        if older.name >= damaged.name:
            continue
        with contextlib.suppress(UserError):
            verify(older)
            repeated = (
                f", after deleting {damaged.parent / _APPLIED}" if _is_applied(damaged.parent, older.name) else ""
            )
            return f"{older.name} is intact: resume from it with --resume_from {older.name}{repeated}"
    return "no older checkpoint is intact: restart with another --run_folder"


def check_length(resume_point: ResumePoint, steps: int, optimizer: OptimizerConfig) -> None:
    """Check that the checkpoint is one of a run of this length: `train.steps` may change before the cool-down only.

    Raises:
        UserError: its rates were others; the message names the newest checkpoint that can be used.
    """
    state, folder = resume_point.state, resume_point.folder
    if folder is None or (state.step <= steps and state.cooldown == cooldown(state.step, steps, optimizer)):
        return
    begin = steps - optimizer.cooldown_steps
    ends = "cools down from" if optimizer.cooldown_steps else "ends at"
    reason = f"a run of {steps} steps {ends} step {begin}"
    if state.cooldown:
        begin = min(begin, state.cooldown[0])
        reason = "it lies in the cool-down from step {} to step {}".format(*state.cooldown)
    stored = [path.name for path in checkpoints_in(folder.parent)]
    usable = [name for name in stored if int(name.removeprefix("step_")) <= begin + 1]  # step `begin` has the full rate
    fix = f"resume from {usable[-1]} with --resume_from {usable[-1]}" if usable else "no checkpoint before it is kept"
    raise UserError(f"train.steps {steps}: cannot resume from {folder.name}, {reason}; {fix}")


def restore(resume_point: ResumePoint, *, engine: Any, ema: Ema | None) -> None:
    """Load weights, optimiser state and moving average; all ranks call this together.

    Raises:
        UserError: DeepSpeed cannot load the checkpoint into this engine.
    """
    if resume_point.folder is None:
        return
    folder = source = resume_point.folder
    settings = [dict(group, params=None) for group in engine.optimizer.param_groups]
    try:
        if resume_point.universal:
            source = folder.parent / f".{folder.name}.universal"
            process_group.on_first(lambda: _convert(folder / ENGINE, source / ENGINE))
        with contextlib.redirect_stdout(io.StringIO()), loading_no_code():
            engine.load_checkpoint(str(source), tag=ENGINE)
    except (RuntimeError, ValueError, KeyError, AssertionError) as error:
        raise _cannot_resume(folder, resume_point.state.ranks, error) from error
    if ema:
        ema.load(engine, load_file(folder / WEIGHTS))
    if resume_point.universal:
        _repair_universal_load(engine, settings)
        torch.distributed.barrier()
        process_group.on_first(lambda: shutil.rmtree(source))
    choose_form(engine.basic_optimizer)


def _cannot_resume(folder: Path, wrote: int, error: Exception) -> UserError:
    """The files are whole: another number of ranks, or another version of DeepSpeed or torch, is the reason."""
    reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    ranks = torch.distributed.get_world_size()
    if wrote != ranks:
        return UserError(
            f"cannot resume from {folder}, written by {wrote} ranks, with {ranks} ranks ({reason}): use the number of "
            "ranks that wrote it"
        )
    return UserError(
        f"DeepSpeed cannot load {folder} ({reason}), although its files are as they were written: use the versions in "
        f"{folder.parents[1] / 'provenance.json'}"
    )


def _repair_universal_load(engine: Any, settings: list[dict[str, Any]]) -> None:
    """Undo side effects of DeepSpeed's universal load.

    At stage 3 it gives every parameter group the settings of the first one, and all parameters one shared step counter,
    which AdamW would then advance once for each of them. At all stages matrices of Muon get second moments.
    """
    for group, before in zip(engine.optimizer.param_groups, settings, strict=True):
        group |= before | {"params": group["params"]}
    if isinstance(engine.basic_optimizer, Muon):
        engine.basic_optimizer.forget_second_moments()
    for moments in engine.basic_optimizer.state.values():
        if torch.is_tensor(moments.get("step")):
            moments["step"] = moments["step"].clone()


def _convert(source: Path, target: Path) -> None:
    """Write DeepSpeed's universal form of a verified checkpoint, which any number of ranks can load."""
    from deepspeed.checkpoint import ds_to_universal

    shutil.rmtree(target.parent, ignore_errors=True)
    target.mkdir(parents=True)
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with _plain_path(target) as output, quiet[0], quiet[1], loading_no_code():
        settings = argparse.Namespace(
            input_folder=str(_as_deepspeed_wrote_it(source, target.parent / "source")),
            output_folder=output,
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=False,
        )
        ds_to_universal.main(settings)


@contextlib.contextmanager
def _plain_path(folder: Path) -> Iterator[str]:
    """A path to the folder without special characters, as the converter takes its output's for a regular expression.

    It is a link in the folder for temporary files where the folder's own path has such characters.
    """
    if _PLAIN.fullmatch(str(folder)):
        yield str(folder)
        return
    with tempfile.TemporaryDirectory() as beside:
        link = Path(beside) / "output"
        link.symlink_to(folder.resolve())
        yield str(link)


def _as_deepspeed_wrote_it(source: Path, linked: Path) -> Path:
    """The engine's files with model states of every rank at stage 3, which are links to those that there are.

    The converter asks for them; they are the same for all ranks (`deepspeed_io`).
    """
    first = source / "zero_pp_rank_0_mp_rank_00_model_states.pt"
    states = list(source.glob("*zero_pp_rank_*_optim_states.pt"))
    if not first.is_file() or len(list(source.glob("*_model_states.pt"))) == len(states):
        return source
    linked.mkdir()
    for path in states:
        model_states = path.name.removeprefix("bf16_").replace("_optim_", "_model_")
        (linked / path.name).symlink_to(path.resolve())
        (linked / model_states).symlink_to(first.resolve())
    return linked
