"""The host waits for the device at most once in an optimiser step of the real loop, at every ZeRO stage.

Counted on the CPU with the form of AdamW that GPUs use. Batches have a test of their own (tests/data), and the log
takes numbers that the host has.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import climax_hpc.training.optimizer
from climax_hpc.cli import run
from climax_hpc.config.training import OptimizerConfig, TrainConfig
from climax_hpc.data.sampler import MicroBatch
from climax_hpc.distributed import process_group
from climax_hpc.training.deepspeed_engine import build_engine, set_learning_rate
from climax_hpc.training.progress import TrainingProgress
from climax_hpc.training.setup import TrainingSetup
from climax_hpc.training.step_guard import StepGuard
from climax_hpc.utils.operator_calls import OperatorCalls

from .conftest import write_config


@pytest.mark.parametrize(("stage", "precision"), [(0, "float32"), (1, "bfloat16"), (2, "bfloat16"), (3, "float32")])
def test_one_wait_a_step(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int, precision: str
) -> None:
    settings["train"] |= {
        "zero_stage": stage, "precision": precision, "ema_decay": 0.9,
        "steps": 4, "checkpoint_every": 9, "log_every": 9,
    }  # fmt: skip
    settings["optimizer"]["gradient_clipping"] = 0.01
    monkeypatch.setattr(climax_hpc.training.optimizer, "fused", lambda: True)
    counter, waits = OperatorCalls(), {}
    log, batches = TrainingProgress.step, TrainingSetup.batches

    def note(self: TrainingProgress, step: int, *arguments: Any) -> None:
        log(self, step, *arguments)
        waits[step] = Counter(counter.waits)
        counter.clear()

    def uncounted(stream: Iterator[Any]) -> Iterator[Any]:
        while True:
            before = Counter(counter.waits)
            if (item := next(stream, None)) is None:
                return
            counter.waits.clear()
            counter.waits.update(before)
            yield item

    def uncounted_batches(self: TrainingSetup, *arguments: Any) -> Any:
        sampler, stream = batches(self, *arguments)
        return sampler, uncounted(stream)

    monkeypatch.setattr(TrainingSetup, "batches", uncounted_batches)
    monkeypatch.setattr(TrainingProgress, "step", note)
    with counter:
        run(["pretrain", "--config", write_config(settings, tmp_path)])
    # Step 1 also builds the engine, step 4 writes a checkpoint.
    assert [waits[step] for step in (2, 3)] == [{"tolist": 1}] * 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device")
@pytest.mark.parametrize(("stage", "precision"), [(0, "float32"), (1, "bfloat16"), (2, "bfloat16")])
def test_one_wait_on_a_gpu(stage: int, precision: str) -> None:
    """The same by torch's own count, on a device of its own; the first steps make AdamW's moments."""
    process_group.connect()
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 8))
    engine = build_engine(
        model.to(process_group.device()),
        train=TrainConfig(precision=precision, zero_stage=stage),
        optimizer=OptimizerConfig(),
        micro_batch_size=4,
        micro_batches_per_rank=1,
    )
    guard = StepGuard(engine, micro_batches=1, rank=0, check_gradients=True)
    x = torch.ones(4, 64, device=process_group.device(), dtype=next(engine.module.parameters()).dtype)
    for step in range(3):
        torch.cuda.set_sync_debug_mode("warn" if step == 2 else "default")
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            set_learning_rate(engine, 1e-3)
            loss = engine(x).float().square().mean()
            engine.backward(loss)
            guard.add(MicroBatch(source="ones", samples=(), key=step), loss)
            guard.check(step, stop=False)
            engine.step()
        torch.cuda.set_sync_debug_mode("default")
    assert sum("synchronizing" in str(each.message) for each in waits) == 1, [str(each.message) for each in waits]
