"""The one table of coordinate names, and the reader of coordinates for files (`pack`) and xarray objects (`predict`).

To accept another name of a coordinate, add it to `COORDINATES`; no other file of the package lists them.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.sources.claimed_size import LONGEST_AXIS
from climax_hpc.utils.names import shown

Array = NDArray[np.float64]
_LONGEST_TEXT = 10_000  # characters of an attribute; a file may hold gigabytes


class Unusable(Exception):
    """Input that is sound but cannot be used, with the reason and the fix; `pack` skips the file and lists it."""


@dataclass(frozen=True, kw_only=True)
class CoordinateKind:
    """How to recognise a coordinate; any one of the three suffices, and for a time also units `… since …`."""

    names: tuple[str, ...]
    """Names of the variable or dimension in any case, the most usual first."""
    standard_name: str = ""
    """Its CF `standard_name`."""
    axis: str = ""
    """Its CF `axis`."""

    def matches(self, name: str, coordinate: Any) -> bool:
        """True if a coordinate of that name, with attributes as netCDF4 or xarray gives them, is of this kind."""
        if name.lower() in {known.lower() for known in self.names}:
            return True
        stated = attribute(coordinate, "standard_name")
        since = (
            self.standard_name == "time"
            and stated in ("", "time")
            and " since " in attribute(coordinate, "units")
            and not _OTHER_TIMES.search(name)
            and getattr(coordinate, "dimensions", ()) in ((), (name,))
        )
        by_attribute = ((stated, self.standard_name), (attribute(coordinate, "axis"), self.axis))
        return since or any(value and found == value for found, value in by_attribute)


_OTHER_TIMES = re.compile(r"ref|forecast|init|start|origin|analysis", re.IGNORECASE)
"""In names of times that are not those of the fields, such as that of the start of a forecast."""
COORDINATES: dict[str, CoordinateKind] = {
    "lat": CoordinateKind(names=("lat", "latitude"), standard_name="latitude"),
    "lon": CoordinateKind(names=("lon", "longitude"), standard_name="longitude"),
    "time": CoordinateKind(names=("time", "valid_time"), standard_name="time", axis="T"),
    "level": CoordinateKind(
        names=("plev", "level", "pressure_level", "pressure", "isobaricInhPa", "lev"),
        standard_name="air_pressure",
        axis="Z",
    ),
    "member": CoordinateKind(names=("member",)),
    "expver": CoordinateKind(names=("expver",)),
}
"""Role of an axis -> how to recognise it. ClimateBench's members are averaged, ERA5's versions (`expver`) merged."""
ENSEMBLE = ("number", "member", "realization", "ensemble", "ensemble_member", "ens")
"""Names of dimensions whose members are states of their own, which are not averaged."""
CURVILINEAR = {
    "lat": ("nav_lat", "tlat", "ulat", "geolat", "geolat_t", "geolat_c", "xlat", "gphit", "lat_rho", "clat"),
    "lon": (
        "nav_lon",
        "tlong",
        "ulong",
        "geolon",
        "geolon_t",
        "geolon_c",
        "xlong",
        "glamt",
        "lon_rho",
        "clon",
        "lon2d",
    ),
}
"""Names in lower case of positions on curvilinear and unstructured grids, in addition to those in the table."""
NOT_FIELDS = ("number", "expver", "surface", "step")
"""Scalar coordinates of the Copernicus data store, which xarray and cfgrib write next to the fields."""


def attribute(coordinate: Any, key: str) -> str:
    """An attribute of a netCDF4 variable or an xarray coordinate as text; empty if it is absent.

    xarray moves some of them to `encoding`, such as `formula_terms` with decode_coords="all".
    """
    attributes = getattr(coordinate, "attrs", None)
    if isinstance(attributes, dict):
        return str(attributes.get(key, getattr(coordinate, "encoding", {}).get(key, "")))[:_LONGEST_TEXT]
    return str(getattr(coordinate, key, ""))[:_LONGEST_TEXT]


def is_kind(kind: str, name: str, coordinate: Any) -> bool:
    """True if the coordinate of that name has the role `kind`, a key of `COORDINATES`."""
    return COORDINATES[kind].matches(name, coordinate)


def axis_of(dataset: Any, variable: Any, kind: str) -> Any | None:
    """The coordinate of that kind (a key of `COORDINATES`): 1-D along a dimension of the variable, or a single value.

    A `valid_time` comes before a `time`, which is then the start of a forecast; then axes before single values, the CF
    standard name before other signs, and a dimension's own coordinate before others.

    Raises:
        Unusable: the only time is that of the start of forecasts.
    """
    standard_name = COORDINATES[kind].standard_name
    found = [
        v
        for v in dataset.variables.values()
        if v.ndim <= 1 and v.name != variable.name and set(v.dimensions) <= set(variable.dimensions)
        if is_kind(kind, v.name, v)
    ]
    chosen = min(
        found,
        key=lambda v: (
            v.name != "valid_time",
            v.ndim == 0,
            attribute(v, "standard_name") != standard_name,
            v.dimensions != (v.name,),
        ),
        default=None,
    )
    if kind == "time":
        _refuse_starts(dataset, variable, chosen)
    return chosen


def _refuse_starts(dataset: Any, variable: Any, time: Any | None) -> None:
    """Refuse times of the starts of forecasts, as GRIB converters write them, where fields have other times."""
    valid, step = (dataset.variables.get(name) for name in ("valid_time", "step"))
    if valid is not None and valid.ndim > 1 and set(valid.dimensions) <= set(variable.dimensions):
        raise Unusable(
            f"its times lie on two dimensions ({', '.join(valid.dimensions)}); select one entry of one of them"
        )
    if time is None or step is None or attribute(time, "standard_name") != "forecast_reference_time":
        return
    if np.count_nonzero(np.asarray(step[:] if step.ndim else step[()])):
        raise Unusable(f"its {time.name} is that of the start of forecasts; store valid_time too")


def bounds_names(name: str, coordinate: Any) -> Iterator[str]:
    """Names that the cell edges of a coordinate may have, the one that it states first."""
    yield from (attribute(coordinate, "bounds"), f"{name}_bnds", f"{name}_bounds")


def refuse_text(variable: Any) -> None:
    """Refuse a variable whose values, or whose packing, are not numbers.

    Raises:
        Unusable: names the type.
    """
    kind = getattr(variable, "datatype", variable.dtype)  # of netCDF4, which has types of its own beside numpy's
    named = np.dtype(kind) if isinstance(kind, np.dtype | type) else None
    if named is None or named.kind not in ("i", "u", "f"):
        what = (
            "text"
            if variable.dtype is str or (named and named.kind in "USO")
            else str(named or "values of a type of its own")
        )
        raise Unusable(f"{variable.name} holds {what}, not numbers; convert it")
    for key in ("scale_factor", "add_offset"):
        value = getattr(variable, key, 0.0)
        if not isinstance(value, int | float | np.number):
            raise Unusable(f"{variable.name} has the {key} {value!r}, which is not a number; correct it (ncatted)")


def numbers(variable: Any) -> Array:
    """All values of a coordinate of an open data set, at least 1-D; NaN where missing.

    Raises:
        Unusable: they are not numbers, or more than any coordinate has.
    """
    refuse_text(variable)
    if math.prod(variable.shape) > 2 * LONGEST_AXIS:  # bounds have two for each cell
        raise Unusable(f"its {shown(variable.name)} has the shape {variable.shape}, too large for a coordinate")
    values = np.ma.asarray(variable[:] if variable.ndim else variable[()])
    return np.atleast_1d(np.ma.filled(values.astype(np.float64), np.nan))


def bounds_of(dataset: Any, coordinate: Any) -> Array | None:
    """Bounds (n, 2) of a coordinate of an open data set; None if it has none, or one of them is missing."""
    for name in bounds_names(coordinate.name, coordinate):
        if name in dataset.variables and dataset.variables[name].shape == (*coordinate.shape, 2):
            bounds = numbers(dataset.variables[name])
            return bounds if np.isfinite(bounds).all() else None
    return None
