"""Latitudes and longitudes: names of axes may be nominal; `pack` and `predict` accept and refuse the same grids."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from climax_hpc.data_prep.sources.coordinates import Unusable
from climax_hpc.data_prep.sources.read_file import inspect_variable
from climax_hpc.errors import UserError
from climax_hpc.inference.open_files import open_files
from climax_hpc.inference.xarray_input import XarrayInitialConditions

LAT, LON = np.arange(-82.5, 90, 15), np.arange(0, 360, 15.0)
NORTH = {"standard_name": "latitude", "units": "degrees_north"}
EAST = {"standard_name": "longitude", "units": "degrees_east"}
Change = Callable[[xr.Dataset], xr.Dataset]


def regular(lat: str = "lat", lon: str = "lon") -> xr.Dataset:
    """Two days of tas on a regular grid, rows and columns along dimensions of these names."""
    values = 250 + np.random.default_rng(0).standard_normal((2, 12, 24)).astype(np.float32)
    time = np.array(["2001-01-01", "2001-01-02"], "datetime64[ns]")
    return xr.Dataset(
        {"tas": (("time", lat, lon), values, {"units": "K"})},
        {"time": time, lat: (lat, LAT, NORTH), lon: (lon, LON, EAST)},
    )


def true_positions(ds: xr.Dataset, names: tuple[str, str], turned: float = 20.0, named: bool = True) -> xr.Dataset:
    """The data set with 2-D positions, which depart from its axes by up to `turned` degrees in the north."""
    lat, lon = np.meshgrid(LAT, LON, indexing="ij")
    away = turned * np.clip(lat - 30, 0, 60) / 60 * np.cos(np.deg2rad(lon))
    dimensions = ds["tas"].dims[1:]
    positions = {names[0]: (dimensions, lat - abs(away), NORTH), names[1]: (dimensions, lon + away, EAST)}
    return ds.assign_coords(positions) if named else ds.assign(positions)


def with_attributes(of: str, attributes: dict[str, Any], **variables: Any) -> Change:
    def change(ds: xr.Dataset) -> xr.Dataset:
        ds = ds.assign(variables)
        ds[of].attrs |= attributes
        return ds

    return change


def rotated(ds: xr.Dataset) -> xr.Dataset:
    pole = xr.Variable((), 0, {"grid_mapping_name": "rotated_latitude_longitude", "grid_north_pole_latitude": 39.25})
    return with_attributes("tas", {"grid_mapping": "rotated_pole"}, rotated_pole=pole)(ds)


def with_several_mappings(ds: xr.Dataset) -> xr.Dataset:
    crs = {
        name: xr.Variable((), 0, {"grid_mapping_name": kind})
        for name, kind in (("local", "transverse_mercator"), ("wgs", "latitude_longitude"))
    }
    return with_attributes("tas", {"grid_mapping": "local: x y wgs: lat lon"}, **crs)(ds)


def unstructured(ds: xr.Dataset, names: tuple[str, str] = ("clat", "clon")) -> xr.Dataset:
    flat = ds.stack(ncells=("lat", "lon")).reset_index("ncells")
    return flat.rename(dict(zip(("lat", "lon"), names, strict=True)))


def indices(ds: xr.Dataset) -> xr.Dataset:
    return ds.assign_coords(lat=("lat", np.arange(12), {"units": "1"}), lon=("lon", np.arange(24), {"units": "1"}))


def height(ds: xr.Dataset) -> xr.Dataset:
    return ds.assign_coords(height=((), 2.0, {"standard_name": "height", "axis": "Z", "units": "m"}))


REFUSED: dict[str, tuple[Change, str]] = {
    "tripolar, named": (lambda ds: true_positions(ds, ("latitude", "longitude")), "curvilinear"),
    "tripolar, not named": (lambda ds: true_positions(ds, ("latitude", "longitude"), named=False), "curvilinear"),
    "NEMO": (lambda ds: true_positions(ds, ("nav_lat", "nav_lon")), "curvilinear"),
    "MOM": (lambda ds: true_positions(ds, ("geolat_t", "geolon_t")), "curvilinear"),
    "a few degrees": (lambda ds: true_positions(ds, ("latitude", "longitude"), turned=2.0), "curvilinear"),
    "2-D only": (
        lambda ds: true_positions(ds.drop_vars(["lat", "lon"]).rename(lat="j", lon="i"), ("lat", "lon")),
        "curvilinear",
    ),
    "true positions removed": (
        with_attributes("tas", {"coordinates": "nav_lat nav_lon"}),
        "names nav_lat, which the file does not contain",
    ),
    "positions on other dimensions": (
        with_attributes("tas", {"coordinates": "TLAT"}, TLAT=xr.Variable(("j", "i"), np.zeros((3, 4)))),
        r"names TLAT, which lies on other dimensions \(j, i\)",
    ),
    "described positions": (
        with_attributes(
            "tas",
            {"coordinates": "yc"},
            yc=xr.Variable(("lat", "lon"), np.zeros((12, 24)), {"long_name": "latitude of grid cell center"}),
        ),
        "curvilinear",
    ),
    "projection in WKT": (
        with_attributes("tas", {"grid_mapping": "crs"}, crs=xr.Variable((), 0, {"crs_wkt": 'PROJCRS["x"]'})),
        "its grid is projected, not regular",
    ),
    "rotated pole": (rotated, "rotated_latitude_longitude, not regular in latitude and longitude"),
    "grid_latitude": (with_attributes("lat", {"standard_name": "grid_latitude"}), "axis lat is grid_latitude"),
    "projection": (with_attributes("lon", {"standard_name": "projection_x_coordinate"}), "axis lon is projection_x"),
    "indices": (indices, "axis lat is in '1', not degrees"),
    "radians": (with_attributes("lat", {"units": "radian"}), "axis lat is in 'radian', not degrees"),
    "ICON": (unstructured, "unstructured"),
    "unstructured lat, lon": (lambda ds: unstructured(ds, ("lat", "lon")), "unstructured"),
    "no coordinates": (lambda ds: ds.drop_vars(["lat", "lon"]), "no latitudes and longitudes"),
}
ACCEPTED: dict[str, Change] = {
    "regular": lambda ds: ds,
    "scalar height": height,
    "axes named in coordinates": with_attributes("tas", {"coordinates": "lon lat"}),
    "2-D copies of the axes": lambda ds: true_positions(ds, ("latitude", "longitude"), turned=0.0),
    "rows y, columns x": lambda ds: ds.rename_dims(lat="y", lon="x"),
    "latitude_longitude mapping": with_several_mappings,
    "mapping that is absent": with_attributes("tas", {"grid_mapping": "crs"}),
    "transposed": lambda ds: ds.transpose("lon", "lat", "time"),
    "units degN": with_attributes("lat", {"units": "degN"}),
}


def _write(folder: Path, change: Change) -> Path:
    path = folder / "tas.nc"
    ds = change(regular())
    for variable in ds.variables.values():
        variable.encoding["_FillValue"] = None
    if "coordinates" in ds["tas"].attrs:  # xarray writes this attribute from the encoding
        ds["tas"].encoding["coordinates"] = ds["tas"].attrs.pop("coordinates")
    ds.to_netcdf(path, encoding={"time": {"units": "days since 2001-01-01"}})
    return path


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_grids_that_are_not_regular_are_refused_by_pack_and_predict(tmp_path: Path, kind: str) -> None:
    change, reason = REFUSED[kind]
    path = _write(tmp_path, change)
    with pytest.raises(Unusable, match=reason):
        inspect_variable(tmp_path, path.name, "tas")
    with pytest.raises(UserError, match=rf"tas lies on no latitude-longitude grid: .*{reason}"):
        XarrayInitialConditions(open_files([path]), "input")


@pytest.mark.parametrize("kind", ACCEPTED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_regular_grids_are_read_by_pack_and_predict(tmp_path: Path, kind: str) -> None:
    path = _write(tmp_path, ACCEPTED[kind])
    grid = inspect_variable(tmp_path, path.name, "tas").orientation.grid
    read = XarrayInitialConditions(open_files([path]), "input")
    for found in (grid, read.grid):
        assert np.array_equal(found.lat, LAT)
        assert np.array_equal(found.lon, LON)
    assert np.array_equal(read.read(1)[0], regular()["tas"].values[1])


def test_a_data_set_made_in_python_is_checked_like_its_file() -> None:
    ds = true_positions(regular(), ("latitude", "longitude"))
    with pytest.raises(UserError, match="curvilinear"):
        XarrayInitialConditions([ds], "input")
    assert XarrayInitialConditions([height(regular())], "input").channels == ["2m_temperature"]
