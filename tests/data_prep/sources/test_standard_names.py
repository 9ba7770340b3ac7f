"""Standard names against the names of variables: contradictions are refused by pack and predict, old spellings pass."""

from types import SimpleNamespace
from typing import Any

import netCDF4
import pytest

from climax_hpc.data_prep.sources.read_file import inspect_variable
from climax_hpc.data_prep.sources.standard_names import refuse_other_quantity
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import REGISTRY
from climax_hpc.inference.open_files import open_files
from climax_hpc.inference.xarray_input import XarrayInitialConditions


@pytest.mark.parametrize(("variable", "name"), [("tas", "air_pressure"), ("uas", "northward_wind")])
def test_both_doors_refuse_a_contradiction(cmip6: Any, variable: str, name: str) -> None:
    path = cmip6(variable)
    file = path.relative_to(cmip6.root).as_posix()
    inspect_variable(cmip6.root, file, variable)
    XarrayInitialConditions(open_files([path]), "x")
    with netCDF4.Dataset(path, "a") as dataset:
        dataset[variable].standard_name = name
    expected = {"tas": "air_temperature", "uas": "eastward_wind"}[variable]
    message = f"{variable}: its standard_name is '{name}', but a variable of this name is '{expected}': rename"
    with pytest.raises(UserError, match=f"{file}: {message}"):
        inspect_variable(cmip6.root, file, variable)
    with pytest.raises(UserError, match=f"x: {message}"):
        XarrayInitialConditions(open_files([path]), "x")


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("tas", "Air_Pressure"), ("tas", "dew_point_temperature"), ("tas", "surface_temperature"),
        ("tas", "relative_humidity"), ("tas", "tendency_of_air_temperature"), ("tas", "air_temperature standard_error"),
        ("ta", "air_potential_temperature"), ("tos", "air_temperature"), ("ts", "soil_temperature"), ("tas", "time"),
        ("psl", "surface_air_pressure"), ("ps", "air_pressure_at_sea_level"), ("ua", "wind_speed"), ("zg", "altitude"),
        ("ua", "surface_downward_eastward_stress"), ("pr", "convective_precipitation_flux"), ("pr", "snowfall_flux"),
        ("hus", "relative_humidity"), ("hur", "specific_humidity"), ("sftlf", "land_ice_area_fraction"),
        ("orog", "land_area_fraction"), ("zg", "air_temperature"), ("hus", "geopotential"),
        ("orog", "sea_surface_height_above_mean_sea_level"), ("orog", "sea_floor_depth_below_sea_level"),
        ("hus", "humidity_mixing_ratio"), ("sftlf", "sea_ice_area_fraction"),
        ("pr", "lwe_thickness_of_convective_precipitation_amount"), ("tas", "toa_incoming_shortwave_flux"),
    ],
)  # fmt: skip
def test_other_quantities(variable: str, name: str) -> None:
    with pytest.raises(UserError, match=r"^file: its standard_name is '.*', but"):
        refuse_other_quantity(SimpleNamespace(standard_name=name), variable, "file")


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        *((v.variable_id, v.standard_name) for v in REGISTRY.values()),
        ("tas", "unknown"), ("tas", "2 metre temperature"), ("tas", "air temperature"), ("tas", "Temperature"),
        ("tas", "surface_air_temperature"), ("tas", "tas"), ("zg", "geopotential_height"), ("zg", "height"),
        ("psl", "air_pressure_at_sea_level"), ("psl", "sea_level_pressure"), ("ps", "surface_pressure"),
        ("ua", "x_wind"), ("ua", "grid_eastward_wind"), ("ua", "zonal_wind"), ("tos", "surface_temperature"),
        ("tos", "sea_surface_skin_temperature"), ("ts", "skin_temperature"), ("sftlf", "land_binary_mask"),
        ("sftlf", "land_sea_mask"), ("orog", "geopotential"), ("orog", "height_above_reference_ellipsoid"),
        ("pr", "lwe_thickness_of_precipitation_amount"), ("pr", "thickness_of_rainfall_amount"),
        ("pr", "rainfall_flux"), ("CO2", "anything_at_all"), ("hur", "relative humidity (%)"),
        ("orog", "height_above_mean_sea_level"), ("orog", "surface height above sea level"), ("zg", "edge_heights"),
        ("pr", "convective precipitation rate"), ("pr", "tot_prec"), ("pr", "total_precip"), ("sftlf", "area_fraction"),
        ("hus", "mass_fraction_of_water_vapor_in_air"), ("tas", " Air_Temperature "),
        ("psl", "pressure_reduced_to_MSL"),
    ],
)  # fmt: skip
def test_names_of_files_in_use(variable: str | None, name: str) -> None:
    refuse_other_quantity(SimpleNamespace(standard_name=name), variable or "", "file")
    refuse_other_quantity(SimpleNamespace(), variable or "", "file")
