"""One time step or one level, as a scalar or an axis of length one, in any order: packed, or refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.errors import UserError
from climax_hpc.inference.open_files import open_files
from climax_hpc.inference.xarray_input import XarrayInitialConditions

from ..packed import physical

Settings = Callable[..., PackConfig]
LAT, LON = np.arange(-82.5, 90, 15), np.arange(0, 360, 15.0)
TIMES = np.array(["2020-01-01T00", "2020-01-01T06", "2020-01-01T12"], "datetime64[ns]")
LEVEL = {"units": "hPa", "standard_name": "air_pressure"}
_rng = np.random.default_rng(0)
T2M = 280 + _rng.standard_normal((3, 12, 24)).astype(np.float32)
TA = 250 + _rng.standard_normal((3, 2, 12, 24)).astype(np.float32)


def both() -> xr.Dataset:
    """Three steps of t2m and of t at 500 and 850 hPa, as cfgrib converts GRIB: time is the start of a forecast."""
    return xr.Dataset(
        {
            "t2m": (("time", "latitude", "longitude"), T2M, {"units": "K", "GRIB_stepType": "instant"}),
            "t": (("time", "isobaricInhPa", "latitude", "longitude"), TA, {"units": "K"}),
        },
        {
            "time": TIMES,
            "valid_time": ("time", TIMES, {"standard_name": "time"}),
            "isobaricInhPa": ("isobaricInhPa", [500.0, 850.0], LEVEL),
            "latitude": ("latitude", LAT, {"units": "degrees_north"}),
            "longitude": ("longitude", LON, {"units": "degrees_east"}),
            "step": ((), np.timedelta64(0, "h")),
            "number": ((), 0),
        },
    )


def single_time(ds: xr.Dataset) -> list[xr.Dataset]:
    return [ds.isel(time=i) for i in range(3)]


def single_level(ds: xr.Dataset) -> list[xr.Dataset]:
    return [ds.isel(isobaricInhPa=0)]


def forecasts(ds: xr.Dataset) -> list[xr.Dataset]:
    """Steps of one forecast: the time is that of its start, `valid_time` runs along the steps."""
    steps = ds.drop_vars(["valid_time", "step"]).rename(time="step").assign_coords(step=np.arange(3) * 6)
    return [steps.assign_coords(time=((), TIMES[0]), valid_time=("step", TIMES, {"standard_name": "time"}))]


SHAPES: dict[str, Callable[[xr.Dataset], list[xr.Dataset]]] = {
    "axes": lambda ds: [ds],
    "single time": single_time,
    "time of length one": lambda ds: [ds.isel(time=[i]) for i in range(3)],
    "single level": single_level,
    "single level of length one": lambda ds: [ds.isel(isobaricInhPa=[0])],
    "single time and level": lambda ds: [one for part in single_level(ds) for one in single_time(part)],
    "lon, lat, level, time": lambda ds: [ds.transpose("longitude", "latitude", "isobaricInhPa", "time")],
    "forecast": forecasts,
}


def _write(folder: Path, parts: list[xr.Dataset]) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"part_{i}.nc" for i in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        part.to_netcdf(path)
    return paths


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_packs_to_the_same_fields_in_layout_era5(settings: Settings, tmp_path: Path, shape: str) -> None:
    _write(tmp_path / "in", SHAPES[shape](both()))
    folder = pack(settings(layout="era5", grid_spacing_deg=None, climatology=False)).parent
    found = physical(folder, "ERA5_reanalysis_r1")
    assert np.allclose(found[:, :2], np.stack([T2M, TA[:, 0]], axis=1), rtol=1e-6, atol=1e-4)
    assert found.shape[1] == (2 if "level" in shape and "lat" not in shape else 3)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_read_by_predict(tmp_path: Path, shape: str) -> None:
    names = {"t2m": "tas", "t": "ta"}
    paths = _write(tmp_path / "in", [part.rename(names) for part in SHAPES[shape](both())])
    read = XarrayInitialConditions(open_files(paths), "input")
    assert read.channels[:2] == ["2m_temperature", "temperature_500"]
    assert np.array_equal(read.hours, [1490184.0, 1490190.0, 1490196.0])
    assert np.array_equal(read.read(2)[:2], np.stack([T2M[2], TA[2, 0]]))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_planned_or_listed_in_layout_cmip6(settings: Settings, tmp_path: Path, shape: str) -> None:
    (tmp_path / "in").mkdir()
    for i, part in enumerate(SHAPES[shape](both())):
        for old, name in (("t2m", "tas"), ("t", "ta")):
            one = part[[old]].rename({old: name})
            one.to_netcdf(tmp_path / "in" / f"{name}_6hrPlevPt_TEST_historical_r1i1p1f1_gn_{i}.nc")
    plan = make_plan(settings())
    assert plan.skipped == []
    assert plan.sources[0].channels[:2] == ["2m_temperature", "temperature_500"]
    assert len(plan.sources[0].seconds) == 3


def _without_time(ds: xr.Dataset) -> xr.Dataset:
    return ds.isel(time=0, drop=True).drop_vars("valid_time", errors="ignore")


LISTED: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], str]] = {
    "no time": (_without_time, "t2m: it has no time axis; leave it out"),
    "an ensemble": (lambda ds: ds.expand_dims(number=range(10)), r"t2m: it holds 10 members of an ensemble \(number\)"),
    "a dimension without meaning": (
        lambda ds: ds.expand_dims(spam=3),
        "t2m: its dimension spam of length 3 has no coordinate, so its meaning is unknown",
    ),
    "two dimensions of time": (
        lambda ds: (
            ds.drop_vars("valid_time")
            .rename(time="forecast_reference_time")
            .expand_dims(forecast_period=1)
            .assign_coords(valid_time=(("forecast_reference_time", "forecast_period"), TIMES[:, None]))
        ),
        r"t2m: its times lie on two dimensions \(forecast_reference_time, forecast_period\)",
    ),
    "text": (
        lambda ds: ds[["t2m"]].assign(t2m=ds["t2m"].astype(str)),
        "t2m: t2m holds text, not numbers; convert it",
    ),
    "steps of 5 days": (
        lambda ds: ds.assign_coords(time=TIMES[0] + np.arange(3) * np.timedelta64(120, "h")).drop_vars("valid_time"),
        "t2m: frequency unknown, time steps of 5 days: not supported",
    ),
    "starts of forecasts": (
        lambda ds: ds.drop_vars("valid_time").assign_coords(
            time=("time", TIMES, {"standard_name": "forecast_reference_time"}), step=((), np.timedelta64(6, "h"))
        ),
        "its time is that of the start of forecasts; store valid_time too",
    ),
    "monthly means by hour": (
        lambda ds: (
            ds.isel(time=[0, 1, 0, 1])
            .assign_coords(
                time=np.array(["2020-01-01T00", "2020-01-01T06", "2020-02-01T00", "2020-02-01T06"], "datetime64[ns]")
            )
            .drop_vars("valid_time")
        ),
        "t2m: its steps are hours of the first day of months: monthly means by hour of day",
    ),
    "no variables": (lambda ds: xr.Dataset(), "part_0.nc: holds no variables"),
    "only one step": (lambda ds: ds.isel(time=0), "t2m: frequency unknown, one time step, whose length the file does"),
}


@pytest.mark.parametrize("kind", LISTED)
def test_what_cannot_be_packed_is_named(settings: Settings, tmp_path: Path, kind: str) -> None:
    change, reason = LISTED[kind]
    _write(tmp_path / "in", [change(both().drop_vars("number"))])
    with pytest.raises(UserError, match=rf"input: nothing to pack \(.*{reason}"):
        make_plan(settings(layout="era5"))


def test_geopotential_that_lost_its_level_is_not_orography(settings: Settings, tmp_path: Path) -> None:
    """The old Copernicus store left out the level of a download of one level."""
    ds = both()[["t2m"]]
    ds["z"] = ds["t2m"] * 200
    ds["z"].attrs = {"units": "m**2 s**-2"}
    _write(tmp_path / "in", [ds])
    plan = make_plan(settings(layout="era5"))
    assert plan.sources[0].static_channels == ["latitude"]
    assert [s.reason[:66] for s in plan.skipped] == [
        "z: it is read as orography, which is static, but it changes in tim"
    ]


def test_a_reason_is_not_hidden_by_that_of_another_variable(settings: Settings, tmp_path: Path) -> None:
    ds = both().isel(latitude=slice(3, 9)).assign(swvl1=lambda ds: ds["t2m"])
    _write(tmp_path / "in", [ds])
    with pytest.raises(UserError, match=r"nothing to pack \(part_0\.nc: t2m: it covers only -37\.5…37\.5° N"):
        make_plan(settings(layout="era5"))
    with pytest.raises(UserError, match=r"no source contains temperature_500 \(part_0\.nc: t: it covers only"):
        make_plan(settings(layout="era5", variables=["temperature_500"]))


def test_monthly_means_of_era5_are_means_by_any_name(settings: Settings, tmp_path: Path) -> None:
    """The Copernicus store calls them `avgua` (means of instants) and `avgad` (means of daily sums)."""
    months = np.array([f"2020-{month:02d}-01" for month in (1, 2, 3)], "datetime64[ns]")
    ds = both()[["t2m"]].assign_coords(time=months, valid_time=("time", months))
    ds["t2m"].attrs["GRIB_stepType"] = "avgua"
    ds["tp"] = (ds["t2m"].dims, abs(T2M) * 1e-5, {"units": "m", "GRIB_stepType": "avgad"})
    ds["skt"] = ds["t2m"].assign_attrs({"GRIB_stepType": ""})
    _write(tmp_path / "in", [ds])
    plan = make_plan(settings(layout="era5", accumulated_hours={"tp": 24.0}))
    assert {s.files[0].cell_methods for s in plan.sources[0].series} == {"time: mean"}
    assert plan.sources[0].frequency == "mon"
    ds["t2m"].attrs["GRIB_stepType"] = "max"
    ds.to_netcdf(tmp_path / "in" / "part_0.nc")
    (skipped,) = make_plan(settings(layout="era5", accumulated_hours={"tp": 24.0})).skipped
    assert skipped.reason.startswith("t2m: its values are a maximum over time")


def test_one_variable_under_two_names(settings: Settings, tmp_path: Path) -> None:
    ds = both()[["t2m"]]
    ds["2m_temperature"] = ds["t2m"]
    _write(tmp_path / "in", [ds])
    with pytest.raises(UserError, match=r"part_0\.nc: 2m_temperature overlaps t2m of part_0\.nc in time"):
        make_plan(settings(layout="era5"))


def test_files_of_climatebench_that_hold_something_else(settings: Settings, tmp_path: Path) -> None:
    (path,) = _write(tmp_path / "in", [both().rename(t2m="tas")])
    path.rename(path.with_name("outputs_ssp245.nc"))
    with pytest.raises(UserError, match=r"outputs_ssp245\.nc: tas: its time steps are 6 h, not years as in ClimateB"):
        make_plan(settings(layout="climatebench"))


def test_names_of_cmip5(settings: Settings, cmip6: Any) -> None:
    """No grid label stands before the range of dates, and the table in the header is a sentence."""
    for part in ("000101-000112", "000201-000212"):
        path = cmip6("tas", table="Amon", frequency="mon", times=cmip6.mid_months(12) + 365 * (part[3] == "2"))
        with xr.open_dataset(path, decode_times=False) as ds:
            found = ds.load()
        found.attrs = {"project_id": "CMIP5", "table_id": f"Table Amon (27 April 2011) {part}", "frequency": "mon"}
        path.unlink()
        found.to_netcdf(path.with_name(f"tas_Amon_HadGEM2-ES_historical_r1i1p1_{part}.nc"))
    plan = make_plan(settings(tables=["Amon"]))
    assert (len(plan.sources[0].seconds), plan.sources[0].segment_starts, plan.skipped) == (24, [0], [])


@pytest.mark.parametrize("units", ["days since 0", "days since 1850", "day as %Y%m%d.%f"])
def test_units_of_time_without_a_reference_date(settings: Settings, cmip6: Any, units: str) -> None:
    cmip6("tas", time_units=units)
    with pytest.raises(UserError, match=rf"the time axis in '{units}' of calendar 'noleap' \(no reference date: exp"):
        make_plan(settings())
