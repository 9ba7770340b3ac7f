"""The conversion table against values computed by hand, and derived variables from file to manifest."""

import json
from collections.abc import Callable
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from climax_hpc.data_prep.config import PackConfig
from climax_hpc.data_prep.pack import pack
from climax_hpc.data_prep.packing.work_units import make_plan
from climax_hpc.data_prep.sources.conversions import (
    ALIASES,
    CONVERSIONS,
    DERIVATIONS,
    conversion,
    relative_humidity,
    saturation_vapour_pressure,
    specific_humidity,
)
from climax_hpc.data_prep.sources.read_file import inspect_variable
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import VARIABLE_IDS, channels_of
from climax_hpc.shards.manifest import read_manifest

from ..packed import NAME

Settings = Callable[..., PackConfig]


# ------------------------------------------------------------------ units


@pytest.mark.parametrize(
    ("variable_id", "units", "hours", "raw", "expected"),
    [
        ("tas", "degC", 0, 10.0, 283.15),
        ("tas", "K", 0, 283.15, 283.15),
        ("zg", "m", 0, 5500.0, 5500 * 9.80665),
        ("zg", "km", 0, 5.5, 5500 * 9.80665),
        ("zg", "m**2 s**-2", 0, 54000.0, 54000.0),
        ("orog", "m**2 s**-2", 0, 9806.65, 1000.0),
        ("orog", "m", 0, 1000.0, 1000.0),
        ("psl", "hPa", 0, 1013.0, 101300.0),
        ("psl", "mb", 0, 1013.0, 101300.0),
        ("hus", "g kg-1", 0, 5.0, 0.005),
        ("hus", "kg kg**-1", 0, 0.005, 0.005),
        ("sftlf", "%", 0, 30.0, 0.3),
        ("sftlf", "(0 - 1)", 0, 0.3, 0.3),
        ("tos", "degC", 0, 2.0, 275.15),
        ("hur", "1", 0, 0.7, 70.0),
        ("pr", "kg m-2 s-1", 0, 1e-4, 1e-4),
        ("pr", "mm day-1", 0, 86.4, 1e-3),
        ("pr", "m", 1, 0.0036, 1e-3),
        ("pr", "m", 6, 0.0216, 1e-3),
        ("pr", "kg m-2", 1, 3.6, 1e-3),
        ("pr90", "mm/day", 0, 86.4, 1e-3),
        ("CO2", "Gt", 0, 7.0, 7.0),
    ],
)
def test_units_are_converted_to_those_of_the_registry(
    variable_id: str, units: str, hours: float, raw: float, expected: float
) -> None:
    scale, offset = conversion(variable_id, units, "f.nc", hours)
    assert raw * scale + offset == pytest.approx(expected, rel=1e-12)


@given(value=st.floats(-1e6, 1e6), variable_id=st.sampled_from(sorted(VARIABLE_IDS)))
def test_registry_units_are_not_converted(value: float, variable_id: str) -> None:
    scale, offset = conversion(variable_id, channels_of(variable_id)[0].units, "f.nc")
    assert value * scale + offset == pytest.approx(value, rel=1e-12, abs=1e-12)


def test_every_row_of_the_table_is_used() -> None:
    for entry in CONVERSIONS:
        scale, offset = conversion(entry.variable_id, entry.units, "f.nc")
        assert (scale, offset) == (pytest.approx(entry.factor, rel=1e-12), 0.0)
    for aliases in ALIASES.values():
        for alias in aliases.values():
            assert channels_of(alias.variable_id), alias
            conversion(alias.variable_id, alias.units, "f.nc", alias.accumulated_hours)


@pytest.mark.parametrize("units", ["kg", "blah", "m s-1", "Pa"])
def test_other_units_are_refused_with_the_file(units: str) -> None:
    with pytest.raises(
        UserError, match=r"f\.nc: tas in .*does not convert to 'K' .*correct the `units`.*leave the file"
    ):
        conversion("tas", units, "f.nc")


def test_missing_units_can_be_stated(cmip6: Any, settings: Settings) -> None:
    cmip6("tas", units="", values=np.arange(8 * 12 * 24.0).reshape(8, 12, 24) / 100)
    with pytest.raises(
        UserError, match=r"tas_.*: tas has no units \(expected K\); state them with units: \{tas: K\}, or"
    ):
        make_plan(settings())
    folder = pack(settings(units={"tas": "degC"})).parent
    assert read_manifest(folder).sources[NAME].statistics["2m_temperature"]["min"] == pytest.approx(273.15, abs=1)


def test_units_that_contradict_the_file_are_refused(cmip6: Any, settings: Settings) -> None:
    cmip6("tas", units="K")
    make_plan(settings(units={"tas": "kelvin"}))  # the same
    cmip6("uas", units="m s-1")
    make_plan(settings(units={"uas": "m/s"}))
    with pytest.raises(UserError, match=r"units: 'km s-1' is given for uas, but .*\.nc states 'm s-1': leave it out"):
        make_plan(settings(units={"uas": "km s-1"}))
    with pytest.raises(UserError, match=r"units: 'degC' is given for tas, but .*\.nc states 'K': leave it out, or"):
        make_plan(settings(units={"tas": "degC"}))


def test_units_of_an_absent_variable_are_refused(cmip6: Any, settings: Settings) -> None:
    cmip6("tas", units="")
    with pytest.raises(UserError, match=r"units: the input contains no variable 'tass'; the nearest are tas"):
        make_plan(settings(units={"tass": "degC"}))


# ------------------------------------------------------------------ levels


@pytest.mark.parametrize(
    ("plev_hpa", "expected"),
    [
        ([1000, 853, 503, 400], {500: 2, 850: 1}),
        ([925.0000001, 849.99999, 499.9], {500: 2, 850: 1, 925: 0}),
        ([np.float32(0.1) * 8500, np.float32(50000.004) / 100], {500: 1, 850: 0}),
        ([841, 860, 494, 506], {}),  # more than 1 % away
        ([845, 848, 852, 858], {850: 1}),  # the nearest; of two equally near the first
        ([49.9, 250.5, 600, 699, 700], {50: 0, 250: 1, 600: 2, 700: 4}),
    ],
)
def test_levels_are_found_by_pressure_within_one_percent(
    cmip6: Any, plev_hpa: list[float], expected: dict[int, int]
) -> None:
    path = cmip6("ta", times=cmip6.six_hourly(2), plev_hpa=plev_hpa)
    assert inspect_variable(cmip6.root, path.relative_to(cmip6.root).as_posix(), "ta").levels == expected


@pytest.mark.parametrize(("units", "per_hpa"), [("Pa", 100), ("hPa", 1), ("millibars", 1), ("mb", 1), ("bar", 0.001)])
def test_levels_come_in_any_unit_of_pressure(cmip6: Any, units: str, per_hpa: float) -> None:
    path = cmip6("ta", times=cmip6.six_hourly(2), plev_hpa=[850, 500])
    with netCDF4.Dataset(path, "a") as file:
        file["plev"].units = units
        file["plev"][:] = np.float32(per_hpa) * np.array([850, 500], np.float32)
    found = inspect_variable(cmip6.root, path.relative_to(cmip6.root).as_posix(), "ta")
    assert found.levels == {850: 0, 500: 1}
    assert found.file_levels_hpa == [pytest.approx(850, rel=1e-6), pytest.approx(500, rel=1e-6)]


@pytest.mark.parametrize("units", ["1", "m"])
def test_levels_that_are_not_pressure_leave_the_file_out(cmip6: Any, settings: Settings, units: str) -> None:
    cmip6("tas", times=cmip6.six_hourly(2))
    path = cmip6("ta", times=cmip6.six_hourly(2), plev_hpa=[850, 500])
    with netCDF4.Dataset(path, "a") as file:
        file["plev"].units = units
    plan = make_plan(settings())
    assert plan.sources[0].channels == ["2m_temperature"]
    assert "are not pressure; use data on pressure levels" in plan.skipped[0].reason


# ------------------------------------------------------------------ humidity


@pytest.mark.parametrize(
    ("celsius", "expected_pa"),
    # Goff-Gratch, as in the Smithsonian tables: over water at 0 °C and above, over ice below.
    [(-40.0, 12.84), (-20.0, 103.26), (-10.0, 259.9), (0.01, 611.66), (10.0, 1228.1), (20.0, 2339.3), (30.0, 4247.0)],
)
def test_saturation_vapour_pressure_agrees_with_tables(celsius: float, expected_pa: float) -> None:
    assert saturation_vapour_pressure(np.array([celsius + 273.15]))[0] == pytest.approx(expected_pa, rel=4e-3)


def test_relative_humidity_by_hand() -> None:
    # T = 273.16 K: e_s = 611.21 Pa; q = 0.004, p = 500 hPa: e = 200 / (0.6219813 + 0.3780187 · 0.004) = 320.777 Pa
    assert relative_humidity(np.array([0.004]), np.array([273.16]), np.array([50000.0]))[0] == pytest.approx(
        52.4823, rel=1e-4
    )
    assert relative_humidity(np.array([0.0]), np.array([250.0]), np.array([85000.0]))[0] == 0


@given(
    humidity=st.floats(0, 120), temperature_k=st.floats(190, 320), level_hpa=st.sampled_from([50, 250, 500, 850, 925])
)
def test_humidities_are_inverse_to_each_other(humidity: float, temperature_k: float, level_hpa: int) -> None:
    pressure_pa, temperature = 100.0 * level_hpa, np.array([temperature_k])
    if saturation_vapour_pressure(temperature)[0] > 0.5 * pressure_pa:
        return  # the combination is impossible at that temperature
    q = specific_humidity(np.array([humidity]), temperature, np.array([pressure_pa]))
    assert q[0] >= 0
    back = relative_humidity(q, temperature, np.array([pressure_pa]))
    assert back[0] == pytest.approx(humidity, rel=1e-9, abs=1e-12)


def moist_air(cmip6: Any, **changes: Any) -> tuple[Any, Any]:
    """hus and ta at two levels: (8, 2, 12, 24)."""
    rng = np.random.default_rng(1)
    hus = np.float32(rng.uniform(1e-4, 0.01, (8, 2, 12, 24)))
    ta = np.float32(rng.uniform(240, 300, (8, 2, 12, 24)))
    cmip6("hus", values=hus, plev_hpa=[850, 500], **changes)
    cmip6("ta", values=ta, plev_hpa=[500, 850], **changes)
    return hus.astype(float), ta.astype(float)[:, ::-1]


def test_a_variable_that_no_file_contains_is_derived_on_the_grid_of_the_files(cmip6: Any, settings: Settings) -> None:
    hus, ta = moist_air(cmip6)
    names = ["relative_humidity_500", "relative_humidity_850", "temperature_850"]
    folder = pack(settings(variables=names, grid_spacing_deg=None)).parent
    source = read_manifest(folder).sources[NAME]
    assert source.channels == ["temperature_850", "relative_humidity_500", "relative_humidity_850"]
    assert set(source.derived) == {"relative_humidity_500", "relative_humidity_850"}
    assert source.derived["relative_humidity_500"] == DERIVATIONS[0].formula
    with h5py.File(folder / source.shards[0].file) as file:
        fields = file["fields"][:] * file["std"][:][:, None, None] + file["mean"][:][:, None, None]
        assert len({i["file"] for i in json.loads(file.attrs["inputs"])}) == 2
    expected = relative_humidity(hus[:, 1], ta[:, 1], np.array(50000.0))
    assert np.allclose(fields[:, 1], expected, rtol=1e-5, atol=1e-4)
    assert np.allclose(fields[:, 2], relative_humidity(hus[:, 0], ta[:, 0], np.array(85000.0)), rtol=1e-5, atol=1e-4)


def test_specific_humidity_is_derived_from_relative_humidity(cmip6: Any, settings: Settings) -> None:
    cmip6("hur", plev_hpa=[850])
    cmip6("ta", plev_hpa=[850])
    plan = make_plan(settings(variables=["specific_humidity_850"])).sources[0]
    assert plan.channels == ["specific_humidity_850"]
    assert len(plan.input_files()) == 2


def test_only_requested_and_absent_variables_are_derived(cmip6: Any, settings: Settings) -> None:
    moist_air(cmip6)
    cmip6("hur", plev_hpa=[850])
    plan = make_plan(settings(variables=["relative_humidity_500", "relative_humidity_850"])).sources[0]
    assert set(plan.derived()) == {"relative_humidity_500"}
    assert make_plan(settings()).sources[0].derived() == {}


def test_unneeded_ingredients_are_ignored(cmip6: Any, settings: Settings) -> None:
    cmip6("hur", plev_hpa=[850])
    cmip6("hus", plev_hpa=[850])
    cmip6("hus", plev_hpa=[850], table="6hrLev")  # would be refused as a variable of two tables
    assert make_plan(settings(variables=["relative_humidity_850"])).sources[0].derived() == {}


def test_ingredients_at_other_levels_or_on_other_grids_are_not_used(cmip6: Any, settings: Settings) -> None:
    cmip6("hus", plev_hpa=[850])
    cmip6("ta", plev_hpa=[500])
    with pytest.raises(UserError, match="variables: no source contains relative_humidity_850"):
        make_plan(settings(variables=["relative_humidity_850"]))
    cmip6("ta", plev_hpa=[850], lat=np.linspace(-90, 90, 13), bounds=False)
    with pytest.raises(UserError, match="variables: no source contains relative_humidity_850"):
        make_plan(settings(variables=["relative_humidity_850"]))
