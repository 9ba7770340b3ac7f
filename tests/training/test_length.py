"""A constant rate with a cool-down: one run is cut at several lengths, or made longer, to the same bits."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.errors import UserError

from .conftest import losses, train_here

pytestmark = pytest.mark.slow


@pytest.fixture
def constant(settings: dict[str, Any]) -> dict[str, Any]:
    """Six steps, of which the last three cool down; Muon, so that its momentum is resumed too."""
    settings["optimizer"] = {
        "kind": "muon", "lr": 1e-2, "warmup_steps": 1, "schedule": "constant", "cooldown_steps": 3,
    }  # fmt: skip
    settings["train"] |= {"checkpoint_every": 2, "keep_checkpoints": 5, "ema_decay": 0.5}
    return settings


def test_one_run_at_several_lengths(constant: dict[str, Any], tmp_path: Path) -> None:
    short, long, cut = (tmp_path / name for name in ("short", "long", "cut"))
    expected_short = train_here(constant, tmp_path, "--run_folder", str(short))
    expected_long = train_here(constant, tmp_path, "--run_folder", str(long), "--train.steps", "8")
    assert expected_long[:4] == expected_short[:4]
    assert expected_long[5] != expected_short[5]

    shutil.copytree(long, cut)
    at_6 = ("--run_folder", str(cut), "--resume_from", "step_00000004")
    assert train_here(constant, tmp_path, *at_6) == expected_short
    same_weights(cut, short)

    longer = ("--run_folder", str(short), "--train.steps", "8")
    with pytest.raises(
        UserError,
        match=r"train.steps 8: cannot resume from step_00000006, it lies in the cool-down from step 3 to step 6; "
        r"resume from step_00000004 with --resume_from step_00000004",
    ):
        train_here(constant, tmp_path, *longer)
    assert train_here(constant, tmp_path, *longer, "--resume_from", "step_00000004") == expected_long
    same_weights(short, long)


def same_weights(run: Path, other: Path) -> None:
    """To the bit."""
    weights = load_checkpoint(run).weights
    for name, value in load_checkpoint(other).weights.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=0)


def test_a_run_without_cool_down_is_continued(constant: dict[str, Any], tmp_path: Path) -> None:
    constant["optimizer"]["cooldown_steps"] = 0
    longer = ("--train.steps", "8")
    train_here(constant, tmp_path)
    resumed = train_here(constant, tmp_path, *longer)
    assert len(resumed) == 8
    assert resumed == train_here(constant, tmp_path, *longer, "--run_folder", str(tmp_path / "whole"))
    with pytest.raises(
        UserError,
        match=r"train.steps 5: cannot resume from step_00000008, a run of 5 steps cools down from step 3; "
        r"resume from step_00000004 with --resume_from step_00000004",
    ):
        train_here(constant, tmp_path, "--train.steps", "5", "--optimizer.cooldown_steps", "2")
    assert losses(tmp_path / "run") == resumed


def test_another_length_needs_a_constant_rate(constant: dict[str, Any], tmp_path: Path) -> None:
    constant["optimizer"] = {"lr": 1e-2, "warmup_steps": 1}
    train_here(constant, tmp_path)
    with pytest.raises(UserError, match=r"other settings \(train.steps: 6 there, 8 now\)"):
        train_here(constant, tmp_path, "--train.steps", "8")


def test_a_cool_down_longer_than_the_run_is_refused(constant: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"optimizer.cooldown_steps must be at most train.steps"):
        train_here(constant, tmp_path, "--optimizer.cooldown_steps", "7")
