"""Networks of the trained baselines: poles and dateline, lead time, missing input, same interface as ClimaX."""

import numpy as np
import pytest
import torch
from torch import Tensor

from climax_hpc.errors import UserError
from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_loss
from climax_hpc.model import ModelConfig, build_network
from climax_hpc.model.config import Kind
from climax_hpc.model.linear import LinearRegression
from climax_hpc.model.spherical_conv import SphericalConv, pad_spherical, patchify

NAMES = ("2m_temperature", "geopotential_500", "u_component_of_wind_850", "v_component_of_wind_850", "orography")
KINDS: tuple[Kind, ...] = ("linear", "resnet", "unet")


def network(kind: Kind, **options: object) -> torch.nn.Module:
    """A small network with random weights everywhere, in float64 and without dropout."""
    size = {"height": 8, "width": 16, "patch": 2, "embed_dim": 8, "depth": 1, "dropout": 0.0} | options
    torch.manual_seed(0)
    model = build_network(ModelConfig(kind=kind, variables=NAMES, **size))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double().eval()


def call(model: torch.nn.Module, x_BVHW: Tensor, lead: float = 24.0, **options: bool) -> Tensor:
    return model(x_BVHW, torch.full((len(x_BVHW),), lead), NAMES, NAMES[:4], **options)


def test_padding_by_hand() -> None:
    """Cell (row, column) has value 10·row + column; beyond a pole follows its own row, shifted by 180°."""
    field = (10 * torch.arange(3)[:, None] + torch.arange(4)).double()[None, None]
    padded = pad_spherical(field, 1)[0, 0]
    assert padded.tolist() == [
        [1, 2, 3, 0, 1, 2],
        [3, 0, 1, 2, 3, 0],
        [13, 10, 11, 12, 13, 10],
        [23, 20, 21, 22, 23, 20],
        [21, 22, 23, 20, 21, 22],
    ]
    assert pad_spherical(field, 1, torch.tensor([-1.0]))[0, 0, 0].tolist() == [-1, -2, -3, -0, -1, -2]
    low = pad_spherical(field.bfloat16(), 1, torch.tensor([-1.0]))  # engines leave the signs in float32
    assert low.dtype == torch.bfloat16


def test_a_scalar_field_is_smooth_across_the_pole() -> None:
    """A linear function of Cartesian coordinates: second differences across the pole are as elsewhere."""
    rows, columns = 32, 64
    lat = np.deg2rad(-90 + 180 / rows * (np.arange(rows) + 0.5))[:, None]
    lon = 2 * np.pi * np.arange(columns) / columns
    field = torch.from_numpy(np.cos(lat) * np.cos(lon) + 0 * np.sin(lat))[None, None]
    second = pad_spherical(field, 2)[0, 0].diff(n=2, dim=0).abs().amax(dim=1)
    assert second.max() < 1.2 * second[8:24].max() + 0.02
    eastward = torch.from_numpy(np.sin(lon) * np.ones_like(lat))[None, None]  # -u of a constant flow across the pole
    smooth = pad_spherical(eastward, 1, torch.tensor([-1.0], dtype=torch.float64))[0, 0]
    assert torch.allclose(smooth[0], smooth[1])


@pytest.mark.parametrize("kind", KINDS)
def test_rotating_the_input_rotates_the_forecast(kind: Kind) -> None:
    """No meridian is special, except for the regression's intercept of each cell."""
    model = network(kind)
    if isinstance(model, LinearRegression):
        torch.nn.init.zeros_(model.bias)
    x = torch.randn(2, 5, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    turn = 8 if kind == "unet" else 3  # the U-Net's cells of an eighth of the resolution turn only as a whole
    expected, found = call(model, x).roll(turn, -1), call(model, x.roll(turn, -1))
    assert torch.allclose(found, expected, atol=1e-10)
    assert expected.std() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_lead_time_and_every_input_matter(kind: Kind) -> None:
    model = network(kind)
    x = torch.randn(1, 5, 8, 16, dtype=torch.float64).requires_grad_()
    y = call(model, x)
    assert (call(model, x, 60.0) - y).abs().max() > 1e-4
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert (gradient.abs().amax(dim=(0, 2, 3)) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_missing_cells_and_variables_count_as_zero(kind: Kind) -> None:
    model, x = network(kind), torch.randn(1, 5, 8, 16, dtype=torch.float64)
    x[0, 1, 2:4, 5] = torch.nan
    filled = x.nan_to_num(0.0)
    assert torch.equal(call(model, x), call(model, filled))
    filled[:, 4] = 0
    fewer = model(filled[:, :4], torch.tensor([24.0]), NAMES[:4], NAMES[:4])
    assert torch.equal(fewer, call(model, filled))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patched_output_is_what_the_loss_takes(kind: Kind, patch: int) -> None:
    model = network(kind, patch=patch)
    x, target = (torch.randn(2, n, 8, 16, dtype=torch.float64) for n in (5, 4))
    weight_H = torch.linspace(0.5, 1.5, 8, dtype=torch.float64)
    loss = lat_weighted_loss(call(model, x, patched=True), target, weight_H, patch)[0]
    expected = ((call(model, x) - target) ** 2 * weight_H[:, None]).mean(dim=(2, 3)) / weight_H.mean()
    assert torch.allclose(loss, expected.mean())


def test_patchify_is_the_inverse_of_climax() -> None:
    climax = build_network(ModelConfig(variables=NAMES, height=8, width=16, patch=4, embed_dim=8, depth=1, heads=2))
    y = torch.randn(2, 3, 8, 16)
    assert torch.equal(climax.unpatchify(patchify(y, 4)), y)


def test_regression_is_linear_in_the_input_and_between_knots() -> None:
    model = network("linear")
    a, b, zero = (torch.randn(1, 5, 8, 16, dtype=torch.float64) for _ in range(3))
    zero = zero * 0
    base = call(model, zero)
    superposed = call(model, a) + 2 * call(model, b) - 2 * base
    assert torch.allclose(call(model, a + 2 * b), superposed, atol=1e-10)
    assert torch.allclose(call(model, a, 48.0), 0.5 * (call(model, a, 24.0) + call(model, a, 72.0)), atol=1e-6)
    for beyond, end in ((3.0, 6.0), (400.0, 168.0)):
        assert torch.allclose(call(model, a, beyond), call(model, a, end))


def test_sizes_of_the_paper() -> None:
    """Channels and blocks of ClimaX's comparison, with its 48 variables at 5.625°."""
    sizes = {"linear": (64, 1, 0.6238e6), "resnet": (128, 28, 9.519e6), "unet": (64, 2, 5.903e6)}
    for kind, (channels, depth, expected) in sizes.items():
        model = build_network(ModelConfig(kind=kind, embed_dim=channels, depth=depth))  # type: ignore[arg-type]
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(expected, rel=1e-3), kind


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "perceptron"}, "model.kind = 'perceptron': use one of climax, linear, resnet, unet"),
        ({"kind": "resnet", "width": 15, "patch": 1}, "model.width = 15: model.kind resnet pads fields"),
        ({"kind": "unet", "height": 12}, "multiples of 8 and 16"),
        ({"kind": "unet", "width": 24}, "multiples of 8 and 16"),
        ({"kind": "resnet", "dropout": 1.0}, "model.dropout"),
        ({"kind": "unet", "depth": 0}, "model.depth = 0"),
    ],
)
def test_bad_config(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_bad_calls(kind: Kind) -> None:
    model, x = network(kind), torch.zeros(1, 5, 8, 16)
    with pytest.raises(UserError, match="'geopotential_50' is not among the model's 5 variables; nearest: geopot"):
        model(x, torch.tensor([6.0]), ("geopotential_50", *NAMES[1:]), NAMES)
    with pytest.raises(UserError, match="given twice"):
        model(x, torch.tensor([6.0]), NAMES, (NAMES[0], NAMES[0]))
    with pytest.raises(ValueError, match="regrid the input, or build the model for its grid"):
        model(x[..., :8], torch.tensor([6.0]), NAMES, NAMES)


def test_convolution_reaches_across_dateline_and_poles() -> None:
    """Column 0 affects its neighbours, and columns 3, 4 and 5 across the poles only in the outermost rows."""
    conv = SphericalConv(1, 1, 3).double()
    x = torch.zeros(1, 1, 4, 8, dtype=torch.float64)
    x[..., 0] = 1
    y = conv(x) - conv.bias
    seen = (y[0, 0].abs() > 1e-9).int().tolist()
    assert seen == [
        [1, 1, 0, 1, 1, 1, 0, 1],
        [1, 1, 0, 0, 0, 0, 0, 1],
        [1, 1, 0, 0, 0, 0, 0, 1],
        [1, 1, 0, 1, 1, 1, 0, 1],
    ]
