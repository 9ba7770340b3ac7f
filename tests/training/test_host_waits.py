"""The host waits for the device at most once in an optimiser step of the real loop, at every ZeRO stage.

Counted on the CPU with the form of AdamW that GPUs use. Batches have a test of their own (tests/data), and the log
takes numbers that the host has.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import climax_hpc.training.optimizer
from climax_hpc.cli import run
from climax_hpc.training.progress import TrainingProgress
from climax_hpc.training.setup import TrainingSetup
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
