"""Learning-rate schedule, which parameters decay, and the two forms of AdamW."""

from typing import Any

import pytest
import torch

import climax_hpc.training.optimizer
from climax_hpc.config.training import OptimizerConfig
from climax_hpc.errors import UserError
from climax_hpc.model.climax import ClimaXNetwork
from climax_hpc.model.config import ModelConfig
from climax_hpc.training.optimizer import adamw, choose_form, learning_rate, parameter_groups


def test_learning_rate_warms_up_and_follows_a_cosine() -> None:
    config = OptimizerConfig(lr=1.0, end_lr=0.1, warmup_steps=10)
    rates = [learning_rate(step, 110, config) for step in range(110)]
    assert rates[0] == pytest.approx(0.1 + 0.9 / 10)
    assert rates[9] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert max(rates) == pytest.approx(1.0)


def test_a_constant_rate_cools_down_to_zero() -> None:
    config = OptimizerConfig(lr=1.0, end_lr=0.1, warmup_steps=10, schedule="constant", cooldown_steps=4)
    rates = [learning_rate(step, 20, config) for step in range(20)]
    assert rates[:10] == pytest.approx([0.1 + 0.09 * (step + 1) for step in range(10)])
    assert rates[10:] == pytest.approx([1.0] * 7 + [0.75, 0.5, 0.25])  # 0 would be the rate of step 20
    longer = [learning_rate(step, 40, config) for step in range(17)]
    assert longer == rates[:17]
    short = [learning_rate(step, 6, config) for step in range(6)]  # the cool-down begins during the warm-up
    assert short == pytest.approx([0.19, 0.28, 0.37, 0.46, 0.5, 0.25])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "lion"}, "optimizer.kind: use adamw or muon"),
        ({"schedule": "linear"}, "optimizer.schedule: use cosine or constant"),
        ({"schedule": "constant", "cooldown_steps": -1}, "optimizer.cooldown_steps must not be negative"),
        ({"cooldown_steps": 5}, "optimizer.cooldown_steps needs optimizer.schedule constant"),
    ],
)
def test_unknown_optimisers_and_schedules_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        OptimizerConfig(**wrong)


def test_norms_biases_and_embeddings_do_not_decay() -> None:
    small = {"variables": ("2m_temperature",), "height": 8, "width": 8, "embed_dim": 16, "depth": 1, "heads": 2}
    model = ClimaXNetwork(ModelConfig(**small))
    names = {id(p): name for name, p in model.named_parameters()}
    decay, keep = ({names[id(p)] for p in group["params"]} for group in parameter_groups(model, 0.1))  # type: ignore[attr-defined]
    assert decay | keep == set(names.values())
    assert all("bias" not in name and "norm" not in name for name in decay)
    assert {"pos_embed", "aggregator.var_embed", "aggregator.query", "lead_time_embed.weight"} <= keep
    assert {"blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight", "aggregator.patch_weight", "head.0.weight"} <= decay


@pytest.mark.parametrize(("writes", "reads"), [(False, True), (True, False)])
def test_a_checkpoint_of_the_other_form_resumes_in_this_ones(
    writes: bool, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(steps: int, fused: bool, start: dict[str, Any] | None) -> tuple[torch.nn.Linear, torch.optim.AdamW]:
        monkeypatch.setattr(climax_hpc.training.optimizer, "fused", lambda: fused)
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = adamw(model, OptimizerConfig(lr=0.1))
        if start:
            model.load_state_dict(start["model"])
            optimizer.load_state_dict(start["optimizer"])
            choose_form(optimizer)
        assert {group["fused"] for group in optimizer.param_groups} == {fused}
        for _ in range(steps):
            model(torch.ones(4, 3)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return model, optimizer

    model, optimizer = run(3, writes, None)
    resumed, _ = run(3, reads, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    whole, _ = run(6, reads, None)
    torch.testing.assert_close(resumed.weight, whole.weight, rtol=1e-5, atol=1e-6)
