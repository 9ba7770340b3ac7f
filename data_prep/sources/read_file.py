"""One variable of one file: checks units, calendar, levels and grid, or refuses them; reads fields in slabs.

CMIP6 files describe themselves; an `Alias` adds the metadata that files of other layouts leave out.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from climax_hpc.data_prep.sources.array_dataset import ArrayVariable
from climax_hpc.data_prep.sources.conversions import Alias, conversion
from climax_hpc.data_prep.sources.coordinates import (
    COORDINATES,
    ENSEMBLE,
    Unusable,
    attribute,
    axis_of,
    bounds_of,
    is_kind,
    numbers,
    refuse_text,
)
from climax_hpc.data_prep.sources.field_height import refuse_other_height
from climax_hpc.data_prep.sources.horizontal import horizontal
from climax_hpc.data_prep.sources.input_root import Root
from climax_hpc.data_prep.sources.intervals import (
    middle_of_intervals,
    refuse_climatology,
    refuse_statistics,
    time_methods,
)
from climax_hpc.data_prep.sources.open_input import no_fields, opened
from climax_hpc.data_prep.sources.orientation import Orientation, orient
from climax_hpc.data_prep.sources.pressure_levels import pressure_levels, select_levels
from climax_hpc.data_prep.sources.standard_names import refuse_other_quantity
from climax_hpc.errors import UserError
from climax_hpc.fields.calendars import Seconds, decode_times, mid_years, to_dates
from climax_hpc.fields.plausible_ranges import check_possible
from climax_hpc.fields.variables import channels_of
from climax_hpc.utils.system_errors import refuse_system_error

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class InputFile:
    """Metadata of one variable in one file."""

    file: str
    """Path relative to the input folder."""
    variable_id: str
    orientation: Orientation
    seconds: Seconds
    """Time stamps (T,), seconds since 1850 in `calendar`; empty for static fields."""
    calendar: str
    levels: dict[int, int]
    """Pressure level of the registry [hPa] -> index in the file."""
    file_levels_hpa: list[float]
    """All levels of the file [hPa], for messages."""
    scale: float
    offset: float
    """Value in registry units = scale · value in the file + offset."""
    cell_methods: str
    departures: bool
    """True for departures from a control run, which have no plausible range."""
    dimensions: tuple[str, ...]
    """Role of each axis: time, level, lat, lon, member (averaged), expver (merged) or one (length 1)."""
    name: str
    """Name of the variable in the file."""
    units: str
    """As the file states them; empty if it states none."""


def inspect_variable(
    root: Root, file: str, variable_id: str, *, name: str = "", alias: Alias | None = None, regional: bool = False
) -> InputFile:
    """Check the header, coordinates, units and time axis of one variable of a file.

    Raises:
        Unusable: the file is sound but cannot be packed (curvilinear; regional, unless `regional`; model levels).
        UserError: the file is invalid (truncated, units, calendar, time axis); the message says how to fix it.
    """
    name, known = name or variable_id, alias or Alias(variable_id=variable_id)
    with opened(root / file, file) as dataset:
        if name not in dataset.variables:
            raise UserError(
                f"{file}: {no_fields(dataset) or f'contains no variable {name!r}, unlike its name and header'}; "
                "correct it, or download it again"
            )
        variable = dataset.variables[name]
        refuse_text(variable)
        refuse_other_quantity(variable, variable_id, f"{file}: {name}")
        refuse_other_height(dataset, variable, variable_id)
        lat, lon = horizontal(dataset, variable, everywhere=alias is not None)
        first = channels_of(variable_id)[0]
        level = axis_of(dataset, variable, "level") if first.level_hpa is not None else None
        axes = {"lat": lat, "lon": lon, "level": level, "time": axis_of(dataset, variable, "time")}
        roles = _roles(dataset, variable, axes, members=known.departures)
        if first.level_hpa is not None and level is None:
            raise Unusable("it has no pressure level (`plev`); use data on pressure levels")
        cell_methods = cell_methods_of(variable, known)
        if first.cmip6 is not None:  # ClimateBench has ranges and percentiles of its own
            refuse_statistics(cell_methods)
        if first.static:
            _refuse_changing(variable, roles, first.name)
            seconds, calendar = np.empty(0, np.int64), "standard"
        else:
            seconds, calendar = times_of(dataset, variable, file, cell_methods)
        levels_hpa = [] if level is None else pressure_levels(level, numbers(level))
        wanted = (v.level_hpa for v in channels_of(variable_id) if v.level_hpa is not None)
        units = attribute(variable, "units")
        scale, offset = conversion(variable_id, units or known.units, file, known.accumulated_hours)
        return InputFile(
            file=file,
            variable_id=variable_id,
            name=name,
            units=units,
            orientation=orient(
                numbers(lat), numbers(lon), bounds_of(dataset, lat), bounds_of(dataset, lon), regional=regional
            ),
            seconds=seconds,
            calendar=calendar,
            levels=select_levels(wanted, levels_hpa),
            file_levels_hpa=levels_hpa,
            scale=scale,
            offset=offset,
            cell_methods=cell_methods,
            departures=known.departures,
            dimensions=roles,
        )


def cell_methods_of(variable: Any, alias: Alias | None) -> str:
    """CF cell methods of a variable, with those of the alias where the file states none over time."""
    stated, assumed = attribute(variable, "cell_methods"), "" if alias is None else alias.cell_methods
    return stated if time_methods(stated) else " ".join(text for text in (stated, assumed) if text)


def yearly(file: InputFile) -> InputFile:
    """The same file with every time stamp in the middle of its year, in calendar `noleap`."""
    years = np.array([d.year for d in to_dates(file.seconds, file.calendar)], np.float64)
    return replace(file, seconds=mid_years(years, "noleap"), calendar="noleap")


def read_fields(dataset: Any, source: InputFile, levels: list[int | None], start: int, stop: int) -> Array:
    """Steps start … stop-1 of the file: (T, levels, H, W) in registry units, ascending grid, NaN = missing.

    `levels`: pressure levels [hPa], [None] for a surface field. Static files have one step.

    Raises:
        UserError: the data cannot be read (truncated, damaged) or contain infinite values.
    """
    wanted = [source.levels[level] for level in levels if level is not None]
    try:
        raw = dataset.variables[source.name][_part(source, levels, start, stop)]
    except (RuntimeError, OSError, IndexError) as error:
        refuse_system_error(error, source.file)
        raise UserError(
            f"{source.file}: cannot read steps {start}–{stop - 1} of {source.name} ({error}); "
            "the file is truncated or damaged: download it again"
        ) from error
    real = np.promote_types(raw.dtype, np.float32)  # float32 is kept: half the memory until regridding
    fields, kept = _merged(np.ma.filled(np.ma.asarray(raw).astype(real, copy=False), np.nan), source.dimensions)
    order = [kept.index(role) for role in ("time", "level", "lat", "lon") if role in kept]
    fields = fields.transpose(order)
    if "time" not in kept:
        fields = fields[None]
    if "level" not in kept:
        fields = fields[:, None]
    elif wanted:
        fields = fields[:, [index - min(wanted) for index in wanted]]
    if "lat" not in kept:  # a series of single numbers
        fields = np.broadcast_to(fields[..., None, None], (*fields.shape, *source.orientation.grid.shape))
    if np.isinf(fields).any():
        step = start + int(np.argmax(np.isinf(fields).any(axis=(1, 2, 3))))
        raise UserError(f"{source.file}: {source.name} is infinite at step {step}; fix the file, or leave it out")
    if (source.scale, source.offset) != (1.0, 0.0):
        fields = fields * np.float64(source.scale) + np.float64(source.offset)
    if not source.departures:
        for k, channel in enumerate(_channels(source, levels)):
            check_possible(fields[:, k], channel, f"{source.file}, steps {start}–{stop - 1}")
    return source.orientation.apply(fields)


def prefetch_fields(dataset: Any, source: InputFile, levels: list[int | None], start: int, stop: int) -> None:
    """Start to read what `read_fields` will be asked for soon, where it comes from the network."""
    variable = dataset.variables[source.name]
    if isinstance(variable, ArrayVariable):
        variable.prefetch(_part(source, levels, start, stop))


def _part(source: InputFile, levels: list[int | None], start: int, stop: int) -> tuple[Any, ...]:
    """Indices of steps and levels, in the order of the file's dimensions."""
    wanted = [source.levels[level] for level in levels if level is not None]
    slices = {
        "time": slice(start, stop),
        "level": slice(min(wanted), max(wanted) + 1) if wanted else slice(None),
        "one": 0,
    }
    return tuple(slices.get(role, slice(None)) for role in source.dimensions)


def _channels(source: InputFile, levels: list[int | None]) -> list[str]:
    """Registry names of the fields at these levels."""
    names = {variable.level_hpa: variable.name for variable in channels_of(source.variable_id)}
    return [names[level] for level in levels]


def _merged(fields: Array, roles: tuple[str, ...]) -> tuple[Array, list[str]]:
    """Fields averaged over ensemble members and merged over ERA5's versions (first value not missing); their roles."""
    kept = [role for role in roles if role != "one"]
    if "member" in kept:
        axis = kept.index("member")
        count = np.isfinite(fields).sum(axis=axis)
        total = np.nansum(fields, axis=axis)
        fields = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
        kept.remove("member")
    if "expver" in kept:
        axis = kept.index("expver")
        merged, *later = np.moveaxis(fields, axis, 0)
        for version in later:
            merged = np.where(np.isnan(merged), version, merged)
        fields = merged
        kept.remove("expver")
    return fields, kept


def _roles(dataset: Any, variable: Any, axes: dict[str, Any | None], members: bool) -> tuple[str, ...]:
    """The role of each dimension; `axes`: role -> coordinate, None or a single value where no dimension has that role.

    `members`: a dimension of ensemble members is averaged.

    Raises:
        Unusable: a dimension of several entries has no role.
    """
    averaged = ("member", "expver") if members else ("expver",)
    known = {name: role for role in averaged for name in COORDINATES[role].names}
    known |= {axis.dimensions[0]: role for role, axis in axes.items() if axis is not None and axis.ndim}
    for name, length in zip(variable.dimensions, variable.shape, strict=True):
        if length > 1 and name not in known:
            raise Unusable(_why_no_role(dataset, name, length))
    return tuple(known.get(name, "one") for name in variable.dimensions)


def _why_no_role(dataset: Any, name: str, length: int) -> str:
    select = f"select one, `ncks -d {name},0`"
    if name in ENSEMBLE:
        return f"it holds {length} members of an ensemble ({name}); {select}"
    coordinate = dataset.variables.get(name)
    if coordinate is None:
        return f"its dimension {name} of length {length} has no coordinate, so its meaning is unknown; {select}"
    if is_kind("level", name, coordinate):
        return f"it lies on {length} levels ({name}), but is a variable of one level; {select}"
    return f"its dimension {name} of length {length} is not time, pressure, latitude or longitude; {select}"


def _refuse_changing(variable: Any, roles: tuple[str, ...], name: str) -> None:
    """Refuse a static field whose first and last time steps differ, such as a geopotential that lost its level."""
    if "time" in roles and variable.shape[roles.index("time")] > 1:
        ends = [variable[tuple(step if role == "time" else slice(None) for role in roles)] for step in (0, -1)]
        first, last = (np.ma.filled(np.ma.asarray(end, np.float64), np.nan) for end in ends)
        if not np.array_equal(first, last, equal_nan=True):
            lost = "; if it lies on a pressure level, store that level as a coordinate" if name == "orography" else ""
            raise Unusable(f"it is read as {name}, which is static, but it changes in time{lost}")


def times_of(dataset: Any, variable: Any, file: str, cell_methods: str) -> tuple[Seconds, str]:
    """Times (T,) of a variable, in the middle of the intervals of means, and their calendar.

    Raises:
        Unusable: there is no time axis, or it is that of a climatology.
        UserError: time stamps are missing, cannot be decoded, or contradict their bounds.
    """
    axis = axis_of(dataset, variable, "time")
    if axis is None:
        raise Unusable("it has no time axis; leave it out")
    refuse_climatology(axis)
    values = numbers(axis)
    if not len(values):
        raise UserError(f"{file}: contains no time step; download it again")
    if not np.isfinite(values).all():
        raise UserError(f"{file}: time stamp {int(np.argmin(np.isfinite(values)))} is missing; download it again")
    units, calendar = attribute(axis, "units"), attribute(axis, "calendar") or "standard"
    if not units and np.array_equal(values, np.round(values)) and (abs(values) < 10_000).all():
        return mid_years(values, "noleap"), "noleap"  # plain years, as in ClimateBench, in the calendar of its model
    seconds, name = decode_times(values, units, calendar, file)
    return middle_of_intervals(dataset, axis, seconds, units, calendar, file, cell_methods), name
