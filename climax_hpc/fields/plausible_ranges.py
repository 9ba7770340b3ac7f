"""Ranges of values that the atmosphere can have, per registry variable: finds wrong units and unmarked missing values.

`possible` is wide: a value outside is an error of the file (a fill value without `_FillValue`, other units than stated)
and is refused. `usual` covers the records that are known (WMO World Weather and Climate Extremes Archive,
https://wmo.asu.edu; standard atmosphere for heights of pressure levels) with a margin for models: values outside are
counted and reported. `least_maximum` is what the largest value of a global data set reaches by far, and
`largest_mean` what its mean never does: sums over a day that are read as sums over an hour have possible values.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from climax_hpc.errors import UserError
from climax_hpc.fields.variables import STANDARD_GRAVITY, lookup


@dataclass(frozen=True, kw_only=True)
class PlausibleRange:
    """What a variable can be, in registry units; both ends included."""

    possible: tuple[float, float]
    usual: tuple[float, float]
    least_maximum: float | None = None
    largest_mean: float | None = None


def _range(
    possible: tuple[float, float],
    usual: tuple[float, float],
    least: float | None = None,
    largest_mean: float | None = None,
) -> PlausibleRange:
    return PlausibleRange(possible=possible, usual=usual, least_maximum=least, largest_mean=largest_mean)


# Height [km] of a pressure level: below ground near 925 hPa, and in deep lows; usual range, km.
_HEIGHT_KM = {
    50: (17.5, 22.5), 250: (8.0, 11.8), 500: (4.3, 6.3), 600: (3.0, 5.0), 700: (1.8, 3.7), 850: (0.4, 2.1),
    925: (-0.4, 1.4),
}  # fmt: skip
_TEMPERATURE_K = {50: (160.0, 270.0), 250: (180.0, 270.0), 500: (200.0, 290.0)}
_LARGEST_HUMIDITY = {50: 1e-3, 250: 5e-3, 500: 0.02}
_LEAST_HUMIDITY = {50: 3e-7, 250: 3e-6, 500: 1e-4}  # largest value; kg/kg read as g/kg stay below
_LEAST_WIND, _MOST_MISSING = 2.0, 0.5
_MEAN_RAIN = 2e-4  # 17 mm a day; 2.7 on the globe

_SURFACE = {
    "2m_temperature": _range((150, 400), (180, 333)),  # 184.0 K (Vostok, 1983), 329.9 K (Furnace Creek, 1913)
    "skin_temperature": _range((150, 400), (175, 355)),
    "sea_surface_temperature": _range((250, 330), (268, 313)),
    "10m_u_component_of_wind": _range((-150, 150), (-70, 70), _LEAST_WIND),
    "10m_v_component_of_wind": _range((-150, 150), (-70, 70), _LEAST_WIND),
    "mean_sea_level_pressure": _range((70e3, 140e3), (87e3, 109e3)),  # 870 hPa (Tip, 1979), 1084 hPa (Agata, 1968)
    "surface_pressure": _range((25e3, 120e3), (45e3, 109e3)),
    "total_precipitation_rate": _range((-1e-2, 1.0), (-1e-6, 0.1), 1e-5, _MEAN_RAIN),  # 0.085: 305 mm in 1 h
    "land_sea_mask": _range((-0.01, 1.01), (0, 1)),
    "orography": _range((-1000, 9500), (-500, 9000)),
    "diurnal_temperature_range": _range((-1, 120), (0, 60)),
    "precipitation_rate_90th_percentile": _range((-1e-2, 1.0), (-1e-6, 0.05), 1e-5),
}


def plausible_range(name: str) -> PlausibleRange | None:
    """The range of a registry variable; None for forcings, which have no natural limits."""
    known = lookup(name)
    if known.level_hpa is None:
        return _SURFACE.get(name)
    level, stem = known.level_hpa, known.stem
    if stem == "geopotential":
        low, high = (1000 * STANDARD_GRAVITY * km for km in _HEIGHT_KM[level])
        margin = 3000 * STANDARD_GRAVITY
        return _range((low - margin, high + margin), (low, high))
    if stem == "temperature":
        return _range((120, 370), _TEMPERATURE_K.get(level, (185.0, 335.0)))
    if stem == "relative_humidity":
        return _range((-60, 400), (-15, 200), 2.0)
    if stem == "specific_humidity":
        largest = _LARGEST_HUMIDITY.get(level, 0.04)
        return _range((-0.01, 0.2), (-1e-4, largest), _LEAST_HUMIDITY.get(level, 3e-4))
    return _range(
        (-300, 300), (-150, 150), _LEAST_WIND
    )  # wind components; 113 m/s is the strongest gust at the surface


def check_possible(values: NDArray[np.floating], name: str, where: str) -> None:
    """Refuse values that the variable cannot have; NaN is missing and passes.

    Raises:
        UserError: names `where`, the range, the number of values outside and the farthest of them.
    """
    known = plausible_range(name)
    if known is None or not values.size:
        return
    low, high = known.possible
    # One pass each without a temporary array: the packer checks every field that it reads.
    smallest, largest = (ufunc.reduce(values, axis=None) for ufunc in (np.fmin, np.fmax))
    if smallest < low or largest > high:
        outside = (values < low) | (values > high)
        worst = values[outside]
        farthest = worst[np.argmax(np.abs(worst))]
        raise UserError(
            f"{where}: {name} has {int(outside.sum())} of {values.size} values outside {low:g} … {high:g} "
            f"{lookup(name).units}, for example {farthest:g}: the units are not those that the file states, or missing "
            "values are not marked by _FillValue; correct the file (ncatted), or leave the variable out"
        )


def unusual(low: float, high: float, name: str, mean: float = 0.0, missing_share: float = 0.0) -> str | None:
    """What is unusual about a variable with these smallest, largest and mean values; None if nothing is.

    `missing_share`: missing values over all values; the sea surface has none over land, other variables have few.
    """
    known = plausible_range(name)
    if known is None:
        return None
    units = lookup(name).units
    if low < known.usual[0] or high > known.usual[1]:
        return f"{name} ranges from {low:g} to {high:g} {units}; usual are {known.usual[0]:g} to {known.usual[1]:g}"
    if known.least_maximum is not None and high < known.least_maximum:
        return f"{name} is at most {high:g} {units}; at least {known.least_maximum:g} is usual: are the units right?"
    if known.largest_mean is not None and mean > known.largest_mean:
        return (
            f"{name} is {mean:g} {units} in the mean; at most {known.largest_mean:g} is usual: are the units and the "
            "period of sums right?"
        )
    if missing_share > _MOST_MISSING:
        return f"{name} is missing (NaN) in {missing_share:.0%} of its values"
    return None
