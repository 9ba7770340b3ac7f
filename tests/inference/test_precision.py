"""Precision of inference: float32 is exact, bfloat16 is near it for every network, TF32 is switched on and off."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import climax_hpc
from climax_hpc.config.inference import Precision, PredictConfig
from climax_hpc.errors import UserError
from climax_hpc.inference.precision import load_network
from climax_hpc.inference.predict import predict as predict_forecasts
from climax_hpc.model.build import build_network
from climax_hpc.model.config import ModelConfig
from climax_hpc.tasks.registry import predict

Z500 = "geopotential_500"
NAMES = ("orography", Z500, "2m_temperature", "u_component_of_wind_850")
NETWORKS = {
    "climax": ModelConfig(variables=NAMES, height=8, width=12, patch=2, embed_dim=32, depth=3, heads=4),
    "linear": ModelConfig(kind="linear", variables=NAMES, height=8, width=12),
    "resnet": ModelConfig(kind="resnet", variables=NAMES, height=8, width=12, embed_dim=16, depth=2),
    "unet": ModelConfig(kind="unet", variables=NAMES, height=16, width=16, embed_dim=8, depth=1),
    "projection": ModelConfig(
        variables=NAMES[2:], height=8, width=12, patch=2, embed_dim=32, depth=2, heads=4, years=3, projected=NAMES[1:2]
    ),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_bfloat16_is_near_float32(kind: str) -> None:
    config = NETWORKS[kind]
    torch.manual_seed(0)
    trained = build_network(config)
    with torch.no_grad():
        for parameter in trained.parameters():  # some networks begin with an output of 0
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    checkpoint: Any = SimpleNamespace(
        metadata=SimpleNamespace(config=config), load_into=lambda model: model.load_state_dict(trained.state_dict())
    )
    shape = (2, config.years) if config.years else (2,)
    x = torch.randn(*shape, len(config.variables), config.height, config.width)
    outputs = config.projected or config.variables[1:]

    def of(precision: Precision) -> torch.Tensor:
        network = load_network(checkpoint, torch.device("cpu"), precision)
        assert not network.training
        with torch.inference_mode():
            return network(x, torch.tensor([6.0, 72.0]), config.variables, outputs)

    exact, rounded = of("float32"), of("bfloat16")
    assert torch.equal(exact, of("tf32"))
    assert (exact.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    assert 0 < ((rounded - exact).norm() / exact.norm()).item() < 0.03  # 8 bits, through a few layers


def test_predict_in_bfloat16(config: PredictConfig, tmp_path: Path) -> None:
    folders = {
        precision: predict_forecasts(replace(config, precision=precision, output=str(tmp_path / precision)))
        for precision in ("float32", "bfloat16")
    }
    exact, rounded = (
        xr.open_dataset(next(iter(sorted(folder.glob("*.nc")))), decode_timedelta=False) for folder in folders.values()
    )
    assert "precision" not in exact.attrs
    assert rounded.attrs["precision"] == "bfloat16"
    difference, spread = rounded[Z500] - exact[Z500], float(exact[Z500].std())
    assert 0 < float(np.sqrt((difference**2).mean())) < 0.03 * spread
    with pytest.raises(UserError, match="holds a prediction with another precision"):
        predict_forecasts(replace(config, output=str(folders["bfloat16"])))


@pytest.mark.parametrize(("precision", "expected"), [("float32", False), ("tf32", True), ("bfloat16", False)])
def test_tf32_is_a_switch_of_the_command(
    config: PredictConfig, monkeypatch: pytest.MonkeyPatch, precision: Precision, expected: bool
) -> None:
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    seen = []

    def command(_: PredictConfig) -> str:
        seen.extend(backend.allow_tf32 for backend in backends)
        return "out"

    monkeypatch.setattr("climax_hpc.tasks.registry.load", lambda _: command)
    monkeypatch.setattr("climax_hpc.inference.precision._has_tf32", lambda: True)
    predict(replace(config, precision=precision))
    assert seen == [expected, expected]
    assert [backend.allow_tf32 for backend in backends] == before


@pytest.mark.parametrize(
    ("gpu", "hip", "capability", "has"),
    [
        (False, None, (0, 0), False),
        (True, "6.4", (9, 4), False),
        (True, None, (7, 5), False),
        (True, None, (8, 6), True),
    ],
)  # fmt: skip
def test_tf32_is_refused_where_there_is_none(
    config: PredictConfig, monkeypatch: pytest.MonkeyPatch, gpu: bool, hip: str | None, capability: Any, has: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr("climax_hpc.tasks.registry.load", lambda _: lambda _: "out")
    if has:
        predict(replace(config, precision="tf32"))
        return
    with pytest.raises(UserError, match="precision: tf32 needs an NVIDIA GPU from Ampere on, and here is none: use"):
        predict(replace(config, precision="tf32"))
    predict(replace(config, precision="float32"))


def test_an_unknown_precision_is_refused(
    config: PredictConfig, checkpoints: dict[str, str], physical: xr.Dataset
) -> None:
    wrong: Any = "bf16"
    line = "precision: use one of float32, tf32, bfloat16"
    with pytest.raises(UserError, match=line):
        replace(config, precision=wrong)
    with pytest.raises(UserError, match=line):
        climax_hpc.ClimaX.from_pretrained(checkpoints["full"]).forecast(physical, lead="6h", precision=wrong)
