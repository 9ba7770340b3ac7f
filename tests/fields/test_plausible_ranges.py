"""Plausible ranges: they hold what was observed, refuse what cannot be, and report what is unusual."""

import numpy as np
import pytest

from climax_hpc.errors import UserError
from climax_hpc.fields.plausible_ranges import check_possible, plausible_range, unusual
from climax_hpc.fields.variables import REGISTRY, lookup


def test_ranges_are_nested_and_cover_every_weather_variable() -> None:
    without = {name for name in REGISTRY if plausible_range(name) is None}
    assert without == {"latitude"} | {name for name in REGISTRY if name.endswith("_emissions")}
    for name in REGISTRY.keys() - without:
        known = plausible_range(name)
        assert known is not None
        assert known.possible[0] <= known.usual[0] < known.usual[1] <= known.possible[1], name


@pytest.mark.parametrize(
    ("name", "records"),
    [
        ("2m_temperature", (184.0, 329.9)), ("mean_sea_level_pressure", (87000, 108480)),
        ("total_precipitation_rate", (0.0, 0.085)), ("orography", (-430, 8849)),
        ("geopotential_500", (4600 * 9.80665, 6000 * 9.80665)), ("u_component_of_wind_250", (-60, 135)),
    ],
)  # fmt: skip
def test_records_are_usual(name: str, records: tuple[float, float]) -> None:
    check_possible(np.array(records), name, "x")
    assert unusual(*records, name) is None


@pytest.mark.parametrize("value", [1e33, -999.0, -9999.0, 1e20, 0.0, 15.0, 9.97e36])
def test_fill_values_and_celsius_are_no_temperatures(value: float) -> None:
    field = np.full((3, 4), 280.0, np.float32)
    field[1, 2] = value
    with pytest.raises(
        UserError, match=r"file\.nc: 2m_temperature has 1 of 12 values outside 150 … 400 K, for example"
    ):
        check_possible(field, "2m_temperature", "file.nc")
    field[1, 2] = np.nan
    check_possible(field, "2m_temperature", "file.nc")


@pytest.mark.parametrize(
    ("name", "low", "high", "note"),
    [
        ("relative_humidity_850", 0.0, 1.0, "is at most 1 %; at least 2 is usual: are the units right"),
        ("total_precipitation_rate", 0.0, 3e-7, "is at most 3e-07 kg m-2 s-1"),
        ("2m_temperature", 190.0, 340.0, "ranges from 190 to 340 K; usual are 180 to 333"),
        ("specific_humidity_850", 0.0, 2e-5, "is at most 2e-05 1; at least 0.0003 is usual"),
        ("v_component_of_wind_500", -0.5, 0.5, "is at most 0.5 m s-1"),
        ("2m_temperature", 200.0, 310.0, None),
        ("cumulative_co2_emissions", 0.0, 1e9, None),
    ],
)
def test_unusual_ranges_are_reported(name: str, low: float, high: float, note: str | None) -> None:
    found = unusual(low, high, name)
    assert (found is None) if note is None else (note in str(found)), lookup(name).units


def test_means_and_missing_values_that_are_unusual_are_reported() -> None:
    rain = "total_precipitation_rate"
    assert unusual(0.0, 5e-3, rain, mean=3e-5) is None
    assert "is 0.0007 kg m-2 s-1 in the mean" in str(unusual(0.0, 5e-3, rain, mean=7e-4))  # a day read as an hour
    assert unusual(200.0, 310.0, "2m_temperature", 280.0, missing_share=0.3) is None
    assert "missing (NaN) in 62% of its values" in str(unusual(200.0, 310.0, "2m_temperature", 280.0, 0.62))
