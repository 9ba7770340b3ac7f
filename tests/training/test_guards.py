"""Injected numerical faults: non-finite gradients, loss spikes; the guards do not affect healthy runs."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import climax_hpc.training.task
import climax_hpc.training.train
from climax_hpc.checkpoint.format import find, verify
from climax_hpc.data.sampler import Sampler, SourceTimes
from climax_hpc.errors import UserError
from climax_hpc.training.loss import batch_loss
from climax_hpc.training.resume import _choose
from climax_hpc.training.state import TrainingState
from climax_hpc.training.step_guard import append_recent, is_spike

from .conftest import losses, metrics, train_here
from .processes import Ranks, state

pytestmark = pytest.mark.slow


class _NanGradient(torch.autograd.Function):
    """Identity whose gradient is NaN."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return gradient * torch.nan


@pytest.mark.parametrize(("stage", "precision"), [(0, "float32"), (1, "bfloat16"), (2, "float32"), (3, "bfloat16")])
def test_non_finite_gradient_stops_before_the_optimiser(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int, precision: str
) -> None:
    settings["train"] |= {"zero_stage": stage, "precision": precision}
    calls = []

    def poisoned(*arguments: Any) -> torch.Tensor:
        calls.append(0)
        loss = batch_loss(*arguments)
        return _NanGradient.apply(loss) if len(calls) == 9 else loss  # type: ignore[no-any-return]

    monkeypatch.setattr(climax_hpc.training.task, "batch_loss", poisoned)
    message = r"gradient norm is nan on rank 0 at step 4, source [AB]_synthetic_r1, samples \(time\+lead\) \d+\+\d+, "
    with pytest.raises(UserError, match=message):
        train_here(settings, tmp_path)
    run = tmp_path / "run"
    assert find(run).name == "step_00000003"
    verify(find(run))
    assert len(losses(run)) == 4
    assert state(run)["state"] == "failed"
    assert "gradient norm is nan" in state(run)["message"]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("stage", "fault"), [(0, "loss"), (3, "loss"), (0, "gradient norm"), (1, "gradient norm"), (2, "gradient norm")]
)
def test_the_rank_with_the_fault_reports_it(settings: dict[str, Any], tmp_path: Path, stage: int, fault: str) -> None:
    settings["train"] |= {"zero_stage": stage, "precision": "bfloat16" if stage else "float32"}
    poison = (
        "import os, climax_hpc.training.task as t\n"
        "right, calls = t.batch_loss, []\n"
        "def wrong(*arguments):\n"
        "    calls.append(0)\n"
        "    loss = right(*arguments)\n"
        "    if os.environ['RANK'] == '1' and len(calls) == 5:\n"
        f"        if {fault!r} == 'loss': return loss * float('nan')\n"
        "        loss.register_hook(lambda gradient: gradient * float('nan'))\n"
        "    return loss\n"
        "t.batch_loss = wrong"
    )
    with Ranks(settings, ranks=2, preamble=poison) as ranks:
        statuses, _, errors = ranks.wait()
    assert statuses == [2, 2], errors
    assert errors.startswith(f"climax-hpc: error: {fault} is nan on rank 1 at step 4, source ")
    assert len(errors.strip().splitlines()) == 1
    verify(find(tmp_path / "run"))


@contextmanager
def spikes(monkeypatch: pytest.MonkeyPatch, sampler: type[Sampler], batches: set[int]) -> Iterator[list[int]]:
    """Multiply the loss of these global batches by 100; yields the global batches seen."""
    seen: list[int] = []
    stream = Sampler.stream
    keys: dict[int, int] = {}

    def noted(self: Sampler, first_step: int, steps: int, **ranks: int) -> Any:
        for step, micro_batch in stream(self, first_step, steps, **ranks):
            keys[micro_batch.key] = self.batch_of(step)
            yield step, micro_batch

    seed = torch.manual_seed

    def note_batch(key: int) -> Any:
        if key in keys:
            seen.append(keys[key])
        return seed(key)

    def wild(*arguments: Any) -> torch.Tensor:
        loss = batch_loss(*arguments)
        return loss * 100 if seen[-1] in batches else loss

    monkeypatch.setattr(Sampler, "stream", noted)
    monkeypatch.setattr(climax_hpc.training.train.torch, "manual_seed", note_batch)
    monkeypatch.setattr(climax_hpc.training.task, "batch_loss", wild)
    yield seen


@pytest.mark.parametrize(("stage", "ema_decay"), [(0, 0.9), (3, 0.0)])
def test_spike_rolls_back_and_skips(
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: int,
    ema_decay: float,
) -> None:
    train = {"steps": 36, "checkpoint_every": 10, "spike_batches": 3, "zero_stage": stage, "ema_decay": ema_decay}
    settings["train"] |= train
    run = tmp_path / "run"
    with spikes(monkeypatch, Sampler, {27}) as seen:
        train_here(settings, tmp_path)
    # Two micro-batches a batch; back from 27 to the checkpoint of step 20, on without 25, 26 and 27.
    assert seen[::2] == [*range(28), *range(20, 25), *range(28, 39)]
    assert "loss" in capsys.readouterr().out
    events = [row for row in metrics(run) if "event" in row]
    assert len(events) == 1
    assert events[0] | {"spike_loss": 0, "time": 0} == {
        "step": 27, "time": 0, "event": "rollback", "spike_loss": 0, "to_step": 20, "skipped": [25, 27],
    }  # fmt: skip
    kept = TrainingState.read(find(run) / "training.json")
    assert (kept.skipped, kept.rollbacks) == ((25, 26, 27), 1)
    assert len(losses(run)) == 36

    # Resuming from step 30, after the rollback, gives the same bits: the checkpoint lists the skipped batches.
    monkeypatch.undo()
    whole = losses(run)
    _choose(run / "checkpoints", "step_00000030")
    assert train_here(settings, tmp_path) == whole


def test_recurring_spikes_stop_the_run(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["train"] |= {"steps": 40, "checkpoint_every": 10, "spike_batches": 1, "max_rollbacks": 1}
    with (
        spikes(monkeypatch, Sampler, {24, 28}),
        pytest.raises(UserError, match=r"loss .* at step 27 \(global batch 28\) is a spike again after 1 rollbacks"),
    ):
        train_here(settings, tmp_path)
    verify(find(tmp_path / "run"))


def test_spike_before_the_first_checkpoint_is_reported(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings["train"] |= {"steps": 24, "checkpoint_every": 100}
    with spikes(monkeypatch, Sampler, {22}) as seen:
        train_here(settings, tmp_path)
    assert seen[::2] == list(range(24))
    assert re.search(
        r"loss .* at step 22 is a spike, but there is no checkpoint to roll back to yet", capsys.readouterr().out
    )
    assert [row["event"] for row in metrics(tmp_path / "run") if "event" in row] == ["spike"]


def test_what_a_spike_is() -> None:
    usual = [1.0 + 0.1 * (-1) ** i for i in range(30)]  # median about 1, robust deviation 0.148
    assert not is_spike(1.4, usual, 3.0)
    assert is_spike(1.6, usual, 3.0)
    assert not is_spike(1e9, usual[:19], 3.0)  # too few to know
    assert not is_spike(1e9, usual, 0.0)  # off
    assert not is_spike(1.1, [1.0] * 30, 3.0)  # no spread at all: 5 % of the median counts as one deviation
    assert is_spike(1.2, [1.0] * 30, 3.0)
    assert append_recent(range(100), 100.0) == [*range(1, 100), 100.0]


def test_sampler_without_batches() -> None:
    times = SourceTimes(segments=((0, 50),), min_lead_steps=1, max_lead_steps=4)
    sampler = Sampler({"A": times}, seed=1, micro_batch_size=2, micro_batches_per_step=2)
    shorter = sampler.without([0, 3, 4])
    assert [shorter.batch_of(step) for step in range(4)] == [1, 2, 5, 6]
    assert [shorter.micro_batches(step) for step in range(4)] == [
        sampler.micro_batches(batch) for batch in (1, 2, 5, 6)
    ]
    streamed = [micro_batch for _, micro_batch in shorter.stream(0, 4)]
    assert streamed == [micro_batch for batch in (1, 2, 5, 6) for micro_batch in sampler.micro_batches(batch)]
    assert sampler.micro_batches(0) != shorter.micro_batches(0)
