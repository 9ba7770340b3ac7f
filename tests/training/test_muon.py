"""Muon: the orthogonal step, which parameters it takes, the same training at every ZeRO stage, exact resume."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from climax_hpc.config.training import OptimizerConfig
from climax_hpc.model.build import build_network
from climax_hpc.model.config import ModelConfig
from climax_hpc.training.deepspeed_io import host_copy
from climax_hpc.training.matrix_exchange import Held, Matrix, owners
from climax_hpc.training.muon import _newton_schulz, orthogonal
from climax_hpc.training.optimizer import build_optimizer, trunk_matrices

from .processes import run_script

SMALL = {"variables": ("2m_temperature", "geopotential_500"), "height": 8, "width": 16, "embed_dim": 16, "depth": 2}


@pytest.mark.parametrize("shape", [(7, 7), (5, 40), (40, 5), (3, 1)])
def test_a_step_is_orthogonal_with_the_size_of_adamws(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(shape), torch.randn(9, 3), 1e-3 * torch.randn(shape)]
    for gradient, step in zip(gradients, orthogonal(gradients, torch.float32), strict=True):
        u, _, v = torch.linalg.svd(gradient, full_matrices=False)
        s = torch.linalg.svdvals(step)
        scale = 0.2 * math.sqrt(max(gradient.shape))
        assert s.min() > 0.6 * scale
        assert s.max() < 1.3 * scale
        assert (u.mT @ step @ v.mT).diagonal().min() > 0.6 * scale  # the same singular vectors
        assert 0.12 < step.square().mean().sqrt() < 0.26 or min(shape) == 1
    assert not orthogonal([torch.zeros(3, 4)], torch.float32)[0].any()


def test_matrices_are_the_same_alone_and_together() -> None:
    """Which matrices a rank owns depends on the number of ranks."""
    x_NRC = torch.randn(4, 6, 30, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(_newton_schulz(x_NRC[1:2], torch.float32)[0], _newton_schulz(x_NRC, torch.float32)[1])
    low = _newton_schulz(x_NRC, torch.bfloat16)  # as on a GPU
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), _newton_schulz(x_NRC, torch.float32), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("kind", "stacks"),
    [
        ("climax", {"attn.qkv": 3, "attn.proj": 1, "mlp.fc1": 1, "mlp.fc2": 1}),
        ("resnet", {"conv1": 1, "conv2": 1}),
        ("unet", {"conv1": 1, "conv2": 1, "skip": 1}),
        ("linear", {}),
    ],
)
def test_matrices_of_the_trunk(kind: str, stacks: dict[str, int]) -> None:
    own = {"patch": 2, "heads": 2} if kind == "climax" else {}
    network = build_network(ModelConfig(**SMALL, kind=kind, **own))
    found = trunk_matrices(network)
    names = {name for name, parameter in network.named_parameters() if parameter in found}
    assert all(name.startswith(("blocks.", "down.", "up.")) for name in names)
    ends = {
        name.removesuffix(".weight").split(".", 2 if kind != "unet" else 3)[-1]: found[p]
        for name, p in network.named_parameters()
        if p in found
    }
    assert ends == stacks
    expected = [n for n, p in network.named_parameters() if n.startswith(("blocks", "down", "up")) and p.ndim > 1]
    assert names == {name for name in expected if ".lead." not in name}
    groups = build_optimizer(network, OptimizerConfig(kind="muon")).param_groups
    assert sum(p.numel() for group in groups for p in group["params"]) == sum(p.numel() for p in network.parameters())


def test_frozen_blocks_are_left_out() -> None:
    network = build_network(ModelConfig(**SMALL, patch=2, heads=2))
    network.blocks.requires_grad_(False)
    assert not trunk_matrices(network)


def test_owners_share_the_work() -> None:
    whole = Held(tensor=0, place=0, start=0, size=100)
    shared = [Matrix(rows=10, columns=10, held=(whole,) * 3) for _ in range(7)]
    assert sorted(owners(shared).count(rank) for rank in range(3)) == [2, 2, 3]
    second = Matrix(rows=10, columns=10, held=(None, whole, None))
    assert owners([*shared[:2], second]) == [0, 2, 1]


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "elements_of_a_round"), [(1, 100), (2, 2**24), (3, 100)])
def test_every_stage_takes_the_step_of_one_process_in_float64(
    ranks: int, elements_of_a_round: int, tmp_path: Path
) -> None:
    distances = run_script("muon_ranks.py", str(elements_of_a_round), ranks=ranks, folder=tmp_path)
    assert len(distances) == 7
    for case, distance in distances.items():
        # float32 rounds gradients to 1e-7 of their size, which AdamW and the iteration enlarge for small ones
        assert distance < (1e-5 if "float32" in case else 0.2), distances


def test_second_moments_of_checkpoints_take_no_space() -> None:
    network = torch.nn.ModuleList([torch.nn.Linear(8, 8)])
    optimizer = build_optimizer(network, OptimizerConfig(kind="muon"))
    network[0].weight.grad = torch.ones(8, 8)
    network[0].bias.grad = torch.ones(8)
    optimizer.step()
    saved: dict[str, Any] = host_copy(optimizer.state_dict())
    stored = saved["state"][0]["exp_avg_sq"]
    assert stored.shape == (8, 8)
    assert stored.untyped_storage().nbytes() == 4
    again = build_optimizer(network, OptimizerConfig(kind="muon"))
    again.load_state_dict(saved)
    assert set(again.state[network[0].weight]) == {"step", "exp_avg"}
    torch.testing.assert_close(again.state[network[0].weight], optimizer.state[network[0].weight], rtol=0, atol=0)
