"""Gradients are seen before they are reduced; clipping is DeepSpeed's; streams wait instead of the host."""

from types import SimpleNamespace
from typing import Any

import deepspeed.accelerator
import pytest
import torch

from climax_hpc.config.training import OptimizerConfig, TrainConfig
from climax_hpc.data.sampler import MicroBatch
from climax_hpc.distributed import process_group
from climax_hpc.errors import UserError
from climax_hpc.training.deepspeed_engine import build_engine, torch_functions_restored
from climax_hpc.training.deepspeed_step import _clip_parameters, _order_streams, watch_gradients
from climax_hpc.training.step_guard import StepGuard

STAGES = [(0, "float32"), (1, "float32"), (1, "bfloat16"), (2, "bfloat16"), (3, "bfloat16")]


@pytest.mark.parametrize(("stage", "precision"), STAGES)
@pytest.mark.parametrize("wrong", [0, 1])
def test_the_pass_with_the_fault_is_named(stage: int, precision: str, wrong: int) -> None:
    process_group.connect()
    with torch_functions_restored():
        engine = build_engine(
            torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2)),
            train=TrainConfig(precision=precision, zero_stage=stage),
            optimizer=OptimizerConfig(),
            micro_batch_size=1,
            micro_batches_per_rank=2,
        )
        guard = StepGuard(engine, micro_batches=2, rank=0, check_gradients=True)
        for number in range(2):
            out = engine(torch.ones(4, 3, dtype=next(engine.module.parameters()).dtype)).float()
            if number == wrong:
                out.register_hook(lambda gradient: gradient * float("inf"))
            loss = out.square().mean()
            engine.backward(loss)
            guard.add(MicroBatch(source=f"pass {number}", samples=(), key=0), loss)
            if not guard.complete:
                engine.step()
        with pytest.raises(UserError, match=rf"gradient norm is (inf|nan) on rank 0 at step 7, source pass {wrong}"):
            guard.check(7, stop=False)


@pytest.mark.parametrize("limit", [0.1, 100.0])
def test_clipping(limit: float) -> None:
    model = torch.nn.Linear(3, 5)
    model(torch.ones(2, 3)).square().sum().backward()
    expected = [p.grad.double() for p in model.parameters()]  # type: ignore[union-attr]
    norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in expected]))
    assert 0.1 < norm < 100
    _clip_parameters(SimpleNamespace(module=model, gradient_clipping=lambda: limit))
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, (gradient * min(1.0, limit / norm)).float(), rtol=1e-5, atol=0)


def test_a_bucket_is_seen_once_it_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    stream = SimpleNamespace(wait_stream=lambda other: done.append(f"waits for {other}"))
    monkeypatch.setattr(deepspeed.accelerator.get_accelerator(), "current_stream", lambda: stream)
    optimizer = SimpleNamespace(
        ipg_buckets={torch.float32: SimpleNamespace(copy_streams=["copies"])},
        average_tensor=lambda tensor, dtype: done.append("reduced"),
    )
    engine = SimpleNamespace(optimizer=optimizer, zero_optimization_stage=lambda: 2)
    watch_gradients(engine, lambda gradients: done.append("seen"))
    optimizer.average_tensor(torch.ones(2), torch.float32)
    assert done == ["waits for copies", "seen", "reduced"]


def test_the_device_waits_for_the_overlapped_reduction(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    accelerator = deepspeed.accelerator.get_accelerator()
    monkeypatch.setattr(accelerator, "synchronize", lambda: done.append("host waits"))
    stream = SimpleNamespace(wait_stream=lambda other: done.append(f"stream waits for {other}"))
    monkeypatch.setattr(accelerator, "current_stream", lambda: stream)
    optimizer = SimpleNamespace(
        reduction_stream="reduction",
        overlapping_partition_gradients_reduce_epilogue=lambda: accelerator.synchronize(),
    )
    _order_streams(optimizer)
    optimizer.overlapping_partition_gradients_reduce_epilogue()
    accelerator.synchronize()
    assert done == ["stream waits for reduction", "host waits"]
