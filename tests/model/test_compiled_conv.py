"""Compiled `conv` blocks: no graph breaks, few graphs for all grids, rates and batches, the values of eager ones."""

from typing import Any

import pytest
import torch
from torch import Tensor

from climax_hpc.fields.variables import CLIMAX_48
from climax_hpc.model.build import build_network
from climax_hpc.model.config import ModelConfig

from .compiling import compiled

VARIABLES = tuple(v.name for v in CLIMAX_48[:5])


pytestmark = pytest.mark.usefixtures("no_earlier_graphs")


def network(**options: Any) -> Any:
    torch.manual_seed(0)
    size = {"height": 16, "width": 16, "patch": 2, "embed_dim": 8, "heads": 2, "depth": 2, "decoder_depth": 0}
    return build_network(ModelConfig(variables=VARIABLES, blocks="conv", **(size | options))).train()


def loss(model: Any, B: int) -> Tensor:
    x_BVHW = torch.linspace(-1, 1, B * 5 * 16 * 16).view(B, 5, 16, 16)
    return model(x_BVHW, torch.full((B,), 24.0), VARIABLES, VARIABLES[2:]).square().mean()


@pytest.mark.parametrize(
    ("dtype", "recompute"), [(torch.float32, True), (torch.bfloat16, False)], ids=["recomputed", "bfloat16"]
)
def test_blocks_of_all_grids_and_rates_share_few_graphs(dtype: torch.dtype, recompute: bool) -> None:
    model = network(drop_path=0.3, activation_checkpointing=recompute).to(dtype)
    counter = compiled(model.blocks, "eager")
    for B in (4, 3, 7):
        loss(model, B).backward()
    found = counter.frame_count
    assert found <= 5  # torch's limit is 8
    for B in (2, 5, 6):
        loss(model, B).backward()
    assert counter.frame_count == found


def test_values_and_gradients_are_those_of_eager_blocks() -> None:
    found = []
    for compiles in (False, True):
        model = network(depth=1, levels=2, dropout=0.0, drop_path=0.0).double()
        if compiles:
            compiled(model.blocks, "aot_eager")
        value = loss(model, 3)
        value.backward()
        found.append([value, *(p.grad for p in model.parameters())])
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-15)


def test_blocks_on_a_gpu_have_no_graph_breaks() -> None:
    model = network().to("meta")
    x_BDhw = torch.empty(4, 8, 8, 8, device="meta", requires_grad=True)
    for block in (model.blocks.residual[0], model.blocks.residual[-1]):
        assert torch._dynamo.explain(block)(x_BDhw, torch.empty(4, device="meta")).graph_break_count == 0
