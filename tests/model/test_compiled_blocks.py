"""Compiled blocks: one graph for all rates and depths, few for all sizes, the same values and gradients, right rates.

The backend `aot_eager` traces forward and backward pass as `inductor` does, and needs no compiler. Tensors on `meta`
take the path of a GPU.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from climax_hpc.fields.variables import CLIMAX_48
from climax_hpc.model.blocks import Block, drop_path_rates
from climax_hpc.model.build import build_network
from climax_hpc.model.config import ModelConfig
from climax_hpc.model.dropout import Dropout, DropPath
from climax_hpc.model.rollout import roll_out

from .compiling import compiled

VARIABLES = tuple(v.name for v in CLIMAX_48[:5])
DEPTH = 12


pytestmark = pytest.mark.usefixtures("no_earlier_graphs")


def network(**options: object) -> Any:
    torch.manual_seed(0)
    size = {"height": 4, "width": 6, "patch": 2, "embed_dim": 8, "heads": 2, "depth": DEPTH, "decoder_depth": 1}
    return build_network(ModelConfig(variables=VARIABLES, **(size | options))).train()  # type: ignore[arg-type]


def loss(model: Any, B: int) -> Tensor:
    x_BVHW = torch.linspace(-1, 1, B * 5 * 4 * 6).view(B, 5, 4, 6)
    return model(x_BVHW, torch.full((B,), 24.0), VARIABLES, VARIABLES[2:]).square().mean()


@pytest.mark.parametrize(
    ("dtype", "recompute"), [(torch.float32, True), (torch.bfloat16, False)], ids=["recomputed", "bfloat16"]
)
def test_blocks_of_all_rates_share_one_graph(dtype: torch.dtype, recompute: bool) -> None:
    model = network(drop_path=0.3, activation_checkpointing=recompute).to(dtype)
    counter = compiled(model.blocks, "eager")
    loss(model, 4).backward()
    loss(model, 4).backward()
    assert counter.frame_count == 1
    for B in (3, 7, 5, 2):
        loss(model, B).backward()
    assert counter.frame_count == 2  # the second one takes any size
    model.eval()
    with torch.no_grad():
        for B in (4, 3, 6):
            loss(model, B)
    assert counter.frame_count == 3


def test_roll_outs_and_frozen_projections_share_it_too() -> None:
    model = network(depth=3, drop_path=0.3)
    counter = compiled(model.blocks, "eager")
    leads_B = torch.full((2,), 24.0)
    x_BVHW = torch.ones(2, 5, 4, 6)
    steps = roll_out(lambda x: model(x, leads_B, VARIABLES, VARIABLES[3:]), x_BVHW, VARIABLES[3:] + VARIABLES[:3],
                     VARIABLES[3:], 3)  # fmt: skip
    torch.stack([y_BOHW.square().mean() for y_BOHW in steps]).sum().backward()
    assert counter.frame_count == 1
    torch.compiler.reset()
    projection = network(depth=3, years=2, projected=("diurnal_temperature_range",))
    projection.freeze()
    counter = compiled(projection.blocks, "eager")
    x_BTVHW = torch.ones(3, 2, 5, 4, 6)
    projection(x_BTVHW, torch.zeros(3), VARIABLES, ("diurnal_temperature_range",)).square().mean().backward()
    assert counter.frame_count == 1


def test_blocks_on_a_gpu_have_no_graph_breaks() -> None:
    blocks = nn.ModuleList(Block(8, 2, 4.0, 0.1, rate) for rate in drop_path_rates(0.3, DEPTH)).to("meta")
    z_BLD = torch.empty(4, 6, 8, device="meta", requires_grad=True)
    for block in (blocks[0], blocks[-1]):
        assert torch._dynamo.explain(block)(z_BLD).graph_break_count == 0
    counter = compiled(blocks)
    for block in blocks:
        z_BLD = block(z_BLD)
    z_BLD.sum().backward()
    assert counter.frame_count == 1


def test_values_and_gradients_are_those_of_eager_blocks() -> None:
    found = []
    for compiles in (False, True):
        model = network(depth=2, dropout=0.0, drop_path=0.0).double()
        if compiles:
            compiled(model.blocks)
        value = loss(model, 3)
        value.backward()
        found.append([value, *(p.grad for p in model.parameters())])
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-15)


def test_masks_depend_on_the_seed_alone_and_are_drawn_again_when_blocks_are_recomputed() -> None:
    """The seed is the key of the micro-batch in training."""
    gradients: dict[int, list[Tensor]] = {}
    for recompute in (False, True):
        model = network(depth=3, drop_path=0.3, activation_checkpointing=recompute)
        compiled(model.blocks)
        for seed in (1, 2, 1):
            torch.manual_seed(seed)
            found = list(torch.autograd.grad(loss(model, 4), list(model.blocks.parameters())))
            for first, again in zip(gradients.setdefault(seed, found), found, strict=True):
                assert torch.equal(first, again)
    assert not torch.equal(gradients[1][0], gradients[2][0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_compiled_drop_path_drops_the_rate_of_each_block(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for rate in (0.0, 0.25, 0.6):
        path = DropPath(rate).to(dtype).train()
        y_BLD = torch.compile(path, fullgraph=True, backend="aot_eager")(torch.ones(20_000, 2, 3, dtype=dtype))
        kept_B = y_BLD[:, 0, 0] != 0
        assert (y_BLD == y_BLD[:, :1, :1]).all()
        assert kept_B.double().mean() == pytest.approx(1 - rate, abs=0.015)
        scale = torch.tensor(1 / (1 - rate), dtype=dtype)
        torch.testing.assert_close(y_BLD[kept_B], scale.expand_as(y_BLD[kept_B]), rtol=1e-6, atol=0)


def test_a_compiled_dropout_drops_the_rate() -> None:
    torch.manual_seed(0)
    run = torch.compile(Dropout(0.3).train(), fullgraph=True, backend="aot_eager")
    y = run(torch.ones(100_000))
    assert (y == 0).double().mean() == pytest.approx(0.3, abs=0.01)
    assert y.max() == pytest.approx(1 / 0.7)
