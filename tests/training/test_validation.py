"""Validation during training: value, independence of ranks, early stopping, the best checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.data.batch_builder import SourceBatchBuilder
from climax_hpc.data.dataset import DataSet
from climax_hpc.fields.grid import latitude_weights
from climax_hpc.model.climax import ClimaXNetwork
from climax_hpc.training.loss import batch_loss
from climax_hpc.training.state import TrainingState
from climax_hpc.training.validation import _SEED, validation_sampler

from .conftest import losses, metrics, train_here
from .processes import Ranks

pytestmark = pytest.mark.slow


@pytest.fixture
def validated(settings: dict[str, Any]) -> dict[str, Any]:
    """Year 2004 held out of source A (B ends before), validated after every second step."""
    settings["data"] |= {"sources": ["A"], "validation_period": ["2004", "2004"]}
    settings["train"] |= {"validate_every": 2, "validation_batches": 3}
    return settings


def scores(run_folder: Path) -> dict[int, float]:
    """Validation losses by step."""
    return {row["step"]: row["validation_loss"] for row in metrics(run_folder) if "validation_loss" in row}


def test_validation_loss_is_that_of_the_held_out_samples(validated: dict[str, Any], tmp_path: Path) -> None:
    train_here(validated, tmp_path)
    last = load_checkpoint(tmp_path / "run")
    model = ClimaXNetwork(last.metadata.config).eval()
    model.load_state_dict(last.weights)
    engine: Any = type("Engine", (), {"module": model, "__call__": lambda self, *a, **k: model(*a, **k)})()
    source = DataSet(validated["data"]["dataset"]).select(["A"])[0]
    dynamic = [v for v in last.metadata.in_variables if v in source.channels]
    builder = SourceBatchBuilder(
        source,
        last.metadata.normalisation,
        inputs=[*dynamic, *(v for v in last.metadata.in_variables if v not in dynamic)],
        outputs=dynamic,
        device=torch.device("cpu"),
    )
    settings: Any = type("Data", (), {"micro_batch_size": 2, "micro_batches_per_step": 2, "lead_exponent": 1.0})
    sampler = validation_sampler({source.name: source.times(("2004", "2004"), 6, 168)}, settings)
    assert _SEED != 0  # not the order of the training samples
    weight_H = torch.as_tensor(latitude_weights(source.grid, "cell"), dtype=torch.float32)
    with torch.no_grad():
        expected = [
            batch_loss(engine, builder.build_batch(micro_batch.samples), weight_H).item()
            for step in range(3)
            for micro_batch in sampler.micro_batches(step)
        ]
    assert scores(tmp_path / "run")[6] == pytest.approx(sum(expected) / 6, rel=1e-6)
    years = {
        source.date(s.time_index).year for step in range(3) for g in sampler.micro_batches(step) for s in g.samples
    }
    assert years == {2004}


def test_validation_changes_nothing_and_any_ranks_agree(validated: dict[str, Any], tmp_path: Path) -> None:
    """Two ranks at every stage, in one pair of processes, against one rank."""
    validated["model"]["dropout"] = 0.1
    # Learning rate 0: only the validation can differ between numbers of ranks.
    validated["optimizer"] = {"lr": 1e-30, "end_lr": 0.0, "warmup_steps": 0}
    validated["train"]["steps"] = 2
    runs = []
    for stage in (0, 3):
        run = validated | {"run_folder": str(tmp_path / f"stage{stage}")}
        run["train"] = validated["train"] | {"zero_stage": stage}
        runs.append(run)
    with Ranks(*runs, ranks=2) as ranks:
        statuses, _, errors = ranks.wait()
    assert statuses == [0, 0], errors
    alone = train_here(validated, tmp_path)
    expected = scores(tmp_path / "run")
    assert set(expected) == {2}
    assert all(scores(tmp_path / f"stage{stage}") == expected for stage in (0, 3))

    unseen = validated | {"data": validated["data"] | {"validation_period": None}}
    assert train_here(unseen, tmp_path, "--run_folder", str(tmp_path / "unseen")) == alone


def test_early_stopping_best_checkpoints_and_resuming(validated: dict[str, Any], tmp_path: Path) -> None:
    # A rate that ruins the model after the first steps.
    validated["optimizer"] = {"lr": 0.3, "end_lr": 0.3, "warmup_steps": 0, "gradient_clipping": 0.0}
    train = {"steps": 100, "patience": 3, "keep_best": 2, "keep_checkpoints": 1, "checkpoint_every": 50}
    validated["train"] |= train | {"spike_factor": 0.0}
    run = tmp_path / "run"
    train_here(validated, tmp_path)
    by_step = scores(run)
    steps, values = list(by_step), list(by_step.values())
    assert steps[-1] < 100
    assert min(values) not in values[-3:]
    assert min(values[:-3]) == min(values)
    best = sorted(by_step, key=lambda step: by_step[step])[:2]
    names = sorted({f"step_{step:08d}" for step in (*best, steps[-1])})
    assert sorted(p.name for p in (run / "checkpoints").glob("step_*")) == names
    assert (run / "checkpoints" / "best").read_text().strip() == f"step_{best[0]:08d}"
    kept = TrainingState.read(run / "checkpoints" / f"step_{steps[-1]:08d}" / "training.json")
    assert kept.finished
    assert kept.stale_validations == 3
    assert kept.best_losses == tuple(sorted(values)[:2])

    whole = losses(run)
    again = validated | {"resume_from": f"step_{best[0]:08d}"}
    assert train_here(again, tmp_path) == whole
    assert scores(run) == by_step
