"""The reader of coordinates: names, CF attributes, units of pressure levels, for netCDF4 and xarray alike."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from climax_hpc.data_prep.sources.coordinates import (
    COORDINATES,
    Unusable,
    bounds_names,
    is_kind,
    levels_in_hpa,
    select_levels,
    units_by_size,
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


@pytest.mark.parametrize("make", [netcdf, xarray])
def test_stated_bounds_come_first(make: Any) -> None:
    assert list(bounds_names("lat", make(bounds="edges"))) == ["edges", "lat_bnds", "lat_bounds"]


@pytest.mark.parametrize(("units", "factor"), [("hPa", 1), ("Pa", 100), ("millibars", 1), ("mb", 1), ("kPa", 0.1)])
def test_levels_in_any_unit_of_pressure(units: str, factor: float) -> None:
    np.testing.assert_allclose(levels_in_hpa(np.array([850.0, 500.0]) * factor, "plev", units), [850, 500])


@pytest.mark.parametrize("units", ["1", "m", "K", ""])
def test_levels_that_are_not_pressure_are_refused(units: str) -> None:
    with pytest.raises(Unusable, match=r"its levels \(lev in .*\) are not pressure; use a table on pressure levels"):
        levels_in_hpa(np.array([1.0, 2.0]), "lev", units)


def test_levels_without_units_are_interpreted_by_size() -> None:
    assert units_by_size(np.array([1000.0, 50.0])) == "hPa"
    assert units_by_size(np.array([100000.0, 5000.0])) == "Pa"


def test_the_nearest_level_within_one_percent_is_taken() -> None:
    assert select_levels([850, 500, 250], [1000.0, 853.0, 849.0, 507.0]) == {850: 2}
    assert select_levels([850], []) == {}
