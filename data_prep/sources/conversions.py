"""Tables that map input variables to registry variables: names in each layout, units, derived variables.

An input variable is identified by its `variable_id`, its name in CMIP6. `ALIASES` lists its names in each layout,
`CONVERSIONS` the conversions beyond unit arithmetic, `DERIVATIONS` the variables that are computed from others.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.sources.units import UnknownUnits, affine, spelling
from climax_hpc.errors import UserError
from climax_hpc.fields.variables import STANDARD_GRAVITY, channels_of

Array = NDArray[np.float64]
WATER_DENSITY = 1000.0  # kg m-3; ECMWF's convention for depths of precipitation


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A conversion from units of another dimension than the registry's."""

    variable_id: str
    units: str
    factor: float
    """Value in registry units = factor · value in `units`."""
    reason: str


CONVERSIONS = (
    Conversion(variable_id="zg", units="m", factor=STANDARD_GRAVITY, reason="geopotential = g · geopotential height"),
    Conversion(variable_id="orog", units="m2 s-2", factor=1 / STANDARD_GRAVITY, reason="ERA5 stores g · height"),
    Conversion(variable_id="pr", units="m s-1", factor=WATER_DENSITY, reason="depth of liquid water · its density"),
    Conversion(variable_id="pr90", units="m s-1", factor=WATER_DENSITY, reason="depth of liquid water · its density"),
)


@dataclass(frozen=True, kw_only=True)
class Alias:
    """The variable behind a name in a layout, and the metadata that its files may leave out."""

    variable_id: str
    units: str = ""
    """Units if the file states none."""
    cell_methods: str = ""
    """CF cell methods if the file states none."""
    accumulated_hours: float = 0.0
    """Accumulation period of a sum [hours], which turns it into a rate; 0 for other values."""
    hourly: bool = False
    """True if `accumulated_hours` holds for hourly data only, because other products sum over other periods."""
    departures: bool = False
    """True for departures from a control run, as in the outputs of ClimateBench."""


def _instant(variable_id: str, units: str) -> Alias:
    return Alias(variable_id=variable_id, units=units, cell_methods="time: point")


def _sum(variable_id: str, units: str, hours: float) -> Alias:
    return Alias(variable_id=variable_id, units=units, cell_methods="time: mean", accumulated_hours=hours)


# Copernicus (CDS) short names and WeatherBench 2 long names. `z` without levels is the surface geopotential: orography.
_ERA5 = {
    ("t2m", "2m_temperature"): _instant("tas", "K"),
    ("u10", "10m_u_component_of_wind"): _instant("uas", "m s-1"),
    ("v10", "10m_v_component_of_wind"): _instant("vas", "m s-1"),
    ("z", "geopotential"): _instant("zg", "m2 s-2"),
    ("u", "u_component_of_wind"): _instant("ua", "m s-1"),
    ("v", "v_component_of_wind"): _instant("va", "m s-1"),
    ("t", "temperature"): _instant("ta", "K"),
    ("r", "relative_humidity"): _instant("hur", "%"),
    ("q", "specific_humidity"): _instant("hus", "1"),
    ("msl", "mean_sea_level_pressure"): _instant("psl", "Pa"),
    ("sp", "surface_pressure"): _instant("ps", "Pa"),
    ("skt", "skin_temperature"): _instant("ts", "K"),
    ("sst", "sea_surface_temperature"): _instant("tos", "K"),
    ("tp", "total_precipitation"): replace(_sum("pr", "m", 1.0), hourly=True),
    ("total_precipitation_6hr",): _sum("pr", "m", 6.0),
    ("total_precipitation_24hr",): _sum("pr", "m", 24.0),
    ("lsm", "land_sea_mask"): _instant("sftlf", "1"),
    ("geopotential_at_surface",): _instant("orog", "m2 s-2"),
}
_BY_NAME = {name: alias for names, alias in _ERA5.items() for name in names}
_ANEMOI = {
    "2t": "t2m", "10u": "u10", "10v": "v10", "z": "geopotential_at_surface", "lsm": "lsm", "tp": "tp",
    **{name: name for name in ("msl", "sp", "skt", "sst")}, **{f"{name}_pl": name for name in "zuvtrq"},
}  # fmt: skip
"""ECMWF's short names, with `_pl` for those on pressure levels -> names of the same variables in `_ERA5`."""
_YEAR = "time: mean"
ALIASES: dict[str, dict[str, Alias]] = {
    "era5": _BY_NAME,
    "anemoi": {name: _BY_NAME[other] for name, other in _ANEMOI.items()},
    "climatebench": {
        "CO2": Alias(variable_id="CO2", units="Gt", cell_methods=_YEAR),
        "CH4": Alias(variable_id="CH4", units="Gt yr-1", cell_methods=_YEAR),
        "SO2": Alias(variable_id="SO2", units="kg m-2 s-1", cell_methods=_YEAR),
        "BC": Alias(variable_id="BC", units="kg m-2 s-1", cell_methods=_YEAR),
        "tas": Alias(departures=True, variable_id="tas", units="K", cell_methods=_YEAR),
        "pr": Alias(departures=True, variable_id="pr", units="kg m-2 s-1", cell_methods=_YEAR),
        "diurnal_temperature_range": Alias(
            departures=True, variable_id="diurnal_temperature_range", units="K", cell_methods=_YEAR
        ),
        "pr90": Alias(departures=True, variable_id="pr90", units="kg m-2 s-1", cell_methods=_YEAR),
    },
    # Names and units of E-OBS; the other climate4R grids have CMIP names, and the user states their units.
    "climate4r": {
        "tg": Alias(variable_id="tas", units="degC", cell_methods="time: mean"),
        "rr": Alias(variable_id="pr", units="mm day-1", cell_methods="time: mean"),
    },
}


def conversion(
    variable_id: str, units: str, file: str, accumulated_hours: float = 0.0, *, remedy: str = ""
) -> tuple[float, float]:
    """(scale, offset) from the units of a file to those of the registry; sums become rates per second.

    Args:
        remedy: what to do about missing units; by default the key of `pack`.

    Raises:
        UserError: the units are missing, unknown, or of another kind.
    """
    target = channels_of(variable_id)[0].units
    known = [target, *(c.units for c in CONVERSIONS if c.variable_id == variable_id)]
    if not units:
        raise UserError(
            f"{file}: {variable_id} has no units (expected {' or '.join(known)}); "
            f"{remedy or f'state them with units: {{{variable_id}: {known[0]}}}'}, or leave the file out"
        )
    given, hours = (f"{spelling(units)} h-1", accumulated_hours) if accumulated_hours else (units, 1.0)
    try:
        scale, offset = affine(given, target)
        return scale / hours, offset / hours
    except UnknownUnits as error:
        reason = str(error)
    for entry in CONVERSIONS:
        if entry.variable_id == variable_id:
            try:
                scale, offset = affine(given, entry.units)
            except UnknownUnits:  # the next entry may fit
                continue
            return scale * entry.factor / hours, offset * entry.factor / hours
    expected = " or ".join(repr(k) for k in known)
    raise UserError(
        f"{file}: {variable_id} in {units!r} does not convert to {expected} ({reason}); "
        "correct the `units` attribute (ncatted), or leave the file out"
    )


def short(error: Exception) -> str:
    """A library's message on one line; without one, the kind of error."""
    return " ".join(str(error).split())[:200] or type(error).__name__


# ------------------------------------------------------------------ derived variables

_EPSILON = 287.0597 / 461.5250  # gas constants of dry air and of water vapour in the IFS
_TRIPLE_POINT_K = 273.16
_FREEZING_K = 273.15


def saturation_vapour_pressure(temperature_k: Array) -> Array:
    """Saturation vapour pressure [Pa] over water from 0 °C upward, over ice below.

    Teten's formula with the coefficients of Buck (1981) over water and of Alduchov and Eskridge (1996) over ice, as in
    the IFS documentation, part IV, chapter 7; water above and ice below 0 °C is CMIP6's definition of `hur`.
    """
    over_ice = temperature_k < _FREEZING_K
    a3 = np.where(over_ice, 22.587, 17.502)
    a4 = np.where(over_ice, -0.7, 32.19)
    return 611.21 * np.exp(a3 * (temperature_k - _TRIPLE_POINT_K) / (temperature_k - a4))


def relative_humidity(specific_humidity: Array, temperature_k: Array, pressure_pa: Array) -> Array:
    """Relative humidity [%] = 100 e / e_s, e = q p / (eps + (1 - eps) q); not clipped: air can be supersaturated."""
    vapour_pa = specific_humidity * pressure_pa / (_EPSILON + (1 - _EPSILON) * specific_humidity)
    return 100 * vapour_pa / saturation_vapour_pressure(temperature_k)


def specific_humidity(relative_humidity_percent: Array, temperature_k: Array, pressure_pa: Array) -> Array:
    """Specific humidity [1], the inverse of `relative_humidity`."""
    vapour_pa = relative_humidity_percent / 100 * saturation_vapour_pressure(temperature_k)
    return _EPSILON * vapour_pa / (pressure_pa - (1 - _EPSILON) * vapour_pa)


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """A variable on pressure levels that is computed, level by level, if no file contains it."""

    variable_id: str
    ingredients: tuple[str, ...]
    compute: Callable[..., Array]
    """Arrays of the ingredients in registry units, then pressure [Pa] that broadcasts against them."""
    formula: str
    """Description for the manifest."""


DERIVATIONS = (
    Derivation(
        variable_id="hur",
        ingredients=("hus", "ta"),
        compute=relative_humidity,
        formula="from specific humidity and temperature, over ice below 0 °C (Teten, IFS coefficients)",
    ),
    Derivation(
        variable_id="hus",
        ingredients=("hur", "ta"),
        compute=specific_humidity,
        formula="from relative humidity, over ice below 0 °C, and temperature (Teten, IFS coefficients)",
    ),
)


def derivation_of(variable_id: str) -> Derivation | None:
    """How a variable is computed from others; None if it cannot be."""
    return next((d for d in DERIVATIONS if d.variable_id == variable_id), None)
