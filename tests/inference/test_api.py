"""`climax_hpc.ClimaX`: xarray in, xarray out, the numbers of `predict`."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import climax_hpc
from climax_hpc.config.inference import PredictConfig
from climax_hpc.errors import UserError
from climax_hpc.inference.predict import predict

pytestmark = pytest.mark.filterwarnings("ignore:.*does not say which lead times")
Z500 = "geopotential_500"


def test_same_numbers_as_the_command(
    config: PredictConfig, checkpoints: dict[str, str], physical: xr.Dataset, tmp_path: Path
) -> None:
    model = climax_hpc.ClimaX.from_pretrained(checkpoints["full"])
    found = model.forecast(physical, lead=["6h", 24, timedelta(hours=30)])
    assert found[Z500].dims == ("forecast_reference_time", "lead_time", "lat", "lon")
    physical.to_netcdf(tmp_path / "in.nc")
    store = predict(replace(config, input=str(tmp_path / "in.nc"), period=None, output=str(tmp_path / "out.zarr")))
    expected = xr.open_dataset(store, engine="zarr", decode_timedelta=False)
    np.testing.assert_allclose(found[Z500], expected[Z500], rtol=1e-6)
    assert found.time.values.tolist() == expected.time.values.tolist()


@pytest.mark.parametrize("labels", [("full",), ("full", "other")])
def test_the_weatherbench_layout_is_that_of_predict(
    config: PredictConfig, checkpoints: dict[str, str], physical: xr.Dataset, tmp_path: Path, labels: tuple[str, ...]
) -> None:
    model = climax_hpc.ClimaX.from_pretrained([checkpoints[label] for label in labels])
    found = model.forecast(physical, lead=["6h", "30h"], layout="weatherbench")
    physical.to_netcdf(tmp_path / "in.nc")
    settings = {"models": {label: checkpoints[label] for label in labels}, "input": str(tmp_path / "in.nc")}
    settings |= {"period": None, "lead_hours": (6, 30), "layout": "weatherbench", "output": str(tmp_path / "out.zarr")}
    expected = xr.open_zarr(predict(replace(config, **settings)))
    assert set(found.variables) == set(expected.variables)
    for name, variable in found.variables.items():
        assert variable.dims == expected[name].dims
        assert variable.attrs == expected[name].attrs
        assert variable.dtype == expected[name].dtype
        np.testing.assert_array_equal(variable.values, expected[name].values)
    assert found.prediction_timedelta.dtype.kind == "m"


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("cmip", r"layout: cmip is a file per variable and start, not one data set; take cf or weatherbench, or write"),
        ("grib", "layout: 'grib' is unknown; take cf or weatherbench"),
    ],
)
def test_layouts_that_are_no_data_set_are_refused(
    checkpoints: dict[str, str], physical: xr.Dataset, layout: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        climax_hpc.ClimaX.from_pretrained(checkpoints["full"]).forecast(physical, lead=6, layout=layout)  # type: ignore[arg-type]


def test_one_state_and_an_ensemble(checkpoints: dict[str, str], physical: xr.Dataset) -> None:
    model = climax_hpc.ClimaX.from_pretrained([checkpoints["full"], checkpoints["other"]])
    found = model.forecast(physical.isel(time=3), lead="12h", rollout="6h", variables=[Z500])
    assert set(found.data_vars) == {Z500}
    assert found[Z500].dims == ("forecast_reference_time", "lead_time", "realization", "lat", "lon")
    assert found.sizes["forecast_reference_time"] == 1
    assert float(abs(found[Z500].isel(realization=0) - found[Z500].isel(realization=1)).max()) > 0


def test_written_and_read_back(checkpoints: dict[str, str], physical: xr.Dataset, tmp_path: Path) -> None:
    found = climax_hpc.ClimaX.from_pretrained(checkpoints["full"]).forecast(physical, lead="6h")
    found.to_netcdf(tmp_path / "x.nc")
    xr.testing.assert_allclose(xr.open_dataset(tmp_path / "x.nc", decode_timedelta=False), found)


def test_standard_calendar(checkpoints: dict[str, str], physical: xr.Dataset) -> None:
    times = np.datetime64("2004-01-01T00", "ns") + np.arange(12) * np.timedelta64(6 * 3600, "s")
    found = climax_hpc.ClimaX.from_pretrained(checkpoints["full"]).forecast(
        physical.assign_coords(time=times), lead="3d"
    )
    assert found.time.values[0, 0] == np.datetime64("2004-01-04T00", "ns")


@pytest.mark.parametrize("calendar", ["standard", "360_day", "proleptic_gregorian"])
def test_a_climatology_of_another_calendar_is_refused(
    checkpoints: dict[str, str], physical: xr.Dataset, dataset: Path, calendar: str
) -> None:
    """The packed data have 365-day years; in a leap year all days after February would be one too late."""
    times = xr.date_range("2004-03-01", periods=12, freq="6h", calendar=calendar, use_cftime=True)
    model = climax_hpc.ClimaX.from_pretrained(checkpoints["anomaly"])
    with pytest.raises(UserError, match=rf"source \S+ has calendar noleap, the input {calendar}: their days of the"):
        model.forecast(physical.assign_coords(time=times), lead="6h", climatology=dataset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lead": "soon"}, "lead: 'soon' is not a lead time; write \"72h\""),
        ({"lead": []}, "lead: give at least one"),
        ({"lead": "-6h"}, "lead: give at least one lead time above 0 h"),
        ({"lead": "10h", "rollout": "6h"}, "10 h is not a multiple"),
        ({"lead": "6h", "regrid": "nearest"}, "regrid: 'nearest' is unknown"),
        ({"lead": "6h", "variables": ["temperature_500"]}, "but not temperature_500"),
    ],
)
def test_bad_input(checkpoints: dict[str, str], physical: xr.Dataset, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        climax_hpc.ClimaX.from_pretrained(checkpoints["full"]).forecast(physical, **options)  # type: ignore[arg-type]


def test_one_variable_or_a_path_is_refused(checkpoints: dict[str, str], physical: xr.Dataset) -> None:
    model = climax_hpc.ClimaX.from_pretrained(checkpoints["full"])
    for given, kind in ((physical["2m_temperature"], "DataArray"), ("states.nc", "str")):
        with pytest.raises(UserError, match=f"^ds: must be an xarray.Dataset, not {kind}: open"):
            model.forecast(given, lead=6)  # type: ignore[arg-type]


def test_dates_are_needed(checkpoints: dict[str, str], physical: xr.Dataset) -> None:
    with pytest.raises(UserError, match="`time` holds int64 values, not dates"):
        climax_hpc.ClimaX.from_pretrained(checkpoints["full"]).forecast(physical.assign_coords(time=range(12)), lead=6)
