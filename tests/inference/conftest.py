"""A packed data set, checkpoints for it, and the same states as NetCDF in other names, units and orientations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file, save_file

from climax_hpc.config.inference import PredictConfig
from climax_hpc.data.dataset import DataSet
from climax_hpc.fields.calendars import to_dates
from climax_hpc.fields.variables import STANDARD_GRAVITY
from climax_hpc.inference.initial_conditions import ShardInitialConditions
from climax_hpc.utils.files import sha256, write_json

PERIOD = ("2004-01-03", "2004-01-03")


@pytest.fixture(scope="module")
def dataset(make_dataset: Callable[..., Path]) -> Path:
    return make_dataset(dtype="float32")


@pytest.fixture(scope="module")
def checkpoints(dataset: Path, make_checkpoint: Callable[..., Path]) -> dict[str, str]:
    """`full` and `anomaly` mode, and a second `full` one with other weights."""
    made = {
        "full": make_checkpoint(dataset, mode="full"),
        "anomaly": make_checkpoint(dataset),
        "other": make_checkpoint(dataset, mode="full", seed=1),
    }
    for folder in made.values():
        _make_vivid(folder)
    return {label: str(folder) for label, folder in made.items()}


def _make_vivid(folder: Path) -> None:
    """Untrained weights hardly look at the input; tenfold ones do, and outputs reach the size of the fields."""
    weights = load_file(folder / "weights.safetensors")
    large = {name: w * (10 if w.ndim > 1 and "embed" not in name else 1) for name, w in weights.items()}
    save_file(large, folder / "weights.safetensors")
    seal(folder)


@pytest.fixture(scope="module")
def noisy(dataset: Path, make_checkpoint: Callable[..., Path]) -> str:
    """A network in `full` mode whose noise moves its members apart."""
    folder = make_checkpoint(dataset, mode="full", noise_dim=3)
    _make_vivid(folder)
    weights, draw = load_file(folder / "weights.safetensors"), torch.Generator().manual_seed(3)
    changed = {name: 20 * w for name, w in weights.items() if name.startswith("head.")}
    changed |= {name: torch.randn(w.shape, generator=draw) for name, w in weights.items() if "noise" in name}
    save_file(weights | changed, folder / "weights.safetensors")
    seal(folder)
    return str(folder)


def seal(folder: Path) -> None:
    """Write the hashes of a checkpoint's files anew."""
    names = ("model.json", "weights.safetensors")
    write_json(folder / "SHA256SUMS.json", {name: sha256(folder / name) for name in names})


@pytest.fixture
def config(dataset: Path, checkpoints: dict[str, str], tmp_path: Path) -> PredictConfig:
    return PredictConfig(
        models={"full": checkpoints["full"]},
        input=str(dataset),
        output=str(tmp_path / "out"),
        period=PERIOD,
        lead_hours=(6, 24, 30),
        batch_size=3,
    )


@pytest.fixture(scope="module")
def physical(dataset: Path) -> xr.Dataset:
    """The first twelve states of 2004, registry names and units."""
    states = ShardInitialConditions(DataSet(dataset).select(None)[0])
    values_TCHW = np.stack([states.read(t) for t in range(144, 156)])
    dates = to_dates(np.round(states.hours[144:156] * 3600).astype(np.int64), states.calendar)
    ds = xr.Dataset(coords={"time": dates, "lat": states.grid.lat, "lon": states.grid.lon})
    units = {
        "2m_temperature": "K",
        "temperature_850": "K",
        "geopotential_500": "m2 s-2",
        "u_component_of_wind_850": "m s-1",
    }
    for c, name in enumerate(states.channels):
        ds[name] = (("time", "lat", "lon"), values_TCHW[:, c], {"units": units[name]})
    for name, unit in (("land_sea_mask", "1"), ("orography", "m")):
        ds[name] = (("lat", "lon"), states.static[name], {"units": unit})
    return ds


def as_cmip6(ds: xr.Dataset) -> xr.Dataset:
    """CMIP6 names and levels in Pa, other units, latitudes from the north, longitudes from -180."""
    levels = {"plev": ("plev", [85000.0, 50000.0], {"units": "Pa", "standard_name": "air_pressure"})}
    missing = np.full(ds.geopotential_500.shape, np.nan)

    def on_levels(at_850: Any, at_500: Any, units: str) -> xr.DataArray:
        stacked = np.stack([at_850, at_500], axis=1)
        return xr.DataArray(stacked, ds.coords | levels, ("time", "plev", "lat", "lon"), attrs={"units": units})

    out = xr.Dataset(
        {
            "tas": (ds["2m_temperature"] - 273.15).assign_attrs(units="degC"),
            "ta": on_levels(ds.temperature_850.values, missing, "K"),
            "zg": on_levels(missing, ds.geopotential_500.values / STANDARD_GRAVITY, "m"),
            "ua": on_levels(ds.u_component_of_wind_850.values * 100, missing, "cm s-1"),
            "sftlf": (ds.land_sea_mask * 100).assign_attrs(units="%"),
            "orog": (ds.orography / 1000).assign_attrs(units="km"),
        }
    )
    turned = (out.lon.values + 180) % 360 - 180
    return out.assign_coords(lon=turned).sortby("lon").isel(lat=slice(None, None, -1))
