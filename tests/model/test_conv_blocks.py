"""`model.blocks: conv` against plain loops in float64; turning the globe, subsets, other grids, start."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from climax_hpc.checkpoint.regional import place_positions, regional_config
from climax_hpc.fields.grid import regular_grid
from climax_hpc.fields.regional_grid import Domain
from climax_hpc.fields.regions import region_of
from climax_hpc.kernels.testing import relative_error
from climax_hpc.model import ClimaXNetwork, ModelConfig, build_network
from climax_hpc.model.climax import Encoder
from climax_hpc.model.noise import member_noise
from climax_hpc.model.reference import TextbookClimaX
from climax_hpc.model.spherical_conv import pad_spherical

NAMES = ("land_sea_mask", "2m_temperature", "geopotential_500", "temperature_850", "u_component_of_wind_850")
LEADS = torch.tensor([25.0, 150.0])  # hundredths of them are exact in float32
TOLERANCE = 1e-10


def config(**changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "variables": NAMES, "blocks": "conv", "levels": 3, "height": 16, "width": 32, "patch": 2, "embed_dim": 12,
        "depth": 1, "heads": 2, "decoder_depth": 0, "dropout": 0.0, "drop_path": 0.0, "init": "scaled",
    }  # fmt: skip
    return ModelConfig(**(values | changes))


def randomised(network: Any, seed: int = 0) -> Any:
    """In float64, all parameters random: zeros would hide gradients."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.double().parameters():
            scale = 0.5 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * scale)
    return network


def image(size: ModelConfig, channels: int = 5, batch: int = 2) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, size.height, size.width, generator=draw, dtype=torch.float64)


# The formulas of docs/concepts/blocks.md, with a loop over the cells of a convolution.


def plain_conv(x_CHW: Tensor, conv: Any, edges: str = "globe") -> Tensor:
    """3 × 3 convolution, one neighbour after the other."""
    H, W = x_CHW.shape[1:]
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    y_CHW = conv.bias[:, None, None].expand(-1, H, W)
    poles = {"globe": (-1, H), "first_pole": (-1,), "last_pole": (H,)}.get(edges, ())
    for north in (-1, 0, 1):
        for east in (-1, 0, 1):
            row, column = rows + north, columns + east
            across = torch.zeros_like(row, dtype=torch.bool)
            for pole in poles:
                across |= row == pole
            row = row.clamp(0, H - 1)  # the first row beyond a pole is the last one before it, on its other side
            column = column.clamp(0, W - 1) if edges == "window" else (column + W // 2 * across) % W
            neighbour_CHW = x_CHW[:, row, column]
            y_CHW = y_CHW + torch.einsum("oc,chw->ohw", conv.weight[:, :, north + 1, east + 1], neighbour_CHW)
    return y_CHW


def plain_norm(x_CHW: Tensor, norm: nn.GroupNorm) -> Tensor:
    groups = x_CHW.reshape(norm.num_groups, -1)
    mean, variance = groups.mean(1, keepdim=True), groups.var(1, correction=0, keepdim=True)
    scaled_CHW = ((groups - mean) / (variance + norm.eps).sqrt()).reshape(x_CHW.shape)
    return scaled_CHW * norm.weight[:, None, None] + norm.bias[:, None, None]


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def plain_block(x_CHW: Tensor, lead: Tensor, noise_Z: Tensor | None, block: Any, edges: str) -> Tensor:
    h_CHW = plain_conv(silu(plain_norm(x_CHW, block.norm1)), block.conv1, edges)
    hidden = silu(block.lead.hidden.weight[:, 0] * lead + block.lead.hidden.bias)
    both = block.lead.out.weight @ hidden + block.lead.out.bias
    if noise_Z is not None:
        both = both + block.lead.noise.weight @ noise_Z
    scale, shift = both.view(2, -1, 1, 1)
    h_CHW = silu((1 + scale) * plain_norm(h_CHW, block.norm2) + shift)
    return x_CHW + plain_conv(h_CHW, block.conv2, edges)


def plain_pyramid(
    x_CHW: Tensor, lead: Tensor, noise_Z: Tensor | None, pyramid: Any, edges: str, level: int = 0
) -> Tensor:
    """By recursion: this grid down, all coarser ones, this grid up."""
    depth, top = pyramid.depth, pyramid.levels - 1
    for block in pyramid.residual[level * depth : (level + 1) * depth]:
        x_CHW = plain_block(x_CHW, lead, noise_Z, block, edges)
    if level == top:
        return x_CHW
    pooled = x_CHW.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).mean((-1, -3))
    coarse_CHW, lift = plain_pyramid(pooled, lead, noise_Z, pyramid, edges, level + 1), pyramid.lift[top - 1 - level]
    lifted = torch.einsum("oc,chw->ohw", lift.weight[:, :, 0, 0], coarse_CHW) + lift.bias[:, None, None]
    x_CHW = x_CHW + torch.kron(lifted, torch.ones(2, 2, dtype=lifted.dtype))
    first = (2 * top - level) * depth
    for block in pyramid.residual[first : first + depth]:
        x_CHW = plain_block(x_CHW, lead, noise_Z, block, edges)
    return x_CHW


class PlainConvClimaX(TextbookClimaX):
    """Textbook aggregation, plain loops, all variables predicted."""

    def _convolve(self, z_nLD: Tensor, lead_n: Tensor, noise_nZ: Tensor | None) -> Tensor:
        rows, columns = self.config.patches
        out = []
        for i, (z_LD, lead) in enumerate(zip(z_nLD, lead_n, strict=True)):
            x_DHW = z_LD.T.reshape(-1, rows, columns)
            noise_Z = None if noise_nZ is None else noise_nZ[i]
            x_DHW = plain_pyramid(x_DHW, lead, noise_Z, self.blocks, self.config.edges)
            out.append(silu(plain_norm(x_DHW, self.norm)))
        return torch.stack(out).flatten(2).transpose(1, 2)


def output_and_gradients(network: Any, x_BVHW: Tensor, ins: Any, outs: Any) -> tuple[Tensor, dict[str, Tensor]]:
    x_BVHW = x_BVHW.clone().requires_grad_()
    noise = {"noise_BMZ": member_noise(0, [5, 6], [0, 1, 2], dim)} if (dim := network.config.noise_dim) else {}
    y_BOHW = network(x_BVHW, LEADS, ins, outs, **noise)
    probe = torch.randn(y_BOHW.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (y_BOHW * probe).sum().backward()
    return y_BOHW, {"x": x_BVHW.grad} | {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"depth": 2, "levels": 2, "height": 12, "width": 8}, {"levels": 1, "height": 3, "width": 10, "patch": 1},
        {"edges": "window", "levels": 2, "height": 12, "width": 20}, {"edges": "band", "levels": 1, "width": 6},
        {"edges": "first_pole", "levels": 1, "height": 6, "width": 8}, {"edges": "last_pole", "levels": 1, "height": 2},
        {"noise_dim": 3, "levels": 2},
    ],
    ids=["three grids", "two of odd sizes", "one grid", "window", "band", "first_pole", "last_pole", "members"],
)  # fmt: skip
def test_values_and_gradients_are_those_of_plain_loops(changes: dict[str, Any]) -> None:
    size = config(**changes)
    ours, plain = randomised(ClimaXNetwork(size)), PlainConvClimaX(size).double()
    plain.load_state_dict(ours.state_dict())
    ins, outs, x_BVHW = (NAMES[3], NAMES[0], NAMES[4]), (NAMES[4], NAMES[1]), image(size, 3)
    x_BVHW[0, 1, :2, :3] = torch.nan
    x_BVHW[1, 2] = torch.nan
    y, gradients = output_and_gradients(ours, x_BVHW, ins, outs)
    expected, of_plain = output_and_gradients(plain, x_BVHW, ins, outs)
    assert relative_error(y, expected) < TOLERANCE
    assert gradients.keys() == of_plain.keys()
    for name, gradient in gradients.items():
        if name == "aggregator.in_proj_bias":  # the key bias cancels in the softmax
            gradient, of_plain[name] = (torch.cat([g[:12], g[24:]]) for g in (gradient, of_plain[name]))
        assert relative_error(gradient, of_plain[name]) < TOLERANCE, name


def test_edges_by_hand() -> None:
    """Cell (row, column) has value 10·row + column."""
    field = (10 * torch.arange(2)[:, None] + torch.arange(4)).double()[None, None]
    window = pad_spherical(field, 2, edges="window")[0, 0].tolist()
    first, last = [0, 0, 0, 1, 2, 3, 3, 3], [10, 10, 10, 11, 12, 13, 13, 13]
    assert window == [first] * 3 + [last] * 3
    polar = pad_spherical(field, 1, torch.tensor([-1.0]), edges="last_pole")[0, 0].tolist()
    assert polar == [[3, 0, 1, 2, 3, 0]] * 2 + [[13, 10, 11, 12, 13, 10], [-11, -12, -13, -10, -11, -12]]


@pytest.mark.parametrize(
    ("region", "size", "edges"),
    [("Arctic", (2, 16), "last_pole"), ("Antarctic", (2, 16), "first_pole"), ("Europe", (4, 2), "window"),
     ([-10.0, 10.0, 0.0, 360.0], (4, 16), "band"), ([-80.0, 80.0, 0.0, 360.0], (8, 16), "globe")],
)  # fmt: skip
def test_a_region_is_whole_cells_of_the_coarsest_grid(region: Any, size: tuple[int, int], edges: str) -> None:
    """Latitudes ascend here; the coarsest grid has 4 × 8 cells of 45°, two patches each way."""
    model = config(height=32, width=64, patch=4, levels=2)
    domain = Domain(region=region_of(region), globe=regular_grid(5.625), patch=model.unit)
    part = regional_config(model, domain)
    assert (part.patches, part.edges) == (size, edges)
    network = build_network(part)
    place_positions(network, domain)
    network.load_state_dict(build_network(model).state_dict())
    y_BOHW = network(image(part).float(), LEADS, NAMES, NAMES)
    assert y_BOHW.shape[2:] == domain.grid.shape


def test_turning_the_globe_turns_the_forecast() -> None:
    size = config(depth=2)
    network, x_BVHW = randomised(ClimaXNetwork(size)).eval(), image(size)
    for cells in (8, 16, 24):  # whole cells of the coarsest grid: 2 cells of a patch, 4 patches
        turned = network(x_BVHW.roll(cells, -1), LEADS, NAMES, NAMES)
        straight = network(x_BVHW, LEADS, NAMES, NAMES).roll(cells, -1)
        assert relative_error(turned, straight) < 1e-13
    assert relative_error(network(x_BVHW.roll(2, -1), LEADS, NAMES, NAMES), straight.roll(10, -1)) > 1e-3


def test_the_same_weights_on_another_grid() -> None:
    """Two globes side by side are one twice as wide, except for the poles, which a low network cannot see."""
    network = randomised(ClimaXNetwork(config(levels=1)))
    large = ClimaXNetwork(config(levels=1, height=32, width=64)).double()
    large.load_state_dict(network.state_dict())
    x_BVHW = image(network.config)
    assert network(x_BVHW, LEADS, NAMES, NAMES).shape == (2, 5, 16, 32)
    assert large(x_BVHW.repeat(1, 1, 2, 2), LEADS, NAMES, NAMES).shape == (2, 5, 32, 64)


def test_any_subset_in_any_order() -> None:
    size = config()
    network, x_BVHW = randomised(ClimaXNetwork(size)).eval(), image(size)
    every = network(x_BVHW, LEADS, NAMES, NAMES)
    order = [4, 2, 0, 1, 3]
    shuffled = network(x_BVHW[:, order], LEADS, [NAMES[i] for i in order], (NAMES[3], NAMES[1]))
    assert relative_error(shuffled, every[:, [3, 1]]) < 1e-13
    missing = x_BVHW.clone()
    missing[:, 1] = torch.nan
    absent = network(x_BVHW[:, [0, 2, 3, 4]], LEADS, [NAMES[i] for i in (0, 2, 3, 4)], NAMES)
    assert relative_error(network(missing, LEADS, NAMES, NAMES), absent) < 1e-13
    assert relative_error(absent, every) > 1e-3


def test_every_lead_time_is_its_own() -> None:
    size = config()
    network, x_BVHW = randomised(ClimaXNetwork(size)).eval(), image(size)[:1].repeat(3, 1, 1, 1)
    y_BOHW = network(x_BVHW, torch.tensor([0, 25, 240]), NAMES, NAMES)
    assert y_BOHW.isfinite().all()
    assert (y_BOHW[1:] - y_BOHW[:-1]).abs().amax((1, 2, 3)).min() > 1e-3
    assert relative_error(network(x_BVHW[:1], torch.tensor([25.0]), NAMES, NAMES), y_BOHW[1:2]) < 1e-13


def test_start_values() -> None:
    torch.manual_seed(0)
    network = ClimaXNetwork(config(embed_dim=64))
    torch.manual_seed(5)
    network.reset_parameters()
    first = [p.clone() for p in network.parameters()]
    torch.manual_seed(5)
    network.reset_parameters()
    assert all(torch.equal(a, b) for a, b in zip(first, network.parameters(), strict=True))
    for block in network.blocks:
        assert not block.lead.out.weight.any(), "the lead time changes nothing at first"
        assert block.lead.hidden.weight.std() > 0.3
        assert block.conv1.weight.std().item() == pytest.approx((3 * 64 * 9) ** -0.5, rel=0.03)
    assert network.head[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert {name.split(".")[0] for name, _ in network.named_parameters()} == {"aggregator", "blocks", "norm", "head"}


def test_drop_path_rises_over_all_blocks() -> None:
    network = ClimaXNetwork(config(depth=2, levels=2, drop_path=0.25))
    assert [block.drop_path.rate for block in network.blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2, 0.25])


def test_recomputed_blocks_give_the_same_gradients() -> None:
    """Same seed, dropout on: the recomputed blocks must draw the same masks."""
    gradients = []
    for recompute in (False, True):
        size = config(activation_checkpointing=recompute, dropout=0.2, drop_path=0.3, depth=2)
        network = randomised(ClimaXNetwork(size)).train()
        torch.manual_seed(1)
        network(image(size), LEADS, NAMES, NAMES).square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_bfloat16_runs() -> None:
    size = config(depth=2)
    network = ClimaXNetwork(size).eval()
    x_BVHW = image(size).float()
    expected = network(x_BVHW, LEADS, NAMES, NAMES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = network(x_BVHW, LEADS, NAMES, NAMES)
    pure = network.bfloat16()(x_BVHW, LEADS, NAMES, NAMES)
    for y_BOHW in (autocast, pure):
        assert y_BOHW.dtype == torch.bfloat16
        assert relative_error(y_BOHW.double(), expected.double()) < 0.05


def test_projection_takes_years_as_samples() -> None:
    forcings, targets = ("cumulative_co2_emissions", "methane_emissions"), ("2m_temperature",)
    size = config(variables=forcings, projected=targets, years=3)
    network, x_BTVHW = randomised(build_network(size)), torch.randn(2, 3, 2, 16, 32, dtype=torch.float64)
    assert isinstance(network, Encoder)
    y_BOHW = network(x_BTVHW, torch.zeros(2), forcings, targets)
    assert y_BOHW.shape == (2, 1, 16, 32)
    years = [
        network.encode(x_BTVHW[:, t], torch.zeros(2), forcings, network.time_embed[t].expand(2, -1)).mean(1)
        for t in range(3)
    ]
    features_BD = network.time_aggregator(torch.stack(years, dim=1))
    assert relative_error(network.features(x_BTVHW, torch.zeros(2), forcings), features_BD) < 1e-12
    assert relative_error(network(x_BTVHW.flip(1), torch.zeros(2), forcings, targets), y_BOHW) > 1e-3, "order counts"
    y_BOHW.square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    network.freeze()
    frozen = {name.split(".")[-2] for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen == {"conv1", "conv2", "0", "1"}, "convolutions and lifts"
