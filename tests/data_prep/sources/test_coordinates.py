"""The reader of coordinates: names, CF attributes, bounds, for netCDF4 and xarray alike."""

from types import SimpleNamespace
from typing import Any

import pytest
import xarray as xr

from climax_hpc.data_prep.sources.coordinates import (
    COORDINATES,
    attribute,
    bounds_names,
    is_kind,
)


def netcdf(**attributes: str) -> Any:
    return SimpleNamespace(**attributes)


def xarray(**attributes: str) -> Any:
    return xr.DataArray([1.0], dims="x", attrs=attributes)


@pytest.mark.parametrize("make", [netcdf, xarray])
def test_a_coordinate_is_recognised_by_name_standard_name_or_axis(make: Any) -> None:
    for kind, entry in COORDINATES.items():
        assert all(is_kind(kind, name, make()) for name in entry.names)
        assert not is_kind(kind, "x", make())
    assert is_kind("lat", "x", make(standard_name="latitude"))
    assert is_kind("level", "x", make(axis="Z"))
    assert is_kind("time", "x", make(axis="T"))
    assert not is_kind("lon", "x", make(standard_name="latitude", axis="Y"))


@pytest.mark.parametrize(
    ("name", "dimensions", "found"),
    [("t", ("t",), True), ("t", (), True), ("average_T1", ("t",), False), ("forecast_reference_time", (), False)],
)
def test_units_since_a_date_make_a_time(name: str, dimensions: tuple[str, ...], found: bool) -> None:
    coordinate = netcdf(units="days since 1850-01-01", dimensions=dimensions)
    assert is_kind("time", name, coordinate) is found


def test_names_are_known_in_any_case() -> None:
    assert is_kind("lat", "LAT", netcdf())
    assert is_kind("time", "Time", netcdf())


def test_attributes_that_xarray_moved_are_found() -> None:
    coordinate = xarray()
    coordinate.encoding["formula_terms"] = "a: a b: b"
    assert attribute(coordinate, "formula_terms") == "a: a b: b"


@pytest.mark.parametrize("make", [netcdf, xarray])
def test_stated_bounds_come_first(make: Any) -> None:
    assert list(bounds_names("lat", make(bounds="edges"))) == ["edges", "lat_bnds", "lat_bounds"]
