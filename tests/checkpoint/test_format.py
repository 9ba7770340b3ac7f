"""Checkpoint files: finding, verifying, stored keys of the metadata, and what is refused."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from climax_hpc.checkpoint.format import (
    SUMS,
    check_files,
    check_task,
    checked_sums,
    find,
    load_checkpoint,
    share_of,
    verify,
)
from climax_hpc.checkpoint.metadata import CheckpointMetadata, TrainingMetadata, common_window
from climax_hpc.errors import UserError
from climax_hpc.utils.files import sha256, write_json

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


@pytest.mark.parametrize("given", ["", "checkpoints"])
def test_without_latest_the_complete_checkpoints_are_named(checkpoint: Path, given: str) -> None:
    """As after a copy of the step folders alone; a checkpoint that is not complete is none."""
    checkpoints = checkpoint.parent
    (checkpoints / "latest").unlink()
    for step in (8, 9):
        shutil.copytree(checkpoint, checkpoints / f"step_{step:08d}")
    (checkpoints / "step_00000009" / SUMS).unlink()
    with pytest.raises(UserError) as refused:
        load_checkpoint(checkpoints.parent / given)
    assert str(refused.value) == (
        f"{checkpoints / 'latest'} is absent, so none of the complete checkpoints there (step_00000007, step_00000008) "
        f"is chosen: give the folder of one, such as {checkpoints / 'step_00000008'}, or write its name into "
        f"{checkpoints / 'latest'}"
    )
    load_checkpoint(checkpoints / "step_00000008")
    (checkpoints / "latest").write_text("step_00000008\n")
    assert find(checkpoints.parent).name == "step_00000008"


def test_stored_keys_are_those_of_the_format(checkpoint: Path) -> None:
    """Checkpoints of earlier versions have these keys."""
    metadata = replace(load_checkpoint(checkpoint).metadata, training=TRAINING)
    content = json.loads(json.dumps(metadata.to_dict()))
    assert list(content) == ["step", "model", "normalisation", "in_variables", "out_variables", "trained"]
    assert list(content["trained"]) == [
        "min_lead_hours", "max_lead_hours", "lead_step_hours", "grid", "region", "window_hours", "window_step_hours",
        "task", "sources", "period", "validation_period",
    ]  # fmt: skip
    assert CheckpointMetadata.from_dict(content, "model.json") == metadata
    for later in ("sources", "period", "validation_period"):
        del content["trained"][later]
    assert CheckpointMetadata.from_dict(content, "model.json") == metadata


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


ZERO = "deepspeed/zero_pp_rank_{}_mp_rank_00_optim_states.pt"
WHOLE = "deepspeed/mp_rank_00_model_states.pt"
PARTED = "deepspeed/zero_pp_rank_{}_mp_rank_00_model_states.pt"
SUM = "0" * 64


@pytest.fixture
def of_two_ranks(tmp_path: Path) -> Path:
    """The names of a checkpoint of two ranks at stage 1; the files hold nothing that could be loaded."""
    checkpoint = tmp_path / "run" / "checkpoints" / "step_00000007"
    (checkpoint / "deepspeed").mkdir(parents=True)
    write_json(checkpoint / "training.json", {"step": 7, "ranks": 2})
    for name in ("model.json", "weights.safetensors", WHOLE, ZERO.format(0), ZERO.format(1)):
        (checkpoint / name).write_text(name)
    return listed(checkpoint)


def listed(checkpoint: Path) -> Path:
    """Write the sums of all files that are there."""
    files = [path for path in checkpoint.rglob("*") if path.is_file() and path.name != SUMS]
    write_json(checkpoint / SUMS, {path.relative_to(checkpoint).as_posix(): sha256(path) for path in files})
    return checkpoint


@pytest.mark.parametrize(("wrote", "ranks"), [(2, 2), (2, 1), (2, 3), (5, 2)])
def test_ranks_share_the_files_of_a_checkpoint(wrote: int, ranks: int) -> None:
    """Every file is checked by one rank, those of a rank by itself."""
    names = ["model.json", "weights.safetensors", WHOLE, *(ZERO.format(rank) for rank in range(wrote))]
    shares = [share_of(dict.fromkeys(names, SUM), rank, ranks) for rank in range(ranks)]
    assert sorted(name for share in shares for name in share) == sorted(names)
    assert all(ZERO.format(rank) in shares[rank] for rank in range(min(wrote, ranks)))


def test_the_states_of_ranks_are_not_read_to_load_weights(checkpoint: Path) -> None:
    sums = json.loads((checkpoint / SUMS).read_text())
    (checkpoint / "deepspeed").mkdir()
    (checkpoint / WHOLE).write_text("damaged")
    write_json(checkpoint / "training.json", {"step": 7, "ranks": 1})
    sums |= {WHOLE: SUM, "training.json": sha256(checkpoint / "training.json")}
    write_json(checkpoint / SUMS, sums)
    assert load_checkpoint(checkpoint).weights
    with pytest.raises(UserError, match=f"{WHOLE} differs from its sha256"):
        verify(checkpoint)


def at_stage_3(checkpoint: Path, *with_model_states: int) -> Path:
    """The same with the model states of these ranks, as at stage 3."""
    (checkpoint / WHOLE).unlink()
    for rank in with_model_states:
        (checkpoint / PARTED.format(rank)).write_text("model states")
    return listed(checkpoint)


@pytest.mark.parametrize("stage", [0, 1, 3, "3 of earlier versions"])
@pytest.mark.parametrize("kind", ["", "bf16_"])
def test_the_files_that_the_ranks_write_are_accepted(of_two_ranks: Path, stage: int | str, kind: str) -> None:
    for rank in range(2):
        states = of_two_ranks / ZERO.format(rank)
        if stage == 0:
            states.unlink()
        else:
            states.rename(states.with_name(kind + states.name))
    if stage in (0, 1):
        listed(of_two_ranks)
    else:
        at_stage_3(of_two_ranks, *range(1 if stage == 3 else 2))
    verify(of_two_ranks)


@pytest.mark.parametrize("with_model_states", [(), (1,), (0, 2), (0, 1, 2)])
def test_model_states_of_other_ranks_are_refused(of_two_ranks: Path, with_model_states: tuple[int, ...]) -> None:
    """At stage 3 rank 0 writes them, or in earlier versions every rank."""
    at_stage_3(of_two_ranks, *with_model_states)
    with pytest.raises(UserError, match="does not hold exactly the files of the ranks that wrote it"):
        verify(of_two_ranks)


@pytest.mark.parametrize("name", [PARTED.format(0), ZERO.format(0), ZERO.format(1)])
def test_every_file_is_needed_at_stage_3(of_two_ranks: Path, name: str) -> None:
    (at_stage_3(of_two_ranks, 0) / name).unlink()
    with pytest.raises(UserError) as refused:
        verify(of_two_ranks)
    assert str(refused.value) == (
        f"checkpoint file {of_two_ranks / name} is missing: the checkpoint is damaged; use an older one in "
        f"{of_two_ranks.parent}"
    )


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_one_rank_checks_the_model_states_that_all_load(of_two_ranks: Path, ranks: int) -> None:
    sums = checked_sums(at_stage_3(of_two_ranks, 0))
    shares = [share_of(sums, rank, ranks) for rank in range(ranks)]
    assert sorted(name for share in shares for name in share) == sorted(sums)
    assert PARTED.format(0) in shares[0]


@pytest.mark.parametrize(
    "name",
    [
        ZERO.format(2), ZERO.format("00"), ZERO.format("0_mp_rank_00"), "deepspeed/mp_rank_01_model_states.pt",
        "deepspeed/layer_00-model_states.pt", "deepspeed/zero_pp_rank_0_mp_rank_00_model_states.pt", "deepspeed/x.pt",
        "deepspeed/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "deepspeed/deeper/x.pt", "x/y", "evil.pt",
        "deepspeed/expert_0_mp_rank_00_optim_states.pt", "step_1/model.json", "weights.safetensors.index.json",
        "latest", ".hidden",
    ],
)  # fmt: skip
@pytest.mark.parametrize("in_sums", [False, True])
def test_files_beyond_the_format_are_refused(of_two_ranks: Path, name: str, in_sums: bool) -> None:
    (of_two_ranks / name).parent.mkdir(exist_ok=True)
    (of_two_ranks / name).write_bytes(b"anything")
    if in_sums:
        listed(of_two_ranks)
    with pytest.raises(UserError, match=r"nothing of it is loaded; use an older one in"):
        verify(of_two_ranks)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "training.json", "deepspeed", ZERO.format(1)])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "absent", "unlisted", "absent and unlisted"])
def test_what_is_no_listed_plain_file_is_refused(of_two_ranks: Path, name: str, kind: str, tmp_path: Path) -> None:
    path, sums = of_two_ranks / name, json.loads((of_two_ranks / SUMS).read_text())
    if kind != "unlisted":
        path.rename(tmp_path / "elsewhere")
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        (path / "inside").mkdir(parents=True)
    if "unlisted" in kind:
        write_json(of_two_ranks / SUMS, {key: digest for key, digest in sums.items() if not key.startswith(name)})
    with pytest.raises(UserError, match=r"is missing|nothing of it is loaded"):
        verify(of_two_ranks)


@pytest.mark.parametrize(
    "text",
    [
        "{}", "[]", "null", "1", '""', "", "{", "\0", '{"model.json": null}', '{"model.json": 1}', "[" * 100_000,
        json.dumps({"model.json": "0" * 63}), json.dumps({"model.json": "A" * 64}), json.dumps({"model.json": SUM}),
        json.dumps({"../model.json": SUM}), json.dumps({"/etc/passwd": SUM}),
        json.dumps({"deepspeed/../model.json": SUM}),
        json.dumps({"deepspeed": SUM}), json.dumps({"": SUM}), json.dumps({".": SUM}), json.dumps({SUMS: SUM}),
        json.dumps({"model.json\n": SUM}), json.dumps({WHOLE + "\n": SUM}), json.dumps({"model.json": SUM + "\n"}),
        f'{{"model.json": "{SUM}", "model.json": "{SUM}"}}',
    ],
)  # fmt: skip
def test_sums_of_another_form_are_refused(of_two_ranks: Path, text: str) -> None:
    (of_two_ranks / SUMS).write_text(text)
    with pytest.raises(UserError):
        verify(of_two_ranks)


@pytest.mark.parametrize("ranks", [1, 3, 0, -1, 10**30, True, "2", 2.0, None])
def test_another_number_of_ranks_is_refused(of_two_ranks: Path, ranks: object) -> None:
    write_json(of_two_ranks / "training.json", {"step": 7, "ranks": ranks})
    with pytest.raises(UserError, match=r"exactly the files of the ranks|hold the number of ranks"):
        verify(listed(of_two_ranks))


@pytest.mark.parametrize(
    "text", ["../step_00000007", "/tmp", "", ".", "step_7", "step_00000007/..", "x" * 10**6, "\x1b[2J"]
)
def test_latest_names_a_checkpoint_beside_it(checkpoint: Path, text: str) -> None:
    (checkpoint.parent / "latest").write_text(text)
    with pytest.raises(UserError, match=r"latest: .* is not a checkpoint such as step_00001000") as caught:
        find(checkpoint.parent)
    assert len(str(caught.value)) < 400
    assert "\x1b" not in str(caught.value)


def test_parts_of_the_verification_cover_all_files(checkpoint: Path) -> None:
    (checkpoint / "model.json").write_text("{}")
    refused = 0
    for part in range(3):
        try:
            check_files(checkpoint, share_of(checked_sums(checkpoint), part, 3))
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
