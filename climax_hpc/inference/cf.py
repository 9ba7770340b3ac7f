"""Layout of forecast files: dimensions, coordinates and attributes that follow the CF conventions.

A single initialisation has the dimension `time`, the valid time (which `cdo` and plotting tools understand). Several
have `forecast_reference_time` and `lead_time`, with the valid time as a two-dimensional coordinate. Several members
add `realization`; statistics over the members are variables of their own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, NamedTuple

import cftime
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from climax_hpc.config.ensemble_output import EnsembleOutputConfig
from climax_hpc.fields.grid import Grid
from climax_hpc.fields.periods import TIME_UNITS
from climax_hpc.fields.variables import lookup
from climax_hpc.inference.member_statistics import MemberStatistic, StatisticAxis, member_statistics
from climax_hpc.utils.provenance import package_version

CONVENTIONS = "CF-1.11"
_HEIGHTS = {"2m_": 2.0, "10m_": 10.0}  # metres above ground, as CMIP6 has for tas, uas and vas
_LONG_NAMES = {
    "u_component_of_wind": "eastward wind", "v_component_of_wind": "northward wind",
    "2m_temperature": "2 m temperature",
    "10m_u_component_of_wind": "10 m eastward wind", "10m_v_component_of_wind": "10 m northward wind",
}  # fmt: skip
FILL = np.float32(np.nan)


@dataclass(frozen=True, kw_only=True)
class FileVariable:
    """One variable of a file."""

    dims: tuple[str, ...]
    values: NDArray[Any] | None
    """None for forecast fields, which are written later."""
    attributes: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FileLayout:
    """Everything of a file except its fields."""

    sizes: dict[str, int]
    coordinates: dict[str, FileVariable]
    fields: dict[str, FileVariable]
    attributes: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ForecastContent:
    """Variables, grid, times and provenance of the forecasts in a file."""

    variables: tuple[str, ...]
    grid: Grid
    calendar: str
    lead_hours: tuple[float, ...]
    members: tuple[str, ...]
    """Description of every member; a single member has no dimension `realization`."""
    labels: tuple[str, ...] = ()
    """Label of every member."""
    mean_hours: float | None = None
    """Length of the means that begin at the lead time [h]; None for states at the lead time."""
    step_hours: float | None = None
    """Time step of the states that forecasts start from [h]; None where there is a single state."""
    cell_methods: Mapping[str, str] = field(default_factory=dict)
    """Registry name -> CF cell methods of the states, where the input states them."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """Provenance, for the global attributes."""
    output: EnsembleOutputConfig = field(default_factory=EnsembleOutputConfig)
    """Statistics over the members that are written, and whether the members are."""

    def statistics(self, name: str) -> list[MemberStatistic]:
        """Those of a variable."""
        return list(member_statistics(self.output, name, variable_attributes(name), len(self.members)))

    def place(self, *along_time: int, member: int) -> tuple[int, ...]:
        """Index of the field (H, W) of a member in its array; a single member has no axis."""
        return (*along_time, member) if len(self.members) > 1 else along_time


def layout(content: ForecastContent, start_hours: Sequence[float], *, single: bool) -> FileLayout:
    """Dimensions, coordinates and attributes of forecasts from these starts; `single` for a file of one start."""
    axes, coordinates = times(content, start_hours, single)
    bounds = None
    if content.mean_hours is not None:
        bounds = np.asarray(coordinates["time"].values)[..., None] + np.array([0.0, content.mean_hours])
    return _layout(content, axes, coordinates, single=single, bounds=bounds)


def layout_in_time(
    content: ForecastContent, hours: Sequence[float], bounds: NDArray[np.float64] | None = None
) -> FileLayout:
    """Layout of fields along the valid `time` only, at these hours; `bounds` (T, 2) makes them means."""
    about = {"standard_name": "time", "long_name": "time", "axis": "T"}
    about |= {"units": TIME_UNITS, "calendar": content.calendar}
    time = FileVariable(dims=("time",), values=np.asarray(hours, np.float64), attributes=about)
    return _layout(content, ("time",), {"time": time}, single=True, bounds=bounds)


def yearly_layout(content: ForecastContent, mid_hours: Sequence[float]) -> FileLayout:
    """Layout of yearly means; `mid_hours` are the middles of the years."""
    dates = cftime.num2date(np.asarray(mid_hours), TIME_UNITS, calendar=content.calendar)
    edges = [[cftime.datetime(d.year + k, 1, 1, calendar=content.calendar) for k in (0, 1)] for d in dates]
    bounds = cftime.date2num(edges, TIME_UNITS, content.calendar).astype(np.float64)
    return layout_in_time(content, mid_hours, bounds)


def _layout(
    content: ForecastContent,
    axes: tuple[str, ...],
    coordinates: dict[str, FileVariable],
    *,
    single: bool,
    bounds: NDArray[np.float64] | None,
) -> FileLayout:
    """`bounds`: of `time`, for means; None for states."""
    auxiliary = [name for name in coordinates if name not in axes]
    sizes = {axis: np.asarray(coordinates[axis].values).size for axis in axes}
    if len(content.members) > 1 and content.output.keep_members:
        sizes["realization"], coordinates["realization"] = len(content.members), realization(len(content.members))
    coordinates |= horizontal(content.grid)
    if bounds is not None:
        time = coordinates["time"]
        time.attributes["bounds"] = "time_bnds"
        coordinates["time_bnds"] = FileVariable(dims=(*time.dims, "bnds"), values=bounds, attributes={})
    sizes |= {"lat": content.grid.shape[0], "lon": content.grid.shape[1], "bnds": 2}
    fields = {}
    for name in content.variables:
        for statistic in content.statistics(name):
            if axis := statistic.axis:
                sizes[axis.name], coordinates[axis.name] = len(axis.values), _of_axis(axis)
        for written in _written(content, name):
            scalars, about = _described_field(name, written, named_level=single and written.extra is not None)
            coordinates |= scalars
            methods = [*(["time: mean"] if bounds is not None else []), *([written.method] if written.method else [])]
            about |= {"cell_methods": " ".join(methods)} if methods else {}
            about |= {"coordinates": " ".join([*auxiliary, *scalars])} if auxiliary or scalars else {}
            dims = (*axes, *((written.extra,) if written.extra else ()), "lat", "lon")
            fields[written.key] = FileVariable(dims=dims, values=None, attributes=about)
    return FileLayout(sizes=sizes, coordinates=coordinates, fields=fields, attributes=global_attributes(content))


class _FileVariable(NamedTuple):
    """One variable that is written of a registry variable."""

    key: str
    extra: str | None
    """Its dimension between time and latitude, if it has one."""
    changed: Mapping[str, Any]
    """Attributes that differ from those of the registry variable; None removes one."""
    method: str
    """Its cell method over the members."""


def _written(content: ForecastContent, name: str) -> Iterator[_FileVariable]:
    """The members of a variable, and their statistics."""
    if content.output.keep_members:
        yield _FileVariable(name, "realization" if len(content.members) > 1 else None, {}, "")
    for one in content.statistics(name):
        method = f"realization: {one.method}" if one.method else ""
        yield _FileVariable(one.name, one.axis.name if one.axis else None, one.attributes, method)


def _described_field(
    name: str, written: _FileVariable, *, named_level: bool
) -> tuple[dict[str, FileVariable], dict[str, Any]]:
    """The scalar coordinates of a variable and its attributes; `named_level` puts the level into an attribute.

    cdo 2.1 skips variables with both a level and one more dimension.
    """
    scalars, about = vertical_coordinates(name), variable_attributes(name) | dict(written.changed)
    if named_level:
        for entry in scalars.values():
            known = entry.attributes
            about["vertical"] = f"{known['standard_name']} {entry.values} {known['units']}"
        scalars = {}
    return scalars, {key: value for key, value in about.items() if value is not None}


def realization(members: int) -> FileVariable:
    """The coordinate of the members, counted from 0. CF has no `axis` for it: X, Y, Z and T are the only values."""
    about = {"standard_name": "realization", "long_name": "ensemble member, see the attribute members", "units": "1"}
    return FileVariable(dims=("realization",), values=np.arange(members, dtype=np.int32), attributes=about)


def _of_axis(axis: StatisticAxis) -> FileVariable:
    about = {key: value for key, value in axis.attributes.items() if value is not None}
    return FileVariable(dims=(axis.name,), values=np.asarray(axis.values, np.float64), attributes=about)


def times(
    content: ForecastContent, start_hours: Sequence[float], single: bool
) -> tuple[tuple[str, ...], dict[str, FileVariable]]:
    """The time axes, and the coordinates for start, lead and valid time."""
    leads: NDArray[Any] = np.asarray(content.lead_hours, np.float64)
    starts: NDArray[Any] = np.asarray(start_hours, np.float64)
    since = {"units": TIME_UNITS, "calendar": content.calendar}
    time = {"standard_name": "time", "long_name": "valid time"} | since
    reference = {"standard_name": "forecast_reference_time", "long_name": "start of the forecast"} | since
    lead = {"standard_name": "forecast_period", "long_name": "time since the start of the forecast", "units": "hours"}
    if single:
        return ("time",), {
            "time": FileVariable(dims=("time",), values=starts[0] + leads, attributes=time | {"axis": "T"}),
            "forecast_reference_time": FileVariable(dims=(), values=np.asarray(starts[0]), attributes=reference),
            "lead_time": FileVariable(dims=("time",), values=leads, attributes=lead),
        }
    axes = ("forecast_reference_time", "lead_time")
    return axes, {
        "forecast_reference_time": FileVariable(dims=axes[:1], values=starts, attributes=reference),
        "lead_time": FileVariable(dims=axes[1:], values=leads, attributes=lead),
        "time": FileVariable(dims=axes, values=starts[:, None] + leads, attributes=time),
    }


def horizontal(grid: Grid) -> dict[str, FileVariable]:
    """The coordinates of the grid and their bounds."""
    found = {}
    for name, long, units, axis in (
        ("lat", "latitude", "degrees_north", "Y"),
        ("lon", "longitude", "degrees_east", "X"),
    ):
        about = {"standard_name": long, "long_name": long, "units": units, "axis": axis, "bounds": f"{name}_bnds"}
        found[name] = FileVariable(dims=(name,), values=getattr(grid, name), attributes=about)
        found[f"{name}_bnds"] = FileVariable(dims=(name, "bnds"), values=getattr(grid, f"{name}_bnds"), attributes={})
    return found


def vertical_coordinates(name: str) -> dict[str, FileVariable]:
    """The scalar coordinate for the pressure level or height of a variable; empty for others."""
    known = lookup(name)
    if known.level_hpa is not None:
        about = {
            "standard_name": "air_pressure",
            "long_name": "pressure",
            "units": "Pa",
            "positive": "down",
            "axis": "Z",
        }
        value = np.asarray(100.0 * known.level_hpa)
        return {f"plev_{known.level_hpa}": FileVariable(dims=(), values=value, attributes=about)}
    for prefix, metres in _HEIGHTS.items():
        if name.startswith(prefix):
            about = {"standard_name": "height", "long_name": "height", "units": "m", "positive": "up", "axis": "Z"}
            return {f"height_{metres:g}m": FileVariable(dims=(), values=np.asarray(metres), attributes=about)}
    return {}


def long_name(stem: str) -> str:
    """CF long name of a registry name without its level."""
    return _LONG_NAMES.get(stem, stem.replace("_", " "))


def variable_attributes(name: str) -> dict[str, Any]:
    """Standard name, long name and units of a registry variable."""
    known = lookup(name)
    spoken = long_name(known.stem)
    long = spoken if known.level_hpa is None else f"{spoken} at {known.level_hpa} hPa"
    about = {"standard_name": known.standard_name} if known.standard_name else {}
    about |= {"long_name": long, "units": known.units} | temperature_scale(known.standard_name, known.units)
    return about | {"cmip6_variable_id": known.cmip6 or ""}


def temperature_scale(standard_name: str | None, units: str) -> dict[str, str]:
    """CF's attribute that tells temperatures from their differences (section 3.1.2); empty for other quantities."""
    if units not in ("K", "degC"):
        return {}
    difference = standard_name is None or "temperature" not in standard_name
    return {"units_metadata": f"temperature: {'difference' if difference else 'on_scale'}"}


def global_attributes(content: ForecastContent) -> dict[str, Any]:
    """Conventions and provenance of a file."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "Conventions": CONVENTIONS,
        "title": "Forecasts of a ClimaX-type model",
        "source": f"climax_hpc {package_version()}",
        "references": "Nguyen et al., 2023, arXiv 2301.10343",
        "history": f"{now}: written by climax_hpc predict",
        "members": _described(content.members),
        **content.attributes,
    }


def _described(members: Sequence[str]) -> str:
    """Members with the same description, the members of one network, in one entry."""
    found = []
    for about, several in groupby(enumerate(members), key=lambda numbered: numbered[1]):
        numbers = [number for number, _ in several]
        found.append(f"{numbers[0]}{f' … {numbers[-1]}' if len(numbers) > 1 else ''}: {about}")
    return "; ".join(found)


def as_dataset(
    shape: FileLayout, fields: Mapping[str, NDArray[np.float32]], *, decode_leads: bool = False
) -> xr.Dataset:
    """A layout and its fields as an xarray data set with decoded times (cftime for non-standard calendars).

    `decode_leads`: lead times in seconds become timedelta64; else they stay numbers.
    """
    coordinates = {n: (e.dims, e.values, e.attributes) for n, e in shape.coordinates.items()}
    variables = {}
    for name, entry in shape.fields.items():
        about = {key: value for key, value in entry.attributes.items() if key != "coordinates"}
        variables[name] = (entry.dims, fields[name], about)
    return xr.decode_cf(xr.Dataset(variables, coordinates, shape.attributes), decode_timedelta=decode_leads).load()
