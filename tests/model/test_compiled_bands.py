"""Compiled blocks of ranks that share samples: exchanges are operators of the one graph; values and gradients stay.

Without other ranks: what a rank sends to another one is given back to it.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from climax_hpc.fields.variables import CLIMAX_48
from climax_hpc.model import band
from climax_hpc.model.band import RowBand, share
from climax_hpc.model.build import build_network
from climax_hpc.model.config import ModelConfig

from .compiling import compiled

pytestmark = pytest.mark.usefixtures("no_earlier_graphs")

SIZE: dict[str, Any] = {
    "variables": tuple(v.name for v in CLIMAX_48[:4]), "height": 16, "width": 8, "patch": 2, "embed_dim": 8, "heads": 2,
    "depth": 3, "drop_path": 0.0, "dropout": 0.0,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "vit": {},
    "vit, recomputed, members": {"activation_checkpointing": True, "noise_dim": 3},
}


@pytest.fixture
def exchanged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers that were sent, by exchange."""
    sent: list[int] = []

    def give_back(received: Tensor, given: Tensor, *_: object, group: str) -> None:
        sent.append(given.numel())
        received.copy_(given)

    monkeypatch.setattr(torch.distributed, "all_to_all_single", give_back)
    monkeypatch.setitem(band._GROUPS, "none", "none")
    return sent


def gradients(network: Any, B: int) -> list[Tensor]:
    """Loss and gradients of a network with a band of 8 rows."""
    network.zero_grad()
    x_BVHW = torch.linspace(-1, 1, B * 4 * 8 * 8).view(B, 4, 8, 8)
    noise = {"noise_BMZ": torch.linspace(-1, 1, B * 3).view(B, 1, 3)} if network.config.noise_dim else {}
    names = SIZE["variables"]
    loss = network(x_BVHW, torch.full((B,), 24.0), names, names[2:], patched=True, **noise).square().mean()
    loss.backward()
    return [loss.detach(), *(p.grad for p in network.parameters() if p.grad is not None)]


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_exchanges_are_part_of_the_graph(kind: str, place: int, exchanged: list[int]) -> None:
    torch.manual_seed(0)
    network: Any = build_network(ModelConfig(**(SIZE | KINDS[kind]))).train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    share(network, RowBand(place=place, size=2, group="none"))
    eager = [gradients(network, B) for B in (2, 3)]
    as_before = exchanged.copy()
    exchanged.clear()
    counter = compiled(network.blocks)
    for B, expected in zip((2, 3), eager, strict=True):
        torch.testing.assert_close(gradients(network, B), expected, rtol=1e-5, atol=1e-6)
    assert exchanged == as_before
    assert len(exchanged) >= 2 * 2 * 2 * 3
    assert counter.frame_count == 2  # the second one takes any size
