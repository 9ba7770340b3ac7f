"""Ranks that share the patches of a sample train as one rank does, at every ZeRO stage and in every layout."""

from pathlib import Path
from typing import Any

import pytest
import torch

from climax_hpc.checkpoint.format import load_checkpoint

from .conftest import losses, metrics, train_here
from .processes import Ranks

pytestmark = pytest.mark.slow

Layout = tuple[int, int]
"""Replicas, ranks of each."""


@pytest.fixture
def shared(settings: dict[str, Any]) -> dict[str, Any]:
    """Four heads and four patch rows, dropout and drop path, augmentation, validation; rates that change much."""
    settings["model"] |= {"heads": 4, "dropout": 0.1, "drop_path": 0.1}
    settings["data"] |= {"micro_batches_per_step": 4, "validation_period": ["2003", "2003"], "period": ["2001", "2002"]}
    settings["data"] |= {"random_roll": True, "random_flip": True}
    settings["optimizer"] = {"lr": 1e-2, "end_lr": 1e-3, "warmup_steps": 0}
    settings["train"] |= {"ema_decay": 0.9, "validate_every": 3, "validation_batches": 2}
    return settings


def in_layout(settings: dict[str, Any], run: Path, layout: Layout, **train: Any) -> dict[str, Any]:
    """The settings for a run in this layout."""
    own = settings["train"] | {"sequence_parallel": layout[1]} | train
    return settings | {"run_folder": str(run), "train": own}


def train_layouts(ranks: int, *settings: dict[str, Any]) -> None:
    """Train one after the other in the same processes."""
    with Ranks(*settings, ranks=ranks) as processes:
        statuses, _, errors = processes.wait(timeout=900)
    assert statuses == [0] * ranks, errors[-2000:]


def distance(run: Path, other: Path) -> float:
    """Relative distance of the weights of two runs."""
    a, b = (torch.cat([w.flatten() for w in load_checkpoint(path).weights.values()]) for path in (run, other))
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(a))


def validation(run: Path) -> list[float]:
    """Validation losses in order of the steps."""
    return [row["validation_loss"] for row in metrics(run) if "validation_loss" in row]


def assert_same(run: Path, alone: Path) -> None:
    """Losses to 1e-5, weights to what rounding and AdamW make of it."""
    assert losses(run) == pytest.approx(losses(alone), rel=1e-5)
    assert validation(run) == pytest.approx(validation(alone), rel=1e-5)
    assert distance(run, alone) < 1e-3


def test_two_ranks_that_share_samples_train_as_one(shared: dict[str, Any], tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    train_here(shared, tmp_path, "--run_folder", str(alone))
    runs = [in_layout(shared, tmp_path / f"stage{stage}", (1, 2), zero_stage=stage) for stage in range(4)]
    train_layouts(2, *runs)
    for run in runs:
        assert_same(Path(run["run_folder"]), alone)
