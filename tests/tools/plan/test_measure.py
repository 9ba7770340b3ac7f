"""Measured steps are on the rank's device, model and batch alike, and so is the memory that is measured."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from climax_hpc.config.training import TrainConfig
from climax_hpc.distributed import process_group
from climax_hpc.model import ModelConfig
from climax_hpc.tools.bench import step_ranks
from climax_hpc.tools.plan import measure
from climax_hpc.tools.plan.measure import peak_of

from ...meta_device import META, MetaDevice

CONFIG = ModelConfig(height=8, width=16, patch=4, embed_dim=16, depth=1, heads=2)


class Engine:
    """Calls the model as DeepSpeed's engine does."""

    def __init__(self, module: torch.nn.Module, **_: Any) -> None:
        self.module = module

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.module(*arguments, **options)

    def parameters(self) -> Any:
        """Those of the model."""
        return self.module.parameters()

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss."""
        loss.backward()

    def step(self) -> None:
        """No update."""


BUILDS: dict[str, Callable[[], tuple[measure.Step, Any]]] = {
    "ours": lambda: measure.engine_step(CONFIG, TrainConfig(), 2, 1),
    "textbook": lambda: step_ranks.ddp_textbook(CONFIG, 2),
}


@pytest.mark.parametrize("form", BUILDS)
def test_model_and_batch_are_on_the_device(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "device", lambda: META)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(measure, "build_engine", Engine)
    monkeypatch.setattr(step_ranks, "DistributedDataParallel", Engine)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, norm: None)
    monkeypatch.setattr(step_ranks, "adamw", lambda model, config: torch.optim.SGD(model.parameters(), lr=0.1))
    with MetaDevice(monkeypatch):
        step, engine = BUILDS[form]()
        assert step().device == META
    assert {parameter.device for parameter in engine.module.parameters()} == {META}


def test_memory_of_a_gpu_is_the_peak_of_the_second_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allocations of a GPU are imitated: 7 bytes of an earlier model, then build and steps."""
    held = [7]

    def use(nbytes: int, kept: int) -> None:
        held.extend((held[-1] + nbytes, held[-1] + kept))

    def step() -> Tensor:
        first = len(held) == 3
        use(5000 if first else 300, 200 if first else 0)
        return torch.zeros(())

    def build() -> tuple[measure.Step, str]:
        use(100, 40)
        return step, "owner"

    monkeypatch.setattr(process_group, "device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held[-1])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: held.__delitem__(slice(0, -1)))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: max(held))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert peak_of(build) == (step, "owner", 40 + 200 + 300)
