"""Attributes of NetCDF files that the fuzzer sets: owner (empty: the file; data: the field; an axis), name, values."""

import math
from typing import Any

Table = list[tuple[str, str, list[Any]]]

HARMLESS: Table = [
    ("", "comment", ["x" * 2000]),
    ("", "title", ["ä日\u202e"]),
    ("", "history", [""]),
    ("", "Conventions", ["CF-1.7"]),
    ("", "tracking_id", ["hdl:1/2"]),
    ("", "creation_date", ["yesterday"]),
    ("", "institution", ["X"]),
    ("", "parent_time_units", ["days since 1"]),
    ("", "realization_index", [7]),
    ("", "missing_value", [1e+20]),
    ("", "license", ["\x1b[31m"]),
    ("", "nominal_resolution", ["9999 km"]),
    ("", "product", [""]),
    ("", "realm", ["x y"]),
    ("data", "long_name", [""]),
    ("data", "standard_name_vocabulary", ["x"]),
    ("data", "comment", ["9**9**9"]),
    ("data", "original_name", ["T"]),
    ("data", "cell_measures", ["area: areacella"]),
    ("data", "missing_value", [1e+20]),
    ("data", "history", ["x"]),
    ("data", "grid_mapping_name", [""]),
    ("time", "long_name", ["x"]),
    ("time", "axis", ["T"]),
    ("time", "standard_name", ["time"]),
    ("time", "comment", ["days since 5"]),
    ("lat", "long_name", ["x"]),
    ("lat", "axis", ["Y"]),
    ("lat", "units", ["degrees_north"]),
    ("lat", "valid_min", [-90.0]),
    ("lon", "long_name", ["x"]),
    ("lon", "axis", ["X"]),
    ("lon", "units", ["degrees_east"]),
    ("lon", "modulo", [360.0]),
]  # fmt: skip
"""These do not change what the file says."""
WRONG: Table = [
    ("data", "units", [
        "9**9**9**9", "martian", "kg m-2", "degrees", "degree", "1", "K K", "Pa", "m/", "((((", "x" * 3000,
        "\x1b[31m", "K" * 500, "dB", "days since 2001-01-01", "K^-1", "1e400 K", "%", "--", "K/0",
    ]),
    ("data", "cell_methods", [
        "time: maximum", "area: mean time: minimum within days", "time: standard_deviation", "time: sum",
        "time: variance",
    ]),
    ("data", "scale_factor", [0.0, math.nan, math.inf, 1e+30, -1.0]),
    ("data", "add_offset", [math.nan, 1e+20, -1000000.0]),
    ("time", "units", [
        "days", "days since", "days since 2001-13-45", "fortnights since 2001-01-01", "K", "", "x" * 3000,
        "days since 0000-00-00", "days since 99999999999-01-01", "days since nan", "1", "months", "since",
        "days since 2001-01-01 25:61:61", "seconds since the beginning", "\x1b[31m", "days days since 2001",
    ]),
    ("time", "calendar", ["martian", "", "x" * 3000, "\x1b[31m", "none", "360", "gregorian_or_so"]),
    ("lat", "units", ["m", "K", "degrees_east"]),
    ("lat", "standard_name", ["longitude", "projection_y_coordinate", "grid_latitude"]),
    ("lon", "units", ["m", "km", "degrees_north"]),
    ("lon", "standard_name", ["latitude", "projection_x_coordinate"]),
    ("", "variable_id", ["tos", "x", "../x", "", "pr"]),
    ("", "source_id", [
        "../../x", "/etc/x", "a/b", "", ".", "..", "x" * 5000, "a\nb", "\x1b[31m", "a_b", "a b", "ä", "-x", "~",
    ]),
    ("", "experiment_id", ["../x", "/x", "a\tb", "..", "x" * 5000, "\u202e"]),
    ("", "variant_label", ["../x", "r1/../..", "\x07", "x" * 300, "*", "?"]),
    ("", "frequency", ["mon", "day", "yr", "fx", "martian", "", "1hr", "3hr", "monC"]),
    ("", "table_id", ["fx"]),
    ("", "grid_label", ["../x", "a/b"]),
]  # fmt: skip
"""These contradict the file, or cannot be understood."""
FREE: Table = [
    ("time", "units", [
        "hours since 2001-01-01", "days since 1850-01-01", "days since 2001-01-01 06:00",
        "days since 2001-01-01T00:00:00Z", "Days Since 2001-01-01", "days since 9999-01-01",
        "days since -4713-01-01", "seconds since 2001-01-01", "minutes since 2001-1-1", "days since 1-1-1",
    ]),
    ("time", "calendar", [
        "standard", "gregorian", "360_day", "365_day", "julian", "proleptic_gregorian", "NOLEAP", "all_leap",
    ]),
    ("time", "bounds", ["time_bnds", "nowhere", ""]),
    ("time", "climatology", ["climatology_bnds", ""]),
    ("data", "cell_methods", ["time: mean", "", "x", "area: mean", "time: point (interval: 6 hours)", "9**9"]),
    ("data", "standard_name", ["air_temperature", "surface_temperature", "x"]),
    ("data", "coordinates", ["height", "lat lon", "nowhere", ""]),
    ("data", "grid_mapping", ["crs", "nowhere", ""]),
    ("data", "_Unsigned", ["true"]),
    ("data", "valid_range", [[0, 1]]),
    ("data", "positive", ["up"]),
    ("data", "valid_min", [1e+30]),
    ("data", "valid_max", [-1.0]),
    ("data", "units", [
        "kelvin", "Kelvin", "degK", " K ", "K ", "degC", "celsius", "mK", "gpm", "m2 s-2", "km", "dam",
    ]),
    ("lat", "bounds", ["nowhere", "", "lon_bnds", "lat"]),
    ("lat", "units", ["degrees", "degree_north", "degreesN", "1", ""]),
    ("lon", "bounds", ["nowhere", "", "lat_bnds"]),
    ("lon", "units", ["degrees", "degree_E", "1", ""]),
    ("", "source_id", ["OTHER", "test-1"]),
    ("", "experiment_id", ["ssp585"]),
    ("", "variant_label", ["r2i1p1f1"]),
    ("", "grid_label", ["gr", ""]),
    ("", "sub_experiment_id", ["s1960", "none", "../x"]),
    ("", "branding_suffix", ["tmax-h2m-hxy-u", "tavg-h2m-hxy-u"]),
    ("", "mip_era", ["CMIP5", "CMIP7", ""]),
    ("", "institution_id", ["X/Y", "../x"]),
    ("", "table_id", ["Amon", "../x", ""]),
    ("", "activity_id", ["a b"]),
]  # fmt: skip
"""These make another valid file, or are left to the reader."""
