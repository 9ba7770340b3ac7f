"""`climax-hpc convert`: the original's climate projections, ClimaX's own normalisation files, cells of a new grid."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from climax_hpc.checkpoint.format import load_checkpoint
from climax_hpc.checkpoint.metadata import TrainingMetadata
from climax_hpc.data.dataset import DataSet
from climax_hpc.errors import UserError
from climax_hpc.fields.grid import regular_grid
from climax_hpc.fields.variables import CLIMAX_48
from climax_hpc.kernels.testing import relative_error
from climax_hpc.model import build_network
from climax_hpc.tools.convert import on_grid

from ..checkpoint.original import OriginalClimaX, OriginalProjection, lightning_file
from ..synthetic import make_grid
from .convert_command import convert, refused

FORCINGS = ("cumulative_co2_emissions", "sulfur_dioxide_emissions", "methane_emissions", "black_carbon_emissions")
YAML = "CO2: {mean: 900, std: 300}\nSO2: {mean: 1e-11, std: 3e-11}\nCH4: {mean: 0.3, std: 0.1}\n"


@pytest.fixture(scope="module")
def original() -> OriginalProjection:
    return OriginalProjection(4, (8, 16), 2, 32, 2, 16, years=5).eval()


@pytest.fixture
def units(tmp_path: Path) -> Path:
    path = tmp_path / "units.yaml"
    path.write_text(YAML + "BC: {mean: 1e-12, std: 3e-12}\n")
    return path


@pytest.mark.parametrize("form", ["alone", "parallel", "channel"])
@pytest.mark.parametrize(
    ("projected", "name", "std"),
    [
        ("tas", "2m_temperature", 1.0),
        ("diurnal_temperature_range", "diurnal_temperature_range", 1.0),
        ("pr90", "precipitation_rate_90th_percentile", 1 / 86400),
    ],
)
def test_a_projection_gives_the_same_outputs(
    original: OriginalProjection, units: Path, tmp_path: Path, form: str, projected: str, name: str, std: float
) -> None:
    source = lightning_file(
        original, tmp_path / "original.ckpt", parallel=form == "parallel", channel=form == "channel"
    )
    output = tmp_path / "model.safetensors"
    convert(source, "--output", output, "--normalisation", units, "--projected", projected)
    loaded = load_checkpoint(output)
    metadata, model = loaded.metadata, build_network(loaded.metadata.config).eval()
    model.load_state_dict(loaded.weights)
    x_BTVHW = torch.randn(3, 5, 4, 8, 16)
    with torch.no_grad():
        expected_BHW = original.project(x_BTVHW)
        given_BOHW = model(x_BTVHW, torch.zeros(3), FORCINGS, (name,))
    assert relative_error(given_BOHW[:, 0], expected_BHW) < 1e-6  # mapped by hand it agrees to 2.4e-7
    assert (metadata.in_variables, metadata.out_variables) == (FORCINGS, (name,))
    assert (metadata.normalisation.mean[name], metadata.normalisation.std[name]) == (0, std)
    assert metadata.training is not None
    assert metadata.training.task == "projection"
    assert metadata.training.cells().same_centres(regular_grid(22.5))


def test_refusals(
    original: OriginalProjection, units: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = lightning_file(original, tmp_path / "original.ckpt")
    options: tuple[Any, ...] = (source, "--output", tmp_path / "o.safetensors", "--normalisation", units)
    assert "does not store the variable that it predicts: give it, for example --projected tas" in refused(
        capsys, *options
    )
    assert "unknown variable 'tass'" in refused(capsys, *options, "--projected", "tass")
    assert "model.projected: cumulative_co2_emissions is among" in refused(capsys, *options, "--projected", "CO2")
    units.write_text(YAML)
    assert "has no value for black_carbon_emissions, which" in refused(capsys, *options, "--projected", "tas")
    forecast = lightning_file(OriginalClimaX(48, (8, 16), 2, 32, 2, 16), tmp_path / "forecast.ckpt")
    assert "is a forecast model, not a climate projection" in refused(
        capsys, forecast, *options[1:], "--projected", "tas"
    )
    for name in ("time_pos_embed", "time_agg.in_proj_bias", "time_agg.out_proj.weight", "head.bias"):
        content = torch.load(source, weights_only=True)
        del content["state_dict"][f"net.{name}"]
        torch.save(content, tmp_path / "less.ckpt")
        assert name in refused(capsys, tmp_path / "less.ckpt", *options[1:], "--projected", "tas")
    assert not (tmp_path / "o.safetensors").exists()


def test_a_projection_stays_on_its_grid(
    original: OriginalProjection, units: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = lightning_file(original, tmp_path / "original.ckpt")
    options = ("--output", tmp_path / "o.safetensors", "--normalisation", units, "--projected", "tas")
    assert "only a forecast model of kind climax" in refused(
        capsys, source, *options, "--height", "16", "--width", "32"
    )


def test_names_that_the_model_does_not_know_are_ignored_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folders that ClimaX's scripts write hold whatever the download had, even without a spread."""
    source = lightning_file(OriginalClimaX(48, (8, 16), 2, 32, 2, 16), tmp_path / "original.ckpt")
    names = ["lattitude" if v.name == "latitude" else v.name for v in CLIMAX_48]
    others = {"toa_incident_solar_radiation": 0.0, "geopotential_1000": 1.0, "total_precipitation_rate": 0.0}
    mean = {name: np.array([1.0]) for name in (*names, *others, "only_a_mean")}
    std = {name: np.array([2.0]) for name in names} | {name: np.array([value]) for name, value in others.items()}
    np.savez(tmp_path / "normalize_mean.npz", **mean)
    np.savez(tmp_path / "normalize_std.npz", **std)
    convert(source, "--output", tmp_path / "o.safetensors", "--normalisation", tmp_path)
    assert (
        "ignored, because the model has no such variable: geopotential_1000, only_a_mean, "
        "toa_incident_solar_radiation, total_precipitation_rate" in capsys.readouterr().out
    )
    normalisation = load_checkpoint(tmp_path / "o.safetensors").metadata.normalisation
    assert normalisation.mean == dict.fromkeys([v.name for v in CLIMAX_48], 1.0)


def test_the_new_grid_is_that_of_the_converted_model(
    make_dataset: Callable[..., Path], make_checkpoint: Callable[..., Path]
) -> None:
    """A trained model remembers its cells, which data are compared with."""
    loaded = load_checkpoint(make_checkpoint(make_dataset()))
    source = DataSet(make_dataset(shape=(16, 32))).select(None)[0]
    trained = TrainingMetadata(
        min_lead_hours=6, max_lead_hours=168, lead_step_hours=6, grid=make_grid((8, 16)).to_dict(), window_hours=None
    )
    metadata, weights = on_grid(replace(loaded.metadata, training=trained), loaded.weights, (16, 32))
    assert metadata.training is not None
    assert replace(metadata.training, grid=trained.grid) == trained
    assert metadata.training.cells().same_centres(source.grid)
    assert weights["pos_embed"].shape[-2] == 4 * 8
    region = {"region": {"name": "x", "south": 0, "north": 90, "west": 0, "east": 90}, "globe": trained.grid}
    with pytest.raises(UserError, match="a regional model cannot be brought to another grid"):
        on_grid(replace(metadata, training=replace(trained, region=region)), weights, (16, 32))
