"""The ClimaX network: size, initial values, subsets, lead time, checkpointing, dropout, saving, positions, refusals."""

import math

import pytest
import torch

from climax_hpc.errors import UserError
from climax_hpc.model import ClimaXNetwork, ModelConfig
from climax_hpc.model.blocks import drop_path_rates
from climax_hpc.model.dropout import Dropout, DropPath
from climax_hpc.model.positions import resize_positions, sincos_1d, sincos_2d

NAMES = ("land_sea_mask", "2m_temperature", "geopotential_500", "temperature_850", "u_component_of_wind_850")
LEAD = torch.tensor([24.0, 72.0])


def small(**changes) -> ModelConfig:
    values = {"variables": NAMES, "height": 6, "width": 12, "patch": 2, "embed_dim": 16, "depth": 3, "heads": 2}
    return ModelConfig(**{**values, **changes})


def fields(config: ModelConfig, channels: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, channels, config.height, config.width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("grid", "millions"), [({}, 108.1), ({"height": 128, "width": 256, "patch": 4}, 110.8)], ids=["5.625", "1.40625"]
)
def test_parameter_count_of_the_paper(grid, millions):
    with torch.device("meta"):
        model = ClimaXNetwork(ModelConfig(**grid))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


def test_initial_values():
    model = ClimaXNetwork(ModelConfig(embed_dim=128, depth=2, heads=4, init="climax"))
    aggregator = model.aggregator
    for weight in (aggregator.patch_weight, aggregator.out_proj_weight, *(b.mlp.fc1.weight for b in model.blocks)):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert aggregator.in_proj_weight.abs().max() <= math.sqrt(6 / (4 * 128))
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert all((p == 0).all() for p in [*biases, aggregator.query])
    assert torch.equal(aggregator.var_embed, sincos_1d(torch.arange(48), 128))
    assert torch.equal(model.pos_embed[0], sincos_2d(16, 32, 128))


def test_sincos_by_hand():
    embedding = sincos_1d(torch.tensor([0, 3]), 4)
    expected = [[0, 0, 1, 1], [math.sin(3), math.sin(0.03), math.cos(3), math.cos(0.03)]]
    assert torch.allclose(embedding, torch.tensor(expected))
    row_1_column_2 = sincos_2d(2, 3, 8)[5]  # row-major: patch 5 of a 2×3 grid
    assert torch.equal(
        row_1_column_2, torch.cat([sincos_1d(torch.tensor([2]), 4)[0], sincos_1d(torch.tensor([1]), 4)[0]])
    )


def test_requested_outputs_equal_the_full_output_sliced():
    model = ClimaXNetwork(small()).eval()
    x_BVHW = fields(model.config, 5)
    every = model(x_BVHW, LEAD, NAMES, NAMES)
    picked = model(x_BVHW, LEAD, NAMES, (NAMES[3], NAMES[1]))
    assert torch.allclose(picked, every[:, [3, 1]], atol=1e-6)  # float32: another matrix size, another order of sums


def test_order_of_inputs_does_not_matter():
    model = ClimaXNetwork(small()).eval()
    torch.nn.init.normal_(model.aggregator.query)
    x_BVHW, order = fields(model.config, 5), [4, 2, 0, 1, 3]
    shuffled = model(x_BVHW[:, order], LEAD, [NAMES[i] for i in order], NAMES)
    assert torch.allclose(shuffled, model(x_BVHW, LEAD, NAMES, NAMES), atol=1e-6)


def test_lead_time_changes_the_output():
    model = ClimaXNetwork(small()).eval()
    x_BVHW = fields(model.config, 5)[:1].repeat(2, 1, 1, 1)
    y_BOHW = model(x_BVHW, LEAD, NAMES, NAMES)
    assert not torch.allclose(y_BOHW[0], y_BOHW[1])
    as_integers = model(x_BVHW, LEAD.long(), NAMES, NAMES)
    assert torch.equal(as_integers, y_BOHW)


@pytest.mark.parametrize("patch", [1, 4])
def test_single_patch_and_single_sample(patch):
    """The released implementation squeezes dimensions of size 1 away (DOMAIN.md, fault 7)."""
    config = small(height=patch, width=patch, patch=patch, variables=NAMES[:1], depth=1)
    y_BOHW = ClimaXNetwork(config)(fields(config, 1, batch=1), LEAD[:1], NAMES[:1], NAMES[:1])
    assert y_BOHW.shape == (1, 1, patch, patch)


def test_unpatchify_inverts_the_head_order():
    config = small(height=4, width=6)
    h_BLPO = torch.arange(2 * 6 * 4 * 3.0).view(2, 6, 12)
    y_BOHW = ClimaXNetwork(config).unpatchify(h_BLPO)
    # Row 3, column 4, variable 1: patch (1, 2) -> l = 1·3 + 2 = 5; pixel (1, 0) -> 2; last axis 2·3 + 1.
    assert y_BOHW[1, 1, 3, 4] == h_BLPO[1, 5, 7]


def test_missing_input_gives_finite_output_and_gradients():
    model = ClimaXNetwork(small()).train()
    x_BVHW = fields(model.config, 5)
    x_BVHW[:, 2] = torch.nan
    x_BVHW[:, :, :2, :2] = torch.nan
    y_BOHW = model(x_BVHW, LEAD, NAMES, NAMES)
    y_BOHW.square().sum().backward()
    assert y_BOHW.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_activation_checkpointing_gives_the_same_gradients():
    """Same seed, dropout on: the recomputed blocks must draw the same masks."""
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = ClimaXNetwork(small(activation_checkpointing=recompute, drop_path=0.3)).train()
        torch.manual_seed(1)
        model(fields(model.config, 5), LEAD, NAMES, NAMES).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_state_dict_survives_a_file(tmp_path):
    model = ClimaXNetwork(small()).eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = ClimaXNetwork(small()).eval()
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    x_BVHW = fields(model.config, 5)
    assert torch.equal(again(x_BVHW, LEAD, NAMES, NAMES), model(x_BVHW, LEAD, NAMES, NAMES))


def test_bfloat16_autocast_and_bfloat16_parameters_run():
    model = ClimaXNetwork(small()).eval()
    x_BVHW = fields(model.config, 5)
    expected = model(x_BVHW, LEAD, NAMES, NAMES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = model(x_BVHW, LEAD, NAMES, NAMES)
    pure = model.bfloat16()(x_BVHW, LEAD, NAMES, NAMES)
    for y_BOHW in (autocast, pure):
        assert y_BOHW.dtype == torch.bfloat16
        assert ((y_BOHW - expected).norm() / expected.norm()).item() < 0.05  # 8 bits through three blocks


def test_dropout_drops_the_rate_and_keeps_the_mean():
    torch.manual_seed(0)
    drop, x = Dropout(0.1), torch.ones(1000, 1001, requires_grad=True)
    y = drop(x)
    dropped = (y == 0).float().mean().item()
    assert dropped == pytest.approx(0.1, abs=0.002)  # 1e6 draws: standard error 3e-4
    assert y.mean().item() == pytest.approx(1, abs=0.002)
    y.sum().backward()
    assert torch.equal(x.grad, y)
    assert drop.eval()(x) is x
    torch.manual_seed(7)
    first = drop.train()(x)
    torch.manual_seed(7)
    assert torch.equal(drop(x), first)


def test_neighbouring_elements_drop_independently():
    """Four elements share one 64-bit draw."""
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(4_000_000)) > 0).double().view(-1, 4)
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlation.abs().max() < 0.005  # standard error 1e-3


def test_drop_path_drops_whole_samples():
    torch.manual_seed(0)
    y_BLD = DropPath(0.25)(torch.ones(20000, 2, 3))
    assert y_BLD.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (y_BLD.amax((1, 2)) == y_BLD.amin((1, 2))).all()
    assert (y_BLD[:, 0, 0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert DropPath(0.25).eval()(torch.ones(2, 1, 1)).tolist() == [[[1]], [[1]]]


def test_drop_path_rises_linearly():
    assert drop_path_rates(0.1, 3) == pytest.approx([0, 0.05, 0.1])
    assert drop_path_rates(0.1, 1) == [0]
    assert [b.drop_path.rate for b in ClimaXNetwork(small(drop_path=0.2)).blocks] == pytest.approx([0, 0.1, 0.2])


def test_positions_resize_periodically():
    pos_1LD = sincos_2d(4, 8, 16).unsqueeze(0)
    assert resize_positions(pos_1LD, (4, 8), (4, 8)) is pos_1LD
    assert resize_positions(pos_1LD, (4, 8), (8, 16)).shape == (1, 128, 16)
    constant = torch.full((1, 32, 4), 2.5)
    assert torch.allclose(resize_positions(constant, (4, 8), (6, 10)), torch.full((1, 60, 4), 2.5))
    # A pattern rotated in longitude resizes to the rotated result: no seam at 0°.
    wave_1LD = torch.randn(1, 32, 4, generator=torch.Generator().manual_seed(0))
    rotated = wave_1LD.view(1, 4, 8, 4).roll(1, 2).reshape(1, 32, 4)
    resized = resize_positions(wave_1LD, (4, 8), (4, 16)).view(1, 4, 16, 4)
    assert torch.allclose(resize_positions(rotated, (4, 8), (4, 16)).view(1, 4, 16, 4), resized.roll(2, 2), atol=1e-6)


def test_positions_of_another_grid_are_refused():
    with pytest.raises(UserError, match="position embedding of 32 patches does not match a grid of 4×9 patches"):
        resize_positions(torch.zeros(1, 32, 4), (4, 9), (8, 18))


def test_unknown_or_repeated_variables_are_refused():
    model = ClimaXNetwork(small())
    x_BVHW = fields(model.config, 1)
    with pytest.raises(
        UserError, match="'geopotential_50' is not among the model's 5 variables; nearest: geopotential_500"
    ):
        model(x_BVHW, LEAD, ["geopotential_50"], NAMES)
    with pytest.raises(UserError, match="given twice"):
        model(x_BVHW, LEAD, NAMES[:1], [NAMES[0], NAMES[0]])


@pytest.mark.parametrize("shape", [(2, 1, 6, 14), (2, 1, 8, 12), (2, 2, 6, 12)])
def test_image_of_another_grid_is_refused(shape):
    with pytest.raises(ValueError, match=r"need \(1, 6, 12\); regrid"):
        ClimaXNetwork(small())(torch.zeros(shape), LEAD, NAMES[:1], NAMES)
