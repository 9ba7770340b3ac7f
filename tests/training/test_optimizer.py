"""Learning-rate schedule, and which parameters decay."""

import pytest

from climax_hpc.config.training import OptimizerConfig
from climax_hpc.model.climax import ClimaXNetwork
from climax_hpc.model.config import ModelConfig
from climax_hpc.training.optimizer import learning_rate, parameter_groups


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
