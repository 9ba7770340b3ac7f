"""The planner's FLOP equal torch's counter on the same model, and the formulas equal the FLOP inside the operators."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from climax_hpc.fields.variables import CLIMAX_48
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.kernels.variable_aggregation import cpu
from climax_hpc.model import ClimaXNetwork, ModelConfig
from climax_hpc.model.noise import member_noise, of_members
from climax_hpc.training.flop import aggregate_backward_flop, aggregate_flop, register_formulas, step_flop
from climax_hpc.training.shape import Shape

# Missing in torch's counter: products added in place.
IN_PLACE = {
    torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1],
    torch.ops.aten.baddbmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * a[2] * b[2],
}


def counted(shape: Shape) -> int:
    """FLOP of forward, loss and backward of one micro-batch by torch's counter."""
    register_formulas()
    names, dim = shape.model.variables, shape.model.noise_dim
    model = ClimaXNetwork(shape.model).train()
    x_BVHW, y_BOHW = (torch.randn(shape.B, k, shape.model.height, shape.model.width) for k in (shape.V, shape.O))
    with FlopCounterMode(display=False) as counter:
        noise = {"noise_BMZ": member_noise(0, range(shape.B), range(shape.members), dim)} if dim else {}
        h = model(x_BVHW, torch.full((shape.B,), 6.0), names[: shape.V], names[: shape.O], patched=True, **noise)
        lat_weighted_loss(h, of_members(y_BOHW, shape.members), torch.ones(shape.model.height), shape.model.patch)[
            0
        ].backward()
    return counter.get_total_flops()


@settings(max_examples=12, deadline=None)
@given(
    B=st.integers(1, 3), V=st.integers(1, 6), outputs=st.integers(1, 6), patch=st.integers(1, 3),
    rows=st.integers(1, 4), columns=st.integers(1, 5), heads=st.sampled_from([1, 2, 4]), width=st.integers(1, 3),
    depth=st.integers(1, 3), decoder_depth=st.integers(0, 2), dropout=st.sampled_from([0.0, 0.1]),
    drop_path=st.sampled_from([0.0, 0.1]), checkpointing=st.booleans(), mlp_ratio=st.sampled_from([1.0, 2.5, 4.0]),
    noise=st.sampled_from([(0, 1), (3, 1), (5, 3)]),
)  # fmt: skip
def test_flop_equal_torch_counter(
    B: int, V: int, outputs: int, patch: int, rows: int, columns: int, heads: int, width: int, depth: int,
    decoder_depth: int, dropout: float, drop_path: float, checkpointing: bool, mlp_ratio: float,
    noise: tuple[int, int],
) -> None:  # fmt: skip
    model = ModelConfig(
        variables=tuple(v.name for v in CLIMAX_48[:7]), height=patch * rows, width=patch * columns, patch=patch,
        embed_dim=4 * heads * width, heads=heads, depth=depth, decoder_depth=decoder_depth, dropout=dropout,
        drop_path=drop_path, activation_checkpointing=checkpointing, mlp_ratio=mlp_ratio, noise_dim=noise[0],
    )  # fmt: skip
    shape = Shape(model=model, B=B, V=V, O=outputs, micro_batches_per_rank=1, ranks=1, members=noise[1])
    assert sum(step_flop(shape).values()) == counted(shape)


@settings(max_examples=8, deadline=None)
@given(
    B=st.integers(1, 3), levels=st.integers(1, 3), rows=st.integers(1, 2), columns=st.integers(1, 2),
    width=st.integers(1, 3), depth=st.integers(1, 2), dropout=st.sampled_from([0.0, 0.1]),
    drop_path=st.sampled_from([0.0, 0.1]), checkpointing=st.booleans(), patch=st.integers(1, 2),
    input_skip=st.booleans(), noise=st.sampled_from([(0, 1), (3, 1), (5, 3)]),
)  # fmt: skip
def test_flop_of_convolutions_equal_torch_counter(
    B: int, levels: int, rows: int, columns: int, width: int, depth: int, dropout: float, drop_path: float,
    checkpointing: bool, patch: int, input_skip: bool, noise: tuple[int, int],
) -> None:  # fmt: skip
    halvings = 2 ** (levels - 1)
    model = ModelConfig(
        variables=tuple(v.name for v in CLIMAX_48[:7]), height=patch * rows * halvings, blocks="conv", levels=levels,
        width=patch * 2 * columns * halvings, patch=patch, embed_dim=8 * width, heads=2, depth=depth, decoder_depth=1,
        dropout=dropout, drop_path=drop_path, activation_checkpointing=checkpointing, input_skip=input_skip,
        noise_dim=noise[0],
    )  # fmt: skip
    shape = Shape(model=model, B=B, V=4, O=3, micro_batches_per_rank=1, ranks=1, members=noise[1])
    assert sum(step_flop(shape).values()) == counted(shape)


@pytest.mark.parametrize("wants_dx", [False, True])
def test_operator_formulas_are_what_runs_inside(wants_dx: bool) -> None:
    """The chunked form run bare, without the operator around it: the counter sees its products."""
    B, V, H, W, p, N, K = 2, 5, 6, 9, 3, 2, 4
    maps = [torch.randn(s) for s in ((N, V, p * p), (N, V), (N, V, K, p * p), (N, V, K), (N * K,))]
    x_BVHW = torch.randn(B, V, H, W)
    R, Q = B * (H // p) * (W // p), p * p + 1
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        o, lse = cpu.forward(x_BVHW, *maps, p)
    assert counter.get_total_flops() == aggregate_flop(R, V * Q, N, N * K)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        cpu.backward(torch.randn_like(o), x_BVHW, *maps, o, lse, p, wants_dx)
    extra = 2 * R * V * (Q - 1) * N if wants_dx else 0
    assert counter.get_total_flops() == aggregate_backward_flop(R, V * Q, N, N * K) + extra


def test_counter_sees_the_image_gradient() -> None:
    register_formulas()
    names = ("2m_temperature", "geopotential_500")
    model = ModelConfig(variables=names, height=4, width=8, embed_dim=8, heads=2, depth=1)
    shape = Shape(model=model, B=1, V=2, O=2, micro_batches_per_rank=1, ranks=1)
    x_BVHW = torch.randn(1, 2, 4, 8, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        ClimaXNetwork(model)(x_BVHW, torch.ones(1), model.variables, model.variables).sum().backward()
    assert counter.get_total_flops() == sum(step_flop(shape).values()) + 2 * shape.R * 2 * 4 * 2
