"""Which ranks a launcher's environment means; learning rate and parameter groups."""

from types import SimpleNamespace

import pytest
import torch

from climax_hpc.config.training import OptimizerConfig
from climax_hpc.distributed.launcher import World, detect
from climax_hpc.model.climax import ClimaXNetwork
from climax_hpc.model.config import ModelConfig
from climax_hpc.training.ema import Ema
from climax_hpc.training.optimizer import learning_rate, parameter_groups


@pytest.mark.parametrize(
    ("environment", "world"),
    [
        ({}, World()),
        (
            {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"},
            World(rank=3, size=8, local_rank=1, launcher="torchrun"),
        ),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, World(rank=1, size=2, local_rank=1, launcher="MPICH")),
        (
            {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
            World(rank=5, size=8, local_rank=1, launcher="Open MPI"),
        ),
        (
            {"SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "1"},
            World(rank=9, size=16, local_rank=1, launcher="Slurm"),
        ),
        # A batch script without srun is one process, though Slurm sets its variables there too.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_LOCALID": "0"}, World()),
    ],
)
def test_detect(environment: dict[str, str], world: World) -> None:
    assert detect(environment) == world


def test_learning_rate_warms_up_and_follows_a_cosine() -> None:
    config = OptimizerConfig(lr=1.0, end_lr=0.1, warmup_steps=10)
    rates = [learning_rate(step, 110, config) for step in range(110)]
    assert rates[0] == pytest.approx(0.1 + 0.9 / 10)
    assert rates[9] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert max(rates) == pytest.approx(1.0)


def test_norms_biases_and_embeddings_do_not_decay() -> None:
    small = {"variables": ("2m_temperature",), "height": 8, "width": 8, "embed_dim": 16, "depth": 1, "heads": 2}
    model = ClimaXNetwork(ModelConfig(**small))
    names = {id(p): name for name, p in model.named_parameters()}
    decay, keep = ({names[id(p)] for p in group["params"]} for group in parameter_groups(model, 0.1))  # type: ignore[attr-defined]
    assert decay | keep == set(names.values())
    assert all("bias" not in name and "norm" not in name for name in decay)
    assert {"pos_embed", "aggregator.var_embed", "aggregator.query", "lead_time_embed.weight"} <= keep
    assert {"blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight", "aggregator.patch_weight", "head.0.weight"} <= decay


def test_moving_average() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    engine = SimpleNamespace(module=model, zero_optimization_stage=lambda: 0)
    torch.nn.init.constant_(model.weight, 1.0)
    ema = Ema(engine, 0.9)
    torch.nn.init.constant_(model.weight, 2.0)
    ema.update(engine, 0)  # rate 1 - 1/10
    assert ema.weights(engine)["weight"].item() == pytest.approx(1.9)
    ema.update(engine, 1000)  # rate 1 - 0.9
    assert ema.weights(engine)["weight"].item() == pytest.approx(1.91)
    assert model.weight.item() == 2.0
