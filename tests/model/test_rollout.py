"""Roll-out by hand: the next input is the forecast with the static fields; missing cells stay missing."""

import pytest
import torch
from torch import Tensor

from climax_hpc.errors import UserError
from climax_hpc.model.rollout import check_closed, roll_out

INPUTS = ("2m_temperature", "geopotential_500", "orography")
OUTPUTS = ("geopotential_500", "2m_temperature")


def test_by_hand() -> None:
    """One step adds the orography and swaps the order of the variables."""
    x_BVHW = torch.tensor([1.0, 10.0, 5.0]).view(1, 3, 1, 1)
    seen: list[list[float]] = []

    def step(x_BVHW: Tensor) -> Tensor:
        seen.append(x_BVHW.flatten().tolist())
        return (x_BVHW[:, :2] + x_BVHW[:, 2:]).flip(1)

    forecasts = [y_BOHW.flatten().tolist() for y_BOHW in roll_out(step, x_BVHW, INPUTS, OUTPUTS, 3)]
    assert forecasts == [[15.0, 6.0], [20.0, 11.0], [25.0, 16.0]]
    assert seen == [[1.0, 10.0, 5.0], [6.0, 15.0, 5.0], [11.0, 20.0, 5.0]]


def test_missing_cells_stay_missing() -> None:
    x_BVHW = torch.zeros(1, 3, 2, 2)
    x_BVHW[0, 0, 0, 0] = torch.nan
    seen: list[Tensor] = []

    def step(x_BVHW: Tensor) -> Tensor:
        seen.append(x_BVHW)
        return torch.ones(1, 2, 2, 2)

    assert all(y_BOHW.isfinite().all() for y_BOHW in roll_out(step, x_BVHW, INPUTS, OUTPUTS, 3))
    assert all(torch.equal(x.isnan(), x_BVHW.isnan()) for x in seen)
    assert len(seen) == 3


def test_the_gradient_passes_through_every_step() -> None:
    factor = torch.tensor(2.0, requires_grad=True)
    *_, last = roll_out(lambda x_BVHW: factor * x_BVHW[:, :1], torch.ones(1, 1, 1, 1), INPUTS[:1], INPUTS[:1], 3)
    last.sum().backward()
    assert factor.grad == 3 * 2.0**2  # d(factor³)/d(factor)


def test_inputs_that_are_no_outputs_are_refused() -> None:
    check_closed(INPUTS, OUTPUTS, "rollout_hours", "the model", 12.0)
    with pytest.raises(UserError, match="rollout_hours: the model takes geopotential_500 as input but does not forec"):
        check_closed(INPUTS, OUTPUTS[1:], "rollout_hours", "the model", 12.0)


@pytest.mark.parametrize("scale", [None, 4.0])
def test_tendencies_are_the_changes_between_steps(scale: float | None) -> None:
    """A network that adds 1.5 times the last change: 0, 2 (given), then +3, +4.5, +6.75; the static input stays."""
    names = ("geopotential_500", "2m_temperature", "2m_temperature_tendency", "orography")
    unit = scale or 1.0

    def step(x_BVHW: torch.Tensor) -> torch.Tensor:
        assert x_BVHW[0, 3].item() == 7
        return torch.stack([x_BVHW[:, 0], x_BVHW[:, 1] + 1.5 * x_BVHW[:, 2] / unit], dim=1)

    x_BVHW = torch.tensor([5.0, 2.0, 2.0 * unit, 7.0]).view(1, 4, 1, 1)
    scale_T11 = None if scale is None else torch.full((1, 1, 1), scale)
    found = [y_BOHW.flatten().tolist() for y_BOHW in roll_out(step, x_BVHW, names, names[:2], 3, scale_T11)]
    assert found == [[5, 5], [5, 9.5], [5, 16.25]]
    check_closed(names, names[:2], "rollout_hours", "the model", 6.0)
    with pytest.raises(UserError, match=r"changes over 6 h: its roll-outs need steps of 6 h .now 12"):
        check_closed(names, names[:2], "rollout_hours", "the model", 12.0)
    with pytest.raises(UserError, match="takes 2m_temperature, 2m_temperature_tendency as input but does not"):
        check_closed(names, names[:1], "rollout_hours", "the model", 6.0)


def test_solar_inputs_are_those_of_each_step() -> None:
    """A network that adds tendency and sun: the sun is 100, 200, 300 in turn, whatever the first input holds."""
    names = ("2m_temperature", "2m_temperature_tendency", "toa_insolation", "orography")
    asked: list[int] = []

    def solar(number: int) -> Tensor:
        asked.append(number)
        return torch.full((1, 1, 1, 1), 100.0 * (number + 1), dtype=torch.float64)

    def step(x_BVHW: Tensor) -> Tensor:
        assert x_BVHW[0, 3].item() == 7
        return x_BVHW[:, :1] + x_BVHW[:, 1:2] + x_BVHW[:, 2:3]

    x_BVHW = torch.tensor([5.0, 1.0, -1.0, 7.0]).view(1, 4, 1, 1)
    found = [y_BOHW.item() for y_BOHW in roll_out(step, x_BVHW, names, names[:1], 3, None, solar)]
    assert found == [106, 106 + 101 + 200, 407 + 301 + 300]
    assert asked == [0, 1, 2]
    with pytest.raises(AssertionError, match="solar inputs are needed"):
        next(roll_out(step, x_BVHW, names, names[:1], 3))
    check_closed(names, names[:1], "rollout_hours", "the model", 6.0)
