"""Pressure levels by attributes, units and values, for netCDF4 and xarray alike; what is not pressure is refused."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from climax_hpc.data_prep.sources.coordinates import Unusable
from climax_hpc.data_prep.sources.pressure_levels import pressure_levels, select_levels

PLEV7 = [925, 850, 700, 600, 500, 250, 50]


def netcdf(name: str, values: Any, **attributes: str) -> list[float]:
    return pressure_levels(SimpleNamespace(name=name, **attributes), np.array(values, np.float64))


def xarray(name: str, values: Any, **attributes: str) -> list[float]:
    level = xr.DataArray(np.array(values, np.float64), dims=name, name=name, attrs=attributes)
    return pressure_levels(level, level.values)


@pytest.mark.parametrize("read", [netcdf, xarray])
@pytest.mark.parametrize(
    ("units", "factor"), [("hPa", 1), ("Pa", 100), ("millibars", 1), ("mb", 1), ("kPa", 0.1), ("bar", 1e-3)]
)
def test_levels_in_any_unit_of_pressure(read: Any, units: str, factor: float) -> None:
    for name in ("plev", "lev", "z"):
        np.testing.assert_allclose(read(name, np.array(PLEV7) * factor, units=units), PLEV7)


@pytest.mark.parametrize(
    ("name", "factor", "attributes"),
    [
        ("plev", 1, {}),
        ("plev", 100, {}),
        ("pressure", 100, {}),
        ("level", 1, {}),
        ("isobaricInhPa", 1, {}),
        ("p", 100, {"standard_name": "air_pressure"}),
    ],
)
def test_levels_without_units_by_size_where_their_name_says_pressure(
    name: str, factor: float, attributes: dict[str, str]
) -> None:
    np.testing.assert_allclose(netcdf(name, np.array(PLEV7) * factor, **attributes), PLEV7)


HYBRID = "atmosphere_hybrid_sigma_pressure_coordinate"


@pytest.mark.parametrize("read", [netcdf, xarray])
@pytest.mark.parametrize(
    ("name", "values", "attributes", "reason"),
    [
        ("plev", PLEV7, {"units": "1"}, "'1'\\) are not pressure"),
        ("plev", PLEV7, {"units": "m"}, "'m'\\) are not pressure"),
        ("level", [0.5, 5, 50], {"units": "km"}, "'km'\\) are not pressure"),
        ("level", [300, 350, 500], {"units": "K"}, "'K'\\) are not pressure"),
        ("lev", [3.6, 500, 992], {"units": "hPa", "standard_name": HYBRID}, f"standard_name {HYBRID}"),
        ("lev", [3.6, 500, 992], {"units": "hPa", "long_name": "hybrid level (1000*(A+B))"}, "long_name hyb"),
        ("lev", [0.1, 0.5, 1], {"formula_terms": "a: a b: b ps: ps"}, "formula_terms"),
        ("lev", PLEV7, {}, "state no units"),
        ("level", [10, 30, 50], {}, "state no units"),
        ("level", [100, 5000, 25000], {}, "above any pressure"),
        ("plev", [100, 5000, 25000], {"positive": "up"}, "state no units"),
        ("plev", [100, 5000, 25000], {"long_name": "geometric height"}, "long_name geometric height"),
        ("level", range(1, 138), {}, "are numbers of levels"),
        ("level", range(1, 138), {"units": "millibars"}, "are numbers of levels"),
        ("plev", [1000, 500, 250, 50], {"units": "Pa"}, "hPa is probably meant"),
        ("plev", [92500, 50000], {"units": "hPa"}, "above any pressure"),
        ("plev", [500, -1], {"units": "hPa"}, "not all above 0"),
        ("plev", [500, np.nan], {"units": "hPa"}, "not all above 0"),
        ("plev", [500, 850, 500], {"units": "hPa"}, "one level twice"),
    ],
)  # fmt: skip
def test_other_levels_are_refused(read: Any, name: str, values: Any, attributes: dict[str, str], reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        read(name, list(values), **attributes)


def test_the_nearest_level_within_one_percent_is_taken() -> None:
    assert select_levels([850, 500, 250], [1000.0, 853.0, 849.0, 507.0]) == {850: 2}
    assert select_levels([850], []) == {}
