"""Layouts of `climax-hpc predict`: WeatherBench's store and CMIP6's files hold the numbers of the layout `cf`."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from climax_hpc.config.inference import EvaluateConfig, PredictConfig
from climax_hpc.data.dataset import DataSet
from climax_hpc.errors import UserError
from climax_hpc.evaluation.evaluate import evaluate
from climax_hpc.fields.calendars import to_dates
from climax_hpc.fields.grid import Grid, midpoint_bounds
from climax_hpc.fields.variables import STANDARD_GRAVITY
from climax_hpc.inference.cf import ForecastContent
from climax_hpc.inference.layouts import FILES, STORES
from climax_hpc.inference.open_files import open_files
from climax_hpc.inference.predict import predict
from climax_hpc.inference.writers import SETTINGS_FILE
from climax_hpc.inference.xarray_input import XarrayInitialConditions
from climax_hpc.tasks import registry

Z500, T2M = "geopotential_500", "2m_temperature"
SELECTED: dict[str, Callable[[xr.Dataset], xr.DataArray]] = {
    Z500: lambda ds: ds["geopotential"].sel(level=500),
    "temperature_850": lambda ds: ds["temperature"].sel(level=850),
    "u_component_of_wind_850": lambda ds: ds["u_component_of_wind"].sel(level=850),
    T2M: lambda ds: ds[T2M],
}
"""Registry name -> how a user of WeatherBench's layout selects it."""


def as_word(value: Any) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def in_weatherbench(config: PredictConfig, **changed: Any) -> xr.Dataset:
    """What xarray reads of a prediction in this layout, with its defaults."""
    store = predict(replace(config, layout="weatherbench", output=f"{config.output}.zarr", **changed))
    return xr.open_zarr(store)


def weights_of_weatherbench(latitude: xr.DataArray) -> xr.DataArray:
    """Area of each row between the latitudes halfway to its neighbours, mean 1 (WeatherBench 2, appendix A1)."""
    edges = np.deg2rad(np.concatenate([[-90], (latitude.values[1:] + latitude.values[:-1]) / 2, [90]]))
    area = np.diff(np.sin(edges))
    return xr.DataArray(area / area.mean(), {"latitude": latitude}, ("latitude",))


def truth(dataset: Path, template: xr.Dataset) -> xr.Dataset:
    """All states of the packed source as WeatherBench has ground truth: `time` is the valid time."""
    source = DataSet(dataset).select(None)[0]
    z_TCHW = np.stack([source.read(t).astype(np.float64) for t in range(source.steps)])
    fields = z_TCHW * source.std_C[:, None, None] + source.mean_C[:, None, None]
    dates = to_dates(np.round(source.hours * 3600).astype(np.int64), source.calendar)
    coordinates = {"time": dates, "latitude": template.latitude, "longitude": template.longitude}
    dims = ("time", "latitude", "longitude")
    return xr.Dataset({name: (dims, fields[:, c]) for c, name in enumerate(source.channels)}, coordinates)


def test_rmse_of_the_weatherbench_store_is_that_of_evaluate(
    config: PredictConfig, dataset: Path, checkpoints: dict[str, str], make_evaluation: Callable[..., EvaluateConfig],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Starts 12 h apart, so that the mean over starts is that of `start_every_hours` in both."""
    leads, period = (6, 24, 72), ("2004", "2004")
    models = {label: checkpoints[label] for label in ("full", "other")}
    settings = replace(make_evaluation(dataset), models=models, lead_hours=leads, resamples=0, spectra=False)
    settings = replace(settings, start_every_hours=12.0, run_folder=str(tmp_path / "evaluation"))
    scores = json.loads(evaluate(settings).read_text())["scores"]
    ds = in_weatherbench(config, models=models, period=period, start_every_hours=12.0, lead_hours=leads, batch_size=16)
    observed = truth(dataset, ds)
    for lead in leads:
        forecasts = ds.sel(prediction_timedelta=np.timedelta64(lead, "h"))
        valid = forecasts.indexes["time"] + timedelta(hours=lead)
        there = np.isin(valid, observed.time.values)
        assert there.sum() == 24 - lead // 12
        forecasts = forecasts.isel(time=there)
        for name, select in SELECTED.items():
            verifying = observed[name].sel(time=valid[there]).assign_coords(time=forecasts.time)
            error = select(forecasts).astype(np.float64) - verifying
            square = error**2 * weights_of_weatherbench(ds.latitude)
            found = np.sqrt(square.mean(("time", "latitude", "longitude")))
            expected = [scores[label][name][str(lead)]["rmse"] for label in models]
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_weatherbench_store(config: PredictConfig, checkpoints: dict[str, str], tmp_path: Path) -> None:
    both = {label: checkpoints[label] for label in ("full", "other")}
    ds = in_weatherbench(config, models=both)
    store = predict(replace(config, models=both, output=str(tmp_path / "cf.zarr")))
    plain = xr.open_zarr(store, decode_timedelta=False)
    surface = ("time", "prediction_timedelta", "realization", "latitude", "longitude")
    assert set(ds.data_vars) == {"geopotential", "temperature", "u_component_of_wind", T2M}
    assert ds[T2M].dims == surface
    assert ds["geopotential"].dims == (*surface[:3], "level", *surface[3:])
    assert ds["geopotential"].attrs["units"] == "m2 s-2"
    assert ds["geopotential"].dtype == np.float32
    assert ds.level.values.tolist() == [500, 850]
    assert ds.realization.values.tolist() == [0, 1]
    assert ds.prediction_timedelta.dtype.kind == "m"
    assert (ds.prediction_timedelta / np.timedelta64(1, "h")).values.tolist() == [6, 24, 30]
    assert [str(date) for date in ds.time.values[:2]] == ["2004-01-03 00:00:00", "2004-01-03 06:00:00"]
    assert (np.diff(ds.latitude) > 0).all()
    assert (np.diff(ds.longitude) > 0).all()
    assert 0 <= float(ds.longitude[0]) <= float(ds.longitude[-1]) < 360
    for name, select in SELECTED.items():
        np.testing.assert_array_equal(select(ds).values, plain[name].values)
    assert np.isnan(ds["geopotential"].sel(level=850)).all()  # not forecast: missing, never a number
    assert ds.attrs["members"].startswith("0: full (step 7")


def test_dates_of_the_real_calendar_are_numpys(
    config: PredictConfig, make_dataset: Callable[..., Path], make_checkpoint: Callable[..., Path]
) -> None:
    """WeatherBench's tools select by datetime64, which a source in the standard calendar gives."""
    real = make_dataset(dtype="float32", calendar="standard")
    models = {"m": str(make_checkpoint(real, mode="full"))}
    ds = in_weatherbench(config, models=models, input=str(real), start_every_hours=24)
    assert ds.time.values.astype("datetime64[h]").tolist() == [np.datetime64("2004-01-03T00", "h").item()]
    valid = (ds.time + ds.prediction_timedelta).values.ravel().astype("datetime64[h]")
    np.testing.assert_array_equal(valid, np.datetime64("2004-01-03T00", "h") + np.array([6, 24, 30]))


def grid(lat: list[float], lon: list[float]) -> Grid:
    centres = np.array(lat), np.array(lon)
    bounds = midpoint_bounds(centres[0], -90.0, 90.0), np.stack([centres[1] - 45, centres[1] + 45], axis=-1)
    return Grid(lat=centres[0], lon=centres[1], lat_bnds=bounds[0], lon_bnds=bounds[1])


def content(*names: str, **changed: Any) -> ForecastContent:
    common: dict[str, Any] = {
        "variables": names, "grid": grid([-45, 45], [-90, 0, 90, 180]), "calendar": "standard", "lead_hours": (6.0,),
        "members": ("m",), "labels": ("my model, v2",),
    }  # fmt: skip
    return ForecastContent(**common | changed)


def test_weatherbench_turns_longitudes_and_converts_humidity() -> None:
    store = STORES["weatherbench"](content("relative_humidity_500"))
    shape = store.store([0.0])
    assert shape.coordinates["longitude"].values.tolist() == [0, 90, 180, 270]
    assert shape.fields["relative_humidity"].attributes["units"] == "1"
    (piece,) = store.pieces(0, 0, 0, np.array([[[10.0, 20, 30, 40], [50, 60, 70, 80]]]))
    np.testing.assert_allclose(piece.field_HW, [[0.2, 0.3, 0.4, 0.1], [0.6, 0.7, 0.8, 0.5]])


def test_layout_cmip_files(config: PredictConfig, checkpoints: dict[str, str], tmp_path: Path) -> None:
    both = {label: checkpoints[label] for label in ("full", "other")}
    config = replace(config, models=both, start_every_hours=12)
    folder = predict(replace(config, layout="cmip"))
    names = sorted(path.name for path in folder.glob("*.nc"))
    assert len(names) == 2 * 2 * 4  # starts, members, variables
    run = "full_forecast_s200401030000-r1i1p1f1_gn_200401030600-200401040600"
    assert f"zg_6hrPlevPt_{run}.nc" in names
    zg = xr.open_dataset(folder / f"zg_6hrPlevPt_{run}.nc", decode_timedelta=False)
    assert zg.zg.dims == ("time", "plev", "lat", "lon")
    assert zg.plev.values.tolist() == [50000]
    assert zg.plev.attrs["units"] == "Pa"
    wanted = {"standard_name": "geopotential_height", "units": "m", "cell_methods": "time: point"}
    assert {key: zg.zg.attrs[key] for key in wanted} == wanted
    facets = {"variable_id": "zg", "table_id": "6hrPlevPt", "frequency": "6hrPt", "source_id": "full",
              "variant_label": "r1i1p1f1", "sub_experiment_id": "s200401030000"}  # fmt: skip
    assert {key: zg.attrs[key] for key in facets} == facets
    assert zg.attrs["members"].startswith("0: full (step 7")
    assert str(zg.forecast_reference_time.item()) == "2004-01-03 00:00:00"
    valid = ["2004-01-03 06:00:00", "2004-01-04 00:00:00", "2004-01-04 06:00:00"]
    assert [str(date) for date in zg.time.values] == valid
    plain = xr.open_zarr(predict(replace(config, output=str(tmp_path / "cf.zarr"))), decode_timedelta=False)
    for member, label in enumerate(both):
        for start, stamp in enumerate(("s200401030000", "s200401031200")):

            def read(variable_id: str, found: str = f"{label}_forecast_{stamp}-r{member + 1}i1p1f1") -> xr.Dataset:
                (path,) = folder.glob(f"{variable_id}_6hrPlevPt_{found}_*.nc")
                return xr.open_dataset(path, decode_timedelta=False)

            expected = plain.isel(forecast_reference_time=start, realization=member)
            np.testing.assert_allclose(read("zg").zg[:, 0] * STANDARD_GRAVITY, expected[Z500], rtol=2e-7)
            np.testing.assert_array_equal(read("ta").ta[:, 0], expected["temperature_850"])
            np.testing.assert_array_equal(read("tas").tas, expected[T2M])
            assert read("tas").height.item() == 2


def test_layout_cmip_is_read_as_cmip6(
    config: PredictConfig, dataset: Path, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """What is written is input again: names, levels, units and times come back."""
    models = {"near climatology": str(make_checkpoint(dataset))}  # so that all values are plausible
    config = replace(config, models=models, start_every_hours=24)
    folder = predict(replace(config, layout="cmip"))
    states = XarrayInitialConditions(open_files([str(folder)]), "forecasts")
    (file,) = predict(replace(config, output=str(tmp_path / "cf"))).glob("*.nc")
    plain = xr.open_dataset(file, decode_timedelta=False)
    assert len(states.hours) == 3
    assert set(states.channels) == set(plain.data_vars) - {"lat_bnds", "lon_bnds"}
    for step in range(3):
        for name, field_HW in zip(states.channels, states.read(step), strict=True):
            np.testing.assert_allclose(field_HW, plain[name].values[step], rtol=3e-7)


@pytest.mark.skipif(shutil.which("cdo") is None, reason="no cdo on PATH: apt install cdo")
def test_cdo_reads_layout_cmip(config: PredictConfig) -> None:
    folder = predict(replace(config, layout="cmip", start_every_hours=24))
    for variable_id, level in (("zg", "pressure"), ("tas", "height")):
        (file,) = folder.glob(f"{variable_id}_*.nc")
        done = subprocess.run(["cdo", "sinfo", str(file)], capture_output=True, text=True, check=True)
        assert "points=128 (16x8)" in done.stdout
        assert level in done.stdout
        assert "2004-01-03 06:00:00" in done.stdout
        shown = subprocess.run(["cdo", "-s", "showname", str(file)], capture_output=True, text=True, check=True)
        assert shown.stdout.split() == [variable_id]


KILLED = """
import json, os, signal, sys
from climax_hpc.cli import main
from climax_hpc.inference import writers

kind = getattr(writers, sys.argv[1])
write = kind.write

def write_or_die(self, place, *forecast):
    if place == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, place, *forecast)

kind.write = write_or_die
main(json.loads(sys.argv[2]))
"""


@pytest.mark.parametrize(("layout", "name"), [("weatherbench", "out.zarr"), ("cmip", "out")])
def test_killed_layout_resumes(
    config: PredictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: Any, name: str
) -> None:
    """kill -9 at the third of four starts: the first two are kept, and the end is that of a whole run."""
    config = replace(config, layout=layout, output=str(tmp_path / name), batch_size=1)
    keys = ("models", "input", "output", "period", "lead_hours", "layout", "batch_size")
    words = ["predict", *(word for key in keys for word in (f"--{key}", as_word(getattr(config, key))))]
    writer = "NetcdfWriter" if layout == "cmip" else "ZarrWriter"
    done = subprocess.run([sys.executable, "-c", KILLED, writer, json.dumps(words)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "out.zarr").exists()
    kept = sorted(path.name for path in tmp_path.glob("out/[!.]*.nc"))
    assert len(kept) == (8 if layout == "cmip" else 0)
    other: Any = "cf"
    with pytest.raises(UserError, match=rf"another layout \({layout} there, None now\)"):
        predict(replace(config, layout=other))
    finished = 2
    if layout == "cmip":  # killed between two renames: the start is not finished
        (tmp_path / "out" / kept[0]).unlink()
        finished = 1
    resumed = predict(config)
    assert f"resuming after {finished} of 4 starts" in capsys.readouterr().out
    plain = predict(replace(config, output=str(tmp_path / f"plain_{name}")))
    if layout == "cmip":
        files = {path.name for path in plain.glob("*.nc")}
        assert len(files) == 16
        assert {path.name for path in resumed.iterdir()} == {*files, SETTINGS_FILE}
        for file in files:
            xr.testing.assert_equal(*(xr.load_dataset(f / file, decode_timedelta=False) for f in (plain, resumed)))
    else:
        xr.testing.assert_equal(xr.open_zarr(resumed).load(), xr.open_zarr(plain).load())
        assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("layout", "output", "message"),
    [
        ("weatherbench", "x", "output: x must end in .zarr"),
        ("weatherbench", "x.nc", "output: x.nc must end in .zarr"),
        ("cmip", "x.zarr", "output: x.zarr must be a folder"),
        ("cmip", "x.nc", "output: x.nc must be a folder"),
        ("wb", "x", "layout: 'wb' is unknown; use one of cf, weatherbench, cmip"),
    ],
)
def test_layout_needs_its_output(config: PredictConfig, layout: Any, output: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as found:
        replace(config, layout=layout, output=output)
    assert "\n" not in str(found.value)


REFUSED: dict[str, tuple[str, ForecastContent, str]] = {
    "rain in weatherbench": (
        "weatherbench",
        content(T2M, "total_precipitation_rate"),
        "has no name for total_precipitation_rate .*sums over the 6 or 24 h",
    ),
    "emissions in weatherbench": ("weatherbench", content("methane_emissions"), "no name for methane_emissions: list"),
    "means in weatherbench": ("weatherbench", content(T2M, mean_hours=168.0), "means over 168 h: use layout: cf"),
    "emissions in cmip": ("cmip", content("methane_emissions"), "no name for methane_emissions: list"),
    "means in cmip": ("cmip", content(T2M, mean_hours=168.0), "means over 168 h: use layout: cf"),
    "half hours in cmip": ("cmip", content(T2M, lead_hours=(0.5,)), "lead_hours: .* whole hours only"),
    "means of 5 h in cmip": (
        "cmip",
        content(T2M, step_hours=5.0, cell_methods={T2M: "time: mean"}),
        r"no table for tas, a mean over 5 h in the input \(known: 24, 6, 3, 1 h\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_layout_refuses_what_it_cannot_hold(name: str) -> None:
    layout, forecasts, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as found:
        (STORES | FILES)[layout](forecasts)  # type: ignore[operator]
    assert "\n" not in str(found.value)


def test_nothing_is_left_of_a_refused_layout(config: PredictConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lead_hours: layout cmip has tables for whole hours only"):
        predict(replace(config, layout="cmip", lead_hours=(6.5,), output=str(tmp_path / "new" / "x")))
    assert not (tmp_path / "new").exists()


def test_other_tasks_have_no_layout(config: PredictConfig) -> None:
    with pytest.raises(UserError, match="layout belongs to task forecast"):
        registry.predict(replace(config, task="downscaling", layout="weatherbench", output="x.zarr"))


def test_layout_cmip_tables_and_units() -> None:
    """Tables follow the lead times, or the step of means; sea surface temperature is in degC; labels become ids."""
    sst, rain = "sea_surface_temperature", "total_precipitation_rate"
    hourly = content(sst, rain, lead_hours=(1.0, 4.0), step_hours=24.0, cell_methods={rain: "area: time: mean"})
    files = FILES["cmip"](hourly)
    names = list(files.names(0.0).values())
    run = "my-model-v2_forecast_s185001010000-r1i1p1f1_gn_185001010100-185001010400.nc"
    assert names == [f"pr_day_{run}", f"tos_E1hr_{run}"] or names == [f"tos_E1hr_{run}", f"pr_day_{run}"]
    pieces = dict(files.pieces(1, 0, np.full((2, 2, 4), 283.15)))
    assert pieces["tos 0"].place == (1,)
    np.testing.assert_allclose(pieces["tos 0"].field_HW, 10.0)
    assert files.file("tos 0", 0.0).fields["tos"].attributes["units"] == "degC"
    assert "cell_methods" not in files.file("tos 0", 0.0).fields["tos"].attributes
    assert files.file("pr 0", 0.0).fields["pr"].attributes["cell_methods"] == "area: time: mean"


def test_layout_cmip_has_all_levels_in_one_file() -> None:
    files = FILES["cmip"](content("temperature_850", "temperature_50", "temperature_500"))
    assert list(files.names(0.0)) == ["ta 0"]
    shape = files.file("ta 0", 0.0)
    assert np.asarray(shape.coordinates["plev"].values).tolist() == [85000, 50000, 5000]
    fields_OHW = np.arange(3)[:, None, None] * np.ones((3, 2, 4))
    levels = {piece.place: piece.field_HW[0, 0] for _, piece in files.pieces(0, 0, fields_OHW)}
    assert levels == {(0, 0): 0, (0, 2): 1, (0, 1): 2}
