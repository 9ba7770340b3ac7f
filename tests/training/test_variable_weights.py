"""Weights of the variables in the loss: their values, the loss and gradient they give, runs with them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from climax_hpc.cli import run
from climax_hpc.config.training import DataConfig
from climax_hpc.errors import UserError
from climax_hpc.kernels.lat_weighted_loss.reference import lat_weighted_error_reference
from climax_hpc.model.output_modes import forecast_from_network, network_target
from climax_hpc.training.loss import batch_loss
from climax_hpc.training.variable_weights import loss_in_words, pressure_weights, variable_weights, weight_tensor

from .conftest import losses, metrics, train_here, write_config
from .processes import Ranks

CPU = torch.device("cpu")
UNEVEN = {"2m_temperature": 3.0, "geopotential_500": 0.25}


def test_pressure_weights_are_those_of_graphcast() -> None:
    """By hand: levels of one variable in proportion to their pressure, with sum 1; the surface as in its code."""
    levels = {"temperature": (250, 850, 500), "geopotential": (500,), "u_component_of_wind": (50, 925)}
    surface = {"2m_temperature": 1.0, "10m_u_component_of_wind": 0.1, "mean_sea_level_pressure": 0.1}
    names = [*surface, *(f"{stem}_{level}" for stem, several in levels.items() for level in several)]
    found = pressure_weights(names)
    assert list(found) == names
    for stem, several in levels.items():
        for level in several:
            assert found[f"{stem}_{level}"] == pytest.approx(level / sum(several))
    assert {name: found[name] for name in surface} == surface


def test_given_weights_and_their_mistakes() -> None:
    outputs = ["2m_temperature", "geopotential_500", "temperature_850"]
    assert variable_weights("uniform", outputs) == {}
    assert variable_weights("pressure", outputs) == dict.fromkeys(outputs, 1.0)
    assert variable_weights(UNEVEN, outputs) == {**UNEVEN, "temperature_850": 1.0}
    with pytest.raises(UserError, match="temperature_500 is not among the outputs; did you mean temperature_850"):
        variable_weights({"temperature_500": 1.0}, outputs)
    with pytest.raises(UserError, match=r"every output of source A has weight 0 .2m_temperature.: give one"):
        weight_tensor({"2m_temperature": 0.0, "geopotential_500": 1.0}, ["2m_temperature"], "source A", CPU)
    for bad, why in [("presure", "use uniform, pressure, or"), ({"z500": 1.0}, "unknown variable 'z500'")]:
        with pytest.raises(UserError, match=why):
            DataConfig(dataset="d", variable_weights=bad)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="2m_temperature has -1; a weight must not be negative"):
        DataConfig(dataset="d", variable_weights={"2m_temperature": -1.0})
    assert loss_in_words("anomaly", "pressure").endswith("divided by s (docs/guides/training.md), variables weighted "
                                                         "by pressure")  # fmt: skip
    assert loss_in_words("full", {}) == "loss: mean square in z-scores, variables weighted as given"


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("mode", ["full", "anomaly"])
def test_loss_and_gradient_are_those_of_the_textbook(mode: str, steps: int) -> None:
    """In float64, with missing cells and a whole missing variable, in one step and rolled out."""
    torch.manual_seed(0)
    names, weight_H, weight_O = ("2m_temperature", "geopotential_500"), torch.rand(4).double(), torch.tensor([0.3, 2.0])
    x, y = torch.randn(3, 2, 4, 6, dtype=torch.float64), torch.randn(3, max(steps, 1), 2, 4, 6, dtype=torch.float64)
    y[0, :, 1, 2:] = y[1, :, 0] = torch.nan
    anomaly = mode == "anomaly"
    r, s = (torch.rand(3, 2).double() + 0.5 if anomaly else None for _ in range(2))
    batch = SimpleNamespace(
        in_variables=names, out_variables=names, x_BVHW=x, lead_hours_B=torch.ones(3), y_BOHW=y[:, 0],
        y_BKOHW=y if steps else None, r_BO=r, s_BO=s, variable_weight_O=weight_O,
        network_target=lambda: network_target(y[:, 0], x, r, s) if anomaly else y[:, 0],
        change_scale_T11=None, solar_BKGHW=None, band=None,
    )  # fmt: skip
    gain = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def engine(x_BVHW: torch.Tensor, *_: Any, patched: bool = False) -> torch.Tensor:
        y_BOHW = gain * x_BVHW.roll(1, -1)
        return y_BOHW.flatten(2).transpose(1, 2) if patched else y_BOHW  # patches of one cell

    engine.module = SimpleNamespace(config=SimpleNamespace(patch=1, noise_dim=0))  # type: ignore[attr-defined]
    loss = batch_loss(engine, batch, weight_H)  # type: ignore[arg-type]
    state, expected = x, []
    for k in range(max(steps, 1)):
        forecast = forecast_from_network(gain * state.roll(1, -1), state, r, s)
        unit = s[..., None, None] if anomaly else 1.0
        expected.append(
            lat_weighted_error_reference(forecast / unit, y[:, k] / unit, weight_H, variable_weight_O=weight_O)[0]
        )
        state = forecast
    whole = torch.stack(expected).mean()
    torch.testing.assert_close(loss, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(each, gain) for each in (loss, whole)), rtol=1e-10, atol=0)
    batch.variable_weight_O = None
    assert not torch.isclose(batch_loss(engine, batch, weight_H), whole, rtol=1e-3)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_run_with_weights(settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two ranks agree with one, a resumed run repeats the bits, provenance and validation have the weights."""
    settings["data"] |= {"sources": ["A"], "validation_period": ["2004", "2004"], "variable_weights": UNEVEN}
    settings["optimizer"] = {"lr": 1e-2, "end_lr": 1e-3, "warmup_steps": 0}
    settings["train"] |= {"validate_every": 6, "validation_batches": 2}
    whole = train_here(settings, tmp_path)
    assert "run: loss: mean square of errors divided by s (docs/guides/training.md), variables weighted as given\n" in (
        capsys.readouterr().out
    )
    recorded = json.loads((tmp_path / "run" / "provenance.json").read_text())["variable_weights"]
    assert recorded == {**UNEVEN, "u_component_of_wind_850": 1.0}
    again = settings | {"resume_from": "step_00000003"}
    assert train_here(again, tmp_path) == whole
    with Ranks(settings | {"run_folder": str(tmp_path / "two")}, ranks=2) as ranks:
        statuses, _, errors = ranks.wait()
    assert statuses == [0, 0], errors
    assert losses(tmp_path / "two") == pytest.approx(whole, rel=1e-5)
    plain = settings | {"data": settings["data"] | {"variable_weights": "uniform"}}
    assert train_here(plain, tmp_path, "--run_folder", str(tmp_path / "plain"))[0] != whole[0]
    values = [
        [row["validation_loss"] for row in metrics(tmp_path / name) if "validation_loss" in row][-1]
        for name in ("run", "plain")
    ]
    assert values[0] != pytest.approx(values[1], rel=1e-3)
    with pytest.raises(UserError, match=r"other settings .data.variable_weights"):
        train_here(settings | {"data": plain["data"]}, tmp_path)
    with pytest.raises(UserError, match="temperature_850 is not among the outputs"):
        train_here(settings, tmp_path, "--data.variable_weights", '{"temperature_850": 2}', "--run_folder",
                   str(tmp_path / "x"))  # fmt: skip


def test_tasks_without_such_a_loss_refuse_weights(settings: dict[str, Any], tmp_path: Path) -> None:
    words = ["--task", "projection", "--data.variable_weights", "pressure"]
    with pytest.raises(UserError, match=r"data\.variable_weights belongs to task forecast or downscaling"):
        run(["finetune", "--config", write_config(settings, tmp_path), *words])
