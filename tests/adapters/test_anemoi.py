"""anemoi-datasets itself: it opens the stores that the tests write, and we pack the stores that it creates."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from climax_hpc.data.dataset import DataSet
from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.fields.variables import STANDARD_GRAVITY
from climax_hpc.inference.initial_conditions import ShardInitialConditions

from ..data_prep.anemoi_store import BASE, LAT, LON, NAMES, UNITS, write_anemoi
from .conftest import HERE, Aside

pytestmark = pytest.mark.adapters
RECIPE = """
name: made
description: fields of the tests
licence: CC-BY-4.0
attribution: none
dates: {start: 2020-01-01T00:00:00, end: 2020-01-02T18:00:00, frequency: 6h, missing: ["2020-01-01T12:00:00"]}
input:
  join:
    - netcdf: {path: in.nc, param: ["2t", "msl", "lsm", "t", "z", "q"]}
    - forcings: {template: "${input.join.0.netcdf}", param: [cos_latitude, cos_julian_day, insolation]}
"""
CHANNELS = {
    "2m_temperature": "2t",
    "mean_sea_level_pressure": "msl",
    **{f"{name}_{p}": f"{s}_{p}" for name, s in (("temperature", "t"), ("geopotential", "z")) for p in (500, 850)},
    "specific_humidity_500": "q_500",
    "specific_humidity_850": "q_850",
}


def read(aside: Aside, store: Path, out: Path) -> Any:
    """What the package's own `open_dataset` gives."""
    aside("anemoi", HERE / "read_with_anemoi.py", store, out)
    return np.load(out)


def test_the_package_opens_the_stores_of_the_tests(aside: Aside, tmp_path: Path) -> None:
    values = write_anemoi(tmp_path / "a.zarr", missing=(2, 5))
    found = read(aside, tmp_path / "a.zarr", tmp_path / "a.npz")
    np.testing.assert_array_equal(found["values"], np.delete(values, [2, 5], axis=0))
    assert found["variables"].tolist() == list(NAMES)
    assert found["missing"].tolist() == [2, 5]
    assert found["field_shape"].tolist() == [7, 12]
    np.testing.assert_array_equal(found["latitudes"].reshape(7, 12)[:, 0], LAT)
    np.testing.assert_array_equal(found["longitudes"].reshape(7, 12)[0], LON)
    assert found["mean"].shape == (len(NAMES),)


def write_netcdf(path: Path) -> None:
    """Fields in ECMWF's names, from north to south."""
    times = np.datetime64("2020-01-01T00", "ns") + np.arange(8) * np.timedelta64(6 * 3600, "s")
    ds = xr.Dataset(
        coords={
            "time": ("time", times, {"standard_name": "time"}),
            "latitude": ("latitude", LAT, {"units": "degrees_north", "standard_name": "latitude"}),
            "longitude": ("longitude", LON, {"units": "degrees_east", "standard_name": "longitude"}),
            "level": ("level", [500, 850], {"units": "hPa", "standard_name": "air_pressure"}),
        }
    )
    random = np.random.default_rng(0)
    for name in ("2t", "msl", "lsm", "t", "z", "q"):
        dims = ("time", *(("level",) if name in "tzq" else ()), "latitude", "longitude")
        noise = random.standard_normal([ds.sizes[dim] for dim in dims])
        noise = np.broadcast_to(noise[:1], noise.shape) if name == "lsm" else noise
        base = np.array([5e4, 1.4e4])[:, None, None] if name == "z" else BASE[name]  # at 500 and 850 hPa
        fields = base * (1 + 1e-3 * noise)
        ds[name] = (dims, fields.astype(np.float32), {"units": UNITS[name]})
    ds.to_netcdf(path)


def test_we_pack_the_stores_of_the_package(aside: Aside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_netcdf(tmp_path / "in.nc")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "in").mkdir()
    aside("anemoi", "-m", "anemoi.datasets", "create", "recipe.yaml", tmp_path / "in/made.zarr")
    theirs = read(aside, tmp_path / "in/made.zarr", tmp_path / "made.npz")
    config = PackConfig(
        input=str(tmp_path / "in"), output=str(tmp_path / "out"), layout="anemoi", grid_spacing_deg=None,
        dtype="float32", climatology=False,
    )  # fmt: skip
    skipped = {s.variable_id: s.reason for s in make_plan(config).skipped}
    assert sorted(skipped) == ["cos_julian_day", "cos_latitude", "insolation"]
    assert all("is computed by anemoi" in reason for reason in skipped.values())
    (source,) = DataSet(pack(config).parent).select(None)
    states, variables = ShardInitialConditions(source), theirs["variables"].tolist()
    assert sorted(source.channels) == sorted(CHANNELS)
    ours = np.stack([states.read(t) for t in range(source.steps)])
    expected = theirs["values"][:, :, 0].reshape(7, len(variables), 7, 12)[:, :, ::-1]
    for c, channel in enumerate(source.channels):
        wanted = expected[:, variables.index(CHANNELS[channel])]
        np.testing.assert_allclose(ours[:, c], wanted, rtol=1e-6, atol=1e-6 * wanted.std())
    np.testing.assert_allclose(states.static["land_sea_mask"], expected[0, variables.index("lsm")], rtol=1e-6)
    assert (np.diff(source.hours) == np.diff(theirs["dates"]) / 3600).all()
    assert np.diff(source.hours).max() == 12  # the missing date
    assert STANDARD_GRAVITY == 9.80665
