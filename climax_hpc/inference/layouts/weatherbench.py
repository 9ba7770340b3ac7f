"""The layout `weatherbench`: one zarr store as WeatherBench 2 and WeatherBench-X read forecasts.

Dimensions and names are those of the forecasts in WeatherBench 2's bucket (Rasp et al. 2024, JAMES 16,
10.1029/2023MS004019): initial `time`, `prediction_timedelta`, `level`, `latitude`, `longitude`, and `realization` for
several members. Legend: L levels · O channels of a forecast · H, W grid.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import to_seconds
from climax_hpc.fields.periods import TIME_UNITS
from climax_hpc.fields.variables import lookup
from climax_hpc.inference.cf import (
    FileLayout,
    FileVariable,
    ForecastContent,
    global_attributes,
    long_name,
    realization,
    temperature_scale,
)
from climax_hpc.inference.layouts.base import Piece, WithoutStatistics, refuse_means

_UNITS = {
    "geopotential": ("m2 s-2", 1.0),
    "u_component_of_wind": ("m s-1", 1.0),
    "v_component_of_wind": ("m s-1", 1.0),
    "temperature": ("K", 1.0),
    "relative_humidity": ("1", 0.01),  # a ratio in WeatherBench 2's derived variables, % in the registry
    "specific_humidity": ("kg kg-1", 1.0),
    "2m_temperature": ("K", 1.0),
    "10m_u_component_of_wind": ("m s-1", 1.0),
    "10m_v_component_of_wind": ("m s-1", 1.0),
    "mean_sea_level_pressure": ("Pa", 1.0),
    "surface_pressure": ("Pa", 1.0),
    "skin_temperature": ("K", 1.0),
    "sea_surface_temperature": ("K", 1.0),
}
"""WeatherBench name, which is the registry's without its level -> (units, value in them per registry value)."""
_REASONS = {
    "total_precipitation_rate": " (WeatherBench has sums over the 6 or 24 h before a time, and a rate does not "
    "say which hours it is a mean of)"
}


class WeatherBenchStore(WithoutStatistics):
    """One store with pressure levels in one variable, latitudes from the south, longitudes from 0 to 360."""

    def __init__(self, content: ForecastContent) -> None:
        """Raises UserError for means over a window, and for variables without a name in WeatherBench."""
        refuse_means(content, "weatherbench")
        self._content = content
        self._stems = [lookup(name).stem for name in content.variables]
        if unknown := [n for n, stem in zip(content.variables, self._stems, strict=True) if stem not in _UNITS]:
            reason = _REASONS.get(unknown[0], "")
            raise UserError(
                f"variables: layout weatherbench has no name for {', '.join(unknown)}{reason}: list the other "
                "variables, or use layout: cf"
            )
        self._levels = sorted({level for name in content.variables if (level := lookup(name).level_hpa) is not None})
        longitudes = np.mod(content.grid.lon, 360.0)
        self._rows, self._columns = np.argsort(content.grid.lat), np.argsort(longitudes)
        self._lat, self._lon = content.grid.lat[self._rows], longitudes[self._columns]

    def store(self, start_hours: Sequence[float]) -> FileLayout:
        """See `ForecastStore.store`."""
        coordinates = self._coordinates(start_hours)
        sizes = {name: np.asarray(entry.values).size for name, entry in coordinates.items()}
        fields = {}
        for name, stem in zip(self._content.variables, self._stems, strict=True):
            known = lookup(name)
            about = {"standard_name": known.standard_name} if known.standard_name else {}
            about |= {"long_name": long_name(stem), "units": _UNITS[stem][0]}
            about |= temperature_scale(known.standard_name, known.units)
            lacking = {"level"} if known.level_hpa is None else set()
            dims = tuple(dim for dim in coordinates if dim not in lacking)
            fields[stem] = FileVariable(dims=dims, values=None, attributes=about)
        attributes = global_attributes(self._content)
        return FileLayout(sizes=sizes, coordinates=coordinates, fields=fields, attributes=attributes)

    def pieces(self, start: int, lead: int, member: int, fields_OHW: NDArray[Any]) -> Iterator[Piece]:
        """See `ForecastStore.pieces`."""
        place = self._content.place(start, lead, member=member)
        for name, stem, field_HW in zip(self._content.variables, self._stems, fields_OHW, strict=True):
            level = lookup(name).level_hpa
            index = place if level is None else (*place, self._levels.index(level))
            yield Piece(stem, index, field_HW[np.ix_(self._rows, self._columns)] * _UNITS[stem][1])

    def _coordinates(self, start_hours: Sequence[float]) -> dict[str, FileVariable]:
        """The coordinates, all of which are dimensions, in the order of the fields' dimensions."""
        north = {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north"}
        east = {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east"}
        found: dict[str, tuple[Any, dict[str, Any]]] = {
            "time": (to_seconds(start_hours), _about_starts(self._content.calendar)),
            "prediction_timedelta": (to_seconds(self._content.lead_hours), _about_leads()),
        }
        if len(self._content.members) > 1:
            members = realization(len(self._content.members))
            found["realization"] = members.values, members.attributes
        if self._levels:
            about = {"standard_name": "air_pressure", "long_name": "pressure", "units": "hPa", "positive": "down"}
            found["level"] = np.asarray(self._levels, np.int32), about
        found |= {"latitude": (self._lat, north), "longitude": (self._lon, east)}
        return {
            name: FileVariable(dims=(name,), values=values, attributes=about) for name, (values, about) in found.items()
        }


def _about_starts(calendar: str) -> dict[str, Any]:
    about = {"standard_name": "forecast_reference_time", "long_name": "start of the forecast"}
    return about | {"units": TIME_UNITS.replace("hours", "seconds", 1), "calendar": calendar}


def _about_leads() -> dict[str, Any]:
    """Units and `dtype` make xarray decode it to timedelta64; older versions need the units alone."""
    about = {"standard_name": "forecast_period", "long_name": "time since the start of the forecast"}
    return about | {"units": "seconds", "dtype": "timedelta64[ns]"}
