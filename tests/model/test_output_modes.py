"""The anomaly output mode: forecast and target are inverse, missing data, interpolation in lead time."""

import torch

from climax_hpc.kernels.lat_weighted_loss.op import lat_weighted_error
from climax_hpc.model.output_modes import at_lead, forecast_from_network, network_target

LEADS = torch.tensor([6.0, 24.0, 72.0])
TABLE = torch.tensor([[0.9, 0.6, 0.2], [1.0, 0.8, 0.0]])


def sample() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    y_anom, x_anom = (torch.randn(3, 2, 4, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    r_BO, s_BO = (torch.rand(3, 2, generator=draw, dtype=torch.float64) + 0.2 for _ in range(2))
    return y_anom, x_anom, r_BO, s_BO


def test_forecast_of_the_target_is_the_truth():
    y_anom, x_anom, r_BO, s_BO = sample()
    net = network_target(y_anom, x_anom, r_BO, s_BO)
    assert torch.allclose(forecast_from_network(net, x_anom, r_BO, s_BO), y_anom)


def test_by_hand():
    one = torch.ones(1, 1, 1, 1)
    r, s = torch.tensor([[0.5]]), torch.tensor([[0.25]])
    assert network_target(2 * one, one, r, s).item() == 6  # (2 - 0.5·1) / 0.25
    assert forecast_from_network(6 * one, one, r, s).item() == 2


def test_zero_network_is_damped_persistence():
    _, x_anom, r_BO, s_BO = sample()
    assert torch.equal(
        forecast_from_network(torch.zeros_like(x_anom), x_anom, r_BO, s_BO), r_BO[..., None, None] * x_anom
    )


def test_loss_on_the_network_is_the_forecast_loss_over_s_squared():
    y_anom, x_anom, r_BO, s_BO = sample()
    net, weight_H = torch.randn(3, 2, 4, 5, dtype=torch.float64), torch.ones(4)
    _, of_network = lat_weighted_error(net, network_target(y_anom, x_anom, r_BO, s_BO), weight_H)
    _, of_forecast = lat_weighted_error(forecast_from_network(net, x_anom, r_BO, s_BO), y_anom, weight_H)
    assert torch.allclose(of_network, of_forecast / s_BO**2)


def test_missing_data():
    y_anom, x_anom, r_BO, s_BO = sample()
    x_anom[0, 0, 0, 0] = y_anom[1, 1, 1, 1] = torch.nan
    target = network_target(y_anom, x_anom, r_BO, s_BO)
    assert torch.equal(target.isnan(), y_anom.isnan())
    assert torch.isclose(target[0, 0, 0, 0], y_anom[0, 0, 0, 0] / s_BO[0, 0])
    forecast = forecast_from_network(torch.ones_like(x_anom), x_anom, r_BO, s_BO)
    assert forecast.isfinite().all()
    assert forecast[0, 0, 0, 0] == s_BO[0, 0]


def test_no_nan_in_the_gradient_of_the_input_anomaly():
    """Roll-outs backpropagate through damped persistence."""
    _, x_anom, r_BO, s_BO = sample()
    x_anom[0, 0, 0, 0] = torch.nan
    x_anom.requires_grad_()
    forecast_from_network(torch.ones(3, 2, 4, 5), x_anom, r_BO, s_BO).sum().backward()
    assert x_anom.grad.isfinite().all()
    assert x_anom.grad[0, 0, 0, 0] == 0


def test_tables_are_linear_between_leads_and_constant_beyond():
    values_BC = at_lead(TABLE, LEADS, torch.tensor([6, 15, 24, 48, 72, 168, 0]))
    expected = [[0.9, 1.0], [0.75, 0.9], [0.6, 0.8], [0.4, 0.4], [0.2, 0.0], [0.2, 0.0], [0.9, 1.0]]
    assert torch.allclose(values_BC, torch.tensor(expected), atol=1e-6)


def test_table_of_one_lead():
    assert at_lead(TABLE[:, :1], LEADS[:1], torch.tensor([6.0, 24.0])).tolist() == TABLE[:, 0].expand(2, 2).tolist()
