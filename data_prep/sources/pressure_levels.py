"""Pressure levels of a vertical coordinate, for files (`pack`) and xarray objects (`predict`); other kinds are refused.

A name alone proves nothing: attributes say what the levels are, units how large, and values must be possible. Levels
without units are read by size where their name or standard name says that they are pressure.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.sources.coordinates import Unusable, attribute
from climax_hpc.data_prep.sources.units import UnknownUnits, affine

Array = NDArray[np.float64]
_TOLERANCE = 0.01  # levels are often stored as float32 or rounded: 92500.0001; 1 % is far below the next level
_LARGEST_HPA = 1100.0  # of pressure in the atmosphere, with room for levels below the ground
_LOWEST_HPA = 100.0  # levels without units reach at least down to here: sigma and heights in km do not
_FIX = "use data on pressure levels"
_OTHER = re.compile(
    r"sigma|hybrid|height|altitude|depth|model.?level|level.?number|theta|isentrop|potential|ln_?pressure|\beta\b|ocean",
    re.IGNORECASE,
)
_NAMED_PRESSURE = {"plev": "", "pressure_level": "", "pressure": "", "level": "hPa", "isobaricInhPa": "hPa"}
"""Names that stand for pressure without attributes -> their units by convention; empty: Pa or hPa, by size."""


def pressure_levels(level: Any, values: Array) -> list[float]:
    """Levels [hPa] of a coordinate, with attributes as netCDF4 or xarray gives them.

    Raises:
        Unusable: the levels are not pressure, state no units, or cannot be pressure in these units.
    """
    name = str(level.name)
    other = _other_kind(level)
    if other:
        raise Unusable(f"its levels ({name}, {other}) are not pressure; {_FIX}")
    units = attribute(level, "units") or _usual_units(level, name, values)
    try:
        scale, _ = affine(units, "hPa")
    except UnknownUnits as error:
        raise Unusable(f"its levels ({name} in {units!r}) are not pressure; {_FIX}") from error
    levels = [float(value) for value in values * scale]
    reason = _impossible(values, levels, units)
    if reason:
        low, high = np.nanmin(values), np.nanmax(values)
        raise Unusable(f"its levels ({name}, {low:g} … {high:g} {units}) {reason}")
    return levels


def select_levels(wanted_hpa: Iterable[int], levels_hpa: list[float]) -> dict[int, int]:
    """Wanted level [hPa] -> index of the nearest of `levels_hpa`, for those within the tolerance."""
    chosen: dict[int, int] = {}
    for wanted in wanted_hpa:
        distance = [abs(value / wanted - 1) for value in levels_hpa]
        if distance and min(distance) <= _TOLERANCE:
            chosen[wanted] = int(np.argmin(distance))
    return chosen


def _other_kind(level: Any) -> str:
    """The attribute that says that levels are not pressure; empty where none does."""
    standard_name = attribute(level, "standard_name")
    if attribute(level, "formula_terms"):
        return "a parametric coordinate with formula_terms"
    for key in ("standard_name", "long_name"):
        if _OTHER.search(attribute(level, key)) and standard_name != "air_pressure":
            return f"{key} {attribute(level, key)}"
    return ""


def _usual_units(level: Any, name: str, values: Array) -> str:
    """Units of levels that state none.

    Raises:
        Unusable: neither name nor standard name says that they are pressure.
    """
    named = _NAMED_PRESSURE.get(name, "" if attribute(level, "standard_name") == "air_pressure" else None)
    largest = np.nanmax(values, initial=0.0)
    if named is None or attribute(level, "positive") == "up" or largest < _LOWEST_HPA:
        raise Unusable(f"its levels ({name}) state no units: give them, such as hPa, if they are pressure")
    return named or ("Pa" if largest > _LARGEST_HPA else "hPa")


def _impossible(values: Array, levels_hpa: list[float], units: str) -> str:
    """Why values cannot be pressure levels in these units; empty where they can."""
    levels = np.array(levels_hpa)
    if not np.isfinite(levels).all() or (levels <= 0).any():
        return f"are not all above 0; {_FIX}"
    if levels.max(initial=0) > _LARGEST_HPA:
        return "are above any pressure in the atmosphere; correct their units"
    if len(levels) > 2 and (np.diff(np.sort(values)) == 1).all():
        return f"are numbers of levels; {_FIX}"
    if values.max(initial=0) <= _LARGEST_HPA and levels.max(initial=0) < values.max(initial=0):
        return "would all lie high in the stratosphere: hPa is probably meant; correct their units"
    if len(np.unique(levels)) < len(levels):
        return "contain one level twice; remove one"
    return ""
