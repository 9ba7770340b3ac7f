"""Planned host memory of a checkpoint against the tensors that the engine copies, at all ZeRO stages."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from climax_hpc.checkpoint.format import ENGINE
from climax_hpc.config.training import TrainConfig
from climax_hpc.distributed import process_group
from climax_hpc.model import ModelConfig
from climax_hpc.tools.plan.host import checkpoint_bytes
from climax_hpc.tools.plan.measure import engine_step
from climax_hpc.training.deepspeed_engine import full_weights, torch_functions_restored
from climax_hpc.training.deepspeed_io import HashingCheckpointEngine
from climax_hpc.training.shape import Shape

MODEL = {
    "variables": ["2m_temperature", "geopotential_500"], "height": 8, "width": 16, "patch": 2, "embed_dim": 32,
    "depth": 1, "heads": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "precision"),
    [(0, "float32"), (1, "float32"), (1, "bfloat16"), (2, "bfloat16"), (3, "float32"), (3, "bfloat16")],
)
def test_the_copy_of_one_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int, precision: str) -> None:
    process_group.connect()
    copies: list[Any] = []
    monkeypatch.setattr(HashingCheckpointEngine, "_write", lambda self, state, path: copies.append(state))
    config, train = ModelConfig(**MODEL), TrainConfig(zero_stage=stage, precision=precision)
    with torch_functions_restored():
        step, engine = engine_step(config, train, 1, 1)
        step()
        engine.checkpoint_engine.reset(postpone=True)
        engine.save_checkpoint(str(tmp_path), tag=ENGINE, save_latest=False)
        assert not copies
        engine.checkpoint_engine.write_postponed()
        copies.append(full_weights(engine))
        engine.destroy()
    held = sum(leaf.nbytes for leaf in tree_leaves(copies) if torch.is_tensor(leaf))
    shape = Shape(model=config, B=1, V=2, O=2, micro_batches_per_rank=1, ranks=1)
    assert checkpoint_bytes(shape, train, per_node=1) == pytest.approx(held, rel=0.01)


def test_the_first_node_of_several() -> None:
    shape = Shape(model=ModelConfig(**MODEL), B=1, V=2, O=2, micro_batches_per_rank=1, ranks=8)

    def per_parameter(**train: Any) -> float:
        return checkpoint_bytes(shape, TrainConfig(**train), per_node=4) / shape.n

    assert per_parameter(background_checkpoints=False) == 4
    assert per_parameter(zero_stage=0) == 4 + 12
    assert per_parameter(zero_stage=2, precision="bfloat16") == 4 + 2 + 12 / 2
    assert per_parameter(zero_stage=3) == 4 + 12 / 2
