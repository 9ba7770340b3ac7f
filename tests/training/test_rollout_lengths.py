"""Roll-outs of random length and stratified lead times in whole runs: ranks, resuming, validation, what is refused."""

from pathlib import Path
from typing import Any

import pytest

from climax_hpc.config.training import DataConfig
from climax_hpc.errors import UserError
from climax_hpc.training.loss import batch_loss
from climax_hpc.training.task import TrainingTask

from .conftest import losses, metrics, train_here
from .processes import Ranks

STEPS = {"rollout_steps": 3, "min_lead_hours": 6.0, "max_lead_hours": 6.0}


@pytest.fixture
def quick(settings: dict[str, Any]) -> dict[str, Any]:
    """A year held out; a high rate, so that another order of samples is another loss."""
    settings["data"] |= {"sources": ["A"], "validation_period": ["2004", "2004"]}
    settings["optimizer"] = {"lr": 1e-2, "end_lr": 1e-3, "warmup_steps": 0}
    settings["train"] |= {"validate_every": 6, "validation_batches": 2}
    return settings


def validation_loss(run: Path) -> float:
    """The first one."""
    return float(next(row["validation_loss"] for row in metrics(run) if "validation_loss" in row))


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [{**STEPS, "min_rollout_steps": 1}, {"lead_sampling": "stratified"}])
def test_two_ranks_agree_with_one_and_a_resumed_run_repeats_the_bits(
    quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: dict[str, Any]
) -> None:
    quick["data"] |= chosen
    lengths: list[int] = []

    def watched(task: Any, engine: Any, batch: Any, weight_H: Any) -> Any:
        if engine.module.training:
            lengths.append(1 if batch.y_BKOHW is None else batch.y_BKOHW.shape[1])
        return batch_loss(engine, batch, weight_H)

    monkeypatch.setattr(TrainingTask, "loss", watched)
    whole = train_here(quick, tmp_path)
    monkeypatch.undo()
    if "rollout_steps" in chosen:
        assert lengths[::2] == lengths[1::2]  # both micro-batches of a step
        assert len(set(lengths)) > 1
    assert train_here(quick | {"resume_from": "step_00000003"}, tmp_path) == whole
    with Ranks(quick | {"run_folder": str(tmp_path / "two")}, ranks=2) as ranks:
        statuses, _, errors = ranks.wait()
    assert statuses == [0, 0], errors
    assert losses(tmp_path / "two") == pytest.approx(whole, rel=1e-5)
    assert validation_loss(tmp_path / "two") == pytest.approx(validation_loss(tmp_path / "run"), rel=1e-5)


@pytest.mark.slow
def test_validation_compares_runs_with_and_without(quick: dict[str, Any], tmp_path: Path) -> None:
    """Learning rate 0: the weights stay, and with them the validation loss, whatever is drawn for training."""
    quick["optimizer"] = {"lr": 1e-30, "end_lr": 0.0, "warmup_steps": 0}
    quick["train"]["steps"] = 2
    plain, options = quick["data"], [{}, {"lead_sampling": "stratified"}, STEPS, STEPS | {"min_rollout_steps": 1}]
    found = []
    for i, chosen in enumerate(options):
        run = quick | {"run_folder": str(tmp_path / str(i)), "data": plain | chosen}
        train_here(run, tmp_path)
        found.append(validation_loss(tmp_path / str(i)))
    assert found[0] == found[1]
    assert found[2] == found[3]


def test_what_is_refused() -> None:
    for steps in (0, 4):
        with pytest.raises(UserError, match=r"min_rollout_steps must lie in 1 … data.rollout_steps, .* .now 3."):
            DataConfig(dataset="d", **STEPS, min_rollout_steps=steps)
    with pytest.raises(UserError, match=r"data\.lead_sampling: use independent or stratified"):
        DataConfig(dataset="d", lead_sampling="strata")
